"""What the metrics show of attempts."""

from __future__ import annotations

import asyncio
import logging
from typing import Any

import pytest
from prometheus_client import CollectorRegistry

from penstock_gateway.errors import GatewayError
from penstock_gateway.metrics_attempts import AttemptMetrics
from penstock_gateway.settings_attempts import AttemptSettings
from support.attempt_parts import answer, bench, broken, until_cancelled
from support.fakes import deployment, price

SMALL, LARGE = deployment("small"), deployment("large")


async def test_attempt_metrics_count_tries_by_kind_and_outcome() -> None:
    """Every try is counted once, with first bytes only where there were any."""
    registry = CollectorRegistry()
    made = bench([SMALL, LARGE], {"small": [broken()], "large": [answer()]}, metrics=AttemptMetrics(registry))
    await made.runner.run(made.job())

    def count(deployment: str, kind: str, outcome: str) -> float | None:
        labels = {"deployment": deployment, "kind": kind, "outcome": outcome}
        return registry.get_sample_value("penstock_attempts_total", labels)

    assert count("small", "first", "broken") == 1
    assert count("small", "retry", "broken") == 1
    assert count("large", "fallback", "ok") == 1
    assert registry.get_sample_value("penstock_first_byte_seconds_count", {"deployment": "large"}) == 1
    assert registry.get_sample_value("penstock_first_byte_seconds_count", {"deployment": "small"}) is None


async def test_attempt_metrics_show_breakers_and_log_one_line_per_change(caplog: pytest.LogCaptureFixture) -> None:
    """An outage is one line when it begins and one when it ends, however many probes lie between."""
    registry = CollectorRegistry()
    made = bench([SMALL], {"small": [broken()] * 20 + [answer()]}, metrics=AttemptMetrics(registry), retries=0)
    with caplog.at_level(logging.INFO, logger="penstock.attempts"):
        for _ in range(20):
            with pytest.raises(GatewayError):
                await made.runner.run(made.job())
        assert registry.get_sample_value("penstock_breaker_state", {"deployment": "small"}) == 2
        await made.runner.run(made.job())
    assert registry.get_sample_value("penstock_breaker_state", {"deployment": "small"}) == 0
    assert registry.get_sample_value("penstock_breaker_opened_total", {"deployment": "small"}) == 16
    assert [record.message for record in caplog.records] == ["breaker_opened", "breaker_closed"]


async def test_attempt_metrics_show_slots_queue_and_groups_as_they_are() -> None:
    """Gauges are read when the metrics are, and a deployment that left is shown no more."""
    registry = CollectorRegistry()
    cheap = deployment("cheap", group="g", price=price("1", "1"), max_parallel_requests=1)
    dear = deployment("dear", group="g", price=price("2", "2"), max_parallel_requests=1)
    made = bench(
        [cheap, dear],
        {"cheap": [until_cancelled], "dear": [until_cancelled]},
        metrics=AttemptMetrics(registry),
        max_waiting=1,
    )
    tasks: list[asyncio.Task[Any]] = [
        asyncio.create_task(made.runner.run(made.job("cheap", priority="low"))) for _ in range(4)
    ]
    for _ in range(5):
        await asyncio.sleep(0)

    def value(name: str, **labels: str) -> float | None:
        return registry.get_sample_value(name, labels)

    assert value("penstock_attempts_in_flight", deployment="cheap") == 1
    assert (
        value("penstock_waiting_requests", priority="low"),
        value("penstock_waiting_requests", priority="high"),
    ) == (
        1,
        0,
    )
    assert value("penstock_queue_refusals_total", code="queue_full") == 1
    assert value("penstock_group_capacity_mode", group="g") == 0
    made.runner.adopt([dear], AttemptSettings(), {"fake": made.upstream})
    assert value("penstock_attempts_in_flight", deployment="cheap") is None
    assert value("penstock_breaker_state", deployment="dear") == 0
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)
    assert value("penstock_attempts_in_flight", deployment="dear") == 0
