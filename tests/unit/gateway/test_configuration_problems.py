"""Problems as text, and nearest matches."""

from __future__ import annotations

import pytest

from penstock_gateway.configuration_problems import (
    ConfigurationError,
    Problem,
    did_you_mean,
    nearest_match,
    setting_path,
)


def test_problem_with_everything_reads_as_one_line() -> None:
    """A problem shows place, setting, message and hint in that order."""
    problem = Problem("penstock.yaml:12", "server.prt", "there is no such setting", "did you mean 'port'?")
    assert str(problem) == "penstock.yaml:12: server.prt: there is no such setting (did you mean 'port'?)"


def test_problem_without_setting_and_hint_has_no_empty_parts() -> None:
    """What is empty leaves no punctuation behind."""
    assert str(Problem("a.yaml", "", "is not UTF-8 text")) == "a.yaml: is not UTF-8 text"


def test_configuration_error_of_several_problems_keeps_all() -> None:
    """The error carries every problem as data and all of them as text."""
    error = ConfigurationError([Problem("a", "x", "one"), Problem("a", "y", "two")])
    assert [problem.setting for problem in error.problems] == ["x", "y"]
    assert str(error) == "a: x: one\na: y: two"


@pytest.mark.parametrize(
    ("word", "expected"), [("prt", "port"), ("Ports", "port"), ("max_inflight", "max_in_flight"), ("zzz", None)]
)
def test_nearest_match_of_a_typing_error_finds_the_known_word(word: str, expected: str | None) -> None:
    """A near word is found whatever its case; a far one is not forced."""
    assert nearest_match(word, ["host", "port", "max_in_flight"]) == expected


def test_hint_without_a_near_word_lists_the_choices() -> None:
    """When nothing is near and the choices are few, they are listed."""
    assert did_you_mean("zzz", ["cost", "quality"]) == "known: cost, quality"


def test_setting_path_of_mixed_keys_reads_as_written_in_code() -> None:
    """Positions in lists stand in brackets."""
    assert setting_path(("deployments", 0, "headers", "X-A")) == "deployments[0].headers.X-A"


def test_nearest_match_of_a_beginning_is_the_whole_name() -> None:
    """A name cut short is close to nothing by similarity, but means the one that it begins."""
    assert nearest_match("static", ["minilm-l6-v2", "static-minilm-256"]) == "static-minilm-256"
    assert nearest_match("st", ["static-minilm-256"]) is None
