"""The memory of stored prompts: what comes back from its packed form, and what is forgotten when."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from penstock_cache.guards import compare
from penstock_cache.pair_features import pair_features
from penstock_cache.pairs import JudgedText
from penstock_cache.remembered_texts import RememberedTexts

CORPUS = Path(__file__).parents[3] / "cache" / "corpus" / "frozen.jsonl"


def unpacked(text: str) -> JudgedText | None:
    """Return a text that has been packed since it was read."""
    texts = RememberedTexts(3, 1)
    texts.keep("a", text, None)
    texts.keep("b", "Another one", None)
    known = texts.get("a")
    assert known is None or (known.judged is None and known.packed)
    return texts.read("a")


@given(st.text(max_size=80))
def test_text_that_was_packed_is_read_as_it_was(text: str) -> None:
    """Whatever the text holds; one with half of a surrogate pair cannot be packed and is forgotten."""
    found = unpacked(text)
    is_writable = not any("\ud800" <= character <= "\udfff" for character in text)
    assert found == (JudgedText.of(text) if is_writable else None)


def test_prompts_that_were_packed_have_the_features_that_they_had() -> None:
    """Numbers, dates, units, names and identifiers come back as what the guards compare."""
    lines = CORPUS.read_text(encoding="utf-8").splitlines()
    for line in lines:
        asked, text = JudgedText.of(json.loads(line)["a"]).signature, json.loads(line)["b"]
        found = unpacked(text)
        assert found is not None
        rows = [
            pair_features(asked, each.signature, compare(asked, each.signature), cosine=0.8)
            for each in (found, JudgedText.of(text))
        ]
        np.testing.assert_allclose(*rows, rtol=1e-6)  # a sum over a set may take another order


def test_text_that_is_used_again_lies_ready_and_keeps_its_vector() -> None:
    """The packed form is made once; the second vector, which costs most, stays whatever the form."""
    texts, vector = RememberedTexts(4, 2), np.ones(2, dtype=np.float32)
    texts.keep("a", "One text", vector)
    for name in "bc":
        texts.keep(name, f"Text {name}", None)
    known = texts.get("a")
    assert known is not None
    assert known.judged is None
    assert texts.read("a", "One text") is texts.read("a")
    assert texts.get("a") is known
    assert known.verified is vector
    assert [name for name, each in texts._texts.items() if each.judged is not None] == ["c", "a"]


def test_text_of_another_wording_is_not_what_is_remembered() -> None:
    """What is remembered belongs to a text, not to an id."""
    texts = RememberedTexts()
    texts.keep("a", "One text", np.ones(2, dtype=np.float32))
    assert texts.read("a", "Another text") is None
    assert texts.keep("a", "Another text", None).text == "Another text"
    known = texts.get("a")
    assert known is not None
    assert known.verified is None


@given(st.lists(st.tuples(st.sampled_from(["keep", "read", "forget"]), st.integers(0, 9)), max_size=60))
def test_memory_of_texts_stays_within_its_bounds(steps: list[tuple[str, int]]) -> None:
    """Whatever is done in whatever order: what is ready is remembered, and neither is more than it may be."""
    texts = RememberedTexts(5, 2)
    for step, number in steps:
        if step == "keep":
            texts.keep(str(number), f"Text {number}", None)
        elif step == "read":
            texts.read(str(number))
        else:
            texts.forget(str(number))
            assert texts.get(str(number)) is None
        assert len(texts) <= 5
        ready = {name for name, each in texts._texts.items() if each.judged is not None}
        assert ready == set(texts._ready)
        assert len(ready) <= 2
