"""Rules of the event log: what an event says, what it never says, and what happens when the disk does not keep up."""

from __future__ import annotations

import json
import logging
import threading
from dataclasses import replace
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest

from penstock_gateway import event_log
from penstock_gateway.decisions import Settlement
from penstock_gateway.errors import Overloaded
from penstock_gateway.event_segments import PATTERN
from penstock_gateway.money.usage import Usage
from support.event_samples import SECRET_TEXT, SETTLED, TENANT, log_in, sample_decision, sample_request


class Log:
    """An event log in a folder, with what it reported."""

    def __init__(self, folder: Path, **settings: Any) -> None:
        self.folder = folder
        self.drops: list[str] = []
        self.problems: list[str] = []
        self.log = log_in(folder, on_drop=self.drops.append, on_problem=self.problems.append, **settings)

    def note(self, **changes: Any) -> None:
        """Note a settled request."""
        self.log.note_request(TENANT, sample_request(), sample_decision(**changes), SETTLED, "mini")

    def events(self) -> list[dict[str, Any]]:
        """Stop the log and return what is on disk."""
        self.log.stop()
        return [json.loads(line) for path in sorted(self.folder.glob(PATTERN)) for line in path.open("rb")]


def test_event_of_a_request_has_every_documented_field(tmp_path: Path, repository_root: Path) -> None:
    """An event says what docs/events.md says, no more and no less."""
    log = Log(tmp_path, capture_content=True)
    log.log.start()
    log.note()
    (event,) = log.events()
    document = (repository_root / "docs" / "events.md").read_text(encoding="utf-8")
    request_part = document.partition('## `"type": "request"`')[2].partition('## `"type": "feedback"`')[0]
    fields, _, candidate_fields = request_part.partition("Each of `candidates`")
    for text, found in ((fields, event), (candidate_fields, event["candidates"][0])):
        rows = [line.split("|")[1] for line in text.splitlines() if line.startswith("| `")]
        documented = {name.strip(" `") for row in rows for name in row.split(",")}
        assert documented == set(found)


def test_event_of_a_request_has_the_decisions_numbers(tmp_path: Path) -> None:
    """Choice, propensity, usage and exact cost are those of decision and settlement."""
    log = Log(tmp_path)
    log.log.start()
    log.note()
    (event,) = log.events()
    assert (event["schema"], event["type"], event["decision_id"], event["time"]) == (
        1,
        "request",
        "dec_1",
        1_700_000_000.124,
    )
    assert (event["intended_arm"], event["served_arm"]) == ("mini", "mini")
    assert (event["intended_artifact_arm"], event["served_artifact_arm"]) == ("small-2", "small-2")
    assert (event["is_explored"], event["propensity"], event["reason"]) == (True, 0.005, "explored")
    assert (event["cost_usd"], event["input_tokens"], event["cached_input_tokens"]) == ("0.00018", 12, 5)
    assert (event["output_tokens"], event["reasoning_tokens"], event["duration_ms"]) == (34, 6, 12.346)
    assert (event["max_cost_usd"], event["min_quality"], event["floor"]) == (0.01, None, "small")
    chosen, refused = event["candidates"]
    assert (chosen["quality"], chosen["cost_usd"], chosen["switch_cost_usd"]) == (0.8, "0.000000250", "0.001000000")
    assert (refused["arm"], refused["artifact_arm"], refused["rejected"]) == ("gpt", "frontier-3", "max_cost")


@pytest.mark.parametrize(
    ("settlement", "served", "expected"),
    [
        (Settlement(504, "upstream_timeout", None, None, 1.0, 0.5), None, (None, None, True, 504)),
        (
            Settlement(200, "upstream_timeout", Usage(1, 2, is_estimated=True), None, 1.0, 0.5),
            "mini",
            ("mini", None, True, 200),
        ),
        (Settlement(502, "upstream_unreachable", None, None, 1.0, 0.5), None, (None, None, False, 502)),
        (Settlement(200, None, Usage(1, 2), Decimal("0.1"), 1.0, 0.5), "gpt", ("gpt", "0.1", False, 200)),
    ],
)
def test_event_of_a_failure_keeps_intention_and_service_apart(
    tmp_path: Path, settlement: Settlement, served: str | None, expected: tuple[object, ...]
) -> None:
    """A time-out is marked as censored; after a fallback the served arm is another than the intended one."""
    log = Log(tmp_path)
    log.log.start()
    log.log.note_request(TENANT, sample_request(), sample_decision(), settlement, served)
    (event,) = log.events()
    assert event["intended_arm"] == "mini"
    assert (event["served_arm"], event["cost_usd"], event["is_timeout"], event["status"]) == expected


async def test_event_without_capture_holds_no_content_and_no_name(tmp_path: Path) -> None:
    """Neither prompt nor comment nor the tenant's name is on disk, and there is no warning."""
    log = Log(tmp_path)
    log.log.start()
    log.note()
    await log.log.note_feedback(TENANT, "dec_1", score=0.5, rating=None, comment=SECRET_TEXT)
    first, second = log.events()
    written = b"".join(path.read_bytes() for path in tmp_path.glob(PATTERN)).decode()
    for secret in (SECRET_TEXT, "Rumpel", TENANT):
        assert secret not in written
    assert first["tenant"] == second["tenant"]
    assert len(first["tenant"]) == 16
    assert "prompt" not in first
    assert "comment" not in second


async def test_event_with_capture_holds_prompt_and_comment_and_warns(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """Capturing content is announced at the start; a prompt beyond the limit is cut and marked."""
    log = Log(tmp_path, capture_content=True)
    with caplog.at_level(logging.WARNING, logger="penstock.events"):
        log.log.start()
    assert [record.getMessage() for record in caplog.records] == ["content_capture_on"]
    log.note()
    long = replace(sample_request(), routing_text="x" * (event_log.MAX_PROMPT_CHARACTERS + 1))
    log.log.note_request(TENANT, long, sample_decision(), SETTLED, "mini")
    await log.log.note_feedback(TENANT, "dec_1", score=1.0, rating="up", comment="fine")
    first, second, third = log.events()
    assert (first["prompt"], first["is_prompt_cut"]) == (SECRET_TEXT, False)
    assert (len(second["prompt"]), second["is_prompt_cut"]) == (event_log.MAX_PROMPT_CHARACTERS, True)
    assert (third["comment"], third["rating"], third["score"], third["type"]) == ("fine", "up", 1.0, "feedback")


async def test_feedback_that_is_acknowledged_is_on_disk(tmp_path: Path) -> None:
    """When the call returns the line is in the file, before the log is stopped."""
    log = Log(tmp_path)
    log.log.start()
    await log.log.note_feedback(TENANT, "dec_1", score=0.25, rating=None, comment=None)
    (path,) = tmp_path.glob(PATTERN)
    assert json.loads(path.read_bytes())["score"] == 0.25
    log.log.stop()


def test_event_queue_that_fills_up_drops_detail_first_and_counts(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Beyond the first bound events go without detail, beyond the second not at all; both are counted."""
    monkeypatch.setattr(event_log, "DETAIL_EVENTS", 2)
    monkeypatch.setattr(event_log, "MAX_EVENTS", 4)
    log = Log(tmp_path, capture_content=True)
    for number in range(6):
        log.note(id=f"dec_{number}")
    log.log.start()
    events = log.events()
    assert log.drops == ["detail", "detail", "event", "event"]
    assert [event["decision_id"] for event in events] == [f"dec_{number}" for number in range(4)]
    assert [event["is_detail_dropped"] for event in events] == [False, False, True, True]
    assert ["candidates" in event and "prompt" in event for event in events] == [True, True, False, False]


def test_event_queue_of_large_events_is_bounded_in_bytes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Long prompts cannot fill the memory: bytes are bounded as well as events."""
    monkeypatch.setattr(event_log, "DETAIL_BYTES", 1)
    monkeypatch.setattr(event_log, "MAX_BYTES", 3000)
    log = Log(tmp_path)
    for _ in range(20):
        log.note()
    assert log.drops[0] == "detail"
    assert log.drops[-1] == "event"


async def test_feedback_for_a_full_queue_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Feedback is never dropped after it was accepted: a log that does not keep up takes none."""
    monkeypatch.setattr(event_log, "MAX_EVENTS", 0)
    with pytest.raises(Overloaded) as caught:
        await Log(tmp_path).log.note_feedback(TENANT, "dec_1", score=1.0, rating=None, comment=None)
    assert (caught.value.code, caught.value.status) == ("events_overloaded", 503)


async def test_feedback_that_the_disk_does_not_take_in_time_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nothing on a request's path can hang: after the deadline the client is told to send it again."""
    monkeypatch.setattr(event_log, "ACKNOWLEDGE_SECONDS", 0.01)
    with pytest.raises(Overloaded):  # never started, so nothing is written
        await Log(tmp_path).log.note_feedback(TENANT, "dec_1", score=1.0, rating=None, comment=None)


def test_event_that_the_disk_refuses_is_tried_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """A full disk delays events, it does not lose them; the problem is counted and logged."""
    monkeypatch.setattr(event_log, "RETRY_SECONDS", 0.01)
    log = Log(tmp_path)
    append, has_failed = log.log._writer.append, threading.Event()

    def failing(batch: bytes) -> None:
        if not has_failed.is_set():
            has_failed.set()
            raise OSError(28, "No space left on device")
        append(batch)

    monkeypatch.setattr(log.log._writer, "append", failing)
    log.log.start()
    with caplog.at_level(logging.WARNING, logger="penstock.events"):
        log.note()
        assert has_failed.wait(10)
        assert len(log.events()) == 1
    assert log.problems == ["write_failed"]
    assert caplog.records[-1].getMessage() == "events_write_failed"


def test_event_log_after_a_kill_cuts_the_tail_and_says_so(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """The half line of a killed process is cut at the next start, reported, and everything before it stays."""
    old = tmp_path / "events-20260101T000000Z-1-0001.jsonl"
    old.write_bytes(b'{"type":"request"}\n{"type":"req')
    log = Log(tmp_path)
    with caplog.at_level(logging.WARNING, logger="penstock.events"):
        log.log.start()
    log.note()
    events = log.events()
    assert [event["type"] for event in events] == ["request", "request"]
    assert old.read_bytes() == b'{"type":"request"}\n'
    assert log.problems == ["tail_cut"]
    (record,) = caplog.records
    assert (record.getMessage(), record.__dict__["file"], record.__dict__["cut_bytes"]) == (
        "events_tail_cut",
        old.name,
        12,
    )
