"""Logged outcomes: one row per decision, with the probability that the logging policy gave to the arm it chose.

Owns the step from checked outcome rows to decisions that may be weighted, and what is left out on the way. Must not
estimate anything. Read `LoggedOutcomes.from_table`.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields, replace
from typing import Final, Literal

import numpy as np
from numpy.typing import NDArray

from penstock_training.errors import TrainingError
from penstock_training.outcomes import OutcomeMatrix, OutcomeTable
from penstock_training.splits import question_groups

FloatVector = NDArray[np.float64]
IndexArray = NDArray[np.int64]
CensoredRule = Literal["zero", "ipcw", "bounds"]
CENSORED_RULES: Final[tuple[CensoredRule, ...]] = ("zero", "ipcw", "bounds")

LENGTH_STRATA: Final = 3  # prompts that need long answers are long themselves more often, and time out more often
STRATUM_ROWS_MIN: Final = 50  # rows of an arm in a stratum below which the arm's overall rate is used
OBSERVED_SHARE_MIN: Final = 0.1  # a stratum that is nearly all time-outs cannot stand for itself


@dataclass(frozen=True, slots=True)
class LogCounts:
    """What a log held before rows were left out.

    Attributes
    ----------
    rows : int
        All rows of the files.
    without_propensity : int
        Left out: nothing says with which probability their arm was chosen.
    rerouted : dict of str to int
        Left out: another arm answered than the one drawn. Per intended arm.
    """

    rows: int
    without_propensity: int
    rerouted: dict[str, int]


@dataclass(frozen=True, slots=True)
class LoggedOutcomes:
    """Decisions of a logging policy, n of them, over m arms.

    Attributes
    ----------
    prompts : list of str, length n
    groups : ndarray of int64, shape (n,)
        Equal for prompts that ask the same question (`splits.question_groups`).
    arms : tuple of str, length m
    arm : ndarray of int64, shape (n,)
        Index of the arm that was drawn and answered.
    propensity : ndarray of float64, shape (n,), in (0, 1]
        Probability with which the logging policy chose that arm, given the prompt.
    score : ndarray of float64, shape (n,), in [0, 1]
        NaN only where `is_censored`.
    input_tokens, output_tokens : ndarray of float64, shape (n,), tokens
    cost_usd : ndarray of float64, shape (n,), USD
    latency_seconds, timestamp : ndarray of float64, shape (n,)
        Seconds, and UNIX seconds. All of these are NaN where the log says nothing.
    is_censored : ndarray of bool, shape (n,)
        The request ended in a time-out.
    counts : LogCounts
    context : ndarray of float32, shape (n, 3), or None
        As in `OutcomeMatrix`.
    """

    prompts: list[str]
    groups: IndexArray
    arms: tuple[str, ...]
    arm: IndexArray
    propensity: FloatVector
    score: FloatVector
    input_tokens: FloatVector
    output_tokens: FloatVector
    cost_usd: FloatVector
    latency_seconds: FloatVector
    timestamp: FloatVector
    is_censored: NDArray[np.bool_]
    counts: LogCounts
    context: NDArray[np.float32] | None = None

    def __len__(self) -> int:
        """Count the decisions."""
        return int(self.arm.size)

    @classmethod
    def from_table(cls, table: OutcomeTable, arms: Sequence[str] = ()) -> LoggedOutcomes:
        """Take the rows of a log that may be weighted by their propensity.

        Parameters
        ----------
        table : OutcomeTable
            Rows with a ``propensity``. Rows without one, and rows that another arm answered than the intended one, are
            left out and counted.
        arms : sequence of str
            Arms that come first in `arms`, seen in the log or not; the log's own other arms follow by name.

        Returns
        -------
        LoggedOutcomes

        Raises
        ------
        TrainingError
            ``no_propensity``: no usable row has a propensity. ``one_arm_log``: all of them show one arm.
        """
        has_propensity = np.isfinite(table.number["propensity"])
        kept = np.flatnonzero(has_propensity & ~table.is_rerouted)
        counts = LogCounts(len(table), int((~has_propensity).sum()), _rerouted(table, has_propensity))
        if not kept.size:
            raise TrainingError(
                f"none of {len(table):,} rows can be weighted: {counts.without_propensity:,} have no propensity, "
                f"{sum(counts.rerouted.values()):,} were answered by another arm than the intended one; log the "
                "probability with which each arm was chosen",
                code="no_propensity",
            )
        column = table.text["arm"]
        seen = sorted({column.values[code] for code in np.unique(column.codes[kept])})
        if len(seen) == 1:
            raise TrainingError(one_arm_message(kept.size, seen[0]), code="one_arm_log")
        names = (*arms, *(name for name in seen if name not in set(arms)))
        position = {name: index for index, name in enumerate(names)}
        codes = np.array([position.get(value, -1) for value in column.values], dtype=np.int64)[column.codes[kept]]
        texts = table.text["prompt"]
        prompts = [texts.values[code] for code in texts.codes[kept].tolist()]
        number = {name: values[kept] for name, values in table.number.items()}
        return cls(
            prompts,
            question_groups(prompts),
            names,
            codes,
            number["propensity"],
            number["score"],
            number["input_tokens"],
            number["output_tokens"],
            number["cost_usd"],
            number["latency_seconds"],
            number["timestamp"],
            table.is_censored[kept],
            counts,
            table.context_of(kept),
        )

    def rows(self, index: IndexArray) -> LoggedOutcomes:
        """Take some decisions, in the order of `index` (shape (k,)); groups keep their numbers."""
        sliced = {f.name: getattr(self, f.name)[index] for f in fields(self) if f.name not in _WHOLE}
        context = None if self.context is None else self.context[index]
        return replace(self, prompts=[self.prompts[i] for i in index], context=context, **sliced)

    @property
    def rows_per_arm(self) -> IndexArray:
        """Decisions per arm, shape (m,)."""
        return np.bincount(self.arm, minlength=len(self.arms)).astype(np.int64)

    def matrix(self) -> OutcomeMatrix:
        """Arrange the decisions as a prompt × arm table with one filled cell per row, as estimators of arms take it."""
        n = len(self)
        names = ("score", "input_tokens", "output_tokens", "cost_usd", "propensity")
        cells = {name: np.full((n, len(self.arms)), np.nan, dtype=np.float32) for name in names}
        for name, values in cells.items():
            values[np.arange(n), self.arm] = getattr(self, name)
        return OutcomeMatrix(
            self.prompts,
            self.groups,
            [""] * n,
            [""] * n,
            [""] * n,
            self.arms,
            *(cells[name] for name in names),
            context=self.context,
        )


_WHOLE: Final = ("prompts", "arms", "counts", "context")


@dataclass(frozen=True, slots=True)
class ObservedScores:
    """Scores of a log after a decision about its time-outs.

    Attributes
    ----------
    name : str
        ``zero``, ``ipcw``, ``worst`` or ``best``.
    score : ndarray of float64, shape (n,), in [0, 1]
        0 where not observed.
    is_observed : ndarray of bool, shape (n,)
    observed_share : ndarray of float64, shape (n,), in (0, 1]
        Probability that the row's arm gave an answer in time to a prompt like the row's; 1 except under ``ipcw``.
    """

    name: str
    score: FloatVector
    is_observed: NDArray[np.bool_]
    observed_share: FloatVector


def observe(logged: LoggedOutcomes, rule: CensoredRule) -> list[ObservedScores]:
    """Decide what time-outs count for.

    Parameters
    ----------
    logged : LoggedOutcomes
    rule : {"zero", "ipcw", "bounds"}
        ``zero``: a time-out counts with the score in the log, 0 without one, because its user got no answer. ``ipcw``:
        its score is unknown and rows like it that were answered stand for it. ``bounds``: 0 in one result and 1 in
        another; the truth lies between them whatever the time-outs would have scored.

    Returns
    -------
    list of ObservedScores
        Two for ``bounds``, worst first; one otherwise.

    Raises
    ------
    TrainingError
        ``all_censored``: under ``ipcw`` an arm has no row that was answered in time.

    Notes
    -----
    ``ipcw`` weighs an observed row by ``1 / G``, G the share of observed rows of its arm among prompts of its third of
    prompt lengths; the arm's overall share where the stratum has fewer than 50 rows or answers fewer than one in ten.
    It assumes that, within arm and length, time-outs would have scored like the rest. Treating G as known when it was
    estimated makes intervals slightly too wide, never too narrow. O(n log n).

    References
    ----------
    Robins and Rotnitzky, "Recovery of information and adjustment for dependent censoring using surrogate markers"
    (AIDS Epidemiology, 1992): inverse probability of censoring weights. Manski, "Nonparametric bounds on treatment
    effects" (American Economic Review 80, 1990).
    """
    ones = np.ones(len(logged))
    everything = np.ones(len(logged), dtype=bool)
    if rule == "ipcw":
        observed = ~logged.is_censored
        share = _observed_share(logged, observed)
        return [ObservedScores("ipcw", np.where(observed, logged.score, 0.0), observed, share)]
    if rule == "bounds":
        return [
            ObservedScores(name, np.where(logged.is_censored, filled, logged.score), everything, ones)
            for name, filled in (("worst", 0.0), ("best", 1.0))
        ]
    return [ObservedScores("zero", np.where(np.isnan(logged.score), 0.0, logged.score), everything, ones)]


def one_arm_message(rows: int, arm: str) -> str:
    """Word the refusal of a log with one arm."""
    return (
        f"one-arm logs: all {rows:,} rows show the arm {arm!r}, so nothing can be said about any other; turn on "
        "exploration, or collect outcomes of several arms"
    )


def _rerouted(table: OutcomeTable, has_propensity: NDArray[np.bool_]) -> dict[str, int]:
    column = table.text["intended_arm"]
    codes, counts = np.unique(column.codes[table.is_rerouted & has_propensity], return_counts=True)
    return {column.values[code]: int(count) for code, count in zip(codes, counts, strict=True)}


def _observed_share(logged: LoggedOutcomes, observed: NDArray[np.bool_]) -> FloatVector:
    """Share of observed rows among rows of the same arm and a similar prompt length."""
    lengths = np.array([len(prompt) for prompt in logged.prompts], dtype=np.float64)
    edges = np.quantile(lengths, np.arange(1, LENGTH_STRATA) / LENGTH_STRATA)
    stratum = np.searchsorted(edges, lengths)
    share = np.ones(len(logged))
    for index, name in enumerate(logged.arms):
        of_arm = logged.arm == index
        if not of_arm.any():
            continue
        overall = float(observed[of_arm].mean())
        if overall == 0.0:
            raise TrainingError(
                f"all {int(of_arm.sum()):,} rows of the arm {name!r} are time-outs; nothing stands for them: use "
                "--censored zero or bounds",
                code="all_censored",
            )
        share[of_arm] = overall
        for number in range(LENGTH_STRATA):
            cell = of_arm & (stratum == number)
            if int(cell.sum()) >= STRATUM_ROWS_MIN and (within := float(observed[cell].mean())) >= OBSERVED_SHARE_MIN:
                share[cell] = within
    return share
