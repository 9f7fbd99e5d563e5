"""A long stream of random requests through the cache, with a rule that believes everything: only keys are in the way.

Every answer says in its text who asked what in which context, and deletions are remembered, so that a hit is judged by
what it says of itself and not by what the cache says of it.
"""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import json
import random
from collections import Counter
from dataclasses import dataclass, replace
from decimal import Decimal
from itertools import islice, product
from typing import Any

import numpy as np
import pytest
from msgspec import structs

from penstock_cache.answer_cache import AnswerCache, CacheParts
from penstock_cache.categories import GENERAL, CacheMode, CategoryPolicy, ChosenPolicy
from penstock_cache.directives import CacheDirective
from penstock_cache.eligibility import RequestTraits, survey_request
from penstock_cache.entries import CachedDocument
from penstock_cache.index.partitions import IndexOptions, PartitionedIndex
from penstock_cache.keys import CacheKey, CacheScope, cache_key, canonical_fields
from penstock_cache.lookups import SHARED_TENANT, FreshAnswer, Hit, Lookup
from penstock_cache.mirror import IndexMirror
from penstock_cache.quotas import CategoryQuotas
from penstock_cache.residency import ResidentSet
from penstock_cache.stores import IndexFollower, MemoryDocumentStore
from support.cache_documents import DIMENSION, unit_vector
from support.credulous_judge import CredulousJudge

START = 1_800_000_000.0
CAPACITY_BYTES = 60_000  # some 60 entries
TENANTS = ("ann", "Ann", "ann ", "*shared", "shared*", '","', "bob")
TRUSTED = frozenset({"ann", "*shared"})
TEXTS = (
    "yes",
    "no",
    "Yes",
    "yes ",
    "And then?",
    "and then",
    "what is it?",
    "Be brief.",
    '","',
    "1",
    "1.0",
    "\u00e9",
    "e\u0301",
)
VECTORS = np.stack([unit_vector(number) for number in range(len(TEXTS))])

# Contexts that differ in a hair: where a text stands, in what order, in white space, in one field that is left out.
_TOOL = {"type": "function", "function": {"name": "look", "parameters": {"type": "object"}}}
_PROMPTS: tuple[list[Any], ...] = (
    [],
    [{"role": "system", "content": "Be brief."}],
    [{"role": "developer", "content": "Be brief."}],
    [{"role": "system", "content": "Be brief. "}],
    [{"role": "user", "content": "yes"}, {"role": "assistant", "content": "no"}],
    [{"role": "user", "content": "no"}, {"role": "assistant", "content": "yes"}],
    [
        {"role": "system", "content": "Be brief."},
        {"role": "user", "content": "x"},
        {"role": "assistant", "content": ""},
    ],
)
_FIELDS: tuple[dict[str, Any], ...] = (
    {},
    {"temperature": 0},
    {"temperature": 0.2},
    {"seed": 1},
    {"max_tokens": 1},
    {"tools": [_TOOL]},
    {"response_format": {"type": "json_object"}},
    {"stop": ["1"]},
    {"a_field_of_tomorrow": True},
)
_MODELS = ("auto", "small")
_USERS = (None, "ann", "bob")
CONTEXTS = tuple(product(range(len(_PROMPTS)), range(len(_FIELDS)), _MODELS, _USERS))


@dataclass(frozen=True)
class Asked:
    """A request: who, in which context, what."""

    tenant: str
    context: int
    text: int

    def answer(self) -> bytes:
        """Return an answer that says whose it is."""
        says = json.dumps([self.tenant, self.context, self.text])
        message = {"role": "assistant", "content": says}
        return json.dumps({"choices": [{"index": 0, "message": message, "finish_reason": "stop"}]}).encode()


def read_answer(body: bytes) -> Asked:
    """Return for which request an answer was made."""
    return Asked(*json.loads(json.loads(body)["choices"][0]["message"]["content"]))


class Keys:
    """The keys and traits of requests, each made once by the code under test."""

    def __init__(self) -> None:
        self._known: dict[tuple[str, int, int], tuple[CacheKey, RequestTraits]] = {}

    def of(self, tenant: str, context: int, text: int) -> tuple[CacheKey, RequestTraits]:
        """Return key and traits."""
        known = self._known.get((tenant, context, text))
        if known is None:
            prompt, fields, model, user = CONTEXTS[context]
            messages = [*_PROMPTS[prompt], {"role": "user", "content": TEXTS[text]}]
            raw = {name: json.dumps(value).encode() for name, value in _FIELDS[fields].items()}
            raw["messages"] = json.dumps(messages).encode()
            key = cache_key(CacheScope(tenant, user, "chat", model, "encoder"), raw)
            known = self._known[tenant, context, text] = key, survey_request(canonical_fields(raw), key)
        return known


class BrokenKeys(Keys):
    """Keys that forget the context, as a careless cache's do."""

    def of(self, tenant: str, context: int, text: int) -> tuple[CacheKey, RequestTraits]:
        """Return a key whose partition is the tenant's alone."""
        key, traits = super().of(tenant, context, text)
        return structs.replace(key, partition=hashlib.blake2b(tenant.encode(), digest_size=16).digest()), traits


class Stream:
    """Random requests, deletions, clock jumps and switches; `seen` counts what happened."""

    def __init__(self, keys: Keys, seed: int) -> None:
        self.now = START
        self.seen: Counter[str] = Counter()
        self._draws = random.Random(seed)
        self._keys = keys
        self._deleted: set[str] = set()
        self._stored: dict[str, dict[str, str]] = {}  # tenant of the document, entry id: category
        shared = CategoryPolicy(mode=CacheMode.SEMANTIC, ttl_seconds=600.0, is_shared_across_tenants=True)
        self._policies = {
            "faq": shared,
            "code": CategoryPolicy(mode=CacheMode.SEMANTIC, ttl_seconds=200.0),
            GENERAL: CategoryPolicy(mode=CacheMode.EXACT),
        }
        self._contexts = self._draws.sample(range(len(CONTEXTS)), len(CONTEXTS))
        store = MemoryDocumentStore()
        mirror = IndexMirror(
            PartitionedIndex(DIMENSION, IndexOptions(packed_entries=2, flat_entries=6)),
            ResidentSet(CategoryQuotas(CAPACITY_BYTES, {})),
            clock=lambda: self.now,
            on_problem=self._note_problem,
        )
        self.cache = AnswerCache(
            CacheParts(store, mirror, self._policies, "encoder", CredulousJudge()),
            clock=lambda: self.now,
            on_problem=self._note_problem,
            max_answer_bytes=10_000,
        )
        self.follower = IndexFollower(
            mirror,
            encoder_id="encoder",
            dimension=DIMENSION,
            clock=lambda: self.now,
            on_problem=self._note_problem,
        )

    def _note_problem(self, code: str) -> None:
        raise AssertionError(code)

    async def run(self, requests: int) -> None:
        """Send so many requests, with everything else in between."""
        following = asyncio.create_task(self.follower.run(self.cache.parts.store))
        try:
            for number in range(requests):
                await self._request()
                if number % 3 == 0:  # the index lags behind the store by a few changes, as it does in life
                    await asyncio.sleep(0)
                if number % 7 == 0:
                    await self._something_else()
        finally:
            following.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await following

    def _look(self) -> tuple[Asked, Lookup, ChosenPolicy]:
        draws = self._draws
        # A few contexts at a time, so that they repeat and their partitions fill, and others as time goes on.
        first = int(self.seen["requests"] / 5_000)
        context = self._contexts[(first + int(draws.random() ** 3 * 12)) % len(self._contexts)]
        tenant = draws.choice(TENANTS)
        asked = Asked(tenant, context, int(draws.random() ** 2 * len(TEXTS)))
        key, traits = self._keys.of(tenant, context, asked.text)
        has_shared = self._policies["faq"].is_shared_across_tenants
        shared = self._keys.of(SHARED_TENANT, context, asked.text)[0] if has_shared else None
        category = draws.choice(("faq", "code"))
        look = Lookup(tenant, key, shared, traits, CacheDirective())
        return asked, look, ChosenPolicy(category, self._policies[category])

    async def _request(self) -> None:
        self.seen["requests"] += 1
        asked, look, chosen = self._look()
        self.cache.parts.contexts.see(look.tenant, look.key.context)
        found = await self.cache.find_exact(look, _accepts_all)
        if not isinstance(found, Hit):
            found = await self.cache.find_semantic(look, VECTORS[asked.text], chosen, _accepts_all)
        if isinstance(found, Hit):
            self._check(asked, found)
            if self._draws.random() < 0.9:  # a caller may ask anew all the same, with no-cache
                return
        await self._store(asked, look, chosen)

    async def _store(self, asked: Asked, look: Lookup, chosen: ChosenPolicy) -> None:
        answer = FreshAnswer(
            asked.answer(), 200, "arm", None, 0.5, 1, 1, Decimal("0.001"), 1.0, may_be_shared=asked.tenant in TRUSTED
        )
        result = await self.cache.store(look, chosen, answer, VECTORS[asked.text])
        self.seen[f"store {result.reason}"] += 1
        if result.document is not None:
            self._stored.setdefault(result.document.tenant, {})[result.document.entry_id] = result.document.category

    def _check(self, asked: Asked, hit: Hit) -> None:
        """Judge a hit by what its answer says of itself."""
        made_for, document = read_answer(hit.document.body), hit.document
        is_shared = document.tenant == SHARED_TENANT
        assert made_for.context == asked.context, f"{CONTEXTS[asked.context]} got {CONTEXTS[made_for.context]}"
        assert hit.kind != "hit-exact" or made_for.text == asked.text
        assert made_for.tenant == asked.tenant or (is_shared and made_for.tenant in TRUSTED)
        assert not is_shared or self._policies["faq"].is_shared_across_tenants
        assert document.entry_id not in self._deleted
        assert document.stored_at - 5.0 <= self.now < document.expires_at
        self.seen[hit.kind] += 1
        self.seen["hit of another tenant's shared answer"] += made_for.tenant != asked.tenant
        self.seen["hit of another text"] += made_for.text != asked.text

    async def _something_else(self) -> None:
        draws = self._draws
        self.now += draws.expovariate(1.0)
        what = draws.random()
        owner = draws.choice((*TENANTS, SHARED_TENANT))
        if what < 0.05 and self._stored.get(owner):
            await self._delete(owner, draws.choice(list(islice(reversed(self._stored[owner]), 20))))
        elif what < 0.052:
            await self._delete_all(owner, draws.choice((None, "faq", "code")))
        elif what < 0.06:
            self.now += draws.choice((-900.0, -300.0, -6.0, -1.0, 300.0, 900.0))
            self.seen["clock jumps"] += 1
        elif what < 0.08:
            await self.cache.sweep()
        elif what < 0.09:
            is_shared = not self._policies["faq"].is_shared_across_tenants
            self._policies["faq"] = replace(self._policies["faq"], is_shared_across_tenants=is_shared)
            self.seen["sharing switched"] += 1

    async def _delete(self, owner: str, entry_id: str) -> None:
        self.seen["deleted"] += await self.cache.delete(owner, [entry_id])
        del self._stored[owner][entry_id]
        self._deleted.add(entry_id)

    async def _delete_all(self, owner: str, category: str | None) -> None:
        await self.cache.delete_all(owner, category)
        self.seen["cleared"] += 1
        gone = [each for each, name in self._stored.get(owner, {}).items() if category in (None, name)]
        for entry_id in gone:
            del self._stored[owner][entry_id]
        self._deleted.update(gone)


def _accepts_all(_: CachedDocument) -> bool:
    return True


@pytest.mark.parametrize(
    "requests",
    [20_000, pytest.param(1_000_000, marks=[pytest.mark.slow, pytest.mark.timeout(3_600)])],
)
async def test_cache_with_a_credulous_rule_never_serves_across_tenants_or_contexts(requests: int) -> None:
    """Keys alone keep tenants and contexts apart, through deletions, expiry, evictions, sharing and clock jumps."""
    stream = Stream(Keys(), seed=20_260_101)
    await stream.run(requests)
    print(dict(stream.seen))
    share = requests / 20_000
    for what, least in {
        "hit-exact": 1_000,
        "hit-semantic": 1_000,
        "hit of another tenant's shared answer": 300,
        "hit of another text": 1_000,
        "store stored": 1_000,
        "deleted": 30,
        "clock jumps": 5,
        "cleared": 1,
        "sharing switched": 1,
    }.items():
        assert stream.seen[what] >= least * share, f"{what}: {stream.seen}"
    figures = stream.cache.parts.mirror.residents.figures()
    assert sum(each.evicted for each in figures.values()) > 0


async def test_cache_whose_keys_forget_the_context_is_caught_by_the_same_stream() -> None:
    """The stream finds what it is there to find."""
    with pytest.raises(AssertionError, match="got"):
        await Stream(BrokenKeys(), seed=1).run(20_000)
