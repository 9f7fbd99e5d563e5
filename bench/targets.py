"""Servers that are measured: how each is started, pinned, read and stopped; Penstock and the mock provider.

Owns processes and their configuration files, nothing about load. Every server listens on the loopback address and sends
to the same mock provider. Read `Target` and the ``*_target`` functions.
"""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from traffic import Traffic

LOOPBACK = "127.0.0.1"
BENCH_FOLDER = Path(__file__).resolve().parent
REPOSITORY = BENCH_FOLDER.parent
TIERS = ("small", "medium", "large", "frontier")
# USD per million tokens; any prices do, the mock provider bills nobody.
PRICES = {"small": (0.1, 0.4), "medium": (0.4, 1.6), "large": (2.5, 10), "frontier": (10, 30)}
PHYSICAL_MODEL = "mock-small"
CLIENT_KEY = "bench-key-of-no-worth-0001"
_CLOCK_TICKS = os.sysconf("SC_CLK_TCK")


class TargetError(Exception):
    """A server did not start."""


@dataclass(frozen=True, slots=True)
class Target:
    """One thing to measure.

    Attributes
    ----------
    name : str
    server : Server
        Whose processor time counts; several targets may share one.
    traffic : Traffic
        What it is asked.
    has_streams : bool
        Whether streams are measured too.
    """

    name: str
    server: Server
    traffic: Traffic
    has_streams: bool = True


class Server:
    """A server process pinned to one core, with its whole process tree.

    Parameters
    ----------
    name : str
    command : sequence of str
    port : int
    core : int or None
        None leaves it unpinned.
    log : Path
        Its output.
    ready_path : str
        Answered with any status once the server is up.
    timeout_seconds : float
    environment : dict, optional
        Added to ours.

    Raises
    ------
    TargetError
        It exited or did not answer in time; the message ends with its last lines.
    """

    def __init__(
        self,
        name: str,
        command: Sequence[str],
        *,
        port: int,
        core: int | None,
        log: Path,
        timeout_seconds: float = 20.0,
        environment: dict[str, str] | None = None,
    ) -> None:
        self.name = name
        self.port = port
        self._log = log
        with log.open("wb") as output:
            self._process = subprocess.Popen(
                command,
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                env={**os.environ, **(environment or {})},
                start_new_session=True,
            )
        try:
            pin(self._process.pid, core)
            self.start_seconds = self._wait(timeout_seconds)
        except BaseException:
            self.stop()
            raise

    @property
    def pid(self) -> int:
        """Of the process that was started."""
        return self._process.pid

    def cpu_seconds(self) -> float:
        """Return user plus system time of the process and its descendants, seconds, in steps of one clock tick."""
        return sum(_cpu_seconds(pid) for pid in _tree(self._process.pid))

    def memory_mb(self) -> float:
        """Return the resident memory of the process tree, 10⁶ bytes."""
        return sum(_resident_bytes(pid) for pid in _tree(self._process.pid)) / 1e6

    def stop(self) -> None:
        """End the server's own session: ask, then insist."""
        for asked in (signal.SIGTERM, signal.SIGKILL):
            with suppress(ProcessLookupError):
                os.killpg(self._process.pid, asked)
            with suppress(subprocess.TimeoutExpired):
                self._process.wait(timeout=5)
                return

    def _wait(self, timeout_seconds: float) -> float:
        began = time.monotonic()
        while time.monotonic() - began < timeout_seconds:
            if self._process.poll() is not None:
                raise TargetError(f"{self.name} exited with {self._process.returncode}: {self._tail()}")
            with suppress(OSError), socket.create_connection((LOOPBACK, self.port), timeout=1.0):
                return time.monotonic() - began
            time.sleep(0.02)
        raise TargetError(f"{self.name} did not listen within {timeout_seconds:g} s: {self._tail()}")

    def _tail(self) -> str:
        return " | ".join(self._log.read_text(errors="replace").splitlines()[-5:])[-800:]


def free_port() -> int:
    """Return a loopback port that was free a moment ago."""
    with socket.socket() as probe:
        probe.bind((LOOPBACK, 0))
        port: int = probe.getsockname()[1]
        return port


def pin(pid: int, core: int | None) -> None:
    """Pin a process to one core; threads and children that it starts later inherit it."""
    if core is not None and hasattr(os, "sched_setaffinity"):
        os.sched_setaffinity(pid, {core})


def mock_server(folder: Path, *, core: int | None, chunks: int, gap_ms: float, name: str = "mock") -> Server:
    """Start the mock provider."""
    port = free_port()
    script = str(BENCH_FOLDER / "mock_upstream.py")
    command = [sys.executable, script, "--port", str(port), "--chunks", str(chunks), "--gap-ms", str(gap_ms)]
    return Server(name, command, port=port, core=core, log=folder / f"{name}.log")


def penstock_server(
    folder: Path, *, upstream_port: int, core: int | None, cache: str = "exact", name: str = "penstock"
) -> Server:
    """Start the gateway with four deployments, one per tier, all at the mock provider.

    Everything that a gateway in production does is on: keys, a budget, limits, metrics, events on disk, the log of
    requests, and the cache, which looks for the same request, or (`cache="semantic"`) for other wordings, too.
    """
    port = free_port()
    deployments = [
        {
            "name": f"mock-{tier}",
            "adapter": "direct",
            "base_url": f"http://{LOOPBACK}:{upstream_port}/v1",
            "api_key": "${BENCH_KEY}",
            "tier": tier,
            "price": {"input": PRICES[tier][0], "output": PRICES[tier][1]},
            "context_tokens": 128_000,
            "max_output_tokens": 8_192,
            "abilities": ["streaming"],
        }
        for tier in TIERS
    ]
    limited = {
        "budgets": [{"period": "day", "limit_usd": 1_000_000}],
        "limits": {"requests_per_minute": 1_000_000_000, "tokens_per_minute": 1_000_000_000},
    }
    settings = {
        "version": 1,
        "server": {"port": port},
        "client_keys": [
            {"name": "bench", "key": "${BENCH_CLIENT_KEY}", **limited, "cache_category": "faq"},
        ],
        "deployments": deployments,
        "cache": {"mode": cache},
        "events": {"folder": str(folder / f"{name}-events")},
        "log": {"level": "info"},
    }
    path = folder / f"{name}.yaml"
    path.write_text(json.dumps(settings, indent=1))  # JSON is YAML
    command = [sys.executable, "-m", "penstock_gateway", "serve", "--config", str(path)]
    environment = {"BENCH_KEY": "bench", "BENCH_CLIENT_KEY": CLIENT_KEY}
    return Server(name, command, port=port, core=core, log=folder / f"{name}.log", environment=environment)


def _tree(root: int) -> list[int]:
    """Return a process and its living descendants."""
    children: dict[int, list[int]] = {}
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit() and (fields := _stat(int(entry.name))):
            children.setdefault(int(fields[1]), []).append(int(entry.name))
    found, queue = [], [root]
    while queue:
        found.append(queue.pop())
        queue.extend(children.get(found[-1], []))
    return found


def _stat(pid: int) -> list[str]:
    """Fields of ``/proc/<pid>/stat`` from the state on; empty when the process is gone."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except OSError:
        return []


def _cpu_seconds(pid: int) -> float:
    fields = _stat(pid)
    return (int(fields[11]) + int(fields[12])) / _CLOCK_TICKS if fields else 0.0


def _resident_bytes(pid: int) -> int:
    fields = _stat(pid)
    return int(fields[21]) * os.sysconf("SC_PAGE_SIZE") if fields else 0
