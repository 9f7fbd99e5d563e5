"""Signatures and reports: what is read once, what vetoes, and what the token cache must not change."""

from __future__ import annotations

import msgspec
import pytest

from penstock_cache.guards import GUARD_NAMES, VETO_GUARDS, GuardReport, PromptSignature, Verdict, compare, signature_of
from penstock_cache.guards.agreement import examine
from penstock_cache.guards.readings import read_tokens
from penstock_cache.guards.stems import form_of, stem_of
from penstock_cache.guards.tokens import normal_form, tokenise

PAIRS = [
    ("turn dark mode on", "turn dark mode off"),
    ("run 5 km on 12 March", "run 5 kilometres on March 12"),
    ("fly from London to Paris", "fly from Paris to London"),
    ("I don't smoke, is 118/76 normal", "non smoker, is 118/76 normal"),
    ("write `sort_ascending` in Python 3.10", "write `sort_descending` in Python 3.1"),
    ("explain it in French as a table", "explain it in Spanish as a list"),
    ("who is Ada Lovelace", "tell me who Alan Turing is, in 50 words or less"),
    ("", "anything at all"),
    ("你好吗", "how are you"),
]


@pytest.mark.parametrize(("one", "other"), PAIRS)
def test_compare_of_exchanged_texts_gives_the_same_verdicts(one: str, other: str) -> None:
    """No verdict depends on which text came first; the leftovers change sides."""
    forth = compare(signature_of(one), signature_of(other))
    back = compare(signature_of(other), signature_of(one))
    assert forth.verdicts() == back.verdicts()
    assert forth.vetoes == back.vetoes
    assert tuple(forth.leftovers) == tuple(reversed(back.leftovers))


@pytest.mark.parametrize("text", [text for pair in PAIRS for text in pair])
def test_compare_of_a_text_with_itself_has_no_difference(text: str) -> None:
    """A text never differs from itself, in capitals or not."""
    report = compare(signature_of(text), signature_of(text))
    assert Verdict.DIFFER not in report.verdicts()
    assert report.vetoes == ()


def test_compare_of_texts_that_say_both_ways_does_not_differ() -> None:
    """Where a text says both directions, neither is the other way round."""
    both = signature_of("trains from Leeds to York and from York to Leeds")
    assert "order" not in compare(both, signature_of("trains from Leeds to York")).vetoes


def test_guard_report_of_any_pair_names_every_guard() -> None:
    """The report has one verdict per guard, in the stated order, and only vetoing guards among its vetoes."""
    assert set(VETO_GUARDS) < set(GUARD_NAMES)
    assert set(GUARD_NAMES) | {"leftovers"} == set(GuardReport.__struct_fields__)
    report = compare(signature_of("run 5 km in paris"), signature_of("run 5 miles in london"))
    assert report.verdicts() == tuple(getattr(report, name) for name in GUARD_NAMES)
    assert report.entities is Verdict.DIFFER
    assert report.vetoes == ("units",)


def test_signature_of_a_prompt_is_frozen_and_comparable() -> None:
    """Two readings of one text are equal, and nobody can change one."""
    one = signature_of("Convert 5 km to miles.")
    assert isinstance(one, PromptSignature)
    assert one == signature_of("Convert 5 km to miles.")
    with pytest.raises(AttributeError):
        one.language = "de"  # type: ignore[misc]
    assert not hasattr(one, "__dict__")
    assert isinstance(one, msgspec.Struct)


def test_polarity_of_a_long_pair_in_other_words_says_nothing() -> None:
    """In long texts that share few words, a lone negation or opposite is found by chance and vetoes nothing."""
    one = (
        "My landlord promised new windows before winter, yet nothing happened, the heating costs doubled, the bathroom"
        " grew mould, and letters to the agency stayed unanswered. Which steps should a renter take next?"
    )
    other = (
        "Since autumn the agency ignores every message about rotten frames. Bills are twice what they were, black spots"
        " cover the shower tiles, and promised glazing has yet to arrive. Advice for tenants?"
    )
    assert {"negation", "antonyms"}.isdisjoint(compare(signature_of(one), signature_of(other)).vetoes)


@pytest.mark.parametrize(
    ("text", "tokens"),
    [
        ("Don't sort_ascending!", ["Don't", "sort", "_", "ascending", "!"]),
        ("the U.S. is 1,000.5 km²", ["the", "US", "is", "1,000.5", "km", "^", "2"]),
        ("it\u2019s \uff11\uff12", ["it's", "12"]),
        ("你好 world", ["你", "好", "world"]),
        ("5km", ["5", "km"]),
        ("", []),
    ],
)
def test_tokens_of_a_text_are_words_numbers_and_marks(text: str, tokens: list[str]) -> None:
    """Compatibility forms are folded, dotted letters joined, unspaced scripts cut sign by sign."""
    assert tokenise(normal_form(text)) == tokens


def test_tokens_beyond_the_remembered_length_are_read_alike() -> None:
    """A token too long to be remembered is read as any other."""
    long = "Ab" * 60
    (alone,) = read_tokens([long])
    assert alone.low == long.lower()
    assert read_tokens(["Paris", long])[0] == read_tokens(["Paris"])[0]


@pytest.mark.parametrize(
    "words",
    [
        "enable enabled enabling",
        "bought buys buying",
        "colour colors",
        "organise organized",
        "women woman",
        "run running",
    ],
)
def test_form_of_inflections_is_one_key(words: str) -> None:
    """Regular and irregular inflections and both spellings share a key."""
    assert len({form_of(word) for word in words.split()}) == 1


@pytest.mark.parametrize(
    "words", ["enable disable", "import export", "increase decrease", "buy sell", "first last", "cat car", "on off"]
)
def test_stem_of_different_words_is_not_one_key(words: str) -> None:
    """Stemming and synonyms never join opposites."""
    one, other = words.split()
    assert stem_of(one) != stem_of(other)


def test_stem_of_synonyms_is_one_key() -> None:
    """Close synonyms meet in one key."""
    assert stem_of("purchased") == stem_of("buy")
    assert stem_of("repairing") == stem_of("fix")


def test_examine_of_any_two_texts_is_the_first_veto_of_compare_or_all_of_it() -> None:
    """Stopping early changes nothing but the work: what is served reads the same report that training does."""
    signatures = [signature_of(text) for pair in PAIRS for text in pair]
    outcomes = set()
    for one in signatures:
        for other in signatures:
            report, found = compare(one, other), examine(one, other)
            assert found == (report.vetoes[0] if report.vetoes else report)
            outcomes.add(found if isinstance(found, str) else "")
    assert {"", "antonyms", "order", "language"} <= outcomes
