"""One spelling for every JSON value, so that equal requests have equal bytes and unequal ones do not.

Owns reading raw JSON to plain values, writing them canonically, and digests of what was written. It knows nothing of
requests and drops nothing. Read `canonical_json` first.

The canonical form, pinned by golden tests; a change of it is a new `entries.CACHE_SCHEMA`:

=========  ===================================================================================================
value      written as
=========  ===================================================================================================
object     names sorted, no blanks; a repeated name counts as its last, as in the gateway's own reading
number     by exact decimal value: ``1``, ``1.0`` and ``1e0`` are ``1``; ``-0.0`` is ``0``; ``0.10`` is ``1e-1``.
           Nothing passes through binary floating point, so numbers that differ in the 30th digit stay apart
text       UTF-8 with the fewest escapes: a letter is one letter however it was escaped. Code points are not
           normalised: a composed and a decomposed é stay apart, because a model sees different tokens and may be
           asked about just that
=========  ===================================================================================================
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterable
from functools import lru_cache
from itertools import chain
from typing import Final

import msgspec

from penstock_cache.errors import CacheError

PlainValue = None | bool | int | str | msgspec.Raw | list["PlainValue"] | dict[str, "PlainValue"]
"""A JSON value as `decode_plain` reads it: numbers that are no integers are `msgspec.Raw` in their canonical form."""

MAX_DEPTH: Final = 128
"""Deepest nesting of a value. Schemas of tools reach about 40; an interpreter's own bound lies near 1,000."""

DIGEST_BYTES: Final = 16
"""128 bits: among 10**9 keys two are equal by chance with probability 1.5e-21 (n**2 / 2**129)."""

_NUMBER = re.compile(r"(-?)([0-9]+)(?:\.([0-9]+))?(?:[eE]([-+]?[0-9]+))?")
_MAX_NUMBER_CHARACTERS = 1000  # longer is no number anybody means, and reading digits takes quadratic time
_CONTAINERS = frozenset({list, dict})
_REMEMBERED_BYTES = 32  # of a number whose form is kept
_TEXT_OR_CONTAINER = b'"[{'  # may be somebody's words: nothing of a request outlives it here
_MAX_PLAIN_DIGITS = 1000  # an integer up to this long is written out; above it is digits and an exponent


def canonical_json(raw: bytes) -> bytes:
    """Return the canonical form of a JSON value.

    Parameters
    ----------
    raw : bytes
        UTF-8 JSON.

    Returns
    -------
    bytes
        Equal for two values exactly when they are the same value.

    Raises
    ------
    CacheError
        As `decode_plain`.

    Examples
    --------
    >>> canonical_json(b'{"b": [1.50, 2e1], "a": -0.0}')
    b'{"a":0,"b":[15e-1,20]}'
    """
    text = bytes(raw)
    is_remembered = len(text) <= _REMEMBERED_BYTES and text[:1] not in _TEXT_OR_CONTAINER
    return _remembered(text) if is_remembered else _canonical(text)


def decode_plain(raw: bytes) -> PlainValue:
    """Read a JSON value.

    Parameters
    ----------
    raw : bytes
        UTF-8 JSON.

    Returns
    -------
    PlainValue
        Free of floats; give it to `encode_canonical`.

    Raises
    ------
    CacheError
        Code ``cache_request_too_deep``: nested deeper than `MAX_DEPTH`. Code ``cache_request_unreadable``: not JSON, or
        it holds a number that is longer than 1,000 characters.
    """
    raw_text = bytes(raw)  # a `msgspec.Raw` is typed as bytes but has none of their methods
    try:
        value: PlainValue = _decoder.decode(raw_text)
    except RecursionError:
        raise _too_deep() from None
    except (msgspec.DecodeError, UnicodeDecodeError, _UnreadableNumber):
        raise CacheError(
            "A part of the request is not JSON that the cache can read; it is answered without the cache.",
            code="cache_request_unreadable",
        ) from None
    if raw_text.count(b"[") + raw_text.count(b"{") > MAX_DEPTH:
        _check_depth(value)
    return value


def encode_canonical(value: PlainValue) -> bytes:
    """Write a value that `decode_plain` read, or one built from such values, in its canonical form.

    Parameters
    ----------
    value : PlainValue
        Without floats: they would be written as Python spells them.

    Returns
    -------
    bytes
    """
    return _encoder.encode(value)


def digest_of(purpose: bytes, parts: Iterable[bytes]) -> bytes:
    """Return a digest of a sequence of byte strings.

    Parameters
    ----------
    purpose : bytes, at most 16 long
        Personalisation: digests for different purposes never meet, whatever they are made of.
    parts : iterable of bytes
        Each is preceded by its length, so that moving a byte from one part to the next changes the digest.

    Returns
    -------
    bytes, length `DIGEST_BYTES`

    References
    ----------
    RFC 7693 (BLAKE2b); personalisation as in the parameter block of the BLAKE2 paper (Aumasson et al., 2013).
    """
    framed = b"".join([piece for part in parts for piece in (len(part).to_bytes(8, "little"), part)])
    return hashlib.blake2b(framed, digest_size=DIGEST_BYTES, person=purpose).digest()


def _canonical(raw: bytes) -> bytes:
    return encode_canonical(decode_plain(raw))


class _UnreadableNumber(ValueError):
    """A number that is too long to read."""


def _read_number(text: str) -> int | msgspec.Raw:
    """Return a number with a point or an exponent as an integer where it is one, else as canonical JSON."""
    matched = _NUMBER.fullmatch(text)
    if matched is None or len(text) > _MAX_NUMBER_CHARACTERS:
        raise _UnreadableNumber
    sign, whole, fraction, exponent = matched.groups(default="")
    digits = (whole + fraction).lstrip("0")
    significant = digits.rstrip("0")
    if not significant:
        return 0
    power = int(exponent or "0") - len(fraction) + len(digits) - len(significant)
    if power >= 0 and len(significant) + power <= _MAX_PLAIN_DIGITS:
        return int(f"{sign}{significant}{'0' * power}")
    return msgspec.Raw(f"{sign}{significant}e{power}".encode())


def _check_depth(value: PlainValue) -> None:
    """Refuse a value deeper than `MAX_DEPTH`, level by level, without recursion."""
    level: list[PlainValue] = [value] if type(value) in _CONTAINERS else []
    for _ in range(MAX_DEPTH):
        if not level:
            return
        inside = chain.from_iterable(map(_values_of, level))
        level = [inner for inner in inside if type(inner) in _CONTAINERS]
    if level:
        raise _too_deep()


def _values_of(container: PlainValue) -> Iterable[PlainValue]:
    if isinstance(container, dict):
        return container.values()
    return container if isinstance(container, list) else ()


def _too_deep() -> CacheError:
    return CacheError(
        f"The request is nested deeper than {MAX_DEPTH} levels; it is answered without the cache.",
        code="cache_request_too_deep",
    )


_decoder = msgspec.json.Decoder(float_hook=_read_number)
_encoder = msgspec.json.Encoder(order="sorted")
# Numbers and switches come with every request, the same few over and over; a pure function of their bytes.
_remembered = lru_cache(maxsize=1024)(_canonical)
