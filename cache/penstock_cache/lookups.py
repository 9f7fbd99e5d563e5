"""What is asked of the cache and what it answers: look-ups, hits, misses, fresh answers, and what it stands on.

Owns the values that pass between the gateway and `answer_cache`, and the protocols of what is given to it. Decides
nothing. Read `Lookup`, then `Hit`.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from decimal import Decimal
from typing import Literal, Protocol

import msgspec

from penstock_cache.directives import CacheDirective
from penstock_cache.eligibility import RequestTraits
from penstock_cache.entries import CachedDocument, FloatArray, Neighbour
from penstock_cache.keys import CacheKey

SHARED_TENANT = "*shared*"
"""Owner of entries that are shared across tenants; no client key can have this name."""

Verifier = Callable[[Sequence[str]], Awaitable[FloatArray]]
"""The second encoder: from n texts to unit vectors, shape (n, d)."""

Accepts = Callable[[CachedDocument], bool]
"""Whether the caller may be served by the arm, tier and trade-off of an entry."""

HitKind = Literal["hit-exact", "hit-semantic"]


class VectorIndex(Protocol):
    """Neighbours within one partition; fulfilled by `index.partitions.PartitionedIndex`."""

    def add(self, partition: bytes, entry_id: str, vector: FloatArray) -> None:
        """Add or replace an entry; raises `CacheError` for a vector that does not fit."""
        ...

    def remove(self, entry_id: str) -> bool:
        """Remove an entry; False when it was not there."""
        ...

    def search(self, partition: bytes, vector: FloatArray, k: int, min_cosine: float = -1.0) -> list[Neighbour]:
        """Return the nearest entries of one partition, best first; those below `min_cosine` may be left out."""
        ...


class Lookup(msgspec.Struct, frozen=True, gc=False):
    """One request as the cache sees it.

    Attributes
    ----------
    tenant : str
    key : CacheKey
    shared_key : CacheKey or None
        The same request in the name of `SHARED_TENANT`; None when nothing is shared.
    traits : RequestTraits
    directive : CacheDirective
    context_tokens : int
        Estimated tokens before the last user text.
    """

    tenant: str
    key: CacheKey
    shared_key: CacheKey | None
    traits: RequestTraits
    directive: CacheDirective
    context_tokens: int = 0

    def places(self) -> list[tuple[str, CacheKey]]:
        """Return the tenants under which it may be found, its own first."""
        own = [(self.tenant, self.key)]
        return own if self.shared_key is None else [*own, (SHARED_TENANT, self.shared_key)]


class Hit(msgspec.Struct, frozen=True, gc=False):
    """An answer that may be served.

    Attributes
    ----------
    document : CachedDocument
    kind : str
        ``hit-exact`` or ``hit-semantic``.
    age_seconds : float
    similarity : float
        Cosine by the search encoder; 1 for an exact hit.
    probability : float
        That the answer fits, by the rule; 1 for an exact hit.
    """

    document: CachedDocument
    kind: HitKind
    age_seconds: float
    similarity: float = 1.0
    probability: float = 1.0


class Miss(msgspec.Struct, frozen=True, gc=False):
    """Nothing that may be served.

    Attributes
    ----------
    reason : str
        Stable name for metrics.
    similarity : float
        Of the nearest entry that was judged, 0 when there was none.
    probability : float
    near : CachedDocument or None
        The entry that came nearest, when it missed the threshold alone.
    """

    reason: str
    similarity: float = 0.0
    probability: float = 0.0
    near: CachedDocument | None = None


class FreshAnswer(msgspec.Struct, frozen=True, gc=False):
    """A model's answer that asks to be stored.

    Attributes
    ----------
    body : bytes
        The completion object as JSON.
    status : int
    arm : str
    tier : str or None
    tradeoff : float, in [0, 1]
    input_tokens, output_tokens : int
    cost_usd : Decimal
    latency_seconds : float
    may_be_shared : bool
        The key that asked is trusted to write for all tenants.
    """

    body: bytes
    status: int
    arm: str
    tier: str | None
    tradeoff: float
    input_tokens: int
    output_tokens: int
    cost_usd: Decimal
    latency_seconds: float
    may_be_shared: bool = False


class StoreResult(msgspec.Struct, frozen=True, gc=False):
    """What became of an answer.

    Attributes
    ----------
    document : CachedDocument or None
        None when it was not stored.
    reason : str
        ``stored``, or why not; stable name for metrics.
    """

    document: CachedDocument | None
    reason: str
