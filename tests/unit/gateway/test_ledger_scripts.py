"""Running scripts: by digest, by text where Redis has lost them, and within one deadline."""

from __future__ import annotations

import hashlib

import msgspec
import pytest

from penstock_cache.errors import StoreUnavailable
from penstock_gateway.ledger.contract import Account, LedgerUnavailable, Period, RateLimits, RefusalReason
from penstock_gateway.ledger.periods import Calendar
from penstock_gateway.ledger.reckoning import AWAY
from penstock_gateway.ledger.redis_layout import KeyTable, Layout, mark_of
from penstock_gateway.ledger.redis_ledger import RedisLedger
from penstock_gateway.ledger.redis_scripts import SCRIPTS, ScriptRunner, script
from penstock_gateway.redis_errors import RedisRefused
from support.ledger_parts import NOON, ask, charge, key


class Answers:
    """Gives replies, or raises errors, in order; remembers what was sent."""

    def __init__(self, *answers: object) -> None:
        self.answers = list(answers)
        self.sent: list[tuple[bytes | int, ...]] = []
        self.deadlines: list[float] = []

    async def execute(self, *command: bytes | int, deadline_seconds: float) -> object:
        """Return the next answer."""
        self.sent.append(command)
        self.deadlines.append(deadline_seconds)
        answer = self.answers.pop(0)
        if isinstance(answer, Exception):
            raise answer
        return answer


@pytest.mark.parametrize("name", SCRIPTS)
def test_script_of_each_name_has_the_shared_part_and_the_digest_of_redis(name: str) -> None:
    """A script's name in Redis is the SHA-1 of its text."""
    found = script(name)
    assert found.text.startswith(b"-- What every script of the ledger shares")
    assert found.digest == hashlib.sha1(found.text).hexdigest().encode()
    assert script(name) is found


async def test_run_of_a_script_that_redis_knows_is_one_command() -> None:
    """The text is not sent again."""
    commands = Answers([b"ok"])
    assert await ScriptRunner(commands, 0.05).run("read", [b"one", b"two"], {"a": 1}) == [b"ok"]
    assert commands.sent == [(b"EVALSHA", script("read").digest, 2, b"one", b"two", b'{"a":1}')]
    assert commands.deadlines == [0.05]


async def test_run_of_a_script_that_redis_has_lost_sends_its_text_within_the_same_deadline() -> None:
    """After a flush of scripts or a failover the second attempt has what is left of the deadline."""
    commands = Answers(RedisRefused("NOSCRIPT"), [b"ok"])
    assert await ScriptRunner(commands, 5.0).run("read", [b"one"], {}) == [b"ok"]
    assert commands.sent[1] == (b"EVAL", script("read").text, 1, b"one", b"{}")
    assert 0.0 < commands.deadlines[1] < 5.0


@pytest.mark.parametrize("reason", ["OOM", "READONLY", "credential", "ERR", "an error"])
async def test_run_that_redis_refuses_otherwise_is_not_repeated(reason: str) -> None:
    """A server that is full or read-only is not asked twice, and the error says nothing of what was asked."""
    commands = Answers(RedisRefused(reason))
    with pytest.raises(LedgerUnavailable) as caught:
        await ScriptRunner(commands, 0.05).run("read", [b"key:secret"], {})
    assert len(commands.sent) == 1
    assert "secret" not in str(caught.value)


async def test_run_whose_second_attempt_fails_is_unavailable() -> None:
    """A failure after NOSCRIPT is a failure."""
    commands = Answers(RedisRefused("NOSCRIPT"), StoreUnavailable("late"))
    with pytest.raises(LedgerUnavailable):
        await ScriptRunner(commands, 0.05).run("read", [], {})


async def test_reserve_without_known_books_asks_and_refuses() -> None:
    """A ledger that has not opened the books grants nothing."""
    ledger = RedisLedger(Answers([b"lost", 0]))
    assert await ledger.reserve(ask(1, key((Period.DAY, 10)), amount=1)) is AWAY
    assert ledger.is_lost
    assert not ledger.has_books()


async def test_reserve_of_key_team_and_tags_is_one_round_trip() -> None:
    """Budgets and limits of all accounts are looked at and taken in one command."""
    counters = [b"0", b"5"] * 3 + [b"60000", b"0", b"1"]
    commands = Answers([b"granted", 0, *counters])
    ledger = RedisLedger(commands)
    ledger.use("e")
    accounts = (
        key((Period.DAY, 10), (Period.TOTAL, 50), limits=RateLimits(requests_per_minute=5, parallel_requests=2)),
        key((Period.MONTH, 10), name="team:red"),
        Account("tag:x"),
    )
    await ledger.reserve(ask(1, *accounts, amount=5))
    assert len(commands.sent) == 1


async def test_reserve_whose_reply_is_late_is_unavailable_and_given_back_later() -> None:
    """What may have been held, and is not wanted any more, is released with the next look."""
    commands = Answers(StoreUnavailable("late"), [b"e"], [b"e", 0, 0, 0])
    ledger = RedisLedger(commands)
    ledger.use("e")
    answer = await ledger.reserve(ask(1, key((Period.DAY, 10)), amount=1))
    assert getattr(answer, "reason", None) is RefusalReason.UNAVAILABLE
    await ledger.renew()
    asked = msgspec.json.decode(commands.sent[2][-1])  # type: ignore[arg-type]
    assert asked["released"] == ["dec_1"]
    assert asked["charges"] == []


def test_layout_of_any_scripts_keys_puts_all_into_one_slot() -> None:
    """One hash tag for each organisation: a script may touch all of its keys on a cluster."""
    layout = Layout("acme", Calendar("Europe/Berlin"), lease_ms=1000, settled_seconds=60)
    accounts = (key((Period.DAY, 10)), key(name="team:{odd}", limits=RateLimits(tokens_per_minute=5)))
    keys, asked = layout.settle([charge(1, *accounts, amount=1), charge(2, *accounts, at=NOON + 86_400.0)], [])
    assert all(each.startswith(b"{penstock:acme}:") for each in keys)
    assert len(keys) == len(set(keys))
    assert {place for each in asked["charges"] for place in (each["k"], *each["w"])} <= set(range(1, len(keys) + 1))


def test_key_table_gives_each_key_one_place_from_one_on() -> None:
    """Lua counts from one."""
    table = KeyTable([b"a", b"b"])
    assert [table.place(each) for each in (b"b", b"c", b"a", b"c")] == [2, 3, 1, 3]
    assert table.keys == [b"a", b"b", b"c"]


def test_mark_of_an_id_is_a_whole_number_of_64_bits_and_always_the_same() -> None:
    """Small sets of such numbers take eight bytes an entry in Redis."""
    marks = {mark_of(f"dec_{number}") for number in range(2000)}
    assert len(marks) == 2000
    assert all(-(2**63) <= int(mark) < 2**63 for mark in marks)
    assert mark_of("dec_1") == mark_of("dec_1")
