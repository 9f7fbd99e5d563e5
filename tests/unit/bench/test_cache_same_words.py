"""Which pairs of a set the bench of the cache's quality takes for the same words: its measure of wrong labels."""

from __future__ import annotations

import importlib
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest

from penstock_training.cache_rule.pair_table import EncodedTexts, pair_table
from penstock_training.cache_rule.texts import TextSet

TEXTS = (
    "Turn on the lights",
    "turn on lights, please",
    "could you turn on the lights?",
    "Turn off the lights",
    "lights",
    "the lights",
    "What is 4.5% of 54?",
    "What is 5.4% of 54?",
    "From 10 to 20",
    "From 20 to 10",
)


@pytest.fixture
def rules(repository_root: Path, monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    """The bench's rules; their neighbours are found as they are when it runs."""
    monkeypatch.syspath_prepend(str(repository_root / "bench"))
    return importlib.import_module("cache_rules")


def test_same_words_world_joins_courtesies_and_nothing_that_means_something(rules: ModuleType) -> None:
    """Articles and courtesies do not count; numbers, order and any other word do, and a single word says too little."""
    count = len(TEXTS)
    texts = TextSet("made up", TEXTS, np.arange(count), ("general",) * count, np.arange(count), "0")
    near = np.full((count, count), 0.5, dtype=np.float32) + 0.5 * np.eye(count, dtype=np.float32)
    table = pair_table(EncodedTexts(texts, near / np.linalg.norm(near, axis=1, keepdims=True), near), min_cosine=0.45)
    scores = rules.same_words_world(table).scores
    joined = {
        tuple(sorted((row, int(table.neighbours[row, column])))) for row, column in np.argwhere(np.isfinite(scores))
    }
    assert joined == {(0, 1), (0, 2), (1, 2)}
