"""A model's opinion on stored prompts that the rule found near, but not certain enough to serve.

Owns which pairs are asked about and the calls under way. The opinion is kept by `EntryJudge`, so that the entry serves
the same question the next time. Read `GreyZone.consider`.
"""

from __future__ import annotations

import asyncio
import logging
from typing import Final

from penstock_cache.judging import EntryJudge
from penstock_cache.lookups import SHARED_TENANT, Miss
from penstock_gateway.caching.model_judge import ModelJudge
from penstock_gateway.metrics_cache import CacheMetrics

MOST_AT_ONCE: Final = 4
"""Opinions under way; what comes on top is left out, and its requests are misses as they were."""

_log = logging.getLogger("penstock.cache")


class GreyZone:
    """Asks a model about pairs of prompts.

    Parameters
    ----------
    model : ModelJudge
    judge : EntryJudge
        Is told of opinions.
    from_probability : float, in [0, 1]
        Pairs below are not asked about.
    waits : bool
        Whether the request waits for the opinion, and is served by it.
    metrics : CacheMetrics
    """

    def __init__(
        self, model: ModelJudge, judge: EntryJudge, *, from_probability: float, waits: bool, metrics: CacheMetrics
    ) -> None:
        self._model = model
        self._judge = judge
        self._from_probability = from_probability
        self._waits = waits
        self._metrics = metrics
        self._tasks: set[asyncio.Task[bool]] = set()

    async def consider(self, question: str, miss: Miss) -> bool:
        """Have a missed pair judged, if it is in the zone and one tenant's.

        Parameters
        ----------
        question : str
            The last user text.
        miss : Miss

        Returns
        -------
        bool
            Whether another look-up finds the entry now; always False where requests do not wait.
        """
        near = miss.near
        if near is None or near.tenant == SHARED_TENANT or miss.probability < self._from_probability:
            return False
        if self._judge.opinion(near.entry_id, question) is not None:
            return False
        if len(self._tasks) >= MOST_AT_ONCE:
            self._metrics.judgements.labels("questions", "busy").inc()
            return False
        task = asyncio.get_running_loop().create_task(
            self._ask(near.entry_id, near.prompt, question), name="cache-grey-zone"
        )
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        return await asyncio.shield(task) if self._waits else False

    async def drain(self) -> None:
        """Wait for what is under way."""
        while self._tasks:
            await asyncio.wait(tuple(self._tasks))

    async def aclose(self) -> None:
        """Give up what is under way; a call that was sent is charged."""
        tasks = tuple(self._tasks)
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    async def _ask(self, entry_id: str, stored: str, asked: str) -> bool:
        try:
            is_same = await self._model.same_question(stored, asked)
        except Exception as failure:  # the edge of a background task: without an opinion the miss stays one
            self._metrics.problems.labels("cache_grey_zone_failed").inc()
            _log.warning("cache_grey_zone_failed", extra={"error": type(failure).__name__})
            return False
        if is_same is not None:
            self._judge.note_opinion(entry_id, asked, is_same=is_same)
        return bool(is_same)
