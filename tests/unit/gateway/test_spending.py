"""Rules of holding and charging money on the request path."""

from __future__ import annotations

import asyncio
import json
from decimal import Decimal
from typing import Any

import pytest
from msgspec import structs

from penstock_gateway import spending
from penstock_gateway.accounts.principal import BudgetRule, Principal
from penstock_gateway.deployments import HiddenReasoning
from penstock_gateway.errors import GatewayError, NoCandidate, Overloaded, QuotaExceeded, RateLimited
from penstock_gateway.ledger.contract import (
    Account,
    Budget,
    BudgetState,
    Charge,
    Grant,
    LimitKind,
    LimitState,
    Period,
    RateLimits,
    Refusal,
    RefusalReason,
)
from penstock_gateway.ledger.memory import MemoryLedger
from penstock_gateway.money.amounts import PICOUSD_PER_USD
from penstock_gateway.money.prices import Price, ServiceTier, resolved_rates
from penstock_gateway.refusals import error_of, limit_headers
from penstock_gateway.request_body import ChatRequest, parse_chat_request, raw
from penstock_gateway.spending import MARGIN_TOKENS, SpendDesk, SpendRules
from penstock_gateway.wire.formats import WireFormat
from penstock_gateway.wire.native import NativeRequest
from support.fakes import deployment

NOW = 1_790_000_000.0
MICRO_USD = PICOUSD_PER_USD // 1_000_000
# One USD per million prompt tokens and two per million completion tokens: a token costs one or two micro-USD.
MODEL = deployment("small", max_output_tokens=4096)


class World:
    """A spend desk over a ledger in memory, with what it was told to charge."""

    def __init__(self, limit_microusd: int | None = None, **principal: Any) -> None:
        budgets = () if limit_microusd is None else (Budget(Period.DAY, limit_microusd * MICRO_USD),)
        limits = principal.pop("limits", RateLimits())
        self.account = Account("key:k", budgets, limits)
        self.principal = Principal("t", key_id="k", accounts=(self.account,), **principal)
        self.ledger = MemoryLedger(clock=lambda: NOW)
        self.charges: list[Charge] = []
        self.refusals: list[RefusalReason] = []
        self.soft: list[BudgetState] = []
        self.desk = SpendDesk(
            self.ledger,
            self.charges.append,
            SpendRules(reserve_output_tokens=200, top_up_output_tokens=100),
            on_refusal=self.refusals.append,
            on_soft_limit=self.soft.append,
            clock=lambda: NOW,
        )

    async def held_microusd(self) -> int:
        """Return what is held at the moment."""
        (state,) = await self.ledger.states((self.account,), NOW)
        return state.held_picousd // MICRO_USD


def asked(**fields: Any) -> ChatRequest:
    """Return a short request."""
    body = {"model": "small", "messages": [{"role": "user", "content": "hello"}], **fields}
    return parse_chat_request(json.dumps(body).encode())


async def test_admit_account_without_budgets_and_limits_holds_nothing() -> None:
    """Where nothing can refuse a request the ledger is not asked at all."""
    world = World()
    hold = await world.desk.admit(world.principal, asked(), MODEL, "dec_1")
    assert hold.grant is None
    assert not hold.is_metered
    assert hold.headers() == {}


async def test_admit_request_with_max_tokens_holds_prompt_and_limit() -> None:
    """What is held is never less than the whole limit costs, and not much more."""
    world = World(10_000)
    await world.desk.admit(world.principal, asked(max_tokens=1000), MODEL, "dec_1")
    assert 2_000 < await world.held_microusd() < 2_100


async def test_admit_stream_without_limit_holds_the_stated_default() -> None:
    """A stream holds for the default number of tokens and grows later."""
    world = World(10_000)
    hold = await world.desk.admit(world.principal, asked(stream=True), MODEL, "dec_1")
    assert hold.output_tokens == 0
    hold.serve(MODEL)
    assert hold.output_tokens == 200
    assert 400 < await world.held_microusd() < 500


async def test_admit_plain_request_without_limit_holds_the_models_limit() -> None:
    """A plain answer cannot be stopped midway, so all that the model may write is held."""
    world = World(10_000)
    hold = await world.desk.admit(world.principal, asked(), MODEL, "dec_1")
    assert 8_192 < await world.held_microusd() < 8_300
    assert hold.max_tokens is None


async def test_admit_plain_request_whose_models_limit_does_not_fit_gets_a_smaller_one() -> None:
    """Near the end of a budget a plain request is sent with a limit that the budget reaches for, and says so."""
    world = World(1_000)
    hold = await world.desk.admit(world.principal, asked(), MODEL, "dec_1")
    assert hold.max_tokens == 200
    assert hold.headers()["x-penstock-max-tokens"] == "200"
    assert 400 < await world.held_microusd() < 500


async def test_admit_beyond_the_budget_is_refused_with_the_figures() -> None:
    """A refusal names scope, period, what is spent and held, and when it renews."""
    world = World(3_000)
    await world.desk.admit(world.principal, asked(max_tokens=1000), MODEL, "dec_1")
    with pytest.raises(QuotaExceeded) as caught:
        await world.desk.admit(world.principal, asked(max_tokens=1000), MODEL, "dec_2")
    assert caught.value.status == 429
    assert caught.value.code == "budget_exceeded"
    assert "day budget of key:k" in caught.value.message
    assert "0 of 0.003 USD spent, 0.0020" in caught.value.message
    assert int(caught.value.headers["retry-after"]) > 0
    assert world.refusals == [RefusalReason.BUDGET]


async def test_keep_up_stream_within_its_hold_asks_nobody() -> None:
    """As long as what has come is covered with a margin, nothing more is held."""
    world = World(10_000)
    hold = await world.desk.admit(world.principal, asked(stream=True), MODEL, "dec_1")
    await hold.begin(MODEL)
    hold.serve(MODEL)
    before = await world.held_microusd()
    last = hold.output_tokens - MARGIN_TOKENS
    await hold.keep_up(last)
    assert await world.held_microusd() == before
    assert hold.covers(last)
    assert not hold.covers(last + 1)  # what `covers` lets pass, and nothing else, needs no `keep_up`


async def test_keep_up_growing_stream_holds_step_by_step_until_refused() -> None:
    """A stream holds one step more before it needs it, and ends when the budget does not reach for the next."""
    world = World(1_000)
    hold = await world.desk.admit(world.principal, asked(stream=True), MODEL, "dec_1")
    await hold.begin(MODEL)
    hold.serve(MODEL)
    tokens = 0
    try:
        for tokens in range(1, 2_000):
            await hold.keep_up(tokens)
    except QuotaExceeded:
        world.refusals.append(RefusalReason.BUDGET)
    assert world.refusals
    assert 300 <= tokens <= 500
    assert tokens * 2 <= await world.held_microusd() <= 1_000


async def test_begin_retry_after_a_free_failure_needs_no_more() -> None:
    """An attempt that the provider did not bill makes room for the next."""
    world = World(2_200)
    hold = await world.desk.admit(world.principal, asked(max_tokens=1000), MODEL, "dec_1")
    for _ in range(3):
        hold.forgive(await hold.begin(MODEL))
    assert 2_000 < await world.held_microusd() < 2_100


async def test_begin_retry_after_a_failure_that_may_be_billed_is_covered_beside_it() -> None:
    """Two attempts that may both be billed are both held, or the second is refused."""
    world = World(3_000)
    hold = await world.desk.admit(world.principal, asked(max_tokens=1000), MODEL, "dec_1")
    await hold.begin(MODEL)
    with pytest.raises(QuotaExceeded):
        await hold.begin(MODEL)


async def test_begin_fallback_to_a_dearer_deployment_holds_the_difference() -> None:
    """A fallback is covered at its own price."""
    world = World(50_000)
    dear = deployment("large", price=Price(Decimal(10), Decimal(10), Decimal(20), Decimal(20)))
    hold = await world.desk.admit(world.principal, asked(max_tokens=1000), MODEL, "dec_1")
    hold.forgive(await hold.begin(MODEL))
    await hold.begin(dear)
    assert 20_000 < await world.held_microusd() < 21_000


async def test_settle_gives_a_charge_in_whole_picodollars() -> None:
    """The charge is exact and belongs to the moment of admission."""
    world = World(10_000)
    hold = await world.desk.admit(world.principal, asked(max_tokens=10), MODEL, "dec_1")
    charge = hold.settle(Decimal("0.000075"), 12)
    assert charge == Charge("dec_1", (world.account,), 75_000_000, 12, NOW)


async def test_admit_unknown_price_is_refused_where_a_budget_is_to_be_kept() -> None:
    """A cost that nobody knows cannot be kept within a budget."""
    world = World(10_000)
    unpriced = deployment("small", price=Price(*[Decimal(1)] * 4, is_unknown=True))
    with pytest.raises(NoCandidate) as caught:
        await world.desk.admit(world.principal, asked(), unpriced, "dec_1")
    assert caught.value.code == "price_unknown"


async def test_admit_cached_answer_counts_as_a_request_and_holds_no_money() -> None:
    """A stored answer costs nothing, but a limit on requests counts it."""
    world = World(100, limits=RateLimits(requests_per_minute=1))
    await world.desk.admit(world.principal, asked(), MODEL, "dec_1", is_cached=True)
    assert await world.held_microusd() == 0
    with pytest.raises(RateLimited):
        await world.desk.admit(world.principal, asked(), MODEL, "dec_2", is_cached=True)


async def test_tradeoff_nearly_used_budget_prefers_the_cheaper_mode() -> None:
    """From the rule's share on, the cheaper of the request's trade-off and the rule's is in force."""
    world = World(1_000, budget_rules=(BudgetRule(0.8, "cost"),))
    assert world.desk.tradeoff(world.principal, "quality", "balanced") == "quality"
    await world.desk.admit(world.principal, asked(max_tokens=450), MODEL, "dec_1")
    assert world.desk.tradeoff(world.principal, "quality", "balanced") == "cost"
    assert world.desk.tradeoff(world.principal, None, 0.0) == 0.0


async def test_note_grant_soft_limit_warns_once_a_window() -> None:
    """A passed soft limit is told once, and every answer says so in a header."""
    world = World(1_000)
    first = await world.desk.admit(world.principal, asked(max_tokens=420), MODEL, "dec_1")
    await world.desk.admit(world.principal, asked(max_tokens=1), MODEL, "dec_2")
    assert len(world.soft) == 1
    assert first.headers()["x-penstock-budget-warning"].startswith("key:k day 8")


@pytest.mark.parametrize(
    ("refusal", "kind", "code"),
    [
        (Refusal(RefusalReason.UNAVAILABLE), Overloaded, "ledger_unavailable"),
        (
            Refusal(RefusalReason.REQUESTS, "key:k", 2.2, limit=LimitState("key:k", LimitKind.REQUESTS, 3, 0, 60.0)),
            RateLimited,
            "rate_limit_exceeded",
        ),
        (
            Refusal(RefusalReason.TOKENS, "key:k", None, limit=LimitState("key:k", LimitKind.TOKENS, 3, 3, 0.0)),
            RateLimited,
            "request_above_limit",
        ),
        (Refusal(RefusalReason.PARALLEL, "team:t"), RateLimited, "rate_limit_exceeded"),
        (Refusal(RefusalReason.BUDGET, "team:t"), QuotaExceeded, "budget_exceeded"),
    ],
)
def test_error_of_every_refusal_has_its_own_code(refusal: Refusal, kind: type[GatewayError], code: str) -> None:
    """A caller can tell the reasons apart, and is told when to come back whenever that helps."""
    error = error_of(refusal)
    assert type(error) is kind
    assert error.code == code
    if code == "rate_limit_exceeded":
        assert int(error.headers["retry-after"]) >= 1


def test_limit_headers_show_the_tightest_of_each_kind() -> None:
    """Of several limits of one kind the one with least left is shown, as OpenAI's clients read it."""
    headers = limit_headers(
        [
            LimitState("key:k", LimitKind.REQUESTS, 100, 50, 30.0),
            LimitState("team:t", LimitKind.REQUESTS, 1000, 3, 59.5),
            LimitState("key:k", LimitKind.TOKENS, 10_000, 9_000, 6.0),
        ]
    )
    assert headers == {
        "x-ratelimit-limit-requests": "1000",
        "x-ratelimit-remaining-requests": "3",
        "x-ratelimit-reset-requests": "59.500s",
        "x-ratelimit-limit-tokens": "10000",
        "x-ratelimit-remaining-tokens": "9000",
        "x-ratelimit-reset-tokens": "6.000s",
    }


async def test_admit_let_in_with_a_smaller_limit_counts_no_refusal() -> None:
    """Only who is turned away is counted as refused."""
    world = World(1_000)
    await world.desk.admit(world.principal, asked(), MODEL, "dec_1")
    assert world.refusals == []


async def test_admit_refused_with_the_smaller_limit_too_counts_one_refusal() -> None:
    """One request that is turned away is one refusal, however often the ledger was asked."""
    world = World(100)
    with pytest.raises(QuotaExceeded):
        await world.desk.admit(world.principal, asked(), MODEL, "dec_1")
    assert world.refusals == [RefusalReason.BUDGET]


async def test_keep_up_stream_within_its_own_limit_is_never_ended() -> None:
    """A stream whose `max_tokens` are held is not ended by a budget that reaches for just these."""
    world = World(140)
    hold = await world.desk.admit(world.principal, asked(stream=True, max_tokens=50), MODEL, "dec_1")
    await hold.begin(MODEL)
    hold.serve(MODEL)
    before = await world.held_microusd()
    for tokens in range(51):
        await hold.keep_up(hold.tokens_in(tokens * 4))
    assert (await world.held_microusd(), world.refusals) == (before, [])


async def test_keep_up_stream_beyond_its_own_limit_asks_like_any_other() -> None:
    """A provider that does not keep to the limit is not believed for ever."""
    world = World(140)
    hold = await world.desk.admit(world.principal, asked(stream=True, max_tokens=50), MODEL, "dec_1")
    await hold.begin(MODEL)
    hold.serve(MODEL)
    with pytest.raises(QuotaExceeded):
        await hold.keep_up(hold.tokens_in(51 * 8))
    with pytest.raises(QuotaExceeded):
        await hold.keep_up(51)


async def test_serve_after_the_rules_have_changed_counts_what_is_held() -> None:
    """A configuration that changes in between changes nothing about a request that was admitted before."""
    world = World(10_000)
    hold = await world.desk.admit(world.principal, asked(stream=True), MODEL, "dec_1")
    await hold.begin(MODEL)
    world.desk.rules = SpendRules(reserve_output_tokens=4_000, top_up_output_tokens=4_000)
    hold.serve(MODEL)
    assert hold.output_tokens == 200


class SlowLedger(MemoryLedger):
    """A ledger whose top-ups wait until the test lets them go, as over a network."""

    def __init__(self) -> None:
        super().__init__(clock=lambda: NOW)
        self.gate = asyncio.Event()

    async def top_up(self, reservation_id: str, amount_picousd: int, tokens: int) -> Refusal | None:
        """Wait, then hold more."""
        await self.gate.wait()
        return await super().top_up(reservation_id, amount_picousd, tokens)


async def test_begin_two_attempts_at_once_holds_both() -> None:
    """A hedge that begins while another attempt is still being held is covered beside it."""
    world = World(100_000)
    world.desk.ledger = world.ledger = ledger = SlowLedger()
    dear = deployment("large", price=Price(Decimal(2), Decimal(2), Decimal(4), Decimal(4)))
    hold = await world.desk.admit(world.principal, asked(max_tokens=1000), dear, "dec_1")
    hold.forgive(await hold.begin(dear))
    first = await hold.begin(MODEL)  # covered by what is held already, and may be billed
    second, third = asyncio.create_task(hold.begin(dear)), asyncio.create_task(hold.begin(MODEL))
    await asyncio.sleep(0)
    ledger.gate.set()
    bounds = [first, await second, await third]
    assert await world.held_microusd() >= sum(bounds) // MICRO_USD


async def test_begin_attempt_that_is_refused_takes_nothing_from_the_next() -> None:
    """What is not held for an attempt that could not begin is not counted as begun either."""
    world = World(4_200)
    dear = deployment("large", price=Price(Decimal(10), Decimal(10), Decimal(20), Decimal(20)))
    hold = await world.desk.admit(world.principal, asked(max_tokens=1000), MODEL, "dec_1")
    await hold.begin(MODEL)
    with pytest.raises(QuotaExceeded):
        await hold.begin(dear)
    await hold.begin(MODEL)
    assert 4_000 < await world.held_microusd() <= 4_200


@pytest.mark.parametrize("name", ["priority", "Priority", "fast"])
async def test_admit_service_tier_under_any_of_its_names_is_held_at_its_price(name: str) -> None:
    """What a provider bills as priority is held as priority, however the request calls it."""
    rates = resolved_rates(input=Decimal(2), output=Decimal(4))
    price = Price(*[Decimal(1)] * 2, *[Decimal(2)] * 2, service_tiers=(ServiceTier("priority", rates),))
    world = World(10_000)
    request = asked(max_tokens=1000, service_tier=name)
    await world.desk.admit(world.principal, request, deployment("small", price=price), "dec_1")
    assert await world.held_microusd() > 4_000


async def test_admit_prompt_of_tool_calls_is_held() -> None:
    """What an earlier answer asked a tool for is part of the prompt, and is billed like the rest of it."""
    call = {"id": "c", "type": "function", "function": {"name": "f", "arguments": json.dumps({"x": "word " * 2_000})}}
    messages = [
        {"role": "user", "content": "hello"},
        {"role": "assistant", "content": None, "tool_calls": [call]},
        {"role": "tool", "tool_call_id": "c", "content": "ok"},
    ]
    world = World(100_000)
    await world.desk.admit(world.principal, asked(messages=messages, max_tokens=1), MODEL, "dec_1")
    assert await world.held_microusd() > 2_500


async def test_tradeoff_remembers_no_more_budgets_than_its_bound(monkeypatch: pytest.MonkeyPatch) -> None:
    """Keys come and go for years; what is known of their budgets does not grow with them."""
    monkeypatch.setattr(spending, "_MAX_KNOWN", 3)
    world = World()
    for number in range(10):
        state = BudgetState(f"key:{number}", Period.TOTAL, "total", 100, 50, 0, None)
        world.desk.note_grant(Grant((state,)))
    assert len(world.desk._used) == 3


THINKER = deployment("thinker", max_output_tokens=4096, hidden_reasoning=HiddenReasoning.ALWAYS)


async def test_admit_stream_whose_reasoning_nobody_sees_holds_the_models_limit() -> None:
    """What no byte shows cannot be asked for step by step: under a budget all that the model may write is held."""
    world = World(10_000)
    hold = await world.desk.admit(world.principal, asked(stream=True), THINKER, "dec_1")
    held = await world.held_microusd()
    await hold.begin(THINKER)
    hold.serve(THINKER)
    await hold.keep_up(4096)
    assert 8_192 < held == await world.held_microusd() < 8_300
    assert (hold.limit_to_send(THINKER), hold.max_tokens) == (4096, None)


async def test_admit_stream_whose_reasoning_does_not_fit_gets_a_smaller_limit() -> None:
    """Near the end of a budget it is sent with a limit that the budget reaches for, as a plain request is."""
    world = World(1_000)
    hold = await world.desk.admit(world.principal, asked(stream=True), THINKER, "dec_1")
    assert (hold.limit_to_send(THINKER), hold.headers()["x-penstock-max-tokens"]) == (200, "200")
    assert 400 < await world.held_microusd() < 500
    assert world.refusals == []


async def test_admit_stream_of_a_reasoning_model_without_a_budget_holds_no_more_than_others() -> None:
    """Limits on rates alone are no reason to hold, or to send, a limit."""
    world = World(limits=RateLimits(requests_per_minute=10))
    hold = await world.desk.admit(world.principal, asked(stream=True), THINKER, "dec_1")
    hold.serve(THINKER)
    assert (hold.output_tokens, hold.limit_to_send(THINKER)) == (200, None)


async def test_admit_stream_with_a_limit_of_its_own_keeps_it_at_a_reasoning_model() -> None:
    """The client's limit bounds reasoning too, so it is what is held and sent."""
    world = World(10_000)
    hold = await world.desk.admit(world.principal, asked(stream=True, max_tokens=300), THINKER, "dec_1")
    assert hold.limit_to_send(THINKER) is None
    assert 600 < await world.held_microusd() < 700


@pytest.mark.parametrize(
    ("fields", "limit"),
    [
        ({}, None),
        ({"reasoning_effort": "none"}, None),
        ({"reasoning_effort": None}, None),
        ({"thinking": {"type": "disabled"}}, None),
        ({"reasoning_effort": "low"}, 4096),
        ({"thinking": {"type": "adaptive"}}, 4096),
        ({"reasoning": {"effort": "high"}}, 4096),
        ({"reasoning": {}}, None),
    ],
)
async def test_admit_stream_of_a_model_that_reasons_on_request_is_held_whole_when_it_is_asked_to(
    fields: dict[str, Any], limit: int | None
) -> None:
    """A model that answers at once unless asked to think is like any other until it is asked."""
    model = deployment("small", max_output_tokens=4096, hidden_reasoning=HiddenReasoning.ON_REQUEST)
    hold = await World(10_000).desk.admit(World(10_000).principal, asked(stream=True, **fields), model, "dec_1")
    assert hold.limit_to_send(model) == limit


async def test_admit_request_that_only_its_own_server_understands_is_held_by_its_bytes() -> None:
    """Where nothing is known of a prompt but its length, all of that is held."""
    native = NativeRequest(WireFormat.MESSAGES, {"messages": raw("word " * 2_000)}, obstacle="it cannot be translated")
    world = World(100_000)
    request = structs.replace(asked(max_tokens=1), native=native)
    await world.desk.admit(world.principal, request, MODEL, "dec_1")
    assert await world.held_microusd() > 2_500


@pytest.mark.parametrize("fields", [{"n": 3}, {"best_of": 3}, {"n": 2, "best_of": 3}, {"prompt": ["a", "b", "c"]}])
async def test_admit_text_completion_is_held_for_every_completion_that_is_billed(fields: dict[str, Any]) -> None:
    """A provider bills all of `best_of` completions, though it shows the best of them alone."""
    native = NativeRequest(WireFormat.COMPLETIONS, {name: raw(value) for name, value in fields.items()}, obstacle="no")
    world = World(100_000)
    await world.desk.admit(world.principal, structs.replace(asked(max_tokens=1000), native=native), MODEL, "dec_1")
    assert 6_000 < await world.held_microusd() < 6_100


async def test_admit_limit_that_a_responses_server_raises_is_held_as_it_is_sent() -> None:
    """A chat client's limit of 5 goes out as 16, the least that such a server takes, so 16 are held."""
    server = deployment("small", wires=(WireFormat.RESPONSES,))
    world = World(100_000)
    hold = await world.desk.admit(world.principal, asked(stream=True, max_tokens=5), server, "dec_1")
    hold.serve(server)
    assert hold.output_tokens == 16
    other = await world.desk.admit(world.principal, asked(stream=True, max_tokens=5), MODEL, "dec_2")
    other.serve(MODEL)
    assert other.output_tokens == 5
