"""One bit at admission: whether a prompt is unlikely ever to be asked again.

Owns the signs that tell it, all read from the prompt's text and facts that are known anyway, and the rule over them. No
model, no I/O. Read `predict_discard`.

A discard prediction is the setting of paging with succinct predictions [1]_; here the bit decides only where an entry
waits, so a wrong one costs that entry its trial, and a prompt that does come back overrules it.

References
----------
.. [1] A. Antoniadis et al., "Paging with Succinct Predictions", ICML 2023, arXiv:2210.02775.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Final

LONG_PROMPT_CHARACTERS: Final = 2_000
"""From here a last user text is mostly pasted material. The longest of 143,000 questions with paraphrases has 1,173."""

LONG_CONTEXT_TOKENS: Final = 8_000
"""From here the text before the last user turn is a document or a long conversation, neither of which recurs."""

_SEARCHED_CHARACTERS = 8_000  # reading more would cost more than the bit saves

_UNIQUE_ID = re.compile(
    r"\b[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}\b"  # UUID
    r"|\b(?=[a-f]{0,40}[0-9])[0-9a-f]{16,64}\b"  # digest, trace id
    r"|(?<![\d.,])\d{9,}(?![\d.,]*\d)"  # account, order, telephone, epoch in ms
    r"|\b(?=[A-Z]{0,8}-?\d)[A-Z]{1,8}-?\d{6,}\b",  # ticket or order with letters before it
    re.IGNORECASE,
)
_MAY_HOLD_ID = re.compile(r"\d{6}|[0-9a-f-]{16}", re.IGNORECASE)  # every id does; a tenth of the time where none is
_ADDRESS = re.compile(r"\b[\w.+-]{1,64}@[\w-]{1,63}\.[\w.-]{2,63}\b|\bhttps?://\S|\bwww\.\w", re.IGNORECASE)
_PERSONAL = re.compile(
    r"\bmy name is\b|\bi(?: a|'?)m \d{1,3} years? old\b|\bdear [a-z]{2,20}\b|\b(?:regards|sincerely),"
    r"|\bmy (?:boss|wife|husband|girlfriend|boyfriend|ex|mother|mom|father|dad|son|daughter|sister|brother|friends?"
    r"|colleagues?|coworker|manager|landlord|tenant|resume|cv|essay|thesis|draft|email|code|dataset|startup|team)\b"
    r"|\bour (?:company|team|client|customer|project|codebase|product|meeting)\b",
    re.IGNORECASE,
)


@dataclass(frozen=True, slots=True)
class AdmissionFeatures:
    """Signs that a prompt is somebody's own.

    Attributes
    ----------
    has_unique_id : bool
        A UUID, digest, or run of digits as long as an account number.
    has_address : bool
        An e-mail address or a URL.
    has_personal_words : bool
        It speaks of somebody's own people or papers ("my boss", "our client", "dear …"). "My card" or "my account" is
        not such a sign: support questions are full of them and come back.
    is_long : bool
        At least `LONG_PROMPT_CHARACTERS` in the last user text.
    has_long_context : bool
        At least `LONG_CONTEXT_TOKENS` before it.
    is_volatile : bool
        Its category's answers go stale within minutes.
    """

    has_unique_id: bool = False
    has_address: bool = False
    has_personal_words: bool = False
    is_long: bool = False
    has_long_context: bool = False
    is_volatile: bool = False


def admission_features(prompt: str, *, context_tokens: int = 0, is_volatile: bool = False) -> AdmissionFeatures:
    """Read the signs off a request.

    Parameters
    ----------
    prompt : str
        The last user text; its first 8,000 characters are searched.
    context_tokens : int, at least 0
        Tokens of everything before it.
    is_volatile : bool
        By the category's policy.
    """
    searched = prompt[:_SEARCHED_CHARACTERS]
    return AdmissionFeatures(
        has_unique_id=_UNIQUE_ID.search(searched) is not None,
        has_address=_ADDRESS.search(searched) is not None,
        has_personal_words=_PERSONAL.search(searched) is not None,
        is_long=len(prompt) >= LONG_PROMPT_CHARACTERS,
        has_long_context=context_tokens >= LONG_CONTEXT_TOKENS,
        is_volatile=is_volatile,
    )


def is_discard(prompt: str, *, context_tokens: int = 0, is_volatile: bool = False) -> bool:
    """Return `predict_discard` of `admission_features`, of which only those that decide are read.

    Parameters
    ----------
    prompt, context_tokens, is_volatile
        As for `admission_features`.
    """
    if len(prompt) >= LONG_PROMPT_CHARACTERS or context_tokens >= LONG_CONTEXT_TOKENS:
        return True
    if _MAY_HOLD_ID.search(prompt) is not None and _UNIQUE_ID.search(prompt) is not None:
        return True
    may_hold_address = "@" in prompt or "://" in prompt or "www." in prompt.lower()
    if may_hold_address and _ADDRESS.search(prompt) is not None:
        return True
    return is_volatile and _PERSONAL.search(prompt) is not None


def predict_discard(features: AdmissionFeatures) -> bool:
    """Return whether the entry would be evicted before its first hit.

    Notes
    -----
    The rule: one strong sign (a unique id, an e-mail address or URL, a long text or context), or both weak ones
    (personal words, a volatile category). By text alone it is true for 11.5 % of the 1,250 arena-hard prompts, none of
    which recurs, and for 0.02 % of the 143,000 questions of banking77, clinc150, hwu64 and qqp, which do.
    """
    if features.has_unique_id or features.has_address or features.is_long or features.has_long_context:
        return True
    return features.has_personal_words and features.is_volatile
