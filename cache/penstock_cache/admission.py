"""What is asked of the resident set and what it answers: candidates, admissions, evictions, figures.

Owns the values that `residency` takes and gives. Decides nothing. Read `Candidate`, then `Admission`.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from enum import Enum

import msgspec

from penstock_cache.entry_slots import MAX_SIZE_BYTES
from penstock_cache.eviction import HitValue


class EvictionReason(Enum):
    """Why an entry has to go."""

    EXPIRED = "expired"
    ROOM = "room"
    REPLACED = "replaced"


class Eviction(msgspec.Struct, frozen=True, gc=False):
    """An entry that is no longer resident.

    Attributes
    ----------
    entry_id : str
    category : str
    reason : EvictionReason
    """

    entry_id: str
    category: str
    reason: EvictionReason


class Candidate(msgspec.Struct, frozen=True, gc=False):
    """An entry that asks to come in.

    Attributes
    ----------
    entry_id : str
    category : str
    size_bytes : int, at least 1
        All that it takes: answer, vector and index.
    value : HitValue
    expires_at : float
        Unix time, seconds.
    fingerprint : bytes, at least 8
        Digest of the request: how a returning one is known, whatever id its entry has.
    is_discard : bool
        `discard.predict_discard`: unlikely ever to come back.
    is_returning : bool
        The caller knows that the prompt was asked before, say by an evicted neighbour's vector.
    """

    entry_id: str
    category: str
    size_bytes: int
    value: HitValue
    expires_at: float
    fingerprint: bytes
    is_discard: bool = False
    is_returning: bool = False

    def __post_init__(self) -> None:
        if not 1 <= self.size_bytes <= MAX_SIZE_BYTES:
            raise ValueError(f"an entry has 1 to {MAX_SIZE_BYTES} bytes")
        if math.isnan(self.expires_at):
            raise ValueError("an entry's end is a time")  # it would never expire


class Admission(msgspec.Struct, frozen=True, gc=False):
    """The answer to a candidate.

    Attributes
    ----------
    is_admitted : bool
    evictions : tuple of Eviction
        What has to go, in the order in which it was chosen; may hold expired entries even when nothing was admitted.
    """

    is_admitted: bool
    evictions: tuple[Eviction, ...]


@dataclass(frozen=True, slots=True)
class CategoryFigures:
    """One category's memory and what it earns.

    Attributes
    ----------
    entries : int
    used_bytes, probation_bytes, reserve_bytes, cap_bytes : int
    hits, hit_value_usd : int and float
        Since the start; a hit that is expected to do harm counts 0.
    admitted, refused, evicted : int
        Since the start; `evicted` for want of room only.
    discards_predicted, discards_returned : int
        Candidates with the discard bit, and those of them that were turned away, or evicted, and came back.
    """

    entries: int
    used_bytes: int
    probation_bytes: int
    reserve_bytes: int
    cap_bytes: int
    hits: int
    hit_value_usd: float
    admitted: int
    refused: int
    evicted: int
    discards_predicted: int
    discards_returned: int
