"""Generated questions with near-misses and other wordings, and vectors for them that need no encoder.

Read `question_quads`.
"""

from __future__ import annotations

import json
from itertools import product
from pathlib import Path

import numpy as np

from penstock_training.cache_rule.pair_table import EncodedTexts, Float32Array
from penstock_training.cache_rule.texts import TextSet, read_texts

_ACTIONS = ("install", "remove", "rename", "archive", "export", "import", "encrypt", "print")
_THINGS = (
    "photo", "report", "calendar", "keyboard", "printer", "invoice", "playlist", "backup", "contract", "map",
    "recipe", "ticket", "contact", "drawing", "mailbox", "password", "theme", "widget", "folder", "notebook",
    "poster", "banner", "receipt", "diagram", "slide",
)  # fmt: skip
_PLACES = (
    "at home", "on my phone", "in the office", "on the train", "with the old tablet", "for a friend", "at school",
    "in the browser", "on a laptop", "from the car",
)  # fmt: skip
_WORDINGS = ("How do I {}?", "What is the way to {}?", "please explain how to {}", "how can I {}", "Show me how to {}")


def question_quads(count: int, seed: int = 0, *, lookalikes: int = 0) -> list[dict[str, str]]:
    """Return at most 250 quads: two wordings of one question, and two of another that differs in one word.

    No two quads ask about the same thing in the same place. In so many of them, `lookalikes`, no word tells the two
    questions apart: only vectors can.
    """
    random = np.random.default_rng(seed)
    subjects = list(product(_THINGS, _PLACES))
    quads = []
    for made, number in enumerate(random.permutation(len(subjects))[:count].tolist()):
        thing, place = subjects[number]
        action, other = (_ACTIONS[each] for each in random.permutation(len(_ACTIONS))[:2].tolist())
        other = action if made < lookalikes else other
        wordings = [_WORDINGS[each] for each in random.permutation(len(_WORDINGS))[:4].tolist()]
        doing = [f"{each} a {thing} {place}" for each in (action, action, other, other)]
        texts = [wording.format(what) for wording, what in zip(wordings, doing, strict=True)]
        quads.append(dict(zip(("a", "a2", "b", "b2"), texts, strict=True)) | {"category": "faq"})
    return [quads[number] for number in random.permutation(len(quads)).tolist()]


def write_json_rows(path: Path, rows: list[dict[str, str]]) -> Path:
    """Write rows as JSON lines."""
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return path


def question_texts(folder: Path, count: int, seed: int = 0, *, lookalikes: int = 0) -> TextSet:
    """Return generated quads as a set of texts."""
    quads = question_quads(count, seed, lookalikes=lookalikes)
    return read_texts([write_json_rows(folder / f"questions{seed}.jsonl", quads)])


def made_up_vectors(texts: TextSet, seed: int = 0) -> EncodedTexts:
    """Return vectors by which a block's texts are near each other, and those of one group a little nearer.

    The second encoder tells groups apart better than the first one, as in life.
    """
    random = np.random.default_rng(seed)

    def mixed(group_share: float, noise: float) -> Float32Array:
        blocks, groups = (random.normal(size=(int(ids.max()) + 1, 32)) for ids in (texts.blocks, texts.groups))
        own = random.normal(size=(len(texts), 32))
        vectors = blocks[texts.blocks] + group_share * groups[texts.groups] + noise * own
        return (vectors / np.linalg.norm(vectors, axis=1, keepdims=True)).astype(np.float32)

    return EncodedTexts(texts, mixed(0.3, 0.4), mixed(0.7, 0.3))
