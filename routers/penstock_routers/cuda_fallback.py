"""A graph on CUDA that goes on on the CPU after a fault of the device, within the call that met it.

Owns the decision whether a failed run is the device's fault or the input's. Read `FallbackSession.run`.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Mapping
from typing import Any, Final, Protocol

from numpy.typing import NDArray

from penstock_routers.errors import RouterError

_LOG = logging.getLogger(__name__)


class GraphSession(Protocol):
    """What is needed of a session; `penstock_routers.onnx_session.OnnxSession` is one."""

    @property
    def device(self) -> str:
        """``"cpu"`` or ``"cuda"``."""

    @property
    def fallback_reason(self) -> str | None:
        """Why CUDA was given up, or None."""

    @property
    def input_names(self) -> tuple[str, ...]:
        """In the graph's order."""

    def run(self, feeds: Mapping[str, NDArray[Any]]) -> tuple[NDArray[Any], ...]:
        """Run the graph once; blocks."""


class FaultCount:
    """Faults of the device in this process that the CPU answered; safe to use from several threads."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._total = 0

    @property
    def total(self) -> int:
        """Since the process began."""
        return self._total

    def add(self) -> None:
        """Count one."""
        with self._lock:
            self._total += 1


CUDA_FAULTS: Final = FaultCount()
"""Of all sessions, which share a device."""


class FallbackSession:
    """Runs on one session until it fails and another does not; from then on, on the other.

    Parameters
    ----------
    session : GraphSession
        On CUDA.
    open_fallback : callable
        From a reason in one line to the same graph on the CPU. Called once, when a run has failed, in the thread that
        met the fault: until then the CPU holds no second copy of the weights.
    faults : FaultCount
        Where each run is counted that failed on the device and did not on the CPU.

    Notes
    -----
    After an illegal address or a lost device every later call of the process fails too, and memory that ran out once
    runs out again under the same load: the device is not tried again before a restart. The session that failed is kept
    until then: giving its memory back to a broken device may end the process. Safe to use from several threads.
    """

    def __init__(
        self,
        session: GraphSession,
        open_fallback: Callable[[str], GraphSession],
        faults: FaultCount = CUDA_FAULTS,
    ) -> None:
        self._session = self._on_device = session
        self._faults = faults
        self._open_fallback = open_fallback
        self._lock = threading.Lock()
        self._fallback: GraphSession | None = None
        self.input_names = session.input_names

    @property
    def device(self) -> str:
        """Where the next run goes: ``"cpu"`` or ``"cuda"``."""
        return self._session.device

    @property
    def fallback_reason(self) -> str | None:
        """Why CUDA was given up, or None."""
        return self._session.fallback_reason

    def run(self, feeds: Mapping[str, NDArray[Any]]) -> tuple[NDArray[Any], ...]:
        """Run the graph once; blocks.

        Parameters
        ----------
        feeds : mapping of str to ndarray

        Returns
        -------
        tuple of ndarray

        Raises
        ------
        RouterError
            ``onnx_run_failed``: the CPU fails on these feeds too, so that they are at fault, and the device is kept;
            or what opening the graph on the CPU raised.
        """
        session = self._session
        try:
            return session.run(feeds)
        except RouterError as failure:
            if session.device != "cuda":
                raise
            fallback = self._opened(f"a run on CUDA failed: {failure.message}")
        found = fallback.run(feeds)
        self._faults.add()
        with self._lock:
            is_first, self._session = self._session is not fallback, fallback
        if is_first:
            _LOG.warning("graph_on_cpu", extra={"problem": fallback.fallback_reason})
        return found

    def _opened(self, reason: str) -> GraphSession:
        with self._lock:
            if self._fallback is None:
                self._fallback = self._open_fallback(reason)
            return self._fallback
