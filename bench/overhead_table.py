"""What the samples of `overhead` come to: medians over rounds, ratios, an aligned table and a plot.

Read `summarise`.
"""

from __future__ import annotations

import statistics
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

OWN = "penstock"
PEERS = ("nginx", "portkey", "litellm")


@dataclass(frozen=True, slots=True)
class Sample:
    """One target in one round; None where it was not measured."""

    cpu_us: float
    per_second: float
    busy: float
    load_busy: float
    p50_ms: dict[float, float]
    p99_ms: dict[float, float]
    cpu_us_per_chunk: float | None = None
    first_event_ms: float | None = None
    gap_p999_ms: float | None = None


@dataclass(frozen=True, slots=True)
class ServerFacts:
    """A server as a whole.

    Attributes
    ----------
    ready_seconds : float
        From its start to its first open port.
    start_mb, end_mb : float
        Resident memory before the first request and after the last, 10⁶ bytes.
    requests : int
        In between.
    """

    ready_seconds: float
    start_mb: float
    end_mb: float
    requests: int


def summarise(
    samples: dict[str, list[Sample]], facts: dict[str, ServerFacts], rates: Sequence[float]
) -> list[dict[str, Any]]:
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
            "added_gap_p999_ms": _median(_differences(rounds, bare, lambda s: s.gap_p999_ms)),
        }
        for rate in rates:
            p50, p99 = _reader("p50_ms", rate), _reader("p99_ms", rate)
            row[f"p50_ms_at_{rate:g}"] = _median([p50(s) for s in rounds])
            row[f"added_p50_ms_at_{rate:g}"] = _median(_differences(rounds, bare, p50))
            row[f"added_p99_ms_at_{rate:g}"] = _median(_differences(rounds, bare, p99))
        if name in facts:
            known = facts[name]
            row |= {
                "ready_seconds": known.ready_seconds,
                "start_mb": known.start_mb,
                "end_mb": known.end_mb,
                "requests": known.requests,
            }
        rows.append(row)
    return rows


def ratios(rows: Sequence[dict[str, Any]]) -> dict[str, float]:
    """Return what peers take of a processor as a multiple of what Penstock takes, and Penstock's of nginx's."""
    cost = {row["target"]: row["cpu_us_per_request"] for row in rows}
    own = [name for name in cost if name.startswith(OWN)]
    found = {f"{name} / nginx": cost[name] / cost["nginx"] for name in own if "nginx" in cost}
    for peer in ("portkey", "litellm"):
        found |= {f"{peer} / {name}": cost[peer] / cost[name] for name in own if peer in cost}
    found |= {f"{OWN} / {name}": cost[OWN] / cost[name] for name in own if OWN in cost and name.endswith("-hit")}
    return found


def table_lines(rows: Sequence[dict[str, Any]], rates: Sequence[float]) -> list[str]:
    """Return the summary as aligned text."""
    columns = [
        ("target", "target", ""),
        ("CPU µs/req", "cpu_us_per_request", ".1f"),
        ("spread", "cpu_us_spread", ".2f"),
        ("req/s/core", "requests_per_second", ".0f"),
        ("busy", "core_busy", ".0%"),
    ]
    for rate in rates:
        columns.append((f"+p50 ms @{rate:g}", f"added_p50_ms_at_{rate:g}", ".2f"))
        columns.append((f"+p99 ms @{rate:g}", f"added_p99_ms_at_{rate:g}", ".2f"))
    columns += [
        ("µs/chunk", "cpu_us_per_chunk", ".1f"),
        ("+1st event ms", "added_first_event_ms", ".2f"),
        ("+gap p99.9 ms", "added_gap_p999_ms", ".1f"),
        ("ready s", "ready_seconds", ".2f"),
        ("MB at start", "start_mb", ".0f"),
        ("at end", "end_mb", ".0f"),
        ("after req", "requests", ",d"),
    ]
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


def write_plot(rows: Sequence[dict[str, Any]], path: Path, caption: str) -> None:
    """Draw processor time per request as bars on a logarithmic axis.

    Parameters
    ----------
    rows : sequence of dict
    path : Path
        Its ending chooses the format.
    caption : str
        Machine and date, below the bars.

    Raises
    ------
    ModuleNotFoundError
        matplotlib is not installed.
    """
    import matplotlib as mpl  # noqa: PLC0415 - only for the plot

    mpl.use("Agg")
    from matplotlib import pyplot as plt  # noqa: PLC0415

    shown = [row for row in rows if row["target"] != "bare"]
    shown.sort(key=lambda row: -float(row["cpu_us_per_request"]))
    names = [row["target"] for row in shown]
    values = [float(row["cpu_us_per_request"]) for row in shown]
    colours = ["#1f6feb" if name.startswith(OWN) else "#9aa4b2" for name in names]
    figure, axes = plt.subplots(figsize=(8, 0.45 * len(shown) + 1.4))
    bars = axes.barh(names, values, color=colours)
    axes.bar_label(bars, labels=[f"{value:,.0f}" for value in values], padding=4)
    axes.set_xscale("log")
    axes.set_xlim(min(values) / 2, max(values) * 3)
    axes.set_xlabel("processor time per request, µs (logarithmic; shorter is better)")
    axes.spines[["top", "right"]].set_visible(False)
    figure.text(0.01, 0.01, caption, fontsize=7, color="#57606a")
    figure.tight_layout(rect=(0, 0.04, 1, 1))
    figure.savefig(path, dpi=110)
    plt.close(figure)


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
