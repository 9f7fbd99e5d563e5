"""Limits that renew themselves, on every ledger: requests and tokens a minute, and parallel requests."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator

import pytest

from penstock_gateway.ledger.contract import (
    Account,
    Grant,
    Ledger,
    LimitKind,
    LimitState,
    Period,
    RateLimits,
    Refusal,
    RefusalReason,
)
from penstock_gateway.ledger.memory import MemoryLedger
from penstock_gateway.redis_client import RedisClient
from support.ledger_parts import LEASE_SECONDS, Clock, ask, charge, key, open_books, redis_ledger


@pytest.fixture
def clock() -> Clock:
    """The time, which passes when the test says so."""
    return Clock()


@pytest.fixture(params=["memory", pytest.param("redis", marks=pytest.mark.redis)])
async def ledger(request: pytest.FixtureRequest, clock: Clock) -> AsyncIterator[Ledger]:
    """An empty ledger of each kind."""
    if request.param == "memory":
        yield MemoryLedger(lease_seconds=LEASE_SECONDS, clock=clock)
        return
    client = RedisClient(request.getfixturevalue("redis_url"))
    made = redis_ledger(client, clock)
    await open_books(made)
    yield made
    await client.aclose()


def limited(requests: int | None = None, tokens: int | None = None, parallel: int | None = None) -> Account:
    """Return an account with limits and no budget."""
    return key(limits=RateLimits(requests, tokens, parallel))


async def outcome(ledger: Ledger, number: int, account: Account, tokens: int = 0) -> RefusalReason | None:
    """Reserve, and return why it was refused, or None."""
    answer = await ledger.reserve(ask(number, account, tokens=tokens))
    return answer.reason if isinstance(answer, Refusal) else None


async def test_reserve_up_to_the_requests_of_a_minute_passes_at_once_and_then_evenly(
    ledger: Ledger, clock: Clock
) -> None:
    """A bucket of one minute's requests may be emptied at once, and gets one back every sixtieth of 60 / limit."""
    account = limited(requests=4)
    for number in range(4):
        assert await outcome(ledger, number, account) is None
    refusal = await ledger.reserve(ask(4, account))
    assert refusal == Refusal(
        RefusalReason.REQUESTS, "key:a", 15.0, limit=LimitState("key:a", LimitKind.REQUESTS, 4, 0, 60.0)
    )
    clock.advance(14.999)
    assert await outcome(ledger, 4, account) is RefusalReason.REQUESTS
    clock.advance(0.001)
    assert await outcome(ledger, 4, account) is None
    assert await outcome(ledger, 5, account) is RefusalReason.REQUESTS
    clock.advance(3600.0)
    for number in range(10, 14):
        assert await outcome(ledger, number, account) is None
    assert await outcome(ledger, 14, account) is RefusalReason.REQUESTS


async def test_reserve_tells_how_much_of_each_limit_is_left(ledger: Ledger, clock: Clock) -> None:
    """A grant says, of every limit, what is left and when it is whole again."""
    account = limited(requests=60, tokens=6000, parallel=3)
    await ledger.reserve(ask(1, account, tokens=1500))
    clock.advance(0.5)
    answer = await ledger.reserve(ask(2, account, tokens=1))
    assert isinstance(answer, Grant)
    assert answer.limits == (
        LimitState("key:a", LimitKind.REQUESTS, 60, 58, 1.5),
        LimitState("key:a", LimitKind.TOKENS, 6000, 4549, 14.51),
        LimitState("key:a", LimitKind.PARALLEL, 3, 1, 0.0),
    )


async def test_reserve_takes_the_upper_bound_of_tokens_and_settle_gives_the_difference_back(ledger: Ledger) -> None:
    """Tokens that were reserved and not used are there for the next request at once."""
    account = limited(tokens=1000)
    assert await outcome(ledger, 1, account, 900) is None
    assert await outcome(ledger, 2, account, 900) is RefusalReason.TOKENS
    await ledger.settle([charge(1, account, tokens=100)])
    assert await outcome(ledger, 2, account, 901) is RefusalReason.TOKENS
    assert await outcome(ledger, 3, account, 900) is None


async def test_settle_of_more_tokens_than_reserved_takes_them_and_the_debt_ends_within_a_minute_more(
    ledger: Ledger, clock: Clock
) -> None:
    """Whatever a provider says it has used, the bucket is whole two minutes later."""
    account = limited(tokens=600)
    assert await outcome(ledger, 1, account, 10) is None
    await ledger.settle([charge(1, account, tokens=10**12)])
    clock.advance(60.0)
    assert await outcome(ledger, 2, account, 1) is RefusalReason.TOKENS
    clock.advance(60.0)
    assert await outcome(ledger, 3, account, 600) is None


async def test_settle_that_is_repeated_gives_tokens_back_once(ledger: Ledger) -> None:
    """A charge that is settled twice refunds its tokens once."""
    account = limited(tokens=1000)
    assert await outcome(ledger, 1, account, 500) is None
    assert await outcome(ledger, 2, account, 500) is None
    await ledger.settle([charge(1, account, tokens=400), charge(1, account, tokens=400)])
    await ledger.settle([charge(1, account, tokens=400)])
    assert await outcome(ledger, 3, account, 101) is RefusalReason.TOKENS
    assert await outcome(ledger, 4, account, 100) is None


@pytest.mark.parametrize(
    ("account", "tokens", "reason"),
    [
        (limited(tokens=100), 101, RefusalReason.TOKENS),
        (limited(tokens=0), 1, RefusalReason.TOKENS),
        (limited(requests=0), 0, RefusalReason.REQUESTS),
        (limited(parallel=0), 0, RefusalReason.PARALLEL),
    ],
)
async def test_reserve_of_more_than_a_whole_limit_is_refused_for_ever(
    ledger: Ledger, account: Account, tokens: int, reason: RefusalReason
) -> None:
    """A request that is larger than the limit is told no time at which it would pass."""
    refusal = await ledger.reserve(ask(1, account, tokens=tokens))
    assert isinstance(refusal, Refusal)
    assert (refusal.reason, refusal.retry_after_seconds) == (reason, None)


async def test_reserve_of_parallel_requests_counts_those_that_are_open(ledger: Ledger) -> None:
    """A request counts as parallel until it is settled, once."""
    account = limited(parallel=2)
    assert await outcome(ledger, 1, account) is None
    assert await outcome(ledger, 1, account) is None
    assert await outcome(ledger, 2, account) is None
    refusal = await ledger.reserve(ask(3, account))
    assert isinstance(refusal, Refusal)
    assert (refusal.reason, refusal.retry_after_seconds) == (RefusalReason.PARALLEL, 1.0)
    for _ in range(3):
        await ledger.settle([charge(1, account)])
    assert await outcome(ledger, 3, account) is None
    assert await outcome(ledger, 4, account) is RefusalReason.PARALLEL


async def test_reserve_refused_by_a_later_account_takes_nothing_from_an_earlier_one(ledger: Ledger) -> None:
    """Limits are looked at on all accounts before anything is taken."""
    first, second = (
        limited(requests=1, tokens=10, parallel=1),
        key(name="team:red", limits=RateLimits(tokens_per_minute=5)),
    )
    refusal = await ledger.reserve(ask(1, first, second, tokens=6))
    assert isinstance(refusal, Refusal)
    assert (refusal.reason, refusal.scope) == (RefusalReason.TOKENS, "team:red")
    assert await outcome(ledger, 2, first, 10) is None


async def test_reserve_against_a_budget_and_a_limit_names_the_budget(ledger: Ledger) -> None:
    """A caller whose budget is used up is not told to come back in a second."""
    account = key((Period.DAY, 10), limits=RateLimits(requests_per_minute=1))
    await ledger.reserve(ask(1, account, amount=10))
    refusal = await ledger.reserve(ask(2, account, amount=1))
    assert isinstance(refusal, Refusal)
    assert refusal.reason is RefusalReason.BUDGET


async def test_top_up_takes_tokens_and_is_never_refused_for_them(ledger: Ledger) -> None:
    """A stream that has begun is not cut for a limit on tokens; the next request waits instead."""
    account = limited(tokens=100)
    assert await outcome(ledger, 1, account, 60) is None
    assert await ledger.top_up("dec_1", 0, 60) is None
    assert await outcome(ledger, 2, account, 1) is RefusalReason.TOKENS
    await ledger.settle([charge(1, account, tokens=90)])
    assert await outcome(ledger, 3, account, 11) is RefusalReason.TOKENS
    assert await outcome(ledger, 4, account, 10) is None


async def test_reserve_after_a_clock_went_back_refills_from_there(ledger: Ledger, clock: Clock) -> None:
    """A clock that is set back neither fills a bucket nor stops it from filling until it has come as far again."""
    account = limited(requests=1)
    assert await outcome(ledger, 1, account) is None
    clock.advance(-86_400.0)
    assert await outcome(ledger, 2, account) is RefusalReason.REQUESTS
    clock.advance(59.999)
    assert await outcome(ledger, 3, account) is RefusalReason.REQUESTS
    clock.advance(0.001)
    assert await outcome(ledger, 4, account) is None


async def test_reserve_under_a_limit_that_was_changed_keeps_what_is_used(ledger: Ledger) -> None:
    """Lowering or raising a limit while it is in use changes what is left by the difference."""
    assert await outcome(ledger, 1, limited(requests=10)) is None
    assert await outcome(ledger, 2, limited(requests=2)) is None
    assert await outcome(ledger, 3, limited(requests=2)) is RefusalReason.REQUESTS
    assert await outcome(ledger, 4, limited(requests=3)) is None


@pytest.mark.parametrize("limit", [10**9, 10**15])
async def test_reserve_under_a_huge_limit_counts_to_the_token(ledger: Ledger, limit: int) -> None:
    """Limits beyond what is counted exactly are taken for the largest that is."""
    account = limited(tokens=limit)
    assert await outcome(ledger, 1, account, 10**9 - 7) is None
    assert await outcome(ledger, 2, account, 8) is RefusalReason.TOKENS
    assert await outcome(ledger, 3, account, 7) is None


async def test_reserve_by_200_at_once_passes_as_many_as_each_limit_has(ledger: Ledger) -> None:
    """Concurrent requests never get more than a bucket holds or than may be open."""
    for number, (account, expected) in enumerate(
        [
            (key(name="key:r", limits=RateLimits(requests_per_minute=17)), 17),
            (key(name="key:t", limits=RateLimits(tokens_per_minute=100)), 14),
            (key(name="key:p", limits=RateLimits(parallel_requests=9)), 9),
        ]
    ):
        answers = await asyncio.gather(
            *(ledger.reserve(ask(1000 * number + each, account, tokens=7)) for each in range(200))
        )
        assert sum(isinstance(answer, Grant) for answer in answers) == expected
