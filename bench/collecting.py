"""Which order of asking prompts teaches a router most: ``penstock-train collect --order`` on real outcome sets.

From each of four sets, prompts are chosen by the shipped `choose_prompts` in each order; a router is fitted on the best
arm's gain over every weaker arm on the chosen prompts only, and ranks held-out prompts by it. The figure is APGR
(RouteLLM, section 4.2): the share of the gap between the weak and the strong arm that is recovered, averaged over all
shares of prompts sent to the strong arm; 0.5 is chance. ``informative`` uses an artifact fitted on the other sets
without the questions that they share with this one. Needs scikit-learn, pyarrow and the outcome sets.

Usage::

    OMP_NUM_THREADS=1 python bench/collecting.py            four sets, 100, 200 and 400 prompts, 20 draws
    python bench/collecting.py --quick                      one set, few draws
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from data_folder import data_folder
from machine import describe_machine, machine_lines
from numpy.typing import NDArray

from penstock_routers.bundled import DEFAULT_ENCODER, bundled_folder
from penstock_routers.encoder import PromptEncoder
from penstock_training.collect.selection import ORDERS, choose_prompts, decision_value
from penstock_training.default_router import CHECK_SET, FITTED_SETS, REFERENCE_ARM
from penstock_training.families.registry import router_spec
from penstock_training.fit import Corpus, FitOptions, feature_matrix, fit_router, single_threaded
from penstock_training.outcomes import OutcomeMatrix, load_outcomes
from penstock_training.progress import silent
from penstock_training.splits import normalise_question
from penstock_training.tiers import group_into_tiers, is_free_form
from penstock_training.vectors import encode_prompts

FloatArray = NDArray[np.float64]
IndexArray = NDArray[np.int64]

PACKAGES = ("numpy", "scikit-learn", "tokenizers")
TEST_SHARE = 0.3
# A weaker arm nearer to the best one than this leaves nothing to recover but noise.
MIN_GAP = 0.05
QUICK_PRIOR = 3000
RIDGE = 5.0
BANDWIDTH, SHRINKAGE = 0.05, 2.0
PRIOR_OPTIONS = FitOptions(resamples=50, router=router_spec("knn"))


@dataclass(frozen=True)
class AskedSet:
    """One outcome set: vectors (n, d), question groups (n,), gains of the best arm over each weaker one (n, p)."""

    name: str
    vectors: NDArray[np.float32]
    groups: IndexArray
    gains: FloatArray
    information: FloatArray


def main() -> None:
    """Run the bench as the command line asks."""
    options = _parse()
    say = (lambda line: print(line, file=sys.stderr)) if options.json else print
    machine = describe_machine(PACKAGES)
    for line in machine_lines(machine):
        say(line)
    sets = [FITTED_SETS[1]] if options.quick else [CHECK_SET, *FITTED_SETS]
    budgets, draws, largest = ((100,), 2, 800) if options.quick else ((100, 200, 400), options.draws, options.prompts)
    encoder = PromptEncoder.load(bundled_folder(DEFAULT_ENCODER))
    rows: list[dict[str, Any]] = []
    with single_threaded():
        for entry in sets:
            found = _open_set(options.data, entry.file, largest, QUICK_PRIOR if options.quick else None, encoder)
            rows += _measure(found, budgets, draws, say)
    if options.json:
        print(json.dumps({"machine": machine, "results": rows}, indent=1))


def _parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n", maxsplit=1)[0])
    parser.add_argument("--data", type=Path, default=data_folder(), help="folder of the outcome sets (PENSTOCK_DATA)")
    parser.add_argument("--draws", type=int, default=20, help="splits and samples per set (20)")
    parser.add_argument("--prompts", type=int, default=4000, help="prompts per set (4000)")
    parser.add_argument("--quick", action="store_true", help="one set of 800 prompts, two draws of 100")
    parser.add_argument("--json", action="store_true", help="print one JSON object; the tables go to stderr")
    options = parser.parse_args()
    if not (options.data / "routing").is_dir():
        parser.error(f"no outcome sets below {options.data}: set PENSTOCK_DATA or --data")
    return options


def _open_set(data: Path, file: str, largest: int, prior: int | None, encoder: PromptEncoder) -> AskedSet:
    matrix = load_outcomes([data / "routing" / file], on_bad_rows="skip").matrix()
    means = np.nanmean(matrix.score, axis=0)
    best = int(means.argmax())
    weaker = np.flatnonzero(means < means[best] - MIN_GAP)
    complete = np.isfinite(matrix.score[:, [best, *weaker]]).all(axis=1)
    rows = np.flatnonzero(complete)
    rows = np.sort(np.random.default_rng(0).permutation(rows)[:largest])
    gains = matrix.score[rows][:, [best]].astype(np.float64) - matrix.score[rows][:, weaker]
    prompts = [matrix.prompts[row] for row in rows]
    vectors = encode_prompts(encoder, prompts, lambda done, total: None)
    questions = {normalise_question(prompt) for prompt in matrix.prompts}
    known = _without(load_outcomes(_others(data, file), on_bad_rows="skip").matrix(), questions)
    information = _information(known, prompts, vectors, encoder, prior)
    return AskedSet(matrix.sources[0], vectors, matrix.groups[rows], gains, information)


def _others(data: Path, file: str) -> list[Path]:
    return [data / "routing" / entry.file for entry in FITTED_SETS if entry.file != file]


def _information(
    models: OutcomeMatrix, prompts: list[str], vectors: NDArray[np.float32], encoder: PromptEncoder, prior: int | None
) -> FloatArray:
    """Decision values of prompts under a tier router fitted on (at most `prior` prompts of) other sets."""
    table = group_into_tiers(models)
    drawn = np.random.default_rng(0).permutation(len(table.matrix.prompts))[:prior]
    known = table.matrix.rows(np.sort(drawn))
    corpus = Corpus(
        known,
        encode_prompts(encoder, known.prompts, lambda done, total: None),
        feature_matrix(known.prompts),
        is_free_form(known.tasks),
        table.prices,
    )
    fitted = fit_router(corpus, reference_arm=REFERENCE_ARM, options=PRIOR_OPTIONS, progress=silent)
    found = fitted.estimator.predict(
        vectors.astype(np.float64), feature_matrix(prompts).astype(np.float64), known.arms.index(REFERENCE_ARM)
    )
    return decision_value(found.gain, found.gain_se, found.novelty, fitted.novelty_max)


def _without(matrix: OutcomeMatrix, questions: set[str]) -> OutcomeMatrix:
    kept = [row for row, prompt in enumerate(matrix.prompts) if normalise_question(prompt) not in questions]
    return matrix.rows(np.array(kept, dtype=np.int64))


def _measure(found: AskedSet, budgets: tuple[int, ...], draws: int, say: Callable[[str], None]) -> list[dict[str, Any]]:
    """APGR per budget, learner and order, and its paired difference to ``random``."""
    values: dict[tuple[int, str, str], list[float]] = {}
    for draw in range(draws):
        train, test = _split(found.groups, draw)
        for budget in budgets:
            for order in ORDERS:
                chosen = choose_prompts(
                    found.vectors[train],
                    train.size,
                    count=budget,
                    order=order,
                    seed=draw,
                    information=found.information[train],
                )
                asked = train[[one.row for one in chosen]]
                for learner, predict in {"ridge": _ridge, "knn": _knn}.items():
                    scores = predict(found.vectors[asked], found.gains[asked], found.vectors[test])
                    values.setdefault((budget, learner, order), []).append(_apgr(scores, found.gains[test]))
    rows = []
    say(f"\n{found.name}: {len(found.groups):,} prompts, best arm against {found.gains.shape[1]} weaker ones")
    say(f"{'prompts':>8} {'learner':8} {'order':12} {'APGR':>6}   difference to random (95 %)")
    for (budget, learner, order), apgr in values.items():
        difference = np.array(apgr) - np.array(values[budget, learner, "random"])
        half = 1.96 * float(difference.std(ddof=1)) / len(apgr) ** 0.5
        mean = float(difference.mean())
        shown = "" if order == "random" else f"{mean:+.3f} [{mean - half:+.3f}, {mean + half:+.3f}]"
        say(f"{budget:>8} {learner:8} {order:12} {np.mean(apgr):6.3f}   {shown}")
        rows.append(
            {"set": found.name, "prompts": budget, "learner": learner, "order": order, "apgr": float(np.mean(apgr)),
             "over_random": [mean, mean - half, mean + half], "draws": len(apgr)}
        )  # fmt: skip
    return rows


def _split(groups: IndexArray, seed: int) -> tuple[IndexArray, IndexArray]:
    is_test = (np.random.default_rng(seed).random(int(groups.max()) + 1) < TEST_SHARE)[groups]
    return np.flatnonzero(~is_test), np.flatnonzero(is_test)


def _ridge(vectors: FloatArray, gains: FloatArray, test: FloatArray) -> FloatArray:
    """Ridge regression in its dual form, since there are fewer prompts than dimensions."""
    mean = gains.mean(axis=0)
    weights = np.linalg.solve(vectors @ vectors.T + RIDGE * np.eye(len(vectors)), gains - mean)
    return np.asarray(test @ (vectors.T @ weights) + mean)


def _knn(vectors: FloatArray, gains: FloatArray, test: FloatArray) -> FloatArray:
    """Similarity-weighted mean, drawn to the mean of all."""
    similarity = test @ vectors.T
    weights = np.exp((similarity - similarity.max(axis=1, keepdims=True)) / BANDWIDTH)
    return np.asarray(
        (weights @ gains + SHRINKAGE * gains.mean(axis=0)) / (weights.sum(axis=1, keepdims=True) + SHRINKAGE)
    )


def _apgr(scores: FloatArray, gains: FloatArray) -> float:
    """Mean over the weaker arms of the recovered share of the gap, averaged over all shares of strong calls."""
    found = []
    for column in range(gains.shape[1]):
        order = np.argsort(-scores[:, column], kind="stable")
        total = gains[:, column].sum()
        found.append(float((np.cumsum(gains[order, column]) / total).mean()))
    return float(np.mean(found))


if __name__ == "__main__":
    main()
