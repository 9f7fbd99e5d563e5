"""An answer cache with everything around it, without a gateway: a clock that a test turns, a store that may lie.

Read `CacheWorld`.
"""

from __future__ import annotations

import asyncio
import hashlib
import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from decimal import Decimal
from typing import Any

import numpy as np
from msgspec import structs

from penstock_cache.answer_cache import AnswerCache, CacheParts
from penstock_cache.categories import CacheMode, CategoryPolicy, ChosenPolicy
from penstock_cache.directives import CacheDirective
from penstock_cache.eligibility import RequestTraits
from penstock_cache.entries import CachedDocument, FloatArray
from penstock_cache.errors import StoreUnavailable
from penstock_cache.index.partitions import PartitionedIndex
from penstock_cache.judging import EntryJudge
from penstock_cache.keys import CacheScope, cache_key
from penstock_cache.lookups import SHARED_TENANT, FreshAnswer, Lookup, StoreResult
from penstock_cache.mirror import IndexMirror
from penstock_cache.quotas import CategoryQuotas
from penstock_cache.residency import ResidentSet
from penstock_cache.rule import DecisionRule
from penstock_cache.stores.changes import IndexRecord
from penstock_cache.stores.memory import MemoryDocumentStore
from support.cache_documents import DIMENSION, ENCODER, NOW
from support.cache_rules import CountedVerifier, rule_of

FAQ = CategoryPolicy(mode=CacheMode.SEMANTIC, false_hit_budget=0.01, ttl_seconds=100.0, max_stale_seconds=50.0)
SHARED = replace(FAQ, is_shared_across_tenants=True)
POLICIES: Mapping[str, CategoryPolicy] = {
    "general": CategoryPolicy(ttl_seconds=100.0),
    "faq": FAQ,
    "shared": SHARED,
    "off": replace(FAQ, mode=CacheMode.OFF),
    "volatile": replace(FAQ, is_volatile=True, ttl_seconds=10.0),
}
VECTOR: FloatArray = np.eye(1, DIMENSION, dtype=np.float32)[0]


def completion(text: str = "Paris", finish_reason: str = "stop") -> bytes:
    """Return a completion object."""
    choice = {"index": 0, "message": {"role": "assistant", "content": text}, "finish_reason": finish_reason}
    return json.dumps({"id": "c", "object": "chat.completion", "created": 1, "choices": [choice]}).encode()


def answer(**changes: Any) -> FreshAnswer:
    """Return a model's answer; whatever is named is changed."""
    values: dict[str, Any] = {
        "body": completion(),
        "status": 200,
        "arm": "small",
        "tier": "small",
        "tradeoff": 0.5,
        "input_tokens": 10,
        "output_tokens": 20,
        "cost_usd": Decimal("0.001"),
        "latency_seconds": 0.9,
    }
    return FreshAnswer(**{**values, **changes})


def look(
    text: str, tenant: str = "ann", *, system: str = "Be brief.", directive: CacheDirective | None = None
) -> Lookup:
    """Return a request's look-up as the gateway makes it."""
    messages = [{"role": "system", "content": system}, {"role": "user", "content": text}]
    fields = {"messages": json.dumps(messages).encode()}
    scope = CacheScope(tenant, None, "chat", "auto", ENCODER)
    key, shared = cache_key(scope, fields), cache_key(structs.replace(scope, tenant=SHARED_TENANT), fields)
    return Lookup(tenant, key, shared, RequestTraits(), directive or CacheDirective())


def chosen(category: str = "faq") -> ChosenPolicy:
    """Return a category's policy as chosen."""
    return ChosenPolicy(category, POLICIES[category])


def accepts_all(_: CachedDocument) -> bool:
    """Accept every entry."""
    return True


class LyingStore(MemoryDocumentStore):
    """A memory store that can be stopped, and that can be made to return what was not asked for.

    Attributes
    ----------
    is_down : bool
    pause_seconds : float
        How long `get` takes, at least.
    lies : callable or None
        Changes every document that is returned.
    evicted : list of (str, str)
        Tenant and id.
    """

    def __init__(self) -> None:
        super().__init__()
        self.is_down = False
        self.pause_seconds = 0.0
        self.lies: Callable[[CachedDocument], CachedDocument] | None = None
        self.evicted: list[tuple[str, str]] = []

    def documents(self) -> Iterator[CachedDocument]:
        """Yield all that is stored."""
        return iter(self._shelf.documents())

    def _check(self) -> None:
        if self.is_down:
            raise StoreUnavailable("The store is stopped.")

    def _told(self, document: CachedDocument | None) -> CachedDocument | None:
        return document if document is None or self.lies is None else self.lies(document)

    async def get(self, tenant: str, entry_ids: Sequence[str], *, now: float) -> list[CachedDocument | None]:
        """Return documents, or lies."""
        self._check()
        if self.pause_seconds:
            await asyncio.sleep(self.pause_seconds)
        return [self._told(document) for document in await super().get(tenant, entry_ids, now=now)]

    async def find_exact(self, tenant: str, fingerprint: bytes, *, now: float) -> CachedDocument | None:
        """Return a document, or a lie."""
        self._check()
        return self._told(await super().find_exact(tenant, fingerprint, now=now))

    async def put(self, document: CachedDocument, *, now: float) -> None:
        """Store a document."""
        self._check()
        await super().put(document, now=now)

    async def delete(self, tenant: str, entry_ids: Sequence[str]) -> int:
        """Delete entries."""
        self._check()
        return await super().delete(tenant, entry_ids)

    async def evict(self, tenant: str, entry_ids: Sequence[str]) -> int:
        """Drop entries, and remember which."""
        self._check()
        self.evicted += [(tenant, entry_id) for entry_id in entry_ids]
        return await super().evict(tenant, entry_ids)

    async def delete_tenant(self, tenant: str, *, now: float) -> int:
        """Delete everything of a tenant."""
        self._check()
        return await super().delete_tenant(tenant, now=now)

    async def sweep_expired(self, *, now: float) -> int:
        """Free what has expired."""
        self._check()
        return await super().sweep_expired(now=now)


class CacheWorld:
    """An answer cache whose rule believes the second encoder, for which all texts are alike unless a test says so.

    Parameters
    ----------
    capacity_bytes : int
    owns_documents : bool
    rule : DecisionRule or None
        None: the one that believes the second encoder.
    has_judge : bool
    policies : mapping of str to CategoryPolicy
    """

    def __init__(
        self,
        *,
        capacity_bytes: int = 1 << 24,
        owns_documents: bool = True,
        rule: DecisionRule | None = None,
        has_judge: bool = True,
        policies: Mapping[str, CategoryPolicy] = POLICIES,
    ) -> None:
        self.now = NOW
        self.problems: list[str] = []
        self.store = LyingStore()
        self.verifier = CountedVerifier()
        self.judge = EntryJudge(rule or rule_of(), self.verifier)
        self.mirror = IndexMirror(
            PartitionedIndex(DIMENSION),
            ResidentSet(CategoryQuotas(capacity_bytes, {})),
            clock=lambda: self.now,
            on_problem=self.problems.append,
            on_removed=self.judge.forget,
        )
        self.cache = AnswerCache(
            CacheParts(self.store, self.mirror, policies, ENCODER, self.judge if has_judge else None, owns_documents),
            clock=lambda: self.now,
            on_problem=self.problems.append,
            max_answer_bytes=10_000,
        )

    async def put(
        self,
        asked: Lookup,
        category: str = "faq",
        fresh: FreshAnswer | None = None,
        *,
        is_repeated: bool = True,
        may_be_stale: bool = False,
        vector: FloatArray | None = VECTOR,
    ) -> StoreResult:
        """Store an answer, and have the index follow the store at once."""
        for _ in range(2 if is_repeated else 1):
            self.cache.parts.contexts.see(asked.tenant, asked.key.context)
        result = await self.cache.store(asked, chosen(category), fresh or answer(), vector, may_be_stale=may_be_stale)
        self.follow()
        return result

    def follow(self) -> None:
        """Take what is in the store into the index."""
        for document in list(self.store.documents()):
            self.mirror.add(IndexRecord.of(document), document.prompt_vector() if document.is_semantic else None)


def digest(text: str) -> bytes:
    """Return 16 bytes that stand for some other key."""
    return hashlib.blake2b(text.encode(), digest_size=16).digest()
