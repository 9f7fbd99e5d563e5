"""The console's arithmetic, numbers and charts, without HTTP."""

from __future__ import annotations

import subprocess
import sys
from decimal import Decimal
from xml.etree import ElementTree

import pytest
from msgspec import structs

from penstock_gateway.console.charts import Mark, columns, cost_quality, interval
from penstock_gateway.console.reasons import REASONS
from penstock_gateway.console.recent import COLUMNS, quantile, summarise
from penstock_gateway.console.rendering import milliseconds, short_id, usd
from penstock_gateway.decisions import CandidateReport, RecentDecisions, RouteDecision, Settlement
from penstock_routers.policy import RouteReason


def decision(number: int, *, reason: RouteReason = RouteReason.ROUTED, baseline: float | None = 0.5) -> RouteDecision:
    """Return a decision for `small`, made `number` seconds after the first."""
    return RouteDecision(
        id=f"dec_{number}",
        created_at=1_000.0 + number,
        requested_model="auto",
        tradeoff="balanced",
        chosen="small",
        reason=reason,
        candidates=(),
        artifact_id=None,
        default_arm="large",
        baseline="large",
        input_tokens=10,
        estimated_cost_usd=0.1,
        baseline_cost_usd=baseline,
    )


def settled(cost: str | None, *, error: str | None = None, ms: float = 100.0) -> Settlement:
    """Return an outcome."""
    return Settlement(200, error, None, None if cost is None else Decimal(cost), ms, 1.0)


def test_summary_of_what_the_baseline_itself_answered_saves_nothing() -> None:
    """Whatever was expected of it beforehand: answers are shorter than the longest that may be expected."""
    report = CandidateReport("large", "large", "large", None, estimated_cost_usd=0.5)
    made = structs.replace(decision(0), chosen="large", candidates=(report,))
    recent = summarise([("t", made, structs.replace(settled("0.01"), served="large"))])
    assert (recent.saved_usd, recent.baseline_usd) == (pytest.approx(0.0), pytest.approx(0.01))


def test_summary_of_recent_decisions_adds_up_what_was_answered() -> None:
    """Failures count as errors and save nothing, hits save all, what is under way counts nowhere."""
    recent = summarise(
        [
            ("t", decision(0), settled("0.2")),
            ("t", decision(10, reason=RouteReason.CACHED), settled(None)),
            ("t", decision(20), settled("0.1", error="upstream_error")),
            ("t", decision(30, baseline=None), settled("0.3")),
            ("t", decision(40), None),
        ]
    )
    assert (recent.requests, recent.errors, recent.cached) == (4, 1, 1)
    assert recent.cost_usd == Decimal("0.6")
    assert recent.saved_usd == pytest.approx(0.3 + 0.5)
    assert recent.baseline_usd == pytest.approx(1.0)
    assert len(recent.durations_ms) == 3
    assert (len(recent.columns), [sum(kind) for kind in zip(*recent.columns, strict=True)]) == (COLUMNS, [2, 1, 1])
    assert summarise([]).columns == []


@pytest.mark.parametrize(("share", "expected"), [(0.5, 50.0), (0.99, 99.0), (1.0, 100.0), (0.001, 1.0)])
def test_quantile_of_a_hundred_values_is_the_smallest_not_passed(share: float, expected: float) -> None:
    """p99 of 1 to 100 is 99, whatever their order; of nothing it is None."""
    assert quantile([float(value) for value in range(100, 0, -1)], share) == expected
    assert quantile([], share) is None


def test_newest_decisions_of_a_memory_come_latest_first_and_bounded() -> None:
    """No more are given than asked for, and none that was forgotten."""
    recent = RecentDecisions(3)
    for number in range(5):
        recent.add("t", decision(number))
    assert [found.id for _, found, _ in recent.newest(2)] == ["dec_4", "dec_3"]
    assert len(recent.newest(100)) == 3
    assert recent.find_any("dec_0") is None


def test_chart_of_candidates_is_well_formed_and_escapes_names() -> None:
    """A name cannot leave its text, and the chosen one is marked once."""
    chart = cost_quality([Mark("</text><script>", 0.001, 0.5, 0.4, 0.6, True), Mark("b", 0.1, 0.9)])
    assert chart is not None
    tree = ElementTree.fromstring(chart.__html__())
    assert [node.get("class") for node in tree.iter("circle")].count("dot chosen") == 1
    assert "</text><script>" in [node.text for node in tree.iter("text")]
    assert "nan" not in chart.__html__()


def test_chart_with_nothing_to_show_is_none() -> None:
    """No empty frame is drawn."""
    assert cost_quality([]) is None
    assert cost_quality([Mark("free", 0.0, 0.5)]) is None
    assert columns([(0, 0, 0)], ("a", "b")) is None


@pytest.mark.parametrize("marks", [[Mark("one", 0.01, 0.5)], [Mark("a", 1e-9, 0.0), Mark("b", 1e3, 1.0, 1.0, 1.0)]])
def test_chart_of_extreme_values_stays_inside_its_frame(marks: list[Mark]) -> None:
    """One point, and points twelve powers of ten apart, have finite places."""
    chart = cost_quality(marks)
    assert chart is not None
    for node in ElementTree.fromstring(chart.__html__()).iter("circle"):
        assert 0 <= float(node.get("cx", "nan")) <= chart.width
        assert 0 <= float(node.get("cy", "nan")) <= chart.height


def test_interval_of_a_quality_is_two_standard_errors_within_bounds() -> None:
    """95 % of a normal distribution, kept in [0, 1]; none without a standard error."""
    assert interval(0.5, 0.1) == pytest.approx((0.304, 0.696), abs=1e-3)
    assert interval(0.99, 0.1) == pytest.approx((0.794, 1.0), abs=1e-3)
    assert interval(0.5, None) is None


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        ("0", "$0"),
        ("1234.5", "$1,234.50"),
        ("0.000123456", "$0.0001235"),
        ("0.5", "$0.5"),
        (-0.25, "−$0.25"),
        (None, "–"),
        (float("nan"), "–"),
        ("0.000000000001", "$0.000000000001"),
    ],
)
def test_amount_of_any_size_is_written_for_people(value: object, expected: str) -> None:
    """Cents from a dollar on, four digits below, never a binary float's tail."""
    assert usd(value) == expected


def test_duration_and_id_are_written_short() -> None:
    """Seconds from ten on; an artifact by its first twelve digits."""
    assert (milliseconds(0.12345), milliseconds(123.4), milliseconds(12_345.0)) == ("0.12 ms", "123 ms", "12.3 s")
    assert (short_id("sha256:" + "a" * 64), short_id(None), short_id("other")) == ("a" * 12, "–", "other")


def test_reasons_of_decisions_all_have_a_sentence() -> None:
    """No code of the router is shown without words."""
    assert set(REASONS) == {reason.value for reason in RouteReason}


def test_gateway_that_nobody_looks_at_has_not_loaded_the_templates() -> None:
    """Importing the whole application does not import Jinja."""
    code = "import sys, penstock_gateway.app, penstock_gateway.running_gateway; print('jinja2' in sys.modules)"
    shown = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True)
    assert shown.stdout.strip() == "False"
