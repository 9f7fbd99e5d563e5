"""Guards on polarity: negation, opposites, modality."""

from __future__ import annotations

import pytest

from penstock_cache.guards import Verdict, compare, signature_of
from penstock_cache.guards.antonym_axes import AXES
from penstock_cache.guards.antonyms import sides_of
from penstock_cache.guards.stems import form_of


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ("can I eat this", "why can't I eat this"),
        ("I can log in", "I can't log in"),
        ("foods I can eat", "foods I cannot eat"),
        ("a recipe with eggs", "a recipe without eggs"),
        ("should I rest the meat", "should I never rest the meat"),
        ("include the title", "don't include the title"),
        ("dont save it", "save it"),
        ("always close it and don't lock it", "don't close it and always lock it"),
    ],
)
def test_negation_on_one_side_differs(one: str, other: str) -> None:
    """A negation that one text has and the other lacks, or that covers what the other affirms, forbids reuse."""
    assert "negation" in compare(signature_of(one), signature_of(other)).vetoes


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ("it is not available", "it isn't available"),
        ("Can't I cancel online?", "Can I cancel online?"),
        ("Isn't the shop open on Sunday?", "Is the shop open on Sunday?"),
        ("I don't know how to boil eggs", "how to boil eggs"),
        ("is it open or not", "is it open"),
        ("I cannot open the door", "I am unable to open the door"),
        ("which seats are not available", "which seats are unavailable"),
        ("a cake without sugar", "a sugar-free cake"),
        ("no more than 5 people", "at most 5 people"),
        ("see no. 5 of the list", "see number 5 of the list"),
        ("the door is not open", "the door is closed"),
        ("prove that it is not rational", "prove that it is irrational"),
    ],
)
def test_negation_of_one_meaning_does_not_differ(one: str, other: str) -> None:
    """Contractions, rhetorical openings, fillers, and words that carry the negation inside change nothing."""
    assert {"negation", "antonyms"}.isdisjoint(compare(signature_of(one), signature_of(other)).vetoes)


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ("turn dark mode on", "turn dark mode off"),
        ("how to turn on the lights", "how to switch the lights off"),
        ("sort_ascending", "sort_descending"),
        ("enable two-factor login", "disabling two-factor login"),
        ("should I buy shares", "should I sell shares"),
        ("import contacts", "exporting contacts"),
        ("I log in to the site", "I log out of the site"),
        ("how to zoom in", "how to zoom out"),
        ("increase the volume", "decreased the volume"),
        ("the highest score", "the lowest score"),
        ("find the minimum of a list", "find the maximum of a list"),
        ("before the meal", "after the meal"),
        ("prices rise", "prices fall"),
        ("my son", "my daughter"),
    ],
)
def test_antonyms_in_place_of_each_other_differ(one: str, other: str) -> None:
    """A word on one side and its opposite on the other, in any inflection, forbid reuse."""
    assert "antonyms" in compare(signature_of(one), signature_of(other)).vetoes


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ("should I buy or sell", "sell or buy, what should I do"),
        ("enable it", "activate it"),
        ("turn it on", "switch it on"),
        ("the book on the table", "take 5 off the price"),
        ("why was my refund not approved", "why wasn't my refund approved"),
        ("in the house", "out of the house"),
    ],
)
def test_antonyms_of_one_side_do_not_differ(one: str, other: str) -> None:
    """Both sides in one text, synonyms of one side, and particles without their verb oppose nothing."""
    assert "antonyms" not in compare(signature_of(one), signature_of(other)).vetoes


def test_antonym_axes_of_the_table_have_words_on_two_sides() -> None:
    """Every line of the table opposes at least one word to another, and no word to itself."""
    lines = AXES.strip().splitlines()
    assert len(lines) >= 250
    for axis, line in enumerate(lines, start=1):
        left, right = (
            {word if "_" in word else form_of(word) for word in side.split() if not word.endswith("_")}
            for side in line.split("|")
        )
        assert left, line
        assert right, line
        assert left.isdisjoint(right), line
        for words, sign in ((left, 1), (right, -1)):
            assert all(sign * axis in sides_of(word) for word in words), line


@pytest.mark.parametrize(
    ("one", "other", "expected"),
    [
        ("did they win the cup", "will they win the cup", Verdict.DIFFER),
        ("can I take it", "should I take it", Verdict.DIFFER),
        ("must I sign it", "do I have to sign it", Verdict.AGREE),
        ("could you tell me the time", "tell me the time", Verdict.ABSENT),
        ("can I park here", "may I park here", Verdict.ABSENT),
    ],
)
def test_modality_of_contrary_auxiliaries_differs_without_a_veto(one: str, other: str, expected: Verdict) -> None:
    """Past against future and ability against duty differ; politeness has no modality; none of it is a veto."""
    report = compare(signature_of(one), signature_of(other))
    assert report.modality is expected
    assert "modality" not in report.vetoes
