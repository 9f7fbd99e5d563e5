"""Values that come from environment variables, and secrets that should.

Owns the step from ``os.environ/NAME`` to ``${NAME}``, and the variables that take the place of secrets written in
plain: their values are never returned, only where they stand. Read `References`.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Final

from penstock_gateway.importing.foreign_yaml import Node

PREFIX: Final = "os.environ/"
MAX_TEXT: Final = 1024
_VARIABLE = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")


class Reference(str):
    """Text with ``${NAME}`` in it that is meant as a reference."""

    __slots__ = ()


@dataclass(frozen=True, slots=True)
class Variable:
    """An environment variable that the new configuration refers to.

    Attributes
    ----------
    name : str
    place : str
        Where its value stands in plain; empty when the old configuration referred to the same variable.
    """

    name: str
    place: str = ""


def is_plain_text(text: str) -> bool:
    """Say whether text can be written as it is: printable, not too long, and not read back as a reference."""
    is_short = 0 < len(text) <= MAX_TEXT
    return is_short and text.isprintable() and "${" not in text and not text.startswith(PREFIX)


class References:
    """The variables that a new configuration needs.

    Parameters
    ----------
    root : Node
        The whole old configuration: names that it uses are not given to secrets.
    """

    def __init__(self, root: Node) -> None:
        texts = [leaf.value for leaf in root.leaves() if isinstance(leaf.value, str)]
        self._taken = {text.removeprefix(PREFIX) for text in texts if text.startswith(PREFIX)}
        self._by_secret: dict[str, str] = {}
        self.variables: dict[str, Variable] = {}

    def text(self, node: Node) -> str | None:
        """Return a value as it may be written: text, a `Reference`, or None when it cannot be.

        Text that has ``${`` in it would be read as a reference and is refused, as are texts of control characters or
        more than 1,024 characters.
        """
        value = node.value
        if isinstance(value, bool) or not isinstance(value, str | int):
            return None
        text = str(value)
        if text.startswith(PREFIX):
            name = text.removeprefix(PREFIX)
            if not _VARIABLE.fullmatch(name):
                return None
            self.variables.setdefault(name, Variable(name))
            return Reference(f"${{{name}}}")
        return text if is_plain_text(text) else None

    def secret(self, node: Node, suggested: str) -> tuple[str, bool] | None:
        """Return a reference for a secret, and whether the secret stands in the old file in plain.

        Parameters
        ----------
        node : Node
        suggested : str
            What a new variable should be called; made upper case, and numbered when the name is taken.

        Returns
        -------
        (str, bool) or None
            None when it is no text, or names a variable that cannot be referred to.
        """
        value = node.value
        if isinstance(value, bool) or not isinstance(value, str | int):
            return None
        text = str(value)
        if text.startswith(PREFIX):
            reference = self.text(node)
            return None if reference is None else (reference, False)
        if not text:
            return None
        name = self._by_secret.get(text)
        if name is None:
            name = self._free_name(suggested)
            self._by_secret[text] = name
            self.variables[name] = Variable(name, node.place)
        return Reference(f"${{{name}}}"), True

    def usual(self, name: str) -> Reference:
        """Return a reference to a variable that the old gateway reads without being told."""
        self.variables.setdefault(name, Variable(name))
        return Reference(f"${{{name}}}")

    def _free_name(self, suggested: str) -> str:
        base = re.sub(r"[^A-Z0-9]+", "_", suggested.upper()).strip("_") or "IMPORTED"
        base = base if base[0].isalpha() else f"IMPORTED_{base}"
        name, number = base, 2
        while name in self._taken or name in self.variables:
            name, number = f"{base}_{number}", number + 1
        return name
