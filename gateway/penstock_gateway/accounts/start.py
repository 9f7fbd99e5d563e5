"""Builds the directory of a configuration: pepper, store, table.

Read `open_directory`; `start_problem` tries it out.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from pathlib import Path
from typing import Final

from pydantic import SecretStr

from penstock_cache.stores.redis_commands import RedisCommands
from penstock_gateway.accounts.directory import Directory
from penstock_gateway.accounts.file_store import FileAccountStore
from penstock_gateway.accounts.pepper import PepperError, read_pepper
from penstock_gateway.accounts.records import AccountsDamaged
from penstock_gateway.accounts.redis_store import RedisAccountStore
from penstock_gateway.accounts.store import AccountStore
from penstock_gateway.redis_client import RedisClient, RedisNotUsable
from penstock_gateway.settings_accounts import AccountsSettings
from penstock_gateway.settings_models import Settings
from penstock_gateway.settings_redis_checks import redis_url_of
from penstock_gateway.settings_secrets import SecretFileError

_CONNECTIONS: Final = 2  # one looks for changes, one writes


def open_directory(
    settings: Settings, *, redis: RedisCommands | None = None, on_problem: Callable[[str], None] = lambda _: None
) -> Directory:
    """Return the directory of a configuration; it serves configured keys at once, stored ones after `start`.

    Parameters
    ----------
    settings : Settings
    redis : RedisCommands, optional
        In place of a client of its own; closed with the directory.
    on_problem : callable
        See `Directory`.

    Raises
    ------
    PepperError
        The pepper cannot be used.
    RedisNotUsable
        The URL or the client is.
    SecretFileError
        A key file is.
    """
    accounts = settings.accounts
    return Directory(
        settings,
        _store(accounts, redis, redis_url_of(settings, "accounts")),
        read_pepper(accounts),
        poll_seconds=accounts.poll_seconds,
        on_problem=on_problem,
    )


def start_problem(settings: Settings) -> str | None:
    """Return why a gateway would not start for its accounts, None when it would; for a command line.

    Parameters
    ----------
    settings : Settings

    Notes
    -----
    Opens the directory, reads the store, and closes both. A store that does not answer is no reason: it is waited for.
    """

    async def attempt() -> None:
        directory = open_directory(settings)
        try:
            await directory.start()
        finally:
            await directory.aclose()

    try:
        asyncio.run(attempt())
    except (AccountsDamaged, PepperError, SecretFileError) as error:
        return str(error)
    except RedisNotUsable as error:
        return error.message
    return None


def _store(accounts: AccountsSettings, redis: RedisCommands | None, url: SecretStr | None) -> AccountStore | None:
    if accounts.store == "file":
        assert accounts.folder is not None  # settings_account_checks asks for it
        return FileAccountStore(Path(accounts.folder), timeout_seconds=accounts.timeout_seconds)
    if accounts.store == "redis":
        commands = redis or RedisClient("" if url is None else url.get_secret_value(), connections=_CONNECTIONS)
        return RedisAccountStore(commands, organisation=accounts.organisation, timeout_seconds=accounts.timeout_seconds)
    return None
