"""Chat clients in front of Messages providers, under any request, any events and any bytes."""

from __future__ import annotations

import itertools
import json
from collections.abc import Callable
from typing import Any

import msgspec
from hypothesis import given
from hypothesis import strategies as st

from penstock_gateway.errors import InvalidRequest
from penstock_gateway.upstream.messages_scanner import MessagesScanner, read_messages_reply
from penstock_gateway.wire.chat_over_messages import ChatOverMessages
from penstock_gateway.wire.server_sent import events_of
from penstock_gateway.wire.translation import NOT_TRANSLATABLE, Asked, TranslatedRequest

TEXT = st.text(st.characters(exclude_categories=["Cs"]), max_size=12)
SCALAR = st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | TEXT
WORDS = st.sampled_from(
    [
        *(
            "text",
            "user",
            "assistant",
            "system",
            "tool",
            "function",
            "none",
            "auto",
            "required",
            "custom",
            "json_schema",
        ),
        *(
            "image_url",
            "file",
            "input_audio",
            "high",
            "{}",
            '{"a":1}',
            "data:image/png;base64,AA==",
            "https://x.test/a",
        ),
        *("thinking", "redacted_thinking", "allowed_tools", "claude-opus-4-6", "claude-sonnet-4-5", "claude-3-5-haiku"),
    ]
)
REQUEST_NAMES = st.sampled_from(
    [
        *(
            "model",
            "messages",
            "tools",
            "functions",
            "tool_choice",
            "function_call",
            "max_tokens",
            "temperature",
            "top_p",
        ),
        *("n", "stop", "user", "response_format", "reasoning_effort", "thinking", "web_search_options", "modalities"),
        *("role", "content", "type", "text", "image_url", "url", "file", "file_data", "file_id", "tool_calls", "id"),
        *(
            "tool_call_id",
            "name",
            "arguments",
            "parameters",
            "function",
            "thinking_blocks",
            "signature",
            "cache_control",
        ),
        *("json_schema", "schema", "user_location", "approximate", "strict", "allowed_tools", "refusal", "unknown"),
    ]
)
ANY_REQUEST_VALUE = st.recursive(
    SCALAR | WORDS,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(REQUEST_NAMES, inner, max_size=4),
    max_leaves=20,
)
MESSAGE = st.fixed_dictionaries(
    {"role": st.sampled_from(["system", "user", "assistant", "tool", "function", "developer"])},
    optional={
        "content": ANY_REQUEST_VALUE | TEXT,
        "tool_calls": ANY_REQUEST_VALUE,
        "tool_call_id": TEXT,
        "thinking_blocks": ANY_REQUEST_VALUE,
        "function_call": ANY_REQUEST_VALUE,
        "cache_control": st.just({"type": "ephemeral"}),
    },
)
REQUEST = st.dictionaries(REQUEST_NAMES, ANY_REQUEST_VALUE, max_size=5) | st.builds(
    lambda messages, fields: {"model": "claude-opus-4-6", **fields, "messages": messages},
    st.lists(MESSAGE, max_size=4),
    st.dictionaries(REQUEST_NAMES, ANY_REQUEST_VALUE, max_size=3),
)
EVENT_NAMES = st.sampled_from(
    [
        *("type", "delta", "content_block", "message", "usage", "error", "index", "text", "thinking", "partial_json"),
        *("signature", "citation", "citations", "stop_reason", "stop_details", "id", "name", "input", "data", "model"),
        *("input_tokens", "output_tokens", "url", "content", "explanation"),
    ]
)
KINDS = st.sampled_from(
    [
        *("message_start", "content_block_start", "content_block_delta", "content_block_stop", "message_delta", "ping"),
        *("text", "thinking", "redacted_thinking", "tool_use", "text_delta", "thinking_delta", "input_json_delta"),
        *("signature_delta", "citations_delta", "web_search_result_location", "end_turn", "tool_use", "refusal"),
    ]
)
EVENT_VALUE = st.recursive(
    SCALAR | KINDS,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(EVENT_NAMES, inner, max_size=5),
    max_leaves=12,
)
SHAPED_EVENT = st.builds(
    lambda kind, inner, delta, block: {
        "type": kind,
        "delta": {**inner, "type": delta},
        "content_block": {**inner, "type": block},
    },
    KINDS,
    st.dictionaries(EVENT_NAMES, SCALAR, max_size=4),
    st.sampled_from(["text_delta", "thinking_delta", "input_json_delta", "signature_delta", "citations_delta"]),
    st.sampled_from(["text", "thinking", "redacted_thinking", "tool_use", "server_tool_use"]),
)
EVENTS = st.lists(EVENT_VALUE | SHAPED_EVENT, max_size=8)
REFUSALS = {NOT_TRANSLATABLE, "missing_field", "invalid_type", "invalid_value", "invalid_json", "empty_messages"}
CUTS = st.lists(st.integers(0, 400), max_size=40)


def as_fields(request: dict[str, Any]) -> dict[str, msgspec.Raw]:
    """Return a request as the gateway holds it."""
    return msgspec.json.decode(json.dumps(request).encode(), type=dict[str, msgspec.Raw])


def asked(*, is_old: bool = False) -> Asked:
    """Return what an answer's translation may depend on."""
    fields = {"model": "m", "functions": []} if is_old else {"model": "m"}
    return Asked(as_fields(fields), "req-1", 1)


def cut_at(stream: bytes, cuts: list[int]) -> list[bytes]:
    """Cut a stream at the given positions."""
    edges = sorted({0, len(stream), *(position for position in cuts if position < len(stream))})
    return [stream[a:b] for a, b in itertools.pairwise(edges)]


@given(request=REQUEST)
def test_request_of_any_shape_translates_or_is_the_clients_mistake(request: dict[str, Any]) -> None:
    """Any JSON object becomes a Messages request that is whole, or an error that says why not."""
    try:
        translated = ChatOverMessages().request(as_fields(request))
    except InvalidRequest as error:
        mistake = error
    else:
        check_request(translated)
        return
    assert mistake.param
    assert mistake.code in REFUSALS


def check_request(translated: TranslatedRequest) -> None:
    """Check what holds for every Messages request."""
    body = json.loads(msgspec.json.encode(translated.fields))
    roles = [message["role"] for message in body["messages"]]
    assert roles
    assert all(first != second for first, second in itertools.pairwise(roles))
    assert all(message["content"] for message in body["messages"])
    assert len(set(translated.dropped)) == len(translated.dropped)
    assert "penstock" not in body


@given(events=EVENTS, is_old=st.booleans(), is_named=st.booleans())
def test_stream_of_any_events_never_raises_or_invents_an_end(events: list[Any], is_old: bool, is_named: bool) -> None:
    """Whatever the events hold, the chunks are JSON, and [DONE] needs a stop reason or ``message_stop``."""
    stream = ChatOverMessages().stream(asked(is_old=is_old))
    block = b""
    for event in events:
        kind = event.get("type") if isinstance(event, dict) else None
        block += stream.feed(kind if is_named and isinstance(kind, str) else "", json.dumps(event).encode())
    chunks = [json.loads(data) for _, data in events_of(block)]
    reasons = [
        choice["finish_reason"] for chunk in chunks for choice in chunk.get("choices", []) if choice["finish_reason"]
    ]
    end = [data for _, data in events_of(stream.finish())]
    assert len(reasons) <= 1
    assert (b"[DONE]" in end) <= (len(reasons) == 1)
    assert sum("error" in chunk for chunk in chunks) <= 1
    assert not (end and any("error" in chunk for chunk in chunks))
    if chunks and "choices" in chunks[0]:
        assert chunks[0]["choices"][0]["delta"]["role"] == "assistant"


@given(
    body=st.binary(max_size=200) | st.dictionaries(EVENT_NAMES, EVENT_VALUE).map(lambda body: json.dumps(body).encode())
)
def test_reply_of_any_bytes_is_a_completion_or_a_value_error(body: bytes) -> None:
    """A plain reply either becomes a chat completion or is named as what it is not."""
    completion = answer_of(lambda: json.loads(ChatOverMessages().reply(body, asked())))
    assert isinstance(completion, str) or completion["choices"][0]["message"]["role"] == "assistant"
    assert not isinstance(completion, str) or completion.startswith("a body")
    counted = answer_of(lambda: read_messages_reply(body))
    assert not isinstance(counted, str) or counted.startswith(("a body", "an error"))


def answer_of(read: Callable[[], Any]) -> Any:
    """Return what a reading gives, or the text of its refusal."""
    try:
        return read()
    except ValueError as error:
        return str(error)


@given(events=EVENTS, cuts=CUTS, has_names=st.booleans())
def test_scanner_of_any_events_relays_them_whole_and_in_order(
    events: list[Any], cuts: list[int], has_names: bool
) -> None:
    """What is relayed is a beginning of the stream, in whole events, wherever the packets were cut."""
    written = [
        (b"event: x\n" if has_names else b"") + b"data: " + json.dumps(event).encode() + b"\n\n" for event in events
    ]
    stream = b"".join(written)
    scanner = MessagesScanner()
    out = b"".join(scanner.feed(packet) for packet in cut_at(stream, cuts)) + scanner.finish()
    edges = list(itertools.accumulate(map(len, written), initial=0))
    assert stream.startswith(out)
    assert len(out) in edges
    reference = MessagesScanner()
    reference.feed(stream)
    reference.finish()
    learnt = [
        (seen.output_bytes, seen.is_complete, type(seen.failure), seen.usage, seen.stream_error)
        for seen in (reference, scanner)
    ]
    assert learnt[0] == learnt[1]


@given(stream=st.binary(max_size=300), cuts=CUTS)
def test_scanner_of_any_bytes_never_crashes_or_invents(stream: bytes, cuts: list[int]) -> None:
    """Whatever a provider sends, nothing is raised, and nothing relayed that was not sent."""
    scanner = MessagesScanner()
    out = b"".join(scanner.feed(packet) for packet in cut_at(stream, cuts)) + scanner.finish()
    assert len(out) <= len(stream) + 2
    assert scanner.failure is not None or scanner.is_complete
