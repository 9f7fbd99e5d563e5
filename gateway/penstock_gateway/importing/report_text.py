"""The report of an import: every field in one of three lists, in text for people and as plain fields for machines.

Owns layout only. Read `report_lines`, `report_fields`.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Sequence
from typing import Any, Final

from penstock_gateway.importing.conversion import Imported
from penstock_gateway.importing.verdicts import Fate, Verdict

_HEADS: Final = {
    Fate.MAPPED: "mapped",
    Fate.CHANGED: "mapped, with another meaning",
    Fate.NOT_MAPPED: "not mapped",
}
_MOST_LINES: Final = 8
_ENTRY = re.compile(r"^(.*?model_list)\[\d+\]")
_DEPLOYMENT = re.compile(r"^deployments\[[^\]]*\]")


def report_fields(imported: Imported) -> dict[str, Any]:
    """Return the report as plain fields, for ``--json``."""
    lists = {fate.value: [each.as_dict() for each in imported.of(fate)] for fate in Fate}
    return {
        "object": "penstock.import",
        "source": imported.source,
        "counts": {name: len(entries) for name, entries in lists.items()},
        **lists,
        "variables": [
            {"name": variable.name, "value_stands_at": variable.place or None} for variable in imported.variables
        ],
        "steps": list(imported.steps),
    }


def report_lines(imported: Imported) -> Iterator[str]:
    """Yield the report for people: fields that fared alike in many entries stand in one line."""
    for fate in (Fate.MAPPED, Fate.CHANGED, Fate.NOT_MAPPED):
        found = imported.of(fate)
        yield f"{_HEADS[fate]}: {len(found)} field{'' if len(found) == 1 else 's'}"
        for group in _alike(found):
            yield f"  {_line(group)}"
        yield ""
    if imported.variables:
        yield "environment variables that the new configuration needs"
        for variable in imported.variables:
            where = f"  (its value stands at {variable.place})" if variable.place else ""
            yield f"  {variable.name}{where}"
        yield ""
    if imported.steps:
        yield "left to do"
        for step in imported.steps:
            yield f"  - {step}"
        yield ""
    counts = [len(imported.of(fate)) for fate in Fate]
    yield f"{sum(counts)} fields: {counts[0]} mapped, {counts[1]} with another meaning, {counts[2]} not mapped"


def _alike(verdicts: Iterable[Verdict]) -> list[list[Verdict]]:
    """Return verdicts with one text, of one field in several entries, together."""
    groups: dict[tuple[str, str, str, str], list[Verdict]] = {}
    for each in verdicts:
        path = _ENTRY.sub(r"\1[]", each.path)
        target = _DEPLOYMENT.sub("deployments[]", each.target)
        groups.setdefault((path, target, each.note, each.nearest), []).append(each)
    return list(groups.values())


def _line(group: Sequence[Verdict]) -> str:
    first = group[0]
    path, target = first.path, first.target
    if len(group) > 1:
        path, target = _ENTRY.sub(r"\1[]", path), _DEPLOYMENT.sub("deployments[]", target)
    text = f"{_places(group)}: {path}"
    text += f" → {target}" if target else ""
    text += f": {first.note}" if first.note else ""
    return text + (f" (nearest: {first.nearest})" if first.nearest else "")


def _places(group: Sequence[Verdict]) -> str:
    """Return ``config.yaml:12,20,28``."""
    name = group[0].place.rpartition(":")[0]
    numbers = [each.place.rpartition(":")[2] if each.place.startswith(f"{name}:") else each.place for each in group]
    shown = ",".join(numbers[:_MOST_LINES])
    return f"{name}:{shown}" + (f",… ({len(numbers)})" if len(numbers) > _MOST_LINES else "")
