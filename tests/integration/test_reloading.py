"""The configuration is exchanged under load, on a real server, and no request notices."""

from __future__ import annotations

import asyncio
import logging
import os
import signal
import threading
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import aiohttp
import pytest
import uvicorn
from prometheus_client import CollectorRegistry

from penstock_gateway.configuration_problems import ConfigurationError, Problem
from penstock_gateway.lasting import Lasting
from penstock_gateway.metrics_reload import ReloadMetrics
from penstock_gateway.reload_triggers import FileWatch, HangUpSignal
from penstock_gateway.reloading import MAX_DRAINING, Generation, ReloadingApp, ReloadResult, StartProblem, Trigger
from penstock_gateway.settings_models import Settings
from penstock_gateway.settings_restart import NewConfiguration
from support.cache_documents import eventually
from support.fake_generations import CHUNKS, FakeGeneration

RELOADS = 20
WRONG = ConfigurationError(
    [Problem("penstock.yaml:3", "routing.tradeoff", "is wrong"), Problem("penstock.yaml:4", "", "so is this")]
)


class Gateway:
    """A reloading application over fakes, its server and what the test may change."""

    def __init__(self, triggers: tuple[Trigger, ...] = ()) -> None:
        self.generations = [FakeGeneration("1")]
        self.read_failure: Exception | None = None
        self.start_failure: Exception | None = None
        self.reads = 0
        self.needs_restart: tuple[str, ...] = ()
        self.may_read = threading.Event()
        self.may_read.set()
        self.registry = CollectorRegistry()
        self.lasting = Lasting()
        self.app = ReloadingApp(
            self.generations[0],
            Settings(),
            read=self._read,
            build=self._build,
            lasting=self.lasting,
            triggers=triggers,
            metrics=ReloadMetrics(self.registry),
        )
        self.url = ""
        self.http: aiohttp.ClientSession

    def _read(self, running: Settings) -> NewConfiguration:
        self.reads += 1
        assert self.may_read.wait(20.0)
        if self.read_failure is not None:
            raise self.read_failure
        server = running.server.model_copy(update={"max_in_flight": running.server.max_in_flight + 1})
        return NewConfiguration(running.model_copy(update={"server": server}), self.needs_restart)

    async def _build(self, settings: Settings) -> Generation:
        self.generations.append(
            FakeGeneration(str(len(self.generations) + 1), start_failure=self.start_failure),
        )
        return self.generations[-1]

    async def get(self, path: str) -> str:
        """Return an answer's generation; all of its body must be of one, and complete."""
        async with self.http.get(self.url + path) as response:
            assert response.status == 200
            lines = (await response.text()).split()
            assert len(lines) == (CHUNKS + 1 if path == "/stream" else 1)
            assert set(lines) == {response.headers["x-generation"]}
            return lines[0]

    def counted(self, result: str) -> float | None:
        """Return how often a reload ended so."""
        return self.registry.get_sample_value("penstock_config_reloads_total", {"result": result})

    def gauge(self, name: str) -> float | None:
        """Return a gauge."""
        return self.registry.get_sample_value(f"penstock_config_{name}")


@asynccontextmanager
async def running(*triggers: Trigger) -> AsyncIterator[Gateway]:
    """Run a gateway on a free port."""
    gateway = Gateway(triggers)
    config = uvicorn.Config(gateway.app, port=0, lifespan="on", log_config=None, access_log=False, ws="none")
    server = uvicorn.Server(config)
    task = asyncio.create_task(server.serve())
    await eventually(lambda: server.started, "the server runs")
    gateway.url = f"http://127.0.0.1:{server.servers[0].sockets[0].getsockname()[1]}"
    try:
        async with aiohttp.ClientSession(connector=aiohttp.TCPConnector(limit=0)) as http:
            gateway.http = http
            yield gateway
    finally:
        server.should_exit = True
        await task


async def test_requests_and_streams_across_twenty_reloads_are_all_answered_and_each_generation_is_closed_once() -> None:
    """Under 200 requests a second, and streams that outlive reloads, nothing fails; the old ones end after them."""
    async with running() as gateway:
        answers: list[str] = []
        requests: set[asyncio.Task[None]] = set()
        is_over = asyncio.Event()

        async def ask(path: str) -> None:
            answers.append(await gateway.get(path))

        async def load() -> None:
            count = 0
            while not is_over.is_set():
                requests.add(asyncio.create_task(ask("/stream" if count % 10 == 0 else "/plain")))
                count += 1
                await asyncio.sleep(0.005)

        loading = asyncio.create_task(load())
        for number in range(2, RELOADS + 2):
            target = len(answers) + 20
            await eventually(lambda target=target: len(answers) >= target, "requests are answered")
            outcome = await gateway.app.reload()
            assert (outcome.result, outcome.generation) == (ReloadResult.RELOADED, number)
            assert await gateway.get("/plain") == str(number)
        is_over.set()
        await loading
        await asyncio.gather(*requests)
        assert len(answers) == len(requests)
        assert set(answers) >= {str(number) for number in range(1, RELOADS + 1)}
        old = gateway.generations[:-1]
        await eventually(lambda: all(each.closed for each in old), "the old ones are closed")
        assert gateway.gauge("draining") == 0
        assert gateway.generations[-1].closed == 0
    for generation in gateway.generations:
        assert (generation.started, generation.taken_over, generation.closed) == (1, 1, 1)
        assert generation.wrongs == []
    assert gateway.counted("reloaded") == RELOADS


async def test_stream_keeps_its_generation_open_until_it_ends() -> None:
    """A request stays where it began, and holds that generation, however many are loaded meanwhile."""
    async with running() as gateway:
        first = gateway.generations[0]
        first.may_finish.clear()
        held = asyncio.create_task(gateway.get("/held"))
        await eventually(lambda: first.in_flight == 1, "the request is there")
        await gateway.app.reload()
        await gateway.app.reload()
        await eventually(lambda: gateway.generations[1].closed == 1, "the one without requests is closed")
        assert first.closed == 0
        assert gateway.gauge("draining") == 1
        first.may_finish.set()
        assert await held == "1"
        await eventually(lambda: first.closed == 1, "now it is closed")


async def test_wrong_configuration_is_refused_and_told_and_the_old_one_goes_on(
    caplog: pytest.LogCaptureFixture,
) -> None:
    """Nothing of a configuration with problems is put in force; each problem is logged and kept to be shown."""
    async with running() as gateway:
        gateway.read_failure = WRONG
        outcome = await gateway.app.reload()
        assert outcome.result is ReloadResult.REFUSED
        assert outcome.problems == WRONG.problems
        assert gateway.app.last_problem is outcome
        assert [record.__dict__["setting"] for record in caplog.records if record.msg == "configuration_refused"] == [
            "routing.tradeoff",
            "",
        ]
        assert (gateway.counted("refused"), gateway.gauge("is_current")) == (1.0, 0.0)
        assert len(gateway.generations) == 1
        assert await gateway.get("/plain") == "1"
        gateway.read_failure = None
        await gateway.app.reload()
        assert gateway.app.last_problem is None
        assert gateway.gauge("is_current") == 1.0
        assert await gateway.get("/plain") == "2"


async def test_configuration_that_cannot_be_started_is_closed_and_the_old_one_goes_on(
    caplog: pytest.LogCaptureFixture,
) -> None:
    """A valid configuration whose start fails never sees a request; its text is not shown to callers."""
    async with running() as gateway:
        gateway.start_failure = RuntimeError("the password is hunter2")
        outcome = await gateway.app.reload()
        assert outcome.result is ReloadResult.FAILED
        assert "hunter2" not in str(outcome.as_json())
        assert "RuntimeError" in str(outcome.as_json())
        failed = gateway.generations[1]
        assert (failed.started, failed.taken_over, failed.closed, failed.served) == (1, 0, 1, 0)
        assert await gateway.get("/plain") == "1"
        assert gateway.app.number == 1
        assert gateway.counted("failed") == 1.0
        assert "reload_failed" in caplog.text


@pytest.mark.parametrize(
    ("failure", "told"),
    [(WRONG, ["is wrong", "so is this"]), (StartProblem("the port is taken"), ["the port is taken"])],
)
async def test_configuration_that_is_found_wrong_only_when_it_starts_is_refused_with_its_problems(
    failure: Exception, told: list[str]
) -> None:
    """Who asked for the reload learns the reason, as if the file had been wrong; the old one goes on."""
    async with running() as gateway:
        gateway.start_failure = failure
        outcome = await gateway.app.reload()
        assert outcome.result is ReloadResult.REFUSED
        assert [problem.message for problem in outcome.problems] == told
        assert (gateway.generations[1].closed, gateway.app.number) == (1, 1)
        assert await gateway.get("/plain") == "1"


async def test_settings_in_force_are_those_of_the_generation_and_changes_are_named(
    caplog: pytest.LogCaptureFixture,
) -> None:
    """The log names what changed and what waits for a restart."""
    caplog.set_level(logging.INFO, logger="penstock.reload")
    async with running() as gateway:
        gateway.needs_restart = ("server.port",)
        before = gateway.app.settings
        outcome = await gateway.app.reload()
        assert outcome.changed == ("server.max_in_flight",)
        assert outcome.needs_restart == ("server.port",)
        assert gateway.app.settings.server.max_in_flight == before.server.max_in_flight + 1
        told = {record.msg: record.__dict__ for record in caplog.records}
        assert told["configuration_reloaded"]["changed"] == ["server.max_in_flight"]
        assert told["settings_need_restart"]["settings"] == ["server.port"]


async def test_reloads_asked_for_during_one_are_one_more_that_begins_after_them() -> None:
    """Whoever asks while a reload runs gets one that has read what was written before they asked."""
    async with running() as gateway:
        gateway.may_read.clear()
        first = asyncio.create_task(gateway.app.reload())
        await eventually(lambda: gateway.reads == 1, "the first one reads")
        others = [asyncio.create_task(gateway.app.reload()) for _ in range(10)]
        await asyncio.sleep(0)
        gateway.may_read.set()
        outcomes = await asyncio.gather(first, *others)
        assert [outcome.generation for outcome in outcomes] == [2] + [3] * 10
        assert gateway.reads == 2


async def test_caller_of_a_reload_who_leaves_does_not_stop_it() -> None:
    """An admin request that is cut off changes nothing about the reload."""
    async with running() as gateway:
        gateway.may_read.clear()
        asking = asyncio.create_task(gateway.app.reload())
        await eventually(lambda: gateway.reads == 1, "it reads")
        asking.cancel()
        gateway.may_read.set()
        await eventually(lambda: gateway.app.number == 2, "it is done all the same")


async def test_reload_with_too_many_old_generations_in_use_is_refused_until_one_ends() -> None:
    """Generations that cannot end are bounded, because each takes memory."""
    async with running() as gateway:
        held = []
        for number in range(1, MAX_DRAINING + 1):
            gateway.generations[-1].may_finish.clear()
            held.append(asyncio.create_task(gateway.get("/held")))
            await eventually(lambda: gateway.generations[-1].in_flight == 1, "the request is there")
            assert (await gateway.app.reload()).generation == number + 1
        outcome = await gateway.app.reload()
        assert outcome.result is ReloadResult.REFUSED
        assert "still have requests" in outcome.problems[0].message
        gateway.generations[0].may_finish.set()
        await eventually(lambda: gateway.generations[0].closed == 1, "one has ended")
        assert (await gateway.app.reload()).result is ReloadResult.RELOADED
        for generation in gateway.generations:
            generation.may_finish.set()
        await asyncio.gather(*held)


async def test_server_that_stops_during_a_reload_closes_everything_once() -> None:
    """Stopping in the middle leaves no generation open, and what lasts is closed after all of them."""
    async with running() as gateway:
        order: list[str] = []

        async def close(_: str) -> None:
            assert all(each.closed == 1 for each in gateway.generations)
            order.append("lasting")

        gateway.lasting.keep("books", lambda: "books", close)
        await gateway.app.reload()
        gateway.start_failure = None
        original = gateway._build

        async def build(settings: Settings) -> Generation:
            made = await original(settings)
            assert isinstance(made, FakeGeneration)
            made.may_start.clear()
            return made

        gateway.app._build = build
        reloading = asyncio.create_task(gateway.app.reload())
        await eventually(lambda: len(gateway.generations) == 3 and gateway.generations[2].started == 1, "it starts")
    assert [each.closed for each in gateway.generations] == [1, 1, 1]
    assert order == ["lasting"]
    with pytest.raises(asyncio.CancelledError):
        await reloading
    assert (await gateway.app.reload()).result is ReloadResult.REFUSED


async def test_first_generation_that_does_not_start_ends_the_server() -> None:
    """A gateway that cannot start says so instead of serving."""
    app_generation = FakeGeneration("1", start_failure=OSError("no"))
    lasting, closed = Lasting(), []

    async def close(name: str) -> None:
        closed.append(name)

    lasting.keep("books", lambda: "books", close)
    app = ReloadingApp(
        app_generation, Settings(), read=lambda _: NewConfiguration(Settings()), build=_never, lasting=lasting
    )
    server = uvicorn.Server(uvicorn.Config(app, port=0, lifespan="on", log_config=None))
    with pytest.raises(SystemExit):
        await server.serve()
    assert app_generation.closed == 1
    assert closed == ["books"]


async def _never(_: Settings) -> Generation:
    raise AssertionError("nothing is built")


@pytest.fixture
def hang_up() -> AsyncIterator[None]:
    """Give the signal's handler of the test run back afterwards."""
    before = signal.getsignal(signal.SIGHUP)
    yield
    signal.signal(signal.SIGHUP, before)


@pytest.mark.usefixtures("hang_up")
async def test_hang_up_signals_during_a_reload_are_one_more_reload() -> None:
    """SIGHUP reloads; several while one runs are one; afterwards it no longer ends the process."""
    async with running(HangUpSignal(has_terminal=lambda: False)) as gateway:
        gateway.may_read.clear()
        os.kill(os.getpid(), signal.SIGHUP)
        await eventually(lambda: gateway.reads == 1, "the first one reads")
        for _ in range(5):
            os.kill(os.getpid(), signal.SIGHUP)
            await asyncio.sleep(0)
        gateway.may_read.set()
        await eventually(lambda: gateway.app.number == 3, "both are done")
        assert gateway.reads == 2
        assert await gateway.get("/plain") == "3"
    os.kill(os.getpid(), signal.SIGHUP)


@pytest.mark.usefixtures("hang_up")
async def test_hang_up_of_the_terminal_stops_the_gateway() -> None:
    """A gateway in the foreground whose terminal is closed ends, as it would without a handler."""
    terminals, stops = [True], []
    trigger = HangUpSignal(stop=lambda: stops.append("stop"), has_terminal=lambda: terminals[-1])
    async with running(trigger) as gateway:
        os.kill(os.getpid(), signal.SIGHUP)
        await eventually(lambda: gateway.app.number == 2, "it reloads")
        terminals.append(False)
        os.kill(os.getpid(), signal.SIGHUP)
        await eventually(lambda: stops == ["stop"], "it stops")
        assert gateway.app.number == 2


async def test_changed_file_is_read_once_it_has_settled(tmp_path: Path) -> None:
    """A file that is being written is left alone until two looks find the same; an unchanged one is not read."""
    file = tmp_path / "penstock.yaml"
    file.write_text("one")
    looks: asyncio.Queue[asyncio.Event] = asyncio.Queue()

    async def sleep(_: float) -> None:
        look = asyncio.Event()
        looks.put_nowait(look)
        await look.wait()

    async def look() -> None:
        (await looks.get()).set()
        await eventually(lambda: not looks.empty(), "it has looked")

    is_on = True
    async with running(FileWatch(file.read_bytes, is_on=lambda: is_on, sleep=sleep)) as gateway:
        await look()
        assert gateway.reads == 0
        for text in ("tw", "two", "two, still"):
            file.write_text(text)
            await look()
        assert gateway.reads == 0
        await look()
        assert (gateway.reads, gateway.app.number) == (1, 2)
        await look()
        await look()
        assert gateway.reads == 1
        file.write_text("three")
        await look()
        file.write_text("two, still")
        await look()
        await look()
        assert gateway.reads == 1
        is_on = False
        file.write_text("four")
        for _ in range(3):
            await look()
        assert gateway.reads == 1
        is_on = True  # what was changed meanwhile is read
        for _ in range(3):
            await look()
        assert gateway.reads == 2
