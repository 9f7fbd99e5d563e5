"""Whether this machine's clock agrees with those of providers and Redis.

Owns the comparison. Read `Clocks.finding`.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable
from typing import Final

from penstock_gateway.findings import Finding

TOLERANCE_SECONDS: Final = 5.0
"""A Date header has whole seconds and is as old as the answer took."""
_WRONG_SECONDS: Final = 60.0  # certificates and signed requests are refused at some minutes


class Clocks:
    """What time others have, beside ours when they said so; safe to use from several threads.

    Parameters
    ----------
    clock : callable
        UNIX seconds.
    """

    def __init__(self, clock: Callable[[], float] = time.time) -> None:
        self._clock = clock
        self._behind: list[tuple[str, float]] = []

    def note(self, whose: str, told: float | None) -> None:
        """Note a time that has just been told, UNIX seconds; None is no time."""
        if told is not None:
            self._behind.append((whose, told - self._clock()))

    def finding(self) -> Finding:
        """Return whether the clocks agree.

        Notes
        -----
        By the median of the differences, so that one server whose own clock is wrong does not put ours in doubt.
        """
        behind = [seconds for _, seconds in list(self._behind)]
        if not behind:
            return Finding("ok", "clock", "nobody could be asked for the time")
        offset = statistics.median(behind)
        asked = ", ".join(dict.fromkeys(whose for whose, _ in self._behind))
        if abs(offset) <= TOLERANCE_SECONDS:
            return Finding("ok", "clock", f"agrees within {TOLERANCE_SECONDS:g} s with {asked}")
        detail = f"is {abs(offset):.0f} s {'behind' if offset > 0 else 'ahead of'} {asked}"
        fix = "let the system set it (timedatectl set-ntp true, or chronyd): budgets, sessions and TLS depend on it"
        return Finding("fail" if abs(offset) > _WRONG_SECONDS else "warn", "clock", detail, fix)
