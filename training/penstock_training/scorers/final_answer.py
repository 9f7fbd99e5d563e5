r"""Where in an answer the final answer stands: in ``\boxed{}``, behind "Answer:", an option's letter, the last line.

Owns these rules and the normal form in which texts are compared. Pure. Read `final_answer` and `normal_form`.
"""

from __future__ import annotations

import re
import unicodedata
from typing import Final

# How answers are wrapped in Markdown and TeX; none of it changes what they say.
_WRAPPING: Final = "\"'`*_$\u201c\u201d\u2018\u2019«» \t"  # curly quotes too
_MARKER: Final = re.compile(
    r"(?:\b(?:answer|antwort|réponse|respuesta)\b[*_]*\s*(?:is\b|:|=)|####)[ \t*_:]*", re.IGNORECASE
)
_PLACES_LOOKED_AT: Final = 20  # from the end; a degenerate answer repeats itself thousands of times
_MARKED_CHARACTERS: Final = 1_000
_BOX: Final = re.compile(r"\\(?:boxed|fbox)\s*\{")
_LETTER_AT_START: Final = re.compile(
    r"[\s*_$(\[{\\]*(?:text\s*\{)?(?:option\s+)?\(?([A-Ja-j])(?=$|[\s]*$|[).:,*_\]}$])"
)


def normal_form(text: str) -> str:
    """Return a text in the form in which texts are compared.

    Parameters
    ----------
    text : str

    Returns
    -------
    str
        NFKC, without case, white space as single blanks, without quotes, emphasis, dollar signs or a closing full stop
        around it.

    References
    ----------
    Unicode Standard Annex 15, normalization form KC.
    """
    folded = unicodedata.normalize("NFKC", unicodedata.normalize("NFKC", text).casefold())
    plain = " ".join(folded.split())
    return plain.strip(_WRAPPING).rstrip(".").strip(_WRAPPING)


def boxed(text: str) -> str | None:
    r"""Return what stands in the last ``\boxed{}``, braces within it included; None without a closed one."""
    for match in reversed(list(_BOX.finditer(text))[-_PLACES_LOOKED_AT:]):
        depth = 1
        for position in range(match.end(), len(text)):
            depth += {"{": 1, "}": -1}.get(text[position], 0)
            if depth == 0:
                return text[match.end() : position].strip()
    return None


def marked(text: str) -> str | None:
    """Return the rest of the line behind the last "answer is", "Answer:" or "####"; None without one."""
    for match in reversed(list(_MARKER.finditer(text))[-_PLACES_LOOKED_AT:]):
        rest = text[match.end() : match.end() + _MARKED_CHARACTERS].lstrip("\n ").split("\n", 1)[0].strip()
        if rest:
            return rest
    return None


def last_line(text: str) -> str:
    """Return the last line that is not blank; "" for a blank text."""
    return next((line.strip() for line in reversed(text.splitlines()) if line.strip()), "")


def final_answer(text: str) -> str:
    """Return the box, else what is marked as the answer, else the last line."""
    return boxed(text) or marked(text) or last_line(text)


def option_letter(text: str) -> str | None:
    """Return the letter of the chosen option.

    Parameters
    ----------
    text : str
        An answer, or a reference such as ``"B"`` or ``"(B)"``.

    Returns
    -------
    str or None
        ``"A"`` to ``"J"``: in the box, behind the last marker, else at the start of the last or the first line. A
        letter counts when nothing or punctuation follows it, so the article in "A cat" does not.
    """
    first = next((line.strip() for line in text.splitlines() if line.strip()), "")
    for place in (boxed(text), marked(text), last_line(text), first):
        if place and (match := _LETTER_AT_START.match(place)):
            return match[1].upper()
    return None
