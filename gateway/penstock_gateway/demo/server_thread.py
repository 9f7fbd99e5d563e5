"""One uvicorn server on a loopback port, in a thread of its own.

Owns start-up and shutdown only; the sockets come from `loopback`. Read `ServerThread`.
"""

from __future__ import annotations

import socket
import threading
import time
from types import TracebackType
from typing import Self

import uvicorn

START_TIMEOUT_SECONDS = 30.0
STOP_TIMEOUT_SECONDS = 5.0


class ServerThread:
    """Runs one server until the ``with`` block ends.

    Parameters
    ----------
    name : str
        For messages and for the thread.
    server : uvicorn.Server
        Not running yet; its own host and port are not used.
    listener : socket
        From `bind_loopback`; closed at the end.

    Raises
    ------
    RuntimeError
        On entry: the server did not start within `START_TIMEOUT_SECONDS`.

    Attributes
    ----------
    port : int
    """

    def __init__(self, name: str, server: uvicorn.Server, listener: socket.socket) -> None:
        self.port: int = listener.getsockname()[1]
        self._name = name
        self._listener = listener
        self._server = server
        self._thread = threading.Thread(target=self._serve, name=name, daemon=True)

    def __enter__(self) -> Self:
        """Start, and return when requests are accepted."""
        self._thread.start()
        deadline = time.monotonic() + START_TIMEOUT_SECONDS
        while not self._server.started:
            if not self._thread.is_alive() or time.monotonic() > deadline:
                self._stop()
                raise RuntimeError(f"the {self._name} did not start")
            time.sleep(0.01)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Stop accepting, let running requests end for two seconds, and release the port."""
        self._stop()

    def _serve(self) -> None:
        """Run the server; uvicorn leaves by SystemExit when start-up fails, which has been logged by then."""
        try:
            self._server.run(sockets=[self._listener])
        except SystemExit:
            return

    def _stop(self) -> None:
        self._server.should_exit = True
        self._thread.join(STOP_TIMEOUT_SECONDS)
        self._listener.close()
