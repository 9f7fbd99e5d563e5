"""Two gateways over one real Redis: what one stores or deletes, the other knows; and Redis may go at any time."""

from __future__ import annotations

import asyncio
import time
from collections import Counter
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import aiohttp
import pytest

from penstock_gateway.caching.services import CacheServices
from penstock_gateway.money.usage import Usage
from penstock_gateway.settings import Settings, load_settings
from penstock_gateway.upstream.protocol import UpstreamRequest
from support.cache_documents import eventually
from support.credulous_judge import CredulousJudge, believe_everything
from support.fakes import FakeReply
from support.redis_variants import ControlledRedis
from support.running_gateway import Running, running

pytestmark = pytest.mark.redis

LOOK_UP_SECONDS = 0.05
# A request has two look-ups at most. Their deadlines are the event loop's: on a busy machine other work comes on top.
LONGEST_OVERHEAD_MS = 20 * 2 * LOOK_UP_SECONDS * 1000.0
CONFIG = """
version: 1
deployments:
  - {name: small, model: up-small, base_url: "http://127.0.0.1:9/v1", tier: small,
     price: {input: 0.1, output: 0.4}, context_tokens: 8000, max_output_tokens: 4000,
     abilities: [streaming, tools, vision, json]}
client_keys: [{name: ann, key: '${ANN}', cache_category: faq}]
cache: {mode: semantic, rule: none, store: {kind: redis, redis_url: '${REDIS}'}}
"""
ANN = {"authorization": f"Bearer {'a' * 32}"}
ANSWER = (
    b'{"id":"c1","object":"chat.completion","created":1,"model":"up-small","choices":[{"index":0,"message":'
    b'{"role":"assistant","content":"Like this."},"finish_reason":"stop"}],'
    b'"usage":{"prompt_tokens":10,"completion_tokens":5,"total_tokens":15}}'
)


@pytest.fixture
def settings(own_redis: ControlledRedis, tmp_path: Path) -> Settings:
    """One tenant, whose questions are an FAQ's."""
    path = tmp_path / "penstock.yaml"
    path.write_text(CONFIG)
    return load_settings(path, {"ANN": "a" * 32, "REDIS": own_redis.url})


def answer(_: UpstreamRequest) -> FakeReply:
    """Answer every question in one way."""
    return FakeReply(body=ANSWER, usage=Usage(input_tokens=10, output_tokens=5))


@asynccontextmanager
async def gateway(settings: Settings) -> AsyncIterator[Running]:
    """A gateway that has read what Redis holds and believes that near questions are the same."""
    async with running(settings, answer) as started:
        believe_everything(services_of(started), CredulousJudge(min_cosine=0.7))
        await eventually(lambda: bool(_gauge(started)), "the gateway is in step with Redis")
        yield started


def services_of(of: Running) -> CacheServices:
    """Return the cache's services of a gateway."""
    desk = of.app.pipeline.cache
    assert desk is not None
    return desk.services


def _gauge(of: Running) -> float:
    return of.app.pipeline.metrics.cache.is_in_step.collect()[0].samples[0].value  # type: ignore[no-any-return]


async def ask(of: Running, text: str, *directives: str) -> aiohttp.ClientResponse:
    """Ask as the tenant, and return the response with its body read; whatever happens, it is an answer."""
    headers = ANN | ({"x-penstock-cache": ", ".join(directives)} if directives else {})
    response = await of.chat(headers=headers, messages=[{"role": "user", "content": text}])
    assert response.status == 200, await response.text()
    assert (await response.json())["choices"][0]["message"]["content"] == "Like this."
    return response


async def kind(of: Running, text: str, *directives: str) -> str:
    """Ask, and return what the response says of the cache."""
    return (await ask(of, text, *directives)).headers["x-penstock-cache"]


async def metrics(of: Running) -> str:
    """Return the metrics page, which the tenant's key opens."""
    return await (await of.http.get(f"{of.url}/metrics", headers=ANN)).text()


def knows(of: Running, entry_id: str) -> bool:
    """Whether a gateway's index has an entry."""
    return entry_id in services_of(of).cache.parts.mirror


async def test_two_gateways_see_each_others_exact_entries_at_once(settings: Settings) -> None:
    """What one has stored, the other serves to the same request without waiting for any index."""
    async with gateway(settings) as one, gateway(settings) as two:
        for number, (writer, reader) in enumerate([(one, two), (two, one)] * 5):
            question = f"What is number {number} called?"
            assert await kind(writer, question, "exact") == "miss"
            await services_of(writer).drain()
            assert await kind(reader, question, "exact") == "hit-exact"


async def test_two_gateways_see_each_others_semantic_entries_and_deletions(settings: Settings) -> None:
    """Another wording is answered by the gateway that did not store it, until the entry is deleted at the other one."""
    delays: dict[str, list[float]] = {"insertion": [], "deletion": []}
    async with gateway(settings) as one, gateway(settings) as two:
        for each in (one, two):  # a context that was seen once gets no semantic entry
            await ask(each, "Tell me about the weather on Mars, please.", "no-store")
        for writer, reader, text, wording in [
            (one, two, "How do I reset my password?", "How can I reset my password?"),
            (two, one, "How many days of holiday do I have?", "How many days of holiday do I have left?"),
        ]:
            await ask(writer, text)
            await services_of(writer).drain()
            started = time.perf_counter()
            entry_id = (await ask(writer, text)).headers["x-penstock-cache-entry"]
            await eventually(lambda: knows(reader, entry_id), "the other index has it")  # noqa: B023 - awaited here
            delays["insertion"].append(time.perf_counter() - started)
            found = await ask(reader, wording, "no-store")
            assert found.headers["x-penstock-cache"] == "hit-semantic"
            assert found.headers["x-penstock-cache-entry"] == entry_id
            started = time.perf_counter()
            assert await services_of(writer).cache.delete("ann", [entry_id]) == 1
            assert await kind(reader, wording, "no-store") == "miss"
            assert await kind(reader, text, "no-store") == "miss"
            await eventually(lambda: not knows(reader, entry_id), "the other index forgot it")  # noqa: B023 - likewise
            delays["deletion"].append(time.perf_counter() - started)
    print(
        {f"{what} known to the other gateway, ms": [round(1e3 * s, 1) for s in each] for what, each in delays.items()}
    )


async def test_two_gateways_whose_redis_is_killed_under_load_answer_every_request(
    settings: Settings, own_redis: ControlledRedis
) -> None:
    """While Redis is dead requests go to the model; when an empty one is back, answers are stored and served again."""
    questions = [f"What is number {number} called?" for number in range(10)]
    async with gateway(settings) as one, gateway(settings) as two:
        for question in questions:
            await ask(one, question, "exact")
        await services_of(one).drain()
        assert {await kind(two, question, "exact") for question in questions} == {"hit-exact"}
        is_killed, is_over = asyncio.Event(), asyncio.Event()
        seen: dict[bool, Counter[str]] = {False: Counter(), True: Counter()}

        async def keep_asking(of: Running, first: int) -> None:
            number = first
            while not is_over.is_set():
                was_killed = is_killed.is_set()
                seen[was_killed][await kind(of, questions[number % len(questions)], "exact")] += 1
                number += 1

        asking = [asyncio.create_task(keep_asking(of, first)) for first in range(6) for of in (one, two)]
        await eventually(lambda: seen[False].total() >= 100, "load with Redis")
        own_redis.kill()
        is_killed.set()
        await eventually(lambda: seen[True].total() >= 300, "load without Redis", seconds=60.0)
        is_over.set()
        await asyncio.gather(*asking)
        print("with Redis:", dict(seen[False]), "without:", dict(seen[True]))
        assert seen[True]["miss"] > 0
        assert set(seen[False] + seen[True]) <= {"hit-exact", "miss"}
        own_redis.start()
        for of in (one, two):
            await until_hit(of, questions[0])


async def until_hit(of: Running, question: str) -> None:
    """Ask until the cache answers again: the breakers look after Redis every second to ten."""
    async with asyncio.timeout(60):
        while await kind(of, question, "exact") != "hit-exact":
            await services_of(of).drain()
            await asyncio.sleep(0.1)


async def test_two_gateways_whose_redis_is_paused_wait_no_longer_than_the_deadline(
    settings: Settings, own_redis: ControlledRedis
) -> None:
    """A Redis that takes commands and does not answer costs each request at most its look-ups' deadlines."""
    async with gateway(settings) as one, gateway(settings) as two:
        for each in (one, two):
            await ask(each, "How do I reset my password?")
            await services_of(each).drain()
        await eventually(lambda: len(services_of(two).cache.parts.mirror) > 0, "the index is filled")
        own_redis.pause()
        responses = [
            await asyncio.gather(
                *(ask(of, f"How can I reset my {n} passwords?") for n, of in enumerate((one, two) * 10))
            )
            for _ in range(10)
        ]
        overheads = [float(each.headers["x-penstock-overhead-ms"]) for row in responses for each in row]
        kinds = Counter(each.headers["x-penstock-cache"] for row in responses for each in row)
        print(f"longest overhead {max(overheads):.0f} ms, of the last round {max(overheads[-20:]):.0f} ms, {kinds}")
        assert set(kinds) == {"miss"}
        assert max(overheads) <= LONGEST_OVERHEAD_MS
        assert 'penstock_cache_problems_total{code="store_unavailable"}' in await metrics(one)
        own_redis.resume()
        for of in (one, two):
            await until_hit(of, "How do I reset my password?")


async def test_gateway_whose_redis_is_paused_still_answers_identical_requests_with_one_call(
    settings: Settings, own_redis: ControlledRedis
) -> None:
    """Who waits for an identical request gets its answer as soon as it is there, not when Redis has taken it."""
    gate = asyncio.Event()
    async with gateway(settings) as one:
        send = one.upstream.send

        async def held(request: UpstreamRequest) -> FakeReply:
            await gate.wait()
            return await send(request)

        one.upstream.send = held  # type: ignore[method-assign]
        own_redis.pause()
        asked = [asyncio.create_task(kind(one, "What is it called?", "exact")) for _ in range(10)]
        await eventually(lambda: _waiting(one) == 9, "nine wait for the first")
        gate.set()
        assert sorted(await asyncio.gather(*asked)) == ["hit-exact"] * 9 + ["miss"]
        assert len(one.upstream.requests) == 1
        own_redis.resume()


def _waiting(of: Running) -> int:
    return sum(len(flight.followers) for flight in services_of(of)._flights._flights.values())
