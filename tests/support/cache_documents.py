"""Documents for tests of the cache's stores, and an index that only remembers.

Read `document` first.
"""

from __future__ import annotations

import asyncio
import hashlib
import random
import time
from collections.abc import Callable
from typing import Any

import numpy as np

from penstock_cache.entries import CachedDocument, FloatArray, encode_vector
from penstock_cache.stores import IndexFollower, IndexRecord

NOW = 1_800_000_000.0
DIMENSION = 8
ENCODER = "encoder-of-tests"


def unit_vector(seed: int, dimension: int = DIMENSION) -> FloatArray:
    """Return a random direction, shape (d,)."""
    vector = np.random.default_rng(seed).normal(size=dimension).astype(np.float32)
    return vector / np.linalg.norm(vector)


def document(number: int = 0, **changes: Any) -> CachedDocument:
    """Return a document that is told apart by its number; whatever is named is changed."""
    values: dict[str, Any] = {
        "entry_id": f"{number:032x}",
        "tenant": "acme",
        "partition": hashlib.blake2b(b"partition", digest_size=16).digest(),
        "fingerprint": hashlib.blake2b(f"request {number}".encode(), digest_size=16).digest(),
        "prompt": f"question {number}",
        "category": "faq",
        "arm": "small",
        "tier": "small",
        "tradeoff": 0.5,
        "body": f'{{"answer": {number}}}'.encode(),
        "input_tokens": 10,
        "output_tokens": 20,
        "cost_usd": "0.001",
        "latency_ms": 900.0,
        "stored_at": NOW,
        "expires_at": NOW + 3600.0,
        "encoder_id": ENCODER,
        "vector": encode_vector(unit_vector(number)),
    }
    return CachedDocument(**{**values, **changes})


def random_documents(count: int, seed: int = 0) -> list[CachedDocument]:
    """Return documents whose ids and bodies are random, as in life; other seeds answer other requests."""
    generator = random.Random(seed)
    return [
        document(number, entry_id=f"{generator.getrandbits(128):032x}", body=generator.randbytes(64).hex().encode())
        for number in range(1_000_000 * seed, 1_000_000 * seed + count)
    ]


class RememberedIndex:
    """An index sink that keeps records in a dictionary."""

    def __init__(self) -> None:
        self.records: dict[str, IndexRecord] = {}
        self.vectors: dict[str, FloatArray | None] = {}
        self.added = 0
        self.clearings = 0

    def add(self, record: IndexRecord, vector: FloatArray | None) -> None:
        """Keep an entry."""
        self.records[record.entry_id] = record
        self.vectors[record.entry_id] = vector
        self.added += 1

    def remove(self, entry_id: str) -> None:
        """Forget an entry."""
        self.records.pop(entry_id, None)

    def remove_all(self, tenant: str, category: str | None, stored_until: float) -> None:
        """Forget what a tenant stored."""
        self.records = {
            entry_id: record
            for entry_id, record in self.records.items()
            if record.tenant != tenant
            or (category is not None and record.category != category)
            or record.stored_at > stored_until
        }

    def clear(self) -> None:
        """Forget everything."""
        self.records.clear()
        self.clearings += 1

    def __contains__(self, entry_id: str) -> bool:
        return entry_id in self.records


def follower(sink: RememberedIndex, problems: list[str] | None = None, now: float = NOW) -> IndexFollower:
    """Return a follower for the documents made here, at a fixed time."""
    noted = [] if problems is None else problems
    return IndexFollower(sink, encoder_id=ENCODER, dimension=DIMENSION, clock=lambda: now, on_problem=noted.append)


async def eventually(condition: Callable[[], bool], what: str, seconds: float = 20.0) -> None:
    """Wait for something that is to happen by itself; the deadline is generous because machines are busy."""
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, f"did not happen: {what}"
        await asyncio.sleep(0.002)
