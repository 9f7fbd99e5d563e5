"""Compressed bodies: reading what clients send, and compressing what they accept.

Owns the bounds of decompression: it never makes more bytes than are allowed, however well they were packed. Large
bodies are handed to a thread; zlib lets the event loop run meanwhile. Read `inflate`, then `accepts_gzip`.

Rules: RFC 9110 sections 8.4 and 12.5.3 (codings, what a client accepts), RFC 1952 (gzip), RFC 1950 and 1951 (deflate).
"""

from __future__ import annotations

import asyncio
import zlib
from typing import Final

from penstock_gateway.errors import InvalidRequest, RequestTooLarge

CODINGS: Final = frozenset({b"gzip", b"x-gzip", b"deflate"})
"""What a request body may be compressed with: what the standard library reads."""

ACCEPTED: Final = "gzip, deflate"
"""The same, for the ``Accept-Encoding`` of a refusal (RFC 9110 section 15.5.16)."""

MIN_GZIP_BYTES: Final = 1400
"""Smaller answers fit into one packet, compressed or not: Ethernet's 1,500 bytes less TCP/IP."""

INLINE_BYTES: Final = 131_072
"""Larger bodies are worked on in a thread: this much takes 1 ms to compress, and 0.4 ms to decompress."""

MAX_MEMBERS: Final = 4096
"""gzip files that may stand one after another in a body. Parallel compressors write one for every 64 kB or more; each
costs about 15 µs however little is in it."""

# The higher levels leave hardly less of a short text and take several times as long; `bench/http_edge.py` measures it.
_GZIP_LEVEL: Final = 1
_PIECE_BYTES: Final = 65_536
_GZIP_WINDOW, _ZLIB_WINDOW, _RAW_WINDOW = 31, 15, -15  # zlib's manual, inflateInit2: frame and window in one number


def inflate(body: bytes, coding: bytes, *, max_bytes: int) -> bytes:
    """Return a body decompressed.

    Parameters
    ----------
    body : bytes
    coding : bytes
        One of `CODINGS`.
    max_bytes : int
        Of the result; nothing beyond it is decompressed, so memory is bounded by it, whatever the ratio.

    Returns
    -------
    bytes

    Raises
    ------
    RequestTooLarge
        More than `max_bytes`.
    InvalidRequest
        Code ``invalid_content_encoding``: it is corrupt, ends too early, or something follows it.

    Notes
    -----
    Deflate is read in zlib's frame, as RFC 9110 has it, and without a frame, as some clients send it.
    """
    view = memoryview(body)
    window = _GZIP_WINDOW if coding != b"deflate" else _ZLIB_WINDOW if _has_zlib_frame(body) else _RAW_WINDOW
    parts: list[bytes] = []
    room, at = max_bytes, 0
    for _ in range(MAX_MEMBERS if window == _GZIP_WINDOW else 1):
        part, length = _inflate_member(view[at:], window, room)
        if len(part) > room:
            raise RequestTooLarge(f"The decompressed body is larger than the limit of {max_bytes} bytes.")
        parts.append(part)
        room, at = room - len(part), at + length
        # Padding, which gzip's own tools allow; the rest is copied only where it begins like that, not for each member.
        if at == len(body) or (body[at] == 0 and not body[at:].strip(b"\0")):
            return parts[0] if len(parts) == 1 else b"".join(parts)
    raise _invalid()


async def inflate_body(body: bytes, coding: bytes, *, max_bytes: int) -> bytes:
    """Do what `inflate` does, in a thread when there is much of it."""
    if len(body) <= INLINE_BYTES:
        try:
            return inflate(body, coding, max_bytes=min(max_bytes, INLINE_BYTES))
        except RequestTooLarge:  # for this side of the door; it is unpacked once more, 0.4 ms lost at most
            if max_bytes <= INLINE_BYTES:
                raise
    return await asyncio.to_thread(inflate, body, coding, max_bytes=max_bytes)


async def gzip_body(body: bytes) -> bytes:
    """Return a body as one gzip file, made in a thread when there is much of it."""
    return _gzip(body) if len(body) <= INLINE_BYTES else await asyncio.to_thread(_gzip, body)


def accepts_gzip(accept_encoding: bytes) -> bool:
    """Say whether an answer to a request with this ``Accept-Encoding`` may be compressed with gzip.

    Parameters
    ----------
    accept_encoding : bytes
        Of all header lines, joined by commas; empty when there is none.

    Notes
    -----
    What names gzip counts more than ``*`` does; a weight of 0, or one that is none, is a no. A client that prefers
    ``identity`` gets it.

    Examples
    --------
    >>> accepts_gzip(b"gzip, deflate, br"), accepts_gzip(b"*"), accepts_gzip(b"identity, gzip;q=0.5")
    (True, True, False)
    >>> accepts_gzip(b"br"), accepts_gzip(b"gzip;q=0, *"), accepts_gzip(b"")
    (False, False, False)
    """
    accepted = accept_encoding.lower()
    if b"gzip" not in accepted and b"*" not in accepted:
        return False
    weights: dict[bytes, float] = {}
    for entry in accepted.split(b","):
        coding, _, parameters = entry.partition(b";")
        weights[coding.strip()] = _weight(parameters.strip())
    gzip = weights.get(b"gzip", weights.get(b"x-gzip", weights.get(b"*", 0.0)))
    return gzip > 0 and gzip >= weights.get(b"identity", 0.0)


def _inflate_member(view: memoryview, window: int, room: int) -> tuple[bytes, int]:
    """Return what one stream holds, cut one byte after `room`, and how many bytes it takes itself."""
    stream = zlib.decompressobj(window)
    parts: list[bytes] = []
    fed = size = 0
    try:
        while not stream.eof and size <= room:
            if fed == len(view):
                raise _invalid()
            piece = view[fed : fed + _PIECE_BYTES]
            parts.append(stream.decompress(piece, room + 1 - size))
            fed, size = fed + len(piece), size + len(parts[-1])
    except zlib.error:
        raise _invalid() from None
    return parts[0] if len(parts) == 1 else b"".join(parts), fed - len(stream.unused_data)


def _has_zlib_frame(body: bytes) -> bool:
    """RFC 1950 section 2.2: method 8, and the first two bytes are a multiple of 31."""
    return len(body) >= 2 and body[0] & 0x0F == 8 and (body[0] << 8 | body[1]) % 31 == 0


def _gzip(body: bytes) -> bytes:
    packer = zlib.compressobj(_GZIP_LEVEL, zlib.DEFLATED, _GZIP_WINDOW)
    return packer.compress(body) + packer.flush()


def _weight(parameters: bytes) -> float:
    """Return the weight among a coding's parameters: 1 when there is none, 0 when it is not a number from 0 to 1."""
    name, _, value = parameters.partition(b"=")
    if name.strip() != b"q":
        return 1.0
    try:
        weight = float(value)
    except ValueError:
        return 0.0
    return weight if 0.0 <= weight <= 1.0 else 0.0


def _invalid() -> InvalidRequest:
    return InvalidRequest(
        "The body is not what its content-encoding says: it is corrupt, or ends too early.",
        code="invalid_content_encoding",
    )
