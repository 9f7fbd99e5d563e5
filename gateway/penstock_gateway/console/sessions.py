"""Who has signed in to the console, without anything kept on the server: signed cookies and the tokens bound to them.

Owns the signatures. The admin key is compared once, at sign-in, and is in no cookie, page or address. Read
`Sessions.open`, then `Sessions.token`.
"""

from __future__ import annotations

import base64
import hashlib
import hmac
import secrets
import time
from collections.abc import Callable
from typing import Final

COOKIE: Final = "penstock_console"
SESSION_SECONDS: Final = 8 * 3600
"""A working day; whoever has the cookie is signed in until then."""

_COST: Final = {"n": 2**14, "r": 8, "p": 1}
"""Of scrypt (RFC 7914 section 2), 16 MiB and some 50 ms: a stolen cookie should not help to guess the key."""
_SALT: Final = b"penstock console v1"


class Sessions:
    """Signed cookies of one admin key.

    Parameters
    ----------
    secret : str
        The admin key; empty when none is asked for. Gateways with one key accept each other's cookies, and another key
        ends all of them.
    clock : callable
        UNIX seconds.

    Notes
    -----
    Making one takes some 50 ms of a core: do it in a thread.
    """

    def __init__(self, secret: str, *, clock: Callable[[], float] = time.time) -> None:
        self.asks_for_key = bool(secret)
        self._clock = clock
        self._compare = secrets.token_bytes(32)
        self._expected = self._digest(secret)
        material = secret.encode("utf-8", "surrogatepass") or secrets.token_bytes(32)
        self._key = hashlib.scrypt(material, salt=_SALT, dklen=32, **_COST)

    def is_key(self, presented: str) -> bool:
        """Whether this is the admin key, compared in constant time."""
        return hmac.compare_digest(self._digest(presented), self._expected)

    def open(self) -> str:
        """Return the value of a new session's cookie."""
        content = f"{int(self._clock()) + SESSION_SECONDS}.{secrets.token_urlsafe(18)}"
        return f"{content}.{self._sign('session', content)}"

    def is_open(self, cookie: str | None) -> bool:
        """Whether a cookie was made by `open` and has not ended."""
        content, _, signature = (cookie or "").rpartition(".")
        ends_at = content.partition(".")[0]
        if not hmac.compare_digest(signature.encode(), self._sign("session", content).encode()):
            return False
        return ends_at.isascii() and ends_at.isdecimal() and int(ends_at) > self._clock()

    def token(self, cookie: str) -> str:
        """Return what every change of this session must carry."""
        return self._sign("change", cookie)

    def is_token(self, cookie: str, presented: str) -> bool:
        """Whether a change carries its session's token."""
        return hmac.compare_digest(self.token(cookie).encode(), presented.encode("utf-8", "surrogatepass"))

    def _sign(self, purpose: str, content: str) -> str:
        mac = hmac.digest(self._key, f"{purpose}:{content}".encode("utf-8", "surrogatepass"), hashlib.sha256)
        return base64.urlsafe_b64encode(mac).rstrip(b"=").decode()

    def _digest(self, presented: str) -> bytes:
        return hmac.digest(self._compare, presented.encode("utf-8", "surrogatepass"), hashlib.sha256)
