"""Marking of ZeroEval's answers: the project's rules, without running anything that a model wrote."""

from __future__ import annotations

import json
from typing import Any

import pytest

from penstock_training.importers.zeroeval_marks import mark


def _answer(value: object) -> str:
    return json.dumps({"reasoning": "because", "answer": value})


@pytest.mark.parametrize(
    ("output", "truth", "expected"),
    [
        (_answer("$1,200 miles"), "# 1200", 1.0),
        (_answer(18), "# 18.0", 1.0),
        (_answer("3/4"), "0.75", 1.0),
        (_answer("1/0"), "7", 0.0),
        (_answer("-15"), "-15", 1.0),
        (_answer("15"), "-15", 0.0),
        ('```json\n{"reasoning": "a\nb", "answer": "64"}\n```', "# 64", 1.0),
        ('{"reasoning": "unclosed "quotes"", "answer": "64"', "# 64", 1.0),
        ("I think answer: 64", "# 64", 1.0),
        ("No idea.", "# 64", 0.0),
        (_answer("many"), "# 64", 0.0),
        (_answer({"a": [64]}), "# 64", 1.0),
    ],
)
def test_mark_number_compares_the_first_number(output: str, truth: str, expected: float) -> None:
    """Mathematics answers are right when their first numbers are equal, in JSON or in what is left of it."""
    assert mark("gsm", {"answer": truth}, output, "m") == expected


def test_mark_number_never_evaluates_an_answer() -> None:
    """An answer that is a program is a wrong answer."""
    assert mark("gsm", {"answer": "9"}, _answer("__import__('os').getpid()/1"), "m") == 0.0


def test_mark_box_counts_for_llama_only() -> None:
    """A boxed answer at the end is read for Llama 3.1, as upstream does."""
    output = "So it is $\\boxed{36}$"
    assert mark("math-l5", {"answer": "36"}, output, "Meta-Llama-3.1-8B") == 1.0
    assert mark("math-l5", {"answer": "36"}, output, "Other-8B") == 0.0


@pytest.mark.parametrize(
    ("given", "truth", "expected"),
    [("'ab'", "'ab'", 1.0), ("ab", "'ab'", 1.0), ("[1, 2]", "[1, 2]", 1.0), ("[1,2]", "[1, 2]", 0.0), ("", "''", 1.0)],
)
def test_mark_literal_compares_text_without_quotes(given: str, truth: str, expected: float) -> None:
    """Code outputs are compared as text, outer quotes aside."""
    assert mark("crux", {"answer": truth}, _answer(given), "m") == expected


@pytest.mark.parametrize(("letter", "expected"), [("B", 1.0), ("A", 0.0), ("B (surely)", 0.0)])
def test_mark_choice_wants_the_bare_letter(letter: str, expected: float) -> None:
    """A choice is right when exactly the right letter stands in the last JSON object."""
    record = {"choices": ["Deserts", "Ponds"], "correct_answer": "Ponds"}
    assert mark("mmlu-redux", record, '{"answer": "C"} ' + _answer(letter), "m") == expected


SOLUTION = {"header": ["House", "Name", "Pet"], "rows": [["1", "Ann", "newt"], ["2", "Bob", "frog"]]}
RIGHT = {"House 1": {"Name": "ann", "Pet": "Newt"}, "House 2": {"Name": ["Bob"], "Pet": "frog"}}


@pytest.mark.parametrize(
    ("solution", "table", "expected"),
    [
        (SOLUTION, RIGHT, 1.0),
        (SOLUTION, RIGHT | {"House 2": {"Name": "Bob"}}, 0.0),
        (SOLUTION, None, 0.0),
        (SOLUTION, {"House 1": "Ann"}, 0.0),
        (None, RIGHT, None),
        ({"header": ["House", "Name"], "rows": [["___", "___"]]}, RIGHT, None),
    ],
)
def test_mark_grid_needs_every_cell_and_a_solution(solution: Any, table: Any, expected: float | None) -> None:
    """A logic grid is right when every cell is; without its solution it has no score."""
    output = json.dumps({"reasoning": "", "solution": table})
    assert mark("zebra-grid", {"solution": solution}, output, "m") == expected


def test_mark_takes_an_existing_mark_at_its_word() -> None:
    """A record that was marked upstream keeps its mark; a text in its place means no answer."""
    assert mark("gsm", {"matched": True, "answer": "# 1"}, "", "m") == 1.0
    assert mark("gsm", {"matched": "No answer extracted", "answer": "# 1"}, _answer(1), "m") == 0.0
