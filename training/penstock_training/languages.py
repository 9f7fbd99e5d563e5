"""Which language a prompt is in, told by its script and, among Latin scripts, by its commonest small words.

Owns a rough guess for reports. Must not decide anything about a request. Read `language_of`.
"""

from __future__ import annotations

import re
import unicodedata
from collections import Counter
from collections.abc import Mapping
from typing import Final

UNKNOWN: Final = "unknown"
_SAMPLE_CHARACTERS: Final = 2_000  # the beginning tells enough, and prompts can be a megabyte
_MIN_LETTERS: Final = 12
_MIN_SMALL_WORDS: Final = 2
_LEAD_OVER_ENGLISH: Final = 2  # names and formulas hold single words of other languages
_WORD: Final = re.compile(r"[^\W\d_]+")
# First word of a letter's Unicode name, where that word names a script rather than a language of many.
_SCRIPTS: Final[Mapping[str, str]] = {
    "LATIN": "latin",
    "CYRILLIC": "cyrillic",
    "ARABIC": "arabic",
    "HEBREW": "he",
    "GREEK": "greek",
    "CJK": "zh",
    "HIRAGANA": "ja",
    "KATAKANA": "ja",
    "HANGUL": "ko",
    "THAI": "th",
    "DEVANAGARI": "hi",
    "BENGALI": "bn",
    "TAMIL": "ta",
    "TELUGU": "te",
    "GEORGIAN": "ka",
    "ARMENIAN": "hy",
}
# Articles, prepositions, pronouns and forms of "to be": words of any topic. Each list was written for this file; a word
# that several of the languages share tells little and is left out where possible.
_WRITTEN_WORDS: Final[Mapping[str, str]] = {
    "en": (
        "the of and to is that it for was with as are this be at by from have or an not what which you were "
        "can if will how there their has when who your each write find following does would than been its"
    ),
    "de": (
        "der die das und ist nicht ein eine einen einem einer den dem des mit für auf von zu im ich du sie "
        "wir wie was werden wird sind war auch oder bitte kann aus bei nach über schreibe"
    ),
    "fr": (
        "le la les des et est une un du que qui dans pour pas sur avec au aux ce cette vous nous je il elle "
        "sont par plus comment quel quelle mon votre être écris"
    ),
    "es": (
        "el la los las de y es una un que en por para con no se del al como más su lo este esta cómo qué son "
        "está mi puedo escribe cuál"
    ),
    "it": (
        "il lo la gli le di e è un una che in per con non si del della dei sono come più questo questa cosa "
        "mi nel alla scrivi quale"
    ),
    "pt": (
        "o a os as de e é um uma que em por para com não se do da dos das como mais seu sua este esta são "
        "está meu você escreva qual"
    ),
    "nl": (
        "de het een en van is niet dat in te op voor met zijn er aan om ook als maar ik je wij wat hoe wordt "
        "naar bij deze schrijf kan"
    ),
    "pl": "i w na z do nie się jest to że jak co dla od czy przez są po ten ta napisz",
    "tr": "ve bir bu için ile da de ne değil olan çok gibi mi daha en olarak var",
    "id": "yang dan di untuk dengan ini itu tidak dari adalah pada ke dalam apa bagaimana saya",
}
_SMALL_WORDS: Final = {code: frozenset(words.split()) for code, words in _WRITTEN_WORDS.items()}


def language_of(text: str) -> str:
    """Guess the language of a text.

    Parameters
    ----------
    text : str
        Any length; the first 2,000 characters are looked at.

    Returns
    -------
    str
        A two-letter code; ``cyrillic``, ``arabic``, ``greek`` or ``other`` where only the script is certain enough;
        ``unknown`` with fewer than 12 letters or without two small words of one language (formulas, code, lists of
        names).

    Notes
    -----
    The script of most letters decides; Japanese kana win over Chinese characters, which Japanese uses too. Among Latin
    scripts the language with the most different small words wins, when it has two more than English. Linear in the
    length looked at.

    Examples
    --------
    >>> language_of("What is the capital of France?")
    'en'
    >>> language_of("Wie ist das Wetter in der Stadt und was kann ich tun?")
    'de'
    """
    sample = unicodedata.normalize("NFC", text[:_SAMPLE_CHARACTERS])
    scripts = Counter(_script(letter) for letter in sample if letter.isalpha())
    total = sum(scripts.values())
    if not total:
        return UNKNOWN
    if scripts["ja"] and scripts["ja"] + scripts["zh"] >= total / 2:
        return "ja"
    script, count = scripts.most_common(1)[0]
    if script != "latin":
        # Scripts without an alphabet say a lot in few characters.
        return script if count >= (2 if script in {"zh", "ko"} else _MIN_LETTERS) else UNKNOWN
    if total < _MIN_LETTERS:
        return UNKNOWN
    # Different words, not occurrences, and no single letters: options and variables are full of "a" and "e".
    words = {word.casefold() for word in _WORD.findall(sample) if len(word) > 1}
    found = {code: len(words & small) for code, small in _SMALL_WORDS.items()}
    best = max(found, key=lambda code: (found[code], code == "en"))
    if found[best] < found["en"] + _LEAD_OVER_ENGLISH:
        best = "en"
    return best if found[best] >= _MIN_SMALL_WORDS else UNKNOWN


def _script(letter: str) -> str:
    if letter.isascii():
        return "latin"
    first = unicodedata.name(letter, "?").split(" ", 1)[0]
    return _SCRIPTS.get(first, "other")
