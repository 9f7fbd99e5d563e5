"""What of a request may reach litellm."""

from __future__ import annotations

from typing import Any

import pytest

from penstock_gateway.upstream.litellm_request import (
    CHAT_ARGUMENTS,
    has_remote_media,
    is_reserved,
    split_body,
    takes_extra_body,
)

OWNED = frozenset({"metadata", "timeout", "fallbacks", "tags"})


def test_split_chat_parameters_become_arguments() -> None:
    """The chat parameters are passed under their own names, those that are null are left out."""
    body = {"messages": [], "temperature": 0.5, "tools": [], "top_p": None}
    assert split_body(body, OWNED) == ({"messages": [], "temperature": 0.5, "tools": []}, {})


def test_split_unknown_fields_go_to_the_provider() -> None:
    """What neither we nor litellm know may mean something to the provider."""
    body = {"min_p": 0.5, "chat_template_kwargs": {"enable_thinking": False}, "guided_json": {}}
    assert split_body(body, OWNED) == ({}, body)


def test_split_metadata_goes_to_the_provider_although_litellm_owns_the_name() -> None:
    """For a client, metadata is a field of the chat API."""
    assert split_body({"metadata": {"a": "b"}}, OWNED) == ({}, {"metadata": {"a": "b"}})


def test_split_model_and_stream_are_never_the_clients() -> None:
    """Model and streaming are set from the deployment and the request."""
    assert split_body({"model": "other", "stream": True, "stream_options": {}}, OWNED) == ({}, {})


@pytest.mark.parametrize(
    "name",
    [
        *sorted(OWNED - {"metadata"}),
        "API_BASE",
        "api_key",
        "apikey",
        "my_api_key",
        "base_url",
        "aws_secret_access_key",
        "AWS_bedrock_runtime_endpoint",
        "azure_ad_token",
        "vertex_credentials",
        "client_secret",
        "custom_endpoint",
        "deployment_url",
        "token",
        "url",
        "headers",
        "extra_headers",
        "extra_body",
        "mock_response",
        "litellm_params",
        "_skip_mcp_handler",
        "oci_key_file",
        "wx_credentials",
    ],
)
def test_split_reserved_name_is_dropped(name: str) -> None:
    """A name that could mean host, credential, provider, retries or a mock reaches neither place."""
    assert split_body({name: "hostile"}, OWNED) == ({}, {})


def test_reserved_names_leave_the_chat_parameters_alone() -> None:
    """No rule for reserved names catches a chat parameter by accident, or the parameter could never be sent."""
    arguments, _ = split_body(dict.fromkeys(CHAT_ARGUMENTS, 1), OWNED)
    assert arguments.keys() == CHAT_ARGUMENTS


@pytest.mark.parametrize(
    "name", ["top_k", "min_p", "repetition_penalty", "safety_settings", "provider", "max_thinking_tokens"]
)
def test_reserved_rules_leave_common_provider_fields_alone(name: str) -> None:
    """Sampling and routing fields of providers are not mistaken for control names."""
    assert not is_reserved(name, OWNED)


def message(part: dict[str, Any]) -> list[dict[str, Any]]:
    return [{"role": "user", "content": [{"type": "text", "text": "Look:"}, part]}]


@pytest.mark.parametrize(
    "part",
    [
        {"type": "image_url", "image_url": {"url": "https://example.com/a.png"}},
        {"type": "image_url", "image_url": {"url": "HTTP://127.0.0.1/a.png", "detail": "high"}},
        {"type": "image_url", "image_url": " https://example.com/a.png"},
        {"type": "image_url", "image_url": {"url": "file:///etc/passwd"}},
        {"type": "image_url", "image_url": {"url": "/etc/passwd"}},
        {"type": "image_url", "image_url": {"url": "//example.com/a.png"}},
        {"type": "image_url", "image_url": {"url": "gs://bucket/a.png"}},
        {"type": "video_url", "video_url": {"url": "https://example.com/a.mp4"}},
        {"type": "file", "file": {"file_id": "https://example.com/a.pdf"}},
        {"type": "file", "file": {"file_data": "http://example.com/a.pdf"}},
        {"type": "document", "source": {"type": "url", "url": "https://example.com/a.pdf"}},
        {"type": "tool_result", "content": [{"type": "image", "source": {"url": "http://10.0.0.1/"}}]},
        {"type": "text", "text": "x", "image_url": "http://10.0.0.1/"},
    ],
)
def test_media_by_reference_is_remote(part: dict[str, Any]) -> None:
    """A part that points somewhere is recognised in every place where it can point."""
    assert has_remote_media(message(part))


@pytest.mark.parametrize(
    "part",
    [
        {"type": "image_url", "image_url": {"url": "data:image/png;base64,iVBORw0KGgo="}},
        {"type": "image_url", "image_url": "data:image/png;base64,iVBORw0KGgo="},
        {"type": "input_audio", "input_audio": {"data": "UklGRg==", "format": "wav"}},
        {"type": "file", "file": {"file_id": "file-abc123"}},
        {"type": "file", "file": {"file_data": "data:application/pdf;base64,JVBERi0=", "filename": "a.pdf"}},
        {"type": "text", "text": "https://example.com/ is a nice page", "cache_control": {"type": "ephemeral"}},
        {"type": "thinking", "thinking": "http://example.com/ was mentioned", "signature": "x"},
        {"type": "tool_result", "content": [{"type": "text", "text": "http://10.0.0.1/"}]},
    ],
)
def test_media_in_the_request_itself_is_not_remote(part: dict[str, Any]) -> None:
    """Bytes, ids and words that mention a URL are fine."""
    assert not has_remote_media(message(part))


@pytest.mark.parametrize(
    "messages", [None, "text", 7, [None], [{"content": "http://example.com"}], [{"content": [7, None]}]]
)
def test_media_in_a_malformed_conversation_is_none(messages: object) -> None:
    """Malformed messages are somebody else's error, and plain text is no media."""
    assert not has_remote_media(messages)


@pytest.mark.parametrize(
    ("model", "expected"),
    [
        ("openai/gpt-4o", True),
        ("gpt-4o", True),
        ("openrouter/anthropic/claude-sonnet", True),
        ("gemini/gemini-pro", True),
        ("vertex_ai/gemini-pro", True),
        ("anthropic/claude-sonnet", False),
        ("bedrock/converse/amazon.nova-pro", False),
        ("vertex_ai/claude-sonnet", False),
    ],
)
def test_extra_body_goes_only_where_it_is_merged(model: str, expected: bool) -> None:
    """Where litellm would send a field named extra_body, the provider would refuse the request."""
    assert takes_extra_body(model) is expected
