"""Prompts to vectors: window, tokenise, run the graph, normalise.

Owns `PromptEncoder`, the one way from text to prompt vectors in serving and in training. It must not know queues or
HTTP (`penstock_routers.encoder_service` schedules it) and never fetches anything. Read `PromptEncoder.load`, then
`PromptEncoder.encode`.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from tokenizers import Tokenizer

from penstock_routers.cuda_buckets import BucketedSession, PromptShape
from penstock_routers.cuda_fallback import FallbackSession, GraphSession
from penstock_routers.encoder_manifest import EncoderManifest, Kind, read_encoder_folder
from penstock_routers.errors import EncoderError
from penstock_routers.onnx_session import Device, OnnxSession, create_session
from penstock_routers.prompt_tokenizer import PromptTokenizer
from penstock_routers.text import window

FloatArray = NDArray[np.float32]

_LOG = logging.getLogger(__name__)
# Tokens of one run, padding included: 16,384 × 256 float32 are 16 MB in the static graph; in MiniLM the widest layer,
# four times its 384 dimensions, takes 100 MB.
_TOKENS_PER_RUN = 16_384
_MAX_TOKENS = 512  # captured, where the model has no limit of its own
# Texts tokenised at once; bounds the memory of a long training run.
_TEXTS_PER_BLOCK = 2_048
_GRAPH_INPUTS: dict[Kind, tuple[str, ...]] = {
    "static": ("token_ids",),
    "transformer": ("input_ids", "attention_mask"),
}


class PromptEncoder:
    """Turns texts into unit vectors; the same ones for as long as it lives, safe to call from several threads.

    Attributes
    ----------
    manifest : EncoderManifest
    encoder_id : str
        Content fingerprint, such as ``static-minilm-256@0123456789ab``. A router artifact names the one it needs.
    dimension : int
        d.
    kind : {"static", "transformer"}
    folder : Path or None
        That it was loaded from.
    """

    def __init__(
        self, manifest: EncoderManifest, tokenizer: Tokenizer, session: GraphSession, folder: Path | None = None
    ) -> None:
        self.manifest = manifest
        self.encoder_id = manifest.encoder_id
        self.dimension = manifest.dimension
        self.kind: Kind = manifest.kind
        self.folder = folder
        self._tokenizer = PromptTokenizer(tokenizer)
        self._session = session

    @classmethod
    def load(cls, folder: Path, *, device: Device = "auto", threads: int = 1) -> PromptEncoder:
        """Open an encoder folder after checking every byte of it.

        Parameters
        ----------
        folder : Path
            Written by ``penstock-train export-encoder``.
        device : {"auto", "cpu", "cuda"}
            ``auto``: CUDA for a transformer in fp16 or fp32 when it works, the CPU otherwise. A static encoder is done
            on the CPU before a GPU call would begin, and the int8 operators have no CUDA form.
        threads : int
            CPU threads of one run; >= 1.

        Returns
        -------
        PromptEncoder
            `device` and `fallback_reason` tell where it runs.

        Raises
        ------
        EncoderError
            Codes of `read_encoder_folder` and `refuse_unsafe_graph`, ``encoder_tokenizer_invalid``,
            ``encoder_graph_mismatch``, ``onnx_load_failed``.
        MissingExtraError
            ONNX Runtime is not installed.
        """
        manifest, graph, tokenizer_json = read_encoder_folder(folder)
        tokenizer = _open_tokenizer(tokenizer_json, folder.name)
        wanted = _device_for(manifest, device)
        encoder = cls(manifest, tokenizer, _open_graph(graph, wanted, threads), folder)
        try:
            encoder._check_one_run()
        except EncoderError as failure:
            if encoder.device != "cuda":
                raise
            reason = f"CUDA opened the encoder but could not run it: {failure.message}"
            _LOG.warning("encoder runs on the CPU: %s", reason)
            encoder = cls(manifest, tokenizer, _open_graph(graph, "cpu", threads, reason), folder)
            encoder._check_one_run()
        if encoder.device == "cuda":  # a fault in a request is answered from the CPU
            encoder._session = FallbackSession(
                encoder.bucketed(encoder._session), lambda reason: _open_graph(graph, "cpu", threads, reason)
            )
        return encoder

    @property
    def device(self) -> str:
        """Where the graph runs: ``"cpu"`` or ``"cuda"``."""
        return self._session.device

    @property
    def fallback_reason(self) -> str | None:
        """Why CUDA was given up, or None."""
        return self._session.fallback_reason

    @property
    def rows_per_run(self) -> int:
        """How many texts share one run of the graph at most."""
        return self.manifest.rows_per_run

    def bucketed(self, session: GraphSession) -> GraphSession:
        """Replay captured CUDA graphs for this encoder's prompts where the session can; the session itself elsewhere.

        Parameters
        ----------
        session : GraphSession
            With the inputs of a transformer's graph, and others.
        """
        if not (isinstance(session, OnnxSession) and session.can_capture and self.kind == "transformer"):
            return session
        manifest = self.manifest
        limit = PromptShape(manifest.rows_per_run, manifest.max_tokens or _MAX_TOKENS, manifest.padding_token_id)
        return BucketedSession(session, limit)

    def use(self, session: GraphSession) -> None:
        """Run on another session with the same vectors from now on, and let go of its own, a second copy of the table.

        Parameters
        ----------
        session : GraphSession
            Its inputs and first output are those of the encoder's graph.
        """
        self._session = session

    def encode(self, texts: Sequence[str]) -> FloatArray:
        """Encode texts; blocks.

        Parameters
        ----------
        texts : sequence of str, length n
            Whole prompts; the manifest's window is applied here.

        Returns
        -------
        ndarray of float32, shape (n, d)
            Rows of length 1; a row of zeros for a text without a single token (empty, blank).

        Raises
        ------
        EncoderError
            Code ``onnx_run_failed`` or ``encoder_not_finite``.

        Notes
        -----
        O(tokens · d) for the static kind. Texts are sorted by length into runs of like size; the order of the result
        is the order of `texts`, and a row does not depend on its neighbours beyond float32 rounding (1e-6).
        """
        if len(texts) == 1:  # serving: 8 µs less than the general way
            token_ids = self.token_ids(texts[0])
            return self._run([token_ids]) if token_ids else np.zeros((1, self.dimension), dtype=np.float32)
        vectors = np.zeros((len(texts), self.dimension), dtype=np.float32)
        for start in range(0, len(texts), _TEXTS_PER_BLOCK):
            block = texts[start : start + _TEXTS_PER_BLOCK]
            tokens = self._tokenizer.batch([window(text, self.manifest.window) for text in block])
            for rows in self._runs(tokens):
                vectors[[start + row for row in rows]] = self._run([tokens[row] for row in rows])
        return vectors

    def token_ids(self, text: str) -> list[int]:
        """Return the tokens of the windowed text, without special tokens and before the cut to the model's limit."""
        return self._tokenizer.ids(window(text, self.manifest.window))

    def model_tokens(self, text: str) -> list[int]:
        """Return what the graph gets for a text: cut to the model's limit, special tokens included."""
        return self._framed(self.token_ids(text))

    def reads_whole(self, text: str) -> bool:
        """Whether two texts like this one may differ anywhere and the encoder sees it.

        Parameters
        ----------
        text : str

        Returns
        -------
        bool
            False when a part falls outside the window or the model's limit, or is a token unknown to the tokeniser
            (a rare sign, a "word" of more than 100 characters): the vector is then the same whatever stands there.
        """
        manifest = self.manifest
        if len(text) > manifest.window.head_characters + manifest.window.tail_characters:
            return False
        ids = self.token_ids(text)
        is_cut = manifest.max_tokens is not None and len(ids) > manifest.max_tokens - manifest.special_token_count
        return not is_cut and self._tokenizer.unknown_token_id not in ids

    def _runs(self, tokens: list[list[int]]) -> Iterator[list[int]]:
        """Yield groups of row numbers of similar length; texts without tokens are left out."""
        order = sorted((row for row, ids in enumerate(tokens) if ids), key=lambda row: len(tokens[row]))
        run: list[int] = []
        for row in order:
            padded = len(tokens[row]) * (len(run) + 1)  # sorted: this row is the longest so far
            if run and (len(run) == self.rows_per_run or padded > _TOKENS_PER_RUN):
                yield run
                run = []
            run.append(row)
        if run:
            yield run

    def feeds(self, tokens: list[list[int]]) -> dict[str, NDArray[Any]]:
        """Return the graph's inputs for prompts given by their tokens (`token_ids`), each at least one."""
        if self.kind == "static" and len(tokens) == 1:  # serving
            return {"token_ids": np.array((self._framed(tokens[0]),), dtype=np.int64)}
        ids, mask = _padded([self._framed(row) for row in tokens], self.manifest.padding_token_id)
        return {"token_ids": ids} if self.kind == "static" else {"input_ids": ids, "attention_mask": mask}

    def _run(self, tokens: list[list[int]]) -> FloatArray:
        vectors: FloatArray = self._session.run(self.feeds(tokens))[0]
        if vectors.shape != (len(tokens), self.dimension):
            raise EncoderError(f"the encoder returned the shape {vectors.shape}", code="encoder_graph_mismatch")
        squares = (vectors * vectors).sum(axis=1, keepdims=True)  # not finite as soon as one number is not
        if not np.isfinite(squares).all():
            raise EncoderError("the encoder returned numbers that are not finite", code="encoder_not_finite")
        squares[squares == 0.0] = 1.0
        return np.asarray(vectors / np.sqrt(squares), dtype=np.float32)

    def _framed(self, ids: list[int]) -> list[int]:
        """Cut to the model's limit, keeping head and tail, and add the special tokens."""
        manifest = self.manifest
        if manifest.max_tokens is not None:
            room = manifest.max_tokens - manifest.special_token_count
            if len(ids) > room:
                ids = ids[: manifest.head_tokens] + ids[len(ids) - (room - manifest.head_tokens) :]
        return [*manifest.prefix_token_ids, *ids, *manifest.suffix_token_ids]

    def _check_one_run(self) -> None:
        """Run one text, so that a graph that does not fit its manifest fails here and not in a request."""
        expected = _GRAPH_INPUTS[self.kind]
        if tuple(self._session.input_names) != expected:
            raise EncoderError(
                f"the graph's inputs are {self._session.input_names}, a {self.kind} encoder has {expected}",
                code="encoder_graph_mismatch",
            )
        self.encode(["one short sentence"])


def _device_for(manifest: EncoderManifest, device: Device) -> Device:
    is_cpu_only = manifest.kind == "static" or manifest.precision == "int8"
    return "cpu" if device == "auto" and is_cpu_only else device


def _open_graph(graph: bytes, device: Device, threads: int, reason: str | None = None) -> OnnxSession:
    return create_session(
        graph,
        device=device,
        threads=threads,
        allow_contrib_operators=True,
        error=EncoderError,
        fallback_reason=reason,
        capture=True,
    )


def _open_tokenizer(content: bytes, name: str) -> Tokenizer:
    try:
        tokenizer = Tokenizer.from_str(content.decode())
    except Exception as failure:  # the Rust side raises plain Exception
        raise EncoderError(
            f"the tokenizer of encoder folder {name!r} cannot be read", code="encoder_tokenizer_invalid"
        ) from failure
    tokenizer.no_padding()
    tokenizer.no_truncation()
    return tokenizer


def _padded(rows: list[list[int]], padding: int) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Return (ids, mask), both (n, longest), the mask 1 where there is a token."""
    if len(rows) == 1:
        ids = np.array(rows, dtype=np.int64)
        return ids, np.ones_like(ids)
    lengths = np.fromiter(map(len, rows), dtype=np.int64, count=len(rows))
    mask = np.arange(lengths.max())[None, :] < lengths[:, None]
    ids = np.full(mask.shape, padding, dtype=np.int64)
    ids[mask] = np.concatenate([np.asarray(row, dtype=np.int64) for row in rows])
    return ids, mask.astype(np.int64)
