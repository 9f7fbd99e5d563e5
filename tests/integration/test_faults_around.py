"""Faults around the gateway over real HTTP: a full disk, a key revoked in the middle, a clock that jumps."""

from __future__ import annotations

import asyncio
import errno
import json
from collections.abc import AsyncGenerator, Callable
from pathlib import Path

import pytest

from penstock_gateway import answer as answer_module
from penstock_gateway.events.reading import read_events
from penstock_gateway.events.segments import SegmentWriter
from penstock_gateway.money.usage import Usage
from penstock_gateway.settings import Settings, load_settings
from support.fakes import FakeReply
from support.running_gateway import Running, eventually, running

CONFIG = """
deployments:
  - {name: small, model: up-small, base_url: "http://127.0.0.1:9/v1", tier: small,
     price: {input: 0, output: 10}, context_tokens: 80000, max_output_tokens: 4000, abilities: [streaming]}
routing: {artifact: none}
ledger: {reserve_output_tokens: 200, top_up_output_tokens: 100}
client_keys: [{name: app, key: '${APP_KEY}'%s}]
"""
KEYS = {"APP_KEY": "app-0123456789abcdef"}
APP = {"authorization": f"Bearer {KEYS['APP_KEY']}"}
MAX_WAITING = 3
DAY_SECONDS = 86_400.0
NOON = 1_790_000_000.0  # some afternoon in UTC, far from midnight


def settings_of(folder: Path, key: str = "", more: str = "") -> Settings:
    """Return the settings above with additions."""
    path = folder / "penstock.yaml"
    path.write_text(CONFIG % key + more, encoding="utf-8")
    return load_settings(path, KEYS)


def plain(_: object) -> FakeReply:
    """Answer with 30 completion tokens."""
    return FakeReply(body=b'{"id":"c1","choices":[]}', usage=Usage(12, 30))


async def status_and_code(gateway: Running) -> tuple[int, str | None]:
    """Send a plain request."""
    response = await gateway.chat(headers=APP)
    return response.status, (await response.json()).get("error", {}).get("code")


async def test_disk_that_is_full_stops_requests_when_the_queue_is_and_loses_none(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Requests go on while outcomes may wait, then get a 503 unsent; with room again every outcome is there once."""
    is_full, append = True, SegmentWriter.append

    def failing(writer: SegmentWriter, *arguments: object) -> object:
        if is_full:
            raise OSError(errno.ENOSPC, "No space left on device")
        return append(writer, *arguments)

    monkeypatch.setattr(SegmentWriter, "append", failing)
    folder = tmp_path / "log"
    events = f"events: {{folder: '{folder}', max_waiting: {MAX_WAITING}}}\n"
    settings = settings_of(tmp_path, more=f"{events}server: {{max_in_flight: {MAX_WAITING}}}\n")
    async with running(settings, plain) as gateway:
        answered = [await status_and_code(gateway) for _ in range(MAX_WAITING)]
        refused = await gateway.chat(headers=APP)
        assert answered == [(200, None)] * MAX_WAITING
        assert (refused.status, (await refused.json())["error"]["code"]) == (503, "events_overloaded")
        assert int(refused.headers["retry-after"]) >= 1
        assert len(gateway.upstream.requests) == MAX_WAITING
        registry = gateway.app.pipeline.metrics.registry
        failed = "penstock_event_problems_total", {"problem": "write_failed"}
        await eventually(lambda: registry.get_sample_value(*failed) not in (None, 0.0))
        is_full = False
        log = gateway.app.pipeline.events
        assert log is not None
        await eventually(lambda: log.places == 0)
        assert await status_and_code(gateway) == (200, None)
    outcomes = [event["decision_id"] for event in read_events(folder) if event["type"] == "outcome"]
    assert len(outcomes) == len(set(outcomes)) == MAX_WAITING + 1


class GatedStream(FakeReply):
    """Yields a block whenever it is let to."""

    def __init__(self) -> None:
        super().__init__(content_type="text/event-stream")
        self.gate = asyncio.Event()

    async def events(self) -> AsyncGenerator[bytes, None]:
        """Yield two blocks of forty bytes of text each, then wait for ever."""
        for _ in range(2):
            self.output_bytes += 40
            chunk = {"id": "c1", "choices": [{"index": 0, "delta": {"content": "word" * 10}}]}
            yield b"data: " + json.dumps(chunk).encode() + b"\n\n"
            await self.gate.wait()
        await asyncio.Event().wait()


async def test_key_that_is_revoked_mid_stream_ends_it_with_an_error_event(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The stream ends at the next block, without [DONE]; what has arrived is charged, estimated."""
    monkeypatch.setattr(answer_module, "REVOCATION_SECONDS", 0.0)
    stream, is_revoked = GatedStream(), False
    settings = settings_of(tmp_path, more=f"events: {{folder: '{tmp_path / 'log'}'}}\n")
    async with asyncio.timeout(30), running(settings, lambda _: stream) as gateway:
        gateway.app.pipeline.attempts.is_revoked = lambda key_id: is_revoked
        response = await gateway.chat(headers=APP, stream=True)
        first = await response.content.readuntil(b"\n\n")
        is_revoked = True
        stream.gate.set()
        rest = await response.content.read()
        shown = [json.loads(line[6:]) for line in (first + rest).splitlines() if line.startswith(b"data: {")]
        assert [event["error"]["code"] for event in shown if "error" in event] == ["api_key_revoked"]
        assert b"[DONE]" not in rest
        await eventually(lambda: stream.is_closed)
        url = f"{gateway.url}/v1/decisions/{response.headers['x-penstock-decision-id']}"
        outcome = (await (await gateway.http.get(url, headers=APP)).json())["outcome"]
        assert (outcome["status"], outcome["error_code"]) == (200, "api_key_revoked")
        assert outcome["is_cost_estimated"] is True
        assert outcome["output_tokens"] >= 80 / 4
    (written,) = read_events(tmp_path / "log", types=("outcome",))
    assert [attempt["error_code"] for attempt in written["attempts"]] == ["api_key_revoked"]


async def test_clock_that_jumps_charges_the_day_of_each_admission(tmp_path: Path) -> None:
    """A day ahead there is a new allowance; back again the old day's spend is still there."""
    # A request without max_tokens holds 0.002 USD and comes to 0.0003: the second one of a day does not fit.
    settings = settings_of(tmp_path, key=", budgets: [{period: day, limit_usd: 0.0021}]")
    async with running(settings, plain) as gateway:
        desk = gateway.app.pipeline.spending
        found: list[tuple[int, str | None]] = []
        for moment in (NOON, NOON, NOON + DAY_SECONDS, NOON, NOON - DAY_SECONDS, NOON - DAY_SECONDS):
            desk.clock = clock_at(moment)
            found.append(await status_and_code(gateway))
            await asyncio.sleep(0.1)  # charges are counted every 50 ms
    passes, refused = (200, None), (429, "budget_exceeded")
    assert found == [passes, refused, passes, refused, passes, refused]


def clock_at(moment: float) -> Callable[[], float]:
    """Return a clock that stands still."""
    return lambda: moment
