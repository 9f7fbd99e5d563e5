"""One suite over every ledger: memory, one Redis server, a cluster, and a fleet's whose Redis is there. Money here;
limits that renew themselves are in test_ledger_limits.py."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterator

import pytest

from penstock_gateway.ledger.contract import Account, Grant, Ledger, Period, RateLimits, Refusal, RefusalReason
from penstock_gateway.ledger.memory import MemoryLedger
from penstock_gateway.ledger.redis_ledger import RedisLedger
from penstock_gateway.ledger.slices import SliceRules
from penstock_gateway.money.amounts import MAX_PICOUSD
from penstock_gateway.redis_client import RedisClient
from support.ledger_parts import LEASE_SECONDS, NOON, Clock, Replica, ask, charge, key, open_books, redis_ledger
from support.redis_server import NOT_INSTALLED, redis_binary
from support.redis_variants import redis_cluster

KINDS = [
    "memory",
    pytest.param("redis", marks=pytest.mark.redis),
    pytest.param("cluster", marks=pytest.mark.redis),
    pytest.param("fleet", marks=pytest.mark.redis),
]
DAY = Period.DAY


@pytest.fixture(scope="module")
def cluster_url() -> Iterator[str]:
    """URL of a cluster of two servers."""
    binary = redis_binary()
    if binary is None:
        pytest.skip(NOT_INSTALLED)
    with redis_cluster(binary) as url:
        yield url


async def _empty(url: str) -> None:
    import redis.asyncio

    client = redis.asyncio.RedisCluster.from_url(url.replace("+cluster", ""))
    await client.flushall(target_nodes=redis.asyncio.RedisCluster.PRIMARIES)
    await client.aclose()


@pytest.fixture
def clock() -> Clock:
    """The time, which passes when the test says so."""
    return Clock()


@pytest.fixture(params=KINDS)
async def ledger(request: pytest.FixtureRequest, clock: Clock) -> AsyncIterator[Ledger]:
    """An empty ledger of each kind."""
    if request.param == "memory":
        yield MemoryLedger(lease_seconds=LEASE_SECONDS, clock=clock)
        return
    url = request.getfixturevalue("cluster_url" if request.param == "cluster" else "redis_url")
    if request.param == "cluster":
        await _empty(url)
    client = RedisClient(url)
    try:
        if request.param == "fleet":
            replica = Replica("a", client, clock, rules=SliceRules(0.0, 0))
            await replica.upkeep.run_once()
            yield replica.ledger
            await replica.ledger.aclose()
        else:
            made = redis_ledger(client, clock)
            await open_books(made)
            yield made
    finally:
        await client.aclose()


def granted(answer: Grant | Refusal) -> Grant:
    """Return a grant; fail the test for a refusal."""
    assert isinstance(answer, Grant), answer
    return answer


def refused(answer: Grant | Refusal | None) -> Refusal:
    """Return a refusal; fail the test for a grant."""
    assert isinstance(answer, Refusal), answer
    return answer


async def renew(ledger: Ledger) -> None:
    """Prolong leases, as the ledger's background task does."""
    if isinstance(ledger, MemoryLedger | RedisLedger):
        await ledger.renew()
    else:
        await ledger.upkeep.run_once()  # type: ignore[attr-defined]


async def used(ledger: Ledger, *accounts: Account, at: float = NOON) -> list[tuple[int, int]]:
    """Return spent and held of every budget."""
    return [(state.spent_picousd, state.held_picousd) for state in await ledger.states(accounts, at)]


async def test_reserve_of_three_accounts_holds_the_amount_on_every_budget_of_each(ledger: Ledger) -> None:
    """Key, team and tag each hold the whole amount, in every window that has a budget."""
    accounts = (
        key((DAY, 100), (Period.TOTAL, 1000)),
        key((Period.MONTH, 500), name="team:red"),
        key((Period.HOUR, 70), name="tag:x"),
    )
    grant = granted(await ledger.reserve(ask(1, *accounts, amount=60)))
    assert [(state.scope, state.period, state.window, state.held_picousd) for state in grant.budgets] == [
        ("key:a", DAY, "2096-10-02", 60),
        ("key:a", Period.TOTAL, "total", 60),
        ("team:red", Period.MONTH, "2096-10", 60),
        ("tag:x", Period.HOUR, "2096-10-02T12", 60),
    ]
    assert await ledger.states(accounts, NOON) == grant.budgets
    assert not grant.is_local


@pytest.mark.parametrize("too_small", [0, 1, 2])
async def test_reserve_that_one_account_refuses_holds_nothing_on_any(ledger: Ledger, too_small: int) -> None:
    """Whichever of key, team and tag refuses, the others hold nothing and have lost no request of their limits."""
    limits = RateLimits(requests_per_minute=1, tokens_per_minute=10, parallel_requests=1)
    accounts = [key((DAY, 100), name=name, limits=limits) for name in ("key:a", "team:red", "tag:x")]
    accounts[too_small] = key((DAY, 5), name=accounts[too_small].scope, limits=limits)
    refusal = refused(await ledger.reserve(ask(1, *accounts, amount=6, tokens=10)))
    assert (refusal.reason, refusal.scope) == (RefusalReason.BUDGET, accounts[too_small].scope)
    assert await used(ledger, *accounts) == [(0, 0)] * 3
    granted(await ledger.reserve(ask(2, *accounts, amount=5, tokens=10)))


@pytest.mark.parametrize("limit", [100, 2**53 + 1, 9_007_199_254_740_995, MAX_PICOUSD])
async def test_reserve_up_to_the_limit_passes_and_one_picodollar_more_does_not(ledger: Ledger, limit: int) -> None:
    """Limits are exact to the picodollar, also where numbers of 53 bits would not be."""
    account = key((Period.TOTAL, limit))
    await ledger.settle([charge(0, account, amount=limit - 51)])
    refused(await ledger.reserve(ask(1, account, amount=52)))
    granted(await ledger.reserve(ask(2, account, amount=50)))
    refused(await ledger.reserve(ask(3, account, amount=2)))
    granted(await ledger.reserve(ask(4, account, amount=1)))
    refused(await ledger.reserve(ask(5, account, amount=1)))
    assert await used(ledger, account) == [(limit - 51, 51)]


async def test_reserve_of_nothing_passes_in_a_budget_that_is_used_up(ledger: Ledger) -> None:
    """An answer from the cache costs nothing, and a budget limits what is spent."""
    account = key((DAY, 10))
    await ledger.settle([charge(1, account, amount=25)])
    grant = granted(await ledger.reserve(ask(2, account, amount=0)))
    assert grant.budgets[0].spent_picousd == 25
    refused(await ledger.reserve(ask(3, account, amount=1)))


async def test_reserve_of_an_open_id_gives_the_same_grant_and_holds_once(ledger: Ledger) -> None:
    """A reservation that is sent again, because its reply was lost, is the first one."""
    account = key((DAY, 100), limits=RateLimits(requests_per_minute=2, tokens_per_minute=100, parallel_requests=3))
    first = await ledger.reserve(ask(1, account, amount=60, tokens=40))
    assert await ledger.reserve(ask(1, account, amount=60, tokens=40)) == first
    assert await used(ledger, account) == [(0, 60)]
    await ledger.settle([charge(1, account, amount=60, tokens=40)])
    assert await used(ledger, account) == [(60, 0)]


async def test_reserve_of_a_settled_id_holds_nothing_and_is_not_charged_again(ledger: Ledger) -> None:
    """A reservation that arrives after its own charge leaves no trace."""
    account = key((DAY, 100), limits=RateLimits(requests_per_minute=5, parallel_requests=5))
    await ledger.settle([charge(1, account, amount=30)])
    grant = granted(await ledger.reserve(ask(1, account, amount=60)))
    assert [limit.remaining for limit in grant.limits] == [5, 5]
    await ledger.settle([charge(1, account, amount=30)])
    assert await used(ledger, account) == [(30, 0)]


async def test_settle_of_a_reservation_charges_the_actual_and_returns_the_rest(ledger: Ledger) -> None:
    """After settling, the actual is spent and nothing is held."""
    account, team = key((DAY, 100)), key((Period.WEEK, 100), name="team:red")
    granted(await ledger.reserve(ask(1, account, team, amount=90)))
    refused(await ledger.reserve(ask(2, account, team, amount=90)))
    await ledger.settle([charge(1, account, team, amount=8)])
    assert await used(ledger, account, team) == [(8, 0), (8, 0)]
    granted(await ledger.reserve(ask(2, account, team, amount=90)))


async def test_settle_without_any_budget_counts_in_all_five_periods(ledger: Ledger) -> None:
    """Spend is counted for every scope and period, whether or not a budget or a reservation is there."""
    accounts = (key(), key(name="team:red"), key(name="tag:x"))
    await ledger.settle([charge(1, *accounts, amount=7), charge(2, accounts[0], amount=1)])
    for period in Period:
        spent = await ledger.spent_picousd(["key:a", "team:red", "tag:x", "key:unknown"], period, NOON)
        assert spent == (8, 7, 7, 0)


@pytest.mark.parametrize("is_one_batch", [True, False])
async def test_settle_of_a_charge_that_was_settled_counts_once(ledger: Ledger, is_one_batch: bool) -> None:
    """A charge counts once, in one batch or in several, also when its batch has new ones beside it."""
    account = key((DAY, 100))
    granted(await ledger.reserve(ask(1, account, amount=50)))
    first = charge(1, account, amount=10)
    if is_one_batch:
        await ledger.settle([first, first, charge(2, account, amount=3), first])
    else:
        await ledger.settle([first])
        await ledger.settle([first, charge(2, account, amount=3)])
    assert await used(ledger, account) == [(13, 0)]


async def test_settle_above_the_reservation_is_charged_in_full_and_stops_the_next(ledger: Ledger) -> None:
    """A bill of ten times the estimate is counted, and the budget refuses from then on."""
    account = key((DAY, 100))
    granted(await ledger.reserve(ask(1, account, amount=20)))
    await ledger.settle([charge(1, account, amount=200)])
    refusal = refused(await ledger.reserve(ask(2, account, amount=1)))
    assert refusal.budget is not None
    assert (refusal.budget.spent_picousd, refusal.budget.used_share) == (200, 2.0)


async def test_settle_after_midnight_charges_the_day_in_which_the_request_began(ledger: Ledger) -> None:
    """A request that runs over midnight holds and costs in the window of its admission, and the next day is whole."""
    account = key((DAY, 100))
    evening, morning = NOON + 12 * 3600 - 1.0, NOON + 12 * 3600 + 1.0
    granted(await ledger.reserve(ask(1, account, amount=90, at=evening)))
    grant = granted(await ledger.reserve(ask(2, account, amount=95, at=morning)))
    assert grant.budgets[0].window == "2096-10-03"
    await ledger.settle([charge(1, account, amount=80, at=evening)])
    assert await used(ledger, account, at=evening) == [(80, 0)]
    assert await used(ledger, account, at=morning) == [(0, 95)]


async def test_settle_of_many_at_once_counts_each(ledger: Ledger) -> None:
    """A batch larger than any script takes is counted whole."""
    account = key((DAY, MAX_PICOUSD), name="team:red")
    await ledger.settle([charge(number, account, amount=number) for number in range(450)])
    assert await used(ledger, account) == [(450 * 449 // 2, 0)]


async def test_settle_up_to_what_a_counter_holds_stays_there(ledger: Ledger) -> None:
    """A counter that is full stays full; it does not turn over and open the budget again."""
    account = key((Period.TOTAL, MAX_PICOUSD))
    for number in range(3):
        await ledger.settle([charge(number, account, amount=MAX_PICOUSD - 5)])
    assert await used(ledger, account) == [(MAX_PICOUSD, 0)]
    refused(await ledger.reserve(ask(9, account, amount=1)))


@pytest.mark.parametrize("amount", [-5, -(10**30), 10**30])
async def test_amount_outside_of_what_counters_take_is_bounded(ledger: Ledger, amount: int) -> None:
    """Absurd amounts never give money back, and never break a counter."""
    account = key((Period.TOTAL, MAX_PICOUSD))
    await ledger.reserve(ask(1, account, amount=amount, tokens=amount))
    await ledger.settle([charge(1, account, amount=amount, tokens=amount)])
    assert await used(ledger, account) == [(0 if amount < 0 else MAX_PICOUSD, 0)]


async def test_account_that_is_named_twice_holds_and_pays_once(ledger: Ledger) -> None:
    """A tag that a request carries twice is one account."""
    account = key((DAY, 100), name="tag:x", limits=RateLimits(parallel_requests=1))
    granted(await ledger.reserve(ask(1, account, account, amount=40)))
    assert await used(ledger, account) == [(0, 40)]
    await ledger.settle([charge(1, account, account, amount=30)])
    assert await used(ledger, account) == [(30, 0)]


async def test_top_up_within_the_budget_holds_more_and_beyond_it_changes_nothing(ledger: Ledger) -> None:
    """A stream grows until the budget refuses; what it had is still held then."""
    account, team = key((DAY, 1000)), key((DAY, 100), name="team:red")
    granted(await ledger.reserve(ask(1, account, team, amount=60)))
    assert await ledger.top_up("dec_1", 40, 10) is None
    refusal = refused(await ledger.top_up("dec_1", 1, 1))
    assert (refusal.reason, refusal.scope) == (RefusalReason.BUDGET, "team:red")
    assert await used(ledger, account, team) == [(0, 100), (0, 100)]
    assert await ledger.top_up("dec_1", 0, 1) is None
    await ledger.settle([charge(1, account, team, amount=99)])
    assert await used(ledger, account, team) == [(99, 0), (99, 0)]


async def test_top_up_of_a_request_that_is_not_under_way_is_unavailable(ledger: Ledger) -> None:
    """Neither an unknown nor a settled request grows."""
    account = key((DAY, 100))
    assert refused(await ledger.top_up("dec_unknown", 1, 1)).reason is RefusalReason.UNAVAILABLE
    granted(await ledger.reserve(ask(1, account, amount=10)))
    await ledger.settle([charge(1, account, amount=10)])
    assert refused(await ledger.top_up("dec_1", 1, 1)).reason is RefusalReason.UNAVAILABLE
    assert await used(ledger, account) == [(10, 0)]


@pytest.mark.parametrize(
    ("period", "amount", "wait"),
    [
        (Period.HOUR, 100, 1800.0),
        (DAY, 100, 11.5 * 3600),
        (DAY, 101, None),  # larger than the whole limit: never
        (Period.TOTAL, 100, None),
    ],
)
async def test_refusal_of_a_budget_says_when_the_request_may_pass(
    ledger: Ledger, period: Period, amount: int, wait: float | None
) -> None:
    """The wait is until the next window, and there is none for a request that never passes."""
    account = key((period, 100))
    at = NOON + 1800.0
    await ledger.settle([charge(1, account, amount=50, at=at)])
    refusal = refused(await ledger.reserve(ask(2, account, amount=amount, at=at)))
    assert refusal.retry_after_seconds == wait
    assert refusal.budget == (await ledger.states([account], at))[0]


async def test_states_of_a_soft_limit_tell_when_it_is_passed(ledger: Ledger) -> None:
    """The warning begins with the share of the limit that is spent or held."""
    account = key((DAY, 100), soft=0.5)
    assert not granted(await ledger.reserve(ask(1, account, amount=49))).budgets[0].is_soft_passed
    assert granted(await ledger.reserve(ask(2, account, amount=1))).budgets[0].is_soft_passed


async def test_lease_that_nobody_prolongs_ends_and_gives_the_amount_back(ledger: Ledger, clock: Clock) -> None:
    """What a dead gateway has reserved comes back; its charge counts once when it comes after all."""
    account = key((DAY, 100), limits=RateLimits(parallel_requests=1))
    granted(await ledger.reserve(ask(1, account, amount=90)))
    clock.advance(LEASE_SECONDS / 2)
    refused(await ledger.reserve(ask(2, account, amount=90)))
    clock.advance(LEASE_SECONDS / 2)
    assert await used(ledger, account) == [(0, 0)]
    granted(await ledger.reserve(ask(3, account, amount=90)))
    for _ in range(2):
        await ledger.settle([charge(1, account, amount=85)])
    assert await used(ledger, account) == [(85, 90)]


async def test_lease_that_is_prolonged_holds_for_as_long_as_the_request_takes(ledger: Ledger, clock: Clock) -> None:
    """A stream of an hour keeps what it has reserved."""
    account = key((DAY, 100))
    granted(await ledger.reserve(ask(1, account, amount=90)))
    for _ in range(180):
        clock.advance(LEASE_SECONDS / 3)
        await renew(ledger)
    assert await used(ledger, account) == [(0, 90)]


async def test_lease_after_a_pause_of_everything_has_not_ended(ledger: Ledger, clock: Clock) -> None:
    """Nobody could prolong anything while the store was out of reach, so nothing ended meanwhile."""
    account = key((DAY, 100))
    granted(await ledger.reserve(ask(1, account, amount=90)))
    clock.advance(86_400.0)
    assert await used(ledger, account) == [(0, 90)]
    clock.advance(-2 * 86_400.0)
    assert await used(ledger, account) == [(0, 90)]


async def test_lease_that_has_ended_is_taken_up_again_by_a_request_that_goes_on(ledger: Ledger, clock: Clock) -> None:
    """A request whose lease ended by mistake is held again, by the next top-up or the next prolonging."""
    account = key((DAY, 200))
    granted(await ledger.reserve(ask(1, account, amount=60)))
    granted(await ledger.reserve(ask(2, account, amount=20)))
    for _ in range(2):
        clock.advance(LEASE_SECONDS / 2)
        await ledger.states([account], NOON)
    assert await used(ledger, account) == [(0, 0)]
    assert await ledger.top_up("dec_1", 5, 0) is None
    assert await used(ledger, account) == [(0, 65)]
    await renew(ledger)
    assert await used(ledger, account) == [(0, 85)]


async def test_budget_under_200_reservations_at_once_is_never_passed(ledger: Ledger) -> None:
    """Of 200 concurrent requests exactly as many pass as the tightest of the budgets has room for."""
    account, team = key((DAY, 10_000)), key((DAY, 731), name="team:red")
    answers = await asyncio.gather(*(ledger.reserve(ask(n, account, team, amount=10)) for n in range(200)))
    assert sum(isinstance(answer, Grant) for answer in answers) == 73
    assert await used(ledger, account, team) == [(0, 730), (0, 730)]


async def test_budget_under_200_streams_that_cost_ten_times_as_much_is_passed_by_no_step(ledger: Ledger) -> None:
    """Concurrent streams that grow by top-ups and pay what they hold never pass the budget."""
    account = key((DAY, 1000))

    async def stream(number: int) -> int:
        if not isinstance(await ledger.reserve(ask(number, account, amount=3)), Grant):
            return 0
        held = 3
        while held < 30 and await ledger.top_up(f"dec_{number}", 3, 1) is None:
            held += 3
        await ledger.settle([charge(number, account, amount=held)])
        return held

    paid = sum(await asyncio.gather(*(stream(number) for number in range(200))))
    assert 900 < paid <= 1000
    assert await used(ledger, account) == [(paid, 0)]
