"""Redis servers that a test may stop, pause, restart or exchange, a cluster of two, and a proxy that delays.

Owns the processes and their folders; all are gone afterwards. Read `ControlledRedis`.
"""

from __future__ import annotations

import asyncio
import shutil
import signal
import socket
import subprocess
import tempfile
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager, suppress
from pathlib import Path

import redis

START_SECONDS = 15.0
_BUS_OFFSET = 10_000  # a cluster's nodes talk on their port and this many above it


class ControlledRedis:
    """One server on one port, whatever happens to its process.

    Attributes
    ----------
    port : int
    url : str
    """

    def __init__(self, binary: str, folder: Path, **settings: str) -> None:
        self.port = _free_port()
        self.url = f"redis://127.0.0.1:{self.port}/0"
        self._binary = binary
        self._folder = folder
        self._settings = settings
        self._process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        """Start an empty server and return when it answers."""
        settings = {
            "bind": "127.0.0.1",
            "port": str(self.port),
            "save": "",
            "appendonly": "no",
            "dir": str(self._folder),
            "maxmemory": "64mb",
            **self._settings,
        }
        arguments = [text for name, value in settings.items() for text in (f"--{name}", value)]
        silent = {"stdin": subprocess.DEVNULL, "stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}
        self._process = subprocess.Popen([self._binary, *arguments], **silent)
        deadline = time.monotonic() + START_SECONDS
        while time.monotonic() < deadline:
            with suppress(redis.RedisError), self.client() as client:
                client.ping()
                return
            if self._process.poll() is not None:
                raise RuntimeError(f"redis-server ended with status {self._process.returncode}")
            time.sleep(0.02)
        raise RuntimeError("redis-server did not answer")

    def client(self) -> redis.Redis:
        """Return a plain client, for the test's own use."""
        return redis.Redis(port=self.port, socket_timeout=10)

    def kill(self) -> None:
        """Kill the process; its data are gone."""
        if self._process is not None:
            self._process.send_signal(signal.SIGCONT)
            self._process.kill()
            self._process.wait(10)
            self._process = None

    def pause(self) -> None:
        """Stop the process without closing its connections."""
        assert self._process is not None
        self._process.send_signal(signal.SIGSTOP)

    def resume(self) -> None:
        """Let a paused process go on."""
        assert self._process is not None
        self._process.send_signal(signal.SIGCONT)


@contextmanager
def controlled_redis(binary: str, **settings: str) -> Iterator[ControlledRedis]:
    """Run a server that the test may do anything to."""
    folder = Path(tempfile.mkdtemp(prefix="penstock-redis-"))
    server = ControlledRedis(binary, folder, **settings)
    try:
        server.start()
        yield server
    finally:
        server.kill()
        shutil.rmtree(folder, ignore_errors=True)


@contextmanager
def redis_cluster(binary: str) -> Iterator[str]:
    """Run a cluster of two servers with half of the slots each, and yield its URL."""
    folders = [Path(tempfile.mkdtemp(prefix="penstock-redis-")) for _ in range(2)]
    servers = [ControlledRedis(binary, folder, **{"cluster-enabled": "yes"}) for folder in folders]
    try:
        for number, server in enumerate(servers):
            server.start()
            with server.client() as client:
                client.execute_command("CLUSTER", "ADDSLOTS", *range(8192 * number, 8192 * (number + 1)))
        with servers[0].client() as client:
            client.execute_command("CLUSTER", "MEET", "127.0.0.1", str(servers[1].port))
        _wait_until_whole(servers)
        yield f"redis+cluster://127.0.0.1:{servers[0].port}"
    finally:
        for server, folder in zip(servers, folders, strict=True):
            server.kill()
            shutil.rmtree(folder, ignore_errors=True)


def _wait_until_whole(servers: list[ControlledRedis]) -> None:
    deadline = time.monotonic() + START_SECONDS
    for server in servers:
        with server.client() as client:
            client.set_response_callback("CLUSTER INFO", lambda reply, **_: reply)
            while b"cluster_state:ok" not in client.execute_command("CLUSTER INFO"):
                if time.monotonic() > deadline:
                    raise RuntimeError("the cluster did not form")
                time.sleep(0.05)


def _free_port() -> int:
    """Return a port that is free together with the one on which a cluster's node talks to others."""
    for _ in range(1_000):
        with socket.socket() as probe, socket.socket() as bus:
            probe.bind(("127.0.0.1", 0))
            port: int = probe.getsockname()[1]
            with suppress(OSError, OverflowError):
                bus.bind(("127.0.0.1", port + _BUS_OFFSET))
                return port
    raise RuntimeError("no pair of free ports")


class SlowProxy:
    """Passes bytes on to a server, each piece of a reply later by `delay_seconds`; may also answer itself.

    Attributes
    ----------
    delay_seconds : float
    garbage : bytes or None
        Sent instead of every reply when set.
    """

    def __init__(self, target_port: int) -> None:
        self.delay_seconds = 0.0
        self.garbage: bytes | None = None
        self._target_port = target_port
        self._tasks: set[asyncio.Task[None]] = set()

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        upstream_reader, upstream_writer = await asyncio.open_connection("127.0.0.1", self._target_port)
        back = asyncio.create_task(self._pump(upstream_reader, writer, is_reply=True))
        self._tasks.add(back)
        try:
            await self._pump(reader, upstream_writer, is_reply=False)
        finally:
            back.cancel()
            self._tasks.discard(back)
            upstream_writer.close()
            writer.close()

    async def _pump(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, *, is_reply: bool) -> None:
        with suppress(ConnectionError):
            while piece := await reader.read(65_536):
                if is_reply:
                    await asyncio.sleep(self.delay_seconds)
                    piece = piece if self.garbage is None else self.garbage
                writer.write(piece)
                await writer.drain()


@asynccontextmanager
async def slow_proxy(target_port: int) -> AsyncIterator[tuple[SlowProxy, str]]:
    """Run a proxy in front of a server, and yield it with its URL."""
    proxy = SlowProxy(target_port)
    server = await asyncio.start_server(proxy._serve, "127.0.0.1", 0)
    port = server.sockets[0].getsockname()[1]
    try:
        yield proxy, f"redis://127.0.0.1:{port}/0"
    finally:
        server.close()
        for task in list(proxy._tasks):
            task.cancel()
        await asyncio.sleep(0)
