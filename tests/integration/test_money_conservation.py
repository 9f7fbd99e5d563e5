"""What providers bill is what is charged: random mixes of everything that can happen to a request, summed exactly."""

from __future__ import annotations

import asyncio
import random
from collections.abc import AsyncGenerator
from decimal import Decimal
from pathlib import Path
from typing import Any

import aiohttp
import pytest

from penstock_gateway.errors import UpstreamBroken, UpstreamUnreachable
from penstock_gateway.events.reading import read_events
from penstock_gateway.ledger.contract import Period
from penstock_gateway.money.amounts import to_picousd
from penstock_gateway.money.prices import cost_usd
from penstock_gateway.money.usage import Usage
from penstock_gateway.settings import Settings, build_deployments, load_settings
from penstock_gateway.upstream.protocol import UpstreamRequest
from support.fakes import FakeReply, FakeUpstream
from support.running_gateway import eventually, running

CONFIG = """
deployments:
  - {name: cheap, model: up-cheap, base_url: "http://127.0.0.1:9/v1", tier: small, fallbacks: [dear],
     price: {input: 0.123457, cached_input: 0.0123, output: 0.7654321E0, reasoning: 0.9}, context_tokens: 80000,
     max_output_tokens: 4000, abilities: [streaming], on_disconnect: drain}
  - {name: dear, model: up-dear, base_url: "http://127.0.0.1:9/v1", tier: large, fallbacks: [cheap],
     price: {input: 3.3, cached_input: 0.33, cache_write: 4.125, output: 15.15, per_request: 0.0007},
     context_tokens: 80000, max_output_tokens: 4000, abilities: [streaming]}
routing: {artifact: none, default_arm: dear}
cache: {mode: exact}
attempts: {retries: 1, backoff_seconds: 0.001, hedge: {after: 0.03, max_share: 1},
           breaker: {consecutive_failures: 100000, min_attempts: 100000, rate_limited_seconds: 0.001}}
client_keys:
  - {name: app, key: '${APP_KEY}', team: search, budgets: [{period: day, limit_usd: 1000}]}
teams: [{name: search, budgets: [{period: total, limit_usd: 1000}]}]
events: {folder: log}
""".replace("0.7654321E0", "0.765432")
ENVIRON = {"APP_KEY": "app-0123456789abcdef"}
APP = {"authorization": f"Bearer {ENVIRON['APP_KEY']}"}
WORD = b'data: {"id":"c1","choices":[{"index":0,"delta":{"content":"word"},"finish_reason":null}]}\n\n'
LAST = b'data: {"id":"c1","choices":[{"index":0,"delta":{},"finish_reason":"stop"}]}\n\ndata: [DONE]\n\n'
BODY = (
    b'{"id":"c1","object":"chat.completion","choices":[{"index":0,"finish_reason":"stop",'
    b'"message":{"role":"assistant","content":"word"}}]}'
)


class BillingReply(FakeReply):
    """An answer of a provider that bills what it says; remembers whether it came to its end."""

    def __init__(self, usage: Usage, *, blocks: int = 0, breaks: bool = False, delay_seconds: float = 0.0) -> None:
        super().__init__(body=BODY, content_type="text/event-stream" if blocks else "application/json")
        self.headers = ()
        self.bill = usage
        self.is_reported = False
        self._count = blocks
        self._breaks = breaks
        self._delay_seconds = delay_seconds

    async def read(self) -> bytes:
        """Return the body, or break off."""
        if self._breaks:
            raise UpstreamBroken("The connection broke.")
        self._report()
        return BODY

    async def events(self) -> AsyncGenerator[bytes, None]:
        """Yield words, then the end with the usage, or break off."""
        for _ in range(self._count):
            await asyncio.sleep(self._delay_seconds)
            self.output_bytes += 4
            yield WORD
        if self._breaks:
            raise UpstreamBroken("The connection broke.")
        self._report()
        yield LAST

    def _report(self) -> None:
        self.usage = self.bill
        self.is_reported = True


class RandomProviders(FakeUpstream):
    """Providers that do anything at all, by a seeded draw."""

    def __init__(self, seed: int) -> None:
        super().__init__(lambda _: FakeReply())
        self.draw = random.Random(seed)
        self.billed: list[tuple[str, BillingReply]] = []

    async def send(self, request: UpstreamRequest) -> FakeReply:
        """Fail, or answer with an answer that is billed."""
        self.requests.append(request)
        draw, name = self.draw, request.deployment.name
        kind = draw.random()
        if kind < 0.08:
            raise UpstreamUnreachable("Nobody there.")
        if kind < 0.16:
            return FakeReply(status=draw.choice([429, 500, 503]), body=b'{"error":{"message":"no"}}')
        if kind < 0.24:
            await asyncio.sleep(0.06)  # slow enough for a hedge
        reply = BillingReply(
            self._usage(),
            blocks=draw.randint(1, 6) if request.is_stream else 0,
            breaks=draw.random() < 0.08,
            delay_seconds=draw.choice([0.0, 0.0, 0.004]),
        )
        self.billed.append((name, reply))
        return reply

    def _usage(self) -> Usage:
        draw = self.draw
        prompt, completion = draw.randint(1, 5000), draw.randint(1, 900)
        return Usage(
            prompt,
            completion,
            cached_input_tokens=draw.randint(0, prompt) if draw.random() < 0.4 else 0,
            reasoning_tokens=draw.randint(0, completion) if draw.random() < 0.3 else 0,
        )


async def send_all(url: str, http: aiohttp.ClientSession, seed: int, count: int) -> None:
    """Send requests of every kind, some of whose clients leave midway."""
    draw = random.Random(seed + 1)

    async def one(number: int) -> None:
        body: dict[str, Any] = {
            "model": draw.choice(["cheap", "dear", "auto"]),
            "messages": [{"role": "user", "content": f"question {draw.randint(0, count // 2)}"}],
            "temperature": 0,
            "stream": draw.random() < 0.5,
        }
        leaves = draw.random() < 0.15
        await asyncio.sleep(number * 0.002)
        async with http.post(f"{url}/v1/chat/completions", json=body, headers=APP) as response:
            if leaves:
                await response.content.readany()
                response.close()
            else:
                await response.read()

    await asyncio.gather(*(one(number) for number in range(count)), return_exceptions=True)


@pytest.fixture
def settings(tmp_path: Path) -> Settings:
    """Two deployments with awkward prices, a key with a team, and an event log."""
    path = tmp_path / "penstock.yaml"
    path.write_text(CONFIG, encoding="utf-8")
    return load_settings(path, ENVIRON)


@pytest.mark.parametrize("seed", range(4))
async def test_what_providers_report_is_charged_exactly_once(settings: Settings, seed: int) -> None:
    """Over retries, fallbacks, hedges, disconnects, drains and cache hits, every reported usage is charged exactly."""
    providers = RandomProviders(seed)
    async with running(settings, lambda _: FakeReply(), upstream=providers) as gateway:
        await send_all(gateway.url, gateway.http, seed, 150)
        pipeline = gateway.app.pipeline
        await eventually(lambda: len(pipeline.attempts.drains) == 0)
        await eventually(lambda: pipeline.events is not None and pipeline.events.places == 0)
        await asyncio.sleep(0.2)  # the queue settles every 50 ms
        ledger = pipeline.spending.ledger
        spent = await ledger.spent_picousd(["key:app", "team:search"], Period.TOTAL, pipeline.spending.clock())
    assert settings.events.folder is not None
    rows = list(read_events(Path(settings.events.folder), types=("outcome",)))
    prices = {d.name: d.price for d in build_deployments(settings)}
    attempts = [attempt for row in rows for attempt in row["attempts"]]
    reported = [a for a in attempts if a["usage"] is not None and not a["is_estimated"]]
    billed = [cost_usd(reply.bill, prices[name]) for name, reply in providers.billed if reply.is_reported]
    assert sorted(Decimal(a["cost_usd"]) for a in reported) == sorted(billed)
    assert all(row["cost_picousd"] == sum(a["cost_picousd"] or 0 for a in row["attempts"]) for row in rows)
    assert set(spent) == {sum(row["cost_picousd"] for row in rows)}
    assert len({row["decision_id"] for row in rows}) == len(rows)
    kinds = {attempt["kind"] for attempt in attempts}
    assert kinds == {"first", "retry", "fallback", "hedge"}
    assert sum(map(to_picousd, billed)) > 0.8 * spent[0]  # estimates are the exception
