"""Windows of budgets: names, ends, time zones, nights in which clocks are set, and clocks that are wrong."""

from __future__ import annotations

import math
import sys
import zoneinfo
from datetime import UTC, datetime, timedelta
from zoneinfo import ZoneInfo

import pytest
from hypothesis import given
from hypothesis import strategies as st

from penstock_gateway.ledger import periods
from penstock_gateway.ledger.contract import Period
from penstock_gateway.ledger.periods import Calendar, UnknownTimeZone, moment, moment_ms, time_zone

NEW_YORK, BERLIN = Calendar("America/New_York"), Calendar("Europe/Berlin")
ZONES = (
    "UTC",
    "America/New_York",
    "Europe/Berlin",
    "Asia/Kathmandu",
    "Australia/Lord_Howe",
    "Pacific/Apia",
    "Asia/Beirut",
)


def unix(text: str) -> float:
    """Return the UNIX seconds of a moment with its offset."""
    return datetime.fromisoformat(text).timestamp()


@pytest.mark.parametrize(
    ("period", "window", "ends"),
    [
        (Period.HOUR, "2026-11-26T14", "2026-11-26T15:00:00+00:00"),
        (Period.DAY, "2026-11-26", "2026-11-27T00:00:00+00:00"),
        (Period.WEEK, "2026-W48", "2026-11-30T00:00:00+00:00"),
        (Period.MONTH, "2026-11", "2026-12-01T00:00:00+00:00"),
    ],
)
def test_window_of_each_period_in_utc_has_its_name_and_its_end(period: Period, window: str, ends: str) -> None:
    """A moment lies in the hour, the day, the ISO week from Monday, and the month that its date says."""
    found = Calendar().window(period, unix("2026-11-26T14:59:59.999+00:00"))
    assert (found.id, found.ends_at) == (window, unix(ends))


def test_window_of_the_total_has_no_end() -> None:
    """The endless budget has one window."""
    assert [Calendar().window(Period.TOTAL, at).id for at in (0.0, 4e9)] == ["total", "total"]
    assert Calendar().window(Period.TOTAL, 0.0).ends_at is None


@pytest.mark.parametrize(
    ("at", "week"),
    [
        ("2024-12-29T23:59:59+00:00", "2024-W52"),
        ("2024-12-30T00:00:00+00:00", "2025-W01"),
        ("2021-01-03T23:59:59+00:00", "2020-W53"),
        ("2021-01-04T00:00:00+00:00", "2021-W01"),
    ],
)
def test_window_of_a_week_at_the_turn_of_a_year_is_that_of_iso_8601(at: str, week: str) -> None:
    """A week belongs to the year of its Thursday."""
    assert Calendar().window(Period.WEEK, unix(at)).id == week


@pytest.mark.parametrize("period", [Period.HOUR, Period.DAY, Period.WEEK, Period.MONTH])
@pytest.mark.parametrize("zone", ZONES)
def test_window_at_its_end_gives_way_to_another(zone: str, period: Period) -> None:
    """The last millisecond belongs to a window, and the moment of its end to the next one."""
    calendar = Calendar(zone)
    window = calendar.window(period, unix("2026-11-26T14:17:00+00:00"))
    assert window.ends_at is not None
    assert Calendar(zone).window(period, window.ends_at - 0.001) == window
    assert calendar.window(period, window.ends_at).id != window.id


def test_window_of_a_day_in_a_zone_begins_at_that_zones_midnight() -> None:
    """The same moment is in two days in two zones."""
    at = unix("2026-11-26T02:00:00+00:00")
    assert NEW_YORK.window(Period.DAY, at).id == "2026-11-25"
    assert BERLIN.window(Period.DAY, at).id == "2026-11-26"


def test_window_of_a_day_on_which_clocks_are_set_is_as_long_as_the_day() -> None:
    """A day in spring has 23 hours and one in autumn 25."""
    lengths = []
    for first in ("2026-03-08T00:00:00-05:00", "2026-11-01T00:00:00-04:00"):
        window = NEW_YORK.window(Period.DAY, unix(first))
        assert window.ends_at is not None
        lengths.append((window.ends_at - unix(first)) / 3600.0)
    assert lengths == [23.0, 25.0]


def test_window_of_an_hour_that_comes_twice_is_two_windows() -> None:
    """In the night in which clocks go back, an hourly budget is for an hour, not for two."""
    first = NEW_YORK.window(Period.HOUR, unix("2026-11-01T01:30:00-04:00"))
    second = NEW_YORK.window(Period.HOUR, unix("2026-11-01T01:30:00-05:00"))
    assert (first.id, first.ends_at) == ("2026-11-01T01", unix("2026-11-01T02:00:00-04:00"))
    assert (second.id, second.ends_at) == ("2026-11-01T01-0500", unix("2026-11-01T02:00:00-05:00"))


def test_window_of_an_hour_before_clocks_go_forward_is_followed_by_the_next_but_one() -> None:
    """The hour that is left out has no window."""
    window = NEW_YORK.window(Period.HOUR, unix("2026-03-08T01:59:00-05:00"))
    assert window.ends_at is not None
    assert NEW_YORK.window(Period.HOUR, window.ends_at).id == "2026-03-08T03"


def test_window_of_an_hour_where_clocks_go_back_by_half_an_hour_ends_with_its_name() -> None:
    """On Lord Howe Island the second half of an hour comes twice, and the second time is a window of its own."""
    calendar = Calendar("Australia/Lord_Howe")
    first = calendar.window(Period.HOUR, unix("2026-04-05T01:40:00+11:00"))
    second = calendar.window(Period.HOUR, unix("2026-04-05T01:40:00+10:30"))
    assert (first.id, first.ends_at) == ("2026-04-05T01", unix("2026-04-05T02:00:00+11:00"))
    assert (second.id, second.ends_at) == ("2026-04-05T01+1030", unix("2026-04-05T02:00:00+10:30"))


def test_window_of_a_day_whose_midnight_is_left_out_begins_when_clocks_are_set() -> None:
    """Where clocks go forward at midnight, the day begins at one."""
    calendar = Calendar("Asia/Beirut")
    window = calendar.window(Period.DAY, unix("2026-03-28T23:30:00+02:00"))
    assert window.ends_at == unix("2026-03-29T01:00:00+03:00")
    assert calendar.window(Period.DAY, window.ends_at).id == "2026-03-29"


def test_window_of_a_day_that_a_zone_left_out_does_not_exist() -> None:
    """Samoa went from the 29th to the 31st of December 2011."""
    calendar = Calendar("Pacific/Apia")
    window = calendar.window(Period.DAY, unix("2011-12-29T23:59:59-10:00"))
    assert window.id == "2011-12-29"
    assert window.ends_at is not None
    assert calendar.window(Period.DAY, window.ends_at).id == "2011-12-31"


@pytest.mark.parametrize("at", [math.nan, math.inf, -math.inf, -1e18, 1e18, -5.0])
def test_window_of_a_clock_that_is_wrong_is_some_window(at: float) -> None:
    """A moment that is none, or outside of what calendars have, is filed somewhere instead of failing a request."""
    for window in BERLIN.windows(at):
        assert window.id
    assert moment_ms(at) >= 0


def test_window_after_clocks_jumped_is_that_of_the_moment_not_of_the_last_one_asked() -> None:
    """What is remembered of the last look never answers for another window, in either direction of time."""
    calendar = Calendar("Europe/Berlin")
    moments = [unix("2026-11-26T23:59:59+01:00"), unix("2031-01-01T00:00:00+01:00"), unix("2026-11-25T00:00:00+01:00")]
    names = [calendar.window(Period.DAY, at).id for at in [*moments, *moments]]
    assert names == ["2026-11-26", "2031-01-01", "2026-11-25"] * 2


@given(st.floats(1.2e9, 2.2e9), st.sampled_from(ZONES), st.sampled_from([p for p in Period if p is not Period.TOTAL]))
def test_window_of_any_moment_covers_it_and_ends_when_its_name_does(at: float, zone: str, period: Period) -> None:
    """The end of a window lies behind the moment, within the longest such period, and the name holds until then."""
    longest = {Period.HOUR: 1, Period.DAY: 25, Period.WEEK: 169, Period.MONTH: 31 * 24 + 1}[period]
    window = Calendar(zone).window(period, at)
    assert window.ends_at is not None
    assert at < window.ends_at <= at + longest * 3600.0
    for moment_in_it in (at, (at + window.ends_at) / 2.0, window.ends_at - 0.002):
        assert Calendar(zone).window(period, max(at, moment_in_it)).id == window.id


@given(st.floats(1.2e9, 2.2e9), st.sampled_from(ZONES))
def test_window_of_a_day_at_any_moment_has_the_date_on_the_calendar_there(at: float, zone: str) -> None:
    """The day's name is what a wall calendar in the zone shows, computed another way."""
    offset = datetime.fromtimestamp(at, ZoneInfo(zone)).utcoffset()
    assert offset is not None
    shown = (datetime.fromtimestamp(at, UTC) + offset).date()
    assert Calendar(zone).window(Period.DAY, at).id == shown.isoformat()
    assert Calendar(zone).window(Period.WEEK, at).id == shown.strftime("%G-W%V")
    assert Calendar(zone).window(Period.MONTH, at + 0.0).id == shown.strftime("%Y-%m")


@given(st.floats(0.0, 4e9))
def test_moment_of_an_admission_is_the_same_from_the_log_as_from_the_request(at: float) -> None:
    """The event log writes three decimals; a charge made from it falls in the same millisecond."""
    assert moment_ms(round(at, 3)) == moment_ms(at)
    assert moment(round(at, 3)) == moment(at)


@pytest.mark.parametrize(
    ("name", "near"),
    [("Europe/Berln", "Europe/Berlin"), ("Berlin", "Europe/Berlin"), ("America/New York", "America/New_York")],
)
def test_time_zone_with_a_mistake_in_its_name_is_refused_with_the_nearest(name: str, near: str) -> None:
    """An unknown zone is refused, and the zone that was probably meant is named."""
    with pytest.raises(UnknownTimeZone, match=f"did you mean '{near}'"):
        time_zone(name)


@pytest.mark.parametrize("name", ["Nowhere/AtAll", "../../etc/passwd", "/etc/localtime", "Europe", "x" * 64])
def test_time_zone_that_is_none_is_refused(name: str) -> None:
    """Neither nonsense nor a path is a zone."""
    with pytest.raises(UnknownTimeZone):
        Calendar(name)


def test_time_zone_without_any_database_is_utc_or_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    """A container without a time zone database knows UTC, and says what other zones need."""
    monkeypatch.setattr(periods, "available_timezones", set)
    zoneinfo.ZoneInfo.clear_cache()
    zoneinfo.reset_tzpath(to=[])
    monkeypatch.setitem(sys.modules, "tzdata", None)
    try:
        assert Calendar("UTC").window(Period.DAY, 0.0).id == "1970-01-01"
        with pytest.raises(UnknownTimeZone, match="install tzdata"):
            time_zone("Europe/Vienna")
    finally:
        zoneinfo.reset_tzpath()
        zoneinfo.ZoneInfo.clear_cache()


def test_window_of_every_hour_of_a_year_follows_the_one_before_without_a_gap() -> None:
    """Going from end to end passes each hour of a year once, in a zone that sets its clocks twice."""
    at, names = unix("2026-01-01T00:00:00+01:00"), []
    while at < unix("2027-01-01T00:00:00+01:00"):
        window = BERLIN.window(Period.HOUR, at)
        names.append(window.id)
        assert window.ends_at == at + timedelta(hours=1).total_seconds()
        at = window.ends_at
    assert len(names) == len(set(names)) == 8760
