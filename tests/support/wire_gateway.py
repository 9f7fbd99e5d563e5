"""A ``penstock serve`` process in front of the replaying providers, and the two ways to them.

Owns the configuration and the process. Read `running_ways`.
"""

from __future__ import annotations

import contextlib
import json
import os
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from support.wire_upstream import RECORDINGS, SERVERS, WireUpstream, running_wire_upstream

CLIENT_KEY = "a-client-key-of-sixteen-or-more"
UPSTREAM_KEY = "sk-upstream-key"
START_SECONDS = 60.0
FT = "ft:gpt-4o-mini-2024-07-18:penstock:"
_PROVIDERS = {"gpt-4o": "openai", FT: "openai", "claude-sonnet-4-5": "anthropic"}


@dataclass(frozen=True)
class Way:
    """One way to the providers: a base URL without the version, and the key that it takes."""

    url: str
    key: str

    @property
    def v1(self) -> str:
        """The base URL with the version, as OpenAI's clients want it."""
        return f"{self.url}/v1"


@dataclass(frozen=True)
class Ways:
    """The direct way, the way through the gateway, and the providers at the end of both.

    The same model names hold on both.
    """

    direct: Way
    gateway: Way
    upstream: WireUpstream


def configuration(upstream: WireUpstream) -> dict[str, Any]:
    """Return a configuration with one deployment per server and recording."""
    names = sorted({path.stem for path in RECORDINGS.glob("*/*.json")} | {"slow"})
    shared = {
        "base_url": f"{upstream.url}/v1",
        "api_key": "${E2E_UPSTREAM_KEY}",
        "price": {"input": 1, "output": 2},
        "context_tokens": 1_000_000,
        "max_output_tokens": 100_000,
        "abilities": ["streaming", "tools", "vision", "documents", "json"],
        "timeouts": {"first_byte_seconds": 30, "idle_seconds": 300},
    }
    deployments = [
        {
            "name": f"{server}:{name}",
            "provider": _PROVIDERS.get(server, "openai_compatible"),
            "wire_formats": [wire for wire in formats if wire != "count_tokens"],
            **shared,
        }
        for server, formats in SERVERS.items()
        for name in names
    ]
    return {
        "version": 1,
        "client_keys": [{"name": "e2e", "key": "${E2E_CLIENT_KEY}"}],
        "deployments": deployments,
        "routing": {"artifact": "none"},
        "attempts": {"retries": 0},  # what is compared is one try; a refusal's Retry-After would be waited for
    }


@contextlib.contextmanager
def running_ways(folder: Path) -> Iterator[Ways]:
    """Run the providers and a gateway in front of them; `folder` takes the configuration and the log."""
    with running_wire_upstream() as upstream, _running_gateway(folder, upstream) as url:
        yield Ways(Way(upstream.url, UPSTREAM_KEY), Way(url, CLIENT_KEY), upstream)


@contextlib.contextmanager
def _running_gateway(folder: Path, upstream: WireUpstream) -> Iterator[str]:
    config = folder / "penstock.yaml"
    config.write_text(json.dumps(configuration(upstream)), encoding="utf-8")  # JSON is YAML
    with socket.create_server(("127.0.0.1", 0)) as probe:
        port = probe.getsockname()[1]
    environment = {**os.environ, "E2E_UPSTREAM_KEY": UPSTREAM_KEY, "E2E_CLIENT_KEY": CLIENT_KEY}
    command = [sys.executable, "-m", "penstock_gateway", "serve", "--config", str(config), "--port", str(port)]
    log = folder / "gateway.log"
    with log.open("wb") as output:
        process = subprocess.Popen(command, env=environment, cwd=folder, stdout=output, stderr=subprocess.STDOUT)
    try:
        deadline = time.monotonic() + START_SECONDS
        while not _answers(port):
            assert process.poll() is None, f"penstock serve ended:\n{log.read_text(encoding='utf-8')}"
            assert time.monotonic() < deadline, f"penstock serve does not answer:\n{log.read_text(encoding='utf-8')}"
            time.sleep(0.05)
        yield f"http://127.0.0.1:{port}"
    finally:
        process.terminate()
        process.wait()


def _answers(port: int) -> bool:
    with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port), timeout=5):
        return True
    return False
