"""A stored body on its way out: as a body or as a stream that adds up to it again."""

from __future__ import annotations

import json
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from penstock_gateway.caching.assembly import assemble
from penstock_gateway.caching.replay import PIECE_CHARACTERS, StoredReply, stream_chunks
from penstock_gateway.money.usage import Usage

USAGE = {"prompt_tokens": 3, "completion_tokens": 2, "total_tokens": 5}
texts = st.text(min_size=1, max_size=3 * PIECE_CHARACTERS)
plain_values = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**53), 2**53) | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=5,
)
logprobs = st.fixed_dictionaries(
    {"content": st.none() | st.lists(st.dictionaries(st.text(max_size=5), plain_values, max_size=2), max_size=3)},
    optional={"refusal": st.none()},
)
messages = st.fixed_dictionaries(
    {"role": st.just("assistant"), "content": st.none() | st.just("") | texts},
    optional={
        "refusal": texts,
        "reasoning_content": texts,
        "reasoning": texts,
        "annotations": st.lists(st.dictionaries(st.text(max_size=5), plain_values, max_size=2), min_size=1, max_size=3),
    },
)
choices = st.lists(
    st.fixed_dictionaries(
        {"message": messages, "finish_reason": st.sampled_from(["stop", "length", "content_filter"])},
        optional={"logprobs": logprobs},
    ),
    min_size=1,
    max_size=3,
).map(lambda found: [{"index": index, **choice} for index, choice in enumerate(found)])
completions = st.fixed_dictionaries(
    {"id": st.just("first"), "object": st.just("chat.completion"), "created": st.just(1), "choices": choices},
    optional={
        "model": texts,
        "system_fingerprint": texts,
        "service_tier": st.sampled_from(["default", "flex"]),
        "usage": st.just(USAGE),
    },
)


def reply(completion: dict[str, Any], *, wants_usage: bool = True) -> StoredReply:
    """Return a stored answer's reply."""
    return StoredReply(
        msgspec.json.encode(completion),
        completion_id="again",
        created=2,
        wants_usage=wants_usage,
        usage=Usage(input_tokens=3, output_tokens=2),
    )


async def streamed(stored: StoredReply) -> bytes:
    """Return all events of a replay."""
    return b"".join([block async for block in stored.events()])


def chunks_of(stream: bytes) -> list[dict[str, Any]]:
    """Return the chunks of a stream, which must end as streams end."""
    *blocks, done, nothing = stream.split(b"\n\n")
    assert (done, nothing) == (b"data: [DONE]", b"")
    return [json.loads(block.removeprefix(b"data: ")) for block in blocks]


@given(completion=completions)
async def test_replay_as_a_stream_adds_up_to_the_stored_body(completion: dict[str, Any]) -> None:
    """Whatever a body holds, its stream joined again is the body, but for its own id and time."""
    body = assemble(await streamed(reply(completion)))
    assert body is not None
    assert json.loads(body) == completion | {"id": "again", "created": 2}


@given(completion=completions)
async def test_replay_as_a_body_is_the_stored_body_with_its_own_id_and_time(completion: dict[str, Any]) -> None:
    """Clients tell answers apart by their id, so a replay has one of its own."""
    assert json.loads(await reply(completion).read()) == completion | {"id": "again", "created": 2}


@given(completion=completions)
async def test_replay_of_a_replay_is_the_same_stream(completion: dict[str, Any]) -> None:
    """A stream stored as a body and replayed again has the same chunks."""
    first = await streamed(reply(completion))
    assert await streamed(reply(json.loads(assemble(first) or b"{}"))) == first


def completion_of(message: dict[str, Any], **more: Any) -> dict[str, Any]:
    """Return a completion of one choice."""
    choice = {"index": 0, "message": {"role": "assistant", **message}, "finish_reason": "stop", **more}
    return {"id": "c", "object": "chat.completion", "created": 1, "model": "m", "choices": [choice], "usage": USAGE}


async def test_replay_stream_opens_with_the_role_and_closes_with_the_reason() -> None:
    """The shape is a provider's: role first, pieces of text, the finish reason alone, then the usage if asked for."""
    text = "x" * (PIECE_CHARACTERS + 1)
    chunks = chunks_of(await streamed(reply(completion_of({"content": text}))))
    assert [each["choices"][0]["delta"] for each in chunks[:-1]] == [
        {"role": "assistant", "content": ""},
        {"content": "x" * PIECE_CHARACTERS},
        {"content": "x"},
        {},
    ]
    assert [each["choices"][0]["finish_reason"] for each in chunks[:-1]] == [None, None, None, "stop"]
    assert (chunks[-1]["choices"], chunks[-1]["usage"]) == ([], USAGE)
    assert {(each["id"], each["created"], each["model"], each["object"]) for each in chunks} == {
        ("again", 2, "m", "chat.completion.chunk")
    }


@pytest.mark.parametrize("wants_usage", [True, False])
async def test_replay_stream_tells_the_usage_only_to_who_asked(wants_usage: bool) -> None:
    """With include_usage every chunk has the field, null until the last; without it no chunk has."""
    chunks = chunks_of(await streamed(reply(completion_of({"content": "Paris"}), wants_usage=wants_usage)))
    assert [each.get("usage", "absent") for each in chunks] == (
        [None, None, None, USAGE] if wants_usage else ["absent"] * 3
    )


async def test_replay_stream_of_several_choices_finishes_each() -> None:
    """Every choice has its own role, texts and end, under its own index."""
    completion = completion_of({"content": "one"})
    completion["choices"].append(completion["choices"][0] | {"index": 1, "finish_reason": "length"})
    parts = [each["choices"][0] for each in chunks_of(await streamed(reply(completion, wants_usage=False)))]
    assert [part["index"] for part in parts] == [0, 0, 0, 1, 1, 1]
    assert [part["finish_reason"] for part in parts if part["finish_reason"]] == ["stop", "length"]


async def test_replay_stream_puts_reasoning_before_the_answer() -> None:
    """A client that shows thoughts as they come shows them first."""
    chunks = chunks_of(await streamed(reply(completion_of({"content": "42", "reasoning_content": "Hm"}))))
    order = [name for each in chunks if each["choices"] for name, text in each["choices"][0]["delta"].items() if text]
    assert order == ["role", "reasoning_content", "content"]


@pytest.mark.parametrize("extra", [{"thinking_blocks": [{"thinking": "Hm"}]}, {"never_heard_of": {"a": 1}}])
async def test_replay_stream_keeps_fields_that_it_does_not_know(extra: dict[str, Any]) -> None:
    """A body may hold more than this version knows; a stream of it must not lose that in silence."""
    chunks = chunks_of(await streamed(reply(completion_of({"content": "42", **extra}))))
    assert extra in [each["choices"][0]["delta"] for each in chunks if each["choices"]]


async def test_replay_of_fields_without_content_leaves_them_out_of_the_stream() -> None:
    """Null and empty fields of a body say nothing, so no chunk says it."""
    completion = completion_of({"content": "42", "refusal": None, "annotations": [], "audio": None}, logprobs=None)
    chunks = stream_chunks(completion, wants_usage=False)
    assert {name for each in chunks for name in each["choices"][0]["delta"]} == {"role", "content"}
    assert all("logprobs" not in each["choices"][0] for each in chunks)


async def test_replay_counts_as_a_reply_with_the_stored_usage() -> None:
    """The pipeline settles it like a provider's: status, type, usage; closing releases nothing."""
    stored = reply(completion_of({"content": "42"}))
    assert (stored.status, stored.content_type, stored.stream_error) == (200, "application/json", None)
    assert stored.usage == Usage(input_tokens=3, output_tokens=2)
    await stored.aclose()
    assert json.loads(await stored.read())["choices"][0]["message"]["content"] == "42"
