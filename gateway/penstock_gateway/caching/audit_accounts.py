"""Who may spend the money of audits: one process by itself, or all gateways of one Redis together.

Owns the counter that they share. The cap of a period is a promise, so while Redis does not answer nothing is spent.
Read `SharedAccount.reserve`.
"""

from __future__ import annotations

from collections.abc import Callable
from decimal import ROUND_CEILING, Decimal
from typing import Final, Protocol, runtime_checkable

from penstock_cache.audit import AuditAccount, AuditHold
from penstock_cache.errors import StoreUnavailable

DAY_SECONDS: Final = 86_400.0
_PICO: Final = 10**12


class Account(Protocol):
    """What audits and opinions are paid from."""

    async def reserve(self, cost_usd: Decimal, now: float) -> AuditHold | None:
        """Set an expected cost aside; None when the account does not allow it."""
        ...

    async def settle(self, hold: AuditHold, actual_usd: Decimal) -> None:
        """Charge what it cost, 0 when it was not made."""
        ...


@runtime_checkable
class SharedCounters(Protocol):
    """A store that counts for all gateways; `RedisDocumentStore` is one."""

    async def add_within(self, name: str, amount: int, *, most: int | None, ttl_seconds: float) -> bool:
        """Add to a counter unless it would rise above `most`; whether it was added. Raises `StoreUnavailable`."""
        ...


class OwnAccount:
    """The account of one process.

    Parameters
    ----------
    account : AuditAccount
    on_change : callable
        Called when money was spent or given back.
    """

    def __init__(self, account: AuditAccount, on_change: Callable[[], None] = lambda: None) -> None:
        self._account = account
        self._on_change = on_change

    async def reserve(self, cost_usd: Decimal, now: float) -> AuditHold | None:
        """Set an expected cost aside."""
        return self._account.reserve(cost_usd, now)

    async def settle(self, hold: AuditHold, actual_usd: Decimal) -> None:
        """Charge what it cost."""
        self._account.settle(hold, actual_usd)
        self._on_change()


class SharedAccount:
    """One account of all gateways, in picodollars.

    Parameters
    ----------
    counters : SharedCounters
    limit_usd : Decimal, at least 0
        Per period, of all gateways together.
    on_problem : callable
        Called with a stable code when the counter does not answer.
    period_seconds : float, above 0
        Periods begin at its multiples of Unix time, so that all agree on them.

    Notes
    -----
    A counter lives for two periods, so that a call that ends after its period is settled where it was held. A
    settlement that Redis does not take leaves the hold, which is the most that the call may have cost.
    """

    def __init__(
        self,
        counters: SharedCounters,
        limit_usd: Decimal,
        on_problem: Callable[[str], None],
        *,
        period_seconds: float = DAY_SECONDS,
    ) -> None:
        self._counters = counters
        self._most = _picousd(limit_usd)
        self._on_problem = on_problem
        self._period_seconds = period_seconds

    async def reserve(self, cost_usd: Decimal, now: float) -> AuditHold | None:
        """Set an expected cost aside; None when the account does not allow it, or does not answer."""
        hold = AuditHold(int(now // self._period_seconds), cost_usd)
        return hold if await self._add(hold.period, _picousd(cost_usd), self._most) else None

    async def settle(self, hold: AuditHold, actual_usd: Decimal) -> None:
        """Charge what it cost, beyond the limit too: it has been spent."""
        difference = _picousd(actual_usd) - _picousd(hold.cost_usd)
        if difference:
            await self._add(hold.period, difference, None)

    async def _add(self, period: int, picousd: int, most: int | None) -> bool:
        try:
            return await self._counters.add_within(
                f"audits:{period}", picousd, most=most, ttl_seconds=2.0 * self._period_seconds
            )
        except StoreUnavailable:
            self._on_problem("cache_audit_account_away")
            return False


def _picousd(usd: Decimal) -> int:
    return int((usd * _PICO).to_integral_value(ROUND_CEILING))
