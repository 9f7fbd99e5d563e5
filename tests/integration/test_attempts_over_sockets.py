"""Retries, fallbacks, hedges and reading ahead over real connections, with the direct upstream."""

from __future__ import annotations

import asyncio
import socket
import time
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any

import msgspec
import pytest

from penstock_gateway.attempts.job import AttemptJob
from penstock_gateway.attempts.runner import AttemptRunner
from penstock_gateway.deployments import Deployment
from penstock_gateway.errors import UpstreamBroken, UpstreamError, UpstreamTimeout
from penstock_gateway.settings_attempts import AttemptSettings
from penstock_gateway.upstream.direct import DirectUpstream
from penstock_gateway.upstream.protocol import UpstreamRequest
from support.attempts import make_deployment
from support.running_gateway import eventually
from support.scripted_server import ScriptedServer, running_scripted_server

QUICK = {"backoff_seconds": 0.001, "max_backoff_seconds": 0.001}


@dataclass
class Setup:
    """A runner over the direct upstream and the server that it talks to."""

    runner: AttemptRunner
    server: ScriptedServer
    deployments: Mapping[str, Deployment]

    def job(self, *, is_stream: bool = False, **fields: Any) -> AttemptJob:
        """Return a job over all deployments in their order."""

        def prepare(deployment: Deployment) -> UpstreamRequest:
            body = {"model": deployment.model, "messages": [{"role": "user", "content": "hi"}], "stream": is_stream}
            raw = {name: msgspec.Raw(msgspec.json.encode(value)) for name, value in body.items()}
            return UpstreamRequest(deployment, raw, is_stream, False, "req-test")

        return AttemptJob(tuple(self.deployments.values()), prepare, time.perf_counter(), **fields)

    @property
    def in_flight(self) -> int:
        """Slots taken."""
        return sum(lane.slots.in_flight for lane in self.runner.book)


@asynccontextmanager
async def running_setup(
    script: Mapping[str, list[str]], changes: Mapping[str, Any] | None = None, **settings: Any
) -> AsyncIterator[Setup]:
    """Run a server with a deployment for each model of its script."""
    async with running_scripted_server(script) as server:
        made = {
            name: make_deployment(server.base_url, model=name, name=name, max_parallel_requests=4, **(changes or {}))
            for name in script
        }
        upstream = DirectUpstream()
        runner = AttemptRunner(made.values(), AttemptSettings(**{**QUICK, **settings}), {"direct": upstream})
        try:
            yield Setup(runner, server, made)
        finally:
            await runner.aclose()
            await upstream.aclose()


async def _collect(reply: Any) -> bytes:
    return b"".join([block async for block in reply.events()])


@pytest.mark.parametrize("is_stream", [False, True])
@pytest.mark.parametrize("bad", ["status:500", "status:429:0", "reset", "cut-early"])
async def test_attempt_over_sockets_that_fails_early_is_tried_again(bad: str, is_stream: bool) -> None:
    """Statuses, resets and bodies that break off before the client saw anything cost a second try, no more."""
    async with running_setup({"a": [bad, "ok"]}) as setup:
        job = setup.job(is_stream=is_stream)
        served = await setup.runner.run(job)
        body = await (_collect(served.reply) if is_stream else served.reply.read())
        await served.reply.aclose()
        assert b"yes" in body
        assert [record.kind.value for record in job.records] == ["first", "retry"]
        assert job.records[1].usage is not None
        assert job.records[1].usage.output_tokens == 3
        assert setup.in_flight == 0


@pytest.mark.parametrize("bad", ["error-first", "empty", "cut-early"])
async def test_stream_over_sockets_that_begins_badly_falls_back(bad: str) -> None:
    """A status of 200 is no answer before the first event."""
    async with running_setup({"a": [bad], "b": ["ok"]}) as setup:
        served = await setup.runner.run(setup.job(is_stream=True))
        assert served.deployment.name == "b"
        assert (await _collect(served.reply)).endswith(b"data: [DONE]\n\n")
        await served.reply.aclose()
        assert setup.server.asked == ["a", "a", "b"]


async def test_stream_over_sockets_with_comments_first_keeps_every_byte() -> None:
    """What was held back comes in front of the first event."""
    async with running_setup({"a": ["comments"]}) as setup:
        served = await setup.runner.run(setup.job(is_stream=True))
        body = await _collect(served.reply)
        await served.reply.aclose()
        assert body.startswith(b": one\n\n: two\n\ndata: {")
        assert body.count(b"data: ") == 3


async def test_stream_over_sockets_cut_in_the_middle_is_not_tried_again() -> None:
    """After the first event the failure is the end."""
    async with running_setup({"a": ["cut"], "b": ["ok"]}) as setup:
        job = setup.job(is_stream=True)
        served = await setup.runner.run(job)
        with pytest.raises(UpstreamBroken):
            await _collect(served.reply)
        await served.reply.aclose()
        assert setup.server.asked == ["a"]
        assert (job.records[0].error_code, job.records[0].status, setup.in_flight) == ("upstream_broken", 200, 0)


async def test_unreachable_deployment_over_sockets_falls_back_and_was_never_sent() -> None:
    """A refused connection costs nothing, and the record says so."""
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))
        port = unused.getsockname()[1]
        async with running_setup({"a": ["ok"], "b": ["ok"]}) as setup:
            dead = make_deployment(f"http://127.0.0.1:{port}/v1", model="a", name="a")
            setup.runner.adopt([dead, setup.deployments["b"]], AttemptSettings(**QUICK), setup.runner._upstreams)
            job = setup.job()
            served = await setup.runner.run(job)
            await served.reply.aclose()
            assert served.deployment.name == "b"
            sent = [(record.deployment, record.was_sent) for record in job.records]
            assert sent == [("a", False), ("a", False), ("b", True)]


@pytest.mark.parametrize(("is_stream", "bad"), [(False, "hang"), (True, "hang"), (True, "hang-body")])
async def test_hanging_deployment_over_sockets_is_left_after_its_own_deadline(is_stream: bool, bad: str) -> None:
    """A time-out before the first event falls back, and the provider notices that nobody waits."""
    changes = {"first_byte_timeout_seconds": 0.1, "idle_timeout_seconds": 0.1}
    async with running_setup({"a": [bad], "b": ["ok"]}, changes, retries=0) as setup:
        job = setup.job(is_stream=is_stream)
        served = await setup.runner.run(job)
        if is_stream:
            await _collect(served.reply)
        await served.reply.aclose()
        assert [record.error_code for record in job.records] == ["upstream_timeout", None]
        await eventually(lambda: setup.server.gone == ["a"])


async def test_deadline_over_sockets_ends_the_whole_request() -> None:
    """The total deadline is cut into every try, and the error names it."""
    async with running_setup({"a": ["hang"], "b": ["hang"]}) as setup:
        job = setup.job(deadline_seconds=0.2)
        with pytest.raises(UpstreamTimeout) as raised:
            await setup.runner.run(job)
        assert raised.value.code == "deadline_exceeded"
        assert job.records[-1].error_code == "deadline_exceeded"
        assert setup.in_flight == 0


@pytest.mark.parametrize(("is_stream", "slow"), [(False, "hang"), (True, "hang"), (True, "hang-body")])
async def test_hedge_over_sockets_answers_and_the_slow_call_is_closed(is_stream: bool, slow: str) -> None:
    """The second deployment answers; the first one's connection is closed, and its try is on record."""
    async with running_setup({"a": [slow], "b": ["ok"]}, hedge={"after": 0.05, "max_share": 1.0}) as setup:
        job = setup.job(is_stream=is_stream)
        served = await setup.runner.run(job)
        if is_stream:
            await _collect(served.reply)
        await served.reply.aclose()
        assert served.deployment.name == "b"
        records = [(record.kind.value, record.error_code, record.was_sent) for record in job.records]
        assert records == [("first", "hedge_lost", True), ("hedge", None, True)]
        await eventually(lambda: setup.server.gone == ["a"])
        assert setup.in_flight == 0


async def test_client_that_leaves_over_sockets_frees_everything_under_load() -> None:
    """Forty requests, ten slots, half of the clients leave at different moments: no slot is lost."""
    script = {"a": ["ok", "hang", "status:500", "hang-body", "reset"] * 8, "b": ["ok", "hang", "empty"] * 8}
    async with running_setup(script, {"first_byte_timeout_seconds": 0.2}, max_waiting=100) as setup:

        async def client(number: int) -> str:
            served = await setup.runner.run(setup.job(is_stream=number % 3 > 0))
            try:
                if number % 3 and served.reply.status < 400:
                    await _collect(served.reply)
            finally:
                await served.reply.aclose()
            return "served"

        tasks = [asyncio.create_task(client(number)) for number in range(40)]
        for number, task in enumerate(tasks):
            if number % 2:
                await asyncio.sleep(0.004)
                task.cancel()
        results = await asyncio.gather(*tasks, return_exceptions=True)
        unexpected = [r for r in results if not isinstance(r, (str, UpstreamError, asyncio.CancelledError))]
        assert [
            r for r in unexpected if getattr(r, "code", "") not in ("no_deployment_available", "queue_timeout")
        ] == []
        assert setup.in_flight == 0
        assert setup.runner.book.room.waiting == 0
