"""The relay of server-sent events under random streams and random cuts."""

from __future__ import annotations

import itertools
import json
import re

from hypothesis import given
from hypothesis import strategies as st

from penstock_gateway.upstream.sse import EventScanner

ENDINGS = st.sampled_from([b"\n", b"\r\n", b"\r"])
TEXT = st.text(st.characters(exclude_categories=["Cs"]), max_size=12)
CHUNK = st.builds(
    lambda text, index, finish: json.dumps(
        {"choices": [{"index": index, "delta": {"content": text}, "finish_reason": finish}]}, ensure_ascii=False
    ),
    TEXT,
    st.integers(0, 2),
    st.sampled_from([None, "stop"]),
)
LINE_TEXT = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\r\n"), max_size=10)
EVENT_LINES = st.one_of(
    CHUNK.map(lambda chunk: [f"data: {chunk}"]),
    CHUNK.map(lambda chunk: ["event: message", "id: 7", f"data:{chunk}"]),
    LINE_TEXT.map(lambda comment: [f": {comment}"]),
)
FIELD = st.sampled_from(["choices", "usage", "error", "delta", "index", "finish_reason", "code", "x"])
PAYLOAD = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | TEXT,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(FIELD, inner, max_size=4),
    max_leaves=12,
)
CUTS = st.lists(st.integers(0, 400), max_size=40)


def cut_at(stream: bytes, cuts: list[int]) -> list[bytes]:
    """Cut a stream at the given positions, empty packets included."""
    edges = sorted({0, len(stream), *(position for position in cuts if position < len(stream))})
    return [stream[a:b] for a, b in itertools.pairwise(edges)]


def relay(packets: list[bytes], *, hides_usage: bool = False) -> tuple[list[bytes], EventScanner]:
    """Feed all packets and the end; return the blocks and the scanner."""
    scanner = EventScanner(hides_usage=hides_usage)
    blocks = [scanner.feed(packet) for packet in packets]
    blocks.append(scanner.finish())
    return [block for block in blocks if block], scanner


@given(events=st.lists(EVENT_LINES, max_size=8), ending=ENDINGS, cuts=CUTS)
def test_relay_well_formed_stream_survives_any_cut(events: list[list[str]], ending: bytes, cuts: list[int]) -> None:
    """A whole stream comes out unchanged, in blocks of whole events, wherever the packets were cut."""
    lines = [[line.encode() for line in event] for event in [*events, ["data: [DONE]"]]]
    stream = b"".join(ending.join(event) + ending * 2 for event in lines)
    blocks, scanner = relay(cut_at(stream, cuts))
    assert b"".join(blocks) == stream
    assert scanner.failure is None
    assert scanner.is_done
    assert all(re.search(rb"(\r\n\r\n|\n\n|\r\r)\Z", block) for block in blocks)


@given(events=st.lists(EVENT_LINES, min_size=1, max_size=8), ending=ENDINGS, cuts=CUTS)
def test_relay_what_is_learnt_does_not_depend_on_the_cut(
    events: list[list[str]], ending: bytes, cuts: list[int]
) -> None:
    """Text length, completeness and failure are those of the stream, not of its packets."""
    stream = b"".join(ending.join(line.encode() for line in event) + ending * 2 for event in events)
    _, reference = relay([stream])
    _, scanner = relay(cut_at(stream, cuts))
    learnt = [(s.output_bytes, s.is_complete, type(s.failure), s.usage) for s in (reference, scanner)]
    assert learnt[0] == learnt[1]


@given(stream=st.binary(max_size=300), cuts=CUTS)
def test_relay_arbitrary_bytes_never_crash_or_grow(stream: bytes, cuts: list[int]) -> None:
    """Whatever a provider sends, the scanner raises nothing and relays nothing that was not sent."""
    blocks, scanner = relay(cut_at(stream, cuts), hides_usage=True)
    relayed = b"".join(blocks)
    assert len(relayed) <= len(stream) + 2  # at most a missing blank line is added
    assert relayed.rstrip(b"\r\n") in stream or scanner.usage is not None
    assert scanner.is_complete or scanner.failure is not None


@given(prefix=st.lists(CHUNK, max_size=3), payload=PAYLOAD)
def test_relay_any_json_payload_never_crashes(prefix: list[str], payload: object) -> None:
    """Any JSON value as an event's data is relayed or refused, never an exception."""
    event = b"data: " + json.dumps(payload).encode() + b"\n\n"
    head = b"".join(f"data: {chunk}\n\n".encode() for chunk in prefix)
    blocks, _ = relay([head, event], hides_usage=False)
    assert b"".join(blocks) in (head + event, head)
