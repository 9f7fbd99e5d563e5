"""A Ray cluster of two workers on this machine, with a token of its own, for tests and benches."""

from __future__ import annotations

import os
import re
import secrets
import socket
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

_ROOT = Path(__file__).resolve().parents[2]
_STARTED = re.compile(r"--address='([^']+)'")
_OBJECT_STORE_BYTES = 400_000_000


@dataclass(frozen=True)
class RayCluster:
    """A running cluster.

    Attributes
    ----------
    address : str
        For a process on this machine, ``HOST:PORT``.
    client_address : str
        For one anywhere, ``ray://127.0.0.1:PORT``.
    environment : dict of str to str
        What a process needs to be let in.
    pid : int
        Of the process that all others of the cluster descend from.
    """

    address: str
    client_address: str
    environment: dict[str, str]
    pid: int


@contextmanager
def local_ray(temporary: Path, workers: int = 2) -> Iterator[RayCluster]:
    """Start a cluster and stop it, and nothing else that runs on this machine.

    Parameters
    ----------
    temporary : Path
        Folder for logs and sockets; its path must be short, since a socket's is limited to 107 bytes.
    workers : int
        Tasks that run at a time.
    """
    port, client_port = _free_ports(2)
    access = {"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN": secrets.token_hex(32), "RAY_USAGE_STATS_ENABLED": "0"}
    patience = {"TIMEOUT_FOR_SPECIFIC_SERVER_S": "120"}  # of the server behind ray://, on a busy machine
    paths = [str(_ROOT / "tests"), *sys.path]
    environment = {**os.environ, **access, **patience, "PYTHONPATH": os.pathsep.join(path for path in paths if path)}
    command = [
        str(Path(sys.executable).parent / "ray"), "start", "--head", "--block", f"--num-cpus={workers}",
        f"--port={port}", f"--ray-client-server-port={client_port}", "--include-dashboard=false",
        f"--temp-dir={temporary}", f"--object-store-memory={_OBJECT_STORE_BYTES}", "--disable-usage-stats",
    ]  # fmt: skip
    with subprocess.Popen(
        command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    ) as process:
        try:
            yield RayCluster(_wait(process), f"ray://127.0.0.1:{client_port}", environment, process.pid)
        finally:
            process.terminate()


def _wait(process: subprocess.Popen[str]) -> str:
    assert process.stdout is not None
    said, address = [], None
    for line in process.stdout:
        said.append(line)
        if found := _STARTED.search(line):
            address = found.group(1)
        if "block forever" in line and address is not None:
            return address
    raise RuntimeError("Ray did not start:\n" + "".join(said))


def _free_ports(count: int) -> list[int]:
    sockets = [socket.socket() for _ in range(count)]
    try:
        for each in sockets:
            each.bind(("127.0.0.1", 0))
        return [each.getsockname()[1] for each in sockets]
    finally:
        for each in sockets:
            each.close()
