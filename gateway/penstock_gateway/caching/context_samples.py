"""Sketches of recent requests' contexts, by tenant: what the search for the field that differs looks at.

Owns which requests are sketched, and the bounds of time and memory. It keeps digests, never text. Read
`ContextSamples.take`, then `find_varying_fields`.
"""

from __future__ import annotations

from collections import OrderedDict, deque
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Final

import msgspec

from penstock_cache.contexts import ContextSketch, VaryingField, sketch_context, varying_fields

MAX_SKETCHES: Final = 64
"""Kept of each tenant: a field that splits 5 % of the requests, the least reported, then differs in three of them."""

MAX_TENANTS: Final = 256
"""The least recently sketched one is forgotten first. All together take at most 64 MiB."""

MAX_TENANT_BYTES: Final = 262_144
"""Most that one tenant's sketches take. One takes about 2 kB, and 16 kB for a long prompt with many tools."""

MAX_REQUEST_BYTES: Final = 131_072
"""A longer request is not sketched: it could keep a core busy for 20 ms."""

SKETCHES_PER_SECOND: Final = 4.0
"""Of all tenants together. Most sketches take 0.2 to 1 ms, so this is about 0.4 % of a core."""

_TENANT_PER_SECOND: Final = 1.0  # so that a busy tenant leaves others their share
_BURST: Final = 32.0  # after a pause, so that somebody who sends a few requests and asks is told about these

_encoder = msgspec.msgpack.Encoder()
_decoder = msgspec.msgpack.Decoder(ContextSketch)


@dataclass(slots=True)
class _Allowance:
    """How many sketches may be taken now."""

    per_second: float
    left: float = _BURST
    filled_at: float = float("-inf")

    def refill(self, now: float) -> bool:
        """Add what time allows, and say whether there is one left."""
        passed = now - self.filled_at
        if passed > 0.0:
            self.left = min(_BURST, self.left + passed * self.per_second)
        self.filled_at = now
        return self.left >= 1.0


@dataclass(slots=True)
class _TenantSamples:
    """One tenant's sketches, oldest first; as bytes, because so many objects would slow the garbage collector."""

    allowance: _Allowance = field(default_factory=lambda: _Allowance(_TENANT_PER_SECOND))
    sketches: deque[bytes] = field(default_factory=deque)
    size_bytes: int = 0


class ContextSamples:
    """Recent sketches of each tenant, in bounded time and memory."""

    def __init__(self) -> None:
        self._tenants: OrderedDict[str, _TenantSamples] = OrderedDict()
        self._allowance = _Allowance(SKETCHES_PER_SECOND)

    def __len__(self) -> int:
        """Return the number of tenants that there are sketches of."""
        return len(self._tenants)

    def take(self, tenant: str, size_bytes: int, now: float) -> bool:
        """Say whether a request is to be sketched, and count it if so.

        Parameters
        ----------
        tenant : str
        size_bytes : int
            Of the request's fields.
        now : float
            Monotonic time, seconds.
        """
        if size_bytes > MAX_REQUEST_BYTES or not self.has_room(tenant, now):
            return False
        self._allowance.left -= 1.0
        self._samples(tenant).allowance.left -= 1.0
        return True

    def has_room(self, tenant: str, now: float) -> bool:
        """Whether a request of a tenant may be sketched now, if it is not too large; `take` asks again."""
        return self._allowance.refill(now) and self._samples(tenant).allowance.refill(now)

    def add(self, tenant: str, sketch: bytes) -> None:
        """Keep what `sketch_bytes` made of a request.

        Parameters
        ----------
        tenant : str
        sketch : bytes
            One that is larger than `MAX_TENANT_BYTES` is dropped.
        """
        if len(sketch) > MAX_TENANT_BYTES:
            return
        samples = self._samples(tenant)
        samples.sketches.append(sketch)
        samples.size_bytes += len(sketch)
        while len(samples.sketches) > MAX_SKETCHES or samples.size_bytes > MAX_TENANT_BYTES:
            samples.size_bytes -= len(samples.sketches.popleft())

    def recent(self, tenant: str) -> tuple[bytes, ...]:
        """Return a tenant's sketches, oldest first."""
        samples = self._tenants.get(tenant)
        return () if samples is None else tuple(samples.sketches)

    def forget(self, tenant: str) -> None:
        """Forget a tenant's sketches, because its entries are deleted."""
        self._tenants.pop(tenant, None)

    def _samples(self, tenant: str) -> _TenantSamples:
        """Return what is kept of a tenant, which is the last to be forgotten now."""
        samples = self._tenants.pop(tenant, None) or _TenantSamples()
        self._tenants[tenant] = samples
        if len(self._tenants) > MAX_TENANTS:
            self._tenants.popitem(last=False)
        return samples


def sketch_bytes(fields: Mapping[str, bytes]) -> bytes:
    """Reduce a request's context to digests, as bytes; for another thread than the event loop's.

    Parameters
    ----------
    fields : mapping of str to bytes
        The request's top level; values are raw JSON.

    Raises
    ------
    CacheError
        As `keys.cache_key`.
    """
    return _encoder.encode(sketch_context(fields))


def find_varying_fields(sketches: Sequence[bytes]) -> list[VaryingField]:
    """Name the fields that keep contexts from repeating; some 20 ms of work, for another thread.

    Parameters
    ----------
    sketches : sequence of bytes
        As `ContextSamples.recent` returned them.
    """
    return varying_fields([_decoder.decode(sketch) for sketch in sketches])
