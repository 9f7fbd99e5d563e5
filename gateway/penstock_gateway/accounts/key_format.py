"""What a virtual key looks like, and the digest that stands for it.

::

    psk_k7f3qm2x_q1Vt…43 characters…8A
    ─┬─ ───┬──── ──────────┬──────────
     │     │               └ 256 random bits, base64url without padding
     │     └ public id: names the key in logs, the admin API and the ledger
     └ marks it for people and for scanners that look for leaked secrets

Only HMAC-SHA-256(pepper, key) is ever kept. A digest is no credential: it is digested itself when presented. Read
`new_secret` and `digest_of`.
"""

from __future__ import annotations

import base64
import hashlib
import hmac
import re
from collections.abc import Callable
from typing import Final

PREFIX: Final = "psk_"
ID_CHARACTERS: Final = 8
SECRET_BYTES: Final = 32
MAX_PRESENTED_CHARACTERS: Final = 1024
"""Longer credentials are refused before they are digested, so that none costs more than a microsecond or two."""

# No l, o, 0 and 1, which are mistaken for each other when read aloud. 32 characters of 5 bits: ids of 40 bits.
_ALPHABET: Final = "abcdefghijkmnpqrstuvwxyz23456789"
ID_PATTERN: Final = f"[{_ALPHABET}]{{{ID_CHARACTERS}}}"
_SECRET: Final = re.compile(f"{PREFIX}{ID_PATTERN}_[A-Za-z0-9_-]{{43}}")

# Told apart from every key, all of which can be sent in a header and so hold no zero byte.
_CHECK_TEXT: Final = b"\x00penstock pepper check"

RandomBytes = Callable[[int], bytes]


def new_id(random_bytes: RandomBytes) -> str:
    """Return a public id: 8 characters, 40 random bits.

    Parameters
    ----------
    random_bytes : callable
        As `secrets.token_bytes`.
    """
    return "".join(_ALPHABET[byte & 31] for byte in random_bytes(ID_CHARACTERS))


def new_secret(key_id: str, random_bytes: RandomBytes) -> str:
    """Return a key in full, to be shown once.

    Parameters
    ----------
    key_id : str
        Of `new_id`.
    random_bytes : callable
        As `secrets.token_bytes`.

    Returns
    -------
    str
        56 characters: ``psk_``, the id, an underscore and 43 characters of base64url.
    """
    text = base64.urlsafe_b64encode(random_bytes(SECRET_BYTES)).rstrip(b"=").decode()
    return f"{PREFIX}{key_id}_{text}"


def holds_secret(text: str) -> bool:
    """Whether a text has a key in it: somebody took the wrong field, and it would be shown and logged."""
    return _SECRET.search(text) is not None


def digest_of(pepper: bytes, presented: str) -> bytes:
    """Return the 32 bytes under which a key is stored and looked up.

    Parameters
    ----------
    pepper : bytes
    presented : str
        Whatever a client sent; text that is no valid Unicode has a digest too.
    """
    return hmac.digest(pepper, presented.encode("utf-8", "surrogatepass"), hashlib.sha256)


def digester(pepper: bytes) -> Callable[[str], bytes]:
    """Return `digest_of` for one pepper: what depends on the pepper alone is worked out once (RFC 2104 section 4).

    Examples
    --------
    >>> digester(b"pepper")("key") == digest_of(b"pepper", "key")
    True
    """
    block = hashlib.sha256().block_size
    key = pepper if len(pepper) <= block else hashlib.sha256(pepper).digest()
    padded = key.ljust(block, b"\0")
    inner = hashlib.sha256(bytes(byte ^ 0x36 for byte in padded))
    outer = hashlib.sha256(bytes(byte ^ 0x5C for byte in padded))

    def digest(presented: str) -> bytes:
        first, second = inner.copy(), outer.copy()
        first.update(presented.encode("utf-8", "surrogatepass"))
        second.update(first.digest())
        return second.digest()

    return digest


def pepper_check_of(pepper: bytes) -> str:
    """Return 64 hexadecimal digits that tell whether a pepper is the one that stored keys were made with."""
    return hmac.digest(pepper, _CHECK_TEXT, hashlib.sha256).hex()
