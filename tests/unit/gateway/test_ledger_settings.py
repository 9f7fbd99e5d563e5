"""The `ledger` section: what is refused, what is made of it, and the identity of an event log."""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence
from pathlib import Path

import pytest
from prometheus_client import CollectorRegistry

from penstock_gateway.ledger.assembly import IDENTITY_FILE, log_identity, open_ledger, slice_rules
from penstock_gateway.ledger.contract import Charge, Grant, Period, Refusal
from penstock_gateway.ledger.fleet import FleetLedger
from penstock_gateway.ledger.memory import MemoryLedger
from penstock_gateway.metrics_ledger import LedgerMetrics
from penstock_gateway.settings import ConfigurationError, Settings, load_settings
from penstock_gateway.settings_ledger import LedgerSettings
from support.ledger_parts import NOON, Clock, FailingCommands, ask, charge, key

DEPLOYMENTS = """
deployments:
  - {name: small, base_url: "http://127.0.0.1:9/v1", tier: small, price: {input: 1, output: 1}}
routing: {artifact: none}
"""


def load(folder: Path, text: str, environ: dict[str, str] | None = None) -> Settings:
    """Read a configuration with one deployment and the given text."""
    path = folder / "penstock.yaml"
    path.write_text(DEPLOYMENTS + text)
    return load_settings(path, environ or {})


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("ledger: {kind: redis}", "ledger.redis_url: is needed by the redis store"),
        ("ledger: {kind: redis, redis_url: 'http://x'}", "ledger.redis_url: is not a Redis URL"),
        ("ledger: {timezone: Europe/Berln}", "did you mean 'Europe/Berlin'?"),
        ("ledger: {timezone: '../../etc/passwd'}", "is no IANA time zone"),
        ("ledger: {when_redis_is_away: opne}", "did you mean 'open'?"),
        ("ledger: {slice_share: 1.5}", "ledger.slice_share: should be at most 1"),
        ("ledger: {slice_minimum_usd: -1}", "ledger.slice_minimum_usd"),
        ("ledger: {slice_seconds: 30}", "ledger.slice_seconds: is shorter than lease_seconds (60)"),
        ("ledger: {organisation: 'a{b}'}", "ledger.organisation"),
        ("ledger: {expected_replicas: 0}", "ledger.expected_replicas"),
        ("ledger: {lease_second: 5}", "did you mean 'lease_seconds'?"),
    ],
)
def test_ledger_setting_that_cannot_work_is_refused_with_its_place(tmp_path: Path, text: str, expected: str) -> None:
    """Every mistake is named with the setting, and the nearest match where there is one."""
    with pytest.raises(ConfigurationError) as caught:
        load(tmp_path, text)
    lines = [f"{each.setting}: {each.message} ({each.hint})" for each in caught.value.problems]
    assert any(expected in line for line in lines), lines


def test_ledger_settings_with_a_password_in_the_url_never_show_it(tmp_path: Path) -> None:
    """The URL of Redis is a secret."""
    environ = {"LEDGER_REDIS": "redis://:hunter2@127.0.0.1/0"}
    loaded = load(tmp_path, "ledger: {kind: redis, redis_url: '${LEDGER_REDIS}', timezone: Asia/Tokyo}", environ)
    assert loaded.ledger.kind == "redis"
    assert "hunter2" not in repr(loaded) + loaded.ledger.model_dump_json()


def test_slice_rules_of_settings_are_in_picodollars() -> None:
    """Half a dollar is half a million million picodollars."""
    rules = slice_rules(LedgerSettings(slice_minimum_usd="0.5", slice_share=0.02, expected_replicas=3))  # type: ignore[arg-type]
    assert (rules.minimum_picousd, rules.share, rules.free_parts) == (5 * 10**11, 0.02, 30)


def test_log_identity_of_a_folder_is_made_once_and_stays(tmp_path: Path) -> None:
    """Two processes of one folder have one identity, another folder another; a damaged file is replaced."""
    first = log_identity(tmp_path)
    assert log_identity(tmp_path) == first
    assert [path.name for path in tmp_path.iterdir()] == [IDENTITY_FILE]
    other = tmp_path / "other"
    other.mkdir()
    assert log_identity(other) != first
    (tmp_path / IDENTITY_FILE).write_text("torn")
    assert len(log_identity(tmp_path)) == 32
    assert log_identity(tmp_path) == log_identity(tmp_path)


async def logged(since: float | None) -> AsyncIterator[Sequence[Charge]]:
    """Give an event log of two batches."""
    yield [charge(1, key(), amount=5), charge(2, key(), amount=6)]
    yield [charge(2, key(), amount=6), charge(3, key(), amount=7)]


async def test_open_ledger_in_memory_begins_with_what_the_log_says_and_settles_what_is_put() -> None:
    """Spend survives a restart through the event log, and closing settles what waits."""
    registry = CollectorRegistry()
    opened = await open_ledger(LedgerSettings(), LedgerMetrics(registry), rebuild=logged)
    assert isinstance(opened.ledger, MemoryLedger)
    assert await opened.ledger.spent_picousd(["key:a"], Period.TOTAL, NOON) == (18,)
    opened.queue.put(charge(4, key(), amount=2))
    assert registry.get_sample_value("penstock_ledger_pending_charges") == 1.0
    assert await opened.aclose(30.0) == 0
    assert await opened.ledger.spent_picousd(["key:a"], Period.TOTAL, NOON) == (20,)
    assert registry.get_sample_value("penstock_ledger_settled_total") == 1.0


async def test_open_ledger_while_redis_is_away_starts_and_answers_as_the_fail_mode_says() -> None:
    """A gateway starts without Redis; accounts without budget or limit pass, others wait for it."""
    commands = FailingCommands(None)  # type: ignore[arg-type]
    commands.is_away = True
    settings = LedgerSettings(kind="redis", expected_replicas=2)
    registry = CollectorRegistry()
    opened = await open_ledger(settings, LedgerMetrics(registry), commands=commands, start_seconds=30.0)
    assert isinstance(opened.ledger, FleetLedger)
    assert isinstance(await opened.ledger.reserve(ask(1, key())), Grant)
    assert isinstance(await opened.ledger.reserve(ask(2, key((Period.DAY, 10)), amount=1)), Refusal)
    opened.queue.put(charge(1, key(), amount=2))
    assert await opened.aclose(0.2) == 1


async def test_open_ledger_with_too_many_charges_waiting_admits_no_request() -> None:
    """Charges are never dropped, so there must not be more of them than memory has room for."""
    commands = FailingCommands(None)  # type: ignore[arg-type]
    commands.is_away = True
    settings = LedgerSettings(kind="redis", when_redis_is_away="open", max_pending_charges=1000)
    opened = await open_ledger(settings, LedgerMetrics(CollectorRegistry()), commands=commands, start_seconds=30.0)
    for number in range(1000):
        assert isinstance(await opened.ledger.reserve(ask(number, key((Period.DAY, 10)), amount=1)), Grant)
        opened.queue.put(charge(number, key(), amount=1))
    assert isinstance(await opened.ledger.reserve(ask(1000, key((Period.DAY, 10)), amount=1)), Refusal)
    await opened.aclose(0.01)


def test_clock_of_tests_is_later_than_any_real_one() -> None:
    """Windows of tests end in the future, so that Redis keeps their keys."""
    import time

    assert Clock()() > time.time() + 86_400.0
