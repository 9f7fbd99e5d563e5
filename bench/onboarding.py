"""What a new arm is worth after 50 scored prompts: ``penstock-train onboard`` on real outcome sets.

In each of three sets with many arms, every frontier arm (on the upper envelope of mean cost and score) is hidden in
turn. A router is fitted on the training part (70 % by question group) without it, the arm is onboarded from 50 training
prompts drawn at random, and the cost-quality curve on the test part is compared with that of a router fitted with the
arm and one that never heard of it. Gap = area with the arm fitted - area without; recovered = area onboarded - area
without. Area: mean quality under the upper envelope over one range of costs for all three, from the cheapest to the
best arm of the full set, λ swept, no guard. Arms with a gap below .005 are left out. Intervals: bootstrap over test
question groups and draws, sets and arms fixed. Needs scikit-learn, pyarrow and the outcome sets.

Usage::

    OMP_NUM_THREADS=1 python bench/onboarding.py                 three sets, 20 draws of 50 prompts
    python bench/onboarding.py --family cluster                  with another family of routers
    python bench/onboarding.py --quick                           one set of 800 prompts, 3 draws
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from data_folder import data_folder
from machine import describe_machine, machine_lines
from numpy.typing import NDArray
from sklearn.cluster import KMeans

from penstock_routers.bundled import DEFAULT_ENCODER, bundled_folder
from penstock_routers.encoder import PromptEncoder
from penstock_training.collect.selection import choose_prompts, decision_value
from penstock_training.estimator import ArmEstimates, RouterEstimator
from penstock_training.families.registry import RouterSpec, known_family
from penstock_training.fit import Corpus, FitOptions, feature_matrix, fit_estimator, single_threaded
from penstock_training.metrics import envelope_area, upper_envelope
from penstock_training.onboarding.column import (
    OnboardedColumn,
    ScoredPrompts,
    fit_column,
    fit_length_ratio,
)
from penstock_training.operating_points import COST_WEIGHTS
from penstock_training.outcomes import load_outcomes
from penstock_training.own_router import arm_prices
from penstock_training.progress import silent
from penstock_training.splits import grouped_split
from penstock_training.tiers import is_free_form
from penstock_training.vectors import encode_prompts

FloatArray = NDArray[np.float64]
IndexArray = NDArray[np.int64]

PACKAGES = ("numpy", "scikit-learn", "tokenizers")
SETS = ("mmlu_pro", "zeroeval_core", "routerbench_3tasks")
MIN_GAP = 0.005
TEST_SHARE = 0.3
RESAMPLES = 200
GUARD_Z = 1.0
CLUSTERS, STRENGTH = 20, 5.0
POOL = 2000  # training prompts that collect's order chooses from
SHIPPED = "onboard"


@dataclass(frozen=True)
class Hidden:
    """A router without one arm: estimates of training and test prompts, and what happened on them."""

    name: str
    place: int
    kept: IndexArray
    train: Corpus
    test: Corpus
    on_train: ArmEstimates
    on_test: ArmEstimates
    default: int


@dataclass(frozen=True)
class Sampled:
    """Training rows with what a method may use."""

    hidden: Hidden
    rows: IndexArray
    scored: ScoredPrompts
    clusters: KMeans


@dataclass(frozen=True)
class Resamples:
    """How curves of a set become areas: a range of costs, and weights (n, r) of test prompts."""

    span: tuple[float, float]
    weights: FloatArray

    def areas(self, points: FloatArray) -> FloatArray:
        """Area of a curve as it is, then per resample, (1 + r,)."""
        means = points @ self.weights / self.weights.sum(axis=0)
        means = np.concatenate([points.mean(axis=2, keepdims=True), means], axis=2)
        return np.array([envelope_area(upper_envelope(*means[:, :, k]), *self.span) for k in range(means.shape[2])])

    @classmethod
    def draw(cls, span: tuple[float, float], groups: IndexArray) -> Resamples:
        """Question groups with replacement."""
        _, place = np.unique(groups, return_inverse=True)
        size, random = int(place.max()) + 1, np.random.default_rng(1)
        counts = [np.bincount(random.integers(0, size, size), minlength=size) for _ in range(RESAMPLES)]
        return cls(span, np.stack(counts, axis=1)[place].astype(np.float64))


Method = Callable[[Sampled], FloatArray]


def main() -> None:
    """Run the bench as the command line asks."""
    options = _parse()
    say = (lambda line: print(line, file=sys.stderr, flush=True)) if options.json else print
    machine = describe_machine(PACKAGES)
    for line in machine_lines(machine):
        say(line)
    started = time.perf_counter()
    encoder = PromptEncoder.load(bundled_folder(DEFAULT_ENCODER))
    found: list[dict[str, Any]] = []
    with single_threaded():
        for name in ("routerbench_3tasks",) if options.quick else SETS:
            corpus = _open(options.data, name, 800 if options.quick else None, encoder)
            found += _measure(name, corpus, options, say)
    results = _summarise(found, say)
    seconds = time.perf_counter() - started
    say(f"\n{seconds:.0f} s")
    if options.json:
        print(json.dumps({"machine": machine, "family": options.family, "seconds": seconds, **results}, indent=1))


def _parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n", maxsplit=1)[0])
    parser.add_argument("--data", type=Path, default=data_folder(), help="folder of the outcome sets (PENSTOCK_DATA)")
    parser.add_argument("--family", type=known_family, default="linear", help="family of the routers (linear)")
    parser.add_argument("--prompts", type=int, default=50, help="scored prompts (50)")
    parser.add_argument("--draws", type=int, default=20, help="draws per arm (20)")
    parser.add_argument("--quick", action="store_true", help="one set of 800 prompts, 3 draws")
    parser.add_argument("--json", action="store_true", help="print one JSON object; the tables go to stderr")
    options = parser.parse_args()
    if not (options.data / "routing").is_dir():
        parser.error(f"no outcome sets below {options.data}: set PENSTOCK_DATA or --data")
    options.draws = min(options.draws, 3) if options.quick else options.draws
    return options


def _open(data: Path, name: str, largest: int | None, encoder: PromptEncoder) -> Corpus:
    matrix = load_outcomes([data / "routing" / f"{name}.parquet"], on_bad_rows="skip").matrix()
    drawn = np.random.default_rng(0).permutation(len(matrix.prompts))[:largest]
    matrix = matrix.rows(np.sort(drawn))
    vectors = encode_prompts(encoder, matrix.prompts, lambda done, total: None)
    return Corpus(matrix, vectors, feature_matrix(matrix.prompts), is_free_form(matrix.tasks), arm_prices(matrix, {}))


def _measure(
    name: str, corpus: Corpus, options: argparse.Namespace, say: Callable[[str], None]
) -> list[dict[str, Any]]:
    """Hide each frontier arm of a set in turn; per arm and method, the curves of every draw."""
    split = grouped_split(corpus.matrix.groups, fractions={"train": 1.0 - TEST_SHARE, "test": TEST_SHARE}, seed=0)
    train, test = corpus.rows(split["train"]), corpus.rows(split["test"])
    outcomes = np.concatenate([test.matrix.score, test.matrix.cost_usd], axis=1)
    test = test.rows(np.flatnonzero(np.isfinite(outcomes).all(axis=1)))
    score, cost = test.matrix.score.mean(axis=0), test.matrix.cost_usd.mean(axis=0, dtype=np.float64)
    span = (float(cost.min()), float(cost[score.argmax()]))
    frontier = [arm for arm in range(len(score)) if cost[arm] in upper_envelope(cost, score).cost]
    resamples = Resamples.draw(span, test.matrix.groups)
    full = _fit(train, options.family)
    clusters = KMeans(CLUSTERS, n_init=2, random_state=0).fit(train.vectors)
    found = []
    for arm in frontier:
        kept = np.array([other for other in range(len(score)) if other != arm])
        best = int(np.nanmean(train.matrix.score[:, kept], axis=0).argmax())
        estimator = _fit(_columns(train, kept), options.family)
        on_train, on_test = (estimator.predict(part.vectors, part.features, best) for part in (train, test))
        hidden = Hidden(corpus.matrix.arms[arm], arm, kept, train, test, on_train, on_test, best)
        with_it = full.predict(test.vectors, test.features, int(kept[best]))
        entry = {"set": name, "arm": hidden.name} | _compare(hidden, with_it, clusters, resamples, options)
        gap = float(entry["gap"][""][0])
        say(f"{name}: {hidden.name} hidden, gap {gap:+.4f}{'' if gap >= MIN_GAP else ' (left out)'}")
        found.append(entry)
    return found


def _fit(train: Corpus, family: str) -> RouterEstimator:
    return fit_estimator(train, FitOptions(router=RouterSpec(known_family(family))), silent)[0]


def _columns(corpus: Corpus, kept: IndexArray) -> Corpus:
    matrix = corpus.matrix
    arms = tuple(matrix.arms[arm] for arm in kept)
    cut = {name: getattr(matrix, name)[:, kept] for name in ("score", "input_tokens", "output_tokens", "cost_usd")}
    return replace(corpus, matrix=replace(matrix, arms=arms, **cut), prices={arm: corpus.prices[arm] for arm in arms})


def _compare(
    hidden: Hidden, with_it: ArmEstimates, clusters: KMeans, resamples: Resamples, options: argparse.Namespace
) -> dict[str, Any]:
    """Gap of one hidden arm, (1 + r,), and what every method recovers, (draws, 1 + r); without guard and with it."""
    every = np.arange(len(hidden.test.matrix.arms))
    pools = {kind: _Pool(hidden, z) for kind, z in {"": 0.0, ", guard": GUARD_Z}.items()}
    base = {kind: resamples.areas(pool.points(None, None)) for kind, pool in pools.items()}
    default = int(hidden.kept[hidden.default])
    gap = {
        kind: resamples.areas(_Pool.sweep(hidden, with_it, every, default, pool.guard_z)) - base[kind]
        for kind, pool in pools.items()
    }
    if gap[""][0] < MIN_GAP:
        return {"gap": gap}
    areas: dict[str, list[FloatArray]] = {}
    errors = []
    for draw in range(options.draws):
        for order, methods in (("random", METHODS), ("collect", {"onboard, collect's order": _shipped})):
            sampled = _draw(hidden, options.prompts, order, draw, clusters)
            ratio = _length_ratio(sampled)
            for name, method in methods.items():
                points = pools[""].points(method(sampled), ratio)
                areas.setdefault(name, []).append(resamples.areas(points) - base[""])
            if order == "random":
                column = replace(fit_column(sampled.scored), length_ratio=ratio)
                points = pools[", guard"].guarded_points(column)
                areas.setdefault(f"{SHIPPED}, guard", []).append(resamples.areas(points) - base[", guard"])
                mean, error = column.mean_quality(hidden.on_test.quality)
                errors.append((mean - float(hidden.test.matrix.score[:, hidden.place].mean())) / error)
    recovered = {name: np.stack(values) for name, values in areas.items()}
    return {"gap": gap, "recovered": recovered, "errors": errors}


def _draw(hidden: Hidden, count: int, order: str, seed: int, clusters: KMeans) -> Sampled:
    """Scored prompts of the hidden arm; the known arms' scores on them are known, since they are training prompts."""
    score = hidden.train.matrix.score
    rows = np.random.default_rng(seed).permutation(np.flatnonzero(np.isfinite(score[:, hidden.place])))
    if order == "collect":
        pool = rows[:POOL]
        known = hidden.on_train
        information = decision_value(known.gain[pool], known.gain_se[pool], known.novelty[pool], 1.0)
        picked = choose_prompts(
            hidden.train.vectors[pool], pool.size, count=count, order="informative", seed=seed, information=information
        )
        rows = pool[[one.row for one in picked]]
    rows = rows[:count]
    scored = ScoredPrompts(
        hidden.on_train.quality[rows],
        score[rows, hidden.place].astype(np.float64),
        score[np.ix_(rows, hidden.kept)].astype(np.float64),
    )
    return Sampled(hidden, rows, scored, clusters)


def _length_ratio(sampled: Sampled) -> float:
    train = sampled.hidden.train
    written = train.matrix.output_tokens[sampled.rows, sampled.hidden.place].astype(np.float64)
    written = np.where(train.is_free_form[sampled.rows], written, np.nan)
    return fit_length_ratio(sampled.hidden.on_train.output_tokens[sampled.rows], written)


class _Pool:
    """The arms that are known, each λ decided once; an arm is added by comparing it with the best of them."""

    def __init__(self, hidden: Hidden, guard_z: float) -> None:
        self.hidden, self.guard_z = hidden, guard_z
        matrix = hidden.test.matrix
        self.length = matrix.prompt_tokens
        self.score, self.cost = (
            values[:, hidden.place].astype(np.float64) for values in (matrix.score, matrix.cost_usd)
        )
        self.expected = _expected_cost(hidden.test, hidden.on_test.output_tokens, hidden.kept)
        self.scale = float(self.expected.mean(axis=0).max())
        self.utility, *self.outcome = _best(
            hidden, hidden.on_test, hidden.kept, hidden.default, guard_z, self.expected, self.scale
        )

    @staticmethod
    def sweep(hidden: Hidden, known: ArmEstimates, arms: IndexArray, default: int, guard_z: float) -> FloatArray:
        """Cost and score per λ and prompt, (2, λ, n), of a router that knows all its arms."""
        expected = _expected_cost(hidden.test, known.output_tokens, arms)
        scale = float(expected.mean(axis=0).max())
        return np.stack(_best(hidden, known, arms, default, guard_z, expected, scale)[1:])

    def points(self, quality: FloatArray | None, ratio: float | None) -> FloatArray:
        """Cost and score per λ and prompt, (2, λ, n), with the new arm at a quality (n,) or without it."""
        if quality is None or ratio is None:
            return np.stack(self.outcome)
        return self._merge(quality, ratio, np.ones(quality.shape, dtype=bool), None)

    def guarded_points(self, column: OnboardedColumn) -> FloatArray:
        """The same where the new arm must surely pay against the default arm."""
        found = column.predict(self.hidden.on_test, self.hidden.on_test, self.hidden.default)
        bound = found.gain[:, -1] - self.guard_z * found.gain_se[:, -1]
        return self._merge(found.quality[:, -1], column.length_ratio, None, bound)

    def _merge(
        self, quality: FloatArray, ratio: float, may: NDArray[np.bool_] | None, bound: FloatArray | None
    ) -> FloatArray:
        price = self.hidden.test.prices[self.hidden.name]
        tokens = self.hidden.on_test.output_tokens.mean(axis=1) * ratio
        expected = (self.length * price[0] + tokens * price[1]) / 1e6
        weights = np.array(COST_WEIGHTS[:-1])[:, None]
        utility = np.vstack([quality - weights * expected / self.scale, -expected[None] / self.scale])
        if bound is not None:
            saving = (self.expected[:, self.hidden.default] - expected) / self.scale
            pays = np.vstack([bound + weights * saving > 0.0, np.ones((1, expected.size), dtype=bool)])
        else:
            pays = np.broadcast_to(may if may is not None else True, utility.shape)
        chosen = (utility > self.utility) & pays
        return np.stack([np.where(chosen, self.cost, self.outcome[0]), np.where(chosen, self.score, self.outcome[1])])


def _expected_cost(test: Corpus, tokens: FloatArray, arms: IndexArray) -> FloatArray:
    price = np.array([test.prices[test.matrix.arms[arm]] for arm in arms])
    return np.asarray((test.matrix.prompt_tokens[:, None] * price[:, 0] + tokens * price[:, 1]) / 1e6)


def _best(
    hidden: Hidden,
    known: ArmEstimates,
    arms: IndexArray,
    default: int,
    guard_z: float,
    expected: FloatArray,
    scale: float,
) -> tuple[FloatArray, FloatArray, FloatArray]:
    """Utility, cost and score of the arm that each λ chooses for each prompt, (λ, n) each."""
    matrix, rows = hidden.test.matrix, np.arange(expected.shape[0])
    score, cost = (values[:, arms].astype(np.float64) for values in (matrix.score, matrix.cost_usd))
    saving = (expected[:, [default]] - expected) / scale
    found = []
    for weight in COST_WEIGHTS:
        utility = -expected / scale if np.isinf(weight) else known.quality - weight * expected / scale
        if guard_z > 0.0 and not np.isinf(weight):
            pays = known.gain - guard_z * known.gain_se + weight * saving > 0.0
            pays[:, default] = True
            utility = np.where(pays, utility, -np.inf)
        chosen = utility.argmax(axis=1)
        found.append((utility[rows, chosen], cost[rows, chosen], score[rows, chosen]))
    utilities, costs, scores = (np.stack(part) for part in zip(*found, strict=True))
    return utilities, costs, scores


def _summarise(found: list[dict[str, Any]], say: Callable[[str], None]) -> dict[str, Any]:
    """Recovered shares with intervals, per method and per arm."""
    used = [entry for entry in found if "recovered" in entry]
    if not used:
        say("no arm is worth .005")
        return {"methods": {}, "arms": [], "coverage": None}
    gaps = {kind: np.stack([entry["gap"][kind] for entry in used]) for kind in used[0]["gap"]}
    recovered = {name: np.stack([e["recovered"][name] for e in used]) for name in used[0]["recovered"]}
    methods = {name: _share(values, gaps[_kind(name)]) for name, values in recovered.items()}
    say(f"\nsummed gap of {len(used)} arms {gaps[''][:, 0].sum():.4f}; recovered share, 95 % interval, sd of one draw")
    for name, (value, low, high, spread) in methods.items():
        say(f"  {name:28} {value:5.2f}  [{low:5.2f}, {high:5.2f}]  {spread:.2f}")
    say(f"\n{'set':20} {'hidden arm':34} {'gap':>6}  recovered share, 95 % interval")
    arms = []
    for place, entry in enumerate(used):
        share = _share(recovered[SHIPPED][[place]], gaps[""][[place]])
        gap = float(gaps[""][place, 0])
        say(f"{entry['set']:20} {entry['arm']:34} {gap:6.4f}  {share[0]:5.2f}  [{share[1]:5.2f}, {share[2]:5.2f}]")
        arms.append({"set": entry["set"], "arm": entry["arm"], "gap": gap, "recovered_share": share})
    errors = np.abs(np.concatenate([entry["errors"] for entry in used]))
    coverage = float((errors < 1.96).mean())
    say(f"\nthe stated 95 % interval holds the test mean in {100 * coverage:.0f} % of {errors.size} draws")
    return {"methods": methods, "arms": arms, "coverage": coverage}


def _kind(method: str) -> str:
    return ", guard" if method.endswith(", guard") else ""


def _share(recovered: FloatArray, gap: FloatArray) -> tuple[float, float, float, float]:
    """Recovered share of the summed gap with its interval, and the standard deviation over single draws.

    `recovered` is (arms, draws, 1 + r) and `gap` (arms, 1 + r); a resample draws prompts and, per arm, draws anew.
    """
    arms, draws, size = recovered.shape
    picked = np.random.default_rng(2).integers(0, draws, (arms, draws, size))
    picked[:, :, 0] = np.arange(draws)[None, :]
    means = np.take_along_axis(recovered, picked, axis=1).mean(axis=1)
    ratio = means.sum(axis=0) / gap.sum(axis=0)
    low, high = np.quantile(ratio[1:], [0.025, 0.975])
    single = recovered[:, :, 0].sum(axis=0) / gap[:, 0].sum()
    return float(ratio[0]), float(low), float(high), float(single.std())


def _shipped(sampled: Sampled) -> FloatArray:
    return fit_column(sampled.scored).quality(sampled.hidden.on_test.quality)


def _alone(sampled: Sampled) -> FloatArray:
    unknown = np.full_like(sampled.scored.known_score, np.nan)
    return fit_column(replace(sampled.scored, known_score=unknown)).quality(sampled.hidden.on_test.quality)


def _level(sampled: Sampled) -> FloatArray:
    return np.full(len(sampled.hidden.test.matrix.prompts), sampled.scored.score.mean())


def _slope(sampled: Sampled) -> FloatArray:
    """The known arms' mean, shifted."""
    shift = (sampled.scored.score - sampled.scored.quality.mean(axis=1)).mean()
    return np.asarray(sampled.hidden.on_test.quality.mean(axis=1) + shift)


def _nearest(sampled: Sampled) -> FloatArray:
    """The known arm with the nearest mean score, shifted."""
    shift = sampled.scored.score.mean() - sampled.scored.quality.mean(axis=0)
    arm = int(np.abs(shift).argmin())
    return np.asarray(sampled.hidden.on_test.quality[:, arm] + shift[arm])


def _cluster_means(sampled: Sampled) -> FloatArray:
    """UniRoute's error vector: mean score per cluster of prompts, shrunk to the mean of all."""
    return _per_cluster(sampled, sampled.scored.score - sampled.scored.score.mean()) + sampled.scored.score.mean()


def _with_clusters(sampled: Sampled) -> FloatArray:
    """The shipped column plus what it misses per cluster."""
    column = fit_column(sampled.scored)
    missed = sampled.scored.score - column.quality(sampled.scored.quality)
    return column.quality(sampled.hidden.on_test.quality) + _per_cluster(sampled, missed)


def _per_cluster(sampled: Sampled, values: FloatArray) -> FloatArray:
    own = sampled.clusters.predict(sampled.hidden.train.vectors[sampled.rows])
    total = np.bincount(own, weights=values, minlength=CLUSTERS)
    means = total / (np.bincount(own, minlength=CLUSTERS) + STRENGTH)
    return np.asarray(means[sampled.clusters.predict(sampled.hidden.test.vectors)])


METHODS: dict[str, Method] = {
    SHIPPED: _shipped,
    "onboard, new scores only": _alone,
    "level only": _level,
    "mean arm, shifted": _slope,
    "nearest arm, shifted": _nearest,
    "cluster means": _cluster_means,
    "onboard + cluster means": _with_clusters,
}


if __name__ == "__main__":
    main()
