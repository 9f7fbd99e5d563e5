"""Requests without a chat form: what the gateway knows of them nevertheless."""

from __future__ import annotations

import json
from typing import Any

import pytest

from penstock_gateway.wire.formats import WireFormat
from penstock_gateway.wire.requests import parse_request
from penstock_routers.token_counts import estimate_tokens

TEXT = "Some words of a long prompt. " * 1000
TOKENS = estimate_tokens(len(TEXT))
UPLOAD = {"type": "container_upload", "file_id": "file_1"}
SHELL = {"type": "local_shell_call", "call_id": "c", "action": {"command": ["ls"]}}
MESSAGES, RESPONSES, COMPLETIONS = WireFormat.MESSAGES, WireFormat.RESPONSES, WireFormat.COMPLETIONS


def said(*blocks: dict[str, Any], **fields: Any) -> dict[str, Any]:
    """Return a Messages request whose user says these blocks, one of which no chat provider could take."""
    return {"max_tokens": 9, "messages": [{"role": "user", "content": [UPLOAD, *blocks]}], **fields}


def tokens_of(front: WireFormat, fields: dict[str, Any]) -> int:
    """Return the estimated prompt tokens of a request that has no chat form."""
    request = parse_request(front, json.dumps({"model": "m", **fields}).encode())
    assert request.native is not None
    assert request.native.obstacle is not None
    return request.input_tokens


@pytest.mark.parametrize(
    ("front", "fields", "texts"),
    [
        (MESSAGES, said({"type": "text", "text": TEXT}), 1),
        (MESSAGES, said({"type": "text", "text": TEXT}, system=TEXT, tools=[{"description": TEXT}]), 3),
        (MESSAGES, said({"type": "document", "source": {"type": "text", "media_type": "text/plain", "data": TEXT}}), 1),
        (RESPONSES, {"instructions": TEXT, "input": [{"role": "user", "content": TEXT}, SHELL]}, 2),
        (RESPONSES, {"input": [{"role": "user", "content": TEXT}, SHELL], "previous_response_id": "resp_1"}, 1),
        (COMPLETIONS, {"prompt": [TEXT, TEXT]}, 2),
        (COMPLETIONS, {"prompt": TEXT, "echo": True}, 1),
        (COMPLETIONS, {"prompt": [[5] * TOKENS, [6] * TOKENS]}, 2),
    ],
)
def test_prompt_without_a_chat_form_is_counted_all_the_same(
    front: WireFormat, fields: dict[str, Any], texts: int
) -> None:
    """Limits and holds go by the estimate, and what a client has cancelled is paid by it: 4 tokens are no prompt."""
    assert tokens_of(front, fields) == pytest.approx(texts * TOKENS, rel=0.02)  # the names of kinds and roles


@pytest.mark.parametrize(
    "block",
    [
        {"type": "image", "source": {"type": "base64", "media_type": "image/png", "data": TEXT}},
        {"type": "thinking", "thinking": "", "signature": TEXT},
    ],
)
def test_prompt_without_a_chat_form_is_not_counted_by_what_is_no_text(block: dict[str, Any]) -> None:
    """Pictures, files and sealed reasoning are as long as they are for other reasons."""
    assert tokens_of(MESSAGES, said(block)) < TOKENS / 2


def test_prompt_without_a_chat_form_that_cannot_be_decoded_is_counted_by_its_length() -> None:
    """Its provider may read what Python cannot, so it is passed on, and not for nothing."""
    tools = f"[1e999{' ' * 10_000}]"
    content = json.dumps([UPLOAD])
    body = f'{{"model":"m","max_tokens":9,"messages":[{{"role":"user","content":{content}}}],"tools":{tools}}}'
    assert parse_request(MESSAGES, body.encode()).input_tokens >= estimate_tokens(10_000)
