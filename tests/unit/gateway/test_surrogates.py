"""Halves of surrogate pairs are found among all that looks like them."""

from __future__ import annotations

import json

import pytest

from penstock_gateway.surrogates import without_halves

MARK = "\N{REPLACEMENT CHARACTER}".encode()


@pytest.mark.parametrize(
    ("text", "mended"),
    [
        (rb'"a\ud83d"', b'"a' + MARK + b'"'),
        (rb'"\uDE00\ud83d"', b'"' + MARK * 2 + b'"'),
        (rb'"\ud83d\ud83d\ude00"', b'"' + MARK + rb'\ud83d\ude00"'),
        (rb'"\ud83d\n\ude00"', b'"' + MARK + rb"\n" + MARK + b'"'),
        (rb'"\\\ud83d"', rb'"\\' + MARK + b'"'),
    ],
)
def test_half_of_a_pair_is_replaced_wherever_it_stands(text: bytes, mended: bytes) -> None:
    """Each half is one character, and what is left is JSON."""
    assert without_halves(text) == mended
    json.loads(mended)


@pytest.mark.parametrize(
    "text", [b'"plain"', rb'"\ud83d\ude00"', rb'"\\ud83d"', rb'"\u00e9\uD7FF\ue000"', rb'"\ud8"', b"", b"\\", rb"\ud83"]
)
def test_text_without_half_a_pair_is_the_very_same(text: bytes) -> None:
    """Pairs, quoted escapes, other characters and what is no escape stay; callers compare by identity."""
    assert without_halves(text) is text
