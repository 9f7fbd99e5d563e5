"""Savings, novelty, drift and calibration: known traffic, known numbers."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Sequence
from decimal import Decimal
from typing import Any

import pytest
from msgspec.structs import replace

from penstock_gateway.decisions import CandidateReport, RouteDecision, Settlement
from penstock_gateway.metrics import GatewayMetrics
from penstock_gateway.metrics_drift import LEAST, WINDOW, PromptDrift, shares, stability_index
from penstock_gateway.metrics_router import RouterMetrics, counterfactual_usd
from penstock_gateway.money.prices import Price
from penstock_routers.bundled import bundled_folder
from penstock_routers.manifest import MANIFEST_FILE, Guard, Manifest, decode_manifest
from penstock_routers.policy import RejectReason, RouteReason
from support.event_samples import SETTLED, sample_decision
from support.fakes import price

GUARD = Guard(z=2.0, novelty_max=0.4, novelty_quantile=0.75, definition="how far")
CATEGORIES = ("coding", "maths", "general")
SMALL = CandidateReport("small", "up", "tier-s", "small", quality=0.75, estimated_cost_usd=0.01)
LARGE = CandidateReport("large", "up", "tier-l", "large", quality=0.9, estimated_cost_usd=0.05)
PRICE = price()


@pytest.fixture
def manifest() -> Manifest:
    """The bundled artifact's."""
    return decode_manifest((bundled_folder("default-router") / MANIFEST_FILE).read_bytes())


def decided(**changes: Any) -> RouteDecision:
    """Return a decision for `small` against `large`, which was expected to cost five times as much."""
    usual: dict[str, Any] = {
        "chosen": "small",
        "reason": RouteReason.ROUTED,
        "candidates": (SMALL, LARGE),
        "baseline": "large",
        "baseline_cost_usd": 0.05,
    }
    return sample_decision(**(usual | changes))


def answered(cost: str | None = "0.01", **changes: Any) -> Settlement:
    """Return an outcome of one try."""
    usual: dict[str, Any] = {
        "served": "small",
        "cost_usd": None if cost is None else Decimal(cost),
        "attempts": SETTLED.attempts[1:],
    }
    return replace(SETTLED, **(usual | changes))


def metrics(known: Price | None = PRICE) -> RouterMetrics:
    """Return the router's metrics of a gateway whose every deployment has one price."""
    made = GatewayMetrics().router
    made.price_of = lambda _: known
    return made


def test_savings_of_requests_are_the_difference_of_two_counters() -> None:
    """Three requests at a fifth of the baseline's cost: 0.15 against 0.03 USD."""
    router = metrics()
    for _ in range(3):
        router.observe(decided(), answered())
    assert router.baseline_cost.labels("large").value == pytest.approx(0.15)
    assert router.compared_cost.labels("large").value == pytest.approx(0.03)


def test_savings_count_a_baseline_that_only_a_rule_kept_from_being_chosen() -> None:
    """Too dear for the request's own cap is what routing saves."""
    router = metrics()
    router.observe(decided(candidates=(SMALL, replace(LARGE, rejected=RejectReason.MAX_COST))), answered())
    assert router.baseline_cost.labels("large").value == pytest.approx(0.05)


@pytest.mark.parametrize(
    ("settlement", "expected"),
    [
        (answered("0.01"), 0.05),
        (answered("0.02"), 0.10),  # an answer twice as dear as expected would have been so on the baseline as well
        (answered("0.03", served="large"), 0.03),  # the baseline itself: nothing is saved, though 0.05 were expected
        (answered("0.07", attempts=(SETTLED.attempts[1], SETTLED.attempts[1])), 0.05),  # two tries that are billed
        (answered("0.07", served="joined-since"), 0.05),  # nothing had been expected of it
    ],
)
def test_counterfactual_cost_follows_what_the_answer_came_to(settlement: Settlement, expected: float) -> None:
    """The length of the answer is known afterwards, and is taken to be the baseline's too."""
    assert counterfactual_usd(decided(), settlement) == pytest.approx(expected)


@pytest.mark.parametrize(
    ("changes", "settlement", "known", "reason"),
    [
        ({}, answered(None), PRICE, "cost"),
        ({"baseline_cost_usd": None}, answered(), PRICE, "baseline"),
        ({"candidates": (SMALL, replace(LARGE, rejected=RejectReason.CONTEXT_LENGTH))}, answered(), PRICE, "baseline"),
        ({}, answered(), dataclasses.replace(PRICE, is_unknown=True), "baseline_price"),
        ({}, answered(), dataclasses.replace(PRICE, is_estimate=True), "baseline_price"),
        ({}, answered(), None, "baseline_price"),
    ],
)
def test_savings_that_nobody_knows_are_counted_by_reason_and_not_made_up(
    changes: dict[str, Any], settlement: Settlement, known: Price | None, reason: str
) -> None:
    """A guessed price of the baseline would make a guess of what is saved."""
    router = metrics(known)
    router.observe(decided(**changes), settlement)
    assert router.uncompared.labels(reason).value == 1
    assert router.baseline_cost.labels("large").value == router.compared_cost.labels("large").value == 0


@pytest.mark.parametrize(
    ("changes", "settlement"),
    [
        ({"reason": RouteReason.CACHED}, answered()),
        ({"reason": RouteReason.PHYSICAL_MODEL}, answered()),
        ({}, answered(error_code="upstream_error")),
        ({}, answered(served=None)),
    ],
)
def test_savings_of_what_was_not_routed_or_not_answered_are_not_looked_at(
    changes: dict[str, Any], settlement: Settlement
) -> None:
    """The cache counts its own; a failure saves nothing."""
    router = metrics()
    router.observe(decided(**changes), settlement)
    assert router.compared_cost.labels("large").value == 0
    assert sum(router.uncompared.labels(reason).value for reason in ("cost", "baseline", "baseline_price")) == 0


def test_calibration_of_feedback_gives_bias_and_brier_score_per_arm() -> None:
    """Predicted 0.75, observed 1, 1, 0: a bias of 1/12 and a Brier score of (2/16 + 9/16) / 3."""
    router = metrics()
    for score in (1.0, 1.0, 0.0):
        router.note_feedback(decided(), answered(), score)
    router.note_feedback(decided(), answered(served="large"), 0.5)
    count = router.scored.labels("tier-s").value
    assert count == 3
    bias = (router.predicted.labels("tier-s").value - router.observed.labels("tier-s").value) / count
    assert bias == pytest.approx(1 / 12)
    assert router.squared_error.labels("tier-s").value / count == pytest.approx(11 / 48)
    assert router.squared_error.labels("tier-l").value == pytest.approx(0.16)


@pytest.mark.parametrize(
    ("changes", "settlement", "score"),
    [
        ({}, answered(), None),
        ({"reason": RouteReason.CACHED}, answered(), 1.0),
        ({"reason": RouteReason.PHYSICAL_MODEL}, answered(), 1.0),
        ({}, answered(served="elsewhere"), 1.0),
        ({"candidates": (replace(SMALL, quality=None),)}, answered(), 1.0),
    ],
)
def test_calibration_leaves_out_what_was_not_predicted(
    changes: dict[str, Any], settlement: Settlement, score: float | None
) -> None:
    """A label without a score, a stored answer, an arm without an estimate."""
    router = metrics()
    router.note_feedback(decided(**changes), settlement, score)
    assert router.scored.labels("tier-s").value == 0


def test_feedback_while_the_request_is_under_way_counts_for_the_chosen_arm() -> None:
    """There is no settlement yet."""
    router = metrics()
    router.note_feedback(decided(), None, 1.0)
    assert router.scored.labels("tier-s").value == 1


@pytest.mark.parametrize(
    ("expected", "found", "index"),
    [
        ((0.5, 0.5), (0.5, 0.5), 0.0),
        ((0.75, 0.25), (0.5, 0.5), 0.25 * math.log(3)),
        ((0.2, 0.3, 0.5), (0.5, 0.3, 0.2), 0.6 * math.log(2.5)),
    ],
)
def test_stability_index_of_known_shares_is_known(
    expected: Sequence[float], found: Sequence[float], index: float
) -> None:
    """By hand: 0.25 ln 3; twice 0.3 ln 2.5."""
    assert stability_index(expected, found) == pytest.approx(index)


def filled(start: int = WINDOW, *, ratio: float = 0.5, category: str = "coding") -> PromptDrift:
    """Return a drift whose start is full of equal prompts."""
    drift = PromptDrift(GUARD, CATEGORIES)
    for _ in range(start):
        drift.note(ratio, category)
    return drift


def test_drift_of_few_prompts_is_not_a_number() -> None:
    """An alarm over ten prompts is noise."""
    drift = filled(LEAST - 1)
    assert math.isnan(drift.index("novelty", "fit"))
    drift.note(0.5, "coding")
    assert not math.isnan(drift.index("novelty", "fit"))
    assert math.isnan(drift.index("category", "start"))
    drift = filled()
    for _ in range(LEAST - 1):
        drift.note(0.5, "coding")
    assert math.isnan(drift.index("novelty", "start"))
    drift.note(0.5, "coding")
    assert drift.index("novelty", "start") < 0.05  # of the half prompts that are added to 200 and to 1,000


def test_drift_of_a_category_shows_in_its_index_and_not_in_novelty() -> None:
    """All coding at first, then all maths, equally novel."""
    drift = filled()
    for _ in range(WINDOW):
        drift.note(0.5, "maths")
    start, recent = shares((WINDOW, 0, 0)), shares((0, WINDOW, 0))
    assert drift.index("category", "start") == pytest.approx(stability_index(start, recent))
    assert drift.index("category", "start") > 0.25
    assert drift.index("novelty", "start") == pytest.approx(0.0, abs=1e-9)


def test_drift_of_novelty_shows_against_start_and_fit() -> None:
    """Three in four held-out prompts of the artifact are within its limit; of these here, none after the start."""
    drift = filled()
    assert drift.within_share() == 1.0
    for _ in range(LEAST):
        drift.note(1.01, "coding")
    assert drift.within_share() == 0.0
    assert drift.index("novelty", "start") > 0.25
    assert drift.index("novelty", "fit") > 0.25
    assert drift.index("category", "start") < 0.05  # as above


def test_drift_looks_at_the_last_prompts_only_and_at_no_unknown_category() -> None:
    """Memory is bounded by the window; another artifact's category is left out."""
    drift = filled()
    for category, count in (("maths", 700), ("coding", WINDOW), ("alchemy", 10)):
        for _ in range(count):
            drift.note(0.5, category)
    assert (drift.start_prompts, drift.recent_prompts) == (WINDOW, WINDOW)
    assert drift.index("category", "start") == pytest.approx(0.0, abs=1e-9)


def test_novelty_within_the_share_of_the_fit_does_not_drift_from_it() -> None:
    """Three in four prompts within the limit, as the guard says; a prompt at the limit is within it."""
    drift = PromptDrift(GUARD, CATEGORIES)
    for number in range(400):
        drift.note(1.0 if number % 4 else 1.3, "general")
    assert drift.within_share() == 0.75
    assert drift.index("novelty", "fit") == pytest.approx(0.0, abs=1e-9)


@pytest.mark.parametrize(("novelty", "ratio"), [(0.2, 0.5), (0.4, 1.0), (400.0, 10.0), (math.nan, 10.0)])
def test_novelty_is_shown_in_units_of_the_limit(novelty: float, ratio: float) -> None:
    """So that artifacts can be compared; what is no number is novel, as the guard has it."""
    assert PromptDrift(GUARD, CATEGORIES).relative(novelty) == pytest.approx(ratio)


def test_prompts_are_counted_for_the_artifact_in_force_alone(manifest: Manifest) -> None:
    """A decision that another artifact made while it was replaced says nothing of this one."""
    router = metrics()
    router.observe(decided(artifact_id=manifest.id), answered())
    assert sum(router.novelty.labels().counts) == 0
    router.note_artifact(manifest)
    router.observe(decided(artifact_id=manifest.id, category="coding", novelty=0.1), answered())
    router.observe(decided(artifact_id="sha256:another"), answered())
    router.observe(decided(artifact_id=manifest.id, novelty=None), answered())
    assert sum(router.novelty.labels().counts) == 1
    assert router.drift is not None
    assert router.drift.start_prompts == 1


def test_artifact_in_force_is_shown_with_its_versions_and_no_other(manifest: Manifest) -> None:
    """One series: id, family, encoder, calibration and parent."""
    found = GatewayMetrics()
    found.router.note_artifact(replace(manifest, id="sha256:before"))
    found.router.note_artifact(manifest)
    lines = [line for line in found.render().decode().splitlines() if line.startswith("penstock_artifact_info{")]
    (line,) = lines
    for part in (manifest.id, manifest.family, manifest.encoder.id, manifest.calibration.id, 'parent=""'):
        assert part in line
    assert 'penstock_novelty_within_share{prompts="fit"} 0.75' in found.render().decode()
