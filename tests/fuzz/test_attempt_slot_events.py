"""Slots and queue under any order of events: none in flight too many, none lost, order by priority."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from penstock_gateway.attempts.slots import PRIORITIES, Priority, Slots, WaitingRoom
from penstock_gateway.errors import RateLimited

AGEING_SECONDS = 3.0
MAX_WAITING = 6
LIMITS = (1, 2, 3)


@dataclass
class _Request:
    task: asyncio.Task[Slots]
    key: tuple[float, int]
    places: tuple[int, ...]
    is_cancelled: bool = False


class SlotMachine(RuleBasedStateMachine):
    """Requests that come, wait, are served, end, leave and lose patience, against what the rules say."""

    def __init__(self) -> None:
        super().__init__()
        self.loop = asyncio.new_event_loop()
        self.slots = [Slots(limit) for limit in LIMITS]
        self.room = WaitingRoom(MAX_WAITING, AGEING_SECONDS)
        self.waiting: list[_Request] = []
        self.held: list[int] = []
        self.now = 0.0
        self.entered = 0

    def teardown(self) -> None:
        """End everything: all slots come back."""
        for request in self.waiting:
            request.is_cancelled = True
            request.task.cancel()
        self._settle()
        for index in self.held:
            self.slots[index].give_back()
        assert [slots.in_flight for slots in self.slots] == [0, 0, 0]
        assert [slots.waiting for slots in self.slots] == [0, 0, 0]
        assert self.room.waiting == 0
        self.loop.close()

    def _settle(self) -> None:
        async def turn() -> None:
            for _ in range(4):
                await asyncio.sleep(0)

        self.loop.run_until_complete(turn())
        for request in [request for request in self.waiting if request.task.done()]:
            self.waiting.remove(request)
            if request.task.cancelled():
                assert request.is_cancelled
            elif request.task.exception() is None:
                self.held.append(self.slots.index(request.task.result()))

    @rule(
        priority=st.sampled_from(PRIORITIES),
        places=st.sets(st.integers(0, len(LIMITS) - 1), min_size=1),
        delay=st.floats(0.0, 4.0),
    )
    def come(self, priority: Priority, places: set[int], delay: float) -> None:
        """A request takes a free slot, or waits for any of its places, or is turned away."""
        self.now += delay
        order = tuple(sorted(places))
        for index in order:
            if self.slots[index].has_free:
                self.slots[index].take()
                self.held.append(index)
                return
        chosen = [self.slots[index] for index in order]
        task = self.loop.create_task(self.room.wait(chosen, priority, self.now, 1000.0, 1.0))
        was_full = len(self.waiting) >= MAX_WAITING
        self.entered += 1
        key = (self.now + PRIORITIES.index(priority) * AGEING_SECONDS, self.entered)
        self.waiting.append(_Request(task, key, order))
        self._settle()
        if was_full:
            assert isinstance(task.exception(), RateLimited)
        else:
            assert not task.done()

    @precondition(lambda self: self.held)
    @rule(data=st.data())
    def end(self, data: st.DataObject) -> None:
        """A request ends: its slot goes to the first in order of those that wait for it, if any does."""
        index = self.held.pop(data.draw(st.integers(0, len(self.held) - 1)))
        able = [request for request in self.waiting if index in request.places]
        self.slots[index].give_back()
        self._settle()
        if able:
            first = min(able, key=lambda request: request.key)
            assert first.task.result() is self.slots[index]
            assert all(not request.task.done() for request in able if request is not first)

    @precondition(lambda self: self.waiting)
    @rule(data=st.data())
    def leave(self, data: st.DataObject) -> None:
        """A client leaves while it waits."""
        request = data.draw(st.sampled_from(self.waiting))
        request.is_cancelled = True
        request.task.cancel()
        self._settle()

    @precondition(lambda self: self.waiting and self.held)
    @rule(data=st.data(), is_cancelled_first=st.booleans())
    def leave_while_served(self, data: st.DataObject, is_cancelled_first: bool) -> None:
        """A client leaves in the same turn in which a slot is given back."""
        request = data.draw(st.sampled_from(self.waiting))
        index = self.held.pop(data.draw(st.integers(0, len(self.held) - 1)))
        request.is_cancelled = True
        if is_cancelled_first:
            request.task.cancel()
        self.slots[index].give_back()
        if not is_cancelled_first:
            request.task.cancel()
        self._settle()

    @rule(index=st.integers(0, len(LIMITS) - 1), limit=st.integers(1, 4))
    def resize(self, index: int, limit: int) -> None:
        """The configuration changes."""
        self.slots[index].resize(limit)
        self._settle()

    @invariant()
    def counts_agree(self) -> None:
        """What the slots count is what is held, and nobody waits beside a free slot."""
        for index, slots in enumerate(self.slots):
            assert slots.in_flight == self.held.count(index)
            assert slots.waiting == sum(index in request.places for request in self.waiting)
            if slots.waiting:
                assert not slots.has_free
        assert self.room.waiting == len(self.waiting) <= MAX_WAITING


TestSlotMachine = SlotMachine.TestCase
TestSlotMachine.settings = settings(max_examples=60, stateful_step_count=40)
