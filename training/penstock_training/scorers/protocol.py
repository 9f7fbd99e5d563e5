"""The contract between whoever gathers answers and whoever scores them.

Owns `ScoringTask`, `Scored` and `Scorer`; holds no scoring. Read `Scorer` first.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol


@dataclass(frozen=True, slots=True)
class ScoringTask:
    """One arm's answer to one prompt, to be scored.

    Attributes
    ----------
    prompt : str
        What was asked, as the model saw it.
    answer : str
        What the arm answered; may be empty.
    reference : str or None
        What the answer is compared with: the expected answer, or the tests of a `code` task; None when there is none.
    arm : str
        Who answered.
    query_id : str
        Identifies the prompt within its source.
    """

    prompt: str
    answer: str
    reference: str | None
    arm: str
    query_id: str


@dataclass(frozen=True, slots=True)
class Scored:
    """What a scorer makes of one answer.

    Attributes
    ----------
    score : float or None, in [0, 1]
        How good the answer is; None when it could not be scored, which is not the same as 0.
    reason : str
        Why, in a few words; holds no prompt text.
    cost_usd : float
        What scoring this answer cost, USD; >= 0.
    """

    score: float | None
    reason: str
    cost_usd: float = 0.0


class Scorer(Protocol):
    """Scores the answers of several arms to one prompt.

    Attributes
    ----------
    name : str
        As in the registry.
    """

    name: str

    def estimate_cost_usd(self, prompts: int, arms: int) -> float:
        """Estimate what scoring costs before it begins.

        Parameters
        ----------
        prompts : int
            Number of prompts, >= 0.
        arms : int
            Number of arms that answer each of them, >= 0.

        Returns
        -------
        float
            USD; 0 for scorers that call no paid model.
        """
        ...

    async def score_all(self, tasks: Sequence[ScoringTask]) -> list[Scored]:
        """Score the answers of all arms to one prompt.

        Parameters
        ----------
        tasks : sequence of ScoringTask
            One per arm, all with the same `prompt` and `query_id`.

        Returns
        -------
        list of Scored
            As many as `tasks`, in the same order.

        Raises
        ------
        TrainingError
            Scoring cannot go on at all; codes of the scorer.
        """
        ...

    async def aclose(self) -> None:
        """Give back what the scorer holds: connections, processes, files."""
        ...
