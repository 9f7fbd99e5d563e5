"""Spending on the request path: hold an upper bound before the call, grow it with the stream, charge what it came to.

Owns the bounds and the errors of a refusal; the counting is the ledger's. An account without budgets and limits costs
nothing here: its spend is only charged in the end. Read `SpendDesk.admit`, then `Hold`.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable
from dataclasses import dataclass
from decimal import Decimal
from math import ceil
from typing import Final

from penstock_gateway.accounts.principal import Principal
from penstock_gateway.bounds import bound_picousd, choices_at_most, hides_reasoning, least_output_tokens
from penstock_gateway.deployments import Deployment
from penstock_gateway.errors import NoCandidate, Overloaded, QuotaExceeded
from penstock_gateway.ledger.contract import (
    BudgetState,
    Charge,
    Grant,
    Ledger,
    Refusal,
    RefusalReason,
    Reservation,
)
from penstock_gateway.money.amounts import to_picousd, to_usd
from penstock_gateway.money.prices import format_usd
from penstock_gateway.refusals import budget_warnings, error_of, limit_headers
from penstock_gateway.request_body import ChatRequest, TradeoffValue
from penstock_routers.token_counts import tokens_at_most

_log = logging.getLogger("penstock.spending")

MARGIN_TOKENS: Final = 64
"""A stream asks for more before it has used up what is held: what one packet of it may carry."""
LIMITED_BYTES_PER_TOKEN: Final = 8
"""A model that was given a limit is taken at its word until its text is twice as long as so many tokens usually are."""
_KNOB: Final = {"cost": 0.0, "balanced": 0.5, "quality": 1.0}
_MAX_WARNED: Final = 10_000
_MAX_KNOWN: Final = 100_000  # budgets, some 20 MB


@dataclass(frozen=True, slots=True)
class SpendRules:
    """How much is held where a request does not say.

    Attributes
    ----------
    reserve_output_tokens : int
        Of a stream without ``max_tokens``; and of what has to be held as a whole, where the model's limit does not fit.
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
        for scope, state in fullest.items():
            self._used.pop(scope, None)
            self._used[scope] = (state.resets_at, state.used_share)
            if len(self._used) > _MAX_KNOWN:
                self._used.pop(next(iter(self._used)))

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
        "_choices",
        "_deployment",
        "_desk",
        "_is_limited",
        "_known_bound",
        "_margin",
        "_request",
        "_rules",
        "_turn",
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
        self._rules = desk.rules  # those of a later configuration are for later requests
        self._request = request
        self._choices = choices_at_most(request)
        self._turn = asyncio.Lock()  # attempts that begin beside each other are held one after the other
        self._deployment: Deployment | None = None
        self._is_limited = False
        self._margin = MARGIN_TOKENS
        self._amount = 0
        self._begun = 0
        self._known_bound: tuple[Deployment, int, int] | None = None

    @property
    def is_metered(self) -> bool:
        """Whether attempts and streams have to ask before they go on."""
        return self.grant is not None

    async def open(self, deployment: Deployment, *, is_cached: bool = False) -> None:
        """Reserve; see `SpendDesk.admit`."""
        if is_cached:
            self.grant = await self._reserve(0, 0)
            return
        smaller = self._rules.reserve_output_tokens
        if self._is_whole(deployment) and smaller < deployment.max_output_tokens:
            try:
                await self._open_with(deployment, is_last=False)
                return
            except QuotaExceeded:
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
        if self._begun + bound <= self._amount and not self._turn.locked():  # as for nearly every first attempt
            self._begun += bound
            return bound
        async with self._turn:
            await self._grow_to(self._begun + bound)
            self._begun += bound
        return bound

    def forgive(self, bound_picousd: int) -> None:
        """Note that an attempt is surely free: it never reached its provider, or was answered with an error."""
        self._begun -= bound_picousd

    def serve(self, deployment: Deployment) -> None:
        """Note which deployment answers: its stream is what is metered. Only the first call counts."""
        if self._deployment is None:
            self._deployment = deployment
            self._is_limited = self._limit(deployment) is not None  # asked for with every chunk
            self._margin = 0 if self._is_limited else MARGIN_TOKENS
            self.output_tokens = self._output_bound(deployment)

    def limit_to_send(self, deployment: Deployment) -> int | None:
        """Return the limit on output tokens to send to a deployment; None when the client's or the model's own holds.

        Parameters
        ----------
        deployment : Deployment
        """
        return None if self._request.max_tokens is not None else self._limit(deployment)

    def tokens_in(self, output_bytes: int) -> int:
        """Return how many completion tokens a stream counts for, for `keep_up`, by the text that has come.

        Parameters
        ----------
        output_bytes : int
            Of text.

        Notes
        -----
        Hardly ever too few, where nothing but the budget ends the stream. Where the model was given a limit and that
        is held, such a count would ask for money that cannot be needed: there it is low, and finds a model that does
        not keep to its limit.
        """
        return output_bytes // LIMITED_BYTES_PER_TOKEN if self._is_limited else tokens_at_most(output_bytes)

    def covers(self, output_tokens: int) -> bool:
        """Whether a stream may go on without `keep_up`: so many completion tokens are held, or none has to be."""
        is_free = self.grant is None or self._deployment is None
        return is_free or output_tokens + self._margin <= self.output_tokens

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
        if self._deployment is None or self.covers(output_tokens):
            return
        missing = output_tokens + self._margin - self.output_tokens
        step = self._rules.top_up_output_tokens
        wanted = self.output_tokens + step * ceil(missing / step)
        more = self._bound(self._deployment, wanted) - self._bound(self._deployment, self.output_tokens)
        async with self._turn:
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
        headers = {**limit_headers(self.grant.limits), **budget_warnings(self.grant.budgets)}
        if self.max_tokens is not None:
            headers["x-penstock-max-tokens"] = str(self.max_tokens)
        return headers

    def _limit(self, deployment: Deployment) -> int | None:
        """Return the limit on output tokens that a deployment gets from client or budget; None: it gets none."""
        limit = self.max_tokens if self._request.max_tokens is None else self._request.max_tokens
        if limit is None and self._request.is_stream and self._is_whole(deployment):
            return deployment.max_output_tokens
        return limit

    def _is_whole(self, deployment: Deployment) -> bool:
        """Whether all that the model may write has to be held, because nobody sees how far it is."""
        request = self._request
        if request.max_tokens is not None:
            return False
        return not request.is_stream or (self._has_budget and hides_reasoning(request, deployment))

    @property
    def _has_budget(self) -> bool:
        return any(account.budgets for account in self.principal.accounts)

    def _output_bound(self, deployment: Deployment) -> int:
        """Return the completion tokens that an attempt may produce without asking."""
        limit = self._limit(deployment)
        if limit is None:
            limit = deployment.max_output_tokens
            if self._request.is_stream:
                limit = min(limit, self._rules.reserve_output_tokens)
        return max(limit, least_output_tokens(self._request, deployment)) * self._choices

    async def _open_with(self, deployment: Deployment, *, is_last: bool = True) -> None:
        output_tokens = self._output_bound(deployment)
        bound = self._bound(deployment, output_tokens)
        # Limits on tokens renew themselves, so they are no bound: a model's whole context would refuse for nothing.
        usual = min(output_tokens, self._rules.reserve_output_tokens * self._choices)
        self.grant = await self._reserve(bound, self._request.input_tokens + usual, is_last=is_last)
        self._amount = bound

    async def _reserve(self, amount: int, tokens: int, *, is_last: bool = True) -> Grant:
        """Hold an amount; a budget that does not reach is a refusal only when nothing smaller is asked for then."""
        reservation = Reservation(self.id, self.principal.accounts, amount, tokens, self.admitted_at)
        try:
            answer = await self._desk.ledger.reserve(reservation)
        except asyncio.CancelledError:  # the client left while it was being held: whatever is held is given back
            self._desk.put_charge(self.settle(None, 0))
            raise
        if isinstance(answer, Refusal):
            if is_last or answer.reason is not RefusalReason.BUDGET:
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
        known = self._known_bound
        if known is not None and known[0] is deployment and known[1] == output_tokens:
            return known[2]
        if deployment.price.is_unknown and self._has_budget:
            raise NoCandidate(
                f"The price of '{deployment.name}' is not known, and this key has a budget to keep.",
                code="price_unknown",
                param="model",
            )
        bound = bound_picousd(self._request, deployment, output_tokens)
        self._known_bound = (deployment, output_tokens, bound)
        return bound


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
