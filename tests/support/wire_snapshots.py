"""Written-down requests, replies and streams of one pair of wire formats, and how a translator is held against them.

A snapshot is a JSON file ``request_….json``, ``reply_….json`` or ``stream_….json`` in the pair's folder. Read `check`.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import msgspec
import pytest

from penstock_gateway.wire.server_sent import events_of
from penstock_gateway.wire.translation import Asked, Translator

FOLDER = Path(__file__).parents[1] / "unit" / "gateway" / "wire" / "snapshots"
KINDS = ("request", "reply", "stream")


def cases(pair: str) -> list[Any]:
    """Return the snapshots of a pair, each named by its file."""
    found = sorted((FOLDER / pair).glob("*.json"))
    assert found, f"no snapshots of {pair}"
    return [pytest.param(path, id=path.stem) for path in found]


def raw_fields(request: dict[str, Any]) -> dict[str, msgspec.Raw]:
    """Return a request as the gateway holds it."""
    return msgspec.json.decode(json.dumps(request).encode(), type=dict[str, msgspec.Raw])


def asked_of(case: dict[str, Any]) -> Asked:
    """Return what a case's reply may depend on."""
    return Asked(raw_fields(case["request"]), "req-1", 1_700_000_000, wants_usage=case.get("wants_usage", True))


def streamed(translator: Translator, case: dict[str, Any]) -> list[Any]:
    """Return the data of all events that a stream becomes; ``[DONE]`` stays text."""
    stream = translator.stream(asked_of(case))
    block = b"".join(stream.feed(*_event(event)) for event in case["events"]) + stream.finish()
    found = []
    for name, data in events_of(block):
        event = data.decode() if data == b"[DONE]" else json.loads(data)
        assert not name or event["type"] == name
        found.append(event)
    return found


def check(translator: Translator, path: Path) -> None:
    """Hold a translator against one snapshot."""
    case = json.loads(path.read_text(encoding="utf-8"))
    kind = path.stem.partition("_")[0]
    assert kind in KINDS
    if kind == "request":
        translated = translator.request(raw_fields(case["request"]))
        sent = {name: json.loads(bytes(value)) for name, value in translated.fields.items()}
        assert sent == case["expected"]
        assert list(translated.dropped) == case["dropped"]
    elif kind == "reply":
        assert json.loads(translator.reply(json.dumps(case["reply"]).encode(), asked_of(case))) == case["expected"]
    else:
        assert streamed(translator, case) == case["expected"]


def _event(event: Any) -> tuple[str, bytes]:
    if event == "[DONE]":
        return "", b"[DONE]"
    name = event.get("type") if isinstance(event, dict) else None
    return name if isinstance(name, str) else "", json.dumps(event).encode()
