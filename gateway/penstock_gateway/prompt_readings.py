"""What encoder and artifact say of prompts, and the memory of what they said last.

Read `PromptReading`, then `ReadingMemory`.
"""

from __future__ import annotations

import hashlib
from collections import OrderedDict
from typing import Final

import msgspec

from penstock_routers.estimates import Estimate, FloatArray
from penstock_routers.features import NO_CONTEXT, PromptContext

MAX_READINGS: Final = 2_000
"""Prompts that are remembered: 4 kB each."""


class PromptReading(msgspec.Struct, frozen=True, gc=False):
    """What encoder and artifact say of a prompt; made once, used by the router and the cache.

    Attributes
    ----------
    vector : ndarray of float32, shape (d,), or None
        None when there is no encoder, no text, or the encoder failed.
    estimate : Estimate or None
    duration_ms : float
        What embedding and estimating took.
    """

    vector: FloatArray | None = None
    estimate: Estimate | None = None
    duration_ms: float = 0.0


UNREAD: Final = PromptReading()


class ReadingMemory:
    """The last prompts of one artifact that were read, so that the same one is not tokenised and encoded again.

    Parameters
    ----------
    max_readings : int

    Notes
    -----
    It holds vectors and estimates by the digest of tenant and text, no text and no answer. A reading that is
    remembered is quicker: with the tenant in the digest, nobody learns from that what another tenant has asked.
    """

    def __init__(self, max_readings: int = MAX_READINGS) -> None:
        self._max_readings = max_readings
        self._readings: OrderedDict[bytes, PromptReading] = OrderedDict()

    def __len__(self) -> int:
        """Return how many are remembered."""
        return len(self._readings)

    def find(self, digest: bytes) -> PromptReading | None:
        """Return what was said of a prompt, given its `reading_digest`; None when it is not remembered."""
        found = self._readings.get(digest)
        if found is not None:
            self._readings.move_to_end(digest)
        return found

    def keep(self, digest: bytes, reading: PromptReading) -> None:
        """Remember a prompt; the one that was asked for longest ago makes room."""
        self._readings[digest] = PromptReading(reading.vector, reading.estimate)
        if len(self._readings) > self._max_readings:
            self._readings.popitem(last=False)


def reading_digest(tenant: str, text: str, context: PromptContext = NO_CONTEXT) -> bytes:
    """Return the name under which a tenant's prompt is remembered, 16 bytes; of another context it is another one."""
    name = tenant.encode("utf-8", "surrogatepass")
    content = b"%d:%b" % (len(name), name) + text.encode("utf-8", "surrogatepass")
    if context != NO_CONTEXT:
        content = b"%d %d %d:%b" % (*context, content)
    return hashlib.blake2b(content, digest_size=16).digest()
