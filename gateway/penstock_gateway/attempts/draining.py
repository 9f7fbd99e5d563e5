"""Reading answers on whose clients have left, to learn what they will cost.

Owns the background tasks that do so, bounded in number and time. Read `DrainDesk.drain`.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from typing import Protocol

from penstock_gateway.attempts.failures import Failure
from penstock_gateway.attempts.reply import AttemptReply
from penstock_gateway.errors import GatewayError, UpstreamError
from penstock_gateway.settings_attempts import DrainSettings

_log = logging.getLogger("penstock.attempts")


class Drainable(Protocol):
    """An answer that can be read on without a client."""

    async def read_to_end(self) -> None:
        """Read the rest and throw it away. Raises `UpstreamError`, and what its budget refuses with."""
        ...

    async def aclose(self) -> None:
        """Release the connection; safe to call twice."""
        ...


class DrainDesk:
    """The answers that are being read on.

    Parameters
    ----------
    settings : DrainSettings
        May be replaced at any time.
    note : callable, optional
        Called with the outcome of each: ``complete``, ``failed``, ``timeout``, ``stopped``, ``over_budget`` or
        ``refused``.
    """

    def __init__(self, settings: DrainSettings, note: Callable[[str], None] = lambda outcome: None) -> None:
        self.settings = settings
        self._note = note
        self._tasks: set[asyncio.Task[None]] = set()

    def __len__(self) -> int:
        """Return how many are being read on."""
        return len(self._tasks)

    def drain(self, reply: Drainable, on_done: Callable[[], None]) -> bool:
        """Read an answer on in the background, and close it then.

        Parameters
        ----------
        reply : Drainable
            Closed by the desk when it was taken.
        on_done : callable
            Called exactly once when it was taken: at its end, when it breaks off, when its time is over, and when the
            gateway stops. What the provider has reported by then is in ``reply.usage``.

        Returns
        -------
        bool
            False when too many are being read on already: the caller still has it, and closes it.
        """
        if len(self._tasks) >= self.settings.max_answers:
            self._note("refused")
            return False
        task = asyncio.get_running_loop().create_task(self._read_on(reply, on_done))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        return True

    async def aclose(self) -> None:
        """Stop all; each one's `on_done` is called."""
        await asyncio.sleep(0)  # a task that is cancelled before it has begun would call nobody
        tasks = set(self._tasks)
        for task in tasks:
            task.cancel()
        if tasks:
            await asyncio.wait(tasks)

    async def _read_on(self, reply: Drainable, on_done: Callable[[], None]) -> None:
        outcome = "stopped"
        try:
            async with asyncio.timeout(self.settings.max_seconds):
                await reply.read_to_end()
            outcome = "complete"
        except TimeoutError:
            outcome = "timeout"
        except UpstreamError:
            outcome = "failed"
        except GatewayError:
            outcome = "over_budget"
        except Exception:
            outcome = "failed"
            _log.exception("drain_failed")
        finally:
            self._note(outcome)
            try:
                await reply.aclose()
            finally:
                on_done()


class UnansweredTry:
    """A try whose client left before its first byte.

    Parameters
    ----------
    task : Task
        Of the try.

    Attributes
    ----------
    reply : AttemptReply or None
        Once there is one.
    """

    def __init__(self, task: asyncio.Task[AttemptReply | Failure]) -> None:
        self.reply: AttemptReply | None = None
        self._task = task

    async def read_to_end(self) -> None:
        """Wait for the answer and read it to its end; see `AttemptReply.read_to_end`."""
        outcome = await asyncio.shield(self._task)
        if isinstance(outcome, AttemptReply):
            self.reply = outcome
            await outcome.read_to_end()
        elif outcome.error is not None:
            raise outcome.error

    async def aclose(self) -> None:
        """Stop waiting, and release the connection."""
        self._task.cancel()
        await asyncio.wait({self._task})
        await close_late_reply(self._task)


async def close_late_reply(task: asyncio.Task[AttemptReply | Failure]) -> None:
    """Close the reply of a finished try that nobody wants any more, if it has one."""
    if not task.cancelled() and task.exception() is None and isinstance(reply := task.result(), AttemptReply):
        await reply.aclose()
