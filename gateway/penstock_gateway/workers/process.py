"""One worker: a whole gateway on a socket that it is given, which the process that started it can end.

Started as ``python -m penstock_gateway.workers.process``, never by a person; what it is to do comes over its standard
input. Read `main`, then `work`.
"""

from __future__ import annotations

import asyncio
import logging
import os
import signal
import socket
import sys
from collections.abc import Awaitable, Callable
from contextlib import suppress
from pathlib import Path
from typing import Final
from urllib.parse import parse_qs

import msgspec
from prometheus_client import Gauge

from penstock_gateway.app import PenstockApp, create_app
from penstock_gateway.asgi import ONLY_REMEMBERED, Receive, Scope, Send, send_body
from penstock_gateway.configuration_problems import ConfigurationError
from penstock_gateway.configurations import reloading_app
from penstock_gateway.reloading import BY_WORKER, NOT_RUNNING, ReloadingApp, ReloadOutcome
from penstock_gateway.server import serve
from penstock_gateway.settings_restart import ConfigurationReader
from penstock_gateway.workers.edge import WorkerEdge
from penstock_gateway.workers.peers import RELOAD_SECONDS, Peers, PeerServer, Question
from penstock_gateway.workers.shares import settings_of_worker
from penstock_gateway.workers.states import WorkerState, decode_state, encode_state, state_of
from penstock_gateway.workers.task import ALIVE, ALIVE_SECONDS, READY, WorkerTask

_log = logging.getLogger("penstock.workers")

EXIT_REFUSED: Final = 1
_RELOAD_PATH: Final = "/workers/reload"
_STATE_PATH: Final = "/workers/state"


class Watched:
    """The worker's end of the socket to the process that watches it; fulfils `reloading.Trigger`.

    It says when requests are taken and that it is alive, hears when the configuration is to be read, and stops when
    nobody watches any more.

    Parameters
    ----------
    control : socket
    folder : Path
        Of the workers' socket files; removed by the last worker where nobody watches any more.
    """

    def __init__(self, control: socket.socket, folder: Path) -> None:
        control.setblocking(False)
        self._folder = folder
        self._control = control
        self._reload: Callable[[str], Awaitable[ReloadOutcome]] | None = None
        self._reloads: set[asyncio.Task[ReloadOutcome]] = set()
        self._is_left_alone = False

    def start(self, reload: Callable[[str], Awaitable[ReloadOutcome]]) -> None:
        """Say that requests are taken, and listen from now on."""
        self._reload = reload
        asyncio.get_running_loop().add_reader(self._control, self._hear)
        self._control.send(READY)
        self._give_sign()

    async def aclose(self) -> None:
        """Listen no more; safe to call twice. Signs of life go on: finishing answers may take a while."""
        asyncio.get_running_loop().remove_reader(self._control)
        if self._is_left_alone:
            with suppress(OSError):  # another worker still has its socket there
                self._folder.rmdir()

    def _give_sign(self) -> None:
        try:
            self._control.send(ALIVE)
        except BlockingIOError:
            pass  # nobody reads at the moment
        except OSError:
            return  # nobody ever will
        asyncio.get_running_loop().call_later(ALIVE_SECONDS, self._give_sign)

    def _hear(self) -> None:
        try:
            heard = self._control.recv(64)
        except BlockingIOError:
            return
        except OSError:
            heard = b""
        if not heard:
            asyncio.get_running_loop().remove_reader(self._control)
            self._is_left_alone = True
            _log.warning("worker_left_alone", extra={"process_id": os.getpid()})
            signal.raise_signal(signal.SIGTERM)
            return
        assert self._reload is not None
        task = asyncio.ensure_future(self._reload("signal"))
        self._reloads.add(task)
        task.add_done_callback(self._reloads.discard)


class PeerApp:
    """What other workers may ask: all that clients may, and for the whole of what this one knows.

    Parameters
    ----------
    app : ReloadingApp
    gateway : PenstockApp
        Inside of `app`.
    """

    def __init__(self, app: ReloadingApp, gateway: PenstockApp) -> None:
        self._app = app
        self._gateway = gateway

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one request."""
        path = scope["path"]
        if path == _RELOAD_PATH:
            outcome = await self._app.reload(BY_WORKER)
            await send_body(send, 200, msgspec.json.encode(outcome.as_json()), "application/json")
        elif path == _STATE_PATH:
            asked = parse_qs(scope["query_string"].decode("ascii")).get("records", ["0"])
            state = state_of(self._gateway.pipeline, int(asked[0]))
            await send_body(send, 200, encode_state(state), "application/msgpack")
        else:
            await self._app({**scope, ONLY_REMEMBERED: True}, receive, send)


def main() -> int:
    """Run a worker until it is told to stop; returns the exit code."""
    task = msgspec.json.decode(sys.stdin.buffer.read(), type=WorkerTask)
    signal.signal(signal.SIGHUP, signal.SIG_IGN)  # `pkill -HUP` finds every process; the one that watches passes it on
    reader = ConfigurationReader(
        None if task.config is None else Path(task.config),
        os.environ,
        host=task.host,
        port=task.port,
        workers=task.workers,
        is_insecure=task.is_insecure,
        adapt=lambda settings: settings_of_worker(settings, task.index, task.encoder),
    )
    try:
        return work(task, reader)
    except ConfigurationError as error:  # the file has changed since the gateway started
        for problem in error.problems:
            sys.stderr.write(f"penstock: worker {task.index}: {problem}\n")
        return EXIT_REFUSED


def work(task: WorkerTask, reader: ConfigurationReader) -> int:
    """Serve until told to stop.

    Parameters
    ----------
    task : WorkerTask
    reader : ConfigurationReader

    Returns
    -------
    int
        Exit code.

    Raises
    ------
    ConfigurationError
    """
    settings = reader.first()
    gateway = create_app(settings)
    peers = Peers(Path(task.folder), task.index, task.count)

    async def reload_others() -> dict[int, str]:
        answers = await peers.ask_all(Question("POST", _RELOAD_PATH), RELOAD_SECONDS)
        return {a.worker: _result(a.status, a.body) for a in answers}

    async def states(records: int) -> list[WorkerState]:
        answers = await peers.ask_all(Question("GET", f"{_STATE_PATH}?records={records // task.count}"))
        return [decode_state(answer.body) for answer in answers if answer.status == 200]

    Gauge(
        "penstock_worker_starts",
        "How often this worker's place has been filled since the gateway was started.",
        registry=gateway.pipeline.metrics.registry,
    ).set(task.starts)
    gateway.running.worker, gateway.running.other_workers = task.index, states

    async def answer_peer(scope: Scope, receive: Receive, send: Send) -> None:
        await peer_app(scope, receive, send)

    triggers = (
        PeerServer(answer_peer, peers.folder, task.index),
        Watched(socket.socket(fileno=task.control), peers.folder),  # last: it says that all is ready, and goes last
    )
    app = reloading_app(gateway, settings, reader, triggers=triggers, reload_others=reload_others)
    peer_app = PeerApp(app, gateway)
    listener = socket.socket(fileno=task.listener)
    is_served = serve(settings, app, listener=listener, front=WorkerEdge(app, peers))
    return 0 if is_served else EXIT_REFUSED


def _result(status: int, body: bytes) -> str:
    if status == 0:
        return NOT_RUNNING
    if status != 200:
        return "no_answer"
    result: str = msgspec.json.decode(body)["result"]
    return result


if __name__ == "__main__":
    sys.exit(main())
