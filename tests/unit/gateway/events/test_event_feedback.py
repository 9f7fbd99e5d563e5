"""Rules of taking feedback: each piece is written once, a decision and a tenant have only so many."""

from __future__ import annotations

import asyncio
import json
from pathlib import Path
from typing import Any

import pytest

from penstock_gateway.errors import Conflict, InvalidRequest, Overloaded, RateLimited
from penstock_gateway.events import log as event_log
from penstock_gateway.events.feedback import MAX_PER_DECISION, Feedback, FeedbackDesk
from penstock_gateway.events.log import EventLog
from penstock_gateway.events.segments import PATTERN
from support.event_samples import TENANT, log_in

UP, DOWN = Feedback(1.0, "up"), Feedback(0.0, "down")


class Desk:
    """A desk with a clock that is set by hand, over a log in a folder."""

    def __init__(self, folder: Path, **settings: Any) -> None:
        self.folder = folder
        self.now = 0.0
        self.log: EventLog = log_in(folder, **settings)
        self.desk = FeedbackDesk(clock=lambda: self.now)

    async def give(self, feedback: Feedback, decision: str = "dec_1", tenant: str = TENANT, **options: Any) -> bool:
        """Give a piece of feedback."""
        return await self.desk.give(self.log, tenant, decision, feedback, **options)

    def written(self) -> list[tuple[str, float]]:
        """Stop the log and return what is on disk."""
        self.log.stop()
        events = [json.loads(line) for path in sorted(self.folder.glob(PATTERN)) for line in path.open("rb")]
        return [(event["decision_id"], event["score"]) for event in events]


async def test_feedback_with_the_same_content_again_is_written_once(tmp_path: Path) -> None:
    """A client that repeats a request changes nothing; a change of mind, and its taking back, are written."""
    desk = Desk(tmp_path)
    desk.log.start()
    assert [await desk.give(piece) for piece in (UP, UP, DOWN, UP)] == [True, False, True, True]
    assert desk.written() == [("dec_1", 1.0), ("dec_1", 0.0), ("dec_1", 1.0)]


async def test_feedback_with_an_idempotency_key_is_written_once_for_the_key(tmp_path: Path) -> None:
    """The key decides, whatever came between; with other content it is a mistake of the client's."""
    desk = Desk(tmp_path)
    desk.log.start()
    assert await desk.give(UP, idempotency_key="a")
    assert await desk.give(DOWN, idempotency_key="b")
    assert not await desk.give(UP, idempotency_key="a")
    assert await desk.give(UP, idempotency_key="c")
    assert await desk.give(UP, "dec_2", idempotency_key="a")
    with pytest.raises(Conflict) as caught:
        await desk.give(DOWN, idempotency_key="a")
    assert caught.value.code == "idempotency_key_reused"
    assert desk.written() == [("dec_1", 1.0), ("dec_1", 0.0), ("dec_1", 1.0), ("dec_2", 1.0)]


async def test_feedback_sent_at_once_from_several_places_is_written_once(tmp_path: Path) -> None:
    """A repetition that overtakes the first one is answered when that is on disk."""
    desk = Desk(tmp_path)
    given = [asyncio.create_task(desk.give(UP)) for _ in range(5)]
    await asyncio.sleep(0)
    assert not any(task.done() for task in given)  # nothing is on disk yet
    desk.log.start()
    assert sorted(await asyncio.gather(*given)) == [False] * 4 + [True]
    assert desk.written() == [("dec_1", 1.0)]


async def test_feedback_whose_client_leaves_or_waits_too_long_is_still_written_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A slow disk is answered by 503; the same piece sent again waits for the first writing."""
    monkeypatch.setattr(event_log, "ACKNOWLEDGE_SECONDS", 0.01)
    desk = Desk(tmp_path)
    with pytest.raises(Overloaded) as caught:
        await desk.give(UP)
    assert caught.value.code == "events_overloaded"
    left = asyncio.create_task(desk.give(DOWN))
    await asyncio.sleep(0)
    left.cancel()
    with pytest.raises(asyncio.CancelledError):
        await left
    monkeypatch.setattr(event_log, "ACKNOWLEDGE_SECONDS", 10.0)
    desk.log.start()
    assert not await desk.give(DOWN)
    assert desk.written() == [("dec_1", 1.0), ("dec_1", 0.0)]


async def test_feedback_for_a_full_log_uses_up_nothing(tmp_path: Path) -> None:
    """Who is told to send it again may."""
    desk = Desk(tmp_path, max_waiting=1, feedback_per_minute=1000)
    desk.log.start()
    assert desk.log.admit()
    for _ in range(MAX_PER_DECISION + 1):
        with pytest.raises(Overloaded):
            await desk.give(UP)
    desk.log.release()
    assert await desk.give(UP)
    desk.log.stop()


async def test_feedback_beyond_a_decisions_share_is_refused(tmp_path: Path) -> None:
    """One decision cannot fill the disk."""
    desk = Desk(tmp_path)
    desk.log.start()
    for number in range(MAX_PER_DECISION):
        assert await desk.give(Feedback(number / 10))
    with pytest.raises(InvalidRequest) as caught:
        await desk.give(Feedback(0.99))
    assert caught.value.code == "too_much_feedback"
    desk.log.stop()


async def test_feedback_faster_than_the_rate_is_refused_until_it_has_refilled(tmp_path: Path) -> None:
    """A tenant has a bucket of a minute's allowance, told when to come back, and takes nothing from another."""
    desk = Desk(tmp_path, feedback_per_minute=3)
    desk.log.start()
    for number in range(3):
        assert await desk.give(UP, f"dec_{number}")
    with pytest.raises(RateLimited) as caught:
        await desk.give(UP, "dec_3")
    assert (caught.value.status, caught.value.code, caught.value.headers) == (
        429,
        "feedback_rate_limited",
        {"retry-after": "20"},
    )
    assert not await desk.give(UP, "dec_0")  # again: nothing is written, so nothing is taken
    assert await desk.give(UP, "dec_9", tenant="another")
    desk.now = 20.0
    assert await desk.give(UP, "dec_3")
    with pytest.raises(RateLimited):
        await desk.give(UP, "dec_4")
    desk.now = 10_000.0
    for number in range(4, 7):
        assert await desk.give(UP, f"dec_{number}")
    with pytest.raises(RateLimited):
        await desk.give(UP, "dec_8")
    desk.log.stop()
