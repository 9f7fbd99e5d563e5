"""What each of several workers may take, and who encodes for them."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from penstock_gateway.settings import ConfigurationError, load_settings
from penstock_gateway.settings_models import Settings
from penstock_gateway.workers.shares import settings_of_worker, share_of, shares_encoder

HEAD = """
server: {workers: 3, max_in_flight: 100, reload_on_change: true}
routing: {artifact: none}
"""
DEPLOYMENT = """deployments:
  - {name: small, base_url: "http://127.0.0.1:9/v1", price: {input: 1, output: 1}, max_parallel_requests: %d}
"""
KEYS = 'client_keys: [{name: ann, key: "${KEY}"}]\n'
ENVIRONMENT = {"KEY": "k" * 32, "REDIS": "redis://127.0.0.1:9/0"}


def load(folder: Path, text: str, *, parallel: int = 7) -> Settings:
    """Return the settings of a text."""
    path = folder / "penstock.yaml"
    path.write_text(HEAD + text + DEPLOYMENT % parallel, encoding="utf-8")
    return load_settings(path, ENVIRONMENT)


def problems(folder: Path, text: str, *, parallel: int = 7) -> list[str]:
    """Return the settings that are refused."""
    with pytest.raises(ConfigurationError) as caught:
        load(folder, text, parallel=parallel)
    return [problem.setting for problem in caught.value.problems]


@given(st.integers(1, 10_000), st.integers(1, 64))
def test_shares_of_an_amount_are_the_amount(amount: int, count: int) -> None:
    """All parts together are what the file says, and no worker is left with nothing."""
    parts = [share_of(amount, index, count) for index in range(count)]
    assert sum(parts) == max(amount, count)
    assert min(parts) >= 1
    assert max(parts) - min(parts) <= 1


def test_limits_of_workers_add_up_to_the_configured_ones(tmp_path: Path) -> None:
    """What each process counts by itself is divided; what Redis counts for all is not."""
    settings = load(tmp_path, "cache: {mode: exact, max_bytes: 3000000}\nledger: {expected_replicas: 2}\n")
    workers = [settings_of_worker(settings, index) for index in range(3)]
    assert [worker.deployments[0].max_parallel_requests for worker in workers] == [3, 2, 2]
    assert sum(worker.server.max_in_flight for worker in workers) == 100
    assert sum(worker.attempts.max_waiting for worker in workers) == settings.attempts.max_waiting
    assert sum(worker.attempts.drain.max_answers for worker in workers) == settings.attempts.drain.max_answers
    assert sum(worker.events.max_waiting for worker in workers) == settings.events.max_waiting
    assert sum(worker.cache.max_bytes for worker in workers) == 3_000_000
    assert sum(worker.cache.audit.max_usd_per_day for worker in workers) == pytest.approx(1.0, rel=1e-12)  # rounding
    assert {worker.ledger.expected_replicas for worker in workers} == {6}
    in_redis = load(tmp_path, "cache: {mode: exact, store: {kind: redis, redis_url: '${REDIS}'}}\n")
    assert settings_of_worker(in_redis, 1).cache == in_redis.cache


def test_admin_api_and_watched_file_are_the_first_workers(tmp_path: Path) -> None:
    """One process answers on the admin port and notices a changed file; it tells the others."""
    text = "admin: {port: 4001}\nledger: {kind: redis, redis_url: '${REDIS}'}\n"
    settings = load(tmp_path, text)
    workers = [settings_of_worker(settings, index) for index in range(3)]
    assert [worker.admin.port for worker in workers] == [4001, None, None]
    assert [worker.server.reload_on_change for worker in workers] == [True, False, False]


def test_one_worker_lives_by_the_settings_as_they_are() -> None:
    """Nothing is copied or changed."""
    settings = Settings()
    assert settings_of_worker(settings, 0) is settings


@pytest.mark.parametrize("text", [KEYS, "tags: [{name: nightly}]\n", "teams: [{name: search}]\n", "admin: {port: 0}\n"])
def test_workers_that_would_count_each_for_itself_are_refused(tmp_path: Path, text: str) -> None:
    """Budgets, limits and spend of several processes need a ledger that they share."""
    assert problems(tmp_path, text) == ["server.workers"]
    assert load(tmp_path, text + "ledger: {kind: redis, redis_url: '${REDIS}'}\n").server.workers == 3


def test_limits_and_stores_that_cannot_be_shared_are_refused_all_at_once(tmp_path: Path) -> None:
    """Two requests at once cannot be divided among three workers, and one file has one writer."""
    store = f"cache: {{mode: exact, store: {{kind: file, folder: '{tmp_path}'}}}}\n"
    assert sorted(problems(tmp_path, store, parallel=2)) == ["deployments[0].max_parallel_requests", "server.workers"]


def test_command_line_says_how_many_workers_over_the_file(tmp_path: Path) -> None:
    """As with host and port."""
    path = tmp_path / "penstock.yaml"
    path.write_text(HEAD + DEPLOYMENT % 7, encoding="utf-8")
    assert load_settings(path, {}, workers=1).server.workers == 1
    assert load_settings(path, {"PENSTOCK__SERVER__WORKERS": "2"}).server.workers == 2


@pytest.mark.parametrize(
    ("section", "has_gpu_build", "expected"),
    [
        ("", False, False),
        ("", True, True),
        ("encoder: {in_workers: own}\n", True, False),
        ("encoder: {in_workers: shared}\n", False, True),
        ("encoder: {remote: 'unix:/run/encoder.sock'}\n", True, False),
    ],
)
def test_process_that_encodes_for_all_is_started_where_it_pays(
    tmp_path: Path, section: str, has_gpu_build: bool, expected: bool
) -> None:
    """A GPU is shared, processors are not, and whoever has an encode server already gets no second one."""
    path = tmp_path / "penstock.yaml"
    text = HEAD.replace("artifact: none", "device: auto") + section + DEPLOYMENT % 7
    path.write_text(text, encoding="utf-8")
    settings = load_settings(path, {})
    assert shares_encoder(settings, lambda: has_gpu_build) is expected
    assert shares_encoder(load(tmp_path, section), lambda: has_gpu_build) is False  # nothing is routed


def test_workers_ask_the_process_that_encodes_for_all(tmp_path: Path) -> None:
    """Its address stands in the place of a configured one."""
    settings = load(tmp_path, "")
    assert (
        settings_of_worker(settings, 2, "unix:/somewhere/encoder.sock").encoder.remote == "unix:/somewhere/encoder.sock"
    )
