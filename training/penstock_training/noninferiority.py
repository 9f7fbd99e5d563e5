"""Whether a router may be said to be no worse than the default arm.

Owns the test and its wording. A difference that is "not significant" proves nothing, least of all on few prompts; what
is asked here is that the lower bound of routed minus default stays above a margin. Read `non_inferiority`.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from statistics import NormalDist
from typing import Final

import numpy as np
from numpy.typing import NDArray

from penstock_training.intervals import GroupBootstrap, binomial_upper

MARGIN: Final = 0.01  # one point of quality
LEVEL: Final = 0.95  # of the one-sided bound
POWER: Final = 0.80  # with which the number of prompts asked for would show it
MANY_PROMPTS: Final = 1_000_000  # nobody scores more to settle this
# With fewer differing questions a bootstrap does not see losses that happened not to occur among the prompts.
FEW_DIFFERENCES: Final = 10


@dataclass(frozen=True, slots=True)
class NonInferiority:
    """Routed against default quality on the same prompts.

    Attributes
    ----------
    difference : float
        Mean quality of the router minus the default arm's.
    lower_bound : float
        One-sided 95 % lower bound of it.
    margin : float
        How much worse still counts as no worse, > 0.
    prompts, groups : int
    rerouted : int
        Prompts that another arm than the default answered.
    is_shown : bool
        ``lower_bound >= -margin``.
    prompts_needed : int or None
        Prompts on which a router with the same difference and spread would be shown no worse with 80 % power. None
        when it is shown already, or when no number would do because the difference itself is below the margin.
    """

    difference: float
    lower_bound: float
    margin: float
    prompts: int
    groups: int
    rerouted: int
    is_shown: bool
    prompts_needed: int | None

    @property
    def sentence(self) -> str:
        """The result in words, in points of quality."""
        margin, bound = _points(self.margin), _points(self.lower_bound)
        if self.rerouted == 0:
            return f"shown trivially: the default arm answered all {self.prompts:,} prompts"
        if self.is_shown:
            return f"shown (95 % bound {bound} points, margin −{margin}, n = {self.prompts:,})"
        if self.prompts_needed is None:
            return (
                f"not shown (95 % bound {bound} points, n = {self.prompts:,}): the difference itself is "
                f"{_points(self.difference)} points"
            )
        needed = f"about {float(f'{self.prompts_needed:.2g}'):,.0f}"
        if self.prompts_needed > MANY_PROMPTS:
            needed = "more than a million"
        return (
            f"not shown (95 % bound {bound} points, n = {self.prompts:,}; {needed} prompts would be needed if "
            f"{_points(self.difference)} points is the truth)"
        )


def non_inferiority(
    routed: NDArray[np.float64],
    default: NDArray[np.float64],
    is_rerouted: NDArray[np.bool_],
    groups: NDArray[np.int64],
    *,
    margin: float = MARGIN,
    resamples: int = 1000,
    seed: int = 0,
) -> NonInferiority:
    """Test that the router is not worse than the default arm by more than a margin.

    Parameters
    ----------
    routed, default : ndarray of float64, shape (n,), in [0, 1]
        Scores on the same prompts; n >= 1.
    is_rerouted : ndarray of bool, shape (n,)
        Prompts that another arm than the default answered.
    groups : ndarray of int64, shape (n,)
        Question groups, the unit of the bootstrap.
    margin : float
        > 0.
    resamples, seed : int

    Returns
    -------
    NonInferiority

    Notes
    -----
    The bound is the 5 % quantile of the paired bootstrap. A bootstrap of few differing questions is too sure: with no
    loss among 50 rerouted prompts it would say "never". So with fewer than `FEW_DIFFERENCES` differing groups the
    bound is at most minus the Clopper–Pearson upper bound of the share of losing groups, the gains not counted; about
    300 questions are then the least that can show one point. Prompts needed: with ``s = (difference - bound) / z_.95``
    the standard error, ``n · (s · (z_.95 + z_.80) / (difference + margin))²``.

    References
    ----------
    Piaggio et al., "Reporting of noninferiority and equivalence randomized trials" (JAMA 308, 2012); sample size as in
    Julious, "Sample sizes for clinical trials with normal data" (Statistics in Medicine 23, 2004), section 5, with the
    bootstrap's standard error.
    """
    difference = routed - default
    bootstrap = GroupBootstrap(difference[:, None], groups, resamples=resamples, seed=seed)
    mean = float(bootstrap.means[0])
    bound = float(np.quantile(bootstrap.draws[:, 0], 1.0 - LEVEL, method="nearest"))
    unique, inverse = np.unique(groups, return_inverse=True)
    by_group = np.bincount(inverse, difference)
    rerouted = int(is_rerouted.sum())
    if rerouted and int((np.abs(by_group) > 0).sum()) < FEW_DIFFERENCES:
        bound = min(bound, -binomial_upper(int((by_group < 0).sum()), unique.size, LEVEL))
    is_shown = bound >= -margin
    needed = None
    if not is_shown and mean > -margin:
        z_level, z_power = NormalDist().inv_cdf(LEVEL), NormalDist().inv_cdf(POWER)
        error = (mean - bound) / z_level
        needed = math.ceil(routed.size * (error * (z_level + z_power) / (mean + margin)) ** 2)
    return NonInferiority(mean, bound, margin, routed.size, int(unique.size), rerouted, is_shown, needed)


def _points(value: float) -> str:
    """Hundredths of the quality scale, with a real minus sign."""
    return f"{100 * value:.1f}".replace("-", "−").replace("−0.0", "0.0")
