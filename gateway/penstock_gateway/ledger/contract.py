"""What the ledger keeps, what it is asked, and what it answers.

One contract, fulfilled in memory and on Redis; everything that the gateway asks of either goes through it. Read
`Ledger` first.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import Protocol

import msgspec


class Period(StrEnum):
    """What a budget is for; windows begin at full hours, midnights, Mondays and first days of the ledger's zone."""

    HOUR = "hour"
    DAY = "day"
    WEEK = "week"
    MONTH = "month"
    TOTAL = "total"

    __hash__ = str.__hash__  # an enumeration's own is a Python function, called for every member of a set


@dataclass(frozen=True, slots=True)
class Budget:
    """An allowance of one scope in each window of one period.

    Attributes
    ----------
    period : Period
    limit_picousd : int
        10⁻¹² USD.
    soft_share : float, in [0, 1]
        Share of the limit from which a warning is given; the budget still lets requests pass.
    """

    period: Period
    limit_picousd: int
    soft_share: float = 0.8


@dataclass(frozen=True, slots=True)
class RateLimits:
    """Limits of one scope that renew themselves; None: no limit.

    Attributes
    ----------
    requests_per_minute, tokens_per_minute : int or None
        A bucket that holds one minute's allowance and refills evenly.
    parallel_requests : int or None
    """

    requests_per_minute: int | None = None
    tokens_per_minute: int | None = None
    parallel_requests: int | None = None

    @property
    def is_empty(self) -> bool:
        """Whether nothing is limited."""
        return self.requests_per_minute is None and self.tokens_per_minute is None and self.parallel_requests is None


UNLIMITED_RATE = RateLimits()


@dataclass(frozen=True, slots=True)
class Account:
    """Somebody whose spend is counted: a key, a team or a tag.

    Attributes
    ----------
    scope : str
        ``key:ID``, ``team:NAME`` or ``tag:NAME``.
    budgets : tuple of Budget
        At most one for each period.
    limits : RateLimits
    """

    scope: str
    budgets: tuple[Budget, ...] = ()
    limits: RateLimits = UNLIMITED_RATE

    @property
    def is_free(self) -> bool:
        """Whether nothing can refuse a request of this account; its spend is counted all the same."""
        return not self.budgets and self.limits.is_empty


class Reservation(msgspec.Struct, frozen=True, gc=False):
    """What a request may cost at most, held on all of its accounts until it is settled.

    Attributes
    ----------
    id : str
        The decision's id: ours, never the client's, and never used twice.
    accounts : tuple of Account
    amount_picousd : int
        Upper bound of the cost; 0 for an answer from the cache.
    tokens : int
        Upper bound of prompt and completion tokens.
    at : float
        When the request was admitted, UNIX seconds. It decides the windows, so that a request that runs over midnight
        is charged to the day in which it began.
    """

    id: str
    accounts: tuple[Account, ...]
    amount_picousd: int
    tokens: int
    at: float


class Charge(msgspec.Struct, frozen=True, gc=False):
    """What a request came to; takes the place of its reservation, if there is one.

    Attributes
    ----------
    id : str
        As in the reservation. A charge of the same id is counted once, however often it is settled.
    accounts : tuple of Account
        Only their scopes are looked at when there is no reservation (it has expired, or its replica has died).
    amount_picousd : int
    tokens : int
        Prompt and completion tokens in fact.
    at : float
        As in the reservation.
    """

    id: str
    accounts: tuple[Account, ...]
    amount_picousd: int
    tokens: int
    at: float


class BudgetState(msgspec.Struct, frozen=True, gc=False):
    """How far one budget is used.

    Attributes
    ----------
    scope : str
    period : Period
    window : str
        ``2026-11-26T14``, ``2026-11-26``, ``2026-W48``, ``2026-11`` or ``total``.
    limit_picousd, spent_picousd, held_picousd : int
        `held_picousd` is what requests under way may still come to.
    resets_at : float or None
        UNIX seconds; None for `Period.TOTAL`.
    is_soft_passed : bool
    """

    scope: str
    period: Period
    window: str
    limit_picousd: int
    spent_picousd: int
    held_picousd: int
    resets_at: float | None
    is_soft_passed: bool = False

    @property
    def used_share(self) -> float:
        """Share of the limit that is spent or held; 1 for a limit of nothing."""
        used = self.spent_picousd + self.held_picousd
        return used / self.limit_picousd if self.limit_picousd > 0 else 1.0


class LimitKind(StrEnum):
    """Which of the self-renewing limits."""

    REQUESTS = "requests"
    TOKENS = "tokens"
    PARALLEL = "parallel"

    __hash__ = str.__hash__  # as of `Period`


class LimitState(msgspec.Struct, frozen=True, gc=False):
    """How far one rate limit is used, after the request at hand.

    Attributes
    ----------
    scope : str
    kind : LimitKind
    limit, remaining : int
    reset_seconds : float
        Until it is whole again if nothing more is asked; 0 for `LimitKind.PARALLEL`.
    """

    scope: str
    kind: LimitKind
    limit: int
    remaining: int
    reset_seconds: float


class RefusalReason(StrEnum):
    """Why the ledger holds nothing."""

    BUDGET = "budget"
    REQUESTS = "requests"
    TOKENS = "tokens"
    PARALLEL = "parallel"
    UNAVAILABLE = "unavailable"  # the shared store is away, and this replica's slice does not reach


class Grant(msgspec.Struct, frozen=True, gc=False):
    """A reservation that is held.

    Attributes
    ----------
    budgets : tuple of BudgetState
        Of every budget of the accounts, this reservation included.
    limits : tuple of LimitState
    is_local : bool
        Granted from this replica's slice, because the shared store is away.
    """

    budgets: tuple[BudgetState, ...] = ()
    limits: tuple[LimitState, ...] = ()
    is_local: bool = False


@dataclass(frozen=True, slots=True)
class Refusal:
    """Nothing is held, of no account.

    Attributes
    ----------
    reason : RefusalReason
    scope : str
        Whose; empty when the store is away.
    retry_after_seconds : float or None
        When the same request may pass; None when it never will (`Period.TOTAL`, or larger than the whole limit).
    budget : BudgetState or None
    limit : LimitState or None
    """

    reason: RefusalReason
    scope: str = ""
    retry_after_seconds: float | None = None
    budget: BudgetState | None = None
    limit: LimitState | None = None


class LedgerUnavailable(Exception):
    """The shared store did not answer within its deadline, or refused; nothing can be said of what it did."""


class Ledger(Protocol):
    """Holds, charges and counts; every method is atomic over all accounts it is given."""

    async def reserve(self, reservation: Reservation) -> Grant | Refusal:
        """Hold a request's upper bound on all of its accounts, or on none; the same id again gives the same grant.

        Never raises and never waits longer than the store's deadline: a store that is away is a `Refusal` or a grant
        from the slice, as the fail mode says.
        """
        ...

    async def top_up(self, reservation_id: str, amount_picousd: int, tokens: int) -> Refusal | None:
        """Hold so much more for a request under way; None when granted. Rate limits never refuse a top-up."""
        ...

    async def settle(self, charges: Sequence[Charge]) -> None:
        """Charge requests that are over and give back the rest of what was held for them; idempotent by id.

        Raises
        ------
        LedgerUnavailable
            The batch is to be settled again; whatever part of it was counted is not counted twice.
        """
        ...

    async def states(self, accounts: Sequence[Account], at: float) -> tuple[BudgetState, ...]:
        """Return how far the accounts' budgets are used in the windows of a moment.

        Raises
        ------
        LedgerUnavailable
        """
        ...

    async def spent_picousd(self, scopes: Sequence[str], period: Period, at: float) -> tuple[int, ...]:
        """Return what each scope has spent in the window of a moment, whether it has a budget or not.

        Raises
        ------
        LedgerUnavailable
        """
        ...

    async def aclose(self) -> None:
        """Return slices and stop renewing leases."""
        ...
