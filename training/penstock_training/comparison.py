"""Several routers on the same prompts: paired differences, corrected for how many are made.

Owns the pairing. Separate intervals of two routers overlap long before their difference is unsure, because both err on
the same prompts; so differences are bootstrapped as such. Read `compare_routers`.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import combinations
from typing import Final

import numpy as np
from numpy.typing import NDArray

from penstock_routers.policy import Tradeoff
from penstock_training.baselines import ArmMeans
from penstock_training.evaluation import COST_WEIGHTS
from penstock_training.evaluation_measures import Trial
from penstock_training.intervals import Interval, bootstrap_p_value, holm
from penstock_training.metrics import envelope_area, upper_envelope

FloatMatrix = NDArray[np.float64]
_Statistic = Callable[[FloatMatrix], float]
AREA: Final = "area"


@dataclass(frozen=True, slots=True)
class Contender:
    """A router to compare.

    Attributes
    ----------
    name : str
    trial : Trial
        Its estimates with the outcomes; the same prompts in the same order for all contenders.
    tradeoffs : tuple of Tradeoff
        Operating points; the guard of the first is used for the curve.
    """

    name: str
    trial: Trial
    tradeoffs: tuple[Tradeoff, ...]


@dataclass(frozen=True, slots=True)
class PairedDifference:
    """One quantity of two routers on the same prompts.

    Attributes
    ----------
    first, second : str
        Names of the routers.
    measure : str
        ``area``, or ``quality`` or ``relative cost`` at an operating point, as ``quality at balanced``.
    difference : Interval
        First minus second; costs in shares of the best arm's.
    p_value, adjusted_p_value : float
        Of "no difference", alone and corrected for all comparisons of the same kind (area, quality, cost).
    """

    first: str
    second: str
    measure: str
    difference: Interval
    p_value: float
    adjusted_p_value: float


@dataclass(frozen=True, slots=True)
class RouterComparison:
    """All pairs.

    Attributes
    ----------
    prompts, groups : int
        Prompts scored on every arm of every router, and the questions among them.
    arms : tuple of str
    differences : tuple of PairedDifference
    verdicts : tuple of str
    """

    prompts: int
    groups: int
    arms: tuple[str, ...]
    differences: tuple[PairedDifference, ...]
    verdicts: tuple[str, ...]


def compare_routers(
    contenders: Sequence[Contender], *, pairs: Sequence[tuple[int, int]] | None = None
) -> RouterComparison:
    """Compare routers pairwise on the same prompts.

    Parameters
    ----------
    contenders : sequence of Contender
        At least two, with different names. Resamples and seed of the first one's trial are used.
    pairs : sequence of (int, int), optional
        Places in `contenders` of the pairs to compare; all pairs when omitted.

    Returns
    -------
    RouterComparison
        For each pair: the area under the guarded curve between the costs of the cheapest and the best of all arms, and
        quality and cost at each operating point that both have.

    Raises
    ------
    ValueError
        Fewer than two contenders, two of one name, or trials of different prompts.

    Notes
    -----
    One bootstrap over question groups resamples all routers with the same weights; a difference is taken inside each
    sample. p-values (`bootstrap_p_value`) are corrected by Holm's method within each kind.
    """
    if len({c.name for c in contenders}) != len(contenders) or len(contenders) < 2:
        raise ValueError("comparing needs at least two routers with different names")
    first_trial = contenders[0].trial
    if any(c.trial.matrix.prompts != first_trial.matrix.prompts for c in contenders):
        raise ValueError("comparing needs the same prompts in the same order")
    arms, score, cost = _all_arms(contenders)
    columns, places = _columns(contenders, score, cost)
    bootstrap = first_trial.bootstrap(columns)
    means = ArmMeans(bootstrap.means[: len(arms)], bootstrap.means[len(arms) : 2 * len(arms)])
    found = []
    for first, second in pairs or combinations(range(len(contenders)), 2):
        for measure, get in _measures(contenders, places, (first, second), means, len(arms)):
            value = get(bootstrap.means)
            draws = np.array([get(draw) for draw in bootstrap.draws])
            found.append((contenders[first].name, contenders[second].name, measure, value, draws))
    adjusted = _adjusted([(measure, bootstrap_p_value(draws)) for _, _, measure, _, draws in found])
    differences = tuple(
        PairedDifference(first, second, measure, _interval(value, draws), *p_values)
        for (first, second, measure, value, draws), p_values in zip(found, adjusted, strict=True)
    )
    verdicts = tuple(_verdict(d) for d in differences if d.measure == AREA)
    groups = int(np.unique(first_trial.matrix.groups).size)
    return RouterComparison(score.shape[0], groups, arms, differences, verdicts)


def _all_arms(contenders: Sequence[Contender]) -> tuple[tuple[str, ...], FloatMatrix, FloatMatrix]:
    """Arms of any contender, with scores and costs from the first one that has them."""
    columns: dict[str, tuple[FloatMatrix, FloatMatrix]] = {}
    for contender in contenders:
        trial = contender.trial
        for index, arm in enumerate(trial.estimates.arms):
            columns.setdefault(arm, (trial.score[:, index], trial.cost_usd[:, index]))
    score, cost = (np.column_stack([column[i] for column in columns.values()]) for i in (0, 1))
    return tuple(columns), score, cost


def _columns(
    contenders: Sequence[Contender], score: FloatMatrix, cost: FloatMatrix
) -> tuple[FloatMatrix, list[dict[str, slice]]]:
    """Arms' scores and costs, then per router the scores and costs of its curve and of its operating points."""
    blocks, start = [score, cost], 2 * score.shape[1]
    places: list[dict[str, slice]] = []
    for contender in contenders:
        trial, guard_z = contender.trial, contender.tradeoffs[0].guard_z
        curve = [Tradeoff(f"{weight:g}", weight, guard_z) for weight in COST_WEIGHTS]
        place: dict[str, slice] = {}
        for name, tradeoffs in ((AREA, curve), *((t.name, [t]) for t in contender.tradeoffs)):
            found = [trial.columns(trial.decide(t).chosen) for t in tradeoffs]
            blocks += [np.column_stack([f[:, 0] for f in found]), np.column_stack([f[:, 1] for f in found])]
            place[name] = slice(start, start + 2 * len(found))
            start += 2 * len(found)
        places.append(place)
    return np.hstack(blocks), places


def _measures(
    contenders: Sequence[Contender],
    places: Sequence[dict[str, slice]],
    pair: tuple[int, int],
    means: ArmMeans,
    m: int,
) -> list[tuple[str, _Statistic]]:
    """Names of what is compared between two routers, and how it follows from column means."""
    first, second = pair
    shared = [t.name for t in contenders[first].tradeoffs if t.name in places[second]]

    def area(values: FloatMatrix) -> float:
        return _area(values, places[first][AREA], means, m) - _area(values, places[second][AREA], means, m)

    found: list[tuple[str, _Statistic]] = [(AREA, area)]
    for name in shared:
        one, two = places[first][name].start, places[second][name].start
        found.append((f"quality at {name}", _QualityDifference(one, two)))
        found.append((f"relative cost at {name}", _CostDifference(one + 1, two + 1, m + means.best)))
    return found


@dataclass(frozen=True, slots=True)
class _QualityDifference:
    first: int
    second: int

    def __call__(self, values: FloatMatrix) -> float:
        return float(values[self.first] - values[self.second])


@dataclass(frozen=True, slots=True)
class _CostDifference:
    first: int
    second: int
    best: int

    def __call__(self, values: FloatMatrix) -> float:
        best = float(values[self.best])
        return float(values[self.first] - values[self.second]) / best if best > 0.0 else math.nan


def _area(values: FloatMatrix, place: slice, means: ArmMeans, m: int) -> float:
    """Area of one router's curve; which arms bound the range is fixed by the data as they are."""
    low, high = float(values[m + means.cheapest]), float(values[m + means.best])
    if not low < high:
        return math.nan
    found = values[place]
    half = found.size // 2
    cost, quality = np.append(found[half:], low), np.append(found[:half], values[means.cheapest])
    return envelope_area(upper_envelope(cost, quality), low, high)


def _adjusted(p_values: Sequence[tuple[str, float]]) -> list[tuple[float, float]]:
    """Correct within each kind of measure (its first word)."""
    kinds = [measure.split()[0] for measure, _ in p_values]
    corrected = [0.0] * len(p_values)
    for kind in set(kinds):
        places = [i for i, other in enumerate(kinds) if other == kind]
        for place, value in zip(places, holm([p_values[i][1] for i in places]), strict=True):
            corrected[place] = value
    return [(p, adjusted) for (_, p), adjusted in zip(p_values, corrected, strict=True)]


def _interval(value: float, draws: FloatMatrix) -> Interval:
    usable = draws[np.isfinite(draws)]
    low, high = np.quantile(usable, (0.025, 0.975)) if usable.size else (math.nan, math.nan)
    return Interval(value, float(low), float(high))


def _verdict(difference: PairedDifference) -> str:
    d = difference
    if d.adjusted_p_value < 0.05:
        better, worse = (d.first, d.second) if d.difference.value > 0 else (d.second, d.first)
        return f"Over all budgets, {better} is surely better than {worse}."
    return f"Over all budgets, {d.first} and {d.second} cannot be told apart on these prompts."
