"""A judging model compares each arm's answer with a reference arm's, in both orders.

Owns `PairwiseJudge`: who is compared with whom, and how two verdicts make a score. Read `PairwiseJudge`.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Final

from penstock_training.errors import TrainingError
from penstock_training.scorers.judge_client import JudgeClient, JudgeReply, JudgeSettings
from penstock_training.scorers.judge_prompts import PAIRWISE, enclosed, mark_of
from penstock_training.scorers.options import ScorerOptions
from penstock_training.scorers.protocol import Scored, ScoringTask
from penstock_training.scorers.verdict_log import PairVerdict, append_verdict

# For the estimate before anything was asked: two answers of some 500 tokens, the prompt, the instructions.
EXPECTED_INPUT_TOKENS: Final = 1_600
EXPECTED_OUTPUT_TOKENS: Final = 80


class PairwiseJudge:
    """1 when the answer is better than the reference arm's, 0.5 when as good, 0 when worse.

    Parameters
    ----------
    client : JudgeClient
    reference_arm : str or None
        Whose answer the others are compared with; its own answer scores 0.5 without being judged. The task's reference
        text is the opponent when None.
    verdict_log : Path or None
    seed : int
        Changes the marks around texts.

    Notes
    -----
    Each pair is judged in both orders. Better or worse counts when both orders say so; everything else is a tie, as a
    judge that changes its mind with the order has not seen a difference. Equal answers are a tie and empty ones lose,
    without being judged. The scale is relative: 0.5 means "as good as the reference arm's", whatever that is worth.

    References
    ----------
    Zheng et al., "Judging LLM-as-a-Judge with MT-Bench and Chatbot Arena" (NeurIPS 2023), section 3.4: swapping
    positions, conservative ties.
    """

    name = "judge-pairwise"

    def __init__(
        self, client: JudgeClient, *, reference_arm: str | None = None, verdict_log: Path | None = None, seed: int = 0
    ) -> None:
        self._client = client
        self._reference_arm = reference_arm
        self._verdict_log = verdict_log
        self._seed = seed

    @classmethod
    def from_options(cls, parameter: str, options: ScorerOptions) -> PairwiseJudge:
        """Make the judge.

        Raises
        ------
        TrainingError
            Code ``scorer_spec`` for a parameter; ``judge_settings``.
        """
        if parameter:
            raise TrainingError("the scorer `judge-pairwise` takes no parameter", code="scorer_spec")
        client = JudgeClient(JudgeSettings.from_options(options))
        return cls(client, reference_arm=options.reference_arm, verdict_log=options.verdict_log, seed=options.seed)

    def estimate_cost_usd(self, prompts: int, arms: int) -> float:
        """Estimate the cost of judging, USD: two calls per prompt and compared arm, of an assumed length."""
        compared = max(0, arms - 1) if self._reference_arm is not None else arms
        one = self._client.settings.cost_usd(EXPECTED_INPUT_TOKENS, EXPECTED_OUTPUT_TOKENS)
        return 2 * prompts * compared * one

    async def score_all(self, tasks: Sequence[ScoringTask]) -> list[Scored]:
        """Compare each answer with the opponent's; see `Scorer.score_all`.

        Raises
        ------
        TrainingError
            Code ``judge_refused``; ``verdict_log``.
        """
        reference = next((task for task in tasks if task.arm == self._reference_arm), None)
        return list(await asyncio.gather(*(self._score(task, reference) for task in tasks)))

    async def aclose(self) -> None:
        """Close the connections."""
        await self._client.aclose()

    async def _score(self, task: ScoringTask, reference: ScoringTask | None) -> Scored:
        if reference is task:
            return Scored(0.5, "the reference arm itself")
        if self._reference_arm is not None:
            if reference is None:
                return Scored(None, "the reference arm has no answer to compare with")
            opponent = reference.answer
        elif (task.reference or "").strip():
            opponent = task.reference or ""
        else:
            return Scored(None, "there is neither a reference arm nor a reference to compare with")
        if task.answer.strip() == opponent.strip():
            return Scored(0.5, "equal to the answer it is compared with")
        if not task.answer.strip() or not opponent.strip():
            return Scored(float(bool(task.answer.strip())), "one of the two answers is empty")
        return await self._judge(task, opponent)

    async def _judge(self, task: ScoringTask, opponent: str) -> Scored:
        asked = (self._ask(task, task.answer, opponent), self._ask(task, opponent, task.answer))
        replies = await asyncio.gather(*asked)
        cost_usd = sum(reply.cost_usd for reply in replies)
        verdicts = [reply.verdict for reply in replies]
        if verdicts[0] is None or verdicts[1] is None:
            return Scored(None, next(reply.failure for reply in replies if reply.failure), cost_usd)
        verdict = PairVerdict(
            model=self._client.settings.model,
            query_id=task.query_id,
            arm=task.arm,
            opponent=self._reference_arm or "",
            arm_first=verdicts[0]["winner"],
            arm_second=verdicts[1]["winner"],
            arm_characters=len(task.answer),
            opponent_characters=len(opponent),
        )
        append_verdict(self._verdict_log, verdict)
        word = {1.0: "better", 0.0: "worse", 0.5: "as good"}[verdict.score]
        return Scored(verdict.score, word if verdict.is_consistent else "the verdict changed with the order", cost_usd)

    async def _ask(self, task: ScoringTask, first: str, second: str) -> JudgeReply:
        mark = mark_of(str(self._seed), task.prompt, first, second)
        parts = [
            enclosed("PROMPT", task.prompt, mark),
            enclosed("FIRST ANSWER", first, mark),
            enclosed("SECOND ANSWER", second, mark),
        ]
        if self._reference_arm is not None and (task.reference or "").strip():
            parts.insert(1, enclosed("CORRECT ANSWER", task.reference or "", mark))
        question = "\n\n".join([*parts, "Which answer is better? Reply with the JSON object only."])
        return await self._client.ask(PAIRWISE.format(mark=mark), question, _is_verdict)


def _is_verdict(found: dict[str, Any]) -> bool:
    return found.get("winner") in ("first", "second", "tie")
