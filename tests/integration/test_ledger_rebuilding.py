"""Books that were lost, or never there: who notices, what is put back, and when budgets are granted from them again."""

from __future__ import annotations

from collections.abc import AsyncIterator

import pytest

from penstock_gateway.ledger.contract import Grant, LedgerUnavailable, Period, Refusal, RefusalReason
from penstock_gateway.ledger.slices import SliceRules
from penstock_gateway.ledger.upkeep import BooksState
from penstock_gateway.redis_client import RedisClient
from penstock_gateway.redis_guard import FailMode
from support.ledger_parts import LEASE_SECONDS, NOON, Clock, Replica, ask, charge, key

pytestmark = pytest.mark.redis

BUDGET = key((Period.TOTAL, 1000))
TICK_SECONDS = LEASE_SECONDS / 3 + 1.0
RULES = SliceRules(share=0.05, minimum_picousd=0, seconds=600.0, replicas=1)


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


async def flush(client: RedisClient) -> None:
    """Empty Redis, as somebody may do by mistake."""
    await client.execute(b"FLUSHALL", deadline_seconds=10.0)


async def spend(replica: Replica, number: int | str, amount: int) -> None:
    """Let a request pass whose outcome is logged and charged."""
    made = charge(number, BUDGET, amount=amount)
    replica.logged.append(made)
    await replica.ledger.settle([made])


async def used(replica: Replica) -> tuple[int, int]:
    """Return spent and held."""
    [state] = await replica.ledger.states([BUDGET], NOON)
    return state.spent_picousd, state.held_picousd


async def tick(clock: Clock, *replicas: Replica) -> None:
    """Let the time between two looks pass, and let every replica look."""
    clock.advance(TICK_SECONDS)
    for replica in replicas:
        await replica.upkeep.run_once()


async def test_books_of_an_unused_redis_are_opened_with_what_the_log_has(client: RedisClient, clock: Clock) -> None:
    """The first start on an empty Redis puts the log's charges in, at once."""
    logged = [charge(1, BUDGET, amount=30), charge(2, BUDGET, amount=12)]
    replica = Replica("a", client, clock, logged=logged)
    assert isinstance(await replica.ledger.reserve(ask(3, BUDGET, amount=1)), Refusal)
    await replica.upkeep.run_once()
    assert replica.upkeep.state is BooksState.PRESENT
    assert replica.rebuilds == [None]
    assert (await used(replica))[0] == 42
    assert replica.counted("penstock_ledger_rebuilt_charges_total") == 2.0


async def test_books_that_were_flushed_are_noticed_by_the_next_request_and_not_granted_from(
    client: RedisClient, clock: Clock, caplog: pytest.LogCaptureFixture
) -> None:
    """After a flush nobody gets a budget anew: the fail mode holds until spend is back. It is logged once."""
    replica = Replica("a", client, clock, mode=FailMode.CLOSED)
    await replica.upkeep.run_once()
    await spend(replica, 1, 990)
    await flush(client)
    for number in range(20):
        answer = await replica.ledger.reserve(ask(f"new-{number}", BUDGET, amount=50))
        assert isinstance(answer, Refusal)
        assert answer.reason is RefusalReason.UNAVAILABLE
    assert replica.upkeep.state is BooksState.LOST
    with pytest.raises(LedgerUnavailable):
        await replica.ledger.states([BUDGET], NOON)
    assert [r.message for r in caplog.records if r.levelname == "WARNING"] == ["ledger_state_changed"]
    await tick(clock, replica)
    await tick(clock, replica)
    assert await used(replica) == (990, 0)
    answer = await replica.ledger.reserve(ask("late", BUDGET, amount=50))
    assert isinstance(answer, Refusal)
    assert answer.reason is RefusalReason.BUDGET


async def test_books_that_were_flushed_hold_again_what_is_under_way(client: RedisClient, clock: Clock) -> None:
    """Requests under way and slices are held again before the books are opened."""
    replica = Replica("a", client, clock, rules=RULES)
    await replica.upkeep.run_once()
    assert isinstance(await replica.ledger.reserve(ask(1, BUDGET, amount=600)), Grant)
    await tick(clock, replica)
    assert await used(replica) == (0, 640)
    await flush(client)
    await replica.ledger.reserve(ask(2, BUDGET, amount=10))
    assert replica.upkeep.state is BooksState.LOST
    await tick(clock, replica)
    await tick(clock, replica)
    spent, held = await used(replica)
    assert spent == 0
    assert 600 + 10 <= held <= 660
    await replica.ledger.settle([charge(1, BUDGET, amount=580), charge(2, BUDGET, amount=10)])
    assert (await used(replica))[0] == 590


async def test_books_that_were_flushed_open_when_every_replica_has_put_its_log_back(
    client: RedisClient, clock: Clock
) -> None:
    """Each replica knows its own charges only, so none is granted anything before all of them are there."""
    first, second = Replica("a", client, clock, rules=RULES), Replica("b", client, clock, rules=RULES)
    for replica in (first, second):
        await replica.upkeep.run_once()
    await spend(first, 1, 400)
    await spend(second, 2, 500)
    await flush(client)
    await first.ledger.reserve(ask(3, BUDGET, amount=1))
    await first.upkeep.run_once()
    assert first.upkeep.state is BooksState.LOST  # done, but the second may not have noticed yet
    assert isinstance(await first.ledger.reserve(ask(4, BUDGET, amount=300)), Refusal)
    clock.advance(TICK_SECONDS / 2)
    await first.upkeep.run_once()
    assert first.upkeep.state is BooksState.LOST
    await tick(clock, second, first)
    assert {first.upkeep.state, second.upkeep.state} == {BooksState.PRESENT}
    assert (await used(first))[0] == (await used(second))[0] == 900
    answer = await first.ledger.reserve(ask(5, BUDGET, amount=300))
    assert isinstance(answer, Refusal)
    assert answer.reason is RefusalReason.BUDGET
    assert (first.rebuilds, second.rebuilds) == ([None, None], [None, None])


async def test_books_that_were_flushed_hold_the_slice_of_a_replica_that_is_cut_off_since(
    client: RedisClient, clock: Clock
) -> None:
    """A replica may still spend its slice when the books are opened without it, so nobody else gets that money."""
    first, second = Replica("a", client, clock, rules=RULES), Replica("b", client, clock, rules=RULES)
    for number, replica in enumerate((first, second)):
        await replica.upkeep.run_once()
        assert isinstance(await replica.ledger.reserve(ask(number, BUDGET, amount=1)), Grant)
        await replica.ledger.settle([charge(number, BUDGET, amount=0)])
        await tick(clock, replica)
    await flush(client)
    await second.ledger.reserve(ask("unnoticed", BUDGET, amount=1000))
    await second.upkeep.run_once()
    second.commands.is_away = True
    for _ in range(2):
        await tick(clock, first)
    assert first.upkeep.state is BooksState.PRESENT
    assert isinstance(await first.ledger.reserve(ask("all", BUDGET, amount=951)), Refusal)
    assert isinstance(await first.ledger.reserve(ask("most", BUDGET, amount=950)), Grant)
    assert isinstance(await second.ledger.reserve(ask("slice", BUDGET, amount=50)), Grant)


async def test_books_wait_for_a_replica_that_is_busy_putting_its_log_back(client: RedisClient, clock: Clock) -> None:
    """A long log keeps the books closed until it is in, as long as its replica says that it is at work."""
    first, second = Replica("a", client, clock), Replica("b", client, clock)
    for replica in (first, second):
        await replica.upkeep.run_once()
    await flush(client)
    await second.redis.mark("busy", second.upkeep._identity)
    for _ in range(2):
        await tick(clock, first)
    assert first.upkeep.state is BooksState.LOST
    await tick(clock, second, first)
    assert first.upkeep.state is BooksState.PRESENT


async def test_books_do_not_wait_for_ever_for_a_replica_that_died_at_it(client: RedisClient, clock: Clock) -> None:
    """A replica that says nothing for the length of a lease is not waited for; it puts its log back when it comes."""
    first, second = Replica("a", client, clock), Replica("b", client, clock, logged=[charge(7, BUDGET, amount=70)])
    for replica in (first, second):
        await replica.upkeep.run_once()
    await flush(client)
    await second.redis.mark("busy", second.upkeep._identity)
    for _ in range(4):
        await tick(clock, first)
    assert first.upkeep.state is BooksState.PRESENT
    assert (await used(first))[0] == 0
    again = Replica("b", client, clock, logged=second.logged)
    await again.upkeep.run_once()
    assert (await used(first))[0] == 70


async def test_books_take_what_a_killed_replica_had_not_charged_when_it_starts_again(
    client: RedisClient, clock: Clock
) -> None:
    """An outcome that was on disk and not charged yet is charged by the next start, and no other one twice."""
    replica = Replica("a", client, clock)
    await replica.upkeep.run_once()
    await spend(replica, 1, 10)
    await tick(clock, replica)
    late = charge(2, BUDGET, amount=5, at=clock())
    again = Replica("a", client, clock, logged=[*replica.logged, late])
    await again.upkeep.run_once()
    assert again.rebuilds == [clock() - 5.0]
    assert (await used(again))[0] == 15


async def test_books_of_a_log_shared_by_two_processes_remember_the_one_that_is_behind(
    client: RedisClient, clock: Clock
) -> None:
    """A process that was killed long before the other one is not forgotten for the other's progress."""
    first, second = Replica("a", client, clock), Replica("a", client, clock)
    second.upkeep._identity = type(second.upkeep._identity)("second", first.upkeep._identity.log)
    for replica in (first, second):
        await replica.upkeep.run_once()
    killed_at = clock()
    for _ in range(3):
        await tick(clock, second)
    again = Replica("a", client, clock)
    again.upkeep._identity = type(second.upkeep._identity)("again", first.upkeep._identity.log)
    await again.upkeep.run_once()
    assert again.rebuilds == [killed_at - 5.0]


async def test_books_after_an_orderly_end_have_nothing_to_take_from_the_log(client: RedisClient, clock: Clock) -> None:
    """Who settled everything before it ended looks at the last seconds of its log only."""
    replica = Replica("a", client, clock)
    await replica.upkeep.run_once()
    await spend(replica, 1, 10)
    clock.advance(1000.0)
    await replica.ledger.aclose()
    again = Replica("a", client, clock, logged=replica.logged)
    await again.upkeep.run_once()
    assert again.rebuilds == [clock() - 5.0]
    assert (await used(again))[0] == 10


async def test_books_that_remember_no_marks_of_a_tail_leave_it_to_reconciling(
    client: RedisClient, clock: Clock, caplog: pytest.LogCaptureFixture
) -> None:
    """Charging again what may have been charged long ago could count it twice, so it is told instead."""
    replica = Replica("a", client, clock)
    await replica.upkeep.run_once()
    await spend(replica, 1, 10)
    clock.advance(2 * 86_400.0)
    again = Replica("a", client, clock, logged=replica.logged)
    await again.upkeep.run_once()
    assert again.rebuilds == []
    assert again.upkeep.state is BooksState.PRESENT
    assert "ledger_tail_too_old" in caplog.messages
    assert again.counted("penstock_ledger_problems_total", problem="tail_too_old") == 1.0


async def test_books_whose_rebuilding_is_interrupted_are_rebuilt_from_the_beginning(
    client: RedisClient, clock: Clock
) -> None:
    """Redis may go away again at any point; what was put back already counts once."""
    logged = [charge(number, BUDGET, amount=1) for number in range(20)]
    replica = Replica("a", client, clock, logged=logged)
    rebuild = replica.upkeep._rebuild

    async def interrupted(since: float | None):  # type: ignore[no-untyped-def]
        async for batch in rebuild(since):
            replica.commands.is_away = len(replica.commands.sent) == 12
            yield batch

    replica.upkeep._rebuild = interrupted
    with pytest.raises(LedgerUnavailable):
        await replica.upkeep.run_once()
    replica.commands.is_away = False
    await replica.upkeep.run_once()
    assert len(replica.rebuilds) == 2
    assert (await used(replica))[0] == 20
