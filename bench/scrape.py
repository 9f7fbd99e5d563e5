"""What does a scrape of the metrics cost the event loop? Processor time by the number of series.

Fills a gateway's own registry as traffic over many deployments would, and measures the processor time of one rendering,
which no request can share. Run ``python bench/scrape.py``.
"""

from __future__ import annotations

import json
import statistics
import time

import click
from machine import describe_machine, machine_lines

from penstock_gateway.metrics import GatewayMetrics

AIM_MS = 5.0
SERIES = (200, 1_000, 5_000)


def filled(series: int) -> GatewayMetrics:
    """Return metrics that show at least so many series."""
    metrics = GatewayMetrics()
    number = 0
    while count(metrics) < series:
        model = f"model-{number}"
        for status in ("200", "429", "502"):
            metrics.requests.labels(model, status, "routed").inc()
        for kind in ("input", "output"):
            metrics.tokens.labels(model, kind).inc(100)
        metrics.cost.labels(model, "false").inc(0.001)
        metrics.duration.labels(model).observe(0.2)
        metrics.attempts.attempts.labels(model, "first", "ok").inc()
        number += 1
    return metrics


def count(metrics: GatewayMetrics) -> int:
    """Return how many series a scrape shows."""
    return sum(len(family.samples) for family in metrics.registry.collect())


def measure(metrics: GatewayMetrics, repeats: int) -> float:
    """Return the median processor time of one rendering, milliseconds."""
    times = []
    for _ in range(repeats):
        began = time.process_time_ns()
        metrics.render()
        times.append((time.process_time_ns() - began) / 1e6)
    return statistics.median(times)


@click.command()
@click.option("--quick", is_flag=True, help="A few renderings: proves that the bench works.")
@click.option("--json", "as_json", is_flag=True, help="Write one JSON document.")
def main(quick: bool, as_json: bool) -> None:
    """Measure the processor time of one scrape."""
    machine = describe_machine()
    click.echo("\n".join(machine_lines(machine)), err=True)
    rows = []
    for wanted in SERIES[: 2 if quick else None]:
        metrics = filled(wanted)
        rows.append({"series": count(metrics), "cpu_ms": measure(metrics, 5 if quick else 100)})
    if as_json:
        click.echo(json.dumps({"machine": machine, "aim_ms_at_1000": AIM_MS, "results": rows}, indent=2))
        return
    for row in rows:
        click.echo(f"{row['series']:>6,} series: {row['cpu_ms']:.2f} ms")
    click.echo(f"aim: {AIM_MS:g} ms at 1,000")


if __name__ == "__main__":
    main()
