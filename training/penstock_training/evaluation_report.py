"""What an evaluation found, as plain immutable records that turn into JSON.

Owns the report's types and its JSON form. Must not compute anything. Read `EvaluationReport` first.
"""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass
from typing import Any

from penstock_training.call_shares import CallShares
from penstock_training.intervals import DiscordantPairs, Interval
from penstock_training.latency import Latency
from penstock_training.metrics import CalibrationBins
from penstock_training.noninferiority import NonInferiority


@dataclass(frozen=True, slots=True)
class ArmResult:
    """One arm used for everything, and how well its quality was predicted.

    Attributes
    ----------
    arm : str
    quality, cost_usd : Interval
        Mean score in [0, 1] and mean cost per request in USD.
    predicted_cost_ratio : float
        Mean expected cost divided by mean actual cost.
    calibration_error, brier, brier_constant : float
        ECE and Brier score of the predicted quality, and the Brier score of always predicting the arm's mean.
    bins : CalibrationBins
    calibration_interval : Interval
        ECE over the same bins in each bootstrap sample. Resampling adds noise to every bin, so the interval lies high.
    brier_interval : Interval
    """

    arm: str
    quality: Interval
    cost_usd: Interval
    predicted_cost_ratio: float
    calibration_error: float
    brier: float
    brier_constant: float
    bins: CalibrationBins
    calibration_interval: Interval
    brier_interval: Interval


@dataclass(frozen=True, slots=True)
class PolicyResult:
    """Quality and cost of a policy that is no router: a baseline."""

    name: str
    quality: Interval
    cost_usd: Interval
    note: str


@dataclass(frozen=True, slots=True)
class CurvePoint:
    """The router at one weight of cost; `cost_weight` may be infinite."""

    cost_weight: float
    quality: Interval
    cost_usd: float


@dataclass(frozen=True, slots=True)
class CurveSummary:
    """One number per question about a whole curve.

    Attributes
    ----------
    area, hull_area : Interval
        Mean quality under the step envelope, and under the concave hull (AIQ), between the cheapest and the best arm's
        mean cost.
    area_over_constants : Interval
        `hull_area` minus that of the constant hull, as in RouterBench. The hull of many noisy points lies above the
        truth: without any knowledge it is above 0 by a few thousandths on some hundred prompts.
    area_over_price_only : Interval
        The same against `EvaluationReport.price_only_curve` mixed with the constants; above 0 means that the estimates
        know which arm suits a prompt, beyond what prices and lengths explain.
    cost_at_95, cost_at_99, cost_at_100 : Interval
        Cost relative to the best arm's at which 95, 99 and 100 % of its quality are reached (the last is QNC); infinite
        when never.
    quality_at_10, quality_at_25, quality_at_50 : Interval
        Mean quality of the best point that costs at most 10, 25 and 50 % of the best arm; NaN when even the cheapest
        arm costs more.
    path_over_constants : Interval
        Mean quality along all points of the curve, none selected, minus that of the constant hull: above 0 means that
        reading prompts helps at the average budget. Luck does not push it up (`path_area`), so claims rest on it.
    path_over_price_only : Interval
        The same, minus the hull of `EvaluationReport.price_only_curve` and the constants.
    """

    area: Interval
    hull_area: Interval
    area_over_constants: Interval
    area_over_price_only: Interval
    cost_at_95: Interval
    cost_at_99: Interval
    cost_at_100: Interval
    quality_at_10: Interval
    quality_at_25: Interval
    quality_at_50: Interval
    path_over_constants: Interval
    path_over_price_only: Interval


@dataclass(frozen=True, slots=True)
class SliceResult:
    """One part of the prompts (a category, a source) at one operating point.

    Attributes
    ----------
    name : str
    prompts : int
    quality, default_quality : float
        Of the router and of the default arm.
    over_default : Interval
        Their difference.
    relative_cost : float
        Router's mean cost divided by the default arm's.
    arm_shares : dict of str to float
    """

    name: str
    prompts: int
    quality: float
    default_quality: float
    over_default: Interval
    relative_cost: float
    arm_shares: dict[str, float]


@dataclass(frozen=True, slots=True)
class OperatingPointResult:
    """The router at one named setting.

    Attributes
    ----------
    name : str
    cost_weight : float
        λ; may be infinite.
    guard_z : float
    quality, cost_usd : Interval
    relative_cost, share_of_best : Interval
        Cost and quality divided by the best arm's.
    over_cheapest, over_best : Interval
        Quality minus that of always-cheapest and always-best.
    over_hull, over_mixing, over_same_shares : Interval
        Quality minus that of the constant hull and of cheapest-best mixing at the same mean cost, and minus that of the
        same share of calls per arm on random prompts.
    over_price_only : Interval
        Quality minus that of the best mixture, at the same mean cost, of fixed arms and of the router's own rule with
        each arm's mean quality in place of its estimates. Above 0 means that reading the prompt helps to tell who
        answers it well, beyond calling dear arms where requests are short.
    arm_shares, reason_shares : dict of str to float
    against_default : DiscordantPairs
        Prompts on which the router scored higher and lower than the default arm.
    non_inferiority : NonInferiority
        Whether the router is shown to be no worse than the default arm.
    optimal_selection : Interval
        OptSel: share of the prompts that some arm answers (score > 0) on which the router took the cheapest of the arms
        that scored highest. Inflated by luck, as is the oracle.
    oracle_gap : Interval
        Gap@O: share of the oracle's quality that the router misses. No router can close it; see `oracle_choices`.
    by_category, by_task, by_source : tuple of SliceResult
    """

    name: str
    cost_weight: float
    guard_z: float
    quality: Interval
    cost_usd: Interval
    relative_cost: Interval
    share_of_best: Interval
    over_cheapest: Interval
    over_best: Interval
    over_hull: Interval
    over_mixing: Interval
    over_same_shares: Interval
    over_price_only: Interval
    arm_shares: dict[str, float]
    reason_shares: dict[str, float]
    against_default: DiscordantPairs
    non_inferiority: NonInferiority
    optimal_selection: Interval
    oracle_gap: Interval
    by_category: tuple[SliceResult, ...]
    by_task: tuple[SliceResult, ...]
    by_source: tuple[SliceResult, ...]

    @property
    def abstained_share(self) -> float:
        """Share of prompts that kept the default arm because they were novel."""
        return self.reason_shares["abstained_novel"]


@dataclass(frozen=True, slots=True)
class EvaluationReport:
    """Everything measured about a router on one set of prompts that it was not fitted on.

    Attributes
    ----------
    name : str
        What was held out, in words.
    prompts, groups : int
        Prompts evaluated and distinct questions among them.
    prompts_left_out : int
        Prompts without a score for every arm that was evaluated.
    arms_left_out : tuple of str
        Arms of the router without any outcome here.
    cells_with_expected_cost : int
        Cells whose actual cost is unknown; the expected cost stands in.
    default_arm, cheapest_arm, best_arm : str
        The last two by mean cost and mean score on these very prompts, which favours the baselines.
    cost_scale_usd, novelty_max : float
    arms : tuple of ArmResult
    baselines : tuple of PolicyResult
        always-cheapest, always-best and the oracle.
    points : tuple of OperatingPointResult
    curve, unguarded_curve : tuple of CurvePoint
        Sweep over the weight of cost with and without guard and abstention.
    constant_hull : tuple of CurvePoint
        Corners of the constant hull; their `cost_weight` is NaN.
    price_only_curve : tuple of CurvePoint
        The router's rule with each arm's mean quality in place of its estimates.
    summary, unguarded_summary, constants_summary : CurveSummary
    call_shares : CallShares
        APGR and CPT of ordering prompts by predicted gain of the best over the cheapest arm.
    verdicts : tuple of str
        What the intervals allow one to say, in sentences.
    resamples, seed : int
        Of the bootstrap.
    latency : Latency or None
        Time per estimate; None where no artifact was asked.
    """

    name: str
    prompts: int
    groups: int
    prompts_left_out: int
    arms_left_out: tuple[str, ...]
    cells_with_expected_cost: int
    default_arm: str
    cheapest_arm: str
    best_arm: str
    cost_scale_usd: float
    novelty_max: float
    arms: tuple[ArmResult, ...]
    baselines: tuple[PolicyResult, ...]
    points: tuple[OperatingPointResult, ...]
    curve: tuple[CurvePoint, ...]
    unguarded_curve: tuple[CurvePoint, ...]
    constant_hull: tuple[CurvePoint, ...]
    price_only_curve: tuple[CurvePoint, ...]
    summary: CurveSummary
    unguarded_summary: CurveSummary
    constants_summary: CurveSummary
    call_shares: CallShares
    verdicts: tuple[str, ...]
    resamples: int
    seed: int
    latency: Latency | None = None

    @property
    def gap_recovered(self) -> Interval:
        """APGR: share of the gap between cheapest and best arm recovered on average over call shares; 0.5 is random."""
        return self.call_shares.gap_recovered

    @property
    def best_cost_usd(self) -> float:
        """Mean cost per request of the best arm, USD."""
        return next(arm.cost_usd.value for arm in self.arms if arm.arm == self.best_arm)

    def to_json(self) -> dict[str, Any]:
        """Convert to JSON types; infinite numbers become the text ``"inf"`` and NaN becomes null."""
        converted: dict[str, Any] = plain_json(asdict(self))
        return converted

    def point(self, name: str) -> OperatingPointResult:
        """Look up an operating point.

        Raises
        ------
        KeyError
            There is none of that name.
        """
        for point in self.points:
            if point.name == name:
                return point
        raise KeyError(name)


def plain_json(value: Any) -> Any:
    """Replace tuples by lists, infinite numbers by the texts ``"inf"`` and ``"-inf"``, and NaN by None."""
    if isinstance(value, dict):
        return {key: plain_json(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [plain_json(item) for item in value]
    if isinstance(value, float) and not math.isfinite(value):
        return None if math.isnan(value) else ("inf" if value > 0 else "-inf")
    return value
