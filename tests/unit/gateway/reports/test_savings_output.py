"""Savings on a terminal, as JSON and as a page: everything with its interval, nothing that a name could break."""

from __future__ import annotations

import io
import json
import re
from html.parser import HTMLParser
from typing import Any

import pytest
from rich.console import Console

from penstock_gateway.reports.bootstrap import Interval
from penstock_gateway.reports.pages import ChartRow, escape, interval_chart, nice_ticks
from penstock_gateway.reports.savings import SavingsReport, savings_report
from penstock_gateway.reports.savings_page import savings_page
from penstock_gateway.reports.savings_text import interval_bar, render_savings, savings_json
from support.savings_worlds import draw_world

HOSTILE = "</style><script>alert(1)</script>\"'><img src=x onerror=alert(2)>\x1b[2J\u202e"
DIMENSIONS = ("team", "category", "model", "key", "day")


def _report(conversations: int = 40, **changes: Any) -> SavingsReport:
    """A report with both sections, notes, and something that is not compared."""
    observed = draw_world(1, is_observed=True, conversations=conversations).records
    routed = draw_world(2, is_observed=False, conversations=conversations).records
    routed = [{**record, "decision_id": f"r{record['decision_id']}"} for record in routed]
    observed[1] = {**observed[1], "status": 500}
    records = [{**record, **(changes if record["type"] == "outcome" else {})} for record in observed + routed]
    return savings_report(records, dimensions=DIMENSIONS, draws=100)


def _text(report: SavingsReport, width: int = 80) -> str:
    console = Console(file=io.StringIO(), width=width, force_terminal=False)
    console.print(render_savings(report))
    assert isinstance(console.file, io.StringIO)
    return console.file.getvalue()


class _Page(HTMLParser):
    """Collects what a browser would run or load."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags: list[str] = []
        self.attributes: list[tuple[str, str | None]] = []
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        """Note a tag."""
        self.tags.append(tag)
        self.attributes += attrs


def test_text_of_a_report_fits_eighty_columns() -> None:
    """No line is wider than 80 columns, with long names too."""
    for report in (_report(), _report(accounts=[f"team:{'x' * 120}", f"key:{'y' * 120}"])):
        lines = _text(report).splitlines()
        assert max(len(line) for line in lines) <= 80
        assert any("saving" in line for line in lines)


def test_text_states_every_saving_with_its_interval() -> None:
    """A percentage of saving is followed by its bounds, and the quality change is called a prediction."""
    text = _text(_report())
    assert re.search(r"saving +\S+ \[\S+, \S+\] USD  =  \S+ % \[\S+, \S+\]", text)
    assert "(predicted, not measured)" in text
    assert "not answered whole" in text


def test_text_of_few_conversations_states_no_saving() -> None:
    """Below the limit neither the summary nor a table shows a share of saving."""
    text = _text(_report(conversations=8))
    assert "not stated" in text
    assert not re.search(r"\d % \[", text)


def test_text_with_hostile_names_moves_no_cursor() -> None:
    """Escape codes and marks that turn the direction of writing never reach the terminal."""
    text = _text(_report(accounts=[f"team:{HOSTILE}"], served_arm=HOSTILE))
    assert "\x1b" not in text
    assert "\u202e" not in text


def test_page_with_hostile_names_runs_and_loads_nothing() -> None:
    """Names are text on the page: no script, no image, no handler, no link, and a policy that forbids them."""
    text = savings_page(_report(accounts=[f"team:{HOSTILE}", f"key:{HOSTILE}"], served_arm=HOSTILE))
    page = _Page(text)
    assert not {"script", "img", "iframe", "object", "link", "a", "form"} & set(page.tags)
    assert not [name for name, _ in page.attributes if name.startswith("on") or name in ("href", "src")]
    assert "default-src 'none'" in text
    assert text.count("</style>") == 1
    assert escape(HOSTILE) in text
    assert "\x1b" not in text


def test_page_names_its_charts_and_their_axes() -> None:
    """Every chart has a heading and a caption for its axis, every line a description for those who cannot see it."""
    text = savings_page(_report())
    assert text.count('<figure class="chart"') == text.count("saving,&nbsp;% of the cost") + text.count(
        "<figcaption>USD<"
    )
    assert text.count('<svg class="row"') == len(re.findall(r'role="img" aria-label="[^"]+"><title>', text))
    assert "prefers-color-scheme: dark" in text
    assert not re.search(r"https?://", text)


def test_page_of_an_empty_report_says_so() -> None:
    """A log without comparable requests gives a page, and no figure."""
    text = savings_page(savings_report([]))
    assert "no request in this log" in text
    assert "<svg" not in text


def test_json_of_a_report_is_plain_and_complete() -> None:
    """The JSON can be read back; costs in fact are decimal text, and every estimate has its bounds."""
    content = json.loads(json.dumps(savings_json(_report()), allow_nan=False))
    assert [section["kind"] for section in content["sections"]] == ["projected", "realised"]
    total = content["sections"][0]["total"]
    assert isinstance(total["cost_usd"], str)
    assert total["saving_share"]["low"] <= total["saving_share"]["estimate"] <= total["saving_share"]["high"]
    assert set(content["sections"][0]["by"]) == set(DIMENSIONS)
    assert content["left_out"][0]["reason"] == "not_answered"


@pytest.mark.parametrize(
    ("interval", "drawn"),
    [
        (Interval(0.5, 0.35, 0.75), "██▒▒  "),
        (Interval(-0.1, -0.25, 0.1), "▒     "),
        (None, "      "),
    ],
)
def test_bar_is_solid_as_far_as_it_is_sure(interval: Interval | None, drawn: str) -> None:
    """Solid up to the near bound, shaded up to the far one."""
    assert interval_bar(interval, (0.0, 1.2), cells=6).plain.ljust(6) == drawn


def test_chart_places_everything_inside_its_width() -> None:
    """Places are shares of the width between 0 and 100 %, for losses, savings and a chart of zeros."""
    rows = [
        ChartRow("a", "", Interval(-0.5, -0.9, -0.1), "x"),
        ChartRow("b", "", Interval(0.2, 0.1, 0.4), "y"),
        ChartRow("c", "", None, "too few"),
    ]
    for chosen in (rows, rows[:1], [ChartRow("z", "", Interval(0.0, 0.0, 0.0), "0")], []):
        text = interval_chart("t", "axis", chosen, str)
        places = [float(place) for place in re.findall(r'(?:x|x1|x2|cx)="(-?[\d.]+)%"', text)]
        assert all(0.0 <= place <= 100.0 for place in places)
        assert "nan" not in text


@pytest.mark.parametrize("ends", [(0.0, 1.0), (-3.2, 0.01), (0.0, 1e-9), (0.0, 123456.0)])
def test_ticks_of_any_range_are_few_and_inside(ends: tuple[float, float]) -> None:
    """An axis has between two and eight ticks, whatever its range."""
    ticks = nice_ticks(*ends)
    assert 2 <= len(ticks) <= 8
    assert all(ends[0] - 1e-12 <= tick <= ends[1] * (1 + 1e-9) for tick in ticks)
