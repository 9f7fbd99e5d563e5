"""What became of each field: mapped, mapped with another meaning, or not mapped, each field in exactly one list.

Owns `Verdict` and `Findings`. Texts never hold a value of the configuration that could be a secret: notes are written
by the mapping rules from names and numbers. Read `Findings`.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from enum import StrEnum

from penstock_gateway.importing.foreign_yaml import Node


class Fate(StrEnum):
    """What became of a field."""

    MAPPED = "mapped"
    CHANGED = "changed"  # mapped, and it does not mean quite the same
    NOT_MAPPED = "not_mapped"


@dataclass(frozen=True, slots=True)
class Verdict:
    """What became of one field.

    Attributes
    ----------
    path, place : str
        Where it stands: ``litellm_settings.num_retries``, ``config.yaml:80``.
    fate : Fate
    target : str
        Setting that holds it now, ``attempts.retries``; empty when there is none.
    note : str
        How the meaning changed, or why it was not mapped; may be empty for a mapped one.
    nearest : str
        What comes nearest; may be empty.
    """

    path: str
    place: str
    fate: Fate
    target: str = ""
    note: str = ""
    nearest: str = ""

    def as_dict(self) -> dict[str, str]:
        """Return it as plain text fields, for ``--json``."""
        shown = {"path": self.path, "place": self.place, "target": self.target}
        return {**shown, "note": self.note, "nearest": self.nearest}


class Findings:
    """Collects one verdict for every leaf of a tree; the first one counts.

    A verdict about a mapping or a list holds for every leaf below it that has none yet.
    """

    def __init__(self) -> None:
        self._verdicts: dict[int, Verdict] = {}
        self._kept: list[Node] = []  # an id stays one node's as long as the node is held

    def mapped(self, node: Node, target: str, note: str = "") -> None:
        """Say that a field means the same as before."""
        self._settle(node, Fate.MAPPED, target, note, "")

    def changed(self, node: Node, target: str, note: str) -> None:
        """Say that a field was taken over and how its meaning differs now."""
        self._settle(node, Fate.CHANGED, target, note, "")

    def dropped(self, node: Node, note: str, nearest: str = "") -> None:
        """Say why a field was not taken over, and what comes nearest."""
        self._settle(node, Fate.NOT_MAPPED, "", note, nearest)

    def is_settled(self, node: Node) -> bool:
        """Say whether every leaf of a node has its verdict."""
        return all(id(leaf) in self._verdicts for leaf in node.leaves())

    def verdicts(self, root: Node) -> Iterator[Verdict]:
        """Yield the verdict of every leaf of a tree, in the order of the file.

        Raises
        ------
        LookupError
            A leaf has none: a rule forgot it.
        """
        for leaf in root.leaves():
            if id(leaf) not in self._verdicts:
                raise LookupError(f"nothing was said about {leaf.path}")
            yield self._verdicts[id(leaf)]

    def _settle(self, node: Node, fate: Fate, target: str, note: str, nearest: str) -> None:
        for leaf in node.leaves():
            if id(leaf) not in self._verdicts:
                self._kept.append(leaf)
                self._verdicts[id(leaf)] = Verdict(leaf.path, leaf.place, fate, target, note, nearest)
