"""The servers that `overhead` compares: how each is configured, started, pinned, measured and stopped.

Owns processes and their configuration files, nothing about load. Every server listens on the loopback address and sends
to the same mock provider. Read `Target` and the ``*_target`` functions.
"""

from __future__ import annotations

import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

LOOPBACK = "127.0.0.1"
BENCH_FOLDER = Path(__file__).resolve().parent
REPOSITORY = BENCH_FOLDER.parent
LITELLM_VERSION = "1.105.3"
LITELLM_FOLDER = REPOSITORY / ".bench" / "litellm"
TIERS = ("small", "medium", "large", "frontier")
# USD per million tokens; any prices do, the mock provider bills nobody.
PRICES = {"small": (0.1, 0.4), "medium": (0.4, 1.6), "large": (2.5, 10), "frontier": (10, 30)}
PHYSICAL_MODEL = "mock-small"
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
        Whose processor time counts; two targets may share one.
    model : str
        What the requests ask for.
    """

    name: str
    server: Server
    model: str


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


def penstock_server(folder: Path, *, upstream_port: int, core: int | None) -> Server:
    """Start the gateway with four deployments, one per tier, all at the mock provider."""
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
    settings = {"version": 1, "server": {"port": port}, "deployments": deployments, "log": {"level": "info"}}
    path = folder / "penstock.yaml"
    path.write_text(json.dumps(settings, indent=1))  # JSON is YAML
    command = [sys.executable, "-m", "penstock_gateway", "serve", "--config", str(path)]
    return Server(
        "penstock", command, port=port, core=core, log=folder / "penstock.log", environment={"BENCH_KEY": "bench"}
    )


def nginx_server(folder: Path, *, upstream_port: int, core: int | None) -> Server | None:
    """Start nginx as a reverse proxy with keep-alive on both sides; None when it is not installed."""
    binary = shutil.which("nginx") or shutil.which("nginx", path="/usr/sbin:/usr/local/sbin")
    if binary is None:
        return None
    port = free_port()
    path = folder / "nginx.conf"
    path.write_text(_NGINX.format(folder=folder, port=port, upstream_port=upstream_port))
    command = [binary, "-p", str(folder), "-c", str(path), "-e", str(folder / "nginx-error.log")]
    return Server("nginx", command, port=port, core=core, log=folder / "nginx.log")


_NGINX = """daemon off; master_process off; worker_processes 1; pid {folder}/nginx.pid;
error_log {folder}/nginx-error.log error;
events {{ worker_connections 1024; }}
http {{
  access_log off; client_body_temp_path {folder}/body; proxy_temp_path {folder}/proxy;
  fastcgi_temp_path {folder}/fastcgi; uwsgi_temp_path {folder}/uwsgi; scgi_temp_path {folder}/scgi;
  keepalive_requests 100000000; keepalive_timeout 600;
  upstream provider {{ server 127.0.0.1:{upstream_port}; keepalive 64; keepalive_requests 100000000; }}
  server {{
    listen 127.0.0.1:{port};
    location / {{
      proxy_pass http://provider; proxy_http_version 1.1; proxy_set_header Connection ""; proxy_buffering off;
    }}
  }}
}}
"""


def install_litellm() -> Path | None:
    """Return the ``litellm`` program in a virtual environment of its own, made on the first call.

    Returns
    -------
    Path or None
        None when it cannot be installed (no package index, or no version that resolves).
    """
    program = LITELLM_FOLDER / "bin" / "litellm"
    if program.exists():
        return program
    LITELLM_FOLDER.parent.mkdir(parents=True, exist_ok=True)
    (LITELLM_FOLDER.parent / ".gitignore").write_text("*\n")
    steps = (
        [sys.executable, "-m", "venv", "--clear", str(LITELLM_FOLDER)],
        [str(LITELLM_FOLDER / "bin" / "python"), "-m", "pip", "install", "-q", f"litellm[proxy]=={LITELLM_VERSION}"],
    )
    for step in steps:
        try:
            subprocess.run(step, check=True, capture_output=True, timeout=900)
        except (subprocess.SubprocessError, OSError):
            shutil.rmtree(LITELLM_FOLDER, ignore_errors=True)
            return None
    return program if program.exists() else None


def litellm_server(folder: Path, program: Path, *, upstream_port: int, core: int | None) -> Server:
    """Start the litellm proxy with one worker, no database, no cache, no callbacks and no key check."""
    port = free_port()
    entry = {
        "model_name": PHYSICAL_MODEL,
        "litellm_params": {
            "model": f"openai/{PHYSICAL_MODEL}",
            "api_base": f"http://{LOOPBACK}:{upstream_port}/v1",
            "api_key": "bench",
        },
    }
    path = folder / "litellm.yaml"
    path.write_text(json.dumps({"model_list": [entry], "litellm_settings": {"telemetry": False}}))
    command = [str(program), "--config", str(path), "--host", LOOPBACK, "--port", str(port), "--num_workers", "1"]
    environment = {
        "LITELLM_LOCAL_MODEL_COST_MAP": "True",
        "LITELLM_MODE": "PRODUCTION",
        "LITELLM_LOG": "ERROR",
        # Penstock runs without client keys here; without this the proxy insists on one and checks it per request.
        "LITELLM_DANGEROUSLY_PERMIT_WEAK_OR_UNSET_MASTER_KEY": "true",
    }
    log = folder / "litellm.log"
    return Server("litellm", command, port=port, core=core, log=log, timeout_seconds=90.0, environment=environment)


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
