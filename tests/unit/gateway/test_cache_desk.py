"""The cache's desk: what headers and keys ask of it, and which entries a caller may have, and when."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import asynccontextmanager
from dataclasses import replace
from decimal import Decimal
from typing import Any

import pytest
from prometheus_client import CollectorRegistry

from penstock_cache.lookups import Hit
from penstock_gateway.accounts.principal import CacheRights
from penstock_gateway.caching.desk import CacheCaller, CacheDesk
from penstock_gateway.caching.oversight import Watched, start_oversight
from penstock_gateway.caching.services import CacheServices
from penstock_gateway.caching.visit import Visit
from penstock_gateway.chooser import ArmChooser
from penstock_gateway.decisions import RouteDecision, Settlement
from penstock_gateway.deployments import Deployment
from penstock_gateway.errors import InvalidRequest
from penstock_gateway.metrics_cache import CacheMetrics
from penstock_gateway.money.usage import Usage
from penstock_gateway.prompt_readings import PromptReading
from penstock_gateway.request_body import ChatRequest, TradeoffValue, parse_chat_request
from penstock_gateway.request_policy import RequestPolicy
from penstock_gateway.settings_cache import CacheSettings
from penstock_gateway.settings_models import ClientKeySettings
from support.cache_documents import eventually
from support.cache_lookups import POLICIES, VECTOR, CacheWorld, completion
from support.fakes import deployment

SMALL, LARGE = deployment("small"), deployment("large")
KEYS = {
    "ann": ClientKeySettings.model_validate({
        "name": "ann", "key": "a" * 32, "cache_category": "faq", "cache_categories": ["volatile", "faq"]
    }),
    "bob": ClientKeySettings.model_validate({"name": "bob", "key": "b" * 32}),
}  # fmt: skip
PARIS, CITY = "What is the capital of France?", "Which city is the capital of France?"


def request(text: str = PARIS, model: str = "auto", **fields: Any) -> ChatRequest:
    """Return a parsed chat request."""
    return parse_chat_request(
        json.dumps({"model": model, "messages": [{"role": "user", "content": text}], **fields}).encode()
    )


class Desk:
    """A desk with everything around it.

    Attributes
    ----------
    deployments : dict of str to Deployment
        In force; a test may take one away.
    """

    def __init__(
        self,
        desk: CacheDesk,
        world: CacheWorld,
        deployments: dict[str, Deployment],
        keys: Mapping[str, ClientKeySettings],
    ) -> None:
        self.desk = desk
        self.keys = keys
        self.world = world
        self.deployments = deployments
        self._chooser = ArmChooser(
            [SMALL, LARGE], default_arm="small", baseline="small", tradeoff="balanced", parts=None
        )  # fmt: skip

    def open(
        self,
        asked: ChatRequest | None = None,
        *,
        tenant: str = "ann",
        policy: RequestPolicy | None = None,
        default: TradeoffValue = "balanced",
        **headers: str,
    ) -> Visit:
        """Begin a request's dealings with the cache."""
        key = self.keys.get(tenant)
        rights = None
        if key is not None:
            rights = CacheRights(
                key.cache_category, key.cache_categories, key.cache_under_load, key.may_share_answers
            )  # fmt: skip
        caller = CacheCaller(tenant, rights=rights, **headers)
        return self.desk.open(caller, asked or request(), policy or RequestPolicy(), default)

    def decision(self, asked: ChatRequest, arm: Deployment = SMALL) -> RouteDecision:
        """Return the decision for an arm."""
        return self._chooser.physical(asked, arm)

    async def answered(
        self, asked: ChatRequest | None = None, *, arm: Deployment = SMALL, text: str = "Paris", **how: Any
    ) -> Visit:
        """Let a model answer a request, and have the answer stored; the index follows at once."""
        asked = asked or request()
        visit = self.open(asked, **how)
        assert await visit.exact() is None
        await visit.semantic(PromptReading(VECTOR), self.decision(asked, arm))
        settled = Settlement(200, None, Usage(input_tokens=9, output_tokens=3), Decimal("0.001"), 900.0, 1.0)
        visit.keep(completion(text), self.decision(asked, arm), settled, is_stream=False)
        await self.desk.services.drain()
        self.world.follow()
        visit.close()
        return visit

    async def looked_up(self, asked: ChatRequest | None = None, *, arm: Deployment = SMALL, **how: Any) -> Hit | None:
        """Look a request up in both tiers, as the pipeline does."""
        asked = asked or request()
        visit = self.open(asked, **how)
        try:
            return await visit.exact() or await visit.semantic(PromptReading(VECTOR), self.decision(asked, arm))
        finally:
            visit.close()

    @property
    def stored(self) -> int:
        """How many answers there are."""
        return self.world.store.entry_count


@asynccontextmanager
async def running(keys: dict[str, ClientKeySettings] | None = None, **settings: Any) -> AsyncIterator[Desk]:
    """Run a desk whose index follows its store."""
    world = CacheWorld()
    deployments = {"small": SMALL, "large": LARGE}
    cache_settings = CacheSettings.model_validate({"mode": "semantic", **settings})
    metrics = CacheMetrics(CollectorRegistry())
    watched = Watched(POLICIES, world.judge, world.verifier, lambda: deployments, {}, metrics)
    oversight = await start_oversight(cache_settings, watched)
    services = CacheServices(
        world.cache, cache_settings, KEYS if keys is None else keys, lambda: deployments, metrics, oversight
    )  # fmt: skip
    try:
        yield Desk(CacheDesk(services), world, deployments, KEYS if keys is None else keys)
    finally:
        await services.drain()
        await oversight.aclose()


async def test_desk_repeat_is_a_hit_for_the_same_tenant_only() -> None:
    """What a tenant's model answered is served to that tenant again, and to no other."""
    async with running() as desk:
        await desk.answered()
        hit = await desk.looked_up()
        assert hit is not None
        assert hit.kind == "hit-exact"
        assert await desk.looked_up(tenant="bob") is None


@pytest.mark.parametrize("marks", ["personalised", "retrieval", " Retrieval , personalised,", "PERSONALISED"])
async def test_desk_marked_request_neither_reads_nor_writes(marks: str) -> None:
    """A prompt that holds what only this user may see, or passages looked up for it, stays out of the cache."""
    async with running() as desk:
        await desk.answered(request(CITY))
        visit = desk.open(request(CITY), marks=marks)
        assert (visit.status, await visit.exact()) == ("bypass", None)
        visit.close()
        await desk.answered(request("Another question?"), marks=marks)
        assert desk.stored == 1


async def test_desk_mark_that_is_unknown_is_refused() -> None:
    """A misspelt mark may have been meant to keep a person's words out."""
    async with running() as desk:
        with pytest.raises(InvalidRequest) as caught:
            desk.open(marks="personalized")
        assert (caught.value.code, caught.value.param) == ("invalid_cache_directive", "x-penstock-cache-marks")
        assert isinstance(desk.open(marks=" , "), Visit)


@pytest.mark.parametrize(
    ("tenant", "header", "category"),
    [
        ("ann", None, "faq"),  # the key's own
        ("ann", "volatile", "volatile"),  # the header's, within the key's list
        ("bob", None, "general"),  # nobody names one
    ],
)
async def test_desk_category_is_named_by_header_or_key(tenant: str, header: str | None, category: str) -> None:
    """A header goes before the key's standing category, and an answer is stored under what was named."""
    async with running() as desk:
        headers: dict[str, Any] = {} if header is None else {"category": header}
        await desk.answered(tenant=tenant, **headers)
        (document,) = desk.world.store.documents()
        assert document.category == category


@pytest.mark.parametrize(
    ("tenant", "header"), [("ann", "general"), ("ann", "off"), ("ann", "fak"), ("bob", "faq"), ("nobody", "faq")]
)  # fmt: skip
async def test_desk_category_outside_the_allow_list_is_refused(tenant: str, header: str) -> None:
    """A caller must not loosen its own policy, so a category that its key may not name is an error."""
    async with running() as desk:
        with pytest.raises(InvalidRequest) as caught:
            desk.open(tenant=tenant, category=header)
        assert caught.value.code == "cache_category_not_allowed"


@pytest.mark.parametrize("directive", ["no-stor", "max-age=x", "exact=1", "x" * 1000])
async def test_desk_directive_that_cannot_be_understood_is_refused(directive: str) -> None:
    """The error carries a stable code and names the header."""
    async with running() as desk:
        with pytest.raises(InvalidRequest) as caught:
            desk.open(directive=directive)
        assert (caught.value.code, caught.value.param) == ("invalid_cache_directive", "x-penstock-cache")


@pytest.mark.parametrize("separates", [True, False])
@pytest.mark.parametrize("field", ["user", "safety_identifier"])
async def test_desk_end_users_share_answers_unless_they_are_kept_apart(separates: bool, field: str) -> None:
    """With the setting on, nothing crosses between end users or from them to nobody; off, the field does not count."""
    async with running(separates_end_users=separates) as desk:
        for text in ("Warm up?", PARIS):  # the context's second time gets a semantic entry
            await desk.answered(request(text, **{field: "u1"}))
        assert await desk.looked_up(request(**{field: "u1"})) is not None
        for other in ({field: "u2"}, {}):
            for text in (PARIS, CITY):
                assert (await desk.looked_up(request(text, **other)) is None) is separates


async def test_desk_end_user_of_the_newer_field_counts_before_the_older() -> None:
    """Who sends both names means the newer one; an empty one says nothing."""
    async with running(separates_end_users=True) as desk:
        await desk.answered(request(safety_identifier="u1", user="x"))
        assert await desk.looked_up(request(safety_identifier="u1", user="y")) is not None
        assert await desk.looked_up(request(safety_identifier="", user="u1")) is not None
        assert await desk.looked_up(request(safety_identifier="x", user="u1")) is None


@pytest.mark.parametrize(
    ("stored_at", "asked_at", "is_served"),
    [
        ("cost", "cost", True),
        ("quality", "cost", True),
        ("quality", "balanced", True),
        (0.7, 0.7, True),
        (0.71, 0.7, True),
        ("cost", "balanced", False),
        (0.69, 0.7, False),
        ("balanced", 1.0, False),
    ],
)
async def test_desk_entry_serves_requests_that_ask_for_no_more_quality_than_it_was_made_with(
    stored_at: TradeoffValue, asked_at: TradeoffValue, is_served: bool
) -> None:
    """Before the choice is made, only an answer made under at least the same trade-off is surely good enough."""
    async with running() as desk:
        await desk.answered(policy=RequestPolicy(tradeoff=stored_at))
        visit = desk.open(policy=RequestPolicy(tradeoff=asked_at))
        assert (await visit.exact() is not None) is is_served
        visit.close()


async def test_desk_tradeoff_in_force_is_the_requests_own_and_then_the_gateways() -> None:
    """A request that names none asks for what the gateway is set to."""
    async with running() as desk:
        await desk.answered(default="balanced")
        for policy, default, is_served in (
            (RequestPolicy(), "cost", True),
            (RequestPolicy(), "quality", False),
            (RequestPolicy(tradeoff="cost"), "quality", True),
            (RequestPolicy(tradeoff="quality"), "cost", False),
        ):
            visit = desk.open(policy=policy, default=default)
            assert (await visit.exact() is not None) is is_served, (policy, default)
            visit.close()


@pytest.mark.parametrize(
    ("made_by", "chosen", "is_served"),
    [(SMALL, SMALL, True), (LARGE, SMALL, True), (LARGE, LARGE, True), (SMALL, LARGE, False)],
)
async def test_desk_entry_of_a_lower_setting_is_served_once_its_tier_is_enough(
    made_by: Deployment, chosen: Deployment, is_served: bool
) -> None:
    """When the request's own trade-off would take an arm of the same or a lower tier, the entry is good enough."""
    async with running() as desk:
        for text in ("Warm up?", PARIS):
            await desk.answered(request(text), arm=made_by, policy=RequestPolicy(tradeoff="cost"))
        quality = RequestPolicy(tradeoff="quality")
        visit = desk.open(policy=quality)
        assert await visit.exact() is None
        late = await visit.semantic(PromptReading(VECTOR), desk.decision(request(), chosen))
        visit.close()
        assert (late is not None and late.kind == "hit-exact") is is_served
        other = await desk.looked_up(request(CITY), arm=chosen, policy=quality)
        assert (other is not None and other.kind == "hit-semantic") is is_served


@pytest.mark.parametrize(
    "policy", [RequestPolicy(min_quality=0.9), RequestPolicy(floors={"code": 2})], ids=["min_quality", "floor"]
)  # fmt: skip
async def test_desk_request_with_a_quality_or_a_floor_waits_for_the_choice(policy: RequestPolicy) -> None:
    """Which arm satisfies it is known only once the prompt is read, so the exact tier does not answer before."""
    async with running() as desk:
        await desk.answered()
        visit = desk.open(policy=policy)
        assert await visit.exact() is None
        assert await visit.semantic(PromptReading(VECTOR), desk.decision(request(), LARGE)) is None
        visit.close()
        assert await desk.looked_up(policy=policy, arm=SMALL) is not None


@pytest.mark.parametrize(
    "change",
    [
        lambda deployments: deployments.pop("small"),
        lambda deployments: deployments.update(small=replace(SMALL, is_routable=False)),
    ],
)
async def test_desk_entry_of_a_deployment_that_is_gone_is_not_served(
    change: Callable[[dict[str, Deployment]], object],
) -> None:
    """An arm that the caller could not get any more is no source of answers either."""
    async with running() as desk:
        for text in ("Warm up?", PARIS):
            await desk.answered(request(text))
        assert await desk.looked_up(request(CITY)) is not None
        change(desk.deployments)
        for text in (PARIS, CITY):
            assert await desk.looked_up(request(text), arm=LARGE) is None


async def test_desk_named_model_is_answered_by_itself_only() -> None:
    """Who names a model gets its answers, and an alias never those of a request that named it."""
    async with running() as desk:
        await desk.answered(request(model="small"))
        assert await desk.looked_up(request(model="small")) is not None
        assert await desk.looked_up(request(model="auto")) is None
        assert await desk.looked_up(request(model="large"), arm=LARGE) is None


@pytest.mark.parametrize("directive", ["no-store", "bypass", "ttl=0"])
async def test_desk_answer_that_is_not_to_be_stored_is_not(directive: str) -> None:
    """The caller's word keeps an answer out, and `wants_answer` tells the relay not to keep it."""
    async with running() as desk:
        visit = desk.open(directive=directive)
        assert not visit.wants_answer
        visit.close()
        await desk.answered(directive=directive)
        assert desk.stored == 0


async def test_desk_request_without_a_key_goes_past_the_cache() -> None:
    """A body that cannot be brought to one form is answered without the cache, and counted."""
    deep: Any = "x"
    for _ in range(300):
        deep = [deep]
    async with running() as desk:
        visit = desk.open(request(metadata_of_ours=deep))
        assert (visit.status, visit.wants_answer, visit.wants_reading) == ("bypass", False, False)
        assert await visit.exact() is None
        assert await visit.semantic(PromptReading(VECTOR), desk.decision(request())) is None
        visit.close()
        problems = desk.desk.services.metrics.problems
        assert problems.labels("cache_request_too_deep")._value.get() == 1


async def test_desk_failure_inside_the_cache_is_a_miss() -> None:
    """Whatever breaks in a look-up, the request goes on to the model."""
    async with running() as desk:
        await desk.answered()

        async def broken(*_: object, **__: object) -> None:
            raise RuntimeError("broken")

        desk.world.cache.find_exact = broken  # type: ignore[assignment, method-assign]
        desk.world.cache.find_semantic = broken  # type: ignore[assignment, method-assign]
        assert await desk.looked_up() is None
        assert desk.desk.services.metrics.problems.labels("cache_failed")._value.get() == 2


async def test_desk_waiting_request_gets_the_answer_of_the_one_under_way() -> None:
    """The second of two identical requests is served as soon as the first one's answer is made."""
    async with running() as desk:
        asked = request()
        first, second = desk.open(asked), desk.open(asked)
        assert await first.exact() is None
        await first.semantic(PromptReading(VECTOR), desk.decision(asked))
        waiting = asyncio.create_task(second.exact())
        await asyncio.sleep(0)
        assert not waiting.done()
        settled = Settlement(200, None, None, Decimal(0), 1.0, 1.0)
        first.keep(completion("Paris"), desk.decision(asked), settled, is_stream=False)
        await eventually(waiting.done, "the waiting request is answered")
        hit = waiting.result()
        assert hit is not None
        assert (hit.kind, hit.document.body) == ("hit-exact", completion("Paris"))
        first.close()
        second.close()


@pytest.mark.parametrize(
    ("category", "directive", "wants"),
    [
        (None, None, True),
        ("faq", None, True),
        ("faq", "no-cache", True),
        ("general", None, False),
        ("off", None, False),
    ],
)
async def test_desk_prompt_is_read_only_where_another_wording_could_count(
    category: str | None, directive: str | None, wants: bool
) -> None:
    """Encoding costs more than everything else: a key's own category that is exact needs none, whatever is asked."""
    key = ClientKeySettings.model_validate({"name": "ann", "key": "k" * 32, "cache_category": category})
    async with running({"ann": key}) as desk:
        visit = desk.open(directive=directive)
        assert visit.wants_reading is wants
        visit.close()
