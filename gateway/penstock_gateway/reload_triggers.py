"""What makes a running gateway read its configuration again: a signal, and a file that has changed.

Read `HangUpSignal` and `FileWatch`.
"""

from __future__ import annotations

import asyncio
import logging
import os
import signal
from collections.abc import Awaitable, Callable
from typing import Final

from penstock_gateway.reloading import ReloadOutcome

_log = logging.getLogger("penstock.reload")

Reload = Callable[[str], Awaitable[ReloadOutcome]]

POLL_SECONDS: Final = 2.0
_STANDARD_ERROR: Final = 2


class HangUpSignal:
    """Reloads on SIGHUP, as servers do; without effect where the event loop takes no signals.

    Notes
    -----
    The same signal comes when the terminal of a gateway in the foreground is closed. Then nobody is left to see it run,
    so it stops, as a program without a handler would.

    Parameters
    ----------
    stop : callable
        Stops the process in an orderly way.
    has_terminal : callable
        Whether somebody may watch.
    """

    def __init__(
        self,
        *,
        stop: Callable[[], None] = lambda: signal.raise_signal(signal.SIGTERM),
        has_terminal: Callable[[], bool] = lambda: os.isatty(_STANDARD_ERROR),
    ) -> None:
        self._stop = stop
        self._has_terminal = has_terminal
        self._had_terminal = False
        self._loop: asyncio.AbstractEventLoop | None = None
        self._reload: Reload | None = None
        self._reloads: set[asyncio.Task[ReloadOutcome]] = set()

    def start(self, reload: Reload) -> None:
        """Take the signal from now on."""
        self._had_terminal = self._has_terminal()
        self._reload = reload
        loop = asyncio.get_running_loop()
        try:
            loop.add_signal_handler(signal.SIGHUP, self._note)
        except (NotImplementedError, RuntimeError, ValueError):  # not the main thread, or a system without it
            return
        self._loop = loop

    async def aclose(self) -> None:
        """Leave the signal alone; from now on it is ignored, so that it does not cut a shutdown short."""
        if self._loop is not None:
            self._loop.remove_signal_handler(signal.SIGHUP)
            signal.signal(signal.SIGHUP, signal.SIG_IGN)
            self._loop = None

    def _note(self) -> None:
        if self._had_terminal and not self._has_terminal():
            self._stop()
            return
        assert self._reload is not None
        task = asyncio.ensure_future(self._reload("signal"))
        self._reloads.add(task)
        task.add_done_callback(self._reloads.discard)


class FileWatch:
    """Reloads when the configuration's files have changed.

    Parameters
    ----------
    fingerprint : callable
        Returns a digest of the files; blocks. Called once here, for what has just been read, and then in a thread.
    is_on : callable
        Whether to look at all; asked before every look. Once that begins the files are read again, as they may have
        changed meanwhile.
    poll_seconds : float
        Between two looks. A change is acted on when two looks have found the same, so that no half-written file is
        read; where the files that are watched change with it, it may be read twice.
    sleep : callable
        Waits so many seconds.
    """

    def __init__(
        self,
        fingerprint: Callable[[], bytes],
        *,
        is_on: Callable[[], bool] = lambda: True,
        poll_seconds: float = POLL_SECONDS,
        sleep: Callable[[float], Awaitable[None]] = asyncio.sleep,
    ) -> None:
        self._fingerprint = fingerprint
        self._is_on = is_on
        self._known = fingerprint()
        self._poll_seconds = poll_seconds
        self._sleep = sleep
        self._task: asyncio.Task[None] | None = None

    def start(self, reload: Reload) -> None:
        """Watch from now on."""
        self._task = asyncio.get_running_loop().create_task(self._watch(reload), name="penstock-configuration-watch")

    async def aclose(self) -> None:
        """Stop watching; safe to call twice."""
        task, self._task = self._task, None
        if task is not None:
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)

    async def _watch(self, reload: Reload) -> None:
        known, candidate = self._known, b""
        while True:
            await self._sleep(self._poll_seconds)
            if not self._is_on():
                known = candidate = b""
                continue
            found = await asyncio.to_thread(self._fingerprint)
            if found == known:
                candidate = b""
            elif found != candidate:
                candidate = found
            else:
                known, candidate = found, b""
                await reload("file")
