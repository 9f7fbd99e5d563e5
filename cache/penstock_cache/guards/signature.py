"""Everything the guards need of one prompt, read once.

Owns `PromptSignature` and `signature_of`. Pure; raises on no text. Read `signature_of` first.
"""

from __future__ import annotations

import msgspec

from penstock_cache.guards.antonyms import NOTHING_SAID, Sides, read_antonyms
from penstock_cache.guards.dates import NO_DATES, Dates, read_dates
from penstock_cache.guards.entities import Entities, read_entities
from penstock_cache.guards.formats import NO_FORMATS, Formats, read_formats
from penstock_cache.guards.identifiers import Identifiers, read_identifiers
from penstock_cache.guards.language import language_of
from penstock_cache.guards.modality import NO_MODALITY, read_modality
from penstock_cache.guards.negation import Negation, read_negation
from penstock_cache.guards.numbers import NO_NUMBERS, Numbers, collect_numbers, read_numbers
from penstock_cache.guards.order import Order, read_order
from penstock_cache.guards.quantifiers import NO_QUANTIFIERS, read_quantifiers
from penstock_cache.guards.questions import question_type
from penstock_cache.guards.readings import read_tokens
from penstock_cache.guards.tokens import (
    ANTONYM,
    CONTENT,
    DATE,
    FORMAT,
    MARK,
    MODAL,
    NUMBER,
    QUANTITY,
    UNIT,
    Token,
    normal_form,
    tokenise,
)
from penstock_cache.guards.units import NO_UNITS, Units, read_units


class PromptSignature(msgspec.Struct, frozen=True, gc=False):
    """What one prompt says, in the terms of the guards.

    Attributes
    ----------
    characters : int
        Length of the text in normal form.
    word_count : int
    words : frozenset of str
        Lower-case words and numbers, function words too.
    content : tuple of str
        Stems of the content words, in order.
    stems : frozenset of str
        The same as a set.
    content_words : frozenset of str
        The content words as written, lower case.
    squashed : str
        All words and numbers with nothing between them.
    numbers, units, dates, negation, modality, antonyms, entities : see the module of each
        What that guard has read.
    identifiers, language, question, order, quantifiers, formats : see the module of each
        What that guard has read.
    """

    characters: int
    word_count: int
    words: frozenset[str]
    content: tuple[str, ...]
    stems: frozenset[str]
    content_words: frozenset[str]
    squashed: str
    numbers: Numbers
    units: Units
    dates: Dates
    negation: Negation
    modality: frozenset[str]
    antonyms: Sides
    entities: Entities
    identifiers: Identifiers
    language: str
    question: str
    order: Order
    quantifiers: frozenset[str]
    formats: Formats


def signature_of(text: str) -> PromptSignature:
    """Read a prompt once for all guards.

    Parameters
    ----------
    text : str
        Up to about 2,000 characters; a longer one takes proportionally longer, so callers cut it into windows.

    Returns
    -------
    PromptSignature
    """
    text = normal_form(text)
    tokens = read_tokens(tokenise(text))
    lower = text.lower()
    flags = 0
    said: list[str] = []
    marks: set[str] = set()
    stems_in_order: list[str] = []
    holding: list[str] = []
    for _, low, stem, token_flags in tokens:
        flags |= token_flags
        if token_flags & MARK:
            marks.add(low)
            continue
        said.append(low)
        if token_flags & CONTENT:
            stems_in_order.append(stem)
            holding.append(low)
    words, stems = frozenset(said), frozenset(stems_in_order)
    numbers, units, dates = _quantities(text, tokens, flags)
    return PromptSignature(
        characters=len(text),
        word_count=len(said),
        words=words,
        content=tuple(stems_in_order),
        stems=stems,
        content_words=frozenset(holding),
        squashed="".join(said),
        numbers=numbers,
        units=units,
        dates=dates,
        negation=read_negation(tokens, flags, stems),
        modality=read_modality(tokens) if flags & MODAL else NO_MODALITY,
        antonyms=read_antonyms(tokens, flags) if flags & ANTONYM else NOTHING_SAID,
        entities=read_entities(tokens, flags),
        identifiers=read_identifiers(text, tokens, words | marks, flags),
        language=language_of(text, tokens, flags),
        question=question_type(lower, words),
        order=read_order(tokens, flags, holding),
        quantifiers=read_quantifiers(tokens) if flags & QUANTITY else NO_QUANTIFIERS,
        formats=read_formats(lower, words) if flags & FORMAT else NO_FORMATS,
    )


def _quantities(text: str, tokens: list[Token], flags: int) -> tuple[Numbers, Units, Dates]:
    """Numbers with a date first, then those with a unit, then the rest."""
    if not flags & (NUMBER | UNIT | DATE):
        return NO_NUMBERS, NO_UNITS, NO_DATES
    found = read_numbers(tokens) if flags & NUMBER else []
    if not found and not flags & (UNIT | DATE):
        return NO_NUMBERS, NO_UNITS, NO_DATES
    taken: set[int] = set()
    dates = read_dates(text, tokens, found, flags, taken) if flags & (DATE | NUMBER) else NO_DATES
    units = read_units(tokens, found, taken) if flags & UNIT else NO_UNITS
    return collect_numbers(tokens, found, taken), units, dates
