"""What does a gateway cost? Processor time per request and added latency, in one interleaved run.

Compares, each pinned to core A while the load generator and the mock provider share core B: the bare mock provider,
nginx as a reverse proxy, Penstock with a physical model, Penstock with ``auto`` (routing), and the litellm proxy. Three
questions per round: closed loop with 16 connections (processor µs per request), fixed rates (added latency), streams
(processor µs per chunk, added time to the first event). Rounds are interleaved and medians shown, because a shared
machine drifts; **compare ratios inside one run only, and take a ratio below 1.2 for noise**. Run
``python bench/overhead.py``.
"""

from __future__ import annotations

import http.client
import json
import os
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import click
from load import LoadPlan, LoadResult, quantile
from machine import Machine, describe_machine, machine_lines, usable_cores
from targets import (
    BENCH_FOLDER,
    LOOPBACK,
    PHYSICAL_MODEL,
    Server,
    Target,
    TargetError,
    install_litellm,
    litellm_server,
    mock_server,
    nginx_server,
    penstock_server,
)

CONNECTIONS = 16
STREAM_CONNECTIONS = 4
REQUEST_BYTES = 392
BODY_COUNT = 64
ALL_TARGETS = ("bare", "nginx", "penstock", "penstock-auto", "litellm")
# A target must do this much more than a rate before its latency at that rate means anything.
_HEADROOM = 1.3

_VERBS = ("Explain", "Describe", "Compare", "Summarise", "Derive", "Criticise", "Illustrate", "Outline")
_SUBJECTS = (
    "how a heat pump moves energy from cold air into a warm room",
    "why the tides at one coast differ from those at the next",
    "how a compiler decides which variables live in registers",
    "the duties of a trustee towards the people who benefit",
    "how vaccines train the immune system before an infection",
    "the causes of inflation in an open economy with debts",
    "how a hash table keeps its promise of constant time",
    "what the second law of thermodynamics forbids and allows",
)


@dataclass(frozen=True, slots=True)
class Effort:
    """How long and how often to measure."""

    rounds: int
    saturation_seconds: float
    rate_seconds: float
    rates: tuple[float, ...]
    stream_seconds: float
    chunks: int
    gap_ms: float


FULL = Effort(3, 4.0, 8.0, (50.0, 200.0), 4.0, 50, 5.0)
QUICK = Effort(1, 0.4, 0.5, (50.0,), 0.4, 10, 2.0)


@dataclass(frozen=True, slots=True)
class Sample:
    """One target in one round; None where it was not measured."""

    cpu_us: float
    per_second: float
    busy: float
    load_busy: float
    p50_ms: dict[float, float]
    p99_ms: dict[float, float]
    cpu_us_per_chunk: float | None
    first_event_ms: float | None


def bodies(model: str, *, is_stream: bool) -> list[str]:
    """Return `BODY_COUNT` chat requests of `REQUEST_BYTES` bytes (more where the fields alone are longer)."""
    found = []
    for number in range(BODY_COUNT):
        verb, subject = _VERBS[number % len(_VERBS)], _SUBJECTS[number // len(_VERBS)]
        prompt = (
            f"{verb} {subject}. Give two everyday examples, name one common misunderstanding, and end with a question."
        )
        body: dict[str, Any] = {
            "model": model,
            "messages": [
                {"role": "system", "content": "You are a careful assistant. Answer briefly."},
                {"role": "user", "content": prompt},
            ],
            "temperature": 0.2,
        }
        if is_stream:
            body["stream"] = True
        missing = REQUEST_BYTES - len(json.dumps({**body, "user": ""}))
        found.append(json.dumps({**body, "user": "u" * max(0, missing)}))
    return found


def run_load_process(plan: LoadPlan, core: int | None) -> LoadResult:
    """Run a plan in a process of its own on a core of its own.

    Raises
    ------
    TargetError
        Any request failed: a number from a failing server is worth nothing.
    """
    command = [sys.executable, str(BENCH_FOLDER / "load.py")]
    if core is not None and hasattr(os, "sched_setaffinity"):
        command = [sys.executable, "-c", _PINNED.format(core=core, script=command[1])]
    done = subprocess.run(
        command, input=json.dumps(asdict(plan)), capture_output=True, text=True, timeout=plan.seconds + 90, check=False
    )
    if done.returncode:
        raise TargetError(f"the load generator failed: {done.stderr[-500:]}")
    result = LoadResult(**json.loads(done.stdout))
    if result.failed or not result.finished:
        raise TargetError(
            f"{result.failed} of {result.failed + result.finished} requests failed: {result.first_failure}"
        )
    return result


_PINNED = "import os, runpy; os.sched_setaffinity(0, {{{core}}}); runpy.run_path({script!r}, run_name='__main__')"


def measure(target: Target, effort: Effort, load_core: int | None) -> Sample:
    """Measure one target once: saturation, each rate that it can keep, streams."""
    port = target.server.port
    plain, streamed = bodies(target.model, is_stream=False), bodies(target.model, is_stream=True)
    before = target.server.cpu_seconds()
    full = run_load_process(LoadPlan(port, plain, CONNECTIONS, effort.saturation_seconds), load_core)
    cpu = target.server.cpu_seconds() - before
    per_second = full.finished / full.wall_seconds
    p50, p99 = {}, {}
    for rate in effort.rates:
        if per_second >= rate * _HEADROOM:
            plan = LoadPlan(port, plain, CONNECTIONS, effort.rate_seconds, rate_per_second=rate)
            paced = run_load_process(plan, load_core)
            p50[rate], p99[rate] = quantile(paced.latency_ms, 0.5), quantile(paced.latency_ms, 0.99)
    before = target.server.cpu_seconds()
    streams = run_load_process(LoadPlan(port, streamed, STREAM_CONNECTIONS, effort.stream_seconds), load_core)
    stream_cpu = target.server.cpu_seconds() - before
    return Sample(
        cpu_us=cpu / full.finished * 1e6,
        per_second=per_second,
        busy=cpu / full.wall_seconds,
        load_busy=full.cpu_seconds / full.wall_seconds,
        p50_ms=p50,
        p99_ms=p99,
        cpu_us_per_chunk=stream_cpu / streams.events * 1e6 if streams.events else None,
        first_event_ms=quantile(streams.first_event_ms, 0.5),
    )


@contextmanager
def running_targets(
    wanted: Sequence[str], effort: Effort, gateway_core: int | None, load_core: int | None, warn: Callable[[str], None]
) -> Iterator[list[Target]]:
    """Start what was asked for; a missing program costs one loud line, not the run."""
    with ExitStack() as stack, tempfile.TemporaryDirectory(prefix="penstock-bench-") as name:
        folder = Path(name)

        def keep(server: Server) -> Server:
            stack.callback(server.stop)
            return server

        mock = keep(mock_server(folder, core=load_core, chunks=effort.chunks, gap_ms=effort.gap_ms))
        targets: list[Target] = []
        if "bare" in wanted:
            bare = mock_server(folder, core=gateway_core, chunks=effort.chunks, gap_ms=effort.gap_ms, name="bare")
            targets.append(Target("bare", keep(bare), "mock"))
        if "nginx" in wanted:
            nginx = nginx_server(folder, upstream_port=mock.port, core=gateway_core)
            if nginx is None:
                warn("SKIPPED nginx: not installed (Debian, Ubuntu: apt-get install nginx-light)")
            else:
                targets.append(Target("nginx", keep(nginx), "mock"))
        if "penstock" in wanted or "penstock-auto" in wanted:
            server = keep(penstock_server(folder, upstream_port=mock.port, core=gateway_core))
            models = {"penstock": PHYSICAL_MODEL, "penstock-auto": "auto"}
            targets += [Target(name, server, model) for name, model in models.items() if name in wanted]
        if "litellm" in wanted:
            targets += [Target("litellm", keep(s), PHYSICAL_MODEL) for s in _litellm(folder, mock, gateway_core, warn)]
        yield targets


def _litellm(folder: Path, mock: Server, core: int | None, warn: Callable[[str], None]) -> list[Server]:
    program = install_litellm()
    if program is None:
        warn("SKIPPED litellm: 'litellm[proxy]' could not be installed into .bench/litellm")
        return []
    try:
        return [litellm_server(folder, program, upstream_port=mock.port, core=core)]
    except TargetError as error:
        warn(f"SKIPPED litellm: {error}")
        return []


def routing_reasons(target: Target) -> dict[str, int]:
    """Ask the gateway for each body once and count why it decided as it did."""
    counts: dict[str, int] = {}
    connection = http.client.HTTPConnection(LOOPBACK, target.server.port, timeout=10)
    for body in bodies(target.model, is_stream=False):
        connection.request("POST", "/v1/chat/completions", body, {"content-type": "application/json"})
        response = connection.getresponse()
        response.read()
        reason = response.getheader("x-penstock-reason") or "none"
        counts[reason] = counts.get(reason, 0) + 1
    connection.close()
    return counts


def summarise(samples: dict[str, list[Sample]], rates: Sequence[float]) -> list[dict[str, Any]]:
    """Return one row per target: medians over the rounds, differences to the bare provider round by round."""
    bare = samples.get("bare")
    rows = []
    for name, rounds in samples.items():
        row: dict[str, Any] = {
            "target": name,
            "rounds": len(rounds),
            "cpu_us_per_request": _median([s.cpu_us for s in rounds]),
            "cpu_us_spread": max(s.cpu_us for s in rounds) / min(s.cpu_us for s in rounds),
            "requests_per_second": _median([s.per_second for s in rounds]),
            "core_busy": _median([s.busy for s in rounds]),
            "load_core_busy_by_generator": _median([s.load_busy for s in rounds]),
            "cpu_us_per_chunk": _median([s.cpu_us_per_chunk for s in rounds]),
            "first_event_ms": _median([s.first_event_ms for s in rounds]),
            "added_first_event_ms": _median(_differences(rounds, bare, lambda s: s.first_event_ms)),
        }
        for rate in rates:
            p50, p99 = _reader("p50_ms", rate), _reader("p99_ms", rate)
            row[f"p50_ms_at_{rate:g}"] = _median([p50(s) for s in rounds])
            row[f"added_p50_ms_at_{rate:g}"] = _median(_differences(rounds, bare, p50))
            row[f"added_p99_ms_at_{rate:g}"] = _median(_differences(rounds, bare, p99))
        rows.append(row)
    return rows


def _differences(
    rounds: Sequence[Sample], bare: Sequence[Sample] | None, read: Callable[[Sample], float | None]
) -> list[float | None]:
    pairs = [(read(own), read(other)) for own, other in zip(rounds, bare or [], strict=False)]
    return [None if own is None or other is None else own - other for own, other in pairs]


def _reader(field: str, rate: float) -> Callable[[Sample], float | None]:
    """Read one latency at one rate out of a sample."""

    def read(sample: Sample) -> float | None:
        latencies: dict[float, float] = getattr(sample, field)
        return latencies.get(rate)

    return read


def _median(values: Sequence[float | None]) -> float | None:
    known = [value for value in values if value is not None]
    return statistics.median(known) if known else None


def ratios(rows: Sequence[dict[str, Any]]) -> dict[str, float]:
    """Return processor time per request of every target as a multiple of nginx's, and litellm's of Penstock's."""
    cost = {row["target"]: row["cpu_us_per_request"] for row in rows}
    found = {f"{name} / nginx": cost[name] / cost["nginx"] for name in cost if "nginx" in cost and name != "nginx"}
    for own in ("penstock", "penstock-auto"):
        if own in cost and "litellm" in cost:
            found[f"litellm / {own}"] = cost["litellm"] / cost[own]
    return found


def table_lines(rows: Sequence[dict[str, Any]], rates: Sequence[float]) -> list[str]:
    """Return the summary as aligned text."""
    columns = [
        ("target", "target", ""),
        ("CPU µs/req", "cpu_us_per_request", ".1f"),
        ("spread", "cpu_us_spread", ".2f"),
        ("req/s/core", "requests_per_second", ".0f"),
        ("core busy", "core_busy", ".0%"),
    ]
    for rate in rates:
        columns.append((f"+p50 ms @{rate:g}/s", f"added_p50_ms_at_{rate:g}", ".2f"))
        columns.append((f"+p99 ms @{rate:g}/s", f"added_p99_ms_at_{rate:g}", ".2f"))
    columns += [("CPU µs/chunk", "cpu_us_per_chunk", ".1f"), ("+first event ms", "added_first_event_ms", ".2f")]
    table = [[title for title, _, _ in columns]]
    for row in rows:
        values = [row.get(key) for _, key, _ in columns]
        shown = ["–" if v is None else format(v, shape) for v, (_, _, shape) in zip(values, columns, strict=True)]
        table.append(shown)
    widths = [max(len(line[i]) for line in table) for i in range(len(columns))]
    return [
        "  ".join(c.ljust(w) if i == 0 else c.rjust(w) for i, (c, w) in enumerate(zip(line, widths, strict=True)))
        for line in table
    ]


@click.command()
@click.option("--quick", is_flag=True, help="One short round: proves that the bench works, measures nothing well.")
@click.option("--json", "as_json", is_flag=True, help="Write one JSON document.")
@click.option("--targets", default=None, help=f"Comma-separated; default: {','.join(ALL_TARGETS)} (quick: no litellm).")
@click.option("--rounds", type=click.IntRange(1, 20), default=None, help="Interleaved rounds.")
def main(quick: bool, as_json: bool, targets: str | None, rounds: int | None) -> None:
    """Measure what a gateway costs against a bare provider, nginx and the litellm proxy."""
    if not Path("/proc/self/stat").exists():
        click.echo("SKIPPED: processor time per process is read from /proc, which only Linux has.", err=True)
        return
    wanted = targets.split(",") if targets else [t for t in ALL_TARGETS if not (quick and t == "litellm")]
    unknown = set(wanted) - set(ALL_TARGETS)
    if unknown:
        raise click.BadParameter(f"unknown targets: {', '.join(sorted(unknown))}", param_hint="--targets")
    effort = QUICK if quick else FULL
    warnings: list[str] = []

    def warn(text: str) -> None:
        warnings.append(text)
        click.secho(text, err=True, bold=True)

    machine = describe_machine()
    click.echo("\n".join(machine_lines(machine)), err=True)
    try:
        rows, reasons = _run(wanted, effort, rounds or effort.rounds, warn)
    except TargetError as error:
        raise click.ClickException(str(error)) from error
    _report(machine, effort, rows, reasons, warnings, as_json=as_json)


def _run(
    wanted: Sequence[str], effort: Effort, rounds: int, warn: Callable[[str], None]
) -> tuple[list[dict[str, Any]], dict[str, int]]:
    cores = usable_cores()
    gateway_core, load_core = (cores[0], cores[1]) if len(cores) > 1 else (None, None)
    if gateway_core is None:
        warn("ONE CORE ONLY: load, provider and gateway share it; the figures say little")
    samples: dict[str, list[Sample]] = {}
    reasons: dict[str, int] = {}
    with running_targets(wanted, effort, gateway_core, load_core, warn) as targets:
        for target in targets:
            warm = LoadPlan(target.server.port, bodies(target.model, is_stream=False), 4, 0.5)
            run_load_process(warm, load_core)
            if target.name == "penstock-auto":
                reasons = routing_reasons(target)
                if set(reasons) == {"abstained_no_estimate"}:
                    warn("ROUTING IS OFF (no artifact or no encoder): 'penstock-auto' measures abstentions")
        for number in range(rounds):
            for target in targets:
                click.echo(f"round {number + 1} of {rounds}: {target.name}", err=True)
                samples.setdefault(target.name, []).append(measure(target, effort, load_core))
    return summarise(samples, effort.rates), reasons


def _report(
    machine: Machine,
    effort: Effort,
    rows: list[dict[str, Any]],
    reasons: dict[str, int],
    warnings: list[str],
    *,
    as_json: bool,
) -> None:
    if as_json:
        document = {
            "machine": machine,
            "effort": asdict(effort),
            "warnings": warnings,
            "results": rows,
            "ratios": ratios(rows),
            "auto_reasons": reasons,
        }
        click.echo(json.dumps(document, indent=2))
        return
    click.echo("\n".join(table_lines(rows, effort.rates)))
    for name, value in ratios(rows).items():
        click.echo(f"{name}: {value:.1f} ×")
    if reasons:
        click.echo("auto decided: " + ", ".join(f"{reason} {count}" for reason, count in reasons.items()))
    click.echo("'+' is the difference to the bare provider in the same round; ratios below 1.2 mean nothing.")


if __name__ == "__main__":
    main()
