"""The bench of the Redis client runs; no figure is judged here."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from support.redis_server import NOT_INSTALLED, redis_binary

pytestmark = pytest.mark.redis


@pytest.mark.skipif(sys.platform != "linux", reason="the bench pins processes to cores")
def test_redis_client_bench_in_quick_mode_measures_every_client(repository_root: Path) -> None:
    """The quick pass gives a positive cost for each client at each concurrency."""
    if redis_binary() is None:
        pytest.skip(NOT_INSTALLED)
    command = [sys.executable, str(repository_root / "bench" / "redis_client.py"), "--quick", "--json"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=100, check=False, cwd=repository_root)
    assert done.returncode == 0, done.stderr
    rows = json.loads(done.stdout)["results"]
    assert {(row["client"], row["concurrent"]) for row in rows} == {
        (client, concurrent)
        for client in ("redis-py", "RedisClient, pooled", "RedisClient, multiplexed")
        for concurrent in (1, 16, 64)
    }
    assert all(row["cpu_us_per_command"] > 0 for row in rows)
