"""Directories over stores in memory, a ledger that says what it is told, and an admin API over them.

Read `open_parts`.
"""

from __future__ import annotations

import json
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any

import httpx
from pydantic import SecretStr

from penstock_cache.errors import StoreUnavailable
from penstock_gateway.accounts.agreement import Known
from penstock_gateway.accounts.directory import Directory
from penstock_gateway.accounts.records import AccountSnapshot, Changes
from penstock_gateway.accounts.registrar import Registrar
from penstock_gateway.accounts.store import AccountsConflict, AccountsLost, AccountStore, next_version
from penstock_gateway.endpoints.admin import AdminApp, admin_app
from penstock_gateway.ledger.contract import (
    Account,
    BudgetState,
    Charge,
    Grant,
    LedgerUnavailable,
    Period,
    Refusal,
    Reservation,
)
from penstock_gateway.settings import Settings
from penstock_gateway.settings_accounts import AccountsSettings, AdminSettings
from penstock_gateway.settings_models import DeploymentSettings

PEPPER = b"pepper-of-the-tests-0123456789abcdef"
ADMIN_KEY = "admin-key-of-the-tests-0123456789"
NOW = 1_796_000_000.0


@dataclass
class Clock:
    """UNIX seconds that stand still until a test moves them."""

    now: float = NOW

    def __call__(self) -> float:
        """Return the time."""
        return self.now


class MemoryAccountStore:
    """A store without a disk; may be told to be away, or be emptied."""

    kind = "memory"

    def __init__(self) -> None:
        self.snapshot = AccountSnapshot()
        self.is_away = False
        self.commits = 0
        self.loads = 0

    async def version(self) -> str:
        """Return the version."""
        self._answer()
        return self.snapshot.version

    async def load(self) -> AccountSnapshot:
        """Return everything."""
        self._answer()
        self.loads += 1
        return self.snapshot

    async def commit(self, expected_version: str, changes: Changes) -> str:
        """Write a change."""
        self._answer()
        if self.snapshot.version != expected_version:
            raise AccountsConflict if self.snapshot.version else AccountsLost
        self.commits += 1
        version = next_version(expected_version)
        self.snapshot = self.snapshot.with_changes(changes, version)
        return version

    async def aclose(self) -> None:
        """Do nothing."""

    def flush(self) -> None:
        """Lose everything."""
        self.snapshot = AccountSnapshot()

    def _answer(self) -> None:
        if self.is_away:
            raise StoreUnavailable("The store of the test is away.")


@dataclass
class ToldLedger:
    """A ledger that reports the spend it was given, in picodollars by scope."""

    spent: dict[str, int] = field(default_factory=dict)
    is_away: bool = False
    asked: list[tuple[tuple[str, ...], Period, float]] = field(default_factory=list)

    async def reserve(self, reservation: Reservation) -> Grant | Refusal:
        """Grant everything."""
        return Grant()

    async def top_up(self, reservation_id: str, amount_picousd: int, tokens: int) -> Refusal | None:
        """Grant everything."""
        return None

    async def settle(self, charges: Sequence[Charge]) -> None:
        """Forget it."""

    async def states(self, accounts: Sequence[Account], at: float) -> tuple[BudgetState, ...]:
        """Return a state for each budget, with the spend of its scope."""
        self._answer()
        return tuple(
            BudgetState(
                account.scope,
                budget.period,
                "window",
                budget.limit_picousd,
                self.spent.get(account.scope, 0),
                0,
                at + 60,
            )
            for account in accounts
            for budget in account.budgets
        )

    async def spent_picousd(self, scopes: Sequence[str], period: Period, at: float) -> tuple[int, ...]:
        """Return what was given."""
        self._answer()
        self.asked.append((tuple(scopes), period, at))
        return tuple(self.spent.get(scope, 0) for scope in scopes)

    async def aclose(self) -> None:
        """Do nothing."""

    def _answer(self) -> None:
        if self.is_away:
            raise LedgerUnavailable


def settings_of(**sections: Any) -> Settings:
    """Return settings with two deployments, a store of accounts and an admin API."""
    given: dict[str, Any] = {
        "deployments": (
            DeploymentSettings(name="small", base_url="http://127.0.0.1:9/v1", tier="small"),
            DeploymentSettings(name="large", base_url="http://127.0.0.1:9/v1", tier="large"),
        ),
        "accounts": AccountsSettings(store="file", folder="unused"),
        "admin": AdminSettings(port=0, key=SecretStr(ADMIN_KEY)),
    }
    return Settings(**{**given, **sections})


@dataclass
class Parts:
    """A directory, what changes it, and what it stands on."""

    directory: Directory
    registrar: Registrar
    store: MemoryAccountStore
    clock: Clock
    problems: list[str]


def open_parts(settings: Settings | None = None, *, store: AccountStore | None = None, pepper: bytes = PEPPER) -> Parts:
    """Return a directory over a store in memory that has not been read yet."""
    settings = settings or settings_of()
    clock, problems = Clock(), []
    memory = store or MemoryAccountStore()
    directory = Directory(settings, memory, pepper, clock=clock, on_problem=problems.append)
    registrar = Registrar(directory, lambda: Known.from_settings(settings))
    return Parts(directory, registrar, memory, clock, problems)


@dataclass
class AdminApi:
    """The admin API, called without a socket."""

    http: httpx.AsyncClient
    app: AdminApp
    parts: Parts
    ledger: ToldLedger
    errors: list[str]

    async def ask(self, method: str, path: str, content: Any = None, **options: Any) -> httpx.Response:
        """Send one request with the admin key."""
        if content is not None:
            options["content"] = content if isinstance(content, bytes) else json.dumps(content).encode()
            options["headers"] = {"content-type": "application/json", **options.get("headers", {})}
        return await self.http.request(method, path, **options)


@asynccontextmanager
async def admin_api(
    settings: Settings | None = None, *, key: str | None = ADMIN_KEY, headers: Mapping[str, str] | None = None
) -> AsyncIterator[AdminApi]:
    """Run the admin API over a store in memory."""
    settings = settings or settings_of()
    parts, ledger, errors = open_parts(settings), ToldLedger(), []
    app = admin_app(settings, parts.directory, ledger, on_refusal=errors.append)
    sent = {"authorization": f"Bearer {key}"} if key else {}
    transport = httpx.ASGITransport(app=app)
    async with httpx.AsyncClient(
        transport=transport, base_url="http://127.0.0.1:4001", headers={**sent, **(headers or {})}
    ) as http:
        yield AdminApi(http, app, parts, ledger, errors)
