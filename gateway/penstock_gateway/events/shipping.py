"""Copying closed segments elsewhere, at least once, from a thread of its own.

Owns the marks of what has been shipped, and the retries. Nothing waits for it but retention: a segment that has not
been shipped is not deleted. Read `Shipper`.
"""

from __future__ import annotations

import logging
import os
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Final, Protocol

from penstock_gateway.events.catalog import Segment, list_segments
from penstock_gateway.events.segments import is_being_written, lock, sync_folder

_log = logging.getLogger("penstock.events")

STOP_SECONDS: Final = 2.0
_SHIPPED: Final = ".shipped"
_LOCK_NAME: Final = ".ship.lock"


class ShippingFailed(Exception):
    """The target did not take a segment; the message holds no credential."""


class ShipTarget(Protocol):
    """Where segments go; used by one thread."""

    def ship(self, segment: Segment) -> None:
        """Copy a segment; again is harmless.

        Raises
        ------
        ShippingFailed
        """
        ...

    def close(self) -> None:
        """Let go of connections."""
        ...


def is_shipped(segment: Segment) -> bool:
    """Whether a segment has arrived, in either of its forms."""
    return _mark(segment).exists()


class Shipper:
    """Ships what is closed, and tries again what failed.

    Parameters
    ----------
    folder : Path
    make_target : callable
        Called in the thread, again after a failure.
    retry_seconds : float
        Between two rounds.
    on_problem : callable
        Called with ``ship_failed`` for every round that failed.
    on_shipped : callable
        Called after a segment has arrived.
    """

    def __init__(
        self,
        folder: Path,
        make_target: Callable[[], ShipTarget],
        *,
        retry_seconds: float,
        on_problem: Callable[[str], None] = lambda _: None,
        on_shipped: Callable[[], None] = lambda: None,
    ) -> None:
        self._folder = folder
        self._make_target = make_target
        self._retry_seconds = retry_seconds
        self._on_problem = on_problem
        self._on_shipped = on_shipped
        self._target: ShipTarget | None = None
        self._is_failing = False
        self._wakes = threading.Event()
        self._is_stopping = threading.Event()
        self._thread: threading.Thread | None = None

    def start(self) -> None:
        """Begin in a thread that does not keep the process alive."""
        self._thread = threading.Thread(target=self._run, name="penstock-ship", daemon=True)
        self._thread.start()

    def wake(self) -> None:
        """Look for closed segments now, unless the target has just failed."""
        if not self._is_failing:
            self._wakes.set()

    def stop(self) -> None:
        """End the thread; a target that hangs is left to itself after some seconds."""
        self._is_stopping.set()
        self._wakes.set()
        if self._thread is not None:
            self._thread.join(STOP_SECONDS)

    def ship_all(self) -> int:
        """Ship every closed segment that has not been; return how many were.

        Raises
        ------
        ShippingFailed
        OSError
        """
        count = 0
        for segment in list_segments(self._folder):
            if self._is_stopping.is_set():
                break
            if is_shipped(segment) or is_being_written(segment.path):
                continue
            if self._target is None:
                self._target = self._make_target()
            self._target.ship(segment)
            _mark(segment).touch(mode=0o600)
            sync_folder(self._folder)
            count += 1
            self._on_shipped()
        self._forget_deleted()
        return count

    def _run(self) -> None:
        while True:
            self._wakes.clear()  # before the look at the stop, which sets it again
            if self._is_stopping.is_set():
                self._close_target()
                return
            self._round()
            self._wakes.wait(self._retry_seconds)

    def _round(self) -> None:
        if not self._folder.is_dir():  # it is made with the first batch
            return
        try:
            descriptor = os.open(self._folder / _LOCK_NAME, os.O_RDWR | os.O_CREAT, 0o600)
            try:
                if lock(descriptor):  # one gateway ships for all that write to the folder
                    self.ship_all()
            finally:
                os.close(descriptor)
        except Exception as error:  # a thread's edge: whatever a store's client raises, it is tried again
            self._note_failure(error)
        else:
            if self._is_failing:
                _log.info("events_shipping_again", extra={"folder": str(self._folder)})
            self._is_failing = False

    def _note_failure(self, error: Exception) -> None:
        self._on_problem("ship_failed")
        if not self._is_failing:
            shown = str(error) if isinstance(error, ShippingFailed) else type(error).__name__
            _log.warning("events_ship_failed", extra={"folder": str(self._folder), "problem": shown})
        self._is_failing = True
        self._close_target()

    def _close_target(self) -> None:
        target, self._target = self._target, None
        if target is None:
            return
        try:
            target.close()
        except Exception as error:  # likewise
            _log.warning("events_ship_target_not_closed", extra={"problem": type(error).__name__})

    def _forget_deleted(self) -> None:
        known = {segment.id for segment in list_segments(self._folder)}
        for mark in self._folder.glob(f".events-*{_SHIPPED}"):
            if mark.name.removeprefix(".").removesuffix(_SHIPPED) not in known:
                mark.unlink(missing_ok=True)


def _mark(segment: Segment) -> Path:
    return segment.path.with_name(f".{segment.id}{_SHIPPED}")
