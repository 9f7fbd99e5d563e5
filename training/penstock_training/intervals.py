"""How sure a measured number is: paired bootstrap over question groups, and discordant pairs.

Owns randomness of the evaluation (always from a seed). Must not know about routers. Read `GroupBootstrap` first.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from statistics import NormalDist

import numpy as np
from numpy.typing import ArrayLike, NDArray

FloatVector = NDArray[np.float64]
_WEIGHTS_PER_STEP = 4_000_000  # group weights drawn at once: 32 MB


@dataclass(frozen=True, slots=True)
class Interval:
    """A number with the interval it was measured to.

    Attributes
    ----------
    value : float
        The estimate on the data as they are.
    low, high : float
        Ends of the interval (95 % unless stated otherwise).
    """

    value: float
    low: float
    high: float


class GroupBootstrap:
    """Means of several columns, resampled together by group.

    All columns are resampled with the same weights, so a difference between two of them is a paired difference, and
    prompts of one question group stay together.

    Parameters
    ----------
    columns : ndarray of float, shape (n, k)
        One column per quantity (score of an arm, cost of a policy, …), one row per prompt; n >= 1.
    groups : ndarray of int64, shape (n,)
        Question group of each row.
    resamples : int
        Number of bootstrap samples, >= 1.
    seed : int
    level : float, in (0, 1)
        Coverage of the intervals.

    Attributes
    ----------
    means : ndarray of float64, shape (k,)
        Column means of the data.
    draws : ndarray of float64, shape (resamples, k)
        Column means of each bootstrap sample.

    Raises
    ------
    ValueError
        There is no row.

    Notes
    -----
    A sample draws as many groups as there are, with replacement; its mean is ``Σ w_g S_g / Σ w_g n_g`` with the sums
    S_g and sizes n_g of the groups. O(resamples · groups · k), in steps of bounded memory. Intervals are
    percentile intervals.

    References
    ----------
    Cameron, Gelbach, Miller, "Bootstrap-based improvements for inference with clustered errors" (Review of Economics
    and Statistics 90, 2008), pairs cluster bootstrap.
    """

    def __init__(
        self,
        columns: NDArray[np.floating],
        groups: NDArray[np.int64],
        *,
        resamples: int = 1000,
        seed: int = 0,
        level: float = 0.95,
    ) -> None:
        if columns.shape[0] == 0:
            raise ValueError("there is no row to resample")
        order = np.argsort(groups, kind="stable")
        _, starts, sizes = np.unique(groups[order], return_index=True, return_counts=True)
        totals = np.add.reduceat(columns[order].astype(np.float64), starts, axis=0)
        sums = np.column_stack([totals, sizes.astype(np.float64)])
        self.level = level
        self.means: FloatVector = sums[:, :-1].sum(axis=0) / sizes.sum()
        self.draws: NDArray[np.float64] = _resampled_means(sums, resamples, seed)

    def interval(self, statistic: Callable[[FloatVector], float]) -> Interval:
        """Measure a statistic of the column means.

        Parameters
        ----------
        statistic : callable
            Takes the k column means, returns a number; NaN draws are left out of the interval.

        Returns
        -------
        Interval
        """
        return self.intervals(lambda means: [statistic(means)])[0]

    def intervals(self, statistics: Callable[[FloatVector], Sequence[float]]) -> list[Interval]:
        """Measure several statistics at once; as `interval`, with a callable that returns a sequence."""
        values = [float(value) for value in statistics(self.means)]
        drawn = np.array([statistics(draw) for draw in self.draws], dtype=np.float64)
        tail = (1.0 - self.level) / 2.0
        return [Interval(value, *_quantiles(drawn[:, index], (tail, 1.0 - tail))) for index, value in enumerate(values)]


@dataclass(frozen=True, slots=True)
class DiscordantPairs:
    """On how many prompts two policies differ.

    Attributes
    ----------
    first_better, second_better, equal : int
        Prompts on which the first scored higher, lower, the same.
    p_value : float
        Two-sided exact sign test of "neither is better more often".
    """

    first_better: int
    second_better: int
    equal: int
    p_value: float


def discordant_pairs(first: ArrayLike, second: ArrayLike) -> DiscordantPairs:
    """Count where two policies score differently on the same prompts.

    Parameters
    ----------
    first, second : array_like of float, shape (n,)
        Scores, in the same order of prompts.

    Returns
    -------
    DiscordantPairs

    Raises
    ------
    ValueError
        The lengths differ.

    Notes
    -----
    ``p = min(1, 2 · P[Binomial(d, 1/2) <= min(first_better, second_better)])`` over the d discordant prompts, in
    logarithms so that any d works. O(n).

    References
    ----------
    McNemar, "Note on the sampling error of the difference between correlated proportions" (Psychometrika 12, 1947), in
    its exact form.
    """
    one, two = np.asarray(first, dtype=np.float64), np.asarray(second, dtype=np.float64)
    if one.shape != two.shape:
        raise ValueError("both policies need a score for every prompt")
    better, worse = int((one > two).sum()), int((one < two).sum())
    return DiscordantPairs(better, worse, int(one.size) - better - worse, _sign_test(better, worse))


def _sign_test(better: int, worse: int) -> float:
    total, fewer = better + worse, min(better, worse)
    if total == 0:
        return 1.0
    k = np.arange(fewer + 1)
    log_choose = math.lgamma(total + 1) - np.array([math.lgamma(i + 1) + math.lgamma(total - i + 1) for i in k])
    log_terms = log_choose - total * math.log(2.0)
    largest = float(log_terms.max())
    tail = math.exp(largest) * float(np.exp(log_terms - largest).sum())
    return min(1.0, 2.0 * tail)


def wilson_interval(successes: int, trials: int, level: float = 0.95) -> Interval:
    """Interval of a share counted on few independent cases.

    Parameters
    ----------
    successes, trials : int
        ``0 <= successes <= trials``.
    level : float, in (0, 1)

    Returns
    -------
    Interval
        Within [0, 1]; NaN without a trial.

    Notes
    -----
    With p the share, n the trials and z the normal quantile:
    ``(p + z²/2n ± z · sqrt(p(1 - p)/n + z²/4n²)) / (1 + z²/n)``. Unlike ``p ± 2 standard errors`` it has a width at
    shares of 0 and 1.

    References
    ----------
    Wilson, "Probable inference, the law of succession, and statistical inference" (JASA 22, 1927).
    """
    if trials == 0:
        return Interval(math.nan, math.nan, math.nan)
    z = NormalDist().inv_cdf(0.5 + level / 2.0)
    share, scale = successes / trials, 1.0 + z * z / trials
    middle = (share + z * z / (2 * trials)) / scale
    half = z * math.sqrt(share * (1 - share) / trials + z * z / (4 * trials * trials)) / scale
    low = 0.0 if successes == 0 else middle - half
    high = 1.0 if successes == trials else middle + half
    return Interval(share, low, high)


def share_difference(first: Interval, second: Interval) -> Interval:
    """Interval of the difference of two shares from `wilson_interval`, first minus second.

    References
    ----------
    Newcombe, "Interval estimation for the difference between independent proportions" (Statistics in Medicine 17,
    1998), method 10.
    """
    value = first.value - second.value
    below = math.hypot(first.value - first.low, second.high - second.value)
    above = math.hypot(first.high - first.value, second.value - second.low)
    return Interval(value, value - below, value + above)


def binomial_upper(successes: int, trials: int, level: float = 0.95) -> float:
    """One-sided upper bound of a probability: the largest under which so few successes are not surprising.

    Parameters
    ----------
    successes, trials : int
        ``0 <= successes <= trials``, ``trials >= 1``.
    level : float, in (0, 1)

    Returns
    -------
    float
        In (0, 1]. About ``3 / trials`` for no success ("rule of three").

    Notes
    -----
    Solves ``P[Binomial(trials, p) <= successes] = 1 - level`` by bisection, O(successes) a step.

    References
    ----------
    Clopper, Pearson, "The use of confidence or fiducial limits illustrated in the case of the binomial" (Biometrika
    26, 1934).
    """
    if successes >= trials:
        return 1.0
    low, high = successes / trials, 1.0
    for _ in range(60):  # halves the range each time: to the last bit
        middle = (low + high) / 2.0
        low, high = (middle, high) if _binomial_tail(successes, trials, middle) > 1.0 - level else (low, middle)
    return high


def _binomial_tail(successes: int, trials: int, probability: float) -> float:
    """P[Binomial(trials, probability) <= successes], in logarithms so that large numbers work."""
    if probability >= 1.0:
        return 0.0
    terms = [
        math.lgamma(trials + 1)
        - math.lgamma(k + 1)
        - math.lgamma(trials - k + 1)
        + (k * math.log(probability) if k else 0.0)
        + (trials - k) * math.log1p(-probability)
        for k in range(successes + 1)
    ]
    largest = max(terms)
    return math.exp(largest) * sum(math.exp(term - largest) for term in terms)


def bootstrap_p_value(draws: FloatVector) -> float:
    """Two-sided p-value of "the difference is 0" from bootstrap draws of the difference.

    Parameters
    ----------
    draws : ndarray of float64, shape (b,)
        NaN draws are left out.

    Returns
    -------
    float
        In (0, 1]; 1 without a draw.

    Notes
    -----
    ``min(1, 2 · (1 + min(#{d <= 0}, #{d >= 0})) / (b + 1))``: the smallest level whose percentile interval excludes 0.
    The 1 keeps it above 0, so with b draws no p-value is smaller than ``2 / (b + 1)``.

    References
    ----------
    Davison, Hinkley, "Bootstrap Methods and their Application" (1997), section 4.4 and 5.4, inverting the interval.
    """
    usable = draws[~np.isnan(draws)]
    tail = min(int((usable <= 0).sum()), int((usable >= 0).sum()))
    return min(1.0, 2.0 * (1 + tail) / (usable.size + 1))


def holm(p_values: Sequence[float]) -> list[float]:
    """Adjust p-values of several comparisons so that claiming any of them wrongly stays at the level stated.

    Parameters
    ----------
    p_values : sequence of float, length k

    Returns
    -------
    list of float
        In the same order, each at least its p-value, at most 1.

    Notes
    -----
    Sorted upwards, the i-th (from 0) is multiplied by ``k - i``, then a running maximum is taken. O(k log k).

    References
    ----------
    Holm, "A simple sequentially rejective multiple test procedure" (Scandinavian Journal of Statistics 6, 1979).

    Examples
    --------
    >>> holm([0.01, 0.04, 0.02])
    [0.03, 0.04, 0.04]
    """
    adjusted, highest = [0.0] * len(p_values), 0.0
    for rank, index in enumerate(sorted(range(len(p_values)), key=lambda i: p_values[i])):
        highest = max(highest, min(1.0, (len(p_values) - rank) * p_values[index]))
        adjusted[index] = highest
    return adjusted


def group_weights(groups: int, resamples: int, seed: int) -> Iterator[NDArray[np.float64]]:
    """Draw how often each group occurs in each bootstrap sample, in blocks of bounded memory.

    Parameters
    ----------
    groups : int
        Number of groups, >= 1.
    resamples : int
    seed : int

    Yields
    ------
    ndarray of float64, shape (b, groups)
        Whole numbers, each row summing to `groups`; the b of all blocks sum to `resamples`.
    """
    generator = np.random.default_rng(seed)
    step = max(1, _WEIGHTS_PER_STEP // groups)
    for start in range(0, resamples, step):
        size = min(step, resamples - start)
        # Counting draws takes a tenth of the time of drawing the counts from a multinomial distribution.
        yield np.stack([_counts(generator.integers(0, groups, groups), groups) for _ in range(size)])


def _counts(drawn: NDArray[np.int64], groups: int) -> FloatVector:
    return np.bincount(drawn, minlength=groups).astype(np.float64)


def _resampled_means(sums: NDArray[np.float64], resamples: int, seed: int) -> NDArray[np.float64]:
    blocks = [weights @ sums for weights in group_weights(sums.shape[0], resamples, seed)]
    totals = np.concatenate(blocks)
    return totals[:, :-1] / totals[:, -1:]


def _quantiles(values: FloatVector, at: tuple[float, float]) -> tuple[float, float]:
    usable = values[~np.isnan(values)]
    if not usable.size:
        return float("nan"), float("nan")
    low, high = np.quantile(usable, at, method="nearest")  # no interpolation: a statistic may be infinite
    return float(low), float(high)
