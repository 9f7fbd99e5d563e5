"""Responses clients in front of chat providers, case by case against written-down requests, replies and streams."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from penstock_gateway.wire.responses_over_chat import ResponsesOverChat
from penstock_gateway.wire.server_sent import events_of
from support.wire_snapshots import asked_of, cases, check

TRANSLATOR = ResponsesOverChat()


def streams() -> list[Any]:
    """Return the snapshots of streams: chunks in, events with names and numbers out."""
    return [case for case in cases("responses_over_chat") if case.id.startswith("stream_")]


def others() -> list[Any]:
    """Return the snapshots of requests and replies."""
    return [case for case in cases("responses_over_chat") if not case.id.startswith("stream_")]


def events_from(case: dict[str, Any]) -> list[tuple[str, dict[str, Any]]]:
    """Return name and data of each event that a case's chunks become."""
    stream = TRANSLATOR.stream(asked_of(case))
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
    assert len(others()) >= 26
    assert len(streams()) >= 9


@pytest.mark.parametrize("path", others())
def test_snapshot_becomes_what_is_written_down(path: Path) -> None:
    """Each request becomes the chat request, each completion the response object, and what is lost is named."""
    check(TRANSLATOR, path)


@pytest.mark.parametrize("path", streams())
def test_stream_of_a_snapshot_becomes_the_expected_events(path: Path) -> None:
    """Each stream of chunks becomes the events written down, named and numbered from 0."""
    case = json.loads(path.read_text(encoding="utf-8"))
    events = events_from(case)
    assert len(events) == len(case["expected"])
    assert [as_far_as(wanted, event) for wanted, (_, event) in zip(case["expected"], events, strict=True)] == case[
        "expected"
    ]
    assert [name for name, _ in events] == [event["type"] for _, event in events]
    assert [event["sequence_number"] for _, event in events] == list(range(len(events)))
