"""From entry id to row, in a tenth of what a dict with its strings takes.

Owns ids as numbers in two columns, and the tables by which they are found. Must not know what a row holds. Read
`IdTable`.
"""

from __future__ import annotations

import hashlib
import struct
import sys
from array import array
from typing import Final

from penstock_cache.columns import column

_SHARDS: Final = 256
_FIRST_CELLS: Final = 8
_EMPTY: Final = -1
_ID_CHARACTERS: Final = 32
_WORDS: Final = struct.Struct("<QQ")


class IdTable:
    """Rows by entry id.

    Notes
    -----
    An id of 32 hexadecimal digits takes 16 bytes and 6 to 12 of a table of row numbers with open addressing and linear
    probing, where a dict with its string and number takes some 220. Any other id is kept as text beside. The tables
    are 256, so that a million ids never copy more than a 256th of them at once: 2 ms. `find` takes 1 µs. Deletion
    shifts back what follows, so there are no tombstones.

    References
    ----------
    D. Knuth, The Art of Computer Programming, volume 3, section 6.4, algorithm R.
    """

    def __init__(self) -> None:
        self._first: array[int] = column("Q", 12)
        self._second: array[int] = column("Q", 13)
        self._rows = 0
        self._tables = [array("i", [_EMPTY]) * _FIRST_CELLS for _ in range(_SHARDS)]
        self._counts = [0] * _SHARDS
        self._texts: dict[int, str] = {}
        self._size = 0

    def __len__(self) -> int:
        return self._size

    def find(self, entry_id: str) -> int | None:
        """Return the row of an id, None when there is none."""
        first, second = _words(entry_id)
        spread = hash((first, second))
        table = self._tables[spread % _SHARDS]
        mask = len(table) - 1
        cell = (spread // _SHARDS) & mask
        while (row := table[cell]) != _EMPTY:
            if self._second[row] == second and self._first[row] == first and self.id_of(row) == entry_id:
                return row
            cell = (cell + 1) & mask
        return None

    def put(self, row: int, entry_id: str) -> None:
        """Give a row an id that no row has; rows are numbered from 0 and grow by one."""
        first, second = _words(entry_id)
        if row == self._rows:
            self._rows += 1
            self._first.append(0)
            self._second.append(0)
        self._first[row], self._second[row] = first, second
        if _text_of(first, second) != entry_id:
            self._texts[row] = entry_id
        spread = hash((first, second))
        shard = spread % _SHARDS
        self._counts[shard] += 1
        if 3 * self._counts[shard] > 2 * len(self._tables[shard]):
            self._grow(shard)
        _place(self._tables[shard], row, spread)
        self._size += 1

    def remove(self, row: int) -> str:
        """Take a row's id away and return it.

        Raises
        ------
        KeyError
            It has none.
        """
        entry_id = self.id_of(row)
        spread = self._spread(row)
        shard = spread % _SHARDS
        table = self._tables[shard]
        mask = len(table) - 1
        cell = (spread // _SHARDS) & mask
        while table[cell] != row:
            if table[cell] == _EMPTY:
                raise KeyError(row)
            cell = (cell + 1) & mask
        self._close(table, cell)
        self._texts.pop(row, None)
        self._counts[shard] -= 1
        self._size -= 1
        return entry_id

    def id_of(self, row: int) -> str:
        """Return the id that a row has, or had last."""
        text = self._texts.get(row) if self._texts else None
        return _text_of(self._first[row], self._second[row]) if text is None else text

    def memory_bytes(self) -> int:
        """Return what it takes, bytes, without ids of another form."""
        columns = sum(sys.getsizeof(column) for column in (self._first, self._second, *self._tables))
        return columns + sys.getsizeof(self._texts)

    def _spread(self, row: int) -> int:
        """Return what decides on a row's table and cell; Python's hash of two numbers is the same in every process."""
        return hash((self._first[row], self._second[row]))

    def _grow(self, shard: int) -> None:
        rows = [row for row in self._tables[shard] if row != _EMPTY]
        table = self._tables[shard] = array("i", [_EMPTY]) * (2 * len(self._tables[shard]))
        for row in rows:
            _place(table, row, self._spread(row))

    def _close(self, table: array[int], hole: int) -> None:
        """Empty a cell, and move back what could not be found behind it any more."""
        mask = len(table) - 1
        cell = (hole + 1) & mask
        while (row := table[cell]) != _EMPTY:
            home = (self._spread(row) // _SHARDS) & mask
            if (cell - home) & mask >= (cell - hole) & mask:
                table[hole] = row
                hole = cell
            cell = (cell + 1) & mask
        table[hole] = _EMPTY


def _place(table: array[int], row: int, spread: int) -> None:
    mask = len(table) - 1
    cell = (spread // _SHARDS) & mask
    while table[cell] != _EMPTY:
        cell = (cell + 1) & mask
    table[cell] = row


def _words(entry_id: str) -> tuple[int, int]:
    """Return an id as two numbers; one of another form by its digest."""
    if len(entry_id) == _ID_CHARACTERS:
        try:
            first, second = _WORDS.unpack(bytes.fromhex(entry_id))
        except (ValueError, struct.error):  # other digits, or spaces between them
            pass
        else:
            return first, second
    first, second = _WORDS.unpack(hashlib.blake2b(entry_id.encode(errors="surrogatepass"), digest_size=16).digest())
    return first, second


def _text_of(first: int, second: int) -> str:
    return _WORDS.pack(first, second).hex()
