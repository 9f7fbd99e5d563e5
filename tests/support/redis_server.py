"""A real ``redis-server`` of our own: started on a free loopback port, without persistence, gone afterwards.

Owns the process and its folder. Never talks to a Redis that somebody else runs. Read `running_redis` first.
"""

from __future__ import annotations

import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

START_TIMEOUT_SECONDS = 10.0
STOP_TIMEOUT_SECONDS = 5.0
START_ATTEMPTS = 3
NOT_INSTALLED = "redis-server is not installed"
HOW_TO_GET_IT = (
    f"{NOT_INSTALLED}: run `make test INSTALL_SYSTEM=1`, or install it yourself "
    "(Debian and Ubuntu: `sudo apt-get install redis-server`, macOS: `brew install redis`)"
)


class RedisNotStarted(RuntimeError):
    """The server ended or did not answer in time; the message holds the end of its log."""


@dataclass(frozen=True, slots=True)
class RedisServer:
    """One running server.

    Attributes
    ----------
    url : str
        ``redis://127.0.0.1:<port>/0``.
    port : int
    process_id : int
    folder : Path
        Its working folder; removed when it stops.
    """

    url: str
    port: int
    process_id: int
    folder: Path


def redis_binary() -> str | None:
    """Return the path of ``redis-server``, or None when this machine has none."""
    return shutil.which("redis-server")


@contextmanager
def running_redis(binary: str) -> Iterator[RedisServer]:
    """Run a server for the duration of a ``with`` block, and stop it however the block ends.

    Parameters
    ----------
    binary : str
        Path of ``redis-server``.

    Yields
    ------
    RedisServer
        It has answered a PING.

    Raises
    ------
    RedisNotStarted
        It did not come up in `START_TIMEOUT_SECONDS`, `START_ATTEMPTS` times.

    Notes
    -----
    The port is found by binding port 0 and letting go of it, so another process may take it in between; that is why a
    failed start is tried again on another port. A watcher process stops the server when this process dies
    without unwinding (``kill -9``, a crashed test worker).
    """
    folder = Path(tempfile.mkdtemp(prefix="penstock-redis-"))
    try:
        process, port = _start(binary, folder)
        watcher = _watch(process.pid, folder)
        try:
            yield RedisServer(f"redis://127.0.0.1:{port}/0", port, process.pid, folder)
        finally:
            _stop(process)
            _stop(watcher)
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def _start(binary: str, folder: Path) -> tuple[subprocess.Popen[bytes], int]:
    for attempt in range(START_ATTEMPTS):
        port = _free_port()
        process = _spawn(binary, folder, port)
        try:
            _wait_for_pong(process, port)
        except RedisNotStarted as error:
            _stop(process)
            if attempt == START_ATTEMPTS - 1:
                log = folder / "redis.log"
                tail = log.read_text(errors="replace")[-2000:] if log.exists() else "no log"
                raise RedisNotStarted(f"{error}; its log ends: {tail}") from None
        else:
            return process, port
    raise AssertionError("unreachable: the last attempt returns or raises")


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


def _spawn(binary: str, folder: Path, port: int) -> subprocess.Popen[bytes]:
    settings = {
        "bind": "127.0.0.1",
        "port": str(port),
        "save": "",
        "appendonly": "no",
        "dir": str(folder),
        "logfile": str(folder / "redis.log"),
        "daemonize": "no",
        "maxmemory": "64mb",
    }
    arguments = [text for name, value in settings.items() for text in (f"--{name}", value)]
    return subprocess.Popen(
        [binary, *arguments], stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    )


def _wait_for_pong(process: subprocess.Popen[bytes], port: int) -> None:
    deadline = time.monotonic() + START_TIMEOUT_SECONDS
    while time.monotonic() < deadline:
        if process.poll() is not None:
            raise RedisNotStarted(f"redis-server ended with status {process.returncode}")
        if _answers_ping(port):
            # Whoever answers on the port must be our process: had ours lost the port, it would have ended.
            time.sleep(0.02)
            if process.poll() is None:
                return
        time.sleep(0.02)
    raise RedisNotStarted(f"redis-server did not answer in {START_TIMEOUT_SECONDS:g} s")


def _answers_ping(port: int) -> bool:
    try:
        with socket.create_connection(("127.0.0.1", port), timeout=1.0) as connection:
            connection.sendall(b"PING\r\n")
            return connection.recv(64).startswith(b"+PONG")
    except OSError:
        return False


_WATCHER = """
import os, shutil, signal, sys
sys.stdin.read()  # returns when the parent closes its end or dies
try:
    os.kill(int(sys.argv[1]), signal.SIGKILL)
except ProcessLookupError:
    pass
shutil.rmtree(sys.argv[2], ignore_errors=True)
"""


def _watch(process_id: int, folder: Path) -> subprocess.Popen[bytes]:
    """Start a process that outlives us just long enough to kill the server when we die without unwinding."""
    return subprocess.Popen(
        [sys.executable, "-I", "-S", "-c", _WATCHER, str(process_id), str(folder)],
        stdin=subprocess.PIPE,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        start_new_session=True,
    )


def _stop(process: subprocess.Popen[bytes]) -> None:
    if process.poll() is None:
        process.send_signal(signal.SIGTERM)
        try:
            process.wait(STOP_TIMEOUT_SECONDS)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait(STOP_TIMEOUT_SECONDS)
    if process.stdin is not None:
        process.stdin.close()


def is_running(process_id: int) -> bool:
    """Whether a process with this id exists (a zombie counts: nobody has reaped it)."""
    try:
        os.kill(process_id, 0)
    except ProcessLookupError:
        return False
    return True
