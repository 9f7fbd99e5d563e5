"""Spending on the request path: hold an upper bound before the call, grow it with the stream, charge what it came to.

Owns the bounds and the errors of a refusal; the counting is the ledger's. An account without budgets and limits costs
nothing here: its spend is only charged in the end. Read `SpendDesk.admit`, then `Hold`.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from decimal import Decimal
from math import ceil
from typing import Final

from penstock_gateway.accounts.principal import Principal
from penstock_gateway.deployments import Deployment
from penstock_gateway.errors import GatewayError, NoCandidate, Overloaded, QuotaExceeded, RateLimited
from penstock_gateway.ledger.contract import (
    BudgetState,
    Charge,
    Grant,
    Ledger,
    LimitKind,
    LimitState,
    Refusal,
    RefusalReason,
    Reservation,
)
from penstock_gateway.money.amounts import to_picousd, to_usd
from penstock_gateway.money.prices import format_usd, upper_bound_usd
from penstock_gateway.request_body import ChatRequest, TradeoffValue, plain_field
from penstock_routers.token_counts import TOKENS_PER_MESSAGE, tokens_at_most

_log = logging.getLogger("penstock.spending")

MARGIN_TOKENS: Final = 64
"""A stream asks for more before it has used up what is held: what one packet of it may carry."""
_KNOB: Final = {"cost": 0.0, "balanced": 0.5, "quality": 1.0}
_MAX_WARNED: Final = 10_000


@dataclass(frozen=True, slots=True)
class SpendRules:
    """How much is held where a request does not say.

    Attributes
    ----------
    reserve_output_tokens : int
        Of a stream without ``max_tokens``, and of a plain request for which the model's limit does not fit.
    top_up_output_tokens : int
        Step by which a stream's hold grows.
    """

    reserve_output_tokens: int = 1024
    top_up_output_tokens: int = 1024


class SpendDesk:
    """Holds and charges requests.

    Parameters
    ----------
    ledger : Ledger
    put_charge : callable
        Takes a charge to be settled off the request path; called in the event loop.
    put_from_any_thread : callable, optional
        The same for other threads; `put_charge` when not given.
    rules : SpendRules
    settled_until : callable
        UNIX seconds before which every outcome on disk has been charged.
    is_full : callable
        Whether so many charges wait that no further request may be admitted.
    on_refusal : callable
        Called with the reason of every refusal.
    on_soft_limit : callable
        Called once for every budget and window whose soft limit is passed.
    clock : callable
        UNIX seconds.
    """

    def __init__(
        self,
        ledger: Ledger,
        put_charge: Callable[[Charge], None],
        rules: SpendRules | None = None,
        *,
        put_from_any_thread: Callable[[Charge], None] | None = None,
        is_full: Callable[[], bool] = lambda: False,
        settled_until: Callable[[], float] = lambda: 0.0,
        on_refusal: Callable[[RefusalReason], None] = lambda _: None,
        on_soft_limit: Callable[[BudgetState], None] = lambda _: None,
        clock: Callable[[], float] = time.time,
    ) -> None:
        self.ledger = ledger
        self.put_charge = put_charge
        self.put_from_any_thread = put_from_any_thread or put_charge
        self.settled_until = settled_until
        self._is_full = is_full
        self.rules = rules or SpendRules()
        self.on_refusal = on_refusal
        self.clock = clock
        self._on_soft_limit = on_soft_limit
        self._used: dict[str, tuple[float | None, float]] = {}
        self._warned: dict[tuple[str, str], None] = {}

    def tradeoff(self, principal: Principal, setting: TradeoffValue | None, default: TradeoffValue) -> TradeoffValue:
        """Return the trade-off in force: a budget that is nearly used prefers cheaper models.

        Parameters
        ----------
        principal : Principal
        setting : str, float or None
            What the request or its key asks for.
        default : str or float
            In force when they ask for none.

        Returns
        -------
        str or float
            The cheapest of the request's own and those of the rules whose share is reached, as far as this replica
            knows: the state of a budget comes with each grant and is at most one request old.
        """
        own = default if setting is None else setting
        if not principal.budget_rules:
            return own
        now = self.clock()
        used = max((self._used_share(account.scope, now) for account in principal.accounts), default=0.0)
        wanted = [own, *(rule.tradeoff for rule in principal.budget_rules if used >= rule.used_share)]
        return min(wanted, key=_knob)

    async def admit(
        self,
        principal: Principal,
        request: ChatRequest,
        deployment: Deployment,
        hold_id: str,
        *,
        is_cached: bool = False,
    ) -> Hold:
        """Hold what a request may cost at most on the deployment that was chosen.

        Parameters
        ----------
        principal : Principal
        request : ChatRequest
        deployment : Deployment
        hold_id : str
            The decision's id.
        is_cached : bool
            The answer comes from the cache: only limits on requests matter.

        Returns
        -------
        Hold

        Raises
        ------
        QuotaExceeded
            ``budget_exceeded``.
        RateLimited
            ``rate_limit_exceeded``, with ``Retry-After``.
        Overloaded
            ``ledger_unavailable``: nobody can say whether the budget lets it pass. ``ledger_overloaded``.
        NoCandidate
            ``price_unknown``: a budget cannot be kept with a deployment whose price nobody knows.
        """
        if self._is_full():
            raise Overloaded(
                "Too many charges wait for the ledger; try again shortly.",
                code="ledger_overloaded",
                headers={"retry-after": "5"},
            )
        hold = Hold(self, principal, request, hold_id)
        if not principal.is_free:
            await hold.open(deployment, is_cached=is_cached)
        return hold

    def note_grant(self, grant: Grant) -> None:
        """Remember how far budgets are used, and warn of soft limits, once a window."""
        fullest: dict[str, BudgetState] = {}
        for state in grant.budgets:
            known = fullest.get(state.scope)
            if known is None or state.used_share > known.used_share:
                fullest[state.scope] = state
            if state.is_soft_passed and (state.scope, state.window) not in self._warned:
                self._warned[state.scope, state.window] = None
                if len(self._warned) > _MAX_WARNED:
                    self._warned.pop(next(iter(self._warned)))
                self._on_soft_limit(state)
                _log.warning("budget_soft_limit_passed", extra=_fields_of(state))
        self._used.update((scope, (state.resets_at, state.used_share)) for scope, state in fullest.items())

    def _used_share(self, scope: str, now: float) -> float:
        resets_at, share = self._used.get(scope, (None, 0.0))
        return 0.0 if resets_at is not None and now >= resets_at else share


class Hold:
    """What is held for one request, and the charge in the end.

    Attributes
    ----------
    id : str
    principal : Principal
    admitted_at : float
        UNIX seconds; decides the windows that are charged.
    grant : Grant or None
        None when nothing had to be held.
    output_tokens : int
        Completion tokens of the attempt that answers that are covered so far.
    max_tokens : int or None
        Limit to send to the model because the model's own did not fit the budget; None when nothing was changed.

    Notes
    -----
    An attempt that failed may be billed all the same, so every attempt that is not surely free is covered in full
    beside the next one. `begin` and `forgive` keep that account.
    """

    __slots__ = (
        "_amount",
        "_begun",
        "_deployment",
        "_desk",
        "_request",
        "admitted_at",
        "grant",
        "id",
        "max_tokens",
        "output_tokens",
        "principal",
    )

    def __init__(self, desk: SpendDesk, principal: Principal, request: ChatRequest, hold_id: str) -> None:
        self.id = hold_id
        self.principal = principal
        self.admitted_at = desk.clock()
        self.grant: Grant | None = None
        self.output_tokens = 0
        self.max_tokens: int | None = None
        self._desk = desk
        self._request = request
        self._deployment: Deployment | None = None
        self._amount = 0
        self._begun = 0

    @property
    def is_metered(self) -> bool:
        """Whether attempts and streams have to ask before they go on."""
        return self.grant is not None

    async def open(self, deployment: Deployment, *, is_cached: bool = False) -> None:
        """Reserve; see `SpendDesk.admit`."""
        if is_cached:
            self.grant = await self._reserve(0, 0)
            return
        try:
            await self._open_with(deployment)
        except QuotaExceeded:
            smaller = self._desk.rules.reserve_output_tokens
            request = self._request
            if request.max_tokens is not None or request.is_stream or smaller >= deployment.max_output_tokens:
                raise
            self.max_tokens = smaller
            await self._open_with(deployment)

    async def begin(self, deployment: Deployment) -> int:
        """Cover one more attempt, beside all that have begun.

        Parameters
        ----------
        deployment : Deployment

        Returns
        -------
        int
            What it may cost at most, picodollars, for `forgive`.

        Raises
        ------
        QuotaExceeded, Overloaded, NoCandidate
        """
        bound = self._bound(deployment, self._output_bound(deployment))
        await self._grow_to(self._begun + bound)
        self._begun += bound
        return bound

    def forgive(self, bound_picousd: int) -> None:
        """Note that an attempt is surely free: it never reached its provider, or was answered with an error."""
        self._begun -= bound_picousd

    def serve(self, deployment: Deployment) -> None:
        """Note which deployment answers: its stream is what is metered."""
        self._deployment = deployment
        self.output_tokens = self._output_bound(deployment)

    async def keep_up(self, output_tokens: int) -> None:
        """Let a stream go on, or not.

        Parameters
        ----------
        output_tokens : int
            At most so many completion tokens have come.

        Raises
        ------
        QuotaExceeded, Overloaded
            The budget does not reach for more; what has come is covered.
        """
        missing = output_tokens + MARGIN_TOKENS - self.output_tokens
        if missing <= 0 or self._deployment is None or self.grant is None:
            return
        step = self._desk.rules.top_up_output_tokens
        wanted = self.output_tokens + step * ceil(missing / step)
        more = self._bound(self._deployment, wanted) - self._bound(self._deployment, self.output_tokens)
        await self._grow_to(self._begun + more)
        self._begun += more
        self.output_tokens = wanted

    def settle(self, cost_usd: Decimal | None, tokens: int) -> Charge:
        """Return the charge that takes the place of what is held."""
        amount = 0 if cost_usd is None else to_picousd(cost_usd)
        return Charge(self.id, self.principal.accounts, amount, tokens, self.admitted_at)

    def headers(self) -> dict[str, str]:
        """Return ``x-ratelimit-*`` of the tightest limit of each kind, and a warning of soft limits."""
        if self.grant is None:
            return {}
        headers = {**limit_headers(self.grant.limits), **_warnings(self.grant.budgets)}
        if self.max_tokens is not None:
            headers["x-penstock-max-tokens"] = str(self.max_tokens)
        return headers

    def _output_bound(self, deployment: Deployment) -> int:
        """Return the completion tokens that an attempt may produce without asking."""
        request = self._request
        limit = self.max_tokens if request.max_tokens is None else request.max_tokens
        if limit is None:
            limit = deployment.max_output_tokens
            if request.is_stream:
                limit = min(limit, self._desk.rules.reserve_output_tokens)
        return limit * request.choices

    async def _open_with(self, deployment: Deployment) -> None:
        output_tokens = self._output_bound(deployment)
        bound = self._bound(deployment, output_tokens)
        # Limits on tokens renew themselves, so they are no bound: a model's whole context would refuse for nothing.
        usual = min(output_tokens, self._desk.rules.reserve_output_tokens * self._request.choices)
        self.grant = await self._reserve(bound, self._request.input_tokens + usual)
        self._amount = bound

    async def _reserve(self, amount: int, tokens: int) -> Grant:
        reservation = Reservation(self.id, self.principal.accounts, amount, tokens, self.admitted_at)
        try:
            answer = await self._desk.ledger.reserve(reservation)
        except asyncio.CancelledError:  # the client left while it was being held: whatever is held is given back
            self._desk.put_charge(self.settle(None, 0))
            raise
        if isinstance(answer, Refusal):
            self._desk.on_refusal(answer.reason)
            raise error_of(answer)
        self._desk.note_grant(answer)
        return answer

    async def _grow_to(self, amount: int) -> None:
        more = amount - self._amount
        if more <= 0:
            return
        refusal = await self._desk.ledger.top_up(self.id, more, 0)
        if refusal is not None:
            self._desk.on_refusal(refusal.reason)
            raise error_of(refusal)
        self._amount = amount

    def _bound(self, deployment: Deployment, output_tokens: int) -> int:
        """Return the most that an attempt may cost there, picodollars."""
        price = deployment.price
        if price.is_unknown and any(account.budgets for account in self.principal.accounts):
            raise NoCandidate(
                f"The price of '{deployment.name}' is not known, and this key has a budget to keep.",
                code="price_unknown",
                param="model",
            )
        has_media = self._request.attachments > 0
        bound = upper_bound_usd(
            price,
            _input_tokens_at_most(self._request),
            output_tokens,
            service_tier=_service_tier(self._request),
            has_audio=has_media or "audio" in self._request.fields,
            has_images=has_media,
        )
        return to_picousd(bound)


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


def limit_headers(limits: Sequence[LimitState]) -> dict[str, str]:
    """Return OpenAI's ``x-ratelimit-`` headers for the tightest limit of each kind."""
    tightest: dict[LimitKind, LimitState] = {}
    for state in limits:
        known = tightest.get(state.kind)
        if known is None or state.remaining < known.remaining:
            tightest[state.kind] = state
    headers = {}
    for kind, state in tightest.items():
        headers[f"x-ratelimit-limit-{kind.value}"] = str(state.limit)
        headers[f"x-ratelimit-remaining-{kind.value}"] = str(max(0, state.remaining))
        if kind is not LimitKind.PARALLEL:
            headers[f"x-ratelimit-reset-{kind.value}"] = f"{state.reset_seconds:.3f}s"
    return headers


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


def _warnings(budgets: Sequence[BudgetState]) -> dict[str, str]:
    passed = [f"{s.scope} {s.period.value} {s.used_share:.0%}" for s in budgets if s.is_soft_passed]
    if not passed:
        return {}
    return {"x-penstock-budget-warning": ", ".join(passed).encode("ascii", "replace").decode()}


def _moment(at: float) -> str:
    return time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(at))


def _fields_of(state: BudgetState) -> dict[str, object]:
    return {
        "scope": state.scope,
        "period": state.period.value,
        "window": state.window,
        "spent_usd": format_usd(to_usd(state.spent_picousd)),
        "held_usd": format_usd(to_usd(state.held_picousd)),
        "limit_usd": format_usd(to_usd(state.limit_picousd)),
    }


def _knob(setting: TradeoffValue) -> float:
    return _KNOB[setting] if isinstance(setting, str) else setting


def _input_tokens_at_most(request: ChatRequest) -> int:
    """Return an upper bound of the prompt's tokens; what has no text (pictures, sound) keeps its estimate."""
    estimated_bytes = request.input_tokens * 4  # `estimate_tokens` is bytes over four
    return max(request.input_tokens, tokens_at_most(estimated_bytes)) + TOKENS_PER_MESSAGE


def _service_tier(request: ChatRequest) -> str | None:
    """Return the service tier that the request asks for; None when it leaves that to the provider (``auto``)."""
    asked = plain_field(request.fields, "service_tier") if "service_tier" in request.fields else ""
    return None if not isinstance(asked, str) or asked == "auto" else asked
