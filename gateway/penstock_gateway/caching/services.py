"""What the requests of one process share in their dealings with the cache.

Owns the flights of identical requests, the memory of answers that were no use to others, and work that goes on after an
answer. Read `CacheServices`.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections import OrderedDict
from collections.abc import Callable, Coroutine, Mapping
from typing import Any, Final

from penstock_cache.answer_cache import AnswerCache
from penstock_cache.categories import CategoryPolicy, ChosenPolicy
from penstock_cache.entries import CachedDocument
from penstock_cache.lookups import Hit
from penstock_cache.single_flight import Seat, SingleFlight
from penstock_gateway.caching.context_samples import ContextSamples, sketch_bytes
from penstock_gateway.caching.oversight import Oversight
from penstock_gateway.caching.steering import SearchTerms
from penstock_gateway.caching.tallies import TenantTallies
from penstock_gateway.deployments import Deployment
from penstock_gateway.metrics_cache import CacheMetrics
from penstock_gateway.settings_cache import CacheSettings
from penstock_gateway.settings_models import ClientKeySettings
from penstock_gateway.upstream.protocol import JsonObject

_log = logging.getLogger("penstock.cache")

_DECLINED: Final = 4_096  # fingerprints whose answer was no use to others; their next callers do not wait


class CacheServices:
    """The parts of the cache that outlive a request.

    Parameters
    ----------
    cache : AnswerCache
    settings : CacheSettings
    keys : mapping of str to ClientKeySettings
        By tenant.
    deployments : callable
        Returns the deployments in force by name.
    metrics : CacheMetrics
    oversight : Oversight
        Audits, switches and load.
    finding : str or None
        Code of what keeps it to exact repeats although more was asked for.

    Attributes
    ----------
    is_semantic : bool
        Whether any category may be answered from another wording.
    tallies : TenantTallies
    samples : ContextSamples
    """

    def __init__(
        self,
        cache: AnswerCache,
        settings: CacheSettings,
        keys: Mapping[str, ClientKeySettings],
        deployments: Callable[[], Mapping[str, Deployment]],
        metrics: CacheMetrics,
        oversight: Oversight,
        *,
        finding: str | None = None,
    ) -> None:
        self.cache = cache
        self.settings = settings
        self.metrics = metrics
        self.keys = keys
        self.oversight = oversight
        self.finding = finding
        self.tallies = TenantTallies()
        self.samples = ContextSamples()
        self._deployments = deployments
        self._flights: SingleFlight[CachedDocument] = SingleFlight()
        self._declined: OrderedDict[bytes, None] = OrderedDict()
        self._tasks: set[asyncio.Task[None]] = set()
        policies = cache.parts.policies
        self.is_semantic = cache.parts.judge is not None and any(p.mode.is_semantic for p in policies.values())

    def terms(self, chosen: ChosenPolicy, arm: str, *, is_opted_in: bool) -> SearchTerms:
        """Return the terms on which a request is looked up."""
        return self.oversight.steering.terms(chosen, arm, is_opted_in=is_opted_in)

    def is_in_time(
        self, document: CachedDocument, stale_share: float = 0.0, asked: CategoryPolicy | None = None
    ) -> bool:
        """Whether an entry may still be served; as `AnswerCache.is_in_time`."""
        return self.cache.is_in_time(document, stale_share, asked)

    def note_hit(self, tenant: str, hit: Hit) -> None:
        """Count an answer from the cache."""
        self.metrics.note_hit(hit)
        self.tallies.note_hit(tenant, hit)

    def note_miss(self, tenant: str, category: str, reason: str) -> None:
        """Count a look-up that found nothing to serve."""
        self.metrics.note_miss(category, reason)
        self.tallies.note_miss(tenant, category, reason)

    def age_seconds(self, document: CachedDocument) -> float:
        """Return how old an entry is."""
        return max(0.0, time.time() - document.stored_at)

    def deployments(self) -> Mapping[str, Deployment]:
        """Return the deployments in force by name."""
        return self._deployments()

    def deployment(self, name: str) -> Deployment | None:
        """Return a deployment in force."""
        return self._deployments().get(name)

    def seat(self, fingerprint: bytes) -> Seat[CachedDocument] | None:
        """Take part in the flight of identical requests; None when waiting has lately been for nothing."""
        if self.settings.single_flight_seconds == 0.0 or fingerprint in self._declined:
            return None
        return self._flights.seat(fingerprint)

    def note_declined(self, fingerprint: bytes) -> None:
        """Remember that answers to this request are of no use to others."""
        self._declined[fingerprint] = None
        if len(self._declined) > _DECLINED:
            self._declined.popitem(last=False)

    def sample(self, tenant: str, fields: JsonObject) -> None:
        """Sketch a request's context in the background, if it is one of those that are looked at.

        Parameters
        ----------
        tenant : str
        fields : JsonObject
        """
        now = time.monotonic()
        if self.samples.has_room(tenant, now) and self.samples.take(tenant, sum(map(len, fields.values())), now):
            self.spawn(self._sketch(tenant, {name: bytes(value) for name, value in fields.items()}))

    async def _sketch(self, tenant: str, fields: Mapping[str, bytes]) -> None:
        self.samples.add(tenant, await asyncio.to_thread(sketch_bytes, fields))

    def spawn(self, work: Coroutine[Any, Any, None]) -> None:
        """Do something after the answer; failures are counted and logged."""
        task = asyncio.get_running_loop().create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._note_done)

    async def drain(self) -> None:
        """Wait until everything begun is done."""
        while self._tasks:
            await asyncio.wait(tuple(self._tasks))

    def _note_done(self, task: asyncio.Task[None]) -> None:
        self._tasks.discard(task)
        if not task.cancelled() and (failure := task.exception()) is not None:
            self.note_failure(failure)

    def note_failure(self, failure: BaseException) -> None:
        """Count and log a failure of the cache; the request it happened in goes on."""
        self.metrics.problems.labels("cache_failed").inc()
        _log.warning("cache_failed", extra={"error": type(failure).__name__})
