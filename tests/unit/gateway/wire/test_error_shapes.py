"""Errors arrive in the shape of the client's format, whoever made them."""

from __future__ import annotations

import json

import pytest

from penstock_gateway.errors import InvalidRequest, Overloaded, QuotaExceeded
from penstock_gateway.wire.error_shapes import (
    anthropic_type,
    format_of_path,
    shaped_error,
    shaped_event,
    shaped_provider_error,
)
from penstock_gateway.wire.formats import WireFormat
from penstock_gateway.wire.server_sent import events_of

ERROR = InvalidRequest("'n' must be 1.", code="not_translatable", param="n", headers={"x-request-id": "req-7"})


def test_own_error_has_openais_shape_for_every_format_but_messages() -> None:
    """Message, type, param and code, as OpenAI's clients read them."""
    for front in WireFormat:
        if front is not WireFormat.MESSAGES:
            shown = json.loads(shaped_error(front, ERROR))["error"]
            assert shown == {
                "message": "'n' must be 1.",
                "type": "invalid_request_error",
                "param": "n",
                "code": "not_translatable",
            }


def test_own_error_has_anthropics_shape_for_messages() -> None:
    """A type that Anthropic's clients know, our stable code beside it, and the request's id."""
    assert json.loads(shaped_error(WireFormat.MESSAGES, ERROR)) == {
        "type": "error",
        "error": {
            "type": "invalid_request_error",
            "message": "'n' must be 1.",
            "code": "not_translatable",
            "param": "n",
        },
        "request_id": "req-7",
    }
    overloaded = json.loads(shaped_error(WireFormat.MESSAGES, Overloaded("Later.")))
    assert overloaded["error"]["type"] == "overloaded_error"
    assert json.loads(shaped_error(WireFormat.MESSAGES, QuotaExceeded("No.")))["error"]["type"] == "rate_limit_error"


@pytest.mark.parametrize(
    ("front", "name"), [(WireFormat.CHAT, ""), (WireFormat.MESSAGES, "error"), (WireFormat.RESPONSES, "error")]
)
def test_error_in_a_stream_is_an_event_of_the_format(front: WireFormat, name: str) -> None:
    """One event, named as the format's clients expect it, with the code in it."""
    ((found, data),) = events_of(shaped_event(front, ERROR, 4))
    assert found == name
    event = json.loads(data)
    assert "not_translatable" in (event.get("code"), event.get("error", {}).get("code"))
    if front is WireFormat.RESPONSES:
        assert (event["type"], event["sequence_number"]) == ("error", 4)


def test_providers_error_changes_its_shape_and_keeps_its_words() -> None:
    """The message stays, the type becomes one that the client knows; what is no error object stays as it is."""
    anthropic = b'{"type":"error","error":{"type":"overloaded_error","message":"Overloaded"}}'
    shown = json.loads(shaped_provider_error(WireFormat.CHAT, WireFormat.MESSAGES, 529, anthropic))
    assert shown["error"] == {
        "message": "Overloaded",
        "type": "server_error",
        "param": None,
        "code": "overloaded_error",
    }
    openai = b'{"error":{"message":"Too long","type":"invalid_request_error","code":"context_length_exceeded"}}'
    shown = json.loads(shaped_provider_error(WireFormat.MESSAGES, WireFormat.CHAT, 400, openai))
    assert shown["error"] == {
        "type": "invalid_request_error",
        "message": "Too long",
        "code": "context_length_exceeded",
    }
    for body in (b"<html>", b'{"error":"no"}', b"[]"):
        assert shaped_provider_error(WireFormat.MESSAGES, WireFormat.CHAT, 500, body) == body
    assert shaped_provider_error(WireFormat.RESPONSES, WireFormat.CHAT, 400, openai) == openai


@pytest.mark.parametrize(
    ("code", "kind", "expected"),
    [("429", "rate_limited", "429"), (429, "rate_limited", "rate_limited"), (429, None, None), ([], {}, None)],
)
def test_providers_error_with_an_odd_code_keeps_what_is_text(code: object, kind: object, expected: str | None) -> None:
    """Some providers put a number into ``code``; clients expect a text or nothing."""
    body = json.dumps({"error": {"message": "Slow down", "code": code, "type": kind}}).encode()
    for front, back in ((WireFormat.MESSAGES, WireFormat.CHAT), (WireFormat.CHAT, WireFormat.MESSAGES)):
        assert json.loads(shaped_provider_error(front, back, 429, body))["error"]["code"] == expected


@pytest.mark.parametrize(
    ("status", "word"),
    [
        (400, "invalid_request_error"),
        (401, "authentication_error"),
        (403, "permission_error"),
        (404, "not_found_error"),
        (405, "invalid_request_error"),
        (413, "request_too_large"),
        (415, "invalid_request_error"),
        (429, "rate_limit_error"),
        (500, "api_error"),
        (502, "api_error"),
        (503, "overloaded_error"),
        (504, "timeout_error"),
        (529, "overloaded_error"),
    ],
)
def test_anthropic_type_follows_the_status(status: int, word: str) -> None:
    """The words of platform.claude.com/docs/en/api/errors."""
    assert anthropic_type(status) == word


def test_paths_of_messages_show_errors_in_anthropics_shape() -> None:
    """Counting tokens is Anthropic's too; everything else is OpenAI's."""
    assert format_of_path("/v1/messages/count_tokens") is WireFormat.MESSAGES
    assert format_of_path("/v1/responses") is WireFormat.CHAT
