"""The manifest of an encoder folder: what it is, which files it consists of, and its fingerprint.

Owns the file format only; opening and running the encoder is `penstock_routers.encoder`. The exporter writes what
`EncoderManifest` describes and serving reads it back with every file's SHA-256 checked. Read `EncoderManifest` first.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any, Literal, get_args

from penstock_routers.errors import EncoderError
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


@dataclass(frozen=True, slots=True)
class SourceModel:
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


@dataclass(frozen=True, slots=True, kw_only=True)
class EncoderManifest:
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
        return asdict(self)


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
    ValueError
        With one sentence naming the field.
    """
    try:
        content = json.loads(raw)
    except RecursionError:
        raise ValueError("it is nested too deeply") from None
    _refuse_other_fields(EncoderManifest, content)
    values = {name: _typed(name, _FIELD_TYPES[name], value) for name, value in content.items()}
    return EncoderManifest(**values)


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
    raw = _read(folder / MANIFEST_FILE, _MAX_MANIFEST_BYTES)
    try:
        manifest = parse_manifest(raw)
    except ValueError as failure:  # UnicodeDecodeError and JSONDecodeError are ValueErrors
        raise EncoderError(
            f"the manifest of encoder folder {folder.name!r} is not valid: {failure}", code="encoder_manifest_invalid"
        ) from failure
    graph = _read(folder / GRAPH_FILE, MAX_GRAPH_BYTES)
    tokenizer = _read(folder / TOKENIZER_FILE, _MAX_TOKENIZER_BYTES)
    for name, content in ((GRAPH_FILE, graph), (TOKENIZER_FILE, tokenizer)):
        if hashlib.sha256(content).hexdigest() != manifest.files[name]:
            raise EncoderError(
                f"{name} in encoder folder {folder.name!r} does not have the SHA-256 that its manifest states",
                code="encoder_hash_mismatch",
            )
    return manifest, graph, tokenizer


def _integer(value: object) -> int:
    if type(value) is not int:
        raise ValueError("an integer is expected")
    return value


def _string(value: object) -> str:
    if not isinstance(value, str):
        raise ValueError("a string is expected")
    return value


def _one_of(choices: tuple[str, ...]) -> Callable[[object], str]:
    def check(value: object) -> str:
        if value not in choices:
            raise ValueError(f"one of {', '.join(choices)} is expected")
        return str(value)

    return check


def _integers(value: object) -> tuple[int, ...]:
    if not isinstance(value, list):
        raise ValueError("a list of integers is expected")
    return tuple(_integer(item) for item in value)


def _strings_by_name(value: object) -> dict[str, str]:
    if not isinstance(value, dict):
        raise ValueError("an object of strings is expected")
    return {name: _string(item) for name, item in value.items()}


def _text_window(value: object) -> TextWindow:
    _refuse_other_fields(TextWindow, value)
    assert isinstance(value, dict)
    return TextWindow(**{name: _integer(item) for name, item in value.items()})


def _source_model(value: object) -> SourceModel:
    _refuse_other_fields(SourceModel, value)
    return SourceModel(**_strings_by_name(value))


_FIELD_TYPES: dict[str, Callable[[object], Any]] = {
    "schema_version": _integer,
    "name": _string,
    "kind": _one_of(get_args(Kind)),
    "dimension": _integer,
    "precision": _one_of(get_args(Precision)),
    "pooling": _string,
    "files": _strings_by_name,
    "window": _text_window,
    "max_tokens": lambda value: None if value is None else _integer(value),
    "head_tokens": _integer,
    "prefix_token_ids": _integers,
    "suffix_token_ids": _integers,
    "padding_token_id": _integer,
    "rows_per_run": _integer,
    "source": _source_model,
    "tools": _strings_by_name,
}


def _typed(name: str, convert: Callable[[object], Any], value: object) -> Any:
    try:
        return convert(value)
    except ValueError as failure:
        raise ValueError(f"field {name!r}: {failure}") from failure


def _refuse_other_fields(record: type[Any], content: object) -> None:
    """Raise unless `content` is an object with exactly the fields of a record class."""
    if not isinstance(content, dict):
        raise ValueError("an object is expected")
    expected = {field.name for field in fields(record)}
    missing, unknown = sorted(expected - set(content)), sorted(set(content) - expected)
    if missing or unknown:
        raise ValueError(f"missing fields: {missing}; unknown fields: {[name[:40] for name in unknown]}")


def _read(path: Path, max_bytes: int) -> bytes:
    try:
        with path.open("rb") as file:
            content = file.read(max_bytes + 1)
    except OSError as failure:
        reason = failure.strerror or "it cannot be read"
        raise EncoderError(f"{path.parent.name}/{path.name}: {reason}", code="encoder_missing") from failure
    if len(content) > max_bytes:
        message = f"{path.parent.name}/{path.name} is larger than {max_bytes} bytes"
        raise EncoderError(message, code="encoder_file_too_large")
    return content


def _canonical(content: dict[str, Any]) -> bytes:
    return json.dumps(content, sort_keys=True, separators=(",", ":")).encode()
