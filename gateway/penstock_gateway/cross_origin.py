"""Letting web pages of other origins call the gateway (CORS), where the configuration names them.

Owns the headers that browsers ask for; whether a request is answered is decided by its key, as always. Pure. Read
`CrossOrigin`.

Rules: the Fetch standard, fetch.spec.whatwg.org, section "HTTP CORS protocol".
"""

from __future__ import annotations

from typing import Final

from penstock_gateway.asgi import RawHeaders
from penstock_gateway.settings_server import ANY_ORIGIN, CrossOriginSettings

_METHODS: Final = b"GET, HEAD, POST, OPTIONS"
_REQUEST_HEADERS: Final = frozenset(
    {
        b"accept",
        b"anthropic-beta",
        b"anthropic-dangerous-direct-browser-access",
        b"anthropic-version",
        b"authorization",
        b"cache-control",
        b"content-encoding",
        b"content-type",
        b"idempotency-key",
        b"openai-beta",
        b"openai-organization",
        b"openai-project",
        b"user-agent",
        b"x-api-key",
        b"x-request-id",
        b"x-requested-with",
    }
)
_REQUEST_PREFIXES: Final = (b"x-penstock-", b"x-stainless-")
_EXPOSED: Final = frozenset({b"request-id", b"retry-after", b"retry-after-ms", b"x-request-id", b"x-should-retry"})
_EXPOSED_PREFIXES: Final = (b"anthropic-ratelimit-", b"x-litellm-", b"x-penstock-", b"x-ratelimit-")
_MAX_ASKED: Final = 128  # header names in one question; more are not looked at
_VARY_ORIGIN: Final = (b"vary", b"origin")

Headers = list[tuple[bytes, bytes]]


class CrossOrigin:
    """Answers browsers' questions, and adds to answers what lets a page read them.

    Parameters
    ----------
    settings : CrossOriginSettings
        With at least one origin.
    """

    def __init__(self, settings: CrossOriginSettings) -> None:
        self._is_open = ANY_ORIGIN in settings.origins
        self._origins = frozenset(origin.encode() for origin in settings.origins)
        self._extra = frozenset(name.lower().encode() for name in settings.headers)
        self._credentials = settings.credentials and not self._is_open
        self._max_age = b"%d" % settings.max_age_seconds

    def preflight(self, method: str, headers: RawHeaders) -> Headers | None:
        """Return the headers of the answer to a browser's question whether it may send a request.

        Parameters
        ----------
        method : str
        headers : iterable of (bytes, bytes)
            Of the request.

        Returns
        -------
        list of (bytes, bytes) or None
            None when it is no such question. Without any permission for an origin that is not configured.
        """
        if method != "OPTIONS":
            return None
        asked = dict(headers)
        if b"origin" not in asked or b"access-control-request-method" not in asked:
            return None
        allowed = self._allowed_origin(asked[b"origin"])
        vary = (b"vary", b"origin, access-control-request-method, access-control-request-headers")
        if allowed is None:
            return [vary]
        names = asked.get(b"access-control-request-headers", b"").lower().split(b",", _MAX_ASKED)[:_MAX_ASKED]
        taken = [name for name in map(bytes.strip, names) if self._takes(name)]
        answer = [vary, *allowed, (b"access-control-allow-methods", _METHODS)]
        if taken:
            answer.append((b"access-control-allow-headers", b", ".join(taken)))
        return [*answer, (b"access-control-max-age", self._max_age)]

    def permissions(self, origin: bytes | None, headers: RawHeaders) -> Headers:
        """Return what is added to an answer.

        Parameters
        ----------
        origin : bytes or None
            Of the request.
        headers : iterable of (bytes, bytes)
            Of the answer; names in lower case.
        """
        added: Headers = [] if self._is_open else [_VARY_ORIGIN]
        allowed = None if origin is None else self._allowed_origin(origin)
        if allowed is None:
            return added
        added += allowed
        shown = dict.fromkeys(
            name for name, _ in headers if name in _EXPOSED or name.startswith(_EXPOSED_PREFIXES)
        )  # once each, in their order
        if shown:
            added.append((b"access-control-expose-headers", b", ".join(shown)))
        return added

    def _allowed_origin(self, origin: bytes) -> Headers | None:
        if self._is_open:
            return [(b"access-control-allow-origin", b"*")]
        if origin not in self._origins:
            return None
        allowed = [(b"access-control-allow-origin", origin)]
        if self._credentials:
            allowed.append((b"access-control-allow-credentials", b"true"))
        return allowed

    def _takes(self, name: bytes) -> bool:
        return name in _REQUEST_HEADERS or name in self._extra or name.startswith(_REQUEST_PREFIXES)
