"""Budgets, limits and keys over real HTTP: what a client sees when money runs out, and what the books say then."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncGenerator, AsyncIterator, Callable
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest

from penstock_gateway.errors import UpstreamBroken
from penstock_gateway.events.reading import read_events
from penstock_gateway.ledger.contract import Period
from penstock_gateway.money.amounts import to_usd
from penstock_gateway.money.usage import Usage
from penstock_gateway.settings import Settings, load_settings
from penstock_gateway.upstream.protocol import UpstreamRequest
from support.fakes import FakeReply
from support.running_gateway import Running, eventually, running

# A completion token costs 10 micro-USD, a prompt token nothing: budgets are easy to read off.
CONFIG = """
deployments:
  - {name: small, model: up-small, base_url: "http://127.0.0.1:9/v1", tier: small,
     price: {input: 0, output: 10}, context_tokens: 80000, max_output_tokens: 4000, abilities: [streaming]%s}
routing: {artifact: none}
ledger: {reserve_output_tokens: 200, top_up_output_tokens: 100%s}
client_keys:
  - {name: app, key: '${APP_KEY}', team: search%s}
teams: [{name: search%s}]
tags: [{name: nightly, budgets: [{period: day, limit_usd: 0.5}]}]
events: {folder: log}
"""
ODD = """}
  - {name: odd, base_url: "http://127.0.0.1:9/v1", unknown_price: allow, fallbacks: [small], abilities: [streaming]"""
KEYS = {"APP_KEY": "app-0123456789abcdef"}
APP = {"authorization": f"Bearer {KEYS['APP_KEY']}"}
USD_PER_TOKEN = Decimal("0.00001")
BYTES_PER_TOKEN = 4


class TokenStream(FakeReply):
    """A stream of so many tokens of four bytes, ten a block, that reports its usage with the last block."""

    def __init__(self, tokens: int, *, gate: asyncio.Event | None = None) -> None:
        super().__init__(content_type="text/event-stream")
        self._tokens = tokens
        self._gate = gate
        self.sent_tokens = 0

    async def events(self) -> AsyncGenerator[bytes, None]:
        """Yield the blocks; other streams go on between them."""
        while self.sent_tokens < self._tokens:
            if self._gate is not None and self.sent_tokens >= 20:
                await self._gate.wait()
            count = min(10, self._tokens - self.sent_tokens)
            self.sent_tokens += count
            self.output_bytes += count * BYTES_PER_TOKEN
            chunk = {"id": "c1", "choices": [{"index": 0, "delta": {"content": "word" * count}}]}
            yield b"data: " + json.dumps(chunk).encode() + b"\n\n"
            await asyncio.sleep(0)
        self.usage = Usage(12, self._tokens)
        yield b"data: [DONE]\n\n"


def stream_of(tokens: int, streams: list[TokenStream]) -> Callable[[UpstreamRequest], FakeReply]:
    """Return an upstream of streams, which are remembered."""

    def reply(_: UpstreamRequest) -> FakeReply:
        streams.append(TokenStream(tokens))
        return streams[-1]

    return reply


def plain(_: UpstreamRequest) -> FakeReply:
    """Answer with 30 completion tokens."""
    return FakeReply(body=b'{"id":"c1","choices":[]}', usage=Usage(12, 30))


@pytest.fixture
def settings_of(tmp_path: Path) -> Callable[..., Settings]:
    """Return the settings above with additions to key, team and ledger."""

    def read(
        key: str = "", team: str = "", ledger: str = "", more: str = "", deployment: str = "", **environ: str
    ) -> Settings:
        path = tmp_path / "penstock.yaml"
        path.write_text(CONFIG % (deployment, ledger, key, team) + more, encoding="utf-8")
        return load_settings(path, {**KEYS, **environ})

    return read


async def spent_usd(gateway: Running, scope: str, period: Period = Period.DAY) -> Decimal:
    """Return what a scope has spent, once nothing waits to be charged."""
    desk = gateway.app.pipeline.spending
    events = gateway.app.pipeline.events
    await eventually(lambda: events is None or events.places == 0)
    await asyncio.sleep(0.1)  # the queue settles every 50 ms
    (spent,) = await desk.ledger.spent_picousd([scope], period, desk.clock())
    return to_usd(spent)


async def stream(gateway: Running, **fields: Any) -> tuple[int, str]:
    """Send a stream request and return status and everything that came."""
    response = await gateway.chat(headers=APP, stream=True, **fields)
    return response.status, await response.text()


@pytest.fixture(params=["memory", pytest.param("redis", marks=pytest.mark.redis)])
async def ledger_kind(request: pytest.FixtureRequest) -> AsyncIterator[tuple[str, dict[str, str]]]:
    """What to write into the ledger's settings, and the environment that goes with it."""
    if request.param == "memory":
        yield "", {}
        return
    # 200 streams in one loop with their clients and the server: the machine's load must not pass for a Redis that hangs
    yield (
        ", kind: redis, redis_url: '${REDIS_URL}', redis_timeout_seconds: 5",
        {"REDIS_URL": request.getfixturevalue("redis_url")},
    )


async def test_streams_far_beyond_their_first_estimate_never_pass_the_budget(
    settings_of: Callable[..., Settings], ledger_kind: tuple[str, dict[str, str]]
) -> None:
    """Of 200 parallel streams that come to ten times what was held first, the sum stays within one top-up step."""
    ledger, environ = ledger_kind
    settings = settings_of(key=", budgets: [{period: day, limit_usd: 1.00}]", ledger=ledger, **environ)
    streams: list[TokenStream] = []
    async with running(settings, stream_of(2000, streams)) as gateway:
        answers = await asyncio.gather(*(stream(gateway) for _ in range(200)))
        spent = await spent_usd(gateway, "key:app")
        billed = sum((Decimal(reply.sent_tokens) * USD_PER_TOKEN for reply in streams), Decimal(0))
    step = Decimal(100) * USD_PER_TOKEN
    assert billed <= Decimal("1.00") + step
    assert spent <= Decimal("1.00") + step
    assert billed > Decimal("0.2")  # the budget is used, not just defended
    refused = [text for status, text in answers if status == 429 or "budget_exceeded" in text]
    assert refused
    assert all("[DONE]" not in text for text in refused)


async def test_stream_that_the_budget_does_not_reach_for_ends_with_an_error_event(
    settings_of: Callable[..., Settings],
) -> None:
    """A stream is ended in OpenAI's error shape without `[DONE]`, and what had come is billed and marked."""
    settings = settings_of(key=", budgets: [{period: day, limit_usd: 0.01}]")
    streams: list[TokenStream] = []
    async with running(settings, stream_of(2000, streams)) as gateway:
        status, text = await stream(gateway)
        spent = await spent_usd(gateway, "key:app")
    assert status == 200
    last = json.loads(text.strip().split("data: ")[-1])
    assert (last["error"]["type"], last["error"]["code"]) == ("insufficient_quota", "budget_exceeded")
    assert "[DONE]" not in text
    assert streams[0].is_closed
    assert spent == Decimal(streams[0].sent_tokens) * USD_PER_TOKEN


async def test_request_beyond_the_budget_is_429_and_calls_nobody(settings_of: Callable[..., Settings]) -> None:
    """A refused request costs nothing, says when it may come again, and leaves nothing held."""
    settings = settings_of(team=", budgets: [{period: day, limit_usd: 0.0012}]")
    async with running(settings, plain) as gateway:
        first = await gateway.chat(headers=APP, max_tokens=100)
        second = await gateway.chat(headers=APP, max_tokens=100)
        assert await spent_usd(gateway, "team:search") == Decimal("0.0003")
        third = await gateway.chat(headers=APP, max_tokens=100)
        error = (await third.json())["error"]
    assert (first.status, second.status, third.status) == (200, 429, 429) or (first.status, second.status) == (200, 200)
    assert error["code"] == "budget_exceeded"
    assert "team:search" in error["message"]
    assert int(third.headers["retry-after"]) > 0
    assert len(gateway.upstream.requests) in (1, 2)


async def test_plain_request_near_the_end_of_the_budget_is_sent_with_a_limit(
    settings_of: Callable[..., Settings],
) -> None:
    """Where the model's own limit does not fit, a smaller one is sent, and a header says so."""
    settings = settings_of(key=", budgets: [{period: day, limit_usd: 0.01}]")
    async with running(settings, plain) as gateway:
        response = await gateway.chat(headers=APP)
        body = gateway.upstream.requests[0].body
    assert response.status == 200
    assert response.headers["x-penstock-max-tokens"] == "200"
    assert bytes(body["max_tokens"]) == b"200"


async def test_rate_limit_headers_and_refusal_are_openais(settings_of: Callable[..., Settings]) -> None:
    """A caller sees its own limits, not the provider's, and is told when to come back."""
    settings = settings_of(key=", limits: {requests_per_minute: 2}")
    async with running(settings, plain) as gateway:
        first = await gateway.chat(headers=APP)
        await gateway.chat(headers=APP)
        third = await gateway.chat(headers=APP)
        error = (await third.json())["error"]
    assert first.headers["x-ratelimit-limit-requests"] == "2"
    assert first.headers.getall("x-ratelimit-remaining-requests") == ["1"]
    assert (third.status, error["type"], error["code"]) == (429, "rate_limit_error", "rate_limit_exceeded")
    assert int(third.headers["retry-after"]) > 0


async def test_request_tags_are_charged_beside_key_and_team(settings_of: Callable[..., Settings]) -> None:
    """A registered tag is charged too; an unknown one is refused, never silently without a budget."""
    async with running(settings_of(), plain) as gateway:
        assert (await gateway.chat(headers={**APP, "x-penstock-tags": "nightly"})).status == 200
        unknown = await gateway.chat(headers={**APP, "x-penstock-tags": "nigthly"})
        error = (await unknown.json())["error"]
        for scope in ("key:app", "team:search", "tag:nightly"):
            assert await spent_usd(gateway, scope) == Decimal("0.0003")
    assert (unknown.status, error["code"]) == (400, "unknown_tag")
    assert "nightly" in error["message"]


async def test_restart_counts_what_the_event_log_holds(settings_of: Callable[..., Settings]) -> None:
    """A gateway without Redis starts from its event log: what was spent stays spent, to the last picodollar."""
    settings = settings_of(key=", budgets: [{period: day, limit_usd: 1}]")
    async with running(settings, plain) as gateway:
        for _ in range(3):
            await (await gateway.chat(headers=APP)).read()
        before = await spent_usd(gateway, "key:app")
    async with running(settings, plain) as gateway:
        assert await spent_usd(gateway, "key:app") == before == Decimal("0.0009")


async def test_outcomes_on_disk_add_up_to_what_was_charged(settings_of: Callable[..., Settings]) -> None:
    """The event log and the ledger tell the same sum, refused and broken requests included."""
    settings = settings_of(key=", budgets: [{period: day, limit_usd: 0.05}]")
    streams: list[TokenStream] = []
    async with running(settings, stream_of(500, streams)) as gateway:
        await asyncio.gather(*(stream(gateway) for _ in range(12)))
        spent = await spent_usd(gateway, "key:app")
    assert settings.events.folder is not None
    rows = list(read_events(Path(settings.events.folder), types=("outcome",)))
    assert sum(row["cost_picousd"] for row in rows) == int(spent * 10**12)
    assert len({row["decision_id"] for row in rows}) == len(rows) == len(streams)


async def test_soft_limit_warns_in_header_and_metric(settings_of: Callable[..., Settings]) -> None:
    """Past its soft limit a budget still lets requests pass, and says so."""
    settings = settings_of(key=", budgets: [{period: day, limit_usd: 0.0025, soft_share: 0.3}]")
    async with running(settings, plain) as gateway:
        response = await gateway.chat(headers=APP, max_tokens=100)
        metrics = await (await gateway.http.get(f"{gateway.url}/metrics", headers=APP)).text()
    assert response.status == 200
    assert response.headers["x-penstock-budget-warning"].startswith("key:app day ")
    assert 'penstock_budget_soft_limits_passed_total{period="day"} 1.0' in metrics


async def test_observed_request_is_answered_by_its_model_and_leaves_a_shadow(tmp_path: Path) -> None:
    """In observe mode the model that was asked for answers; what would have been chosen is logged beside it."""
    config = CONFIG.replace("artifact: none", "artifact: default, observe: true") % ("", "", "", "")
    second = config.split("\n")[2].replace("name: small, model: up-small", "name: big, model: up-big")
    lines = config.split("\n")
    lines[4:4] = [second.replace("tier: small", "tier: frontier"), lines[3].replace("output: 10", "output: 90")]
    path = tmp_path / "penstock.yaml"
    path.write_text("\n".join(lines), encoding="utf-8")
    settings = load_settings(path, KEYS)
    async with running(settings, plain) as gateway:
        response = await gateway.chat(headers=APP, model="big")
        assert response.headers["x-penstock-model"] == "big"
        await spent_usd(gateway, "key:app")
    assert settings.events.folder is not None
    (decision,) = read_events(Path(settings.events.folder), types=("decision",))
    assert decision["intended_arm"] == "big"
    assert decision["shadow"]["arm"] in ("small", "big")
    assert decision["shadow"]["estimated_cost_usd"] is not None


async def test_stream_that_its_client_has_left_never_passes_the_budget(
    settings_of: Callable[..., Settings],
) -> None:
    """An answer that is read on for its usage asks for more money as it grows, as if its client were still there."""
    settings = settings_of(key=", budgets: [{period: day, limit_usd: 0.01}]", deployment=", on_disconnect: drain")
    replies: list[TokenStream] = []
    gate = asyncio.Event()

    def reply(_: UpstreamRequest) -> FakeReply:
        replies.append(TokenStream(20_000, gate=gate))
        return replies[-1]

    async with running(settings, reply) as gateway:
        response = await gateway.chat(headers=APP, stream=True)
        await response.content.readuntil(b"\n\n")
        response.close()
        await eventually(lambda: len(gateway.app.pipeline.attempts.drains) == 1)
        gate.set()
        await eventually(lambda: replies[0].is_closed)
        spent = await spent_usd(gateway, "key:app")
        registry = gateway.app.pipeline.metrics.registry
    assert spent == Decimal(replies[0].sent_tokens) * USD_PER_TOKEN
    assert spent <= Decimal("0.01") + Decimal(100) * USD_PER_TOKEN
    assert registry.get_sample_value("penstock_drains_total", {"outcome": "over_budget"}) == 1.0


async def test_stream_that_a_model_without_a_price_began_is_charged_for_the_rest(
    settings_of: Callable[..., Settings],
) -> None:
    """An attempt whose price nobody knows makes the cost unknown; the other's part of it is charged all the same."""
    settings = settings_of(deployment=ODD)

    def reply(request: UpstreamRequest) -> FakeReply:
        if request.deployment.name == "odd":
            raise UpstreamBroken("The connection to the provider broke before the answer was complete.")
        return plain(request)

    async with running(settings, reply) as gateway:
        response = await gateway.chat(headers=APP, model="odd")
        assert (response.status, response.headers["x-penstock-model"]) == (200, "small")
        assert await spent_usd(gateway, "key:app") == 30 * USD_PER_TOKEN
    (outcome,) = read_events(Path(str(settings.events.folder)), types=("outcome",))
    assert (outcome["cost_usd"], outcome["cost_picousd"]) == (None, 300_000_000)


@pytest.mark.parametrize(("limit_usd", "sent"), [("0.05", b"4000"), ("0.01", b"200")])
async def test_stream_of_a_reasoning_model_is_sent_with_the_limit_that_is_held(
    settings_of: Callable[..., Settings], limit_usd: str, sent: bytes
) -> None:
    """What a model thinks unseen is bounded before it begins: by its own limit, or one that the budget reaches for."""
    thinker = """}
  - {name: thinker, provider: openai, model: gpt-5, api_key: '${APP_KEY}', base_url: "http://127.0.0.1:9/v1",
     price: {input: 0, output: 10}, context_tokens: 80000, max_output_tokens: 4000, abilities: [streaming]"""
    settings = settings_of(key=f", budgets: [{{period: day, limit_usd: {limit_usd}}}]", deployment=thinker)
    async with running(settings, stream_of(10, [])) as gateway:
        assert (await stream(gateway, model="thinker"))[0] == 200
        (request,) = gateway.upstream.requests
    assert bytes(request.body["max_completion_tokens"]) == sent
