"""Texts to token ids: ASCII words by the vocabulary itself, the rest by the tokenizer.

Owns the shortcut past a tokenizer of BERT's kind and the rule when it may be taken. It gives the ids that the tokenizer
gives, always; where that cannot be known from the tokenizer's own description, every text goes to the tokenizer. It
knows no windows, limits or special tokens around a text. Read `PromptTokenizer.ids`.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Sequence
from typing import Any, Final, cast

from tokenizers import Tokenizer

from penstock_routers.text import repaired

_WORD: Final = re.compile(r"[a-z0-9]+|[^ \t\n\ra-z0-9]")
"""Words and single signs of a lower-case ASCII text; only these four characters separate without being removed."""
_CHUNK: Final = re.compile(r"[^ \t\n\r]+")
_PLAIN_WORD: Final = re.compile(r"[a-z0-9]+|[!-/:-@\[-`{-~]")
"""What may be looked up: control characters are not in it, since the tokenizer drops them and joins what they part."""
_NORMALISER: Final[dict[str, Any]] = {"type": "BertNormalizer", "clean_text": True, "lowercase": True}
_PLAIN_TOKEN: Final = {"normalized": False, "single_word": False, "lstrip": False, "rstrip": False}
_CONTROL: Final = frozenset(map(chr, (*range(32), 127)))
_MAX_ASKED_SHARE: Final = 0.5
"""Above this share of words outside ASCII the whole text goes to the tokenizer."""


class PromptTokenizer:
    """A tokenizer and, where it is of BERT's kind, its vocabulary; safe to use from several threads.

    Parameters
    ----------
    tokenizer : tokenizers.Tokenizer
        Without padding and truncation.

    Notes
    -----
    BERT's tokenizer lowers case, parts words at blanks and at every punctuation mark, and takes the longest piece of
    the vocabulary that a word begins with; so a word that is in the vocabulary is one token, whatever stands around it,
    and another ASCII word is cut here as the tokenizer would. The tables never change: a word is cut anew every time,
    because a memory of it would tell by its speed which rare words others have sent. A text with one of the tokenizer's
    added tokens in it (``[SEP]``) goes to the tokenizer, as does one with control characters. Words with letters
    outside ASCII are asked for together, since accents are stripped by rules of Unicode.
    """

    def __init__(self, tokenizer: Tokenizer) -> None:
        self._tokenizer = tokenizer
        unknown = getattr(tokenizer.model, "unk_token", None)
        self.unknown_token_id: int | None = None if unknown is None else tokenizer.token_to_id(unknown)
        self._words, self._inner, self._added, self._longest = _vocabulary(tokenizer)
        self._reach = _longest_by_start(self._words), _longest_by_start(self._inner)
        self._separator = next((token for token in self._added if token != unknown), "")
        self._separator_id: int | None = tokenizer.token_to_id(self._separator) if self._separator else None
        if self._separator_id is None or self.unknown_token_id is None:
            self._words = {}

    @property
    def has_shortcut(self) -> bool:
        """Whether whole words are looked up."""
        return bool(self._words)

    def ids(self, text: str) -> list[int]:
        """Return the tokens of a text, without special tokens.

        Parameters
        ----------
        text : str
            Any Unicode; lone surrogates count as U+FFFD.

        Returns
        -------
        list of int

        Notes
        -----
        About 0.1 µs a word and 2 µs for one that is cut, against 1.5 µs a word and 10 µs for any call.
        """
        if self._words and not any(token in text for token in self._added):
            ids = self._looked_up(text)
            if ids is not None:
                return ids
        return self.asked(text)

    def batch(self, texts: Sequence[str]) -> list[list[int]]:
        """Return the tokens of many texts; several threads of the tokenizer where there is no shortcut."""
        if self._words:
            return [self.ids(text) for text in texts]
        try:
            return [found.ids for found in self._tokenizer.encode_batch_fast(list(texts), add_special_tokens=False)]
        except TypeError:  # one text with a lone surrogate spoils the batch; the single path repairs it
            return [self.asked(text) for text in texts]

    def asked(self, text: str) -> list[int]:
        """Return the tokens as the tokenizer itself gives them; a batch of one leaves out the offsets (-20 %)."""
        try:
            (found,) = self._tokenizer.encode_batch_fast([text], add_special_tokens=False)
        except TypeError:  # how the tokenizer refuses a lone surrogate
            (found,) = self._tokenizer.encode_batch_fast([repaired(text)], add_special_tokens=False)
        return list(found.ids)

    def _looked_up(self, text: str) -> list[int] | None:
        """Tokens by the table; None where the tokenizer must read the whole text."""
        words = _WORD.findall(text.lower()) if text.isascii() else _mixed_words(text)
        ids = list(map(self._words.get, words))
        missing = ids.count(None)
        if not missing:
            return cast(list[int], ids)
        pieces: dict[str, list[int]] = {}
        if not text.isascii():
            others = [word for word in words if not word.isascii()]
            if len(others) > _MAX_ASKED_SHARE * len(words):
                return None
            pieces = self._asked_pieces(list(dict.fromkeys(others))) if others else {}
        whole: list[Any] = []
        start = 0
        for _ in range(missing):
            place = ids.index(None, start)
            word = words[place]
            if word in _CONTROL:
                return None
            whole += ids[start:place]
            whole += pieces[word] if word in pieces else self._cut(word)
            start = place + 1
        return whole + ids[start:]

    def _cut(self, word: str) -> list[int]:
        """Take the longest piece that the rest begins with until nothing is left; an unknown token if there is none."""
        pieces: list[int] = []
        size, start, table = len(word), 0, self._words
        reach, inner_reach = self._reach
        unknown = [cast(int, self.unknown_token_id)]
        if size > self._longest:
            return unknown
        while start < size:
            for end in range(min(size, start + reach.get(word[start : start + 2], 1)), start, -1):
                found = table.get(word[start:end])
                if found is not None:
                    break
            else:
                return unknown
            pieces.append(found)
            start, table, reach = end, self._inner, inner_reach
        return pieces

    def _asked_pieces(self, words: list[str]) -> dict[str, list[int]]:
        """Part the words by a token that no text contains: each of them may be several words, or none."""
        pieces: list[list[int]] = [[]]
        for token in self.asked(f" {self._separator} ".join(words)):
            if token == self._separator_id:
                pieces.append([])
            else:
                pieces[-1].append(token)
        return dict(zip(words, pieces, strict=True))


def _longest_by_start(pieces: Iterable[str]) -> dict[str, int]:
    """How long the longest piece is that begins with two characters."""
    found: dict[str, int] = {}
    for piece in pieces:
        found[piece[:2]] = max(len(piece), found.get(piece[:2], 0))
    return found


def _mixed_words(text: str) -> list[str]:
    """Words as `_WORD` finds them, and whole chunks between blanks where a letter is outside ASCII."""
    words: list[str] = []
    for chunk in _CHUNK.findall(text):
        if chunk.isascii():
            words += _WORD.findall(chunk.lower())
        else:
            words.append(chunk)
    return words


def _vocabulary(tokenizer: Tokenizer) -> tuple[dict[str, int], dict[str, int], tuple[str, ...], int]:
    """Return words that are one token each, pieces inside words, added tokens, and how many characters a word may have.

    Nothing if it is not of BERT's kind.
    """
    described = json.loads(tokenizer.to_str())
    model, normaliser, parting = described["model"], described["normalizer"], described["pre_tokenizer"]
    added = described["added_tokens"]
    is_bert = (
        model["type"] == "WordPiece"
        and parting == {"type": "BertPreTokenizer"}
        and normaliser is not None
        and normaliser.items() >= _NORMALISER.items()
        and all(token.items() >= _PLAIN_TOKEN.items() for token in added)
    )
    if not is_bert:
        return {}, {}, (), 0
    prefix, longest = model["continuing_subword_prefix"], model["max_input_chars_per_word"]
    vocabulary: dict[str, int] = model["vocab"]
    words = {word: n for word, n in vocabulary.items() if _PLAIN_WORD.fullmatch(word) and len(word) <= longest}
    inner = {word[len(prefix) :]: n for word, n in vocabulary.items() if word.startswith(prefix)}
    inner.pop("", None)
    return words, inner, tuple(token["content"] for token in added), longest
