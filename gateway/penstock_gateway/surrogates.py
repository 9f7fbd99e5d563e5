r"""Halves of surrogate pairs in JSON: escapes like ``\ud83d`` that stand for no character without their other half.

Text that is cut by UTF-16 units has them, in a request whose author cut an emoji, or in a stream whose server cuts its
chunks so. JSON's grammar allows them (RFC 8259 section 8.2); strict readers, ours among them, take none. Read
`without_halves`.
"""

from __future__ import annotations

import re
from typing import Final

_HINTS: Final = (rb"\ud", rb"\uD")
_ESCAPES: Final = re.compile(
    rb"\\(?:u[dD][89abAB][0-9a-fA-F]{2}\\u[dD][c-fC-F][0-9a-fA-F]{2}"  # a pair
    rb"|(?P<half>u[dD][89a-fA-F][0-9a-fA-F]{2})"
    rb"|.)",  # an escape of one character: what follows an escaped backslash is no escape
    re.DOTALL,
)
_REPLACEMENT: Final = "\N{REPLACEMENT CHARACTER}".encode()


def without_halves(text: bytes) -> bytes:
    r"""Return JSON with U+FFFD in the place of each half; the very same object when there is none.

    Parameters
    ----------
    text : bytes
        JSON, or what is taken for it.

    Examples
    --------
    >>> without_halves(rb'"a\ud83d \ud83d\ude00 \\ud83d"')
    b'"a\xef\xbf\xbd \\ud83d\\ude00 \\\\ud83d"'
    """
    if not has_hint(text):
        return text
    mended = _ESCAPES.sub(lambda found: _REPLACEMENT if found["half"] else found[0], text)
    return text if mended == text else mended


def has_hint(text: bytes) -> bool:
    """Whether there may be halves: quick, and sure when it says no."""
    return any(hint in text for hint in _HINTS)


def json_problem(body: bytes, error: Exception) -> str:
    """Say what is wrong with JSON, in words for what happens to text that was cut.

    Parameters
    ----------
    body : bytes
    error : Exception
        That the decoder raised.
    """
    if without_halves(body) is body:
        return str(error)
    return "an escape like \\ud83d is half of a surrogate pair and no character without the other half"
