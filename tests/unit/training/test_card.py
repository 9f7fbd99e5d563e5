"""The card: complete, true to the report, and the same bytes each time."""

from __future__ import annotations

from dataclasses import replace
from functools import cache
from itertools import pairwise
from pathlib import Path

from penstock_routers.policy import Tradeoff
from penstock_training.card import CARD_FILE, PLOT_FILES, CardArm, CardReport, CardSource, render_card, write_card
from penstock_training.evaluation import evaluate
from penstock_training.evaluation_report import EvaluationReport
from penstock_training.evaluation_text import interval_text, number_text
from penstock_training.intervals import Interval
from penstock_training.splits import SourceOverlap
from support.outcome_samples import random_trial

POINTS = (Tradeoff("cost", 1.0, 1.0), Tradeoff("balanced", 0.2, 1.0), Tradeoff("quality", 0.0, 1.0))


@cache
def _evaluation(seed: int, skill: float, name: str) -> EvaluationReport:
    estimates, matrix = random_trial(seed, 500, skill=skill)
    return evaluate(estimates, matrix, tradeoffs=POINTS, cost_scale_usd=0.01, novelty_max=0.9, name=name, resamples=60)


def _card(*, with_left_out: bool = True) -> CardReport:
    left_out = {"alpha": _evaluation(1, 0.0, "all of alpha, fitted without it")} if with_left_out else {}
    return CardReport(
        title="Sample router",
        summary="A router made up for this test.",
        artifact_id="sha256:" + "ab" * 32,
        family="knn",
        encoder="sample-encoder@0123456789ab",
        size_bytes=1_234_567,
        default_arm="arm2",
        sources=[CardSource("alpha", "Apache-2.0", 500, 1500), CardSource("beta", "MIT", 20, 40, "left-out check")],
        arms=[CardArm("arm0", 0.1, 0.4, 0.31, ("alpha/tiny", "alpha/small"))],
        held_out=_evaluation(0, 0.9, "held-out prompts"),
        left_out=left_out,
        overlaps=[SourceOverlap("alpha", "beta", 12, 13, 14), SourceOverlap("alpha", "gamma", 0, 0, 0)],
        grouping=["Arms were grouped by hand."],
        limitations=["English only."],
        usage="Run `penstock serve`.",
    )


def test_write_card_writes_the_page_and_every_picture_it_shows(tmp_path: Path) -> None:
    """Each picture that the page names exists beside it and is a PNG."""
    written = write_card(tmp_path, _card())
    assert {path.name for path in written} == {CARD_FILE, *PLOT_FILES}
    page = (tmp_path / CARD_FILE).read_text(encoding="utf-8")
    for name in PLOT_FILES:
        assert f"]({name})" in page
        assert (tmp_path / name).read_bytes().startswith(b"\x89PNG")
        assert (tmp_path / name).stat().st_size < 250_000


def test_write_card_same_report_gives_the_same_bytes(tmp_path: Path) -> None:
    """No date and no machine is in a card."""
    contents = []
    for name in ("one", "two"):
        (tmp_path / name).mkdir()
        contents.append([path.read_bytes() for path in write_card(tmp_path / name, _card())])
    assert contents[0] == contents[1]


def test_write_card_without_left_out_sets_has_no_section_and_no_picture_of_them(tmp_path: Path) -> None:
    """A router of one set shows nothing about sets left out."""
    written = write_card(tmp_path, _card(with_left_out=False))
    assert "left_out.png" not in {path.name for path in written}
    assert "left_out.png" not in (tmp_path / CARD_FILE).read_text(encoding="utf-8")


def test_render_card_holds_the_numbers_of_the_report() -> None:
    """Quality and every comparison of each operating point appear as measured."""
    card = _card()
    page = render_card(card)
    for point in card.held_out.points:
        assert interval_text(point.quality) in page
        for difference in (point.over_hull, point.over_mixing, point.over_best, point.over_cheapest):
            assert interval_text(difference, signed=True) in page
    for name in ("always-cheapest", "always-best", "oracle", "constant hull", "inflated by luck"):
        assert name in page
    assert interval_text(card.left_out["alpha"].gap_recovered) in page


def test_render_card_names_sources_licences_overlaps_and_limits() -> None:
    """What it was made of and what it cannot do are on the page; pairs that share nothing are not."""
    page = render_card(_card())
    for text in ("Apache-2.0", "left-out check", "share 12 questions", "English only.", "alpha/tiny", "Run `penstock"):
        assert text in page
    assert "gamma" not in page


def test_render_card_says_that_a_router_without_skill_has_none() -> None:
    """A left-out set on which the gain does not order prompts is a limitation, found by the card itself."""
    assert "With alpha left out, there is no evidence" in render_card(_card())


def test_render_card_tables_have_as_many_cells_as_headings() -> None:
    """Every row of every table is complete, so that it renders."""
    lines = render_card(_card()).splitlines()
    for above, line in pairwise(lines):
        if above.startswith("|") and line.startswith("|"):
            assert above.count(" |") == line.count(" |"), line


def test_render_card_category_of_few_prompts_is_sure_of_nothing() -> None:
    """A category too small for an interval is in the picture but never called surely better or worse."""
    card = _card()
    points = []
    for point in card.held_out.points:
        sample = replace(point.by_category[0], over_default=Interval(0.5, 0.5, 0.5))
        parts = (replace(sample, name="tiny-kind", prompts=1), replace(sample, name="large-kind", prompts=400))
        points.append(replace(point, by_category=parts))
    page = render_card(replace(card, held_out=replace(card.held_out, points=tuple(points))))
    sure = [line for line in page.splitlines() if line.startswith("- surely better")]
    assert len(sure) == len(points)
    assert all("large-kind" in line and "tiny-kind" not in line for line in sure)


def test_number_text_words_signs_and_odd_values() -> None:
    """Minus is a minus sign, nothing rounds to minus zero, and what is no number is said in words."""
    assert number_text(-0.1234) == "−0.123"
    assert number_text(-0.0001, signed=True) == "+0.000"
    assert number_text(float("nan")) == "–"
    assert number_text(float("inf")) == "never"
    assert interval_text(Interval(0.5, 0.4, 0.6), percent=True) == "50 % [40, 60]"
