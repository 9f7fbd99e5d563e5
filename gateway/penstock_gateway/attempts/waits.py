"""How long to wait before trying again: what the provider asks for, and random backoff.

Pure functions. Read `asked_wait_seconds`.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from email.utils import parsedate_to_datetime

_LONGEST_SECONDS = 31_536_000.0  # a year: what is longer, or not a number, is no answer


def asked_wait_seconds(headers: Sequence[tuple[bytes, bytes]], unix_time: float) -> float | None:
    """Return how long a provider asks to be left alone, or None when it does not say.

    Parameters
    ----------
    headers : sequence of (bytes, bytes)
        Of its reply, names in lower case.
    unix_time : float
        Now, seconds.

    Returns
    -------
    float or None
        Seconds, at least 0.

    Notes
    -----
    ``retry-after-ms`` (OpenAI, Azure) is finer and goes first; ``retry-after`` holds seconds or a date (RFC 9110
    section 10.2.3). A date is compared with our own clock, so it is off by as much as that is.
    """
    found: dict[bytes, bytes] = dict(headers)
    milliseconds = _number(found.get(b"retry-after-ms"))
    if milliseconds is not None:
        return milliseconds / 1000.0
    value = found.get(b"retry-after")
    seconds = _number(value)
    if seconds is not None or value is None:
        return seconds
    try:
        at = parsedate_to_datetime(value.decode("ascii")).timestamp()
    except (ValueError, OverflowError, OSError):
        return None
    return _plausible(max(0.0, at - unix_time))


def backoff_seconds(retries_made: int, first_seconds: float, max_seconds: float, draw: float) -> float:
    """Return the random wait before a retry.

    Parameters
    ----------
    retries_made : int, at least 0
        Before this one.
    first_seconds, max_seconds : float, above 0
    draw : float, in [0, 1)

    Returns
    -------
    float
        ``draw · min(max_seconds, first_seconds · 2^retries_made)``: "full jitter", which spreads retries best of the
        schemes compared by M. Brooker, "Exponential Backoff And Jitter", AWS Architecture Blog, 2015.
    """
    return draw * min(max_seconds, first_seconds * 2.0 ** min(retries_made, 30))


def _number(value: bytes | None) -> float | None:
    if value is None:
        return None
    try:
        number = float(value)
    except ValueError:
        return None
    return _plausible(number)


def _plausible(seconds: float) -> float | None:
    return max(0.0, seconds) if math.isfinite(seconds) and seconds <= _LONGEST_SECONDS else None
