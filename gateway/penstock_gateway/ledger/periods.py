"""The windows of budgets: when each begins and ends in the ledger's time zone.

Pure: a moment is an argument. A window's id is what its spend is filed under, so the same moment gives the same id on
every replica, whatever its own zone. Read `Calendar.window`.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from datetime import UTC, date, datetime, time, timedelta, tzinfo
from typing import Final
from zoneinfo import ZoneInfo, ZoneInfoNotFoundError, available_timezones

from penstock_gateway.configuration_problems import nearest_match
from penstock_gateway.ledger.contract import Period

TOTAL_WINDOW: Final = "total"
KEEP_SECONDS: Final = 35 * 86_400
"""How long the spend of a window is kept after its end: the longest month and some days to look at it."""

_HOUR = timedelta(hours=1)
_EARLIEST, _LATEST = 0.0, 253_370_764_800.0  # 1970-01-01 and 9999-01-01: one year short of what `datetime` can hold


class UnknownTimeZone(ValueError):
    """A name that is not in the IANA database of this machine; the message names the nearest that is."""


@dataclass(frozen=True, slots=True)
class Window:
    """One window of one period.

    Attributes
    ----------
    period : Period
    id : str
        ``2026-11-26T14``, ``2026-11-26``, ``2026-W48`` (ISO 8601), ``2026-11`` or ``total``. The second of two hours
        with one name, in the night in which clocks go back, has its offset behind it: ``2026-11-01T01-0500``.
    ends_at : float or None
        UNIX seconds of the first moment that is not in it; None for `Period.TOTAL`.
    """

    period: Period
    id: str
    ends_at: float | None


class Calendar:
    """Windows in one time zone.

    Parameters
    ----------
    zone_name : str
        IANA name, such as ``UTC`` or ``Europe/Berlin``.

    Attributes
    ----------
    zone_name : str

    Raises
    ------
    UnknownTimeZone
    """

    def __init__(self, zone_name: str = "UTC") -> None:
        self.zone_name = zone_name
        self._zone = time_zone(zone_name)
        self._known: dict[Period, tuple[float, Window]] = {}
        self._all: tuple[float, float, tuple[Window, ...]] = (math.inf, -math.inf, ())

    def window(self, period: Period, at: float) -> Window:
        """Return the window that a moment lies in.

        Parameters
        ----------
        period : Period
        at : float
            UNIX seconds. What is before 1970, after 9998 or no number is taken for the nearest moment between.

        Notes
        -----
        O(1): the last window of each period is remembered. A day that a zone skipped (Samoa, 30 December 2011) has no
        window; one of 23 or 25 hours has one as long.
        """
        at = min(max(at, _EARLIEST), _LATEST) if math.isfinite(at) else _EARLIEST
        known = self._known.get(period)
        if known is not None and known[0] <= at and (known[1].ends_at is None or at < known[1].ends_at):
            return known[1]
        window = self._found(period, at)
        self._known[period] = (at, window)
        return window

    def windows(self, at: float) -> tuple[Window, ...]:
        """Return the windows of all five periods, in the order of `Period`."""
        since, until, windows = self._all
        if not since <= at < until:
            windows = tuple([self.window(period, at) for period in Period])
            ends = [window.ends_at for window in windows if window.ends_at is not None]
            self._all = (at, min(ends), windows)
        return windows

    def _found(self, period: Period, at: float) -> Window:
        local = datetime.fromtimestamp(at, self._zone)
        if period is Period.HOUR:
            return Window(period, _hour_id(local), self._hour_end(local, at))
        if period is Period.DAY:
            return Window(period, local.date().isoformat(), self._midnight(local.date() + timedelta(days=1), at))
        if period is Period.WEEK:
            year, week, weekday = local.isocalendar()
            monday = local.date() + timedelta(days=8 - weekday)
            return Window(period, f"{year:04d}-W{week:02d}", self._midnight(monday, at))
        if period is Period.MONTH:
            first = (local.date().replace(day=1) + timedelta(days=32)).replace(day=1)
            return Window(period, f"{local.year:04d}-{local.month:02d}", self._midnight(first, at))
        return Window(period, TOTAL_WINDOW, None)

    def _midnight(self, day: date, after: float) -> float:
        """Return the first moment of a local day; where its midnight is skipped, the moment of the skip."""
        midnight = datetime.combine(day, time(), self._zone)
        begins = midnight.timestamp()
        return begins if begins > after else midnight.replace(fold=1).timestamp()

    def _hour_end(self, local: datetime, at: float) -> float:
        """Return when the name of the hour changes: at the next full hour, or before it, where the clocks are set."""
        name = _hour_id(local)
        offset = local.utcoffset() or timedelta()
        full = datetime(local.year, local.month, local.day, local.hour) + _HOUR - offset
        end = full.replace(tzinfo=UTC).timestamp()
        last = end - 1.0
        if last <= at or _hour_id(datetime.fromtimestamp(last, self._zone)) == name:
            return end
        low, high = math.floor(at), math.floor(last)  # clocks are set at whole seconds
        while high - low > 1:
            middle = (low + high) // 2
            if _hour_id(datetime.fromtimestamp(middle, self._zone)) == name:
                low = middle
            else:
                high = middle
        return float(high)


def time_zone(name: str) -> tzinfo:
    """Return a time zone by its IANA name.

    Raises
    ------
    UnknownTimeZone
    """
    if name == "UTC":
        return UTC  # without the database, which a small container may lack
    try:
        return ZoneInfo(name)
    except (ZoneInfoNotFoundError, ValueError, OSError):
        pass
    known = sorted(available_timezones())
    if not known:
        raise UnknownTimeZone(f"no time zone but UTC is known here: install tzdata to use {name!r}") from None
    match = nearest_match(name.rpartition("/")[2], [zone.rpartition("/")[2] for zone in known])
    near = nearest_match(name, known) or next((zone for zone in known if match and zone.endswith(match)), None)
    hint = f"; did you mean {near!r}?" if near else ", such as 'Europe/Berlin' or 'UTC'"
    raise UnknownTimeZone(f"{name!r} is no IANA time zone{hint}") from None


def moment_ms(at: float) -> int:
    """Return a moment as the event log writes it, in whole milliseconds.

    Parameters
    ----------
    at : float
        UNIX seconds.

    Notes
    -----
    A charge that is rebuilt from the log has to find the same windows and the same mark as the first one. The log
    rounds to three decimals; rounding twice changes nothing.
    """
    if _EARLIEST <= at <= _LATEST:  # as of every request
        return round(round(at, 3) * 1000)
    if not math.isfinite(at):
        return 0
    return round(round(min(max(at, _EARLIEST), _LATEST), 3) * 1000)


def moment(at: float) -> float:
    """Return a moment as the event log writes it, in UNIX seconds of three decimals; see `moment_ms`."""
    return moment_ms(at) / 1000.0


def _hour_id(local: datetime) -> str:
    name = local.strftime("%Y-%m-%dT%H")
    return name if local.fold == 0 else name + local.strftime("%z")
