"""How well every router family, and every baseline, trades cost for quality on real outcomes.

    .venv/bin/python bench/routing_quality.py --data ../shared/data

Splits each outcome set 70 to 30 by question, five times; fits everything on the larger part; sweeps the weight of cost
on the smaller. Numbers are means over the splits, intervals a bootstrap over questions that all splits share. Read
`measure_set`.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import time
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
from data_folder import data_folder
from machine import describe_machine, machine_lines
from numpy.typing import NDArray
from routing_fits import AUTO, SETS, UNIFORM, Part, RoutingSet, choices, first_prompts, fit_all, load_set

from penstock_training.baselines import oracle_choices
from penstock_training.families.registry import FAMILIES
from penstock_training.fit import single_threaded
from penstock_training.intervals import bootstrap_p_value, group_weights, holm
from penstock_training.metrics import average_improvement, cost_at_quality, envelope_area, path_area, upper_envelope

FloatArray = NDArray[np.float64]
SHARES = (0.95, 0.99, 1.0)
QUICK_FAMILIES = ("constant", "linear", "knn", "cluster")
QUICK_PROMPTS = 700
AIMS = {"routerbench_3tasks": 0.66, "zeroeval_core": 0.75, "mmlu_pro": 0.50}
CONSTANTS = "constant arms (hull)"
ORACLE = "oracle (inflated by luck)"


@dataclass(frozen=True)
class Row:
    """One router on one set; every measure with its 95 % interval.

    Attributes
    ----------
    area : tuple of float
        Mean quality under the upper envelope between the cheapest and the best arm's cost (docs/evaluation.md).
    against_uniform, against_best : tuple of float
        Difference of the area to uniform kNN's, and to the best family's.
    cost95, cost99, cost100 : tuple of float
        Cost at that share of the best arm's quality, relative to the best arm's cost.
    aiq : tuple of float
    path_gain : tuple of float
        Mean quality along the whole curve, no point selected, minus that of the constant hull.
    """

    router: str
    area: tuple[float, float, float]
    against_uniform: tuple[float, float, float]
    against_best: tuple[float, float, float]
    cost95: tuple[float, float, float]
    cost99: tuple[float, float, float]
    cost100: tuple[float, float, float]
    aiq: tuple[float, float, float]
    path_gain: tuple[float, float, float]
    p_against_uniform: float
    note: str


def measure_set(routing: RoutingSet, parts: list[Part], resamples: int) -> list[Row]:
    """Turn the parts of all splits into one row per router."""
    matrix = routing.matrix
    routers = [*parts[0].quality, CONSTANTS, ORACLE]
    names, group = np.unique(matrix.groups, return_inverse=True)
    weights = np.concatenate([np.ones((1, names.size)), *group_weights(names.size, resamples, 0)])
    draws = {name: np.zeros((len(weights), 7)) for name in routers}
    for part in parts:
        score, cost = matrix.score[part.rows].astype(float), matrix.cost_usd[part.rows].astype(float)
        mass = weights[:, group[part.rows]]
        mass /= mass.sum(axis=1, keepdims=True)
        means, costs = mass @ score, mass @ cost
        best, cheapest = int(score.mean(axis=0).argmax()), int(cost.mean(axis=0).argmin())
        for name in routers:
            points = _points(name, part, score, cost, mass)
            for draw, (quality, spent) in enumerate(zip(*points, strict=True)):
                draws[name][draw] += _measures(quality, spent, means[draw], costs[draw], best, cheapest)
    found = {name: values / len(parts) for name, values in draws.items()}
    families = [name for name in parts[0].quality if not name.startswith(("table", AUTO, UNIFORM))]
    best_family = max(families, key=lambda name: found[name][0, 0])
    rows = []
    for name in routers:
        values, uniform = found[name], found[UNIFORM][:, 0]
        difference = values[:, 0] - uniform
        rows.append(
            Row(
                name,
                _interval(values[:, 0]),
                _interval(difference),
                _interval(values[:, 0] - found[best_family][:, 0]),
                *(_interval(values[:, 1 + i]) for i in range(3)),
                _interval(values[:, 4]),
                _interval(values[:, 5]),
                bootstrap_p_value(difference[1:]) if name != UNIFORM else 1.0,
                "; ".join(sorted({part.note[name] for part in parts if name in part.note})),
            )
        )
    return sorted(rows, key=lambda row: -row.area[0])


def _points(
    name: str, part: Part, score: FloatArray, cost: FloatArray, mass: FloatArray
) -> tuple[FloatArray, FloatArray]:
    """Mean quality and cost at every setting in every bootstrap sample, each (b, s)."""
    if name == CONSTANTS:
        return mass @ score, mass @ cost
    if name == ORACLE:
        chosen = oracle_choices(score, cost)[:, None]
    else:
        chosen = choices(part.quality[name], part.cost_usd, part.default)
    rows = np.arange(score.shape[0])[:, None]
    return mass @ score[rows, chosen], mass @ cost[rows, chosen]


def _measures(
    quality: FloatArray, spent: FloatArray, means: FloatArray, costs: FloatArray, best: int, cheapest: int
) -> FloatArray:
    low, high = float(costs[cheapest]), float(costs[best])
    with_ends = np.append(quality, means[[cheapest, best]]), np.append(spent, costs[[cheapest, best]])
    envelope = upper_envelope(with_ends[1], with_ends[0])
    neutral = [cost_at_quality(envelope, share * means[best]) / high for share in SHARES]
    hull = average_improvement(costs, means, low, high)
    aiq = average_improvement(with_ends[1], with_ends[0], low, high)
    path = path_area(spent, quality, low, high) if spent.size > 1 else float("nan")
    return np.array([envelope_area(envelope, low, high), *neutral, aiq, path - hull, aiq - hull])


def _interval(values: FloatArray) -> tuple[float, float, float]:
    low, high = np.quantile(values[1:], (0.025, 0.975)) if values.size > 1 else (np.nan, np.nan)
    return float(values[0]), float(low), float(high)


def _fit(job: tuple[RoutingSet, int, tuple[str, ...]]) -> Part:
    with single_threaded():  # one process a split
        return fit_all(*job)


def run(
    folder: Path, names: list[str], seeds: int, resamples: int, processes: int, say: Callable[[str], None],
    *, is_quick: bool = False,
) -> dict[str, list[Row]]:  # fmt: skip
    """Measure every set."""
    families = QUICK_FAMILIES if is_quick else tuple(FAMILIES)
    found = {}
    for name in names:
        started = time.perf_counter()
        routing = load_set(folder, name)
        routing = first_prompts(routing, QUICK_PROMPTS) if is_quick else routing
        jobs = [(routing, seed, families) for seed in range(seeds)]
        with ProcessPoolExecutor(processes) as pool:
            parts = list(pool.map(_fit, jobs))
        found[name] = measure_set(routing, parts, resamples)
        say(f"{name}: {len(routing.matrix.prompts):,} prompts, {len(routing.matrix.arms)} arms, "
            f"{time.perf_counter() - started:.0f} s")  # fmt: skip
    return found


def verdicts(found: dict[str, list[Row]]) -> list[tuple[str, bool]]:
    """Check the shipped recipe against its aims."""
    said = []
    auto = {name: next(row for row in rows if row.router == AUTO) for name, rows in found.items()}
    for name, aim in AIMS.items():
        if name in auto:
            cost = auto[name].cost99
            said.append((f"{name}: cost at 99 % of the best arm {cost[0]:.2f} [{cost[1]:.2f}, {cost[2]:.2f}], "
                         f"aim {aim:.2f}", cost[0] <= aim))  # fmt: skip
    for name, row in auto.items():
        low = row.against_best[1]
        said.append((f"{name}: area against the best family, lower bound {low:+.4f}, aim -.003", low >= -0.003))
    corrected = holm([row.p_against_uniform for row in auto.values()])
    better = [name for (name, row), p in zip(auto.items(), corrected, strict=True)
              if row.against_uniform[0] > 0 and p < 0.05]  # fmt: skip
    said.append((f"area better than uniform kNN (Holm-corrected) on {len(better)} of {len(auto)} sets: "
                 f"{', '.join(better) or 'none'}; aim 3", len(better) >= min(3, len(auto))))  # fmt: skip
    return said


def _table(name: str, rows: list[Row]) -> list[str]:
    def shown(value: tuple[float, float, float], digits: int = 3, sign: str = "") -> str:
        return f"{value[0]:{sign}.{digits}f} [{value[1]:{sign}.{digits}f}, {value[2]:{sign}.{digits}f}]"

    lines = ["", name]
    lines.append(f"  {'router':<26}{'area':>21}{'to uniform kNN':>25}{'cost at 95 %':>20}{'cost at 99 %':>20}"
                 f"{'cost at 100 %':>20}{'AIQ':>7}{'path over hull':>24}")  # fmt: skip
    for row in rows:
        lines.append(
            f"  {row.router:<26}{shown(row.area):>21}{shown(row.against_uniform, 4, '+'):>25}{shown(row.cost95, 2):>20}"
            f"{shown(row.cost99, 2):>20}{shown(row.cost100, 2):>20}{row.aiq[0]:>7.3f}{shown(row.path_gain, 4, '+'):>24}"
            + (f"   {row.note}" if row.note and row.router in (AUTO, "ensemble") else "")
        )
    return lines


def main() -> None:
    """Run the bench."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "--data", type=Path, default=data_folder(), help="folder with routing/ (default: PENSTOCK_DATA)"
    )
    parser.add_argument("--sets", nargs="*", default=list(SETS), choices=SETS)
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--resamples", type=int, default=400)
    parser.add_argument("--processes", type=int, default=os.cpu_count() or 1)
    parser.add_argument("--quick", action="store_true", help="one small set, one split: proves that the bench works")
    parser.add_argument("--json", action="store_true")
    given = parser.parse_args()
    if not (given.data / "routing").is_dir():
        sys.exit(f"no outcome sets in {given.data}/routing: set PENSTOCK_DATA (docs/data.md says where they come from)")
    if given.quick:
        given.sets, given.seeds, given.resamples, given.processes = [SETS[0]], 1, 20, 1
    found = run(given.data, given.sets, given.seeds, given.resamples, given.processes,
                lambda line: print(line, file=sys.stderr, flush=True), is_quick=given.quick)  # fmt: skip
    checks = verdicts(found)
    if given.json:
        document = {
            "machine": describe_machine(),
            "splits": given.seeds,
            "sets": {name: [asdict(row) for row in rows] for name, rows in found.items()},
            "verdicts": [{"line": line, "holds": bool(holds)} for line, holds in checks],
        }
        print(json.dumps(document, indent=1).replace("NaN", "null"))  # JSON has no word for what is undefined
        return
    print("\n".join(machine_lines(describe_machine())))
    for name, rows in found.items():
        print("\n".join(_table(name, rows)))
    print()
    for line, holds in checks:
        print(f"  {'holds ' if holds else 'MISSED'}  {line}")


if __name__ == "__main__":
    main()
