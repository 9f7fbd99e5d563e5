"""Opening the directory that a configuration asks for."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest
from pydantic import SecretStr

from penstock_gateway.accounts.agreement import Known
from penstock_gateway.accounts.file_store import FILE, FileAccountStore
from penstock_gateway.accounts.registrar import Registrar
from penstock_gateway.accounts.start import open_directory, start_problem
from penstock_gateway.cli import run
from penstock_gateway.settings import Settings
from penstock_gateway.settings_accounts import AccountsSettings
from penstock_gateway.settings_models import ClientKeySettings
from support.account_parts import settings_of


def _settings(folder: Path, **given: object) -> Settings:
    return settings_of(accounts=AccountsSettings(store="file", folder=str(folder), timeout_seconds=5.0, **given))


async def _with_a_key(settings: Settings) -> str:
    directory = open_directory(settings)
    _, secret = await Registrar(directory, lambda: Known.from_settings(settings)).create_key("ci", {})
    await directory.aclose()
    return secret


async def test_directory_of_a_configuration_has_its_store(tmp_path: Path) -> None:
    """The store is the one that the settings name, and configured keys are valid before anything is read."""
    without = open_directory(Settings(client_keys=(ClientKeySettings(name="acme", key=SecretStr("k" * 20)),)))
    assert without.store is None
    assert without.authenticate("k" * 20).tenant == "acme"
    with_file = open_directory(_settings(tmp_path))
    assert isinstance(with_file.store, FileAccountStore)
    await with_file.aclose()
    redis = AccountsSettings(store="redis", redis_url=SecretStr("redis://127.0.0.1:1/0"), pepper=SecretStr("p" * 16))
    with_redis = open_directory(settings_of(accounts=redis))
    assert with_redis.store is not None
    assert with_redis.store.kind == "redis"
    await with_redis.aclose()


def test_store_that_is_whole_empty_or_away_lets_a_gateway_start(tmp_path: Path) -> None:
    """Nothing is wrong with a first start, nor with a Redis that comes later."""
    assert start_problem(Settings()) is None
    assert start_problem(_settings(tmp_path)) is None
    away = AccountsSettings(store="redis", redis_url=SecretStr("redis://127.0.0.1:1/0"), pepper=SecretStr("p" * 16))
    assert start_problem(settings_of(accounts=away)) is None


async def test_pepper_that_was_lost_is_told_before_the_start(tmp_path: Path) -> None:
    """A pepper that is not the one of the stored keys is named with what to do."""
    await _with_a_key(_settings(tmp_path))
    (tmp_path / "pepper").unlink()
    problem = await asyncio.to_thread(start_problem, _settings(tmp_path))
    assert problem is not None
    assert "give back the old pepper" in problem
    other = await asyncio.to_thread(start_problem, _settings(tmp_path, pepper=SecretStr("another-pepper-012345")))
    assert other == problem


def test_serve_over_a_damaged_store_says_so_in_one_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """A damaged file stops the command with its place and what to do, without a traceback."""
    (tmp_path / FILE).write_text("{")
    path = tmp_path / "penstock.yaml"
    path.write_text(
        "deployments: [{name: small, base_url: 'http://127.0.0.1:9/v1', tier: small, price: {input: 1, output: 1}}]\n"
        "routing: {artifact: none}\naccounts: {store: file, folder: .}\nserver: {port: 0}\n"
    )
    assert run(["serve", "--config", str(path)]) == 1
    shown = capsys.readouterr().err
    assert f"{tmp_path / FILE} is not valid JSON; restore it from a backup" in shown
    assert "Traceback" not in shown
