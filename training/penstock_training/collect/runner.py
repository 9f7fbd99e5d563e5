"""Runs a plan: prompt by prompt through all arms, graded, within the budget, everything in the journal at once.

Owns the order of work and when it stops. HTTP is in `calls`, money in `budget`, the file in `journal`, the rows that
come out in `outcome_rows`. Read `collect_outcomes`.
"""

from __future__ import annotations

import asyncio
import math
import time
from collections import Counter
from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace
from decimal import Decimal
from enum import StrEnum
from typing import Final

from penstock_training.collect.budget import Ledger, call_bound_usd
from penstock_training.collect.calls import Attempt, ChatClient
from penstock_training.collect.journal import CallEnded, Journal, PromptScored
from penstock_training.collect.plan import CollectPlan, usd
from penstock_training.collect.prompts import CollectPrompt
from penstock_training.errors import TrainingError
from penstock_training.scorers.protocol import Scorer, ScoringTask

MAX_FAILURES_IN_A_ROW: Final = 10
"""Prompts that an arm may fail one after another, repeats included; beyond, the other arms' answers to further prompts
would be paid for without a comparison."""


class RunEnd(StrEnum):
    """Why a run ended."""

    COMPLETE = "complete"
    INCOMPLETE = "incomplete"
    BUDGET = "budget_used"
    STOPPED = "stopped"
    ARM_FAILING = "arm_failing"


@dataclass(frozen=True, slots=True)
class RunProgress:
    """How far a run is.

    Attributes
    ----------
    cells_done, cells_total : int
        Answers and time-outs, of prompts times arms.
    prompts_complete, prompts_total : int
    spent_usd : Decimal
    budget_usd : Decimal or None
    """

    cells_done: int
    cells_total: int
    prompts_complete: int
    prompts_total: int
    spent_usd: Decimal
    budget_usd: Decimal | None


Report = Callable[[RunProgress], None]


@dataclass(frozen=True, slots=True)
class Workplace:
    """What a run works with.

    Attributes
    ----------
    client : ChatClient
    scorer : Scorer
    journal : Journal
    ledger : Ledger
    concurrency : int
        Calls under way at once; >= 1.
    scorings : int
        Prompts that are scored at once; 1 for a person.
    report : callable
        Called with a `RunProgress` after every cell.
    """

    client: ChatClient
    scorer: Scorer
    journal: Journal
    ledger: Ledger
    concurrency: int
    scorings: int
    report: Report


async def collect_outcomes(plan: CollectPlan, work: Workplace, stop: asyncio.Event) -> RunEnd:
    """Ask everything that the journal does not hold yet.

    Parameters
    ----------
    plan : CollectPlan
    work : Workplace
    stop : asyncio.Event
        When set, no further prompt is begun, and what is under way is finished.

    Returns
    -------
    RunEnd

    Raises
    ------
    TrainingError
        ``arm_refused``, ``scorer_broken``, or what the scorer raises; calls under way are finished before.

    Notes
    -----
    A prompt is begun only when the budget has room for one call to each of its missing arms and for their scoring, so
    that what is begun can be completed. When it has none, calls under way are awaited, since they mostly cost less
    than was held for them; when none is left the run ends. It does not look for a cheaper prompt further on: that would
    fill the sample with short ones.
    """
    return await _Run(plan, work, stop).run()


class _Run:
    """State of one run."""

    def __init__(self, plan: CollectPlan, work: Workplace, stop: asyncio.Event) -> None:
        self._plan, self._work, self._stop = plan, work, stop
        self._calls = asyncio.Semaphore(work.concurrency)
        self._scorings = asyncio.Semaphore(work.scorings)
        self._window = math.ceil(work.concurrency / len(plan.arms)) + 1
        self._running: set[asyncio.Task[None]] = set()
        self._error: BaseException | None = None
        self._is_scoring_known = False
        self._failures_in_a_row: Counter[str] = Counter()
        self._progress = count_progress(plan, work.journal, work.ledger)

    async def run(self) -> RunEnd:
        """Begin prompts in their order until something ends it."""
        end = RunEnd.COMPLETE
        self._report()
        try:
            for prompt in [entry.prompt for entry in self._plan.prompts]:
                end = await self._begin(prompt)
                if end is not RunEnd.COMPLETE:
                    break
            while self._running:
                await self._wait()
        finally:
            for task in self._running:
                task.cancel()
            await asyncio.gather(*self._running, return_exceptions=True)
        if self._error is not None:
            raise self._error
        is_complete = all(self._is_complete(entry.prompt.key) for entry in self._plan.prompts)
        return RunEnd.INCOMPLETE if end is RunEnd.COMPLETE and not is_complete else end

    async def _begin(self, prompt: CollectPrompt) -> RunEnd:
        """Start one prompt as soon as there is room for it; anything but COMPLETE says why it was not started."""
        state = self._work.journal.state
        missing = state.missing_arms(prompt.key, self._plan.arms)
        if not missing and not state.needs_scoring(prompt.key, self._plan.arms):
            return RunEnd.COMPLETE
        # A scorer's estimate is no bound, so the first prompt goes alone: what grading it costs scales all later ones.
        is_probing = not self._is_scoring_known and self._work.scorer.estimate_cost_usd(1, len(self._plan.arms)) > 0
        while len(self._running) >= (1 if is_probing else self._window):
            await self._wait()
            is_probing = is_probing and not self._is_scoring_known
        while True:
            if self._stop.is_set() or self._error is not None:
                return RunEnd.STOPPED
            if any(count >= MAX_FAILURES_IN_A_ROW for count in self._failures_in_a_row.values()):
                return RunEnd.ARM_FAILING
            purses = {arm: _CellPurse(self._work, prompt, arm, self._bound(prompt, arm)) for arm in missing}
            scoring = self._work.ledger.bound_usd("", usd(self._work.scorer.estimate_cost_usd(1, len(self._plan.arms))))
            if self._work.ledger.reserve(scoring + sum((p.bound_usd for p in purses.values()), Decimal(0))):
                break
            if not self._running:
                return RunEnd.BUDGET
            await self._wait()
        self._running.add(asyncio.create_task(self._one_prompt(prompt, purses, scoring)))
        return RunEnd.COMPLETE

    async def _wait(self) -> None:
        """Let a prompt finish; the first error of any is kept."""
        done, self._running = await asyncio.wait(self._running, return_when=asyncio.FIRST_COMPLETED)
        for task in done:
            self._error = self._error or task.exception()

    async def _one_prompt(self, prompt: CollectPrompt, purses: dict[str, _CellPurse], scoring_usd: Decimal) -> None:
        is_scored = False
        try:
            cells = (self._one_cell(prompt, arm, purse) for arm, purse in purses.items())
            # All arms are awaited whatever happens to one: their answers are paid for.
            for result in await asyncio.gather(*cells, return_exceptions=True):
                if isinstance(result, BaseException):
                    raise result
            if self._work.journal.state.needs_scoring(prompt.key, self._plan.arms):
                is_scored = True
                await self._score(prompt, scoring_usd)
        finally:
            for purse in purses.values():
                purse.close()
            if not is_scored:
                self._work.ledger.release(scoring_usd)
        self._report(prompts=int(self._is_complete(prompt.key)))

    async def _one_cell(self, prompt: CollectPrompt, arm: str, purse: _CellPurse) -> None:
        async with self._calls:
            result = await self._work.client.ask(prompt, arm, purse, self._plan.prices[arm])
        is_failed = result.result == "failed"
        self._failures_in_a_row[arm] = self._failures_in_a_row[arm] + 1 if is_failed else 0
        self._report(cells=int(not is_failed))

    async def _score(self, prompt: CollectPrompt, bound_usd: Decimal) -> None:
        journal, scorer = self._work.journal, self._work.scorer
        arms = journal.state.answered_arms(prompt.key, self._plan.arms)
        tasks = [
            ScoringTask(
                prompt.prompt, journal.state.ended[prompt.key, arm].answer or "", prompt.reference, arm, prompt.query_id
            )
            for arm in arms
        ]
        charge = bound_usd  # what is charged if the scorer fails half-way
        try:
            async with self._scorings:
                call = journal.begin_call(prompt.key, "", bound_usd)
                scored = await scorer.score_all(tasks)
            charge = sum((usd(one.cost_usd) for one in scored), Decimal(0))
            _refuse_bad_scores(scorer.name, len(tasks), [one.score for one in scored])
            scores = {arm: (one.score, one.reason) for arm, one in zip(arms, scored, strict=True)}
            journal.end_call(PromptScored(call, prompt.key, scores, charge))
        finally:
            self._work.ledger.settle("", bound_usd, charge)
            self._is_scoring_known = True

    def _bound(self, prompt: CollectPrompt, arm: str) -> Decimal:
        return self._work.ledger.bound_usd(arm, call_bound_usd(prompt, self._plan.prices[arm], self._plan.max_tokens))

    def _is_complete(self, key: str) -> bool:
        state = self._work.journal.state
        return not state.missing_arms(key, self._plan.arms) and not state.needs_scoring(key, self._plan.arms)

    def _report(self, *, cells: int = 0, prompts: int = 0) -> None:
        before = self._progress
        self._progress = replace(
            before,
            cells_done=before.cells_done + cells,
            prompts_complete=before.prompts_complete + prompts,
            spent_usd=self._work.ledger.spent_usd,
        )
        self._work.report(self._progress)


def count_progress(plan: CollectPlan, journal: Journal, ledger: Ledger) -> RunProgress:
    """How far earlier runs have come."""
    state = journal.state
    missing = [len(state.missing_arms(entry.prompt.key, plan.arms)) for entry in plan.prompts]
    total = len(plan.prompts) * len(plan.arms)
    complete = sum(
        1
        for entry, left in zip(plan.prompts, missing, strict=True)
        if not left and not state.needs_scoring(entry.prompt.key, plan.arms)
    )
    return RunProgress(total - sum(missing), total, complete, len(plan.prompts), ledger.spent_usd, ledger.budget_usd)


class _CellPurse:
    """Accounts for the attempts of one cell: the first was reserved with its prompt, each further one asks anew."""

    def __init__(self, work: Workplace, prompt: CollectPrompt, arm: str, bound_usd: Decimal) -> None:
        self.bound_usd = bound_usd
        self._work, self._key, self._arm = work, prompt.key, arm
        self._is_held = True
        self._call: int | None = None

    def begin(self) -> bool:
        """Hold the bound of an attempt and write its start down."""
        if not self._is_held and not self._work.ledger.reserve(self.bound_usd):
            return False
        self._is_held = True
        self._call = self._work.journal.begin_call(self._key, self._arm, self.bound_usd)
        return True

    def end(self, attempt: Attempt) -> None:
        """Charge an attempt and write its end down."""
        assert self._call is not None
        charge = self.bound_usd if attempt.charge_usd is None else attempt.charge_usd
        result = attempt.result
        self._work.journal.end_call(
            CallEnded(
                self._call,
                self._key,
                self._arm,
                result.result,
                charge,
                time.time(),
                round(result.latency_seconds, 4),
                result.answer,
                result.input_tokens,
                result.output_tokens,
                result.cost_usd,
                result.finish_reason,
                result.reason,
            )
        )
        self._settle(charge)

    def close(self) -> None:
        """Give back what no attempt used; an attempt that was broken off counts as the most it can have cost."""
        if self._call is not None:
            self._settle(self.bound_usd)
        elif self._is_held:
            self._work.ledger.release(self.bound_usd)
            self._is_held = False

    def _settle(self, charge_usd: Decimal) -> None:
        self._work.ledger.settle(self._arm, self.bound_usd, charge_usd)
        self._is_held, self._call = False, None


def _refuse_bad_scores(name: str, tasks: int, scores: Iterable[float | None]) -> None:
    found = list(scores)
    if len(found) != tasks or not all(score is None or 0.0 <= score <= 1.0 for score in found):
        message = f"the scorer {name!r} gave {len(found)} scores for {tasks} answers, or one outside [0, 1]"
        raise TrainingError(message, code="scorer_broken")
