"""Whatever is done to them, memory and Redis give the same answers, money is conserved, and limits hold."""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine
from typing import Any, TypeVar

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import Bundle, RuleBasedStateMachine, initialize, invariant, multiple, rule

from penstock_gateway.ledger.contract import Account, Budget, Charge, Grant, Period, RateLimits, Reservation
from penstock_gateway.ledger.memory import MemoryLedger
from penstock_gateway.ledger.periods import Calendar
from penstock_gateway.ledger.redis_ledger import RedisLedger
from penstock_gateway.redis_client import RedisClient
from support.ledger_parts import LEASE_SECONDS, NOON, Clock, open_books, redis_ledger
from support.redis_server import NOT_INSTALLED, redis_binary, running_redis

pytestmark = pytest.mark.redis

ZONE = "America/New_York"
SCOPES = ("key:a", "key:b", "team:red", "tag:x")
BIG = 9_007_199_254_740_993  # not a whole number of 53 bits
_Result = TypeVar("_Result")

amounts = st.one_of(st.integers(0, 25), st.integers(0, 12), st.just(0), st.integers(BIG - 50, BIG + 50))
tokens = st.integers(0, 40)
limits = st.builds(
    RateLimits,
    st.none() | st.integers(0, 8),
    st.none() | st.integers(0, 150),
    st.none() | st.integers(0, 10),
)
budgets = st.lists(
    st.builds(Budget, st.sampled_from(Period), st.one_of(st.integers(20, 400), st.integers(BIG, BIG + 100))),
    min_size=1,
    max_size=3,
    unique_by=lambda budget: budget.period,
).map(tuple)
MOMENTS = (NOON, NOON + 0.0004, NOON + 15 * 3600.0, NOON + 16 * 3600.0 - 0.001, NOON + 40 * 86_400.0)
moments = st.sampled_from(MOMENTS)
pauses = st.sampled_from([0.0, 0.0, 0.0, 0.001, 1.0, 7.3, 29.0, 31.0, 61.0])
specifications = st.lists(
    st.tuples(st.lists(st.sampled_from(SCOPES), max_size=4), amounts, tokens, moments), min_size=1, max_size=5
)


class Both(RuleBasedStateMachine):
    """Does the same to both ledgers, and keeps a plain account of what should have been charged."""

    url: str

    def __init__(self) -> None:
        super().__init__()
        self.loop = asyncio.new_event_loop()
        self.clock = Clock()
        self.client = RedisClient(self.url)
        self.memory = MemoryLedger(Calendar(ZONE), lease_seconds=LEASE_SECONDS, clock=self.clock)
        self.redis: RedisLedger = redis_ledger(self.client, self.clock, Calendar(ZONE))
        self.accounts: dict[str, Account] = {}
        self.count = 0
        self.paid: dict[str, Charge] = {}
        self.excess = 0
        self.held: dict[str, int] = {}
        self.waited = 0.0
        self.may_have_ended = False

    def run(self, work: Coroutine[Any, Any, _Result]) -> _Result:
        """Wait for something."""
        return self.loop.run_until_complete(work)

    def teardown(self) -> None:
        """Compare the sums, and close what was opened."""
        for at in MOMENTS if self.accounts else ():
            self.compare(at)
        self.run(self.client.aclose())
        self.loop.close()

    requests = Bundle("requests")

    @initialize(given=st.lists(st.tuples(budgets, limits), min_size=len(SCOPES), max_size=len(SCOPES)))
    def open(self, given: list[tuple[tuple[Budget, ...], RateLimits]]) -> None:
        """Begin with an empty server and four accounts."""
        self.accounts = {name: Account(name, *each) for name, each in zip(SCOPES, given, strict=True)}
        self.run(self.client.execute(b"FLUSHALL", deadline_seconds=10.0))
        self.run(open_books(self.redis))

    @rule(target=requests, specified=specifications, pause=pauses)
    def reserve(self, specified: list[tuple[list[str], int, int, float]], pause: float) -> Any:
        """Reserve new requests; one that is refused is settled all the same now and then."""
        self.wait(pause)
        going_on = []
        for scopes, amount, upper, at in specified:
            self.count += 1
            accounts = tuple(self.accounts[scope] for scope in scopes)
            reservation = Reservation(f"dec_{self.count}", accounts, amount, upper, at)
            answer = self.run(self.memory.reserve(reservation))
            assert answer == self.run(self.redis.reserve(reservation))
            if isinstance(answer, Grant):
                self.held[reservation.id] = amount
            if isinstance(answer, Grant) or self.count % 3 == 0:
                going_on.append(reservation)
        return multiple(*going_on)

    @rule(reservation=requests)
    def reserve_again(self, reservation: Reservation) -> None:
        """Send a reservation again."""
        answer = self.run(self.memory.reserve(reservation))
        assert answer == self.run(self.redis.reserve(reservation))
        if isinstance(answer, Grant) and reservation.id not in self.paid:
            self.held.setdefault(reservation.id, reservation.amount_picousd)

    @rule(reservation=requests, amount=amounts, more=tokens, pause=pauses)
    def top_up(self, reservation: Reservation, amount: int, more: int, pause: float) -> None:
        """Let a request grow."""
        self.wait(pause)
        answer = self.run(self.memory.top_up(reservation.id, amount, more))
        assert answer == self.run(self.redis.top_up(reservation.id, amount, more))
        if answer is None:
            self.held[reservation.id] += amount

    @rule(
        reservations=st.lists(requests, min_size=1, max_size=3),
        amount=amounts,
        actual=tokens,
        forgets=st.booleans(),
        pause=pauses,
    )
    def settle(self, reservations: list[Reservation], amount: int, actual: int, forgets: bool, pause: float) -> None:
        """Settle requests, perhaps again, perhaps the same one twice in a batch."""
        self.wait(pause)
        charges = [
            self.paid.get(r.id) or Charge(r.id, tuple(Account(a.scope) for a in r.accounts), amount, actual, r.at)
            if forgets
            else self.paid.get(r.id, Charge(r.id, r.accounts, amount, actual, r.at))
            for r in reservations
        ]
        for each in charges:
            if each.id not in self.paid:
                self.excess += max(0, each.amount_picousd - self.held.get(each.id, 0))
            self.paid.setdefault(each.id, each)
        self.run(self.memory.settle(charges))
        self.run(self.redis.settle(charges))

    def wait(self, seconds: float) -> None:
        """Let time pass: buckets refill, leases end."""
        self.clock.advance(seconds)
        self.waited += min(seconds, LEASE_SECONDS / 2)
        self.may_have_ended = self.may_have_ended or self.waited >= LEASE_SECONDS

    @rule(pause=pauses)
    def renew(self, pause: float) -> None:
        """Prolong leases."""
        self.wait(pause)
        self.run(self.memory.renew())
        self.run(self.redis.renew())
        self.waited = 0.0

    def compare(self, at: float) -> None:
        """Both know the same spend of every scope, budget or not, and it is the sum of the charges."""
        calendar = Calendar(ZONE)
        for period in Period:
            spent = self.run(self.memory.spent_picousd(SCOPES, period, at))
            assert spent == self.run(self.redis.spent_picousd(SCOPES, period, at))
            window = calendar.window(period, at)
            expected = tuple(
                sum(
                    each.amount_picousd
                    for each in self.paid.values()
                    if calendar.window(period, each.at) == window and scope in {a.scope for a in each.accounts}
                )
                for scope in SCOPES
            )
            assert spent == expected

    @invariant()
    def limits_hold(self) -> None:
        """Spent and held pass a limit by no more than what was charged above its reservation, or without one."""
        for at in (NOON, NOON + 15 * 3600.0):
            states = self.run(self.memory.states(tuple(self.accounts.values()), at))
            assert states == self.run(self.redis.states(tuple(self.accounts.values()), at))
            for state in states:
                assert state.held_picousd >= 0
                # Once a lease has ended, others may reserve what its request still comes to.
                used = state.spent_picousd + state.held_picousd
                assert self.may_have_ended or used <= state.limit_picousd + self.excess


def test_ledgers_under_any_operations_agree_conserve_money_and_keep_limits() -> None:
    """Random operations on both ledgers give the same answers, the sum of the charges, and no passed limit."""
    binary = redis_binary()
    if binary is None:
        pytest.skip(NOT_INSTALLED)
    with running_redis(binary) as server:
        Both.url = server.url
        Both.TestCase.settings = settings(max_examples=80, stateful_step_count=30, deadline=None)
        case = Both.TestCase()
        case.runTest()
