"""The admin API: an application of its own, on a port of its own, with a credential of its own.

Owns who may come in, the bounds of a request, and the shape of errors; `admin_accounts` and `admin_spend` hold the
routes. Nothing here is on the path of a chat request. Read `admin_app`, then `AdminApp.__call__`.
"""

from __future__ import annotations

import asyncio
import hashlib
import hmac
import logging
import secrets
from collections.abc import Awaitable, Callable
from typing import Any, Final
from urllib.parse import urlsplit

from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import Response
from starlette.exceptions import HTTPException

from penstock_gateway.accounts.agreement import Known
from penstock_gateway.accounts.directory import Directory
from penstock_gateway.accounts.registrar import Registrar
from penstock_gateway.asgi import (
    ClientGoneError,
    Receive,
    RequestHead,
    Scope,
    Send,
    read_head,
    request_id_of,
    send_error,
)
from penstock_gateway.endpoints.admin_accounts import account_routes
from penstock_gateway.endpoints.admin_corrections import correction_routes
from penstock_gateway.endpoints.admin_reload import reload_routes
from penstock_gateway.endpoints.admin_requests import AdminParts
from penstock_gateway.endpoints.admin_spend import ModelSpend, spend_routes
from penstock_gateway.errors import (
    Forbidden,
    GatewayError,
    InvalidRequest,
    MethodNotAllowed,
    NotFound,
    Overloaded,
    Unauthenticated,
    shutting_down,
    unexpected_failure,
)
from penstock_gateway.ledger.contract import Ledger
from penstock_gateway.settings_checks import is_loopback
from penstock_gateway.settings_models import Settings
from penstock_gateway.settings_secrets import read_secret

_log = logging.getLogger("penstock.admin")

AsgiApp = Callable[[Scope, Receive, Send], Awaitable[None]]
NewConsole = Callable[[AdminParts, str], AsgiApp]
"""From the parts of the admin API and its credential, empty when there is none, to the console."""

CONSOLE_PATH: Final = "/console"
MAX_IN_FLIGHT: Final = 32
REQUEST_SECONDS: Final = 45.0
"""For a whole request, reading its body (30 s at most) included."""

_LOOPBACK_HOSTS: Final = frozenset({"localhost", "127.0.0.1", "::1"})
_WILDCARDS: Final = frozenset({"0.0.0.0", "::"})


class AdminNotSafe(Exception):
    """The admin API would be open to other machines without a credential."""


class AdminApp:
    """The admin API as an ASGI callable.

    Parameters
    ----------
    routes : FastAPI
    secret : str
        The credential; empty when none is asked for.
    host : str
        The address that it listens on.
    allowed_hosts : sequence of str
        Further names that a Host header may carry; ``*.example.org`` allows a domain.
    on_refusal : callable
        Called with the code of every error that is shown.
    console : callable, optional
        Answers below `CONSOLE_PATH`, and asks for the credential in its own way.
    """

    def __init__(
        self,
        routes: FastAPI,
        secret: str,
        *,
        host: str,
        allowed_hosts: tuple[str, ...] = (),
        on_refusal: Callable[[str], None] = lambda _: None,
        console: AsgiApp | None = None,
    ) -> None:
        self._routes = routes
        self._console = console
        self._pepper = secrets.token_bytes(32)
        self._digest = self._digest_of(secret) if secret else None
        self._hosts = _LOOPBACK_HOSTS | {host.lower().strip("[]")} | {name.lower() for name in allowed_hosts}
        self._domains = tuple(name.lower().removeprefix("*") for name in allowed_hosts if name.startswith("*."))
        self._takes_any_host = host in _WILDCARDS and not allowed_hosts
        self._on_refusal = on_refusal
        self._in_flight = 0

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Let a request in, bound it, give its answer its id, and show what goes wrong in OpenAI's shape."""
        if scope["type"] != "http":
            return
        has_begun = False

        async def sending(message: Any) -> None:
            nonlocal has_begun
            has_begun = True
            if message["type"] == "http.response.start":
                named = (b"x-request-id", request_id_of(scope).encode("latin-1"))
                message = {**message, "headers": [*message.get("headers", ()), named]}
            await send(message)

        try:
            await self._answer(scope, receive, sending)
        except ClientGoneError:
            return
        except GatewayError as error:
            await self._refuse(sending, error, has_begun)
        except asyncio.CancelledError:  # the server stops, and its grace is over
            await self._refuse(sending, shutting_down(), has_begun)
        except Exception:  # the process edge: the caller gets a clean error, the log gets the details
            fields = {"path": scope["path"][:200], "request_id": request_id_of(scope)}
            _log.exception("admin_unexpected_error", extra=fields)
            await self._refuse(sending, unexpected_failure(), has_begun)

    async def _answer(self, scope: Scope, receive: Receive, send: Send) -> None:
        head = read_head(scope)
        self._check_host(head)
        routes: AsgiApp = self._routes
        if self._console is not None and is_of_console(scope["path"]):
            routes = self._console
        else:
            self._check_credential(head)
        if self._in_flight >= MAX_IN_FLIGHT:
            raise Overloaded("Too many admin requests are in flight.", headers={"retry-after": "1"})
        self._in_flight += 1
        try:
            async with asyncio.timeout(REQUEST_SECONDS):
                await routes(scope, receive, send)
        except TimeoutError:
            raise Overloaded("The request took too long; look at what it has done before you repeat it.") from None
        finally:
            self._in_flight -= 1

    def _check_host(self, head: RequestHead) -> None:
        """Stop DNS rebinding: a web page could otherwise reach an API on loopback that asks for no credential."""
        if not self._takes_any_host and not self._allows(head.host):
            raise Forbidden(
                "This Host header is not allowed; add the name to admin.allowed_hosts.", code="host_not_allowed"
            )

    def _check_credential(self, head: RequestHead) -> None:
        if self._digest is None:
            return
        if head.credential is None:
            raise Unauthenticated("Send 'Authorization: Bearer ADMIN_KEY'.", code="missing_admin_key")
        if not hmac.compare_digest(self._digest_of(head.credential), self._digest):
            raise Unauthenticated("This is not the admin key.", code="invalid_admin_key")

    def _allows(self, header: str) -> bool:
        try:
            name = urlsplit(f"//{header.strip()}").hostname or ""
        except ValueError:
            return False
        return name in self._hosts or (bool(self._domains) and name.endswith(self._domains))

    def _digest_of(self, presented: str) -> bytes:
        return hmac.digest(self._pepper, presented.encode("utf-8", "surrogatepass"), hashlib.sha256)

    async def _refuse(self, send: Send, error: GatewayError, has_begun: bool) -> None:
        self._on_refusal(error.code)
        if not has_begun:
            await send_error(send, error)


def admin_app(
    settings: Settings,
    directory: Directory,
    ledger: Ledger,
    *,
    known: Callable[[], Known] | None = None,
    model_spend: ModelSpend | None = None,
    account_usage: ModelSpend | None = None,
    reload: Callable[[], Callable[[], Awaitable[dict[str, Any]]] | None] = lambda: None,
    on_refusal: Callable[[str], None] = lambda _: None,
    new_console: NewConsole | None = None,
) -> AdminApp:
    """Return the admin API of one gateway.

    Parameters
    ----------
    settings : Settings
    directory : Directory
    ledger : Ledger
    known : callable, optional
        Returns what the configuration in force has; default: that of `settings`, for good.
    model_spend : callable, optional
        Returns the spend by model; without it ``by=model`` is refused.
    account_usage : callable, optional
        Returns the tokens by key, team and tag; without it ``tokens=true`` is refused.
    reload : callable
        Returns what reads the configuration again; None where nobody can.
    on_refusal : callable
        Called with the code of every error that is shown.
    new_console : callable, optional
        Makes the console; there is none without it.

    Returns
    -------
    AdminApp

    Raises
    ------
    AdminNotSafe
        It would listen to other machines without a credential.
    SecretFileError
        The credential's file cannot be used.
    """
    admin = settings.admin
    secret = read_secret(admin.key, admin.key_file)
    if not secret and not is_loopback(admin.host):
        raise AdminNotSafe(f"the admin API on {admin.host} needs admin.key or admin.key_file")
    fixed = Known.from_settings(settings)
    parts = AdminParts(directory, Registrar(directory, known or (lambda: fixed)), ledger, model_spend, account_usage)
    routes = FastAPI(
        title="Penstock admin API",
        summary="Keys, teams, tags, budgets and spend.",
        docs_url=None,
        redoc_url=None,
        openapi_url="/admin/openapi.json",
        redirect_slashes=False,
    )
    _add_error_handlers(routes, on_refusal)
    routes.include_router(account_routes(parts))
    routes.include_router(spend_routes(parts))
    routes.include_router(correction_routes(parts))
    routes.include_router(reload_routes(reload))
    return AdminApp(
        routes,
        secret,
        host=admin.host,
        allowed_hosts=admin.allowed_hosts,
        on_refusal=on_refusal,
        console=None if new_console is None else new_console(parts, secret),
    )


def is_of_console(path: str) -> bool:
    """Tell a path of the console from one of the API."""
    return path == CONSOLE_PATH or path.startswith(f"{CONSOLE_PATH}/")


def _add_error_handlers(app: FastAPI, on_refusal: Callable[[str], None]) -> None:
    def shown(error: GatewayError) -> Response:
        on_refusal(error.code)
        return Response(error.body(), error.status, error.headers, "application/json")

    async def on_gateway_error(_: Request, error: Exception) -> Response:
        assert isinstance(error, GatewayError)
        return shown(error)

    async def on_http_error(request: Request, error: Exception) -> Response:
        assert isinstance(error, HTTPException)
        what = f"{request.method} {request.scope['path'][:200]}"
        if error.status_code == 404:
            return shown(NotFound(f"There is no {what} here.", code="unknown_path"))
        if error.status_code == 405:
            return shown(MethodNotAllowed(f"{what} is not allowed.", headers=dict(error.headers or {})))
        return shown(InvalidRequest(str(error.detail)))

    async def on_validation_error(_: Request, error: Exception) -> Response:
        assert isinstance(error, RequestValidationError)
        place = error.errors()[0]["loc"][-1]
        return shown(InvalidRequest(f"The parameter '{place}' is not valid.", code="invalid_value", param=str(place)))

    async def on_failure(_: Request, error: Exception) -> Response:
        del error  # raised again behind this answer, and logged and counted at the edge
        failure = unexpected_failure()
        return Response(failure.body(), failure.status, failure.headers, "application/json")

    app.add_exception_handler(Exception, on_failure)
    app.add_exception_handler(GatewayError, on_gateway_error)
    app.add_exception_handler(HTTPException, on_http_error)
    app.add_exception_handler(RequestValidationError, on_validation_error)
