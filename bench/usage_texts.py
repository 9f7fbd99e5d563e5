"""Texts of many kinds for the bench of token estimates: a passage in sixteen languages, code, tables, project files.

The passages (``usage_passages.json``) were written for this bench. They say the same in every language, how to keep a
kitchen herb alive, so that scripts can be compared. Standard library only.
"""

from __future__ import annotations

import json
import random
import re
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
PIECE_BYTES = 1600
"""About 400 tokens, the size of a longer answer."""

DENSE_KINDS = ("table of numbers", "base64")
"""Kinds of text of which a token holds one or two bytes."""

# Ends of sentences and of longer clauses, in the scripts of the passages.
# Thai has spaces only between clauses.
_SENTENCE_END = re.compile(r"(?<=[.;\u061b\u0387\u0964\u0e00-\u0e7f])\s+|(?<=[\u3002\uff0c])")
_FILES = {
    "prose of the project": ("docs/*.md", "*.md"),
    "python": ("gateway/penstock_gateway/**/*.py", "routers/**/*.py"),
    "yaml and toml": ("examples/**/*.y*ml", "helm/**/*.yaml", "*.toml"),
}


def passages() -> dict[str, str]:
    """Return the passage in each language."""
    content = Path(__file__).with_name("usage_passages.json").read_text(encoding="utf-8")
    return dict(json.loads(content))


def texts_by_kind(*, per_kind: int, seed: int = 7) -> dict[str, list[str]]:
    """Return texts of about the size of an answer, by language or kind.

    Parameters
    ----------
    per_kind : int
        At most so many of each.
    seed : int
        Of the generated tables, and of the choice among files.

    Returns
    -------
    dict of str to list of str
        Languages first: the passage and its sentences.
    """
    rng = random.Random(seed)
    texts = {language: [passage, *_SENTENCE_END.split(passage)] for language, passage in passages().items()}
    for kind, patterns in _FILES.items():
        pieces = [piece for pattern in patterns for path in sorted(ROOT.glob(pattern)) for piece in _pieces(path)]
        texts[kind] = rng.sample(pieces, min(per_kind, len(pieces)))
    texts["json"] = [_json_text(rng) for _ in range(per_kind)]
    texts["table of numbers"] = [_number_table(rng) for _ in range(per_kind)]
    texts["base64"] = [_base64_text(rng) for _ in range(per_kind)]
    return {kind: [text for text in pieces if text] for kind, pieces in texts.items()}


def _pieces(path: Path) -> Iterator[str]:
    text = path.read_text(encoding="utf-8", errors="ignore")
    for start in range(0, len(text) - PIECE_BYTES // 2, PIECE_BYTES):
        yield text[start : start + PIECE_BYTES]


def _json_text(rng: random.Random) -> str:
    rows = [
        {"id": rng.randrange(10**6), "name": rng.choice(["pump", "valve", "gauge"]), "is_open": rng.random() < 0.5}
        for _ in range(20)
    ]
    return json.dumps({"rows": rows, "next": None}, indent=2)


def _number_table(rng: random.Random) -> str:
    return "\n".join(",".join(f"{rng.gauss(0, 1000):.3f}" for _ in range(6)) for _ in range(25))


def _base64_text(rng: random.Random) -> str:
    alphabet = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/"
    return "".join(rng.choice(alphabet) for _ in range(1000))
