"""Guards on any text: no error, no verdict that depends on the side, and no text that differs from itself."""

from __future__ import annotations

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from penstock_cache.guards import Verdict, compare, signature_of
from penstock_cache.guards.tokens import listed

# Pieces that every guard reads, so that generated texts reach each of them in odd company.
PIECES = listed(
    "not n't can't don't no. never without turn switch on off log in out up down enable disable more less than least"
    " most"
    " 5 5.5 1,000 1.2.3 12:30 25:99 9999999999999999999 ½ ² ٣ 1/2 1/0 12/03/2026 2026-13-45 31.31.31 '98 80s 3rd II iv"
    " twenty two hundred and half a quarter past to million grand km kilometres $ € % °C mph / per hour pounds degrees"
    " march May 12 monday tomorrow last next week night this in the morning am pm o'clock noon ago Paris New York US"
    " C++ C# --flag snake_case camelCase a.b.c ./x/y f(x) `x y` == != -> \\frac .py git merge python 3.10 v2"
    " from by minus divided of before after instead vs french German into as table list json in one sentence briefly"
    " why how much what is which ? . , ; : ! - _ \" ' ( ) 你 好 für и עם \u0301 \u200b \U0001f600"
)
texts = st.one_of(
    st.text(max_size=80),
    st.lists(st.one_of(st.sampled_from(PIECES), st.text(max_size=4)), max_size=14).map(" ".join),
    st.lists(st.sampled_from(PIECES), max_size=10).map("".join),
)


@settings(max_examples=400)
@given(texts, texts)
@example("\u0130", "i\u0307")
@example("\ufdfa" * 3, "'s")
@example("'", "'98")
@example("½ ½", "1\u20442")
@example("٣ km ٣.٣", "3 km 3.3")
def test_guards_on_any_two_texts_give_the_same_verdicts_both_ways(one: str, other: str) -> None:
    """Reading and comparing raise on no text, and no verdict depends on which text came first."""
    a, b = signature_of(one), signature_of(other)
    forth, back = compare(a, b), compare(b, a)
    assert forth.verdicts() == back.verdicts()
    assert tuple(forth.leftovers) == tuple(reversed(back.leftovers))


@settings(max_examples=400)
@given(texts)
def test_guards_on_any_text_and_itself_find_no_difference(text: str) -> None:
    """A text never differs from itself, and reading it twice gives one signature."""
    signature = signature_of(text)
    assert signature == signature_of(text)
    report = compare(signature, signature)
    assert Verdict.DIFFER not in report.verdicts()
    assert report.vetoes == ()
    assert report.residual is Verdict.AGREE


@given(st.binary(max_size=200))
def test_guards_on_bytes_read_as_text_never_raise(content: bytes) -> None:
    """Bytes of any kind, decoded in any usual way, are read without an error."""
    for text in (
        content.decode("utf-8", "replace"),
        content.decode("latin-1"),
        content.decode("utf-8", "surrogateescape"),
    ):
        compare(signature_of(text), signature_of("how do I turn off dark mode"))


LONG_PIECES = ("not ", "from Leeds to York ", "twenty ", "5 km 6 miles ", "no no ", "turn on off ", "in French ")


@pytest.mark.parametrize("piece", [*"a9(`-$'你 ", "9,", "1.", "a.", "a_", "/a", "\\a", "a-", "f(", *LONG_PIECES])
def test_guards_on_a_long_run_of_one_piece_read_it_to_the_end(piece: str) -> None:
    """No pattern backtracks and no comparison explodes: a run of any piece is read, and differs from nothing."""
    signature = signature_of(piece * 5_000)
    assert compare(signature, signature).vetoes == ()
    assert signature == signature_of(piece * 5_000)
