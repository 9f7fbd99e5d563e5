"""The sets of texts that the cache benches stream, with their vectors.

Owns where the sets lie, how large a part of each is used, and a folder of computed vectors. Read `load_encoded`.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from data_folder import data_folder
from numpy.typing import NDArray

from penstock_routers.bundled import DEFAULT_ENCODER, PARAPHRASE_ENCODER, bundled_folder
from penstock_routers.encoder import PromptEncoder
from penstock_training.cache_rule.pair_table import EncodedTexts
from penstock_training.cache_rule.texts import TextSet, read_texts

ROOT = Path(__file__).resolve().parents[1]
CORPUS = ROOT / "cache" / "corpus"
VECTORS = ROOT / ".bench" / "cache_vectors"
Float32Array = NDArray[np.float32]


@dataclass(frozen=True)
class SourceSet:
    """One set.

    Attributes
    ----------
    files : callable
        Returns its files.
    is_strict : bool
        A group is one question in several wordings, not one intent.
    may_fit : bool
        Its licence allows numbers derived from it to be shipped.
    licence : str
    max_texts : int
        Of whole groups drawn with a fixed seed; bounds the time of the bench.
    """

    files: Callable[[], list[Path]]
    is_strict: bool
    may_fit: bool
    licence: str
    max_texts: int


def _shared(name: str) -> Callable[[], list[Path]]:
    return lambda: [data_folder() / "cache" / f"{name}.jsonl.gz"]


SETS = {
    "own corpus": SourceSet(lambda: sorted(CORPUS.glob("*.jsonl")), True, True, "Apache-2.0", 100_000),
    "hwu64": SourceSet(_shared("hwu64_slots"), True, True, "CC BY 4.0", 100_000),
    "qqp": SourceSet(_shared("qqp_groups_dev"), True, False, "Quora terms, measured only", 12_000),
    "arena_hard": SourceSet(_shared("arena_hard_unique"), True, False, "Apache-2.0", 100_000),
    "clinc150": SourceSet(_shared("clinc150"), False, False, "CC BY 3.0", 4_000),
    "banking77": SourceSet(_shared("banking77"), False, False, "CC BY 4.0", 4_000),
}


def is_available(name: str) -> bool:
    """Whether a set's files are there."""
    files = SETS[name].files()
    return bool(files) and all(path.is_file() for path in files)


def load_set(name: str, *, max_texts: int | None = None) -> TextSet:
    """Read a set, or a part: whole groups of the strict sets, texts of the others, whose groups are large."""
    texts = read_texts(SETS[name].files(), name=name)
    limit = min(max_texts or SETS[name].max_texts, SETS[name].max_texts)
    if len(texts) <= limit:
        return texts
    draws = np.random.default_rng(0)
    if not SETS[name].is_strict:
        return texts.part(np.sort(draws.permutation(len(texts))[:limit]))
    blocks = draws.permutation(int(texts.blocks.max()) + 1)
    sizes = np.bincount(texts.blocks)[blocks]
    kept = blocks[: int(np.searchsorted(np.cumsum(sizes), limit, side="right"))]
    return texts.part(np.flatnonzero(np.isin(texts.blocks, kept)))


def load_encoded(name: str, *, max_texts: int | None = None) -> EncodedTexts:
    """Read a set and embed it; vectors are kept in ``.bench`` for the next run."""
    texts = load_set(name, max_texts=max_texts)
    search, verify = (kept_vectors(texts.texts, name) for name in (DEFAULT_ENCODER, PARAPHRASE_ENCODER))
    return EncodedTexts(texts, search, verify)


def kept_vectors(texts: Sequence[str], encoder_name: str) -> Float32Array:
    """Embed texts by a bundled encoder, (n, d); the vectors are kept in ``.bench`` for the next run."""
    content = "\0".join(texts).encode("utf-8", "replace")
    key = hashlib.sha256(encoder_name.encode() + content).hexdigest()[:24]
    path = VECTORS / f"{key}.npy"
    if path.is_file():
        return np.load(path, allow_pickle=False).astype(np.float32)
    encoder = PromptEncoder.load(bundled_folder(encoder_name), device="auto")
    order = sorted(range(len(texts)), key=lambda row: len(texts[row]))
    parts = [encoder.encode([texts[row] for row in order[at : at + 64]]) for at in range(0, len(order), 64)]
    vectors = np.empty((len(texts), parts[0].shape[1]), dtype=np.float16)
    vectors[order] = np.concatenate(parts)
    VECTORS.mkdir(parents=True, exist_ok=True)
    np.save(path, vectors, allow_pickle=False)
    return vectors.astype(np.float32)
