"""Text windows."""

from __future__ import annotations

import pytest

from penstock_routers.text import TextWindow, repaired, window


@pytest.mark.parametrize("length", [0, 1, 6, 7])
def test_window_text_within_both_ends_is_returned_unchanged(length: int) -> None:
    """A text that fits into head and tail together is not touched."""
    text = "abcdefg"[:length]
    assert window(text, TextWindow(4, 3)) == text


def test_window_long_text_keeps_head_and_tail() -> None:
    """A longer text becomes its head, a line break, its tail."""
    assert window("0123456789", TextWindow(3, 2)) == "012\n89"


def test_window_without_tail_keeps_the_head_alone() -> None:
    """A tail of zero characters is empty; it is not the whole text, as a slice from -0 would be."""
    assert window("0123456789", TextWindow(3, 0)) == "012\n"


def test_window_without_head_keeps_the_tail_alone() -> None:
    """A head of zero characters is empty."""
    assert window("0123456789", TextWindow(0, 2)) == "\n89"


def test_window_of_four_byte_characters_stays_valid_utf8() -> None:
    """Sizes count code points, so a cut never falls inside a UTF-8 sequence."""
    cut = window("🜁" * 50, TextWindow(7, 5))
    assert cut.encode().decode() == "🜁" * 7 + "\n" + "🜁" * 5


@pytest.mark.parametrize(("head", "tail"), [(-1, 4), (4, -1), (0, 0)])
def test_text_window_with_impossible_sizes_is_refused(head: int, tail: int) -> None:
    """Sizes are not negative and not both zero."""
    with pytest.raises(ValueError, match="window"):
        TextWindow(head, tail)


def test_repaired_lone_surrogates_become_replacement_characters() -> None:
    """Each lone surrogate becomes U+FFFD and a proper pair stays what it means."""
    assert repaired("a\ud800b\udfff") == "a\ufffdb\ufffd"
    assert repaired("plain 🜁") == "plain 🜁"
