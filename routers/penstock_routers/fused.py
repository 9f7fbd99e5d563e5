"""Prompt vector and estimates by one run of one graph, from token ids.

Owns the joined graph of an encoder and an artifact: when it is worth having, the check that it says what the two say
one after the other, and reading prompts with it. Read `fused_with`, then `FusedGraph.read`.
"""

from __future__ import annotations

import logging
import math
from collections.abc import Mapping, Sequence
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from penstock_routers.artifact import RouterArtifact
from penstock_routers.cuda_fallback import FallbackSession, GraphSession
from penstock_routers.encoder import PromptEncoder
from penstock_routers.encoder_manifest import read_encoder_folder
from penstock_routers.errors import ArtifactError, EncoderError, RouterError
from penstock_routers.estimates import Reading
from penstock_routers.features import (
    NO_CONTEXT,
    PromptContext,
    context_features,
    prompt_features,
    prompt_features_of,
)
from penstock_routers.graph_join import VECTOR_OUTPUT, join_graphs
from penstock_routers.manifest import INPUT_NAMES
from penstock_routers.onnx_session import Device, OnnxSession, create_session
from penstock_routers.serving_graph import ROWS_OUTPUT, serving_graph

FloatArray = NDArray[np.float32]

_LOG = logging.getLogger(__name__)
_PROBES: Final = ("What is the capital of Peru?", "def add(a, b):\n    return a + b  # 2 + 2 = 4", "Naïve? Ça va!")
_CAPTURED_ROUNDS: Final = 3  # plain, captured, replayed
_TOLERANCE: Final = {"cpu": 1e-4, "cuda": 1e-2}
"""Largest difference from the two runs, of a number of the vector or of a quality: rounding, on CUDA that of TF32."""


class FusedGraph:
    """A joined graph with its tokenizer; immutable after loading and safe to use from several threads.

    Parameters
    ----------
    encoder : PromptEncoder
    artifact : RouterArtifact
    session : GraphSession
        Of `penstock_routers.graph_join.join_graphs`.
    output_names : tuple of str
        In the order that `session` gives them.
    joins_single : bool
        Whether a single prompt takes the joined graph on CUDA too. Launched one by one, a hundred small operators of
        the router start faster on the CPU; in a captured graph they do not count.
    """

    def __init__(
        self,
        encoder: PromptEncoder,
        artifact: RouterArtifact,
        session: GraphSession,
        output_names: tuple[str, ...],
        *,
        joins_single: bool = False,
    ) -> None:
        self._encoder = encoder
        self._artifact = artifact
        self._session = session
        self._joins_single = joins_single
        self._vector, self._rows = output_names.index(VECTOR_OUTPUT), output_names.index(ROWS_OUTPUT)

    @property
    def device(self) -> str:
        """Where the graph runs: ``"cpu"`` or ``"cuda"``."""
        return self._session.device

    @classmethod
    def open(cls, encoder: PromptEncoder, artifact: RouterArtifact, *, threads: int = 1) -> FusedGraph:
        """Join the two graphs and check the result against them; blocks for some ten milliseconds.

        Parameters
        ----------
        encoder : PromptEncoder
            Loaded from a folder.
        artifact : RouterArtifact
            Fitted with this encoder, without an index beside its graph.
        threads : int
            CPU threads of one run.

        Returns
        -------
        FusedGraph

        Raises
        ------
        RouterError
            ``graphs_do_not_fit``, or a code of `read_encoder_folder` or `create_session`.
        """
        if encoder.folder is None or artifact.neighbours is not None:
            raise _unfit("the graph of one of them is not by itself")
        manifest, graph, _ = read_encoder_folder(encoder.folder)
        if not manifest.encoder_id == encoder.encoder_id == artifact.manifest.encoder.id:
            raise _unfit("the artifact was fitted with another encoder")
        joined = join_graphs(graph, serving_graph(artifact.graph, has_guards=False))

        def opened(device: Device, reason: str | None = None) -> OnnxSession:
            return create_session(
                joined,
                device=device,
                threads=threads,
                allow_contrib_operators=True,
                fallback_reason=reason,
                capture=True,
            )

        first = opened("cuda" if encoder.device == "cuda" else "cpu")
        session: GraphSession = first
        if first.device == "cuda":  # a fault in a request is answered from the CPU
            session = FallbackSession(encoder.bucketed(first), lambda reason: opened("cpu", reason))
        fused = cls(encoder, artifact, session, first.output_names, joins_single=first.can_capture)
        fused._check()
        if encoder.kind == "static" and first.device == "cpu":
            encoder.use(_VectorsAlone(first, encoder, len(artifact.manifest.feature_names)))
        return fused

    def read(self, texts: Sequence[str], reference_arm: str, contexts: Sequence[PromptContext] = ()) -> list[Reading]:
        """Encode texts and score them on every arm; blocks.

        Parameters
        ----------
        texts : sequence of str, length n
            Whole prompts, at most `rows_per_run` of the encoder.
        reference_arm : str
            The arm that gains are measured against.
        contexts : sequence of PromptContext, length n or 0
            What stands around each.

        Returns
        -------
        list of (ndarray of float32, shape (d,), Estimate)
            A vector of zeros for a text without a single token.

        Raises
        ------
        RouterError
            ``artifact_unknown_arm``, ``artifact_not_finite``, ``encoder_not_finite`` or ``onnx_run_failed``.
        """
        if len(texts) == 1:  # serving: 6 µs less than the general way
            return [self._read_one(texts[0], reference_arm, contexts[0] if contexts else NO_CONTEXT)]
        tokens = [self._encoder.token_ids(text) for text in texts]
        features = prompt_features_of(texts)
        if self._artifact.reads_context:
            around = [context_features(context) for context in contexts or [NO_CONTEXT] * len(texts)]
            features = np.hstack((features, np.stack(around)))
        rows = [row for row, ids in enumerate(tokens) if ids]
        found: dict[int, Reading] = {}
        if rows:
            outputs = self._run([tokens[row] for row in rows], features[rows], reference_arm)
            for row, vector, numbers in zip(rows, *outputs, strict=True):  # copies: who keeps one keeps no batch
                found[row] = self._reading(vector.copy(), numbers.copy(), features[row], reference_arm)
        return [found[row] if row in found else self._empty(features[row], reference_arm) for row in range(len(texts))]

    def _read_one(self, text: str, reference_arm: str, context: PromptContext) -> Reading:
        ids, features = self._encoder.token_ids(text), self._artifact.full_features(prompt_features(text), context)
        if not ids:
            return self._empty(features, reference_arm)
        if self._session.device == "cuda" and not self._joins_single:
            vector = self._encoder.encode([text])[0]
            return vector, self._artifact.estimate(vector, features, reference_arm=reference_arm)
        vectors, rows = self._run([ids], features.reshape(1, -1), reference_arm)
        return self._reading(vectors[0], rows[0], features, reference_arm)

    def _run(self, tokens: list[list[int]], features: FloatArray, reference_arm: str) -> tuple[FloatArray, FloatArray]:
        feeds = self._encoder.feeds(tokens)
        feeds["features"] = features
        feeds["reference_arm"] = self._artifact.reference(reference_arm)
        outputs = self._session.run(feeds)
        return outputs[self._vector], outputs[self._rows]

    def _reading(self, vector: FloatArray, row: FloatArray, features: FloatArray, reference_arm: str) -> Reading:
        if not math.isfinite(vector.dot(vector)):  # not finite as soon as one number is not
            raise EncoderError("the encoder returned numbers that are not finite", code="encoder_not_finite")
        try:
            return vector, self._artifact.estimate_of(row, reference_arm)
        except ArtifactError:  # the joined graph is without the guards of an ensemble
            return vector, self._artifact.estimate(vector, features, reference_arm=reference_arm)

    def _empty(self, features: FloatArray, reference_arm: str) -> Reading:
        vector = np.zeros(self._encoder.dimension, dtype=np.float32)
        return vector, self._artifact.estimate(vector, features, reference_arm=reference_arm)

    def _check(self) -> None:
        """Compare with the two runs, so that a joint that changes anything shows here and not in decisions."""
        reference = self._artifact.manifest.reference_arm
        rounds = _CAPTURED_ROUNDS if self._joins_single else 1
        alone = [[reading for text in _PROBES for reading in self.read([text], reference)] for _ in range(rounds)]
        together = [self.read(_PROBES, reference) for _ in range(rounds)]
        vectors = self._encoder.encode(_PROBES)
        for text, wanted, *readings in zip(_PROBES, vectors, *together, *alone, strict=True):
            expected = self._artifact.estimate(wanted, prompt_features(text), reference_arm=reference)
            for vector, estimate in readings:
                difference = max(
                    float(np.abs(vector - wanted).max()), float(np.abs(estimate.quality - expected.quality).max())
                )
                if not difference <= _TOLERANCE[self.device]:
                    raise _unfit(f"the joined graph differs from them by {difference:.2g}")


class _VectorsAlone:
    """A joined graph in the place of the encoder's own, for what is encoded without being scored.

    Two sessions hold the token table twice, 19 MB in all; the estimates that nobody asks for here take 0.1 ms.
    """

    device = "cpu"

    def __init__(self, session: OnnxSession, encoder: PromptEncoder, features: int) -> None:
        self._features = features
        self.fallback_reason = encoder.fallback_reason
        self.input_names = tuple(name for name in session.input_names if name not in INPUT_NAMES)
        self._session = session
        self._place = session.output_names.index(VECTOR_OUTPUT)
        self._reference = np.zeros(1, dtype=np.int64)

    def run(self, feeds: Mapping[str, NDArray[Any]]) -> tuple[NDArray[Any], ...]:
        """Run the graph once; blocks."""
        features = np.zeros((len(feeds[self.input_names[0]]), self._features), dtype=np.float32)
        outputs = self._session.run({**feeds, "features": features, "reference_arm": self._reference})
        return (outputs[self._place],)


def fused_with(artifact: RouterArtifact, encoder: PromptEncoder) -> RouterArtifact:
    """Give an artifact the joined graph where that is worth it; blocks.

    Parameters
    ----------
    artifact : RouterArtifact
    encoder : PromptEncoder
        That serves.

    Returns
    -------
    RouterArtifact
        The one given, without a joined graph, where none can be had: it then serves by two runs.

    Notes
    -----
    A run of a graph costs some 15 µs before it computes anything and as much again for taking its results. That is a
    fifth of what a short prompt costs with a static encoder, and less than 1 % of a transformer's run on the CPU, which
    is left as it is. On CUDA it pays for batches, 1.6 × at 64 prompts on an H200 (docs/benchmarks.md), and for a single
    prompt as soon as runs are captured; where they cannot be, that takes two runs, the router's on the CPU.
    """
    if encoder.kind != "static" and encoder.device != "cuda":
        return artifact
    if artifact.neighbours is not None:
        return artifact
    try:
        return artifact.with_fused(FusedGraph.open(encoder, artifact))
    except RouterError as failure:
        _LOG.warning("graphs_not_fused", extra={"problem": failure.message, "artifact": artifact.id})
        return artifact


def _unfit(why: str) -> ArtifactError:
    return ArtifactError(f"encoder and router are run one after the other: {why}", code="graphs_do_not_fit")
