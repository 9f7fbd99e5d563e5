"""Which language a prompt seems to be written in, well enough to say "several languages" before money is spent.

Owns a rule of thumb: the script of the letters, and for Latin script the most frequent function words. Must not be used
to decide anything. Read `guess_language`.
"""

from __future__ import annotations

import re
import unicodedata
from collections import Counter
from typing import Final

MIN_FUNCTION_WORDS: Final = 2  # one alone occurs in other languages too ("die", "in", "a")
_LETTERS_READ: Final = 2_000
_WORD = re.compile(r"[^\W\d_]+")
# The most frequent function words of each language; words that two of them share decide nothing and are left out.
_FREQUENT: Final = {
    "en": "the of and is to what how which with from are this that for be",
    "de": "der und das ist nicht ein eine wie mit zu auf für den sich wird ich",
    "fr": "le les des est et une dans pour que qui sur du pas avec ce",
    "es": "el los las una por del con para como cuál está pero qué cómo y",
    "it": "il gli che della nel sono per di è alla come quale perché questo",
    "pt": "os uma não são com em ao pelo você isso qual mais dos",
    "nl": "het een van voor niet zijn met hoe dat wat op aan worden naar",
}
_FUNCTION_WORDS: Final = {code: frozenset(words.split()) for code, words in _FREQUENT.items()}
_SCRIPTS: Final = {"CJK": "Han", "HIRAGANA": "Japanese", "KATAKANA": "Japanese", "HANGUL": "Korean"}


def guess_language(text: str) -> str:
    """Guess the language of a text.

    Parameters
    ----------
    text : str
        Its first 2,000 characters are looked at.

    Returns
    -------
    str
        A two-letter code (``en``, ``de``, ``fr``, ``es``, ``it``, ``pt``, ``nl``) for Latin script, the name of the
        script for any other (``Cyrillic``, ``Han``, ``Japanese``), or "" when nothing speaks for one: code, formulas,
        a few words.

    Examples
    --------
    >>> guess_language("What is the boiling point of water?")
    'en'
    >>> guess_language("Wie hoch ist der Siedepunkt und warum?")
    'de'
    >>> guess_language("Почему море солёное?")
    'Cyrillic'
    """
    shown = text[:_LETTERS_READ]
    letters = [character for character in shown if character.isalpha()]
    scripts = Counter(_script(character) for character in letters if ord(character) > 127)
    foreign = {name: count for name, count in scripts.items() if name != "Latin"}
    if foreign and sum(foreign.values()) > len(letters) / 2:
        if "Japanese" in foreign:  # Japanese mixes Han characters with its own
            return "Japanese"
        return max(foreign, key=lambda name: (foreign[name], name))
    words = Counter(_WORD.findall(shown.casefold()))
    found = {code: sum(words[word] for word in known) for code, known in _FUNCTION_WORDS.items()}
    best = max(found, key=lambda code: (found[code], code == "en"))
    return best if found[best] >= MIN_FUNCTION_WORDS else ""


def _script(letter: str) -> str:
    word = unicodedata.name(letter, "UNKNOWN").split()[0].split("-")[0]
    return _SCRIPTS.get(word, word.capitalize())
