"""Chat clients in front of Messages providers, case by case against written-down requests, replies and streams."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import msgspec
import pytest

from penstock_gateway.wire.chat_over_messages import ChatOverMessages
from penstock_gateway.wire.server_sent import events_of
from penstock_gateway.wire.translation import Asked

FOLDER = Path(__file__).parent / "snapshots" / "chat_over_messages"
TRANSLATOR = ChatOverMessages()


def cases(kind: str) -> list[Any]:
    """Return the snapshots of a kind, each named by its file."""
    found = sorted(FOLDER.glob(f"{kind}_*.json"))
    return [pytest.param(json.loads(path.read_text(encoding="utf-8")), id=path.stem) for path in found]


def raw_fields(request: dict[str, Any]) -> dict[str, msgspec.Raw]:
    """Return a request as the gateway holds it."""
    return msgspec.json.decode(json.dumps(request).encode(), type=dict[str, msgspec.Raw])


def asked(case: dict[str, Any]) -> Asked:
    """Return what a case's reply may depend on."""
    return Asked(raw_fields(case["request"]), "req-1", 1_700_000_000, wants_usage=case.get("wants_usage", True))


def test_snapshots_of_every_kind_are_found() -> None:
    """No kind of snapshot is passed over because its folder was not read."""
    assert all(len(cases(kind)) >= minimum for kind, minimum in (("request", 15), ("reply", 6), ("stream", 7)))


@pytest.mark.parametrize("case", cases("request"))
def test_request_of_a_snapshot_becomes_the_expected_one(case: dict[str, Any]) -> None:
    """Each chat request becomes the Messages request written down, and what is lost is named."""
    translated = TRANSLATOR.request(raw_fields(case["request"]))
    sent = {name: json.loads(bytes(value)) for name, value in translated.fields.items()}
    assert sent == case["expected"]
    assert list(translated.dropped) == case["dropped"]


@pytest.mark.parametrize("case", cases("reply"))
def test_reply_of_a_snapshot_becomes_the_expected_completion(case: dict[str, Any]) -> None:
    """Each Message becomes the chat completion written down."""
    assert json.loads(TRANSLATOR.reply(json.dumps(case["reply"]).encode(), asked(case))) == case["expected"]


@pytest.mark.parametrize("case", cases("stream"))
def test_stream_of_a_snapshot_becomes_the_expected_chunks(case: dict[str, Any]) -> None:
    """Each stream of events becomes the chunks written down, and ends as it should."""
    stream = TRANSLATOR.stream(asked(case))
    block = b"".join(stream.feed(event["type"], json.dumps(event).encode()) for event in case["events"])
    chunks = [data.decode() for _, data in events_of(block + stream.finish())]
    assert [chunk if chunk == "[DONE]" else json.loads(chunk) for chunk in chunks] == case["expected"]
