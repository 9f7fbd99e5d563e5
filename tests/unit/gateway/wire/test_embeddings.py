"""What is read of requests for vectors, and of their answers."""

from __future__ import annotations

import json
from typing import Any

import msgspec
import pytest

from penstock_gateway.errors import InvalidRequest
from penstock_gateway.wire.embeddings import MAX_INPUTS, parse_embeddings, read_embeddings_reply
from support.wire_snapshots import raw_fields


@pytest.mark.parametrize(
    ("given", "inputs", "tokens"),
    [
        ("a" * 40, 1, 10),
        (["a" * 40, "b"], 2, 11),
        ([11, 12, 13], 1, 3),
        ([[11, 12], [13]], 2, 3),
        ("é" * 20, 1, 10),
        (" ", 1, 1),
    ],
)
def test_input_of_every_kind_is_counted(given: Any, inputs: int, tokens: int) -> None:
    """Texts are estimated, token ids are counted."""
    view = parse_embeddings(raw_fields({"model": "e", "input": given}))
    assert (view.model, view.inputs, view.input_tokens) == ("e", inputs, tokens)


@pytest.mark.parametrize(
    ("fields", "code", "param"),
    [
        ({"input": "x"}, "missing_field", "model"),
        ({"model": "e"}, "missing_field", "input"),
        ({"model": "e", "input": ""}, "invalid_value", "input"),
        ({"model": "e", "input": []}, "invalid_value", "input"),
        ({"model": "e", "input": ["a", ""]}, "invalid_value", "input"),
        ({"model": "e", "input": {"text": "a"}}, "invalid_type", "input"),
        ({"model": "e", "input": ["a", 1]}, "invalid_type", "input"),
        ({"model": "e", "input": [["a"]]}, "invalid_type", "input"),
        ({"model": "e", "input": [[1], []]}, "invalid_value", "input"),
        ({"model": "e", "input": [1, "a"]}, "invalid_type", "input"),
        ({"model": "e", "input": [[1], 2]}, "invalid_type", "input"),
        ({"model": "e", "input": 3}, "invalid_type", "input"),
        ({"model": 3, "input": "a"}, "invalid_type", "model"),
        ({"model": "e", "input": ["a"] * (MAX_INPUTS + 1)}, "invalid_value", "input"),
    ],
)
def test_input_that_cannot_be_embedded_is_named(fields: dict[str, Any], code: str, param: str) -> None:
    """Missing, empty and mixed input is refused before a provider is asked."""
    with pytest.raises(InvalidRequest) as caught:
        parse_embeddings(raw_fields(fields))
    assert (caught.value.code, caught.value.param) == (code, param)


def test_list_is_told_apart_however_it_is_spaced() -> None:
    """White space before the first element is of no account, however much there is."""
    fields = {"model": msgspec.Raw(b'"e"'), "input": msgspec.Raw(b"[" + b" \n" * 100 + b"1, 2]")}
    assert parse_embeddings(fields).input_tokens == 2


@pytest.mark.parametrize(
    ("usage", "tokens"),
    [
        ({"total_tokens": 8}, 8),
        ({"prompt_tokens": 8}, 8),
        ({"prompt_tokens": 8, "total_tokens": 11}, 8),
        ({"prompt_tokens": "many"}, None),
        ({}, None),
        (None, None),
    ],
)
def test_usage_of_vectors_is_the_prompts_count(usage: object, tokens: int | None) -> None:
    """Servers tell one count or both; none of it is output."""
    found, _ = read_embeddings_reply(json.dumps({"data": [], "usage": usage}).encode())
    assert (None if found is None else (found.input_tokens, found.output_tokens)) == (tokens and (tokens, 0))


def test_reply_tells_its_prompt_tokens_and_no_text() -> None:
    """Vectors cost what went in; an error object with a success status is named."""
    body = {"object": "list", "data": [{"embedding": [0.1]}], "usage": {"prompt_tokens": 8, "total_tokens": 8}}
    usage, output_bytes = read_embeddings_reply(json.dumps(body).encode())
    assert usage is not None
    assert (usage.input_tokens, usage.output_tokens, output_bytes) == (8, 0, 0)
    with pytest.raises(ValueError, match="error object"):
        read_embeddings_reply(b'{"error":{"message":"no"},"data":null}')
    with pytest.raises(ValueError, match="not a JSON object"):
        read_embeddings_reply(b"[]")
