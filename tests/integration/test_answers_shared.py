"""Gateways on one real Redis tell each other which deployment has an answer that its provider keeps, and whose."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from itertools import count
from pathlib import Path
from typing import Any

import msgspec
import pytest

from penstock_gateway import redis_multiplexed
from penstock_gateway.conversations import KeptAnswer
from penstock_gateway.money.usage import Usage
from penstock_gateway.redis_servers import RedisServers
from penstock_gateway.settings import Settings, load_settings
from penstock_gateway.shared_answers import SharedAnswers
from penstock_gateway.upstream.protocol import UpstreamRequest
from penstock_gateway.wire.server_sent import event_bytes
from support.cache_documents import eventually
from support.fakes import FakeReply
from support.redis_variants import ControlledRedis
from support.running_gateway import Running, running

pytestmark = pytest.mark.redis

CONFIG = """
version: 1
deployments:
  - {name: chat, base_url: "http://127.0.0.1:9/v1", tier: small, price: {input: 1, output: 2}}
  - {name: stored-a, model: m, group: stored, base_url: "http://127.0.0.1:9/v1", wire_formats: [responses],
     price: {input: 1, output: 2}, abilities: [streaming]}
  - {name: stored-b, model: m, group: stored, base_url: "http://127.0.0.1:9/v1", wire_formats: [responses],
     price: {input: 1, output: 2}, abilities: [streaming]}
routing: {artifact: none, default_arm: chat}
attempts: {retries: 0}
client_keys: [{name: ann, key: '${ANN}'}, {name: bob, key: '${BOB}'}]
redis: {url: '${REDIS}', probe_seconds: 0.05, timeout_seconds: 0.2}
"""
KEYS = {"ann": "a" * 32, "bob": "b" * 32}
USAGE = Usage(input_tokens=3, output_tokens=2)


@pytest.fixture
def settings(own_redis: ControlledRedis, tmp_path: Path) -> Settings:
    """Two tenants, and a group whose two members keep their own answers."""
    path = tmp_path / "penstock.yaml"
    path.write_text(CONFIG)
    return load_settings(path, {"ANN": KEYS["ann"], "BOB": KEYS["bob"], "REDIS": own_redis.url})


@asynccontextmanager
async def gateway(settings: Settings, prefix: str = "resp_") -> AsyncIterator[Running]:
    """A gateway whose provider numbers its answers."""
    numbers = count(1)

    def answer(request: UpstreamRequest) -> FakeReply:
        response = {
            "id": f"{prefix}{next(numbers)}",
            "object": "response",
            "created_at": 1,
            "status": "completed",
            "model": "m",
            "output": [],
            "usage": {"input_tokens": 3, "output_tokens": 2, "total_tokens": 5},
        }
        if request.is_stream:
            created = {"type": "response.created", "sequence_number": 0, "response": response}
            done = {"type": "response.completed", "sequence_number": 1, "response": response}
            blocks = [event_bytes(created, "response.created"), event_bytes(done, "response.completed")]
            return FakeReply(blocks=blocks, content_type="text/event-stream", usage=USAGE)
        return FakeReply(body=msgspec.json.encode(response), usage=USAGE)

    async with running(settings, answer) as started:
        yield started


async def ask(of: Running, tenant: str = "ann", **fields: Any) -> tuple[int, str | None]:
    """Ask for a response, and return the status and the error's code."""
    headers = {"authorization": f"Bearer {KEYS[tenant]}"}
    reply = await of.http.post(f"{of.url}/v1/responses", json={"input": "x", **fields}, headers=headers)
    body = await reply.read()
    return reply.status, msgspec.json.decode(body)["error"]["code"] if reply.status >= 400 else None


def asked(of: Running) -> list[str]:
    """Return the deployments that were asked."""
    return [request.deployment.name for request in of.upstream.requests]


def kept(own_redis: ControlledRedis) -> int:
    """Return how many answers Redis knows of."""
    with own_redis.client() as client:
        return len(client.keys("penstock:answers:*"))


async def told(own_redis: ControlledRedis, number: int) -> None:
    """Wait until Redis knows of so many answers."""
    await eventually(lambda: kept(own_redis) == number, f"{number} answers in Redis")


@asynccontextmanager
async def writes_to_redis() -> AsyncIterator[list[bytes]]:
    """Yield what goes to Redis meanwhile, a write for each trip."""
    written: list[bytes] = []
    send = redis_multiplexed._Link.send

    def noted(self: redis_multiplexed._Link, batch: deque[redis_multiplexed._Command]) -> None:
        written.append(b"".join(packed for packed, _, _ in batch))
        send(self, batch)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(redis_multiplexed._Link, "send", noted)
        yield written


@pytest.mark.parametrize("model", ["stored", "stored-b", "auto"])
async def test_who_keeps_an_answer_is_asked_in_the_trip_that_holds_the_money(
    own_redis: ControlledRedis, tmp_path: Path, model: str
) -> None:
    """A follow-up at another gateway makes one trip to Redis before its provider is called, and costs what it costs."""
    path = tmp_path / "budgets.yaml"
    budget = "budgets: [{period: day, limit_usd: 1}]"
    path.write_text(
        CONFIG.replace("name: ann, ", f"name: ann, {budget}, ") + "ledger: {kind: redis, redis_timeout_seconds: 5}\n"
    )
    settings = load_settings(path, {"ANN": KEYS["ann"], "BOB": KEYS["bob"], "REDIS": own_redis.url})
    async with gateway(settings) as here, gateway(settings, "other_") as there:
        await ask(here, model="stored-b")
        await told(own_redis, 1)
        assert await ask(there, model="stored-a") == (200, None)  # books are open, scripts are loaded
        async with writes_to_redis() as written:
            assert await ask(there, model=model, previous_response_id="resp_1") == (200, None)
        trips = [trip for trip in written if b"\r\nGET\r\n" in trip and b"penstock:answers:" in trip]
        assert len(trips) == 1
        assert b"EVALSHA" in trips[0]
        before = written[: written.index(trips[0])]
        assert not any(b"EVALSHA" in trip for trip in before)
        assert asked(there) == ["stored-a", "stored-b"]
        refused = await ask(there, "bob", model=model, previous_response_id="resp_1")
        assert refused == (400, "previous_response_not_found")
        held: Any = there.app.pipeline.spending.ledger
        await eventually(lambda: held._redis.open_requests == 0, "everything that was held is settled")


@pytest.mark.parametrize("is_stream", [False, True])
async def test_answer_given_by_one_gateway_goes_on_at_another(
    own_redis: ControlledRedis, settings: Settings, is_stream: bool
) -> None:
    """Of a group the member that has the answer is asked, by `auto` too, whichever gateway gave it."""
    async with gateway(settings) as here, gateway(settings, "other_") as there:
        await ask(here, model="stored-b", stream=is_stream)
        await told(own_redis, 1)
        for model in ("stored", "auto"):
            assert await ask(there, model=model, previous_response_id="resp_1") == (200, None)
        assert asked(there) == ["stored-b"] * 2


async def test_answer_of_one_tenant_is_not_there_for_another_at_any_gateway(
    own_redis: ControlledRedis, settings: Settings
) -> None:
    """A foreign id is answered as one that is nobody's, and is not taken over by who asks with it."""
    async with gateway(settings) as here, gateway(settings, "other_") as there:
        await ask(here, model="stored-b")
        await told(own_redis, 1)
        for model in ("stored-b", "stored", "auto"):
            refused = await ask(there, "bob", model=model, previous_response_id="resp_1")
            assert refused == (400, "previous_response_not_found")
        assert asked(there) == []
        assert await ask(there, model="stored", previous_response_id="resp_1") == (200, None)


async def test_answer_given_before_a_restart_goes_on_after_it(own_redis: ControlledRedis, settings: Settings) -> None:
    """A new process finds the deployment and the owner of what an earlier one answered; conversations likewise."""
    async with gateway(settings) as before:
        await ask(before, model="stored-b", conversation="conv_1")
    assert kept(own_redis) == 2  # a stop waits for what is on its way
    async with gateway(settings) as after:
        assert await ask(after, model="stored", conversation={"id": "conv_1"}) == (200, None)
        assert await ask(after, "bob", model="stored", conversation="conv_1") == (400, "previous_response_not_found")
        assert asked(after) == ["stored-b"]


async def test_answer_that_its_provider_does_not_keep_is_not_written_down(
    own_redis: ControlledRedis, settings: Settings
) -> None:
    """With ``store: false`` there is nothing to go on with."""
    async with gateway(settings) as here:
        await ask(here, model="stored-b", store=False)
        await ask(here, model="stored-b", store=True)
    assert kept(own_redis) == 1


async def test_shared_answers_hold_digests_that_end_and_no_name_or_id(
    own_redis: ControlledRedis, settings: Settings
) -> None:
    """Who reads Redis learns a deployment's name: not whose an answer is, nor its id, nor which are one tenant's."""
    async with gateway(settings) as here:
        await ask(here, model="stored-b")
        await ask(here, model="stored-b")
    with own_redis.client() as client:
        keys = client.keys("*")
        values = [client.get(key) for key in keys]
        assert len(keys) == 2
        assert len({value[:32] for value in values}) == 2
        assert {value[32:] for value in values} == {b"stored-b"}
        assert not any(word in content for word in (b"resp_", b"ann") for content in (*keys, *values))
        assert all(29 * 86_400 < client.ttl(key) <= 30 * 86_400 for key in keys)


async def test_answer_that_two_tenants_claim_at_two_gateways_is_the_first_ones(own_redis: ControlledRedis) -> None:
    """Who had it first has it, also where no gateway knew of the other; its owner may go on at another deployment."""
    servers = RedisServers()
    settings = Settings.model_validate({"redis": {"url": own_redis.url}})
    answers = SharedAnswers(servers.guard(settings, "answers"), "default")
    for tenant, deployment in (("ann", "stored-a"), ("bob", "stored-b"), ("ann", "stored-c")):
        answers.note(tenant, "resp_1", deployment)
    await eventually(lambda: kept(own_redis) == 1, "the answer in Redis")
    assert await answers.find("ann", "resp_1") == KeptAnswer("stored-c")
    assert await answers.find("bob", "resp_1") == KeptAnswer(None, is_foreign=True)
    elsewhere = SharedAnswers(servers.guard(settings, "answers"), "another")
    assert await elsewhere.find("bob", "resp_1") is None
    await elsewhere.aclose()
    await answers.aclose()


async def test_gateway_without_its_redis_goes_on_with_what_it_knows_itself(
    own_redis: ControlledRedis, settings: Settings
) -> None:
    """Own answers go on; an unknown one reaches the model that is named, and `auto` says that it cannot tell."""
    async with gateway(settings) as here, gateway(settings, "other_") as there:
        await ask(here, model="stored-b")
        await told(own_redis, 1)
        own_redis.kill()
        assert await ask(here, model="auto", previous_response_id="resp_1") == (200, None)
        assert await ask(here, "bob", model="stored", previous_response_id="resp_1") == (
            400,
            "previous_response_not_found",
        )
        assert await ask(there, model="stored-a", previous_response_id="resp_1") == (200, None)
        assert await ask(there, model="auto", previous_response_id="resp_8") == (400, "previous_response_unknown")
        for _ in range(5):
            await ask(there, model="auto", previous_response_id="resp_9")
        ready = await (await there.http.get(f"{there.url}/readyz")).json()
        assert ready["without_redis"] == {"answers": "local"}
        own_redis.start()
        await eventually(lambda: "answers" not in there.app.running.features_without_redis(), "Redis is back")
        await ask(there, model="stored-a")
        await told(own_redis, 1)


async def test_redis_that_does_not_reply_costs_a_request_its_deadline_at_most(
    own_redis: ControlledRedis, settings: Settings
) -> None:
    """A paused Redis is given up on, and after some failures left alone."""
    async with gateway(settings) as here:
        own_redis.pause()
        try:
            async with asyncio.timeout(20):  # a hang would be one; ten deadlines are two seconds
                for number in range(10):
                    assert await ask(here, model="stored-a", previous_response_id=f"resp_9{number}") == (200, None)
            assert here.app.running.features_without_redis() == {"answers": "local"}
        finally:
            own_redis.resume()
