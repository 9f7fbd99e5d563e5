"""The console as an ASGI callable: signing in, the check of every change, and which page answers which path.

Owns cookies, headers and errors of the console; pages know nothing of them. Nothing runs here unless somebody asks:
no task, no timer, no template is loaded before. Read `Console.__call__`, then `Console._answer`.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Mapping, Sequence
from http.cookies import CookieError, SimpleCookie
from typing import Any, Final
from urllib.parse import parse_qsl, quote, urlsplit

from penstock_gateway.asgi import ClientGoneError, Receive, Scope, Send, send_body
from penstock_gateway.console.accounts import accounts_page, budget_change, key_change
from penstock_gateway.console.artifacts import artifacts_page, force_change, picture
from penstock_gateway.console.caches import cache_page, category_change, entry_change
from penstock_gateway.console.contract import Asked, ConsoleParts, Handler, Moved, Page
from penstock_gateway.console.events import decision_page, events_page
from penstock_gateway.console.models import models_page
from penstock_gateway.console.overview import live_part, overview_page
from penstock_gateway.console.playground import playground_answer, playground_page
from penstock_gateway.console.rendering import FOLDER, NOTES, Renderer
from penstock_gateway.console.sessions import COOKIE, SESSION_SECONDS, Sessions
from penstock_gateway.console.sign_in_limits import SignInLimits
from penstock_gateway.errors import (
    Forbidden,
    GatewayError,
    InvalidRequest,
    NotFound,
    RequestTooLarge,
    unexpected_failure,
)

_log = logging.getLogger("penstock.admin")

MAX_FORM_BYTES: Final = 262_144
"""A prompt of the playground, percent-encoded."""
MAX_FIELDS: Final = 50
_THEMES: Final = ("light", "dark")
_SAFE: Final = (
    (b"content-security-policy", b"default-src 'none'; style-src 'self'; script-src 'self'; img-src 'self'; "
     b"connect-src 'self'; form-action 'self'; base-uri 'none'; frame-ancestors 'none'"),
    (b"x-content-type-options", b"nosniff"),
    (b"x-frame-options", b"DENY"),
    (b"referrer-policy", b"same-origin"),
    (b"cross-origin-opener-policy", b"same-origin"),
    (b"cross-origin-resource-policy", b"same-origin"),
)  # fmt: skip
_PRIVATE: Final = (b"cache-control", b"no-store")
_STATIC: Final = {"console.css": "text/css; charset=utf-8", "console.js": "text/javascript; charset=utf-8",
                  "icon.svg": "image/svg+xml"}  # fmt: skip

PAGES: Final[Mapping[str, Handler]] = {
    "/": overview_page,
    "/live": live_part,
    "/playground": playground_page,
    "/models": models_page,
    "/cache": cache_page,
    "/artifacts": artifacts_page,
    "/accounts": accounts_page,
    "/events": events_page,
    "/decision": decision_page,
}
CHANGES: Final[Mapping[str, Handler]] = {
    "/playground": playground_answer,
    "/cache/entry": entry_change,
    "/cache/category": category_change,
    "/artifacts/force": force_change,
    "/accounts/key": key_change,
    "/accounts/budget": budget_change,
}


class Console:
    """The pages of one gateway.

    Parameters
    ----------
    parts : ConsoleParts
    secret : str
        The admin key; empty when none is asked for.
    limits : SignInLimits, optional
        How often a wrong key may be tried.
    """

    def __init__(self, parts: ConsoleParts, secret: str, limits: SignInLimits | None = None) -> None:
        self._parts = parts
        self._limits = limits or SignInLimits()
        self._secret = secret
        self._renderer = Renderer()
        self._sessions: Sessions | None = None
        self._making = asyncio.Lock()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one request; every failure is a page that says what to do."""
        request = _Request(scope, receive, send, await self._ready())
        try:
            await self._answer(request)
        except GatewayError as error:
            await self._show_error(request, error)
        except (ClientGoneError, asyncio.CancelledError):
            raise
        except Exception:  # the console's edge: whoever looks gets a page, the log gets the details
            _log.exception("console_failed", extra={"path": request.path[:200]})
            await self._show_error(request, unexpected_failure())

    async def _ready(self) -> Sessions:
        if self._sessions is None:
            async with self._making:
                if self._is_unmade():
                    self._sessions = await asyncio.to_thread(Sessions, self._secret)
        assert self._sessions is not None
        return self._sessions

    def _is_unmade(self) -> bool:
        return self._sessions is None  # another request may have been quicker

    async def _answer(self, request: _Request) -> None:
        method, path = request.method, request.path
        if path.startswith("/static/") and method == "GET":
            await self._static(request, path.removeprefix("/static/"))
        elif method == "POST":
            await self._change(request, path)
        elif method != "GET":
            raise InvalidRequest("Pages are read with GET and changed with POST.")
        elif path == "/sign-in" or not request.is_signed_in:
            await self._ask_to_sign_in(request, path)
        elif path == "/artifacts/picture":
            content = await picture(self._parts, request.asked())
            await request.reply(200, content, "image/png", cookie=False)
        elif path in PAGES:
            await self._show(request, await PAGES[path](self._parts, request.asked()))
        else:
            raise NotFound("There is no such page.", code="unknown_path")

    async def _change(self, request: _Request, path: str) -> None:
        """Make a change, once it is sure that a page of ours asked for it, on behalf of who signed in."""
        request.check_origin()
        form = await request.form()
        if path == "/sign-in":
            await self._sign_in(request, form)
            return
        if not request.is_signed_in:
            raise Forbidden("You are signed out. Sign in and try again.", code="console_signed_out")
        if not request.sessions.is_token(request.session, form.get("token", "")):
            raise Forbidden("This page is out of date. Go back, reload it and try again.", code="console_token")
        if path == "/sign-out":
            await request.move("/sign-in", cookie=f"{COOKIE}=; Path=/console; Max-Age=0; HttpOnly; SameSite=Strict")
            return
        if path not in CHANGES:
            raise NotFound("There is nothing to change there.", code="unknown_path")
        await self._show(request, await CHANGES[path](self._parts, request.asked(form)))

    async def _sign_in(self, request: _Request, form: Mapping[str, str]) -> None:
        if wait := self._limits.wait_seconds(request.client):  # the right key is not looked at either
            self._parts.pipeline.metrics.admin_errors.labels("console_sign_in_limited").inc()
            _log.warning("console_sign_in_limited", extra={"client": request.client, "wait_seconds": wait})
            problem = f"Too many wrong keys. Try again in {wait} second{'' if wait == 1 else 's'}."
            page = Page("sign_in.html", {"problem": problem}, 429)
            await self._draw(request, page, [(b"retry-after", str(wait).encode())])
            return
        if not request.sessions.is_key(form.get("key", "")):
            self._limits.note_wrong(request.client)
            _log.warning("console_sign_in_refused", extra={"client": request.client})
            await self._draw(request, Page("sign_in.html", {"problem": "That is not the admin key."}, 401))
            return
        self._limits.note_right(request.client)
        _log.info("console_signed_in", extra={"client": request.client})
        await request.move("/", cookie=request.cookie_of(request.sessions.open()))

    async def _ask_to_sign_in(self, request: _Request, path: str) -> None:
        if request.is_signed_in:
            await request.move("/")
        elif path == "/live":
            raise Forbidden("You are signed out. Sign in and try again.", code="console_signed_out")
        else:
            await self._draw(request, Page("sign_in.html", {"problem": ""}, 200 if path == "/sign-in" else 401))

    async def _show(self, request: _Request, made: Page | Moved) -> None:
        if isinstance(made, Moved):
            await request.move(made.path, done=made.done)
        else:
            await self._draw(request, made)

    async def _draw(self, request: _Request, page: Page, headers: Sequence[tuple[bytes, bytes]] = ()) -> None:
        values = {
            "path": request.path,
            "token": request.sessions.token(request.session) if request.is_signed_in else "",
            "asks_for_key": request.sessions.asks_for_key,
            "is_signed_in": request.is_signed_in,
            "theme": request.theme,
            "note": NOTES.get(request.query.get("done", ""), ""),
            **page.values,
        }
        content = await asyncio.to_thread(self._renderer.render, page.template, values)
        await request.reply(page.status, content, "text/html; charset=utf-8", headers=headers)

    async def _show_error(self, request: _Request, error: GatewayError) -> None:
        await self._draw(request, Page("error.html", {"error": error}, error.status))

    async def _static(self, request: _Request, name: str) -> None:
        if name not in _STATIC:
            raise NotFound("There is no such file.", code="unknown_path")
        content = await asyncio.to_thread((FOLDER / "static" / name).read_bytes)
        await request.reply(200, content, _STATIC[name], cookie=False, caching=b"no-cache")


class _Request:
    """One request of a browser: its session, its form, and how it is answered."""

    def __init__(self, scope: Scope, receive: Receive, send: Send, sessions: Sessions) -> None:
        self.sessions = sessions
        self.method: str = scope["method"]
        self.path = str(scope["path"]).removeprefix("/console").rstrip("/") or "/"
        self.query = _query(scope.get("query_string", b""))
        self.client: str | None = scope["client"][0] if scope.get("client") else None
        self._receive, self._send = receive, send
        self._headers = {name: value.decode("latin-1") for name, value in scope["headers"]}
        self._is_secure = scope.get("scheme") == "https" or self._headers.get(b"x-forwarded-proto") == "https"
        cookies = _cookies(self._headers.get(b"cookie", ""))
        self.theme = cookies.get("penstock_theme", "") if cookies.get("penstock_theme") in _THEMES else ""
        self.session = cookies.get(COOKIE, "")
        self.is_signed_in = sessions.is_open(self.session)
        self._new_cookie = ""
        if not self.is_signed_in and not sessions.asks_for_key:  # a session all the same, for the tokens of changes
            self.session = sessions.open()
            self.is_signed_in, self._new_cookie = True, self.cookie_of(self.session)

    def asked(self, form: Mapping[str, str] | None = None) -> Asked:
        """Return what pages are told."""
        return Asked(self.path, self.query, form or {}, self.client)

    def cookie_of(self, value: str) -> str:
        """Return the cookie of a session."""
        secure = "; Secure" if self._is_secure else ""
        return f"{COOKIE}={value}; Path=/console; Max-Age={SESSION_SECONDS}; HttpOnly; SameSite=Strict{secure}"

    def check_origin(self) -> None:
        """Refuse what another site's page sends, beside the token: the form for signing in has none.

        Raises
        ------
        Forbidden
        """
        origin, site = self._headers.get(b"origin"), self._headers.get(b"sec-fetch-site")
        is_foreign = origin is not None and urlsplit(origin).netloc != self._headers.get(b"host", "")
        if is_foreign or site in ("cross-site", "same-site"):
            raise Forbidden("This was sent by a page of another site, and is refused.", code="console_foreign_origin")

    async def form(self) -> dict[str, str]:
        """Return the fields of the form.

        Raises
        ------
        RequestTooLarge, InvalidRequest
        ClientGoneError
            The browser left.
        """
        kind = self._headers.get(b"content-type", "").partition(";")[0].strip().lower()
        if kind != "application/x-www-form-urlencoded":
            raise InvalidRequest("This is not a form of the console.", code="console_no_form")
        body = b""
        has_more = True
        while has_more:  # for as long as the admin API allows a request
            message = await self._receive()
            if message["type"] == "http.disconnect":
                raise ClientGoneError
            body += message.get("body", b"")
            if len(body) > MAX_FORM_BYTES:
                raise RequestTooLarge(f"The form is larger than {MAX_FORM_BYTES:,} bytes.")
            has_more = bool(message.get("more_body"))
        try:
            text = body.decode("ascii")
            return dict(parse_qsl(text, keep_blank_values=True, max_num_fields=MAX_FIELDS, encoding="utf-8"))
        except ValueError:
            raise InvalidRequest("The form cannot be read.", code="console_no_form") from None

    async def move(self, path: str, *, done: str = "", cookie: str = "") -> None:
        """Send the browser to another page."""
        target = f"/console{path}"
        if done:
            target += f"{'&' if '?' in path else '?'}done={quote(done)}"
        headers = [(b"location", target.encode("ascii", "replace"))]
        await self.reply(303, b"", "text/plain", headers=headers, set_cookie=cookie)

    async def reply(
        self,
        status: int,
        content: bytes,
        kind: str,
        *,
        headers: Sequence[tuple[bytes, bytes]] = (),
        set_cookie: str = "",
        cookie: bool = True,
        caching: bytes = _PRIVATE[1],
    ) -> None:
        """Answer."""
        set_cookie = set_cookie or (self._new_cookie if cookie else "")
        cookies = [(b"set-cookie", set_cookie.encode("latin-1"))] if set_cookie else []
        every: list[Any] = [*_SAFE, (_PRIVATE[0], caching), *cookies, *headers]
        await send_body(self._send, status, content, kind, every)


def _query(raw: bytes) -> dict[str, str]:
    """Return a query's parameters; none of one that is too long to be ours."""
    try:
        return dict(parse_qsl(raw.decode("latin-1"), max_num_fields=MAX_FIELDS))
    except ValueError:
        return {}


def _cookies(header: str) -> dict[str, str]:
    try:
        return {name: morsel.value for name, morsel in SimpleCookie(header).items()}
    except CookieError:
        return {}
