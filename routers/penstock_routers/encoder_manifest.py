"""The manifest of an encoder folder: what it is, which files it consists of, and its fingerprint.

Owns the file format only; opening and running the encoder is `penstock_routers.encoder`. The exporter writes what
`EncoderManifest` describes and serving reads it back with every file's SHA-256 checked. Read `EncoderManifest` first.
"""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any, Literal

import msgspec

from penstock_routers.errors import EncoderError
from penstock_routers.model_files import read_model_file
from penstock_routers.onnx_session import MAX_GRAPH_BYTES
from penstock_routers.text import TextWindow

SCHEMA_VERSION = 1
MANIFEST_FILE = "manifest.json"
GRAPH_FILE = "encoder.onnx"
TOKENIZER_FILE = "tokenizer.json"
_MAX_MANIFEST_BYTES = 1 << 20
_MAX_TOKENIZER_BYTES = 64 << 20
# What changes vectors. Name, source, licence and the exporter's versions stay outside the fingerprint's content.
_FINGERPRINTED = (
    "schema_version", "kind", "dimension", "files", "window", "max_tokens", "head_tokens", "prefix_token_ids",
    "suffix_token_ids", "padding_token_id", "rows_per_run",
)  # fmt: skip

Kind = Literal["static", "transformer"]
Precision = Literal["int8", "fp16", "fp32"]


class SourceModel(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Where the weights come from.

    Attributes
    ----------
    name : str
        Name of the sentence-transformers model.
    licence : str
        SPDX identifier, or ``"unknown"``.
    weights_sha256 : str
        SHA-256 of the weight file that was exported, 64 hex digits.
    """

    name: str
    licence: str
    weights_sha256: str


class EncoderManifest(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Content of ``manifest.json`` in an encoder folder.

    Attributes
    ----------
    schema_version : int
        1.
    name : str
        Human name, first half of the encoder id.
    kind : {"static", "transformer"}
        One vector per token and a weighted sum, or a full model.
    dimension : int
        d of the vectors.
    precision : {"int8", "fp16", "fp32"}
        Of the stored weights; vectors are float32 always.
    pooling : str
        For people: how token vectors become one.
    files : dict of str to str
        SHA-256 of ``encoder.onnx`` and ``tokenizer.json``.
    window : TextWindow
        Applied before tokenising, in serving and in training.
    max_tokens : int or None
        Most tokens of one run, special ones included; None when only the window bounds them.
    head_tokens : int
        When `max_tokens` is passed: tokens kept from the start; the rest of the room goes to the end.
    prefix_token_ids, suffix_token_ids : tuple of int
        Special tokens put around a text.
    padding_token_id : int
        Fills short rows of a batch. For the static kind its vector is zero.
    rows_per_run : int
        Texts that share one run of the graph at most. 1 where a text's vector would otherwise depend on its company:
        dynamic int8 quantisation scales the activations of a whole batch at once.
    source : SourceModel
        Origin of the weights.
    tools : dict of str to str
        Versions of the packages that exported it.
    """

    schema_version: int
    name: str
    kind: Kind
    dimension: int
    precision: Precision
    pooling: str
    files: dict[str, str]
    window: TextWindow
    max_tokens: int | None
    head_tokens: int
    prefix_token_ids: tuple[int, ...]
    suffix_token_ids: tuple[int, ...]
    padding_token_id: int
    rows_per_run: int
    source: SourceModel
    tools: dict[str, str]

    def __post_init__(self) -> None:
        """Refuse values that no exporter writes."""
        room = None if self.max_tokens is None else self.max_tokens - self.special_token_count
        checks = {
            "schema_version": self.schema_version == SCHEMA_VERSION,
            "name": 0 < len(self.name) <= 80 and self.name.isprintable() and "@" not in self.name,
            "dimension": 0 < self.dimension <= 65_536,
            "files": set(self.files) == {GRAPH_FILE, TOKENIZER_FILE},
            "rows_per_run": 0 < self.rows_per_run <= 1024,
            "max_tokens": room is None or 0 < room <= 1 << 20,
            "head_tokens": self.head_tokens >= 0 and (room is None or self.head_tokens <= room),
            "padding_token_id": self.padding_token_id >= 0,
        }
        for name, is_good in checks.items():
            if not is_good:
                raise ValueError(f"the value of {name!r} is not allowed")

    @property
    def special_token_count(self) -> int:
        """Number of special tokens put around every text."""
        return len(self.prefix_token_ids) + len(self.suffix_token_ids)

    @property
    def encoder_id(self) -> str:
        """``name@`` and the first 12 hex digits of the SHA-256 over everything that changes vectors."""
        content = {name: value for name, value in self._plain().items() if name in _FINGERPRINTED}
        return f"{self.name}@{hashlib.sha256(_canonical(content)).hexdigest()[:12]}"

    def to_json(self) -> bytes:
        """Return the file's content: sorted keys, two spaces, a line break at the end."""
        return (json.dumps(self._plain(), indent=2, sort_keys=True) + "\n").encode()

    def _plain(self) -> dict[str, Any]:
        plain: dict[str, Any] = msgspec.to_builtins(self)
        return plain


def parse_manifest(raw: bytes) -> EncoderManifest:
    """Parse ``manifest.json``; unknown, missing and mistyped fields are refused.

    Parameters
    ----------
    raw : bytes
        The file's content.

    Returns
    -------
    EncoderManifest

    Raises
    ------
    msgspec.DecodeError
        With one sentence naming the field.
    """
    return msgspec.json.decode(raw, type=EncoderManifest)


def read_manifest(folder: Path) -> EncoderManifest:
    """Read what an encoder folder says of itself; nothing is checked against it.

    Parameters
    ----------
    folder : Path

    Returns
    -------
    EncoderManifest

    Raises
    ------
    EncoderError
        Codes ``encoder_missing``, ``encoder_manifest_invalid``, ``encoder_file_too_large``.
    """
    raw = _read(folder / MANIFEST_FILE, _MAX_MANIFEST_BYTES)
    try:
        return parse_manifest(raw)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as failure:
        raise EncoderError(
            f"the manifest of encoder folder {folder.name!r} is not valid: {failure}", code="encoder_manifest_invalid"
        ) from failure


def read_encoder_folder(folder: Path) -> tuple[EncoderManifest, bytes, bytes]:
    """Read an encoder folder and check it against its manifest.

    Parameters
    ----------
    folder : Path
        Holds ``manifest.json``, ``encoder.onnx`` and ``tokenizer.json``.

    Returns
    -------
    tuple of (EncoderManifest, bytes, bytes)
        Manifest, graph, tokenizer. What is returned is what was hashed: each file is read once.

    Raises
    ------
    EncoderError
        Codes ``encoder_missing``, ``encoder_manifest_invalid``, ``encoder_file_too_large``,
        ``encoder_hash_mismatch``.
    """
    manifest = read_manifest(folder)
    graph = _read(folder / GRAPH_FILE, MAX_GRAPH_BYTES)
    tokenizer = _read(folder / TOKENIZER_FILE, _MAX_TOKENIZER_BYTES)
    for name, content in ((GRAPH_FILE, graph), (TOKENIZER_FILE, tokenizer)):
        if hashlib.sha256(content).hexdigest() != manifest.files[name]:
            raise EncoderError(
                f"{name} in encoder folder {folder.name!r} does not have the SHA-256 that its manifest states",
                code="encoder_hash_mismatch",
            )
    return manifest, graph, tokenizer


def _read(path: Path, max_bytes: int) -> bytes:
    return read_model_file(
        path, max_bytes, error=EncoderError, missing_code="encoder_missing", too_large_code="encoder_file_too_large"
    )


def _canonical(content: dict[str, Any]) -> bytes:
    return json.dumps(content, sort_keys=True, separators=(",", ":")).encode()
