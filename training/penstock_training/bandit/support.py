"""Support: whether a log can say anything about a target policy, and what is missing when it cannot.

Owns the rules and thresholds of refusal. Must not estimate outcomes; no score is read here. Read `check_support`.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Final, Literal

import numpy as np
from numpy.typing import NDArray

from penstock_training.bandit.estimators import effective_sample_size
from penstock_training.bandit.logged import LoggedOutcomes
from penstock_training.bandit.target import TargetPolicy
from penstock_training.errors import TrainingError

FloatVector = NDArray[np.float64]
Gap = Literal["never_logged", "too_few_rows", "other_arm_certain", "weights_short"]

# An unsupported share of mass s moves a mean of scores in [0, 1] by at most s: one point is what intervals of .03 hide.
MASS_MIN: Final = 0.01
# Below, one row in twenty or more of an arm's estimate is a single answer; central limits mean nothing there.
ROWS_MIN: Final = 20
CERTAIN: Final = 1.0 - 1e-9  # a logged propensity from which every other arm had no chance
SHORT_DEVIATIONS: Final = 3.0  # standard errors; chance alone does that to one arm in 740
RELIABLE_ESS: Final = 50  # rows; below, intervals lean on few heavy rows and are only a rough guide

_REASONS: Final[dict[Gap, str]] = {
    "never_logged": "never chosen in the log",
    "too_few_rows": f"fewer than {ROWS_MIN} rows where the target chooses it too",
    "other_arm_certain": "another arm had propensity 1 there",
    "weights_short": "its weights sum to less than its share: it had no chance on some of these prompts",
}


@dataclass(frozen=True, slots=True)
class ArmSupport:
    """What a log holds about one arm, for one target policy.

    Attributes
    ----------
    arm : str
    share : float
        Share of prompts that the target sends to it, in [0, 1].
    rows, matched_rows : int
        Rows of the arm, and those among them where the target may choose it.
    smallest_propensity : float
        Smallest logged propensity of the arm; with ε-exploration its floor. NaN without rows.
    effective_rows : float
        Kish's effective sample size of the matched rows.
    mean_weight : float
        Mean over all rows of the arm's weights: about `share` when it has support wherever the target chooses it.
    unsupported : float
        Share of prompts on which the target chooses the arm and the log cannot tell.
    gap : str or None
        Why: ``never_logged``, ``too_few_rows``, ``other_arm_certain`` or ``weights_short``.
    """

    arm: str
    share: float
    rows: int
    matched_rows: int
    smallest_propensity: float
    effective_rows: float
    mean_weight: float
    unsupported: float
    gap: Gap | None


@dataclass(frozen=True, slots=True)
class SupportReport:
    """Support of one target policy.

    Attributes
    ----------
    policy : str
    arms : tuple of ArmSupport
        Of the log and of the target.
    effective_rows : float
        Kish's effective sample size of all weights.
    mean_weight : float
        About 1 when support is complete and propensities are right.
    warnings : tuple of str
    """

    policy: str
    arms: tuple[ArmSupport, ...]
    effective_rows: float
    mean_weight: float
    warnings: tuple[str, ...]

    @property
    def unsupported(self) -> float:
        """Share of prompts about which the log cannot tell, in [0, 1]; arms below `MASS_MIN` not counted."""
        return sum(entry.unsupported for entry in self.arms if entry.gap)

    @property
    def is_supported(self) -> bool:
        """Whether the policy may be evaluated."""
        return all(entry.gap is None for entry in self.arms)

    def refusal(self) -> TrainingError:
        """Word the refusal: which arms, how much of the policy's mass, and what to do (``no_support``)."""
        missing = [entry for entry in self.arms if entry.gap]
        lines = [
            f"  {entry.arm}: chosen on {100 * entry.share:.1f} % of prompts, {100 * entry.unsupported:.1f} % without "
            f"support ({_REASONS[entry.gap]}; {entry.rows:,} rows)"
            for entry in missing
            if entry.gap
        ]
        return TrainingError(
            f"the log cannot tell what {self.policy!r} would score: it has no support on "
            f"{100 * self.unsupported:.1f} % of prompts\n"
            + "\n".join(lines)
            + "\nturn on exploration so that every arm is chosen now and then, or collect outcomes of these arms",
            code="no_support",
        )


def check_support(logged: LoggedOutcomes, target: TargetPolicy, weight: FloatVector) -> SupportReport:
    """Compare where a target policy goes with where a log has been.

    Parameters
    ----------
    logged : LoggedOutcomes
    target : TargetPolicy
    weight : ndarray of float64, shape (n,), >= 0
        Weights before clipping; 0 for rows without an observed score.

    Returns
    -------
    SupportReport

    Notes
    -----
    A log holds only the propensity of the arm that was chosen, so support cannot be read off a row. An arm that the
    target sends at least 1 % of prompts to (`MASS_MIN`) lacks it when

    - it has no row, or fewer than 20 (`ROWS_MIN`) rows on which the target may choose it;
    - rows of other arms with propensity 1, where the target would choose it, hold at least 1 % of prompts: there it had
      no chance, for certain;
    - its weights fall short: ``E[w 1(a_i = a)]`` is the target's share of the arm exactly when the arm had a chance
      everywhere, so a mean that is lower by more than 1 % and three standard errors shows prompts without one.

    The last rule also finds propensities that are too large; the opposite, a mean weight well above 1, is a warning.
    O(n m).
    """
    n = len(logged)
    if target.probability is None:
        return SupportReport(target.name, (), effective_sample_size(weight), float(weight.mean()), ())
    is_certain = logged.propensity >= CERTAIN
    entries = []
    for index, name in enumerate(logged.arms):
        mass = target.probability[:, index]
        of_arm = logged.arm == index
        share, own = float(mass.mean()), np.where(of_arm, weight, 0.0)
        matched = int((own > 0.0).sum())
        shortfall = mass - own
        error = float(shortfall.std()) / math.sqrt(n)
        short = float(shortfall.mean())
        certain = float(np.where(is_certain & ~of_arm, mass, 0.0).mean())
        gap: Gap | None = None
        unsupported = certain
        if share >= MASS_MIN:
            if matched < ROWS_MIN:
                gap, unsupported = ("too_few_rows" if of_arm.any() else "never_logged"), share
            elif certain >= MASS_MIN:
                gap = "other_arm_certain"
            elif short - SHORT_DEVIATIONS * error > MASS_MIN:
                gap, unsupported = "weights_short", short
        smallest = float(logged.propensity[of_arm].min()) if of_arm.any() else math.nan
        entries.append(
            ArmSupport(
                name,
                share,
                int(of_arm.sum()),
                matched,
                smallest,
                effective_sample_size(own),
                float(own.mean()),
                unsupported,
                gap,
            )
        )
    ess, mean = effective_sample_size(weight), float(weight.mean())
    warnings = _warnings(weight, ess, mean, [entry for entry in entries if 0.0 < entry.share < MASS_MIN])
    return SupportReport(target.name, tuple(entries), ess, mean, warnings)


def _warnings(weight: FloatVector, ess: float, mean: float, small: list[ArmSupport]) -> tuple[str, ...]:
    found = []
    error = float(weight.std()) / math.sqrt(weight.size)
    if mean - SHORT_DEVIATIONS * error > 1.0 + MASS_MIN:
        found.append(
            f"weights average {mean:.2f} instead of 1: the logged propensities are too small for how often the arms "
            "were chosen"
        )
    if ess < RELIABLE_ESS:
        found.append(f"only {ess:.0f} effective rows: its intervals are a rough guide")
    if unseen := [entry.arm for entry in small if entry.matched_rows == 0]:
        found.append(f"no row stands for {', '.join(unseen)}, chosen on less than {100 * MASS_MIN:.0f} % of prompts")
    return tuple(found)
