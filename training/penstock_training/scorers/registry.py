"""Scorers by name: ``build_scorer("exact", options)``.

Owns the list of names. Must not score anything but `exact`, which is small enough to stand here. Read `build_scorer`.
"""

from __future__ import annotations

from collections.abc import Sequence

from penstock_training.errors import TrainingError
from penstock_training.scorers.options import ScorerOptions
from penstock_training.scorers.protocol import Scored, Scorer, ScoringTask


class ExactScorer:
    """1 when answer and reference are equal but for white space and case, 0 otherwise."""

    name = "exact"

    def estimate_cost_usd(self, prompts: int, arms: int) -> float:
        """Nothing is called, so nothing is paid."""
        return 0.0

    async def score_all(self, tasks: Sequence[ScoringTask]) -> list[Scored]:
        """Compare each answer with its reference."""
        return [self._score(task) for task in tasks]

    async def aclose(self) -> None:
        """Hold nothing."""

    def _score(self, task: ScoringTask) -> Scored:
        if task.reference is None:
            return Scored(None, "no reference")
        is_equal = " ".join(task.answer.split()).casefold() == " ".join(task.reference.split()).casefold()
        return Scored(float(is_equal), "equal" if is_equal else "different")


def build_scorer(spec: str, options: ScorerOptions) -> Scorer:
    """Make a scorer from its spec.

    Parameters
    ----------
    spec : str
        ``exact``.
    options : ScorerOptions

    Returns
    -------
    Scorer

    Raises
    ------
    TrainingError
        ``scorer_unknown``.
    """
    if spec != "exact":
        raise TrainingError(f"there is no scorer {spec[:40]!r}; there are: exact", code="scorer_unknown")
    return ExactScorer()
