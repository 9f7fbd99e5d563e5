"""The fixture that gives tests a real Redis: it starts, is empty, and leaves nothing behind."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import pytest
import redis

from support.redis_server import NOT_INSTALLED, RedisNotStarted, RedisServer, is_running, redis_binary, running_redis

pytestmark = pytest.mark.redis


@pytest.fixture
def binary() -> str:
    """The machine's redis-server; the test is skipped where there is none."""
    found = redis_binary()
    if found is None:
        pytest.skip(NOT_INSTALLED)
    return found


def _is_listening(port: int) -> bool:
    try:
        socket.create_connection(("127.0.0.1", port), timeout=1.0).close()
    except OSError:
        return False
    return True


def _eventually_stops_listening(port: int) -> bool:
    deadline = time.monotonic() + 10.0
    while time.monotonic() < deadline:
        if not _is_listening(port):
            return True
        time.sleep(0.05)
    return False


@pytest.mark.parametrize("round_number", [1, 2])
def test_redis_url_in_each_test_starts_empty(redis_url: str, round_number: int) -> None:
    """Every test finds an empty database, although an earlier one wrote to it."""
    with redis.Redis.from_url(redis_url) as client:
        assert client.ping()
        assert client.dbsize() == 0
        client.set("left behind", round_number)
        assert client.dbsize() == 1


def test_running_redis_answers_on_loopback_without_persistence(binary: str) -> None:
    """The server listens on loopback alone and writes nothing to disk."""
    with running_redis(binary) as server, redis.Redis.from_url(server.url) as client:
        assert client.config_get("bind")["bind"] == "127.0.0.1"
        assert client.config_get("save")["save"] == ""
        assert client.config_get("appendonly")["appendonly"] == "no"
        client.set("key", "value")
        assert client.get("key") == b"value"


def test_running_redis_after_the_block_is_gone(binary: str) -> None:
    """Neither process, nor port, nor folder outlives the block."""
    with running_redis(binary) as server:
        assert is_running(server.process_id)
        assert server.folder.is_dir()
    assert not is_running(server.process_id)
    assert not _is_listening(server.port)
    assert not server.folder.exists()


def test_running_redis_after_a_failing_block_is_gone(binary: str) -> None:
    """A test that fails leaves no server behind."""

    def fail_inside() -> None:
        with running_redis(binary) as server:
            seen.append(server)
            raise LookupError("the test failed")

    seen: list[RedisServer] = []
    with pytest.raises(LookupError, match="the test failed"):
        fail_inside()
    assert not is_running(seen[0].process_id)
    assert not seen[0].folder.exists()


def test_running_redis_twice_uses_two_servers(binary: str) -> None:
    """Two workers get two servers that do not see each other's keys."""
    with running_redis(binary) as one, running_redis(binary) as other:
        assert one.port != other.port
        with redis.Redis.from_url(one.url) as client:
            client.set("key", "value")
        with redis.Redis.from_url(other.url) as client:
            assert client.get("key") is None


def test_running_redis_of_a_killed_worker_is_stopped(binary: str) -> None:
    """A worker that dies without unwinding (kill -9) leaves no server behind."""
    code = (
        "import sys\n"
        f"sys.path.insert(0, {str(Path(__file__).parents[1])!r})\n"
        "from support.redis_server import running_redis\n"
        f"with running_redis({binary!r}) as server:\n"
        "    print(server.port, server.folder, flush=True)\n"
        "    sys.stdin.read()\n"
    )
    with subprocess.Popen(
        [sys.executable, "-c", code], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as worker:
        port, folder = worker.stdout.readline().split()
        assert _is_listening(int(port))
        worker.send_signal(signal.SIGKILL)
        worker.wait(10)
    assert _eventually_stops_listening(int(port))
    deadline = time.monotonic() + 10.0
    while Path(folder).exists() and time.monotonic() < deadline:
        time.sleep(0.05)
    assert not Path(folder).exists()


def test_running_redis_that_ends_at_once_says_so(tmp_path: Path) -> None:
    """A server that does not come up is reported with its exit status, and its folder is removed."""
    broken = tmp_path / "redis-server"
    broken.write_text("#!/bin/sh\nexit 3\n")
    broken.chmod(0o755)
    with pytest.raises(RedisNotStarted, match="ended with status 3"), running_redis(str(broken)):
        pytest.fail("the block must not be entered")


def test_redis_url_without_a_server_skips_with_one_line(tmp_path: Path, repository_root: Path) -> None:
    """Where redis-server is missing the tests are skipped, and one line at the end says how to get it."""
    environment = {**os.environ, "PATH": str(tmp_path)}
    name = "tests/integration/test_redis_fixture.py::test_redis_url_in_each_test_starts_empty"
    result = subprocess.run(
        [sys.executable, "-m", "pytest", "-p", "no:cacheprovider", "-p", "no:xdist", name],
        cwd=repository_root,
        env=environment,
        check=False,
        capture_output=True,
        text=True,
    )
    assert result.returncode == 0, result.stdout + result.stderr
    lines = [line for line in result.stdout.splitlines() if "INSTALL_SYSTEM=1" in line]
    assert len(lines) == 1
    assert lines[0].startswith("2 SKIPPED: redis-server is not installed")
