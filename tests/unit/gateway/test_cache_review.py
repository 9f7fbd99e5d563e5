"""What a second look at the request path of the cache found: answers reused on weaker terms than were asked for."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import replace
from decimal import Decimal
from typing import Any

import click
import msgspec
import pytest
from msgspec import structs
from prometheus_client import CollectorRegistry

from penstock_cache.categories import CacheMode, CategoryPolicy
from penstock_cache.keys import MAX_ELEMENTS
from penstock_cache.lookups import Hit
from penstock_gateway.cache_commands import cache_group
from penstock_gateway.caching.assembly import assemble
from penstock_gateway.caching.desk import CacheCaller, CacheDesk
from penstock_gateway.caching.oversight import Watched, start_oversight
from penstock_gateway.caching.replay import StoredReply
from penstock_gateway.caching.services import CacheServices
from penstock_gateway.caching.visit import Visit
from penstock_gateway.chooser import ArmChooser
from penstock_gateway.decisions import CandidateReport, RouteDecision, Settlement
from penstock_gateway.metrics_cache import CacheMetrics
from penstock_gateway.money.usage import Usage
from penstock_gateway.prompt_readings import PromptReading
from penstock_gateway.redis_client import RedisClient, RedisNotUsable
from penstock_gateway.request_body import ChatRequest, parse_chat_request
from penstock_gateway.request_policy import RequestPolicy
from penstock_gateway.settings_cache import CacheSettings
from penstock_routers.policy import RejectReason, RouteReason
from support.cache_lookups import FAQ, POLICIES, VECTOR, CacheWorld, answer, chosen, completion, look
from support.fakes import deployment

SMALL, LARGE = deployment("small"), deployment("large")
PARIS, CITY = "What is the capital of France?", "Which city is the capital of France?"
TABLE = {**POLICIES, "news": replace(FAQ, ttl_seconds=10.0)}
CHOOSER = ArmChooser([SMALL, LARGE], default_arm="small", baseline="small", tradeoff="balanced", parts=None)
QUALITY = RequestPolicy(tradeoff="quality")
SETTLED = Settlement(200, None, Usage(input_tokens=9, output_tokens=3), Decimal("0.001"), 900.0, 1.0)


def request(text: str = PARIS, **fields: Any) -> ChatRequest:
    """Return a parsed chat request to `auto`."""
    return parse_chat_request(
        json.dumps({"model": "auto", "messages": [{"role": "user", "content": text}], **fields}).encode()
    )


class Desk:
    """A desk and the world around it."""

    def __init__(self, desk: CacheDesk, world: CacheWorld) -> None:
        self.desk = desk
        self.world = world

    def open(self, asked: ChatRequest, policy: RequestPolicy = QUALITY, **headers: str) -> Visit:
        """Begin a request's dealings with the cache."""
        return self.desk.open(CacheCaller("ann", **headers), asked, policy, "balanced")

    async def answered(
        self, asked: ChatRequest, decision: RouteDecision, policy: RequestPolicy = QUALITY, **headers: str
    ) -> None:
        """Let a model answer a request, and have the answer stored; the index follows at once."""
        visit = self.open(asked, policy, **headers)
        assert await visit.exact() is None
        assert await visit.semantic(PromptReading(VECTOR), decision) is None
        visit.keep(completion(), decision, SETTLED, is_stream=False)
        await self.desk.services.drain()
        self.world.follow()
        visit.close()

    async def looked_up(self, asked: ChatRequest, **headers: str) -> Hit | None:
        """Look a request up in both tiers, as the pipeline does, where the small model would answer."""
        visit = self.open(asked, QUALITY, **headers)
        try:
            return await visit.exact() or await visit.semantic(PromptReading(VECTOR), decided(asked))
        finally:
            visit.close()


def decided(asked: ChatRequest, **changes: Any) -> RouteDecision:
    """Return the decision for the small model; whatever is named is changed."""
    return structs.replace(CHOOSER.physical(asked, SMALL), **changes)


@asynccontextmanager
async def running(policies: Mapping[str, CategoryPolicy] = TABLE) -> AsyncIterator[Desk]:
    """Run a desk without client keys, where a header may name every category."""
    world = CacheWorld(policies=policies)
    deployments = {"small": SMALL, "large": LARGE}
    settings = CacheSettings.model_validate({"mode": "semantic", "header_categories": list(policies)})
    metrics = CacheMetrics(CollectorRegistry())
    watched = Watched(policies, world.judge, world.verifier, lambda: deployments, {}, metrics)
    oversight = await start_oversight(settings, watched)
    services = CacheServices(world.cache, settings, {}, lambda: deployments, metrics, oversight)
    try:
        yield Desk(CacheDesk(services), world)
    finally:
        await services.drain()
        await oversight.aclose()


REFUSED = CandidateReport("large", "up-large", "large", "large", rejected=RejectReason.MAX_COST)


@pytest.mark.parametrize(
    ("policy", "changes", "is_served"),
    [
        (QUALITY, {}, True),
        (structs.replace(QUALITY, max_cost_usd=1.0), {}, True),
        (structs.replace(QUALITY, max_cost_usd=1e-6), {"candidates": (REFUSED,)}, False),
        (structs.replace(QUALITY, min_quality=0.1), {}, False),
        (QUALITY, {"reason": RouteReason.EXPLORED}, False),
    ],
    ids=["plain", "a cap that binds nothing", "a cap that binds", "min_quality", "explored"],
)
async def test_review_answer_of_an_arm_that_the_knob_did_not_choose_waits_for_the_choice(
    policy: RequestPolicy, changes: dict[str, Any], is_served: bool
) -> None:
    """What a cap, a low quality or a draw chose is no answer to a request for quality until its arm is known."""
    asked = request()
    async with running() as desk:
        await desk.answered(asked, decided(asked, **changes), policy)
        visit = desk.open(asked)
        assert (await visit.exact() is not None) is is_served
        if not is_served:
            decision = CHOOSER.physical(asked, LARGE)
            assert await visit.semantic(PromptReading(VECTOR), decision) is None
        visit.close()


@pytest.mark.parametrize(
    ("named", "age", "is_served"), [("news", 9.0, True), ("news", 11.0, False), ("off", 1.0, False)]
)
@pytest.mark.parametrize("text", [PARIS, CITY])
async def test_review_entry_of_another_category_is_served_on_the_terms_of_the_request(
    text: str, named: str, age: float, is_served: bool
) -> None:
    """A request in a category with a shorter TTL, or without a cache, gets nothing older from a laxer category."""
    async with running() as desk:
        for asked in (request("Warm up?"), request()):
            await desk.answered(asked, decided(asked), category="faq")
        desk.world.now += age
        assert await desk.looked_up(request(text), category="faq") is not None
        assert (await desk.looked_up(request(text), category=named) is not None) is is_served


@pytest.mark.parametrize(
    ("change", "exact", "semantic"),
    [
        ({}, True, True),
        ({"mode": CacheMode.EXACT}, True, False),
        ({"caches_default_temperature": False}, False, False),
    ],
    ids=["the same", "exact", "no sampling"],
)
async def test_review_entry_is_served_by_its_categorys_policy_as_it_is_now(
    change: dict[str, Any], exact: bool, semantic: bool
) -> None:
    """A store outlives a configuration, so what was stored under a laxer one is held to the stricter."""
    policies = {**POLICIES, "old": FAQ}
    world = CacheWorld(policies=policies)
    await world.put(look(PARIS))
    world.store.lies = lambda document: msgspec.structs.replace(document, category="old")
    policies["old"] = replace(FAQ, **change)
    found = await world.cache.find_exact(look(PARIS), lambda _: True)
    assert isinstance(found, Hit) is exact
    found = await world.cache.find_semantic(look(CITY), VECTOR, chosen(), lambda _: True)
    assert isinstance(found, Hit) is semantic


async def test_review_body_that_cannot_be_replayed_is_not_stored() -> None:
    """A body that is whole but for a number out of range would fail every later hit on it."""
    world = CacheWorld()
    body = completion()[:-1] + b', "x": 1e999}'
    result = await world.put(look(PARIS), fresh=answer(body=body))
    assert (result.reason, world.store.entry_count) == ("unreadable", 0)


@pytest.mark.parametrize("value", [{"summary": "s"}, 5, ["a"]], ids=["object", "number", "list"])
async def test_review_text_field_that_is_no_text_is_replayed_whole(value: object) -> None:
    """Some providers put objects where others put the reasoning's text; a hit on such an answer does not break off."""
    message = {"role": "assistant", "content": "Paris", "reasoning": value}
    body = json.dumps({"choices": [{"index": 0, "message": message, "finish_reason": "stop"}]}).encode()
    reply = StoredReply(body, completion_id="c", created=1, wants_usage=False, usage=Usage(1, 1))
    stream = b"".join([block async for block in reply.events()])
    chunks = [json.loads(event.removeprefix(b"data: ")) for event in stream.split(b"\n\n")[:-2]]
    assert {"reasoning": value} in [chunk["choices"][0]["delta"] for chunk in chunks]


@pytest.mark.parametrize("told", [None, {"prompt_tokens": 1, "completion_tokens": 1, "total_tokens": 2}])
def test_review_stream_that_tells_no_usage_is_stored_with_what_was_counted(told: dict[str, int] | None) -> None:
    """Clients of bodies rely on `usage`, which a stream has only when it was asked for."""
    chunk = {"choices": [{"index": 0, "delta": {"content": "Paris"}, "finish_reason": "stop"}], "usage": told}
    body = assemble(b"data: " + json.dumps(chunk).encode() + b"\n\ndata: [DONE]\n\n", Usage(7, 3))
    assert body is not None
    counted = {"prompt_tokens": 7, "completion_tokens": 3, "total_tokens": 10}
    assert json.loads(body)["usage"] == (told or counted)


@pytest.mark.parametrize(("is_over", "still_waiting"), [(True, 0), (False, 2)], ids=["failed", "left"])
async def test_review_request_that_failed_holds_up_nobody_who_waited_for_it(is_over: bool, still_waiting: int) -> None:
    """After a failure all go on at once; after a client has left, one asks and the others wait for that one."""
    asked = request()
    async with running() as desk:
        leader, *others = [desk.open(asked) for _ in range(4)]
        assert await leader.exact() is None
        waiting = [asyncio.create_task(visit.exact()) for visit in others]
        await asyncio.sleep(0)
        leader.close(is_over=is_over)
        await asyncio.wait(waiting, return_when=asyncio.FIRST_COMPLETED)
        await asyncio.sleep(0)
        assert sum(not task.done() for task in waiting) == still_waiting
        for visit in others:
            visit.close(is_over=True)
        assert await asyncio.gather(*waiting) == [None] * 3


@pytest.mark.parametrize(
    "fields", [{"z": [1.5] * MAX_ELEMENTS}, {f"z{number}": 1 for number in range(MAX_ELEMENTS)}], ids=["list", "fields"]
)
async def test_review_request_of_very_many_parts_goes_past_the_cache(fields: dict[str, Any]) -> None:
    """Making its key would stop the event loop for seconds, for all clients."""
    async with running() as desk:
        visit = desk.open(request(**fields))
        assert (visit.status, await visit.exact()) == ("bypass", None)
        visit.close()
        problems = desk.desk.services.metrics.problems
        assert problems.labels("cache_request_too_large")._value.get() == 1


async def test_review_long_text_and_large_image_still_have_a_key() -> None:
    """What is long but of few parts takes little time, so it may be answered from the cache."""
    image = {"type": "image_url", "image_url": {"url": "data:image/png;base64," + "A" * 2_000_000}}
    text = {"type": "text", "text": "word, " * 20_000}
    async with running() as desk:
        visit = desk.open(request(messages=[{"role": "user", "content": [text, image]}]))
        assert visit.status == "miss"
        visit.close()


@pytest.mark.parametrize("url", ["redis://:s3cret@host/0?db=x", "redis+cluster://:s3cret@host/0?db=1"])
def test_review_redis_url_that_the_client_refuses_is_a_setting_problem_without_the_password(url: str) -> None:
    """A mistyped option is told as what it is, and what is told names no secret."""
    pytest.importorskip("redis")
    with pytest.raises(RedisNotUsable) as refused:
        RedisClient(url)
    assert "s3cret" not in str(refused.value)


def test_review_key_that_is_no_header_value_is_not_shown(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """A key with a line break inside is refused without printing it."""
    monkeypatch.setenv("PENSTOCK_API_KEY", "s3cret\nx-other: 1")
    with pytest.raises(click.ClickException) as refused:
        cache_group.main(["show", "--url", "http://127.0.0.1:9"], standalone_mode=False)
    assert "PENSTOCK_API_KEY" in refused.value.message
    assert "s3cret" not in refused.value.message + capsys.readouterr().err
