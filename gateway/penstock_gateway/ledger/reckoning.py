"""From counters to answers: what both ledgers say of the same numbers, so that they cannot differ.

Pure. Read `budget_lines` and `budget_state`.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import replace
from typing import Final

import msgspec

from penstock_gateway.ledger.contract import (
    Account,
    Budget,
    BudgetState,
    Grant,
    LimitState,
    Refusal,
    RefusalReason,
)
from penstock_gateway.ledger.periods import Calendar, Window
from penstock_gateway.ledger.rates import bounded
from penstock_gateway.money.amounts import MAX_PICOUSD

MAX_TOKENS: Final = 10**9
"""Beyond any request; as units of a bucket (`rates.UNITS`) it is far below what Redis's scripts count exactly."""
AWAY = Refusal(RefusalReason.UNAVAILABLE, retry_after_seconds=1.0)


class BudgetLine(msgspec.Struct, frozen=True, gc=False):
    """One budget in the window that a request falls in.

    Attributes
    ----------
    scope : str
    budget : Budget
    window : Window
    """

    scope: str
    budget: Budget
    window: Window

    @property
    def field(self) -> str:
        """Under which what is held of it is counted."""
        return f"{self.window.id}|{self.scope}"


def whole_amount(amount_picousd: int) -> int:
    """Return an amount as counters can take it: from nothing to `MAX_PICOUSD`."""
    return amount_picousd if 0 <= amount_picousd <= MAX_PICOUSD else min(max(amount_picousd, 0), MAX_PICOUSD)


def whole_tokens(tokens: int) -> int:
    """Return a count of tokens as buckets can take it: from 0 to `MAX_TOKENS`."""
    return tokens if 0 <= tokens <= MAX_TOKENS else min(max(tokens, 0), MAX_TOKENS)


def distinct(accounts: Iterable[Account]) -> tuple[Account, ...]:
    """Return accounts with each scope once, the first of it: nobody is charged twice for one request."""
    first: dict[str, Account] = {}
    for account in accounts:
        first.setdefault(account.scope, account)
    return tuple(first.values())


def prepared(accounts: Iterable[Account]) -> tuple[Account, ...]:
    """Return distinct accounts with limits that buckets can count."""
    found = accounts if isinstance(accounts, tuple) and len(accounts) == 1 else distinct(accounts)
    for account in found:
        if bounded(account.limits) is not account.limits:
            return tuple([replace(account, limits=bounded(account.limits)) for account in found])
    return found


def budget_lines(accounts: Sequence[Account], calendar: Calendar, at: float) -> list[BudgetLine]:
    """Return every budget of some accounts with its window, in their order."""
    return [
        BudgetLine(account.scope, budget, calendar.window(budget.period, at))
        for account in accounts
        for budget in account.budgets
    ]


def budget_state(line: BudgetLine, spent_picousd: int, held_picousd: int) -> BudgetState:
    """Return what is told of a budget."""
    limit = line.budget.limit_picousd
    used = spent_picousd + held_picousd
    return BudgetState(
        scope=line.scope,
        period=line.budget.period,
        window=line.window.id,
        limit_picousd=limit,
        spent_picousd=spent_picousd,
        held_picousd=held_picousd,
        resets_at=line.window.ends_at,
        is_soft_passed=limit <= 0 or used / limit >= line.budget.soft_share,
    )


def budget_refusal(state: BudgetState, amount_picousd: int, at: float) -> Refusal:
    """Return the refusal of a budget that an amount does not fit into.

    Parameters
    ----------
    state : BudgetState
    amount_picousd : int
        Of the whole request.
    at : float
        When it came, UNIX seconds.
    """
    may_pass_later = state.resets_at is not None and amount_picousd <= state.limit_picousd
    return Refusal(
        RefusalReason.BUDGET,
        state.scope,
        max(0.0, state.resets_at - at) if may_pass_later and state.resets_at is not None else None,
        budget=state,
    )


def states_of(lines: Sequence[BudgetLine], counters: Sequence[tuple[int, int]]) -> tuple[BudgetState, ...]:
    """Return the states of some budgets from what is spent and held of each."""
    return tuple(budget_state(line, *counted) for line, counted in zip(lines, counters, strict=True))


def grant_of(budgets: Sequence[BudgetState], limits: Sequence[LimitState], *, is_local: bool = False) -> Grant:
    """Return a grant with its states."""
    return Grant(tuple(budgets), tuple(limits), is_local)
