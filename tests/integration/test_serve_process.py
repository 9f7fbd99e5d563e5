"""``penstock serve`` as a process: signals, a watched file, and reasons not to start."""

from __future__ import annotations

import json
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from penstock_gateway.events.reading import read_events
from support.chat_upstream import OUTPUT_TOKENS, ChatUpstream, running_chat_upstream
from support.learning_traffic import call, eventually, process

USERS = 4
SERVE = [sys.executable, "-m", "penstock_gateway", "serve", "--config", "penstock.yaml"]
READY = r"base URL http://127.0.0.1:(\d+)/v1"
CONFIG = """
server: {{port: 0, reload_on_change: {watches}}}
admin: {{port: {admin_port}}}
events: {{folder: log}}
routing: {{artifact: none, default_arm: small}}
deployments:
  - {{name: small, base_url: '{url}', price: {{input: 0, output: {price}}}}}
"""


@pytest.fixture
def upstream() -> Iterator[ChatUpstream]:
    """A provider that answers at once."""
    with running_chat_upstream() as server:
        yield server


def write(
    folder: Path, upstream: ChatUpstream, *, price: int = 10, admin_port: int = 0, watches: str = "false"
) -> None:
    """Write the configuration; a completion token costs `price` micro-USD."""
    text = CONFIG.format(url=upstream.base_url, price=price, admin_port=admin_port, watches=watches)
    (folder / "penstock.yaml").write_text(text, encoding="utf-8")


def log_of(folder: Path) -> list[dict[str, object]]:
    """Return the lines of the process's log so far."""
    lines = (folder / "penstock_gateway.log").read_text(encoding="utf-8").splitlines()
    return [json.loads(line) for line in lines if line.startswith("{") and line.endswith("}")]


def reloads(folder: Path) -> int:
    """Return how often the configuration has been exchanged."""
    return sum(line["event"] == "configuration_reloaded" for line in log_of(folder))


def until_ready(port: str) -> None:
    """Wait until requests are taken; the address is told a moment before."""

    def answers() -> bool | None:
        try:
            return call(port, "/readyz")[0].status == 200
        except ConnectionRefusedError:
            return None

    eventually(answers)


def price_of(port: str) -> str:
    """Return the price in force."""
    _, model = call(port, "/v1/models/small")
    price: str = model["penstock"]["price_usd_per_million_tokens"]["output"]
    return price


def ask(port: str, number: int) -> int:
    """Ask something and return the status."""
    body = {"model": "small", "messages": [{"role": "user", "content": f"question {number}"}]}
    response, _ = call(port, "/v1/chat/completions", body)
    return response.status


def test_hang_up_signals_under_load_exchange_the_configuration_without_a_failed_request(
    tmp_path: Path, upstream: ChatUpstream
) -> None:
    """The process serves on through five signals, stops in an orderly way, and its log holds every answer once."""
    write(tmp_path, upstream)
    is_over = threading.Event()

    def use(port: str) -> list[int]:
        statuses: list[int] = []
        while not is_over.is_set():
            statuses.append(ask(port, len(statuses)))
        return statuses

    with process(SERVE, tmp_path, READY) as (gateway, port), ThreadPoolExecutor(USERS) as users:
        until_ready(port)
        running = [users.submit(use, port) for _ in range(USERS)]
        try:
            for number in range(1, 6):
                write(tmp_path, upstream, price=10 + number)
                gateway.send_signal(signal.SIGHUP)
                eventually(lambda number=number: True if reloads(tmp_path) == number else None)
                assert price_of(port) == str(10 + number)
        finally:
            is_over.set()
        statuses = [status for user in running for status in user.result()]
        assert set(statuses) == {200}
        gateway.terminate()
        assert gateway.wait(timeout=20) in (0, -signal.SIGTERM)
    outcomes = list(read_events(tmp_path / "log", types=("outcome",)))
    assert len(outcomes) == len({outcome["decision_id"] for outcome in outcomes}) == len(statuses)
    assert {outcome["cost_picousd"] for outcome in outcomes} <= {p * OUTPUT_TOKENS * 10**6 for p in range(10, 16)}


def test_watched_file_that_changes_is_taken_and_a_wrong_one_is_not(tmp_path: Path, upstream: ChatUpstream) -> None:
    """With `reload_on_change` nobody has to send a signal; what is wrong is logged and leaves the old one in force."""
    write(tmp_path, upstream, watches="true")
    with process(SERVE, tmp_path, READY) as (_, port):
        until_ready(port)
        assert price_of(port) == "10"
        write(tmp_path, upstream, watches="true", price=-1)
        eventually(lambda: True if any(line["event"] == "configuration_refused" for line in log_of(tmp_path)) else None)
        assert price_of(port) == "10"
        write(tmp_path, upstream, watches="true", price=30)
        eventually(lambda: True if reloads(tmp_path) == 1 else None)
        assert price_of(port) == "30"


def test_admin_port_that_is_taken_is_said_in_a_sentence(tmp_path: Path, upstream: ChatUpstream) -> None:
    """The command ends with 1 and the place that is taken, without a traceback."""
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        write(tmp_path, upstream, admin_port=port)
        done = subprocess.run(SERVE, cwd=tmp_path, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 1, done.stderr
    assert f"127.0.0.1:{port}" in done.stderr
    assert "Traceback" not in done.stderr
