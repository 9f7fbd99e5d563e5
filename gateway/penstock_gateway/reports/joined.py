"""Decisions joined with their outcomes, each once.

Owns what makes a request of two records, in whatever order they come, and the careful reading of single fields: event
files are edited, cut and mixed by people. Read `join_requests`.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

Record = Mapping[str, Any]

_HTTP_OK = range(200, 300)


@dataclass(frozen=True, slots=True)
class JoinedRequest:
    """One request: what was decided, and what came of it.

    Attributes
    ----------
    decision, outcome : mapping
        Event records as ``docs/events.md`` describes them.
    """

    decision: Record
    outcome: Record

    @property
    def is_answered(self) -> bool:
        """Whether a provider answered it whole."""
        status, served = self.outcome.get("status"), self.outcome.get("served_arm")
        return status in _HTTP_OK and self.outcome.get("error_code") is None and isinstance(served, str)

    @property
    def cost_picousd(self) -> int | None:
        """Whole cost, failed attempts included, 10⁻¹² USD; None when it is unknown."""
        return None if self.outcome.get("cost_usd") is None else whole_of(self.outcome.get("cost_picousd"))


@dataclass(slots=True)
class JoinCounts:
    """What could not be joined.

    Attributes
    ----------
    duplicates : int
        Records of a decision whose record of the same type had come before; only the first counts.
    without_outcome : int
        Decisions whose outcome is not there: under way, lost, or in a file that was not read.
    without_decision : int
        Outcomes whose decision is not there.
    """

    duplicates: int = 0
    without_outcome: int = 0
    without_decision: int = 0


@dataclass(slots=True)
class _Halves:
    decisions: dict[str, Record] = field(default_factory=dict)
    outcomes: dict[str, Record] = field(default_factory=dict)
    done: set[str] = field(default_factory=set)


def join_requests(records: Iterable[Record], counts: JoinCounts) -> Iterator[JoinedRequest]:
    """Yield each request as soon as both of its records have been read.

    Parameters
    ----------
    records : iterable of mapping
        Of any type, in any order; other types than ``decision`` and ``outcome`` are passed over.
    counts : JoinCounts
        Complete when the last request has been yielded.

    Yields
    ------
    JoinedRequest

    Notes
    -----
    Memory: the ids of all requests (0.1 kB each) and the records that wait for their other half.
    """
    halves = _Halves()
    for record in records:
        kind, key = record.get("type"), record.get("decision_id")
        if kind not in ("decision", "outcome") or not isinstance(key, str):
            continue
        own, other = halves.decisions, halves.outcomes
        if kind == "outcome":
            own, other = other, own
        if key in halves.done or key in own:
            counts.duplicates += 1
        elif (found := other.pop(key, None)) is None:
            own[key] = record
        else:
            halves.done.add(key)
            yield JoinedRequest(found, record) if kind == "outcome" else JoinedRequest(record, found)
    counts.without_outcome = len(halves.decisions)
    counts.without_decision = len(halves.outcomes)


def number_of(value: object) -> float | None:
    """Return a finite number, also one written as decimal text; None for anything else.

    Examples
    --------
    >>> number_of("0.25"), number_of(True), number_of("nan")
    (0.25, None, None)
    """
    if isinstance(value, bool) or not isinstance(value, int | float | str):
        return None
    try:
        number = float(value)
    except (ValueError, OverflowError):
        return None
    return number if math.isfinite(number) else None


def text_of(value: object) -> str:
    """Return a text, empty for anything else."""
    return value if isinstance(value, str) else ""


def records_of(value: object) -> list[Record]:
    """Return the mappings of a list, none for anything else."""
    return [item for item in value if isinstance(item, Mapping)] if isinstance(value, list | tuple) else []


def whole_of(value: object) -> int | None:
    """Return a whole number, None for anything else."""
    return value if isinstance(value, int) and not isinstance(value, bool) else None


def account_name(outcome: Record, kind: str) -> str:
    """Return the name of a request's first account of a kind (``key``, ``team``, ``tag``), empty without one.

    Examples
    --------
    >>> account_name({"accounts": ["key:k1", "team:search"]}, "team")
    'search'
    """
    accounts = outcome.get("accounts")
    for scope in accounts if isinstance(accounts, list | tuple) else ():
        found, _, name = text_of(scope).partition(":")
        if found == kind:
            return name
    return ""
