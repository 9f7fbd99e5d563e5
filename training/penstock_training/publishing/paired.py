"""Two policies on the same held-out prompts: what each chooses, and what that came to.

Owns the way from two artifacts and a hold-out to paired differences. It decides with `decide_rows`, as every evaluation
does, and draws no conclusion (`penstock_training.publishing.gate` does). Read `pair_policies`.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np
from numpy.typing import NDArray

from penstock_routers.artifact import RouterArtifact
from penstock_routers.encoder import PromptEncoder
from penstock_routers.manifest import Manifest
from penstock_training.decisions import EstimateArrays, decide_rows
from penstock_training.errors import OutcomeError
from penstock_training.outcomes import OutcomeMatrix
from penstock_training.predict import known_arm
from penstock_training.progress import Progress
from penstock_training.router_under_test import ask_artifact
from penstock_training.splits import normalise_question

FloatVector = NDArray[np.float64]
FloatMatrix = NDArray[np.float64]
IndexVector = NDArray[np.int64]

OPEN_BYTES: Final = 51  # of 256: 20 %

Router = tuple[RouterArtifact, PromptEncoder]


@dataclass(frozen=True, slots=True)
class PairedPoint:
    """Candidate minus running policy at one operating point, n prompts.

    Attributes
    ----------
    name : str
        ``cost``, ``balanced`` or ``quality``.
    utility : ndarray of float64, shape (n,)
        Difference of quality - λ · relative cost, with the running artifact's λ (0 without one); of minus the relative
        cost when λ is infinite.
    quality : ndarray of float64, shape (n,), in [-1, 1]
    relative_cost : ndarray of float64, shape (n,)
        In units of a typical request on the dearest arm.
    is_different : ndarray of bool, shape (n,)
        Where the two choose different arms; known without any outcome.
    foreseen_variance : ndarray of float64, shape (n,)
        Expected square of `utility` by the artifacts' own estimates; known without any outcome, 0 where the choice is
        the same.
    """

    name: str
    utility: FloatVector
    quality: FloatVector
    relative_cost: FloatVector
    is_different: NDArray[np.bool_]
    foreseen_variance: FloatVector

    def rows(self, kept: NDArray[np.bool_]) -> PairedPoint:
        """Take some prompts."""
        return PairedPoint(
            self.name,
            self.utility[kept],
            self.quality[kept],
            self.relative_cost[kept],
            self.is_different[kept],
            self.foreseen_variance[kept],
        )


@dataclass(frozen=True, slots=True)
class PairedPolicies:
    """Both policies on all usable prompts of a hold-out.

    Attributes
    ----------
    groups : ndarray of int64, shape (n,)
        Question groups, the unit of independence.
    points : dict of str to PairedPoint
    is_open : ndarray of bool, shape (n,)
        Prompts of the open part, whose numbers may be shown; see `is_in_open_part`.
    prompts_left_out : int
        Prompts without a score for every arm that either policy may choose.
    arms_left_out : tuple of str
        Arms without any outcome; neither policy could choose them here.
    """

    groups: IndexVector
    points: dict[str, PairedPoint]
    is_open: NDArray[np.bool_]
    prompts_left_out: int
    arms_left_out: tuple[str, ...]

    def part(self, *, is_open: bool) -> PairedPolicies:
        """Take the open part, or the reserved one; they share no question."""
        rows = self.is_open if is_open else ~self.is_open
        points = {name: point.rows(rows) for name, point in self.points.items()}
        return PairedPolicies(self.groups[rows], points, self.is_open[rows], self.prompts_left_out, self.arms_left_out)


def pair_policies(
    candidate: Router,
    running: Router | None,
    matrix: OutcomeMatrix,
    *,
    default_arm: str | None,
    progress: Callable[[str, int, int], None],
) -> PairedPolicies:
    """Let both artifacts decide about every prompt of a hold-out.

    Parameters
    ----------
    candidate, running : (RouterArtifact, PromptEncoder)
        None stands for a gateway without an artifact: the default arm answers everything.
    matrix : OutcomeMatrix
    default_arm : str or None
        The reference arm of the running artifact, else of the candidate, when None.
    progress : callable

    Returns
    -------
    PairedPolicies

    Raises
    ------
    TrainingError
        ``unknown_arm``: one of them lacks the default arm.
    OutcomeError
        ``outcome_arm_unknown``: no outcome of the default arm. ``outcome_no_complete_row``: no prompt was scored on
        every arm.

    Notes
    -----
    Each artifact decides at the price references of its own manifest; costs are those of the outcomes, in units of the
    running artifact's typical request. Where an outcome has no cost, the mean of both artifacts' expectations stands
    in, for both alike.
    """
    judge = (running or candidate)[0]
    default = known_arm(judge.manifest, default_arm)
    found = [
        (router[0], _ask(router, matrix, default, progress)) for router in (candidate, running) if router is not None
    ]
    observed = {arm for i, arm in enumerate(matrix.arms) if np.isfinite(matrix.score[:, i]).any()}
    wanted = dict.fromkeys(arm for _, estimates in found for arm in estimates.arms)
    arms = tuple(arm for arm in wanted if arm in observed)
    if default not in arms:
        raise OutcomeError(f"the hold-out has no outcome of the default arm {default}", code="outcome_arm_unknown")
    columns = np.array([matrix.arms.index(arm) for arm in arms], dtype=np.int64)
    rows = np.flatnonzero(np.isfinite(matrix.score[:, columns]).all(axis=1))
    if len(arms) < 2 or not rows.size:
        message = "no prompt of the hold-out was scored on every arm that could be chosen"
        raise OutcomeError(message, code="outcome_no_complete_row")
    policies = [_Policy(a, e.take(rows, tuple(arm for arm in arms if arm in e.arms))) for a, e in found]
    quality = _mean_over(policies, arms, [policy.estimates.quality for policy in policies])
    expected_cost = _mean_over(policies, arms, [policy.estimates.cost_usd for policy in policies])
    cost = matrix.cost_usd[np.ix_(rows, columns)].astype(np.float64)
    table = _Table(
        arms,
        matrix.score[np.ix_(rows, columns)].astype(np.float64),
        np.where(np.isfinite(cost), cost, expected_cost),
        quality,
        expected_cost,
        cost_scale_usd(judge),
    )
    points = {
        point.name: _pair(point.name, policies, table, judge, default) for point in judge.manifest.operating_points
    }
    left_out = tuple(arm for arm in wanted if arm not in observed)
    is_open = np.array([is_in_open_part(matrix.prompts[row]) for row in rows], dtype=bool)
    return PairedPolicies(matrix.groups[rows], points, is_open, len(matrix.prompts) - rows.size, left_out)


def is_in_open_part(prompt: str) -> bool:
    """Tell whether a prompt belongs to the part of a hold-out whose numbers may be shown: about one question in five.

    A hash of the normalised question decides, so that a question is in the same part of every hold-out it occurs in.
    """
    digest = hashlib.sha256(normalise_question(prompt).encode("utf-8", "surrogatepass")).digest()
    return digest[-1] < OPEN_BYTES


def cost_scale_usd(artifact: RouterArtifact) -> float:
    """Cost of one typical request on the artifact's dearest arm, at its own price references; 1 when all are free."""
    return max(artifact.cost_scale_usd(*price) for price in _prices(artifact.manifest)) or 1.0


@dataclass(frozen=True, slots=True)
class _Policy:
    artifact: RouterArtifact
    estimates: EstimateArrays

    def choose(self, point: str, arms: Sequence[str]) -> IndexVector:
        """Index into `arms` of what is chosen for each prompt."""
        estimates = self.estimates
        place = np.array([arms.index(arm) for arm in estimates.arms], dtype=np.int64)
        if len(estimates.arms) < 2:  # of this artifact's arms only the default has outcomes
            return np.full(estimates.quality.shape[0], place[0])
        decisions = decide_rows(
            estimates,
            self.artifact.tradeoff(point),
            cost_scale_usd=cost_scale_usd(self.artifact),
            novelty_max=self.artifact.manifest.guard.novelty_max,
        )
        return place[decisions.chosen]


@dataclass(frozen=True, slots=True)
class _Table:
    """What happened and what was expected, each (n, m)."""

    arms: tuple[str, ...]
    score: FloatMatrix
    cost_usd: FloatMatrix
    expected_quality: FloatMatrix
    expected_cost_usd: FloatMatrix
    cost_scale_usd: float


def _pair(name: str, policies: Sequence[_Policy], table: _Table, judge: RouterArtifact, default: str) -> PairedPoint:
    new = policies[0].choose(name, table.arms)
    old = policies[1].choose(name, table.arms) if len(policies) > 1 else np.full(new.shape, table.arms.index(default))
    rows = np.arange(new.size)
    quality = table.score[rows, new] - table.score[rows, old]
    cost = (table.cost_usd[rows, new] - table.cost_usd[rows, old]) / table.cost_scale_usd
    foreseen_cost = (table.expected_cost_usd[rows, new] - table.expected_cost_usd[rows, old]) / table.cost_scale_usd
    first, second = table.expected_quality[rows, new], table.expected_quality[rows, old]
    # A candidate must not choose the yardstick: with nothing in force, quality alone counts as utility.
    weight = judge.tradeoff(name).cost_weight if len(policies) > 1 else 0.0
    is_cost_only = math.isinf(weight)
    # Two answers that are right with chances p and q differ with chance p(1-q) + q(1-p) if they are independent.
    disagreement = first * (1.0 - second) + second * (1.0 - first)
    variance = foreseen_cost**2 if is_cost_only else disagreement + (weight * foreseen_cost) ** 2
    is_different = new != old
    return PairedPoint(
        name,
        -cost if is_cost_only else quality - weight * cost,
        quality,
        cost,
        is_different,
        np.where(is_different, variance, 0.0),
    )


def _mean_over(policies: Sequence[_Policy], arms: Sequence[str], values: Sequence[FloatMatrix]) -> FloatMatrix:
    """Average what the artifacts say about each arm, over those that know it."""
    total = np.zeros((values[0].shape[0], len(arms)))
    count = np.zeros(len(arms))
    for policy, matrix in zip(policies, values, strict=True):
        for column, arm in enumerate(policy.estimates.arms):
            total[:, arms.index(arm)] += matrix[:, column]
            count[arms.index(arm)] += 1.0
    return total / count


def _prices(manifest: Manifest) -> list[tuple[float, float]]:
    return [
        (arm.price_usd_per_million_input_tokens, arm.price_usd_per_million_output_tokens)
        for arm in manifest.arm_entries
    ]


def _ask(router: Router, matrix: OutcomeMatrix, default_arm: str, progress: Progress) -> EstimateArrays:
    artifact, encoder = router
    arm = known_arm(artifact.manifest, default_arm)
    return ask_artifact(
        artifact, encoder, matrix.prompts, matrix.prompt_tokens, arm, progress, matrix.contexts
    ).estimates
