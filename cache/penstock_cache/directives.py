"""What a caller asks of the cache for one request: the ``x-penstock-cache`` header.

Owns the header's grammar. A directive only ever narrows what the policy allows; there is none that widens it. Pure.
Read `parse_directive` first.

==================  ==========================================================================================
``no-cache``        do not answer from the cache; the new answer may be stored
``no-store``        do not store; an answer may still come from the cache
``bypass``          neither; alone it means ``no-cache, no-store``
``exact``           no hit on another wording
``max-age=60``      no hit older than so many seconds; ``0`` is ``no-cache``
``ttl=60``          keep the answer no longer than so many seconds; ``0`` is ``no-store``
==================  ==========================================================================================
"""

from __future__ import annotations

import difflib
import re
from typing import Final

import msgspec

from penstock_cache.errors import DirectiveError

HEADER_NAME: Final = "x-penstock-cache"

_FLAGS: Final = ("no-cache", "no-store", "bypass", "exact")
_LIMITS: Final = ("max-age", "ttl")
_SECONDS = re.compile(r"[0-9]{1,10}")  # ten digits are 317 years; more are a mistake
_MAX_HEADER_CHARACTERS = 256
_SHOWN_CHARACTERS = 40


class CacheDirective(msgspec.Struct, frozen=True, gc=False):
    """How far one request may use the cache.

    Attributes
    ----------
    may_look_up, may_store : bool
    is_exact_only : bool
        No hit on another wording. The answer is stored as usual: it may serve others.
    max_age_seconds : float or None
        Oldest answer that is accepted; None leaves it to the policy.
    ttl_seconds : float or None
        Longest time to keep the answer; None leaves it to the policy.
    """

    may_look_up: bool = True
    may_store: bool = True
    is_exact_only: bool = False
    max_age_seconds: float | None = None
    ttl_seconds: float | None = None

    def clamped_ttl_seconds(self, policy_ttl_seconds: float) -> float:
        """Return how long to keep the answer, seconds: the shorter of the caller's wish and the policy's."""
        return policy_ttl_seconds if self.ttl_seconds is None else min(self.ttl_seconds, policy_ttl_seconds)

    def accepts_age(self, age_seconds: float) -> bool:
        """Whether an answer of this age, seconds, is young enough for the caller; the policy's TTL comes on top."""
        return self.max_age_seconds is None or age_seconds <= self.max_age_seconds

    def narrowed_by(self, other: CacheDirective) -> CacheDirective:
        """Return what both allow, say a key's standing directive and a request's own."""
        return CacheDirective(
            may_look_up=self.may_look_up and other.may_look_up,
            may_store=self.may_store and other.may_store,
            is_exact_only=self.is_exact_only or other.is_exact_only,
            max_age_seconds=_shorter(self.max_age_seconds, other.max_age_seconds),
            ttl_seconds=_shorter(self.ttl_seconds, other.ttl_seconds),
        )


def parse_directive(header: str | None) -> CacheDirective:
    """Read the header.

    Parameters
    ----------
    header : str or None
        Its value; several headers joined by commas. Case and blanks do not matter.

    Returns
    -------
    CacheDirective
        When a name comes twice, both hold.

    Raises
    ------
    DirectiveError
        Something is not a directive; the message names the nearest one. A header that cannot be understood is refused
        whole: a caller who meant ``no-store`` must learn that it was not heard.

    Examples
    --------
    >>> parse_directive("exact, max-age=60").max_age_seconds
    60.0
    """
    directive = CacheDirective()
    if header is None:
        return directive
    if len(header) > _MAX_HEADER_CHARACTERS:
        raise DirectiveError(f"'{HEADER_NAME}' is longer than {_MAX_HEADER_CHARACTERS} characters.")
    for item in header.split(","):
        if item.strip():
            directive = directive.narrowed_by(_parse_item(item.strip().lower()))
    return directive


def _parse_item(item: str) -> CacheDirective:
    name, equals, value = (part.strip() for part in item.partition("="))
    if name in _LIMITS:
        if not _SECONDS.fullmatch(value):
            raise DirectiveError(f"'{name}' in '{HEADER_NAME}' takes whole seconds, for example '{name}=60'.")
        return _limit(name, float(value))
    if name not in _FLAGS:
        raise DirectiveError(_unknown(name))
    if equals:
        raise DirectiveError(f"'{name}' in '{HEADER_NAME}' takes no value.")
    return CacheDirective(
        may_look_up=name not in ("no-cache", "bypass"),
        may_store=name not in ("no-store", "bypass"),
        is_exact_only=name == "exact",
    )


def _limit(name: str, seconds: float) -> CacheDirective:
    if name == "ttl":
        return CacheDirective(may_store=seconds > 0, ttl_seconds=seconds)
    return CacheDirective(may_look_up=seconds > 0, max_age_seconds=seconds)


def _unknown(name: str) -> str:
    shown = name[:_SHOWN_CHARACTERS]
    near = difflib.get_close_matches(shown, (*_FLAGS, *_LIMITS), n=1, cutoff=0.65)
    hint = f"Did you mean '{near[0]}'?" if near else f"Known: {', '.join((*_FLAGS, *_LIMITS))}."
    return f"Unknown directive '{shown}' in '{HEADER_NAME}'. {hint}"


def _shorter(one: float | None, other: float | None) -> float | None:
    given = [seconds for seconds in (one, other) if seconds is not None]
    return min(given, default=None)
