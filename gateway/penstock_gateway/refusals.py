"""What a caller is told of its budgets and limits: the error of a refusal, and headers.

Pure. Read `error_of`.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from math import ceil

from penstock_gateway.errors import GatewayError, Overloaded, QuotaExceeded, RateLimited
from penstock_gateway.ledger.contract import BudgetState, LimitKind, LimitState, Refusal, RefusalReason
from penstock_gateway.money.amounts import to_usd
from penstock_gateway.money.prices import format_usd


def error_of(refusal: Refusal) -> GatewayError:
    """Return what a refused caller is told.

    Parameters
    ----------
    refusal : Refusal

    Returns
    -------
    QuotaExceeded, RateLimited or Overloaded
        With ``Retry-After`` when the same request may pass later.
    """
    headers = {} if refusal.retry_after_seconds is None else {"retry-after": str(ceil(refusal.retry_after_seconds))}
    if refusal.reason is RefusalReason.UNAVAILABLE:
        return Overloaded(
            "Budgets cannot be looked up at the moment; try again shortly.",
            code="ledger_unavailable",
            headers=headers or {"retry-after": "1"},
        )
    if refusal.reason is RefusalReason.BUDGET:
        return QuotaExceeded(_budget_text(refusal), headers=headers)
    limit = refusal.limit
    shown = {} if limit is None else limit_headers((limit,))
    what = {
        RefusalReason.REQUESTS: "requests per minute",
        RefusalReason.TOKENS: "tokens per minute",
        RefusalReason.PARALLEL: "parallel requests",
    }[refusal.reason]
    number = "" if limit is None else f" of {limit.limit}"
    if limit is not None and refusal.retry_after_seconds is None:
        text = f"This request is larger than the limit{number} {what} of {refusal.scope}, so it can never pass."
        return RateLimited(text, code="request_above_limit", headers=shown)
    text = f"The limit{number} {what} of {refusal.scope} is reached."
    return RateLimited(text, headers={**(headers or {"retry-after": "1"}), **shown})


_LIMIT_HEADERS = {
    kind: tuple(f"x-ratelimit-{what}-{kind.value}" for what in ("limit", "remaining", "reset")) for kind in LimitKind
}


def limit_headers(limits: Sequence[LimitState]) -> dict[str, str]:
    """Return OpenAI's ``x-ratelimit-`` headers for the tightest limit of each kind."""
    tightest: dict[LimitKind, LimitState] = {}
    for state in limits:
        known = tightest.get(state.kind)
        if known is None or state.remaining < known.remaining:
            tightest[state.kind] = state
    headers = {}
    for kind, state in tightest.items():
        limit, remaining, reset = _LIMIT_HEADERS[kind]
        headers[limit] = str(state.limit)
        headers[remaining] = str(state.remaining if state.remaining > 0 else 0)
        if kind is not LimitKind.PARALLEL:
            headers[reset] = f"{state.reset_seconds:.3f}s"
    return headers


def budget_warnings(budgets: Sequence[BudgetState]) -> dict[str, str]:
    """Return the header that warns of budgets whose soft limit is passed."""
    passed = [f"{s.scope} {s.period.value} {s.used_share:.0%}" for s in budgets if s.is_soft_passed]
    if not passed:
        return {}
    return {"x-penstock-budget-warning": ", ".join(passed).encode("ascii", "replace").decode()}


def _budget_text(refusal: Refusal) -> str:
    state = refusal.budget
    if state is None:
        return f"A budget of {refusal.scope} is used up."
    limit, spent, held = (
        format_usd(to_usd(value)) for value in (state.limit_picousd, state.spent_picousd, state.held_picousd)
    )
    again = "" if state.resets_at is None else f" It renews at {_moment(state.resets_at)}."
    return (
        f"The {state.period.value} budget of {refusal.scope} does not reach for this request: "
        f"{spent} of {limit} USD spent, {held} held for requests under way.{again}"
    )


def _moment(at: float) -> str:
    return time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(at))
