"""Whether a thousand slow streams at once all arrive, on time, and in bounded memory.

Provider, gateway and clients are a process each, on the loopback interface. Every chunk carries its number and the time
at which the provider sent it, so a lost chunk, a stalled stream and the gateway's own delay are all seen. **Exit code 1
when a stream is dropped or stalls.** Run ``python bench/streams.py``; Linux only (memory is read from ``/proc``).
"""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
import threading
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import Any

import click
from machine import describe_machine, machine_lines
from stream_readers import ReadPlan, ReadResult
from targets import BENCH_FOLDER, LOOPBACK, Server, free_port
from uneven_upstream import raise_file_limit

STREAMS, SECONDS, GAP_MS = 1_000, 60.0, 250.0
QUICK_STREAMS, QUICK_SECONDS = 50, 1.0
STREAMS_PER_SECOND_OF_RAMP = 250
STALL_SECONDS = 5.0
"""A pause this much longer than the provider's own is a stall: clients' libraries wait for minutes, people do not."""

_SAMPLE_SECONDS = 0.5
_GRACE_SECONDS = 30.0
_SETTLE_SECONDS = 3.0
_WARM_UP_SECONDS = 0.5  # of one stream, so that everything is loaded before memory is looked at


class MemoryWatch:
    """Samples a server's resident memory from a thread until stopped.

    Parameters
    ----------
    server : Server
    """

    def __init__(self, server: Server) -> None:
        self._server = server
        self._is_over = threading.Event()
        self._thread = threading.Thread(target=self._watch, daemon=True)
        self.peak_mb = server.memory_mb()
        self._thread.start()

    def stop(self) -> float:
        """Stop and return the largest sample, 10⁶ bytes."""
        self._is_over.set()
        self._thread.join()
        return self.peak_mb

    def _watch(self) -> None:
        while not self._is_over.wait(_SAMPLE_SECONDS):
            self.peak_mb = max(self.peak_mb, self._server.memory_mb())


def gateway_server(folder: Path, *, upstream_port: int, streams: int, model: str) -> Server:
    """Start the gateway with one deployment."""
    port = free_port()
    deployment = {
        "name": model,
        "adapter": "direct",
        "base_url": f"http://{LOOPBACK}:{upstream_port}/v1",
        "price": {"input": 1, "output": 2},
        "context_tokens": 128_000,
        "abilities": ["streaming"],
    }
    settings = {
        "version": 1,
        "server": {"port": port, "max_in_flight": streams + 100},
        "deployments": [deployment],
        "routing": {"artifact": "none"},
    }
    path = folder / "penstock.yaml"
    path.write_text(json.dumps(settings, indent=1))  # JSON is YAML
    command = [sys.executable, "-m", "penstock_gateway", "serve", "--config", str(path)]
    return Server("penstock", command, port=port, core=None, log=folder / "penstock.log")


def upstream_server(folder: Path, *, chunks: int, gap_ms: float) -> Server:
    """Start the provider."""
    port = free_port()
    script = str(BENCH_FOLDER / "uneven_upstream.py")
    command = [sys.executable, script, "--port", str(port), "--chunks", str(chunks), "--gap-ms", str(gap_ms)]
    return Server("upstream", command, port=port, core=None, log=folder / "upstream.log")


@contextmanager
def stopping(server: Server) -> Iterator[Server]:
    """Yield a server and stop it."""
    try:
        yield server
    finally:
        server.stop()


def read_in_process(plan: ReadPlan) -> ReadResult:
    """Read the streams in a process of its own."""
    done = subprocess.run(
        [sys.executable, str(BENCH_FOLDER / "stream_readers.py")],
        input=json.dumps(asdict(plan)),
        capture_output=True,
        text=True,
        timeout=plan.limit_seconds + _GRACE_SECONDS,
        check=False,
    )
    if done.returncode:
        raise click.ClickException(f"the clients failed: {done.stderr[-800:]}")
    return ReadResult(**json.loads(done.stdout))


def measure(streams: int, seconds: float, gap_ms: float, model: str) -> dict[str, Any]:
    """Run the three processes and return what the clients saw and what the gateway took."""
    ramp = min(seconds / 2.0, max(0.2, streams / STREAMS_PER_SECOND_OF_RAMP))
    chunks = max(3, round((seconds + ramp) * 1000.0 / gap_ms))  # so that all are open for `seconds` together
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="penstock-streams-")))
        upstream = stack.enter_context(stopping(upstream_server(folder, chunks=chunks, gap_ms=gap_ms)))
        gateway = stack.enter_context(
            stopping(gateway_server(folder, upstream_port=upstream.port, streams=streams, model=model))
        )
        read_in_process(ReadPlan(gateway.port, 1, chunks, 0.0, _WARM_UP_SECONDS, STALL_SECONDS, model))
        before = gateway.memory_mb()
        cpu = gateway.cpu_seconds()
        watch = MemoryWatch(gateway)
        plan = ReadPlan(gateway.port, streams, chunks, ramp, seconds + ramp + _GRACE_SECONDS, STALL_SECONDS, model)
        result = read_in_process(plan)
        peak = watch.stop()
        cpu = gateway.cpu_seconds() - cpu
        threading.Event().wait(_SETTLE_SECONDS)
        after = gateway.memory_mb()
    return {
        "streams": streams,
        "seconds": seconds,
        "gap_ms": gap_ms,
        "chunks_per_stream": chunks,
        "memory_mb": {"before": round(before, 1), "peak": round(peak, 1), "after": round(after, 1)},
        "peak_kb_per_stream": round((peak - before) * 1000.0 / streams, 1),
        "cpu_us_per_chunk": round(cpu * 1e6 / max(1, result.chunks), 1),
        **{name: value for name, value in asdict(result).items() if name not in ("delays_ms", "excess_gaps_ms")},
    }


def report_lines(found: dict[str, Any]) -> list[str]:
    """Return the result for people."""
    memory = found["memory_mb"]
    return [
        f"{found['streams']} streams, a chunk every {found['gap_ms']:g} ms, for {found['seconds']:g} s "
        f"({found['chunks_per_stream']} chunks each, {found['most_open']} open at once at most)",
        f"  complete {found['complete']}, dropped {found['dropped']}, stalled {found['stalled']}; "
        f"{found['chunks']:,} chunks",
        f"  gap beyond the provider's own: p99.9 {found['p999_excess_gap_ms']:.1f} ms, "
        f"largest {found['largest_excess_gap_ms']:.1f} ms",
        f"  delay provider to client: median {found['median_delay_ms']:.2f} ms, p99 {found['p99_delay_ms']:.2f} ms, "
        f"largest {found['largest_delay_ms']:.1f} ms",
        f"  gateway's memory: {memory['before']:.1f} MB before, {memory['peak']:.1f} MB at most "
        f"({found['peak_kb_per_stream']:g} kB a stream), {memory['after']:.1f} MB after",
        f"  gateway's processor time: {found['cpu_us_per_chunk']:g} µs a chunk, opening included",
        *([f"  first problem: {found['first_problem']}"] if found["first_problem"] else []),
    ]


@click.command()
@click.option("--streams", type=click.IntRange(1, 10_000), default=None, help="At once; 1,000 unless given.")
@click.option(
    "--seconds", type=click.FloatRange(1.0, 3_000.0), default=None, help="All open together; 60 unless given."
)
@click.option("--gap-ms", type=click.FloatRange(10.0, 10_000.0), default=GAP_MS, show_default=True)
@click.option(
    "--model", type=click.Choice(["slow", "cut"]), default="slow", help="`cut` breaks off, to see it noticed."
)
@click.option("--quick", is_flag=True, help="A short pass that proves it works; its figures mean nothing.")
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
def main(streams: int | None, seconds: float | None, gap_ms: float, model: str, quick: bool, as_json: bool) -> None:
    """Hold many slow streams open through the gateway and look for any that is dropped or stalls."""
    raise_file_limit()
    streams = streams or (QUICK_STREAMS if quick else STREAMS)
    seconds = seconds or (QUICK_SECONDS if quick else SECONDS)
    machine = describe_machine()
    found = measure(streams, seconds, gap_ms, model)
    is_good = found["dropped"] == 0 and found["stalled"] == 0
    if as_json:
        click.echo(json.dumps({"machine": machine, "result": found, "is_good": is_good}, indent=1))
    else:
        click.echo("\n".join([*machine_lines(machine), *report_lines(found)]))
        click.echo("verdict: " + ("none dropped, none stalled" if is_good else "FAILED"))
    if not is_good:
        sys.exit(1)


if __name__ == "__main__":
    main()
