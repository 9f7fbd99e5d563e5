"""The result of each fault as one table at the end of a test run.

A test of the matrix records what it saw as a property of its report, which also reaches the reporting process when
tests run in workers. Read `FaultSighting`.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import asdict, dataclass
from typing import Any

PROPERTY = "fault_sighting"
_WIDTHS = {"fault": 22, "mode": 7, "client": 46, "bill": 11, "charged": 9, "provider": 9, "saved": 7}


@dataclass(frozen=True)
class FaultSighting:
    """What one fault came to.

    Attributes
    ----------
    fault, mode : str
    client : str
        What the client saw.
    bill : str
        Kind of the bill.
    charged, provider : str
        USD that the gateway charged, and that the provider charges.
    saved : str
        Whether a fallback answered; empty of a sighting without one.
    """

    fault: str
    mode: str
    client: str
    bill: str
    charged: str
    provider: str
    saved: str = ""

    def as_property(self) -> tuple[str, str]:
        """Return name and value of the report's property."""
        return PROPERTY, "\t".join(asdict(self).values())


def sightings(reports: Iterable[Any]) -> list[tuple[FaultSighting, str]]:
    """Return what the reports hold, each with its test's outcome, ordered by fault."""
    found = []
    for report in reports:
        for name, value in getattr(report, "user_properties", ()):
            if name == PROPERTY and report.when == "call":
                found.append((FaultSighting(*value.split("\t")), report.outcome))
    return found


def table_lines(found: Iterable[tuple[FaultSighting, str]], order: Iterable[str]) -> list[str]:
    """Return the table: a line a fault and kind of request, in the order of the faults' names."""
    places = {name: place for place, name in enumerate(order)}
    grouped: dict[tuple[int, str], list[tuple[FaultSighting, str]]] = {}
    for sighting, outcome in found:
        grouped.setdefault((places.get(sighting.fault, len(places)), sighting.mode), []).append((sighting, outcome))
    lines = ["  ".join(f"{name:<{width}}" for name, width in _WIDTHS.items()) + "  result"]
    for _, group in sorted(grouped.items()):
        alone = next((sighting for sighting, _ in group if not sighting.saved), group[0][0])
        cells = asdict(alone) | {"saved": next((s.saved for s, _ in group if s.saved), "")}
        result = "passed" if all(outcome == "passed" for _, outcome in group) else "FAILED"
        lines.append("  ".join(f"{cells[name]:<{width}}" for name, width in _WIDTHS.items()) + f"  {result}")
    return lines


def write_fault_table(terminalreporter: Any) -> None:
    """Write the table at the end of a run that met a fault."""
    from support.faults import FAULTS

    outcomes = ("passed", "failed")
    found = sightings(report for outcome in outcomes for report in terminalreporter.stats.get(outcome, []))
    if found:
        terminalreporter.write_sep("=", "fault matrix")
        for line in table_lines(found, [fault.name for fault in FAULTS]):
            terminalreporter.write_line(line)
