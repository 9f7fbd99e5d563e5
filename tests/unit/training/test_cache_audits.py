"""Audits of a gateway as pairs to calibrate on: which can be used, and a rule that is calibrated with them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import msgspec
import pytest
from click.testing import CliRunner

from penstock_cache.rule import MANIFEST_FILE, read_manifest
from penstock_training.cache_rule.audits import audit_pairs
from penstock_training.cli import main
from penstock_training.errors import TrainingError
from support.cache_questions import question_quads, write_json_rows


def audit(number: int = 0, **fields: Any) -> dict[str, Any]:
    """Return an event as the gateway writes it."""
    return {
        "schema": 2,
        "type": "audit",
        "audit_id": f"d{number}",
        "time": 1.0,
        "tenant": "0" * 16,
        "category": "faq",
        "is_right": True,
        "is_steady": None,
        "prompt": f"How do I print page {number}?",
        "stored_prompt": f"What is the way to print page {number}?",
        "is_prompt_cut": False,
        **fields,
    }


def segment(folder: Path, events: list[dict[str, Any]]) -> Path:
    """Write a closed segment."""
    folder.mkdir(exist_ok=True)
    (folder / "events-1.jsonl").write_bytes(b"".join(msgspec.json.encode(event) + b"\n" for event in events))
    return folder


def test_audits_become_pairs_and_what_teaches_nothing_is_counted(tmp_path: Path) -> None:
    """Without both prompts, whole, and a model that knows its mind, an audit says nothing about a pair."""
    removed = {name: value for name, value in audit(2).items() if "prompt" not in name}
    events = [
        audit(0),
        audit(1, is_right=False, is_steady=True),
        removed,
        audit(3, is_prompt_cut=True),
        audit(4, is_right=False, is_steady=False),
        audit(5, prompt="a", stored_prompt="a"),
        audit(6, is_right="yes"),
        {"schema": 2, "type": "outcome", "decision_id": "d7", "time": 1.0},
    ]
    pairs, left_out = audit_pairs([segment(tmp_path / "events", events)])
    assert pairs == [
        {
            "a": f"What is the way to print page {number}?",
            "b": f"How do I print page {number}?",
            "same": number == 0,
            "category": "faq",
        }
        for number in (0, 1)
    ]
    assert left_out == {"no_prompts": 1, "prompt_cut": 1, "unsteady": 1, "same_words": 1, "damaged": 1}


def test_events_without_a_usable_audit_are_refused_with_the_reasons(tmp_path: Path) -> None:
    """Whoever left content capture off is told so."""
    events = [{name: value for name, value in audit(1).items() if "prompt" not in name}]
    with pytest.raises(TrainingError, match=r"no_prompts 1.*capture_content") as caught:
        audit_pairs([segment(tmp_path / "events", events)])
    assert caught.value.code == "cache_audits_missing"


def test_calibrate_counts_wrong_audits_against_the_rule(tmp_path: Path) -> None:
    """Pairs that the gateway served and the model contradicted cost a threshold its certificate."""
    quads = question_quads(150)
    texts = write_json_rows(tmp_path / "own.jsonl", quads[:110])
    alike = [
        audit(number, is_right=False, category="general", prompt=quad["a"], stored_prompt=quad["a2"])
        for number, quad in enumerate(quads[110:])
    ]
    found = {}
    for name, events in (("without", None), ("with", segment(tmp_path / "events", alike))):
        out = tmp_path / name
        beside = [] if events is None else ["--events", str(events)]
        result = CliRunner().invoke(
            main, ["cache-calibrate", "--texts", str(texts), *beside, "--out", str(out), "--json"]
        )
        assert result.exit_code == 0, result.output
        points = json.loads(result.output)["points"]
        found[name] = {(point["category"], point["budget"]): point for point in points if point["mode"] == "semantic"}
        assert read_manifest((out / MANIFEST_FILE).read_bytes()).data[0]["texts"] == 440 + (0 if events is None else 80)
    certified = {
        place: point["threshold"] for place, point in found["without"].items() if point["threshold"] is not None
    }
    assert certified
    for place, threshold in certified.items():
        stricter = found["with"][place]["threshold"]
        assert stricter is None or stricter > threshold
