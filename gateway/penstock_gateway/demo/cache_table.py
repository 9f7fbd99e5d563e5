"""Draws the cache's part of the demonstration as aligned text, for a terminal and a pipe alike.

Owns the drawing only. Read `cache_lines`.
"""

from __future__ import annotations

from decimal import Decimal
from typing import Final

from penstock_gateway.demo.cache_scene import CATEGORY, CacheRow, CacheScene, nearer_refusal
from penstock_gateway.demo.text_layout import aligned, headings, usd, wrapped
from penstock_gateway.money.prices import format_usd

_TITLES: Final = ("question", "cache", "cosine", "age\ns", "simulated\nsaved USD")
_RIGHT: Final = range(2, 5)
_NARROWEST_QUESTION: Final = 24


def cache_lines(scene: CacheScene, width: int) -> list[str]:
    """Return the scene as lines.

    Parameters
    ----------
    scene : CacheScene
    width : int
        Columns, at least 80.

    Returns
    -------
    list of str
        None longer than `width`.
    """
    opening = f"The answer cache, in the same gateway: {len(scene.rows)} questions with one system prompt, category "
    opening += f"{CATEGORY} (header x-penstock-cache-category)."
    return [*wrapped(opening, width), "", *_table(scene, width), "", *_notes(scene, width)]


def _table(scene: CacheScene, width: int) -> list[str]:
    cells = [_cells(row) for row in scene.rows]
    titles = [max(len(line) for line in title.split("\n")) for title in _TITLES]
    widths = [max(title, *(len(row[column]) for row in cells)) for column, title in enumerate(titles)]
    spare = width - sum(widths[1:]) - 2 * (len(widths) - 1)
    widths[0] = min(widths[0], max(spare, _NARROWEST_QUESTION))
    shown = [(_cut(row[0], widths[0]), *row[1:]) for row in cells]
    return [*headings(_TITLES, widths, _RIGHT), *(aligned(row, widths, _RIGHT) for row in shown)]


def _notes(scene: CacheScene, width: int) -> list[str]:
    hits = [row for row in scene.rows if row.is_hit]
    saved = sum((row.saved_usd for row in hits), Decimal(0))
    if scene.threshold is None:
        rule = f"Other wordings are not answered here: semantic hits are {scene.semantic.replace('_', ' ')}."
    else:
        rule = f"Another wording is answered where the bundled rule gives at least {scene.threshold:.3f}, which is "
        rule += f"certified for at most {100 * scene.false_hit_budget:g} % of requests answered wrongly."
    answered = f"From the cache: {len(hits)} of {len(scene.rows)} answers"
    notes = [f"{answered}; {format_usd(saved)} USD (simulated) saved.", rule]
    found = nearer_refusal(scene)
    if found is not None:
        refused, served = found
        notes.append(
            f"No threshold on the cosine could do this: “{refused.question}”, which was refused, is nearer to a stored "
            f"question ({refused.similarity:.3f}) than “{served.question}”, which was answered "
            f"({served.similarity:.3f})."
        )
    notes.append(
        "Cosine: of the nearest stored question, by the search encoder. A context, here the system prompt, that was "
        "seen once serves exact repeats only."
    )
    return [line for note in notes for line in wrapped(note, width)]


def _cells(row: CacheRow) -> tuple[str, ...]:
    return (
        row.question,
        row.outcome if row.reason is None else f"{row.outcome}, {row.reason}",
        "-" if row.similarity is None else f"{row.similarity:.3f}",
        "-" if row.age_seconds is None else f"{row.age_seconds:.0f}",
        usd(row.saved_usd),
    )


def _cut(text: str, width: int) -> str:
    return text if len(text) <= width else text[: width - 1] + "…"
