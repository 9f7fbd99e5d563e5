"""The process that starts the workers, starts one anew that has ended, and passes on what it is told.

It serves nothing itself: it holds the listening socket, so that no connection is refused while a worker is replaced.
Each worker is a process of its own program, never a fork of this one. Read `Supervisor.run`.
"""

from __future__ import annotations

import asyncio
import logging
import os
import signal
import socket
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Final

import msgspec

from penstock_gateway.request_log import start_request_log
from penstock_gateway.settings_models import Settings
from penstock_gateway.workers.task import RELOAD, WorkerTask

_log = logging.getLogger("penstock.workers")

BACKLOG: Final = 2048
START_SECONDS: Final = 120.0
"""For the first worker; an artifact from a URL may take its time."""
STOP_SECONDS: Final = 20.0
"""Beyond ``server.drain_seconds``: for closing the ledger and the log of events."""
SOUND_SECONDS: Final = 10.0
"""A worker that has lived so long is started anew at once; others after a pause that doubles."""
PAUSES: Final = (0.2, 30.0)
"""Shortest and longest pause, seconds."""
TAKES_TURNS: Final = {"UV_TCP_SINGLE_ACCEPT": "1"}
"""Otherwise libuv takes all connections that wait, and those that one client opens end up in one worker."""
_COMMAND: Final = (sys.executable, "-m", "penstock_gateway.workers.process")


@dataclass(slots=True)
class _Worker:
    """One place of a worker, and the process that has it now."""

    index: int
    process: asyncio.subprocess.Process
    control: socket.socket
    started_at: float
    is_ready: asyncio.Event = field(default_factory=asyncio.Event)


class Supervisor:
    """Runs the workers of one gateway.

    Parameters
    ----------
    settings : Settings
        As configured; ``server.workers`` of them.
    listener : socket
        Bound.
    task : WorkerTask
        What is the same for all: the command line's options.
    command : sequence of str
        Starts a worker.
    clock : callable
        Monotonic seconds.
    """

    def __init__(
        self,
        settings: Settings,
        listener: socket.socket,
        task: WorkerTask,
        *,
        command: Sequence[str] = _COMMAND,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._count = settings.server.workers
        self._stop_seconds = settings.server.drain_seconds + STOP_SECONDS
        self._listener = listener
        self._task = task
        self._command = command
        self._clock = clock
        self._workers: dict[int, _Worker] = {}
        self._is_stopping = asyncio.Event()
        self._had_terminal = os.isatty(2)
        self._signals = 0

    async def run(self) -> bool:
        """Serve until told to stop.

        Returns
        -------
        bool
            False when the first worker did not start; it has said why.
        """
        self._listener.listen(BACKLOG)
        loop = asyncio.get_running_loop()
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, self._stop)
        loop.add_signal_handler(signal.SIGHUP, self._hang_up)
        with tempfile.TemporaryDirectory(
            prefix="penstock-"
        ) as folder:  # of mode 0700: the workers trust who can open it
            if not await self._first_starts(folder):
                return self._is_stopping.is_set()
            keeping = [loop.create_task(self._keep(index, folder)) for index in range(self._count)]
            await self._is_stopping.wait()
            await self._end()
            await asyncio.gather(*keeping)
        return True

    async def _first_starts(self, folder: str) -> bool:
        """Start one worker and wait for it: what keeps it from starting is said once and not by every one."""
        worker = await self._started(0, folder)
        ways = [asyncio.ensure_future(wait) for wait in (worker.is_ready.wait(), worker.process.wait())]
        ways.append(asyncio.ensure_future(self._is_stopping.wait()))
        await asyncio.wait(ways, timeout=START_SECONDS, return_when=asyncio.FIRST_COMPLETED)
        for way in ways:
            way.cancel()
        if worker.is_ready.is_set() and not self._is_stopping.is_set():
            return True
        if worker.process.returncode is None:
            if not self._is_stopping.is_set():
                _log.error("worker_not_ready", extra={"worker": 0, "seconds": START_SECONDS})
            await self._end()
        return False

    async def _keep(self, index: int, folder: str) -> None:
        """Have a place filled until the end."""
        pause = PAUSES[0]
        while not self._is_stopping.is_set():
            worker = self._workers.get(index) or await self._started(index, folder)
            code = await worker.process.wait()
            self._forget(worker)
            if self._is_stopping.is_set():
                return
            lived = self._clock() - worker.started_at
            pause = PAUSES[0] if lived >= SOUND_SECONDS else min(pause * 2, PAUSES[1])
            fields = {"worker": index, "code": code, "lived_seconds": round(lived, 1), "again_in_seconds": pause}
            _log.error("worker_ended", extra=fields)
            with suppress(TimeoutError):
                async with asyncio.timeout(pause):
                    await self._is_stopping.wait()

    async def _started(self, index: int, folder: str) -> _Worker:
        ours, theirs = socket.socketpair()
        ours.setblocking(False)
        task = msgspec.structs.replace(
            self._task,
            index=index,
            count=self._count,
            listener=self._listener.fileno(),
            control=theirs.fileno(),
            folder=folder,
        )
        try:
            process = await asyncio.create_subprocess_exec(
                *self._command,
                stdin=asyncio.subprocess.PIPE,
                env={**TAKES_TURNS, **os.environ},
                pass_fds=(self._listener.fileno(), theirs.fileno()),
                process_group=0,  # a terminal's signals come to this process alone, which passes them on
            )
        finally:
            theirs.close()
        worker = _Worker(index, process, ours, self._clock())
        self._workers[index] = worker
        asyncio.get_running_loop().add_reader(ours, self._hear, worker)
        assert process.stdin is not None
        with suppress(ConnectionError):  # it has ended already
            process.stdin.write(msgspec.json.encode(task))
            await process.stdin.drain()
            process.stdin.close()
        return worker

    def _hear(self, worker: _Worker) -> None:
        """Note that a worker takes requests, or that its end of the socket is closed."""
        try:
            heard = worker.control.recv(64)
        except BlockingIOError:
            return
        except OSError:
            heard = b""
        if heard:
            worker.is_ready.set()
            _log.info("worker_ready", extra={"worker": worker.index, "process_id": worker.process.pid})
        else:
            asyncio.get_running_loop().remove_reader(worker.control)

    def _forget(self, worker: _Worker) -> None:
        asyncio.get_running_loop().remove_reader(worker.control)
        worker.control.close()
        self._workers.pop(worker.index, None)

    def _stop(self) -> None:
        """End all workers in an orderly way; asked again, at once."""
        self._signals += 1
        self._is_stopping.set()
        if self._signals > 1:
            self._send(signal.SIGINT)  # which a server that is stopping takes as an order not to wait

    def _hang_up(self) -> None:
        """Have the configuration read, by one worker that tells the others; stop when the terminal is gone."""
        if self._had_terminal and not os.isatty(2):
            self._stop()
            return
        for _, worker in sorted(self._workers.items()):
            if worker.is_ready.is_set():
                with suppress(OSError):
                    worker.control.send(RELOAD)
                    return
        _log.warning("reload_without_worker")

    async def _end(self) -> None:
        """End all workers: in an orderly way, and after `STOP_SECONDS` beyond the drain by force."""
        self._send(signal.SIGTERM)
        ending = [asyncio.ensure_future(worker.process.wait()) for worker in self._workers.values()]
        if not ending:
            return
        _, late = await asyncio.wait(ending, timeout=self._stop_seconds)
        if late:
            _log.error("workers_killed", extra={"count": len(late), "seconds": self._stop_seconds})
            self._send(signal.SIGKILL)
            await asyncio.wait(late)

    def _send(self, number: signal.Signals) -> None:
        for worker in list(self._workers.values()):
            with suppress(ProcessLookupError):
                worker.process.send_signal(number)


def supervise(settings: Settings, listener: socket.socket, task: WorkerTask) -> bool:
    """Run the workers of a gateway until told to stop; see `Supervisor.run`.

    Parameters
    ----------
    settings : Settings
    listener : socket
        Bound.
    task : WorkerTask
    """
    stop_log = start_request_log(level=settings.log.level, on_drop=lambda: None)

    async def run() -> bool:
        return await Supervisor(settings, listener, task).run()

    try:
        return asyncio.run(run())
    finally:
        stop_log()
