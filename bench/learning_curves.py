"""How much of a router's worth a few scored prompts of one's own buy, with and without an earlier router as prior.

    .venv/bin/python bench/learning_curves.py --data ../shared/data

Per outcome set: the prior is fitted on the other sets without its questions; 20 draws of own prompts from five splits;
the default recipe is fitted on them alone. Read `curve_of`.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import time
from collections.abc import Iterable
from concurrent.futures import ProcessPoolExecutor
from dataclasses import asdict, dataclass, replace
from pathlib import Path

import numpy as np
from data_folder import data_folder
from machine import describe_machine, machine_lines
from numpy.typing import NDArray
from routing_fits import SETS, RoutingSet, choices, first_prompts, load_set, split_rows, training_set

from penstock_training.calibration import fit_calibration
from penstock_training.crossfit import fit_head
from penstock_training.families.head import PromptInputs
from penstock_training.families.linear import LinearFamily
from penstock_training.families.registry import ENSEMBLE, RouterSpec
from penstock_training.fit import single_threaded
from penstock_training.frame import fit_lengths
from penstock_training.metrics import average_improvement, concave_hull, path_area
from penstock_training.places import FormScaler
from penstock_training.prior import principal_directions
from penstock_training.splits import question_groups

FloatArray = NDArray[np.float64]
IndexArray = NDArray[np.int64]
SIZES = (50, 100, 200, 400, 800, 1600, 3200)
SPLITS = 5
_DOLLARS = 1e9


@dataclass(frozen=True)
class Point:
    """Mean over draws at one number of own prompts; intervals are 1.96 standard errors over draws.

    Attributes
    ----------
    size : int
        0 stands for all prompts of the training part.
    over_hull : float
        AIQ minus that of the constant hull, which knows the arms' means on the test prompts.
    over_own_constants : float
        Mean quality along the whole curve, no point selected, minus that of mixing the fixed arms that the same own
        prompts show to be on the hull: what the router adds to knowing prices and means.
    gap_recovered : float
        APGR of the arms with the best and the lowest mean cost-wise, 0.5 for random.
    share : float
        `over_hull` as a share of that with all prompts.
    """

    size: int
    has_prior: bool
    draws: int
    over_hull: float
    over_hull_error: float
    over_own_constants: float
    over_own_constants_error: float
    gap_recovered: float
    share: float


def spread_arms(routing: RoutingSet, count: int) -> RoutingSet:
    """Keep a few arms, nearest to equal steps of the logarithm of mean cost; no score is looked at."""
    cost = np.log(np.nanmean(routing.matrix.cost_usd, axis=0))
    steps = np.linspace(cost.min(), cost.max(), count)
    kept = sorted({int(np.abs(cost - step).argmin()) for step in steps})
    matrix = routing.matrix
    columns = {name: getattr(matrix, name)[:, kept] for name in ("score", "input_tokens", "output_tokens", "cost_usd")}
    return replace(routing, matrix=replace(matrix, arms=tuple(matrix.arms[arm] for arm in kept), **columns))


def prior_directions(sets: Iterable[RoutingSet], held_out: RoutingSet) -> tuple[FloatArray, FormScaler]:
    """Directions along which other sets saw arms differ, without the questions of one set."""
    others = [routing for routing in sets if routing.name != held_out.name]
    prompts = [prompt for routing in (held_out, *others) for prompt in routing.matrix.prompts]
    groups = question_groups(prompts)
    known = set(groups[: len(held_out.matrix.prompts)].tolist())
    scaler = FormScaler.fit(np.concatenate([routing.features for routing in others]))
    start, found = len(held_out.matrix.prompts), []
    for routing in others:
        own = groups[start : start + len(routing.matrix.prompts)]
        start += own.size
        rows = np.flatnonzero([group not in known for group in own.tolist()])
        training, own_scaler = training_set(routing, rows, 0)
        head = LinearFamily().fit(training, LinearFamily.defaults, 0)
        weight = head.weight.copy()
        weight[-scaler.mean.size :] *= (scaler.scale / own_scaler.scale)[:, None]
        found.append(principal_directions(weight))
    return np.hstack(found), scaler


def measure_draw(routing: RoutingSet, own: IndexArray, test: IndexArray, directions: FloatArray | None,
                 seed: int) -> tuple[float, float, float]:  # fmt: skip
    """Fit on some own prompts and measure on the test prompts: the three numbers of `Point`."""
    matrix = routing.matrix
    training, scaler = training_set(routing, own, seed, directions)
    fitted = fit_head(training, matrix.groups[own], RouterSpec(ENSEMBLE), seed=seed)
    calibration = fit_calibration(fitted.out_of_fold, matrix.score[own], matrix.groups[own])
    asked = PromptInputs(routing.vectors[test].astype(np.float64), scaler.apply(routing.features[test]))
    quality = calibration.apply(fitted.head.predict(asked))
    cost_usd = fit_lengths(training.inputs, matrix.cost_usd[own] * _DOLLARS).predict(asked) / _DOLLARS
    score, cost = matrix.score[test].astype(float), matrix.cost_usd[test].astype(float)
    rows = np.arange(test.size)[:, None]
    chosen = choices(quality, cost_usd, int(training.target.mean(axis=0).argmax()))
    spent, reached = cost[rows, chosen].mean(axis=0), score[rows, chosen].mean(axis=0)
    means, costs = score.mean(axis=0), cost.mean(axis=0)
    best, cheapest = int(means.argmax()), int(costs.argmin())
    low, high = float(costs[cheapest]), float(costs[best])
    with_ends = np.append(spent, [low, high]), np.append(reached, means[[cheapest, best]])
    over_hull = average_improvement(*with_ends, low, high) - average_improvement(costs, means, low, high)
    own_cost = np.nanmean(matrix.cost_usd[own], axis=0)
    corners = concave_hull(own_cost, training.target.mean(axis=0))
    arms = [int(np.flatnonzero(own_cost == corner)[0]) for corner in corners.cost]
    constants = path_area(np.append(costs[arms], [low]), np.append(means[arms], means[cheapest]), low, high)
    over_own = path_area(spent, reached, low, high) - constants
    gain = quality[:, best] - quality[:, cheapest]
    return over_hull, over_own, _gap_recovered(gain, score[:, best] - score[:, cheapest])


def _gap_recovered(gain: FloatArray, difference: FloatArray) -> float:
    """APGR: area under the share of the gap recovered when prompts go to the best arm in falling order of gain."""
    order = np.argsort(-gain, kind="stable")
    total = difference.sum()
    return float((np.cumsum(difference[order]) / total).mean()) if total > 0 else float("nan")


def _draws(
    job: tuple[RoutingSet, FloatArray, FormScaler, int, int, tuple[int, ...]],
) -> dict[tuple[int, bool], list[float]]:
    routing, directions, prior_scaler, split, draw, sizes = job
    train, test = split_rows(routing, split)
    matrix = routing.matrix
    test = test[np.isfinite(matrix.score[test]).all(axis=1) & np.isfinite(matrix.cost_usd[test]).all(axis=1)]
    train = np.random.default_rng(100 * split + draw).permutation(train)
    found = {}
    with single_threaded():
        for size in (*sizes, 0) if draw == 0 else sizes:
            if size > 0.9 * train.size:
                continue
            own = train[:size] if size else train
            for has_prior in (False, True):
                scaler = FormScaler.fit(routing.features[own])
                turned = directions.copy()
                turned[-scaler.mean.size :] *= (scaler.scale / prior_scaler.scale)[:, None]
                given = turned if has_prior else None
                found[size, has_prior] = list(measure_draw(routing, own, test, given, draw))
    return found


def curve_of(
    routing: RoutingSet, sets: list[RoutingSet], draws: int, sizes: tuple[int, ...], pool: ProcessPoolExecutor
) -> list[Point]:
    """Measure one set."""
    directions, scaler = prior_directions(sets, routing)
    per_split = max(1, draws // SPLITS)
    jobs = [(routing, directions, scaler, split, draw, sizes) for split in range(min(SPLITS, draws))
            for draw in range(per_split)]  # fmt: skip
    gathered: dict[tuple[int, bool], list[list[float]]] = {}
    for found in pool.map(_draws, jobs):
        for key, values in found.items():
            gathered.setdefault(key, []).append(values)
    full = {has_prior: np.mean(gathered[0, has_prior], axis=0)[0] for has_prior in (False, True)}
    points = []
    for (size, has_prior), values in sorted(gathered.items(), key=lambda item: (item[0][1], item[0][0] or 10**9)):
        table = np.array(values)
        error = 1.96 * table.std(axis=0, ddof=1) / np.sqrt(len(table)) if len(table) > 1 else np.full(3, np.nan)
        mean = table.mean(axis=0)
        points.append(
            Point(
                size, has_prior, len(table), mean[0], error[0], mean[1], error[1], mean[2], float(mean[0] / full[False])
            )
        )
    return points


def main() -> None:
    """Run the bench."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "--data", type=Path, default=data_folder(), help="folder with routing/ (default: PENSTOCK_DATA)"
    )
    parser.add_argument("--sets", nargs="*", default=list(SETS), choices=SETS)
    parser.add_argument("--draws", type=int, default=20)
    parser.add_argument("--arms", type=int, help="keep this many arms, spread over the range of costs (ablation)")
    parser.add_argument("--processes", type=int, default=os.cpu_count() or 1)
    parser.add_argument("--quick", action="store_true", help="one small set, two sizes: proves that the bench works")
    parser.add_argument("--json", action="store_true")
    given = parser.parse_args()
    if not (given.data / "routing").is_dir():
        sys.exit(f"no outcome sets in {given.data}/routing: set PENSTOCK_DATA (docs/data.md says where they come from)")
    sizes = SIZES
    loaded = [load_set(given.data, name) for name in (SETS[:2] if given.quick else SETS)]
    if given.arms:
        loaded = [spread_arms(routing, given.arms) for routing in loaded]
    if given.quick:
        given.sets, given.draws, given.processes, sizes = [SETS[0]], 1, 1, (100,)
        loaded = [first_prompts(routing, 700) for routing in loaded]
    found = {}
    with ProcessPoolExecutor(given.processes) as pool:
        for routing in loaded:
            if routing.name in given.sets:
                started = time.perf_counter()
                found[routing.name] = curve_of(routing, loaded, given.draws, sizes, pool)
                print(f"{routing.name}: {time.perf_counter() - started:.0f} s", file=sys.stderr, flush=True)
    if given.json:
        points = {name: [asdict(point) for point in curve] for name, curve in found.items()}
        text = json.dumps({"machine": describe_machine(), "draws": given.draws, "sets": points}, indent=1)
        print(text.replace("NaN", "null"))  # JSON has no word for an error of one draw
        return
    print("\n".join(machine_lines(describe_machine())))
    for name, curve in found.items():
        print("\n".join(table_of(name, curve)))


def table_of(name: str, curve: list[Point]) -> list[str]:
    """Lines of the table of one set."""
    lines = ["", name, f"  {'own prompts':>12} {'prior':>6} {'AIQ over constant hull':>25} {'share of all':>13} "
             f"{'curve over own constants':>26} {'APGR':>7}"]  # fmt: skip
    for point in curve:
        lines.append(
            f"  {point.size or 'all':>12} {'yes' if point.has_prior else 'no':>6} "
            f"{point.over_hull:+14.4f} ± {point.over_hull_error:.4f} {100 * point.share:11.0f} % "
            f"{point.over_own_constants:+15.4f} ± {point.over_own_constants_error:.4f} {point.gap_recovered:7.3f}"
        )
    return lines


if __name__ == "__main__":
    main()
