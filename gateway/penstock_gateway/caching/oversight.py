"""Builds what watches over the cache of one gateway, and keeps it running: audits, switches, load.

Owns the lifetimes of these parts. Read `start_oversight`.
"""

from __future__ import annotations

import asyncio
import hashlib
import secrets
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from decimal import Decimal
from pathlib import Path
from typing import Final

import msgspec

from penstock_cache.audit import AuditAccount
from penstock_cache.categories import CategoryPolicy
from penstock_cache.judging import EntryJudge
from penstock_cache.lookups import Verifier
from penstock_cache.rule import DecisionRule
from penstock_gateway.caching.agreement import AnswerComparison, AnswerJudge
from penstock_gateway.caching.audit_accounts import Account, OwnAccount, SharedAccount, SharedCounters
from penstock_gateway.caching.audit_books import BookKeeper
from penstock_gateway.caching.auditor import Auditor, Finding
from penstock_gateway.caching.grey_zone import GreyZone
from penstock_gateway.caching.load_signals import LoadSignals, load_policy
from penstock_gateway.caching.model_calls import ModelCalls
from penstock_gateway.caching.model_judge import ModelJudge
from penstock_gateway.caching.steering import CategorySteering
from penstock_gateway.deployments import Deployment
from penstock_gateway.metrics_cache import CacheMetrics
from penstock_gateway.settings_cache import CacheSettings
from penstock_gateway.upstream.protocol import Upstream

_SECRET_BYTES: Final = 32


@dataclass(frozen=True, slots=True)
class Oversight:
    """What watches over a cache.

    Attributes
    ----------
    steering : CategorySteering
    load : LoadSignals
    auditor : Auditor or None
        None when nothing is answered from other wordings.
    judge : EntryJudge or None
        Is told of wrong hits.
    grey_zone : GreyZone or None
        None when no model is asked where the rule is unsure.
    """

    steering: CategorySteering
    load: LoadSignals
    auditor: Auditor | None
    judge: EntryJudge | None
    grey_zone: GreyZone | None
    _keeper: BookKeeper
    _writing: asyncio.Task[None]

    async def aclose(self) -> None:
        """Give up audits under way and write what has been found."""
        if self.auditor is not None:
            await self.auditor.aclose()
        if self.grey_zone is not None:
            await self.grey_zone.aclose()
        self._writing.cancel()
        await asyncio.gather(self._writing, return_exceptions=True)
        await self._keeper.close()


@dataclass(frozen=True, slots=True)
class Watched:
    """What of a gateway is watched over.

    Attributes
    ----------
    policies : mapping of str to CategoryPolicy
    judge : EntryJudge or None
    verifier : Verifier or None
        The second encoder; there whenever `judge` is.
    deployments : callable
        Returns the deployments in force by name.
    upstreams : mapping of str to Upstream
    metrics : CacheMetrics
    on_finding : callable
        Is told of every audit that found something.
    """

    policies: Mapping[str, CategoryPolicy]
    judge: EntryJudge | None
    verifier: Verifier | None
    deployments: Callable[[], Mapping[str, Deployment]]
    upstreams: Mapping[str, Upstream]
    metrics: CacheMetrics
    on_finding: Callable[[Finding], None] = lambda _: None


async def start_oversight(
    settings: CacheSettings,
    watched: Watched,
    *,
    answer_judge: AnswerJudge | None = None,
    counters: SharedCounters | None = None,
) -> Oversight:
    """Build what watches over a cache.

    Parameters
    ----------
    settings : CacheSettings
    watched : Watched
    answer_judge : AnswerJudge, optional
        Decides where two answers differ in their words; default: the model that the settings name.
    counters : SharedCounters, optional
        Where the account is kept when other gateways spend from it, too.
    """
    rule = None if watched.judge is None else watched.judge.rule

    def note_problem(code: str) -> None:
        watched.metrics.problems.labels(code).inc()

    folder = Path(settings.store.folder) if settings.store.kind == "file" and settings.store.folder else None
    keeper = await BookKeeper.open(folder, "" if rule is None else rule_digest(rule), note_problem)
    load = LoadSignals(load_policy(settings.load, watched.deployments()), settings.load, time.time)
    steering = CategorySteering(watched.policies, rule, load.policy, settings, keeper, watched.metrics, time.time)
    auditor = grey_zone = None
    if watched.judge is not None and watched.verifier is not None:
        calls = ModelCalls(watched.deployments, watched.upstreams)
        account = _account(settings, keeper, counters, note_problem)
        if answer_judge is None and settings.audit.judge is not None:
            seconds = settings.audit.judge_timeout_seconds
            answer_judge = _model_judge(settings.audit.judge, seconds, calls, account, watched.metrics).same_answer
        grey_zone = _grey_zone(settings, watched.judge, calls, account, watched.metrics)
        auditor = Auditor(
            calls,
            AnswerComparison(watched.verifier, settings.audit.agreement_cosine, answer_judge),
            steering,
            watched.judge,
            account,
            rate=settings.audit.rate,
            metrics=watched.metrics,
            clock=time.time,
            secret=secrets.token_bytes(_SECRET_BYTES),
            on_finding=watched.on_finding,
        )
    writing = asyncio.create_task(keeper.run(), name="cache-audit-books")
    return Oversight(steering, load, auditor, watched.judge, grey_zone, keeper, writing)


def _account(
    settings: CacheSettings,
    keeper: BookKeeper,
    counters: SharedCounters | None,
    note_problem: Callable[[str], None],
) -> Account:
    """Return what audits and opinions are paid from: one account of all gateways where the store counts for them."""
    limit_usd = Decimal(str(settings.audit.max_usd_per_day))
    if counters is not None:
        return SharedAccount(counters, limit_usd, note_problem)
    return OwnAccount(AuditAccount(limit_usd, state=keeper.books.account), keeper.note_change)


def _model_judge(name: str, seconds: float, calls: ModelCalls, account: Account, metrics: CacheMetrics) -> ModelJudge:
    return ModelJudge(calls, name, account, timeout_seconds=seconds, metrics=metrics, clock=time.time)


def _grey_zone(
    settings: CacheSettings, judge: EntryJudge, calls: ModelCalls, account: Account, metrics: CacheMetrics
) -> GreyZone | None:
    zone = settings.grey_zone
    if zone.model is None:
        return None
    model = _model_judge(zone.model, zone.timeout_seconds, calls, account, metrics)
    return GreyZone(model, judge, from_probability=zone.from_probability, waits=zone.waits, metrics=metrics)


def rule_digest(rule: DecisionRule) -> str:
    """Return what tells one rule, with its operating points, from another."""
    return hashlib.sha256(msgspec.json.encode(rule.manifest)).hexdigest()[:16]
