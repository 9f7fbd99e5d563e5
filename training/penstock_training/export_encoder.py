"""Exports an encoder: a sentence-transformers model becomes a folder that serving can load.

Owns the steps and their order, the folder's files and the comparison with the original; the arithmetic is in
`static_encoder` and `transformer_encoder`, the model in `sentence_model`. Read `export_encoder` first.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from penstock_routers.encoder import PromptEncoder
from penstock_routers.encoder_manifest import (
    GRAPH_FILE,
    MANIFEST_FILE,
    SCHEMA_VERSION,
    TOKENIZER_FILE,
    EncoderManifest,
    Kind,
    Precision,
    SourceModel,
)
from penstock_routers.errors import EncoderError
from penstock_routers.text import TextWindow
from penstock_training.encoder_card import PROBE_TEXTS, card
from penstock_training.sentence_model import SentenceModel, find_model
from penstock_training.static_encoder import distil, static_graph
from penstock_training.transformer_encoder import transformer_graph

FloatArray = NDArray[np.float64]

# 4 kB of English at each end: what the tokenizer reads in 2 ms, and more than 99 % of the prompts in the outcome sets.
STATIC_WINDOW = TextWindow(head_characters=4096, tail_characters=4096)
# A transformer sees 256 tokens, about 1,100 characters of English; twice to three times as many characters are read, so
# that dense text (few characters per token) loses nothing and the tokenizer still takes under a millisecond.
TRANSFORMER_WINDOW = TextWindow(head_characters=2048, tail_characters=1024)
# Share of a transformer's tokens given to the start of a text that is too long.
HEAD_SHARE = 2 / 3
# Smallest mean cosine to the original over the probe texts; a worse export is a mistake, not a precision.
_MIN_COSINE: dict[Precision, float] = {"fp32": 0.9999, "fp16": 0.999, "int8": 0.97}


@dataclass(frozen=True, slots=True)
class ExportedEncoder:
    """What an export produced.

    Attributes
    ----------
    folder : Path
    manifest : EncoderManifest
    total_bytes : int
        Size of all files of the folder.
    mean_cosine, min_cosine : float
        To the unquantised original over the probe texts.
    """

    folder: Path
    manifest: EncoderManifest
    total_bytes: int
    mean_cosine: float
    min_cosine: float


def export_encoder(
    out: Path,
    *,
    name: str,
    kind: Kind,
    model: str | None = None,
    weights_sha256: str | None = None,
    precision: Precision = "int8",
    dimension: int = 256,
) -> ExportedEncoder:
    """Export a sentence-transformers model as an encoder folder and check the result against the original.

    Parameters
    ----------
    out : Path
        Folder to write; created when missing, files of an earlier export are replaced.
    name : str
        First half of the encoder id.
    kind : {"static", "transformer"}
    model : str or None
        Folder or hub name; None for the pinned all-MiniLM-L6-v2.
    weights_sha256 : str, optional
        See `find_model`.
    precision : {"int8", "fp16", "fp32"}
    dimension : int
        Of the static kind: principal components kept. The transformer keeps its own.

    Returns
    -------
    ExportedEncoder

    Raises
    ------
    EncoderError
        The model is refused (see `find_model`), or the export differs too much from the original
        (``export_differs``); the folder is then left without a manifest and cannot be loaded.
    MissingExtraError
        The training extra is not installed.

    Notes
    -----
    With the same packages on the same machine two exports give the same bytes and the same id. Elsewhere the last bit
    of a matrix product may move single int8 codes; the vectors agree to about 1e-3 then, the id does not.
    """
    source = SentenceModel(find_model(model, weights_sha256=weights_sha256))
    graph, original, dimension = _build(source, kind, precision, dimension)
    manifest = _manifest(source, graph, name=name, kind=kind, precision=precision, dimension=dimension)
    _write(out, manifest, graph, source.tokenizer_json)
    cosines = _cosines(PromptEncoder.load(out, device="cpu"), original)
    if not cosines.mean() >= _MIN_COSINE[precision]:  # nan is refused too
        (out / MANIFEST_FILE).unlink()
        raise EncoderError(
            f"the export has a mean cosine of {cosines.mean():.4f} to the original", code="export_differs"
        )
    (out / "CARD.md").write_text(card(manifest, float(cosines.mean()), float(cosines.min())), "utf-8")
    total_bytes = sum(file.stat().st_size for file in out.iterdir() if file.is_file())
    return ExportedEncoder(out, manifest, total_bytes, float(cosines.mean()), float(cosines.min()))


def _build(
    source: SentenceModel, kind: Kind, precision: Precision, dimension: int
) -> tuple[bytes, Callable[[list[int]], FloatArray], int]:
    """Return the graph, the unquantised original as a function of tokens, and the dimension."""
    if kind == "static":
        table = distil(source.token_vectors(), source.used_token_ids, dimension)
        return static_graph(table, precision), lambda tokens: np.asarray(table[tokens].sum(axis=0)), dimension
    graph = transformer_graph(source.to_onnx(), precision, heads=source.attention_heads, width=source.state_width)
    no_text = list(source.prefix_token_ids + source.suffix_token_ids)
    return graph, source.encode_tokens, len(source.encode_tokens(no_text))


def _manifest(
    source: SentenceModel, graph: bytes, *, name: str, kind: Kind, precision: Precision, dimension: int
) -> EncoderManifest:
    is_static = kind == "static"
    max_tokens = None if is_static else source.max_tokens
    prefix = () if is_static else source.prefix_token_ids
    suffix = () if is_static else source.suffix_token_ids
    room = 0 if max_tokens is None else max_tokens - len(prefix) - len(suffix)
    return EncoderManifest(
        schema_version=SCHEMA_VERSION,
        name=name,
        kind=kind,
        dimension=dimension,
        precision=precision,
        pooling="smooth inverse frequency weighted sum" if is_static else source.pooling,
        files={
            GRAPH_FILE: hashlib.sha256(graph).hexdigest(),
            TOKENIZER_FILE: hashlib.sha256(source.tokenizer_json).hexdigest(),
        },
        window=STATIC_WINDOW if is_static else TRANSFORMER_WINDOW,
        max_tokens=max_tokens,
        head_tokens=round(room * HEAD_SHARE),
        prefix_token_ids=prefix,
        suffix_token_ids=suffix,
        padding_token_id=source.padding_token_id,
        rows_per_run=_rows_per_run(kind, precision),
        source=SourceModel(source.folder.name, source.folder.licence, source.folder.weights_sha256),
        tools=_tool_versions(),
    )


def _rows_per_run(kind: Kind, precision: Precision) -> int:
    """Return the batch: 1 where dynamic quantisation would mix texts; 64 keeps a GPU busy within 16,384 tokens."""
    if kind == "static":
        return 32
    return 1 if precision == "int8" else 64


def _write(out: Path, manifest: EncoderManifest, graph: bytes, tokenizer_json: bytes) -> None:
    """Write the manifest last: a folder without one cannot be loaded."""
    out.mkdir(parents=True, exist_ok=True)
    (out / MANIFEST_FILE).unlink(missing_ok=True)
    (out / GRAPH_FILE).write_bytes(graph)
    (out / TOKENIZER_FILE).write_bytes(tokenizer_json)
    (out / MANIFEST_FILE).write_bytes(manifest.to_json())


def _cosines(encoder: PromptEncoder, original: Callable[[list[int]], FloatArray]) -> FloatArray:
    """Compare the export with the original on the same tokens."""
    exported = encoder.encode(PROBE_TEXTS).astype(np.float64)
    reference = np.stack([original(encoder.model_tokens(text)) for text in PROBE_TEXTS])
    reference /= np.linalg.norm(reference, axis=1, keepdims=True)
    return np.asarray(np.einsum("nd,nd->n", reference, exported))


def _tool_versions() -> dict[str, str]:
    versions = {}
    for package in ("numpy", "onnx", "onnxruntime", "penstock", "sentence-transformers", "tokenizers", "torch"):
        try:
            versions[package] = version(package)
        except PackageNotFoundError:
            continue
    return versions
