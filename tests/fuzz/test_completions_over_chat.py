"""Text completions under any request and any events."""

from __future__ import annotations

import contextlib
import json
from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from penstock_gateway.errors import InvalidRequest
from penstock_gateway.wire.chat_over_completions import CompletionsReplies
from penstock_gateway.wire.completions_over_chat import CompletionsOverChat
from penstock_gateway.wire.embeddings import parse_embeddings
from support.wire_snapshots import asked_of, raw_fields, streamed

TRANSLATOR = CompletionsOverChat()
NAMES_OF_FIELDS = """
model prompt input suffix echo best_of n logprobs max_tokens stop choices delta message text content index usage
finish_reason token top_logprobs error id
"""
NAMES = st.sampled_from(NAMES_OF_FIELDS.split())
TEXT = st.text(st.characters(exclude_categories=["Cs"]), max_size=6)
ANYTHING = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | TEXT,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(NAMES, inner, max_size=5),
    max_leaves=15,
)
OBJECTS = st.dictionaries(NAMES, ANYTHING, max_size=6)
PROMPTS = TEXT | st.lists(TEXT | st.integers(), max_size=3) | st.lists(st.lists(st.integers(), max_size=2), max_size=2)
CHUNKS = st.fixed_dictionaries(
    {"choices": st.lists(OBJECTS, max_size=2) | ANYTHING}, optional={"id": ANYTHING, "usage": ANYTHING}
)


@given(OBJECTS, PROMPTS | ANYTHING)
def test_any_request_is_translated_or_refused(fields: dict[str, Any], prompt: Any) -> None:
    """A prompt is one message, as it came; nothing that a client sends is more than an InvalidRequest."""
    try:
        translated = TRANSLATOR.request(raw_fields({"model": "m", **fields, "prompt": prompt}))
    except InvalidRequest:
        return
    [message] = json.loads(bytes(translated.fields["messages"]))
    assert message == {"role": "user", "content": prompt if isinstance(prompt, str) else prompt[0]}


@given(st.lists(CHUNKS | OBJECTS, max_size=6))
def test_any_chunks_become_text_chunks(sent: list[Any]) -> None:
    """Chunks of any shape are read as far as they go; after an error there is nothing, and no end mark."""
    found = streamed(TRANSLATOR, {"request": {"model": "m"}, "events": sent})
    has_failed = any(event.get("error") is not None for event in sent)
    assert found.count("[DONE]") == (not has_failed)
    for event in found[: -1 if found else None]:
        assert event["object"] == "text_completion"


@given(CHUNKS | ANYTHING)
def test_any_reply_is_translated_or_named(body: Any) -> None:
    """Whatever is no completion is a ValueError, in both directions; a completion has choices."""
    for reader in (TRANSLATOR, CompletionsReplies()):
        with contextlib.suppress(ValueError):
            translated = json.loads(reader.reply(json.dumps(body).encode(), asked_of({"request": {"model": "m"}})))
            assert translated["choices"]


@given(OBJECTS, PROMPTS | ANYTHING)
def test_any_request_for_vectors_is_read_or_refused(fields: dict[str, Any], given_input: Any) -> None:
    """What can be embedded has at least one token; the rest is an InvalidRequest."""
    try:
        view = parse_embeddings(raw_fields({"model": "e", **fields, "input": given_input}))
    except InvalidRequest:
        return
    assert view.input_tokens >= view.inputs >= 1
