"""The process that starts workers: one first, the rest then, each anew when it ends, all of them to an end."""

from __future__ import annotations

import asyncio
import json
import signal
import sys
import tempfile
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest

from penstock_gateway.listening import SPREADS_CONNECTIONS, bound_socket
from penstock_gateway.settings_models import ServerSettings, Settings
from penstock_gateway.workers import supervisor as module
from penstock_gateway.workers.supervisor import Supervisor
from penstock_gateway.workers.task import WorkerTask
from support.running_gateway import eventually

WORKER = """
import json, os, pathlib, signal, socket, sys, time
task = json.loads(sys.stdin.read())
folder = pathlib.Path(sys.argv[1])
starts = len(list(folder.glob(f"start-{task['index']}-*")))
(folder / f"start-{task['index']}-{starts}").write_text(json.dumps({**task, "pid": os.getpid()}))
how = sys.argv[2]
if how == "refuses":
    sys.exit(1)
if how == "clings":
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
if how == "freezes" and task["index"] == 1 and starts == 0:
    socket.socket(fileno=task["control"]).send(b"R")
    time.sleep(600)
if how == "never starts" and task["index"] == 1 and starts == 0:
    time.sleep(600)
if how == "crashes" and task["index"] == 1 and starts < 2:
    sys.exit(3)
control = socket.socket(fileno=task["control"])
listener = socket.socket(fileno=task["listener"])
control.send(b"R")
control.settimeout(0.05)
while True:
    try:
        heard = control.recv(1)
    except TimeoutError:
        control.send(b".")
        continue
    if not heard:
        break
    (folder / f"heard-{task['index']}").write_bytes(heard)
"""

ENCODER = """
import pathlib, socket, sys
folder, address = pathlib.Path(sys.argv[1]), pathlib.Path(sys.argv[3].removeprefix("unix:"))
starts = len(list(folder.glob("encoder-*")))
(folder / f"encoder-{starts}").touch()
address.unlink(missing_ok=True)
with socket.socket(socket.AF_UNIX) as listener:
    listener.bind(str(address))
    listener.listen()
    answered = 0
    while True:
        client = listener.accept()[0]
        if starts == 0 and answered == 2:
            listener.accept()  # alive, and says nothing to anybody
            sys.stdin.buffer.read()
        client.send(b"challenge")
        client.close()
        answered += 1
        (folder / f"answered-{starts}-{answered}").touch()
"""


@pytest.fixture(autouse=True)
def _quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "PAUSES", (0.01, 0.05))
    monkeypatch.setattr(module, "STOP_SECONDS", 0.3)


def started(folder: Path, index: int) -> list[dict[str, object]]:
    """Return what the processes of a place were told, in their order; half-written files are left out."""
    texts = [path.read_text(encoding="utf-8") for path in sorted(folder.glob(f"start-{index}-*"))]
    return [json.loads(text) for text in texts if text]


@asynccontextmanager
async def running(
    folder: Path, how: str, workers: int = 2, encoder: tuple[str, ...] = ()
) -> AsyncIterator[tuple[Supervisor, asyncio.Task[bool]]]:
    """Run workers that do as they are told."""
    (folder / "worker.py").write_text(WORKER, encoding="utf-8")
    settings = Settings(server=ServerSettings(workers=workers, drain_seconds=0))
    command = (sys.executable, str(folder / "worker.py"), str(folder), how)
    with bound_socket("127.0.0.1", 0, is_shared=SPREADS_CONNECTIONS) as listener:
        supervisor = Supervisor(
            settings, listener, WorkerTask("penstock.yaml"), command=command, encoder_command=encoder
        )
        run = asyncio.create_task(supervisor.run())
        try:
            yield supervisor, run
        finally:
            run.cancel()
            await asyncio.gather(run, return_exceptions=True)


async def test_workers_are_told_who_they_are_and_one_of_them_to_read_the_configuration(tmp_path: Path) -> None:
    """Each has its number, and the sockets by their descriptors; a hang-up signal reaches the first alone."""
    async with running(tmp_path, "works") as (_, run):
        await eventually(lambda: bool(started(tmp_path, 0) and started(tmp_path, 1)))
        (first,), (second,) = started(tmp_path, 0), started(tmp_path, 1)
        assert (first["index"], second["index"]) == (0, 1)
        assert (first["count"], first["config"], first["encoder"]) == (2, "penstock.yaml", None)
        assert first["folder"] == second["folder"]
        assert oct(Path(str(first["folder"])).stat().st_mode)[-3:] == "700"
        signal.raise_signal(signal.SIGHUP)
        await eventually((tmp_path / "heard-0").exists)
        assert not (tmp_path / "heard-1").exists()
        signal.raise_signal(signal.SIGTERM)
        assert await run is True
    assert not Path(str(first["folder"])).exists()


async def test_folder_of_socket_files_has_a_short_path_whatever_the_temporary_folder_is(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A path of more than some hundred bytes is no address of a socket, and no worker could be asked."""
    long = tmp_path / ("x" * 120)
    long.mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(long))
    async with running(tmp_path, "works") as (_, run):
        await eventually(lambda: bool(started(tmp_path, 0)))
        assert len(f"{started(tmp_path, 0)[0]['folder']}/worker-63.sock") <= 103
        signal.raise_signal(signal.SIGTERM)
        assert await run is True


async def test_first_worker_that_refuses_to_start_ends_it_all(tmp_path: Path) -> None:
    """The others are not started, so the reason is said once."""
    async with running(tmp_path, "refuses") as (_, run):
        assert await asyncio.wait_for(run, 30) is False
    assert len(started(tmp_path, 0)) == 1
    assert started(tmp_path, 1) == []


async def test_worker_that_ends_is_started_again_with_a_growing_pause(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """The other one goes on, and the log says which, how and how long until the next try."""
    async with running(tmp_path, "crashes") as (_, run):
        await eventually(lambda: len(started(tmp_path, 1)) == 3)
        signal.raise_signal(signal.SIGTERM)
        assert await run is True
    assert len(started(tmp_path, 0)) == 1
    assert [task["starts"] for task in started(tmp_path, 1)] == [1, 2, 3]
    ended = [record for record in caplog.records if record.message == "worker_ended"]
    assert [(record.worker, record.code, record.again_in_seconds) for record in ended] == [  # type: ignore[attr-defined]
        ("1", 3, 0.02),
        ("1", 3, 0.04),
    ]


async def test_worker_that_cannot_be_started_is_tried_again_and_the_others_go_on(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A machine may be out of processes or descriptors for a moment; a place that nobody fills again is for ever."""
    start, refusals = asyncio.create_subprocess_exec, [OSError(24, "Too many open files"), OSError(11, "Try again")]

    async def short_of_processes(*command: str, **options: Any) -> asyncio.subprocess.Process:
        if started(tmp_path, 0) and refusals:
            raise refusals.pop(0)
        return await start(*command, **options)

    monkeypatch.setattr(asyncio, "create_subprocess_exec", short_of_processes)
    async with running(tmp_path, "works") as (_, run):
        await eventually(lambda: bool(started(tmp_path, 1)))
        signal.raise_signal(signal.SIGTERM)
        assert await run is True
    assert len(started(tmp_path, 0)) == 1
    found = [record for record in caplog.records if record.message == "worker_not_started"]
    assert [(record.worker, record.again_in_seconds) for record in found] == [("1", 0.02), ("1", 0.04)]  # type: ignore[attr-defined]
    assert "Too many open files" in found[0].problem  # type: ignore[attr-defined]


async def test_worker_that_stands_still_is_killed_and_replaced(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its connections would hang for ever; one that gives signs of life is left alone."""
    monkeypatch.setattr(module, "SILENT_SECONDS", 0.5)
    async with running(tmp_path, "freezes") as (_, run):
        await eventually(lambda: len(started(tmp_path, 1)) == 2)
        signal.raise_signal(signal.SIGTERM)
        assert await run is True
    assert len(started(tmp_path, 0)) == 1
    found = [record.worker for record in caplog.records if record.message == "worker_stands_still"]  # type: ignore[attr-defined]
    assert found == ["1"]


async def test_encode_server_that_lives_and_says_nothing_is_replaced_and_one_that_answers_is_not(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """All workers would wait for it with every prompt, and encode by themselves, for ever."""
    monkeypatch.setattr(module, "SILENT_SECONDS", 1.0)
    (tmp_path / "encoder.py").write_text(ENCODER, encoding="utf-8")
    async with running(tmp_path, "works", 1, (sys.executable, str(tmp_path / "encoder.py"), str(tmp_path))) as (_, run):
        await eventually((tmp_path / "answered-1-12").exists)  # for longer than SILENT_SECONDS
        signal.raise_signal(signal.SIGTERM)
        assert await run is True
    assert len(list(tmp_path.glob("encoder-*"))) == 2
    found = [record.worker for record in caplog.records if record.message == "worker_stands_still"]  # type: ignore[attr-defined]
    assert found == ["encoder"]


async def test_worker_that_hangs_while_it_starts_is_killed_and_replaced(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It gives no sign of life before it takes requests, so its start has an end of its own."""
    monkeypatch.setattr(module, "SILENT_SECONDS", 0.5)
    monkeypatch.setattr(module, "START_SECONDS", 2.0)
    async with running(tmp_path, "never starts") as (_, run):
        await eventually(lambda: len(started(tmp_path, 1)) == 2)
        signal.raise_signal(signal.SIGTERM)
        assert await run is True
    assert len(started(tmp_path, 0)) == 1


async def test_worker_that_does_not_end_is_killed_after_its_time(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """A stop has an end, and what had to be killed is named."""
    caplog.set_level("INFO", logger="penstock.workers")
    async with running(tmp_path, "clings") as (_, run):
        await eventually(lambda: bool(started(tmp_path, 0) and started(tmp_path, 1)))
        await eventually(lambda: sum(record.message == "worker_ready" for record in caplog.records) == 2)
        signal.raise_signal(signal.SIGTERM)
        assert await asyncio.wait_for(run, 30) is True
    (killed,) = [record for record in caplog.records if record.message == "workers_killed"]
    assert killed.workers == ["0", "1"]  # type: ignore[attr-defined]


async def test_hang_up_of_a_terminal_that_is_gone_ends_it_all(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A window that is closed is no wish to read the configuration; a hang-up beside a terminal that stays is."""
    has_terminal = True
    monkeypatch.setattr(module.os, "isatty", lambda _: has_terminal)
    async with running(tmp_path, "works", 1) as (supervisor, run):
        await eventually(lambda: any(child.is_ready.is_set() for child in supervisor._children.values()))
        signal.raise_signal(signal.SIGHUP)
        await eventually((tmp_path / "heard-0").exists)
        has_terminal = False
        signal.raise_signal(signal.SIGHUP)
        assert await asyncio.wait_for(run, 30) is True
