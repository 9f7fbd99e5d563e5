"""The relay of Anthropic's event streams: whole events only, unchanged, and what is learnt in passing."""

from __future__ import annotations

import json
from typing import Any

import pytest

from penstock_gateway.errors import UpstreamBroken, UpstreamRejectedKey
from penstock_gateway.money.usage import Usage
from penstock_gateway.upstream.messages_scanner import MessagesScanner, read_messages_reply

COUNTS = {"input_tokens": 10, "cache_read_input_tokens": 90, "output_tokens": 1, "service_tier": "priority"}


def event(kind: str, **fields: Any) -> bytes:
    """Return one event as Anthropic writes it."""
    return f"event: {kind}\n".encode() + b"data: " + json.dumps({"type": kind, **fields}).encode() + b"\n\n"


START = event("message_start", message={"id": "msg_1", "role": "assistant", "content": [], "usage": COUNTS})
STOP = event("message_stop")
PING = event("ping")


def text(words: str) -> bytes:
    """Return the event of a piece of text."""
    return event("content_block_delta", index=0, delta={"type": "text_delta", "text": words})


def stopped(output_tokens: int, **counts: Any) -> bytes:
    """Return the event that holds the stop reason."""
    usage = {"output_tokens": output_tokens, **counts}
    return event("message_delta", delta={"stop_reason": "end_turn", "stop_sequence": None}, usage=usage)


def relay(*packets: bytes) -> tuple[bytes, MessagesScanner]:
    """Feed packets and the end; return all that came out, and the scanner."""
    scanner = MessagesScanner(hides_usage=True)
    out = b"".join(scanner.feed(packet) for packet in packets)
    return out + scanner.finish(), scanner


@pytest.mark.parametrize("size", [1, 7, 64, 10_000])
def test_scanner_whole_stream_is_relayed_byte_for_byte(size: int) -> None:
    """What comes out is what went in, however the packets were cut, usage included."""
    stream = START + PING + text("Hel") + text("lo") + stopped(12) + STOP
    out, scanner = relay(*(stream[at : at + size] for at in range(0, len(stream), size)))
    assert out == stream
    assert scanner.failure is None
    assert (scanner.is_done, scanner.is_complete, scanner.finished_choices) == (True, True, 1)
    assert scanner.usage == Usage(100, 12, cached_input_tokens=90, service_tier="priority")
    assert scanner.output_bytes == 5


def test_scanner_usage_before_any_message_delta_is_unknown() -> None:
    """The first counts hold no output: a cancelled answer is estimated, not charged for one token."""
    scanner = MessagesScanner()
    scanner.feed(START + text("much"))
    assert scanner.usage is None
    assert scanner.output_bytes == 4


def test_scanner_zero_in_a_later_count_keeps_the_earlier_one() -> None:
    """Counts are running totals: a 0 or null after a number says nothing."""
    _, scanner = relay(START, stopped(12, input_tokens=0, cache_read_input_tokens=None), STOP)
    assert scanner.usage is not None
    assert (scanner.usage.input_tokens, scanner.usage.cached_input_tokens) == (100, 90)


def test_scanner_generated_text_of_every_kind_is_counted() -> None:
    """Answer, thinking, and name and arguments of a call count; signatures beside shown thinking do not."""
    _, scanner = relay(
        START,
        event("content_block_start", index=0, content_block={"type": "thinking", "thinking": "", "signature": ""}),
        event("content_block_delta", index=0, delta={"type": "thinking_delta", "thinking": "hm"}),
        event("content_block_delta", index=0, delta={"type": "signature_delta", "signature": "s" * 50}),
        event(
            "content_block_start", index=1, content_block={"type": "tool_use", "id": "t", "name": "fun", "input": {}}
        ),
        event("content_block_delta", index=1, delta={"type": "input_json_delta", "partial_json": "{1}"}),
        text("abcd"),
        STOP,
    )
    assert scanner.output_bytes == 2 + 3 + 3 + 4


def test_scanner_thinking_that_is_not_shown_counts_by_its_signature() -> None:
    """Omitted thinking is billed, and its signature is all there is to estimate it by."""
    scanner = MessagesScanner()
    scanner.feed(
        START
        + event("content_block_start", index=0, content_block={"type": "thinking", "thinking": "", "signature": ""})
        + event("content_block_delta", index=0, delta={"type": "signature_delta", "signature": "s" * 50})
    )
    assert scanner.output_bytes == 50


def test_scanner_end_before_the_stop_reason_is_a_failure() -> None:
    """A stream that ends in the middle of an answer was cut short."""
    out, scanner = relay(START, text("half"))
    assert out == START + text("half")
    assert isinstance(scanner.failure, UpstreamBroken)


def test_scanner_end_after_the_stop_reason_is_complete() -> None:
    """The last event may be missing once the stop reason is known."""
    _, scanner = relay(START, text("a"), stopped(3))
    assert scanner.failure is None
    assert scanner.is_complete
    assert not scanner.is_done


def test_scanner_events_after_message_stop_are_dropped() -> None:
    """Nothing follows ``message_stop``."""
    out, _ = relay(START + STOP + text("late"), text("later"))
    assert out == START + STOP


def test_scanner_error_event_is_relayed_and_noted() -> None:
    """The client is told by the provider's own event; the request still failed."""
    error = event("error", error={"type": "overloaded_error", "message": "Overloaded"})
    out, scanner = relay(START, text("a"), error)
    assert out == START + text("a") + error
    assert (scanner.stream_error, scanner.failure) == ("overloaded_error", None)


def test_scanner_error_event_without_details_is_noted() -> None:
    """An error event that says nothing is one all the same."""
    _, scanner = relay(START, event("error"))
    assert scanner.stream_error == "error"


@pytest.mark.parametrize("kind", ["authentication_error", "permission_error"])
def test_scanner_credential_error_is_a_failure_and_not_shown(kind: str) -> None:
    """What a provider says about our credential never reaches the client."""
    out, scanner = relay(START, event("error", error={"type": kind, "message": "x-api-key sk-ant-1 is bad"}))
    assert out == START
    assert isinstance(scanner.failure, UpstreamRejectedKey)


def test_scanner_event_that_is_not_json_is_a_failure_after_the_good_ones() -> None:
    """Garbage breaks the stream, and the events before it in the same packet still arrive."""
    out, scanner = relay(START + text("a") + b"event: x\ndata: <html>\n\n")
    assert out == START + text("a")
    assert isinstance(scanner.failure, UpstreamBroken)


def test_scanner_end_mark_of_the_chat_format_counts_after_the_stop_reason_only() -> None:
    """Servers that add [DONE] are borne with; alone it ends no answer."""
    _, scanner = relay(START, stopped(1), b"data: [DONE]\n\n")
    assert scanner.is_done
    _, scanner = relay(START, b"data: [DONE]\n\n")
    assert isinstance(scanner.failure, UpstreamBroken)


def test_scanner_event_of_an_odd_shape_is_relayed_and_estimated_high() -> None:
    """JSON of another shape is passed on as it is, and counted in full."""
    odd = b'event: content_block_delta\ndata: {"type":"content_block_delta","delta":["x"]}\n\n'
    scanner = MessagesScanner()
    assert scanner.feed(odd) == odd
    assert scanner.output_bytes > 40


def test_reply_with_usage_is_read_in_anthropics_convention() -> None:
    """The cached part is not inside ``input_tokens``: the prompt is the sum."""
    usage, size = read_messages_reply(json.dumps({"type": "message", "content": [], "usage": COUNTS}).encode())
    assert usage == Usage(100, 1, cached_input_tokens=90, service_tier="priority")
    assert size == 0


def test_reply_without_usage_counts_its_text() -> None:
    """Text, thinking, and name and input of calls stand for the output that was not counted."""
    content = [
        {"type": "text", "text": "abcd"},
        {"type": "thinking", "thinking": "hm", "signature": "sig"},
        {"type": "tool_use", "id": "t", "name": "fun", "input": {"a": 1}},
    ]
    usage, size = read_messages_reply(json.dumps({"type": "message", "content": content}).encode())
    assert usage is None
    assert size == 4 + 2 + 3 + len('{"a": 1}')


@pytest.mark.parametrize(
    "body", [b"", b"[]", b"<html>", b'{"type":"error","error":{"type":"api_error"}}', b'{"error":{}}']
)
def test_reply_that_is_no_answer_is_an_error(body: bytes) -> None:
    """A success status with an error object, or with no object, is a broken reply."""
    with pytest.raises(ValueError, match=r"^a body|^an error"):
        read_messages_reply(body)
