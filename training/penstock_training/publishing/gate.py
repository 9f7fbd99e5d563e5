"""The promotion gate, which says whether a candidate may take the place of the running artifact.

Owns the test and the verdict. A fifth of the questions is open: its numbers are shown at every try, and it can only
hold a candidate back. The rest is reserved and shows one bit a try, promoted or not, so that it can be asked again
(`penstock_training.publishing.ledger`). Read `consult`, then `is_better`.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from statistics import NormalDist
from typing import Any, Final

import numpy as np

from penstock_training.intervals import Interval
from penstock_training.publishing.ledger import HoldoutLedger, Verdict
from penstock_training.publishing.paired import FloatVector, IndexVector, PairedPoint, PairedPolicies

DEFAULT_MARGIN: Final = 0.01  # of quality: one point in a hundred, the guard's own bound for non-inferiority
DEFAULT_POINT: Final = "balanced"
POWER: Final = 0.8  # of a test that is said to be large enough; the usual convention (Cohen 1988, section 2.4)
# For fewer, a mean is too far from normal for one-sided errors of 1 % and less.
MINIMUM_GROUPS: Final = 100
MINIMUM_DIFFERENT: Final = 30
MINIMUM_OPEN_GROUPS: Final = 30
MINIMUM_HOLDOUT: Final = 130  # of which about 104 questions are in the reserved part
_SCREEN_LEVEL: Final = 0.05
_VETO_LEVEL: Final = 0.05
_REPORT_LEVEL: Final = 0.05


@dataclass(frozen=True, slots=True)
class GateSettings:
    """What the gate asks.

    Attributes
    ----------
    point : str
        Operating point that must improve: the knob setting that the gateway runs at.
    margin : float
        Quality that may be lost where cost surely falls, and utility gain that is worth seeing; in (0, 1).
    """

    point: str = DEFAULT_POINT
    margin: float = DEFAULT_MARGIN


@dataclass(frozen=True, slots=True)
class GateAnswer:
    """What the gate says.

    Attributes
    ----------
    verdict : str
        ``promote``, ``keep`` or ``not_enough_data``.
    reason : str
        In a sentence or two.
    prompts, groups, different : int
        Of the reserved part: usable prompts, their question groups, and prompts on which the two decide differently at
        the point.
    open_prompts : int
        Prompts of the open part.
    detectable_gain : float
        Utility gain that would be seen with a chance of `POWER`, foreseen without outcomes; ``nan`` when nothing was
        asked.
    prompts_needed : int or None
        About how many prompts like these, open part included, a gain of `GateSettings.margin` takes, when there are
        too few.
    try_number : int
        Which try of this hold-out this was; 0 when nothing was spent.
    error_rate : float
        What it was allowed to spend.
    numbers : dict of str to dict of str to Interval, or None
        Per point the differences with 95 % intervals on the open part; None when it has too few questions.
    """

    verdict: Verdict
    reason: str
    prompts: int
    groups: int
    different: int
    open_prompts: int = 0
    detectable_gain: float = math.nan
    prompts_needed: int | None = None
    try_number: int = 0
    error_rate: float = 0.0
    numbers: dict[str, dict[str, Interval]] | None = None

    def to_json(self) -> dict[str, Any]:
        """Convert to JSON types; what is not known is null."""
        numbers = {
            point: {name: [i.value, i.low, i.high] for name, i in entries.items()}
            for point, entries in (self.numbers or {}).items()
        }
        return {
            "verdict": self.verdict,
            "reason": self.reason,
            "prompts": self.prompts,
            "groups": self.groups,
            "prompts_decided_differently": self.different,
            "open_prompts": self.open_prompts,
            "detectable_gain": None if math.isnan(self.detectable_gain) else self.detectable_gain,
            "prompts_needed": self.prompts_needed,
            "try": self.try_number,
            "error_rate": self.error_rate,
            "open_part": numbers or None,
        }


def consult(
    pairs: PairedPolicies, ledger: HoldoutLedger, settings: GateSettings, question: str, *, at: str, by: str
) -> GateAnswer:
    """Ask a hold-out about a candidate, and write the account.

    Parameters
    ----------
    pairs : PairedPolicies
        On the whole hold-out.
    ledger : HoldoutLedger
        Of this hold-out, under the registry's lock.
    settings : GateSettings
    question : str
        Names candidate, running artifact and settings; the same question gets the same answer and spends nothing.
    at, by : str
        For the account.

    Returns
    -------
    GateAnswer

    Notes
    -----
    *keep* when the open part shows that the candidate is surely not better; nothing is spent. Else *promote* when
    `is_better` holds on the reserved part at the error rate that the account allows. Else *keep* when a gain of the
    margin would have been seen there with a chance of 80 %, or *not enough data*. That last distinction is made from
    the prompts, the decisions and the artifacts' own estimates, never from a reserved outcome. So a try reveals one bit
    of the reserved part, promoted or not, and nothing else.
    """
    opened, reserved = pairs.part(is_open=True), pairs.part(is_open=False)
    point = reserved.points[settings.point]
    rate = ledger.next_error_rate
    facts: dict[str, Any] = {
        "prompts": point.quality.size,
        "groups": int(np.unique(reserved.groups).size),
        "different": int(point.is_different.sum()),
        "open_prompts": int(pairs.is_open.sum()),
        "numbers": measure(opened) if np.unique(opened.groups).size >= MINIMUM_OPEN_GROUPS else None,
    }
    earlier = ledger.earlier_answer(question)
    if earlier is not None:
        return GateAnswer(earlier, "This question was asked before; the answer is the same.", **facts)
    if is_surely_not_better(opened, settings):
        return GateAnswer("keep", "It is surely not better, as the open part of the hold-out shows.", **facts)
    if facts["different"] < MINIMUM_DIFFERENT:
        reason = f"The two decide differently on {facts['different']} prompts only, too few to tell."
        return GateAnswer("keep", reason, **facts)
    if facts["groups"] < MINIMUM_GROUPS:
        reason = f"The reserved part needs {MINIMUM_GROUPS} different questions at least and has {facts['groups']}."
        return GateAnswer("not_enough_data", reason, prompts_needed=MINIMUM_HOLDOUT, **facts)
    if rate == 0.0:
        reason = f"This hold-out is used up: it has answered {ledger.tries} questions. Collect a fresh one."
        return GateAnswer("not_enough_data", reason, **facts)
    return _ask(reserved, ledger, settings, question, rate, at, by, facts)


def _ask(
    reserved: PairedPolicies,
    ledger: HoldoutLedger,
    settings: GateSettings,
    question: str,
    rate: float,
    at: str,
    by: str,
    facts: dict[str, Any],
) -> GateAnswer:
    """Spend a try: write it down, look, write the answer down."""
    gain = detectable_gain(reserved.points[settings.point], reserved.groups, rate)
    ledger.ask(question, rate, at=at, by=by)
    facts = facts | {"try_number": ledger.tries, "error_rate": rate, "detectable_gain": gain}
    verdict: Verdict = "keep" if gain <= settings.margin else "not_enough_data"
    if is_better(reserved, settings, rate):
        verdict = "promote"
    ledger.answer(question, rate, verdict, at=at, by=by)
    if verdict == "promote":
        return GateAnswer(verdict, f"It is surely better at '{settings.point}' than what is running.", **facts)
    if verdict == "keep":
        reason = f"Not surely better; a gain of {settings.margin:g} would probably ({POWER:.0%}) have been seen."
        return GateAnswer(verdict, reason, **facts)
    everything = facts["prompts"] + facts["open_prompts"]
    needed = prompts_needed(everything, gain, rare_loss(reserved.groups, rate / 2.0), settings.margin)
    reason = f"Not surely better, but a gain below {gain:.3f} may go unseen; to see {settings.margin:g} "
    return GateAnswer(verdict, f"{reason}takes about {needed:,} prompts.", prompts_needed=needed, **facts)


def measure(pairs: PairedPolicies) -> dict[str, dict[str, Interval]]:
    """Measure the differences of two policies.

    Returns
    -------
    dict of str to dict of str to Interval
        Per operating point the mean differences ``utility``, ``quality`` and ``relative_cost`` with plain 95 %
        intervals, which know nothing of earlier tries.
    """
    return {
        name: {
            key: mean_interval(values, pairs.groups, _REPORT_LEVEL / 2.0)
            for key, values in (
                ("utility", point.utility),
                ("quality", point.quality),
                ("relative_cost", point.relative_cost),
            )
        }
        for name, point in pairs.points.items()
    }


def is_surely_not_better(pairs: PairedPolicies, settings: GateSettings) -> bool:
    """Say whether neither way to pass `is_better` can be open: at a plain one-sided 5 % for each part.

    Parameters
    ----------
    pairs : PairedPolicies
        The open part.
    settings : GateSettings

    Returns
    -------
    bool
        Utility is surely lower, and quality is surely lost beyond the margin or nothing is surely saved.
    """
    if np.unique(pairs.groups).size < MINIMUM_OPEN_GROUPS:
        return False
    point = pairs.points[settings.point]
    utility, quality, cost = (
        mean_interval(values, pairs.groups, _SCREEN_LEVEL)
        for values in (point.utility, point.quality, point.relative_cost)
    )
    return utility.high < 0.0 and (quality.high < -settings.margin or cost.low >= 0.0)


def is_better(pairs: PairedPolicies, settings: GateSettings, rate: float) -> bool:
    """Decide the one bit that depends on outcomes.

    Parameters
    ----------
    pairs : PairedPolicies
    settings : GateSettings
    rate : float
        Chance of a wrong yes that is allowed.

    Returns
    -------
    bool
        At the settings' point utility is surely higher, or quality is surely not lower by more than the margin while
        cost is surely lower; and at no other point quality is surely lower by more than the margin.

    Notes
    -----
    Both ways to pass get half of `rate` (Bonferroni). The second is an intersection: both its parts are tested at the
    full half (Berger 1982). The veto of the other points, at a plain one-sided 5 %, can only turn a yes into a no.
    Quality and utility must clear `rare_loss` too: where the cheaper arm has not failed once among 200 prompts, a
    normal interval has no width, and yet it may fail on two in a hundred.

    References
    ----------
    Berger, "Multiparameter hypothesis testing and acceptance sampling" (Technometrics 24, 1982), intersection-union
    tests.
    """
    point = pairs.points[settings.point]
    for name, other in pairs.points.items():
        if name != settings.point:
            worst = mean_interval(other.quality, pairs.groups, _VETO_LEVEL)
            if worst.high < -settings.margin:
                return False
    tail = rate / 2.0
    unseen = rare_loss(pairs.groups, tail)
    if mean_interval(point.utility, pairs.groups, tail).low - unseen > 0.0:
        return True
    is_as_good = mean_interval(point.quality, pairs.groups, tail).low - unseen >= -settings.margin
    return is_as_good and mean_interval(point.relative_cost, pairs.groups, tail).high < 0.0


def mean_interval(values: FloatVector, groups: IndexVector, tail: float) -> Interval:
    """Mean with an interval for dependent rows.

    Parameters
    ----------
    values : ndarray of float64, shape (n,)
    groups : ndarray of int64, shape (n,)
        Rows of one group may depend on each other.
    tail : float, in (0, 0.5)
        Chance on each side.

    Returns
    -------
    Interval

    Notes
    -----
    ``mean ± t(tail; G - 1) · sqrt(G / (G - 1) · Σ_g (Σ_{i in g} (x_i - mean))²) / n`` over G groups. A bootstrap would
    need tens of thousands of samples for the tails asked for here. O(n).

    References
    ----------
    Liang, Zeger, "Longitudinal data analysis using generalized linear models" (Biometrika 73, 1986), the sandwich
    estimator for a mean; the factor G / (G - 1) and Student's t are the usual corrections for few groups (Cameron,
    Miller, "A practitioner's guide to cluster-robust inference", Journal of Human Resources 50, 2015).
    """
    mean = float(values.mean())
    _, place = np.unique(groups, return_inverse=True)
    sums = np.bincount(place, weights=values - mean)
    count = sums.size
    if count < 2:
        return Interval(mean, -math.inf, math.inf)
    error = math.sqrt(count / (count - 1.0) * float((sums**2).sum())) / values.size
    width = student_quantile(1.0 - tail, count - 1) * error
    return Interval(mean, mean - width, mean + width)


def rare_loss(groups: IndexVector, tail: float) -> float:
    """Mean loss that may have gone unseen because it is rare.

    Parameters
    ----------
    groups : ndarray of int64, shape (n,)
    tail : float, in (0, 1)

    Returns
    -------
    float
        In units of quality.

    Notes
    -----
    ``ln(1 / tail) · (largest group) / n``: an event that did not occur in G independent trials has a chance of at most
    ln(1 / tail) / G, with confidence 1 - tail. Added to the normal width, as the second term of Bernstein's inequality
    is, it also covers the few events that were seen: for 0, 1 and 4 of them at 1 % the sum is 4.6, 7.9 and 13.3, the
    exact Poisson bounds are 4.6, 6.6 and 11.6.

    References
    ----------
    Hanley, Lippman-Hand, "If nothing goes wrong, is everything all right?" (JAMA 249, 1983), the rule of three.
    """
    _, sizes = np.unique(groups, return_counts=True)
    return math.log(1.0 / tail) * int(sizes.max()) / groups.size


def detectable_gain(point: PairedPoint, groups: IndexVector, rate: float) -> float:
    """Utility gain that the test would see with a chance of `POWER`, foreseen without outcomes.

    Parameters
    ----------
    point : PairedPoint
    groups : ndarray of int64, shape (n,)
    rate : float

    Returns
    -------
    float

    Notes
    -----
    ``(z(1 - rate / 2) + z(0.8)) · se`` plus `rare_loss`, with ``se² = Σ_g n_g Σ_{i in g} v_i / n²``: foreseen
    variances v, rows of one group taken for wholly dependent.
    """
    _, place = np.unique(groups, return_inverse=True)
    sizes = np.bincount(place)
    variance = float((sizes * np.bincount(place, weights=point.foreseen_variance)).sum())
    normal = NormalDist()
    factor = normal.inv_cdf(1.0 - rate / 2.0) + normal.inv_cdf(POWER)
    return factor * math.sqrt(variance) / groups.size + rare_loss(groups, rate / 2.0)


def prompts_needed(prompts: int, detectable: float, rare: float, wanted: float) -> int:
    """Foresee how many prompts like these a gain takes, to two digits.

    Parameters
    ----------
    prompts : int
        How many there are.
    detectable, rare : float
        `detectable_gain` with them, and the part of it that is `rare_loss`.
    wanted : float
        Gain to be seen, > 0.

    Returns
    -------
    int

    Notes
    -----
    With f times as many prompts the rare part falls as 1 / f and the rest as 1 / √f. Solves
    ``rare · r² + (detectable - rare) · r = wanted`` for r = 1 / √f.
    """
    spread = detectable - rare
    root = (math.sqrt(spread**2 + 4.0 * rare * wanted) - spread) / (2.0 * rare)
    return _rounded(math.ceil(prompts / root**2 - 1e-6))


def student_quantile(level: float, degrees: int) -> float:
    """Quantile of Student's t.

    Parameters
    ----------
    level : float, in (0.5, 1)
    degrees : int
        >= 20; the error is then below 0.2 % for tails down to 1e-5.

    Returns
    -------
    float

    References
    ----------
    Abramowitz, Stegun, "Handbook of mathematical functions", 26.7.5 (Cornish-Fisher expansion in 1 / degrees).
    """
    z = NormalDist().inv_cdf(level)
    first = (z**3 + z) / 4.0
    second = (5.0 * z**5 + 16.0 * z**3 + 3.0 * z) / 96.0
    third = (3.0 * z**7 + 19.0 * z**5 + 17.0 * z**3 - 15.0 * z) / 384.0
    return z + first / degrees + second / degrees**2 + third / degrees**3


def _rounded(count: int) -> int:
    """Two digits are all that a forecast deserves."""
    step = int(10 ** max(0, len(str(count)) - 2))
    return math.ceil(count / step) * step
