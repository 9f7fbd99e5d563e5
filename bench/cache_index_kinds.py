"""The indexes that `cache_index.py` compares behind one small protocol: ours, and the graph libraries where installed.

Read `Kind`. A library that is absent is left out; the versions printed by the bench say which.
"""

from __future__ import annotations

import importlib
import importlib.util
from collections.abc import Callable
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from penstock_cache.index.clustered import ClusteredIndex
from penstock_cache.index.flat import FlatIndex

FloatArray = NDArray[np.float32]

CONNECTIVITY, BUILD_EFFORT = 16, 64
EFFORTS = (16, 32, 64, 128)
"""Neighbours a graph search keeps; ours has one setting."""


class Kind(Protocol):
    """One index; entries are numbered from 0."""

    efforts: tuple[int, ...]

    def add(self, number: int, vector: FloatArray) -> None:
        """Add a unit vector."""
        ...

    def remove(self, number: int) -> None:
        """Remove an entry that is there."""
        ...

    def search(self, vector: FloatArray, k: int) -> float:
        """Return the cosine of the best of k."""
        ...

    def set_effort(self, effort: int) -> None:
        """Set how much a search looks at."""
        ...


def entry_id(number: int) -> str:
    """Return 32 hexadecimal digits that spread over the first byte as random ones do."""
    return f"{(number * 0x9E3779B97F4A7C15F39CC0605CEDC835) % (1 << 128):032x}"


class Ours:
    """`FlatIndex` or `ClusteredIndex`."""

    efforts = (0,)

    def __init__(self, index: FlatIndex | ClusteredIndex) -> None:
        self.index = index

    def add(self, number: int, vector: FloatArray) -> None:
        """Add a unit vector."""
        self.index.add(entry_id(number), vector)

    def remove(self, number: int) -> None:
        """Remove an entry."""
        self.index.remove(entry_id(number))

    def search(self, vector: FloatArray, k: int) -> float:
        """Return the best cosine."""
        return self.index.search(vector, k)[0].cosine

    def set_effort(self, effort: int) -> None:
        """Has one setting."""


class Usearch:
    """usearch in float16 with slots used again."""

    efforts = EFFORTS

    def __init__(self, dimension: int) -> None:
        library: Any = importlib.import_module("usearch.compiled")
        self.half = library.ScalarKind.F16
        self.index = library.Index(
            ndim=dimension, dtype=self.half, metric_kind=library.MetricKind.IP, connectivity=CONNECTIVITY,
            expansion_add=BUILD_EFFORT, expansion_search=EFFORTS[0],
        )  # fmt: skip

    def add(self, number: int, vector: FloatArray) -> None:
        """Add a unit vector."""
        row = vector.astype(np.float16)[None]
        self.index.add_many(np.array([number], dtype=np.uint64), row, copy=True, threads=1, dtype=self.half)

    def remove(self, number: int) -> None:
        """Mark an entry as removed; the next addition takes its slot."""
        self.index.remove_one(number, False, 1)

    def search(self, vector: FloatArray, k: int) -> float:
        """Return the best cosine."""
        query = vector.astype(np.float16)[None]
        found = self.index.search_many(query, k, False, 1, dtype=self.half)
        return 1.0 - float(found[1][0][0])

    def set_effort(self, effort: int) -> None:
        """Set how many neighbours a search keeps."""
        self.index.expansion_search = effort


class Hnswlib:
    """hnswlib, float32 only, with removed slots used again."""

    efforts = EFFORTS

    def __init__(self, dimension: int, capacity: int) -> None:
        library: Any = importlib.import_module("hnswlib")
        self.index = library.Index("ip", dimension)
        self.index.init_index(capacity, M=CONNECTIVITY, ef_construction=BUILD_EFFORT, allow_replace_deleted=True)
        self.removed = 0

    def add(self, number: int, vector: FloatArray) -> None:
        """Add a unit vector."""
        self.index.add_items(vector[None], [number], num_threads=1, replace_deleted=self.removed > 0)
        self.removed -= self.removed > 0

    def remove(self, number: int) -> None:
        """Mark an entry as removed."""
        self.index.mark_deleted(number)
        self.removed += 1

    def search(self, vector: FloatArray, k: int) -> float:
        """Return the best cosine."""
        return 1.0 - float(self.index.knn_query(vector, k, num_threads=1)[1][0][0])

    def set_effort(self, effort: int) -> None:
        """Set how many neighbours a search keeps."""
        self.index.set_ef(effort)


def makers(dimension: int, capacity: int) -> dict[str, Callable[[], Kind]]:
    """Return the kinds that can be made here by name."""
    kinds: dict[str, Callable[[], Any]] = {
        "flat": lambda: Ours(FlatIndex(dimension)),
        "clustered": lambda: Ours(ClusteredIndex(dimension)),
        "usearch": lambda: Usearch(dimension),
        "hnswlib": lambda: Hnswlib(dimension, capacity),
    }
    for name in ("usearch", "hnswlib"):
        if importlib.util.find_spec(name) is None:
            del kinds[name]
    return kinds
