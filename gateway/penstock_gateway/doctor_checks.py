"""Runs checks side by side, each in a thread of its own, and reports in time whatever hangs.

Owns threads and deadlines; it knows nothing of what is looked at. Read `run_checks`.
"""

from __future__ import annotations

import queue
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Final

from penstock_gateway.findings import Finding

AT_ONCE: Final = 16
"""Checks under way at a time; most of them wait for somebody else."""


@dataclass(frozen=True, slots=True)
class Check:
    """One thing to look at.

    Attributes
    ----------
    subject : str
        What a finding is called when there is no other.
    look : callable
        Blocks as long as it likes, and returns what it found.
    fix : str
        What to do when it does not come back in time.
    """

    subject: str
    look: Callable[[], Sequence[Finding]]
    fix: str


@dataclass(frozen=True, slots=True)
class Looked:
    """What came of the checks.

    Attributes
    ----------
    findings : tuple of Finding
        In the order of the checks.
    late : tuple of str
        Subjects that were given up: their threads still hang.
    """

    findings: tuple[Finding, ...]
    late: tuple[str, ...] = ()


def run_checks(
    checks: Sequence[Check],
    seconds: float,
    *,
    on_progress: Callable[[int, int], object] = lambda done, total: None,
) -> Looked:
    """Run all checks and wait for them no longer than so many seconds, all together.

    Parameters
    ----------
    checks : sequence of Check
    seconds : float
    on_progress : callable
        Told how many checks are done, of how many, whenever one is.

    Returns
    -------
    Looked

    Notes
    -----
    A call to the system's resolver can neither be cancelled nor given a deadline, so each check has a daemon thread,
    which is left to itself when it is late and ends with the process. A check that fails unforeseen is a finding.
    """
    if not checks:
        return Looked(())
    end = time.monotonic() + seconds
    answers: queue.SimpleQueue[tuple[int, Sequence[Finding]]] = queue.SimpleQueue()
    turns = threading.Semaphore(AT_ONCE)
    for number, check in enumerate(checks):
        threading.Thread(target=_look, args=(number, check, turns, answers), daemon=True).start()
    found: dict[int, Sequence[Finding]] = {}
    while len(found) < len(checks):
        try:
            number, findings = answers.get(timeout=max(0.0, end - time.monotonic()))
        except queue.Empty:
            break
        found[number] = findings
        on_progress(len(found), len(checks))
    late = [number for number in range(len(checks)) if number not in found]
    for number in late:
        check = checks[number]
        found[number] = (Finding("fail", check.subject, f"no answer within {seconds:g} s", check.fix),)
    every = tuple(finding for number in range(len(checks)) for finding in found[number])
    return Looked(every, tuple(checks[number].subject for number in late))


def _look(
    number: int,
    check: Check,
    turns: threading.Semaphore,
    answers: queue.SimpleQueue[tuple[int, Sequence[Finding]]],
) -> None:
    with turns:
        try:
            found = check.look()
        except Exception as error:  # the edge of a check: the others go on, and its text may hold a credential
            detail = f"could not be looked at ({type(error).__name__})"
            found = (Finding("fail", check.subject, detail, "report it, with what penstock doctor --json says"),)
    answers.put((number, found))
