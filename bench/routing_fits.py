"""Every family and baseline fitted on part of an outcome set, and what each estimates for the rest.

Not run alone; ``bench/routing_quality.py`` and ``bench/learning_curves.py`` use it. Read `load_set`, then `fit_all`.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from penstock_routers.bundled import DEFAULT_ENCODER, bundled_folder
from penstock_routers.encoder import PromptEncoder
from penstock_training.calibration import fit_calibration
from penstock_training.crossfit import member_settings, out_of_fold
from penstock_training.families.ensemble import stack
from penstock_training.families.head import PromptInputs, TrainingSet
from penstock_training.families.registry import DEFAULT_MEMBERS, ENSEMBLE, FAMILIES, RouterSpec, make_family
from penstock_training.fit import feature_matrix
from penstock_training.frame import fit_lengths
from penstock_training.metrics import envelope_area, upper_envelope
from penstock_training.outcomes import OutcomeMatrix, load_outcomes
from penstock_training.places import FormScaler, Places
from penstock_training.prompt_baselines import keyword_class, length_labels
from penstock_training.splits import grouped_split
from penstock_training.vectors import encode_prompts

FloatArray = NDArray[np.float64]
IndexArray = NDArray[np.int64]

SETS = ("routerbench_3tasks", "zeroeval_core", "mmlu_pro", "routellm_mmlu_gsm8k_mtbench")
TRAIN_SHARE = 0.7
# Relative weight of cost, from "cost is nothing" to "quality is nothing".
COST_WEIGHTS = np.concatenate([[0.0], np.geomspace(1e-3, 3e1, 200)])
UNIFORM = "knn, uniform k=100"
AUTO = "auto"
EVERYTHING = "ensemble of all"
WITHIN = 0.002  # of the area: a mean of several is the safer choice unless it is surely behind
_DOLLARS = 1e9  # costs are predicted as counts of nanodollars by the length head: log-linear, per arm


@dataclass(frozen=True)
class RoutingSet:
    """One outcome set with everything computed from its prompts.

    Attributes
    ----------
    name : str
    matrix : OutcomeMatrix
    vectors, features : ndarray of float32, shape (n, d) and (n, f)
    """

    name: str
    matrix: OutcomeMatrix
    vectors: NDArray[np.float32]
    features: NDArray[np.float32]


@dataclass(frozen=True)
class Part:
    """Test prompts of one split with what every router says about them.

    Attributes
    ----------
    rows : ndarray of int64, shape (t,)
        Prompts of the set that were scored on every arm at a known cost.
    default : int
        Arm with the best mean on the training part.
    cost_usd : ndarray of float64, shape (t, m)
        Predicted by the log-linear head that all routers share.
    quality : dict of str to ndarray, shape (t, m)
        Per router.
    note : dict of str to str
        What a router chose.
    """

    rows: IndexArray
    default: int
    cost_usd: FloatArray
    quality: dict[str, FloatArray]
    note: dict[str, str]


def load_set(folder: Path, name: str) -> RoutingSet:
    """Read and encode a set; arms without any known cost are left out."""
    matrix = load_outcomes([folder / "routing" / f"{name}.parquet"], on_bad_rows="skip").matrix()
    priced = np.isfinite(matrix.cost_usd).any(axis=0)
    if not priced.all():
        kept = [arm for arm, has_cost in zip(matrix.arms, priced, strict=True) if has_cost]
        matrix = load_outcomes([folder / "routing" / f"{name}.parquet"], on_bad_rows="skip").matrix(kept)
    encoder = PromptEncoder.load(bundled_folder(DEFAULT_ENCODER))
    vectors = encode_prompts(encoder, matrix.prompts, lambda *_: None)
    return RoutingSet(name, matrix, vectors, feature_matrix(matrix.prompts))


def first_prompts(routing: RoutingSet, count: int) -> RoutingSet:
    """Keep some prompts, drawn at random: for a quick pass."""
    rows = np.sort(np.random.default_rng(0).permutation(len(routing.matrix.prompts))[:count])
    return RoutingSet(routing.name, routing.matrix.rows(rows), routing.vectors[rows], routing.features[rows])


def split_rows(routing: RoutingSet, seed: int) -> tuple[IndexArray, IndexArray]:
    """Rows to fit on and rows to test on, by question group."""
    fractions = {"train": TRAIN_SHARE, "test": 1.0 - TRAIN_SHARE}
    parts = grouped_split(routing.matrix.groups, fractions=fractions, seed=seed)
    return parts["train"], parts["test"]


def training_set(
    routing: RoutingSet, rows: IndexArray, seed: int, directions: FloatArray | None = None
) -> tuple[TrainingSet, FormScaler]:
    """Bring training rows into the form that families take."""
    scaler = FormScaler.fit(routing.features[rows])
    inputs = PromptInputs(routing.vectors[rows].astype(np.float64), scaler.apply(routing.features[rows]))
    size = inputs.vectors.shape[1] + inputs.forms.shape[1]
    given = np.zeros((size, 0)) if directions is None else directions
    places = Places(inputs.vectors, inputs.forms, seed, np.arange(rows.size))
    return TrainingSet.make(inputs, routing.matrix.score[rows], None, places, given), scaler


def fit_all(routing: RoutingSet, seed: int, families: Iterable[str] = tuple(FAMILIES)) -> Part:
    """Fit every family, the ensembles, ``auto`` and the tables on one split, and estimate its test prompts."""
    matrix = routing.matrix
    train, test = split_rows(routing, seed)
    known = np.isfinite(matrix.score[test]).all(axis=1) & np.isfinite(matrix.cost_usd[test]).all(axis=1)
    test = test[known]
    training, scaler = training_set(routing, train, seed)
    asked = PromptInputs(routing.vectors[test].astype(np.float64), scaler.apply(routing.features[test]))
    costs = fit_lengths(training.inputs, matrix.cost_usd[train] * _DOLLARS)
    inside = costs.predict(training.inputs) / _DOLLARS
    score, groups = matrix.score[train], matrix.groups[train]
    raw, outside = {}, {}
    for name in families:
        settings = member_settings(RouterSpec(ENSEMBLE), name)
        outside[name] = out_of_fold(name, settings, training, groups, seed=seed)
        raw[name] = make_family(name).fit(training, settings, seed).predict(asked)
    note = {}
    for name, members in ((ENSEMBLE, DEFAULT_MEMBERS), (EVERYTHING, tuple(families))):
        usable = [member for member in members if member in raw and member != "constant"]
        found = stack(usable, np.stack([outside[m] for m in usable]), training.target, training.observed)
        raw[name] = sum(weight * raw[m] for m, weight in found.weights.items())
        outside[name] = sum(weight * outside[m] for m, weight in found.weights.items())
        note[name] = ", ".join(f"{m} {weight:.2f}" for m, weight in found.weights.items())
    quality = {name: fit_calibration(outside[name], score, groups).apply(raw[name]) for name in raw}
    areas = {name: _area(outside[name], inside, score, matrix.cost_usd[train]) for name in raw}
    best = max(areas, key=lambda name: areas[name])
    picked = EVERYTHING if areas[EVERYTHING] >= areas[best] - WITHIN else best
    quality[AUTO], note[AUTO] = quality[picked], picked
    quality |= _tables(routing, train, test) | {UNIFORM: _uniform(routing, train, test)}
    default = int(np.nanmean(score, axis=0).argmax())
    return Part(test, default, costs.predict(asked) / _DOLLARS, quality, note)


def choices(quality: FloatArray, cost_usd: FloatArray, default: int) -> IndexArray:
    """Arm of every prompt at each weight of cost, then the cheapest and the default arm, (t, s + 2)."""
    relative = cost_usd / cost_usd.mean(axis=0).max()
    chosen = [np.argmax(quality - weight * relative, axis=1) for weight in COST_WEIGHTS]
    chosen += [np.argmin(cost_usd, axis=1), np.full(quality.shape[0], default)]
    return np.stack(chosen, axis=1)


def _area(quality: FloatArray, cost_usd: FloatArray, score: NDArray[np.floating], cost: NDArray[np.floating]) -> float:
    """Area of out-of-fold estimates on the prompts that were scored on every arm: what ``auto`` picks by."""
    full = np.isfinite(score).all(axis=1) & np.isfinite(cost).all(axis=1)
    rows = np.arange(int(full.sum()))[:, None]
    chosen = choices(quality[full], cost_usd[full], int(score[full].mean(axis=0).argmax()))
    means, costs = score[full].mean(axis=0), cost[full].mean(axis=0)
    found = cost[full][rows, chosen].mean(axis=0), score[full][rows, chosen].mean(axis=0)
    return envelope_area(upper_envelope(*found), float(costs.min()), float(costs[means.argmax()]))


def _uniform(routing: RoutingSet, train: IndexArray, test: IndexArray, count: int = 100) -> FloatArray:
    """Plain mean over the 100 nearest training prompts: the baseline of routing.md's kNN paper."""
    score = routing.matrix.score[train].astype(np.float64)
    seen = np.isfinite(score)
    filled = np.where(seen, score, 0.0)
    found = np.empty((test.size, score.shape[1]))
    for start in range(0, test.size, 1024):
        cosine = routing.vectors[test[start : start + 1024]] @ routing.vectors[train].T
        nearest = np.argpartition(-cosine, count, axis=1)[:, :count]
        found[start : start + 1024] = filled[nearest].sum(axis=1) / np.maximum(seen[nearest].sum(axis=1), 1)
    return found


def _tables(routing: RoutingSet, train: IndexArray, test: IndexArray) -> dict[str, FloatArray]:
    """Mean scores per label, shrunk to the arm's mean: what knows the prompt only a little."""
    matrix = routing.matrix
    labels = {
        "table by length": length_labels(matrix.prompts),
        "table by keyword": [keyword_class(prompt) for prompt in matrix.prompts],
        "table by category": matrix.tasks if routing.name.startswith("routerbench") else matrix.categories,
    }
    found = {}
    for name, label in labels.items():
        _, code = np.unique(np.asarray(label, dtype=object).astype(str), return_inverse=True)
        if np.unique(code).size < 2:
            continue
        score = matrix.score[train].astype(np.float64)
        seen, filled = np.isfinite(score), np.nan_to_num(score)
        overall = filled.sum(axis=0) / seen.sum(axis=0)
        size = int(code.max()) + 1
        total = np.stack([np.bincount(code[train], column, size) for column in filled.T], axis=1)
        count = np.stack([np.bincount(code[train], column, size) for column in seen.T.astype(float)], axis=1)
        found[name] = ((total + 10.0 * overall) / (count + 10.0))[code[test]]
    return found
