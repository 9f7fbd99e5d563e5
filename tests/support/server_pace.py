"""Lets servers in the test's own process stop at once.

uvicorn looks ten times a second whether it is to end, and then waits for a tenth: a fifth of a second in which nothing
happens, for each of some hundred gateways. Read `install`.
"""

from __future__ import annotations

import asyncio
from types import SimpleNamespace

import uvicorn.server

LONGEST_PAUSE_SECONDS = 0.01


async def _short_sleep(seconds: float) -> None:
    await asyncio.sleep(min(seconds, LONGEST_PAUSE_SECONDS))


def install() -> None:
    """Shorten the pauses of uvicorn's own loops; what it waits for, and for how long at most, stays as it is."""
    uvicorn.server.asyncio = SimpleNamespace(**{**vars(asyncio), "sleep": _short_sleep})  # type: ignore[attr-defined]
