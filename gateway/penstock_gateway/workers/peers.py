"""How one worker asks another: HTTP over a socket file that only this user may open.

Owns the paths of the socket files, the deadline, and what a worker that does not answer comes to. What is asked are the
gateway's own paths, with the caller's own credential, and a few that exist here alone. Read `Peers.ask_all`, then
`PeerServer`.
"""

from __future__ import annotations

import asyncio
import http.client
import logging
import socket
from collections.abc import Awaitable, Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path
from typing import Final

import msgspec

from penstock_gateway.admin_server import QuietServer
from penstock_gateway.asgi import Receive, Scope, Send
from penstock_gateway.bounded_http import BoundedHttp
from penstock_gateway.reloading import ReloadOutcome

_log = logging.getLogger("penstock.workers")

ASK_SECONDS: Final = 2.0
"""For a worker's answer; one that hangs must not keep a scrape from the others' figures."""
RELOAD_SECONDS: Final = 90.0
MAX_ANSWER_BYTES: Final = 64 << 20
_STOP_SECONDS: Final = 2
_THREADS: Final = 32
"""Questions that wait at a time, or one for each worker when there are more of these."""
_HOPS: Final = frozenset({b"connection", b"keep-alive", b"transfer-encoding", b"content-length", b"upgrade", b"te"})

AsgiApp = Callable[[Scope, Receive, Send], Awaitable[None]]
RawHeaders = Sequence[tuple[bytes, bytes]]


class Question(msgspec.Struct, frozen=True):
    """A request to another worker.

    Attributes
    ----------
    method, target : str
        Target is path and query.
    headers : sequence of (bytes, bytes)
    body : bytes
    """

    method: str
    target: str
    headers: RawHeaders = ()
    body: bytes = b""


class Answer(msgspec.Struct, frozen=True):
    """What another worker said.

    Attributes
    ----------
    worker : int
    status : int
        0: it does not run (its socket is closed); 504: it did not answer in time.
    headers : list of (bytes, bytes)
    body : bytes
    """

    worker: int
    status: int
    headers: list[tuple[bytes, bytes]]
    body: bytes = b""


class Peers:
    """The other workers of this gateway.

    Parameters
    ----------
    folder : Path
        Of the socket files; nobody else can look into it.
    index : int
        Of this worker.
    count : int
        Of all.
    """

    def __init__(self, folder: Path, index: int, count: int) -> None:
        self.folder = folder
        self.index = index
        self.count = count
        # its own: those who wait for a silent worker must not keep the loop's threads from looking up providers' names
        self._threads = ThreadPoolExecutor(max(_THREADS, count), thread_name_prefix="penstock-ask")

    async def ask_all(self, question: Question, seconds: float = ASK_SECONDS) -> list[Answer]:
        """Ask every other worker at once.

        Parameters
        ----------
        question : Question
        seconds : float
            For the whole answer of each.

        Returns
        -------
        list of Answer
            In the order of the workers; always one of each.
        """
        others = [worker for worker in range(self.count) if worker != self.index]
        return list(await asyncio.gather(*(self._ask_one(worker, question, seconds) for worker in others)))

    async def _ask_one(self, worker: int, question: Question, seconds: float) -> Answer:
        loop = asyncio.get_running_loop()
        connection = _SocketFileConnection(socket_path(self.folder, worker), seconds)
        deadline = loop.call_later(seconds, connection.give_up)
        try:
            return await loop.run_in_executor(self._threads, _ask, connection, worker, question)
        finally:
            deadline.cancel()


def socket_path(folder: Path, worker: int) -> Path:
    """Return where a worker listens for the others."""
    return folder / f"worker-{worker}.sock"


class PeerServer:
    """Answers the other workers; fulfils `reloading.Trigger`, as one of them may ask for a reload.

    Parameters
    ----------
    app : callable
        The gateway's application, by ASGI, without what asks other workers.
    folder : Path
    index : int
        Of this worker.
    """

    def __init__(self, app: AsgiApp, folder: Path, index: int) -> None:
        self._app = app
        self._path = socket_path(folder, index)
        self._server: QuietServer | None = None
        self._serving: asyncio.Task[None] | None = None

    def start(self, reload: Callable[[str], Awaitable[ReloadOutcome]]) -> None:
        """Listen from now on."""
        self._path.unlink(missing_ok=True)  # of the process that had this place before
        self._server = QuietServer.beside(
            self._app, BoundedHttp, uds=str(self._path), timeout_graceful_shutdown=_STOP_SECONDS
        )
        self._serving = asyncio.get_running_loop().create_task(self._server.serve(), name="penstock-peers")
        self._serving.add_done_callback(_say_failure)

    async def aclose(self) -> None:
        """Stop listening; safe to call twice."""
        server, serving = self._server, self._serving
        self._server = self._serving = None
        if server is None or serving is None:
            return
        server.should_exit = True
        _, late = await asyncio.wait((serving,), timeout=_STOP_SECONDS + 1)
        for task in late:
            server.force_exit = True
            task.cancel()
        await asyncio.gather(serving, return_exceptions=True)
        self._path.unlink(missing_ok=True)


def _say_failure(serving: asyncio.Task[None]) -> None:
    """Log why this worker cannot be asked; it serves on, and the others say that it does not answer."""
    if not serving.cancelled() and (error := serving.exception()) is not None:
        _log.error("worker_cannot_be_asked", extra={"problem": f"{type(error).__name__}: {error}"})


class _SocketFileConnection(http.client.HTTPConnection):
    """The standard library's, over a socket file; its time-out is for each operation, `give_up` ends them all."""

    def __init__(self, path: Path, seconds: float) -> None:
        super().__init__("localhost", timeout=seconds)
        self._path = path
        self._opened: socket.socket | None = None  # `sock` is forgotten once the head of the answer is read
        self.is_late = False

    def connect(self) -> None:
        """Connect."""
        self.sock = self._opened = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self.sock.settimeout(self.timeout)
        self.sock.connect(str(self._path))
        if self.is_late:  # given up while it waited for a thread or for the other side
            raise TimeoutError

    def give_up(self) -> None:
        """Have whatever is under way in another thread fail."""
        self.is_late = True
        if self._opened is not None:
            with suppress(OSError):
                self._opened.shutdown(socket.SHUT_RDWR)


def _ask(connection: _SocketFileConnection, worker: int, question: Question) -> Answer:
    """Ask one worker; blocks."""
    try:
        connection.connect()
    except (FileNotFoundError, ConnectionRefusedError):
        return Answer(worker, 0, [])
    except OSError as error:
        return _no_answer(worker, error)
    try:
        connection.putrequest(question.method, question.target, skip_host=True, skip_accept_encoding=True)
        has_host = False
        for name, value in question.headers:
            if name not in _HOPS:
                has_host = has_host or name == b"host"
                connection.putheader(name.decode("latin-1"), value)
        if not has_host:
            connection.putheader("host", "localhost")
        connection.putheader("content-length", str(len(question.body)))
        connection.endheaders(question.body or None)
        answered = connection.getresponse()
        headers = [(name.lower().encode("latin-1"), value.encode("latin-1")) for name, value in answered.getheaders()]
        body = answered.read(MAX_ANSWER_BYTES)
        return (
            _no_answer(worker, TimeoutError()) if connection.is_late else Answer(worker, answered.status, headers, body)
        )
    except (ConnectionError, http.client.RemoteDisconnected) as error:
        # it ended while it was asked: it is gone; or we gave up
        return _no_answer(worker, TimeoutError(str(error))) if connection.is_late else Answer(worker, 0, [])
    except (OSError, http.client.HTTPException) as error:
        return _no_answer(worker, error)
    finally:
        connection.close()


def _no_answer(worker: int, error: Exception) -> Answer:
    _log.warning("worker_does_not_answer", extra={"worker": worker, "problem": type(error).__name__})
    return Answer(worker, 504, [])
