"""Keeps captures of CUDA graphs and other use of the device in this process apart.

While one thread captures, CUDA refuses others to allocate, to free and to wait for the device, and the capture is lost
with the call, and with the capture the stream that it was made on. Owns the gate that both go through; it knows nothing
of what is done behind it. Read `CaptureGate.capture`.
"""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, Final


class CaptureGate:
    """Any number of other works at once, or one capture."""

    def __init__(self) -> None:
        self._changed = threading.Condition()
        self._others = 0
        self._is_capturing = False
        self._retired: list[dict[str, Any]] = []

    @contextmanager
    def other_work(self) -> Iterator[None]:
        """Use the device in a way that may allocate; waits for the end of a capture, some ten milliseconds at most."""
        with self._changed:
            self._changed.wait_for(lambda: not self._is_capturing)
            self._others += 1
        try:
            yield
        finally:
            with self._changed:
                self._others -= 1

    def retire(self, held: dict[str, Any]) -> None:
        """Let go of objects that free memory of a device, at once or after the capture under way; never waits.

        Parameters
        ----------
        held : dict
            Of an object that is being deleted: whatever thread that happens in, and that may be the capturing one.
        """
        with self._changed:
            if self._is_capturing:
                self._retired.append(held)
                return
            self._others += 1
        held.clear()
        with self._changed:
            self._others -= 1

    @contextmanager
    def capture(self) -> Iterator[bool]:
        """Capture if nobody else uses the device; never waits.

        Yields
        ------
        bool
            Whether the capture may be made. Where not, opening a graph of a second's length may be under way, and a
            request had better run without capturing.
        """
        with self._changed:
            is_granted = not self._is_capturing and not self._others
            self._is_capturing = self._is_capturing or is_granted
        try:
            yield is_granted
        finally:
            if is_granted:
                with self._changed:
                    self._is_capturing = False
                    retired, self._retired = self._retired, []
                    self._changed.notify_all()
                for held in retired:
                    self.retire(held)


DEVICE_GATE: Final = CaptureGate()
"""Of this process: one gate for all devices, since the capture mode of ONNX Runtime forbids allocations on any."""
