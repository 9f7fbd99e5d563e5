"""What an index is told: entries stored and removed, and how these travel between replicas as bytes.

Owns `IndexRecord` (everything an index holds of an entry, never its answer), the events of `DocumentStore.follow`, and
the encoding of both. No I/O, no clock. Read `IndexEvent` first.
"""

from __future__ import annotations

import msgspec
import numpy as np

from penstock_cache.entries import CACHE_SCHEMA, CachedDocument, FloatArray
from penstock_cache.errors import DocumentDamaged
from penstock_cache.sealing import seal, unseal

_CHECKSUM_BYTES = 8


class IndexRecord(msgspec.Struct, frozen=True, array_like=True, gc=False):
    """What an index and the eviction policy need of a document: its vector and metadata, not its texts.

    Attributes
    ----------
    entry_id, tenant : str
    partition, fingerprint : bytes, length 16
    category, arm : str
    tier : str or None
    tradeoff : float, in [0, 1]
    cost_usd : str
        Plain decimal text.
    latency_ms : float
    stored_at, expires_at : float
        Unix time, seconds.
    size_bytes : int
        Of the document in its store.
    is_shared : bool
    encoder_id : str
    vector : bytes
        float16, little-endian; empty when the entry is exact only.
    schema : int
    """

    entry_id: str
    tenant: str
    partition: bytes
    fingerprint: bytes
    category: str
    arm: str
    tier: str | None
    tradeoff: float
    cost_usd: str
    latency_ms: float
    stored_at: float
    expires_at: float
    size_bytes: int
    is_shared: bool
    encoder_id: str
    vector: bytes
    schema: int = CACHE_SCHEMA

    @classmethod
    def of(cls, document: CachedDocument) -> IndexRecord:
        """Return the record of a document."""
        return cls(
            entry_id=document.entry_id,
            tenant=document.tenant,
            partition=document.partition,
            fingerprint=document.fingerprint,
            category=document.category,
            arm=document.arm,
            tier=document.tier,
            tradeoff=document.tradeoff,
            cost_usd=document.cost_usd,
            latency_ms=document.latency_ms,
            stored_at=document.stored_at,
            expires_at=document.expires_at,
            size_bytes=document.size_bytes(),
            is_shared=document.is_shared,
            encoder_id=document.encoder_id,
            vector=document.vector,
        )

    def prompt_vector(self) -> FloatArray:
        """Return the vector as float32, shape (d,); d is 0 when the entry is exact only."""
        return np.frombuffer(self.vector, dtype="<f2").astype(np.float32)


class Inserted(msgspec.Struct, frozen=True):
    """An entry was stored, or was already there when the snapshot was taken."""

    record: IndexRecord


class Removed(msgspec.Struct, frozen=True, array_like=True, tag="removed"):
    """Entries of a tenant are gone: deleted, evicted or damaged. Ids that nobody knows are allowed."""

    tenant: str
    entry_ids: tuple[str, ...]


class Cleared(msgspec.Struct, frozen=True, array_like=True, tag="cleared"):
    """All entries of a tenant, or of one of its categories, that were stored until `cleared_at` (Unix seconds)."""

    tenant: str
    category: str | None
    cleared_at: float


class Reset(msgspec.Struct, frozen=True):
    """Forget everything: a snapshot follows, then `InStep`.

    Attributes
    ----------
    reason : str
        ``start``, ``overflow`` (the follower was too slow), ``gap`` (changes were lost between two that arrived, or
        trimmed before they were read) or ``replaced`` (the store was emptied, or is another one now).
    """

    reason: str


class InStep(msgspec.Struct, frozen=True):
    """The snapshot is complete; what follows are changes as they happen."""


class Stored(msgspec.Struct, frozen=True, array_like=True, tag="stored"):
    """A record was written next to its document; only on the wire, where followers fetch the record themselves."""

    tenant: str
    entry_id: str


IndexEvent = Inserted | Removed | Cleared | Reset | InStep
IndexChange = Inserted | Removed | Cleared
WireChange = Stored | Removed | Cleared

_encoder = msgspec.msgpack.Encoder()
_record_decoder = msgspec.msgpack.Decoder(IndexRecord)
_change_decoder: msgspec.msgpack.Decoder[WireChange] = msgspec.msgpack.Decoder(WireChange)


def encode_record(record: IndexRecord) -> bytes:
    """Return a record as bytes with a checksum in front."""
    return seal(_encoder.encode(record), _CHECKSUM_BYTES)


def decode_record(stored: bytes) -> IndexRecord:
    """Read a record back.

    Raises
    ------
    DocumentDamaged
        The bytes were cut or changed, or come from another schema.
    """
    content = unseal(stored, _CHECKSUM_BYTES)
    if content is None:
        raise DocumentDamaged("An index record is damaged; it was left out.", code="cache_record_damaged")
    try:
        record = _record_decoder.decode(content)
    except (msgspec.DecodeError, UnicodeDecodeError):
        raise DocumentDamaged(
            "An index record is not one of this version; it was left out.", code="cache_record_damaged"
        ) from None
    if record.schema != CACHE_SCHEMA:
        raise DocumentDamaged("An index record has another schema; it was left out.", code="cache_record_damaged")
    return record


def encode_change(change: WireChange) -> bytes:
    """Return a change as bytes."""
    return _encoder.encode(change)


def decode_change(stored: bytes) -> WireChange:
    """Read a change back.

    Raises
    ------
    DocumentDamaged
        The bytes are not a change of this version.
    """
    try:
        return _change_decoder.decode(stored)
    except (msgspec.DecodeError, UnicodeDecodeError):
        raise DocumentDamaged("A logged change cannot be read; it was left out.", code="cache_change_damaged") from None
