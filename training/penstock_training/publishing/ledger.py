"""The account of a hold-out: how often it was asked, what it answered, and how sure the next answer has to be.

Owns the file ``holdouts/<digest>.jsonl`` of a registry and the error rate that each try may spend. It knows questions
by their digest only. Read `error_rate`, then `HoldoutLedger`.
"""

from __future__ import annotations

import hashlib
import math
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Final, Literal

import msgspec

from penstock_training.errors import TrainingError
from penstock_training.splits import normalise_question

Verdict = Literal["promote", "keep", "not_enough_data"]

FAMILY_ERROR_RATE: Final = 0.05  # of any wrong promotion, over all tries that a hold-out will ever see
# Below this the tail of a mean over some hundred groups is not known well enough to promise anything by it.
MINIMUM_ERROR_RATE: Final = 1e-4
_BASEL: Final = 6.0 / math.pi**2  # 1 / Σ 1/k²


class LedgerEntry(msgspec.Struct, frozen=True):
    """One line of the account.

    Attributes
    ----------
    at, by : str
        ISO 8601, UTC; login name.
    question : str
        Ids of candidate and running artifact and the gate's settings, as one text.
    error_rate : float
        What the try may spend.
    verdict : str
        Empty on the line that is written before the hold-out is looked at.
    """

    at: str
    by: str
    question: str
    error_rate: float = 0.0
    verdict: str = ""


def error_rate(tries: int, promotions: int, *, family: float = FAMILY_ERROR_RATE) -> float:
    r"""Chance of a wrong promotion that the next try may take.

    Parameters
    ----------
    tries : int
        Questions asked of this hold-out before, >= 0.
    promotions : int
        How many of them were answered with *promote*; at most `tries`.
    family : float, in (0, 1)
        Bound for the chance of any wrong promotion over all tries, however many there will be.

    Returns
    -------
    float
        One-sided; at most 0.37 · `family`.

    Notes
    -----
    With k = tries + 1 and b = promotions::

        α(k, b) = family · 6 / (π² k²) · 6 / (π² (b + 1)²) / C(k - 1, b)

    Candidates may depend on earlier answers. As an answer is one bit, promoted or not, the k-th candidate can be one of
    at most C(k - 1, b) that were fixed before the hold-out was looked at, for each number b of promotions so far.
    Bounding each by α(k, b) and summing over b and k gives at most `family`, by Σ 1/k² = π²/6. No assumption is made
    about how candidates come about.

    References
    ----------
    Dwork, Feldman, Hardt, Pitassi, Reingold, Roth, "The reusable holdout" (Science 349, 2015): a hold-out stays valid
    when little of it is revealed; theorem 8 of its companion "Generalization in adaptive data analysis and holdout
    reuse" (arXiv 1506.02629) counts transcripts as done here. Blum, Hardt, "The Ladder" (arXiv 1502.04585): answering
    only when something is better keeps the count small. Ours needs no noise, and spends unevenly because the first
    tries matter most.

    Examples
    --------
    >>> round(error_rate(0, 0), 4), round(error_rate(3, 0), 5), round(error_rate(3, 1), 6)
    (0.0185, 0.00116, 9.6e-05)
    """
    transcripts = math.comb(tries, promotions)
    return family * _BASEL / (tries + 1) ** 2 * _BASEL / (promotions + 1) ** 2 / transcripts


def holdout_digest(prompts: Sequence[str]) -> str:
    """Name a hold-out by the questions in it.

    Parameters
    ----------
    prompts : sequence of str

    Returns
    -------
    str
        64 hexadecimal digits; the same for another file name, format, order, spelling, arm or score, so that none of
        these gives a used hold-out a new account.
    """
    questions = sorted({normalise_question(prompt) for prompt in prompts})
    digests = b"".join(hashlib.sha256(question.encode("utf-8", "surrogatepass")).digest() for question in questions)
    return hashlib.sha256(digests).hexdigest()


class HoldoutLedger:
    """The account of one hold-out; use it under the registry's lock.

    Parameters
    ----------
    folder : Path
        ``holdouts`` of the registry.
    digest : str
        From `holdout_digest`.

    Attributes
    ----------
    tries, promotions : int
        Questions asked so far, answered or not, and those answered with *promote*.
    """

    def __init__(self, folder: Path, digest: str) -> None:
        self._path = folder / f"{digest}.jsonl"
        self._entries = self._read()

    @property
    def tries(self) -> int:
        """Questions asked so far; one that was killed before its answer counts."""
        return sum(1 for entry in self._entries if not entry.verdict)

    @property
    def promotions(self) -> int:
        """Questions answered with *promote*."""
        return sum(1 for entry in self._entries if entry.verdict == "promote")

    @property
    def next_error_rate(self) -> float:
        """What the next try may spend; 0 when the hold-out is used up."""
        rate = error_rate(self.tries, self.promotions)
        return rate if rate >= MINIMUM_ERROR_RATE else 0.0

    def earlier_answer(self, question: str) -> Verdict | None:
        """Answer to the same question before; asking again tells nothing new and spends nothing."""
        found = [entry.verdict for entry in self._entries if entry.question == question and entry.verdict]
        known: dict[str, Verdict] = {"promote": "promote", "keep": "keep", "not_enough_data": "not_enough_data"}
        return known[found[-1]] if found else None

    def ask(self, question: str, rate: float, *, at: str, by: str) -> None:
        """Write the try down before the hold-out is looked at, so that a kill gives no free look."""
        self._append(LedgerEntry(at, by, question, rate))

    def answer(self, question: str, rate: float, verdict: Verdict, *, at: str, by: str) -> None:
        """Write the answer down before it is shown."""
        self._append(LedgerEntry(at, by, question, rate, verdict))

    def _read(self) -> list[LedgerEntry]:
        try:
            lines = self._path.read_bytes().splitlines()
        except FileNotFoundError:
            return []
        entries: list[LedgerEntry] = []
        for line in lines:
            try:
                entries.append(msgspec.json.decode(line, type=LedgerEntry))
            except (msgspec.DecodeError, UnicodeDecodeError):  # cut off by a kill: it counts as a try
                entries.append(LedgerEntry("", "", ""))
        return entries

    def _append(self, entry: LedgerEntry) -> None:
        try:
            self._path.parent.mkdir(parents=True, exist_ok=True)
            with self._path.open("a+b") as file:
                if file.seek(0, os.SEEK_END) and not self._path.read_bytes().endswith(b"\n"):
                    file.write(b"\n")
                file.write(msgspec.json.encode(entry) + b"\n")
                file.flush()
                os.fsync(file.fileno())
        except OSError as error:
            message = f"the account of the hold-out cannot be written: {error.strerror}"
            raise TrainingError(message, code="registry_not_writable") from error
        self._entries.append(entry)
