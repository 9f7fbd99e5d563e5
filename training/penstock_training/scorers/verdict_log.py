"""The file to which judges append their verdicts, one JSON object per line, without prompts and answers.

Owns its two kinds of rows. Read `PairVerdict` and `GradeVerdict`.
"""

from __future__ import annotations

from pathlib import Path
from typing import Literal

import msgspec

from penstock_training.errors import TrainingError

Winner = Literal["first", "second", "tie"]


class PairVerdict(msgspec.Struct, frozen=True, tag_field="judge", tag="pairwise"):
    """Both verdicts on one pair of answers.

    Attributes
    ----------
    model : str
        The judge.
    query_id, arm, opponent : str
        Which prompt, whose answer, compared with whose; ``""`` is the task's reference.
    arm_first, arm_second : {"first", "second", "tie"}
        The position that won when the arm's answer stood first, and when it stood second.
    arm_characters, opponent_characters : int
        Lengths of the answers.
    """

    model: str
    query_id: str
    arm: str
    opponent: str
    arm_first: Winner
    arm_second: Winner
    arm_characters: int
    opponent_characters: int

    @property
    def score(self) -> float:
        """1 when the arm won in both orders, 0 when it lost in both, else 0.5."""
        if self.arm_first == "first" and self.arm_second == "second":
            return 1.0
        if self.arm_first == "second" and self.arm_second == "first":
            return 0.0
        return 0.5

    @property
    def is_consistent(self) -> bool:
        """Whether both orders say the same about the answers."""
        return self.arm_first == self.arm_second == "tie" or self.score != 0.5


class GradeVerdict(msgspec.Struct, frozen=True, tag_field="judge", tag="rubric"):
    """The grade of one answer.

    Attributes
    ----------
    model, query_id, arm : str
        The judge, which prompt, whose answer.
    grade : float
        As given.
    score : float, in [0, 1]
    arm_characters : int
        Length of the answer.
    """

    model: str
    query_id: str
    arm: str
    grade: float
    score: float
    arm_characters: int


Verdict = PairVerdict | GradeVerdict


def append_verdict(path: Path | None, verdict: Verdict) -> None:
    """Append one row; nothing without a path.

    Raises
    ------
    TrainingError
        Code ``verdict_log``: the file cannot be written.
    """
    if path is None:
        return
    try:
        with path.open("ab") as handle:
            handle.write(msgspec.json.encode(verdict) + b"\n")
    except OSError as error:
        raise TrainingError(f"the verdict log {str(path)!r} cannot be written", code="verdict_log") from error


def read_verdicts(path: Path) -> list[Verdict]:
    """Read a log; of several verdicts on one thing by one judge, as after a resumption, the last one.

    Raises
    ------
    TrainingError
        Code ``verdict_log``, with the line: no such file, or a line that is no verdict. A last line without its end, as
        a killed run leaves it, is passed over.
    """
    try:
        lines = path.read_bytes().split(b"\n")
    except OSError as error:
        raise TrainingError(f"there is no verdict log {str(path)!r}", code="verdict_log") from error
    found: dict[tuple[str, ...], Verdict] = {}
    for number, line in enumerate(lines[:-1], start=1):
        if not line.strip():
            continue
        try:
            verdict = msgspec.json.decode(line, type=Verdict)
        except msgspec.MsgspecError as error:
            raise TrainingError(f"line {number} of {str(path)!r} is no verdict", code="verdict_log") from error
        opponent = verdict.opponent if isinstance(verdict, PairVerdict) else "-"
        found[type(verdict).__name__, verdict.model, verdict.query_id, verdict.arm, opponent] = verdict
    return list(found.values())
