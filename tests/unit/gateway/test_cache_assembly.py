"""From a stream back to a body: everything is joined exactly, or the answer is not stored."""

from __future__ import annotations

import json
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from penstock_cache.eligibility import survey_answer
from penstock_gateway.caching import assembly
from penstock_gateway.caching.assembly import KeptStream, assemble

HEAD = {"id": "chatcmpl-7", "object": "chat.completion.chunk", "created": 1, "model": "up-small"}
DONE = b"data: [DONE]\n\n"
USAGE = {"prompt_tokens": 3, "completion_tokens": 2, "total_tokens": 5}


def part(delta: dict[str, Any] | None = None, reason: str | None = None, index: int = 0, **more: Any) -> dict[str, Any]:
    """Return one choice of a chunk."""
    return {"index": index, "delta": delta or {}, "finish_reason": reason, **more}


def chunk(*parts: dict[str, Any], **more: Any) -> dict[str, Any]:
    """Return a chunk."""
    return {**HEAD, "choices": list(parts), **more}


def events(*chunks: dict[str, Any], end: bytes = DONE) -> bytes:
    """Return chunks as server-sent events."""
    return b"".join(b"data: " + json.dumps(each).encode() + b"\n\n" for each in chunks) + end


def joined(*chunks: dict[str, Any]) -> dict[str, Any]:
    """Return what chunks add up to."""
    body = assemble(events(*chunks))
    assert body is not None
    completion: dict[str, Any] = json.loads(body)
    return completion


PLAIN = (chunk(part({"role": "assistant", "content": "Pa"})), chunk(part({"content": "ris"})), chunk(part({}, "stop")))


def test_assembly_of_a_plain_stream_is_the_body_that_the_request_would_have_got() -> None:
    """Texts are joined in order; id, time and model are the stream's own."""
    assert joined(*PLAIN) == {
        "id": "chatcmpl-7",
        "object": "chat.completion",
        "created": 1,
        "model": "up-small",
        "choices": [{"index": 0, "message": {"role": "assistant", "content": "Paris"}, "finish_reason": "stop"}],
    }


def test_assembly_of_several_choices_keeps_them_apart_whatever_their_order() -> None:
    """Chunks of different choices come interleaved, several in one chunk, and are sorted by index."""
    found = joined(
        chunk(part({"role": "assistant", "content": ""}, index=1), part({"role": "assistant"}, index=0)),
        chunk(part({"content": "one"}, index=0)),
        chunk(part({"content": "two"}, index=1)),
        chunk(part({}, "length", index=1)),
        chunk(part({"content": " more"}, index=0), part({"content": "!"}, index=2)),
        chunk(part({}, "stop", index=0), part({}, "stop", index=2)),
    )
    assert [(c["index"], c["message"]["content"], c["finish_reason"]) for c in found["choices"]] == [
        (0, "one more", "stop"),
        (1, "two", "length"),
        (2, "!", "stop"),
    ]


def test_assembly_joins_every_text_that_a_message_may_hold() -> None:
    """Refusals and reasoning are texts of their own beside the content."""
    found = joined(
        chunk(part({"role": "assistant", "reasoning_content": "Let me "})),
        chunk(part({"reasoning_content": "think."})),
        chunk(part({"reasoning": "Hm"}), part({"refusal": "I ca"}, index=1)),
        chunk(part({"content": "42"}), part({"refusal": "nnot."}, index=1)),
        chunk(part({}, "stop"), part({}, "stop", index=1)),
    )
    one, other = (choice["message"] for choice in found["choices"])
    assert one == {"role": "assistant", "reasoning_content": "Let me think.", "reasoning": "Hm", "content": "42"}
    assert other == {"role": "assistant", "refusal": "I cannot.", "content": None}


def test_assembly_joins_logprobs_token_by_token() -> None:
    """Lists are appended, a part that is always null stays null, and null logprobs are none."""
    tokens: list[dict[str, Any]] = [
        {"token": token, "logprob": -0.5, "bytes": None, "top_logprobs": []} for token in ("Pa", "ris", "!")
    ]
    found = joined(
        chunk(part({"content": "Pa"}, logprobs={"content": tokens[:1], "refusal": None})),
        chunk(part({"content": "ris!"}, logprobs={"content": tokens[1:], "refusal": None})),
        chunk(part({}, "stop", logprobs=None)),
    )
    assert found["choices"][0]["logprobs"] == {"content": tokens, "refusal": None}
    assert "logprobs" not in joined(*PLAIN)["choices"][0]


def test_assembly_collects_annotations() -> None:
    """Citations that come in several chunks are one list."""
    notes = [{"type": "url_citation", "url_citation": {"url": f"https://example.org/{n}"}} for n in range(3)]
    found = joined(
        chunk(part({"content": "See", "annotations": notes[:1]})),
        chunk(part({"annotations": notes[1:]})),
        chunk(part({}, "stop")),
    )
    assert found["choices"][0]["message"]["annotations"] == notes


@pytest.mark.parametrize(
    "usage_chunks",
    [
        [chunk(usage=USAGE)],
        [chunk(part({}), usage=None), chunk(usage=USAGE)],
        [chunk(part({}), usage=USAGE)],
        [chunk(part({}), usage={"prompt_tokens": 3, "completion_tokens": 1, "total_tokens": 4}), chunk(usage=USAGE)],
    ],
)
def test_assembly_takes_the_last_usage_wherever_it_stands(usage_chunks: list[dict[str, Any]]) -> None:
    """Some providers send it in a chunk without choices, some with every chunk; the last one is the whole."""
    assert joined(*PLAIN, *usage_chunks)["usage"] == USAGE
    assert "usage" not in joined(*PLAIN)


def test_assembly_keeps_the_named_fields_of_the_top_and_drops_padding() -> None:
    """The fingerprint and the service tier are part of a body; obfuscation is padding of single chunks."""
    found = joined(
        *(each | {"system_fingerprint": "fp", "service_tier": "default", "obfuscation": "x"} for each in PLAIN)
    )
    assert (found["system_fingerprint"], found["service_tier"]) == ("fp", "default")
    assert "obfuscation" not in found


@pytest.mark.parametrize("name", ["citations", "search_results"])
def test_assembly_keeps_what_a_search_model_says_it_looked_up(name: str) -> None:
    """Without it an answer made from a search would look like one that may be stored."""
    body = assemble(events(*(each | {name: ["https://example.org"]} for each in PLAIN)))
    assert survey_answer(body or b"", status=200).has_citations


@pytest.mark.parametrize(
    "delta",
    [
        {"tool_calls": [{"index": 0, "id": "t", "function": {"name": "f", "arguments": ""}}]},
        {"function_call": {"name": "f"}},
        {"audio": {"id": "a"}},
        {"images": [{"url": "x"}]},
        {"never_heard_of": 1},
        {"thinking_blocks": [{"thinking": "x"}]},
        {"content": ["not", "text"]},
        {"content": 7},
        {"annotations": {"url": "x"}},
    ],
)
def test_assembly_of_a_delta_that_cannot_be_joined_is_not_stored(delta: dict[str, Any]) -> None:
    """What this version does not know how to join must not be lost in silence."""
    assert assemble(events(PLAIN[0], chunk(part(delta)), *PLAIN[1:])) is None


@pytest.mark.parametrize("value", [None, "", [], {}])
def test_assembly_ignores_fields_that_say_nothing(value: object) -> None:
    """Providers fill chunks with empty fields, which a body would not have."""
    assert joined(PLAIN[0], chunk(part({"tool_calls": value, "never_heard_of": value})), *PLAIN[1:]) == joined(*PLAIN)


@pytest.mark.parametrize(
    "stream",
    [
        b"",
        DONE,
        events(*PLAIN, end=b""),
        events(*PLAIN)[:-8],
        events(*PLAIN[:2]),  # nothing says that the choice is finished
        events(*PLAIN, {"error": {"message": "overloaded"}}),
        events({"error": {"message": "overloaded"}, "choices": []}),
        events(*PLAIN, chunk(part({"content": "late"}, index=1))),
        events(*PLAIN, {"id": "x"}),
        events(*PLAIN, {"choices": None}),
        events(*PLAIN, {"choices": [{"delta": {}}]}),
        events(*PLAIN, {"choices": ["x"]}),
        events(*PLAIN, chunk(part({}, "stop", logprobs="x"))),
        events(*PLAIN, chunk(part({}, "stop", logprobs={"content": 3}))),
        events(*PLAIN, chunk(part({}, "stop", content_filter_results={"hate": {"filtered": False}}))),
        events(chunk(usage=USAGE)),
        b"data: {\n\n" + DONE,
        b"data: [1]\n\n" + DONE,
        b'data: "x"\n\n' + DONE,
        b"data: \xff\n\n" + DONE,
        b"data: " + b"[" * 100_000 + b"\n\n" + DONE,
        b"<html>" + DONE,
    ],
)
def test_assembly_of_anything_but_a_whole_stream_is_not_stored(stream: bytes) -> None:
    """Cut, failed, of another shape or with something unknown in a choice: None, and never an exception."""
    assert assemble(stream) is None


def test_assembly_reads_events_as_they_may_be_written() -> None:
    """CRLF, no blank behind the colon, comments, other fields, and data over several lines are one and the same."""
    plain = events(*PLAIN)
    assert assemble(plain.replace(b"\n", b"\r\n")) == assemble(plain)
    assert assemble(plain.replace(b"data: ", b"data:")) == assemble(plain)
    assert assemble(b": keep-alive\n\n" + plain.replace(b"data: {", b"event: x\nid: 1\ndata: {")) == assemble(plain)
    spread = b"".join(
        b"".join(b"data: " + line + b"\n" for line in json.dumps(each, indent=1).encode().split(b"\n")) + b"\n"
        for each in PLAIN
    )
    assert assemble(spread + DONE) == assemble(plain)
    assert assemble(plain + b"data: {}\n\n") == assemble(plain)  # behind the end there is nothing


def test_assembly_of_text_that_quotes_the_end_reads_on() -> None:
    """An answer may hold line breaks and the words of the protocol."""
    text = "data: [DONE]\n\ndata: {}\r\n\r\n: comment"
    stream = events(chunk(part({"content": text[:9]})), chunk(part({"content": text[9:]})), chunk(part({}, "stop")))
    assert json.loads(assemble(stream) or b"{}")["choices"][0]["message"]["content"] == text


@pytest.mark.parametrize(("limit", "is_kept"), [(10, True), (9, False)])
def test_kept_stream_gives_up_past_its_size(limit: int, is_kept: bool) -> None:
    """A stream too large to store is not kept in memory either."""
    kept = KeptStream(limit)
    for block in (b"12345", b"67890"):
        kept.add(block)
    assert kept.complete() == (b"1234567890" if is_kept else None)
    kept.add(b"")
    assert sum(map(len, kept._blocks)) <= limit


_VALUES = st.sampled_from(["", "Pa", "ris", None, 0, [], {"a": 1}])
_DELTAS = st.dictionaries(st.sampled_from(["content", "role", "refusal", "tool_calls"]), _VALUES, max_size=2)
_PARTS = st.fixed_dictionaries(
    {"index": st.sampled_from([0, 0, 0, 1]), "delta": st.one_of(st.just({"content": "word "}), _DELTAS)},
    optional={"finish_reason": st.sampled_from([None, "stop"]), "logprobs": st.none(), "odd": _VALUES},
)
_CHUNKS = st.fixed_dictionaries(
    {"choices": st.lists(_PARTS, min_size=1, max_size=2)},
    optional={
        **dict.fromkeys(("id", "model", "system_fingerprint", "citations"), _VALUES),
        "usage": st.sampled_from([None, USAGE]),
        "error": st.none(),
    },
)


@given(st.lists(_CHUNKS, min_size=1, max_size=6))
def test_assembly_of_words_read_quickly_is_that_of_chunks_read_in_full(chunks: list[dict[str, Any]]) -> None:
    """Chunks that bring a word and nothing else are read in a shorter way, which must come to the same."""

    def refuse(_: bytes) -> None:
        raise msgspec.ValidationError

    stream = events(*chunks, chunk(part({}, "stop"), part({}, "stop", index=1)))
    found = assemble(stream)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(assembly, "_decode_words", refuse)
        assert assemble(stream) == found
