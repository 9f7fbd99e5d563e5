"""A stream that goes on without its reader.

Owns the task that reads a provider's stream a few blocks ahead of the client, so that the client's leaving does not
break the reading off. Used only where answers are drained: it costs a task a stream. Read `BlockPump`.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import AsyncGenerator

MAX_BLOCKS_AHEAD = 16
"""Blocks read before the client took them: enough to keep the reading going, little enough to bound memory."""


class BlockPump:
    """Reads a stream in the background; an asynchronous iterator of its blocks.

    Parameters
    ----------
    blocks : async generator of bytes
        Closed when the pump ends.
    """

    def __init__(self, blocks: AsyncGenerator[bytes, None]) -> None:
        self._blocks = blocks
        self._ahead: deque[bytes] = deque()
        self._has_changed = asyncio.Event()
        self._has_room = asyncio.Event()
        self._is_over = False
        self._error: Exception | None = None
        self._task = asyncio.create_task(self._run())

    def __aiter__(self) -> BlockPump:
        """Return itself."""
        return self

    async def __anext__(self) -> bytes:
        """Return the next block; raises what the stream raised."""
        while not self._ahead:
            if self._is_over:
                if self._error is not None:
                    raise self._error
                raise StopAsyncIteration
            self._has_changed.clear()
            await self._has_changed.wait()
        self._has_room.set()
        return self._ahead.popleft()

    async def aclose(self) -> None:
        """Stop reading."""
        self._task.cancel()
        await asyncio.wait({self._task})

    async def _run(self) -> None:
        try:
            async for block in self._blocks:
                self._ahead.append(block)
                self._has_changed.set()
                while len(self._ahead) >= MAX_BLOCKS_AHEAD:
                    self._has_room.clear()
                    await self._has_room.wait()
        except Exception as error:  # handed to the reader, whatever it is
            self._error = error
        finally:
            self._is_over = True
            self._has_changed.set()
            await self._blocks.aclose()
