"""A map from 16-byte keys that never stops the event loop to grow.

Read `ShardedMap`.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator
from itertools import chain
from typing import Generic, TypeVar

Value = TypeVar("Value")

_SHARDS = 256


class ShardedMap(Generic[Value]):
    """A dict in 256 parts by the key's first byte; keys are random bytes, so the parts fill evenly.

    Notes
    -----
    One dict of a million entries copies itself in 30 to 50 ms when it grows; a part of it takes a 256th. Values that
    are bytes or numbers keep the parts out of the garbage collector's sight, which would walk over each entry.
    """

    __slots__ = ("_parts", "_size")

    def __init__(self) -> None:
        self._parts: list[dict[bytes, Value]] = [{} for _ in range(_SHARDS)]
        self._size = 0

    def get(self, key: bytes) -> Value | None:
        """Return the value, or None."""
        return self._parts[key[0]].get(key)

    def __contains__(self, key: bytes) -> bool:
        return key in self._parts[key[0]]

    def __setitem__(self, key: bytes, value: Value) -> None:
        part = self._parts[key[0]]
        before = len(part)
        part[key] = value
        self._size += len(part) - before

    def pop(self, key: bytes) -> Value | None:
        """Remove a key and return its value, or None."""
        value = self._parts[key[0]].pop(key, None)
        self._size -= value is not None
        return value

    def values(self) -> Iterator[Value]:
        """Yield the values; nothing may be changed meanwhile."""
        return chain.from_iterable(part.values() for part in self._parts)

    def __len__(self) -> int:
        return self._size

    def memory_bytes(self) -> int:
        """Return what the tables take, bytes, without keys and values."""
        return sum(map(sys.getsizeof, self._parts)) + sys.getsizeof(self._parts)
