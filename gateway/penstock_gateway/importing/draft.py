"""A new configuration while it is being written: sections, deployments, and the comments beside them.

Owns plain containers and the numbers that foreign fields give. Read `Draft`.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from decimal import Decimal

from penstock_gateway.importing.foreign_yaml import Node
from penstock_gateway.importing.litellm_providers import Served
from penstock_gateway.importing.references import References
from penstock_gateway.importing.verdicts import Findings

Settings = dict[str, object]


@dataclass(slots=True)
class DeploymentDraft:
    """One entry of ``deployments``.

    Attributes
    ----------
    name : str
        Unique; assigned after all entries are known.
    asked_for : str
        What clients of the old gateway asked for: the name of its ``model_list`` entry.
    served : Served
    entry : Node
        The entry that it was made of.
    settings : dict
        What is written, beside the name, in this order.
    comments : list of str
        Lines above it.
    is_named_only : bool
        It came of a wildcard: many of these, which ``auto`` should not choose among.
    """

    name: str
    asked_for: str
    served: Served
    entry: Node
    settings: Settings = field(default_factory=dict)
    comments: list[str] = field(default_factory=list)
    is_named_only: bool = False

    @property
    def group(self) -> str | None:
        """The group it is in."""
        group = self.settings.get("group")
        return None if group is None else str(group)

    def target(self, setting: str) -> str:
        """Return how a setting of this deployment is called in the report."""
        return f"deployments[{self.name}].{setting}"


@dataclass(slots=True)
class Draft:
    """The new configuration and everything that is known about how it came to be.

    Attributes
    ----------
    findings : Findings
    references : References
    deployments : list of DeploymentDraft
    sections : dict
        Everything else that is written, section by section.
    steps : list of str
        What is left to do by hand, a sentence each.
    aliases : dict of str to str
        Other names of the old gateway's models, while they have no deployment yet.
    """

    findings: Findings
    references: References
    deployments: list[DeploymentDraft] = field(default_factory=list)
    sections: dict[str, Settings] = field(default_factory=dict)
    steps: list[str] = field(default_factory=list)
    aliases: dict[str, str] = field(default_factory=dict)

    def section(self, *names: str) -> Settings:
        """Return a section, made when it is not there yet."""
        found = self.sections.setdefault(names[0], {})
        for name in names[1:]:
            below = found.setdefault(name, {})
            assert isinstance(below, dict)
            found = below
        return found

    def step(self, sentence: str) -> None:
        """Add something to do by hand, once."""
        if sentence not in self.steps:
            self.steps.append(sentence)


def number_of(node: Node) -> Decimal | None:
    """Return a finite number, also one written as text (YAML 1.1 reads ``1e-6`` as text); None for anything else."""
    value = node.value
    if isinstance(value, bool) or not isinstance(value, int | str | Decimal):
        return None
    if isinstance(value, str):
        text = value.strip()
        if not text or len(text) > 40 or not set(text) <= set("0123456789.eE+-"):
            return None
        try:
            value = Decimal(text)
        except ArithmeticError:
            return None
    number = Decimal(value)
    is_sane = number.is_finite() and (not number or -40 < number.adjusted() < 40)
    return number if is_sane else None


def whole_number_of(node: Node, lowest: int, highest: int) -> int | None:
    """Return a whole number within bounds, else None."""
    number = number_of(node)
    if number is None or number != number.to_integral_value() or not lowest <= number <= highest:
        return None
    return int(number)


def seconds_of(node: Node) -> Decimal | None:
    """Return a time that Penstock takes: above 0 and at most a day."""
    number = number_of(node)
    return number if number is not None and 0 < number <= 86_400 else None
