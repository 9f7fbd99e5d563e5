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

from penstock_gateway.demo.results import (
    DemoRow,
    SettingOutlook,
    Strategy,
    outlook_as_json,
    row_as_json,
    strategy_as_json,
)

NOTE = (
    "Answers, prices and latencies are SIMULATED: no language model runs and nothing is spent. "
    "Predicted quality and predicted cost come from the default router artifact; they are estimates, not measurements."
)
_TIER_STYLES = {"small": "green", "medium": "cyan", "large": "yellow", "frontier": "magenta"}
_TITLES = ("#", "prompt", "decision", "reason", "predicted\nquality", "predicted\ncost USD", "predicted\nsaved USD")
_PROMPT_WIDTH = 52
_PIPE_WIDTHS = (3, _PROMPT_WIDTH, 12, 21, 9, 11, 11)
_PIPE_TITLES = ("#", "prompt", "decision", "reason", "pred.qual", "pred.cost $", "pred.save $")
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

    def finish(self, totals: Sequence[Strategy], outlooks: Sequence[SettingOutlook], facts: dict[str, Any]) -> None:
        """Show the totals and the other settings; `facts` names artifact, trade-off, default model and base URL."""
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
        self.say(f"{heading}\n{NOTE}\n")
        self.say(_aligned(_PIPE_TITLES))
        self.say(_aligned(tuple("-" * width for width in _PIPE_WIDTHS)))

    def add(self, row: DemoRow) -> None:
        """Write one line."""
        self._rows.append(row)
        self.say(_aligned(_cells(row)))

    def finish(self, totals: Sequence[Strategy], outlooks: Sequence[SettingOutlook], facts: dict[str, Any]) -> None:
        """Write the totals."""
        self.say("\n" + "\n".join(_summary_lines(self._rows, totals, outlooks, facts)))

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

    def finish(self, totals: Sequence[Strategy], outlooks: Sequence[SettingOutlook], facts: dict[str, Any]) -> None:
        """Write the document."""
        document = {
            "note": NOTE,
            **facts,
            "prompts": [row_as_json(row) for row in self._rows],
            "decisions_by_tier": dict(Counter(row.tier for row in self._rows)),
            "decisions_by_reason": dict(Counter(row.reason for row in self._rows)),
            "totals": [strategy_as_json(strategy) for strategy in totals],
            "same_prompts_at_other_settings": [outlook_as_json(point) for point in outlooks],
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

    def finish(self, totals: Sequence[Strategy], outlooks: Sequence[SettingOutlook], facts: dict[str, Any]) -> None:
        """Print the whole table and the totals."""
        self.close()
        self._console.print(self._table(self._rows))
        for line in _summary_lines(self._rows, totals, outlooks, facts):
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
        for position, heading in enumerate(_TITLES):
            is_prompt = position == 1
            is_number = position == 0 or position > 3
            table.add_column(
                heading,
                justify="right" if is_number else "left",
                ratio=1 if is_prompt else None,
                no_wrap=True,
                overflow="ellipsis",
            )
        for row in rows:
            cells: list[str | Text] = [Text(cell) for cell in _cells(row)]
            cells[1] = Text(_one_line(row.prompt))
            cells[2] = Text(row.model, style=_TIER_STYLES.get(row.tier, ""))
            table.add_row(*cells)
        return table


def _cells(row: DemoRow) -> tuple[str, ...]:
    return (
        str(row.number),
        _shortened(row.prompt),
        row.model,
        row.reason,
        "n/a" if row.quality is None else f"{row.quality:.3f}",
        _usd(row.predicted_cost_usd),
        _usd(row.predicted_saving_usd),
    )


def _aligned(cells: Sequence[str]) -> str:
    """Pad cells to the pipe's columns: text to the left, numbers to the right."""
    padded = [
        cell.rjust(width) if position == 0 or position > 3 else cell.ljust(width)
        for position, (cell, width) in enumerate(zip(cells, _PIPE_WIDTHS, strict=True))
    ]
    return "  ".join(padded).rstrip()


def _summary_lines(
    rows: Sequence[DemoRow], totals: Sequence[Strategy], outlooks: Sequence[SettingOutlook], facts: dict[str, Any]
) -> list[str]:
    tiers = Counter(row.tier for row in rows)
    reasons = Counter(row.reason for row in rows)
    opinions = sum(1 for row in rows if row.quality is not None)
    lines = [
        f"Trade-off: {facts['tradeoff']}. Default model: {facts['default_model']}. Artifact: {facts['artifact']}.",
        f"Decisions by tier: {_counted(tiers)}.",
        f"Decisions by reason: {_counted(reasons)}.",
        "",
        f"{'strategy':<22}{'predicted quality':>19}{'predicted cost USD':>20}{'simulated cost USD':>20}",
    ]
    for total in totals:
        quality = "n/a" if total.mean_quality is None else f"{total.mean_quality:.3f}"
        lines.append(
            f"{total.name:<22}{quality:>19}{_usd(total.predicted_cost_usd):>20}{_usd(total.simulated_cost_usd):>20}"
        )
    lines.append("")
    lines += [_comparison(totals[0], other) for other in totals[1:]]
    lines.append(
        f"Predicted quality: mean over the {opinions} of {len(rows)} prompts on which the router had an opinion. "
        "Simulated cost: simulated prices times the token counts of the template answers."
    )
    lines += [
        "",
        "The same prompts at other settings of the trade-off (header x-penstock-tradeoff), all predicted:",
        "",
    ]
    lines.append(f"{'trade-off':<12}{'predicted quality':>19}{'predicted cost USD':>20}  decisions by tier")
    for point in outlooks:
        quality = "n/a" if point.mean_quality is None else f"{point.mean_quality:.3f}"
        tiers = Counter(point.decisions_by_tier)
        lines.append(f"{point.tradeoff:<12}{quality:>19}{_usd(point.predicted_cost_usd):>20}  {_counted(tiers)}")
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
        return f"{_usd(cost)} against 0 USD"
    if cost > 2 * other:
        return f"{cost / other:.1f} times as much"
    return f"{abs(cost - other) / other * 100:.0f} % {'less' if cost <= other else 'more'}"


def _usd(amount: Decimal) -> str:
    return f"{amount:.6f}"


def _one_line(text: str) -> str:
    return " ".join(text.split())


def _shortened(text: str) -> str:
    line = _one_line(text)
    return line if len(line) <= _PROMPT_WIDTH else line[: _PROMPT_WIDTH - 1] + "…"
