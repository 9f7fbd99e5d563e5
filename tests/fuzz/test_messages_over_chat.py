"""Whatever a chat provider streams becomes a well-formed Message; whatever a client sends is refused cleanly."""

from __future__ import annotations

import contextlib
import json
from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from penstock_gateway.errors import InvalidRequest
from penstock_gateway.wire.messages_over_chat import MessagesOverChat
from support.wire_snapshots import asked_of, raw_fields, streamed

TRANSLATOR = MessagesOverChat()
scalars = st.one_of(st.none(), st.booleans(), st.integers(-2, 5), st.text(max_size=4), st.sampled_from(['{"a":', "1}"]))
anything = st.recursive(
    scalars,
    lambda inner: st.one_of(
        st.lists(inner, max_size=3),
        st.dictionaries(
            st.sampled_from(["type", "text", "id", "name", "arguments", "function", "x"]), inner, max_size=4
        ),
    ),
    max_leaves=8,
)


def of(**fields: st.SearchStrategy[Any]) -> st.SearchStrategy[dict[str, Any]]:
    """Return objects with some of the fields, each as it should be or anything at all."""
    return st.fixed_dictionaries({}, optional={name: st.one_of(value, anything) for name, value in fields.items()})


calls = st.lists(
    of(
        index=st.integers(0, 2),
        id=st.sampled_from(["call_1", "call_2"]),
        function=of(name=st.sampled_from(["f", "g"]), arguments=st.sampled_from(['{"a":', "1}", "{}", ""])),
    ),
    max_size=2,
)
deltas = of(
    content=st.sampled_from(["Hi", ""]),
    reasoning_content=st.just("hm"),
    thinking_blocks=st.lists(
        of(type=st.sampled_from(["thinking", "redacted_thinking"]), signature=st.just("s"), data=st.just("d")),
        max_size=2,
    ),
    tool_calls=calls,
    refusal=st.just("no"),
    reasoning=st.just("hm"),
    function_call=of(name=st.just("f"), arguments=st.just("{}")),
    citations=st.lists(of(type=st.just("char_location")), max_size=2),
    annotations=st.lists(
        of(url_citation=of(url=st.just("u"), start_index=st.integers(-1, 3), end_index=st.integers(-1, 3))), max_size=2
    ),
)
chunks = st.one_of(
    of(
        id=st.just("c"),
        choices=st.lists(of(index=st.just(0), delta=deltas, message=deltas, finish_reason=st.just("stop")), max_size=2),
        usage=of(prompt_tokens=st.just(3), completion_tokens=st.just(2)),
    ),
    anything,
)


@given(st.lists(chunks, max_size=8))
def test_any_chunks_become_a_well_formed_message(events: list[Any]) -> None:
    """Every block that begins ends, one is open at a time, and there is one end, which an error takes the place of."""
    found = streamed(TRANSLATOR, {"request": {"model": "m"}, "events": events})
    assert found[0]["type"] in ("message_start", "error")
    started, open_block = -1, None
    for event in found:
        if event["type"] == "content_block_start":
            started += 1
            assert (event["index"], open_block) == (started, None)
            open_block = started
        elif event["type"] == "content_block_delta":
            assert event["index"] == open_block
        elif event["type"] == "content_block_stop":
            assert event["index"] == open_block
            open_block = None
    ends = [event["type"] for event in found if event["type"] in ("message_stop", "error")]
    assert ends == [found[-1]["type"]]
    assert open_block is None or ends == ["error"]


inputs = st.dictionaries(st.text(max_size=3), st.one_of(st.text('a"\\{}[] \u20ac', max_size=8), anything), max_size=3)


@given(st.lists(inputs, min_size=1, max_size=3), st.data(), st.booleans())
def test_arguments_of_a_call_arrive_whole_however_calls_are_cut_and_mixed(
    wanted: list[dict[str, Any]], data: st.DataObject, is_repeated: bool
) -> None:
    """What the client joins of each call's input is what the model wrote, in whatever pieces and order it came."""
    waiting = {index: _cut(json.dumps(one, ensure_ascii=False), data) for index, one in enumerate(wanted)}
    chunks_sent = []
    while waiting:
        index = data.draw(st.sampled_from(sorted(waiting)))
        function = {"name": f"f{index}", "arguments": waiting[index].pop(0)}
        chunks_sent.append({"index": index, "id": f"call_{index}", "function": function})
        if not waiting[index]:
            del waiting[index]
    if is_repeated:
        chunks_sent.append({"index": 0, "id": "call_0", "function": {"name": "f0", "arguments": json.dumps(wanted[0])}})
    events = [{"choices": [{"index": 0, "delta": {"tool_calls": [call]}}]} for call in chunks_sent]
    joined: dict[int, str] = {}
    names = {}
    for event in streamed(TRANSLATOR, {"request": {"model": "m"}, "events": events}):
        if event["type"] == "content_block_start":
            names[event["index"]] = (event["content_block"]["id"], event["content_block"]["name"])
        elif event["type"] == "content_block_delta":
            joined[event["index"]] = joined.get(event["index"], "") + event["delta"]["partial_json"]
    found = {names[index]: json.loads(text) for index, text in joined.items()}
    assert found == {(f"call_{index}", f"f{index}"): one for index, one in enumerate(wanted)}


def _cut(text: str, data: st.DataObject) -> list[str]:
    cuts = sorted(data.draw(st.lists(st.integers(0, len(text)), max_size=4)))
    return [text[start:end] for start, end in zip([0, *cuts], [*cuts, len(text)], strict=True)]


blocks = st.one_of(
    of(
        type=st.sampled_from(
            ["text", "image", "document", "tool_use", "tool_result", "thinking", "search_result", "compaction"]
        ),
        text=st.just("Hi"),
        source=of(
            type=st.sampled_from(["base64", "url", "text", "file", "content"]),
            media_type=st.sampled_from(["image/png", "text/plain", "a\\/b"]),
            data=st.sampled_from(["aGk=", "\\"]),
            content=st.lists(of(type=st.just("text"), text=st.just("x")), max_size=2),
        ),
        id=st.just("t"),
        name=st.just("f"),
        tool_use_id=st.just("t"),
        input=of(),
        content=st.just("x"),
        cache_control=of(type=st.just("ephemeral")),
    ),
    anything,
)
requests = of(
    model=st.just("m"),
    max_tokens=st.just(5),
    messages=st.lists(
        of(role=st.sampled_from(["user", "assistant"]), content=st.one_of(st.just("Hi"), st.lists(blocks, max_size=3))),
        max_size=3,
    ),
    system=st.one_of(st.just("s"), st.lists(blocks, max_size=2)),
    tools=st.lists(
        of(
            name=st.just("f"),
            input_schema=of(
                type=st.just("object"), properties=of(a=of(type=st.just("object"))), additionalProperties=st.just(False)
            ),
            type=st.just("custom"),
            strict=st.just(True),
        ),
        max_size=2,
    ),
    tool_choice=of(type=st.sampled_from(["auto", "any", "none", "tool"]), name=st.just("f")),
    thinking=of(type=st.sampled_from(["enabled", "adaptive", "disabled"]), budget_tokens=st.just(2048)),
    output_config=of(effort=st.just("low"), format=of(type=st.just("json_schema"), schema=of())),
    metadata=of(user_id=st.just("u")),
    stop_sequences=st.lists(st.just("x"), max_size=2),
)


@given(requests)
def test_any_request_is_translated_or_refused_with_a_code(request: dict[str, Any]) -> None:
    """Nothing that a client sends is more than an InvalidRequest, and what is translated is JSON."""
    with contextlib.suppress(InvalidRequest):
        for value in TRANSLATOR.request(raw_fields(request)).fields.values():
            json.loads(bytes(value))


@given(
    st.lists(st.one_of(st.binary(max_size=20), st.just(b'{"choices":[{"delta":{"content":"\\ud83d"}}]}')), max_size=4)
)
def test_any_bytes_of_a_stream_are_read_or_skipped(events: list[bytes]) -> None:
    """Events that are no chunks change nothing: the Message begins and ends once."""
    stream = TRANSLATOR.stream(asked_of({"request": {"model": "m"}}))
    block = b"".join(stream.feed("", event) for event in events) + stream.finish()
    assert block.count(b"event: message_start\n") == block.count(b"event: message_stop\n") == 1


@given(st.one_of(st.fixed_dictionaries({"choices": st.lists(of(message=deltas), min_size=1, max_size=2)}), anything))
def test_any_reply_is_translated_or_named(body: Any) -> None:
    """What is no completion is a ValueError and nothing else."""
    with contextlib.suppress(ValueError):
        json.loads(TRANSLATOR.reply(json.dumps(body).encode(), asked_of({"request": {"model": "m"}})))
