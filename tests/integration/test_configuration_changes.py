"""A real gateway whose configuration changes while requests and streams are under way."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import aiohttp

from penstock_gateway.app import create_app
from penstock_gateway.configurations import reloading_app
from penstock_gateway.money.usage import Usage
from penstock_gateway.reloading import ReloadingApp, ReloadResult
from penstock_gateway.server import server_for
from penstock_gateway.settings import load_settings
from penstock_gateway.settings_restart import ConfigurationReader
from penstock_gateway.upstream.protocol import UpstreamRequest
from support.fakes import FakeReply, FakeUpstream

CONFIG = """
deployments:
  - {name: small, model: up-small, base_url: "http://127.0.0.1:9/v1", tier: small,
     price: {input: 1, output: PRICE}, context_tokens: 8000, max_output_tokens: 4000, abilities: [streaming]}
EXTRA
client_keys:
  - {name: app, key: '${APP_KEY}', budgets: [{period: day, limit_usd: BUDGET}]}
routing: {artifact: none, default_arm: small}
events: {folder: log}
"""
SECOND = """  - {name: other, model: up-other, base_url: "http://127.0.0.1:9/v1", tier: small,
     price: {input: 1, output: 2}, context_tokens: 8000, max_output_tokens: 4000, abilities: [streaming]}"""
ENVIRON = {"APP_KEY": "app-0123456789abcdef"}
APP = {"authorization": f"Bearer {ENVIRON['APP_KEY']}"}


def reply(request: UpstreamRequest) -> FakeReply:
    """Answer with ten tokens, as a stream when one is asked for."""
    usage = Usage(10, 10)
    if not request.is_stream:
        return FakeReply(body=b'{"id":"c1","choices":[]}', usage=usage)
    chunk = b'data: {"id":"c1","choices":[{"index":0,"delta":{"content":"word"}}]}\n\n'
    return FakeReply(blocks=(*[chunk] * 5, b"data: [DONE]\n\n"), usage=usage, content_type="text/event-stream")


class World:
    """A configuration file and the gateway that reads it."""

    def __init__(self, folder: Path) -> None:
        self.path = folder / "penstock.yaml"
        self.write()
        self.settings = load_settings(self.path, ENVIRON)
        self.reader = ConfigurationReader(self.path, ENVIRON)
        self.app = create_app(self.settings, upstreams={"direct": FakeUpstream(reply)})
        self.reloading: ReloadingApp = reloading_app(self.app, self.settings, self.reader)
        self.url = ""

    def write(self, *, price: str = "2", extra: str = "", budget: str = "1000") -> None:
        """Change the file."""
        text = CONFIG.replace("PRICE", price).replace("EXTRA", extra).replace("BUDGET", budget)
        self.path.write_text(text, encoding="utf-8")

    @asynccontextmanager
    async def running(self) -> AsyncIterator[aiohttp.ClientSession]:
        """Run it on a free port."""
        server = server_for(self.reloading, host="127.0.0.1", port=0)
        task = asyncio.create_task(server.serve())
        while not server.started:
            await asyncio.sleep(0.005)
        self.url = f"http://127.0.0.1:{server.servers[0].sockets[0].getsockname()[1]}"
        try:
            async with aiohttp.ClientSession(headers=APP) as http:
                yield http
        finally:
            server.should_exit = True
            await task

    async def ask(self, http: aiohttp.ClientSession, model: str = "small", **fields: Any) -> tuple[int, str]:
        """Send one request and return status and body."""
        body = {"model": model, "messages": [{"role": "user", "content": "hello"}], "max_tokens": 50, **fields}
        async with http.post(f"{self.url}/v1/chat/completions", json=body) as response:
            return response.status, await response.text()


async def test_requests_and_streams_go_on_while_the_configuration_changes(tmp_path: Path) -> None:
    """Across ten changes of price, deployments and budget no request fails, and what was spent stays spent."""
    world = World(tmp_path)
    is_over = False
    answers: list[tuple[int, str]] = []

    async def traffic(http: aiohttp.ClientSession, **fields: Any) -> None:
        while not is_over:
            answers.append(await world.ask(http, **fields))

    async with world.running() as http:
        flows = [asyncio.create_task(traffic(http, stream=number % 2 == 0)) for number in range(8)]
        for number in range(10):
            world.write(price=str(2 + number), extra=SECOND if number % 2 else "", budget=str(1000 + number))
            outcome = await world.reloading.reload()
            assert outcome.result is ReloadResult.RELOADED, outcome
        count = len(answers)
        while len(answers) < count + 20:
            await asyncio.sleep(0.01)
        is_over = True
        await asyncio.gather(*flows)
        assert {status for status, _ in answers} == {200}
        assert all("error" not in text for _, text in answers)
        assert (await world.ask(http, "other"))[0] == 200
        while world.app.pipeline.events is not None and world.app.pipeline.events.places:
            await asyncio.sleep(0.01)
        desk = world.app.pipeline.spending
        (state,) = await desk.ledger.states(world.app.running.parts.directory.principal("app").accounts, desk.clock())  # type: ignore[union-attr]
        assert state.limit_picousd == 1009 * 10**12
        assert state.spent_picousd > 0


async def test_new_price_and_new_key_rules_hold_for_the_next_request(tmp_path: Path) -> None:
    """After a reload the next request is charged at the new price and held to the new budget."""
    world = World(tmp_path)
    async with world.running() as http:
        before = await world.ask(http, penstock={"include_cost": True})
        world.write(price="20")
        await world.reloading.reload()
        after = await world.ask(http, penstock={"include_cost": True})
        world.write(price="20", budget="0.000001")
        await world.reloading.reload()
        refused = await world.ask(http)
    assert '"cost_usd":"0.00003"' in before[1]
    assert '"cost_usd":"0.00021"' in after[1]
    assert refused[0] == 429
    assert "budget_exceeded" in refused[1]


async def test_wrong_configuration_is_refused_whole_and_the_old_one_serves_on(tmp_path: Path) -> None:
    """A file with an error changes nothing, and every problem is told."""
    world = World(tmp_path)
    async with world.running() as http:
        world.path.write_text(world.path.read_text() + "\nno_such_section: {}\nserver: {port: 99999}\n")
        outcome = await world.reloading.reload()
        assert outcome.result is ReloadResult.REFUSED
        assert len(outcome.problems) >= 2
        assert (await world.ask(http))[0] == 200
        assert world.reloading.last_problem is not None


async def test_setting_that_needs_a_restart_is_named_and_keeps_its_value(tmp_path: Path) -> None:
    """What belongs to the process does not change under it; the outcome says which settings wait for a restart."""
    world = World(tmp_path)
    async with world.running() as http:
        world.path.write_text(world.path.read_text().replace("events: {folder: log}", "events: {folder: elsewhere}"))
        outcome = await world.reloading.reload()
        assert outcome.result is ReloadResult.RELOADED
        assert "events.folder" in outcome.needs_restart
        assert (await world.ask(http))[0] == 200
    assert not (tmp_path / "elsewhere").exists()
