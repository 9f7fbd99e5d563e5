"""The page of keys and budgets: who may spend what, how far it is used, and the few changes that are urgent.

Keys are made with the command line, since their secret is shown once and a browser keeps pages; here they are ended.
Read `accounts_page`.
"""

from __future__ import annotations

import logging
from typing import Any, Final

from penstock_gateway.accounts.fields import validated
from penstock_gateway.accounts.records import Kind
from penstock_gateway.accounts.views import group_view, key_view
from penstock_gateway.console.contract import Asked, ConsoleParts, Moved, Page
from penstock_gateway.endpoints.admin_requests import stored
from penstock_gateway.endpoints.admin_spend import accounts_of, budget_views, parse_period, parse_scope, spend_view
from penstock_gateway.errors import GatewayError
from penstock_gateway.ledger.contract import Period
from penstock_gateway.settings_accounts import BudgetSettings

_log = logging.getLogger("penstock.admin")

MAX_ROWS: Final = 200


async def accounts_page(parts: ConsoleParts, asked: Asked) -> Page:
    """Show keys, teams and tags with what they spent this month, and all budgets."""
    directory = parts.admin.directory
    table, now = directory.table, directory.clock()
    wanted = asked.query.get("find", "").strip().lower()
    keys = [key_view(entry, now) for entry in sorted(table.keys.values(), key=lambda entry: entry.name)]
    found = [key for key in keys if wanted in key["name"].lower() or wanted in str(key.get("team") or "").lower()]
    groups = [group_view("team", entry) for entry in table.teams.values()]
    groups += [group_view("tag", entry) for entry in table.tags.values()]
    spend, budgets, problem = await _money(parts)
    scopes = [*(f"team:{name}" for name in sorted(table.teams)), *(f"tag:{name}" for name in sorted(table.tags))]
    scopes += [f"key:{key['id']}" for key in keys]
    return Page(
        "accounts.html",
        {
            "keys": found[:MAX_ROWS],
            "left_out": len(found) - len(found[:MAX_ROWS]),
            "has_keys": bool(keys),
            "find": wanted[:80],
            "groups": sorted(groups, key=lambda group: (group["object"], group["name"]))[:MAX_ROWS],
            "spend": spend,
            "budgets": budgets,
            "money_problem": problem,
            "store": None if directory.store is None else directory.store.kind,
            "store_problem": directory.problem,
            "periods": [period.value for period in Period],
            "scopes": [(scope, _name_of(scope, keys)) for scope in scopes[:1000]],
        },
    )


async def key_change(parts: ConsoleParts, asked: Asked) -> Moved:
    """Revoke a key."""
    revoked = await stored(parts.admin.registrar.revoke_key(asked.form.get("key", "")))
    _note(asked, "revoked", "key", revoked.id)
    return Moved("/accounts", "key-revoked")


async def budget_change(parts: ConsoleParts, asked: Asked) -> Moved:
    """Set or remove a budget."""
    form = asked.form
    kind, name = parse_scope(form.get("scope", ""))
    if form.get("action") == "remove":
        await stored(parts.admin.registrar.remove_budget(kind, name, parse_period(form.get("period", ""))))
        _note(asked, "updated", kind, name)
        return Moved("/accounts", "budget-removed")
    content = {"period": form.get("period", ""), "limit_usd": form.get("limit_usd", "").strip()}
    await stored(parts.admin.registrar.set_budget(kind, name, validated(BudgetSettings, content)))
    _note(asked, "updated", kind, name)
    return Moved("/accounts", "budget-set")


async def _money(parts: ConsoleParts) -> tuple[dict[str, str], list[dict[str, Any]], str]:
    """Return this month's spend by scope and all budgets; or why nobody knows them now."""
    admin = parts.admin
    now = admin.directory.clock()
    try:
        views = [await spend_view(admin, by, Period.MONTH, now) for by in ("key", "team", "tag")]
        accounts = [account for account in accounts_of(admin.directory.table) if account.budgets]
        budgets = await budget_views(admin, accounts[:MAX_ROWS])
    except GatewayError as error:
        return {}, [], error.message
    return {row["scope"]: row["spent_usd"] for view in views for row in view["data"]}, budgets, ""


def _name_of(scope: str, keys: list[dict[str, Any]]) -> str:
    kind, _, name = scope.partition(":")
    found = next((key["name"] for key in keys if kind == "key" and key["id"] == name), name)
    return f"{kind} {found}"


def _note(asked: Asked, action: str, kind: Kind, name: str) -> None:
    _log.info("account_changed", extra={"action": action, "kind": kind, "account": name, "client": asked.client})
