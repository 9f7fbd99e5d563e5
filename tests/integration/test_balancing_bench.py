"""The balancing bench runs, and its simulation keeps its own rules. No figure is judged here."""

from __future__ import annotations

import importlib.util
import json
import os
import subprocess
import sys
from pathlib import Path
from types import ModuleType

import pytest


@pytest.fixture(scope="module")
def world(repository_root: Path) -> ModuleType:
    spec = importlib.util.spec_from_file_location("balancing_world", repository_root / "bench" / "balancing_world.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    return module


def _bench(root: Path, *options: str, **environ: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, str(root / "bench" / "balancing.py"), *options]
    return subprocess.run(
        command, capture_output=True, text=True, timeout=110, check=False, cwd=root, env={**os.environ, **environ}
    )


def test_balancing_bench_in_quick_mode_compares_every_policy(repository_root: Path) -> None:
    """Each policy has its figures in each scene, and ours is the yardstick."""
    done = _bench(repository_root, "--quick", "--json")
    assert done.returncode == 0, done.stderr
    rows = json.loads(done.stdout)["results"]
    rivals = {"least connections", "round robin", "peak EWMA", "random"}
    assert {row["policy"] for row in rows} == {"ours", "ours, all keyed", *rivals}
    assert all(0.0 < row["p50"] <= row["p99"] for row in rows)
    assert all(row["p99_to_ours"] == 1.0 for row in rows if row["policy"] == "ours")


def test_balancing_bench_without_the_trace_says_what_to_do(repository_root: Path, tmp_path: Path) -> None:
    """Who has no data is told in a line."""
    done = _bench(repository_root, PENSTOCK_DATA=str(tmp_path))
    assert done.returncode != 0
    assert "no traffic in" in done.stderr
    assert "--quick" in done.stderr


class _Always:
    """Sends everything to one deployment."""

    def __init__(self) -> None:
        self.firsts: list[int] = []
        self.ends: list[int] = []

    def choose(self, request: object, now: float) -> int:
        return 0

    def note_first_byte(self, request: object, now: float) -> None:
        self.firsts.append(request.number)  # type: ignore[attr-defined]

    def note_end(self, request: object, now: float) -> None:
        self.ends.append(request.number)  # type: ignore[attr-defined]


def test_simulated_deployment_alone_takes_as_long_as_it_says(world: ModuleType, monkeypatch) -> None:
    """One request: the prompt at its rate, then each token at the pace of a batch of one."""
    monkeypatch.setattr(world, "_spells", lambda draws, horizon: [])
    request = world.Request(0, 5.0, 4000, 100, 100.0)
    world.replay([request], [0.5], _Always(), seed=0)
    assert request.first_at == pytest.approx(5.0 + 4000 / (0.5 * world.USUAL.prompt_tokens_per_second))
    alone = 100 * world.TOKEN_SECONDS / 0.5 * (1.0 + 1.0 / world.USUAL.batch_that_halves)
    assert request.ended_at - request.first_at == pytest.approx(alone)


def test_simulated_deployment_under_load_answers_all_and_queues_beyond_its_batch(world: ModuleType) -> None:
    """Prompts are read in order, no more answers are written at once than the batch holds, and none is lost."""
    count = 3 * world.USUAL.max_batch
    requests = [world.Request(number, 0.0, 10, 200, 1.0) for number in range(count)]
    policy = _Always()
    world.replay(requests, [1.0], policy, seed=0)
    assert policy.firsts == list(range(count))
    assert sorted(policy.ends) == list(range(count))
    for at in (request.first_at for request in requests):
        assert sum(request.first_at <= at < request.ended_at for request in requests) <= world.USUAL.max_batch
    assert requests[0].ended_at - requests[0].first_at > 200 * world.TOKEN_SECONDS * 1.5
