"""The steps of a whole evaluation that no report shows by itself: unseen prompts, latency, what is left out."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
import pytest

from penstock_routers.bundled import bundled_folder
from penstock_training.evaluation_run import EvaluationOptions, _unseen, run_evaluation, seen_sources
from penstock_training.latency import measure_latency
from penstock_training.outcomes import OutcomeMatrix
from penstock_training.router_under_test import ALL_PROMPTS, OWN_TEST_PART, RouterUnderTest
from support.outcome_samples import random_trial

TIERS = ("small", "medium", "large", "frontier")


@dataclass(frozen=True)
class _Fitted:
    """Stands in for an artifact that kept some rows from fitting, or was fitted on other files."""

    rows: tuple[int, ...] | None

    def held_out_rows(self, matrix: OutcomeMatrix, files_digest: str | None) -> np.ndarray | None:
        return None if self.rows is None else np.array(self.rows, dtype=np.int64)


def _tier_matrix(prompts: int = 120) -> OutcomeMatrix:
    """Made-up outcomes under the default artifact's arm names, two prompts per question."""
    matrix = random_trial(0, prompts, arms=4)[1]
    return replace(matrix, arms=TIERS, tasks=["chat"] * prompts)


@pytest.mark.parametrize(
    ("routers", "rows", "name"),
    [
        ((None, None), 120, ALL_PROMPTS),
        (((1, 5, 9), None), 3, OWN_TEST_PART),
        (((1, 5, 9), (5, 9, 20)), 2, OWN_TEST_PART),
    ],
)
def test_unseen_prompts_are_those_that_every_artifact_kept_from_fitting(
    routers: tuple[tuple[int, ...] | None, ...], rows: int, name: str
) -> None:
    """Artifacts fitted on these very files share the prompts that none of them saw; others do not restrict."""
    kept, described = _unseen([_Fitted(r) for r in routers], _tier_matrix(), "digest")
    assert len(kept.prompts) == rows
    assert described == name


def test_seen_sources_are_those_that_the_manifest_lists() -> None:
    """The default artifact names three sets; prompts of one of them are recognised by the source's name."""
    router = RouterUnderTest.open("default", bundled_folder("default-router"), None, None)
    matrix = replace(_tier_matrix(4), sources=["zeroeval", "own", "mmlu_pro", "own"])
    assert seen_sources(router, matrix) == ("mmlu_pro", "zeroeval")
    assert seen_sources(router, replace(matrix, sources=["own"] * 4)) == ()


def test_measure_latency_money_follows_from_the_mean_time() -> None:
    """Cost per million requests is the mean time at the price of a core; the numbers fit together on any machine."""
    router = RouterUnderTest.open("default", bundled_folder("default-router"), None, None)
    found = measure_latency(router.artifact, router.encoder, ["Why is the sea salty?"] * 25, "frontier")
    assert found.prompts == 25
    assert 0 < found.p50_microseconds <= found.p99_microseconds
    assert 0 < found.encode_share < 1
    expected = found.mean_microseconds * 1e6 / 1e6 / 3600 * found.core_usd_per_hour
    assert found.usd_per_million_requests == pytest.approx(expected)


def test_run_evaluation_few_questions_leave_the_simple_tables_out() -> None:
    """Sixty questions are too few to fit tables and choose a knob on folds; a hundred and more are enough."""
    router = RouterUnderTest.open("default", bundled_folder("default-router"), None, None)
    options = EvaluationOptions(resamples=20, robustness_prompts=5)
    few = run_evaluation([router], _tier_matrix(120), options=options)
    assert few.baselines == ()
    assert few.comparison is None
    enough = run_evaluation([router], _tier_matrix(240), options=options)
    assert [b.name for b in enough.baselines] == ["length table", "keyword table", "category table"]
    assert enough.comparison is not None
    assert {d.first for d in enough.comparison.differences} == {"default"}
    assert {r.prompts for r in enough.routers[0].robustness} == {5}
