"""Two artifacts on one hold-out: who chooses what, what it is measured in, and what is left out."""

from __future__ import annotations

from pathlib import Path

import msgspec
import numpy as np
import pytest

from penstock_routers.artifact import RouterArtifact
from penstock_routers.encoder import PromptEncoder
from penstock_training.errors import OutcomeError, TrainingError
from penstock_training.outcomes import OutcomeMatrix
from penstock_training.predict import open_router
from penstock_training.publishing.paired import cost_scale_usd, is_in_open_part, pair_policies
from support.artifact_variants import bundled_manifest, write_variant

ARMS = ("small", "medium", "large", "frontier")
COSTS = np.array([0.001, 0.002, 0.004, 0.016])
PROMPTS = [f"What is {n} times {n + 3}?" for n in range(10, 50)]

Router = tuple[RouterArtifact, PromptEncoder]


def matrix(arms: tuple[str, ...] = ARMS) -> OutcomeMatrix:
    """A hold-out on which the dearest arm is right and no other, with rising costs."""
    count = len(PROMPTS)
    columns = [ARMS.index(arm) for arm in arms]
    score = np.tile(np.array([0.0, 0.0, 0.0, 1.0], dtype=np.float32), (count, 1))[:, columns]
    tokens = np.full((count, len(arms)), 20.0, dtype=np.float32)
    cost = np.tile(COSTS.astype(np.float32), (count, 1))[:, columns]
    texts = [""] * count
    return OutcomeMatrix(PROMPTS, np.arange(count), texts, texts, texts, arms, score, tokens, tokens, cost)


@pytest.fixture
def routers(tmp_path: Path) -> tuple[Router, Router]:
    """A candidate that takes the cheapest arm at ``balanced``, and a running artifact that takes the dearest."""
    guard = bundled_manifest().guard
    write_variant(tmp_path / "cheap", cost_weight=1000.0, guard=msgspec.structs.replace(guard, novelty_max=5.0))
    write_variant(tmp_path / "dear", cost_weight=0.0, guard=msgspec.structs.replace(guard, novelty_max=0.0))
    return open_router(tmp_path / "cheap", None), open_router(tmp_path / "dear", None)


def pair(candidate: Router, running: Router | None, found: OutcomeMatrix, default_arm: str | None = None):
    """Pair without progress."""
    return pair_policies(candidate, running, found, default_arm=default_arm, progress=lambda *_: None)


def test_pair_of_cheap_and_dear_measures_candidate_minus_running(routers: tuple[Router, Router]) -> None:
    """Quality, cost in units of a typical request, and utility with the running λ, all candidate minus running."""
    candidate, running = routers
    point = pair(candidate, running, matrix()).points["balanced"]
    chosen = point.is_different
    assert chosen.mean() > 0.25
    assert np.allclose(point.quality[chosen], -1.0)
    # float32 costs of the matrix
    assert np.allclose(point.relative_cost[chosen], (0.001 - 0.016) / cost_scale_usd(running[0]), rtol=1e-5)
    assert np.allclose(point.utility, point.quality)  # the running artifact's λ is 0 there
    assert (point.foreseen_variance[chosen] > 0).all()
    assert (point.foreseen_variance[~chosen] == 0).all()


def test_pair_with_itself_differs_nowhere(routers: tuple[Router, Router]) -> None:
    """One artifact twice decides alike on every prompt and at every setting."""
    points = pair(routers[0], routers[0], matrix()).points
    assert set(points) == {"cost", "balanced", "quality"}
    assert not any(point.is_different.any() or point.utility.any() for point in points.values())


def test_pair_without_running_artifact_compares_with_the_default_arm(routers: tuple[Router, Router]) -> None:
    """A gateway without artifact sends everything to the default arm, and cost then buys no quality."""
    found = pair(routers[0], None, matrix()).points["balanced"]
    chosen = found.is_different
    assert np.allclose(found.quality[chosen], -1.0)
    assert np.allclose(found.utility, found.quality)


def test_pair_on_a_holdout_without_an_arm_leaves_it_out_and_says_so(routers: tuple[Router, Router]) -> None:
    """An arm without outcomes cannot be chosen here, by either."""
    found = pair(*routers, matrix(("medium", "large", "frontier")))
    assert found.arms_left_out == ("small",)
    chosen = found.points["balanced"].is_different
    assert np.allclose(
        found.points["balanced"].relative_cost[chosen], (0.002 - 0.016) / cost_scale_usd(routers[1][0]), rtol=1e-5
    )


def test_pair_leaves_prompts_without_a_score_out(routers: tuple[Router, Router]) -> None:
    """A prompt counts when every arm that could be chosen was scored on it."""
    holes = matrix()
    holes.score[3, 1] = np.nan
    found = pair(*routers, holes)
    assert found.prompts_left_out == 1
    assert found.groups.size == len(PROMPTS) - 1


def test_pair_with_missing_costs_uses_one_expectation_for_both(routers: tuple[Router, Router]) -> None:
    """Where costs are missing they are expected alike for both, so the same choice still costs the same."""
    holes = matrix()
    holes.cost_usd[:] = np.nan
    found = pair(*routers, holes).points["balanced"]
    assert np.isfinite(found.relative_cost).all()
    assert (found.relative_cost[found.is_different] < 0.0).all()
    assert (found.relative_cost[~found.is_different] == 0.0).all()


@pytest.mark.parametrize(
    ("arms", "default_arm", "error", "code"),
    [
        (("small", "medium"), None, OutcomeError, "outcome_arm_unknown"),
        (("frontier",), None, OutcomeError, "outcome_no_complete_row"),
        (ARMS, "gigantic", TrainingError, "unknown_arm"),
    ],
)
def test_pair_that_cannot_be_made_is_refused_with_its_reason(
    routers: tuple[Router, Router], arms: tuple[str, ...], default_arm: str | None, error: type, code: str
) -> None:
    """Missing outcomes of the default arm, one arm only, an unknown default arm: each has its code."""
    with pytest.raises(error) as caught:
        pair(*routers, matrix(arms), default_arm)
    assert caught.value.code == code


def test_open_part_is_about_a_fifth_and_goes_by_the_question() -> None:
    """The same question in another dress is in the same part."""
    prompts = [f"How far is it from place {n} to place {n * 7}?" for n in range(2000)]
    opened = [is_in_open_part(prompt) for prompt in prompts]
    assert 0.16 < np.mean(opened) < 0.24  # ± 4.5 standard errors of a fifth of 2,000
    assert opened == [is_in_open_part(f"Question: {prompt.upper()}\nAnswer:") for prompt in prompts]
