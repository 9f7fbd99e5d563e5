"""Scoring code: permission, what the code of an answer is, what passing means, and answers that cheat."""

from __future__ import annotations

import pytest

from penstock_training.errors import TrainingError
from penstock_training.scorers.code_tests import CodeScorer, python_code, with_failing_tests
from penstock_training.scorers.protocol import Scored, ScoringTask
from penstock_training.scorers.registry import ScorerOptions, build_scorer
from penstock_training.scorers.sandbox import SandboxLimits, SandboxResult, check_sandbox

PASSED = SandboxResult("passed", "", ())


def _task(answer: str, tests: str | None = "assert add(1, 2) == 3", arm: str = "small") -> ScoringTask:
    return ScoringTask("Write add.", answer, tests, arm, "q1")


def _must_fail(answer: str, tests: str, limits: SandboxLimits) -> SandboxResult:
    """Stands in for a sandbox; the test fails when it is asked to run anything."""
    pytest.fail("nothing must be run")


@pytest.fixture(scope="module")
def _isolation() -> None:
    try:
        check_sandbox()
    except TrainingError as error:
        pytest.skip(error.message)


async def _score(answer: str, tests: str) -> Scored:
    scorer = CodeScorer(SandboxLimits(wall_seconds=30.0))
    return (await scorer.score_all([_task(answer, tests)]))[0]


def test_code_scorer_without_permission_is_refused() -> None:
    """Nothing that a model wrote runs unless that was asked for, and the message says how to ask."""
    with pytest.raises(TrainingError, match="--allow-code-execution") as caught:
        build_scorer("code", ScorerOptions())
    assert caught.value.code == "code_execution_not_allowed"


def test_code_scorer_with_a_parameter_is_refused() -> None:
    """The scorer has no parameter, so one is a mistake."""
    with pytest.raises(TrainingError) as caught:
        build_scorer("code:fast", ScorerOptions(allow_code_execution=True))
    assert caught.value.code == "scorer_spec"


@pytest.mark.parametrize(
    ("answer", "code"),
    [
        ("x = 1", "x = 1"),
        ("Here:\n```python\nx = 1\n```\nDone.", "x = 1\n"),
        ("```\nx = 1\n```", "x = 1\n"),
        ("```bash\nls -la --all --color\n```\n```py\nx = 1\n```", "x = 1\n"),
        ("```python\ndef f():\n    return 1\n```\nUse it:\n```python\nf()\n```", "def f():\n    return 1\n"),
        ("~~~python\nx = 1\n~~~", "x = 1\n"),
        ("````python\nx = '''\n```\n'''\n````", "x = '''\n```\n'''\n"),
        ("Cut off:\n```python\nx = 1", "x = 1"),
        ("```json\n{}\n```", ""),
        ("1. So:\n   ```python\n   x = 1\n   ```", "x = 1\n"),
        ("Use ```x``` inline.", "Use ```x``` inline."),
    ],
)
def test_python_code_of_an_answer_is_its_longest_python_block(answer: str, code: str) -> None:
    """Fences, other languages, usage examples and cut answers are told apart from the code."""
    assert python_code(answer) == code


@pytest.mark.parametrize("tests", [None, "", "  \n", "x = 1", "assert (", "def check(candidate):\n    pass"])
async def test_reference_without_a_test_is_not_scored(tests: str | None) -> None:
    """Without something that can fail, passing means nothing, so there is no score and nothing is run."""
    scored = (await CodeScorer(SandboxLimits(), _must_fail).score_all([_task("x = 1", tests)]))[0]
    assert scored.score is None
    assert "reference" in scored.reason


async def test_answer_without_code_scores_zero_and_runs_nothing() -> None:
    """An empty answer, and one that holds another language only, is wrong."""
    scorer = CodeScorer(SandboxLimits(), _must_fail)
    scored = await scorer.score_all([_task(" \n"), _task("```sql\nselect 1\n```")])
    assert [entry.score for entry in scored] == [0.0, 0.0]


async def test_scores_of_several_arms_keep_their_order() -> None:
    """Sandboxes run side by side, and each arm gets its own result."""

    def run(answer: str, tests: str, limits: SandboxLimits) -> SandboxResult:
        if answer != "good":
            return SandboxResult("failed", "", (("test_a", "AssertionError"), ("test_b", "KeyError")))
        _, _, added = tests.partition("assert add(1, 2) == 3\n")
        mark = added.split("test_")[1][:8] if added else ""
        names = (("top level", "x"), (f"test_{mark}", "x"), (f"Test{mark}.test_numbers", "x"))
        return SandboxResult("failed", "", names) if added else PASSED

    scored = await CodeScorer(SandboxLimits(), run).score_all([_task("bad"), _task("good"), _task("bad")])
    assert [entry.score for entry in scored] == [0.0, 1.0, 0.0]
    assert scored[0].reason == "failed: test_a (AssertionError), and 1 more"


async def test_answer_that_passes_whatever_is_asked_is_tampering() -> None:
    """An answer that is said to pass three impossible tests scores 0."""
    scored = (await CodeScorer(SandboxLimits(), lambda *_: PASSED).score_all([_task("x = 1")]))[0]
    assert scored.score == 0.0
    assert "tampered" in scored.reason


async def test_tests_that_need_an_absent_package_give_no_score() -> None:
    """What the sandbox lacks is not the answer's fault; an answer that fails such tests otherwise is wrong."""

    def run(answer: str, tests: str, limits: SandboxLimits) -> SandboxResult:
        return SandboxResult("failed", "", (("top level", answer),))

    tests = "import os, pytest.raises\nfrom numpy.linalg import norm\nfrom solution import f\nassert f()"
    scorer = CodeScorer(SandboxLimits(), run)
    scored = await scorer.score_all([_task("ModuleNotFoundError", tests), _task("AssertionError", tests)])
    own = await scorer.score_all([_task("ModuleNotFoundError", "import math\nassert f()")])
    assert [entry.score for entry in [*scored, *own]] == [None, 0.0, 0.0]
    assert "numpy, pytest" in scored[0].reason


def test_failing_tests_added_twice_differ() -> None:
    """What is added cannot be foreseen, so an answer cannot be written to expect it."""
    assert with_failing_tests("")[0] != with_failing_tests("")[0]


@pytest.mark.usefixtures("_isolation")
@pytest.mark.parametrize(
    "tests",
    [
        "assert add(1, 2) == 3",
        "import solution\nassert solution.add(1, 2) == 3",
        "def check(candidate):\n    assert candidate(1, 2) == 3\ncheck(add)",
        "def test_add():\n    assert add(1, 2) == 3",
        "import unittest\nclass TestAdd(unittest.TestCase):\n"
        "    def test_it(self):\n        self.assertEqual(add(1, 2), 3)",
    ],
)
async def test_right_and_wrong_code_under_each_kind_of_test_are_told_apart(tests: str) -> None:
    """Assertions, a check function, test functions and test cases all count, and only right code passes."""
    right = await _score("```python\ndef add(a, b):\n    return a + b\n```", tests)
    wrong = await _score("```python\ndef add(a, b):\n    return a - b\n```", tests)
    assert (right.score, right.reason) == (1.0, "passed every test")
    assert wrong.score == 0.0
    assert wrong.reason.startswith("failed: ")


CHEATS = {
    "unittest is switched off": "import unittest\nunittest.TestCase.run = lambda self, result=None: None\n"
    "def add(a, b): return 0",
    "the result object forgets": "import unittest\nunittest.TestResult.addFailure = lambda *a: None\n"
    "def add(a, b): return 0",
    "report on the channel without the order": (
        "import json, os, sys, threading\n"
        "def add(a, b):\n"
        "    frame = sys._getframe()\n"
        "    while frame:\n"
        "        order = frame.f_locals.get('order')\n"
        "        if order:\n"
        "            os.write(3, json.dumps({'token': order['token'], 'failures': []}).encode() + b'\\n')\n"
        "            os._exit(0)\n"
        "        frame = frame.f_back\n"
        "    return 0"
    ),
    "the runner's list is emptied": (
        "import sys\nmain = sys.modules['__main__']\nmain.run_tests = lambda tests, answer: []\n"
    ),
    "every exception of the tests is swallowed": (
        "import sys\nmain = sys.modules['__main__']\nold = main.load_module\n"
        "def quiet(*a):\n    try:\n        return old(*a)\n    except AssertionError:\n        pass\n"
        "main.load_module = quiet\ndef add(a, b): return 0"
    ),
}


@pytest.mark.usefixtures("_isolation")
@pytest.mark.parametrize("cheat", CHEATS.values(), ids=[name.replace(" ", "-") for name in CHEATS])
async def test_answer_that_tampers_with_its_tests_scores_zero(cheat: str) -> None:
    """Switching off the test machinery, or stealing the token, is found by tests that must fail."""
    tests = (
        "import unittest\n"
        "class TestAdd(unittest.TestCase):\n"
        "    def test_it(self):\n"
        "        self.assertEqual(add(1, 2), 3)\n"
    )
    if "unittest" not in cheat:
        tests = "assert add(1, 2) == 3"
    scored = await _score(cheat, tests)
    assert scored.score == 0.0, scored
    assert "tampered" in scored.reason


@pytest.mark.usefixtures("_isolation")
async def test_exception_name_of_an_answer_reaches_the_reason_as_plain_text() -> None:
    """An answer chooses the names of its exceptions; control characters and length are cut."""
    answer = "def add(a, b):\n    raise type('\\x1b[2J' + 'é' + 'x' * 500, (Exception,), {})"
    reason = (await _score(answer, "assert add(1, 2) == 3")).reason
    assert reason.isprintable()
    assert reason.isascii()
    assert len(reason) < 150


@pytest.mark.usefixtures("_isolation")
def test_code_scorer_built_with_permission_runs_where_isolation_works() -> None:
    """With the permission the scorer is made, after one sandbox was built in trial, and costs nothing."""
    scorer = build_scorer("code", ScorerOptions(allow_code_execution=True))
    assert scorer.name == "code"
    assert scorer.estimate_cost_usd(100, 3) == 0.0
