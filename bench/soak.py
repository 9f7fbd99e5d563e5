"""Does the gateway grow while it runs? Mixed traffic for twenty minutes, and the trend of everything that could leak.

Memory, open files, tasks, threads and tracked objects are sampled each second after a warm-up in which every bounded
store fills; the trend of each is a Theil–Sen slope with a bootstrap interval (`trend`). **Exit code 1 when something
grows or a request ends otherwise than it should.** Run ``python bench/soak.py --minutes 20``; Linux only.
"""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import click
from machine import describe_machine, machine_lines
from soak_traffic import ANSWER_SECONDS, RESCUED, TrafficPlan, TrafficResult
from streams import stopping, upstream_server
from targets import BENCH_FOLDER, LOOPBACK, Server, free_port
from trend import Trend, trend_of
from uneven_upstream import MODELS, raise_file_limit

MINUTES, QUICK_MINUTES = 20.0, 20.0 / 60.0
RATE_PER_SECOND = 60.0
WARM_UP_SHARE = 0.3
STREAM_CHUNKS, STREAM_GAP_MS = 20, 100.0
KEYS = tuple(f"bench-client-key-number-{number}" for number in range(4))

NO_COOL_DOWN = {
    "min_attempts": 100_000,
    "consecutive_failures": 100_000,
    "rate_limited_seconds": 0.001,
    "max_cool_seconds": 0.001,
}
"""Deployments that always fail are asked all the same, so that a request ends in the same way each time."""

_GRACE_SECONDS = 60.0
_SETTLE_SECONDS = 3.0


@dataclass(frozen=True, slots=True)
class Quantity:
    """Something that is sampled.

    Attributes
    ----------
    name, label, unit : str
    negligible : float
        Growth below so much per thousand requests is none: the rarest kind of traffic is three requests in a hundred,
        so a leak of one with each of them is thirty per thousand.
    digits : int
        Shown behind the point.
    """

    name: str
    label: str
    unit: str
    negligible: float
    digits: int = 1


QUANTITIES = (
    Quantity("rss_mb", "resident memory", "MB", 0.04),  # 40 bytes a request
    Quantity("fds", "open files", "", 1.0),
    Quantity("tasks", "tasks", "", 1.0),
    Quantity("threads", "threads", "", 0.01),
    Quantity("objects", "tracked objects", "", 20.0, 0),
)


def grows(quantity: Quantity, trend: Trend, rate: float) -> bool:
    """Whether a quantity grows at a rate of requests per second."""
    return trend.grows(quantity.negligible * rate * 3.6)


def settings_of(port: int, upstream_port: int, folder: Path) -> dict[str, Any]:
    """Return a configuration whose bounded stores are small, so that they are full when the warm-up ends."""
    tiers = {"steady": "small", "slow": "medium"}
    models = {**{name: name for name in MODELS}, RESCUED: "error-503"}
    deployments = [
        {
            "name": name,
            "model": model,
            "adapter": "direct",
            "base_url": f"http://{LOOPBACK}:{upstream_port}/v1",
            "api_key": "${BENCH_KEY}",
            "price": {"input": 1, "output": 2},
            "context_tokens": 128_000,
            "max_output_tokens": 8_192,
            "abilities": ["streaming"],
            "routable": name == "steady",
            **({"tier": tiers[name]} if name in tiers else {}),
            **({"fallbacks": ["steady"]} if name == RESCUED else {}),
        }
        for name, model in models.items()
    ]
    keys = [{"name": f"tenant-{number}", "key": f"${{CLIENT_KEY_{number}}}"} for number in range(len(KEYS))]
    return {
        "version": 1,
        "server": {"port": port, "max_in_flight": 4_096},
        "client_keys": keys,
        "deployments": deployments,
        "attempts": {"backoff_seconds": 0.01, "breaker": NO_COOL_DOWN},
        "routing": {"warm_conversations": 200},
        "cache": {"mode": "exact", "max_bytes": 1_048_576},
        "decisions": {"keep": 500},
        "events": {"folder": str(folder / "events"), "segment_bytes": 1_048_576},
        "log": {"level": "info"},
    }


def gateway_server(folder: Path, *, upstream_port: int, samples: Path) -> Server:
    """Start the observed gateway."""
    port = free_port()
    path = folder / "penstock.yaml"
    path.write_text(json.dumps(settings_of(port, upstream_port, folder), indent=1))  # JSON is YAML
    script = str(BENCH_FOLDER / "observed_gateway.py")
    command = [sys.executable, script, "--config", str(path), "--samples", str(samples)]
    environment = {"BENCH_KEY": "bench", **{f"CLIENT_KEY_{number}": key for number, key in enumerate(KEYS)}}
    return Server("penstock", command, port=port, core=None, log=folder / "penstock.log", environment=environment)


def send_in_process(plan: TrafficPlan) -> TrafficResult:
    """Send the traffic from a process of its own."""
    done = subprocess.run(
        [sys.executable, str(BENCH_FOLDER / "soak_traffic.py")],
        input=json.dumps(asdict(plan)),
        capture_output=True,
        text=True,
        timeout=plan.seconds + ANSWER_SECONDS + _GRACE_SECONDS,
        check=False,
    )
    if done.returncode:
        raise click.ClickException(f"the clients failed: {done.stderr[-800:]}")
    return TrafficResult(**json.loads(done.stdout))


def measure(seconds: float, rate: float) -> tuple[TrafficResult, list[dict[str, float]], list[dict[str, float]]]:
    """Run the traffic; return what came back, the samples after the warm-up, and those after the traffic."""
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="penstock-soak-")))
        samples = folder / "samples.jsonl"
        upstream = stack.enter_context(stopping(upstream_server(folder, chunks=STREAM_CHUNKS, gap_ms=STREAM_GAP_MS)))
        gateway = stack.enter_context(stopping(gateway_server(folder, upstream_port=upstream.port, samples=samples)))
        began = time.monotonic()
        traffic = send_in_process(TrafficPlan(gateway.port, seconds, rate, list(KEYS)))
        ended = time.monotonic()
        time.sleep(_SETTLE_SECONDS)
        taken = [json.loads(line) for line in samples.read_text().splitlines()]
    from_then = began + WARM_UP_SHARE * seconds
    during = [sample for sample in taken if from_then <= sample["time"] <= began + seconds]
    return traffic, during, [sample for sample in taken if sample["time"] > ended + 1.0]


def trends_of(samples: Sequence[dict[str, float]]) -> dict[str, Trend]:
    """Return the trend of each quantity."""
    times = [sample["time"] for sample in samples]
    return {quantity.name: trend_of(times, [sample[quantity.name] for sample in samples]) for quantity in QUANTITIES}


def table_lines(trends: dict[str, Trend], after: Sequence[dict[str, float]], rate: float) -> list[str]:
    """Return the table for people."""
    head = f"{'':<18}{'median':>10}{'growth/hour':>14}{'95 % interval':>26}  {'not zero':<10}{'after':>10}  verdict"
    lines = [head]
    for quantity in QUANTITIES:
        trend, digits = trends[quantity.name], quantity.digits
        interval = f"[{trend.low:+.{digits}f}, {trend.high:+.{digits}f}]"
        last = f"{after[-1][quantity.name]:.{digits}f}" if after else "–"
        verdict = "GROWS" if grows(quantity, trend, rate) else "steady"
        label = f"{quantity.label}{f', {quantity.unit}' if quantity.unit else ''}"
        lines.append(
            f"{label:<18}{trend.level:>10.{digits}f}{trend.per_hour:>+14.{digits}f}{interval:>26}  "
            f"{'yes' if trend.excludes_zero else 'no':<10}{last:>10}  {verdict}"
        )
    return lines


def text_lines(
    traffic: TrafficResult,
    samples: Sequence[dict[str, float]],
    trends: dict[str, Trend],
    after: Sequence[dict[str, float]],
    rate: float,
) -> list[str]:
    """Return the result for people, without the verdict."""
    kinds = ", ".join(f"{name} {count}" for name, count in sorted(traffic.by_kind.items()))
    collections = samples[-1]["collections"] - samples[0]["collections"]
    return [
        f"as they should: {kinds}",
        f"from the cache {traffic.cached}, problems {traffic.problems}, skipped {traffic.skipped}, "
        f"collections {collections:g}, uncollectable {samples[-1]['uncollectable']:g}",
        *(f"problem: {problem}" for problem in traffic.first_problems),
        *table_lines(trends, after, rate),
    ]


def faults_of(traffic: TrafficResult, growing: Sequence[str]) -> list[str]:
    """Return what is wrong; nothing when all is well."""
    grows = [f"grows: {', '.join(growing)}"] if growing else []
    return [*grows, *([f"{traffic.problems} requests ended otherwise than they should"] if traffic.problems else [])]


@click.command()
@click.option("--minutes", type=click.FloatRange(0.1, 1_440.0), default=None, help="20 unless given.")
@click.option("--rate", type=click.FloatRange(1.0, 2_000.0), default=RATE_PER_SECOND, help="Requests a second.")
@click.option("--quick", is_flag=True, help="Twenty seconds that prove it works; its figures mean nothing.")
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
def main(minutes: float | None, rate: float, quick: bool, as_json: bool) -> None:
    """Send mixed traffic and test everything that could leak for growth."""
    raise_file_limit()
    seconds = 60.0 * (minutes or (QUICK_MINUTES if quick else MINUTES))
    machine = describe_machine()
    traffic, samples, after = measure(seconds, rate)
    trends = trends_of(samples)
    growing = [quantity.name for quantity in QUANTITIES if grows(quantity, trends[quantity.name], rate)]
    if quick:
        growing = []  # twenty seconds are all warm-up: the table is shown and not judged
    faults = faults_of(traffic, growing)
    if as_json:
        shown = {name: {**asdict(trend), "excludes_zero": trend.excludes_zero} for name, trend in trends.items()}
        result = {"seconds": seconds, "samples": len(samples), "traffic": asdict(traffic), "trends": shown}
        result |= {"growing": growing, "after": after[-1:]}
        click.echo(json.dumps({"machine": machine, "result": result, "is_good": not faults}, indent=1))
    else:
        warm_up = WARM_UP_SHARE * seconds
        about = f"{seconds:g} s at {rate:g} requests a second, {len(samples)} samples after a warm-up of {warm_up:g} s"
        click.echo("\n".join([*machine_lines(machine), about, *text_lines(traffic, samples, trends, after, rate)]))
        click.echo("verdict: " + ("; ".join(faults) or ("a quick pass judges no trend" if quick else "no growth")))
    if faults:
        sys.exit(1)


if __name__ == "__main__":
    main()
