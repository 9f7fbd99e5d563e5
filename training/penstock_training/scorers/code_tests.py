"""Code answers: run them with the reference's tests, in a sandbox, and only when that was allowed.

Owns what counts as the answer's code, what counts as passing, and the control run that finds answers which tamper with
their tests. How code is kept in is `sandbox`'s matter. Read `CodeScorer`.
"""

from __future__ import annotations

import ast
import asyncio
import secrets
import sys
import textwrap
from collections.abc import Callable, Sequence
from typing import Final

from penstock_training.errors import TrainingError
from penstock_training.scorers.fenced import fenced_blocks
from penstock_training.scorers.options import ScorerOptions
from penstock_training.scorers.protocol import Scored, ScoringTask
from penstock_training.scorers.sandbox import SandboxLimits, SandboxResult, check_sandbox, run_in_sandbox

_PYTHON_NAMES = frozenset({"", "py", "python", "python3"})
_MAX_CODE_CHARACTERS: Final = 1_000_000
_SANDBOXES_AT_ONCE: Final = 2

Runner = Callable[[str, str, SandboxLimits], SandboxResult]


class CodeScorer:
    """1 when the answer's code passes every test of the reference, else 0.

    Parameters
    ----------
    limits : SandboxLimits
    run : callable, optional
        Runs code with tests; `run_in_sandbox` unless a test of ours replaces it.

    Notes
    -----
    The reference is Python source. Its top level runs with the names of the answer's code at hand (the module is called
    ``solution``); then every function ``test_*`` and every ``unittest.TestCase`` runs.

    Answer and tests share a process, as tests must be able to call anything. So that an answer cannot pass by ending
    the process or by printing something, passing means that a token came back which arrives with the tests, after the
    answer was loaded, on a channel that is not its output. So that an answer cannot pass by disabling assertions, one
    that passed is run again with three tests added that no code can pass; when they are not reported as failed, the
    answer has tampered and scores 0. Code written against this very harness can still find the token in its own memory.
    """

    name = "code"

    def __init__(self, limits: SandboxLimits, run: Runner = run_in_sandbox) -> None:
        self._limits = limits
        self._run = run
        self._places = asyncio.Semaphore(_SANDBOXES_AT_ONCE)

    @classmethod
    def from_options(cls, parameter: str, options: ScorerOptions) -> CodeScorer:
        """Make the scorer, or refuse.

        Raises
        ------
        TrainingError
            Code ``code_execution_not_allowed`` without permission; ``sandbox_unavailable`` where code cannot be kept
            in; ``scorer_spec`` for a parameter.
        """
        if parameter:
            raise TrainingError("the scorer `code` takes no parameter", code="scorer_spec")
        if not options.allow_code_execution:
            message = (
                "the scorer `code` runs what the models wrote, on this machine; "
                "read docs/scoring.md, then give --allow-code-execution"
            )
            raise TrainingError(message, code="code_execution_not_allowed")
        check_sandbox()
        seconds = options.code_timeout_seconds
        limits = SandboxLimits(
            wall_seconds=seconds, cpu_seconds=max(1, round(seconds)), memory_bytes=options.code_memory_bytes
        )
        return cls(limits)

    def estimate_cost_usd(self, prompts: int, arms: int) -> float:
        """Return 0: nothing is paid for."""
        return 0.0

    async def score_all(self, tasks: Sequence[ScoringTask]) -> list[Scored]:
        """Run each answer with the tests; see `Scorer.score_all`."""
        return list(await asyncio.gather(*(self._score(task) for task in tasks)))

    async def aclose(self) -> None:
        """Nothing is held: a sandbox ends with its answer."""

    async def _score(self, task: ScoringTask) -> Scored:
        tests = task.reference
        if problem := _problem_of(tests):
            return Scored(None, problem)
        code = python_code(task.answer)
        if not code.strip():
            return Scored(0.0, "there is no code in the answer")
        if len(code) > _MAX_CODE_CHARACTERS:
            return Scored(0.0, "the answer's code is longer than a million characters")
        async with self._places:
            return await asyncio.to_thread(self._run_both, code, tests or "")

    def _run_both(self, code: str, tests: str) -> Scored:
        result = self._run(code, tests, self._limits)
        missing = foreign_imports(tests)
        if missing and any(error == "ModuleNotFoundError" for _, error in result.failures):
            return Scored(None, f"the tests import {', '.join(missing)}, which the sandbox may not have")
        if result.outcome != "passed":
            return Scored(0.0, _explain(result))
        control, names = with_failing_tests(tests)
        result = self._run(code, control, self._limits)
        if result.outcome == "failed" and {name for name, _ in result.failures} == names:
            return Scored(1.0, "passed every test")
        return Scored(0.0, "tampered with its tests: it does not fail where every answer must")


def python_code(answer: str) -> str:
    """Return the code in an answer: its longest fenced Python block, or everything when there is no fence.

    Parameters
    ----------
    answer : str
        Markdown or plain code. An unclosed fence, as a cut answer has, reaches to the end.

    Returns
    -------
    str
    """
    blocks = fenced_blocks(answer)
    if not blocks:
        return answer
    return max(
        (textwrap.dedent(block.body) for block in blocks if block.language in _PYTHON_NAMES), key=len, default=""
    )


def with_failing_tests(tests: str) -> tuple[str, set[str]]:
    """Add three tests that no code can pass.

    Parameters
    ----------
    tests : str
        Python source.

    Returns
    -------
    (str, set of str)
        The longer source and the names under which exactly these failures are reported.
    """
    mark = f"{secrets.randbelow(16**8):08x}"
    left = secrets.randbelow(10**6)
    right = left + 1 + secrets.randbelow(10**6)
    added = f"""
def test_{mark}():
    assert {left} == {right}
import unittest as _unittest_{mark}
class Test{mark}(_unittest_{mark}.TestCase):
    def test_numbers(self):
        self.assertEqual({left}, {right})
assert {left} == {right}
"""
    return f"{tests}\n{added}", {"top level", f"test_{mark}", f"Test{mark}.test_numbers"}


def foreign_imports(tests: str) -> list[str]:
    """Return the top-level packages that tests import besides the standard library and the answer, sorted.

    Parameters
    ----------
    tests : str
        Python source that parses.

    Returns
    -------
    list of str
    """
    names = set()
    for node in ast.walk(ast.parse(tests)):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            names.add(node.module)
    return sorted({name.split(".")[0] for name in names} - sys.stdlib_module_names - {"solution"})


def _problem_of(tests: str | None) -> str | None:
    """Say why a reference cannot serve as tests, or None."""
    if not tests or not tests.strip():
        return "there are no tests in the reference"
    try:
        tree = ast.parse(tests)
    except (SyntaxError, ValueError, RecursionError):
        return "the reference is no Python code"
    can_fail = (ast.Assert, ast.Call, ast.Raise)
    if not any(isinstance(node, can_fail) for node in ast.walk(tree)):
        return "the reference holds no test"
    return None


def _explain(result: SandboxResult) -> str:
    if result.failures:
        name, error = result.failures[0]
        others = f", and {len(result.failures) - 1} more" if len(result.failures) > 1 else ""
        return f"failed: {name} ({error}){others}"
    return f"the code was not scored as passed: {result.reason}"
