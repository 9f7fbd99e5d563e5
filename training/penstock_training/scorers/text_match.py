"""Answers compared with a reference as text, by a pattern, or as a number.

Owns `ExactScorer`, `RegexScorer` and `NumericScorer`. Read `ExactScorer`.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Final

from penstock_training.errors import TrainingError
from penstock_training.scorers.bounded_work import BoundedWorker
from penstock_training.scorers.final_answer import boxed, final_answer, last_line, marked, normal_form, option_letter
from penstock_training.scorers.number_text import DecimalMark, WrittenNumber, are_equal, numbers_in
from penstock_training.scorers.protocol import Scored, ScoringTask
from penstock_training.scorers.spec import read_amount, read_choice, read_settings

NO_REFERENCE: Final = Scored(None, "there is no reference to compare with")

_PLACES: Final[dict[str, Callable[[str], str | None]]] = {
    "whole": lambda text: text,
    "final": final_answer,
    "last-line": last_line,
    "boxed": boxed,
    "option": option_letter,
}


class ExactScorer:
    """1 when the answer equals the reference in normal form, else 0.

    Parameters
    ----------
    place : {"whole", "final", "last-line", "boxed", "option"}
        What of the answer is compared; see `final_answer`.
    """

    name = "exact"

    def __init__(self, place: str = "whole") -> None:
        self._place = place

    @classmethod
    def from_parameter(cls, parameter: str) -> ExactScorer:
        """Make the scorer of ``exact:PLACE``; a TrainingError of code ``scorer_spec`` for an unknown place."""
        return cls(read_choice("exact", "the place of the answer", parameter or "whole", tuple(_PLACES)))

    def estimate_cost_usd(self, prompts: int, arms: int) -> float:
        """Return 0: nothing is paid for."""
        return 0.0

    async def score_all(self, tasks: Sequence[ScoringTask]) -> list[Scored]:
        """Compare each answer; see `Scorer.score_all`."""
        return [self._score(task) for task in tasks]

    async def aclose(self) -> None:
        """Nothing is held."""

    def _score(self, task: ScoringTask) -> Scored:
        if not (task.reference or "").strip():
            return NO_REFERENCE
        given = _PLACES[self._place](task.answer)
        wanted = task.reference or ""
        if self._place == "option":
            wanted = option_letter(wanted) or ""
            if not wanted:
                return Scored(None, "the reference is no option letter")
        if given is None or not given.strip():
            return Scored(0.0, f"no answer found ({self._place})")
        is_equal = normal_form(given) == normal_form(wanted)
        return Scored(float(is_equal), "equal" if is_equal else "not equal")


class RegexScorer:
    """1 when a regular expression is found in the answer, else 0; without score when it takes too long.

    Parameters
    ----------
    pattern : str
        Python's syntax; the task's reference is the pattern when this is empty.
    limit_seconds : float
        For one search.

    Notes
    -----
    Python's engine backtracks, and whether a pattern can blow up cannot be told by looking at it. So the search runs in
    a process of its own that is killed when the time is over.
    """

    name = "regex"

    def __init__(self, pattern: str, *, limit_seconds: float = 1.0) -> None:
        self._pattern = pattern
        self._limit_seconds = limit_seconds
        self._worker = BoundedWorker(limit_seconds)

    def estimate_cost_usd(self, prompts: int, arms: int) -> float:
        """Return 0: nothing is paid for."""
        return 0.0

    async def score_all(self, tasks: Sequence[ScoringTask]) -> list[Scored]:
        """Search each answer; see `Scorer.score_all`.

        Raises
        ------
        TrainingError
            Code ``scorer_spec`` when the pattern of the spec is none.
        """
        return [await self._score(task) for task in tasks]

    async def aclose(self) -> None:
        """End the process that searches."""
        await self._worker.aclose()

    async def _score(self, task: ScoringTask) -> Scored:
        pattern = self._pattern or task.reference
        if not pattern:
            return NO_REFERENCE
        found = await self._worker.ask(work="regex", pattern=pattern, text=task.answer)
        if found is None:
            return Scored(None, f"the search was given up after at most {self._limit_seconds:g} s")
        if "error" in found:
            if self._pattern:
                raise TrainingError(f"the scorer `regex`: {found['error']}", code="scorer_spec")
            return Scored(None, "the reference is no regular expression")
        if found["why"]:
            return Scored(None, found["why"])
        return Scored(float(found["holds"]), "found" if found["holds"] else "not found")


class NumericScorer:
    """1 when the answer's number equals the reference's within a tolerance, else 0.

    Parameters
    ----------
    relative, absolute : float
        Tolerances, >= 0; see `are_equal`.
    pick : {"auto", "boxed", "last", "first"}
        Which number of the answer counts. ``auto``: the one in the box, else the first one behind "answer is" and the
        like, else the last.
    decimal_mark : {"point", "comma"}
    """

    name = "numeric"

    def __init__(
        self,
        *,
        relative: float = 1e-6,
        absolute: float = 0.0,
        pick: str = "auto",
        decimal_mark: DecimalMark = "point",
    ) -> None:
        self._relative = relative
        self._absolute = absolute
        self._pick = pick
        self._decimal_mark: DecimalMark = decimal_mark

    @classmethod
    def from_parameter(cls, parameter: str) -> NumericScorer:
        """Make the scorer of ``numeric:tolerance=0.01,absolute=0,pick=auto,decimal=point``.

        Raises
        ------
        TrainingError
            Code ``scorer_spec``.
        """
        known = {"tolerance": "1e-6", "absolute": "0", "pick": "auto", "decimal": "point"}
        settings = read_settings("numeric", parameter, known)
        mark = read_choice("numeric", "decimal", settings["decimal"], ("point", "comma"))
        return cls(
            relative=read_amount("numeric", "tolerance", settings["tolerance"]),
            absolute=read_amount("numeric", "absolute", settings["absolute"]),
            pick=read_choice("numeric", "pick", settings["pick"], ("auto", "boxed", "last", "first")),
            decimal_mark="comma" if mark == "comma" else "point",
        )

    def estimate_cost_usd(self, prompts: int, arms: int) -> float:
        """Return 0: nothing is paid for."""
        return 0.0

    async def score_all(self, tasks: Sequence[ScoringTask]) -> list[Scored]:
        """Compare each answer; see `Scorer.score_all`."""
        return [self._score(task) for task in tasks]

    async def aclose(self) -> None:
        """Nothing is held."""

    def _score(self, task: ScoringTask) -> Scored:
        if not (task.reference or "").strip():
            return NO_REFERENCE
        wanted = self._picked(task.reference or "", "auto")
        if wanted is None:
            return Scored(None, "there is no number in the reference")
        given = self._picked(task.answer, self._pick)
        if given is None:
            return Scored(0.0, "there is no number in the answer")
        is_equal = are_equal(given, wanted, relative=self._relative, absolute=self._absolute)
        return Scored(float(is_equal), "equal" if is_equal else "not equal")

    def _picked(self, text: str, pick: str) -> WrittenNumber | None:
        if pick in ("auto", "boxed"):
            if in_box := numbers_in(boxed(text) or "", self._decimal_mark):
                return in_box[-1]
            if pick == "boxed":
                return None
            if behind := numbers_in(marked(text) or "", self._decimal_mark):
                return behind[0]
        numbers = numbers_in(text, self._decimal_mark)
        if not numbers:
            return None
        return numbers[0] if pick == "first" else numbers[-1]
