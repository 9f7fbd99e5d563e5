"""Harmless changes to a prompt, under which a sound router keeps its decision.

Owns the changes. Each is deterministic in prompt and seed, and none changes what is asked: where a rule cannot be sure,
it leaves the text alone. Must not look at routers or scores. Read `PERTURBATIONS`.
"""

from __future__ import annotations

import hashlib
import json
import random
import re
from collections.abc import Callable, Mapping
from typing import Final

Perturbation = Callable[[str, random.Random], str]

TYPO_SHARE: Final = 0.06  # of words of four letters and more
_WORD = re.compile(r"[^\W\d_]{4,}")
_SENTENCE = re.compile(r"(?<=[.!?])\s+(?=[A-Z])")
_OPTION = re.compile(r"^\s*\(?[A-E][).:]\s", re.MULTILINE)
_CODE_FENCE = re.compile(r"(```.*?```)", re.DOTALL)

_CONTRACTIONS: Final = {
    "do not": "don't", "does not": "doesn't", "did not": "didn't", "is not": "isn't", "are not": "aren't",
    "was not": "wasn't", "cannot": "can't", "will not": "won't", "would not": "wouldn't", "should not": "shouldn't",
    "it is": "it's", "that is": "that's", "what is": "what's", "who is": "who's", "there is": "there's",
    "i am": "I'm", "i have": "I've", "you are": "you're", "we are": "we're", "they are": "they're", "let us": "let's",
}  # fmt: skip
# Only words with one sense in nearly all questions: "find", "choose" (n choose k), "whole" (numbers) would change some.
_SYNONYMS: Final = {
    "explain": "describe", "calculate": "compute", "write": "compose", "pick": "choose", "begin": "start",
    "begins": "starts", "buy": "purchase", "buys": "purchases", "car": "automobile", "quickly": "rapidly",
    "help": "assist", "because": "since", "important": "significant", "wrong": "incorrect", "several": "various",
    "often": "frequently", "kids": "children", "big": "large", "tell me": "let me know",
}  # fmt: skip


def perturb(name: str, prompt: str, seed: int) -> str:
    """Change a prompt in one of the ways of `PERTURBATIONS`.

    Parameters
    ----------
    name : str
    prompt : str
    seed : int

    Returns
    -------
    str
        The same for the same arguments on every machine; equal to `prompt` where nothing could be changed.

    Raises
    ------
    KeyError
        There is no perturbation of that name.
    """
    digest = hashlib.sha256(f"{name}\0{seed}\0{prompt}".encode("utf-8", "surrogatepass")).digest()
    return PERTURBATIONS[name](prompt, random.Random(int.from_bytes(digest[:8], "big")))


def typos(prompt: str, chance: random.Random) -> str:
    """Swap, drop or double an inner letter in about one of sixteen longer words, outside code fences."""

    def mistype(match: re.Match[str]) -> str:
        word = match.group()
        if chance.random() >= TYPO_SHARE:
            return word
        place = chance.randrange(1, len(word) - 2) if len(word) > 4 else 1
        kind = chance.choice(("swap", "drop", "double"))
        if kind == "swap":
            return word[:place] + word[place + 1] + word[place] + word[place + 2 :]
        return word[:place] + (word[place] * 2 if kind == "double" else "") + word[place + 1 :]

    return _outside_code(prompt, lambda text: _WORD.sub(mistype, text))


def upper_case(prompt: str, _: random.Random) -> str:
    """Write everything in capitals, outside code fences."""
    return _outside_code(prompt, str.upper)


def lower_case(prompt: str, _: random.Random) -> str:
    """Write everything in small letters, outside code fences."""
    return _outside_code(prompt, str.lower)


def title_case(prompt: str, _: random.Random) -> str:
    """Begin every word with a capital, outside code fences."""
    return _outside_code(prompt, lambda text: re.sub(r"\b[a-z]", lambda m: m.group().upper(), text))


def polite_wrapper(prompt: str, _: random.Random) -> str:
    """Put a greeting before it and thanks behind it."""
    return f"Hello! Could you please help me with the following?\n\n{prompt}\n\nThanks a lot in advance!"


def quote_wrapper(prompt: str, _: random.Random) -> str:
    """Set it as a Markdown quotation."""
    return "\n".join(f"> {line}" for line in prompt.split("\n"))


def json_wrapper(prompt: str, _: random.Random) -> str:
    """Set it as a field of a JSON object, as programs do."""
    return json.dumps({"user": "u-1042", "message": prompt, "locale": "en"}, ensure_ascii=False)


def system_prefix(prompt: str, _: random.Random) -> str:
    """Put instructions in front, as frameworks do that have no system message."""
    return f"You are a careful assistant. Answer in the language of the question.\n\n### Request\n{prompt}"


def punctuation(prompt: str, _: random.Random) -> str:
    """Use typographic quotes and dashes, no-break spaces behind commas, and doubled spaces, outside code fences."""

    def rewrite(text: str) -> str:
        text = re.sub(r'"([^"\n]*)"', "\u201c\\1\u201d", text)
        text = re.sub(r"(?<=\w)'(?=\w)", "\u2019", text)
        text = text.replace(" - ", " \u2013 ").replace("...", "\u2026").replace(", ", ",\u00a0")
        return text.replace(". ", ".  ")

    return f"  {_outside_code(prompt, rewrite)}\n\n"


def paraphrase(prompt: str, chance: random.Random) -> str:
    """Contract, use synonyms, and move the question to the front where sentences can be told apart."""

    def rewrite(text: str) -> str:
        for long, short in _CONTRACTIONS.items():
            text = re.sub(rf"\b{long}\b", _with_case(short), text, flags=re.IGNORECASE)
        for word, other in _SYNONYMS.items():
            if chance.random() < 0.8:
                text = re.sub(rf"\b{word}\b", _with_case(other), text, flags=re.IGNORECASE)
        return text

    return _question_first(_outside_code(prompt, rewrite))


PERTURBATIONS: Final[Mapping[str, Perturbation]] = {
    "paraphrase": paraphrase,
    "typos": typos,
    "upper case": upper_case,
    "lower case": lower_case,
    "title case": title_case,
    "polite wrapper": polite_wrapper,
    "quote wrapper": quote_wrapper,
    "JSON wrapper": json_wrapper,
    "system prefix": system_prefix,
    "punctuation": punctuation,
}


def _outside_code(prompt: str, change: Callable[[str], str]) -> str:
    """Change the text between code fences; code would not mean the same."""
    parts = _CODE_FENCE.split(prompt)
    return "".join(part if part.startswith("```") else change(part) for part in parts)


def _with_case(replacement: str) -> Callable[[re.Match[str]], str]:
    """Replace a match and keep its first letter's case; a word in capitals stays."""

    def replace(match: re.Match[str]) -> str:
        found = match.group()
        if found.isupper() and len(found) > 1:  # an acronym or a keyword, not a word
            return found
        return replacement[0].upper() + replacement[1:] if found[0].isupper() else replacement

    return replace


def _question_first(prompt: str) -> str:
    """Move a last sentence that ends in a question mark before the others; not with options, code or several lines."""
    if "\n" in prompt.strip() or _OPTION.search(prompt) or "```" in prompt:
        return prompt
    sentences = _SENTENCE.split(prompt.strip())
    if len(sentences) < 2 or not sentences[-1].endswith("?"):
        return prompt
    return " ".join([sentences[-1], *sentences[:-1]])
