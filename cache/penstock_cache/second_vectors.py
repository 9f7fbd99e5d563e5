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
    Texts are known by a digest of tenant and text only. A vector that is remembered makes a look-up quicker: with the
    tenant in the digest, nobody learns from that what another tenant has asked.
    """

    def __init__(self, most: int = REMEMBERED_VECTORS) -> None:
        self._most = most
        self._vectors: OrderedDict[bytes, FloatArray] = OrderedDict()

    def __len__(self) -> int:
        """Return how many are remembered."""
        return len(self._vectors)

    def find(self, tenant: str, text: str) -> FloatArray | None:
        """Return the vector of a text; None when it is not remembered."""
        digest = _digest(tenant, text)
        found = self._vectors.get(digest)
        if found is not None:
            self._vectors.move_to_end(digest)
        return found

    def keep(self, tenant: str, text: str, vector: FloatArray) -> None:
        """Remember a vector; the one that was asked for longest ago makes room."""
        self._vectors[_digest(tenant, text)] = vector
        if len(self._vectors) > self._most:
            self._vectors.popitem(last=False)


def _digest(tenant: str, text: str) -> bytes:
    name = tenant.encode("utf-8", "surrogatepass")
    digest = hashlib.blake2b(b"%d:%b" % (len(name), name), digest_size=16)
    digest.update(text.encode("utf-8", "surrogatepass"))
    return digest.digest()
