"""Two replicas, one budget, and a Redis that goes away, loses replies and is flushed: limits hold, charges count.

What is summed is what was granted: requests under way at what they may come to, finished ones at what they came to,
whether Redis has heard of them or not.
"""

from __future__ import annotations

import asyncio
from dataclasses import dataclass, field

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from penstock_gateway.ledger.contract import Charge, Grant, LedgerUnavailable, Period
from penstock_gateway.ledger.slices import SliceRules
from penstock_gateway.redis_client import RedisClient
from support.ledger_parts import LEASE_SECONDS, NOON, Clock, Replica, ask, charge, key
from support.redis_server import NOT_INSTALLED, redis_binary, running_redis

pytestmark = pytest.mark.redis

LIMIT = 400
BUDGET = key((Period.TOTAL, LIMIT))
RULES = SliceRules(share=0.2, minimum_picousd=40, seconds=100.0, replicas=1)

which = st.integers(0, 1)
events = st.lists(
    st.one_of(
        st.tuples(st.just("reserve"), which, st.integers(1, 60)),
        st.tuples(st.just("reserve"), which, st.integers(1, 30)),
        st.tuples(st.just("top_up"), which, st.integers(1, 60)),
        st.tuples(st.just("finish"), which, st.integers(0, 100)),
        st.tuples(st.just("settle"), which, st.just(0)),
        st.tuples(st.just("look"), which, st.integers(1, 20)),
        st.tuples(st.sampled_from(["away", "back", "lose", "cut", "flush"]), which, st.integers(0, 60)),
        st.tuples(st.sampled_from(["away", "back", "back", "flush"]), which, st.integers(0, 200)),
    ),
    min_size=40,
    max_size=90,
)


@dataclass
class Gateway:
    """A replica with its requests."""

    replica: Replica
    under_way: dict[str, int] = field(default_factory=dict)
    waiting: list[Charge] = field(default_factory=list)


class World:
    """Two gateways and what was granted."""

    def __init__(self, client: RedisClient) -> None:
        self.client = client
        self.clock = Clock()
        self.gateways = [Gateway(Replica(name, client, self.clock, rules=RULES)) for name in "ab"]
        self.finished: dict[str, int] = {}
        self.count = 0
        self.is_away = False
        self.cut: int | None = None
        self.local_grants = 0

    async def do(self, event: str, number: int, amount: int) -> None:
        """Let something happen."""
        gateway = self.gateways[number]
        ledger = gateway.replica.ledger
        if event == "reserve":
            self.count += 1
            answer = await ledger.reserve(ask(self.count, BUDGET, amount=amount))
            if isinstance(answer, Grant):
                gateway.under_way[f"dec_{self.count}"] = amount
                self.local_grants += answer.is_local
        elif event == "top_up" and gateway.under_way:
            name = list(gateway.under_way)[amount % len(gateway.under_way)]
            if await ledger.top_up(name, amount, 0) is None:
                gateway.under_way[name] += amount
        elif event == "finish" and gateway.under_way:
            name = next(iter(gateway.under_way))
            actual = gateway.under_way.pop(name) * amount // 100
            self.finished[name] = actual
            made = charge(name.removeprefix("dec_"), BUDGET, amount=actual)
            gateway.replica.logged.append(made)
            gateway.waiting.append(made)
        elif event == "settle":
            await self.settle(gateway)
        elif event == "look":
            await self.look(amount)
        else:
            await self.disturb(event, number, amount)
        gateway.replica.commands.loses_replies = event == "lose"

    async def disturb(self, event: str, number: int, seconds: int) -> None:
        """Let Redis be away for both, or come back, or lose its data; or cut one replica off for a moment."""
        if event == "away":
            self.set_away(True)
            self.clock.advance(seconds)
        elif event == "back":
            self.set_away(False)
        elif event == "flush" and self.cut is None:
            await self.client.execute(b"FLUSHALL", deadline_seconds=10.0)
        elif event == "cut" and not self.is_away and self.cut is None:
            self.cut = number
            self.gateways[number].replica.commands.is_away = True

    def set_away(self, is_away: bool) -> None:
        """Let Redis go or come back for both."""
        self.is_away, self.cut = is_away, None
        for gateway in self.gateways:
            gateway.replica.commands.is_away = is_away

    async def settle(self, gateway: Gateway) -> None:
        """Settle what waits; what fails waits on."""
        try:
            await gateway.replica.ledger.settle(gateway.waiting)
        except LedgerUnavailable:
            return
        gateway.waiting = []

    async def look(self, seconds: float) -> None:
        """Let the time between two looks of the background pass; who was cut off is back for the next one."""
        self.clock.advance(seconds)
        for number, gateway in enumerate(self.gateways):
            try:
                if number != self.cut:
                    await gateway.replica.upkeep.run_once()
            except LedgerUnavailable:
                gateway.replica.upkeep.note_failure()
        if self.cut is not None:
            self.gateways[self.cut].replica.commands.is_away = False
            self.cut = None

    def granted(self) -> int:
        """Return what all requests may come to."""
        return sum(self.finished.values()) + sum(sum(each.under_way.values()) for each in self.gateways)

    async def finish_all(self) -> None:
        """Let everything end well."""
        self.set_away(False)
        for gateway in self.gateways:
            gateway.replica.commands.loses_replies = False
            while gateway.under_way:
                await self.do("finish", self.gateways.index(gateway), 100)
        for _ in range(3):
            await self.look(LEASE_SECONDS / 3 + 1.0)
        for gateway in self.gateways:
            await self.settle(gateway)
            assert gateway.waiting == []
        for gateway in self.gateways:
            await gateway.replica.ledger.aclose()


async def run(url: str, story: list[tuple[str, int, int]]) -> int:
    """Play a story, and return how many requests were granted without Redis."""
    client = RedisClient(url)
    try:
        await client.execute(b"FLUSHALL", deadline_seconds=10.0)
        world = World(client)
        for _ in range(2):
            await world.look(1.0)
        for number in (0, 1):
            await world.do("reserve", number, 60)
            await world.do("finish", number, 100)
            await world.do("settle", number, 0)
        await world.look(1.0)
        for event, number, amount in story:
            await world.do(event, number, amount)
            assert world.granted() <= LIMIT
        await world.finish_all()
        assert world.granted() <= LIMIT
        [state] = await world.gateways[0].replica.ledger.states([BUDGET], NOON)
        assert (state.spent_picousd, state.held_picousd) == (sum(world.finished.values()), 0)
        return world.local_grants
    finally:
        await client.aclose()


def test_budget_of_two_replicas_under_any_outages_is_never_passed_and_every_charge_counts() -> None:
    """Whatever happens to Redis while both replicas spend, all that is granted stays within the limit."""
    binary = redis_binary()
    if binary is None:
        pytest.skip(NOT_INSTALLED)
    local_grants = 0
    with running_redis(binary) as server:

        @settings(max_examples=100)
        @given(events)
        def play(story: list[tuple[str, int, int]]) -> None:
            nonlocal local_grants
            local_grants += asyncio.run(run(server.url, story))

        play()
    assert local_grants > 100
