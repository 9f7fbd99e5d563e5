"""The exposition of several workers."""

from __future__ import annotations

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest
from prometheus_client.parser import text_string_to_metric_families

from penstock_gateway.workers.combined_metrics import combined


def exposition(number: int) -> str:
    """Return one worker's metrics."""
    registry = CollectorRegistry()
    requests = Counter("requests", "Requests.\nOf all kinds.", ("model",), registry=registry)
    requests.labels('a "quoted" {name} \\ with\nlines').inc(number)
    Gauge("in_flight", "Under way.", registry=registry).set(10 * number)
    Histogram("seconds", "Time.", buckets=(0.5, 1.0), registry=registry).observe(0.1 * number)
    if number == 2:
        Gauge("only_here", "Of the second worker.", registry=registry).set(1)
    return generate_latest(registry).decode()


def test_every_series_of_every_worker_is_there_once_with_its_worker() -> None:
    """A parser reads back what each worker said, metric by metric, with one label more."""
    text = combined({0: exposition(1), 1: exposition(2)})
    found = {
        (sample.name, tuple(sorted(sample.labels.items()))): sample.value
        for family in text_string_to_metric_families(text)
        for sample in family.samples
    }
    expected = {
        (sample.name, tuple(sorted({**sample.labels, "worker": str(worker)}.items()))): sample.value
        for worker in (0, 1)
        for family in text_string_to_metric_families(exposition(worker + 1))
        for sample in family.samples
    }
    assert {key: value for key, value in found.items() if "_created" not in key[0]} == {
        key: value for key, value in expected.items() if "_created" not in key[0]
    }


def test_samples_of_one_metric_stand_together_behind_one_head() -> None:
    """The format allows each metric one place (Prometheus text format 0.0.4)."""
    lines = combined({0: exposition(1), 1: exposition(2)}).splitlines()
    heads = [line for line in lines if line.startswith("# HELP")]
    assert len(heads) == len(set(heads))
    names = [line.partition("{")[0] for line in lines if line.startswith("seconds_")]
    assert names.index("seconds_count") > 0
    places = [place for place, line in enumerate(lines) if line.startswith("in_flight{")]
    assert places == [places[0], places[0] + 1]


def test_nothing_of_nobody_is_nothing() -> None:
    """An empty exposition stays empty."""
    assert combined({}) == combined({0: ""}) == ""
