"""The guards' verdicts on a pair of prompts.

Owns `GuardReport`, the list of guards, and which of them forbid reuse by themselves. Read `compare` first.
"""

from __future__ import annotations

from collections.abc import Iterator
from operator import attrgetter

import msgspec

from penstock_cache.guards.antonyms import opposed_sides
from penstock_cache.guards.dates import compare_dates
from penstock_cache.guards.entities import compare_entities, has_technical_swap
from penstock_cache.guards.formats import compare_formats
from penstock_cache.guards.identifiers import compare_identifiers
from penstock_cache.guards.language import compare_languages
from penstock_cache.guards.modality import compare_modality
from penstock_cache.guards.negation import compare_negation
from penstock_cache.guards.numbers import compare_numbers
from penstock_cache.guards.order import compare_order
from penstock_cache.guards.quantifiers import compare_quantifiers
from penstock_cache.guards.questions import compare_questions
from penstock_cache.guards.residual import Residual, compare_residual, residual_of
from penstock_cache.guards.signature import PromptSignature
from penstock_cache.guards.units import compare_units
from penstock_cache.guards.verdicts import ABSENT, AGREE, DIFFER, Verdict

GUARD_NAMES: tuple[str, ...] = (
    "numbers",
    "units",
    "dates",
    "negation",
    "modality",
    "antonyms",
    "entities",
    "identifiers",
    "language",
    "question",
    "order",
    "quantifiers",
    "format",
    "residual",
)
"""Every guard, in the order of `GuardReport` and of the features."""

VETO_GUARDS: tuple[str, ...] = (
    "numbers",
    "units",
    "dates",
    "negation",
    "antonyms",
    "identifiers",
    "language",
    "order",
    "format",
)
"""Guards that forbid reuse by themselves in strict mode; the others only inform the pair model."""


class GuardReport(msgspec.Struct, frozen=True, gc=False):
    """One verdict per guard on a pair of prompts; the same for (a, b) and (b, a), but for the sides of `leftovers`.

    Attributes
    ----------
    numbers, units, dates, negation, modality, antonyms, entities, identifiers, language, question, order, quantifiers
        See the guards' modules.
    format : Verdict
    residual : Verdict
    leftovers : Residual
        Weights of the content words that one text alone holds.
    """

    numbers: Verdict
    units: Verdict
    dates: Verdict
    negation: Verdict
    modality: Verdict
    antonyms: Verdict
    entities: Verdict
    identifiers: Verdict
    language: Verdict
    question: Verdict
    order: Verdict
    quantifiers: Verdict
    format: Verdict
    residual: Verdict
    leftovers: Residual

    @property
    def vetoes(self) -> tuple[str, ...]:
        """Names of the guards that by themselves forbid reuse in strict mode, in the order of `VETO_GUARDS`."""
        return tuple([name for name in VETO_GUARDS if getattr(self, name) is DIFFER])

    def verdicts(self) -> tuple[Verdict, ...]:
        """Return the verdicts in the order of `GUARD_NAMES`."""
        found: tuple[Verdict, ...] = _verdicts_of(self)
        return found


_verdicts_of = attrgetter(*GUARD_NAMES)
_LONG_CONTENT = 16  # content words, of the shorter text
_SHARED_OF_LONG = 0.5  # of all stems of both


def compare(a: PromptSignature, b: PromptSignature) -> GuardReport:
    """Let every guard speak on a pair of prompts.

    Parameters
    ----------
    a, b : PromptSignature
        From `signature_of`; their order does not matter to any verdict.

    Returns
    -------
    GuardReport
    """
    return _report(a, b, list(_forbidding(a, b)))


def examine(a: PromptSignature, b: PromptSignature) -> GuardReport | str:
    """Let guards speak until one forbids reuse: what serving needs to know of a pair, for less work than `compare`.

    Parameters
    ----------
    a, b : PromptSignature

    Returns
    -------
    GuardReport or str
        The report when there is no veto; otherwise the first of its vetoes.
    """
    found: list[Verdict] = []
    for name, verdict in zip(VETO_GUARDS, _forbidding(a, b), strict=True):
        if verdict is DIFFER:
            return name
        found.append(verdict)
    return _report(a, b, found)


def _forbidding(a: PromptSignature, b: PromptSignature) -> Iterator[Verdict]:
    """Yield the verdicts of `VETO_GUARDS` in their order, each worked out when it is asked for."""
    yield compare_numbers(
        a.numbers, b.numbers, a.units.raw_values | a.dates.raw_values, b.units.raw_values | b.dates.raw_values
    )
    yield compare_units(a.units, b.units, a.numbers.hard | a.numbers.soft, b.numbers.hard | b.numbers.soft)
    is_loose = min(len(a.content), len(b.content)) >= _LONG_CONTENT and not _is_mostly_shared(a, b)
    yield compare_dates(a.dates, b.dates, a.numbers, b.numbers, is_loose=is_loose)
    yield from _polarity(a, b, is_loose=is_loose)
    yield _identifiers(a, b)
    yield compare_languages(a.language, b.language)
    yield compare_order(a.order, b.order)
    yield compare_formats(a.formats, b.formats)


def _report(a: PromptSignature, b: PromptSignature, forbidding: list[Verdict]) -> GuardReport:
    """Add to the verdicts of `VETO_GUARDS` those of the guards that only inform."""
    numbers, units, dates, negation, antonyms, identifiers, language, order, formats = forbidding
    leftovers = residual_of(
        a.stems, b.stems, a.entities.capitals, b.entities.capitals, a.squashed, b.squashed
    )  # fmt: skip
    return GuardReport(
        numbers=numbers,
        units=units,
        dates=dates,
        negation=negation,
        modality=compare_modality(a.modality, b.modality),
        antonyms=antonyms,
        entities=compare_entities(a.entities, b.entities, a.content, b.content),
        identifiers=identifiers,
        language=language,
        question=compare_questions(a.question, b.question),
        order=order,
        quantifiers=compare_quantifiers(a.quantifiers, b.quantifiers),
        format=formats,
        residual=compare_residual(leftovers),
        leftovers=leftovers,
    )


def _polarity(a: PromptSignature, b: PromptSignature, *, is_loose: bool) -> tuple[Verdict, Verdict]:
    """Negation and opposites together: "not enabled" stands where "disabled" does, and that negation is no difference.

    In long texts in quite other words, either is found by chance: such a pair says nothing here.
    """
    negation = compare_negation(a.negation, b.negation, a.stems, b.stems)
    opposed = opposed_sides(a.antonyms, b.antonyms)
    if is_loose and (opposed or negation is DIFFER):
        return ABSENT, ABSENT
    is_shared = bool(a.antonyms.meant & b.antonyms.meant)
    antonyms = DIFFER if opposed else AGREE if is_shared else ABSENT
    if negation is DIFFER and (a.antonyms.negated & b.antonyms.meant or b.antonyms.negated & a.antonyms.meant):
        negation = ABSENT
    return negation, antonyms


def _is_mostly_shared(a: PromptSignature, b: PromptSignature) -> bool:
    shared = len(a.stems & b.stems)
    return shared >= _SHARED_OF_LONG * (len(a.stems) + len(b.stems) - shared)


def _identifiers(a: PromptSignature, b: PromptSignature) -> Verdict:
    """Code in code style, and listed names of languages, file formats and tools exchanged for others of their kind."""
    if has_technical_swap(a.entities, b.entities):
        return DIFFER
    return compare_identifiers(a.identifiers, b.identifiers, a.squashed, b.squashed)
