"""The encoder inside an event loop: static at once, transformer in one worker thread with continuous batching.

Owns the choice between the two; the queue is `penstock_routers.batching`'s. It knows nothing of graphs or tokens. Read
`EncoderService.encode` first.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from penstock_routers.batching import Batcher
from penstock_routers.encoder_manifest import Kind
from penstock_routers.errors import EncoderError
from penstock_routers.estimates import PromptGraph, Reading
from penstock_routers.features import NO_CONTEXT, PromptContext

FloatArray = NDArray[np.float32]

# Waiting texts: at 2.3 ms for a 30-token prompt on one thread, a full queue is over half a second of work. Whoever
# comes later is better served by the default arm.
QUEUE_LIMIT = 256
# A batch that is running cannot be stopped; the longest takes about a second on a busy CPU.
CLOSE_TIMEOUT_SECONDS = 5.0


class TextEncoder(Protocol):
    """What the service needs of an encoder; `PromptEncoder` is one."""

    @property
    def kind(self) -> Kind:
        """``"static"`` is fast enough for the event loop."""

    @property
    def rows_per_run(self) -> int:
        """Texts of one batch at most."""

    def encode(self, texts: Sequence[str]) -> FloatArray:
        """Return vectors, shape (n, d); blocks; called from one thread at a time."""


@dataclass(frozen=True, slots=True)
class _Job:
    """A text to encode, or to encode and score."""

    text: str
    graph: PromptGraph | None = None
    reference_arm: str = ""
    context: PromptContext = NO_CONTEXT


class EncoderService:
    """Encodes single texts for many concurrent requests; lives as long as the process.

    Parameters
    ----------
    encoder : TextEncoder
    queue_limit : int
        Texts that may wait; >= 1. The batch being encoded does not count.
    max_wait_seconds : float
        How long the first text of a batch waits for company; see `penstock_routers.batching.Batcher`.

    Attributes
    ----------
    encoder : TextEncoder

    Notes
    -----
    A static encoder runs inline: at 40 µs for a short prompt and 3 ms for the longest window it costs less than what a
    hand-over to a thread and back adds to the tail (9 ms at p99). A transformer runs in one worker thread, and what
    arrives while a batch runs is the next batch, so an idle service adds no wait and a busy one fills its batches. The
    batch is bounded by the encoder's `rows_per_run`, which is 1 for int8.
    """

    def __init__(self, encoder: TextEncoder, *, queue_limit: int = QUEUE_LIMIT, max_wait_seconds: float = 0.0) -> None:
        if queue_limit < 1:
            raise ValueError("queue_limit must be at least 1")
        self.encoder = encoder
        self._is_closed = False
        self._batcher: Batcher[_Job, Any] | None = None
        if encoder.kind != "static":
            self._batcher = Batcher(
                self._run_all,
                max_rows=lambda: encoder.rows_per_run,
                queue_limit=queue_limit,
                max_wait_seconds=max_wait_seconds,
            )

    @property
    def is_inline(self) -> bool:
        """Whether `encode` and `read` are done when they are called: nothing is waited for."""
        return self._batcher is None

    @property
    def waiting(self) -> int:
        """Texts that wait for a run."""
        return 0 if self._batcher is None else self._batcher.waiting

    async def encode(self, text: str) -> FloatArray:
        """Encode one text.

        Parameters
        ----------
        text : str
            A whole prompt; the encoder applies its window.

        Returns
        -------
        ndarray of float32, shape (d,)
            Of length 1, or zeros for a text without a token.

        Raises
        ------
        EncoderError
            Codes ``encoder_queue_full``, ``encoder_closed``, or what the encoder raised.

        Notes
        -----
        May be cancelled at any time; a text that has not been started is then never encoded.
        """
        if self._batcher is not None:
            return np.asarray(await self._batcher.submit(_Job(text)))
        self._check_open()
        return np.asarray(self.encoder.encode([text])[0])

    async def read(
        self, text: str, graph: PromptGraph, reference_arm: str, context: PromptContext = NO_CONTEXT
    ) -> Reading:
        """Encode one text and score it in the same run, among the runs of `encode`.

        Parameters
        ----------
        text : str
        graph : PromptGraph
            `penstock_routers.fused.FusedGraph` of this encoder and the artifact in force.
        reference_arm : str
            The arm that gains are measured against.
        context : PromptContext
            What stands around the text.

        Returns
        -------
        (ndarray of float32, shape (d,), Estimate)

        Raises
        ------
        RouterError
            As `encode`, or what the graph raised.
        """
        if self._batcher is not None:
            reading: Reading = await self._batcher.submit(_Job(text, graph, reference_arm, context))
            return reading
        self._check_open()
        return graph.read([text], reference_arm, (context,))[0]

    async def aclose(self) -> None:
        """Refuse new texts, fail the waiting ones, give the running batch a few seconds; safe to call twice."""
        self._is_closed = True
        if self._batcher is not None:
            await self._batcher.aclose(CLOSE_TIMEOUT_SECONDS)

    def _check_open(self) -> None:
        if self._is_closed:
            raise EncoderError("the encoder is shutting down", code="encoder_closed")

    def _run_all(self, jobs: list[_Job]) -> list[Any]:
        """One run for all that want the same of the same graph; a swap of artifacts may fall into a batch."""
        results: list[Any] = [None] * len(jobs)
        kinds: dict[tuple[int, str], list[int]] = {}
        for place, job in enumerate(jobs):
            kinds.setdefault((id(job.graph), job.reference_arm), []).append(place)
        for places in kinds.values():
            first, texts = jobs[places[0]], [jobs[place].text for place in places]
            if first.graph is None:
                found: Sequence[Any] | FloatArray = self.encoder.encode(texts)
            else:
                found = first.graph.read(texts, first.reference_arm, [jobs[place].context for place in places])
            for place, result in zip(places, found, strict=True):
                results[place] = result
        return results
