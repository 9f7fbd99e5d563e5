"""The cache's steps: what may be served, what a failing or lying store turns into, what is stored, what goes."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import msgspec
import numpy as np
import pytest
from msgspec import structs

from penstock_cache.categories import CategoryPolicy
from penstock_cache.directives import CacheDirective
from penstock_cache.entries import CachedDocument, FloatArray
from penstock_cache.errors import StoreUnavailable
from penstock_cache.lookups import SHARED_TENANT, Hit, Lookup, Miss
from penstock_cache.mirror import MIRRORED_BYTES
from support.cache_documents import DIMENSION, unit_vector
from support.cache_lookups import (
    POLICIES,
    SHARED,
    VECTOR,
    CacheWorld,
    accepts_all,
    answer,
    chosen,
    completion,
    digest,
    look,
)
from support.cache_rules import by_verifier, point, rule_of

ASKED, WORDED = "What is the capital of France?", "Which city is the capital of France?"


async def semantic(world: CacheWorld, asked: Lookup, category: str = "faq", **options: object) -> Hit | Miss:
    """Look for another wording."""
    return await world.cache.find_semantic(asked, VECTOR, chosen(category), accepts_all, **options)  # type: ignore[arg-type]


async def test_exact_hit_returns_the_same_request_with_its_age() -> None:
    """What was stored for a whole request answers it again, and nothing else."""
    world = CacheWorld()
    stored = await world.put(look(ASKED))
    world.now += 7
    hit = await world.cache.find_exact(look(ASKED), accepts_all)
    assert isinstance(hit, Hit)
    assert (hit.document, hit.kind, hit.age_seconds, hit.similarity) == (stored.document, "hit-exact", 7.0, 1.0)
    for other in (look(WORDED), look(ASKED, "bob"), look(ASKED, system="Be long.")):
        assert await world.cache.find_exact(other, accepts_all) == Miss("no_entry")


async def test_semantic_hit_returns_another_wording_with_similarity_and_probability() -> None:
    """An entry of the same context that the rule believes is served; another context's or tenant's never."""
    world = CacheWorld()
    stored = await world.put(look(ASKED))
    hit = await semantic(world, look(WORDED))
    assert isinstance(hit, Hit)
    assert (hit.document, hit.kind) == (stored.document, "hit-semantic")
    assert hit.similarity == pytest.approx(1.0, abs=2e-3)  # the vector lies in float16
    assert hit.probability == pytest.approx(1.0, abs=1e-6)
    for other in (look(WORDED, "bob"), look(WORDED, system="Be long.")):
        assert await semantic(world, other) == Miss("no_neighbour")


async def test_semantic_look_up_decides_while_it_waits_for_the_store() -> None:
    """What is remembered of the neighbours is compared before their documents come: the wait costs nothing then."""
    world, order = CacheWorld(), list[str]()

    def model(rows: FloatArray) -> FloatArray:
        order.append("model")
        return by_verifier(rows)

    world.judge.rule = rule_of(model)
    stored = await world.put(look(ASKED))
    first = await semantic(world, look(WORDED))
    world.store.pause_seconds, world.store.lies = 0.005, lambda document: (order.append("document"), document)[1]
    order.clear()
    second = await semantic(world, look(WORDED))
    assert isinstance(second, Hit)
    assert second == first
    assert second.document == stored.document
    assert order == ["model", "document", "model"]


async def test_semantic_look_up_judges_the_text_that_the_store_returns() -> None:
    """What was worked out of a remembered text must not decide about another one under the same id."""
    world = CacheWorld()
    await world.put(look(ASKED))
    assert isinstance(await semantic(world, look(WORDED)), Hit)
    world.store.pause_seconds = 0.005
    world.store.lies = lambda document: msgspec.structs.replace(document, prompt="What is not the capital of France?")
    found = await semantic(world, look(WORDED))
    assert isinstance(found, Miss)
    assert found.reason == "guard:negation"


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        (lambda world: world.verifier.cosines.update({ASKED: 0.5}), "below_threshold"),
        (lambda world: setattr(world.judge, "reads_whole", lambda _: False), "beyond_encoder"),
        (lambda world: setattr(world.cache, "parts", replace(world.cache.parts, judge=None)), "no_rule"),
        (lambda world: setattr(world.judge, "rule", rule_of(points=[point(0.01, None)])), "not_certifiable"),
        (lambda world: setattr(world.judge, "rule", rule_of(points=[point(0.02, 0.5)])), "not_certifiable"),
        (lambda world: setattr(world.judge, "rule", rule_of(points=[])), "not_certifiable"),
        (lambda world: setattr(world.judge, "rule", rule_of(min_cosine=1.01)), "no_neighbour"),
    ],
)  # fmt: skip
async def test_semantic_miss_names_what_kept_the_answer_back(change: Callable[[CacheWorld], None], reason: str) -> None:
    """No rule, no certificate, a text beyond the encoder, nobody near, or not sure enough: each has its name."""
    world = CacheWorld()
    await world.put(look(ASKED))
    change(world)
    found = await semantic(world, look(WORDED))
    assert isinstance(found, Miss)
    assert found.reason == reason


async def test_semantic_threshold_of_a_controller_only_makes_the_rule_stricter() -> None:
    """A live threshold below the certified one changes nothing, one above it does."""
    world = CacheWorld()
    await world.put(look(ASKED))
    world.verifier.cosines[ASKED] = 0.85
    assert isinstance(await semantic(world, look(WORDED), min_threshold=0.1), Hit)
    assert isinstance(await semantic(world, look(WORDED), min_threshold=0.9), Miss)
    unsure = CacheWorld()
    await unsure.put(look(ASKED))
    unsure.verifier.cosines[ASKED] = 0.75
    assert isinstance(await semantic(unsure, look(WORDED), min_threshold=0.1), Miss)


LIES = [
    lambda document: msgspec.structs.replace(document, tenant="bob"),
    lambda document: msgspec.structs.replace(document, tenant=SHARED_TENANT),
    lambda document: msgspec.structs.replace(document, tenant=SHARED_TENANT, is_shared=True),
    lambda document: msgspec.structs.replace(document, expires_at=document.stored_at),
    lambda document: msgspec.structs.replace(document, category="off"),
]
EXACT_LIES = [lambda document: msgspec.structs.replace(document, fingerprint=digest("another request"))]
SEMANTIC_LIES = [
    lambda document: msgspec.structs.replace(document, partition=digest("another context")),
    lambda document: msgspec.structs.replace(document, encoder_id="another encoder"),
    lambda document: msgspec.structs.replace(document, encoder_id=""),
    lambda document: msgspec.structs.replace(document, vector=b""),
]


@pytest.mark.parametrize("lie", LIES + EXACT_LIES)
async def test_exact_look_up_never_serves_what_a_store_returns_wrongly(
    lie: Callable[[CachedDocument], CachedDocument],
) -> None:
    """Tenant, owner, fingerprint, freshness and category are checked on the document itself."""
    world = CacheWorld()
    await world.put(look(ASKED))
    world.store.lies = lie
    assert await world.cache.find_exact(look(ASKED), accepts_all) == Miss("not_acceptable")


@pytest.mark.parametrize("lie", LIES + SEMANTIC_LIES)
async def test_semantic_look_up_never_serves_what_a_store_returns_wrongly(
    lie: Callable[[CachedDocument], CachedDocument],
) -> None:
    """Tenant, owner, partition, encoder, freshness and category are checked before anything is judged."""
    world = CacheWorld()
    await world.put(look(ASKED))
    world.store.lies = lie
    assert await semantic(world, look(WORDED)) == Miss("no_neighbour")
    assert world.verifier.calls == []


@pytest.mark.parametrize("is_exact", [True, False])
async def test_shared_entry_serves_other_tenants_only_while_its_category_is_shared(is_exact: bool) -> None:
    """A trusted key's answer crosses tenants; once the category is no longer shared, it does not any more."""
    world = CacheWorld()
    stored = await world.put(look(ASKED), "shared", answer(may_be_shared=True))
    assert stored.document is not None
    assert (stored.document.tenant, stored.document.is_shared) == (SHARED_TENANT, True)

    async def bobs() -> Hit | Miss:
        if is_exact:
            return await world.cache.find_exact(look(ASKED, "bob"), accepts_all)
        return await semantic(world, look(WORDED, "bob"), "shared")

    assert isinstance(await bobs(), Hit)
    now_private: dict[str, CategoryPolicy] = {**POLICIES, "shared": replace(SHARED, is_shared_across_tenants=False)}
    world.cache.parts = replace(world.cache.parts, policies=now_private)
    assert isinstance(await bobs(), Miss)


@pytest.mark.parametrize(
    ("category", "may_be_shared", "has_shared_key"),
    [("faq", True, True), ("shared", False, True), ("shared", True, False)],
)
async def test_answer_is_shared_only_by_a_trusted_key_in_a_shared_category(
    category: str, may_be_shared: bool, has_shared_key: bool
) -> None:
    """Without trust, or without the category's consent, an entry stays its tenant's own."""
    world = CacheWorld()
    asked = look(ASKED) if has_shared_key else structs.replace(look(ASKED), shared_key=None)
    result = await world.put(asked, category, answer(may_be_shared=may_be_shared))
    assert result.document is not None
    assert (result.document.tenant, result.document.is_shared) == ("ann", False)
    assert isinstance(await world.cache.find_exact(look(ASKED, "bob"), accepts_all), Miss)


@pytest.mark.parametrize(
    ("age", "stale_share", "is_served"),
    [(99.9, 0.0, True), (100.1, 0.0, False), (100.1, 1.0, True), (124.9, 0.5, True), (125.1, 0.5, False),
     (150.1, 1.0, False)],
)  # fmt: skip
async def test_ttl_is_fixed_and_prolonged_by_load_alone(age: float, stale_share: float, is_served: bool) -> None:
    """A hit never moves the end of an entry's life; only load does, within the category's bound."""
    world = CacheWorld()
    await world.put(look(ASKED), may_be_stale=True)
    world.now += 50
    assert isinstance(await world.cache.find_exact(look(ASKED), accepts_all), Hit)
    world.now += age - 50
    exact = await world.cache.find_exact(look(ASKED), accepts_all, stale_share=stale_share)
    assert isinstance(exact, Hit) is is_served
    assert isinstance(await semantic(world, look(WORDED), stale_share=stale_share), Hit) is is_served


async def test_ttl_of_a_volatile_category_is_never_prolonged() -> None:
    """Yesterday's answer to what changes by the minute is wrong however busy the model is."""
    world = CacheWorld()
    result = await world.put(look(ASKED), "volatile", may_be_stale=True)
    assert result.document is not None
    assert result.document.expires_at == world.now + 10.0
    world.now += 10.5
    assert isinstance(await world.cache.find_exact(look(ASKED), accepts_all, stale_share=1.0), Miss)


async def test_ttl_wished_by_the_caller_shortens_and_is_not_prolonged() -> None:
    """A caller's shorter life holds under load too, and a longer one is not granted."""
    world = CacheWorld()
    short = await world.put(look(ASKED, directive=CacheDirective(ttl_seconds=5.0)), may_be_stale=True)
    long = await world.put(look(WORDED, directive=CacheDirective(ttl_seconds=5_000.0)))
    assert short.document is not None
    assert long.document is not None
    assert short.document.expires_at == world.now + 5.0
    assert long.document.expires_at == world.now + 100.0


@pytest.mark.parametrize(("max_age", "is_served"), [(30.0, True), (29.0, False)])
async def test_max_age_of_the_caller_refuses_older_entries_in_both_tiers(max_age: float, is_served: bool) -> None:
    """An entry older than the caller wants is a miss."""
    world = CacheWorld()
    await world.put(look(ASKED))
    world.now += 30
    directive = CacheDirective(max_age_seconds=max_age)
    exact = await world.cache.find_exact(look(ASKED, directive=directive), accepts_all)
    assert isinstance(exact, Hit) is is_served
    assert isinstance(await semantic(world, look(WORDED, directive=directive)), Hit) is is_served


async def test_clock_that_went_back_serves_nothing_from_the_future() -> None:
    """An entry whose age is unknown must not outlive its TTL; within the slack between replicas it has age zero."""
    world = CacheWorld()
    await world.put(look(ASKED))
    world.now -= 3.0
    hit = await world.cache.find_exact(look(ASKED), accepts_all)
    assert isinstance(hit, Hit)
    assert hit.age_seconds == 0.0
    world.now -= 3_600.0
    assert isinstance(await world.cache.find_exact(look(ASKED), accepts_all), Miss)
    assert isinstance(await semantic(world, look(WORDED)), Miss)
    await world.put(look(WORDED))
    assert isinstance(await world.cache.find_exact(look(WORDED), accepts_all), Hit)


async def test_entry_that_the_caller_may_not_have_is_not_served() -> None:
    """The caller's own test of arm and tier is asked for every entry, also in the exact tier."""
    world = CacheWorld()
    await world.put(look(ASKED), fresh=answer(arm="secret"))
    asked = []

    def accepts(document: CachedDocument) -> bool:
        asked.append(document.arm)
        return document.arm != "secret"

    assert await world.cache.find_exact(look(ASKED), accepts) == Miss("not_acceptable")
    assert await world.cache.find_semantic(look(WORDED), VECTOR, chosen(), accepts) == Miss("no_neighbour")
    assert asked == ["secret", "secret"]


async def test_store_that_is_stopped_turns_look_ups_into_misses() -> None:
    """Losing the store costs hits, never errors; each failure is counted once and the index keeps its entries."""
    world = CacheWorld()
    await world.put(look(ASKED))
    world.store.is_down = True
    assert await world.cache.find_exact(look(ASKED), accepts_all) == Miss("store_unavailable")
    assert isinstance(await semantic(world, look(WORDED)), Miss)
    assert world.problems == ["store_unavailable"] * 2
    world.store.is_down = False
    assert isinstance(await semantic(world, look(WORDED)), Hit)


async def test_store_that_is_stopped_while_storing_leaves_nothing_behind() -> None:
    """An answer that could not be stored is in no index, and whoever waits for it has it all the same."""
    world = CacheWorld()
    world.store.is_down = True
    made: list[CachedDocument] = []
    asked = look(ASKED)
    result = await world.cache.store(asked, chosen(), answer(), VECTOR, on_made=made.append)
    assert (result.document, result.reason) == (None, "store_unavailable")
    assert [document.fingerprint for document in made] == [asked.key.fingerprint]
    assert len(world.mirror) == len(world.mirror.residents) == 0
    assert world.problems == ["store_unavailable"]


async def test_store_that_is_stopped_refuses_a_deletion() -> None:
    """Who deletes must learn that it was not done; a sweep merely tries again."""
    world = CacheWorld()
    result = await world.put(look(ASKED))
    assert result.document is not None
    world.store.is_down = True
    with pytest.raises(StoreUnavailable):
        await world.cache.delete("ann", [result.document.entry_id])
    with pytest.raises(StoreUnavailable):
        await world.cache.delete_all("ann")
    await world.cache.sweep()
    assert world.problems == ["store_unavailable"]


async def test_deleted_entry_is_served_by_neither_tier() -> None:
    """After a deletion the document is gone at once, and an index that still knows it finds nothing."""
    world = CacheWorld()
    result = await world.put(look(ASKED))
    assert result.document is not None
    entry_id = result.document.entry_id
    assert await world.cache.delete("bob", [entry_id]) == 0
    assert isinstance(await world.cache.find_exact(look(ASKED), accepts_all), Hit)
    assert await world.cache.delete("ann", [entry_id]) == 1
    assert entry_id in world.mirror
    assert isinstance(await semantic(world, look(WORDED)), Miss)
    assert entry_id not in world.mirror
    assert await world.cache.find_exact(look(ASKED), accepts_all) == Miss("no_entry")


async def test_delete_all_forgets_a_tenants_contexts_and_a_category_keeps_the_rest() -> None:
    """Everything of one tenant or one category goes, nothing of others."""
    world = CacheWorld()
    for number, (tenant, category) in enumerate([("ann", "faq"), ("ann", "general"), ("bob", "faq")]):
        await world.put(look(f"Question {number}?", tenant), category)
    assert await world.cache.delete_all("ann", "faq") == 1
    assert isinstance(await world.cache.find_exact(look("Question 1?"), accepts_all), Hit)
    assert await world.cache.delete_all("ann") == 1
    assert world.cache.parts.contexts.count("ann", look(ASKED).key.context) == 0
    assert isinstance(await world.cache.find_exact(look("Question 2?", "bob"), accepts_all), Hit)


async def test_context_seen_once_gets_an_exact_entry_only() -> None:
    """Most contexts never come back: their answers take no vector and are found by the same request alone."""
    world = CacheWorld()
    once = await world.put(look(ASKED), is_repeated=False)
    assert once.document is not None
    assert (once.document.is_semantic, once.document.prompt, once.document.encoder_id) == (False, "", "")
    assert isinstance(await world.cache.find_exact(look(ASKED), accepts_all), Hit)
    assert isinstance(await semantic(world, look(WORDED)), Miss)
    twice = await world.put(look(ASKED), is_repeated=False)  # the context's second time
    assert twice.document is not None
    assert (twice.document.is_semantic, twice.document.prompt) == (True, ASKED)


async def test_text_that_the_second_encoder_cuts_gets_an_exact_entry_only() -> None:
    """Prompts that differ behind the window would look alike, so no vector is kept."""
    world = CacheWorld()
    world.judge.reads_whole = lambda _: False
    result = await world.put(look(ASKED))
    assert result.document is not None
    assert not result.document.is_semantic


@pytest.mark.parametrize(
    ("fresh", "category", "reason"),
    [
        (answer(status=500), "faq", "status"),
        (answer(body=b"{"), "faq", "unreadable"),
        (answer(body=completion("Paris", "length")), "faq", "truncated"),
        (answer(body=completion("x" * 20_000)), "faq", "too_large"),
        (answer(body=completion()[:-1] + b', "citations": ["https://example.org"]}'), "faq", "retrieval"),
        (answer(body=completion()[:-1] + b', "search_results": [{"url": "x"}]}'), "faq", "retrieval"),
        (answer(), "off", "category_off"),
    ],
)
async def test_answer_that_may_not_be_reused_is_not_stored(fresh: object, category: str, reason: str) -> None:
    """Neither store nor index gets it, nobody waiting gets it, and the reason is named."""
    world = CacheWorld()
    made: list[CachedDocument] = []
    asked = look(ASKED)
    result = await world.cache.store(asked, chosen(category), fresh, VECTOR, on_made=made.append)  # type: ignore[arg-type]
    assert (result.document, result.reason, made) == (None, reason, [])
    assert world.store.entry_count == 0
    assert len(world.mirror.residents) == 0


@pytest.mark.parametrize("owns_documents", [True, False])
async def test_eviction_drops_the_documents_only_where_they_are_owned(owns_documents: bool) -> None:
    """Alone, what leaves the index leaves the store; with other replicas it stays for them until it expires."""
    room = 3 * (len(completion()) + len(ASKED) + 2 * 2 * DIMENSION + 256 + MIRRORED_BYTES + 64)
    world = CacheWorld(capacity_bytes=room, owns_documents=owns_documents)
    stored = [await world.put(look(f"Question number {number}?", f"t{number}")) for number in range(9)]
    held = {result.document.entry_id for result in stored if result.document is not None}
    in_index = {entry_id for entry_id in held if entry_id in world.mirror}
    assert 0 < len(in_index) < len(held)
    if owns_documents:
        assert {entry_id for _, entry_id in world.store.evicted} == held - in_index
        assert all(tenant.startswith("t") for tenant, _ in world.store.evicted)
        assert world.store.entry_count == len(in_index)
    else:
        assert world.store.evicted == []
        assert world.store.entry_count == len(held)


async def test_eviction_from_a_stopped_store_is_counted_and_goes_on() -> None:
    """A document that could not be dropped expires by itself; the request is not held up."""
    room = 2 * (len(completion()) + len(ASKED) + 2 * 2 * DIMENSION + 256 + MIRRORED_BYTES + 64)
    world = CacheWorld(capacity_bytes=room)
    for number in range(2):
        await world.put(look(f"Question number {number}?"))
    world.store.is_down = True
    result = await world.put(look("Question number 3?"))
    assert result.reason in ("store_unavailable", "not_admitted")
    assert set(world.problems) == {"store_unavailable"}


async def test_hit_in_the_shadow_gives_its_entry_no_credit() -> None:
    """An answer that is not served keeps its entry no longer than others."""
    world = CacheWorld()
    noted: list[str] = []

    def note_hit(entry_id: str, now: float) -> bool:
        noted.append(entry_id)
        return True

    world.mirror.residents.note_hit = note_hit  # type: ignore[method-assign]
    await world.put(look(ASKED))
    assert isinstance(await semantic(world, look(WORDED), is_shadow=True), Hit)
    assert noted == []
    assert isinstance(await semantic(world, look(WORDED)), Hit)
    assert len(noted) == 1


async def test_neighbours_beyond_the_rules_number_are_not_judged() -> None:
    """As many of the nearest entries as the rule was calibrated with are fetched, from all places together."""
    world = CacheWorld(rule=rule_of(candidates=2, min_cosine=-1.0, min_plausible=0.0))
    for number in range(5):
        await world.put(look(f"Please tell me the capital of France {'now ' * number}"), vector=unit_vector(number))
    fetched: list[int] = []
    get = world.store.get

    async def counted(tenant: str, entry_ids: list[str], *, now: float) -> list[CachedDocument | None]:
        fetched.append(len(entry_ids))
        return await get(tenant, entry_ids, now=now)

    world.store.get = counted  # type: ignore[assignment, method-assign]
    await world.cache.find_semantic(look(WORDED), np.ascontiguousarray(unit_vector(2)), chosen(), accepts_all)
    assert fetched == [2]
