"""The estimate of savings: true where the truth is known, silent where there is too little to go by."""

from __future__ import annotations

from decimal import Decimal
from typing import Any

import pytest

from penstock_gateway.reports.calibration import Ground
from penstock_gateway.reports.savings import OTHERS, ROWS_SHOWN, SavingsReport, savings_report
from penstock_gateway.reports.savings_rows import Kind, LeftOut
from support.savings_worlds import World, draw_world

WORLDS = 100
DRAWS = 200


def _coverage(*, true_share: float, **world: Any) -> tuple[int, int, float]:
    """Return how often the interval holds the expected saving and that of the very requests, and the mean error."""
    expected = own = 0
    errors = 0.0
    for seed in range(WORLDS):
        drawn = draw_world(seed, **world)
        share = savings_report(drawn.records, dimensions=(), draws=DRAWS, seed=seed).sections[0].total.saving_share
        assert share is not None
        truth = _share(drawn, is_observed=world["is_observed"])
        expected += share.low <= true_share <= share.high
        own += share.low <= truth <= share.high
        errors += (share.value - truth) / WORLDS
    return expected, own, errors


def _share(world: World, *, is_observed: bool) -> float:
    before, after = world.fact_usd, world.other_usd
    return 1.0 - after / before if is_observed else 1.0 - before / after


def _true_share(**world: Any) -> float:
    """The saving that logs like this have on average: that of a log of 4,000 conversations."""
    return _share(draw_world(10**6, **{**world, "conversations": 4000}), is_observed=world["is_observed"])


@pytest.mark.parametrize(
    "world",
    [
        pytest.param({"is_observed": True, "conversations": 60, "answered_by": ("frontier",)}, id="projected"),
        pytest.param({"is_observed": False, "conversations": 60, "explore": 0.0}, id="realised without exploration"),
        pytest.param({"is_observed": False, "conversations": 60, "has_parts": False}, id="realised without parts"),
    ],
)
def test_savings_of_logs_with_known_truth_are_in_their_interval(world: dict[str, Any]) -> None:
    """The 95 % interval holds the true saving in at least 90 of 100 logs, although each arm's estimates are wrong."""
    expected, own, _ = _coverage(true_share=_true_share(**world), **world)
    assert expected >= 90
    assert own >= 90


def test_savings_of_explored_logs_are_right_on_average() -> None:
    """Explored answers correct the baseline for the prompts that it is not given, and the interval stays honest."""
    world = {"is_observed": False, "conversations": 100, "explore": 0.6}
    expected, own, error = _coverage(true_share=0.5411, **world)  # that of 40,000 conversations
    assert expected >= 90
    assert own >= 90
    assert abs(error) < 0.008  # of a saving of a half; without the weights it is 0.021


def _report(seed: int = 1, **world: Any) -> SavingsReport:
    return savings_report(draw_world(seed, **world).records, draws=DRAWS)


def test_costs_in_fact_are_exact_and_add_up() -> None:
    """Costs in fact are sums of whole picodollars: the parts of every breakdown give the total, to the last digit."""
    world = draw_world(3, is_observed=True, conversations=50)
    section = savings_report(world.records, dimensions=("team", "category", "model", "key", "day"), draws=50).sections[
        0
    ]
    picousd = sum(record["cost_picousd"] for record in world.records if record["type"] == "outcome")
    assert section.total.cost_usd == Decimal(picousd).scaleb(-12)
    for figures in section.by.values():
        assert sum(figure.cost_usd for figure in figures) == section.total.cost_usd
        assert sum(figure.requests for figure in figures) == section.total.requests


def test_arms_that_are_the_same_save_exactly_nothing() -> None:
    """Where the router would have chosen what answered, nothing is estimated and nothing is saved."""
    records = draw_world(1, is_observed=True, conversations=30).records
    for record in records:
        if record["type"] == "decision":
            record["shadow"]["arm"] = record["intended_arm"]
    total = savings_report(records, draws=50).sections[0].total
    assert total.saving_usd is not None
    assert (total.saving_usd.value, total.moved_share) == (pytest.approx(0.0, abs=1e-12), 0.0)
    assert total.gain is not None
    assert total.gain.value == 0.0


def test_few_conversations_give_no_saving_and_say_so() -> None:
    """Nineteen conversations are too few for an interval, so no saving is stated; their cost is."""
    section = _report(is_observed=True, conversations=19).sections[0]
    assert section.total.saving_usd is None
    assert section.total.saving_share is None
    assert section.total.cost_usd > 0
    assert any("too few" in note for note in section.notes)


def test_projected_and_realised_requests_of_one_log_are_kept_apart() -> None:
    """A log of both gives two sections, each with its own requests."""
    observed = draw_world(1, is_observed=True, conversations=30).records
    routed = draw_world(2, is_observed=False, conversations=40).records
    for record in routed:
        record["decision_id"] = f"routed {record['decision_id']}"
    report = savings_report(observed + routed, draws=50)
    assert [section.kind for section in report.sections] == [Kind.PROJECTED, Kind.REALISED]
    assert [section.total.requests for section in report.sections] == [len(observed) // 2, len(routed) // 2]


def test_correction_of_an_arm_names_its_ground() -> None:
    """An arm is corrected by explored or matching answers where there are enough, and by an assumption without any."""
    enough = {"conversations": 400, "explore": 0.6}
    explored = _report(is_observed=False, **enough).sections[0]
    assert [arm.ground for arm in explored.corrections] == [Ground.EXPLORED]
    own = _report(is_observed=False, conversations=60, explore=0.0).sections[0]
    assert [arm.ground for arm in own.corrections] == [Ground.OWN]
    assert any("explored" in note for note in own.notes)
    matching = _report(is_observed=True, conversations=400).sections[0]
    assert {arm.ground for arm in matching.corrections} == {Ground.CHOSEN}
    unknown = _report(is_observed=True, conversations=60, answered_by=("frontier",)).sections[0]
    assert {arm.model.arm: arm.ground for arm in unknown.corrections} == {"small": Ground.ASSUMED}
    assert any("small has answered in 0 conversations" in note for note in unknown.notes)


def test_interval_of_an_arm_that_never_answered_is_wider() -> None:
    """Not knowing an arm's answers costs certainty."""
    known = draw_world(1, is_observed=True, conversations=400, answered_by=("small", "frontier")).records
    outcomes = [record for record in known if record["type"] == "outcome"]
    frontier = {record["decision_id"] for record in outcomes if record["served_arm"] == "frontier"}
    alone = [record for record in known if record["decision_id"] in frontier]

    def width(records: list[dict[str, Any]]) -> float:
        figures = savings_report(records, dimensions=("category",), draws=DRAWS).sections[0].by["category"]
        other = next(figure.other_usd for figure in figures if figure.label == "chat")  # all of it would go to `small`
        assert other is not None
        return (other.high - other.low) / other.value

    assert width(alone) > 3.0 * width(known)


def test_predicted_gain_is_never_surer_than_the_router_is() -> None:
    """The interval of the quality change holds the predictions' own error, which more requests do not shrink."""
    gain = _report(is_observed=True, conversations=300, answered_by=("frontier",)).sections[0].total.gain
    assert gain is not None
    assert gain.low < gain.value < gain.high
    assert gain.high - gain.low > 2 * 1.96 * 0.01 * 0.5  # both arms have a standard error of .01; two in three move


def test_breakdown_with_many_labels_puts_the_cheapest_together() -> None:
    """A table stays short, and nothing is missing from it."""
    records = draw_world(1, is_observed=True, conversations=40).records
    for number, record in enumerate(records):
        if record["type"] == "outcome":
            record["accounts"] = [f"team:t{number % 60:02d}"]
    figures = savings_report(records, dimensions=("team",), draws=50).sections[0].by["team"]
    assert len(figures) == ROWS_SHOWN
    assert figures[-1].label == OTHERS
    assert sum(figure.requests for figure in figures) == len(records) // 2


def test_what_cannot_be_compared_is_counted_with_its_cost() -> None:
    """Cached, failed, unknown, unobserved and unestimated requests are left out by name."""
    records = draw_world(1, is_observed=True, conversations=40).records
    decisions = [record for record in records if record["type"] == "decision"]
    outcomes = [record for record in records if record["type"] == "outcome"]
    decisions[0]["reason"] = "cached"
    outcomes[1]["status"] = 502
    outcomes[2]["cost_usd"] = None
    decisions[3]["shadow"] = None
    decisions[4]["shadow"]["candidates"] = []
    decisions[4]["shadow"]["arm"] = "elsewhere"
    report = savings_report(records, draws=50)
    assert {why: n for why, (n, _) in report.left_out.items()} == dict.fromkeys(LeftOut, 1)
    assert report.left_out[LeftOut.NOT_ANSWERED][1] == Decimal(outcomes[1]["cost_picousd"]).scaleb(-12)
    assert report.sections[0].total.requests == len(decisions) - len(LeftOut)


def test_request_that_is_logged_twice_counts_once() -> None:
    """A batch that the disk took half and then whole doubles no saving, in whatever order its records come."""
    records = draw_world(1, is_observed=True, conversations=30).records
    once = savings_report(records, draws=50)
    twice = savings_report([*reversed(records), *records], draws=50)
    assert twice.duplicates == len(records)
    assert twice.sections[0].total.requests == once.sections[0].total.requests
    assert twice.sections[0].total.cost_usd == once.sections[0].total.cost_usd


def test_report_of_the_same_log_and_seed_is_the_same() -> None:
    """Intervals are random by the seed alone."""
    assert _report(is_observed=False, conversations=40) == _report(is_observed=False, conversations=40)


def test_report_of_no_events_has_no_section() -> None:
    """An empty log is no error and no saving."""
    report = savings_report([])
    assert (report.sections, report.left_out, report.without_outcome) == ((), {}, 0)
