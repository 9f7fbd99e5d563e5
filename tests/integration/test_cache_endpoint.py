"""The cache over real HTTP: what a client sees of hits, misses and bypasses, and what reaches the model."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable

import pytest

from penstock_gateway.errors import UpstreamUnreachable
from penstock_gateway.money.usage import Usage
from penstock_gateway.settings import Settings, load_settings
from penstock_gateway.upstream.protocol import UpstreamRequest
from support.fakes import FakeReply
from support.running_gateway import Running, eventually, running

CONFIG = """
version: 1
deployments:
  - {name: small, model: up-small, base_url: "http://127.0.0.1:9/v1", tier: small,
     price: {input: 0.1, output: 0.4}, context_tokens: 8000, max_output_tokens: 4000,
     abilities: [streaming, tools, vision, json]}
  - {name: frontier, model: up-frontier, base_url: "http://127.0.0.1:9/v1", tier: frontier,
     price: {input: 10, output: 30}, context_tokens: 8000, max_output_tokens: 4000,
     abilities: [streaming, tools, vision, json]}
routing: {artifact: none}
attempts: {retries: 0}
cache: {mode: exact}
"""
USAGE = Usage(input_tokens=1000, output_tokens=200)
TOOL_CALL = {"id": "t", "type": "function", "function": {"name": "f", "arguments": "{}"}}
CHUNK = {"id": "chatcmpl-7", "object": "chat.completion.chunk", "created": 1, "model": "up-small"}


def completion(text: str = "Paris", **changes: object) -> bytes:
    """Return a completion object."""
    message = {"role": "assistant", "content": text, **changes.pop("message", {})}  # type: ignore[dict-item]
    choice = {"index": 0, "message": message, "finish_reason": "stop", **changes}
    usage = {"prompt_tokens": 1000, "completion_tokens": 200, "total_tokens": 1200}
    body = {"id": "c1", "object": "chat.completion", "created": 1, "model": "up-small", "choices": [choice]}
    return json.dumps(body | {"usage": usage}).encode()


def plain(_: UpstreamRequest) -> FakeReply:
    """Answer with a body, or with a stream of the same when one is asked for."""
    return streamed() if _.is_stream else FakeReply(body=completion(), usage=USAGE)


def streamed(*, end: bytes = b"data: [DONE]\n\n") -> FakeReply:
    """Answer with a stream of three chunks."""
    deltas = [({"role": "assistant", "content": "Pa"}, None), ({"content": "ris"}, None), ({}, "stop")]
    blocks = tuple(
        b"data: "
        + json.dumps(CHUNK | {"choices": [{"index": 0, "delta": delta, "finish_reason": reason}]}).encode()
        + b"\n\n"
        for delta, reason in deltas
    )
    return FakeReply(blocks=(*blocks, end), usage=USAGE, content_type="text/event-stream")


@pytest.fixture
def settings(tmp_path) -> Settings:
    """Two deployments, no artifact, exact repeats cached."""
    return with_config(tmp_path, CONFIG)


def with_config(tmp_path, text: str) -> Settings:
    """Read a configuration from text."""
    path = tmp_path / "penstock.yaml"
    path.write_text(text)
    return load_settings(path, {})


async def stored(gateway: Running, count: int = 1) -> None:
    """Wait until so many answers are in the cache."""
    desk = gateway.app.pipeline.cache
    assert desk is not None
    await eventually(lambda: len(desk.services.cache.parts.mirror) >= count)


async def test_cache_second_identical_request_is_served_without_the_model(settings) -> None:
    """A repeat gets the stored answer, its usage, its age and what it had cost, and costs nothing itself."""
    async with running(settings, plain) as gateway:
        first = await gateway.chat()
        assert first.headers["x-penstock-cache"] == "miss"
        await stored(gateway)
        second = await gateway.chat()
        body = await second.json()
        assert second.headers["x-penstock-cache"] == "hit-exact"
        assert second.headers["x-penstock-reason"] == "cached"
        assert second.headers["x-penstock-cache-saved-usd"] == "0.00018"
        assert len(second.headers["x-penstock-cache-entry"]) == 32
        assert body["choices"][0]["message"]["content"] == "Paris"
        assert body["usage"]["completion_tokens"] == 200
        assert body["id"] != "c1"
        assert len(gateway.upstream.requests) == 1
        decision = await (
            await gateway.http.get(f"{gateway.url}/v1/decisions/{second.headers['x-penstock-decision-id']}")
        ).json()
        assert decision["outcome"]["cost_usd"] == "0"
        text = await gateway.metrics()
        assert 'penstock_cache_lookups_total{category="general",result="hit-exact"} 1.0' in text
        assert 'penstock_tokens_total{kind="output",model="small"} 200.0' in text


@pytest.mark.parametrize("first_streams", [False, True])
async def test_cache_hit_is_a_stream_or_a_body_whatever_it_was_stored_from(settings, first_streams) -> None:
    """Bodies are replayed as streams and streams as bodies, with the same text and the stream's own end."""
    async with running(settings, plain) as gateway:
        await (await gateway.chat(stream=first_streams)).read()
        await stored(gateway)
        other = await gateway.chat(
            stream=not first_streams, stream_options={"include_usage": True} if not first_streams else None
        )
        assert other.headers["x-penstock-cache"] == "hit-exact"
        content = await other.read()
        if first_streams:
            assert json.loads(content)["choices"][0]["message"] == {"role": "assistant", "content": "Paris"}
        else:
            events = [line[6:] for line in content.decode().split("\n\n") if line]
            assert events[-1] == "[DONE]"
            chunks = [json.loads(event) for event in events[:-1]]
            assert "".join(c["choices"][0]["delta"].get("content", "") for c in chunks if c["choices"]) == "Paris"
            assert chunks[-1]["usage"]["total_tokens"] == 1200
            assert {c["id"] for c in chunks} == {chunks[0]["id"]}
        assert len(gateway.upstream.requests) == 1


@pytest.mark.parametrize(
    ("fields", "status"),
    [
        ({"messages": [{"role": "user", "content": "hello "}]}, "miss"),
        ({"messages": [{"role": "system", "content": "Be brief."}, {"role": "user", "content": "hello"}]}, "miss"),
        ({"model": "frontier"}, "miss"),
        ({"max_tokens": 5}, "miss"),
        ({"seed": 3}, "miss"),
        ({"temperature": 1.9}, "bypass"),
        ({"user": "ann", "stream": False, "temperature": 1, "n": 1}, "hit-exact"),
    ],
)
async def test_cache_request_that_differs_in_anything_that_counts_is_a_miss(settings, fields, status) -> None:
    """Only what cannot change the answer may differ."""
    async with running(settings, plain) as gateway:
        await (await gateway.chat()).read()
        await stored(gateway)
        assert (await gateway.chat(**fields)).headers["x-penstock-cache"] == status


@pytest.mark.parametrize(
    ("directive", "status"),
    [
        ("no-cache", "bypass"),
        ("bypass", "bypass"),
        ("no-store", "hit-exact"),
        ("max-age=0", "bypass"),
        ("exact", "hit-exact"),
    ],
)
async def test_cache_directive_of_the_caller_is_obeyed(settings, directive, status) -> None:
    """A caller may bypass the cache, refuse old answers and keep its own out."""
    async with running(settings, plain) as gateway:
        await (await gateway.chat()).read()
        await stored(gateway)
        response = await gateway.chat(headers={"x-penstock-cache": directive})
        assert response.headers["x-penstock-cache"] == status


async def test_cache_directive_that_is_unknown_is_refused_with_the_nearest_match(settings) -> None:
    """A misspelt directive is an error: it may have been meant to keep an answer out."""
    async with running(settings, plain) as gateway:
        response = await gateway.chat(headers={"x-penstock-cache": "no-stor"})
        error = (await response.json())["error"]
        assert (response.status, error["code"]) == (400, "invalid_cache_directive")
        assert "no-store" in error["message"]
        assert gateway.upstream.requests == []


@pytest.mark.parametrize(
    "reply",
    [
        lambda: FakeReply(body=completion(finish_reason="length"), usage=USAGE),
        lambda: FakeReply(body=completion(finish_reason="content_filter"), usage=USAGE),
        lambda: FakeReply(body=completion("I'm sorry, but I can't help with that."), usage=USAGE),
        lambda: FakeReply(body=completion(""), usage=USAGE),
        lambda: FakeReply(
            body=completion(message={"content": None, "tool_calls": [TOOL_CALL]}),
            usage=USAGE,
        ),
        lambda: FakeReply(status=500, body=b'{"error": {"message": "no"}}'),
        lambda: FakeReply(body=b'{"error": {"message": "no"}}', usage=USAGE),
    ],
)  # fmt: skip
async def test_cache_answer_that_is_not_a_whole_answer_is_never_stored(
    settings, reply: Callable[[], FakeReply]
) -> None:
    """Truncated, filtered, refused, empty, failed and tool-calling answers are asked for anew each time."""
    async with running(settings, lambda _: reply()) as gateway:
        for _ in range(2):
            response = await gateway.chat()
            await response.read()
            assert response.headers.get("x-penstock-cache", "miss") == "miss"
        assert len(gateway.upstream.requests) == 2


async def test_cache_stream_that_is_cut_is_not_stored(settings) -> None:
    """A stream without its end is not an answer."""
    async with running(settings, lambda _: streamed(end=b"")) as gateway:
        for _ in range(2):
            assert (await gateway.chat(stream=True)).headers["x-penstock-cache"] == "miss"
        await asyncio.sleep(0.05)
        assert len(gateway.upstream.requests) == 2


async def test_cache_hundred_identical_requests_at_once_cost_one_call(settings) -> None:
    """Requests that come while the first is under way wait for its answer."""
    gate = asyncio.Event()

    async with running(settings, plain) as gateway:
        send = gateway.upstream.send

        async def held(request: UpstreamRequest) -> FakeReply:
            await gate.wait()
            return await send(request)

        gateway.upstream.send = held  # type: ignore[method-assign]
        asked = [asyncio.create_task(gateway.chat()) for _ in range(100)]
        await asyncio.sleep(0.3)
        gate.set()
        responses = await asyncio.gather(*asked)
        bodies = {(await response.json())["choices"][0]["message"]["content"] for response in responses}
        kinds = sorted(response.headers["x-penstock-cache"] for response in responses)
        assert bodies == {"Paris"}
        assert (kinds.count("hit-exact"), kinds.count("miss")) == (99, 1)
        assert len(gateway.upstream.requests) == 1


async def test_cache_leader_whose_provider_fails_lets_the_others_ask_for_themselves(settings) -> None:
    """A failed first request does not fail or hang those that waited for it."""
    calls = 0

    def reply(_: UpstreamRequest) -> FakeReply:
        nonlocal calls
        calls += 1
        if calls == 1:
            raise UpstreamUnreachable("The provider cannot be reached.")
        return FakeReply(body=completion(), usage=USAGE)

    async with running(settings, reply) as gateway:
        responses = await asyncio.gather(*(gateway.chat() for _ in range(5)))
        statuses = sorted(response.status for response in responses)
        assert statuses == [200, 200, 200, 200, 502]


async def test_cache_other_tenant_never_sees_an_entry(tmp_path) -> None:
    """The same request of another key is a miss: tenants are hard partitions."""
    keys = "client_keys: [{name: ann, key: '${A}'}, {name: bob, key: '${B}'}]\n"
    path = tmp_path / "penstock.yaml"
    path.write_text(CONFIG + keys)
    settings = load_settings(path, {"A": "a" * 32, "B": "b" * 32})
    async with running(settings, plain) as gateway:
        ann, bob = ({"authorization": f"Bearer {letter * 32}"} for letter in "ab")
        await (await gateway.chat(headers=ann)).read()
        await stored(gateway)
        assert (await gateway.chat(headers=bob)).headers["x-penstock-cache"] == "miss"
        assert (await gateway.chat(headers=ann)).headers["x-penstock-cache"] == "hit-exact"


async def test_cache_that_is_off_adds_no_header(tmp_path) -> None:
    """Without `cache.mode` nothing changes."""
    settings = with_config(tmp_path, CONFIG.replace("cache: {mode: exact}\n", ""))
    async with running(settings, plain) as gateway:
        for _ in range(2):
            assert "x-penstock-cache" not in (await gateway.chat()).headers
        assert len(gateway.upstream.requests) == 2


async def test_cache_follower_that_fails_is_counted_and_begun_again(settings, monkeypatch) -> None:
    """An index that cannot take a change says so and goes on following, instead of standing still."""
    monkeypatch.setattr("penstock_gateway.caching.start.RESTART_SECONDS", 0.01)
    async with running(settings, plain) as gateway:
        desk = gateway.app.pipeline.cache
        assert desk is not None
        mirror = desk.services.cache.parts.mirror
        add, failures = mirror.add, []

        def failing_once(record, vector) -> None:
            if not failures:
                failures.append(record.entry_id)
                raise RuntimeError("the index broke")
            add(record, vector)

        monkeypatch.setattr(mirror, "add", failing_once)
        await (await gateway.chat()).read()
        await stored(gateway)
        assert failures
        assert 'penstock_cache_problems_total{code="cache_failed"} 1.0' in await gateway.metrics()
