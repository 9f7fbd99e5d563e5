"""The demonstration's last part: five questions to one FAQ, and what the cache made of them.

Owns the questions and the reading of what the gateway answered; the gateway's own rule decides, and another rule may
decide otherwise. It draws nothing (`cache_table`). Read `play_cache_scene`.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from decimal import Decimal
from typing import Any, Final

from penstock_gateway.money.prices import format_usd

CATEGORY: Final = "faq"
SYSTEM_PROMPT: Final = "You answer questions about a shop's deliveries, in one sentence."

QUESTIONS: Final[tuple[str, ...]] = (
    # A context that was seen once serves exact repeats only, so the first question is there to be the first.
    "Which payment methods do you take?",
    "What does delivery to Peru cost?",
    # Another wording of the same question.
    "Price of delivery to Peru?",
    # One word is another one, and so is the answer.
    "What does delivery from Peru cost?",
    "What does delivery to Peru cost?",
)
"""Asked in this order, with the same system prompt."""

_STORED_SECONDS: Final = 1.0  # an answer is stored behind the response: long before, unless something is wrong
_PAUSE_SECONDS: Final = 0.005

Ask = Callable[[dict[str, Any], Mapping[str, str]], Mapping[str, str]]
"""From the body of a chat request and its headers to the headers of the response, names in lower case."""

Look = Callable[[], Mapping[str, Any]]
"""Returns the content of ``GET /v1/cache``."""


@dataclass(frozen=True, slots=True)
class CacheRow:
    """One question and what the cache made of it.

    Attributes
    ----------
    question : str
    model : str
        That answered, now or when the answer was stored.
    outcome : str
        ``hit-exact``, ``hit-semantic``, ``miss`` or ``bypass``.
    reason : str or None
        Why nothing was served; None for a hit.
    similarity : float or None
        Cosine of the stored question that was served, or came nearest; None when none was near.
    age_seconds : float or None
        Of the stored answer; None without a hit.
    saved_usd : Decimal
        Simulated cost of the stored answer; 0 without a hit.
    """

    question: str
    model: str
    outcome: str
    reason: str | None
    similarity: float | None
    age_seconds: float | None
    saved_usd: Decimal

    @property
    def is_hit(self) -> bool:
        """Whether no model was asked."""
        return self.outcome.startswith("hit")


@dataclass(frozen=True, slots=True)
class CacheScene:
    """All questions, and the terms on which they were looked up.

    Attributes
    ----------
    rows : tuple of CacheRow
    semantic : str
        ``on``, ``off``, ``not_certifiable`` or ``not_asked_for``.
    false_hit_budget : float
        False hits per request that the category allows.
    threshold : float or None
        Least probability that a hit needs; None when none is certified.
    """

    rows: tuple[CacheRow, ...]
    semantic: str
    false_hit_budget: float
    threshold: float | None


def play_cache_scene(ask: Ask, look: Look) -> CacheScene:
    """Ask all questions.

    Parameters
    ----------
    ask : Ask
    look : Look

    Returns
    -------
    CacheScene
    """
    rows: list[CacheRow] = []
    for question in QUESTIONS:
        entries = _category_row(look)["entries"]
        rows.append(cache_row(question, ask(_body(question), {"x-penstock-cache-category": CATEGORY})))
        if not rows[-1].is_hit:
            _wait_for_entries(look, entries + 1)
    terms = _category_row(look)
    return CacheScene(tuple(rows), terms["semantic"], terms["false_hit_budget"], terms["threshold"])


def cache_row(question: str, headers: Mapping[str, str]) -> CacheRow:
    """Read what the gateway said in a response's headers."""
    outcome = headers.get("x-penstock-cache", "off")
    similarity, age = headers.get("x-penstock-cache-similarity"), headers.get("x-penstock-cache-age")
    return CacheRow(
        question=question,
        model=headers["x-penstock-model"],
        outcome=outcome,
        reason=headers.get("x-penstock-cache-reason"),
        similarity=None if similarity is None else float(similarity),
        age_seconds=None if age is None else float(age),
        saved_usd=Decimal(headers.get("x-penstock-cache-saved-usd", "0")),
    )


def nearer_refusal(scene: CacheScene) -> tuple[CacheRow, CacheRow] | None:
    """Return a refused question that is nearer to a stored one than another that was answered, and that other.

    Returns
    -------
    tuple of (CacheRow, CacheRow) or None
        None when similarity alone would have decided alike.
    """
    served = [row for row in scene.rows if row.outcome == "hit-semantic"]
    refused = [row for row in scene.rows if not row.is_hit and row.similarity is not None]
    if not served or not refused:
        return None
    farthest = min(served, key=lambda row: row.similarity or 0.0)
    nearest = max(refused, key=lambda row: row.similarity or 0.0)
    return (nearest, farthest) if (nearest.similarity or 0.0) > (farthest.similarity or 0.0) else None


def scene_as_json(scene: CacheScene) -> dict[str, Any]:
    """Return the scene as plain values; every figure of an answer says *simulated* or *measured*."""
    return {
        "category": CATEGORY,
        "system_prompt": SYSTEM_PROMPT,
        "semantic": scene.semantic,
        "false_hit_budget": scene.false_hit_budget,
        "threshold": scene.threshold,
        "questions": [_row_as_json(row) for row in scene.rows],
    }


def _row_as_json(row: CacheRow) -> dict[str, Any]:
    return {
        "question": row.question,
        "model": row.model,
        "cache": row.outcome,
        "reason": row.reason,
        "measured_similarity": row.similarity,
        "measured_age_seconds": row.age_seconds,
        "simulated_saving_usd": format_usd(row.saved_usd),
    }


def _body(question: str) -> dict[str, Any]:
    system = {"role": "system", "content": SYSTEM_PROMPT}
    return {"model": "auto", "messages": [system, {"role": "user", "content": question}]}


def _category_row(look: Look) -> Mapping[str, Any]:
    rows: list[Mapping[str, Any]] = look()["categories"]
    return next(row for row in rows if row["category"] == CATEGORY)


def _wait_for_entries(look: Look, count: int) -> None:
    """Wait until an answer is stored; when it is not, the next rows show it."""
    deadline = time.monotonic() + _STORED_SECONDS
    while _category_row(look)["entries"] < count and time.monotonic() < deadline:
        time.sleep(_PAUSE_SECONDS)
