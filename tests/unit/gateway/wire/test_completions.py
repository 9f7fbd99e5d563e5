"""Text completions in front of chat providers, and native ones on their way into the cache."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from penstock_gateway.caching.assembly import assemble
from penstock_gateway.errors import InvalidRequest
from penstock_gateway.upstream.sse import EventScanner
from penstock_gateway.upstream.usage import read_reply
from penstock_gateway.wire.chat_over_completions import CompletionsReplies
from penstock_gateway.wire.completions_over_chat import CompletionsOverChat
from penstock_gateway.wire.formats import WireFormat
from penstock_gateway.wire.replies import in_chat
from penstock_gateway.wire.translation import NOT_TRANSLATABLE
from support.wire_snapshots import asked_of, cases, check, raw_fields

TRANSLATOR = CompletionsOverChat()
ASKED = asked_of({"request": {"model": "m", "prompt": "Once"}})
HEAD = {"id": "cmpl-1", "object": "text_completion", "created": 1, "model": "m"}


@pytest.mark.parametrize("path", cases("completions_over_chat"))
def test_snapshot_becomes_what_is_written_down(path: Path) -> None:
    """Each request, reply and stream becomes the expected one, and what is lost is named."""
    check(TRANSLATOR, path)


@pytest.mark.parametrize(
    ("changes", "code", "param"),
    [
        ({"prompt": None}, "missing_field", "prompt"),
        ({"prompt": ["a", "b"]}, NOT_TRANSLATABLE, "prompt"),
        ({"prompt": [1, 2]}, NOT_TRANSLATABLE, "prompt"),
        ({"suffix": "end"}, NOT_TRANSLATABLE, "suffix"),
        ({"echo": True}, NOT_TRANSLATABLE, "echo"),
        ({"best_of": 3, "n": 2}, NOT_TRANSLATABLE, "best_of"),
        ({"prompt": [[1, 2]]}, NOT_TRANSLATABLE, "prompt"),
        ({"prompt": []}, "invalid_value", "prompt"),
        ({"prompt": [{"text": "a"}]}, "invalid_type", "prompt"),
        ({"prompt": ["a", 1]}, "invalid_type", "prompt"),
        ({"prompt": 3}, "invalid_type", "prompt"),
        ({"logprobs": "many"}, "invalid_type", "logprobs"),
        ({"logprobs": True}, "invalid_type", "logprobs"),
    ],
)
def test_request_without_a_chat_form_names_the_field(changes: dict[str, Any], code: str, param: str) -> None:
    """What a chat model cannot do with a text is refused instead of left out."""
    with pytest.raises(InvalidRequest) as caught:
        TRANSLATOR.request(raw_fields({"model": "m", "prompt": "Once", **changes}))
    assert (caught.value.code, caught.value.param) == (code, param)


@pytest.mark.parametrize("body", [b"[]", b"{", b"{}", b'{"choices":[]}', b'{"choices":[1]}'])
def test_reply_that_is_no_completion_is_named(body: bytes) -> None:
    """Anything but a chat completion is a ValueError that says what it is, in both directions."""
    with pytest.raises(ValueError, match=r"a (body|choice)"):
        TRANSLATOR.reply(body, ASKED)
    with pytest.raises(ValueError, match=r"a (body|choice)"):
        CompletionsReplies().reply(body, ASKED)


def test_stored_completion_is_replayed_as_it_was() -> None:
    """Into the cache and out of it, an answer keeps its id, its texts and its counts."""
    usage = {"prompt_tokens": 3, "completion_tokens": 2, "total_tokens": 5}
    choices = [{"text": text, "index": at, "logprobs": None, "finish_reason": "stop"} for at, text in enumerate("ab")]
    body = {**HEAD, "choices": choices, "usage": usage}
    stored = CompletionsReplies().reply(json.dumps(body).encode(), ASKED)
    assert json.loads(TRANSLATOR.reply(stored, ASKED)) == body


@pytest.mark.parametrize(
    "sent",
    [
        [{"error": {"message": "no"}}, "[DONE]"],
        [{**HEAD, "choices": [{"index": 0, "text": 3}]}, "[DONE]"],
        [{**HEAD, "choices": 3}, "[DONE]"],
        [{**HEAD, "choices": [{"index": 0, "text": "a", "finish_reason": "stop"}]}],
    ],
)
def test_stream_that_cannot_be_stored_has_no_end(sent: list[Any]) -> None:
    """An error, an odd value and a missing end mark all keep an answer out of the cache."""
    stream = CompletionsReplies().stream(ASKED)
    for event in sent:
        stream.feed("", event.encode() if isinstance(event, str) else json.dumps(event).encode())
    assert stream.finish() == b""


def test_generated_text_of_native_completions_is_counted() -> None:
    """Without a usage the estimate rests on the bytes of text, streamed or not."""
    body = json.dumps({**HEAD, "choices": [{"index": 0, "text": "abcd", "finish_reason": "stop"}]}).encode()
    assert read_reply(body) == (None, 4)
    scanner = EventScanner(hides_usage=False)
    scanner.feed(b"data: " + body + b"\n\ndata: [DONE]\n\n")
    assert (scanner.output_bytes, scanner.is_complete) == (4, True)


def test_native_completion_is_stored_as_a_chat_completion_body_or_stream() -> None:
    """The cache gets one form; an answer with log probabilities has none."""
    body = {**HEAD, "choices": [{"index": 0, "text": " a time", "logprobs": None, "finish_reason": "stop"}]}
    stored = json.loads(in_chat(WireFormat.COMPLETIONS, json.dumps(body).encode(), ASKED, is_stream=False) or b"")
    assert stored["object"] == "chat.completion"
    assert stored["choices"][0]["message"] == {"role": "assistant", "content": " a time", "refusal": None}
    events = b"data: " + json.dumps(body).encode() + b"\n\ndata: [DONE]\n\n"
    joined = json.loads(assemble(in_chat(WireFormat.COMPLETIONS, events, ASKED, is_stream=True) or b"") or b"")
    assert joined["choices"][0]["message"]["content"] == " a time"
    body["choices"][0]["logprobs"] = {"tokens": []}
    assert in_chat(WireFormat.COMPLETIONS, json.dumps(body).encode(), ASKED, is_stream=False) is None
    lost = b"data: " + json.dumps(body).encode() + b"\n\ndata: [DONE]\n\n"
    assert assemble(in_chat(WireFormat.COMPLETIONS, lost, ASKED, is_stream=True) or b"") is None
