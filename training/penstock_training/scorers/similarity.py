"""Answers compared with a reference by the angle between their vectors; the weakest scorer.

Owns `SimilarityScorer`. The vectors come from `PromptEncoder`, as everywhere. Read `SimilarityScorer`.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from pathlib import Path
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from penstock_training.scorers.protocol import Scored, ScoringTask
from penstock_training.scorers.spec import read_amount, read_settings


class TextEncoder(Protocol):
    """What turns texts into unit vectors; `PromptEncoder` does."""

    def encode(self, texts: Sequence[str]) -> NDArray[np.float32]:
        """Return one row per text, (n, d), each of length 1 or 0."""
        ...


class SimilarityScorer:
    """Cosine of answer and reference, cut at 0; or 0 and 1 by a threshold.

    Parameters
    ----------
    encoder : TextEncoder
    threshold : float or None, in [0, 1]
        From this cosine on the score is 1, else 0; the cosine itself is the score when None.

    Notes
    -----
    An encoder sees what a text is about, hardly what it claims: "is safe" and "is not safe" lie close together, and so
    do two numbers. docs/scoring.md states the measured discrimination. Use it where nothing better can be had.
    """

    name = "similarity"

    def __init__(self, encoder: TextEncoder, *, threshold: float | None = None) -> None:
        self._encoder = encoder
        self._threshold = threshold

    @classmethod
    def from_parameter(cls, parameter: str, folder: Path | None) -> SimilarityScorer:
        """Make the scorer of ``similarity`` or ``similarity:threshold=0.8``.

        Raises
        ------
        TrainingError
            Code ``scorer_spec``.
        RouterError
            The encoder cannot be opened.
        """
        from penstock_routers.bundled import DEFAULT_ENCODER, bundled_folder
        from penstock_routers.encoder import PromptEncoder

        text = read_settings("similarity", parameter, {"threshold": ""})["threshold"]
        threshold = read_amount("similarity", "threshold", text, highest=1.0) if text else None
        return cls(PromptEncoder.load(folder or bundled_folder(DEFAULT_ENCODER)), threshold=threshold)

    def estimate_cost_usd(self, prompts: int, arms: int) -> float:
        """Return 0: nothing is paid for."""
        return 0.0

    async def score_all(self, tasks: Sequence[ScoringTask]) -> list[Scored]:
        """Compare each answer; see `Scorer.score_all`."""
        return await asyncio.to_thread(lambda: [self._score(task) for task in tasks])

    async def aclose(self) -> None:
        """Nothing is held."""

    def _score(self, task: ScoringTask) -> Scored:
        if not (task.reference or "").strip():
            return Scored(None, "there is no reference to compare with")
        if not task.answer.strip():
            return Scored(0.0, "the answer is empty")
        given, wanted = self._encoder.encode([task.answer, task.reference or ""])
        cosine = min(1.0, max(0.0, float(given @ wanted)))
        score = cosine if self._threshold is None else float(cosine >= self._threshold)
        return Scored(score, f"cosine {cosine:.3f}")
