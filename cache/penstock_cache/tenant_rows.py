"""What the mirror knows of every entry beside its value: whose it is, when it was stored, which snapshot named it.

Owns the columns; a row has the number that the resident set gave it. Must not decide anything. Read `TenantRows`.
"""

from __future__ import annotations

import sys
from array import array
from typing import Final

from penstock_cache.columns import column

_FREE: Final = -1


class TenantRows:
    """Columns of numbers, one row an entry, beside those of `entry_slots`.

    Notes
    -----
    17 bytes a row. A tenant's name is kept once, as long as it has rows.
    """

    def __init__(self) -> None:
        self._tenants: array[int] = column("i", 14, _FREE)
        self._stored_at: array[float] = column("d", 15)
        self._snapshots: array[int] = column("i", 16)
        self._is_indexed: array[int] = column("b", 17)
        self._rows = 0
        self._numbers: dict[str, int] = {}
        self._names: list[str] = []
        self._counts: list[int] = []
        self._unused: list[int] = []

    @property
    def size(self) -> int:
        """Rows so far, free ones included."""
        return self._rows

    def put(self, row: int, tenant: str, stored_at: float) -> None:
        """Fill a free row: of no snapshot yet, and not in the index."""
        while row >= self._rows:
            self._rows += 1
            self._tenants.append(_FREE)
            self._stored_at.append(0.0)
            self._snapshots.append(0)
            self._is_indexed.append(0)
        number = self._numbers.get(tenant)
        if number is None:
            number = self._number(tenant)
        self._counts[number] += 1
        self._tenants[row] = number
        self._stored_at[row] = stored_at
        self._snapshots[row] = 0
        self._is_indexed[row] = 0

    def free(self, row: int) -> str:
        """Give a row back and return its tenant."""
        number = self._tenants[row]
        name = self._names[number]
        self._tenants[row] = _FREE
        self._counts[number] -= 1
        if not self._counts[number]:
            del self._numbers[name]
            self._unused.append(number)
        return name

    def is_used(self, row: int) -> bool:
        """Whether a row is an entry's."""
        return row < self._rows and self._tenants[row] != _FREE

    def is_of(self, row: int, tenant: str) -> bool:
        """Whether a row is an entry's of this tenant."""
        return self.is_used(row) and self._names[self._tenants[row]] == tenant

    def stored_at(self, row: int) -> float:
        """Return when the entry was stored, Unix seconds."""
        return self._stored_at[row]

    def snapshot(self, row: int) -> int:
        """Return the number of the last snapshot that named the entry; 0 before it was taken in."""
        return self._snapshots[row]

    def set_snapshot(self, row: int, number: int) -> None:
        """Note which snapshot, or which change after it, named the entry."""
        self._snapshots[row] = number

    def is_indexed(self, row: int) -> bool:
        """Whether the entry's vector is in the index."""
        return bool(self._is_indexed[row])

    def set_indexed(self, row: int) -> None:
        """Note that the entry's vector is in the index."""
        self._is_indexed[row] = 1

    def memory_bytes(self) -> int:
        """Return what the columns take, bytes."""
        return sum(map(sys.getsizeof, (self._tenants, self._stored_at, self._snapshots, self._is_indexed)))

    def _number(self, tenant: str) -> int:
        if self._unused:
            number = self._unused.pop()
            self._names[number] = tenant
        else:
            number = len(self._names)
            self._names.append(tenant)
            self._counts.append(0)
        self._numbers[tenant] = number
        return number
