"""The exposition says what the Prometheus client would say, byte for byte."""

from __future__ import annotations

import pytest
from prometheus_client import Counter, Gauge, Histogram, generate_latest

from penstock_gateway.loop_metrics import LoopCounter, LoopHistogram
from penstock_gateway.metrics import GatewayMetrics
from penstock_gateway.metrics_text import OrderedRegistry, exposition

AWKWARD = 'back\\slash "quoted"\nline, näïve'


def test_exposition_of_every_kind_is_what_the_client_writes() -> None:
    """Names, order of labels, escapes, large, small and odd numbers."""
    registry = OrderedRegistry()
    counter = LoopCounter("one", 'Help with \\ and\nlines and "quotes".', ("zebra", "apple"), registry=registry)
    Gauge("two", "Another's.", ("model",), registry=registry).labels(AWKWARD).set(float("nan"))
    spread = LoopHistogram("three", "Three.", ("model",), buckets=(0.001, 1.0, 2.5), registry=registry)
    Counter("four", "With a _created series.", registry=registry).inc(3)
    Histogram("five", "Five.", registry=registry).observe(2)
    LoopCounter("six", "Without labels.", registry=registry).inc(0.1)
    LoopHistogram("seven", "Without labels.", buckets=(1.0,), registry=registry).observe(7.0)
    LoopCounter("eight", "With labels and no sample.", ("model",), registry=registry)
    for labels, amount in ((("a", "b"), 1), ((AWKWARD, ""), 1e21), (("c", "d"), 123456789.125), (("e", "f"), 1e-9)):
        counter.labels(*labels).inc(amount)
    for value in (0.001, 0.5, 2.5, 99.0):
        spread.labels(AWKWARD).observe(value)
        spread.labels("small").observe(value * 1e6)
    assert exposition(registry) == generate_latest(registry)


def test_exposition_follows_what_is_counted_after_the_first_scrape() -> None:
    """The beginnings of lines are kept, the values are not."""
    registry = OrderedRegistry()
    counter = LoopCounter("one", "One.", ("model",), registry=registry)
    counter.labels("a").inc()
    first = exposition(registry)
    counter.labels("a").inc()
    counter.labels("b").inc()
    assert b'one_total{model="a"} 1.0\n' in first
    assert exposition(registry) == generate_latest(registry)
    assert b'one_total{model="a"} 2.0\none_total{model="b"} 1.0\n' in exposition(registry)


def test_exposition_of_a_gateway_is_what_the_client_writes() -> None:
    """All metrics that a gateway has."""
    metrics = GatewayMetrics()
    metrics.requests.labels("small", "200", "routed").inc()
    metrics.duration.labels("small").observe(0.2)
    assert metrics.render() == generate_latest(metrics.registry)


def test_registry_forgets_what_is_unregistered_and_refuses_a_name_twice() -> None:
    """As the client's own does."""
    registry = OrderedRegistry()
    counter = Counter("one", "One.", registry=registry)
    with pytest.raises(ValueError, match="Duplicated"):
        Counter("one", "Again.", registry=registry)
    assert registry.collectors == [counter]
    registry.unregister(counter)
    assert exposition(registry) == b""
