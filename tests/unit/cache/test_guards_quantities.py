"""Guards on numbers, units and dates: two writings of one value agree, two values differ."""

from __future__ import annotations

import pytest

from penstock_cache.guards import Verdict, compare, signature_of
from penstock_cache.guards.numbers import number_value


def _verdict(guard: str, one: str, other: str) -> Verdict:
    verdict = getattr(compare(signature_of(one), signature_of(other)), guard)
    assert isinstance(verdict, Verdict)
    return verdict


@pytest.mark.parametrize(
    ("written", "value"),
    [
        ("20", 20.0),
        ("1,000", 1000.0),
        ("12,34,567", 1234567.0),
        ("1.000.000", 1000000.0),
        ("1,000.5", 1000.5),
        ("2.5", 2.5),
        ("2,5", 2.5),
        ("1.2.3", "1.2.3"),
        ("12:30", "12:30"),
        ("12345678901234567890", "12345678901234567890"),
    ],
)
def test_number_value_of_any_grouping_is_the_number(written: str, value: float | str) -> None:
    """Separators change no value; what is no quantity stays text, digit for digit."""
    assert number_value(written) == value


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ("I have twenty apples", "I have 20 apples"),
        ("I have twenty-five apples", "I have 25 apples"),
        ("what is two hundred and fifty plus one", "what is 250 plus 1"),
        ("three thousand four hundred seats", "3,400 seats"),
        ("a budget of 1,000", "a budget of 1000"),
        ("raise 10k", "raise 10,000"),
        ("three grand in savings", "3000 in savings"),
        ("half a million users", "500,000 users"),
        ("the 3rd chapter", "the third chapter"),
        ("World War II", "world war 2"),
        ("½ plus 3", "1/2 plus 3"),
        ("fashion of the 1980s", "eighties fashion"),
        ("the '98 finals", "the 1998 finals"),
        ("which one has 4 wheels", "which has four wheels"),
        ("the two options for 4 people", "options for 4 people"),
    ],
)
def test_numbers_in_two_writings_agree(one: str, other: str) -> None:
    """A number is its value: digits, words, ordinals, fractions, Roman numerals and short forms are one."""
    assert _verdict("numbers", one, other) is not Verdict.DIFFER
    assert "numbers" not in compare(signature_of(one), signature_of(other)).vetoes


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ("pick 5 cards", "pick 6 cards"),
        ("twenty one people", "twenty people"),
        ("two tickets please", "three tickets please"),
        ("the first world war", "the second world war"),
        ("eighties music", "nineties music"),
        ("list 10 ideas", "list ideas"),
        ("1.5 of it", "15 of it"),
        ("order 12345678901234567890", "order 12345678901234567891"),
        ("host 10.0.0.1", "host 10.0.0.2"),
    ],
)
def test_numbers_of_two_values_differ(one: str, other: str) -> None:
    """Another value, or a value that only one text has, forbids reuse."""
    assert "numbers" in compare(signature_of(one), signature_of(other)).vetoes


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ("run 5 km", "run 5 kilometres"),
        ("run 5km", "run 5,000 metres"),
        ("a limit of 20 mph", "a limit of twenty miles per hour"),
        ("coffee for $5", "coffee for 5 dollars"),
        ("a $1.5m house", "a house for 1500000 dollars"),
        ("wait half an hour", "wait 30 minutes"),
        ("a 30-second ad", "an ad of half a minute"),
        ("2 GB of memory", "2 gigabytes of memory"),
        ("50% off", "fifty percent off"),
        ("12 months of rent", "1 year of rent"),
        ("logs older than 7 days", "logs older than a week"),
        ("run 5 today", "run 5 km today"),
        ("it weighs 5 pounds", "it weighs 5 lbs"),
    ],
)
def test_units_of_one_quantity_do_not_differ(one: str, other: str) -> None:
    """A quantity is its value in one unit of its dimension, however both are written."""
    report = compare(signature_of(one), signature_of(other))
    assert {"units", "numbers"}.isdisjoint(report.vetoes)


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ("run 5 km", "run 5 miles"),
        ("5 mg of salt", "5 g of salt"),
        ("a $20 shirt", "a €20 shirt"),
        ("a limit of 10 MB", "a limit of 10 GB"),
        ("distance to the moon in km", "distance to the moon in miles"),
        ("timestamp in milliseconds", "timestamp in seconds"),
        ("bake at 200 celsius", "bake at 200 fahrenheit"),
        ("wait 2 weeks", "wait 2 years"),
        ("price in euros", "price in yen"),
    ],
)
def test_units_of_two_quantities_differ(one: str, other: str) -> None:
    """The same number of another unit is another quantity, and so is another unit asked for."""
    assert "units" in compare(signature_of(one), signature_of(other)).vetoes


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ("what happened on 12 March", "what happened on March 12"),
        ("news of 12 March 2024", "news of March 12th, 2024"),
        ("news of 2024-03-12", "news of 12 March 2024"),
        ("the invoice for March 2023", "the March '23 invoice"),
        ("meet at 5 pm", "meet at 17:00"),
        ("meet at half past five in the evening", "meet at 17:30"),
        ("leaves at quarter to nine", "leaves at 8:45"),
        ("the bus at 9.30", "the bus at 9:30"),
        ("call at 7", "call at 7 am"),
        ("open at noon", "open at 12"),
        ("weather today", "weather"),
        ("call me tomorrow", "call me tmrw"),
        ("what is on tonight", "what is on this evening"),
        ("snow on Saturday", "any snow coming saturday"),
        ("Monday's meeting", "the meeting on Monday"),
    ],
)
def test_dates_in_two_writings_do_not_differ(one: str, other: str) -> None:
    """A date, a time or a weekday is one in any order, clock or abbreviation; today goes without saying."""
    report = compare(signature_of(one), signature_of(other))
    assert {"dates", "numbers", "units"}.isdisjoint(report.vetoes)


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ("what happened on 12 March", "what happened on 13 March"),
        ("news of 1 May 2023", "news of 1 May 2024"),
        ("weather today", "weather tomorrow"),
        ("open on Monday", "open on Tuesday"),
        ("last month's sales", "next month's sales"),
        ("meet at 5 am", "meet at 5 pm"),
        ("events in June", "events in July"),
        ("the run this morning", "the run this afternoon"),
    ],
)
def test_dates_of_two_days_differ(one: str, other: str) -> None:
    """Another day, month, year, clock time or shift from today forbids reuse."""
    assert "dates" in compare(signature_of(one), signature_of(other)).vetoes


def test_dates_of_a_month_that_is_also_a_verb_need_company() -> None:
    """ "March" and "may" are months only next to a day, a year or a preposition."""
    assert _verdict("dates", "they march and may sing", "they sing") is not Verdict.DIFFER
    assert _verdict("dates", "a trip in march", "a trip in april") is Verdict.DIFFER
