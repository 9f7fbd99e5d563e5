"""Rules of the event log: what an event says, what it never says, and what happens when the disk does not keep up."""

from __future__ import annotations

import asyncio
import json
import logging
import threading
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest
from msgspec import structs

from penstock_gateway.attempts.records import AttemptKind, AttemptRecord
from penstock_gateway.decisions import Settlement
from penstock_gateway.errors import Overloaded
from penstock_gateway.events import log as event_log
from penstock_gateway.events.records import CacheNote
from penstock_gateway.events.segments import PATTERN
from penstock_gateway.money.usage import Usage
from penstock_gateway.settings_events import EventSettings
from support.event_samples import (
    ADMITTED_AT,
    COSTS,
    PRINCIPAL,
    SECRET_TEXT,
    SETTLED,
    TENANT,
    log_in,
    note,
    note_one,
    sample_decision,
    sample_request,
)
from support.learning_traffic import eventually

KEY = "0123456789abcdef-pseudonyms"


class Log:
    """An event log in a folder, with what it reported."""

    def __init__(self, folder: Path, **settings: Any) -> None:
        self.folder = folder
        self.drops: list[str] = []
        self.problems: list[str] = []
        self.log = log_in(folder, on_drop=self.drops.append, on_problem=self.problems.append, **settings)

    def events(self) -> list[dict[str, Any]]:
        """Stop the log and return what is on disk."""
        self.log.stop()
        return [json.loads(line) for path in sorted(self.folder.glob(PATTERN)) for line in path.open("rb")]


def _documented(document: str, heading: str, until: str) -> set[str]:
    """Names in the first column of the tables between two texts of docs/events.md."""
    part = document.partition(heading)[2].partition(until)[0]
    rows = [line.split("|")[1] for line in part.splitlines() if line.startswith("| `")]
    return {name.strip(" `") for row in rows for name in row.split(",")}


def test_event_of_each_type_has_every_documented_field(tmp_path: Path, repository_root: Path) -> None:
    """Each type of event, and what is in it, says what docs/events.md says, no more and no less."""
    log = Log(tmp_path, capture_content=True, pseudonym_key=KEY)
    log.log.start()
    assert log.log.admit()
    shadow = sample_decision()
    log.log.note_decision(
        PRINCIPAL, "r", sample_request(), sample_decision(), cache=CacheNote("miss", 0.5), shadow=shadow
    )
    log.log.note_outcome(
        PRINCIPAL, "r", sample_decision(), SETTLED, admitted_at=0.0, cost_picousd=1, attempt_costs=COSTS
    )
    log.log.put_feedback(TENANT, "dec_1", score=1.0, comment="fine")
    log.log.note_audit(TENANT, "dec_2", category="faq", is_right=True, is_steady=None, prompts=("a", "b"))
    decision, outcome, feedback, audit = log.events()
    document = (repository_root / "docs" / "events.md").read_text(encoding="utf-8")
    found = {
        ('## `"type": "decision"`', "Each of `candidates`"): decision,
        ("Each of `candidates`", "`shadow`, in observe mode"): decision["candidates"][0],
        ("`shadow`, in observe mode", '## `"type": "outcome"`'): decision["shadow"],
        ('## `"type": "outcome"`', "`usage`, of the request"): outcome,
        ("`usage`, of the request", "Each of `attempts`"): outcome["usage"],
        ("Each of `attempts`", '## `"type": "feedback"`'): outcome["attempts"][1],
        ('## `"type": "feedback"`', '## `"type": "audit"`'): feedback,
        ('## `"type": "audit"`', "## Sending feedback"): audit,
    }
    for (heading, until), event in found.items():
        assert _documented(document, heading, until) == set(event), heading


def test_decision_event_has_what_explains_the_choice(tmp_path: Path) -> None:
    """Choice, propensity, limits, estimates, cache and shadow are those of the decision."""
    log = Log(tmp_path)
    log.log.start()
    shadow = sample_decision(chosen="gpt", estimated_cost_usd=0.25, artifact_id="sha256:def", category="law")
    log.log.note_decision(
        PRINCIPAL,
        "req_1",
        sample_request(),
        sample_decision(),
        encoder="enc-1",
        cache=CacheNote("miss", 0.875),
        shadow=shadow,
    )
    (event,) = log.events()
    assert (event["schema"], event["type"], event["decision_id"], event["request_id"], event["time"]) == (
        2,
        "decision",
        "dec_1",
        "req_1",
        1_700_000_000.124,
    )
    assert (event["intended_arm"], event["intended_artifact_arm"], event["artifact"], event["encoder"]) == (
        "mini",
        "small-2",
        "sha256:abc",
        "enc-1",
    )
    assert (event["is_explored"], event["propensity"], event["reason"]) == (True, 0.005, "explored")
    assert (event["max_cost_usd"], event["min_quality"], event["floor"]) == (0.01, None, "small")
    assert (event["input_tokens"], event["estimated_cost_usd"], event["baseline_cost_usd"]) == (
        3,
        "0.000000250",
        "0.100000000",
    )
    assert event["cache"] == {"result": "miss", "similarity": 0.875}
    chosen, refused = event["candidates"]
    assert (chosen["quality"], chosen["cost_usd"], chosen["switch_cost_usd"]) == (0.8, "0.000000250", "0.001000000")
    assert (refused["arm"], refused["artifact_arm"], refused["rejected"]) == ("gpt", "frontier-3", "max_cost")
    made = event["shadow"]
    assert (made["arm"], made["artifact_arm"], made["estimated_cost_usd"], made["category"], made["artifact"]) == (
        "gpt",
        "frontier-3",
        "0.250000000",
        "law",
        "sha256:def",
    )


def test_outcome_event_has_the_money_exactly(tmp_path: Path) -> None:
    """Accounts, charge, decimal cost, whole usage and every attempt are on the outcome."""
    log = Log(tmp_path, clock=lambda: 1_700_000_009.0)
    log.log.start()
    note_one(log.log, "dec_1", cost_picousd=180_000_001)
    event = log.events()[1]
    assert (event["schema"], event["type"], event["decision_id"], event["request_id"]) == (
        2,
        "outcome",
        "dec_1",
        "req_dec_1",
    )
    assert (event["time"], event["admitted_at"], event["accounts"]) == (
        1_700_000_009.0,
        ADMITTED_AT,
        ["key:k1", "tag:prod"],
    )
    assert (event["cost_usd"], event["cost_picousd"], event["is_cost_estimated"]) == ("0.00018", 180_000_001, False)
    assert (event["served_arm"], event["served_artifact_arm"], event["status"]) == ("mini", "small-2", 200)
    assert (event["usage"]["input_tokens"], event["usage"]["cached_input_tokens"]) == (12, 5)
    assert (event["duration_ms"], event["overhead_ms"], event["first_byte_ms"]) == (12.346, 0.5, 6.5)
    failed, answered = event["attempts"]
    assert (failed["deployment"], failed["kind"], failed["status"], failed["error_code"], failed["was_sent"]) == (
        "gpt",
        "first",
        503,
        "upstream_error",
        True,
    )
    assert (failed["usage"], failed["cost_usd"], failed["cost_picousd"]) == (None, None, None)
    assert (answered["kind"], answered["cost_usd"], answered["cost_picousd"]) == ("fallback", "0.00018", 180_000_000)


@pytest.mark.parametrize(
    ("settlement", "expected"),
    [
        (Settlement(504, "upstream_timeout", None, None, 1.0, 0.5), (None, None, True, 504, None)),
        (
            Settlement(200, "upstream_timeout", Usage(1, 2, is_estimated=True), None, 1.0, 0.5, "mini"),
            ("mini", None, True, 200, True),
        ),
        (Settlement(502, "upstream_unreachable", None, None, 1.0, 0.5), (None, None, False, 502, None)),
        (
            Settlement(200, None, Usage(1, 2), Decimal("0.1"), 1.0, 0.5, "gpt"),
            ("gpt", "0.1", False, 200, False),
        ),
        (
            Settlement(
                200,
                None,
                Usage(1, 2),
                Decimal("0.1"),
                1.0,
                0.5,
                "gpt",
                (AttemptRecord("gpt", AttemptKind.FIRST, 0.0, usage=Usage(1, 2)),),
                is_cost_estimated=True,
            ),
            ("gpt", "0.1", False, 200, True),
        ),
    ],
)
def test_outcome_event_of_a_failure_keeps_service_and_censoring_apart(
    tmp_path: Path, settlement: Settlement, expected: tuple[object, ...]
) -> None:
    """A time-out is marked as censored, a request that nobody answered has no served arm, estimates are marked."""
    log = Log(tmp_path)
    log.log.start()
    note_one(log.log, "dec_1", settlement=settlement)
    event = log.events()[1]
    found = (event["served_arm"], event["cost_usd"], event["is_timeout"], event["status"], event["is_cost_estimated"])
    assert found == expected


async def test_event_without_capture_holds_no_content_and_no_name(tmp_path: Path) -> None:
    """Neither prompt nor comment nor the tenant's name is on disk, and without a key no hash of the prompt either."""
    log = Log(tmp_path)
    log.log.start()
    note_one(log.log, "dec_1")
    log.log.put_feedback(TENANT, "dec_1", score=0.5, comment=SECRET_TEXT)
    decision, outcome, feedback = log.events()
    written = b"".join(path.read_bytes() for path in tmp_path.glob(PATTERN)).decode()
    for secret in (SECRET_TEXT, "Rumpel", TENANT):
        assert secret not in written
    assert len({event["tenant"] for event in (decision, outcome, feedback)}) == 1
    assert len(decision["tenant"]) == 16
    assert (decision["prompt_hash"], decision["conversation"]) == (None, None)
    assert "prompt" not in decision
    assert "comment" not in feedback


def test_event_with_a_key_has_keyed_pseudonyms(tmp_path: Path) -> None:
    """With a key, tenants and prompts are hashed with it: equal prompts look equal, and nobody can try names."""
    logs = [Log(tmp_path / name, pseudonym_key=key) for name, key in (("a", KEY), ("b", KEY + "2"))]
    for log in logs:
        log.log.start()
        note(log.log, 2)
    (first, _, second, _), (other, *_) = (log.events() for log in logs)
    assert first["prompt_hash"] == second["prompt_hash"] != other["prompt_hash"]
    assert first["conversation"] == second["conversation"] != other["conversation"]
    assert len(first["prompt_hash"]) == 32
    plain = Log(tmp_path / "c")
    plain.log.start()
    note(plain.log, 1)
    assert len({first["tenant"], other["tenant"], plain.events()[0]["tenant"]}) == 3


async def test_event_with_capture_holds_prompt_and_comment_and_warns(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """Capturing content is announced at the start; a prompt beyond the limit is cut and marked."""
    log = Log(tmp_path, capture_content=True)
    with caplog.at_level(logging.WARNING, logger="penstock.events"):
        log.log.start()
    assert [record.getMessage() for record in caplog.records] == ["content_capture_on"]
    log.log.note_decision(PRINCIPAL, "", sample_request(), sample_decision())
    long = structs.replace(sample_request(), routing_text="x" * (event_log.MAX_PROMPT_CHARACTERS + 1))
    log.log.note_decision(PRINCIPAL, "", long, sample_decision())
    log.log.put_feedback(TENANT, "dec_1", score=1.0, rating="up", label="units", comment="fine")
    first, second, third = log.events()
    assert (first["prompt"], first["is_prompt_cut"]) == (SECRET_TEXT, False)
    assert (len(second["prompt"]), second["is_prompt_cut"]) == (event_log.MAX_PROMPT_CHARACTERS, True)
    assert (third["comment"], third["rating"], third["score"], third["label"]) == ("fine", "up", 1.0, "units")


async def test_feedback_that_is_acknowledged_is_on_disk(tmp_path: Path) -> None:
    """When its future is done the line is in the file, before the log is stopped."""
    log = Log(tmp_path)
    log.log.start()
    await asyncio.wait_for(asyncio.wrap_future(log.log.put_feedback(TENANT, "dec_1", score=0.25)), 10)
    (path,) = tmp_path.glob(PATTERN)
    assert json.loads(path.read_bytes())["score"] == 0.25
    log.log.stop()


def test_outcome_that_is_acknowledged_is_on_disk(tmp_path: Path) -> None:
    """The callback comes from the writer's thread after fsync, so whoever settles then finds the outcome there."""
    log = Log(tmp_path)
    seen: list[tuple[str, list[str]]] = []
    is_called = threading.Event()

    def look() -> None:
        lines = [json.loads(line) for path in tmp_path.glob(PATTERN) for line in path.open("rb")]
        seen.append((threading.current_thread().name, [event["decision_id"] for event in lines]))
        is_called.set()

    log.log.start()
    note_one(log.log, "dec_7", on_written=look)
    assert is_called.wait(10)
    assert seen == [("penstock-events", ["dec_7", "dec_7"])]
    log.log.stop()


def test_decision_queue_that_fills_up_drops_detail_first_and_never_an_outcome(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Beyond the first bound decisions go without detail, beyond the second not at all; every outcome is there."""
    monkeypatch.setattr(event_log, "DETAIL_EVENTS", 2)
    monkeypatch.setattr(event_log, "MAX_DECISIONS", 4)
    log = Log(tmp_path, capture_content=True)
    note(log.log, 6)
    log.log.start()
    events = log.events()
    decisions = [event for event in events if event["type"] == "decision"]
    assert log.drops == ["detail", "detail", "decision", "decision"]
    assert [event["decision_id"] for event in decisions] == [f"dec_{number}" for number in range(4)]
    assert [event["is_detail_dropped"] for event in decisions] == [False, False, True, True]
    assert ["candidates" in event and "prompt" in event for event in decisions] == [True, True, False, False]
    outcomes = [event["decision_id"] for event in events if event["type"] == "outcome"]
    assert outcomes == [f"dec_{number}" for number in range(6)]


def test_decision_queue_of_large_events_is_bounded_in_bytes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Long prompts cannot fill the memory: bytes are bounded as well as events."""
    monkeypatch.setattr(event_log, "DETAIL_BYTES", 1)
    monkeypatch.setattr(event_log, "MAX_DECISION_BYTES", 3000)
    log = Log(tmp_path)
    note(log.log, 20)
    assert log.drops[0] == "detail"
    assert log.drops[-1] == "decision"


def test_place_in_the_log_is_taken_until_the_outcome_is_on_disk(tmp_path: Path) -> None:
    """Requests under way and outcomes that wait share the places; who comes to no outcome gives its place back."""
    log = Log(tmp_path, max_waiting=2).log
    assert (log.admit(), log.admit(), log.admit()) == (True, True, False)
    log.release()
    assert log.admit()
    decision = sample_decision()
    log.note_outcome(PRINCIPAL, "", decision, SETTLED, admitted_at=0.0, cost_picousd=1)
    assert not log.admit()  # it waits
    is_written = threading.Event()
    log.note_outcome(PRINCIPAL, "", decision, SETTLED, admitted_at=0.0, cost_picousd=1, on_written=is_written.set)
    log.start()
    assert is_written.wait(10)
    assert log.places == 0
    assert log.admit()
    log.stop()
    assert not log.admit()


def test_place_in_the_log_is_bounded_in_bytes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Every request under way counts as one outcome of usual size, every waiting outcome as its own."""
    monkeypatch.setattr(event_log, "MAX_BYTES", 2 * event_log.PLACE_BYTES)
    log = Log(tmp_path).log
    assert (log.admit(), log.admit(), log.admit()) == (True, True, False)
    log.note_outcome(PRINCIPAL, "", sample_decision(), SETTLED, admitted_at=0.0, cost_picousd=1)
    assert (log.admit(), log.admit()) == (True, False)


def test_feedback_for_a_full_queue_is_refused(tmp_path: Path) -> None:
    """Feedback is never dropped after it was accepted: a log that does not keep up takes none."""
    log = Log(tmp_path, max_waiting=1).log
    assert log.admit()
    with pytest.raises(Overloaded) as caught:
        log.put_feedback(TENANT, "dec_1", score=1.0)
    assert (caught.value.code, caught.value.status, caught.value.headers) == (
        "events_overloaded",
        503,
        {"retry-after": "2"},
    )


class FailingDisk:
    """Refuses every batch until it is repaired."""

    def __init__(self, log: Log, monkeypatch: pytest.MonkeyPatch) -> None:
        self.refusals = 0
        self.has_refused = threading.Event()
        self.is_repaired = threading.Event()
        self._append = log.log._writer.append
        monkeypatch.setattr(event_log, "RETRY_SECONDS", 0.01)
        monkeypatch.setattr(log.log._writer, "append", self.append)

    def append(self, batch: bytes) -> None:
        """Write, or raise what a full disk raises."""
        if not self.is_repaired.is_set():
            self.refusals += 1
            self.has_refused.set()
            raise OSError(28, "No space left on device")
        self._append(batch)


def test_outcome_that_a_full_disk_refuses_keeps_its_place_until_it_is_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """A full disk delays outcomes and then refuses requests, it loses nothing: no callback before, each once after."""
    log = Log(tmp_path, max_waiting=3)
    disk = FailingDisk(log, monkeypatch)
    written: list[str] = []
    log.log.start()
    with caplog.at_level(logging.WARNING, logger="penstock.events"):
        note_one(log.log, "dec_0", on_written=lambda: written.append("dec_0"))
        assert disk.has_refused.wait(10)
        for number in (1, 2):
            note_one(log.log, f"dec_{number}", on_written=lambda n=number: written.append(f"dec_{n}"))
        assert not log.log.admit()
        assert written == []
        disk.is_repaired.set()
        outcomes = [event["decision_id"] for event in log.events() if event["type"] == "outcome"]
    assert outcomes == written == ["dec_0", "dec_1", "dec_2"]
    assert set(log.problems) == {"write_failed"}
    assert log.drops == []
    assert caplog.records[0].getMessage() == "events_write_failed"


def test_outcome_that_cannot_be_written_before_the_end_is_counted_with_its_worth(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """What a dead disk never takes is reported when the process ends, as money, and its callback never comes."""
    log = Log(tmp_path)
    FailingDisk(log, monkeypatch)
    written: list[str] = []
    log.log.start()
    for number in range(3):
        note_one(log.log, f"dec_{number}", on_written=lambda: written.append("never"), cost_picousd=500_000_000_000)
    with caplog.at_level(logging.ERROR, logger="penstock.events"):
        log.log.stop()
        note_one_late(log)
    assert written == []
    assert sorted(log.drops) == ["decision"] * 3 + ["outcome"] * 4
    first, late = caplog.records
    assert first.getMessage() == "events_lost"
    assert (first.__dict__["outcome"], first.__dict__["decision"], first.__dict__["cost_usd"]) == (3, 3, "1.5")
    assert (late.__dict__["outcome"], late.__dict__["cost_usd"]) == (1, "0.000000000001")


def note_one_late(log: Log) -> None:
    """Note an outcome after the log was stopped."""
    log.log.note_outcome(PRINCIPAL, "", sample_decision(), SETTLED, admitted_at=0.0, cost_picousd=1)


def test_callback_that_fails_does_not_stop_the_log(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """A bug of whoever is told that an outcome is on disk is logged; the next outcome is written all the same."""
    log = Log(tmp_path)

    def broken() -> None:
        raise RuntimeError("a bug elsewhere")

    is_written = threading.Event()
    log.log.start()
    with caplog.at_level(logging.ERROR, logger="penstock.events"):
        note_one(log.log, "dec_0", on_written=broken)
        note_one(log.log, "dec_1", on_written=is_written.set)
        assert is_written.wait(10)
    assert log.problems == ["callback_failed"]
    assert caplog.records[0].getMessage() == "events_callback_failed"
    assert len(log.events()) == 4


def test_segment_that_is_old_is_closed_without_another_event(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The writer closes a segment at its age even when nothing more comes, so that it can be compacted and shipped."""
    log = Log(tmp_path, segment_seconds=1.0)
    is_closed = threading.Event()
    monkeypatch.setattr(log.log._writer, "_on_closed", is_closed.set)
    log.log.start()
    note(log.log, 1)
    assert is_closed.wait(20)
    log.log.stop()


def test_event_log_follows_other_limits_while_it_is_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """Places, ages of segments, and what is captured change at once, for the open segment too."""
    log = Log(tmp_path, max_waiting=1).log
    is_closed = threading.Event()
    monkeypatch.setattr(log._writer, "_on_closed", is_closed.set)
    log.start()
    note(log, 1)
    eventually(lambda: True if log.places == 0 and log._writer.seconds_until_due() is not None else None)
    assert (log.admit(), log.admit()) == (True, False)
    settings = {"max_waiting": 3, "segment_seconds": 1.0, "capture_content": True, "feedback_per_minute": 7}
    log.follow(EventSettings(folder=str(tmp_path), **settings))
    assert (log.admit(), log.capture_content, log.feedback_per_minute) == (True, True, 7)
    assert [record.message for record in caplog.records] == ["content_capture_on"]
    assert is_closed.wait(20)
    log.stop()


def test_event_log_after_a_kill_cuts_the_tail_and_says_so(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """The half line of a killed process is cut at the next start, reported, and everything before it stays."""
    old = tmp_path / "events-20260101T000000Z-1-0001.jsonl"
    old.write_bytes(b'{"type":"request"}\n{"type":"req')
    log = Log(tmp_path)
    with caplog.at_level(logging.WARNING, logger="penstock.events"):
        log.log.start()
    note(log.log, 1)
    events = log.events()
    assert [event["type"] for event in events] == ["request", "decision", "outcome"]
    assert old.read_bytes() == b'{"type":"request"}\n'
    assert log.problems == ["tail_cut"]
    (record,) = caplog.records
    assert (record.getMessage(), record.__dict__["file"], record.__dict__["cut_bytes"]) == (
        "events_tail_cut",
        old.name,
        12,
    )
