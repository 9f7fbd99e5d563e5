"""A fleet's ledger on a real Redis that is there or away, on a clock of the test's: fail modes and slices."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator

import pytest

from penstock_gateway.ledger.contract import (
    Account,
    Grant,
    LedgerUnavailable,
    Period,
    RateLimits,
    Refusal,
    RefusalReason,
)
from penstock_gateway.ledger.slices import LEASE_USED, SliceRules
from penstock_gateway.ledger.upkeep import FAILURES, BooksState
from penstock_gateway.redis_client import RedisClient
from penstock_gateway.redis_guard import FailMode
from support.ledger_parts import LEASE_SECONDS, NOON, Clock, Replica, ask, charge, key

pytestmark = pytest.mark.redis

RULES = SliceRules(share=0.1, minimum_picousd=0, seconds=600.0, replicas=1)
BUDGET = key((Period.TOTAL, 1000))
TICK_SECONDS = LEASE_SECONDS / 3


@pytest.fixture
def clock() -> Clock:
    """The time, which passes when the test says so."""
    return Clock()


@pytest.fixture
async def client(redis_url: str) -> AsyncIterator[RedisClient]:
    """Commands to an empty Redis."""
    made = RedisClient(redis_url)
    yield made
    await made.aclose()


async def filled(replica: Replica, account: Account = BUDGET) -> Replica:
    """Return a replica that has opened the books and holds a slice of an account's budgets."""
    await replica.upkeep.run_once()
    assert isinstance(await replica.ledger.reserve(ask(f"first-{replica.name}", account, amount=1)), Grant)
    await replica.ledger.settle([charge(f"first-{replica.name}", account)])
    await replica.upkeep.run_once()
    return replica


async def spent(replica: Replica, scope: str = "key:a") -> int:
    """Return what a scope has spent in all."""
    [found] = await replica.ledger.spent_picousd([scope], Period.TOTAL, NOON)
    return found


def reason(answer: Grant | Refusal | None) -> RefusalReason | None:
    """Return why something was refused, or None."""
    return answer.reason if isinstance(answer, Refusal) else None


async def test_reserve_while_redis_is_away_is_granted_from_the_slice_and_no_further(
    client: RedisClient, clock: Clock
) -> None:
    """A replica spends its slice of 10 %, a charge returns what it did not use, and all is counted in the end."""
    replica = await filled(Replica("a", client, clock, rules=RULES))
    replica.commands.is_away = True
    first = await replica.ledger.reserve(ask(1, BUDGET, amount=60))
    assert isinstance(first, Grant)
    assert first.is_local
    assert await replica.ledger.reserve(ask(1, BUDGET, amount=60)) == first
    assert reason(await replica.ledger.reserve(ask(2, BUDGET, amount=41))) is RefusalReason.UNAVAILABLE
    with pytest.raises(LedgerUnavailable):
        await replica.ledger.settle([charge(1, BUDGET, amount=20)])
    assert isinstance(await replica.ledger.reserve(ask(3, BUDGET, amount=80)), Grant)
    assert reason(await replica.ledger.reserve(ask(4, BUDGET, amount=1))) is RefusalReason.UNAVAILABLE
    replica.commands.is_away = False
    for _ in range(2):
        await replica.ledger.settle([charge(1, BUDGET, amount=20), charge(3, BUDGET, amount=70)])
    assert await spent(replica) == 90
    assert replica.ledger.local_requests == 0
    assert replica.counted("penstock_ledger_away_answers_total", answer="slice") == 2.0
    assert replica.counted("penstock_ledger_away_answers_total", answer="refused") == 2.0


async def test_reserve_while_redis_is_away_ends_with_the_slices_lease(client: RedisClient, clock: Clock) -> None:
    """After the lease others may have the money, so nothing is granted from the slice any more."""
    replica = await filled(Replica("a", client, clock, rules=RULES))
    replica.commands.is_away = True
    clock.advance(LEASE_USED * RULES.seconds - 1.0)
    assert isinstance(await replica.ledger.reserve(ask(1, BUDGET, amount=5)), Grant)
    clock.advance(1.0)
    assert reason(await replica.ledger.reserve(ask(2, BUDGET, amount=5))) is RefusalReason.UNAVAILABLE
    assert isinstance(await replica.ledger.reserve(ask(3, key(name="key:free"))), Grant)


async def test_slices_of_two_replicas_while_redis_is_away_never_pass_the_limit(
    client: RedisClient, clock: Clock
) -> None:
    """What both replicas hold counts as held, so all that is spent without Redis fits into the budget."""
    rules = SliceRules(share=0.3, minimum_picousd=0, seconds=600.0, replicas=1)
    first = await filled(Replica("a", client, clock, rules=rules))
    second = await filled(Replica("b", client, clock, rules=rules))
    in_redis = 0
    while isinstance(await first.ledger.reserve(ask(f"redis-{in_redis}", BUDGET, amount=50)), Grant):
        in_redis += 1
    both, granted = (first, second), []
    for replica in both:
        replica.commands.is_away = True
    for number in range(60):
        replica = both[number % 2]
        if isinstance(await replica.ledger.reserve(ask(f"away-{number}", BUDGET, amount=7)), Grant):
            granted.append((replica, charge(f"away-{number}", BUDGET, amount=7)))
    assert len(granted) > 5
    for replica in both:
        replica.commands.is_away = False
    for replica, each in granted:
        await replica.ledger.settle([each])
    await first.ledger.settle([charge(f"redis-{number}", BUDGET, amount=50) for number in range(in_redis)])
    assert await spent(first) == 50 * in_redis + 7 * len(granted) <= 1000


async def test_slice_of_the_only_replica_never_refuses_what_the_budget_has(client: RedisClient, clock: Clock) -> None:
    """A replica's own slice gives way to its requests, so a budget can be used to its last picodollar."""
    replica = await filled(Replica("a", client, clock, rules=RULES))
    number = 0
    while isinstance(await replica.ledger.reserve(ask(number, BUDGET, amount=7)), Grant):
        number += 1
        if number % 10 == 0:
            clock.advance(1.0)
            await replica.upkeep.run_once()
    assert number == 142
    assert isinstance(await replica.ledger.reserve(ask("rest", BUDGET, amount=2)), Grant)
    assert await replica.ledger.top_up("dec_rest", 4, 0) is None
    assert reason(await replica.ledger.top_up("dec_rest", 1, 0)) is RefusalReason.BUDGET


async def test_slice_in_the_way_of_many_requests_at_once_gives_way_to_all(client: RedisClient, clock: Clock) -> None:
    """Of concurrent requests that find the slice in the way, none is refused that fits without it."""
    replica = await filled(Replica("a", client, clock, rules=RULES))
    assert isinstance(await replica.ledger.reserve(ask("big", BUDGET, amount=880)), Grant)
    answers = await asyncio.gather(*(replica.ledger.reserve(ask(n, BUDGET, amount=10)) for n in range(40)))
    assert sum(isinstance(answer, Grant) for answer in answers) == 12


async def test_slices_of_all_replicas_leave_most_of_what_is_free(client: RedisClient, clock: Clock) -> None:
    """Near the end of a budget slices shrink: together they take at most a tenth of what is left."""
    rules = SliceRules(share=0.5, minimum_picousd=500, seconds=600.0, replicas=2)
    first, second = [await filled(Replica(name, client, clock, rules=rules)) for name in "ab"]
    await first.ledger.settle([charge("most", BUDGET, amount=900)])
    for replica in (first, second):
        await replica.upkeep.run_once()
    [state] = await first.ledger.states([BUDGET], NOON)
    assert 0 < state.held_picousd <= 10
    assert isinstance(await second.ledger.reserve(ask(1, BUDGET, amount=90)), Grant)


async def test_slice_of_a_replica_that_died_comes_back_with_its_lease(client: RedisClient, clock: Clock) -> None:
    """A dead replica holds its slice for the length of a lease."""
    dead = await filled(Replica("dead", client, clock, rules=RULES))
    alive = await filled(Replica("alive", client, clock, rules=SliceRules(0.0, 0)))
    [state] = await alive.ledger.states([BUDGET], NOON)
    assert state.held_picousd == 100
    for _ in range(round(RULES.seconds / TICK_SECONDS) + 1):
        clock.advance(TICK_SECONDS)
        await alive.upkeep.run_once()
    [state] = await alive.ledger.states([BUDGET], NOON)
    assert state.held_picousd == 0
    assert dead.slices is not None
    assert dead.slices.available_picousd("total|key:a") == 0


async def test_close_of_a_replica_gives_its_slices_back(client: RedisClient, clock: Clock) -> None:
    """An orderly end holds nothing."""
    replica = await filled(Replica("a", client, clock, rules=RULES))
    other = await filled(Replica("b", client, clock, rules=SliceRules(0.0, 0)))
    await replica.ledger.aclose()
    [state] = await other.ledger.states([BUDGET], NOON)
    assert state.held_picousd == 0


async def test_top_up_while_redis_is_away_takes_from_the_slice(client: RedisClient, clock: Clock) -> None:
    """A stream that Redis had granted goes on without it as far as the slice reaches."""
    replica = await filled(Replica("a", client, clock, rules=RULES))
    assert isinstance(await replica.ledger.reserve(ask(1, BUDGET, amount=300)), Grant)
    replica.commands.is_away = True
    assert await replica.ledger.top_up("dec_1", 70, 10) is None
    assert reason(await replica.ledger.top_up("dec_1", 31, 10)) is RefusalReason.UNAVAILABLE
    assert reason(await replica.ledger.top_up("dec_unknown", 1, 1)) is RefusalReason.UNAVAILABLE
    replica.commands.is_away = False
    await replica.ledger.settle([charge(1, BUDGET, amount=370)])
    assert await spent(replica) == 370
    assert replica.ledger.local_requests == 0


async def test_top_up_of_a_local_grant_moves_to_redis_when_it_is_back(client: RedisClient, clock: Clock) -> None:
    """A stream granted from the slice may grow beyond it once Redis is there again, within the budget."""
    replica = await filled(Replica("a", client, clock, rules=RULES))
    replica.commands.is_away = True
    assert isinstance(await replica.ledger.reserve(ask(1, BUDGET, amount=60)), Grant)
    assert reason(await replica.ledger.top_up("dec_1", 500, 0)) is RefusalReason.UNAVAILABLE
    replica.commands.is_away = False
    assert await replica.ledger.top_up("dec_1", 500, 0) is None
    assert replica.ledger.local_requests == 0
    assert reason(await replica.ledger.top_up("dec_1", 900, 0)) is RefusalReason.BUDGET
    await replica.ledger.settle([charge(1, BUDGET, amount=555)])
    assert await spent(replica) == 555
    await replica.upkeep.run_once()
    [state] = await replica.ledger.states([BUDGET], NOON)
    assert state.held_picousd <= 45


async def test_reserve_whose_reply_was_lost_is_charged_once_and_held_by_nobody(
    client: RedisClient, clock: Clock
) -> None:
    """A reservation that Redis made and did not confirm is granted from the slice, and cleaned up with its charge."""
    replica = await filled(Replica("a", client, clock, rules=SliceRules(0.1, 0, 600.0, 1)))
    replica.commands.loses_replies = True
    answer = await replica.ledger.reserve(ask(1, BUDGET, amount=50))
    assert isinstance(answer, Grant)
    assert answer.is_local
    assert isinstance(await replica.ledger.reserve(ask(2, BUDGET, amount=40)), Grant)
    with pytest.raises(LedgerUnavailable):
        await replica.ledger.settle([charge(1, BUDGET, amount=45)])
    replica.commands.loses_replies = False
    await replica.upkeep.run_once()
    await replica.ledger.settle([charge(1, BUDGET, amount=45), charge(2, BUDGET, amount=30)])
    await replica.ledger.aclose()
    [state] = await replica.redis.states([BUDGET], NOON)
    assert (state.spent_picousd, state.held_picousd) == (75, 0)


async def test_fail_mode_closed_refuses_what_has_a_budget_or_a_limit(client: RedisClient, clock: Clock) -> None:
    """Without Redis only accounts pass that nothing holds back."""
    replica = Replica("a", client, clock, mode=FailMode.CLOSED)
    await replica.upkeep.run_once()
    assert isinstance(await replica.ledger.reserve(ask(1, BUDGET, amount=5)), Grant)
    replica.commands.is_away = True
    for account in (BUDGET, key(limits=RateLimits(requests_per_minute=5))):
        refusal = await replica.ledger.reserve(ask(2, account, amount=1))
        assert refusal == Refusal(RefusalReason.UNAVAILABLE, retry_after_seconds=1.0)
    assert reason(await replica.ledger.top_up("dec_1", 1, 1)) is RefusalReason.UNAVAILABLE
    assert isinstance(await replica.ledger.reserve(ask(3, key())), Grant)


async def test_fail_mode_open_grants_everything_and_counts_it_in_the_end(client: RedisClient, clock: Clock) -> None:
    """Without Redis nothing is limited, each grant is counted in the metrics, and each charge in Redis later."""
    replica = Replica("a", client, clock, mode=FailMode.OPEN)
    await replica.upkeep.run_once()
    assert isinstance(await replica.ledger.reserve(ask(1, BUDGET, amount=5)), Grant)
    replica.commands.is_away = True
    answer = await replica.ledger.reserve(ask(2, BUDGET, amount=5000))
    assert answer == Grant(is_local=True)
    assert await replica.ledger.top_up("dec_1", 5000, 1) is None
    assert await replica.ledger.top_up("dec_2", 5000, 1) is None
    assert replica.counted("penstock_ledger_away_answers_total", answer="open") == 3.0
    replica.commands.is_away = False
    await replica.ledger.settle([charge(1, BUDGET, amount=10), charge(2, BUDGET, amount=9000)])
    assert await spent(replica) == 9010


async def test_limits_while_redis_is_away_are_divided_among_the_replicas(client: RedisClient, clock: Clock) -> None:
    """Each replica lets its part pass, at least one request, and gives tokens back that were not used."""
    account = key(limits=RateLimits(requests_per_minute=10, tokens_per_minute=900, parallel_requests=2))
    replica = Replica("a", client, clock, replicas=3, rules=RULES)
    await replica.upkeep.run_once()
    replica.commands.is_away = True
    assert isinstance(await replica.ledger.reserve(ask(1, account, tokens=300)), Grant)
    assert reason(await replica.ledger.reserve(ask(2, account, tokens=10))) is RefusalReason.TOKENS
    assert reason(await replica.ledger.reserve(ask(2, account))) is RefusalReason.PARALLEL
    with pytest.raises(LedgerUnavailable):
        await replica.ledger.settle([charge(1, account, tokens=100)])
    assert isinstance(await replica.ledger.reserve(ask(2, account, tokens=200)), Grant)


async def test_state_of_the_books_is_logged_once_a_change(
    client: RedisClient, clock: Clock, caplog: pytest.LogCaptureFixture
) -> None:
    """However many requests find Redis away, there is one line when it goes and one when it is back."""
    replica = await filled(Replica("a", client, clock, rules=RULES))
    caplog.clear()
    with caplog.at_level("INFO"):
        replica.commands.is_away = True
        for number in range(100):
            await replica.ledger.reserve(ask(number, BUDGET, amount=1))
        assert replica.upkeep.state is BooksState.AWAY
        replica.commands.is_away = False
        for number in range(100, 150):
            await replica.ledger.reserve(ask(number, BUDGET, amount=1))
    lines = [record for record in caplog.records if record.message == "ledger_state_changed"]
    assert [record.__dict__["state"] for record in lines] == ["away", "present"]
    assert replica.counted("penstock_ledger_state_changes_total", state="away") == 1.0
    assert replica.counted("penstock_ledger_state", state="present") == 1.0


async def test_state_of_the_books_after_one_late_reply_is_unchanged(client: RedisClient, clock: Clock) -> None:
    """A single failure is answered from the slice, and is no outage."""
    replica = await filled(Replica("a", client, clock, rules=RULES))
    for number in range(5 * FAILURES):
        replica.commands.is_away = number % FAILURES != 0
        assert isinstance(await replica.ledger.reserve(ask(number, BUDGET, amount=1)), Grant)
    assert replica.upkeep.state is BooksState.PRESENT


async def test_mode_without_redis_can_change_and_slices_are_given_back_or_taken(
    client: RedisClient, clock: Clock
) -> None:
    """A budget's slice is nobody's once it is not wanted; what was granted from it stays, and is counted once."""
    replica = await filled(Replica("a", client, clock, rules=RULES))
    replica.commands.is_away = True
    assert isinstance(await replica.ledger.reserve(ask(1, BUDGET, amount=60)), Grant)
    replica.ledger.follow(FailMode.CLOSED)
    assert reason(await replica.ledger.reserve(ask(2, BUDGET, amount=1))) is RefusalReason.UNAVAILABLE
    assert await replica.ledger.top_up("dec_1", 1, 0) is None
    replica.ledger.follow(FailMode.OPEN)
    assert isinstance(await replica.ledger.reserve(ask(3, BUDGET, amount=10_000)), Grant)
    replica.commands.is_away = False
    await replica.upkeep.run_once()
    await replica.ledger.settle([charge(1, BUDGET, amount=20)])
    await replica.upkeep.run_once()
    (state,) = await replica.ledger.states([BUDGET], clock.now)
    assert (state.spent_picousd, state.held_picousd) == (20, 0)
    replica.ledger.follow(FailMode.LOCAL)
    assert isinstance(await replica.ledger.reserve(ask(4, BUDGET, amount=1)), Grant)
    await replica.upkeep.run_once()
    replica.commands.is_away = True
    assert isinstance(await replica.ledger.reserve(ask(5, BUDGET, amount=60)), Grant)
