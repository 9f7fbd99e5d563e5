"""Numbers in any of their written forms are read as what they are, and no text breaks the reader."""

from __future__ import annotations

from decimal import Decimal

import pytest
from hypothesis import given
from hypothesis import strategies as st

from penstock_training.scorers.fenced import fenced_blocks
from penstock_training.scorers.final_answer import final_answer, normal_form, option_letter
from penstock_training.scorers.judge_client import object_in
from penstock_training.scorers.number_text import WrittenNumber, are_equal, numbers_in
from penstock_training.scorers.terminal_text import harmless, wrapped

DECIMALS = st.decimals(min_value=-(10**15), max_value=10**15, places=6, allow_nan=False, allow_infinity=False)


@pytest.mark.parametrize(
    ("text", "values"),
    [
        ("1,234.5", ["1234.5"]),
        ("12,345,678", ["12345678"]),
        ("1, 2 and 3", ["1", "2", "3"]),
        ("1,2", ["1", "2"]),
        ("1\u202f234\u00a0567 people", ["1234567"]),
        ("team 3 100 points", ["3", "100"]),
        ("-5", ["-5"]),
        ("−5", ["-5"]),
        ("10-5", ["10", "5"]),
        ("x-5", ["5"]),
        ("$1,000", ["1000"]),
        ("-$3.50", ["-3.50"]),
        ("5kg", ["5"]),
        (".5", ["0.5"]),
        ("5.", ["5"]),
        ("3e8 m/s", ["300000000"]),
        ("1.5E-3", ["0.0015"]),
        ("6.02 × 10^23", ["6.02E+23"]),
        (r"6.02 \times 10^{23}", ["6.02E+23"]),
        ("3/4", ["0.75"]),
        ("1 1/2 cups", ["1.5"]),
        (r"\frac{3}{4}", ["0.75"]),
        (r"-\dfrac{3}{4}", ["-0.75"]),
        (r"\frac{-3}{4}", ["-0.75"]),
        ("1/0", []),
        ("1e99999", []),
        ("v2.0 of file3", []),
        ("1,234,56", ["1234", "56"]),
        ("1{,}000", ["1000"]),
        ("007", ["7"]),
        ("no number", []),
        ("", []),
    ],
)
def test_numbers_in_a_text_are_read_as_written(text: str, values: list[str]) -> None:
    """Each written form has one meaning."""
    assert [number.value for number in numbers_in(text)] == [Decimal(value) for value in values]


@pytest.mark.parametrize("text", ["12 %", "12%", r"12\%", "12 percent", "12 per cent"])
def test_numbers_with_a_percent_sign_are_marked(text: str) -> None:
    """A percentage keeps its number and is known as one."""
    assert numbers_in(text) == [WrittenNumber(Decimal(12), True)]


def test_numbers_with_a_decimal_comma_are_read_when_asked_for() -> None:
    """With a comma as the mark, points group thousands."""
    values = [number.value for number in numbers_in("1.234,5 und 0,25", "comma")]
    assert values == [Decimal("1234.5"), Decimal("0.25")]


@pytest.mark.parametrize(
    ("given_text", "wanted_text", "equal"),
    [
        ("50%", "50", True),
        ("50%", "0.5", True),
        ("0.5", "50%", True),
        ("50", "50%", True),
        ("50%", "50%", True),
        ("0.5%", "50%", False),
        ("50%", "5", False),
    ],
)
def test_percentage_against_a_plain_number_may_mean_either(given_text: str, wanted_text: str, equal: bool) -> None:
    """One percent sign more or less is no error; between two percentages nothing is guessed."""
    (one,), (other,) = numbers_in(given_text), numbers_in(wanted_text)
    assert are_equal(one, other, relative=0.0, absolute=0.0) is equal


def test_whole_numbers_of_twenty_digits_are_compared_exactly() -> None:
    """Numbers beyond a float's precision still differ in their last digit."""
    one, other = (WrittenNumber(Decimal(f"1234567890123456789{digit}"), False) for digit in "12")
    assert not are_equal(one, other, relative=0.0, absolute=0.0)


@given(DECIMALS)
def test_number_of_any_value_is_read_in_every_form(value: Decimal) -> None:
    """Plain, grouped, scientific, boxed in words: the value is the same."""
    expected = WrittenNumber(value, False)
    for text in (f"{value:f}", f"{value:,f}", f"so it is {value:f} kg.", f"{value:E}", f"(${abs(value):,f})"):
        found = numbers_in(text)
        assert len(found) == 1, text
        wanted = abs(value) if "$" in text else expected.value
        assert found[0].value == wanted, text


@given(st.integers(-(10**6), 10**6), st.integers(1, 10**6))
def test_fraction_of_any_two_integers_is_their_quotient(above: int, below: int) -> None:
    """A fraction equals its quotient to the reader's 50 digits."""
    for text in (f"{above}/{below}", rf"\frac{{{above}}}{{{below}}}"):
        found = numbers_in(text)
        assert len(found) == 1, text
        assert abs(found[0].value * below - above) < Decimal("1e-30")


@given(st.text(max_size=300))
def test_readers_of_any_text_never_fail(text: str) -> None:
    """Whatever a model writes is read without an error, and numbers that are found are finite."""
    for mark in ("point", "comma"):
        assert all(number.value.is_finite() for number in numbers_in(text, mark))
    final_answer(text)
    assert option_letter(text) in {None, *"ABCDEFGHIJ"}
    assert normal_form(normal_form(text)) == normal_form(text)


@pytest.mark.parametrize(
    "piece", ["`", "```\n````\n", "\\boxed{", "answer: ", "1,111", "1 ", "\x9d", "\x1b]", "{", "~~~ `", "####\n"]
)
def test_readers_of_one_thing_repeated_for_ever_come_back(piece: str) -> None:
    """Degenerate answers of 200,000 characters are read; what would be quadratic runs into the test's time-out."""
    text = piece * (200_000 // len(piece))
    final_answer(text)
    option_letter(text)
    numbers_in(text)
    fenced_blocks(text)
    object_in(text)
    harmless(text)


@given(st.text(alphabet="0123456789,./ \\{}frac-+eE×10^%$ ", max_size=400))
def test_numbers_in_digit_soup_are_read_in_linear_time(text: str) -> None:
    """Long runs of digits and separators neither fail nor hang."""
    for mark in ("point", "comma"):
        numbers_in(text * 20, mark)


@given(st.text(alphabet=st.characters() | st.sampled_from("\x1b\x9b[];0123mHJ\x07"), max_size=200), st.integers(1, 120))
def test_harmless_text_of_any_origin_holds_no_control_character(text: str, width: int) -> None:
    """Whatever a model writes, the terminal gets printable characters and line ends only, in lines of its width."""
    shown = harmless(text)
    assert all(character == "\n" or character.isprintable() or character.isspace() for character in shown)
    assert not any(ord(character) < 32 and character != "\n" for character in shown)
    assert not any(127 <= ord(character) < 160 for character in shown)
    assert all(len(line) <= max(20, width) for line in wrapped(text, width).split("\n"))
