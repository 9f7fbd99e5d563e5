"""The shortcut past the tokenizer: the same tokens, and when it is not taken."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tokenizers import Tokenizer

from penstock_routers.bundled import DEFAULT_ENCODER, bundled_folder
from penstock_routers.prompt_tokenizer import PromptTokenizer

DESCRIPTION = (bundled_folder(DEFAULT_ENCODER) / "tokenizer.json").read_text()
PIECES = (
    "the", "The", "TRAIN", "don't", "U.S.", "3.14", "x=y**2;", "naïve", "\u201cquoted\u201d", "don\u2019t", "[SEP]",
    "[sep]", "##ing", "antidisestablishmentarianism", "qzxv", "q" * 100, "q" * 101, "中文", "한글", "\x0b", "\x0c",
    "\x1c", "\x00", "\x7f", "\x85", "\u00a0", "\u2028", "\u200b", "e\u0301", "\u0301", "\ufffd", "\u0130", "\u017f",
    "\u212a", "🙂", "\ud800", "\r\n", "\t",
)  # fmt: skip


@pytest.fixture(scope="module")
def tokenizer() -> PromptTokenizer:
    """The one of the shipped encoders."""
    return PromptTokenizer(Tokenizer.from_str(DESCRIPTION))


@given(st.lists(st.one_of(st.sampled_from(PIECES), st.text(alphabet=st.characters(exclude_categories=[]), max_size=6))))
def test_prompt_tokenizer_any_text_gives_the_tokenizers_tokens(tokenizer: PromptTokenizer, pieces: list[str]) -> None:
    """Whatever the text, run together or parted by blanks, the tokens are those of the tokenizer itself."""
    for text in ("".join(pieces), " ".join(pieces), "\n".join(pieces)):
        assert tokenizer.ids(text) == tokenizer.asked(text)


@pytest.mark.parametrize("sign", ["\x00", "\x0b", "\x0c", "\x1c", "\x1f", "\x7f"])
def test_prompt_tokenizer_control_characters_are_left_to_the_tokenizer(tokenizer: PromptTokenizer, sign: str) -> None:
    """The tokenizer drops them and joins what they part, so no word beside one may be looked up."""
    for text in (
        f"the train was{sign}late today",
        f"the train {sign} was late today",
        f"the train was late today{sign}",
    ):
        assert tokenizer.ids(text) == tokenizer.asked(text)


def test_prompt_tokenizer_known_words_do_not_reach_the_tokenizer(monkeypatch: pytest.MonkeyPatch) -> None:
    """Words of the vocabulary, capitals and punctuation included, are looked up and nothing else."""
    tokenizer = PromptTokenizer(Tokenizer.from_str(DESCRIPTION))
    text = "What is the capital of Peru?\nAnd (by the way) of France: 2 + 2 = 4!"
    wanted = tokenizer.asked(text)
    monkeypatch.setattr(tokenizer, "asked", lambda _: pytest.fail("the tokenizer was asked"))
    assert tokenizer.has_shortcut
    assert tokenizer.ids(text) == wanted


def test_prompt_tokenizer_rare_ascii_words_do_not_reach_the_tokenizer(monkeypatch: pytest.MonkeyPatch) -> None:
    """A number or a name that is no word of the vocabulary is cut here: a call costs what 50 words do."""
    tokenizer = PromptTokenizer(Tokenizer.from_str(DESCRIPTION))
    text = f"the qzxv train 0001234567 was late in case x1y2z3 of {'q' * 100} and {'q' * 101} and it all, too"
    wanted = tokenizer.asked(text)
    monkeypatch.setattr(tokenizer, "asked", lambda _: pytest.fail("the tokenizer was asked"))
    assert tokenizer.ids(text) == wanted


@given(st.lists(st.text(alphabet="abcdefghijklmnopqrstuvwxyz0123456789", min_size=1, max_size=24), max_size=4))
def test_prompt_tokenizer_rare_ascii_words_are_cut_as_the_tokenizer_does(
    tokenizer: PromptTokenizer, words: list[str]
) -> None:
    """Made-up words among enough known ones get the tokenizer's own pieces."""
    text = "the train was late and so it was that " + " the ".join(words)
    assert tokenizer.ids(text) == tokenizer.asked(text)


def test_prompt_tokenizer_text_of_rare_words_alone_does_not_reach_the_tokenizer(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Eight thousand letters without sense took the tokenizer 27 ms, on the event loop."""
    tokenizer = PromptTokenizer(Tokenizer.from_str(DESCRIPTION))
    text = " ".join(["q" * 100, "zxqj" * 25, "0123456789abcdef" * 6] * 27)
    wanted = tokenizer.asked(text)
    monkeypatch.setattr(tokenizer, "asked", lambda _: pytest.fail("the tokenizer was asked"))
    assert tokenizer.ids(text) == wanted


def test_prompt_tokenizer_words_without_a_piece_are_unknown() -> None:
    """A word of which some part is in no vocabulary is one unknown token, as a whole."""
    described = json.loads(DESCRIPTION)
    vocabulary = described["model"]["vocab"]
    described["model"]["vocab"] = {word: n for word, n in vocabulary.items() if word not in ("z", "##z")}
    tokenizer = PromptTokenizer(Tokenizer.from_str(json.dumps(described)))
    for word in ("qz", "zq", "qzq", "x9z"):
        text = f"the train was {word} late"
        assert tokenizer.unknown_token_id in tokenizer.ids(text)
        assert tokenizer.ids(text) == tokenizer.asked(text)


def test_prompt_tokenizer_words_outside_ascii_are_asked_for_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """All of them cost one call, each of them once, and their order is kept."""
    tokenizer = PromptTokenizer(Tokenizer.from_str(DESCRIPTION))
    text = "the café train was naïve about the café and the wqrt of it all, too"
    wanted, asked, calls = tokenizer.asked(text), tokenizer.asked, []
    monkeypatch.setattr(tokenizer, "asked", lambda words: calls.append(words) or asked(words))
    assert tokenizer.ids(text) == wanted
    assert len(calls) == 1
    assert calls[0].count("café") == 1


def test_prompt_tokenizer_keeps_nothing_of_what_it_read(tokenizer: PromptTokenizer) -> None:
    """The table is the vocabulary's: a word that one tenant sends is no quicker for the next."""
    before = dict(tokenizer._words), dict(tokenizer._inner)
    tokenizer.ids("the train to qzxvwq was late and the people of qzxvwq were cross about it")
    assert (tokenizer._words, tokenizer._inner) == before


@pytest.mark.parametrize(
    "change",
    [
        {"normalizer": {"type": "BertNormalizer", "clean_text": True, "handle_chinese_chars": True,
                        "strip_accents": None, "lowercase": False}},
        {"normalizer": None},
        {"pre_tokenizer": {"type": "Whitespace"}},
        {"added_tokens": [{"id": 0, "content": "the train", "single_word": False, "lstrip": False, "rstrip": False,
                           "normalized": True, "special": False}]},
        {"added_tokens": []},
    ],
)  # fmt: skip
def test_prompt_tokenizer_of_another_kind_is_always_asked(change: dict[str, Any]) -> None:
    """Where parting into words follows other rules, there is no table."""
    tokenizer = PromptTokenizer(Tokenizer.from_str(json.dumps(json.loads(DESCRIPTION) | change)))
    assert not tokenizer.has_shortcut
    assert tokenizer.ids("The Train was late") == tokenizer.asked("The Train was late")


def test_prompt_tokenizer_batch_gives_the_tokens_of_each(tokenizer: PromptTokenizer) -> None:
    """Many texts at once get what each gets alone, with and without the table."""
    texts = ["the train", "", "qzxv wqrt", "naïve \ud800"]
    plain = PromptTokenizer(Tokenizer.from_str(json.dumps(json.loads(DESCRIPTION) | {"added_tokens": []})))
    assert tokenizer.batch(texts) == [tokenizer.asked(text) for text in texts]
    assert plain.batch(texts) == [plain.asked(text) for text in texts]
