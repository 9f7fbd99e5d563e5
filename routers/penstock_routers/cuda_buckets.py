"""Prompts padded to few shapes, each a CUDA graph that is captured once and replayed.

Owns the shapes, when one is captured, and the bounds of number and memory. What it cannot answer that way runs plainly
on the same session; a fault of the device is for `penstock_routers.cuda_fallback`. Read `BucketedSession.run`.
"""

from __future__ import annotations

import logging
import threading
from bisect import bisect_left
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final, Protocol

from numpy.typing import NDArray

from penstock_routers.cuda_buffers import BoundRun, TensorShape, size_of
from penstock_routers.cuda_capture import DEVICE_GATE, CaptureGate
from penstock_routers.cuda_fallback import GraphSession
from penstock_routers.errors import RouterError

Array = NDArray[Any]

_LOG = logging.getLogger(__name__)
_ROWS: Final = (1, 2, 4, 8, 16, 32, 64)
_TOKENS: Final = (16, 32, 64, 128, 256, 512)
_IDS, _MASK = "input_ids", "attention_mask"
MAX_GRAPHS: Final = 48
"""Of one session: all shapes of MiniLM (35), and those that the check at loading takes in its own thread."""
MAX_BUFFER_BYTES: Final = 64 << 20
"""On the device, of one session's inputs and outputs; what lies between them is the runtime's arena, once for all."""
_MAX_FAILURES: Final = 3
_Key = tuple[int, int, int]  # thread, rows, tokens


class CapturingSession(GraphSession, Protocol):
    """What is needed besides of a session on CUDA; `penstock_routers.onnx_session.OnnxSession` is one."""

    @property
    def output_names(self) -> tuple[str, ...]:
        """In the graph's order."""

    def bind(self, inputs: list[TensorShape], outputs: list[TensorShape], graph_id: int) -> BoundRun:
        """Prepare a run of fixed shape whose first call captures."""


@dataclass(frozen=True, slots=True)
class PromptShape:
    """What a run of an encoder's graph is padded with and up to.

    Attributes
    ----------
    rows, tokens : int
        Largest number of prompts, and of tokens of one, special tokens included.
    padding_token_id : int
    """

    rows: int
    tokens: int
    padding_token_id: int


class BucketedSession:
    """Answers like the session it is given, by replaying captured graphs where it can.

    Parameters
    ----------
    session : CapturingSession
        Inputs ``input_ids``, ``attention_mask``, and others that have a row per prompt or a single number; all
        outputs have a row per prompt, which does not depend on the other rows.
    limit : PromptShape
    gate : CaptureGate
        Between captures and all other use of the device.

    Notes
    -----
    A run is padded to the next of 1, 2, 4, … 64 rows and of 16, 32, … tokens, in rows by at most half. The first of a
    shape runs as it is, the second captures. The runtime keeps captured graphs by thread, so that a thread has its own;
    in serving all runs come from the one of `penstock_routers.batching.Batcher`. Captured graphs are never given up:
    beyond `MAX_GRAPHS` or `MAX_BUFFER_BYTES` new shapes run plainly, and so does all after three failed captures.
    Safe to use from several threads, one run at a time.
    """

    def __init__(self, session: CapturingSession, limit: PromptShape, gate: CaptureGate = DEVICE_GATE) -> None:
        self._session = session
        self._rows = _steps(_ROWS, limit.rows)
        self._tokens = _steps(_TOKENS, limit.tokens)
        self._padding = limit.padding_token_id
        self._gate = gate
        self._lock = threading.Lock()
        self._bound: dict[_Key, BoundRun] = {}
        self._met: set[_Key] = set()
        self._row_outputs: list[TensorShape] = []
        self._buffer_bytes = 0
        self._failures = 0
        self._next_id = 0
        self.input_names = session.input_names
        self.output_names = session.output_names

    @property
    def device(self) -> str:
        """``"cuda"``."""
        return self._session.device

    @property
    def fallback_reason(self) -> str | None:
        """None: CUDA runs."""
        return self._session.fallback_reason

    @property
    def captured(self) -> int:
        """How many graphs are held."""
        return len(self._bound)

    @property
    def buffer_bytes(self) -> int:
        """Held on the device for their inputs and outputs."""
        return self._buffer_bytes

    def run(self, feeds: Mapping[str, Array]) -> tuple[Array, ...]:
        """Run the graph once; blocks.

        Parameters
        ----------
        feeds : mapping of str to ndarray

        Returns
        -------
        tuple of ndarray
            In the order of the graph's outputs, with as many rows as were given.

        Raises
        ------
        RouterError
            ``onnx_run_failed``: the device, or the feeds.
        """
        with self._lock:
            key = self._key(feeds)
            bound = None if key is None else self._bound.get(key)
            if bound is None:
                return self._run_unbound(feeds, key)
            self._fill(bound, feeds)
            with self._gate.other_work():
                return _cut(bound(), len(feeds[_IDS]))

    def _key(self, feeds: Mapping[str, Array]) -> _Key | None:
        """The shape that a run is padded to, by thread; None for one that is larger than all."""
        rows, tokens = feeds[_IDS].shape
        row_step, token_step = bisect_left(self._rows, rows), bisect_left(self._tokens, tokens)
        if not rows or row_step == len(self._rows) or token_step == len(self._tokens):
            return None
        return threading.get_ident(), self._rows[row_step], self._tokens[token_step]

    def _run_unbound(self, feeds: Mapping[str, Array], key: _Key | None) -> tuple[Array, ...]:
        """Run plainly, and capture the shape when it has been met before."""
        if key is not None and key in self._met:
            with self._gate.capture() as is_granted:
                if is_granted and (found := self._captured(feeds, key)) is not None:
                    return found
        found = self._session.run(feeds)
        if key is not None:
            self._met.add(key)
            self._row_outputs = [
                TensorShape(name, output.shape[1:], output.dtype)
                for name, output in zip(self.output_names, found, strict=True)
            ]
        return found

    def _captured(self, feeds: Mapping[str, Array], key: _Key) -> tuple[Array, ...] | None:
        """Capture a graph that answers these feeds; None where it may or can not be had."""
        _, rows, tokens = key
        count = len(feeds[_IDS])
        inputs = [
            TensorShape(name, _padded(name, feeds[name].shape, count, rows, tokens), feeds[name].dtype)
            for name in self.input_names
        ]
        outputs = [TensorShape(each.name, (rows, *each.shape), each.dtype) for each in self._row_outputs]
        is_full = self.captured >= MAX_GRAPHS or self._buffer_bytes + size_of(inputs, outputs) > MAX_BUFFER_BYTES
        if is_full or self._failures >= _MAX_FAILURES:
            return None
        self._next_id += 1
        try:
            bound = self._session.bind(inputs, outputs, self._next_id)
            self._fill(bound, feeds)
            found = bound()
        except RouterError as failure:
            self._failures += 1
            extra = {"problem": failure.message, "rows": rows, "tokens": tokens, "failures": self._failures}
            _LOG.warning("cuda_graph_not_captured", extra=extra)
            return None
        self._bound[key] = bound
        self._buffer_bytes += bound.size_bytes
        return _cut(found, count)

    def _fill(self, bound: BoundRun, feeds: Mapping[str, Array]) -> None:
        """Write the feeds where the graph reads them, with rows of one padding token below."""
        rows, tokens = feeds[_IDS].shape
        for name, target in bound.inputs.items():
            if name == _IDS:
                target[:] = self._padding
                target[:rows, :tokens] = feeds[name]
            elif name == _MASK:
                target[:] = 0
                target[rows:, 0] = 1  # of no token at all, attention would make numbers that are none
                target[:rows, :tokens] = feeds[name]
            else:
                target[: len(feeds[name])] = feeds[name]
                target[len(feeds[name]) :] = 0


def _padded(name: str, shape: tuple[int, ...], count: int, rows: int, tokens: int) -> tuple[int, ...]:
    if name in (_IDS, _MASK):
        return rows, tokens
    return (rows if shape[0] == count else shape[0], *shape[1:])


def _steps(steps: tuple[int, ...], largest: int) -> tuple[int, ...]:
    return (*(step for step in steps if step < largest), largest)


def _cut(outputs: tuple[Array, ...], rows: int) -> tuple[Array, ...]:
    return tuple(output[:rows] for output in outputs)
