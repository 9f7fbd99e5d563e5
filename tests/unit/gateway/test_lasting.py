"""Parts outlive the configuration that made them for as long as somebody uses them, and are closed once."""

from __future__ import annotations

import asyncio

import pytest
from hypothesis import given
from hypothesis import strategies as st

from penstock_gateway.lasting import Hold, Lasting


class Parts:
    """Makes named parts, and notes what is closed."""

    def __init__(self) -> None:
        self.made: list[str] = []
        self.closed: list[str] = []

    def make(self, name: str) -> str:
        """Make a part that no other equals."""
        self.made.append(f"{name}#{len(self.made)}")
        return self.made[-1]

    async def close(self, part: str) -> None:
        """Note it."""
        self.closed.append(part)

    def of(self, hold: Hold, name: str, key: object) -> str:
        """Return a part of a hold."""
        return hold.part(name, key, lambda: self.make(name), self.close)


async def test_kept_part_is_made_once_and_closed_last_in_reverse_order() -> None:
    """What a process has once is closed when it stops, the newest first."""
    parts, lasting = Parts(), Lasting()
    books = lasting.keep("books", lambda: parts.make("books"), parts.close)
    log = lasting.keep("log", lambda: parts.make("log"), parts.close)
    assert lasting.keep("books", lambda: parts.make("books"), parts.close) is books
    await lasting.aclose()
    await lasting.aclose()
    assert parts.closed == [log, books]


async def test_kept_part_that_is_made_in_the_loop_is_made_once_and_not_at_all_when_that_fails() -> None:
    """What could not be made is tried again by the next configuration."""
    parts, lasting = Parts(), Lasting()

    async def fail() -> str:
        raise OSError("away")

    async def make() -> str:
        return parts.make("books")

    with pytest.raises(OSError, match="away"):
        await lasting.keep_started("books", fail, parts.close)
    made = await lasting.keep_started("books", make, parts.close)
    assert await lasting.keep_started("books", fail, parts.close) is made
    await lasting.aclose()
    assert parts.closed == [made]


async def test_part_with_an_equal_key_is_taken_over_and_closed_after_its_last_holder() -> None:
    """An unchanged part survives the configuration that made it."""
    parts, lasting = Parts(), Lasting()
    first, second = lasting.hold(), lasting.hold()
    made = parts.of(first, "encoder", ("folder", "cpu"))
    assert parts.of(second, "encoder", ("folder", "cpu")) is made
    await first.release()
    assert parts.closed == []
    await second.release()
    await second.release()
    assert parts.closed == [made]


async def test_part_with_another_key_is_made_anew_beside_the_old_one() -> None:
    """A changed part is a new one; the old one serves the requests that are still under way."""
    parts, lasting = Parts(), Lasting()
    first, second = lasting.hold(), lasting.hold()
    old, new = parts.of(first, "encoder", 1), parts.of(second, "encoder", 2)
    assert old != new
    await first.release()
    assert parts.closed == [old]
    await second.release()


async def test_part_that_is_made_in_the_loop_is_shared_alike() -> None:
    """A part whose making has to be awaited is taken over like any other."""
    parts, lasting = Parts(), Lasting()

    async def make() -> str:
        return parts.make("cache")

    holds = [lasting.hold() for _ in range(3)]
    made = {await hold.started_part("cache", "same", make, parts.close) for hold in holds}
    assert len(made) == 1
    for hold in holds:
        await hold.release()
    assert parts.closed == list(made)


async def test_part_whose_closing_fails_keeps_no_other_open(caplog: pytest.LogCaptureFixture) -> None:
    """What cannot be closed is logged; the rest is closed all the same."""
    parts, lasting = Parts(), Lasting()

    async def fail(_: str) -> None:
        raise OSError("stuck")

    hold = lasting.hold()
    parts.of(hold, "first", 0)
    hold.part("second", 0, lambda: "second", fail)
    await hold.release()
    assert parts.closed == parts.made
    assert "part_not_closed" in caplog.text


async def test_part_that_cannot_be_made_leaves_nothing_held() -> None:
    """A configuration whose part fails lets go of those that it had, and disturbs nobody."""
    parts, lasting = Parts(), Lasting()
    running, refused = lasting.hold(), lasting.hold()
    shared = parts.of(running, "encoder", 1)
    parts.of(refused, "encoder", 1)
    with pytest.raises(ZeroDivisionError):
        refused.part("other", 1, lambda: 1 // 0)
    await refused.release()
    assert parts.closed == []
    await running.release()
    assert parts.closed == [shared]


@given(st.lists(st.tuples(st.integers(0, 3), st.integers(0, 2)), max_size=60))
async def test_parts_after_any_sequence_of_reloads_are_closed_exactly_once(reloads: list[tuple[int, int]]) -> None:
    """However configurations follow each other, each part is closed once, and never while it is held."""
    parts, lasting = Parts(), Lasting()
    holds: list[tuple[Hold, set[str]]] = []
    for one, other in reloads:
        hold = lasting.hold()
        holds.append((hold, {parts.of(hold, "one", one), parts.of(hold, "other", other)}))
        if len(holds) > 2:
            await holds.pop(0)[0].release()
        assert not {part for _, held in holds for part in held} & set(parts.closed)
    for hold, _ in holds:
        await hold.release()
    assert sorted(parts.closed) == sorted(parts.made)


async def test_part_that_hangs_when_it_is_closed_does_not_keep_others_open(monkeypatch: pytest.MonkeyPatch) -> None:
    """Each closing has a deadline."""
    monkeypatch.setattr("penstock_gateway.lasting.PART_SECONDS", 0.01)
    parts, lasting = Parts(), Lasting()

    async def hang(_: str) -> None:
        await asyncio.Event().wait()

    first = lasting.keep("first", lambda: parts.make("first"), parts.close)
    lasting.keep("second", lambda: parts.make("second"), hang)
    await lasting.aclose()
    assert parts.closed == [first]
