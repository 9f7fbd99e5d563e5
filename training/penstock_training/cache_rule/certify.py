"""Which threshold keeps the share of false hits within a budget, with a finite-sample guarantee.

Owns the bounds and the Learn-then-Test selection. Read `certify`.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.stats import beta

FloatArray = NDArray[np.float64]

DELTA = 0.05
"""Probability with which a certified threshold may still be over its budget."""


@dataclass(frozen=True, slots=True)
class Certificate:
    """What the calibration says of one threshold.

    Attributes
    ----------
    threshold : float or None
        None: not certifiable; semantic look-ups stay off.
    requests, hits, false_hits : int
        Counted on the calibration stream at the threshold; at the strictest one when none is certified.
    false_hit_rate_upper : float
        Upper bound of false hits per request at confidence ``1 − delta``.
    budget, delta : float
    """

    threshold: float | None
    requests: int
    hits: int
    false_hits: int
    false_hit_rate_upper: float
    budget: float
    delta: float

    @property
    def is_certified(self) -> bool:
        """Whether some threshold is within the budget."""
        return self.threshold is not None


def upper_bound(errors: int, trials: int, delta: float = DELTA) -> float:
    """Return the Clopper–Pearson upper bound of an error rate at confidence ``1 − delta``, one-sided.

    Examples
    --------
    >>> round(upper_bound(0, 299), 4)
    0.01
    """
    if errors >= trials:
        return 1.0
    return float(beta.ppf(1.0 - delta, errors + 1, trials - errors))


def certify(
    thresholds: FloatArray,
    requests: int,
    hits: NDArray[np.int64],
    false_hits: NDArray[np.int64],
    *,
    budget: float,
    max_false_share: float | None = None,
    delta: float = DELTA,
) -> Certificate:
    """Pick the loosest threshold that is certified.

    Parameters
    ----------
    thresholds : ndarray of float64, shape (t,)
        Falling: strictest first. Fixed before the calibration stream was looked at.
    requests : int
        Length of the calibration stream.
    hits, false_hits : ndarray of int64, shape (t,)
        At each threshold.
    budget : float
        Most false hits per request.
    max_false_share : float, optional
        Most false hits per hit, as a point estimate: what has few hits cannot be bounded.
    delta : float
        Probability of certifying a threshold that is over.

    Returns
    -------
    Certificate

    Notes
    -----
    Learn then Test (Angelopoulos et al. 2021, arXiv 2110.01052) with fixed-sequence testing: each null hypothesis "the
    rate at this threshold exceeds the budget" is tested with an exact binomial bound, from the strictest threshold on,
    and the walk ends at the first that is not rejected; the family-wise error is then at most δ without any correction.
    All thresholds passed hold together, so that a stricter one of them may be taken for another reason: the loosest
    whose estimated share of false hits, with half a false hit added, is at most `max_false_share`.
    """
    chosen = None
    for rung in range(len(thresholds)):
        errors, served = int(false_hits[rung]), int(hits[rung])
        if upper_bound(errors, requests, delta) > budget:
            break
        if served and (max_false_share is None or (errors + 0.5) / (served + 1.0) <= max_false_share):
            chosen = rung
    shown = 0 if chosen is None else chosen
    return Certificate(
        threshold=None if chosen is None else float(thresholds[chosen]),
        requests=requests,
        hits=int(hits[shown]),
        false_hits=int(false_hits[shown]),
        false_hit_rate_upper=upper_bound(int(false_hits[shown]), requests, delta),
        budget=budget,
        delta=delta,
    )
