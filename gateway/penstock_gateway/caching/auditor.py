"""Puts the question of a hit to the model all the same, and notes whether the stored answer was right.

Owns the sampling, the calls and their bill, and where a finding goes. A failure in here is counted and never seen by a
client; no prompt and no answer is logged. Read `Auditor.consider`.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Coroutine
from dataclasses import dataclass
from decimal import Decimal
from typing import Any, Final

from penstock_cache.audit import audit_draw
from penstock_cache.entries import CachedDocument
from penstock_cache.judging import EntryJudge
from penstock_cache.lookups import SHARED_TENANT
from penstock_gateway.caching.agreement import AnswerComparison, answer_text
from penstock_gateway.caching.audit_accounts import Account
from penstock_gateway.caching.model_calls import ModelCalls
from penstock_gateway.caching.steering import CategorySteering, SearchTerms
from penstock_gateway.decisions import RouteDecision
from penstock_gateway.metrics_cache import CacheMetrics
from penstock_gateway.money.prices import format_usd
from penstock_gateway.request_body import ChatRequest

CONTROL_SHARE: Final = 0.5
"""Of the audits: the correction for the model's own unsteadiness is about as uncertain as what it corrects."""

MOST_AT_ONCE: Final = 4
"""Audits under way; a burst of hits leaves further ones out rather than holding their answers in memory."""

_log = logging.getLogger("penstock.cache")


@dataclass(frozen=True, slots=True)
class AuditCase:
    """One hit that may be audited.

    Attributes
    ----------
    request : ChatRequest
    decision : RouteDecision
        Which deployment would have answered. Its id is what the draws depend on: the gateway makes it, so a client can
        neither choose nor repeat it.
    document : CachedDocument
        What was served, or would have been.
    question : str
        The last user text.
    category : str
        Under which the request was looked up.
    terms : SearchTerms
        On which it was.
    """

    request: ChatRequest
    decision: RouteDecision
    document: CachedDocument
    question: str
    category: str
    terms: SearchTerms


@dataclass(frozen=True, slots=True)
class Finding:
    """What the audit of one hit found.

    Attributes
    ----------
    case : AuditCase
    is_right : bool
    is_steady : bool or None
        Whether the model agreed with itself; None when it was asked once.
    """

    case: AuditCase
    is_right: bool
    is_steady: bool | None


class _AuditSkippedError(Exception):
    """There is nothing to compare; the outcome says why."""

    def __init__(self, outcome: str) -> None:
        super().__init__(outcome)
        self.outcome = outcome


@dataclass(slots=True)
class _Bill:
    cost_usd: Decimal = Decimal(0)


class Auditor:
    """Audits hits in the background.

    Parameters
    ----------
    calls : ModelCalls
    comparison : AnswerComparison
    steering : CategorySteering
    judge : EntryJudge
        Is told what is found about an entry.
    account : Account
    rate : float, in [0, 1]
        Share of served hits.
    metrics : CacheMetrics
    clock : callable
        Unix time, seconds.
    secret : bytes
        Of the draws.
    on_finding : callable
        Is told of every audit that found something.
    """

    def __init__(
        self,
        calls: ModelCalls,
        comparison: AnswerComparison,
        steering: CategorySteering,
        judge: EntryJudge,
        account: Account,
        *,
        rate: float,
        metrics: CacheMetrics,
        clock: Callable[[], float],
        secret: bytes,
        on_finding: Callable[[Finding], None] = lambda _: None,
    ) -> None:
        self._calls = calls
        self._comparison = comparison
        self._steering = steering
        self._judge = judge
        self._account = account
        self._rate = rate
        self._metrics = metrics
        self._clock = clock
        self._secret = secret
        self._on_finding = on_finding
        self._tasks: set[asyncio.Task[None]] = set()

    def consider(self, case: AuditCase) -> None:
        """Audit a hit that has been served, if it is drawn.

        Parameters
        ----------
        case : AuditCase
        """
        if self._is_drawn(case):
            self._begin(case, self._against_the_model(case))

    def consider_shadow(self, case: AuditCase, answer: bytes) -> None:
        """Audit a hit that was not served, because its category is off, with the answer that the client got.

        Parameters
        ----------
        case : AuditCase
        answer : bytes
            The model's completion. It has been paid for, so every such hit is audited; only the control is drawn.
        """
        self._begin(case, self._against_the_answer(case, answer))

    async def aclose(self) -> None:
        """Give up what is under way; a call that was sent is charged."""
        tasks = tuple(self._tasks)
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    def _is_drawn(self, case: AuditCase) -> bool:
        return audit_draw(self._secret, case.decision.id, "hit") < self._rate

    def _has_control(self, case: AuditCase) -> bool:
        return audit_draw(self._secret, case.decision.id, "control") < CONTROL_SHARE

    def _begin(self, case: AuditCase, work: Coroutine[Any, Any, None]) -> None:
        if len(self._tasks) >= MOST_AT_ONCE:
            work.close()
            self._count(case, "busy")
            return
        task = asyncio.get_running_loop().create_task(work, name="cache-audit")
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _against_the_model(self, case: AuditCase) -> None:
        bill = _Bill()
        await self._guarded(case, bill, self._audit(case, bill, None, has_control=self._has_control(case)))

    async def _against_the_answer(self, case: AuditCase, answer: bytes) -> None:
        bill = _Bill()
        has_control = self._is_drawn(case) and self._has_control(case)
        await self._guarded(case, bill, self._audit(case, bill, answer, has_control=has_control))

    async def _guarded(self, case: AuditCase, bill: _Bill, work: Coroutine[Any, Any, str]) -> None:
        """Do one audit, count its outcome and write its log line."""
        try:
            outcome = await work
        except _AuditSkippedError as skipped:
            outcome = skipped.outcome
        except Exception as failure:  # the edge of a background task: a failed audit is no finding
            outcome = "failed"
            self._metrics.problems.labels("cache_audit_failed").inc()
            _log.warning("cache_audit_failed", extra={"error": type(failure).__name__})
        self._count(case, outcome)
        _log.info(
            "cache_audit",
            extra={
                "category": case.category,
                "outcome": outcome,
                "model": case.decision.chosen,
                "entry": case.document.entry_id,
                "request_id": _request_id(case),
                "cost_usd": format_usd(bill.cost_usd),
            },
        )

    async def _audit(self, case: AuditCase, bill: _Bill, answer: bytes | None, *, has_control: bool) -> str:
        """Compare the stored answer with a fresh one, and by the draw two fresh ones with each other."""
        served = answer_text(case.document.body)
        fresh = answer_text(await self._ask(case, bill) if answer is None else answer)
        if served is None or fresh is None:
            raise _AuditSkippedError("unusable")
        is_right = await self._agree(case, served, fresh)
        is_unsteady = await self._control(case, bill, fresh) if has_control else None
        self._note(case, is_disagreement=not is_right, is_control=False)
        if is_unsteady is not None:
            self._note(case, is_disagreement=is_unsteady, is_control=True)
            self._count(case, "control_disagreed" if is_unsteady else "control_agreed")
        if is_right or not is_unsteady:  # a model that contradicts itself says nothing against one entry
            self._judge.note_evidence(case.document.entry_id, is_right=is_right)
        self._on_finding(Finding(case, is_right, None if is_unsteady is None else not is_unsteady))
        return "agreed" if is_right else "disagreed"

    async def _control(self, case: AuditCase, bill: _Bill, fresh: str) -> bool | None:
        """Ask once more, and return whether the model disagrees with itself; None without an answer."""
        try:
            other = answer_text(await self._ask(case, bill))
        except _AuditSkippedError as skipped:
            self._count(case, f"control_{skipped.outcome}")
            return None
        if other is None:
            self._count(case, "control_unusable")
            return None
        return not await self._agree(case, fresh, other)

    async def _agree(self, case: AuditCase, one: str, other: str) -> bool:
        """Compare two answers; where one is of an entry that tenants share, no model reads them side by side."""
        is_one_tenants = case.document.tenant != SHARED_TENANT
        return await self._comparison.agree(case.question, one, other, may_ask=is_one_tenants)

    async def _ask(self, case: AuditCase, bill: _Bill) -> bytes:
        """Call the model on the account: the most that it may cost is held before, and what it did cost charged."""
        request, name = case.request, case.decision.chosen
        hold = await self._account.reserve(self._calls.most_usd(request, name), self._clock())
        if hold is None:
            raise _AuditSkippedError("over_limit")
        charged_usd = hold.cost_usd  # what a call costs whose end nobody saw
        try:
            reply = await self._calls.ask(request, name, _request_id(case))
            if reply.cost_usd is not None:
                charged_usd = reply.cost_usd
        finally:
            await self._account.settle(hold, charged_usd)
            bill.cost_usd += charged_usd
            self._metrics.audit_cost.labels(case.category).inc(float(charged_usd))
            self._steering.note_spending()
        if reply.body is None:
            raise _AuditSkippedError("no_answer")
        return reply.body

    def _note(self, case: AuditCase, *, is_disagreement: bool, is_control: bool) -> None:
        self._steering.note_audit(case.category, case.terms, is_disagreement=is_disagreement, is_control=is_control)

    def _count(self, case: AuditCase, outcome: str) -> None:
        self._metrics.audits.labels(case.category, outcome).inc()


def _request_id(case: AuditCase) -> str:
    """Return what the provider, and the log, know the calls of one audit by."""
    return f"audit-{case.decision.id}"
