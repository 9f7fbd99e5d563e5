"""A person scores answers in the terminal, without seeing whose they are.

Owns the dialogue. Untrusted text passes through `terminal_text` before it is shown. Read `HumanScorer.score_all`.
"""

from __future__ import annotations

import asyncio
import math
import random
import select
import shutil
import sys
import threading
from collections.abc import Sequence
from typing import Final, TextIO

from penstock_training.errors import TrainingError
from penstock_training.scorers.options import ScorerOptions
from penstock_training.scorers.protocol import Scored, ScoringTask
from penstock_training.scorers.terminal_text import wrapped

_HIGHEST: Final = 10.0
_HELP: Final = "0-10, p(ass), f(ail), s(kip), u(ndo), a(gain: show it once more), q(uit)"
_NOT_UNDERSTOOD: Final = "not understood; "
_POLL_SECONDS: Final = 0.2


class _Undo(Exception):
    """The person wants the answer before this one again."""


class _Again(Exception):
    """The person wants to see the answer once more."""


class HumanScorer:
    """Asks a person for a score of each answer.

    Parameters
    ----------
    incoming, outgoing : TextIO
        Lines of the person, and what is shown to them. Plain pipes will do.
    seed : int
        With the query id decides the order in which arms are shown.
    width : int or None
        Columns; the terminal's when None, at most 100.

    Notes
    -----
    Answers are shown as A, B, C … in an order that differs by prompt, so that neither a name nor a place gives an arm
    away. Skipping gives no score. Quitting raises, after which the runner keeps what was scored before this prompt and
    can go on later.
    """

    name = "human"

    def __init__(self, incoming: TextIO, outgoing: TextIO, *, seed: int = 0, width: int | None = None) -> None:
        self._incoming = incoming
        self._outgoing = outgoing
        self._seed = seed
        self._width = width
        self._turn = asyncio.Lock()
        self._prompts_done = 0
        self._is_stopped = threading.Event()

    @classmethod
    def from_options(cls, parameter: str, options: ScorerOptions) -> HumanScorer:
        """Make the scorer; a TrainingError of code ``scorer_spec`` for a parameter."""
        if parameter:
            raise TrainingError("the scorer `human` takes no parameter", code="scorer_spec")
        return cls(options.human_input or sys.stdin, options.human_output or sys.stderr, seed=options.seed)

    def estimate_cost_usd(self, prompts: int, arms: int) -> float:
        """Return 0: the person's time is not counted."""
        return 0.0

    async def score_all(self, tasks: Sequence[ScoringTask]) -> list[Scored]:
        """Ask about each answer, one prompt at a time; see `Scorer.score_all`.

        Raises
        ------
        TrainingError
            Code ``scoring_stopped``: the person quits, or the input ends. Nothing of this prompt is kept.
        """
        async with self._turn:
            try:
                return await asyncio.to_thread(self._dialogue, tasks)
            except asyncio.CancelledError:
                self._is_stopped.set()
                raise

    async def aclose(self) -> None:
        """Nothing is held: the streams belong to the caller."""

    def _dialogue(self, tasks: Sequence[ScoringTask]) -> list[Scored]:
        if not tasks:
            return []
        order = list(range(len(tasks)))
        random.Random(f"{self._seed}/{tasks[0].query_id}").shuffle(order)
        self._show_prompt(tasks[0])
        scores: dict[int, Scored] = {}
        position = 0
        while position < len(order):
            task = tasks[order[position]]
            self._show_answer(task, position, len(order))
            try:
                scores[order[position]] = self._ask()
                position += 1
            except _Undo:
                if position == 0:
                    self._say("nothing to undo in this prompt")
                position = max(0, position - 1)
            except _Again:
                self._show_prompt(tasks[0])
        self._prompts_done += 1
        return [scores[number] for number in range(len(tasks))]

    def _ask(self) -> Scored:
        while True:
            self._outgoing.write(f"score ({_HELP}): ")
            self._outgoing.flush()
            line = self._line()
            word = line.strip().lower()
            if not line or word in ("q", "quit"):
                raise _stopped()
            if word in ("u", "undo"):
                raise _Undo
            if word in ("a", "again"):
                raise _Again
            if word in ("s", "skip"):
                return Scored(None, "skipped by the person")
            if word in ("p", "pass", "f", "fail"):
                is_passed = word in ("p", "pass")
                return Scored(float(is_passed), f"a person said {'pass' if is_passed else 'fail'}")
            if (grade := _grade(word)) is not None:
                return Scored(grade / _HIGHEST, f"a person gave {grade:g} of 10")
            self._say(f"{_NOT_UNDERSTOOD}{_HELP}")

    def _line(self) -> str:
        """Wait for a line; from a terminal in short waits, so that Ctrl-C ends this thread without a further key."""
        while self._incoming.isatty() and not select.select([self._incoming], [], [], _POLL_SECONDS)[0]:
            if self._is_stopped.is_set():
                raise _stopped()
        return self._incoming.readline()

    def _show_prompt(self, task: ScoringTask) -> None:
        self._say(f"\n{'═' * self._columns}\nprompt {self._prompts_done + 1}")
        self._say(wrapped(task.prompt, self._columns, indent="  "))
        if task.reference:
            self._say("reference")
            self._say(wrapped(task.reference, self._columns, indent="  "))

    def _show_answer(self, task: ScoringTask, position: int, total: int) -> None:
        label = _label(position)
        self._say(f"{'─' * self._columns}\nanswer {label} ({position + 1} of {total})")
        self._say(wrapped(task.answer, self._columns, indent="  ") if task.answer.strip() else "  (empty)")

    def _say(self, text: str) -> None:
        self._outgoing.write(f"{text}\n")
        self._outgoing.flush()

    @property
    def _columns(self) -> int:
        return self._width or min(100, shutil.get_terminal_size((80, 24)).columns)


def _stopped() -> TrainingError:
    message = "scoring was stopped; run the same command again to go on where it ended"
    return TrainingError(message, code="scoring_stopped")


def _label(position: int) -> str:
    """Return A to Z, then AA, AB and so on."""
    letters = ""
    number = position + 1
    while number:
        number, rest = divmod(number - 1, 26)
        letters = chr(ord("A") + rest) + letters
    return letters


def _grade(word: str) -> float | None:
    try:
        grade = float(word.replace(",", "."))
    except ValueError:
        return None
    return grade if math.isfinite(grade) and 0.0 <= grade <= _HIGHEST else None
