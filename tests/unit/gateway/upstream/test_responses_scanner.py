"""The relay of Responses event streams: whole events only, unchanged, and what is learnt in passing."""

from __future__ import annotations

import json
from typing import Any

import pytest

from penstock_gateway.errors import UpstreamBroken, UpstreamRejectedKey
from penstock_gateway.money.usage import Usage
from penstock_gateway.upstream.responses_scanner import ResponsesScanner, read_responses_reply, read_responses_usage

COUNTS = {
    "input_tokens": 120,
    "input_tokens_details": {"cached_tokens": 100, "cache_write_tokens": 10},
    "output_tokens": 30,
    "output_tokens_details": {"reasoning_tokens": 20},
    "total_tokens": 150,
}
COUNTED = Usage(120, 30, cached_input_tokens=100, cache_write_tokens=10, reasoning_tokens=20, service_tier="priority")
ITEM = {
    "type": "message",
    "content": [{"type": "output_text", "text": "Hello"}, {"type": "refusal", "refusal": "No."}],
}
CALL = {"type": "function_call", "name": "look", "arguments": "{}", "call_id": "call_1"}


def event(kind: str, **fields: Any) -> bytes:
    """Return one event as OpenAI writes it."""
    return f"event: {kind}\n".encode() + b"data: " + json.dumps({"type": kind, **fields}).encode() + b"\n\n"


def ended(kind: str = "completed", **fields: Any) -> bytes:
    """Return the event that ends a response."""
    response = {"status": kind, "service_tier": "priority", "usage": COUNTS, **fields}
    return event(f"response.{kind}", sequence_number=9, response=response)


CREATED = event("response.created", response={"status": "in_progress", "usage": None, "tools": [{"type": "function"}]})


def text(words: str) -> bytes:
    """Return the event of a piece of text."""
    return event("response.output_text.delta", output_index=0, content_index=0, delta=words)


def relay(*packets: bytes) -> tuple[bytes, ResponsesScanner]:
    """Feed packets and the end; return all that came out, and the scanner."""
    scanner = ResponsesScanner(hides_usage=True)
    out = b"".join(scanner.feed(packet) for packet in packets)
    return out + scanner.finish(), scanner


@pytest.mark.parametrize("size", [1, 7, 64, 10_000])
def test_scanner_whole_stream_is_relayed_byte_for_byte(size: int) -> None:
    """What comes out is what went in, however the packets were cut, usage included."""
    stream = CREATED + text("Hel") + text("lo") + ended()
    out, scanner = relay(*(stream[at : at + size] for at in range(0, len(stream), size)))
    assert out == stream
    assert scanner.failure is None
    assert (scanner.is_done, scanner.is_complete, scanner.finished_choices) == (True, True, 1)
    assert scanner.usage == COUNTED
    assert scanner.output_bytes == 5


def test_scanner_one_event_per_packet_is_relayed_at_once() -> None:
    """The usual case, a whole event in a packet, comes out of the same call."""
    scanner = ResponsesScanner()
    assert [scanner.feed(packet) for packet in (CREATED, text("a"), ended())] == [CREATED, text("a"), ended()]


@pytest.mark.parametrize("kind", ["completed", "incomplete"])
def test_scanner_events_after_the_end_are_dropped(kind: str) -> None:
    """A response that was cut by a limit has ended too, and nothing follows the end."""
    out, scanner = relay(CREATED + ended(kind) + text("late"), b"data: [DONE]\n\n")
    assert out == CREATED + ended(kind)
    assert scanner.finished_choices == 1


def test_scanner_end_before_the_last_event_is_a_failure() -> None:
    """A stream that ends in the middle of an answer was cut short."""
    out, scanner = relay(CREATED, text("half"))
    assert out == CREATED + text("half")
    assert isinstance(scanner.failure, UpstreamBroken)
    assert scanner.finished_choices == 0


def test_scanner_end_mark_of_the_chat_format_alone_is_a_failure() -> None:
    """Another format's end mark does not make an answer complete, and is not shown."""
    out, scanner = relay(CREATED, text("half"), b"data: [DONE]\n\n")
    assert out == CREATED + text("half")
    assert isinstance(scanner.failure, UpstreamBroken)


@pytest.mark.parametrize(
    ("sent", "code"),
    [
        (event("error", code="server_error", message="no", param=None), "server_error"),
        (
            event("error", error={"type": "invalid_request_error", "code": None, "message": "no"}),
            "invalid_request_error",
        ),
        (event("error", code=None, message="no"), "error"),
    ],
)
def test_scanner_error_event_is_relayed_and_noted(sent: bytes, code: str) -> None:
    """The client is told by the provider's own event, flat or nested; the request still failed."""
    out, scanner = relay(CREATED, sent)
    assert out == CREATED + sent
    assert (scanner.stream_error, scanner.is_complete, scanner.failure) == (code, True, None)


def test_scanner_failed_response_is_an_error_with_its_usage() -> None:
    """A response that failed has ended; what it used is still billed."""
    failed = ended("failed", error={"code": "rate_limit_exceeded", "message": "Slower."})
    out, scanner = relay(text("a"), failed, text("late"))
    assert out == text("a") + failed
    assert (scanner.stream_error, scanner.is_done, scanner.finished_choices) == ("rate_limit_exceeded", True, 0)
    assert scanner.usage == COUNTED


def test_scanner_failed_response_without_details_is_an_error() -> None:
    """Whatever a failed response says of itself, it is no answer."""
    _, scanner = relay(event("response.failed", response="broken"))
    assert scanner.stream_error == "error"


def test_scanner_credential_error_is_a_failure_and_not_shown() -> None:
    """What a provider says about our credential never reaches the client."""
    out, scanner = relay(CREATED, event("error", code="invalid_api_key", message="sk-1 is bad"))
    assert out == CREATED
    assert isinstance(scanner.failure, UpstreamRejectedKey)


def test_scanner_event_that_is_no_json_is_a_failure() -> None:
    """Nothing after it can be trusted."""
    out, scanner = relay(CREATED, b"data: {nope\n\n" + text("a"))
    assert out == CREATED
    assert isinstance(scanner.failure, UpstreamBroken)


@pytest.mark.parametrize("odd", [b"data: [1]\n\n", b'data: "x"\n\n', event("response.new", response=3), b": hm\n\n"])
def test_scanner_event_of_another_shape_is_relayed(odd: bytes) -> None:
    """What is not known is the client's to read."""
    out, scanner = relay(odd, ended())
    assert out == odd + ended()
    assert scanner.failure is None


def test_scanner_generated_text_of_every_kind_is_counted() -> None:
    """Text, refusal, reasoning, and name and input of a call count, once each."""
    _, scanner = relay(
        event("response.output_item.added", output_index=0, item={"type": "reasoning", "summary": []}),
        event("response.reasoning_text.delta", output_index=0, delta="hmm"),
        event("response.output_item.done", output_index=0, item={"type": "reasoning", "encrypted_content": "e" * 50}),
        text("abcd"),
        event("response.output_text.done", output_index=1, text="abcd"),
        event("response.refusal.delta", output_index=1, delta="No"),
        event("response.output_item.added", output_index=2, item={**CALL, "arguments": ""}),
        event("response.function_call_arguments.delta", output_index=2, delta="{}"),
        event("response.function_call_arguments.done", output_index=2, arguments="{}"),
        event("response.output_item.done", output_index=2, item=CALL),
    )
    assert scanner.output_bytes == 3 + 4 + 2 + 4 + 2


def test_scanner_reasoning_that_is_not_shown_counts_by_what_it_is_encrypted_to() -> None:
    """Hidden reasoning is billed, and a summary of it says little about how much there was."""
    scanner = ResponsesScanner()
    scanner.feed(event("response.output_item.added", output_index=0, item={"type": "reasoning", "summary": []}))
    scanner.feed(event("response.reasoning_summary_text.delta", output_index=0, delta="hm"))
    scanner.feed(event("response.output_item.done", item={"type": "reasoning", "encrypted_content": "e" * 50}))
    assert scanner.output_bytes == 2 + 50


def test_scanner_end_without_usage_counts_what_the_response_holds() -> None:
    """A server that sends items whole and counts nothing is estimated by the items."""
    _, scanner = relay(ended(usage=None, output=[ITEM, CALL]))
    assert scanner.usage is None
    assert scanner.output_bytes == len("Hello") + len("No.") + len("look") + len("{}")


@pytest.mark.parametrize("fields", [None, [], "many", {}, {"input_tokens": -1, "output_tokens": 2}])
def test_usage_that_makes_no_sense_is_missing(fields: object) -> None:
    """Counts of another type, or impossible ones, are estimated rather than believed."""
    assert read_responses_usage(fields) is None


def test_plain_reply_with_usage_needs_no_estimate() -> None:
    """Usage is read, and the text is not looked at."""
    body = json.dumps({"status": "completed", "service_tier": "priority", "output": [ITEM], "usage": COUNTS}).encode()
    assert read_responses_reply(body) == (COUNTED, 0)


def test_plain_reply_without_usage_is_estimated_by_its_text() -> None:
    """Ids and field names are no text; output of an unknown shape counts whole."""
    assert read_responses_reply(json.dumps({"output": [ITEM, CALL]}).encode()) == (None, 14)
    assert read_responses_reply(b'{"output":[1,2]}') == (None, 5)
    assert read_responses_reply(b'{"status":"queued","output":null}') == (None, 0)


@pytest.mark.parametrize(
    ("body", "problem"),
    [
        (b'{"status":"failed","output":[],"error":{"code":"server_error"}}', "an error object"),
        (b'{"error":{"message":"no"}}', "an error object"),
        (b"[]", "not a JSON object"),
        (b"{", "not a JSON object"),
        (b'{"a":' * 5000, "not a JSON object"),
    ],
)
def test_plain_reply_that_is_no_answer_is_named(body: bytes, problem: str) -> None:
    """A failed response with a success status is an error, not an answer."""
    with pytest.raises(ValueError, match=problem):
        read_responses_reply(body)
