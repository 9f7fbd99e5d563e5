"""Somebody who floods the cache with near-duplicates, or who writes what others may read: it stays with him."""

from __future__ import annotations

import asyncio
import contextlib
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from decimal import Decimal
from pathlib import Path

import aiohttp
import numpy as np
import pytest

from penstock_cache.answer_cache import AnswerCache, CacheParts
from penstock_cache.categories import CacheMode, CategoryPolicy, ChosenPolicy
from penstock_cache.contexts import ContextCounter
from penstock_cache.directives import CacheDirective
from penstock_cache.eligibility import RequestTraits
from penstock_cache.entries import CachedDocument, FloatArray
from penstock_cache.index.partitions import IndexOptions, PartitionedIndex
from penstock_cache.keys import CacheScope, cache_key
from penstock_cache.lookups import SHARED_TENANT, FreshAnswer, Hit, Lookup, Miss
from penstock_cache.mirror import IndexMirror
from penstock_cache.quotas import CategoryQuota, CategoryQuotas
from penstock_cache.residency import ResidentSet
from penstock_cache.stores import IndexFollower, MemoryDocumentStore
from penstock_gateway.caching.services import CacheServices
from penstock_gateway.money.usage import Usage
from penstock_gateway.settings import load_settings
from penstock_gateway.upstream.protocol import UpstreamRequest
from penstock_routers.bundled import bundled_folder
from penstock_routers.encoder import PromptEncoder
from support.cache_documents import DIMENSION, NOW, eventually, unit_vector
from support.credulous_judge import CredulousJudge, believe_everything
from support.fakes import FakeReply
from support.running_gateway import Running, running

POLICIES = {
    name: CategoryPolicy(mode=CacheMode.SEMANTIC, is_shared_across_tenants=name == "shared")
    for name in ("faq", "code", "shared", "general")
}
QUESTIONS = 50
FLOOD = 3_000
ROOMY = 1 << 26


class Cache:
    """An `AnswerCache` over memory whose rule believes everything; every answer names who wrote it."""

    def __init__(self, quotas: CategoryQuotas, *, max_contexts: int = 1_000) -> None:
        self.mirror = IndexMirror(
            PartitionedIndex(DIMENSION, IndexOptions(packed_entries=8, flat_entries=256)),
            ResidentSet(quotas),
            clock=lambda: NOW,
            on_problem=self._fail,
        )
        parts = CacheParts(
            MemoryDocumentStore(),
            self.mirror,
            POLICIES,
            "encoder",
            CredulousJudge(),
            contexts=ContextCounter(max_contexts),
        )
        self.answers = AnswerCache(parts, clock=lambda: NOW, on_problem=self._fail, max_answer_bytes=10_000)

    def _fail(self, code: str) -> None:
        raise AssertionError(code)

    async def write(self, tenant: str, text: str, vector: FloatArray, category: str, *, system: str = "Help.") -> str:
        """Store an answer, and return what became of it."""
        look = look_for(tenant, text, system)
        for _ in range(2):
            self.answers.parts.contexts.see(tenant, look.key.context)
        result = await self.answers.store(look, chosen(category), answer_of(tenant), vector)
        await asyncio.sleep(0)
        return result.reason if result.document is None or result.document.is_semantic else "stored, exact only"

    async def ask(self, tenant: str, number: int, category: str = "faq") -> Hit | Miss:
        """Ask one of the questions in another wording."""
        look = look_for(tenant, f"another wording of {number}")
        return await self.answers.find_semantic(look, unit_vector(number), chosen(category), lambda _: True)


@asynccontextmanager
async def followed(cache: Cache) -> AsyncIterator[Cache]:
    """Let the index follow the store."""
    follower = IndexFollower(cache.mirror, encoder_id="encoder", dimension=DIMENSION, clock=lambda: NOW)
    task = asyncio.create_task(follower.run(cache.answers.parts.store))
    await eventually(lambda: follower.is_in_step, "the index follows")
    try:
        yield cache
    finally:
        task.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await task


def look_for(tenant: str, text: str, system: str = "Help.") -> Lookup:
    """Return a look-up whose keys are made as the gateway makes them."""
    messages = [{"role": "system", "content": system}, {"role": "user", "content": text}]
    fields = {"messages": json.dumps(messages).encode()}
    key, shared = (
        cache_key(CacheScope(who, None, "chat", "auto", "encoder"), fields) for who in (tenant, SHARED_TENANT)
    )
    return Lookup(tenant, key, shared, RequestTraits(), CacheDirective())


def chosen(category: str) -> ChosenPolicy:
    """Return a category with its policy."""
    return ChosenPolicy(category, POLICIES[category])


def answer_of(tenant: str) -> FreshAnswer:
    """Return an answer by which its writer is known."""
    message = {"role": "assistant", "content": f"by {tenant}"}
    body = json.dumps({"choices": [{"index": 0, "message": message, "finish_reason": "stop"}]}).encode()
    return FreshAnswer(body, 200, "small", "small", 0.5, 10, 10, Decimal("0.001"), 1.0)


def near(number: int, draws: np.random.Generator) -> FloatArray:
    """Return a vector all but equal to a question's."""
    vector = unit_vector(number) + 0.001 * draws.standard_normal(DIMENSION).astype(np.float32)
    return vector / np.linalg.norm(vector)


async def flood(cache: Cache, category: str) -> None:
    """Write near-duplicates of every question, in the same context, as another tenant."""
    draws = np.random.default_rng(1)
    for number in range(FLOOD):
        wording = f"another wording of {number % QUESTIONS}" + " " * (number // QUESTIONS)
        await cache.write("eve", wording, near(number % QUESTIONS, draws), category)


async def served(cache: Cache) -> list[tuple[str, float] | None]:
    """Ask all questions as the neighbour; return entry and similarity of each hit, which must be his own."""
    found = [await cache.ask("bob", number) for number in range(QUESTIONS)]
    hits = [each if isinstance(each, Hit) else None for each in found]
    assert all(b"by bob" in hit.document.body and hit.document.tenant == "bob" for hit in hits if hit is not None)
    return [None if hit is None else (hit.document.entry_id, hit.similarity) for hit in hits]


async def test_neighbour_of_a_flooding_tenant_gets_the_same_hits_from_the_same_index() -> None:
    """Thousands of near-duplicates in another tenant move no neighbour, no score and no partition of this one."""
    async with followed(Cache(CategoryQuotas(ROOMY, {}))) as cache:
        for number in range(QUESTIONS):
            assert await cache.write("bob", f"question {number}", unit_vector(number), "faq") == "stored"
        partition, index = look_for("bob", "any").key.partition, cache.mirror.index
        assert isinstance(index, PartitionedIndex)
        before = await served(cache)
        rows = sorted(index.entries(partition))
        await flood(cache, "faq")
        assert len(cache.mirror) == QUESTIONS + FLOOD
        assert await served(cache) == before
        assert None not in before
        assert sorted(index.entries(partition)) == rows
        assert len(rows) == QUESTIONS
        assert index.partition_size(look_for("eve", "any").key.partition) == FLOOD


async def test_neighbour_of_a_flooding_tenant_keeps_what_its_category_has_reserved() -> None:
    """In a full cache the flood pushes out itself and what is borrowed, not another category's reserve."""
    quotas = CategoryQuotas(400_000, {"faq": CategoryQuota(100_000), "code": CategoryQuota(0, 300_000)})
    async with followed(Cache(quotas)) as cache:
        for number in range(QUESTIONS):
            assert await cache.write("bob", f"question {number}", unit_vector(number), "faq") == "stored"
        assert quotas.used_bytes("faq") <= 100_000
        before = await served(cache)
        await flood(cache, "code")
        assert None not in before
        assert await served(cache) == before
        assert quotas.total_bytes <= 400_000
        assert quotas.used_bytes("code") <= 300_000
        assert cache.mirror.residents.figures()["code"].evicted > 1_000


async def test_neighbour_of_a_flooding_tenant_in_one_category_loses_bytes_at_most() -> None:
    """Where both share one category's bytes, the neighbour may miss, but is never served what the other wrote."""
    quotas = CategoryQuotas(100_000, {})
    async with followed(Cache(quotas)) as cache:
        for number in range(QUESTIONS):
            await cache.write("bob", f"question {number}", unit_vector(number), "faq")
        before = await served(cache)
        await flood(cache, "faq")
        after = await served(cache)
        assert all(now in (None, then) for now, then in zip(after, before, strict=True))
        assert quotas.total_bytes <= 100_000
        await eventually(lambda: len(cache.mirror) == len(cache.mirror.residents), "the index has followed")


async def test_neighbour_of_a_tenant_with_ever_new_contexts_still_gets_semantic_entries() -> None:
    """A stream of contexts that never repeat does not make the counter forget another tenant's."""
    async with followed(Cache(CategoryQuotas(ROOMY, {}), max_contexts=100)) as cache:
        contexts = cache.answers.parts.contexts
        bobs = look_for("bob", "any").key.context
        contexts.see("bob", bobs)
        contexts.see("bob", bobs)
        for number in range(FLOOD):
            contexts.see("eve", look_for("eve", "any", system=f"It is second {number}.").key.context)
        assert contexts.count("bob", bobs) == 2
        assert len(contexts) <= 100


# From here on over HTTP, with keys of three tenants.

CONFIG = """
version: 1
deployments:
  - {name: small, model: up-small, base_url: "http://127.0.0.1:9/v1", tier: small,
     price: {input: 0.1, output: 0.4}, context_tokens: 8000, max_output_tokens: 4000,
     abilities: [streaming, tools, vision, json]}
client_keys:
  - {name: editor, key: '${EDITOR}', cache_category: faq, may_share_answers: true}
  - {name: mallory, key: '${MALLORY}', cache_category: faq}
  - {name: reader, key: '${READER}', cache_category: faq}
cache: {mode: semantic, rule: none, categories: {faq: {is_shared_across_tenants: true}}}
"""
NAMES = ("editor", "mallory", "reader")


def echo(request: UpstreamRequest) -> FakeReply:
    """Answer with the name in the request's metadata, which no key looks at: who asked first is seen in the answer."""
    says = json.loads(bytes(request.body["metadata"]))["writer"]
    message = {"role": "assistant", "content": f"by {says}"}
    choice = {"index": 0, "message": message, "finish_reason": "stop"}
    body = {"id": "c1", "object": "chat.completion", "created": 1, "model": "up-small", "choices": [choice]}
    return FakeReply(body=json.dumps(body).encode(), usage=Usage(input_tokens=10, output_tokens=5))


@asynccontextmanager
async def gateway(tmp_path: Path, judge: CredulousJudge) -> AsyncIterator[Running]:
    """A gateway with three keys whose rule believes everything."""
    path = tmp_path / "penstock.yaml"
    path.write_text(CONFIG)
    settings = load_settings(path, {name.upper(): name[0] * 32 for name in NAMES})
    async with running(settings, echo) as started:
        believe_everything(services_of(started), judge)
        yield started


def services_of(of: Running) -> CacheServices:
    """Return the cache's services of a gateway."""
    desk = of.app.pipeline.cache
    assert desk is not None
    return desk.services


async def ask(of: Running, name: str, text: str, directive: str = "") -> tuple[str, str]:
    """Ask as somebody; return what the cache did and who wrote the answer, once the answer is stored."""
    headers = {"authorization": f"Bearer {name[0] * 32}"} | ({"x-penstock-cache": directive} if directive else {})
    response: aiohttp.ClientResponse = await of.chat(
        headers=headers, messages=[{"role": "user", "content": text}], metadata={"writer": name}
    )
    assert response.status == 200, await response.text()
    content = (await response.json())["choices"][0]["message"]["content"]
    await services_of(of).drain()
    await asyncio.sleep(0.01)  # the index follows in the next turns of the loop
    return response.headers["x-penstock-cache"], content.removeprefix("by ")


def documents_of(of: Running, tenant: str) -> list[CachedDocument]:
    """Return everything that the store holds of a tenant."""
    store = services_of(of).cache.parts.store
    assert isinstance(store, MemoryDocumentStore)
    return [each for each in store._shelf.documents() if each.tenant == tenant]


async def test_shared_partition_takes_answers_of_trusted_keys_alone(tmp_path: Path) -> None:
    """What a key without trust writes, asks again or words otherwise reaches its own tenant and nobody else."""
    async with gateway(tmp_path, CredulousJudge(min_cosine=0.8)) as of:
        for name in NAMES:  # a context that was seen once gets no semantic entry
            await ask(of, name, "Tell me about the weather on Mars.", "no-store")
        assert await ask(of, "mallory", "How do I reset my password?") == ("miss", "mallory")
        assert await ask(of, "reader", "How do I reset my password?", "no-store") == ("miss", "reader")
        assert await ask(of, "editor", "How do I reset my password?") == ("miss", "editor")
        assert await ask(of, "reader", "How do I reset my password?") == ("hit-exact", "editor")
        assert await ask(of, "reader", "How can I reset my password?") == ("hit-semantic", "editor")
        shared = documents_of(of, SHARED_TENANT)
        for number in range(300):
            wording = f"How do I reset my password{'?' * (number + 2)}"
            assert (await ask(of, "mallory", wording, "no-cache"))[1] == "mallory"
        assert documents_of(of, SHARED_TENANT) == shared
        assert len(shared) == 1
        assert len(documents_of(of, "mallory")) == 301
        assert documents_of(of, "reader") == []
        assert await ask(of, "reader", "How do I reset my password???") == ("hit-semantic", "editor")
        assert await ask(of, "reader", "How do I reset my password?") == ("hit-exact", "editor")


@pytest.mark.parametrize(
    ("same", "kind"),
    [
        ("How do I do this? " + "really " * 100, "hit-semantic"),
        ("How do I do this? " + "ab1 " * 240, "miss"),  # short enough, but some 500 tokens
        ("我" * 300, "miss"),  # a token each
        ("How do I decode " + "x" * 150, "miss"),  # one token for whatever has so many characters
        ("What does it mean? \U0001f9ff \U0001fac0", "miss"),  # signs that the tokeniser does not know
        ("How do I do this? " + "really " * 200, "miss"),
    ],
    ids=["fits", "many tokens", "Chinese", "one long word", "unknown signs", "too long"],
)
async def test_prompts_that_differ_where_the_encoder_does_not_look_never_answer_each_other(
    tmp_path: Path, same: str, kind: str
) -> None:
    """A text that the second encoder does not read whole has exact hits only, even if the rule believes everything."""
    encoder = await asyncio.to_thread(PromptEncoder.load, bundled_folder("minilm-l6-v2"))
    middle = len(same) * 3 // 4  # the encoder keeps the first 169 tokens and the last 85
    texts = [same[:middle] + sign + same[middle + 1 :] for sign in "123"]
    async with gateway(tmp_path, CredulousJudge(reads_whole=encoder.reads_whole)) as of:
        for text in texts[:2]:
            assert (await ask(of, "mallory", text, "no-cache"))[1] == "mallory"
        assert (await ask(of, "mallory", texts[2], "no-store"))[0] == kind
        assert (await ask(of, "mallory", texts[1]))[0] == "hit-exact"
        assert [each.is_semantic for each in documents_of(of, "mallory")] == [False, kind != "miss"]
