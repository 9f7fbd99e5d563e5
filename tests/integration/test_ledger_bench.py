"""The ledger's bench runs: a short pass, so that it cannot rot. No figure is judged here."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from support.redis_server import redis_binary


@pytest.mark.redis
def test_ledger_bench_in_quick_mode_measures_memory_and_redis(repository_root: Path) -> None:
    """The quick pass times both ledgers beside a PING, as one JSON object."""
    command = [sys.executable, str(repository_root / "bench" / "ledger.py"), "--quick", "--json"]
    done = subprocess.run(command, check=True, capture_output=True, text=True, timeout=100)
    document = json.loads(done.stdout)
    assert document["memory"]["per_second"] > 0
    if redis_binary() is not None:
        assert document["redis"]["ratios"]["reserve_to_ping_p50"] > 0
        assert document["redis"]["batch"]["charges"] == 200
