"""What policies would have scored and cost, from a log of one: estimates, support, and what the reader must know.

Owns the order of the steps and the report. Must not fit anything but the reward model it is asked for, and must not
format text. Read `evaluate_logged` first, then `evaluate_logged_artifact`.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Final, Literal

import numpy as np
from numpy.typing import NDArray

from penstock_routers.manifest import Manifest
from penstock_training.bandit.estimators import (
    Estimate,
    WeightedRows,
    clip_weights,
    difference,
    estimate,
)
from penstock_training.bandit.logged import CensoredRule, LoggedOutcomes, ObservedScores, observe
from penstock_training.bandit.rewards import crossfit_rewards
from penstock_training.bandit.support import CERTAIN, SupportReport, check_support
from penstock_training.bandit.target import (
    TargetPolicy,
    artifact_target,
    constant_target,
    logging_target,
    spread_columns,
)
from penstock_training.errors import TrainingError
from penstock_training.outcomes import OutcomeMatrix, OutcomeTable
from penstock_training.predict import artifact_prices, known_arm, open_router
from penstock_training.router_under_test import ask_artifact
from penstock_training.splits import grouped_split
from penstock_training.vectors import encode_prompts

FloatMatrix = NDArray[np.float64]
RewardModel = Literal["artifact", "log"]

# Rows left out because a fallback answered are no random rows: they are the ones on which the drawn arm failed.
REROUTED_SHARE_TO_WARN: Final = 0.02


@dataclass(frozen=True, slots=True)
class PolicyResult:
    """One policy, as far as the log tells.

    Attributes
    ----------
    name : str
    support : SupportReport
    scores : dict of str to dict of str to Estimate
        Per treatment of time-outs (one, or ``worst`` and ``best``), per estimator.
    recommended : str
        Name of the estimator to report: ``sndr`` with a reward model, ``snips`` without.
    over_log : dict of str to Estimate
        Per treatment of time-outs, score minus the logging policy's, paired; empty for the logging policy itself.
    cost_usd : Estimate or None
        Mean cost of a request, USD; None when the log has no cost.
    cost_over_log : Estimate or None
    clipped : float
        Share of the weights' sum that clipping cut off.
    """

    name: str
    support: SupportReport
    scores: dict[str, dict[str, Estimate]]
    recommended: str
    over_log: dict[str, Estimate]
    cost_usd: Estimate | None
    cost_over_log: Estimate | None
    clipped: float

    @property
    def score(self) -> tuple[Estimate, Estimate]:
        """Recommended estimate under the least and the most favourable treatment; the same unless bounds were asked."""
        found = [estimates[self.recommended] for estimates in self.scores.values()]
        return found[0], found[-1]


@dataclass(frozen=True, slots=True)
class LoggedReport:
    """Everything that was found.

    Attributes
    ----------
    rows, groups : int
        Decisions that were weighted, and question groups among them.
    arms, rows_per_arm, censored_per_arm : tuple
        Names, decisions and time-outs of each arm.
    censored_rule : str
    reward_model : str or None
    policies : tuple of PolicyResult
    unsupported : tuple of SupportReport
        Policies of which the log cannot tell.
    warnings : tuple of str
    """

    rows: int
    groups: int
    arms: tuple[str, ...]
    rows_per_arm: tuple[int, ...]
    censored_per_arm: tuple[int, ...]
    censored_rule: str
    reward_model: str | None
    policies: tuple[PolicyResult, ...]
    unsupported: tuple[SupportReport, ...]
    warnings: tuple[str, ...]

    def to_json(self) -> dict[str, Any]:
        """Convert to JSON types; what cannot be computed is null."""
        return {
            "rows": self.rows,
            "groups": self.groups,
            "arms": [
                {"arm": arm, "rows": rows, "time_outs": censored}
                for arm, rows, censored in zip(self.arms, self.rows_per_arm, self.censored_per_arm, strict=True)
            ],
            "censored": self.censored_rule,
            "reward_model": self.reward_model,
            "policies": [_policy_json(policy) for policy in self.policies],
            "unsupported": [_support_json(support) for support in self.unsupported],
            "warnings": list(self.warnings),
        }


def evaluate_logged(
    logged: LoggedOutcomes,
    targets: Sequence[TargetPolicy],
    *,
    rewards: FloatMatrix | None = None,
    costs: FloatMatrix | None = None,
    reward_model: str | None = None,
    censored: CensoredRule = "zero",
    weight_limit: float = math.inf,
    required: Sequence[str] = (),
) -> LoggedReport:
    """Estimate what policies would have scored and cost on the traffic of a log.

    Parameters
    ----------
    logged : LoggedOutcomes
        n decisions, m arms.
    targets : sequence of TargetPolicy
    rewards : ndarray of float64, shape (n, m), optional
        Expected score per prompt and arm, from a model that was not fitted on the same row. NaN for arms that it does
        not know; policies that choose one are estimated without it.
    costs : ndarray of float64, shape (n, m), optional
        Expected cost, USD, likewise.
    reward_model : str, optional
        What to call it in the report.
    censored : {"zero", "ipcw", "bounds"}
        What time-outs count for (`logged.observe`).
    weight_limit : float, > 0
        Weights are cut there; ``inf`` leaves them as they are. Cutting biases every estimate.
    required : sequence of str
        Names of targets without which the report is worth nothing.

    Returns
    -------
    LoggedReport
        Policies in the order of `targets`, those without support set apart.

    Raises
    ------
    TrainingError
        ``no_support``: a required policy has none. ``all_censored``.
    """
    observed = observe(logged, censored)
    results, unsupported = [], []
    for target in targets:
        raw = target.weights(logged) * observed[0].is_observed / observed[0].observed_share
        support = check_support(logged, target, raw)
        if not support.is_supported:
            if target.name in required:
                raise support.refusal()
            unsupported.append(support)
            continue
        results.append(_result(logged, target, support, observed, rewards, costs, weight_limit))
    censored_rows = np.bincount(logged.arm[logged.is_censored], minlength=len(logged.arms))
    return LoggedReport(
        rows=len(logged),
        groups=int(np.unique(logged.groups).size),
        arms=logged.arms,
        rows_per_arm=tuple(logged.rows_per_arm.tolist()),
        censored_per_arm=tuple(censored_rows.tolist()),
        censored_rule=censored,
        reward_model=reward_model if rewards is not None else None,
        policies=tuple(results),
        unsupported=tuple(unsupported),
        warnings=tuple(_warnings(logged)),
    )


def _result(
    logged: LoggedOutcomes,
    target: TargetPolicy,
    support: SupportReport,
    observed: Sequence[ObservedScores],
    rewards: FloatMatrix | None,
    costs: FloatMatrix | None,
    weight_limit: float,
) -> PolicyResult:
    weight, clipped = clip_weights(target.weights(logged), weight_limit)
    scores: dict[str, dict[str, Estimate]] = {}
    over_log: dict[str, Estimate] = {}
    recommended = "snips"
    for part in observed:
        factor = part.is_observed / part.observed_share
        found = estimate(_weighted_rows(logged, target, weight * factor, part.score, rewards))
        recommended = "sndr" if "sndr" in found else "snips"
        scores[part.name] = found
        if target.probability is None:
            continue
        if len(observed) > 1:  # a time-out counts in both policies: which score is worst for the difference depends
            is_above = weight > weight.mean()
            filled = np.where(is_above == (part.name == "worst"), 0.0, 1.0)
            part = replace(part, score=np.where(logged.is_censored, filled, part.score))
            found = estimate(_weighted_rows(logged, target, weight * factor, part.score, rewards), [recommended])
        plain = WeightedRows(factor, part.score, logged.groups)
        over_log[part.name] = difference(found[recommended], estimate(plain, ["snips"])["snips"])
    cost, cost_over_log = _cost(logged, target, weight, costs)
    return PolicyResult(target.name, support, scores, recommended, over_log, cost, cost_over_log, clipped)


def _cost(
    logged: LoggedOutcomes, target: TargetPolicy, weight: NDArray[np.float64], costs: FloatMatrix | None
) -> tuple[Estimate | None, Estimate | None]:
    """Mean cost and its difference to the log's, from the rows whose cost is known."""
    known = np.isfinite(logged.cost_usd)
    if not (weight * known).any():
        return None, None
    rows = _weighted_rows(logged, target, weight * known, logged.cost_usd, costs)
    found = estimate(rows, ["snips", "sndr"])
    cost = found.get("sndr", found["snips"])
    if target.probability is None:
        return cost, None
    plain = WeightedRows(known.astype(np.float64), logged.cost_usd, logged.groups)
    return cost, difference(cost, estimate(plain, ["snips"])["snips"])


def _weighted_rows(
    logged: LoggedOutcomes,
    target: TargetPolicy,
    weight: NDArray[np.float64],
    outcome: NDArray[np.float64],
    model: FloatMatrix | None,
) -> WeightedRows:
    """Add the reward model where it knows every arm that the target may choose."""
    if model is None or target.probability is None:
        return WeightedRows(weight, outcome, logged.groups)
    may_choose = target.probability > 0.0
    if np.isnan(model[may_choose]).any():
        return WeightedRows(weight, outcome, logged.groups)
    expected = np.where(may_choose, target.probability * np.where(may_choose, model, 0.0), 0.0).sum(axis=1)
    return WeightedRows(weight, outcome, logged.groups, expected, model[np.arange(len(logged)), logged.arm])


def _warnings(logged: LoggedOutcomes) -> list[str]:
    found = []
    counts = logged.counts
    if counts.without_propensity:
        found.append(f"{counts.without_propensity:,} of {counts.rows:,} rows have no propensity and are left out")
    if rerouted := sum(counts.rerouted.values()):
        share = rerouted / (rerouted + len(logged))
        names = ", ".join(f"{arm} {count:,}" for arm, count in sorted(counts.rerouted.items()))
        found.append(f"{rerouted:,} rows were answered by another arm than the intended one and are left out ({names})")
        if share >= REROUTED_SHARE_TO_WARN:
            found.append(
                f"they are {100 * share:.1f} % of all: results hold for requests that the drawn arm answers itself, "
                "and flatter arms that fail on difficult ones"
            )
    if bool((logged.propensity >= CERTAIN).all()):
        found.append("every propensity is 1: the log holds no exploration")
    return found


def evaluate_logged_artifact(
    folder: Path,
    table: OutcomeTable,
    *,
    tradeoffs: Sequence[str] = ("balanced",),
    encoder_folder: Path | None = None,
    default_arm: str | None = None,
    reward_model: RewardModel = "artifact",
    censored: CensoredRule = "zero",
    weight_limit: float = math.inf,
    seed: int = 0,
    progress: Callable[[str, int, int], None] = lambda *_: None,
) -> LoggedReport:
    """Estimate what an artifact would have scored on the traffic of a log, beside every fixed arm and the log itself.

    Parameters
    ----------
    folder : Path
        Artifact folder.
    table : OutcomeTable
        The log. If the artifact was fitted on exactly these rows, only the test part of its split is used.
    tradeoffs : sequence of str
        Operating points or numbers in [0, 1].
    encoder_folder : Path, optional
    default_arm : str, optional
        The artifact's reference arm when omitted.
    reward_model : {"artifact", "log"}
        Whether the artifact's quality estimates are the reward model as they are, or are first corrected on the log,
        out of fold (`rewards.crossfit_rewards`).
    censored, weight_limit
        As for `evaluate_logged`.
    seed : int
        Of the folds.
    progress : callable, optional
        Called with a stage's name, steps done and steps in total.

    Returns
    -------
    LoggedReport

    Raises
    ------
    RouterError
        The artifact or the encoder is refused.
    TrainingError
        ``no_support``: the artifact sends prompts where the log has not been. ``bad_tradeoff``, ``unknown_arm``,
        ``no_propensity``, ``one_arm_log``, ``all_censored``.
    """
    artifact, encoder = open_router(folder, encoder_folder)
    manifest = artifact.manifest
    logged = LoggedOutcomes.from_table(table, manifest.arms)
    try:
        points = [artifact.tradeoff(setting) for setting in tradeoffs]
    except ValueError as error:
        raise TrainingError(str(error), code="bad_tradeoff") from error
    logged = held_out_rows(logged, table.matrix(), manifest)
    asked, arm = logged.matrix(), known_arm(manifest, default_arm)
    estimates = ask_artifact(
        artifact, encoder, asked.prompts, asked.prompt_tokens, arm, progress, asked.contexts
    ).estimates
    prices = artifact_prices(manifest).values()
    scale = max(artifact.cost_scale_usd(*price) for price in prices) or 1.0
    novelty_max = manifest.guard.novelty_max
    chosen = [
        artifact_target(logged, estimates, point, cost_scale_usd=scale, novelty_max=novelty_max) for point in points
    ]
    rewards = spread_columns(estimates.quality, manifest.arms, logged.arms)
    if reward_model == "log":
        progress("reward model", 0, 1)
        vectors = encode_prompts(encoder, logged.prompts, lambda *_: None)
        seen = observe(logged, censored)[0]
        outcome = np.where(seen.is_observed, seen.score, np.nan)
        rewards = crossfit_rewards(vectors, logged, outcome, base=rewards, seed=seed)
        progress("reward model", 1, 1)
    fixed = [constant_target(logged, arm) for arm in logged.arms]
    return evaluate_logged(
        logged,
        [logging_target(), *chosen, *fixed],
        rewards=rewards,
        costs=spread_columns(estimates.cost_usd, manifest.arms, logged.arms),
        reward_model=f"the artifact's estimates{', corrected on the log' if reward_model == 'log' else ''}",
        censored=censored,
        weight_limit=weight_limit,
        required=[point.name for point in points],
    )


def held_out_rows(logged: LoggedOutcomes, matrix: OutcomeMatrix, manifest: Manifest) -> LoggedOutcomes:
    """Keep the test part of an artifact's split if it was fitted on exactly this log; all rows otherwise.

    Parameters
    ----------
    logged : LoggedOutcomes
    matrix : OutcomeMatrix
        Of the same table as `logged`.
    manifest : Manifest

    Returns
    -------
    LoggedOutcomes
    """
    if matrix.digest != manifest.training.digest:
        return logged
    split = grouped_split(matrix.groups, fractions=manifest.split.fractions, seed=manifest.split.seed)
    tested = {matrix.prompts[row] for row in split["test"]}
    return logged.rows(np.flatnonzero([prompt in tested for prompt in logged.prompts]))


def _policy_json(policy: PolicyResult) -> dict[str, Any]:
    return {
        "policy": policy.name,
        "recommended": policy.recommended,
        "score": {
            treatment: {name: _estimate_json(found) for name, found in estimates.items()}
            for treatment, estimates in policy.scores.items()
        },
        "score_minus_log": {name: _estimate_json(found) for name, found in policy.over_log.items()},
        "cost_usd": _estimate_json(policy.cost_usd),
        "cost_usd_minus_log": _estimate_json(policy.cost_over_log),
        "clipped_share": policy.clipped,
        **_support_json(policy.support),
    }


def _support_json(support: SupportReport) -> dict[str, Any]:
    return {
        "policy": support.policy,
        "effective_rows": support.effective_rows,
        "mean_weight": support.mean_weight,
        "unsupported_share": support.unsupported,
        "support": [
            {
                "arm": entry.arm,
                "share": entry.share,
                "rows": entry.rows,
                "matched_rows": entry.matched_rows,
                "smallest_propensity": None if math.isnan(entry.smallest_propensity) else entry.smallest_propensity,
                "effective_rows": entry.effective_rows,
                "mean_weight": entry.mean_weight,
                "unsupported_share": entry.unsupported,
                "gap": entry.gap,
            }
            for entry in support.arms
        ],
        "support_warnings": list(support.warnings),
    }


def _estimate_json(found: Estimate | None) -> dict[str, float] | None:
    if found is None:
        return None
    return {
        "value": found.value,
        "low": found.low,
        "high": found.high,
        "standard_error": found.standard_error,
    }
