"""How many answers a semantic cache may reuse, and how many of them would be wrong.

    .venv/bin/python bench/cache_quality.py

Streams sets of texts whose right answers are known through a cache that starts empty and stores every miss, in many
orders. Half of each set's groups, drawn anew for each order, is for fitting and calibrating; the other half is the
stream that is measured. All calibrated rules get the same segment, budget and bound. Read `measure_order`.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import os
import sys
import time
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from cache_rules import cosine_world, oracle_world, replay_vcache, same_words_world
from cache_texts import SETS, is_available, load_encoded
from machine import describe_machine, machine_lines
from numpy.typing import NDArray

from penstock_cache.rule import POOLED
from penstock_routers.bundled import bundled_folder
from penstock_training.cache_rule.calibrate import MAX_FALSE_SHARE, MIN_COSINE, THRESHOLDS, calibrate_rule, halves
from penstock_training.cache_rule.certify import certify
from penstock_training.cache_rule.pair_model import FittingSet, fit_pair_model
from penstock_training.cache_rule.pair_table import PairTable, pair_table
from penstock_training.cache_rule.rule_files import read_scorer
from penstock_training.cache_rule.scoring import score_pairs
from penstock_training.cache_rule.session import DEFAULT_MARGIN
from penstock_training.cache_rule.streams import Neighbourhood, Replay, replay
from penstock_training.fit import single_threaded

FloatArray = NDArray[np.float64]
IntArray = NDArray[np.int64]

BUDGETS = (0.01, 0.001)
STATIC = (0.80, 0.90, 0.95, 0.97)
COSINES = np.arange(0.999, 0.6, -0.004)
TENTHS = 10
FOLDS = 3
ZIPF_EXPONENT = 1.0
OURS, UNGUARDED = "ours", "ours without guards"
SHIPPED = "shipped recipe, nothing of the set"
SAME_WORDS = "same words but for courtesies"


@dataclass(frozen=True)
class Outcome:
    """One rule on one stream.

    Attributes
    ----------
    rule : str
    budget : float
        0 for rules without one.
    requests, hits, false_hits, possible : int
    is_certified : bool
        False: the calibration allowed no threshold, and nothing was served.
    hits_by_group, false_by_group, requests_by_group : ndarray of int64, shape (g,)
        For the block bootstrap.
    false_by_fill : tuple of float, length 10
        False hits per request in each tenth of the stream.
    """

    rule: str
    budget: float
    requests: int
    hits: int
    false_hits: int
    possible: int
    is_certified: bool
    hits_by_group: IntArray
    false_by_group: IntArray
    requests_by_group: IntArray
    false_by_fill: tuple[float, ...]


@dataclass(frozen=True)
class Shipped:
    """A rule that was made without a set, on that set."""

    world: Neighbourhood
    thresholds: dict[float, float]


@dataclass(frozen=True)
class Work:
    """What one order needs."""

    table: PairTable
    shipped: Shipped | None
    seed: int
    is_zipf: bool


def measure_order(work: Work) -> list[Outcome]:
    """Fit, calibrate and measure every rule in one order of one set."""
    table = work.table
    calibration, test = halves(table.texts, 0.5, work.seed)
    draws = np.random.default_rng(1000 + work.seed)
    calibration_order, order = draws.permutation(calibration), draws.permutation(test)
    if work.is_zipf:
        calibration_order, order = _zipf(calibration_order, draws), _zipf(order, draws)
    found = [_outcome(table, order, "exact only", 0.0, _exact(table, order))]
    searched, verified = cosine_world(table), cosine_world(table, second=True)
    for cosine in STATIC:
        run = replay(searched, order, np.array([cosine]), candidates=1)
        found.append(_outcome(table, order, f"static cosine {cosine:.2f}", 0.0, run))
    for name, world in ((SAME_WORDS, same_words_world(table)), ("oracle", oracle_world(table))):
        found.append(_outcome(table, order, name, 0.0, replay(world, order, np.array([0.5]))))
    with single_threaded():
        ours = _our_worlds(table, calibration, test, work.seed)
    for budget in BUDGETS:
        run = replay_vcache(table, order, budget, seed=work.seed)
        found.append(_outcome(table, order, "vCache", budget, run))
        rules: list[tuple[str, Neighbourhood, FloatArray]] = [
            ("cosine, one threshold", searched, COSINES),
            ("second cosine, one threshold", verified, COSINES),
            *((name, world, THRESHOLDS) for name, world in ours.items()),
        ]
        for name, world, thresholds in rules:
            found.append(_calibrated(table, name, world, thresholds, calibration_order, order, budget))
        for name, world in (("cosine by category", searched), ("second cosine by category", verified)):
            found.append(_by_category(table, name, world, calibration_order, order, budget))
        if work.shipped is not None:
            run = replay(work.shipped.world, order, np.array([work.shipped.thresholds[budget]]))
            found.append(_outcome(table, order, SHIPPED, budget, run))
    return found


def _our_worlds(table: PairTable, calibration: IntArray, test: IntArray, seed: int) -> dict[str, Neighbourhood]:
    """Return our scores of both streams, with and without guards.

    A model is fitted for each of `FOLDS` parts of the calibration segment's blocks, on all but that part; blocks of the
    test stream belong to parts, too. A pair is scored by the mean of the models of its two texts' parts, which have not
    seen it, so that both streams are scored alike.
    """
    texts = table.texts
    blocks = np.random.default_rng(seed + 7).integers(0, FOLDS, int(texts.blocks.max()) + 1)
    side = blocks[texts.blocks]
    rows = np.concatenate([calibration, test])
    nothing = np.full(table.cosines.shape, -np.inf)
    if not (table.is_same & table.is_near).any():  # nothing ever repeats, so nothing can be learnt: the rule stays off
        return dict.fromkeys((OURS, UNGUARDED), Neighbourhood(table.neighbours, nothing, texts.groups))
    models = [
        fit_pair_model([FittingSet(table, calibration[side[calibration] != fold])], seed=seed) for fold in range(FOLDS)
    ]
    scores = np.stack([score_pairs(table, model, rows, uses_guards=False).full for model in models])
    places = np.arange(len(texts))[:, None], np.arange(table.neighbours.shape[1])[None, :]
    mean = (scores[side[:, None], *places] + scores[side[table.neighbours], *places]) / 2.0
    guarded = np.where(table.is_vetoed, -np.inf, mean)
    return {
        OURS: Neighbourhood(table.neighbours, guarded, texts.groups),
        UNGUARDED: Neighbourhood(table.neighbours, mean, texts.groups),
    }


def _calibrated(
    table: PairTable,
    name: str,
    world: Neighbourhood,
    thresholds: FloatArray,
    calibration_order: IntArray,
    order: IntArray,
    budget: float,
) -> Outcome:
    run = replay(world, calibration_order, thresholds)
    certificate = certify(
        thresholds,
        len(calibration_order),
        run.is_hit.sum(axis=1),
        run.is_false.sum(axis=1),
        budget=budget,
        max_false_share=MAX_FALSE_SHARE,
    )
    threshold = np.inf if certificate.threshold is None else certificate.threshold
    served = replay(world, order, np.array([threshold]))
    return _outcome(table, order, name, budget, served, is_certified=certificate.is_certified)


def _by_category(
    table: PairTable, name: str, world: Neighbourhood, calibration_order: IntArray, order: IntArray, budget: float
) -> Outcome:
    """Calibrate a threshold for each category by itself; a category that is not certifiable stays off."""
    categories = np.array(table.texts.categories)
    run = replay(world, calibration_order, COSINES)
    scores = np.full(world.scores.shape, -np.inf)
    is_certified = False
    for category in np.unique(categories[calibration_order]).tolist():
        here = categories[calibration_order] == category
        certificate = certify(
            COSINES,
            int(here.sum()),
            run.is_hit[:, here].sum(axis=1),
            run.is_false[:, here].sum(axis=1),
            budget=budget,
            max_false_share=MAX_FALSE_SHARE,
        )
        if certificate.threshold is not None:
            rows = categories == category
            scores[rows] = world.scores[rows] - certificate.threshold
            is_certified = True
    served = replay(Neighbourhood(world.neighbours, scores, world.groups), order, np.array([0.0]))
    return _outcome(table, order, name, budget, served, is_certified=is_certified)


def shipped_rule(name: str, table: PairTable, others: Sequence[PairTable]) -> Shipped:
    """Return a rule in which there is nothing of a set: the bundled one, or for a set that went into that, its like.

    The like is fitted on all and calibrated on half of the other set that the bundled rule is made from.
    """
    rows = np.arange(len(table.texts))
    if not SETS[name].may_fit:
        stored = read_scorer(bundled_folder("cache-rule"))
        points = {point.budget: point.threshold for point in stored.manifest.points if point.category == POOLED}
        thresholds = {budget: np.inf if points[budget] is None else float(points[budget] or 0.0) for budget in BUDGETS}
        return Shipped(score_pairs(table, stored, rows).world(table, stored.manifest.min_plausible), thresholds)
    parts = [(other, *halves(other.texts, 0.5, 0)) for other in others]
    with single_threaded():
        model = fit_pair_model([FittingSet(other, fit) for other, fit, _ in parts])
        points = {
            point.budget: point.threshold
            for point in calibrate_rule(
                model, [(other, held) for other, _, held in parts], margin=DEFAULT_MARGIN, by_category=False
            ).points
        }
    thresholds = {budget: np.inf if points[budget] is None else float(points[budget] or 0.0) for budget in BUDGETS}
    return Shipped(score_pairs(table, model, rows).world(table), thresholds)


def _exact(table: PairTable, order: IntArray) -> Replay:
    """Serve only the very same text again."""
    never = Neighbourhood(table.neighbours, np.full(table.cosines.shape, -np.inf), table.texts.groups)
    return replay(never, order, np.array([0.0]))


def _zipf(order: IntArray, draws: np.random.Generator) -> IntArray:
    """Return as many requests, drawn with weights 1, 1/2, 1/3, … over the texts in this order."""
    weights = 1.0 / np.arange(1, len(order) + 1) ** ZIPF_EXPONENT
    return draws.choice(order, size=len(order), p=weights / weights.sum())


def _outcome(
    table: PairTable, order: IntArray, rule: str, budget: float, run: Replay, *, is_certified: bool = True
) -> Outcome:
    groups = table.texts.groups[order]
    count = int(table.texts.groups.max()) + 1
    hit, false = run.is_hit[0], run.is_false[0]
    fill = np.array_split(false, TENTHS)
    return Outcome(
        rule,
        budget,
        len(order),
        int(hit.sum()),
        int(false.sum()),
        int(run.was_possible[0].sum()),
        is_certified,
        np.bincount(groups[hit], minlength=count),
        np.bincount(groups[false], minlength=count),
        np.bincount(groups, minlength=count),
        tuple(float(part.mean()) if part.size else 0.0 for part in fill),
    )


def summarise(outcomes: Sequence[Outcome], resamples: int) -> dict[str, Any]:
    """Join one rule's orders on one set: rates with 95 % intervals by a bootstrap over groups."""
    hits, false, requests = (
        np.sum([getattr(outcome, name) for outcome in outcomes], axis=0).astype(float)
        for name in ("hits_by_group", "false_by_group", "requests_by_group")
    )
    draws = np.random.default_rng(0)
    rates = []
    for _ in range(resamples):
        weights = np.bincount(draws.integers(0, len(hits), len(hits)), minlength=len(hits))
        served, wrong, asked = weights @ hits, weights @ false, weights @ requests
        rates.append((served / asked, wrong / asked, wrong / served if served else 0.0, (served - wrong) / asked))
    low, high = np.quantile(np.array(rates), [0.025, 0.975], axis=0)
    total, served, wrong = requests.sum(), hits.sum(), false.sum()
    point = (served / total, wrong / total, wrong / served if served else 0.0, (served - wrong) / total)
    over = [o.false_hits / o.requests > o.budget for o in outcomes if o.budget]
    names = ("hit_rate", "false_hit_rate", "false_share", "true_hit_rate")
    return {
        "rule": outcomes[0].rule,
        "budget": outcomes[0].budget,
        "orders": len(outcomes),
        **{name: [float(p), float(a), float(b)] for name, p, a, b in zip(names, point, low, high, strict=True)},
        "reuse_of_possible": float((served - wrong) / max(1, sum(o.possible for o in outcomes))),
        "runs_over_budget": float(np.mean(over)) if over else None,
        "runs_certified": float(np.mean([o.is_certified for o in outcomes])),
        "false_by_fill": [float(x) for x in np.mean([o.false_by_fill for o in outcomes], axis=0)],
    }


_WORLD: dict[str, tuple[PairTable, Shipped | None]] = {}  # read by forked workers, which share its memory


def _measure(task: tuple[str, int, bool]) -> list[Outcome]:
    name, seed, is_zipf = task
    table, shipped = _WORLD[name]
    return measure_order(Work(table, shipped, seed, is_zipf))


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--json", type=Path, help="write all numbers to this file")
    parser.add_argument("--quick", action="store_true", help="a part of our own corpus, one order")
    parser.add_argument("--orders", type=int, default=20, help="seeded orders of each set")
    parser.add_argument("--sets", default=",".join(SETS), help="what to measure, comma-separated")
    parser.add_argument("--workers", type=int, default=os.cpu_count() or 1)
    options = parser.parse_args()
    names = ["own corpus"] if options.quick else [name for name in options.sets.split(",") if name in SETS]
    orders = 1 if options.quick else options.orders
    machine = describe_machine(("penstock", "numpy", "scikit-learn", "onnxruntime"))
    for line in machine_lines(machine):
        print(line)
    fitted = [] if options.quick else [name for name, source in SETS.items() if source.may_fit and name not in names]
    tables = _tables([*names, *fitted], 500 if options.quick else None)
    results: dict[str, list[dict[str, Any]]] = {}
    for name in [name for name in names if name in tables]:
        results[name] = _measure_set(name, tables, orders, options)
        if options.json:  # after each set, so that a run that is stopped leaves what it has
            found = {"machine": machine, "sets": results, "verdicts": verdicts(results)}
            options.json.write_text(json.dumps(found, indent=1))
    for line in verdicts(results):
        print(line)


def _tables(names: Sequence[str], max_texts: int | None) -> dict[str, PairTable]:
    tables = {}
    for name in names:
        if not is_available(name):
            print(f"{name}: left out, its files are not here (PENSTOCK_DATA points at the folder)", file=sys.stderr)
            continue
        started = time.perf_counter()
        tables[name] = pair_table(load_encoded(name, max_texts=max_texts), min_cosine=MIN_COSINE)
        seconds = time.perf_counter() - started
        print(f"{name}: {len(tables[name].texts):,} texts, {seconds:.0f} s", file=sys.stderr)
    return tables


def _measure_set(
    name: str, tables: dict[str, PairTable], orders: int, options: argparse.Namespace
) -> list[dict[str, Any]]:
    started = time.perf_counter()
    table = tables[name]
    others = [tables[other] for other in tables if other != name and SETS[other].may_fit]
    has_rule = bool(others) or not SETS[name].may_fit
    _WORLD[name] = table, shipped_rule(name, table, others) if has_rule else None
    tasks = [(name, seed, is_zipf) for is_zipf in (False, True) for seed in range(orders if not is_zipf else 1)]
    with ProcessPoolExecutor(min(options.workers, len(tasks)), mp_context=multiprocessing.get_context("fork")) as pool:
        measured = list(pool.map(_measure, tasks))
    del _WORLD[name]
    rows = []
    for is_zipf in (False, True):
        runs = [outcomes for task, outcomes in zip(tasks, measured, strict=True) if task[2] is is_zipf]
        for number in range(len(runs[0])):
            rows.append(summarise([run[number] for run in runs], 200 if options.quick else 1000) | {"is_zipf": is_zipf})
    _print_set(name, table, rows, time.perf_counter() - started)
    return rows


def _print_set(name: str, table: PairTable, rows: Sequence[dict[str, Any]], seconds: float) -> None:
    texts = table.texts
    kind = "strict" if SETS[name].is_strict else "intents"
    print(f"\n{name} ({kind}; {len(texts):,} texts, {int(texts.groups.max()) + 1:,} groups; {seconds:.0f} s)")
    print(
        f"{'rule':<34} {'budget':>6}  hits %  true %   (95 %)       false % of requests   false % of hits        over"
        "  certified"
    )
    for row in rows:
        if row["is_zipf"]:
            continue
        budget = f"{100 * row['budget']:g} %" if row["budget"] else ""
        over = "" if row["runs_over_budget"] is None else f"{100 * row['runs_over_budget']:.0f} %"
        print(
            f"{row['rule']:<34} {budget:>6} {100 * row['hit_rate'][0]:>7.2f} {_cell(row['true_hit_rate'])} "
            f"{_cell(row['false_hit_rate'])} {_cell(row['false_share'])} {over:>6} "
            f"{100 * row['runs_certified']:>6.0f} %"
        )


def _cell(values: Sequence[float]) -> str:
    return f"{100 * values[0]:>6.2f} [{100 * values[1]:.2f}, {100 * values[2]:.2f}]".ljust(21)


def verdicts(results: dict[str, list[dict[str, Any]]]) -> list[str]:
    """Compare with what was aimed at."""
    lines = ["", "aims"]
    for name, rows in results.items():
        for budget in BUDGETS:
            at = {row["rule"]: row for row in rows if row["budget"] == budget and not row["is_zipf"]}
            ours = at[OURS]
            baselines = {rule: row["true_hit_rate"][0] for rule, row in at.items() if "cosine" in rule}
            best = max(baselines, key=lambda rule: baselines[rule])
            ratio = ours["true_hit_rate"][0] / baselines[best] if baselines[best] else float("inf")
            lines.append(
                f"{name}, budget {100 * budget:g} %: {100 * ours['runs_over_budget']:.0f} % of runs over (aim ≤ 10), "
                f"false share of hits at most {100 * ours['false_share'][2]:.1f} % (aim 5); true hits {ratio:.2f} × "
                f"the best calibrated baseline, {best} (aim 1.5 on two strict sets)"
            )
    return lines


if __name__ == "__main__":
    main()
