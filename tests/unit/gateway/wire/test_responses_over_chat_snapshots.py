"""Responses clients in front of chat providers, case by case against written-down requests, replies and streams."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import msgspec
import pytest

from penstock_gateway.wire.responses_over_chat import ResponsesOverChat
from penstock_gateway.wire.server_sent import events_of
from penstock_gateway.wire.translation import Asked

FOLDER = Path(__file__).parent / "snapshots" / "responses_over_chat"
TRANSLATOR = ResponsesOverChat()


def cases(kind: str) -> list[Any]:
    """Return the snapshots of a kind, each named by its file."""
    found = sorted(FOLDER.glob(f"{kind}_*.json"))
    return [pytest.param(json.loads(path.read_text(encoding="utf-8")), id=path.stem) for path in found]


def raw_fields(request: dict[str, Any]) -> dict[str, msgspec.Raw]:
    """Return a request as the gateway holds it."""
    return msgspec.json.decode(json.dumps(request).encode(), type=dict[str, msgspec.Raw])


def asked(case: dict[str, Any]) -> Asked:
    """Return what a case's reply may depend on."""
    return Asked(raw_fields(case["request"]), "dec_1", 1_700_000_000)


def events_from(case: dict[str, Any]) -> list[tuple[str, dict[str, Any]]]:
    """Return name and data of each event that a case's chunks become."""
    stream = TRANSLATOR.stream(asked(case))
    data = [json.dumps(chunk).encode() for chunk in case["chunks"]]
    if case["ends_with_done"]:
        data.append(b"[DONE]")
    block = b"".join(stream.feed("", chunk) for chunk in data) + stream.finish()
    return [(name, json.loads(event)) for name, event in events_of(block)]


def as_far_as(expected: dict[str, Any], event: dict[str, Any]) -> dict[str, Any]:
    """Return an event without its number, its response only with the members that are expected."""
    shown = {name: value for name, value in event.items() if name != "sequence_number"}
    if "response" in expected and "response" in shown:
        shown["response"] = {name: shown["response"].get(name) for name in expected["response"]}
    return shown


def test_snapshots_of_every_kind_are_found() -> None:
    """No kind of snapshot is passed over because its folder was not read."""
    assert all(len(cases(kind)) >= minimum for kind, minimum in (("request", 15), ("reply", 11), ("stream", 9)))


@pytest.mark.parametrize("case", cases("request"))
def test_request_of_a_snapshot_becomes_the_expected_one(case: dict[str, Any]) -> None:
    """Each Responses request becomes the chat request written down, and what is lost is named."""
    translated = TRANSLATOR.request(raw_fields(case["request"]))
    sent = {name: json.loads(bytes(value)) for name, value in translated.fields.items()}
    assert sent == case["expected"]
    assert list(translated.dropped) == case["dropped"]


@pytest.mark.parametrize("case", cases("reply"))
def test_reply_of_a_snapshot_becomes_the_expected_response(case: dict[str, Any]) -> None:
    """Each chat completion becomes the response object written down."""
    assert json.loads(TRANSLATOR.reply(json.dumps(case["reply"]).encode(), asked(case))) == case["expected"]


@pytest.mark.parametrize("case", cases("stream"))
def test_stream_of_a_snapshot_becomes_the_expected_events(case: dict[str, Any]) -> None:
    """Each stream of chunks becomes the events written down, named and numbered from 0."""
    events = events_from(case)
    assert len(events) == len(case["expected"])
    assert [as_far_as(wanted, event) for wanted, (_, event) in zip(case["expected"], events, strict=True)] == case[
        "expected"
    ]
    assert [name for name, _ in events] == [event["type"] for _, event in events]
    assert [event["sequence_number"] for _, event in events] == list(range(len(events)))
