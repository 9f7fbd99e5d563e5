"""Dates, clock times, weekdays, months and days relative to today, each in one canonical form.

Owns the calendar words and the reading of dates. A date is a tuple (year, month, day) with zeros for what is not
said, so "12 March" and "March 12th" are equal. Read `read_dates`, then `compare_dates`.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from types import MappingProxyType
from typing import NamedTuple

from penstock_cache.guards.numbers import Numbers, NumberValue, ReadNumber
from penstock_cache.guards.tokens import CAPITAL, DATE, DIGIT, NUMBER, Token, listed
from penstock_cache.guards.verdicts import ABSENT, AGREE, DIFFER, Verdict

Date = tuple[int, int, int]


class Dates(NamedTuple):
    """What a text says about when.

    Attributes
    ----------
    dates : frozenset of (year, month, day)
        Zero where unsaid; a numeric date of unclear order has its two numbers as written.
    months, weekdays : frozenset of int
        Named alone: 1 to 12; 0 is Monday.
    maybe_months : frozenset of int
        Words that may be months or not: "march", "may".
    times : frozenset of int
        Minutes after midnight; negative (−1 − minutes) where am or pm is unsaid.
    relative : frozenset of str
        Such as "+1 day" (tomorrow), "+1 week" (next week), "-1 month" (last month).
    day_parts : frozenset of str
        Morning, afternoon, night; an evening is one, for people say "tonight" for "this evening".
    raw_values : frozenset
        Numbers that were taken for the above.
    """

    dates: frozenset[Date]
    months: frozenset[int]
    maybe_months: frozenset[int]
    weekdays: frozenset[int]
    times: frozenset[int]
    relative: frozenset[str]
    day_parts: frozenset[str]
    raw_values: frozenset[NumberValue]


_NONE: frozenset[int] = frozenset()
NO_DATES = Dates(frozenset(), _NONE, _NONE, _NONE, _NONE, frozenset(), frozenset(), frozenset())

_MONTH_NAMES = (
    "january jan|february feb|march mar|april apr|may|june jun|july jul|august aug|september sep sept|october oct"
    "|november nov|december dec"
)
_WEEKDAY_NAMES = (
    "monday mon mondays|tuesday tue tues tuesdays|wednesday wednesdays weds|thursday thu thur thurs thursdays"
    "|friday fri fridays|saturday saturdays|sunday sundays"
)


def _numbered(names: str, first: int) -> Mapping[str, int]:
    groups = enumerate(names.split("|"), start=first)
    return MappingProxyType({word: number for number, words in groups for word in words.split()})


_MONTHS = _numbered(_MONTH_NAMES, 1)
_WEEKDAYS = _numbered(_WEEKDAY_NAMES, 0)
_RELATIVE: Mapping[str, str] = MappingProxyType(
    {"today": "0 day", "todays": "0 day", "today's": "0 day", "tonight": "0 day", "tonight's": "0 day"}
    | {"tomorrow": "+1 day", "tomorrows": "+1 day", "tomorrow's": "+1 day", "tmrw": "+1 day", "tomorow": "+1 day"}
    | {"yesterday": "-1 day", "yesterday's": "-1 day", "yesterdays": "-1 day", "weekend": "0 weekend"}
)
_DAY_PARTS: Mapping[str, str] = MappingProxyType(
    {"morning": "morning", "mornings": "morning", "afternoon": "afternoon", "afternoons": "afternoon"}
    | {"evening": "night", "evenings": "night", "night": "night", "nights": "night", "tonight": "night"}
)
_SHIFTS: Mapping[str, str] = MappingProxyType(
    {"next": "+1", "following": "+1", "last": "-1", "previous": "-1", "past": "-1"}
    | {"this": "0", "current": "0", "coming": "0", "upcoming": "0"}
)
_SPANS: Mapping[str, str] = MappingProxyType(
    {span: span for span in ("week", "weekend", "month", "quarter", "year", "decade", "century", "summer")}
    | {span: span for span in ("winter", "spring", "autumn", "semester", "season")}
)
_HALVES: Mapping[str, str] = MappingProxyType(
    {"morning": "am", "afternoon": "pm", "evening": "pm", "tonight": "pm", "night": "night"}
)
_CLOCK_WORDS: Mapping[str, int] = MappingProxyType({"noon": 720, "midday": 720, "midnight": 0})
# What goes without saying: "weather today" is "weather", "I slept badly last night" is "I slept badly".
_DEFAULTS = frozenset({"-1 night", "-1 one"} | {f"0 {span}" for span in ("day", *_SPANS) if span != "weekend"})
_AMBIGUOUS_MONTHS = frozenset({"march", "may", "mar", "august", "jan", "dec", "jun"})
_BEFORE_MONTH = frozenset(listed("in of by since until till this next last early late mid during for from to every"))
_HALF_DAY = 720
TRIGGERS = frozenset(
    _MONTHS.keys() | _WEEKDAYS.keys() | _RELATIVE.keys() | _DAY_PARTS.keys() | _SHIFTS.keys() | _CLOCK_WORDS.keys()
) | {"am", "pm", "o'clock", "oclock", "ago"}

_ISO = re.compile(r"(?<!\d)(\d{4})[-/.](\d{1,2})[-/.](\d{1,2})(?!\d)")
_NUMERIC = re.compile(r"(?<![\d/.-])(\d{1,2})([/.-])(\d{1,2})\2(\d{4}|\d{2})(?![\d/.-])")


class _Reading:
    """Collects what one text says about when; numbers used are added to `taken`."""

    def __init__(self, tokens: Sequence[Token], numbers: Sequence[ReadNumber], taken: set[int]) -> None:
        self.tokens = tokens
        self.starts = {number.start: number for number in numbers}
        self.ends = {number.end: number for number in numbers}
        self.taken = taken
        self.raw: set[NumberValue] = set()
        self.dates: set[Date] = set()
        self.months: set[int] = set()
        self.maybe_months: set[int] = set()
        self.weekdays: set[int] = set()
        self.times: set[int] = set()
        self.relative: set[str] = set()
        self.day_parts: set[str] = set()

    def low(self, index: int) -> str:
        return self.tokens[index].low if 0 <= index < len(self.tokens) else ""

    def take(self, number: ReadNumber | None, lowest: int, highest: int) -> int:
        """Value of a whole number in a range, which is then taken; else zero."""
        if number is None or number.start in self.taken or not isinstance(number.value, float):
            return 0
        if number.value != int(number.value) or not lowest <= number.value <= highest:
            return 0
        self.taken.add(number.start)
        self.raw.add(number.value)
        return int(number.value)

    def finish(self) -> Dates:
        found = (self.dates, self.months, self.maybe_months, self.weekdays, self.times, self.relative, self.day_parts)
        if not any(found):
            return NO_DATES
        return Dates(
            frozenset(self.dates),
            frozenset(self.months),
            frozenset(self.maybe_months),
            frozenset(self.weekdays),
            frozenset(self.times),
            frozenset(self.relative),
            frozenset(self.day_parts),
            frozenset(self.raw),
        )


def read_dates(text: str, tokens: Sequence[Token], numbers: Sequence[ReadNumber], flags: int, taken: set[int]) -> Dates:
    """Read what a text says about when; the first token of each number used is added to `taken`.

    Parameters
    ----------
    text : str
        In normal form.
    tokens, numbers : sequence
    flags : int
        Of all tokens together.
    taken : set of int
        Changed in place.
    """
    if not numbers and not flags & DATE:
        return NO_DATES
    reading = _Reading(tokens, numbers, taken)
    if flags & NUMBER and numbers:
        if flags & DIGIT and max(map(text.count, "/-.")) > 1:
            _numeric_dates(text, reading)
        if len(numbers) > 1:
            _spoken_times(reading)
        _clock_times(reading)
    if flags & DATE:
        for index, token in enumerate(tokens):
            if token.flags & DATE:
                _calendar_word(reading, index, token)
    return reading.finish()


def _numeric_dates(text: str, reading: _Reading) -> None:
    """Dates of digits only; month and day are told apart where one of them is above 12."""
    for match in _ISO.finditer(text):
        reading.dates.add((int(match[1]), int(match[2]), int(match[3])))
        _take_written(reading, match.group())
    for match in _NUMERIC.finditer(text):
        first, second, year = int(match[1]), int(match[3]), int(match[4])
        year += 2000 if year < 100 else 0
        if first > 31 or second > 31 or max(first, second) == 0:
            continue
        reading.dates.add((year, second, first) if first > 12 else (year, first, second))
        _take_written(reading, match.group())


def _take_written(reading: _Reading, written: str) -> None:
    """Take the numbers that a numeric date was written with."""
    parts = {float(part) for part in re.split(r"[-/.]", written)}
    for number in reading.starts.values():
        if number.value in parts or number.value == written or number.end - number.start == 3:
            reading.taken.add(number.start)


def _spoken_times(reading: _Reading) -> None:
    """Times such as "half past five", "quarter to nine", "ten past six in the morning"."""
    for number in list(reading.starts.values()):
        sign = {"past": 1, "to": -1, "after": 1}.get(reading.low(number.end), 0)
        hour = reading.starts.get(number.end + 1)
        if number.value == 0.5 and reading.starts.get(number.end) is not None:
            sign, hour = 1, reading.starts[number.end]  # "half seven" is half past seven in Britain
        if not sign or hour is None or number.start in reading.taken or not isinstance(number.value, float):
            continue
        if not isinstance(hour.value, float) or hour.value != int(hour.value) or not 1 <= hour.value <= 12:
            continue
        shift = round(number.value * 60) if number.value in {0.5, 0.25} else number.value
        is_spoken = number.value in {0.5, 0.25} or (shift in {5, 10, 20, 25} and sign > 0)
        part = _part_of_day(reading, hour.end)
        if is_spoken or (shift in {5, 10, 20, 25} and part):
            minutes = (int(hour.value) * 60 + sign * int(shift)) % _HALF_DAY
            reading.times.add(_in_half(minutes, part) if part else -1 - minutes)
            reading.taken.update({number.start, hour.start})


def _clock_times(reading: _Reading) -> None:
    for number in reading.starts.values():
        if number.start in reading.taken:
            continue
        minutes = _minutes(number.value, reading, number)
        if minutes is not None:
            reading.times.add(minutes)
            reading.taken.add(number.start)
            reading.raw.add(number.value)
            reading.raw |= _as_numbers(minutes)


def _minutes(value: NumberValue, reading: _Reading, number: ReadNumber) -> int | None:
    """Minutes after midnight of "5 pm", "17:30", "5 o'clock", "7 in the morning"; None for another number."""
    after = reading.low(number.end)
    if isinstance(value, str):
        parts = value.split(":")
        if len(parts) != 2 or not all(part.isdecimal() and len(part) <= 2 for part in parts):
            return None
        hour, minute = int(parts[0]), int(parts[1])
    elif value == int(value) and 0 <= value <= 24 and not number.is_ordinal:
        hour, minute = int(value), 0
        if after not in {"am", "pm", "o'clock", "oclock"} and not _part_of_day(reading, number.end):
            return None
    elif after in {"am", "pm"} and 1 <= value < 13 and round(value % 1 * 100) < 60:
        hour, minute = int(value), round(value % 1 * 100)
    else:
        return None
    if hour > 24 or minute > 59:
        return None
    part = after if after in {"am", "pm"} else _part_of_day(reading, number.end)
    minutes = hour * 60 + minute
    return _in_half(minutes, part)


def _in_half(minutes: int, part: str) -> int:
    """Minutes of the day in the half named; by night, six and later is before midnight."""
    on_dial = minutes % _HALF_DAY
    if part == "night":
        return on_dial + (_HALF_DAY if on_dial >= _HALF_DAY // 2 else 0)
    if part:
        return on_dial + (_HALF_DAY if part == "pm" else 0)
    return minutes if minutes > _HALF_DAY + 59 or minutes < 60 else -1 - on_dial


def _part_of_day(reading: _Reading, index: int) -> str:
    """Half of the day named by "in the morning" and the like right after an hour."""
    if reading.low(index) in {"o'clock", "oclock"}:
        index += 1
    if reading.low(index) in {"am", "pm"}:
        return reading.low(index)
    if reading.low(index) == "in" and reading.low(index + 1) == "the":
        return _HALVES.get(reading.low(index + 2), "")
    if reading.low(index) == "at" and reading.low(index + 1) == "night":
        return "night"
    return _HALVES.get(reading.low(index), "")


def _calendar_word(reading: _Reading, index: int, token: Token) -> None:
    word = token.low
    if word in _MONTHS:
        _month(reading, index, token)
    elif word in _WEEKDAYS:
        reading.weekdays.add(_WEEKDAYS[word])
    elif word in _CLOCK_WORDS:
        reading.times.add(_CLOCK_WORDS[word])
        reading.raw.add(12.0)
    elif word in _SHIFTS:
        _shifted(reading, word, reading.low(index + 1))
    elif word == "ago" and reading.low(index - 2) in {"a", "an", "one"} and reading.low(index - 1) in _SPANS:
        reading.relative.add(f"-1 {reading.low(index - 1)}")
    if word in _RELATIVE and not (word == "weekend" and reading.low(index - 1) in _SHIFTS):
        reading.relative.add(_RELATIVE[word])
    if word in _DAY_PARTS:
        reading.day_parts.add(_DAY_PARTS[word])


def _shifted(reading: _Reading, word: str, span: str) -> None:
    """What "next week", "last night", "this Monday" say; one day of this week needs no shift."""
    if span in _SPANS or (_SHIFTS[word] != "0" and (span in _WEEKDAYS or span in _DAY_PARTS)):
        unit = _SPANS.get(span) or _DAY_PARTS.get(span, "one")
        reading.relative.add(f"{_SHIFTS[word]} {unit}")
    elif span in _DAY_PARTS:
        reading.relative.add("0 day")


def _month(reading: _Reading, index: int, token: Token) -> None:
    """A month with the day and year around it; a word with another use needs such company."""
    month = _MONTHS[token.low]
    before = reading.ends.get(index) or (reading.ends.get(index - 1) if reading.low(index - 1) == "of" else None)
    day = reading.take(before, 1, 31)
    comma = index + 1
    if not day:
        after = reading.starts.get(index + 1 + (reading.low(index + 1) == "the"))
        day = reading.take(after, 1, 31)
        if day and after:
            comma = after.end
    year = reading.take(reading.starts.get(comma + (reading.low(comma) in {",", "of", "in", "'"})), 1000, 2999)
    if day or year:
        reading.dates.add((year, month, day))
    elif token.low not in _AMBIGUOUS_MONTHS or reading.low(index - 1) in _BEFORE_MONTH:
        reading.months.add(month)
    else:
        is_name = token.flags & CAPITAL and index and token.low != "may"
        (reading.months if is_name else reading.maybe_months).add(month)


def compare_dates(
    left: Dates, right: Dates, left_numbers: Numbers, right_numbers: Numbers, *, is_loose: bool
) -> Verdict:
    """Compare what two texts say about when.

    Parameters
    ----------
    left, right : Dates
    left_numbers, right_numbers : Numbers
        Those that no unit or date has taken: "at 7" may mean "at 7 am".
    is_loose : bool
        The texts are long and in quite other words: days relative to today and parts of the day are then told in
        passing and not compared.
    """
    if left is NO_DATES and right is NO_DATES:
        return ABSENT
    if left.dates != right.dates or left.weekdays != right.weekdays:
        return DIFFER
    if left.months - right.months - right.maybe_months or right.months - left.months - left.maybe_months:
        return DIFFER
    if not _times_agree(left.times, right.times, right_numbers) or not _times_agree(
        right.times, left.times, left_numbers
    ):
        return DIFFER
    if not is_loose and not _relative_agree(left, right):
        return DIFFER
    is_said_by_both = left.relative == right.relative and left.day_parts == right.day_parts
    return AGREE if is_said_by_both else ABSENT


def _relative_agree(left: Dates, right: Dates) -> bool:
    """Whether days relative to today are the same, and a part of the day is not another one."""
    ignored = _DEFAULTS
    if "-1 night" in left.relative | right.relative:
        ignored = ignored | {"-1 day"}  # "last night" is "yesterday evening"
    if left.relative - ignored != right.relative - ignored:
        return False
    return not (left.day_parts and right.day_parts) or bool(left.day_parts & right.day_parts)


def _times_agree(times: frozenset[int], others: frozenset[int], numbers: Numbers) -> bool:
    """Whether each time has an equal one; where am or pm is unsaid, half a day apart is equal."""
    return all(
        time in others
        or any((time < 0 or other < 0) and _on_dial(time) == _on_dial(other) for other in others)
        or not _as_numbers(time).isdisjoint(numbers.hard | numbers.soft)
        for time in times
    )


def _as_numbers(time: int) -> frozenset[float]:
    """A time as a bare number: hours on the dial, in full, or with minutes after the point."""
    hour, minute = divmod(_on_dial(time), 60)
    return frozenset({round(hours + minute / 100, 2) for hours in (hour or 12, hour + 12)})


def _on_dial(time: int) -> int:
    return (time if time >= 0 else -1 - time) % _HALF_DAY
