"""Runs an answer's code with tests where it can do no harm, or refuses.

Owns the job handed to `sandbox_launcher`, the limits, and the time-out behind the launcher's own. It must not run any
of the given code in this process, nor fall back to less protection. Linux only. Read `run_in_sandbox`.
"""

from __future__ import annotations

import base64
import contextlib
import json
import math
import os
import platform
import secrets
import signal
import subprocess
import sys
import sysconfig
from dataclasses import asdict, dataclass
from importlib import resources
from typing import Any, Literal

from penstock_training.errors import TrainingError
from penstock_training.scorers.sandbox_filter import seccomp_program

Outcome = Literal["passed", "failed", "timed_out", "ended", "tampered"]
_GRACE_SECONDS = 10.0  # for building the sandbox on a busy machine, on top of the answer's own time


@dataclass(frozen=True, slots=True)
class SandboxLimits:
    """What an answer may use.

    Attributes
    ----------
    wall_seconds : float
        From the start of the sandbox to the verdict, > 0.
    cpu_seconds : int
        Of one process.
    memory_bytes : int
        Address space of one process; together they can use `processes` times as much.
    file_bytes : int
        Size of one file.
    box_bytes : int
        Size of the working directory, which lies in memory.
    processes : int
        Processes and threads together.
    open_files : int
    """

    wall_seconds: float = 10.0
    cpu_seconds: int = 10
    memory_bytes: int = 512 * 1024 * 1024
    file_bytes: int = 16 * 1024 * 1024
    box_bytes: int = 64 * 1024 * 1024
    processes: int = 8
    open_files: int = 64


@dataclass(frozen=True, slots=True)
class SandboxResult:
    """What happened to an answer.

    Attributes
    ----------
    outcome : {"passed", "failed", "timed_out", "ended", "tampered"}
        ``ended``: the process was gone before the tests were done. ``tampered``: it reported what it was not told.
    reason : str
        In a few plain words, unless it passed or failed by tests; printable ASCII whatever the answer did.
    failures : tuple of (str, str)
        Name of each failed test and the exception's class.
    """

    outcome: Outcome
    reason: str
    failures: tuple[tuple[str, str], ...]


@dataclass(frozen=True, slots=True)
class Interpreter:
    """The Python that runs an answer.

    Attributes
    ----------
    path : str
        Its real path.
    folders : tuple of str
        What it needs to start, besides the system's libraries.
    """

    path: str
    folders: tuple[str, ...]

    @classmethod
    def of_this_process(cls) -> Interpreter:
        """The interpreter that we run in, without the packages of its environment."""
        return cls(os.path.realpath(sys.executable), tuple(_interpreter_folders()))


def run_in_sandbox(
    answer: str,
    tests: str,
    limits: SandboxLimits,
    *,
    interpreter: Interpreter | None = None,
    is_user_namespace_wanted: bool = False,
) -> SandboxResult:
    """Load an answer's code and run tests on it; blocks.

    Parameters
    ----------
    answer : str
        Python source; untrusted.
    tests : str
        Python source that sees the answer's names; trusted to be tests.
    limits : SandboxLimits
    interpreter : Interpreter or None
        Our own one when None.
    is_user_namespace_wanted : bool
        As root, too, isolate by a user namespace.

    Returns
    -------
    SandboxResult

    Raises
    ------
    TrainingError
        Code ``sandbox_unavailable``, with what is missing; nothing was run then.

    Notes
    -----
    The answer's process has: network, process, mount, IPC, host name and control-group namespaces of its own; a root
    that holds the interpreter and the system's libraries, read-only, four devices, and one empty folder in memory; no
    ``/proc``; another user, no capability, no way to gain one; an empty environment; no open file of ours; limits; a
    filter of system calls. All its processes end with the sandbox's first one.
    """
    filter_program = seccomp_program(platform.machine()) if sys.platform == "linux" else None
    if filter_program is None:
        here = f"{platform.system()} on {platform.machine()}"
        raise _unavailable(f"it needs Linux on x86-64 or arm64, and this is {here}")
    interpreter = interpreter or Interpreter.of_this_process()
    job = {
        "answer": answer,
        "tests": tests,
        "token": secrets.token_hex(16),
        "limits": asdict(limits),
        "filter": base64.b64encode(filter_program).decode(),
        "python": interpreter.path,
        "folders": interpreter.folders,
        "runner": _source_of("sandbox_runner.py"),
        "is_user_namespace_wanted": is_user_namespace_wanted,
    }
    return _as_result(_launch(interpreter.path, json.dumps(job).encode(), limits.wall_seconds + _GRACE_SECONDS))


def check_sandbox() -> None:
    """Build a sandbox once, around nothing.

    Raises
    ------
    TrainingError
        Code ``sandbox_unavailable``.
    """
    result = run_in_sandbox("", "assert True", SandboxLimits())
    if result.outcome != "passed":
        raise _unavailable(f"a trial run did not pass ({result.outcome}: {result.reason})")


def _launch(python: str, job: bytes, timeout_seconds: float) -> dict[str, Any]:
    with resources.as_file(resources.files(__package__).joinpath("sandbox_launcher.py")) as launcher:
        process = subprocess.Popen(
            [python, "-I", "-S", str(launcher)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            env={},
            cwd="/",
            start_new_session=True,
        )
        try:
            output, complaints = process.communicate(job, timeout=timeout_seconds)
        except subprocess.TimeoutExpired:
            return {"outcome": "timed_out", "reason": f"it took longer than {math.ceil(timeout_seconds)} s"}
        finally:
            _end(process)
    if not output:
        last = complaints.decode(errors="replace").strip().splitlines()[-1:] or ["no reason given"]
        return {"outcome": "refused", "reason": f"the launcher failed: {last[0][:200]}"}
    verdict: dict[str, Any] = json.loads(output)
    return verdict


def _end(process: subprocess.Popen[bytes]) -> None:
    """Kill the launcher; the sandbox's first process ends with it, and everything inside with that one."""
    if process.returncode is None:  # its number belongs to somebody else as soon as it has been waited for
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.communicate()


def _as_result(verdict: dict[str, Any]) -> SandboxResult:
    if verdict["outcome"] == "refused":
        raise _unavailable(str(verdict["reason"]))
    failures = tuple((str(name), str(error)) for name, error in verdict.get("failures", ()))
    return SandboxResult(verdict["outcome"], str(verdict["reason"]), failures)


def _unavailable(reason: str) -> TrainingError:
    message = f"code cannot be run in isolation here, so it is not run at all: {reason}"
    return TrainingError(message, code="sandbox_unavailable")


def _interpreter_folders() -> list[str]:
    """Folders without which the interpreter does not start, besides the system's libraries."""
    folders = [
        sys.base_prefix,
        sys.base_exec_prefix,
        os.path.dirname(os.path.realpath(sys.executable)),
        sysconfig.get_path("stdlib", vars={"base": sys.base_prefix}),
        sysconfig.get_config_var("LIBDIR") or "",
    ]
    real = {os.path.realpath(folder) for folder in folders if folder} | {folder for folder in folders if folder}
    return sorted(folder for folder in real if os.path.isdir(folder) and folder != "/")


def _source_of(name: str) -> str:
    return resources.files(__package__).joinpath(name).read_text(encoding="utf-8")
