"""A decision rule that believes everything, so that only keys stand between two requests.

Read `CredulousJudge`.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace

import numpy as np

from penstock_cache.entries import CachedDocument, FloatArray
from penstock_cache.judging import EntryJudge
from penstock_cache.pairs import Drafts
from penstock_cache.rule import POOLED, DecisionRule, Judgement, OperatingPoint, RuleManifest
from penstock_gateway.caching.services import CacheServices


class CredulousJudge(EntryJudge):
    """Takes the nearest entry for the same question, whatever it says.

    Parameters
    ----------
    min_cosine : float
        What is not nearer is no neighbour; -1 takes everything in the partition.
    reads_whole : callable
        As of `EntryJudge`.
    """

    def __init__(self, min_cosine: float = -1.0, reads_whole: Callable[[str], bool] = lambda _: True) -> None:
        point = OperatingPoint(POOLED, "semantic", 0.0, 0.5, 1, 1, 0, 0.0)
        manifest = RuleManifest(1, "", "", "", "", 4, min_cosine, 0.0, 0.0, {}, 0.0, [point], [], {})
        super().__init__(DecisionRule(manifest, _certain), _unused, reads_whole=reads_whole)

    async def judge(
        self,
        text: str,
        near: Sequence[tuple[CachedDocument, float]],
        threshold: float,
        *,
        tenant: str | None = None,
        drafts: Drafts | None = None,
    ) -> Judgement:
        """Serve the nearest."""
        return Judgement(near[0][0].entry_id, 1.0, near[0][1], "served")


def believe_everything(services: CacheServices, judge: CredulousJudge) -> None:
    """Put a credulous rule into a running gateway, in place of its own or of none."""
    services.cache.parts = replace(services.cache.parts, judge=judge)
    services.is_semantic = True


def _certain(rows: FloatArray) -> FloatArray:
    return np.ones(len(rows), np.float32)


async def _unused(texts: Sequence[str]) -> FloatArray:
    raise AssertionError(f"nobody asks for the vectors of {len(texts)} texts")
