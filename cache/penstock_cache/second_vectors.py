"""The memory of vectors by the second encoder: of texts that were asked about lately, by tenant.

Owns the bound and the key. What is judged a miss is stored as an entry a moment later, and asked again by whoever
repeats it: neither should cost the transformer a second time. Read `SecondVectors`.
"""

from __future__ import annotations

import hashlib
from collections import OrderedDict
from typing import Final

from penstock_cache.entries import FloatArray

REMEMBERED_VECTORS: Final = 1_000
"""Texts whose vector is remembered: 1.5 kB each."""


class SecondVectors:
    """The last texts of which the second encoder gave a vector.

    Parameters
    ----------
    most : int

    Notes
    -----
    Texts are known by a digest only, each in its tenant: nobody learns from a quicker look-up what another tenant has
    asked. Vectors are content, so `forget` goes with the deletion of a tenant's entries; what is being computed
    meanwhile is not kept afterwards.

    Attributes
    ----------
    deletions : int
        How often anything was forgotten on demand; to be given to `keep` as it was before a vector was computed.
    """

    def __init__(self, most: int = REMEMBERED_VECTORS) -> None:
        self.deletions = 0
        self._most = most
        self._vectors: OrderedDict[tuple[str, bytes], FloatArray] = OrderedDict()

    def __len__(self) -> int:
        """Return how many are remembered."""
        return len(self._vectors)

    def find(self, tenant: str, text: str) -> FloatArray | None:
        """Return the vector of a text; None when it is not remembered."""
        place = tenant, _digest(text)
        found = self._vectors.get(place)
        if found is not None:
            self._vectors.move_to_end(place)
        return found

    def keep(self, tenant: str, text: str, vector: FloatArray, deletions: int) -> None:
        """Remember a vector, unless something was to be forgotten since; the one asked for longest ago makes room."""
        if deletions != self.deletions:
            return
        self._vectors[tenant, _digest(text)] = vector
        if len(self._vectors) > self._most:
            self._vectors.popitem(last=False)

    def forget(self, tenant: str) -> None:
        """Drop every vector of a tenant's texts."""
        self.deletions += 1
        for place in [place for place in self._vectors if place[0] == tenant]:
            del self._vectors[place]


def _digest(text: str) -> bytes:
    return hashlib.blake2b(text.encode("utf-8", "surrogatepass"), digest_size=16).digest()
