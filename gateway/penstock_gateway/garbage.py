"""When the interpreter's collector walks over everything: while nobody waits, and rarely.

A gateway keeps some hundred thousand objects, its last decisions above all. A full collection takes 30 to 70 ms,
during which no request moves, and by its own rule the interpreter makes one every few thousand requests. Reference
counting frees what a request leaves behind; only cycles need the collector, and those of a request die young. Read
`collect_when_quiet`.
"""

from __future__ import annotations

import asyncio
import ctypes
import gc
import sys
import time
from collections.abc import Awaitable, Callable
from typing import Final

YOUNG_OBJECTS: Final = 1_000
"""Allocations between two looks at the youngest objects; a request makes some 150."""

YOUNG_ROUNDS: Final = 10
"""Looks at the youngest before those that survived one are looked at: 10,000 objects, some 3 ms."""

LOOK_SECONDS: Final = 5.0
QUIET_AFTER_SECONDS: Final = 120.0
"""Time between two full collections when nothing is under way at some moment."""

LATEST_AFTER_SECONDS: Final = 900.0
"""Time after which one is made in any case: cycles that grew old must not pile up."""

_NEVER: Final = 1_000_000_000


def spare_old_objects() -> None:
    """Keep what stands now out of the collector's sight, and have it look at young objects alone by itself.

    Notes
    -----
    To be called when the application has been built: 70,000 objects that live as long as the process.
    """
    gc.collect()
    gc.freeze()
    gc.set_threshold(YOUNG_OBJECTS, YOUNG_ROUNDS, _NEVER)
    give_free_memory_back()


def give_free_memory_back() -> None:
    """Return to the system what building the application has freed, where the C library can: glibc, some 10 MB."""
    if sys.platform == "win32":
        return
    trim = getattr(ctypes.CDLL(None), "malloc_trim", None)
    if trim is not None:
        trim(0)


async def collect_when_quiet(
    is_quiet: Callable[[], bool],
    *,
    collect: Callable[[], object] = gc.collect,
    sleep: Callable[[float], Awaitable[object]] = asyncio.sleep,
    clock: Callable[[], float] = time.monotonic,
) -> None:
    """Collect everything now and then, until cancelled.

    Parameters
    ----------
    is_quiet : callable
        Whether no request is under way.
    collect : callable
    sleep, clock : callable
    """
    last = clock()
    while True:
        await sleep(LOOK_SECONDS)
        waited = clock() - last
        if (waited >= QUIET_AFTER_SECONDS and is_quiet()) or waited >= LATEST_AFTER_SECONDS:
            collect()
            last = clock()
