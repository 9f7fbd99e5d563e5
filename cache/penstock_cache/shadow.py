"""What eviction lost, and whether plain recency would have done better: traces of entries without the entries.

Owns the list of what was evicted and the shadow of a least-recently-used cache. Must not evict anything. Read
`ShadowLru`.

References
----------
.. [1] C. Waldspurger et al., "Efficient MRC Construction with SHARDS", FAST 2015: a cache of C bytes behaves like
   one of C·R bytes that sees only keys whose hash falls into a share R of the hash space.
"""

from __future__ import annotations

import sys
from array import array
from collections import OrderedDict
from dataclasses import dataclass
from typing import Final

_SAMPLED_BITS_FROM: Final = 40  # sampling reads other bits than a ghost's cell
_SHADOW_ENTRY_BYTES: Final = 250  # OrderedDict node, key, tuple of an int and a float (CPython 3.11)
_MAX_STAY_WINDOWS: Final = 64


def fingerprint_number(fingerprint: bytes) -> int:
    """Return the first eight bytes of a digest as a number above 0.

    Raises
    ------
    ValueError
        The digest has fewer than eight bytes.
    """
    if len(fingerprint) < 8:
        raise ValueError("a fingerprint has at least 8 bytes")
    return int.from_bytes(fingerprint[:8], "little") or 1


class GhostTable:
    """Fingerprints of the entries that were evicted not long ago.

    Parameters
    ----------
    cells : int
        Power of two, eight bytes each.

    Notes
    -----
    Direct mapped: a newer fingerprint replaces an older one in its cell, so old ones fade without any list. O(1). A
    wrong "yes" needs 64 equal bits.
    """

    def __init__(self, cells: int) -> None:
        if cells < 1 or cells & (cells - 1):
            raise ValueError("the number of ghost cells is a power of two")
        self._mask = cells - 1
        self._cells = array("Q", bytes(8 * cells))

    def add(self, fingerprint: int) -> None:
        """Remember an evicted entry."""
        self._cells[fingerprint & self._mask] = fingerprint

    def take(self, fingerprint: int) -> bool:
        """Whether it is remembered; it is forgotten then."""
        cell = fingerprint & self._mask
        if self._cells[cell] != fingerprint:
            return False
        self._cells[cell] = 0
        return True

    def memory_bytes(self) -> int:
        """Return what the table takes, bytes."""
        return sys.getsizeof(self._cells)


@dataclass(frozen=True, slots=True)
class ShadowReport:
    """Our cache beside the shadow, over the sampled fingerprints.

    Attributes
    ----------
    ours_usd, shadow_usd : float
        Value of hits in all full windows.
    window_ours_usd, window_shadow_usd : float
        Of the last full window.
    windows, windows_by_recency : int
        Full windows since the start, and those that ended while recency was in force.
    is_recency_better : bool
        Whether the least-recently-used order is to be in force now.
    """

    ours_usd: float
    shadow_usd: float
    window_ours_usd: float
    window_shadow_usd: float
    windows: int
    windows_by_recency: int
    is_recency_better: bool

    @property
    def regret_usd(self) -> float:
        """Value that the least-recently-used order would have had beyond ours, at least 0."""
        return max(0.0, self.shadow_usd - self.ours_usd)


class ShadowLru:
    """A least-recently-used cache of the same bytes that holds no answers, fed with a sample of the requests.

    Parameters
    ----------
    capacity_bytes : int
        Of the real cache.
    sample_bits : int, in [0, 16]
        One fingerprint in ``2**sample_bits`` is followed.
    window_requests : int, at least 1
        Sampled requests in a window.
    margin : float, at least 0
        Recency takes over when the shadow's value in a window exceeds ours by more than this share.

    Notes
    -----
    It sees a paraphrase that we answered as a request for the entry that answered, and one that we missed as a new
    entry; so exact returns decide what it would have hit beyond ours. O(1) a request.

    Recency stays in force for one window, then value is tried again; each time it loses again at once, the stay
    doubles, up to 64 windows, so that of many windows only a small share is spent on an order that loses.
    """

    def __init__(
        self, capacity_bytes: int, *, sample_bits: int = 4, window_requests: int = 2_000, margin: float = 0.1
    ) -> None:
        if not 0 <= sample_bits <= 16 or window_requests < 1 or margin < 0.0:
            raise ValueError("sample_bits, window_requests or margin is out of range")
        self._capacity_bytes = max(1, capacity_bytes >> sample_bits)
        self._mask = (1 << sample_bits) - 1
        self._window_requests = window_requests
        self._margin = margin
        self._entries: OrderedDict[int, tuple[int, float]] = OrderedDict()
        self._used_bytes = 0
        self._requests = 0
        self._totals = [0.0, 0.0]  # ours, then the shadow's; of full windows
        self._window = [0.0, 0.0]
        self._last_window = (0.0, 0.0)
        self._windows = self._windows_by_recency = 0
        self._stay = 1
        self._stay_left = 0

    @property
    def is_recency_better(self) -> bool:
        """Whether the least-recently-used order is to be in force now."""
        return self._stay_left > 0

    def note_hit(self, fingerprint: int, size_bytes: int, worth_usd: float, expires_at: float, now: float) -> None:
        """Note a request that our cache answered."""
        self._note(fingerprint, size_bytes, worth_usd, expires_at, now, is_ours=True)

    def note_miss(self, fingerprint: int, size_bytes: int, worth_usd: float, expires_at: float, now: float) -> None:
        """Note a request that our cache did not answer, with what its new entry looks like."""
        self._note(fingerprint, size_bytes, worth_usd, expires_at, now, is_ours=False)

    def report(self) -> ShadowReport:
        """Return the comparison so far."""
        return ShadowReport(
            ours_usd=self._totals[0],
            shadow_usd=self._totals[1],
            window_ours_usd=self._last_window[0],
            window_shadow_usd=self._last_window[1],
            windows=self._windows,
            windows_by_recency=self._windows_by_recency,
            is_recency_better=self.is_recency_better,
        )

    def memory_bytes(self) -> int:
        """Return roughly what the shadow takes, bytes."""
        return _SHADOW_ENTRY_BYTES * len(self._entries)

    def _note(
        self, fingerprint: int, size_bytes: int, worth_usd: float, expires_at: float, now: float, *, is_ours: bool
    ) -> None:
        if (fingerprint >> _SAMPLED_BITS_FROM) & self._mask:
            return
        worth_usd = max(0.0, worth_usd)
        if is_ours:
            self._window[0] += worth_usd
        held = self._entries.pop(fingerprint, None)
        if held is not None:
            self._used_bytes -= held[0]
            if now < held[1]:
                self._window[1] += worth_usd
        if size_bytes <= self._capacity_bytes:
            self._entries[fingerprint] = (size_bytes, expires_at)
            self._used_bytes += size_bytes
        while self._used_bytes > self._capacity_bytes:
            self._used_bytes -= self._entries.popitem(last=False)[1][0]
        self._requests += 1
        if self._requests >= self._window_requests:
            self._end_window()

    def _end_window(self) -> None:
        ours, shadow = self._window
        self._last_window = (ours, shadow)
        self._totals[0] += ours
        self._totals[1] += shadow
        self._windows += 1
        self._windows_by_recency += self.is_recency_better
        self._window = [0.0, 0.0]
        self._requests = 0
        if self._stay_left:
            self._stay_left -= 1
        elif shadow > (1.0 + self._margin) * ours:
            self._stay_left = self._stay
            self._stay = min(2 * self._stay, _MAX_STAY_WINDOWS)
        else:
            self._stay = 1
