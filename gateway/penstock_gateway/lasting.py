"""Parts of the gateway that outlive one configuration.

Owns their lifetimes: some live as long as the process, others as long as any configuration uses them. It knows nothing
of what they are. Read `Lasting` and `Hold.part`.
"""

from __future__ import annotations

import asyncio
import logging
import threading
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Any, Final, Generic, TypeVar, cast

_log = logging.getLogger("penstock.reload")

PART_SECONDS: Final = 30.0
"""For closing one part; whatever hangs must not keep the others open."""

T = TypeVar("T")
Close = Callable[[T], Awaitable[None]]


@dataclass(slots=True)
class _Part(Generic[T]):
    """One part, what it was made from, and by how many it is held."""

    name: str
    key: object
    value: T
    close: Close[T] | None
    holders: int = 1


class Lasting:
    """The parts of one process.

    Notes
    -----
    `keep` is for what must exist once, whatever is configured later: counters, the log of events, the books. What it
    was made from cannot change without a restart. `hold` is for what may be made anew: a part is taken over by the next
    configuration when it was made from equal settings, and otherwise lives beside the new one until the last
    configuration that uses it is closed.

    Parts are made by one configuration at a time, in any thread, and closed in the event loop.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._kept: dict[str, _Part[Any]] = {}
        self._held: list[_Part[Any]] = []

    def keep(self, name: str, make: Callable[[], T], close: Close[T] | None = None) -> T:
        """Return the part of this name; it is made when it is asked for first.

        Parameters
        ----------
        name : str
        make : callable
            Makes it.
        close : callable, optional
            Closes it when the process stops; parts are closed in the reverse order of their making.

        Returns
        -------
        object
            As `make` returned it.
        """
        part = self._kept.get(name)
        if part is None:
            part = self._kept[name] = _Part(name, None, make(), close)
        return cast(T, part.value)

    async def keep_started(self, name: str, make: Callable[[], Awaitable[T]], close: Close[T] | None = None) -> T:
        """Return a part as `keep` does, for one that is made in the event loop."""
        part = self._kept.get(name)
        if part is None:
            part = self._kept[name] = _Part(name, None, await make(), close)
        return cast(T, part.value)

    def hold(self) -> Hold:
        """Return the hold of a new configuration on parts that it shares with others."""
        return Hold(self)

    async def aclose(self) -> None:
        """Close what was kept; safe to call twice. Holds are released by their owners before."""
        kept, self._kept = list(self._kept.values()), {}
        for part in reversed(kept):
            await _close(part)

    def _find(self, name: str, key: object) -> _Part[Any] | None:
        """Return a part with one more holder."""
        with self._lock:
            for part in self._held:
                if part.name == name and part.key == key:
                    part.holders += 1
                    return part
        return None

    def _add(self, part: _Part[Any]) -> None:
        with self._lock:
            self._held.append(part)

    def _drop(self, part: _Part[Any]) -> bool:
        """Let one holder go; return whether it was the last."""
        with self._lock:
            part.holders -= 1
            if part.holders == 0:
                self._held.remove(part)
            return part.holders == 0


class Hold:
    """What one configuration uses of the shared parts.

    Parameters
    ----------
    lasting : Lasting
    """

    def __init__(self, lasting: Lasting) -> None:
        self._lasting = lasting
        self._parts: list[_Part[Any]] = []

    def part(self, name: str, key: object, make: Callable[[], T], close: Close[T] | None = None) -> T:
        """Return a part that is in use with an equal key, or a new one.

        Parameters
        ----------
        name : str
            What it is; with `key` it says which.
        key : object
            All that it is made from; compared with ``==``.
        make : callable
            Makes it; may take its time when called outside of the event loop.
        close : callable, optional
            Closes it when nobody uses it any more.

        Returns
        -------
        object
            As `make` returned it, now or for an earlier configuration.
        """
        part = self._lasting._find(name, key)
        if part is None:
            part = _Part(name, key, make(), close)
            self._lasting._add(part)
        self._parts.append(part)
        return cast(T, part.value)

    async def started_part(
        self, name: str, key: object, make: Callable[[], Awaitable[T]], close: Close[T] | None = None
    ) -> T:
        """Return a part as `part` does, for one that is made in the event loop."""
        part = self._lasting._find(name, key)
        if part is None:
            part = _Part(name, key, await make(), close)
            self._lasting._add(part)
        self._parts.append(part)
        return cast(T, part.value)

    async def release(self) -> None:
        """Let go of all parts, in the reverse order of their making; those that nobody else uses are closed."""
        parts, self._parts = self._parts, []
        for part in reversed(parts):
            if self._lasting._drop(part):
                await _close(part)


async def _close(part: _Part[Any]) -> None:
    """Close a part; one that cannot be closed must not keep the others open."""
    if part.close is None:
        return
    try:
        async with asyncio.timeout(PART_SECONDS):
            await part.close(part.value)
    except Exception:  # the edge of a part's life: nobody is left to tell
        _log.exception("part_not_closed", extra={"part": part.name})
