"""``penstock serve --workers 2`` as processes: one port, one set of figures, and nothing lost when one of them ends."""

from __future__ import annotations

import http.client
import json
import os
import re
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from subprocess import Popen
from typing import Any

import pytest

from penstock_gateway.events.reading import read_events
from support.chat_upstream import OUTPUT_TOKENS, ChatUpstream, running_chat_upstream
from support.learning_traffic import call, eventually, process

WORKERS = 2
UNWRITTEN_SECONDS = 1.0
"""What a process answered in its last moment may not be on disk when it is killed (0.1 s are promised), and a client
may read it a moment later."""
SERVE = [sys.executable, "-m", "penstock_gateway", "serve", "--config", "penstock.yaml", "--workers", str(WORKERS)]
READY = r"base URL http://127.0.0.1:(\d+)/v1"
CONFIG = """
server: {{port: 0, drain_seconds: 20}}
events: {{folder: log}}
cache: {{mode: exact, header_categories: [general]}}
routing: {{artifact: none, default_arm: small}}
deployments:
  - {{name: small, base_url: '{url}', price: {{input: 0, output: {price}}}}}
  - {{name: slow, base_url: '{url}', price: {{input: 0, output: 1}}}}
"""
CONFIG_OF_KEYS = """
server: {{port: 0}}
admin: {{port: 0}}
redis: {{url: '${{REDIS}}'}}
ledger: {{kind: redis, redis_timeout_seconds: 5}}
client_keys:
  - {{name: app, key: '${{APP_KEY}}', budgets: [{{period: total, limit_usd: 0.002}}]}}
routing: {{artifact: none, default_arm: small}}
deployments:
  - {{name: small, base_url: '{url}', price: {{input: 0, output: 10}}}}
"""
CONFIG_OF_ENCODER = """
server: {{port: 0}}
encoder: {{in_workers: shared, timeout_seconds: 30}}
routing: {{default_arm: large}}
deployments:
  - {{name: small, base_url: '{url}', tier: small, price: {{input: 0, output: 1}}}}
  - {{name: large, base_url: '{url}', tier: large, price: {{input: 0, output: 10}}}}
"""
AFFORDABLE = 40
"""Answers of five tokens at 10 USD a million that 0.002 USD pays."""


@dataclass
class Fleet:
    """A gateway of several workers: its processes, its port and what it has written."""

    process: Popen[str]
    port: str
    folder: Path
    temporary: Path = Path(tempfile.gettempdir())

    def log(self) -> list[dict[str, Any]]:
        """Return the lines of the log so far."""
        lines = (self.folder / "penstock_gateway.log").read_text(encoding="utf-8").splitlines()
        return [json.loads(line) for line in lines if line.startswith("{") and line.endswith("}")]

    def count(self, event: str) -> int:
        """Return how many lines tell of an event."""
        return sum(line["event"] == event for line in self.log())

    def pids(self) -> list[int]:
        """Return the process ids of the workers, in the order in which they became ready."""
        return [line["process_id"] for line in self.log() if line["event"] == "worker_ready"]

    def encoders(self) -> list[str]:
        """Return the process ids of what encodes for all."""
        found = subprocess.run(
            ["pgrep", "-P", str(self.process.pid), "-f", "encoder_process"], capture_output=True, text=True, check=False
        )
        return found.stdout.split()

    def samples(self, name: str) -> dict[str, float]:
        """Return the sum of a metric's samples by worker."""
        with self.client() as client:
            text = client.ask("GET", "/metrics")[1].decode()
        found: dict[str, float] = {}
        for worker, value in re.findall(rf'^{name}\{{worker="(\d)".*\}} (.*)$', text, re.MULTILINE):
            found[worker] = found.get(worker, 0.0) + float(value)
        return found

    @contextmanager
    def client(self) -> Iterator[Client]:
        """Return one connection, which is one worker's."""
        client = Client(self.port)
        try:
            yield client
        finally:
            client.connection.close()

    @contextmanager
    def client_of_each(self) -> Iterator[list[Client]]:
        """Return a connection to every worker."""
        found: dict[str, Client] = {}
        others: list[Client] = []

        def connect() -> bool | None:
            client = Client(self.port)
            before = self.samples("penstock_requests_total")
            assert client.chat(f"which worker? {len(others)} {len(found)}")[0] == 200
            after = self.samples("penstock_requests_total")
            (worker,) = [name for name in after if after[name] > before.get(name, 0.0)]
            others.append(client) if worker in found else found.setdefault(worker, client)
            return True if len(found) == WORKERS else None

        try:
            eventually(connect)
            yield [found[worker] for worker in sorted(found)]
        finally:
            for client in (*others, *found.values()):
                client.connection.close()


class Client:
    """One connection that is kept open."""

    def __init__(self, port: str) -> None:
        self.connection = http.client.HTTPConnection("127.0.0.1", int(port), timeout=60)

    def ask(self, method: str, path: str, body: dict[str, Any] | None = None, **headers: str) -> tuple[int, bytes]:
        """Send one request."""
        sent = {"content-type": "application/json", **{name.replace("_", "-"): text for name, text in headers.items()}}
        self.connection.request(method, path, None if body is None else json.dumps(body), sent)
        answer = self.connection.getresponse()
        self.headers = answer.headers
        return answer.status, answer.read()

    def json(self, method: str, path: str, body: dict[str, Any] | None = None) -> tuple[int, dict[str, Any]]:
        """Send one request whose answer is JSON."""
        status, content = self.ask(method, path, body)
        return status, json.loads(content)

    def chat(self, prompt: str, model: str = "small", **headers: str) -> tuple[int, str]:
        """Ask a model; return the status and the id of the decision."""
        body = {"model": model, "temperature": 0, "messages": [{"role": "user", "content": prompt}]}
        status, _ = self.ask("POST", "/v1/chat/completions", body, **headers)
        return status, self.headers["x-penstock-decision-id"] or ""


@pytest.fixture(scope="module")
def upstream() -> Iterator[ChatUpstream]:
    """A provider."""
    with running_chat_upstream({"slow": ["slow:1.5"]}) as server:
        yield server


def write(folder: Path, upstream: ChatUpstream, *, price: int = 10, more: str = "") -> None:
    """Write the configuration; a completion token costs `price` micro-USD."""
    text = CONFIG.format(url=upstream.base_url, price=price) + more
    (folder / "penstock.yaml").write_text(text, encoding="utf-8")


@contextmanager
def running_fleet(folder: Path, **environment: str) -> Iterator[Fleet]:
    """Run the gateway of the folder's configuration, once every worker is ready."""
    with process(SERVE, folder, READY, **environment) as (started, port):
        fleet = Fleet(started, port, folder)
        eventually(lambda: True if len(fleet.pids()) == WORKERS else None)
        yield fleet


@pytest.fixture(scope="module")
def shared_fleet(tmp_path_factory: pytest.TempPathFactory, upstream: ChatUpstream) -> Iterator[Fleet]:
    """Two workers without Redis, for tests that leave them as they were."""
    folder = tmp_path_factory.mktemp("fleet")
    write(folder, upstream)
    with running_fleet(folder) as running:
        yield running


@pytest.fixture
def fleet(tmp_path: Path, upstream: ChatUpstream) -> Iterator[Fleet]:
    """Two workers without Redis, for a test that ends them."""
    write(tmp_path, upstream)
    with tempfile.TemporaryDirectory() as short, running_fleet(tmp_path, TMPDIR=short) as running:
        running.temporary = Path(short)
        yield running


def is_running(pid: int) -> bool:
    """Say whether a process is there and not just waiting to be buried."""
    try:
        return Path(f"/proc/{pid}/stat").read_text(encoding="ascii").rpartition(")")[2].split()[0] != "Z"
    except FileNotFoundError:
        return False


def price_at(client: Client) -> str:
    """Return the price that a connection's worker has in force."""
    price: str = client.json("GET", "/v1/models/small")[1]["penstock"]["price_usd_per_million_tokens"]["output"]
    return price


def test_every_worker_tells_the_figures_and_knows_the_decisions_of_all(shared_fleet: Fleet) -> None:
    """Whichever worker is asked: metrics of both, each series with its worker; decisions and feedback of either."""
    with shared_fleet.client_of_each() as clients:
        made = [client.chat(f"question {number}")[1] for number, client in enumerate(clients * 3)]
        counted = shared_fleet.samples("penstock_requests_total")
        assert set(counted) == {"0", "1"}
        assert all(count >= 3 for count in counted.values())
        for client in clients:
            for decision_id in made:
                status, decision = client.json("GET", f"/v1/decisions/{decision_id}")
                assert (status, decision["id"], decision["outcome"]["status"]) == (200, decision_id, 200)
        for decision_id, client in zip(made, reversed(clients * 3), strict=True):
            assert client.json("POST", "/v1/feedback", {"decision_id": decision_id, "score": 1})[0] == 201
        for decision_id, client in zip(made, clients * 3, strict=True):
            assert client.json("POST", "/v1/feedback", {"decision_id": decision_id, "score": 1})[0] == 200
        failed = sum(shared_fleet.samples("penstock_errors_total").values())
        assert clients[0].json("GET", "/v1/decisions/dec_unknown")[1]["error"]["code"] == "decision_not_found"
        assert sum(shared_fleet.samples("penstock_errors_total").values()) == failed + 1
        assert clients[0].json("GET", f"/v1/decisions/{made[1]}")[0] == 200
        assert clients[1].json("GET", f"/v1/decisions/{made[0]}")[0] == 200
        assert sum(shared_fleet.samples("penstock_errors_total").values()) == failed + 1
    given = [event["decision_id"] for event in read_events(shared_fleet.folder / "log", types=("feedback",))]
    assert sorted(given) == sorted(made)


def test_feedback_on_a_decision_of_a_worker_that_was_replaced_is_written_once(fleet: Fleet) -> None:
    """Its id says whose it is, so any worker takes it; the one that has is found when it comes again to another."""
    with fleet.client_of_each() as clients:
        decision_id = clients[0].chat("soon forgotten")[1]
    os.kill(fleet.pids()[0], signal.SIGKILL)
    eventually(lambda: True if len(fleet.pids()) == WORKERS + 1 else None)
    with fleet.client_of_each() as clients:
        told = {"decision_id": decision_id, "score": 0.5}
        assert [client.json("POST", "/v1/feedback", told)[0] for client in (*clients, *clients)] == [201, 200, 200, 200]
        assert clients[0].json("POST", "/v1/feedback", {**told, "decision_id": "dec_" + "0" * 40})[0] == 404
    given = [event["decision_id"] for event in read_events(fleet.folder / "log", types=("feedback",))]
    assert given == [decision_id]


def test_deletion_of_cached_answers_reaches_the_memory_of_every_worker(shared_fleet: Fleet) -> None:
    """Every worker has its own memory; whoever deletes is told the sum, and no worker answers from it afterwards."""
    with shared_fleet.client_of_each() as clients:
        assert clients[0].json("DELETE", "/v1/cache")[0] == 200
        for client in clients:
            client.chat("the same question", x_penstock_cache_category="general")
            client.chat("the same question", x_penstock_cache_category="general")
            assert client.headers["x-penstock-cache"] == "hit-exact"
        assert clients[1].json("DELETE", "/v1/cache")[1]["deleted"] == WORKERS
        for client in clients:
            client.chat("the same question", x_penstock_cache_category="general")
            assert client.headers["x-penstock-cache"] != "hit-exact"


def test_hang_up_signal_is_passed_on_and_every_worker_has_the_new_configuration(
    shared_fleet: Fleet, upstream: ChatUpstream
) -> None:
    """One signal to the process that was started changes all of them; a wrong file changes none."""
    with shared_fleet.client_of_each() as clients:
        write(shared_fleet.folder, upstream, price=30)
        shared_fleet.process.send_signal(signal.SIGHUP)
        eventually(lambda: True if shared_fleet.count("configuration_reloaded") == WORKERS else None)
        assert [price_at(client) for client in clients] == ["30", "30"]
        write(shared_fleet.folder, upstream, price=-1)
        shared_fleet.process.send_signal(signal.SIGHUP)
        eventually(lambda: True if shared_fleet.count("configuration_refused") else None)
        assert [price_at(client) for client in clients] == ["30", "30"]
        for pid in shared_fleet.pids():  # as `pkill -HUP penstock` would
            os.kill(pid, signal.SIGHUP)
        assert [client.chat("still there?")[0] for client in clients] == [200, 200]


def test_worker_that_is_killed_under_load_is_replaced_and_no_answer_is_lost_or_counted_twice(fleet: Fleet) -> None:
    """Requests of the other worker go on, a stop waits for slow answers in both, and the log has each answer once."""
    is_over = threading.Event()
    victim = fleet.pids()[0]

    def use(number: int) -> list[tuple[float, str]]:
        answered: list[tuple[float, str]] = []
        while not is_over.is_set():
            with fleet.client() as client:
                try:
                    status, decision_id = client.chat(f"question {number} {len(answered)}", x_penstock_cache="no-store")
                except (http.client.HTTPException, ConnectionError):
                    continue  # its worker was killed
                assert status == 200
                answered.append((time.monotonic(), decision_id))
        return answered

    with ThreadPoolExecutor(4) as users:
        running = [users.submit(use, number) for number in range(4)]
        try:
            eventually(lambda: True if sum(fleet.samples("penstock_requests_total").values()) > 50 else None)
            os.kill(victim, signal.SIGKILL)
            killed_at = time.monotonic()
            eventually(lambda: True if len(fleet.pids()) == WORKERS + 1 else None)
            eventually(lambda: True if set(fleet.samples("penstock_requests_total")) == {"0", "1"} else None)
            assert sorted(fleet.samples("penstock_worker_starts").values()) == [1.0, 2.0]
        finally:
            is_over.set()
        answers = [answer for user in running for answer in user.result()]
    (ended,) = [line for line in fleet.log() if line["event"] == "worker_ended"]
    assert ended["code"] == -signal.SIGKILL
    with fleet.client_of_each() as clients, ThreadPoolExecutor(WORKERS) as users:
        asked = [users.submit(client.chat, "take your time", "slow") for client in clients]
        eventually(lambda: True if sum(fleet.samples("penstock_in_flight_requests").values()) == WORKERS else None)
        fleet.process.terminate()
        slow = [answer.result() for answer in asked]
    assert [status for status, _ in slow] == [200, 200]
    answered = {decision_id for at, decision_id in answers if abs(at - killed_at) > UNWRITTEN_SECONDS}
    assert any(at > killed_at + UNWRITTEN_SECONDS for at, _ in answers)
    assert fleet.process.wait(timeout=60) == 0
    assert not any(is_running(pid) for pid in fleet.pids())
    outcomes = [event for event in read_events(fleet.folder / "log", types=("outcome",)) if event["status"] == 200]
    logged = [outcome["decision_id"] for outcome in outcomes]
    assert len(logged) == len(set(logged))
    assert {*answered, *(decision_id for _, decision_id in slow)} <= set(logged)
    costs = {outcome["cost_picousd"] for outcome in outcomes}
    assert costs == {10 * OUTPUT_TOKENS * 10**6, OUTPUT_TOKENS * 10**6}


def test_workers_whose_watcher_is_killed_end_by_themselves(fleet: Fleet) -> None:
    """Nobody would replace or stop them: they finish what is under way and leave the port."""
    pids = fleet.pids()
    fleet.process.kill()
    fleet.process.wait()
    eventually(lambda: True if not any(is_running(pid) for pid in pids) else None)
    with pytest.raises(ConnectionError):
        call(fleet.port, "/readyz")
    assert list(fleet.temporary.glob("penstock-*")) == []


def test_budget_on_redis_is_one_for_all_workers_and_console_and_reload_speak_for_all(
    tmp_path: Path, upstream: ChatUpstream, redis_url: str
) -> None:
    """Workers that are asked at once never spend a key's budget twice; the first one's admin port shows both."""
    (tmp_path / "penstock.yaml").write_text(CONFIG_OF_KEYS.format(url=upstream.base_url), encoding="utf-8")
    key = "app-0123456789abcdef"
    with running_fleet(tmp_path, APP_KEY=key, REDIS=redis_url) as fleet, ThreadPoolExecutor(8) as users:

        def use(number: int) -> list[int]:
            statuses = []
            for _ in range(15):
                body = {"model": "small", "max_tokens": OUTPUT_TOKENS, "messages": [{"role": "user", "content": "Hi"}]}
                answer, _ = call(fleet.port, "/v1/chat/completions", body, key=key)
                statuses.append(answer.status)
            return statuses

        statuses = [status for user in [users.submit(use, number) for number in range(8)] for status in user.result()]
        assert statuses.count(200) == AFFORDABLE
        assert set(statuses) == {200, 429}
        (line,) = [line for line in fleet.log() if line["event"] == "admin_api_listens"]
        admin = Client(line["address"].rpartition(":")[2])
        page = admin.ask("GET", "/console/models")[1].decode()
        assert f">{AFFORDABLE}</td>" in page, page[page.index("<main") :]
        ids = [line["decision_id"] for line in fleet.log() if line["event"] == "request"]
        shown = [admin.ask("GET", f"/console/decision?id={decision_id}")[0] for decision_id in ids]
        assert set(shown) == {200}
        assert len({line["worker"] for line in fleet.log() if line["event"] == "request"}) == WORKERS
        status, outcome = admin.json("POST", "/admin/reload", {})
        assert (status, outcome["result"], outcome["workers"]) == (200, "reloaded", {"1": "reloaded"})


def test_process_that_encodes_for_all_workers_is_used_replaced_and_ends_with_them(
    tmp_path: Path, upstream: ChatUpstream
) -> None:
    """No worker loads an encoder of its own while it answers; when it is killed they go on, and another comes."""
    (tmp_path / "penstock.yaml").write_text(CONFIG_OF_ENCODER.format(url=upstream.base_url), encoding="utf-8")
    with running_fleet(tmp_path) as fleet, fleet.client_of_each() as clients:
        (encoder,) = eventually(lambda: fleet.encoders() or None)
        log = tmp_path / "penstock_gateway.log"
        eventually(lambda: True if "penstock encode-server" in log.read_text(encoding="utf-8") else None)
        assert [client.chat("Name a river.", "auto")[0] for client in clients] == [200, 200]
        encoded = fleet.samples("penstock_remote_encoder_duration_seconds_count")
        assert encoded == {"0": 1.0, "1": 1.0}
        assert fleet.count("encoder_loaded_here") == 0
        os.kill(int(encoder), signal.SIGKILL)
        assert [client.chat("Name a lake.", "auto")[0] for client in clients] == [200, 200]
        eventually(lambda: True if fleet.encoders() not in ([], [encoder]) else None)
        (second,) = fleet.encoders()
        fleet.process.kill()
        fleet.process.wait()
        eventually(lambda: True if not is_running(int(second)) else None)
