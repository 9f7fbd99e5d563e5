"""Guards on names, code, order, language, form and what is left over."""

from __future__ import annotations

import pytest

from penstock_cache.guards import Verdict, compare, signature_of


@pytest.mark.parametrize(
    ("one", "other", "expected"),
    [
        ("weather in Paris", "weather in paris", Verdict.AGREE),
        ("hotels in NYC", "hotels in new york", Verdict.AGREE),
        ("what does AI mean", "what does artificial intelligence mean", Verdict.AGREE),
        ("weather in paris", "weather in london", Verdict.DIFFER),
        ("tell me who Ada Lovelace was", "tell me who Alan Turing was", Verdict.DIFFER),
        ("how to learn french", "how to learn spanish", Verdict.DIFFER),
        ("weather in Oslo", "how is the weather", Verdict.ABSENT),
        ("What Is The Best Way To Cook Rice", "what is the best way to boil pasta", Verdict.ABSENT),
        ("how tall is it", "how high is it", Verdict.ABSENT),
    ],
)
def test_entities_exchanged_differ_without_a_veto(one: str, other: str, expected: Verdict) -> None:
    """A name against another differs, in any case; a name alone says nothing; title case names nothing."""
    report = compare(signature_of(one), signature_of(other))
    assert report.entities is expected
    assert "entities" not in report.vetoes


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ("what does sort_ascending do", "what does sort_descending do"),
        ("where is getUserName defined", "where is getUserEmail defined"),
        ("explain git reset --soft", "explain git reset --hard"),
        ("git merge a branch", "git rebase a branch"),
        ("open config.yaml", "open config.toml"),
        ("features of Python 3.1", "features of Python 3.10"),
        ("read version 2.0.1 notes", "read version 2.0.2 notes"),
        ("what is a == b", "what is a != b"),
        ("what is 5 - 3", "what is 5 + 3"),
        ("learn C++", "learn C#"),
        ("ls /etc/hosts", "ls /etc/passwd"),
        ("what does `len(x)` return", "what does `sum(x)` return"),
        ("read a csv in python", "read a csv in java"),
        ("parse json", "parse xml"),
        (r"write \frac here", r"write \sqrt here"),
        ("open a .pages file", "open a .heic file"),
    ],
)
def test_identifiers_exchanged_differ(one: str, other: str) -> None:
    """Another identifier, flag, file, version, operator or listed technology forbids reuse."""
    assert "identifiers" in compare(signature_of(one), signature_of(other)).vetoes


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ("how does node.js work", "how does nodejs work"),
        ("run `git status`", "run git status"),
        ("use Array.map", "use array map"),
        ("what is np.linalg.inv", "what is numpy.linalg.inv"),
        ("what is 5 plus 3", "what is 5 + 3"),
        ("the best film(s) of all", "the best films of all"),
        ("Was it good?It was.", "Was it good? It was."),
        ("watch YouTube", "watch videos"),
    ],
)
def test_identifiers_in_another_spelling_do_not_differ(one: str, other: str) -> None:
    """Letters and digits make a name, whatever stands between them; brands and typing errors are no code."""
    assert "identifiers" not in compare(signature_of(one), signature_of(other)).vetoes


@pytest.mark.parametrize(
    ("text", "language"),
    [
        ("how are you today", "en"),
        ("was ist die Hauptstadt und wie groß ist sie", "de"),
        ("où est la gare dans cette ville", "fr"),
        ("cómo puedo cambiar mi contraseña", "es"),
        ("это что такое", "cyrillic"),
        ("これは何ですか", "ja"),
        ("你好吗", "zh"),
        ("what does 你好 mean in this very long english sentence", "en"),
        ("12345", ""),
        ("", ""),
    ],
)
def test_language_of_a_text_is_voted_by_script_and_function_words(text: str, language: str) -> None:
    """A script or two function words name the language; nothing to go by names none."""
    assert signature_of(text).language == language


def test_language_of_two_texts_differs_only_when_both_are_known() -> None:
    """A text without a language is compatible with any."""
    english, german, none = map(signature_of, ("what is the capital", "was ist die Hauptstadt und wo", "SQL 42"))
    assert compare(english, german).vetoes == ("language",)
    assert compare(english, none).language is Verdict.ABSENT


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ("fly from London to Paris", "fly from Paris to London"),
        ("convert US dollars to Indian rupees", "convert Indian rupees to US dollars"),
        ("switching from monthly to annual billing", "switching from annual to monthly billing"),
        ("10 minus 5", "5 minus 10"),
        ("5% of 200", "200% of 5"),
        ("is copper harder than iron", "is iron harder than copper"),
        ("the fish was eaten by the bird", "the bird was eaten by the fish"),
        ("dog bites man", "man bites dog"),
        ("lunch before swimming", "swimming before lunch"),
    ],
)
def test_order_reversed_around_a_pivot_differs(one: str, other: str) -> None:
    """The same words on exchanged sides of a directed pivot forbid reuse."""
    assert "order" in compare(signature_of(one), signature_of(other)).vetoes


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ("fly from London to Paris", "to Paris from London, which flight"),
        ("how far is Leeds from York", "how far is York from Leeds"),
        ("python vs java", "java vs python"),
        ("a field of 300 m by 220 m", "a field of 220 m by 300 m"),
        ("swimming after lunch", "lunch before swimming"),
        ("which reptiles lay eggs", "name the egg-laying reptiles"),
    ],
)
def test_order_that_means_the_same_does_not_differ(one: str, other: str) -> None:
    """Distances, comparisons, dimensions and a converse pivot read the same both ways."""
    assert "order" not in compare(signature_of(one), signature_of(other)).vetoes


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ("summarise it in French", "summarise it in Spanish"),
        ("explain it", "explain it in German"),
        ("translate from French to German", "translate from German to French"),
        ("explain it as a table", "explain it as a bullet list"),
        ("explain gravity in one sentence", "explain gravity in one paragraph"),
        ("explain it briefly", "explain it in detail"),
        ("sort them in alphabetical order", "sort them in chronological order"),
    ],
)
def test_format_of_the_answer_exchanged_differs(one: str, other: str) -> None:
    """Another language, shape or length of the answer forbids reuse."""
    assert "format" in compare(signature_of(one), signature_of(other)).vetoes


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ("say hello in French", "how do you say hello in French"),
        ("the French word for hello", "say hello in French"),
        ("explain it in English please", "explain it please"),
        ("who ruled in Greek mythology", "who ruled the old gods"),
        ("a 100-word story", "a story of one hundred words"),
        ("tabs or spaces in a YAML file", "when writing YAML, tabs or spaces"),
    ],
)
def test_format_in_other_words_does_not_differ(one: str, other: str) -> None:
    """The same wish in other words, and a language or shape that is only mentioned, change nothing."""
    assert "format" not in compare(signature_of(one), signature_of(other)).vetoes


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("Why is the sky blue?", "why"),
        ("could you please tell me where it is", "where"),
        ("what is the reason for rain", "why"),
        ("how come it rains", "why"),
        ("how much does it cost", "how_much"),
        ("what's the price of gold", "how_much"),
        ("what time does it open", "when"),
        ("what is the best way to cook rice", "how"),
        ("in Python, how do I sort a list", "how"),
        ("is it safe", "yes_no"),
        ("write a poem", "other"),
        ("", "other"),
    ],
)
def test_question_type_of_a_text_is_that_of_its_first_question(text: str, expected: str) -> None:
    """Polite openings are skipped; a phrase such as "the reason" or "the price" names the class."""
    assert signature_of(text).question == expected


def test_question_types_that_seldom_paraphrase_differ_without_a_veto() -> None:
    """ "Why" against "when" differs; "what" asks anything; none of it is a veto."""
    why, when, what = map(signature_of, ("why does it rain", "when does it rain", "what makes up rain"))
    assert compare(why, when).question is Verdict.DIFFER
    assert compare(when, what).question is not Verdict.AGREE
    assert "question" not in compare(why, when).vetoes


@pytest.mark.parametrize(
    ("one", "other", "expected"),
    [
        ("at least 5 people", "at most 5 people", Verdict.DIFFER),
        ("at least 5 people", "5 people or more", Verdict.AGREE),
        ("no more than 5 people", "up to 5 people", Verdict.AGREE),
        ("more than 5", "less than 5", Verdict.DIFFER),
        ("the first president", "the last president", Verdict.DIFFER),
        ("all the birds", "the birds", Verdict.ABSENT),
    ],
)
def test_quantifiers_that_contradict_differ(one: str, other: str, expected: Verdict) -> None:
    """Bounds and ends of an order that exclude each other differ; their paraphrases agree."""
    assert compare(signature_of(one), signature_of(other)).quantifiers is expected


@pytest.mark.parametrize(
    ("one", "other", "expected"),
    [
        ("how do I fix my phone", "how can I repair my phone", Verdict.AGREE),
        ("photosynthesis explained", "explain photosinthesis", Verdict.AGREE),
        ("tell me about photosynthesis", "tell me about thermodynamics", Verdict.DIFFER),
        ("tell me about photosynthesis", "tell me about it", Verdict.ABSENT),
    ],
)
def test_residual_of_rare_words_on_both_sides_differs(one: str, other: str, expected: Verdict) -> None:
    """A rare-looking word left on each side differs; inflections, synonyms and misspellings leave nothing."""
    assert compare(signature_of(one), signature_of(other)).residual is expected
