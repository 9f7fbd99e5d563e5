"""What does a gateway cost? Processor time per request and added latency, in one interleaved run.

Compares, each pinned to core A while the load generator and the mock provider share core B: the bare mock provider,
nginx as a reverse proxy, Penstock (a model by its name, `auto` with short and long prompts, answers from the cache),
and the gateways that install from a package registry: Portkey's and litellm's. Questions per round: closed loop with 16
connections (processor µs per request), fixed rates (added latency), a few streams (added time to the first event) and
many (processor µs per chunk, longest gaps). Rounds are interleaved and medians shown, because a shared machine drifts;
**compare ratios inside one run only, and take a ratio below 1.2 for noise**. Run ``python bench/overhead.py``.
"""

from __future__ import annotations

import datetime as dt
import http.client
import json
import os
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

import click
from load import LoadPlan, LoadResult, quantile
from machine import Machine, describe_machine, machine_lines, usable_cores
from overhead_table import Sample, ServerFacts, ratios, summarise, table_lines, write_plot
from peers import install_litellm, install_portkey, litellm_server, nginx_server, portkey_headers, portkey_server
from targets import (
    BENCH_FOLDER,
    CLIENT_KEY,
    LOOPBACK,
    PHYSICAL_MODEL,
    Server,
    Target,
    TargetError,
    mock_server,
    penstock_server,
)
from traffic import Traffic

CONNECTIONS = 16
FEW_STREAMS = 4
MANY_STREAMS = 64
"""Of 200 chunks/s each: 12,800 a second, half of what 500 streams of 50 chunks/s come to. A server that cannot keep up
gets its chunks in fewer, larger packets, which costs it less for each."""
MEMORY_REQUESTS = 50_000
SEMANTIC = "penstock-semantic-hit"
PENSTOCK_TARGETS = ("penstock", "penstock-auto", "penstock-auto-256", "penstock-exact-hit", SEMANTIC)
ALL_TARGETS = ("bare", "nginx", *PENSTOCK_TARGETS, "portkey", "litellm")
QUICK_TARGETS = ("bare", "nginx", *PENSTOCK_TARGETS)
# A target must do this much more than a rate before its latency at that rate means anything.
_HEADROOM = 1.3


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
    memory_seconds: float


FULL = Effort(3, 4.0, 5.0, (50.0, 200.0), 3.0, 50, 5.0, 25.0)
QUICK = Effort(1, 0.2, 0.2, (50.0,), 0.2, 10, 2.0, 0.1)


@dataclass(slots=True)
class Run:
    """What is measured, and how far that has come."""

    effort: Effort
    load_core: int | None
    samples: dict[str, list[Sample]] = field(default_factory=dict)
    sent: dict[str, int] = field(default_factory=dict)
    reasons: dict[str, dict[str, int]] = field(default_factory=dict)
    bodies: dict[str, list[str]] = field(default_factory=dict)

    def load(self, target: Target, bodies: list[str], connections: int, seconds: float, **more: Any) -> LoadResult:
        """Send requests and count them."""
        headers = target.traffic.headers
        result = run_load_process(
            LoadPlan(target.server.port, bodies, connections, seconds, headers=headers, **more), self.load_core
        )
        self.sent[target.server.name] = self.sent.get(target.server.name, 0) + result.finished
        return result

    def warm(self, target: Target) -> None:
        """Ask what is to be remembered, find out who answers, and let every part of the path run once."""
        traffic = target.traffic
        bodies = self.bodies[target.name] = traffic.bodies()
        if seeds := traffic.seeds():
            asking = replace(traffic, headers={k: v for k, v in traffic.headers.items() if k == "authorization"})
            self.load(replace(target, traffic=asking), seeds, 1, 30.0, max_requests=len(seeds))
        if target.name.startswith("penstock-"):
            answers = answered_by(target)
            self.reasons[target.name] = dict(Counter(answers))
            if target.name == SEMANTIC:  # the others are no rewording in the eyes of the cache, and cost a model's call
                hits = [body for body, answer in zip(bodies, answers, strict=True) if "hit-semantic" in answer]
                bodies = self.bodies[target.name] = hits or bodies
        self.load(target, bodies, 4, min(0.5, self.effort.rate_seconds))

    def measure(self, target: Target) -> None:
        """Measure one target once: saturation, each rate that it can keep, streams."""
        effort, bodies = self.effort, self.bodies[target.name]
        before = target.server.cpu_seconds()
        full = self.load(target, bodies, CONNECTIONS, effort.saturation_seconds)
        cpu = target.server.cpu_seconds() - before
        per_second = full.finished / full.wall_seconds
        p50, p99 = {}, {}
        for rate in effort.rates:
            if per_second >= rate * _HEADROOM:
                paced = self.load(target, bodies, CONNECTIONS, effort.rate_seconds, rate_per_second=rate)
                p50[rate], p99[rate] = quantile(paced.latency_ms, 0.5), quantile(paced.latency_ms, 0.99)
        sample = Sample(
            cpu_us=cpu / full.finished * 1e6,
            per_second=per_second,
            busy=cpu / full.wall_seconds,
            load_busy=full.cpu_seconds / full.wall_seconds,
            p50_ms=p50,
            p99_ms=p99,
            **(self._streams(target) if target.has_streams else {}),
        )
        self.samples.setdefault(target.name, []).append(sample)

    def _streams(self, target: Target) -> dict[str, float | None]:
        bodies = target.traffic.bodies(is_stream=True)
        few = self.load(target, bodies, FEW_STREAMS, self.effort.stream_seconds)
        before = target.server.cpu_seconds()
        many = self.load(target, bodies, MANY_STREAMS, self.effort.stream_seconds)
        cpu = target.server.cpu_seconds() - before
        return {
            "cpu_us_per_chunk": cpu / many.events * 1e6 if many.events else None,
            "first_event_ms": quantile(few.first_event_ms, 0.5),
            "gap_p999_ms": quantile(many.gap_ms, 0.999),
        }


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

        def start_penstock(name: str, cache: str) -> Server:
            return keep(penstock_server(folder, upstream_port=mock.port, core=gateway_core, cache=cache, name=name))

        mock = keep(mock_server(folder, core=load_core, chunks=effort.chunks, gap_ms=effort.gap_ms))
        targets: list[Target] = []
        if "bare" in wanted:
            bare = mock_server(folder, core=gateway_core, chunks=effort.chunks, gap_ms=effort.gap_ms, name="bare")
            targets.append(Target("bare", keep(bare), Traffic("mock")))
        for peer, start in (("nginx", _nginx), ("portkey", _portkey), ("litellm", _litellm)):
            if peer == "portkey":
                targets += _penstock(start_penstock, wanted)
            if peer in wanted:
                target = start(folder, mock, gateway_core, warn)
                if target is not None:
                    keep(target.server)
                    targets.append(target)
        yield targets


def _penstock(start: Callable[[str, str], Server], wanted: Sequence[str]) -> Iterator[Target]:
    """Start the gateway once with a cache of the same requests, and once with one of other wordings."""
    key = {"authorization": f"Bearer {CLIENT_KEY}"}
    plain = {
        "penstock": Traffic(PHYSICAL_MODEL, "short", key),
        "penstock-auto": Traffic("auto", "short", key),
        "penstock-auto-256": Traffic("auto", "long", key),
        "penstock-exact-hit": Traffic("auto", "repeated", key),
    }
    if set(plain) & set(wanted):
        server = start("penstock", "exact")
        for name, traffic in plain.items():
            if name in wanted:
                yield Target(name, server, traffic, has_streams=name in ("penstock", "penstock-auto"))
    if SEMANTIC in wanted:
        other = Traffic("auto", "reworded", {**key, "x-penstock-cache": "no-store"})
        yield Target(SEMANTIC, start(SEMANTIC, "semantic"), other, has_streams=False)


def _nginx(folder: Path, mock: Server, core: int | None, warn: Callable[[str], None]) -> Target | None:
    server = nginx_server(folder, upstream_port=mock.port, core=core)
    if server is None:
        warn("SKIPPED nginx: not installed (Debian, Ubuntu: apt-get install nginx-light)")
        return None
    return Target("nginx", server, Traffic("mock"))


def _portkey(folder: Path, mock: Server, core: int | None, warn: Callable[[str], None]) -> Target | None:
    script = install_portkey()
    if script is None:
        warn("SKIPPED portkey: '@portkey-ai/gateway' could not be installed into .bench/portkey (npm is needed)")
        return None
    try:
        server = portkey_server(folder, script, core=core)
    except TargetError as error:
        warn(f"SKIPPED portkey: {error}")
        return None
    return Target("portkey", server, Traffic(PHYSICAL_MODEL, "short", portkey_headers(mock.port)))


def _litellm(folder: Path, mock: Server, core: int | None, warn: Callable[[str], None]) -> Target | None:
    program = install_litellm()
    if program is None:
        warn("SKIPPED litellm: 'litellm[proxy]' could not be installed into .bench/litellm")
        return None
    try:
        server = litellm_server(folder, program, upstream_port=mock.port, core=core)
    except TargetError as error:
        warn(f"SKIPPED litellm: {error}")
        return None
    return Target("litellm", server, Traffic(PHYSICAL_MODEL))


def answered_by(target: Target) -> list[str]:
    """Ask the gateway for each body once, and return why it decided as it did and what the cache said."""
    answers = []
    connection = http.client.HTTPConnection(LOOPBACK, target.server.port, timeout=10)
    for number, body in enumerate(target.traffic.bodies()):
        unlike = body.replace("@@@@@@@@@@", f"{time.time_ns() // 1000 % 10**9 + number:010d}")
        headers = {"content-type": "application/json", **target.traffic.headers}
        connection.request("POST", "/v1/chat/completions", unlike, headers)
        response = connection.getresponse()
        response.read()
        answers.append(f"{response.getheader('x-penstock-reason')}, cache {response.getheader('x-penstock-cache')}")
    connection.close()
    return answers


@click.command()
@click.option("--quick", is_flag=True, help="One short round: proves that the bench works, measures nothing well.")
@click.option("--json", "as_json", is_flag=True, help="Write one JSON document.")
@click.option("--targets", default=None, help=f"Comma-separated; default: {','.join(ALL_TARGETS)} (quick: no peers).")
@click.option("--rounds", type=click.IntRange(1, 20), default=None, help="Interleaved rounds.")
@click.option("--save", type=click.Path(path_type=Path), default=None, help="Write the JSON document here as well.")
@click.option("--plot", type=click.Path(path_type=Path), default=None, help="Draw the table here (.png or .svg).")
def main(
    quick: bool, as_json: bool, targets: str | None, rounds: int | None, save: Path | None, plot: Path | None
) -> None:
    """Measure what a gateway costs against a bare provider, nginx and other gateways."""
    if not Path("/proc/self/stat").exists():
        click.echo("SKIPPED: processor time per process is read from /proc, which only Linux has.", err=True)
        return
    wanted = targets.split(",") if targets else list(QUICK_TARGETS if quick else ALL_TARGETS)
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
    document = {
        "machine": machine,
        "date": dt.datetime.now(dt.UTC).date().isoformat(),
        "effort": asdict(effort),
        "warnings": warnings,
        "results": rows,
        "ratios": ratios(rows),
        "answered_by": reasons,
    }
    if save is not None:
        save.write_text(json.dumps(document, indent=1) + "\n")
    if plot is not None:
        write_plot(rows, plot, _caption(machine))
    if as_json:
        click.echo(json.dumps(document, indent=2))
    else:
        _show(rows, reasons, effort)


def _run(
    wanted: Sequence[str], effort: Effort, rounds: int, warn: Callable[[str], None]
) -> tuple[list[dict[str, Any]], dict[str, dict[str, int]]]:
    cores = usable_cores()
    gateway_core, load_core = (cores[0], cores[1]) if len(cores) > 1 else (None, None)
    if gateway_core is None:
        warn("ONE CORE ONLY: load, provider and gateway share it; the figures say little")
    run = Run(effort, load_core)
    with running_targets(wanted, effort, gateway_core, load_core, warn) as targets:
        start_mb = {target.server.name: target.server.memory_mb() for target in targets}
        for target in targets:
            run.warm(target)
            if any("abstained_no_estimate" in reason for reason in run.reasons.get(target.name, ())):
                warn(f"ROUTING IS OFF (no artifact or no encoder): {target.name!r} measures abstentions")
        for number in range(rounds):
            for target in targets:
                click.echo(f"round {number + 1} of {rounds}: {target.name}", err=True)
                run.measure(target)
        facts = _facts(run, targets, start_mb)
    return summarise(run.samples, facts, effort.rates), run.reasons


def _facts(run: Run, targets: Sequence[Target], start_mb: dict[str, float]) -> dict[str, ServerFacts]:
    """Send what is missing to `MEMORY_REQUESTS`, as far as the time reaches, and weigh every server."""
    facts = {}
    for target in targets:
        if target.name != target.server.name:
            continue
        missing = MEMORY_REQUESTS - run.sent[target.server.name]
        if missing > 0:
            click.echo(f"memory: {target.name}", err=True)
            seconds = run.effort.memory_seconds
            run.load(target, run.bodies[target.name], CONNECTIONS, seconds, max_requests=missing)
        server = target.server
        facts[target.name] = ServerFacts(
            server.start_seconds, start_mb[server.name], server.memory_mb(), run.sent[server.name]
        )
    return facts


def _caption(machine: Machine) -> str:
    date = dt.datetime.now(dt.UTC).date().isoformat()
    return f"{date}; {machine_lines(machine)[0]}"


def _show(rows: list[dict[str, Any]], reasons: dict[str, dict[str, int]], effort: Effort) -> None:
    click.echo("\n".join(table_lines(rows, effort.rates)))
    for name, value in ratios(rows).items():
        click.echo(f"{name}: {value:.1f} ×")
    for name, counts in reasons.items():
        click.echo(f"{name} was answered by: " + "; ".join(f"{reason} {count}" for reason, count in counts.items()))
    click.echo("'+' is the difference to the bare provider in the same round; ratios below 1.2 mean nothing.")


if __name__ == "__main__":
    main()
