"""Fitting heads, and predicting every training prompt with a head that did not see it.

Owns folds and out-of-fold predictions, which calibration, uncertainty, stacking and the search over families all stand
on. Must not choose operating points. Read `fit_head`.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from typing import Final

import numpy as np
from numpy.typing import NDArray

from penstock_routers.prompt_content import SUPPORT_POINTS
from penstock_training.engines.protocol import LOCAL, Engine, Report, Shared, unreported
from penstock_training.errors import TrainingError
from penstock_training.families.ensemble import CONSTANT, EnsembleHead, Stacking, stack
from penstock_training.families.head import FloatArray, Head, IndexArray, Settings, TrainingSet
from penstock_training.families.registry import ENSEMBLE, MEMBER_SETTINGS, RouterSpec, make_family
from penstock_training.progress import Progress, silent
from penstock_training.prototype_choice import PrototypeChoice, choose_prototypes
from penstock_training.splits import grouped_split

FOLDS: Final = 5
CLUSTERINGS: Final = ("prototypes", "landmarks", "clusters")  # settings that name a number of clusters, in any family


@dataclass(frozen=True, slots=True)
class HeadFit:
    """A head with what was learned on the way.

    Attributes
    ----------
    head : Head
        Fitted on all training prompts.
    out_of_fold : ndarray of float64, shape (n, m)
        Raw quality of every training prompt from heads that did not see its question.
    settings : dict of str to float
        Hyper-parameters in force, an ensemble's as ``member.name``, its weights as ``weight.member``.
    notes : tuple of str
        Members that dropped out, and why.
    error : dict of str to float
        Out-of-fold mean squared error per member, of the whole under the family's name.
    """

    head: Head
    out_of_fold: FloatArray
    settings: dict[str, float]
    notes: tuple[str, ...] = ()
    error: dict[str, float] = field(default_factory=dict)


def fold_rows(groups: IndexArray, seed: int, folds: int = FOLDS) -> list[IndexArray]:
    """Rows of each fold; a question group is never divided, and a fold may be empty."""
    parts = grouped_split(groups, fractions={f"fold{k}": 1.0 / folds for k in range(folds)}, seed=seed)
    return list(parts.values())


@dataclass(frozen=True, slots=True)
class _Fold:
    """A head to fit on some rows, and the rows to predict with it."""

    name: str
    settings: Settings
    seed: int
    rest: IndexArray
    held_out: IndexArray


def out_of_fold(
    name: str,
    settings: Settings,
    training: TrainingSet,
    groups: IndexArray,
    *,
    seed: int,
    folds: int = FOLDS,
    engine: Engine = LOCAL,
) -> FloatArray:
    """Predict each fold with a head fitted on the others, (n, m).

    Raises
    ------
    TrainingError
        ``too_few_prompts``: all prompts ask one question; or what the family raises.
    """
    found = _out_of_folds({name: settings}, engine.share(training), training, groups, seed, engine, folds=folds)[name]
    if isinstance(found, TrainingError):
        raise found
    return found


def _out_of_folds(
    settings: Mapping[str, Settings],
    shared: Shared[TrainingSet],
    training: TrainingSet,
    groups: IndexArray,
    seed: int,
    engine: Engine,
    *,
    folds: int = FOLDS,
    report: Report = unreported,
) -> dict[str, FloatArray | TrainingError]:
    """Per family its out-of-fold predictions, or why it has none: one part of work per family and fold."""
    pairs = _fold_pairs(groups, seed, folds)
    parts = [_Fold(name, own, seed, *pair) for name, own in settings.items() for pair in pairs]
    answers = engine.map(_predicted, shared, parts, report)
    found: dict[str, FloatArray | TrainingError] = {}
    for part, answer in zip(parts, answers, strict=True):
        known = found.setdefault(part.name, np.full(training.target.shape, np.nan))
        if isinstance(known, TrainingError):
            continue
        if isinstance(answer, TrainingError):
            found[part.name] = answer
        else:
            known[part.held_out] = answer
    return found


def _fold_pairs(groups: IndexArray, seed: int, folds: int = FOLDS) -> list[tuple[IndexArray, IndexArray]]:
    """Rows to fit on and rows to predict, per fold that is not empty."""
    everything = np.arange(groups.size)
    pairs = []
    for held_out in fold_rows(groups, seed, folds):
        if held_out.size == 0:
            continue
        rest = np.setdiff1d(everything, held_out, assume_unique=True)
        if rest.size == 0:
            raise TrainingError("all prompts ask the same question, so none can be held out", code="too_few_prompts")
        pairs.append((rest, held_out))
    return pairs


def _predicted(training: TrainingSet, part: _Fold) -> FloatArray | TrainingError:
    try:
        head = make_family(part.name).fit(training.rows(part.rest), part.settings, part.seed)
    except TrainingError as error:  # an ensemble goes on without it
        return error
    return head.predict(training.inputs.rows(part.held_out))


def _fitted(training: TrainingSet, wanted: tuple[str, Settings, int]) -> Head:
    name, settings, seed = wanted
    return make_family(name).fit(training, settings, seed)


def _prepared(
    training: TrainingSet, groups: IndexArray, settings: Iterable[Settings], seed: int, engine: Engine
) -> Shared[TrainingSet]:
    """Share a training set in which the work that all parts need is done already, instead of in every worker anew."""
    if engine.name != LOCAL.name:
        counts = {round(own[key]) for own in settings for key in CLUSTERINGS if key in own}
        training.places.make(counts - {0}, engine)
        training.fill([rest for rest, _ in _fold_pairs(groups, seed)], engine)
    return engine.share(training)


def fit_head(
    training: TrainingSet,
    groups: IndexArray,
    spec: RouterSpec,
    *,
    seed: int,
    progress: Progress = silent,
    arm_cost: FloatArray | None = None,
    engine: Engine = LOCAL,
) -> HeadFit:
    """Fit a family, or an ensemble of families.

    Parameters
    ----------
    training : TrainingSet
    groups : ndarray of int64, shape (n,)
        Question group of each training prompt.
    spec : RouterSpec
    seed : int
    progress : callable
    arm_cost : ndarray of float64, shape (m,), optional
        Says what a number of prototypes that is chosen here (``prototypes=0``) loses in routing.
    engine : Engine
        Where heads are fitted, one part of work per family and fold.

    Returns
    -------
    HeadFit

    Raises
    ------
    TrainingError
        ``no_member``: every member of an ensemble failed, or gave numbers that are not finite; or what the family
        raises.
    """
    spec, chosen = _with_prototypes(training, groups, spec, seed, arm_cost)
    if any(value > 0.0 for key, value in spec.settings.items() if key.rpartition(".")[2] == SUPPORT_POINTS):
        engine = LOCAL  # one index over all prompts serves every fold; each worker would build it anew
    if spec.family == ENSEMBLE:
        fitted = _fit_ensemble(training, groups, spec, seed, progress, engine)
    else:
        fitted = _fit_family(training, groups, spec, seed, progress, engine)
    if chosen is None:
        return fitted
    return replace(fitted, notes=(*fitted.notes, chosen.describe()), error=fitted.error | chosen.errors())


def _with_prototypes(
    training: TrainingSet, groups: IndexArray, spec: RouterSpec, seed: int, arm_cost: FloatArray | None
) -> tuple[RouterSpec, PrototypeChoice | None]:
    """Put a chosen number in the place of ``prototypes=0`` of nearest neighbours."""
    key = "knn.prototypes" if spec.family == ENSEMBLE else "prototypes"
    if spec.family not in ("knn", ENSEMBLE) or spec.settings.get(key) != 0.0:
        return spec, None
    settings = (
        member_settings(spec, "knn") if spec.family == ENSEMBLE else {**make_family("knn").defaults, **spec.settings}
    )
    choice = choose_prototypes(training, groups, settings, seed=seed, arm_cost=arm_cost)
    return replace(spec, settings={**spec.settings, key: float(choice.chosen.prototypes)}), choice


def _fit_family(
    training: TrainingSet, groups: IndexArray, spec: RouterSpec, seed: int, progress: Progress, engine: Engine
) -> HeadFit:
    name, stage = spec.family, f"fitting {spec.family}"
    settings = {**make_family(name).defaults, **spec.settings}
    shared = _prepared(training, groups, [settings], seed, engine)
    found = _out_of_folds(
        {name: settings}, shared, training, groups, seed, engine, report=lambda d, t: progress(stage, d, t + 1)
    )[name]
    if isinstance(found, TrainingError):
        raise found
    (head,) = engine.map(_fitted, shared, [(name, settings, seed)])
    progress(stage, 1, 1)
    return HeadFit(head, found, settings, (), {name: squared_error(found, training)})


def member_settings(spec: RouterSpec, member: str) -> dict[str, float]:
    """Hyper-parameters of one member of an ensemble."""
    own = {key.partition(".")[2]: value for key, value in spec.settings.items() if key.startswith(f"{member}.")}
    return {**make_family(member).defaults, **MEMBER_SETTINGS.get(member, {}), **own}


def squared_error(found: FloatArray, training: TrainingSet) -> float:
    """Mean squared error over observed cells."""
    return float(np.square(found - training.target)[training.observed].mean())


def _fit_ensemble(
    training: TrainingSet, groups: IndexArray, spec: RouterSpec, seed: int, progress: Progress, engine: Engine
) -> HeadFit:
    settings = {name: member_settings(spec, name) for name in spec.members}
    shared = _prepared(training, groups, settings.values(), seed, engine)
    tried = _out_of_folds(
        settings, shared, training, groups, seed, engine,
        report=lambda done, total: progress("fitting members", done, total + len(spec.members)),
    )  # fmt: skip
    predictions = {name: found for name, found in tried.items() if not isinstance(found, TrainingError)}
    notes = [f"{name} dropped out: {why.message}" for name, why in tried.items() if isinstance(why, TrainingError)]
    if not predictions:
        raise TrainingError("no member of the ensemble could be fitted: " + "; ".join(notes), code="no_member")
    names = tuple(predictions)
    stacking = stack(names, np.stack([predictions[name] for name in names]), training.target, training.observed)
    notes += [f"{name} dropped out: {reason}" for name, reason in stacking.dropped.items()]
    wanted = [(name, settings.get(name, {}), seed) for name in stacking.weights]
    heads = engine.map(_fitted, shared, wanted)
    progress("fitting members", 1, 1)
    if CONSTANT in stacking.weights:
        predictions[CONSTANT] = out_of_fold(CONSTANT, {}, training, groups, seed=seed)
    blend = sum(weight * predictions[name] for name, weight in stacking.weights.items())
    return HeadFit(
        EnsembleHead(tuple(stacking.weights), tuple(heads), tuple(stacking.weights.values())),
        np.asarray(blend, dtype=np.float64),
        _flat(settings, stacking),
        tuple(notes),
        stacking.error,
    )


def _flat(settings: Mapping[str, Settings], stacking: Stacking) -> dict[str, float]:
    flat = {f"{name}.{key}": value for name in stacking.weights for key, value in settings.get(name, {}).items()}
    return flat | {f"weight.{name}": weight for name, weight in stacking.weights.items()}


def observed_residuals(quality: FloatArray, score: NDArray[np.floating], observed: NDArray[np.bool_]) -> FloatArray:
    """Score minus quality where observed, 0 elsewhere."""
    return np.where(observed, np.nan_to_num(score.astype(np.float64)) - quality, 0.0)
