"""Which texts an encoder reads to the end: of all others, two that differ may have one vector."""

from __future__ import annotations

import numpy as np
import pytest

from penstock_routers.bundled import bundled_folder
from penstock_routers.encoder import PromptEncoder


@pytest.fixture(scope="module")
def transformer() -> PromptEncoder:
    """The bundled second encoder: 256 tokens."""
    return PromptEncoder.load(bundled_folder("minilm-l6-v2"))


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ("How do I decode " + "x" * 150 + "?", "How do I decode " + "y" * 150 + "?"),
        ("What does \U0001f9ff mean?", "What does \U0001fac0 mean?"),
        ("see " + "a1 " * 300 + "left " + "b " * 200, "see " + "a1 " * 300 + "right " + "b " * 200),
        ("a " * 1_200 + "left" + " b" * 1_200, "a " * 1_200 + "port" + " b" * 1_200),
    ],
    ids=["one long word", "unknown sign", "beyond the tokens", "beyond the window"],
)
def test_encoder_text_with_a_part_that_it_does_not_see_is_not_read_whole(
    transformer: PromptEncoder, one: str, other: str
) -> None:
    """Texts that differ have the same vector, and neither counts as read."""
    vectors = transformer.encode([one, other])
    assert np.array_equal(vectors[0], vectors[1])
    assert not transformer.reads_whole(one)
    assert not transformer.reads_whole(other)


@pytest.mark.parametrize(
    "text",
    ["", "Hi", "How do I reset my password? " * 30, "Wie geht's, Jürgen? 1,5 % of $3 — «ça va»", "가" * 50],
)
def test_encoder_text_that_fits_and_has_known_tokens_is_read_whole(transformer: PromptEncoder, text: str) -> None:
    """Ordinary prompts in signs that the tokeniser knows are read."""
    assert transformer.reads_whole(text)


def test_encoder_without_a_limit_of_tokens_reads_whatever_its_window_takes() -> None:
    """The static encoder takes any number of tokens, up to its window of characters."""
    static = PromptEncoder.load(bundled_folder("static-minilm-256"))
    size = static.manifest.window.head_characters + static.manifest.window.tail_characters
    assert static.reads_whole("ab " * (size // 3))
    assert not static.reads_whole("ab " * size)
