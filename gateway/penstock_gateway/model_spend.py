"""What a window has cost, and in how many tokens, by deployment or by account: read from the event log when asked for.

Owns the bounds of that reading: one at a time, in a thread, for so many seconds. Nothing is kept of it, so that serving
pays nothing. Read `ModelSpendReader.by_model`, then `ModelSpendReader.by_account`.
"""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final, Literal

from penstock_gateway.errors import Conflict, Overloaded
from penstock_gateway.events.parquet_segments import ParquetMissing
from penstock_gateway.events.reading import read_events
from penstock_gateway.ledger.contract import Period
from penstock_gateway.ledger.periods import Calendar

READING_SECONDS: Final = 30.0
"""Some gigabytes of segments."""
_ROWS: Final = 1_000  # between two looks at the clock
_REMEMBERED: Final = 1_000_000  # a repeated outcome follows the first one closely: a batch that the disk took half
_DAY_SECONDS: Final = 86_400.0
_LONGEST_SECONDS: Final = {  # of a window, the change of clocks and a request's own length included
    Period.HOUR: 0.2 * _DAY_SECONDS,
    Period.DAY: 1.2 * _DAY_SECONDS,
    Period.WEEK: 7.2 * _DAY_SECONDS,
    Period.MONTH: 31.2 * _DAY_SECONDS,
}

Grouping = Literal["deployment", "account"]

COUNTS: Final = (
    "input_tokens",
    "cached_input_tokens",
    "output_tokens",
    "reasoning_tokens",
    "web_searches",
    "other_tool_calls",
)
"""Of a usage in the events; the second and the fourth are parts of the one before."""


@dataclass(slots=True)
class SpentOnModel:
    """What a deployment, or an account, has cost, and for what.

    Attributes
    ----------
    picousd : int
    counts : dict of str to int
        By the names in `COUNTS`.
    """

    picousd: int = 0
    counts: dict[str, int] = field(default_factory=lambda: dict.fromkeys(COUNTS, 0))

    def add(self, picousd: int, usage: object) -> None:
        """Add an attempt."""
        self.picousd += picousd
        if isinstance(usage, Mapping):
            for name in COUNTS:
                if isinstance(count := usage.get(name), int):
                    self.counts[name] += count


class ModelSpendReader:
    """Reads the event log of one gateway.

    Parameters
    ----------
    folder : Path
    calendar : Calendar
        The ledger's.
    seconds : float
        For one reading.
    """

    def __init__(self, folder: Path, calendar: Calendar, *, seconds: float = READING_SECONDS) -> None:
        self._folder = folder
        self._calendar = calendar
        self._seconds = seconds
        self._turn = asyncio.Lock()

    async def by_model(self, period: Period, at: float) -> dict[str, SpentOnModel]:
        """Return what each deployment has cost in the window of a moment.

        Parameters
        ----------
        period : Period
        at : float
            UNIX seconds.

        Returns
        -------
        dict of str to SpentOnModel
            By deployment, every attempt counted where it was made. Outcomes whose segments were deleted
            are known by account only and are not in it.

        Raises
        ------
        Overloaded
            ``spend_by_model_too_slow``.
        Conflict
            ``spend_by_model_unavailable``: segments are compacted, and what reads them is not installed.
        """
        return await self._read_in_turn(period, at, "deployment")

    async def by_account(self, period: Period, at: float) -> dict[str, SpentOnModel]:
        """Return what each key, team and tag has used in the window of a moment.

        Parameters
        ----------
        period : Period
        at : float
            UNIX seconds.

        Returns
        -------
        dict of str to SpentOnModel
            By scope, ``team:search`` say; every attempt of a request on each of its accounts. What is in no segment
            any more is not in it, though the ledger knows what it cost.

        Raises
        ------
        Overloaded, Conflict
            As `by_model`.
        """
        return await self._read_in_turn(period, at, "account")

    async def _read_in_turn(self, period: Period, at: float, by: Grouping) -> dict[str, SpentOnModel]:
        async with self._turn:
            gives_up = threading.Event()
            try:
                return await asyncio.to_thread(self._read, period, at, by, gives_up)
            except TimeoutError:
                raise Overloaded(
                    f"The event log could not be read in {self._seconds:g} s; ask for a shorter period, or read it "
                    "with 'penstock events export'.",
                    code="spend_by_model_too_slow",
                ) from None
            except ParquetMissing as error:
                raise Conflict(str(error), code="spend_by_model_unavailable") from None
            finally:
                gives_up.set()  # whoever asked may have left

    def _read(self, period: Period, at: float, by: Grouping, gives_up: threading.Event) -> dict[str, SpentOnModel]:
        longest = _LONGEST_SECONDS.get(period)
        deadline = time.monotonic() + self._seconds

        def check() -> None:
            if gives_up.is_set() or time.monotonic() > deadline:
                raise TimeoutError

        rows = read_events(self._folder, types=("outcome",), since=None if longest is None else at - longest)
        return spend_of_rows(rows, self._calendar, period, at, by=by, check=check)


def spend_of_rows(
    rows: Iterable[Mapping[str, Any]],
    calendar: Calendar,
    period: Period,
    at: float,
    *,
    by: Grouping = "deployment",
    check: Callable[[], None] = lambda: None,
) -> dict[str, SpentOnModel]:
    """Add up what outcomes say of their attempts, by deployment or by account.

    Parameters
    ----------
    rows : iterable of mapping
        Outcomes, as `read_events` gives them; one that comes twice counts once.
    calendar : Calendar
    period : Period
    at : float
        UNIX seconds, in the window that is asked for.
    by : str
        ``deployment`` or ``account``.
    check : callable
        Called every thousand rows; may raise.
    """
    window = calendar.window(period, at).id
    found: dict[str, SpentOnModel] = {}
    seen: dict[str, None] = {}
    for count, row in enumerate(rows):
        if count % _ROWS == 0:
            check()
        admitted_at, decision_id = row.get("admitted_at"), str(row.get("decision_id"))
        is_in_window = isinstance(admitted_at, int | float) and calendar.window(period, admitted_at).id == window
        if not is_in_window or decision_id in seen:
            continue
        seen[decision_id] = None
        if len(seen) > _REMEMBERED:
            del seen[next(iter(seen))]
        for attempt in row.get("attempts") or ():
            cost = attempt.get("cost_picousd")
            if isinstance(cost, int):
                names = (attempt["deployment"],) if by == "deployment" else row.get("accounts") or ()
                for name in names:
                    found.setdefault(name, SpentOnModel()).add(cost, attempt.get("usage"))
    return found
