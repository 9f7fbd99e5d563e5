"""What is said between an encode server and a gateway, byte by byte.

Owns framing, the handshake's proofs and the layout of every message. Pure: no socket, no clock. A frame is its length
(4 bytes, little-endian, of what follows), one byte of kind, and the content::

    server → CHALLENGE  b"PSE" version(2) nonce(32)
    client → HELLO      version(2) precision(1) nonce(32) proof(32) encoder id
    server → WELCOME    dimension(4) proof(32)              or REFUSED code(1), and the end
    client → TEXT       number(4) milliseconds(2) UTF-8     any number of them, before earlier ones are answered
    server → VECTOR     number(4) numbers                   in any order
             FAILED     number(4) code(1)

Read `FrameReader`, then `proof_of`.
"""

from __future__ import annotations

import hashlib
import hmac
import struct
from enum import IntEnum
from typing import Any, Final, NamedTuple

import numpy as np
from numpy.typing import NDArray

VERSION: Final = 1
MAGIC: Final = b"PSE"
NONCE_BYTES: Final = 32
PROOF_BYTES: Final = 32
MAX_ID_BYTES: Final = 200
MAX_TEXT_BYTES: Final = 1 << 20
"""Of one text; the windows of the shipped encoders hold 16 kB at most."""
MAX_MILLISECONDS: Final = 60_000
MAX_DIMENSION: Final = 65_536

_HEAD: Final = struct.Struct("<IB")
_LENGTH: Final = struct.Struct("<I")
_CHALLENGE: Final = struct.Struct(f"<3sH{NONCE_BYTES}s")
_HELLO: Final = struct.Struct(f"<HB{NONCE_BYTES}s{PROOF_BYTES}s")
_WELCOME: Final = struct.Struct(f"<I{PROOF_BYTES}s")
_TEXT_HEAD: Final = struct.Struct("<IBIH")
_TEXT: Final = struct.Struct("<IH")
_NUMBER: Final = struct.Struct("<I")
_FAILED: Final = struct.Struct("<IB")

FloatArray = NDArray[np.float32]


class Kind(IntEnum):
    """Kinds of frames."""

    CHALLENGE = 1
    HELLO = 2
    WELCOME = 3
    REFUSED = 4
    TEXT = 5
    VECTOR = 6
    FAILED = 7


class Refusal(IntEnum):
    """Why a server ends a handshake."""

    VERSION = 1
    ENCODER = 2
    SECRET = 3


class Failure(IntEnum):
    """Why a text has no vector."""

    OVERLOADED = 1
    LATE = 2
    ENCODER = 3


class Precision(IntEnum):
    """Of the numbers of a vector on the wire."""

    FLOAT32 = 0
    FLOAT16 = 1


_TYPES: Final[dict[Precision, np.dtype[Any]]] = {
    Precision.FLOAT32: np.dtype("<f4"),
    Precision.FLOAT16: np.dtype("<f2"),
}


class WireError(Exception):
    """What came over the wire is not of this protocol; the message holds none of it."""


class Hello(NamedTuple):
    """What a client says first."""

    version: int
    precision: Precision
    nonce: bytes
    proof: bytes
    encoder_id: str


class FrameReader:
    """Cuts a stream into frames.

    Parameters
    ----------
    max_bytes : int
        Largest content of a frame; more is an error before any of it is kept.
    """

    def __init__(self, max_bytes: int) -> None:
        self.max_bytes = max_bytes
        self._rest = b""

    def feed(self, received: bytes) -> list[tuple[int, bytes]]:
        """Return the frames that are complete now, as (kind, content).

        Raises
        ------
        WireError
            A frame is empty or too large.
        """
        stream = self._rest + received if self._rest else received
        frames, at, end = [], 0, len(stream)
        while end - at >= _LENGTH.size:
            (length,) = _LENGTH.unpack_from(stream, at)
            if not 1 <= length <= self.max_bytes + 1:
                raise WireError("a frame is empty or too large")
            stop = at + _LENGTH.size + length
            if stop > end:
                break
            frames.append((stream[at + _LENGTH.size], stream[at + _HEAD.size : stop]))
            at = stop
        self._rest = stream[at:]
        return frames


def frame(kind: Kind, content: bytes) -> bytes:
    """Return a whole frame."""
    return _HEAD.pack(len(content) + 1, kind) + content


def proof_of(secret: bytes, speaker: bytes, server_nonce: bytes, client_nonce: bytes, encoder_id: str) -> bytes:
    """Return the HMAC-SHA256 by which one side shows the other that it knows the secret.

    Parameters
    ----------
    secret : bytes
        Empty: none is asked for, and the proof is 32 zeros.
    speaker : bytes
        ``b"client"`` or ``b"server"``, so that neither can send back what it was told.
    server_nonce, client_nonce : bytes
        Drawn anew for every connection.
    encoder_id : str

    Returns
    -------
    bytes, length 32
    """
    if not secret:
        return bytes(PROOF_BYTES)
    content = b"penstock encoder\0" + speaker + b"\0" + server_nonce + client_nonce + encoder_id.encode()
    return hmac.new(secret, content, hashlib.sha256).digest()


def challenge(nonce: bytes) -> bytes:
    """Return the server's first frame."""
    return frame(Kind.CHALLENGE, _CHALLENGE.pack(MAGIC, VERSION, nonce))


def read_challenge(content: bytes) -> bytes:
    """Return the server's nonce.

    Raises
    ------
    WireError
        It is another kind of server, or speaks another version.
    """
    if len(content) != _CHALLENGE.size:
        raise WireError("this is no encode server")
    magic, version, nonce = _CHALLENGE.unpack(content)
    if magic != MAGIC:
        raise WireError("this is no encode server")
    if version != VERSION:
        raise WireError(f"the encode server speaks version {version}, this gateway {VERSION}")
    return bytes(nonce)


def hello(precision: Precision, nonce: bytes, proof: bytes, encoder_id: str) -> bytes:
    """Return the client's first frame."""
    return frame(Kind.HELLO, _HELLO.pack(VERSION, precision, nonce, proof) + encoder_id.encode())


def read_hello(content: bytes) -> Hello:
    """Return what a client says first.

    Raises
    ------
    WireError
        It is too short or long, or no text.
    """
    if not _HELLO.size < len(content) <= _HELLO.size + MAX_ID_BYTES:
        raise WireError("the hello has another length")
    version, precision, nonce, proof = _HELLO.unpack_from(content)
    try:
        return Hello(version, Precision(precision), nonce, proof, content[_HELLO.size :].decode())
    except ValueError:
        raise WireError("the hello is not readable") from None


def welcome(dimension: int, proof: bytes) -> bytes:
    """Return the frame that ends a handshake well."""
    return frame(Kind.WELCOME, _WELCOME.pack(dimension, proof))


def read_welcome(content: bytes) -> tuple[int, bytes]:
    """Return dimension and proof.

    Raises
    ------
    WireError
        It has another length.
    """
    if len(content) != _WELCOME.size:
        raise WireError("the welcome has another length")
    dimension, proof = _WELCOME.unpack(content)
    return dimension, proof


def text_request(number: int, milliseconds: int, text: bytes) -> bytes:
    """Return the frame that asks for a text's vector; one call of pack, as it stands on the path of a request."""
    return _TEXT_HEAD.pack(len(text) + 1 + _TEXT.size, Kind.TEXT, number, milliseconds) + text


def read_text_request(content: bytes) -> tuple[int, int, str]:
    """Return number, milliseconds until nobody waits any more, and text.

    Raises
    ------
    WireError
        It is too short, or the text is not UTF-8.
    """
    if len(content) < _TEXT.size:
        raise WireError("a request is too short")
    number, milliseconds = _TEXT.unpack_from(content)
    try:
        return number, milliseconds, content[_TEXT.size :].decode()
    except UnicodeDecodeError:
        raise WireError("a text is not UTF-8") from None


def vector_answer(number: int, vector: FloatArray, precision: Precision) -> bytes:
    """Return the frame with a vector."""
    return frame(Kind.VECTOR, _NUMBER.pack(number) + vector.astype(_TYPES[precision], copy=False).tobytes())


def read_vector(content: bytes, dimension: int, precision: Precision) -> tuple[int, FloatArray]:
    """Return number and vector.

    Raises
    ------
    WireError
        It has another length.
    """
    kind = _TYPES[precision]
    if len(content) != _NUMBER.size + dimension * kind.itemsize:
        raise WireError("a vector has another length")
    (number,) = _NUMBER.unpack_from(content)
    return number, np.frombuffer(content, dtype=kind, offset=_NUMBER.size).astype(np.float32)


def failure(number: int, why: Failure) -> bytes:
    """Return the frame that says that a text has no vector."""
    return frame(Kind.FAILED, _FAILED.pack(number, why))


def read_failure(content: bytes) -> tuple[int, Failure]:
    """Return number and reason.

    Raises
    ------
    WireError
        It has another length, or a reason that this version does not know.
    """
    if len(content) != _FAILED.size:
        raise WireError("a failure has another length")
    number, why = _FAILED.unpack(content)
    try:
        return number, Failure(why)
    except ValueError:
        raise WireError("a failure has an unknown reason") from None
