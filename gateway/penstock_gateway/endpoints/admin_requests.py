"""What the routes of the admin API share: reading a body, translating failures of the store, answering, and the audit.

Read `AdminParts` and `read_object`.
"""

from __future__ import annotations

import logging
from collections.abc import Awaitable, Callable, Iterable
from dataclasses import dataclass
from typing import Any, Final, TypeVar

import msgspec
from fastapi import Request
from fastapi.responses import Response

from penstock_cache.errors import StoreUnavailable
from penstock_gateway.accounts.directory import Directory
from penstock_gateway.accounts.pepper import PepperError
from penstock_gateway.accounts.records import AccountsDamaged, parse_json
from penstock_gateway.accounts.registrar import Registrar
from penstock_gateway.accounts.store import AccountsConflict, AccountsLost
from penstock_gateway.asgi import read_body, read_head, request_id_of
from penstock_gateway.errors import Conflict, InvalidRequest, Overloaded
from penstock_gateway.ledger.contract import Ledger, LedgerUnavailable, Period
from penstock_gateway.model_spend import SpentOnModel

_log = logging.getLogger("penstock.admin")

MAX_BODY_BYTES: Final = 65_536
MAX_PAGE: Final = 500
_NO_STORE: Final = {"cache-control": "no-store"}  # of HTTP caches on the way

ModelSpend = Callable[[Period, float], Awaitable[dict[str, SpentOnModel]]]
"""From a period and a moment of it, UNIX seconds, to the spend of each model."""

_T = TypeVar("_T")


@dataclass(frozen=True, slots=True)
class AdminParts:
    """What the routes work with.

    Attributes
    ----------
    directory : Directory
    registrar : Registrar
    ledger : Ledger
    model_spend, account_usage : callable or None
    """

    directory: Directory
    registrar: Registrar
    ledger: Ledger
    model_spend: ModelSpend | None = None
    account_usage: ModelSpend | None = None


async def read_object(request: Request) -> dict[str, Any]:
    """Return the JSON object in a request's body.

    A body is asked for even where it may be empty (``{}``): a web page cannot send JSON to another origin unasked.

    Raises
    ------
    UnsupportedMedia, RequestTooLarge, RequestTimeout, ClientGoneError
        See `asgi.read_body`.
    InvalidRequest
        ``invalid_json``: not JSON, a name twice, or nested too deeply; ``invalid_type``: not an object.
    """
    body = await read_body(read_head(request.scope), request.receive, max_bytes=MAX_BODY_BYTES)
    try:
        content = parse_json(body)
    except (ValueError, RecursionError):
        raise InvalidRequest("The body is not valid JSON.", code="invalid_json") from None
    if not isinstance(content, dict):
        raise InvalidRequest("The body should be a JSON object.", code="invalid_type")
    return content


def take_name(content: dict[str, Any], field: str = "name") -> str:
    """Take a text field out of a body.

    Raises
    ------
    InvalidRequest
        It is missing or no text.
    """
    name = content.pop(field, None)
    if not isinstance(name, str) or not name:
        raise InvalidRequest(f"{field}: is required, as text.", code="invalid_value", param=field)
    return name


def refuse_unknown(names: Iterable[str], known: Iterable[str]) -> None:
    """Refuse what would be ignored: fields of a body, parameters of a query.

    Raises
    ------
    InvalidRequest
        ``unknown_parameter``.
    """
    allowed = frozenset(known)
    for name in names:
        if name not in allowed:
            shown = name[:40].encode("ascii", "replace").decode()
            raise InvalidRequest(f"There is no parameter '{shown}'.", code="unknown_parameter", param=shown)


async def stored(work: Awaitable[_T]) -> _T:
    """Wait for a change of the store, and translate its failures.

    Raises
    ------
    Conflict
        ``accounts_store_off``, ``accounts_store_damaged``, ``accounts_store_lost``, ``accounts_pepper_changed`` or
        ``accounts_conflict``.
    Overloaded
        ``accounts_store_unavailable``.
    """
    try:
        return await work
    except StoreUnavailable as error:
        if error.code == "accounts_store_off":
            raise Conflict(
                "This gateway stores no keys; add 'accounts: {store: file, folder: ./accounts}' to its configuration.",
                code=error.code,
            ) from None
        _log.warning("accounts_store_unavailable", extra={"detail": error.message})
        raise Overloaded(
            "The store of accounts does not answer. The change may have been made or not: look before you repeat it.",
            code="accounts_store_unavailable",
            headers={"retry-after": "1"},
        ) from None
    except AccountsDamaged as error:
        _log.warning("accounts_store_damaged", extra={"detail": str(error)})
        raise Conflict(
            "The stored records cannot be read, so nothing is changed; the gateway's log says where.",
            code="accounts_store_damaged",
        ) from None
    except AccountsLost:
        raise Conflict(
            "The store has lost its records. Give back a backup, or write back what this gateway still knows with "
            "POST /admin/restore.",
            code="accounts_store_lost",
        ) from None
    except PepperError:
        raise Conflict(
            "The stored keys were made with another pepper than this gateway has.", code="accounts_pepper_changed"
        ) from None
    except AccountsConflict:
        raise Conflict(
            "The records were changed by others meanwhile, or are not what this needs; look and try again.",
            code="accounts_conflict",
        ) from None


async def counted(work: Awaitable[_T]) -> _T:
    """Wait for the ledger, and translate its failure.

    Raises
    ------
    Overloaded
        ``ledger_unavailable``.
    """
    try:
        return await work
    except LedgerUnavailable:
        raise Overloaded(
            "The ledger does not answer; try again shortly.", code="ledger_unavailable", headers={"retry-after": "1"}
        ) from None


def answer(content: object, status: int = 200) -> Response:
    """Return a JSON answer that nobody on the way keeps."""
    return Response(msgspec.json.encode(content), status, _NO_STORE, "application/json")


def page(request: Request, names: list[str], *, known: Iterable[str] = ()) -> tuple[list[str], str | None]:
    """Return the names that a request asks for by ``after`` and ``limit``, and the next ``after`` if more follow.

    Parameters
    ----------
    request : Request
    names : list of str
        In order.
    known : iterable of str
        Other parameters that the route takes.

    Raises
    ------
    InvalidRequest
    """
    query = request.query_params
    refuse_unknown(query, ("after", "limit", *known))
    limit_text = query.get("limit", "100")
    if not (limit_text.isascii() and limit_text.isdecimal() and 1 <= len(limit_text) <= 4):
        raise InvalidRequest(f"limit: should be from 1 to {MAX_PAGE}.", code="invalid_value", param="limit")
    limit = int(limit_text)
    if not 1 <= limit <= MAX_PAGE:
        raise InvalidRequest(f"limit: should be from 1 to {MAX_PAGE}.", code="invalid_value", param="limit")
    after = query.get("after")
    rest = names if after is None else [name for name in names if name > after]
    return rest[:limit], rest[limit - 1] if len(rest) > limit else None


def note_change(request: Request, action: str, kind: str, name: str, fields: Iterable[str] = ()) -> None:
    """Write the audit line of a change: what, of which record, by whom; values and secrets are not in it.

    Parameters
    ----------
    request : Request
    action : str
        ``created``, ``updated``, ``rotated``, ``revoked``, ``deleted`` or ``restored``.
    kind, name : str
    fields : iterable of str
        Names of the fields that were set.
    """
    client = request.client.host if request.client is not None else None
    _log.info(
        "account_changed",
        extra={
            "action": action,
            "kind": kind,
            "account": name,
            "fields": sorted(fields),
            "client": client,
            "request_id": request_id_of(request.scope),
        },
    )
