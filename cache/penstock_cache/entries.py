"""What the cache holds: the document of one stored answer, and how it is written as bytes.

Owns `CachedDocument` and its encoding. No I/O, no clock. Read `CachedDocument` first.
"""

from __future__ import annotations

import msgspec
import numpy as np
from numpy.typing import NDArray

from penstock_cache.errors import DocumentDamaged
from penstock_cache.sealing import seal, unseal

FloatArray = NDArray[np.float32]

CACHE_SCHEMA = 1
"""Part of every key: an entry written under another schema is never found."""

_CHECKSUM_BYTES = 16


class CachedDocument(msgspec.Struct, frozen=True, array_like=True, gc=False):
    """One stored answer with everything needed to judge whether it may be served.

    Attributes
    ----------
    entry_id : str
        32 hexadecimal digits, random; shown to callers.
    tenant : str
        Whose it is; an entry is never served to another one unless `is_shared`.
    partition : bytes, length 16
        Digest of scope and context: everything of the request but its last user text (`keys.CacheKey`).
    fingerprint : bytes, length 16
        Digest of the whole request: key of the exact tier.
    prompt : str
        The last user text, empty when the entry is exact only.
    category : str
    arm : str
        Name of the deployment that answered.
    tier : str or None
    tradeoff : float, in [0, 1]
        The knob's setting under which it was answered; 0 is cheapest, 1 best.
    body : bytes
        The final completion object as JSON, whether it came as a body or as a stream.
    input_tokens, output_tokens : int
    cost_usd : str
        What the answer cost, plain decimal text.
    latency_ms : float
        How long it took to get.
    stored_at, expires_at : float
        Unix time, seconds. Fixed when stored: a hit never moves `expires_at`.
    encoder_id : str
        Fingerprint of the encoder of `vector`; empty when there is none.
    vector : bytes
        float16, little-endian, unit length; empty when the entry is exact only.
    is_shared : bool
        Written by a trusted key in a category that is shared across tenants.
    schema : int
    """

    entry_id: str
    tenant: str
    partition: bytes
    fingerprint: bytes
    prompt: str
    category: str
    arm: str
    tier: str | None
    tradeoff: float
    body: bytes
    input_tokens: int
    output_tokens: int
    cost_usd: str
    latency_ms: float
    stored_at: float
    expires_at: float
    encoder_id: str = ""
    vector: bytes = b""
    is_shared: bool = False
    schema: int = CACHE_SCHEMA

    @property
    def is_semantic(self) -> bool:
        """Whether other wordings may find it."""
        return bool(self.vector)

    def prompt_vector(self) -> FloatArray:
        """Return the vector as float32, shape (d,)."""
        return np.frombuffer(self.vector, dtype="<f2").astype(np.float32)

    def size_bytes(self) -> int:
        """Return what it takes in a store, bytes, without the store's own overhead."""
        return len(self.body) + len(self.prompt.encode()) + len(self.vector) + 256

    def is_fresh(self, now: float) -> bool:
        """Whether it may still be served at Unix time `now`.

        Notes
        -----
        An entry from the future (the clock went back by more than it has lived) is not fresh either: its age is
        unknown, so it must not outlive its TTL.
        """
        return self.stored_at - _CLOCK_SLACK_SECONDS <= now < self.expires_at


_CLOCK_SLACK_SECONDS = 5.0  # replicas' clocks differ by less where any time service runs
_encoder = msgspec.msgpack.Encoder()
_decoder = msgspec.msgpack.Decoder(CachedDocument)


def encode_vector(vector: FloatArray) -> bytes:
    """Return a unit vector, shape (d,), as float16 bytes."""
    return vector.astype("<f2").tobytes()


def encode_document(document: CachedDocument) -> bytes:
    """Return a document as bytes with a checksum in front."""
    return seal(_encoder.encode(document), _CHECKSUM_BYTES)


def decode_document(stored: bytes) -> CachedDocument:
    """Read a document back.

    Raises
    ------
    DocumentDamaged
        The bytes were cut or changed, or come from another schema.
    """
    content = unseal(stored, _CHECKSUM_BYTES)
    if content is None:
        raise DocumentDamaged("A stored answer is damaged; it was dropped.")
    try:
        document = _decoder.decode(content)
    except (msgspec.DecodeError, UnicodeDecodeError):
        raise DocumentDamaged("A stored answer is not a document of this version; it was dropped.") from None
    if document.schema != CACHE_SCHEMA:
        raise DocumentDamaged("A stored answer has another schema; it was dropped.", code="cache_document_schema")
    return document


class Neighbour(msgspec.Struct, frozen=True, gc=False):
    """One entry near a prompt.

    Attributes
    ----------
    entry_id : str
    cosine : float
        Re-scored in float32, in [-1, 1].
    """

    entry_id: str
    cosine: float
