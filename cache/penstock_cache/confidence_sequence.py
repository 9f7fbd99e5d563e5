"""Intervals for a rate that stay true however often one looks, and the rate of false hits made of two of them.

Owns the mathematics of audits. Pure. Read `rate_interval`, then `corrected_rate`.

References
----------
.. [1] J. Ville, "Étude critique de la notion de collectif", 1939: a nonnegative martingale that starts at 1 ever
   reaches 1/α with probability at most α.
.. [2] S. Howard, A. Ramdas, J. McAuliffe, J. Sekhon, "Time-uniform, nonparametric, nonasymptotic confidence sequences",
   Annals of Statistics 49(2), 2021: mixtures, the Beta-binomial one among them.
.. [3] I. Waudby-Smith, A. Ramdas, "Estimating means of bounded random variables by betting", JRSS B 86(1), 2024: the
   mixture is the wealth of a gambler who bets against a rate.
.. [4] R. Krichevsky, V. Trofimov, "The performance of universal encoding", IEEE Trans. Inf. Theory 27(2), 1981: why the
   mixing density is Beta(1/2, 1/2).
.. [5] W. Rogan, B. Gladen, "Estimating prevalence from the results of a screening test", Am. J. Epidemiology 107, 1978.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Final

_LOG_PI: Final = math.log(math.pi)  # log B(1/2, 1/2)
_BISECTIONS: Final = 50  # 2**-50 is below what a double resolves of a rate


@dataclass(frozen=True, slots=True)
class Interval:
    """Bounds of an unknown number.

    Attributes
    ----------
    low, high : float
    estimate : float or None
        Best single guess, in [low, high]; None when nothing has been observed.
    """

    low: float
    high: float
    estimate: float | None


def log_evidence(successes: float, trials: float, rate: float) -> float:
    """Return the log of the wealth that a gambler has made by betting against a rate.

    Parameters
    ----------
    successes : float, in [0, trials]
    trials : float, at least 0
    rate : float, in [0, 1]

    Returns
    -------
    float
        ``log B(s + ½, n − s + ½) − log B(½, ½) − s·log θ − (n − s)·log(1 − θ)``; infinite where the rate is impossible.

    Notes
    -----
    The wealth is a martingale when every trial succeeds with probability θ whatever came before [2]_, [3]_. It is
    convex in θ and at most 0 at θ = s/n.
    """
    failures = trials - successes
    if (successes and rate <= 0.0) or (failures and rate >= 1.0):
        return math.inf
    mixed = math.lgamma(successes + 0.5) + math.lgamma(failures + 0.5) - math.lgamma(trials + 1.0) - _LOG_PI
    likelihood = (successes * math.log(rate) if successes else 0.0) + (
        failures * math.log1p(-rate) if failures else 0.0
    )
    return mixed - likelihood


def rate_interval(successes: int, trials: int, alpha: float) -> Interval:
    """Return the rates that the trials so far do not speak against.

    Parameters
    ----------
    successes : int, in [0, trials]
    trials : int, at least 0
    alpha : float, in (0, 1)
        Probability that the true rate is ever outside, over all looks together.

    Returns
    -------
    Interval
        Inside [0, 1]; the whole of it without trials.

    Notes
    -----
    All rates whose `log_evidence` is below ``log(1/α)``. By Ville's inequality [1]_ the true rate is in every interval
    of an endless sequence with probability at least 1 − α, so one may look after every trial, and stop or act when one
    likes. It needs two counts and nothing else. The half-width falls as ``√(log n / n)``.

    It holds for one rate. When the rate has changed, the sequence has to begin again.
    """
    if not 0 <= successes <= trials or not 0.0 < alpha < 1.0:
        raise ValueError("a rate needs 0 <= successes <= trials and an alpha in (0, 1)")
    if trials == 0:
        return Interval(0.0, 1.0, None)
    estimate = successes / trials
    limit = -math.log(alpha)
    low = _crossing(successes, trials, limit, inside=estimate, outside=0.0) if successes else 0.0
    high = _crossing(successes, trials, limit, inside=estimate, outside=1.0) if successes < trials else 1.0
    return Interval(low, high, estimate)


def corrected_rate(hits: Interval, control: Interval) -> Interval:
    """Return the rate of wrong hits behind an observed rate of disagreements.

    Parameters
    ----------
    hits : Interval
        Share of audited hits whose stored answer disagrees with the model's fresh one.
    control : Interval
        Share of prompts on which two fresh answers of one model disagree with each other.

    Returns
    -------
    Interval
        Inside [0, 1]; it holds whenever both of the others do.

    Notes
    -----
    A wrong hit disagrees always, a right one as often as the model with itself: ``d = f + (1 − f)·a``, so
    ``f = (d − a)/(1 − a)`` [5]_. That rises in d and falls in a, so the bounds come from opposite ends. Without a
    control the low end is 0: a category is never blamed for what may be the model's own unsteadiness. Where wrong hits
    agree now and then, f understates by that share.
    """
    low = _corrected(hits.low, control.high)
    high = _corrected(hits.high, control.low)
    if hits.estimate is None:
        return Interval(low, high, None)
    estimate = _corrected(hits.estimate, control.estimate or 0.0)
    return Interval(low, high, min(max(estimate, low), high))


def spent_alpha(alpha: float, epoch: int) -> float:
    """Return the share of α that the epoch-th sequence of one rate may use.

    Parameters
    ----------
    alpha : float, in (0, 1)
    epoch : int, at least 1

    Returns
    -------
    float
        ``α/(k·(k + 1))``; over all epochs they sum to α, so no number of restarts makes the promise weaker.
    """
    return alpha / (epoch * (epoch + 1))


def _crossing(successes: int, trials: int, limit: float, *, inside: float, outside: float) -> float:
    """Return where the evidence crosses its limit between a rate inside and one outside, from the outer side."""
    for _ in range(_BISECTIONS):
        middle = 0.5 * (inside + outside)
        if log_evidence(successes, trials, middle) < limit:
            inside = middle
        else:
            outside = middle
    return outside


def _corrected(disagreement: float, control: float) -> float:
    return 0.0 if control >= disagreement or control >= 1.0 else (disagreement - control) / (1.0 - control)
