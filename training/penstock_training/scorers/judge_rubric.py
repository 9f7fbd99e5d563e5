"""A judging model grades each answer by a rubric.

Owns `RubricJudge` and the rubric's file. Read `RubricJudge`.
"""

from __future__ import annotations

import asyncio
import math
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Final

from penstock_training.errors import TrainingError
from penstock_training.scorers.judge_client import JudgeClient, JudgeSettings
from penstock_training.scorers.judge_prompts import DEFAULT_RUBRIC, RUBRIC, enclosed, mark_of
from penstock_training.scorers.options import ScorerOptions
from penstock_training.scorers.protocol import Scored, ScoringTask
from penstock_training.scorers.verdict_log import GradeVerdict, append_verdict

EXPECTED_INPUT_TOKENS: Final = 1_100
EXPECTED_OUTPUT_TOKENS: Final = 80
_MAX_RUBRIC_CHARACTERS: Final = 20_000
_SCALE: Final = re.compile(r"\A\s*scale\s*:\s*(\d+)\s*(?:-|–|to)\s*(\d+)\s*(?:\n|\Z)", re.IGNORECASE)


class RubricJudge:
    """The judge's grade on a scale, brought to [0, 1].

    Parameters
    ----------
    client : JudgeClient
    rubric : str
        What each grade means.
    lowest, highest : int
        Ends of the scale; lowest < highest.
    verdict_log : Path or None
    seed : int
        Changes the marks around texts.

    Notes
    -----
    ``score = (grade − lowest) / (highest − lowest)``. A grade is not a probability: calibrate the router that is fitted
    on it, and compare with human labels before trusting it (``penstock-train judge-report``). Empty answers score 0
    without being judged.
    """

    name = "judge-rubric"

    def __init__(
        self,
        client: JudgeClient,
        *,
        rubric: str,
        lowest: int = 1,
        highest: int = 5,
        verdict_log: Path | None = None,
        seed: int = 0,
    ) -> None:
        self._client = client
        self._rubric = rubric
        self._lowest = lowest
        self._highest = highest
        self._verdict_log = verdict_log
        self._seed = seed

    @classmethod
    def from_options(cls, parameter: str, options: ScorerOptions) -> RubricJudge:
        """Make the judge of ``judge-rubric`` or ``judge-rubric:FILE``.

        The file is plain text; a first line ``scale: 0-10`` sets the scale, which is 1 to 5 otherwise.

        Raises
        ------
        TrainingError
            Code ``scorer_spec`` for the file; ``judge_settings``.
        """
        rubric, lowest, highest = read_rubric(Path(parameter)) if parameter else (DEFAULT_RUBRIC, 1, 5)
        if not parameter:
            rubric = rubric.format(lowest=lowest, highest=highest)
        client = JudgeClient(JudgeSettings.from_options(options))
        return cls(
            client,
            rubric=rubric,
            lowest=lowest,
            highest=highest,
            verdict_log=options.verdict_log,
            seed=options.seed,
        )

    def estimate_cost_usd(self, prompts: int, arms: int) -> float:
        """Estimate the cost of judging, USD: one call per answer, of an assumed length and the rubric's."""
        sent = EXPECTED_INPUT_TOKENS + len(self._rubric) / 4
        return prompts * arms * self._client.settings.cost_usd(sent, EXPECTED_OUTPUT_TOKENS)

    async def score_all(self, tasks: Sequence[ScoringTask]) -> list[Scored]:
        """Grade each answer; see `Scorer.score_all`.

        Raises
        ------
        TrainingError
            Code ``judge_refused``; ``verdict_log``.
        """
        return list(await asyncio.gather(*(self._score(task) for task in tasks)))

    async def aclose(self) -> None:
        """Close the connections."""
        await self._client.aclose()

    async def _score(self, task: ScoringTask) -> Scored:
        if not task.answer.strip():
            return Scored(0.0, "the answer is empty")
        mark = mark_of(str(self._seed), task.prompt, task.answer)
        parts = [enclosed("PROMPT", task.prompt, mark), enclosed("ANSWER", task.answer, mark)]
        if (task.reference or "").strip():
            parts.insert(1, enclosed("CORRECT ANSWER", task.reference or "", mark))
        instructions = RUBRIC.format(mark=mark, lowest=self._lowest, highest=self._highest, rubric=self._rubric)
        question = "\n\n".join([*parts, "Grade the answer. Reply with the JSON object only."])
        reply = await self._client.ask(instructions, question, self._is_verdict)
        if reply.verdict is None:
            return Scored(None, reply.failure, reply.cost_usd)
        grade = float(reply.verdict["grade"])
        score = (grade - self._lowest) / (self._highest - self._lowest)
        verdict = GradeVerdict(
            model=self._client.settings.model,
            query_id=task.query_id,
            arm=task.arm,
            grade=grade,
            score=score,
            arm_characters=len(task.answer),
        )
        append_verdict(self._verdict_log, verdict)
        return Scored(score, f"grade {grade:g} of {self._lowest} to {self._highest}", reply.cost_usd)

    def _is_verdict(self, found: dict[str, Any]) -> bool:
        grade = found.get("grade")
        if isinstance(grade, bool) or not isinstance(grade, int | float):
            return False
        return math.isfinite(grade) and self._lowest <= grade <= self._highest


def read_rubric(path: Path) -> tuple[str, int, int]:
    """Read a rubric.

    Parameters
    ----------
    path : Path

    Returns
    -------
    (rubric, lowest, highest)

    Raises
    ------
    TrainingError
        Code ``scorer_spec``: no such file, blank, longer than 20,000 characters, or a scale without a width.
    """
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise TrainingError(f"the rubric {str(path)!r} cannot be read", code="scorer_spec") from error
    lowest, highest = 1, 5
    if match := _SCALE.match(text):
        lowest, highest = int(match[1]), int(match[2])
        text = text[match.end() :]
    if not text.strip() or len(text) > _MAX_RUBRIC_CHARACTERS:
        raise TrainingError(
            f"the rubric {str(path)!r} is blank or longer than {_MAX_RUBRIC_CHARACTERS:,} characters",
            code="scorer_spec",
        )
    if lowest >= highest:
        raise TrainingError(f"the scale of the rubric {str(path)!r} has no width", code="scorer_spec")
    return text.strip(), lowest, highest
