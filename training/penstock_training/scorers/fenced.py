"""Fenced blocks of Markdown, found in one pass.

Owns the rule of fences. Answers are untrusted and sometimes a hundred kilobytes of one character, so this is a scan by
lines and not a regular expression. Pure. Read `fenced_blocks`.
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class FencedBlock:
    """One block.

    Attributes
    ----------
    language : str
        First word behind the fence, in lower case; "" without one.
    body : str
        The lines between, each with its end.
    """

    language: str
    body: str


def fenced_blocks(text: str) -> list[FencedBlock]:
    """Return the fenced blocks of a text, in order.

    Parameters
    ----------
    text : str

    Returns
    -------
    list of FencedBlock
        A block that is never closed, as in an answer that was cut, reaches to the end.

    Notes
    -----
    A fence is three or more backticks or tildes; it is closed by a line with at least as many of the same and nothing
    else. O(length). Indentation of a fence is not looked at, as blocks in lists are indented.

    References
    ----------
    CommonMark 0.31, section 4.5, with indentation of any depth.
    """
    blocks: list[FencedBlock] = []
    fence, language, lines = "", "", list[str]()
    for line in text.splitlines(keepends=True):
        bare = line.strip()
        width = len(bare) - len(bare.lstrip(bare[:1])) if bare[:1] in ("`", "~") else 0
        if not fence:
            rest = bare[width:]
            if width >= 3 and "`" not in rest:
                fence, language, lines = bare[:width], (rest.split() or [""])[0].lower(), []
        elif width == len(bare) and width >= len(fence) and bare[:1] == fence[0]:
            blocks.append(FencedBlock(language, "".join(lines)))
            fence = ""
        else:
            lines.append(line)
    if fence:
        blocks.append(FencedBlock(language, "".join(lines)))
    return blocks
