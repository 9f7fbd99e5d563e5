"""Checks the Markdown files of the repository against the repository itself; prints every problem and fails.

Checked: relative links and their anchors lead somewhere, every `make` target that a document names exists, no
placeholder is left, decision records are numbered without gaps and all listed in their index. Reads files only. Read
`problems` first.
"""

from __future__ import annotations

import os
import re
import sys
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
SKIPPED_FOLDERS = frozenset({"build", "dist", "node_modules"})  # and every folder whose name begins with a dot

_FENCE = re.compile(r"^(```|~~~).*?^\1", re.MULTILINE | re.DOTALL)
_LINK = re.compile(r"\[[^\]\n]*\]\(<?([^)\s>]+)>?(?:\s+\"[^\"]*\")?\)")
_HEADING = re.compile(r"^#{1,6}\s+(.+?)\s*#*$", re.MULTILINE)
_MAKE_IN_CODE = re.compile(
    r"`(?:[A-Z_]+=\S+ )*make ([a-z][a-z-]*)[^`\n]*`|^\s*(?:\$ )?make ([a-z][a-z-]*)", re.MULTILINE
)
_PLACEHOLDER = re.compile(r"@@[A-Z_]+@@")
_TARGET = re.compile(r"^([a-z][a-z-]*):", re.MULTILINE)
_RECORD = re.compile(r"^(\d{4})-[a-z0-9-]+\.md$")


def problems(root: Path = ROOT) -> Iterator[str]:
    """Yield one sentence per problem found under `root`, each with the file and, for links, the target."""
    documents = sorted(_documents(root))
    targets = set(_TARGET.findall((root / "Makefile").read_text(encoding="utf-8")))
    for document in documents:
        text = document.read_text(encoding="utf-8")
        name = document.relative_to(root).as_posix()
        yield from (f"{name}: {problem}" for problem in _broken_links(document, text))
        mentioned = {first or second for first, second in _MAKE_IN_CODE.findall(text)}
        yield from (f"{name}: the placeholder {mark} was never filled in" for mark in _PLACEHOLDER.findall(text))
        yield from (f"{name}: there is no `make {target}`" for target in sorted(mentioned - targets))
    yield from _record_problems(root / "docs" / "adr")


def _documents(root: Path) -> Iterator[Path]:
    for folder, subfolders, names in os.walk(root):
        subfolders[:] = [name for name in subfolders if name not in SKIPPED_FOLDERS and not name.startswith(".")]
        yield from (Path(folder, name) for name in names if name.endswith(".md"))


def _broken_links(document: Path, text: str) -> Iterator[str]:
    for link in _LINK.findall(_FENCE.sub("", text)):
        if re.match(r"[a-z][a-z0-9+.-]*:", link):
            continue  # an address; nothing is fetched here
        path, _, anchor = link.partition("#")
        target = (document.parent / path) if path else document
        if not target.exists():
            yield f"the link to {link} leads nowhere"
        elif anchor and target.suffix == ".md" and anchor not in anchors(target.read_text(encoding="utf-8")):
            yield f"the link to {link} names a heading that is not there"


def anchors(text: str) -> set[str]:
    """Return the anchors that a Markdown renderer makes of the headings in `text`."""
    found = set()
    for heading in _HEADING.findall(_FENCE.sub("", text)):
        plain = re.sub(r"[`*]|\[([^\]]*)\]\([^)]*\)", r"\1", heading).lower()
        anchor = re.sub(r"[^\w\- ]", "", plain).replace(" ", "-")
        repeats = sum(1 for known in found if re.fullmatch(re.escape(anchor) + r"(-\d+)?", known))
        found.add(f"{anchor}-{repeats}" if repeats else anchor)
    return found


def _record_problems(folder: Path) -> Iterator[str]:
    names = sorted(path.name for path in folder.glob("[0-9]*.md"))
    index = (folder / "README.md").read_text(encoding="utf-8")
    for position, name in enumerate(names, start=1):
        matched = _RECORD.match(name)
        if matched is None or int(matched[1]) != position:
            yield f"docs/adr/{name}: records are named NNNN-title.md and numbered without gaps; expected {position:04d}"
        if f"]({name})" not in index:
            yield f"docs/adr/README.md: {name} is not listed"


def main() -> int:
    """Print the problems; returns 1 when there is one."""
    found = list(problems())
    for problem in found:
        print(problem)
    return 1 if found else 0


if __name__ == "__main__":
    sys.exit(main())
