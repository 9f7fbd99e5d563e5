"""``/admin/budgets`` and ``/admin/spend``: what may be spent, and what has been.

Read `spend_routes`. The counting is the ledger's.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Final

from fastapi import APIRouter, Request
from fastapi.responses import Response

from penstock_gateway.accounts.composition import account_of
from penstock_gateway.accounts.fields import iso, validated
from penstock_gateway.accounts.principal import OPEN_PRINCIPAL
from penstock_gateway.accounts.records import Kind
from penstock_gateway.accounts.table import AccountTable
from penstock_gateway.configuration_problems import did_you_mean
from penstock_gateway.endpoints.admin_requests import (
    AdminParts,
    ModelSpend,
    answer,
    counted,
    note_change,
    page,
    read_object,
    refuse_unknown,
    stored,
    take_name,
)
from penstock_gateway.errors import Conflict, InvalidRequest, NotFound
from penstock_gateway.ledger.contract import Account, BudgetState, Period
from penstock_gateway.model_spend import SpentOnModel
from penstock_gateway.money.amounts import to_usd
from penstock_gateway.money.prices import format_usd
from penstock_gateway.settings_accounts import BudgetSettings, Moment
from penstock_gateway.settings_types import Section

__all__ = ["ModelSpend", "accounts_of", "budget_views", "parse_period", "parse_scope", "spend_routes", "spend_view"]

DIMENSIONS: Final = ("key", "team", "tag", "model")
_CHUNK: Final = 200  # scopes that the ledger is asked for at once, each a few fields of one reply


class _At(Section):
    at: Moment


def spend_routes(parts: AdminParts) -> APIRouter:
    """Return the routes of one gateway.

    Parameters
    ----------
    parts : AdminParts
    """
    routes = APIRouter()
    _add_budgets(routes, parts)
    _add_spend(routes, parts)
    return routes


def _add_budgets(routes: APIRouter, parts: AdminParts) -> None:
    directory, registrar = parts.directory, parts.registrar

    @routes.get("/admin/budgets", summary="Show budgets and how far they are used")
    async def budgets(request: Request) -> Response:
        """Show the budgets of all keys, teams and tags, or of one `scope`; `after` and `limit` page over scopes."""
        accounts = {account.scope: account for account in accounts_of(directory.table) if account.budgets}
        if (scope := request.query_params.get("scope")) is not None:
            known = _scope_of(directory.table, *parse_scope(scope))
            accounts = {name: account for name, account in accounts.items() if name == known}
        scopes, following = page(request, sorted(accounts), known=("scope",))
        data = await budget_views(parts, [accounts[name] for name in scopes])
        return answer({"object": "list", "data": data, "next": following})

    @routes.put("/admin/budgets", summary="Set a budget", openapi_extra=_BUDGET_DOC)
    async def set_budget(request: Request) -> Response:
        """Give a scope a budget, in the place of its budget of that period."""
        content = await read_object(request)
        kind, name = parse_scope(take_name(content, "scope"))
        budget = validated(BudgetSettings, content)
        record = await stored(registrar.set_budget(kind, name, budget))
        scope = f"{kind}:{getattr(record, 'id', name)}"
        note_change(request, "updated", kind, scope.partition(":")[2], ("budgets",))
        return answer({"object": "budget", "scope": scope, **_plain_budget(budget)})

    @routes.delete("/admin/budgets", summary="Remove a budget")
    async def remove_budget(request: Request) -> Response:
        """Take the budget of a `scope` and a `period` away."""
        query = request.query_params
        refuse_unknown(query, ("scope", "period"))
        kind, name = parse_scope(query.get("scope", ""))
        period = parse_period(query.get("period", ""))
        await stored(registrar.remove_budget(kind, name, period))
        note_change(request, "updated", kind, name, ("budgets",))
        return answer({"object": "deletion", "kind": "budget", "scope": f"{kind}:{name}", "period": period.value})


def _add_spend(routes: APIRouter, parts: AdminParts) -> None:
    directory = parts.directory

    @routes.get("/admin/spend", summary="Show what has been spent")
    async def spend(request: Request) -> Response:
        """Show spend in one window, by `by` (key, team, tag or model); of `period`, now or `at` a moment of it.

        With `tokens=true` also the tokens behind it, which are read from the event log; by model they always are.
        """
        query = request.query_params
        refuse_unknown(query, ("by", "period", "at", "tokens"))
        by = query.get("by", "key")
        if by not in DIMENSIONS:
            hint = did_you_mean(by[:40], DIMENSIONS)
            raise InvalidRequest(f"by: should be one of {', '.join(DIMENSIONS)} ({hint}).", param="by")
        period = parse_period(query.get("period", Period.MONTH.value))
        at = directory.clock() if (text := query.get("at")) is None else validated(_At, {"at": text}).at
        tokens = query.get("tokens", "false")
        if tokens not in ("true", "false"):
            raise InvalidRequest("tokens: should be true or false.", code="invalid_value", param="tokens")
        return answer(await spend_view(parts, by, period, at, with_tokens=tokens == "true"))


async def budget_views(parts: AdminParts, accounts: Sequence[Account]) -> list[dict[str, Any]]:
    """Return how far the budgets of accounts are used.

    Raises
    ------
    Overloaded
        ``ledger_unavailable``.
    """
    now = parts.directory.clock()
    states: list[BudgetState] = []
    for chunk in _chunks(list(accounts)):
        states += await counted(parts.ledger.states(chunk, now))
    names = _names(parts.directory.table)
    return [_budget_view(state, names.get(state.scope, state.scope)) for state in states]


async def spend_view(
    parts: AdminParts, by: str, period: Period, at: float, *, with_tokens: bool = False
) -> dict[str, Any]:
    """Return what was spent in the window of a moment, the largest first.

    Parameters
    ----------
    parts : AdminParts
    by : str
        One of `DIMENSIONS`.
    period : Period
    at : float
        UNIX seconds.
    with_tokens : bool
        Whether the event log is read for the tokens of keys, teams or tags: the ledger counts money alone.

    Raises
    ------
    Overloaded, Conflict
        The ledger, or the event log, cannot be read.
    """
    used: dict[str, SpentOnModel] = {}
    is_counted = by != "model"  # by the ledger, beside which the events may know of less
    if by == "model":
        used = await _from_events(parts.model_spend, period, at)
        names, spent = {name: name for name in used}, {name: model.picousd for name, model in used.items()}
    else:
        names = {scope: name for scope, name in _names(parts.directory.table).items() if scope.startswith(f"{by}:")}
        spent = {}
        for chunk in _chunks(sorted(names)):
            spent.update(zip(chunk, await counted(parts.ledger.spent_picousd(chunk, period, at)), strict=True))
        if with_tokens:
            known = await _from_events(parts.account_usage, period, at)
            used = {scope: known.get(scope) or SpentOnModel() for scope in names}
    rows = sorted(((amount, scope) for scope, amount in spent.items() if amount), key=lambda row: (-row[0], row[1]))
    return {
        "object": "spend",
        "by": by,
        "period": period.value,
        "at": iso(at),
        "data": [
            {
                "scope": scope,
                "name": names[scope],
                "spent_usd": format_usd(to_usd(amount)),
                **({"usage": used[scope].counts} if scope in used else {}),
                **({"usage_cost_usd": format_usd(to_usd(used[scope].picousd))} if scope in used and is_counted else {}),
            }
            for amount, scope in rows
        ],
        "total_usd": format_usd(to_usd(sum(spent.values()))),
    }


async def _from_events(read: ModelSpend | None, period: Period, at: float) -> dict[str, SpentOnModel]:
    if read is None:
        raise Conflict(
            "Spend by model, and tokens, are worked out from the events; set events.folder.",
            code="spend_by_model_unavailable",
        )
    return await counted(read(period, at))


def accounts_of(table: AccountTable) -> list[Account]:
    """Return the account of every key, team and tag."""
    keys = [account_of("key", entry.id, entry.fields) for entry in table.keys.values()]
    return [*keys, *(entry.account for entry in table.teams.values()), *(e.account for e in table.tags.values())]


def _names(table: AccountTable) -> dict[str, str]:
    """Return the name of every scope."""
    names = {f"key:{entry.id}": entry.name for entry in table.keys.values()}
    names.setdefault(OPEN_PRINCIPAL.accounts[0].scope, "(no key)")  # what callers spend who need none
    names.update((entry.account.scope, name) for group in (table.teams, table.tags) for name, entry in group.items())
    return names


def parse_scope(scope: str) -> tuple[Kind, str]:
    """Return kind and name of a scope.

    Raises
    ------
    InvalidRequest
    """
    kind, _, name = scope.partition(":")
    if not name or kind not in ("key", "team", "tag"):
        raise InvalidRequest("scope: should be key:ID, team:NAME or tag:NAME.", code="invalid_value", param="scope")
    return kind, name  # type: ignore[return-value]


def _scope_of(table: AccountTable, kind: Kind, name: str) -> str:
    """Return a scope that exists; a key may be named by its name."""
    known: dict[str, str] = {}
    if kind == "key":
        known = {entry.name: entry.id for entry in table.keys.values()} | {key_id: key_id for key_id in table.keys}
    else:
        known = {group: group for group in (table.teams if kind == "team" else table.tags)}
    if name not in known:
        raise NotFound(f"There is no {kind} '{name[:128]}'.", code=f"{kind}_not_found")
    return f"{kind}:{known[name]}"


def parse_period(text: str) -> Period:
    """Return a budget's period by its name.

    Raises
    ------
    InvalidRequest
    """
    try:
        return Period(text)
    except ValueError:
        choices = ", ".join(Period)
        raise InvalidRequest(f"period: should be one of {choices}.", code="invalid_value", param="period") from None


def _chunks(items: list[Any]) -> list[Sequence[Any]]:
    return [items[start : start + _CHUNK] for start in range(0, len(items), _CHUNK)]


def _plain_budget(budget: BudgetSettings) -> dict[str, Any]:
    return {
        "period": budget.period.value,
        "limit_usd": format_usd(budget.limit_usd),
        "soft_share": budget.soft_share,
    }


def _budget_view(state: BudgetState, name: str) -> dict[str, Any]:
    return {
        "object": "budget_state",
        "scope": state.scope,
        "name": name,
        "period": state.period.value,
        "window": state.window,
        "limit_usd": format_usd(to_usd(state.limit_picousd)),
        "spent_usd": format_usd(to_usd(state.spent_picousd)),
        "held_usd": format_usd(to_usd(state.held_picousd)),
        "used_share": round(state.used_share, 6),
        "is_soft_passed": state.is_soft_passed,
        "resets_at": iso(state.resets_at),
    }


_BUDGET_DOC: Final[dict[str, Any]] = {
    "requestBody": {
        "required": True,
        "content": {
            "application/json": {
                "schema": {
                    "type": "object",
                    "required": ["scope", "period", "limit_usd"],
                    "properties": {
                        "scope": {"type": "string", "examples": ["team:search"]},
                        "period": {"type": "string", "enum": [period.value for period in Period]},
                        "limit_usd": {"type": ["string", "number"]},
                        "soft_share": {"type": "number", "minimum": 0, "maximum": 1},
                    },
                    "additionalProperties": False,
                }
            }
        },
    }
}
