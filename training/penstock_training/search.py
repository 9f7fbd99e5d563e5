"""``--router auto``: a router chosen by cost-frugal search on the training prompts.

Owns the order of steps: split, judge, trials, ensembles stacked from the best of each family, choice. Validation and
test prompts are not looked at. Read `choose_router`, then `search_router`.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Final

import numpy as np

from penstock_training.crossfit import fold_rows
from penstock_training.errors import TrainingError
from penstock_training.export import time_head
from penstock_training.families.ensemble import Stacking, stack
from penstock_training.families.head import FloatArray, IndexArray, TrainingSet
from penstock_training.families.registry import ENSEMBLE, RouterSpec
from penstock_training.fit import Corpus, FitOptions, check_corpus, make_training_set, split_prompts
from penstock_training.frugal import need_search_library
from penstock_training.places import FormScaler
from penstock_training.progress import Progress
from penstock_training.search_metric import Judge, RoutingJudge
from penstock_training.search_result import Candidate, SearchResult, make_result
from penstock_training.search_space import CONSTANT
from penstock_training.search_trials import Finished, SearchOptions, TrialLoop

_SMALL_ENSEMBLE: Final = 3
_UNITS: Final = {"s": 1.0, "m": 60.0, "h": 3600.0}


def choose_router(
    corpus: Corpus, reference_arm: str, options: FitOptions, wanted: SearchOptions, progress: Progress
) -> SearchResult:
    """Search on the training part of a corpus.

    Parameters
    ----------
    corpus : Corpus
        All prompts; split as `penstock_training.fit.fit_router` splits them.
    reference_arm : str
    options : FitOptions
        Its ``router`` is not looked at.
    wanted : SearchOptions
    progress : callable

    Returns
    -------
    SearchResult

    Raises
    ------
    TrainingError
        What `search_router` raises, and what `check_corpus` refuses.
    """
    split = split_prompts(corpus.matrix.groups, options.seed)
    check_corpus(corpus, split, reference_arm)
    return search_router(corpus.rows(split["train"]), reference_arm, options, wanted, progress)


def search_router(
    train: Corpus,
    reference_arm: str,
    options: FitOptions,
    wanted: SearchOptions,
    progress: Progress,
    judge: Judge | None = None,
) -> SearchResult:
    """Search families and settings by a metric of out-of-fold predictions.

    Parameters
    ----------
    train : Corpus
        Training prompts only.
    reference_arm : str
        Whose typical request is the unit of cost.
    options : FitOptions
        Seed and prior.
    wanted : SearchOptions
    progress : callable
    judge : Judge, optional
        In place of `RoutingJudge`.

    Returns
    -------
    SearchResult

    Raises
    ------
    TrainingError
        ``missing_extra``, ``unknown_metric``, ``too_few_prompts``.

    Notes
    -----
    Call it inside `penstock_training.fit.single_threaded`. The result depends on the seed alone when patience, the
    number of candidates or exhaustion ends the search; when the budget or the keyboard does, on the machine too.
    """
    need_search_library()
    scaler = FormScaler.fit(train.features)
    training = make_training_set(train, scaler, options)
    groups = train.matrix.groups
    if judge is None:
        judge = RoutingJudge(
            train,
            training.inputs,
            reference_arm=reference_arm,
            metric=wanted.metric,
            resamples=wanted.resamples,
            seed=options.seed,
        )
    loop = TrialLoop(training, groups, judge, wanted, seed=options.seed, progress=progress)
    loop.run()
    microseconds = {label: time_head(f.head, training.inputs) for label, f in loop.best_of.items()}
    singles = [
        _timed(candidate, microseconds[candidate.label])
        for candidate in loop.counted([finished.candidate for finished in loop.best_of.values()])
    ]
    ensembles = _ensembles(loop.best_of, microseconds, training, groups, judge, options.seed)
    return make_result(
        [*loop.measured, *ensembles],
        [*singles, *ensembles],
        metric=wanted.metric,
        stopped_early=loop.stopped_early,
        seconds=loop.seconds,
        ending=loop.ending,
    )


def parse_budget(text: str) -> float:
    """Read a duration: ``90s``, ``10m``, ``1h``, ``1h30m``, or a number of seconds.

    Raises
    ------
    TrainingError
        ``bad_budget``: anything else, or nothing.

    Examples
    --------
    >>> parse_budget("1h30m")
    5400.0
    """
    parts = re.fullmatch(r"(?:(\d+(?:\.\d+)?)h)?(?:(\d+(?:\.\d+)?)m)?(?:(\d+(?:\.\d+)?)s?)?", text.strip().lower())
    seconds = 0.0
    if parts is not None:
        hours, minutes, rest = (float(part or 0.0) for part in parts.groups())
        seconds = hours * _UNITS["h"] + minutes * _UNITS["m"] + rest
    if seconds <= 0.0:
        raise TrainingError(f"--budget {text!r} should read like 90s, 10m or 1h", code="bad_budget")
    return seconds


def _timed(candidate: Candidate, microseconds: float) -> Candidate:
    return Candidate(
        candidate.label,
        candidate.spec,
        candidate.measurement,
        candidate.fit_seconds,
        microseconds,
        candidate.tried,
    )


def _ensembles(
    best_of: Mapping[str, Finished],
    microseconds: Mapping[str, float],
    training: TrainingSet,
    groups: IndexArray,
    judge: Judge,
    seed: int,
) -> list[Candidate]:
    """Stack the best of every family, and the three that weigh most; nothing is fitted again."""
    members: dict[str, Finished] = {}
    for label, finished in best_of.items():
        family = finished.candidate.spec.family
        known = members.get(family)
        is_better = known is None or finished.candidate.measurement.gain > known.candidate.measurement.gain
        if label != CONSTANT and is_better:
            members[family] = finished
    if len(members) < 2:
        return []
    stacking = _stacking(tuple(members), members, training, np.arange(groups.size))
    weights = {name: weight for name, weight in stacking.weights.items() if name != CONSTANT}
    sets = [tuple(sorted(weights))]
    if len(weights) > _SMALL_ENSEMBLE:
        heaviest = sorted(weights, key=lambda name: (-weights[name], name))[:_SMALL_ENSEMBLE]
        sets.append(tuple(sorted(heaviest)))
    return [_ensemble(names, members, microseconds, training, groups, judge, seed) for names in sets if len(names) > 1]


def _ensemble(
    names: tuple[str, ...],
    members: Mapping[str, Finished],
    microseconds: Mapping[str, float],
    training: TrainingSet,
    groups: IndexArray,
    judge: Judge,
    seed: int,
) -> Candidate:
    """Measure one ensemble; the weights for a fold come from the other folds, so that nothing is judged by itself."""
    blend = np.full(training.target.shape, np.nan)
    everything = np.arange(groups.size)
    for held_out in fold_rows(groups, seed):
        if held_out.size:
            rest = np.setdiff1d(everything, held_out, assume_unique=True)
            weights = _stacking(names, members, training, rest).weights
            level = weights.pop(CONSTANT, 0.0) * training.target[rest].mean(axis=0)
            blend[held_out] = level + sum(weight * members[name].raw[held_out] for name, weight in weights.items())
    used = [members[name].candidate for name in names]
    settings = {f"{c.spec.family}.{key}": value for c in used for key, value in c.spec.settings.items()}
    return Candidate(
        f"ensemble of {len(names)}",
        RouterSpec(ENSEMBLE, settings, names),
        judge.measure(blend),
        sum(candidate.fit_seconds for candidate in used),
        sum(microseconds[candidate.label] for candidate in used),
    )


def _stacking(
    names: Sequence[str], members: Mapping[str, Finished], training: TrainingSet, rows: IndexArray
) -> Stacking:
    predictions: FloatArray = np.stack([members[name].raw[rows] for name in names])
    return stack(names, predictions, training.target[rows], training.observed[rows])
