"""Runs inside the sandbox, as its own unprivileged process: an answer's code, then the tests.

Speaks JSON lines with `sandbox_launcher` on descriptor 3. Started as ``python -I runner.py``; stands alone and imports
the standard library only. The tests and the token arrive after the answer was loaded, so neither is there while its top
level runs. Must not be imported by anything of ours. Read `main`.
"""

from __future__ import annotations

import json
import os
import sys
import types
import unittest
from importlib.abc import InspectLoader
from importlib.machinery import ModuleSpec
from typing import Any

_CHANNEL = 3
_NAME_LIMIT = 80
_FAILURES_LIMIT = 50


class _GivenSource(InspectLoader):
    """Loads a module from a text that lies in no file."""

    def __init__(self, text: str) -> None:
        self._text = text

    def get_source(self, fullname: str) -> str:
        """Return the text."""
        return self._text

    def is_package(self, fullname: str) -> bool:
        """Return False: one text is one module."""
        return False


def load_module(name: str, text: str, names: dict[str, Any]) -> types.ModuleType:
    """Run a text as the module `name`, with `names` defined beforehand."""
    module = types.ModuleType(name)
    module.__dict__.update(names)
    loader = _GivenSource(text)
    module.__spec__ = ModuleSpec(name, loader)
    sys.modules[name] = module
    loader.exec_module(module)
    return module


def describe(error: BaseException) -> str:
    """Name an exception by its class; its text may be anything."""
    return str(type(error).__name__)[:_NAME_LIMIT]


def run_tests(tests: str, answer: types.ModuleType) -> list[list[str]]:
    """Run the tests.

    Parameters
    ----------
    tests : str
        Python source. Its top level runs with the answer's names at hand, then every function ``test_*`` and every
        ``unittest.TestCase`` that it defines.
    answer : module
        Importable as ``solution``.

    Returns
    -------
    list of [name, exception class]
        What failed; empty when everything passed.
    """
    names = {name: value for name, value in vars(answer).items() if not name.startswith("__")}
    failures = []
    try:
        load_module("answer_tests", tests, names)
    except BaseException as error:  # an answer may raise anything, SystemExit included
        failures.append(["top level", describe(error)])
    defined = vars(sys.modules["answer_tests"])
    for name, value in list(defined.items()):
        if name in names and names[name] is value:
            continue
        if name.startswith("test_") and isinstance(value, types.FunctionType):
            try:
                value()
            except BaseException as error:
                failures.append([name, describe(error)])
        elif isinstance(value, type) and issubclass(value, unittest.TestCase):
            failures += _run_case(value)
    return failures


def _run_case(case: type[unittest.TestCase]) -> list[list[str]]:
    result = unittest.TestResult()
    unittest.defaultTestLoader.loadTestsFromTestCase(case).run(result)
    return [[test.id().split(".", 1)[-1][:_NAME_LIMIT], "failed"] for test, _ in [*result.failures, *result.errors]]


def main() -> None:
    """Load the answer, say so, receive tests and token, run, report, and end without any clean-up of the answer's."""
    with os.fdopen(_CHANNEL, "r", encoding="utf-8", closefd=False) as incoming:
        job = json.loads(incoming.readline())
        try:
            answer = load_module("solution", job["answer"], {})
        except BaseException as error:
            _send({"loaded": False, "error": describe(error)})
            os._exit(0)
        _send({"loaded": True})
        order = json.loads(incoming.readline())
        failures = run_tests(order["tests"], answer)
        _send({"token": order["token"], "failures": failures[:_FAILURES_LIMIT]})
    os._exit(0)


def _send(message: dict[str, Any]) -> None:
    os.write(_CHANNEL, json.dumps(message).encode() + b"\n")


if __name__ == "__main__":
    main()
