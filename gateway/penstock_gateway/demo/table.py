"""Draws the demonstration: a live table in a terminal, plain aligned text in a pipe, JSON for machines.

Owns the drawing only. `open_display` chooses; the three displays have the same methods. Read `Display`.
"""

from __future__ import annotations

import json
import sys
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from decimal import Decimal
from typing import Any, Protocol, TextIO

from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.live import Live
from rich.table import Table
from rich.text import Text

from penstock_gateway.demo.cache_scene import CacheScene, scene_as_json
from penstock_gateway.demo.cache_table import cache_lines
from penstock_gateway.demo.results import (
    DemoRow,
    SettingOutlook,
    Strategy,
    outlook_as_json,
    row_as_json,
    strategy_as_json,
)
from penstock_gateway.demo.text_layout import TEXT_WIDTH, aligned, headings, usd, wrapped

NOTE = (
    "Answers, prices and latencies are SIMULATED: no language model runs and nothing is spent. "
    "Predicted quality and predicted cost come from the default router artifact; they are estimates, not measurements."
)
_TIER_STYLES = {"small": "green", "medium": "cyan", "large": "yellow", "frontier": "magenta"}
_TITLES = ("#", "prompt", "decision", "reason", "predicted\nquality", "predicted\ncost USD", "predicted\nsaved USD")
_RIGHT = frozenset({0, 4, 5, 6})
# Fits 120 columns: `less` and most terminals show a pipe's rows whole.
_PROMPT_WIDTH = 45
_PIPE_WIDTHS = (3, _PROMPT_WIDTH, 12, 21, 9, 9, 9)
# A terminal narrower than this has no room for the saving beside the prompt.
_FULL_COLUMNS = 100
# Lines that the live view leaves for the title, the header and the footer.
_LIVE_MARGIN_LINES = 8


class Display(Protocol):
    """Where the demonstration is shown."""

    def begin(self, heading: str, total: int) -> None:
        """Say what is about to happen, and how many prompts there are."""
        ...

    def add(self, row: DemoRow) -> None:
        """Show one finished prompt."""
        ...

    def finish(
        self,
        totals: Sequence[Strategy],
        outlooks: Sequence[SettingOutlook],
        scene: CacheScene,
        facts: dict[str, Any],
    ) -> None:
        """Show the totals, the other settings and the cache; `facts` names artifact, trade-off, default model, URL."""
        ...

    def say(self, text: str) -> None:
        """Show a line or a paragraph meant for a person."""
        ...


@contextmanager
def open_display(stream: TextIO, *, as_json: bool) -> Iterator[Display]:
    """Choose the display for an output stream.

    Parameters
    ----------
    stream : text stream
    as_json : bool
        Write one JSON document; text for people then goes to standard error.

    Yields
    ------
    Display
    """
    if as_json:
        yield JsonDisplay(stream, sys.stderr)
        return
    console = Console(file=stream)
    if not console.is_terminal:
        yield PlainDisplay(stream)
        return
    display = TerminalDisplay(console)
    try:
        yield display
    finally:
        display.close()


class PlainDisplay:
    """Aligned text without escape codes, one line per prompt as it finishes."""

    def __init__(self, stream: TextIO) -> None:
        self._stream = stream
        self._rows: list[DemoRow] = []

    def begin(self, heading: str, total: int) -> None:
        """Write the heading and the column titles."""
        self.say("\n".join([*wrapped(heading), *wrapped(NOTE), ""]))
        self.say("\n".join(headings(_TITLES, _PIPE_WIDTHS, _RIGHT)))

    def add(self, row: DemoRow) -> None:
        """Write one line."""
        self._rows.append(row)
        self.say(aligned(_cells(row), _PIPE_WIDTHS, _RIGHT))

    def finish(
        self,
        totals: Sequence[Strategy],
        outlooks: Sequence[SettingOutlook],
        scene: CacheScene,
        facts: dict[str, Any],
    ) -> None:
        """Write the totals and the cache."""
        summary = _summary_lines(self._rows, totals, outlooks, facts, TEXT_WIDTH)
        self.say("\n".join(["", *summary, "", *cache_lines(scene, TEXT_WIDTH)]))

    def say(self, text: str) -> None:
        """Write text at once, so that a pipe sees it while the demonstration runs."""
        print(text, file=self._stream, flush=True)


class JsonDisplay:
    """One JSON document on the stream; everything for people on another."""

    def __init__(self, stream: TextIO, messages: TextIO) -> None:
        self._stream = stream
        self._messages = messages
        self._rows: list[DemoRow] = []

    def begin(self, heading: str, total: int) -> None:
        """Write the heading for people."""
        self.say(f"{heading} {total} prompts.")

    def add(self, row: DemoRow) -> None:
        """Keep one row."""
        self._rows.append(row)

    def finish(
        self,
        totals: Sequence[Strategy],
        outlooks: Sequence[SettingOutlook],
        scene: CacheScene,
        facts: dict[str, Any],
    ) -> None:
        """Write the document."""
        document = {
            "note": NOTE,
            **facts,
            "prompts": [row_as_json(row) for row in self._rows],
            "decisions_by_tier": dict(Counter(row.tier for row in self._rows)),
            "decisions_by_reason": dict(Counter(row.reason for row in self._rows)),
            "totals": [strategy_as_json(strategy) for strategy in totals],
            "same_prompts_at_other_settings": [outlook_as_json(point) for point in outlooks],
            "cache": scene_as_json(scene),
        }
        print(json.dumps(document, indent=2, ensure_ascii=False), file=self._stream, flush=True)

    def say(self, text: str) -> None:
        """Write text for people."""
        print(text, file=self._messages, flush=True)


class TerminalDisplay:
    """A live table that follows the last rows, and the whole table at the end."""

    def __init__(self, console: Console) -> None:
        self._console = console
        self._rows: list[DemoRow] = []
        self._total = 0
        self._live: Live | None = None

    def begin(self, heading: str, total: int) -> None:
        """Print the heading and start the live table."""
        self._total = total
        self._console.print(Text(heading, style="bold"))
        self._console.print(Text(NOTE, style="yellow"))
        self._live = Live(self._table(self._rows), console=self._console, transient=True, refresh_per_second=12)
        self._live.start()

    def add(self, row: DemoRow) -> None:
        """Show one more row; old ones scroll out of the live table."""
        self._rows.append(row)
        if self._live is not None:
            visible = max(3, (self._console.height - _LIVE_MARGIN_LINES) // 2)
            self._live.update(self._table(self._rows[-visible:]))

    def finish(
        self,
        totals: Sequence[Strategy],
        outlooks: Sequence[SettingOutlook],
        scene: CacheScene,
        facts: dict[str, Any],
    ) -> None:
        """Print the whole table, the totals and the cache."""
        self.close()
        self._console.print(self._table(self._rows))
        width = min(TEXT_WIDTH, self._console.width)
        summary = _summary_lines(self._rows, totals, outlooks, facts, width)
        for line in [*summary, "", *cache_lines(scene, width)]:
            self._console.print(Text(line))

    def say(self, text: str) -> None:
        """Print text without wrapping, so that it can be pasted."""
        self._console.print(Text(text), soft_wrap=True)

    def close(self) -> None:
        """Stop the live table; safe to call twice."""
        if self._live is not None:
            self._live.stop()
            self._live = None

    def _table(self, rows: Sequence[DemoRow]) -> Table:
        title = f"{len(self._rows)} of {self._total} prompts"
        table = Table(
            title=title, title_justify="left", expand=True, box=SIMPLE_HEAD, pad_edge=False, collapse_padding=True
        )
        titles = _TITLES if self._console.width >= _FULL_COLUMNS else _TITLES[:-1]
        for position, heading in enumerate(titles):
            table.add_column(
                heading,
                justify="right" if position in _RIGHT else "left",
                ratio=1 if position == 1 else None,
                no_wrap=True,
                overflow="ellipsis",
            )
        for row in rows:
            cells: list[str | Text] = [Text(cell) for cell in _cells(row)]
            cells[1] = Text(_one_line(row.prompt))
            cells[2] = Text(row.model, style=_TIER_STYLES.get(row.tier, ""))
            table.add_row(*cells[: len(titles)])
        return table


def _cells(row: DemoRow) -> tuple[str, ...]:
    return (
        str(row.number),
        _shortened(row.prompt),
        row.model,
        row.reason,
        _quality(row.quality),
        usd(row.predicted_cost_usd),
        usd(row.predicted_saving_usd),
    )


def _summary_lines(
    rows: Sequence[DemoRow],
    totals: Sequence[Strategy],
    outlooks: Sequence[SettingOutlook],
    facts: dict[str, Any],
    width: int,
) -> list[str]:
    """Everything below the rows, in at most `width` columns from 80 on."""
    opinions = sum(1 for row in rows if row.has_opinion)
    notes = [
        f"Trade-off: {facts['tradeoff']}. Default model: {facts['default_model']}.",
        f"Artifact: {facts['artifact']}",
        f"Decisions by tier: {_counted(Counter(row.tier for row in rows))}.",
        f"Decisions by reason: {_counted(Counter(row.reason for row in rows))}.",
    ]
    comparisons = [_comparison(totals[0], other) for other in totals[1:]]
    explanations = [
        f"Predicted quality, in both tables: mean over the {opinions} of {len(rows)} prompts on which the router has "
        f"an opinion. Costs: over all {len(rows)}.",
        "Simulated cost: simulated prices times the token counts of the template answers.",
    ]
    others = "The same prompts at other settings of the trade-off (header x-penstock-tradeoff), all predicted:"
    return [
        *(line for note in notes for line in wrapped(note, width)),
        "",
        *_totals_table(totals),
        "",
        *(line for text in comparisons + explanations for line in wrapped(text, width)),
        "",
        *wrapped(others, width),
        "",
        *_settings_table(outlooks),
    ]


def _totals_table(totals: Sequence[Strategy]) -> list[str]:
    titles = ("strategy", "predicted\nquality", "predicted\ncost USD", "simulated\ncost USD")
    widths, right = (20, 9, 9, 9), range(1, 4)
    lines = headings(titles, widths, right)
    for total in totals:
        costs = (usd(total.predicted_cost_usd), usd(total.simulated_cost_usd))
        lines.append(aligned((total.name, _quality(total.mean_quality), *costs), widths, right))
    return lines


def _settings_table(outlooks: Sequence[SettingOutlook]) -> list[str]:
    titles = ("trade-off", "predicted\nquality", "predicted\ncost USD", "decisions by tier")
    widths, right = (9, 9, 9, 45), range(1, 3)
    lines = headings(titles, widths, right)
    for point in outlooks:
        figures = (_quality(point.mean_quality), usd(point.predicted_cost_usd))
        tiers = _counted(Counter(point.decisions_by_tier))
        lines.append(aligned((point.tradeoff, *figures, tiers), widths, right))
    return lines


def _counted(counts: Counter[str]) -> str:
    return ", ".join(f"{name} {count}" for name, count in counts.most_common())


def _comparison(routed: Strategy, other: Strategy) -> str:
    """One sentence that compares the routed run with a fixed model, in predicted figures only."""
    text = f"Against {other.name}: predicted cost {_relation(routed.predicted_cost_usd, other.predicted_cost_usd)}"
    if routed.mean_quality is not None and other.mean_quality is not None:
        text += f", predicted quality {routed.mean_quality - other.mean_quality:+.3f}"
    return text + "."


def _relation(cost: Decimal, other: Decimal) -> str:
    """Say how two costs compare: in percent up to twice as much, beyond that as a multiple."""
    if not other:
        return f"{usd(cost)} against 0 USD"
    if cost > 2 * other:
        return f"{cost / other:.1f} times as much"
    return f"{abs(cost - other) / other * 100:.0f} % {'less' if cost <= other else 'more'}"


def _quality(quality: float | None) -> str:
    return "n/a" if quality is None else f"{quality:.3f}"


def _one_line(text: str) -> str:
    return " ".join(text.split())


def _shortened(text: str) -> str:
    line = _one_line(text)
    return line if len(line) <= _PROMPT_WIDTH else line[: _PROMPT_WIDTH - 1] + "…"
