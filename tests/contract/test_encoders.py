"""One suite over both shipped encoders: what every encoder promises to its callers."""

from __future__ import annotations

import hashlib
import json
import shutil
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import msgspec
import numpy as np
import pytest
from numpy.typing import NDArray

from penstock_routers.bundled import bundled_folder
from penstock_routers.encoder import PromptEncoder
from penstock_routers.encoder_manifest import EncoderManifest, parse_manifest
from penstock_routers.errors import EncoderError

NAMES = ("static-minilm-256", "minilm-l6-v2")
TEXTS = [
    "How do I sort a list of tuples by the second item in Python?",
    "Python: order tuples by their second element",
    "What is the tallest mountain of South America?",
    "",
    "Übersetze bitte den folgenden Satz ins Französische: Der Hund schläft.",
    "x = 1\n" * 400,
]
# Against encoder_vectors.json, recorded on an x86-64 machine with VNNI; after a new export it is recorded again. The
# numbers are about .05 each, so another model or tokenizer shows; rounding of activations elsewhere does not.
GOLDEN_TOLERANCE = 0.01


@pytest.fixture(scope="module", params=NAMES)
def encoder(request: pytest.FixtureRequest) -> PromptEncoder:
    """Each shipped encoder on the CPU."""
    return PromptEncoder.load(bundled_folder(request.param), device="cpu")


def _cosine(left: NDArray[np.float32], right: NDArray[np.float32]) -> float:
    return float(left @ right)


def test_encoder_vectors_have_length_one_and_float32(encoder: PromptEncoder) -> None:
    """Rows are unit vectors of float32, a blank text gives zeros."""
    vectors = encoder.encode([*TEXTS, " \n\t"])
    assert vectors.dtype == np.float32
    assert vectors.shape == (7, encoder.dimension)
    np.testing.assert_allclose(np.linalg.norm(vectors, axis=1), [1, 1, 1, 0, 1, 1, 0], atol=1e-5)


def test_encoder_of_no_texts_returns_an_empty_matrix(encoder: PromptEncoder) -> None:
    """No texts, no rows."""
    assert encoder.encode([]).shape == (0, encoder.dimension)


def test_encoder_row_does_not_depend_on_its_batch(encoder: PromptEncoder) -> None:
    """A text has one vector, alone or among others, so training and serving see the same (float32 rounding aside)."""
    together = encoder.encode(TEXTS)
    alone = np.concatenate([encoder.encode([text]) for text in TEXTS])
    np.testing.assert_allclose(together, alone, atol=1e-6)


def test_encoder_paraphrase_is_nearer_than_another_question(encoder: PromptEncoder) -> None:
    """Vectors carry meaning: the paraphrase of a question is nearer to it than an unrelated one."""
    question, paraphrase, other = encoder.encode(TEXTS[:3])
    assert _cosine(question, paraphrase) > _cosine(question, other) + 0.2


def test_encoder_lone_surrogate_is_read_as_replacement_character(encoder: PromptEncoder) -> None:
    """JSON may carry a lone surrogate; it is encoded like U+FFFD, alone and in a batch."""
    expected = encoder.encode(["what is \ufffd this"])[0]
    np.testing.assert_allclose(encoder.encode(["what is \ud800 this"])[0], expected, atol=1e-6)
    np.testing.assert_allclose(encoder.encode(["other", "what is \ud800 this"])[1], expected, atol=1e-6)


def test_encoder_long_text_reads_head_and_tail_and_skips_the_middle(encoder: PromptEncoder) -> None:
    """The middle of a long text is never read; its two ends are."""
    kept = encoder.manifest.window
    head, tail = "alpha beta " * kept.head_characters, " gamma delta" * kept.tail_characters
    base, middle, other_head, other_tail = encoder.encode(
        [head + "one" * 99 + tail, head + "two" * 999 + tail, "omega " + head + tail, head + tail + " omega"]
    )
    np.testing.assert_allclose(base, middle, atol=1e-6)
    assert np.abs(base - other_head).max() > 1e-4
    assert np.abs(base - other_tail).max() > 1e-4


def test_encoder_is_the_same_from_several_threads(encoder: PromptEncoder) -> None:
    """One loaded encoder may be called from several threads at once."""
    expected = encoder.encode(TEXTS[:3])
    with ThreadPoolExecutor(4) as pool:
        results = list(pool.map(lambda _: encoder.encode(TEXTS[:3]), range(12)))
    for result in results:
        np.testing.assert_allclose(result, expected, atol=1e-6)


def test_encoder_id_is_name_and_fingerprint_of_the_content(encoder: PromptEncoder) -> None:
    """The id changes with anything that changes vectors, and with nothing else."""
    manifest = encoder.manifest
    name, _, fingerprint = encoder.encoder_id.partition("@")
    assert name == manifest.name
    assert len(bytes.fromhex(fingerprint)) == 6
    renamed = msgspec.structs.replace(manifest, tools={}, pooling="other words")
    assert renamed.encoder_id == encoder.encoder_id
    for change in ({"head_tokens": 1, "max_tokens": 9}, {"padding_token_id": 7}, {"rows_per_run": 3}):
        assert msgspec.structs.replace(manifest, **change).encoder_id != encoder.encoder_id


def test_encoder_golden_vectors_are_those_recorded(encoder: PromptEncoder) -> None:
    """A shipped encoder still computes what it computed when it was exported."""
    recorded = json.loads((Path(__file__).parent / "encoder_vectors.json").read_text("utf-8"))[encoder.encoder_id]
    for text, numbers in recorded.items():
        np.testing.assert_allclose(encoder.encode([text])[0, : len(numbers)], numbers, atol=GOLDEN_TOLERANCE)


def test_transformer_text_beyond_its_limit_keeps_first_and_last_tokens() -> None:
    """A text of more tokens than the model reads keeps two thirds from its head and one third from its tail."""
    encoder = PromptEncoder.load(bundled_folder("minilm-l6-v2"), device="cpu")
    words = [f"w{number}" for number in range(400)]
    ids = encoder.token_ids(" ".join(words))
    framed = encoder.model_tokens(" ".join(words))
    assert len(ids) > 254
    assert len(framed) == 256
    assert framed == [101, *ids[:169], *ids[-85:], 102]


def test_bundled_models_together_stay_under_34_megabytes() -> None:
    """Everything that travels in the wheel stays small."""
    folder = bundled_folder(NAMES[0]).parent
    assert sum(file.stat().st_size for file in folder.rglob("*") if file.is_file()) <= 34_000_000


def _edit_manifest(**changes: object) -> Callable[[Path], None]:
    def apply(folder: Path) -> None:
        path = folder / "manifest.json"
        path.write_text(json.dumps({**json.loads(path.read_text("utf-8")), **changes}), "utf-8")

    return apply


def _truncate(name: str) -> Callable[[Path], None]:
    return lambda folder: (folder / name).write_bytes((folder / name).read_bytes()[:-1]) and None


def _swap_tokenizer(folder: Path) -> None:
    """Replace the tokenizer by garbage and make the manifest agree."""
    garbage = b'{"version": "1.0"}'
    (folder / "tokenizer.json").write_bytes(garbage)
    files = json.loads((folder / "manifest.json").read_text("utf-8"))["files"]
    _edit_manifest(files={**files, "tokenizer.json": hashlib.sha256(garbage).hexdigest()})(folder)


DAMAGES: dict[str, tuple[str, Callable[[Path], object]]] = {
    "folder missing": ("encoder_missing", shutil.rmtree),
    "graph missing": ("encoder_missing", lambda folder: (folder / "encoder.onnx").unlink()),
    "graph cut": ("encoder_hash_mismatch", _truncate("encoder.onnx")),
    "tokenizer cut": ("encoder_hash_mismatch", _truncate("tokenizer.json")),
    "tokenizer garbage": ("encoder_tokenizer_invalid", _swap_tokenizer),
    "manifest cut": ("encoder_manifest_invalid", lambda folder: (folder / "manifest.json").write_text("{")),
    "manifest no text": ("encoder_manifest_invalid", lambda folder: (folder / "manifest.json").write_bytes(b"\xff")),
    "manifest deep": (
        "encoder_manifest_invalid",
        lambda folder: (folder / "manifest.json").write_text("[" * 200_000),
    ),
    "manifest huge": (
        "encoder_file_too_large",
        lambda folder: (folder / "manifest.json").write_text(" " * (1 << 20) + "{}"),
    ),
    "unknown field": ("encoder_manifest_invalid", _edit_manifest(colour="red")),
    "wrong type": ("encoder_manifest_invalid", _edit_manifest(dimension="256")),
    "boolean for a number": ("encoder_manifest_invalid", _edit_manifest(dimension=True)),
    "future schema": ("encoder_manifest_invalid", _edit_manifest(schema_version=2)),
    "unknown kind": ("encoder_manifest_invalid", _edit_manifest(kind="magic")),
    "other dimension": ("encoder_graph_mismatch", _edit_manifest(dimension=128)),
    "other kind": ("encoder_graph_mismatch", _edit_manifest(kind="transformer")),
    "token beyond the table": ("onnx_run_failed", _edit_manifest(suffix_token_ids=[10_000_000])),
    "file outside": ("encoder_manifest_invalid", _edit_manifest(files={"../../etc/passwd": "0" * 64})),
}


@pytest.mark.parametrize("damage", DAMAGES)
def test_encoder_damaged_folder_is_refused_with_its_code(tmp_path: Path, damage: str) -> None:
    """Any damage to a folder ends in an `EncoderError` with a stable code, before a request meets it."""
    code, apply = DAMAGES[damage]
    folder = tmp_path / "encoder"
    shutil.copytree(bundled_folder("static-minilm-256"), folder)
    apply(folder)
    with pytest.raises(EncoderError) as caught:
        PromptEncoder.load(folder, device="cpu")
    assert caught.value.code == code
    assert str(tmp_path) not in caught.value.message


@pytest.mark.parametrize("name", NAMES)
def test_manifest_written_and_read_is_unchanged(name: str) -> None:
    """The committed manifest is exactly what the exporter writes for its content."""
    raw = (bundled_folder(name) / "manifest.json").read_bytes()
    manifest = parse_manifest(raw)
    assert isinstance(manifest, EncoderManifest)
    assert manifest.to_json() == raw
