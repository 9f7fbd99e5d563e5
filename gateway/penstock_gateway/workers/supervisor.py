"""The process that starts the workers, starts one anew that has ended, and passes on what it is told.

It serves nothing itself: it holds the address, so that nobody else takes it while workers come and go.
Each worker is a process of its own program, never a fork of this one. Read `Supervisor.run`.
"""

from __future__ import annotations

import asyncio
import itertools
import logging
import os
import signal
import socket
import sys
import tempfile
import time
from collections.abc import Awaitable, Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from importlib import metadata
from typing import Final

import msgspec

from penstock_gateway.listening import SPREADS_CONNECTIONS, bound_socket
from penstock_gateway.request_log import start_request_log
from penstock_gateway.settings_deployments import model_folder
from penstock_gateway.settings_models import Settings
from penstock_gateway.workers.shares import encoder_address, shares_encoder
from penstock_gateway.workers.task import READY, RELOAD, WorkerTask

_log = logging.getLogger("penstock.workers")

BACKLOG: Final = 2048
START_SECONDS = 120.0
"""Until a worker takes requests; an artifact from a URL may take its time."""
STOP_SECONDS: Final = 20.0
"""Beyond ``server.drain_seconds``: for closing the ledger and the log of events."""
SILENT_SECONDS = 30.0
"""Without a sign of life, until a worker is taken for dead: its connections hang, and so would half of the new ones.
Likewise the process that encodes for all, for which every prompt would wait."""
SOUND_SECONDS: Final = 10.0
"""A process that has lived so long is started anew after the shortest pause; for others the pause doubles."""
PAUSES: Final = (0.2, 30.0)
"""Shortest and longest pause, seconds."""
TAKES_TURNS: Final = {"UV_TCP_SINGLE_ACCEPT": "1"}
"""For workers that share one socket: otherwise libuv takes all connections that wait, and one worker has them all."""
ENCODER: Final = "encoder"
_SHORT_BASE: Final = "/tmp"
_LONGEST_BASE: Final = 60
"""Bytes; sun_path of unix(7) has 108, 104 on other systems, and ``/penstock-abcdefgh/worker-63.sock`` takes 33."""
_FIRST: Final = "0"
_WORKER_COMMAND: Final = (sys.executable, "-m", "penstock_gateway.workers.process")
_ENCODER_COMMAND: Final = (sys.executable, "-m", "penstock_gateway.workers.encoder_process")


@dataclass(slots=True, eq=False)
class _Child:
    """A process that was started, and our end of the socket to it, if there is one."""

    name: str
    process: asyncio.subprocess.Process
    started_at: float
    heard_at: float
    control: socket.socket | None = None
    is_ready: asyncio.Event = field(default_factory=asyncio.Event)


class Supervisor:
    """Runs the workers of one gateway.

    Parameters
    ----------
    settings : Settings
        As configured; ``server.workers`` of them.
    listener : socket
        Bound; shared where the kernel spreads connections (`listening.SPREADS_CONNECTIONS`).
    task : WorkerTask
        What is the same for all: the command line's options.
    command : sequence of str
        Starts a worker.
    encoder_command : sequence of str
        Starts the process that encodes for all; empty for none.
    clock : callable
        Monotonic seconds.
    """

    def __init__(
        self,
        settings: Settings,
        listener: socket.socket,
        task: WorkerTask,
        *,
        command: Sequence[str] = _WORKER_COMMAND,
        encoder_command: Sequence[str] = (),
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._count = settings.server.workers
        self._stop_seconds = settings.server.drain_seconds + STOP_SECONDS
        self._listener = listener
        self._task = task
        self._command = command
        self._encoder_command = encoder_command
        self._clock = clock
        self._children: dict[str, _Child] = {}
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
        if not SPREADS_CONNECTIONS:
            self._listener.listen(BACKLOG)
        loop = asyncio.get_running_loop()
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, self._stop)
        loop.add_signal_handler(signal.SIGHUP, self._hang_up)
        # of mode 0700: the workers trust whoever can open what is in it
        with tempfile.TemporaryDirectory(prefix="penstock-", dir=_short_base(), ignore_cleanup_errors=True) as folder:
            encoder = encoder_address(folder) if self._encoder_command else None
            self._task = msgspec.structs.replace(self._task, count=self._count, folder=folder, encoder=encoder)
            try:
                return await self._run()
            finally:
                for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
                    loop.remove_signal_handler(number)

    async def _run(self) -> bool:
        keeping = []
        if self._encoder_command:
            keeping.append(asyncio.create_task(self._keep(ENCODER, self._start_encoder)))
        starters = [self._worker_starter(index) for index in range(self._count)]
        has_started = await self._first_starts(starters[0])
        if has_started:
            for index, start in enumerate(starters):
                keeping.append(asyncio.create_task(self._keep(str(index), start)))
            keeping.append(asyncio.create_task(self._replace_silent()))
            await self._is_stopping.wait()
        was_told = self._is_stopping.is_set()
        self._is_stopping.set()
        await self._end()
        await asyncio.gather(*keeping)
        return has_started or was_told

    async def _first_starts(self, start: Callable[[], Awaitable[_Child]]) -> bool:
        """Start one worker and wait for it: what keeps it from starting is said once and not by every one."""
        worker = await start()
        ways = [
            asyncio.ensure_future(wait)
            for wait in (worker.is_ready.wait(), worker.process.wait(), self._is_stopping.wait())
        ]
        await asyncio.wait(ways, timeout=START_SECONDS, return_when=asyncio.FIRST_COMPLETED)
        for way in ways:
            way.cancel()
        if worker.process.returncode is None and not worker.is_ready.is_set() and not self._is_stopping.is_set():
            _log.error("worker_not_ready", extra={"worker": _FIRST, "seconds": START_SECONDS})
        return worker.is_ready.is_set()

    async def _keep(self, name: str, start: Callable[[], Awaitable[_Child]]) -> None:
        """Have a process running until the end."""
        pause = PAUSES[0]
        while not self._is_stopping.is_set():
            try:
                child = self._children.get(name) or await start()
            except OSError as error:  # no process or descriptor is left to be had, or the program is being exchanged
                pause = min(pause * 2, PAUSES[1])
                fields: dict[str, object] = {"worker": name, "problem": str(error), "again_in_seconds": pause}
                _log.error("worker_not_started", extra=fields)
            else:
                code = await child.process.wait()
                self._forget(child)
                if self._is_stopping.is_set():
                    return
                lived = self._clock() - child.started_at
                pause = PAUSES[0] if lived >= SOUND_SECONDS else min(pause * 2, PAUSES[1])
                fields = {"worker": name, "code": code, "lived_seconds": round(lived, 1), "again_in_seconds": pause}
                _log.error("worker_ended", extra=fields)
            with suppress(TimeoutError):
                async with asyncio.timeout(pause):
                    await self._is_stopping.wait()

    async def _replace_silent(self) -> None:
        """Kill a process whose event loop has stood still for long, or that never starts; `_keep` starts another."""
        while not self._is_stopping.is_set():
            with suppress(TimeoutError):
                async with asyncio.timeout(SILENT_SECONDS / 10):
                    await self._is_stopping.wait()
            if (encoder := self._children.get(ENCODER)) is not None:
                await self._ask_for_life(encoder)
            for worker in list(self._children.values()):
                silent = self._clock() - worker.heard_at
                most = SILENT_SECONDS if worker.is_ready.is_set() else START_SECONDS
                if silent > most and not self._is_stopping.is_set():
                    _log.error("worker_stands_still", extra={"worker": worker.name, "seconds": round(silent, 1)})
                    worker.heard_at = self._clock()
                    self._send(signal.SIGKILL, [worker])

    async def _ask_for_life(self, encoder: _Child) -> None:
        """Note that the process that encodes answers: it greets whoever connects, or turns one too many away."""
        assert self._task.encoder is not None
        path = self._task.encoder.removeprefix("unix:")
        with suppress(OSError):  # a deadline that is past is one too
            async with asyncio.timeout(SILENT_SECONDS / 10):
                reader, writer = await asyncio.open_unix_connection(path)
                try:
                    await reader.read(1)
                finally:
                    writer.transport.abort()
            encoder.heard_at = self._clock()
            encoder.is_ready.set()

    def _worker_starter(self, index: int) -> Callable[[], Awaitable[_Child]]:
        starts = itertools.count(1)

        async def start() -> _Child:
            ours, theirs = socket.socketpair()
            ours.setblocking(False)
            with theirs, self._socket_of_worker() as shared:
                listener, control = shared.fileno(), theirs.fileno()
                child = await self._start(str(index), self._command, ours, pass_fds=(listener, control))
                task = msgspec.structs.replace(
                    self._task, index=index, listener=listener, control=control, starts=next(starts)
                )
                assert child.process.stdin is not None
                with suppress(ConnectionError):  # it has ended already
                    child.process.stdin.write(msgspec.json.encode(task))
                    await child.process.stdin.drain()
                    child.process.stdin.close()
            asyncio.get_running_loop().add_reader(ours, self._hear, child)
            return child

        return start

    def _socket_of_worker(self) -> socket.socket:
        """Return a worker's own socket on the address, which listens when the worker is ready, or the one of all."""
        if not SPREADS_CONNECTIONS:
            return self._listener.dup()
        host, port = self._listener.getsockname()[:2]
        return bound_socket(host, port, is_shared=True)

    async def _start_encoder(self) -> _Child:
        """Start the process that encodes for all; the open end of its standard input tells it that we are there."""
        assert self._task.encoder is not None
        return await self._start(ENCODER, (*self._encoder_command, "--listen", self._task.encoder), None)

    async def _start(
        self, name: str, command: Sequence[str], control: socket.socket | None, *, pass_fds: Sequence[int] = ()
    ) -> _Child:
        process = await asyncio.create_subprocess_exec(
            *command,
            stdin=asyncio.subprocess.PIPE,
            env={**TAKES_TURNS, **os.environ},
            pass_fds=pass_fds,
            process_group=0,  # a terminal's signals come to this process alone, which passes them on
        )
        child = self._children[name] = _Child(name, process, self._clock(), self._clock(), control)
        if self._is_stopping.is_set():  # told while it was being started
            self._send(signal.SIGTERM, [child])
        return child

    def _hear(self, worker: _Child) -> None:
        """Note that a worker takes requests, or that its end of the socket is closed."""
        assert worker.control is not None
        try:
            heard = worker.control.recv(64)
        except BlockingIOError:
            return
        except OSError:
            heard = b""
        if heard:
            worker.heard_at = self._clock()
            if READY in heard:
                worker.is_ready.set()
                _log.info("worker_ready", extra={"worker": worker.name, "process_id": worker.process.pid})
        else:
            asyncio.get_running_loop().remove_reader(worker.control)

    def _forget(self, child: _Child) -> None:
        if child.control is not None:
            asyncio.get_running_loop().remove_reader(child.control)
            child.control.close()
        self._children.pop(child.name, None)

    def _stop(self) -> None:
        """End all workers in an orderly way; asked again, at once."""
        self._signals += 1
        self._is_stopping.set()
        if self._signals > 1:
            self._send(signal.SIGINT, self._workers())  # to a server that is stopping, the order not to wait

    def _hang_up(self) -> None:
        """Have the configuration read, by one worker that tells the others; stop when the terminal is gone."""
        if self._had_terminal and not os.isatty(2):
            self._stop()
            return
        for worker in self._workers():
            if worker.is_ready.is_set() and worker.control is not None:
                with suppress(OSError):
                    worker.control.send(RELOAD)
                    return
        _log.warning("reload_without_worker")

    async def _end(self) -> None:
        """End all processes: in an orderly way, and after `STOP_SECONDS` beyond the drain by force."""
        await self._ended(self._workers())
        await self._ended(list(self._children.values()))  # the one that encodes for them is needed until then

    async def _ended(self, children: list[_Child]) -> None:
        self._send(signal.SIGTERM, children)
        ending = {asyncio.ensure_future(child.process.wait()): child for child in children}
        if not ending:
            return
        _, late = await asyncio.wait(ending, timeout=self._stop_seconds)
        if late:
            killed = [ending[end] for end in late]
            fields = {"workers": sorted(child.name for child in killed), "seconds": self._stop_seconds}
            _log.error("workers_killed", extra=fields)
            self._send(signal.SIGKILL, killed)
            await asyncio.wait(late)

    def _workers(self) -> list[_Child]:
        return [child for name, child in sorted(self._children.items()) if name != ENCODER]

    def _send(self, number: signal.Signals, children: list[_Child]) -> None:
        for child in children:
            with suppress(ProcessLookupError):
                child.process.send_signal(number)


def _short_base() -> str | None:
    """Return where a folder of socket files is made: a path to one holds no more than some hundred bytes."""
    return _SHORT_BASE if len(os.fsencode(tempfile.gettempdir())) > _LONGEST_BASE else None


def supervise(settings: Settings, listener: socket.socket, task: WorkerTask) -> bool:
    """Run the workers of a gateway until told to stop; see `Supervisor.run`.

    Parameters
    ----------
    settings : Settings
    listener : socket
        Bound.
    task : WorkerTask

    Raises
    ------
    OSError
        There is no place for the workers' socket files, or no process can be started.
    """
    stop_log = start_request_log(level=settings.log.level, on_drop=lambda: None)
    encoder_command: tuple[str, ...] = ()
    if shares_encoder(settings, _has_gpu_build):
        folder = str(model_folder(settings.routing.encoder))
        encoder_command = (*_ENCODER_COMMAND, "--encoder", folder, "--device", settings.routing.device)

    async def run() -> bool:
        return await Supervisor(settings, listener, task, encoder_command=encoder_command).run()

    try:
        return asyncio.run(run())
    finally:
        stop_log()


def _has_gpu_build() -> bool:
    """Whether the build of ONNX Runtime for GPUs is installed; it is not imported here."""
    try:
        metadata.distribution("onnxruntime-gpu")
    except metadata.PackageNotFoundError:
        return False
    return True
