"""Rules of the demonstration's three displays."""

from __future__ import annotations

import io
import json
from collections.abc import Sequence
from decimal import Decimal
from typing import Any

import pytest
from rich.console import Console

from penstock_gateway.demo.cache_scene import CacheRow, CacheScene
from penstock_gateway.demo.results import DemoRow, Forecast, SettingOutlook, Strategy
from penstock_gateway.demo.table import (
    NOTE,
    Display,
    JsonDisplay,
    PlainDisplay,
    TerminalDisplay,
    open_display,
)

FACTS: dict[str, Any] = {
    "base_url": "http://127.0.0.1:4000/v1",
    "artifact": "sha256:0",
    "tradeoff": "0.7",
    "default_model": "sim-frontier",
    "baseline_model": "sim-frontier",
}
TOTALS = [
    Strategy("routed", 0.75, Decimal("0.10"), Decimal("0.11")),
    Strategy("always sim-frontier", 0.8, Decimal("0.25"), Decimal("0.26")),
    Strategy("always sim-small", 0.6, Decimal("0.004"), Decimal("0.003")),
]
SCENE = CacheScene(
    (
        CacheRow("How much is it?", "sim-medium", "miss", "no_neighbour", None, None, Decimal(0)),
        CacheRow("What does it cost?", "sim-medium", "hit-semantic", None, 0.87, 3.0, Decimal("0.0002")),
    ),
    "on",
    0.01,
    0.84,
)
OUTLOOKS = [SettingOutlook("cost", {"large": 2, "small": 1}, None, Decimal("0.01"))]


def _row(number: int = 1, prompt: str = "Why is the sky blue?", quality: float | None = 0.75) -> DemoRow:
    reason = "routed" if quality is not None else "abstained_novel"
    forecasts = {"sim-medium": Forecast(quality, Decimal("0.0004"))}
    cost, saving = Decimal("0.0004"), Decimal("0.0076")
    has_opinion = quality is not None
    return DemoRow(
        number,
        prompt,
        "sim-medium",
        "medium",
        reason,
        "dec_1",
        has_opinion,
        quality,
        cost,
        saving,
        cost,
        0.4,
        forecasts,
    )


def _unwrapped(text: str) -> str:
    return " ".join(text.split())


def _show(display: Display, rows: Sequence[DemoRow]) -> None:
    display.begin("Penstock demo", len(rows))
    for row in rows:
        display.add(row)
    display.finish(TOTALS, OUTLOOKS, SCENE, FACTS)


def test_plain_display_of_rows_is_aligned_and_has_no_escape_codes() -> None:
    """In a pipe every row is one line, columns line up, and there is no control character."""
    stream = io.StringIO()
    _show(PlainDisplay(stream), [_row(1), _row(12, "a\nb " * 60)])
    lines = stream.getvalue().splitlines()
    rows = [line for line in lines if line.lstrip().startswith(("1 ", "12 "))]
    assert len(rows) == 2
    assert rows[0].index("sim-medium") == rows[1].index("sim-medium")
    assert "\x1b" not in stream.getvalue()


def test_plain_display_before_any_row_says_what_is_simulated() -> None:
    """The note on simulation stands above the figures."""
    stream = io.StringIO()
    _show(PlainDisplay(stream), [_row()])
    text = stream.getvalue()
    assert _unwrapped(text).index(NOTE) < _unwrapped(text).index("sim-medium")


def test_plain_display_of_totals_names_each_figure() -> None:
    """The totals' columns say predicted or simulated, and comparisons are of predictions."""
    stream = io.StringIO()
    _show(PlainDisplay(stream), [_row()])
    text = stream.getvalue()
    lines = text.splitlines()
    lower = next(number for number, line in enumerate(lines) if line.startswith("strategy "))
    assert lines[lower - 1].split() == ["predicted", "predicted", "simulated"]
    assert lines[lower].split() == ["strategy", "quality", "cost", "USD", "cost", "USD"]
    assert [len(lines[lower + offset]) for offset in (0, 2, 3)] == [len(lines[lower + 1])] * 3
    assert "Against always sim-frontier: predicted cost 60 % less, predicted quality -0.050." in text
    assert "Against always sim-small: predicted cost 25.0 times as much, predicted quality +0.150." in text


def test_plain_display_of_an_abstention_shows_no_quality() -> None:
    """A prompt without an opinion shows n/a where the quality would be."""
    stream = io.StringIO()
    _show(PlainDisplay(stream), [_row(quality=None)])
    assert "abstained_novel" in stream.getvalue()
    assert "n/a" in stream.getvalue()


def test_json_display_writes_one_document_and_keeps_messages_apart() -> None:
    """Standard output is valid JSON and nothing else."""
    stream, messages = io.StringIO(), io.StringIO()
    display = JsonDisplay(stream, messages)
    _show(display, [_row(1), _row(2, quality=None)])
    display.say("hello")
    document = json.loads(stream.getvalue())
    assert document["note"] == NOTE
    assert [row["predicted_quality"] for row in document["prompts"]] == [0.75, None]
    assert [total["strategy"] for total in document["totals"]] == [total.name for total in TOTALS]
    assert document["same_prompts_at_other_settings"][0]["decisions_by_tier"] == {"large": 2, "small": 1}
    assert [row["cache"] for row in document["cache"]["questions"]] == ["miss", "hit-semantic"]
    assert "hello" in messages.getvalue()


@pytest.mark.parametrize("width", [80, 120, 200])
def test_terminal_display_of_any_width_prints_every_row_once_done(width: int) -> None:
    """The final table holds all rows, although the live one follows the last ones only."""
    console = Console(file=io.StringIO(), force_terminal=True, width=width, height=20, legacy_windows=False)
    display = TerminalDisplay(console)
    _show(display, [_row(number, prompt=f"p{number}") for number in range(1, 41)])
    display.close()
    assert isinstance(console.file, io.StringIO)
    final = console.file.getvalue().partition("Trade-off:")[0].rpartition("40 of 40 prompts")[2]
    assert all(f"p{number}" in final for number in range(1, 41))


@pytest.mark.parametrize("width", [80, 100, 200])
def test_terminal_display_of_any_width_breaks_no_line_of_its_tables(width: int) -> None:
    """Every line of the summary fits as it was composed, so no row is folded and no word is cut."""
    console = Console(file=io.StringIO(), force_terminal=True, width=width, height=20, legacy_windows=False)
    display = TerminalDisplay(console)
    many = {"frontier": 13, "medium": 10, "large": 11, "small": 6}
    display.begin("Penstock demo", 1)
    display.add(_row())
    display.finish(TOTALS, [SettingOutlook("balanced", many, 0.75, Decimal("0.178244"))], SCENE, FACTS)
    assert isinstance(console.file, io.StringIO)
    lines = console.file.getvalue().partition("Trade-off:")[2].splitlines()
    assert "always sim-frontier       0.800   0.250000   0.260000" in lines
    assert "balanced       0.750   0.178244  frontier 13, large 11, medium 10, small 6" in lines
    assert all(len(line) <= width for line in lines)
    assert any(line.startswith("Against always sim-small") for line in lines)


@pytest.mark.parametrize(("width", "has_saving"), [(80, False), (100, True)])
def test_terminal_display_without_room_leaves_the_saving_out(width: int, has_saving: bool) -> None:
    """A narrow terminal shows more of the prompt instead of the last column."""
    console = Console(file=io.StringIO(), force_terminal=True, width=width, height=20, legacy_windows=False)
    display = TerminalDisplay(console)
    _show(display, [_row(prompt="Why is the sky blue?")])
    assert isinstance(console.file, io.StringIO)
    final = console.file.getvalue().partition("Trade-off:")[0].rpartition("1 of 1 prompts")[2]
    assert "Why is the sky" in final
    assert ("saved USD" in final) is has_saving


def test_plain_display_of_long_texts_fits_a_common_terminal() -> None:
    """Rows and wrapped notes of a pipe can be read in a pager of 120 columns; no note is cut inside a word."""
    stream = io.StringIO()
    _show(PlainDisplay(stream), [_row(1, "word " * 60)])
    assert max(len(line) for line in stream.getvalue().splitlines()) <= 120
    assert NOTE in _unwrapped(stream.getvalue())


@pytest.mark.parametrize("width", [80, 120])
def test_displays_for_people_end_with_the_cache(width: int) -> None:
    """Terminal and pipe show the same last part, below the totals."""
    stream = io.StringIO()
    console = Console(file=io.StringIO(), force_terminal=True, width=width, height=20, legacy_windows=False)
    for display in (PlainDisplay(stream), TerminalDisplay(console)):
        _show(display, [_row()])
    assert isinstance(console.file, io.StringIO)
    for text in (stream.getvalue(), console.file.getvalue()):
        last = text.partition("The answer cache")[2]
        assert text.index("always sim-small") < text.index("The answer cache")
        assert "What does it cost?  hit-semantic" in last


def test_open_display_for_a_pipe_is_plain() -> None:
    """A stream that is no terminal gets plain text."""
    with open_display(io.StringIO(), as_json=False) as display:
        assert isinstance(display, PlainDisplay)


def test_open_display_for_machines_is_json() -> None:
    """The JSON option wins over the kind of stream."""
    with open_display(io.StringIO(), as_json=True) as display:
        assert isinstance(display, JsonDisplay)
