"""One call to one arm against a server that misbehaves: what is repeated, what is charged, what is never shown."""

from __future__ import annotations

from dataclasses import dataclass, field
from decimal import Decimal

import pytest

from penstock_training.collect.answers import retry_after_seconds
from penstock_training.collect.budget import ArmPrice
from penstock_training.collect.calls import MAX_ATTEMPTS, Attempt, ChatClient
from penstock_training.collect.prompts import CollectPrompt
from penstock_training.errors import TrainingError
from support.chat_upstream import INPUT_TOKENS, OUTPUT_TOKENS, ChatUpstream, running_chat_upstream

SECRET = "sk-secret-0123456789"
TEXT = "Please say Xylophone"
PROMPT = CollectPrompt("q", "s", TEXT, (("system", "Be short."), ("user", TEXT)), None, None)
PRICE = ArmPrice(Decimal(1), Decimal(2))
PRICED = PRICE.cost_usd(INPUT_TOKENS, OUTPUT_TOKENS)


@dataclass
class _Purse:
    """Allows so many attempts and remembers what they were charged."""

    allowed: int = 99
    attempts: list[Attempt] = field(default_factory=list)

    def begin(self) -> bool:
        self.allowed -= 1
        return self.allowed >= 0

    def end(self, attempt: Attempt) -> None:
        self.attempts.append(attempt)

    @property
    def charges(self) -> list[Decimal | None]:
        return [attempt.charge_usd for attempt in self.attempts]


@dataclass
class _Sleep:
    """Waits not at all and remembers for how long it should have."""

    seconds: list[float] = field(default_factory=list)

    async def __call__(self, seconds: float) -> None:
        self.seconds.append(seconds)


def _client(upstream: ChatUpstream, sleep: _Sleep, timeout_seconds: float = 20.0) -> ChatClient:
    return ChatClient(
        upstream.base_url, SECRET, max_tokens=64, timeout_seconds=timeout_seconds, sleep=sleep, jitter=lambda: 0.5
    )


async def test_call_that_succeeds_gives_answer_usage_cost_and_sends_the_key() -> None:
    """The answer, its tokens and its cost from the prices come back; key and cost header are sent."""
    with running_chat_upstream() as upstream:
        purse = _Purse()
        async with _client(upstream, _Sleep()) as client:
            result = await client.ask(PROMPT, "arm", purse, PRICE)
    assert (result.result, result.answer) == ("answered", "Xylophone")
    assert (result.input_tokens, result.output_tokens, result.cost_usd) == (INPUT_TOKENS, OUTPUT_TOKENS, PRICED)
    assert purse.charges == [PRICED]
    headers = {name.lower(): value for name, value in upstream.seen[0][2].items()}
    assert headers["authorization"] == f"Bearer {SECRET}"
    assert headers["x-penstock-include-cost"] == "true"


async def test_call_whose_gateway_names_the_cost_takes_it_exactly() -> None:
    """A gateway's decimal cost wins over usage times price, digit for digit."""
    with running_chat_upstream({"arm": ["cost:0.000123456789012345"]}) as upstream:
        async with _client(upstream, _Sleep()) as client:
            result = await client.ask(PROMPT, "arm", _Purse(), PRICE)
    assert result.cost_usd == Decimal("0.000123456789012345")


async def test_call_without_usage_has_an_unknown_cost() -> None:
    """Nothing is made up: no tokens, no cost, and the budget is charged the most that it can have been (None)."""
    with running_chat_upstream({"arm": ["no-usage"]}) as upstream:
        purse = _Purse()
        async with _client(upstream, _Sleep()) as client:
            result = await client.ask(PROMPT, "arm", purse, PRICE)
    assert (result.result, result.input_tokens, result.cost_usd) == ("answered", None, None)
    assert purse.charges == [None]


async def test_call_refused_for_its_rate_waits_as_long_as_the_server_says() -> None:
    """Retry-After is respected, for every call to that arm, and a refused call is not charged."""
    with running_chat_upstream({"arm": ["retry-after:7", "ok"]}) as upstream:
        sleep, purse = _Sleep(), _Purse()
        async with _client(upstream, sleep) as client:
            result = await client.ask(PROMPT, "arm", purse, PRICE)
            await client.ask(PROMPT, "arm", _Purse(), PRICE)
            await client.ask(PROMPT, "other", _Purse(), PRICE)
    assert result.result == "answered"
    assert purse.charges == [0, PRICED]
    assert len(sleep.seconds) == 2  # the second call to the arm waits too, since this clock did not move; another not
    assert all(6 < seconds <= 7.25 for seconds in sleep.seconds)


async def test_call_asked_to_wait_for_too_long_fails_for_this_run() -> None:
    """A server that asks for an hour is not waited for."""
    with running_chat_upstream({"arm": ["retry-after:3600"]}) as upstream:
        sleep = _Sleep()
        async with _client(upstream, sleep) as client:
            result = await client.ask(PROMPT, "arm", _Purse(), PRICE)
    assert (result.result, result.reason, sleep.seconds) == ("failed", "http_429", [])


@pytest.mark.parametrize(
    ("action", "reason", "charge"),
    [
        ("status:500", "http_500", Decimal(0)),
        ("status:502", "http_502", None),
        ("half-json", "bad_answer", None),
        ("truncate", "connection", None),
    ],
)
async def test_call_that_fails_in_passing_is_repeated_and_charged_where_it_may_be_billed(
    action: str, reason: str, charge: Decimal | None
) -> None:
    """One failure is made good by the next try; it costs nothing only where the server surely made no answer."""
    with running_chat_upstream({"arm": [action, "ok"], "broken": [action]}) as upstream:
        sleep, purse, hopeless = _Sleep(), _Purse(), _Purse()
        async with _client(upstream, sleep) as client:
            result = await client.ask(PROMPT, "arm", purse, PRICE)
            failed = await client.ask(PROMPT, "broken", hopeless, PRICE)
    assert result.result == "answered"
    assert purse.charges == [charge, PRICED]
    assert (failed.result, failed.reason) == ("failed", reason)
    assert len(hopeless.attempts) == MAX_ATTEMPTS
    assert sleep.seconds == [0.25, 0.25, 0.5, 1.0, 2.0, 4.0]  # doubling, times the fixed jitter of one half


async def test_call_that_takes_too_long_is_censored_and_not_repeated() -> None:
    """A time-out is an outcome: it is asked once, and charged the most that it can have cost."""
    with running_chat_upstream({"arm": ["hang"]}) as upstream:
        purse = _Purse()
        async with _client(upstream, _Sleep(), timeout_seconds=0.2) as client:
            result = await client.ask(PROMPT, "arm", purse, PRICE)
    assert (result.result, result.answer, len(upstream.seen)) == ("censored", None, 1)
    assert result.latency_seconds >= 0.2
    assert purse.charges == [None]


async def test_call_to_a_gateway_whose_model_timed_out_is_censored() -> None:
    """A 504 says that the model took too long, wherever the clock ran."""
    with running_chat_upstream({"arm": ["status:504"]}) as upstream:
        async with _client(upstream, _Sleep()) as client:
            result = await client.ask(PROMPT, "arm", _Purse(), PRICE)
    assert result.result == "censored"


@pytest.mark.parametrize("status", [401, 403, 404])
async def test_call_with_a_wrong_key_or_model_ends_the_run_without_showing_either(status: int) -> None:
    """What no other prompt would fare better with is an error, which shows neither key nor prompt."""
    with running_chat_upstream({"arm": [f"status:{status}"]}) as upstream:
        async with _client(upstream, _Sleep()) as client:
            with pytest.raises(TrainingError) as caught:
                await client.ask(PROMPT, "arm", _Purse(), PRICE)
    assert caught.value.code == "arm_refused"
    assert SECRET not in caught.value.message
    assert "Xylophone" not in caught.value.message


async def test_call_refused_for_its_prompt_fails_at_once() -> None:
    """A 400, such as a content filter's, is this prompt's own and is not repeated."""
    with running_chat_upstream({"arm": ["status:400"]}) as upstream:
        async with _client(upstream, _Sleep()) as client:
            result = await client.ask(PROMPT, "arm", _Purse(), PRICE)
    assert (result.reason, len(upstream.seen)) == ("http_400", 1)


async def test_call_to_a_reasoning_model_finds_the_field_that_it_takes() -> None:
    """A model that refuses max_tokens is asked with max_completion_tokens, from then on at once."""
    with running_chat_upstream({"arm": ["max-tokens"]}) as upstream:
        async with _client(upstream, _Sleep()) as client:
            results = [await client.ask(PROMPT, "arm", _Purse(), PRICE) for _ in range(2)]
    assert [result.result for result in results] == ["answered", "answered"]
    assert len(upstream.seen) == 3


async def test_call_that_is_redirected_does_not_follow_with_the_key() -> None:
    """A redirect fails; the key goes nowhere but to the address that was given."""
    with running_chat_upstream({"arm": ["redirect"]}) as upstream:
        async with _client(upstream, _Sleep()) as client:
            result = await client.ask(PROMPT, "arm", _Purse(), PRICE)
    assert (result.reason, len(upstream.seen)) == ("http_307", 1)


async def test_call_to_a_closed_port_is_repeated_for_nothing() -> None:
    """A refused connection costs nothing, however often it is tried."""
    with running_chat_upstream() as upstream:
        pass
    purse = _Purse()
    async with _client(upstream, _Sleep()) as client:
        result = await client.ask(PROMPT, "arm", purse, PRICE)
        with pytest.raises(TrainingError, match="is it running"):
            await client.listed_prices()
    assert (result.reason, purse.charges) == ("connection", [0] * MAX_ATTEMPTS)


async def test_call_whose_repetition_the_budget_refuses_fails_with_the_last_reason() -> None:
    """A repeated call asks for money of its own, and without it there is none."""
    with running_chat_upstream({"arm": ["status:500"]}) as upstream:
        async with _client(upstream, _Sleep()) as client:
            result = await client.ask(PROMPT, "arm", _Purse(allowed=2), PRICE)
    assert (result.reason, len(upstream.seen)) == ("http_500", 2)


async def test_listed_prices_of_a_gateway_are_the_dearest_that_can_apply() -> None:
    """Penstock lists four prices per model; bounds need the dearer of each pair. Other servers list none."""
    price = {"input": "1.5", "cached_input": "0.1", "output": "4", "reasoning": "9"}
    models = [
        {"id": "arm", "penstock": {"price_usd_per_million_tokens": price}},
        {"id": "plain"},
        {"id": "odd", "penstock": {"price_usd_per_million_tokens": {"input": "-1", "output": "nan"}}},
        "no object",
    ]
    with running_chat_upstream(models=models) as upstream:
        async with _client(upstream, _Sleep()) as client:
            assert await client.listed_prices() == {"arm": ArmPrice(Decimal("1.5"), Decimal(9))}


@pytest.mark.parametrize(
    ("header", "seconds"),
    [(None, 0), ("12", 12), ("1.5", 1.5), ("soon", 0), ("-3", 0), ("Wed, 21 Oct 2015 07:28:00 GMT", 0)],
)
def test_retry_after_header_of_any_form_is_seconds_to_wait(header: str | None, seconds: float) -> None:
    """Seconds are taken, a date is a difference to now, and nonsense is no wish."""
    assert retry_after_seconds(header) == seconds
