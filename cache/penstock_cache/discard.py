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
from typing import Final

LONG_PROMPT_CHARACTERS: Final = 2_000
"""From here a last user text is mostly pasted material. The longest of 143,000 questions with paraphrases has 1,173."""

LONG_CONTEXT_TOKENS: Final = 8_000
"""From here the text before the last user turn is a document or a long conversation, neither of which recurs."""


_UNIQUE_ID = re.compile(
    r"\b[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}\b"  # UUID
    r"|\b(?=[a-f]{0,40}[0-9])[0-9a-f]{16,64}\b"  # digest, trace id
    r"|(?<![\d.,])\d{9,}(?![\d.,]*\d)"  # account, order, telephone, epoch in ms
    r"|\b(?=[A-Z]{0,8}-?\d)[A-Z]{1,8}-?\d{6,}\b",  # ticket or order with letters before it
    re.IGNORECASE,
)
_MAY_HOLD_ID = re.compile(r"\d{6}|[0-9a-f-]{16}", re.IGNORECASE)  # every id does; a tenth of the time where none is
_BEFORE_DIGITS = 16  # an id with letters before it begins at most nine characters before its digits
_ADDRESS = re.compile(r"\b[\w.+-]{1,64}@[\w-]{1,63}\.[\w.-]{2,63}\b|\bhttps?://\S|\bwww\.\w", re.IGNORECASE)
_PERSONAL = re.compile(
    r"\bmy name is\b|\bi(?: a|'?)m \d{1,3} years? old\b|\bdear [a-z]{2,20}\b|\b(?:regards|sincerely),"
    r"|\bmy (?:boss|wife|husband|girlfriend|boyfriend|ex|mother|mom|father|dad|son|daughter|sister|brother|friends?"
    r"|colleagues?|coworker|manager|landlord|tenant|resume|cv|essay|thesis|draft|email|code|dataset|startup|team)\b"
    r"|\bour (?:company|team|client|customer|project|codebase|product|meeting)\b",
    re.IGNORECASE,
)


def predict_discard(prompt: str, *, context_tokens: int = 0, is_volatile: bool = False) -> bool:
    """Return whether the entry would be evicted before its first hit.

    Parameters
    ----------
    prompt : str
        The last user text.
    context_tokens : int, at least 0
        Tokens of everything before it.
    is_volatile : bool
        By the category's policy: its answers go stale within minutes.

    Notes
    -----
    The rule: one strong sign, or both weak ones. Strong are a unique id (a UUID, a digest, a run of digits as long as
    an account number), an e-mail address or URL, `LONG_PROMPT_CHARACTERS` and `LONG_CONTEXT_TOKENS`; weak are words of
    somebody's own people or papers ("my boss", "our client", "dear …") and a volatile category. "My card" or "my
    account" is no sign: support questions are full of them and come back. By text alone it is true for 11.5 % of the
    1,250 arena-hard prompts, none of which recurs, and for 0.02 % of the 143,000 questions of banking77, clinc150,
    hwu64 and qqp, which do.

    An expression is only tried where a cheap sign of it is there.
    """
    if len(prompt) >= LONG_PROMPT_CHARACTERS or context_tokens >= LONG_CONTEXT_TOKENS:
        return True
    found = _MAY_HOLD_ID.search(prompt)
    if found is not None and _UNIQUE_ID.search(prompt, max(0, found.start() - _BEFORE_DIGITS)) is not None:
        return True
    may_hold_address = "@" in prompt or "://" in prompt or "www." in prompt.lower()
    if may_hold_address and _ADDRESS.search(prompt) is not None:
        return True
    return is_volatile and _PERSONAL.search(prompt) is not None
