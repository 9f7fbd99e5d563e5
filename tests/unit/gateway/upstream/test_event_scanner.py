"""The relay of server-sent events: whole events only, unchanged, and what is learnt in passing."""

from __future__ import annotations

import json

import pytest

from penstock_gateway.errors import UpstreamBroken, UpstreamRejectedKey
from penstock_gateway.money.usage import Usage
from penstock_gateway.upstream.sse import EventScanner
from support.replay_upstream import CHUNKINGS, cut, load_recording, recording_names

DONE = b"data: [DONE]\n\n"


def chunk(text: str = "", *, finish: str | None = None, index: int = 0) -> bytes:
    """Return one chunk with a text and a finish reason for one choice."""
    choice = {"index": index, "delta": {"content": text}, "finish_reason": finish}
    return b"data: " + json.dumps({"choices": [choice]}).encode() + b"\n\n"


def relay(scanner: EventScanner, *packets: bytes) -> list[bytes]:
    """Feed packets, end the stream, and return the blocks that came out."""
    blocks = [scanner.feed(packet) for packet in packets]
    blocks.append(scanner.finish())
    return [block for block in blocks if block]


@pytest.mark.parametrize("chunking", CHUNKINGS)
@pytest.mark.parametrize("name", recording_names())
def test_scanner_recorded_shape_is_relayed_byte_for_byte(name: str, chunking: str) -> None:
    """What comes out is what went in, for every recorded provider and every cut into packets."""
    events = load_recording(name, includes_usage=True).events
    stream = b"".join(events)
    scanner = EventScanner(hides_usage=False)
    assert b"".join(relay(scanner, *cut(stream, events, chunking))) == stream
    assert scanner.failure is None


@pytest.mark.parametrize("chunking", CHUNKINGS)
@pytest.mark.parametrize("name", recording_names())
def test_scanner_any_cut_learns_the_same(name: str, chunking: str) -> None:
    """Usage, text length and completeness do not depend on how the stream was cut."""
    events = load_recording(name, includes_usage=True).events
    reference = EventScanner(hides_usage=True)
    expected = b"".join(relay(reference, *events))
    scanner = EventScanner(hides_usage=True)
    blocks = relay(scanner, *cut(b"".join(events), events, chunking))
    assert b"".join(blocks) == expected
    assert (scanner.usage, scanner.output_bytes, scanner.stream_error) == (
        reference.usage,
        reference.output_bytes,
        reference.stream_error,
    )


def test_scanner_one_byte_packets_yield_only_whole_events() -> None:
    """Every block ends with a blank line: no consumer ever sees half an event."""
    stream = chunk("a") + chunk("b", finish="stop") + DONE
    scanner = EventScanner(hides_usage=False)
    blocks = relay(scanner, *(stream[i : i + 1] for i in range(len(stream))))
    assert blocks == [chunk("a"), chunk("b", finish="stop"), DONE]


def test_scanner_crlf_split_inside_the_blank_line_keeps_it_whole() -> None:
    """A CRLF pair cut between packets stays in one block, so that no stray line feed opens the next event."""
    stream = [b"data: {}\r\n\r", b"\ndata: [DONE]\r\n\r", b"\n"]
    scanner = EventScanner(hides_usage=False)
    assert [scanner.feed(packet) for packet in stream] == [b"", b"data: {}\r\n\r\n", b"data: [DONE]\r\n\r\n"]


def test_scanner_usage_only_chunk_is_hidden_when_asked() -> None:
    """A chunk that carries nothing but usage is kept from a client that did not ask for it, and still counted."""
    events = load_recording("openai-text", includes_usage=True).events
    scanner = EventScanner(hides_usage=True)
    relayed = b"".join(relay(scanner, b"".join(events)))
    assert relayed == b"".join((*events[:-2], events[-1]))
    assert scanner.usage == Usage(input_tokens=14, output_tokens=6)


def test_scanner_usage_beside_a_choice_is_never_hidden() -> None:
    """A chunk with a choice is passed on although it carries usage, or text would be lost."""
    events = load_recording("deepseek-reasoning", includes_usage=True).events
    scanner = EventScanner(hides_usage=True)
    assert b"".join(relay(scanner, *events)) == b"".join(events)
    assert scanner.usage == Usage(input_tokens=17, output_tokens=30, reasoning_tokens=22)


def test_scanner_azure_prompt_filter_chunk_is_not_taken_for_usage() -> None:
    """Azure's first chunk has no choices and no usage: it reaches the client."""
    events = load_recording("azure-text", includes_usage=True).events
    scanner = EventScanner(hides_usage=True)
    assert b"prompt_filter_results" in relay(scanner, *events)[0]


def test_scanner_end_before_finish_reason_is_a_failure() -> None:
    """A stream that ends without [DONE] and without a finish reason was cut short."""
    scanner = EventScanner(hides_usage=False)
    relay(scanner, chunk("half an"))
    assert isinstance(scanner.failure, UpstreamBroken)


def test_scanner_end_with_one_choice_open_is_a_failure() -> None:
    """Every choice seen needs its finish reason, one is not enough."""
    scanner = EventScanner(hides_usage=False)
    relay(scanner, chunk("a"), chunk("b", index=1), chunk(finish="stop"))
    assert isinstance(scanner.failure, UpstreamBroken)


def test_scanner_end_after_finish_reasons_without_done_is_complete() -> None:
    """Some providers never send [DONE]; finish reasons for all choices are enough."""
    scanner = EventScanner(hides_usage=False)
    relay(scanner, chunk("a", finish="stop"), chunk("b", index=1, finish="length"))
    assert scanner.failure is None
    assert scanner.is_complete


def test_scanner_empty_stream_is_a_failure() -> None:
    """A stream without a single event is not an answer."""
    scanner = EventScanner(hides_usage=False)
    assert relay(scanner) == []
    assert isinstance(scanner.failure, UpstreamBroken)


def test_scanner_half_an_event_after_the_finish_reason_is_a_failure() -> None:
    """A tail that is not a whole event shows a cut, even when all choices had finished."""
    scanner = EventScanner(hides_usage=False)
    blocks = relay(scanner, chunk("a", finish="stop") + b'data: {"choices":[],"usa')
    assert blocks == [chunk("a", finish="stop")]
    assert isinstance(scanner.failure, UpstreamBroken)


def test_scanner_done_without_its_blank_line_is_completed() -> None:
    """A last event whose blank line is missing is passed on with one, or clients would never see it."""
    scanner = EventScanner(hides_usage=False)
    assert relay(scanner, chunk("a", finish="stop") + b"data: [DONE]")[-1] == DONE
    assert scanner.is_done


def test_scanner_bytes_after_done_are_dropped() -> None:
    """Nothing follows [DONE]."""
    scanner = EventScanner(hides_usage=False)
    assert relay(scanner, chunk("a") + DONE + chunk("late")) == [chunk("a") + DONE]
    assert scanner.feed(chunk("later")) == b""


def test_scanner_event_that_is_not_json_is_a_failure_after_the_good_ones() -> None:
    """Garbage breaks the stream, and the events before it in the same packet still arrive."""
    scanner = EventScanner(hides_usage=False)
    assert scanner.feed(chunk("a") + b"data: {oops\n\n") == chunk("a")
    assert isinstance(scanner.failure, UpstreamBroken)


@pytest.mark.parametrize("payload", ['{"choices":"none"}', '{"choices":[7]}', '{"choices":[{"delta":[]}]}', "[]", "12"])
def test_scanner_json_of_unknown_shape_is_passed_on(payload: str) -> None:
    """JSON that is not a chunk is not ours to judge; its length counts towards the estimate."""
    event = f"data: {payload}\n\n".encode()
    scanner = EventScanner(hides_usage=True)
    assert scanner.feed(event) == event
    assert scanner.failure is None
    assert scanner.output_bytes == len(payload)


def test_scanner_event_beyond_the_limit_is_a_failure() -> None:
    """An event that never ends does not fill the memory."""
    scanner = EventScanner(hides_usage=False, max_event_bytes=1000)
    assert scanner.feed(chunk("a") + b"data: " + b"x" * 600) == chunk("a")
    assert scanner.failure is None
    scanner.feed(b"x" * 600)
    assert isinstance(scanner.failure, UpstreamBroken)


def test_scanner_error_event_is_passed_on_and_recorded() -> None:
    """The provider's own error reaches the client, ends the stream in order, and is known to the caller."""
    events = load_recording("error-in-stream", includes_usage=True).events
    scanner = EventScanner(hides_usage=False)
    assert b"".join(relay(scanner, *events)) == b"".join(events)
    assert scanner.stream_error == "engine_crash"
    assert scanner.failure is None


def test_scanner_error_event_about_the_key_is_hidden() -> None:
    """A provider's text about our credential is never shown."""
    scanner = EventScanner(hides_usage=False)
    event = b'data: {"error":{"message":"Incorrect key sk-secret","code":"invalid_api_key"}}\n\n'
    assert scanner.feed(chunk("a") + event) == chunk("a")
    assert isinstance(scanner.failure, UpstreamRejectedKey)


def test_scanner_output_bytes_count_all_generated_text() -> None:
    """Content, reasoning, refusals, tool names and arguments count; envelopes do not."""
    delta = (
        b'{"content":"ab","reasoning_content":"cde","refusal":"f","tool_calls":'
        b'[{"index":0,"id":"call_x","type":"function","function":{"name":"go","arguments":"{}"}}]}'
    )
    scanner = EventScanner(hides_usage=False)
    scanner.feed(b'data: {"choices":[{"index":0,"delta":' + delta + b"}]}\n\n")
    assert scanner.output_bytes == len("ab" + "cde" + "f" + "go" + "{}")


def test_scanner_byte_order_mark_before_the_first_event_is_tolerated() -> None:
    """The standard lets a stream begin with a byte order mark."""
    scanner = EventScanner(hides_usage=False)
    scanner.feed(b"\xef\xbb\xbf" + chunk("a", finish="stop"))
    assert scanner.output_bytes == 1


def test_scanner_data_over_several_lines_is_joined() -> None:
    """An event's data lines form one payload, joined by line feeds."""
    scanner = EventScanner(hides_usage=False)
    scanner.feed(b'data: {"choices":[{"index":0,\ndata: "delta":{"content":"abc"},"finish_reason":"stop"}]}\n\n')
    assert scanner.output_bytes == 3
    assert scanner.is_complete


@pytest.mark.parametrize("payload", [b'{"x":' + b"[" * 100_000, b'{"choices":[],"usage":' + b"[" * 100_000])
def test_scanner_payload_nested_too_deep_is_a_failure(payload: bytes) -> None:
    """A provider cannot exhaust the stack."""
    scanner = EventScanner(hides_usage=False)
    assert scanner.feed(b"data: " + payload + b"\n\n") == b""
    assert isinstance(scanner.failure, UpstreamBroken)


def test_scanner_bytes_that_are_not_utf8_are_no_crash() -> None:
    """Text that is not UTF-8 is relayed as it came; a client can judge it better than we can."""
    event = b'data: {"choices":[{"index":0,"delta":{"content":"\xff\xfe"},"finish_reason":"stop"}]}\n\n'
    scanner = EventScanner(hides_usage=False)
    assert scanner.feed(event) == event
