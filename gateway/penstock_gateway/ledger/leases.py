"""How long what is held stays held without a word from its owner.

Owns the clock that leases run on and the task that prolongs them. Read `LeaseClock`, then `LeaseKeeper`.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable
from contextlib import suppress
from typing import Final

from penstock_gateway.ledger.contract import LedgerUnavailable

_log = logging.getLogger("penstock.ledger")

LEASE_SECONDS: Final = 60.0
MAX_OPEN_SECONDS: Final = 86_400.0
"""A request that was not settled in a day was forgotten by a mistake of ours; its lease is not prolonged any more."""
RENEWALS_PER_LEASE: Final = 3


class LeaseClock:
    """Milliseconds that pass while the books are in use.

    Parameters
    ----------
    lease_ms : int
        Between two looks at most half of it passes: whoever comes back after a pause, of a stopped process or of a
        server that could not be reached, has the other half to prolong what it holds. A wall clock that is set changes
        nothing either.

    Notes
    -----
    ``books.lua`` does the same in Redis.
    """

    def __init__(self, lease_ms: int) -> None:
        self._longest_step = lease_ms // 2
        self._last: int | None = None
        self.served_ms = 0

    def advance(self, now_ms: int) -> int:
        """Note that the books are used now, and return the time of the leases."""
        last, self._last = self._last, now_ms
        if last is not None:
            self.served_ms += min(max(now_ms - last, 0), self._longest_step)
        return self.served_ms


class LeaseKeeper:
    """Prolongs leases several times within each.

    Parameters
    ----------
    renew : callable
        Prolongs everything that is held; may raise `LedgerUnavailable`, and is then called again.
    lease_seconds : float
    """

    def __init__(self, renew: Callable[[], Awaitable[None]], lease_seconds: float) -> None:
        self._renew = renew
        self._pause_seconds = lease_seconds / RENEWALS_PER_LEASE
        self._task: asyncio.Task[None] | None = None

    def start(self) -> None:
        """Begin, in the running event loop."""
        self._task = asyncio.get_running_loop().create_task(self._run(), name="penstock-ledger-leases")

    async def aclose(self) -> None:
        """Stop."""
        task, self._task = self._task, None
        if task is not None:
            task.cancel()
            with suppress(asyncio.CancelledError):
                await task

    async def _run(self) -> None:
        while True:
            await asyncio.sleep(self._pause_seconds)
            try:
                await self._renew()
            except LedgerUnavailable:
                continue
            except Exception:  # leases that nobody prolongs any more would let budgets be passed
                _log.exception("ledger_renewal_failed")
