"""Builds the cache of one gateway from its settings, and keeps it running.

Owns the lifetimes: store, index, encoders, the task that follows the store and the one that sweeps. The store is made
by itself, because it outlives a change of the other settings. A rule or encoder that is refused is a finding, not a
failure: the cache then serves exact repeats only. Read `start_cache`.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import time
from collections.abc import Callable, Coroutine, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import numpy as np

from penstock_cache.answer_cache import AnswerCache, CacheParts
from penstock_cache.categories import DEFAULT_POLICIES, CacheMode, CategoryPolicy
from penstock_cache.errors import RuleError, StoreUnavailable
from penstock_cache.index.partitions import PartitionedIndex
from penstock_cache.judging import EntryJudge
from penstock_cache.lookups import SHARED_TENANT, Verifier
from penstock_cache.mirror import IndexMirror
from penstock_cache.quotas import CategoryQuota, CategoryQuotas
from penstock_cache.residency import ResidentSet
from penstock_cache.rule import PairModel, load_rule
from penstock_cache.stores.replication import IndexFollower
from penstock_gateway.caching.audit_accounts import SharedCounters
from penstock_gateway.caching.auditor import Finding
from penstock_gateway.caching.desk import CacheDesk
from penstock_gateway.caching.oversight import Watched, start_oversight
from penstock_gateway.caching.services import CacheServices
from penstock_gateway.events.log import EventLog
from penstock_gateway.redis_client import load_package
from penstock_gateway.settings_cache import CacheSettings, CategoryCacheSettings
from penstock_gateway.settings_deployments import model_folder
from penstock_gateway.settings_redis_checks import redis_url_of
from penstock_routers.bundled import bundled_folder
from penstock_routers.encoder import PromptEncoder
from penstock_routers.encoder_service import EncoderService
from penstock_routers.errors import RouterError
from penstock_routers.onnx_session import create_session

if TYPE_CHECKING:
    from penstock_cache.entries import FloatArray
    from penstock_cache.stores.protocol import DocumentStore
    from penstock_gateway.pipeline import Pipeline
    from penstock_gateway.redis_servers import RedisServers
    from penstock_gateway.settings_models import Settings

_log = logging.getLogger("penstock.cache")

DEFAULT_RULE: Final = "cache-rule"
SWEEP_SECONDS: Final = 60.0
RESTART_SECONDS: Final = 1.0
_NO_ENCODER_DIMENSION: Final = 64  # of the index of an exact-only cache, which stays empty
_DRAIN_SECONDS: Final = 5.0


@dataclass(slots=True)
class RunningCache:
    """A cache in operation.

    Attributes
    ----------
    desk : CacheDesk
    finding : str or None
        Code of what keeps it to exact repeats although more was asked for.
    """

    desk: CacheDesk
    finding: str | None
    _verifier: EncoderService | None
    _follower: IndexFollower
    _tasks: list[asyncio.Task[None]]

    def put_in_force(self, pipeline: Pipeline, settings: Settings) -> None:
        """Answer from this cache from now on, and follow the keys and deployments of a configuration."""
        services, metrics, follower = self.desk.services, pipeline.metrics.cache, self._follower
        services.keys = {entry.name: entry for entry in settings.client_keys}
        services.oversight.load.follow(entry.name for entry in settings.deployments)
        mirror = services.cache.parts.mirror
        metrics.entries.set_function(lambda: len(mirror))
        metrics.is_in_step.set_function(lambda: float(follower.is_in_step))
        pipeline.use_cache(self.desk)

    async def aclose(self) -> None:
        """Finish what is being stored, and let go of everything but the store."""
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(_DRAIN_SECONDS):
                await self.desk.services.drain()
        await self.desk.services.oversight.aclose()
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        if self._verifier is not None:
            await self._verifier.aclose()


async def start_cache(cache: CacheSettings, pipeline: Pipeline, store: DocumentStore) -> RunningCache:
    """Build a cache and keep it in step with its store; it answers nothing before `RunningCache.put_in_force`.

    Parameters
    ----------
    cache : CacheSettings
        With another mode than ``off``.
    pipeline : Pipeline
        Whose deployments, encoder and connections are used.
    store : DocumentStore
        Stays open when the cache is closed.

    Returns
    -------
    RunningCache
    """
    metrics = pipeline.metrics.cache

    def note_problem(code: str) -> None:
        metrics.problems.labels(code).inc()

    policies = policies_of(cache)
    judge, verifier, finding = await _judge(cache, policies, pipeline)
    parts, encoder_id = pipeline.chooser.parts, encoder_id_of(pipeline)
    dimension = _NO_ENCODER_DIMENSION if parts is None else parts.artifact.manifest.encoder.dimension
    mirror = IndexMirror(
        PartitionedIndex(dimension),
        ResidentSet(quotas_of(cache, policies)),
        clock=time.time,
        on_problem=note_problem,
        on_removed=(lambda _: None) if judge is None else judge.forget,
    )
    if judge is not None:
        judge.on_evidence = lambda entry_id, factor: _rescale(mirror, entry_id, factor)
    answers = AnswerCache(
        CacheParts(
            store=store,
            mirror=mirror,
            policies=policies,
            encoder_id=encoder_id,
            judge=judge,
            owns_documents=cache.store.kind != "redis",
        ),
        clock=time.time,
        on_problem=note_problem,
        max_answer_bytes=cache.max_answer_bytes,
    )
    verify = None if verifier is None else verifier_of(verifier)
    watched = Watched(
        policies,
        judge,
        verify,
        lambda: pipeline.deployments,
        pipeline.upstreams,
        metrics,
        lambda finding: _write_down(finding, pipeline.events),
    )
    counters = store if isinstance(store, SharedCounters) else None
    oversight = await start_oversight(cache, watched, counters=counters)
    services = CacheServices(answers, cache, {}, lambda: pipeline.deployments, metrics, oversight, finding=finding)
    follower = IndexFollower(mirror, encoder_id=encoder_id, dimension=dimension, on_problem=note_problem)
    running = RunningCache(CacheDesk(services), finding, verifier, follower, [])
    works: dict[str, Callable[[], Coroutine[Any, Any, None]]] = {
        "follow": lambda: follower.run(store),
        "sweep": lambda: _sweep(answers),
    }
    for name, work in works.items():
        running._tasks.append(asyncio.create_task(_kept_going(work, services), name=f"cache-{name}"))
    if finding is not None:
        _log.warning("cache_exact_only", extra={"code": finding})
    return running


def _write_down(finding: Finding, events: EventLog | None) -> None:
    """Put what an audit found into the event log; whose prompts are not of one tenant stay out of it."""
    if events is None:
        return
    case = finding.case
    is_shared = case.document.tenant == SHARED_TENANT
    events.note_audit(
        case.document.tenant,
        case.decision.id,
        category=case.category,
        is_right=finding.is_right,
        is_steady=finding.is_steady,
        prompts=None if is_shared else (case.question, case.document.prompt),
    )


def _rescale(mirror: IndexMirror, entry_id: str, factor: float) -> None:
    mirror.residents.rescale(entry_id, factor, time.time())


def encoder_id_of(pipeline: Pipeline) -> str:
    """Return the id of the encoder whose vectors a cache would hold; empty without one."""
    parts = pipeline.chooser.parts
    return "" if parts is None else parts.artifact.manifest.encoder.id


def store_key(settings: Settings) -> object:
    """Return what tells one store from another: where it lies, and how it is spoken to."""
    store = settings.cache.store
    if store.kind == "redis":
        return store.kind, redis_url_of(settings, "cache"), store.lookup_timeout_seconds, store.write_timeout_seconds
    return store.kind, store.folder if store.kind == "file" else None


def policies_of(settings: CacheSettings) -> dict[str, CategoryPolicy]:
    """Return the policy of every category: the defaults, what the settings change, and none beyond ``cache.mode``."""
    table = dict(DEFAULT_POLICIES)
    for name, given in settings.categories.items():
        table[name] = _changed(table.get(name, CategoryPolicy()), given)
    order = [mode.value for mode in CacheMode]
    most = order.index(settings.mode)
    return {
        name: replace(policy, mode=CacheMode(order[min(most, order.index(policy.mode.value))]))
        for name, policy in table.items()
    }


def quotas_of(settings: CacheSettings, policies: Mapping[str, CategoryPolicy]) -> CategoryQuotas:
    """Return the categories' shares of ``max_bytes``."""
    capacity = settings.max_bytes
    quotas = {
        name: CategoryQuota(
            reserve_bytes=int(policy.reserve_share * capacity),
            cap_bytes=max(int(policy.reserve_share * capacity), int(policy.cap_share * capacity)),
        )
        for name, policy in policies.items()
    }
    return CategoryQuotas(capacity, quotas)


def _changed(policy: CategoryPolicy, given: CategoryCacheSettings) -> CategoryPolicy:
    changes = {name: value for name, value in given.model_dump().items() if value is not None}
    if "mode" in changes:
        changes["mode"] = CacheMode(changes["mode"])
    return replace(policy, **changes)


async def _judge(
    settings: CacheSettings, policies: Mapping[str, CategoryPolicy], pipeline: Pipeline
) -> tuple[EntryJudge | None, EncoderService | None, str | None]:
    """Load rule and second encoder; the finding says why there is none although one was asked for."""
    if settings.rule == "none" or not any(policy.mode.is_semantic for policy in policies.values()):
        return None, None, None
    parts = pipeline.chooser.parts
    if parts is None:
        return None, None, "no_encoder"
    try:
        loaded = await asyncio.to_thread(PromptEncoder.load, model_folder(settings.verifier))
        rule = load_rule(
            rule_folder(settings.rule),
            open_pair_model,
            encoder_id=parts.artifact.manifest.encoder.id,
            verifier_id=loaded.encoder_id,
            use=settings.verifier_use,
        )
    except (RouterError, RuleError) as error:
        _log.warning("cache_rule_refused", extra={"code": error.code, "problem": error.message})
        return None, None, error.code
    verifier = EncoderService(loaded)
    return EntryJudge(rule, verifier_of(verifier), reads_whole=loaded.reads_whole), verifier, None


def rule_folder(name: str) -> Path:
    """Return the folder of a decision rule: the bundled one for ``default``."""
    return bundled_folder(DEFAULT_RULE) if name == "default" else Path(name)


def open_pair_model(graph: bytes) -> PairModel:
    """Open a rule's ONNX graph.

    Raises
    ------
    RuleError
        The graph is refused.
    """
    try:
        session = create_session(graph)
    except RouterError as error:
        raise RuleError(error.message, code=error.code) from None

    def model(features: FloatArray) -> FloatArray:
        return session.run({"features": features})[0]

    return model


def verifier_of(service: EncoderService) -> Verifier:
    """Return the second encoder as the cache calls it; texts of one call go into one batch."""

    async def verify(texts: Sequence[str]) -> FloatArray:
        return np.stack(await asyncio.gather(*(service.encode(text) for text in texts)))

    return verify


async def open_store(settings: Settings, servers: RedisServers, on_problem: Callable[[str], None]) -> DocumentStore:
    """Return the place where answers lie; without the file's or the disk's consent, this process's memory.

    Parameters
    ----------
    settings : Settings
    servers : RedisServers
    on_problem : callable
        Called with a stable code.

    Raises
    ------
    RedisNotUsable
        The URL or its client.
    """
    store = settings.cache.store
    if store.kind == "redis":
        from penstock_cache.stores.redis_store import RedisDocumentStore  # noqa: PLC0415 - only when called for

        await asyncio.to_thread(load_package)  # who follows the store needs it, and a reload may ask for the store
        return RedisDocumentStore(
            servers.guard(settings, "cache"),
            look_up_seconds=store.lookup_timeout_seconds,
            write_seconds=store.write_timeout_seconds,
            on_problem=on_problem,
        )
    if store.kind == "file" and store.folder is not None:
        from penstock_cache.stores.file import FileDocumentStore  # noqa: PLC0415 - only when called for

        try:
            return await FileDocumentStore.open(Path(store.folder), now=time.time(), on_problem=on_problem)
        except StoreUnavailable as error:  # another gateway writes there, or the disk refuses: serve from memory
            on_problem(error.code)
            _log.warning("cache_store_refused", extra={"code": error.code, "problem": error.message})
    from penstock_cache.stores.memory import MemoryDocumentStore  # noqa: PLC0415 - likewise

    return MemoryDocumentStore()


async def _kept_going(work: Callable[[], Coroutine[Any, Any, None]], services: CacheServices) -> None:
    """Run something for as long as the cache lives; what fails is counted, logged and begun again."""
    while True:
        try:
            await work()
        except Exception as failure:  # the edge of a background task: without it the index would stand still, unseen
            services.note_failure(failure)
        await asyncio.sleep(RESTART_SECONDS)


async def _sweep(answers: AnswerCache) -> None:
    while True:
        await asyncio.sleep(SWEEP_SECONDS)
        await answers.sweep()
