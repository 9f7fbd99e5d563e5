"""Another gateway's YAML as a tree in which every value knows its path and its line.

Owns the bounds under which a foreign file is read: bytes, depth, values once aliases are expanded, files that include
others. Tags are refused; anchors, aliases and merge keys are expanded, because real configurations use them. It knows
nothing about what the settings mean. Read `read_foreign`.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from decimal import Decimal
from pathlib import Path
from typing import Final

import yaml

MAX_FILE_BYTES: Final = 1_048_576
MAX_NODES: Final = 50_000
MAX_DEPTH: Final = 32
MAX_FILES: Final = 16

_INTEGER = re.compile(r"[-+]?[0-9]{1,20}")
_NUMBER = re.compile(r"[-+]?([0-9]+(\.[0-9]*)?|\.[0-9]+)([eE][-+]?[0-9]{1,3})?")
_YES = frozenset({"yes", "true", "on"})
_TAGS = frozenset(
    f"tag:yaml.org,2002:{kind}"
    for kind in ("map", "seq", "str", "int", "float", "bool", "null", "timestamp", "value", "merge")
)

Scalar = str | int | bool | Decimal | None


class ForeignFileError(Exception):
    """The file cannot be imported; the message is one line and repeats no value of it."""


@dataclass(slots=True, eq=False)
class Node:
    """One value of a foreign configuration; equal to nothing but itself.

    Attributes
    ----------
    path : str
        ``model_list[0].litellm_params.model``.
    place : str
        ``config.yaml:12``.
    value : scalar, dict of str to Node, or list of Node
        Numbers with a point are exact.
    """

    path: str
    place: str
    value: Scalar | dict[str, Node] | list[Node]

    @property
    def fields(self) -> dict[str, Node]:
        """The mapping, or an empty one when the value is none."""
        return self.value if isinstance(self.value, dict) else {}

    @property
    def items(self) -> list[Node]:
        """The list, or an empty one when the value is none."""
        return self.value if isinstance(self.value, list) else []

    @property
    def is_leaf(self) -> bool:
        """Whether there is nothing below it; an empty mapping or list is a leaf."""
        return not (isinstance(self.value, dict | list) and self.value)

    def leaves(self) -> Iterator[Node]:
        """Yield every leaf at and below this value, in the order of the file."""
        if self.is_leaf:
            yield self
        for below in (*self.fields.values(), *self.items):
            yield from below.leaves()


@dataclass(slots=True)
class _Budget:
    nodes: int = 0
    files: list[Path] = field(default_factory=list)


def read_foreign(path: Path) -> Node:
    """Read a YAML file, and those that it includes, into one tree.

    Parameters
    ----------
    path : Path

    Returns
    -------
    Node
        A mapping. ``include`` names files beside the one that names them: their lists are put behind its lists, their
        other sections take the place of its own, as LiteLLM does it.

    Raises
    ------
    ForeignFileError
        Unreadable, too large, not YAML, tags, duplicate keys, not a mapping, or includes that go in a circle.
    """
    return _read(path, path.name, _Budget())


def _read(path: Path, name: str, budget: _Budget) -> Node:
    resolved = path.resolve()
    if resolved in budget.files:
        raise ForeignFileError(f"{name} is included twice")
    if len(budget.files) >= MAX_FILES:
        raise ForeignFileError(f"{name}: more than {MAX_FILES} files are included")
    budget.files.append(resolved)
    root = _compose(path, name, budget)
    prefix = "" if len(budget.files) == 1 else f"{name}: "
    tree = _Builder(name, budget).build(root, prefix, 0)
    if not isinstance(tree.value, dict):
        raise ForeignFileError(f"{name} should be a mapping of sections, such as 'model_list:'")
    include = tree.value.get("include")
    for entry in [] if include is None else include.items or [include]:
        if isinstance(entry.value, str) and entry.value:
            _merge(tree.value, _read(path.parent / entry.value, entry.value, budget))
    return tree


def _merge(sections: dict[str, Node], included: Node) -> None:
    """Append lists and replace other sections; what is replaced is kept under its path, so that it is told."""
    for name, node in included.fields.items():
        known = sections.get(name)
        if known is not None and isinstance(known.value, list) and isinstance(node.value, list):
            known.value.extend(node.value)
        elif known is not None and name != "include":
            sections[f"{name} (replaced)"] = known
            sections[name] = node
        else:
            sections[name if name != "include" else f"include of {node.place}"] = node


def _compose(path: Path, name: str, budget: _Budget) -> yaml.Node:
    try:
        with path.open("rb") as file:
            content = file.read(MAX_FILE_BYTES + 1)
        text = content.decode("utf-8-sig")
    except OSError as error:
        raise ForeignFileError(f"{name} cannot be read: {error.strerror or 'unknown error'}") from None
    except UnicodeDecodeError as error:
        raise ForeignFileError(f"{name} is not UTF-8 text (byte {error.start})") from None
    except ValueError:  # a zero byte in the name
        raise ForeignFileError(f"{name!r} is not a file name") from None
    if len(content) > MAX_FILE_BYTES:
        raise ForeignFileError(f"{name} is larger than {MAX_FILE_BYTES} bytes")
    try:
        _refuse_bombs(text, name)
        root = yaml.compose(text, Loader=yaml.SafeLoader)
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        where = name if mark is None else f"{name}:{mark.line + 1}:{mark.column + 1}"
        raise ForeignFileError(f"{where}: not valid YAML: {_without_text(error)}") from None
    except yaml.YAMLError as error:
        raise ForeignFileError(f"{name}: not valid YAML ({type(error).__name__})") from None
    if root is None:
        raise ForeignFileError(f"{name} is empty")
    return root


def _without_text(error: yaml.MarkedYAMLError) -> str:
    """Return what the parser found, without the text it found: names of anchors and tags are quoted by it."""
    return re.sub(r"(['\"]).*\1", "…", str(error.problem or "unknown problem")).splitlines()[0]


def _refuse_bombs(text: str, name: str) -> None:
    """Bound depth and size before anything recursive looks at the text."""
    depth = 0
    for count, event in enumerate(yaml.parse(text, Loader=yaml.SafeLoader)):
        depth += isinstance(event, yaml.CollectionStartEvent) - isinstance(event, yaml.CollectionEndEvent)
        if depth > MAX_DEPTH:
            raise ForeignFileError(f"{name} is nested deeper than {MAX_DEPTH} levels")
        if count > 2 * MAX_NODES:
            raise ForeignFileError(f"{name} has more than {MAX_NODES} values")


class _Builder:
    """Turns composed YAML into `Node`s, expanding aliases and merge keys within the bounds."""

    def __init__(self, name: str, budget: _Budget) -> None:
        self._name = name
        self._budget = budget

    def build(self, node: yaml.Node, path: str, depth: int) -> Node:
        self._budget.nodes += 1
        place = f"{self._name}:{node.start_mark.line + 1}"
        if self._budget.nodes > MAX_NODES or depth > MAX_DEPTH:
            raise ForeignFileError(f"{place}: too large or too deep once aliases are expanded")
        if node.tag not in _TAGS:
            raise ForeignFileError(f"{place}: YAML tags are not read")
        if isinstance(node, yaml.MappingNode):
            return Node(path, place, self._mapping(node, path, depth))
        if isinstance(node, yaml.SequenceNode):
            return Node(path, place, [self.build(e, f"{path}[{i}]", depth + 1) for i, e in enumerate(node.value)])
        assert isinstance(node, yaml.ScalarNode)
        return Node(path, place, _scalar(node))

    def _mapping(self, node: yaml.MappingNode, path: str, depth: int) -> dict[str, Node]:
        found: dict[str, Node] = {}
        for name, value in self._pairs(node, depth).items():
            below = f"{path}{name}" if not path or path.endswith(": ") else f"{path}.{name}"
            found[name] = self.build(value, below, depth + 1)
        return found

    def _pairs(self, node: yaml.MappingNode, depth: int) -> dict[str, yaml.Node]:
        """Return the pairs of a mapping, its own before those of merge keys."""
        own: dict[str, yaml.Node] = {}
        merged: dict[str, yaml.Node] = {}
        for key, value in node.value:
            self._budget.nodes += 1
            place = f"{self._name}:{key.start_mark.line + 1}"
            if self._budget.nodes > MAX_NODES or depth > MAX_DEPTH:
                raise ForeignFileError(f"{place}: too large or too deep once aliases are expanded")
            if not isinstance(key, yaml.ScalarNode):
                raise ForeignFileError(f"{place}: a key should be plain text")
            if key.tag == "tag:yaml.org,2002:merge":
                for source in value.value if isinstance(value, yaml.SequenceNode) else [value]:
                    if not isinstance(source, yaml.MappingNode):
                        raise ForeignFileError(f"{place}: a merge key should name mappings")
                    merged = {**self._pairs(source, depth + 1), **merged}
            elif key.value in own:
                raise ForeignFileError(f"{place}: a key is given twice")
            else:
                own[str(key.value)] = value
        return {**{name: value for name, value in merged.items() if name not in own}, **own}


def _scalar(node: yaml.ScalarNode) -> Scalar:
    """Return what a scalar means in YAML 1.1, which LiteLLM reads; odd numbers stay text."""
    text = str(node.value)
    kind = node.tag.rpartition(":")[2]
    if kind == "null":
        return None
    if kind == "bool":
        return text.lower() in _YES
    if kind == "int" and _INTEGER.fullmatch(text):
        return int(text)
    if kind == "float" and _NUMBER.fullmatch(text):
        return Decimal(text)
    return text
