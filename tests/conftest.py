"""What every test shares: isolation from the machine, the data folder, a real Redis, and fixed randomness."""

from __future__ import annotations

import logging
import os
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import HealthCheck, settings

from support import isolation, server_pace
from support.fault_report import write_fault_table
from support.redis_server import HOW_TO_GET_IT, NOT_INSTALLED, redis_binary, running_redis

isolation.install()
server_pace.install()

# Derandomized: a red run is red for everybody. Deadlines would be timed assertions.
settings.register_profile(
    "penstock", derandomize=True, deadline=None, database=None, suppress_health_check=[HealthCheck.too_slow]
)
settings.load_profile("penstock")

REPOSITORY_ROOT = Path(__file__).resolve().parents[1]


@pytest.fixture(scope="session")
def repository_root() -> Path:
    """The folder that holds ``pyproject.toml``."""
    return REPOSITORY_ROOT


@pytest.fixture(autouse=True)
def _logs_reach_caplog() -> None:
    """A gateway that an earlier test did not stop has taken our logger away from pytest, or made it quieter."""
    logger = logging.getLogger("penstock")
    logger.propagate = True
    logger.setLevel(logging.NOTSET)


@pytest.fixture(scope="session")
def penstock_data() -> Path:
    """The folder of outcome sets and traffic samples; the test is skipped where it is absent."""
    folder = Path(os.environ.get("PENSTOCK_DATA") or REPOSITORY_ROOT.parent / "shared" / "data")
    if not folder.is_dir():
        pytest.skip("no data folder: set PENSTOCK_DATA to the folder of the outcome sets")
    return folder.resolve()


@pytest.fixture(scope="session")
def _redis_url_of_session() -> Iterator[str]:
    binary = redis_binary()
    if binary is None:
        pytest.skip(NOT_INSTALLED)
    with running_redis(binary) as server:
        yield server.url


@pytest.fixture
def redis_url(_redis_url_of_session: str) -> Iterator[str]:
    """URL of an empty Redis that only this test uses; one server per test worker, emptied after each test."""
    yield _redis_url_of_session
    import redis

    with redis.Redis.from_url(_redis_url_of_session) as client:
        client.flushall()


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """Show what each fault came to, and say in one line that tests were skipped for want of a Redis server."""
    write_fault_table(terminalreporter)
    skipped = terminalreporter.stats.get("skipped", [])
    without_redis = sum(1 for report in skipped if NOT_INSTALLED in str(report.longrepr))
    if without_redis:
        terminalreporter.write_sep("!", "tests skipped", yellow=True, bold=True)
        terminalreporter.write_line(f"{without_redis} SKIPPED: {HOW_TO_GET_IT}", yellow=True, bold=True)
