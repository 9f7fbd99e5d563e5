"""Untrusted text made harmless for a terminal, and wrapped to its width.

Owns what may be shown: a model's answer can hold escape sequences that move the cursor, recolour, retitle or answer for
the person at the keyboard. Pure. Read `harmless`.
"""

from __future__ import annotations

import re
import textwrap
import unicodedata
from typing import Final

# CSI, OSC and other strings up to their end, and two-character escapes; ECMA-48 sections 5.3 to 5.6.
_ESCAPES: Final = re.compile(
    r"(?:\x1b\[|\x9b)[0-?]*[ -/]*[@-~]"
    r"|(?:\x1b[\]PX^_]|[\x90\x98\x9d-\x9f])[^\x07\x1b\x90\x98\x9c-\x9f]*(?:\x07|\x1b\\|\x9c)"
    r"|\x1b[ -/]*[0-~]?"
)


def harmless(text: str) -> str:
    """Return a text without anything that a terminal acts on.

    Parameters
    ----------
    text : str
        Untrusted.

    Returns
    -------
    str
        Escape sequences are gone, of one without its end only the beginning; other control and format characters,
        bidirectional overrides and private or unassigned characters among them, are gone too. Line ends and tabs stay,
        tabs as four blanks.
    """
    plain = _ESCAPES.sub("", text).replace("\r\n", "\n").replace("\r", "\n").replace("\t", "    ")
    return "".join(
        character for character in plain if character == "\n" or not unicodedata.category(character).startswith("C")
    )


def wrapped(text: str, width: int, *, indent: str = "") -> str:
    """Return harmless text in lines of at most `width` characters, its own line ends kept.

    Parameters
    ----------
    text : str
        Untrusted.
    width : int
        Columns, at least 20 are used.
    indent : str
        Before every line.

    Returns
    -------
    str
    """
    columns = max(20, width)
    lines: list[str] = []
    for line in harmless(text).split("\n"):
        lead = line[: len(line) - len(line.lstrip(" "))]
        lead = lead if len(lead) < columns // 2 else ""
        pieces = textwrap.wrap(
            line.strip(), columns, initial_indent=indent + lead, subsequent_indent=indent + lead, break_on_hyphens=False
        )
        lines += pieces or [""]
    return "\n".join(lines)
