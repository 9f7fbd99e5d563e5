"""What routing saved, or would save: an estimate from the event log, never without its interval.

Owns the comparison of costs in fact with corrected expected costs, and the figures by team, category, model, key and
day. Formats nothing. Read `savings_report` first, then `calibration.calibrate`.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from decimal import Decimal
from typing import Final

import numpy as np
from numpy.typing import NDArray

from penstock_gateway.money.amounts import PICOUSD_PER_USD, to_usd
from penstock_gateway.reports.bootstrap import DRAWS, BlockBootstrap, FloatArray, IntArray, Interval, interval_of
from penstock_gateway.reports.calibration import (
    ELSEWHERE_SPREAD,
    MIN_BLOCKS,
    UNKNOWN_ARM_SPREAD,
    ArmCorrection,
    Corrections,
    Ground,
    calibrate,
)
from penstock_gateway.reports.joined import Record
from penstock_gateway.reports.savings_rows import Kind, LeftOut
from penstock_gateway.reports.savings_table import SavingsArrays, SavingsTable

BoolArray = NDArray[np.bool_]

ROWS_SHOWN: Final = 12
DAYS_SHOWN: Final = 31
OTHERS: Final = "(others)"
FEW_DAYS: Final = 7
Z95: Final = 1.96


@dataclass(frozen=True, slots=True)
class SavingsFigure:
    """What was saved in one part of the traffic.

    Attributes
    ----------
    label : str
    requests, conversations : int
    cost_usd : Decimal
        In fact, exact where providers reported usage.
    other_usd, saving_usd : Interval or None
        What the other arms would have cost, and the saving: without routing minus with it. None below
        `calibration.MIN_BLOCKS` conversations.
    saving_share : Interval or None
        Saving over the cost without routing.
    gain : Interval or None
        Predicted quality with routing minus that without, mean over the requests where both are predicted. A
        prediction, not a measurement.
    moved_share : float
        Requests for which the two arms differ.
    abstained_share : float
    """

    label: str
    requests: int
    conversations: int
    cost_usd: Decimal
    other_usd: Interval | None
    saving_usd: Interval | None
    saving_share: Interval | None
    gain: Interval | None
    moved_share: float
    abstained_share: float


@dataclass(frozen=True, slots=True)
class SavingsSection:
    """The savings of one kind.

    Attributes
    ----------
    kind : Kind
    total : SavingsFigure
    days : int
        Dates (UTC) with a request.
    by : dict of str to tuple of SavingsFigure
        Figures by dimension, dearest first; days in their order.
    corrections : tuple of ArmCorrection
        Of the arms that are compared with.
    notes : tuple of str
        What the reader must know before believing it.
    """

    kind: Kind
    total: SavingsFigure
    days: int
    by: dict[str, tuple[SavingsFigure, ...]]
    corrections: tuple[ArmCorrection, ...]
    notes: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class SavingsReport:
    """Everything that was found.

    Attributes
    ----------
    sections : tuple of SavingsSection
        Projected first; those without a request are missing.
    left_out : dict of LeftOut to (int, Decimal)
        Requests that cannot be compared, and what they cost, USD.
    duplicates, without_outcome : int
        See `joined.JoinCounts`.
    """

    sections: tuple[SavingsSection, ...]
    left_out: dict[LeftOut, tuple[int, Decimal]]
    duplicates: int
    without_outcome: int


def savings_report(
    records: Iterable[Record],
    *,
    dimensions: Sequence[str] = ("team", "category", "model"),
    draws: int = DRAWS,
    seed: int = 0,
) -> SavingsReport:
    """Estimate what routing saved, and what it would have saved where it only watched.

    Parameters
    ----------
    records : iterable of mapping
        Events, in any order; see `joined.join_requests` for the memory that is taken.
    dimensions : sequence of str
        Of `savings_rows.DIMENSIONS`.
    draws, seed : int
        Of the bootstrap.

    Returns
    -------
    SavingsReport

    Notes
    -----
    The cost of what did not happen is the expected cost of the other arm, corrected as `calibration.calibrate` says;
    where both arms are the same it is the cost in fact. Intervals (95 %, bootstrap over conversations) hold for traffic
    like that of the log, at its number of requests: they contain the luck of which conversations came, the error of
    the corrections, and what is not known of arms that never answered. O(requests + draws · conversations · figures).
    """
    table = SavingsTable.read(records)
    arrays = table.arrays()
    sections = []
    for code, kind in enumerate((Kind.PROJECTED, Kind.REALISED)):
        is_kind = arrays.whole["kind"] == code
        if is_kind.any():
            sections.append(_section(table, arrays, is_kind, kind, dimensions, draws, seed))
    left_out = {why: (n, to_usd(table.left_out_picousd[why])) for why, n in table.left_out.most_common()}
    return SavingsReport(tuple(sections), left_out, table.counts.duplicates, table.counts.without_outcome)


def _section(
    table: SavingsTable,
    rows: SavingsArrays,
    is_kind: BoolArray,
    kind: Kind,
    dimensions: Sequence[str],
    draws: int,
    seed: int,
) -> SavingsSection:
    bootstrap = BlockBootstrap(rows.whole["block"], draws=draws, seed=seed)
    corrections = calibrate(rows, table.models, bootstrap, kind, seed=seed)
    compared = _Compared(rows, is_kind, kind, corrections, bootstrap)
    total = compared.figures(np.where(is_kind, 0, -1), ["all"])[0]
    by = {}
    for dimension in dimensions:
        codes, labels = _grouped(rows, is_kind, dimension, table.names(dimension))
        by[dimension] = tuple(compared.figures(codes, labels))
    used = np.unique(rows.whole["other"][is_kind])
    arms = tuple(corrections.arms[code] for code in used if code >= 0)
    days = int(np.unique(rows.whole["day"][is_kind]).size)
    return SavingsSection(kind, total, days, by, arms, tuple(_notes(compared, total, days)))


def _grouped(
    rows: SavingsArrays, is_kind: BoolArray, dimension: str, names: Sequence[str]
) -> tuple[IntArray, list[str]]:
    """Give the dearest labels, or the latest days, a code each, and the other labels one together."""
    codes = np.where(is_kind, rows.whole[dimension], -1)
    cost = np.bincount(codes[is_kind], weights=rows.whole["cost_picousd"][is_kind], minlength=len(names))
    present = np.unique(codes[is_kind]).tolist()
    if dimension == "day":
        kept, rest = sorted(present, key=lambda code: names[code])[-DAYS_SHOWN:], -1
        labels = [names[code] for code in kept]
    else:
        kept = sorted(present, key=lambda code: (-cost[code], names[code]))
        kept = kept if len(kept) <= ROWS_SHOWN else kept[: ROWS_SHOWN - 1]
        rest = len(kept)
        labels = [names[code] for code in kept] + ([OTHERS] if len(kept) < len(present) else [])
    found = np.full(len(names) + 1, rest, dtype=np.int64)
    found[kept] = np.arange(len(kept))
    found[-1] = -1  # rows of the other kind
    return found[codes], labels


class _Compared:
    """The rows of one kind with corrected costs of what did not happen."""

    def __init__(
        self,
        rows: SavingsArrays,
        is_kind: BoolArray,
        kind: Kind,
        corrections: Corrections,
        bootstrap: BlockBootstrap,
    ) -> None:
        self.rows = rows
        self.is_kind = is_kind
        self.kind = kind
        self.corrections = corrections
        self._bootstrap = bootstrap
        number, whole = rows.number, rows.whole
        fact = whole["cost_picousd"] / PICOUSD_PER_USD
        is_known = np.isfinite(number["gain"])
        self._own = np.column_stack([
            np.ones(len(rows)),
            fact,
            np.where(whole["other"] < 0, fact, 0.0),
            np.where(is_known, number["gain"], 0.0),
            np.where(is_known, number["gain_se"], 0.0),
            is_known.astype(np.float64),
        ])  # fmt: skip
        self._parts = np.column_stack([number["other_prompt_usd"], number["other_rest_usd"]])

    def figures(self, groups: IntArray, labels: Sequence[str]) -> list[SavingsFigure]:
        """Return a figure for each group; rows below 0 are in none."""
        width, m = len(labels), max(len(self.corrections.arms), 1)
        other = self.rows.whole["other"]
        cells = np.where((groups >= 0) & (other >= 0), groups * m + other, -1)
        own, drawn_own = self._bootstrap.sums(groups, self._own, width)
        parts, drawn_parts = self._bootstrap.sums(cells, self._parts, width * m)
        corrections = self.corrections
        factors = np.stack([corrections.prompt, corrections.rest], axis=-1).reshape(-1, 2)
        drawn_factors = np.stack([corrections.drawn_prompt, corrections.drawn_rest], axis=-1)
        if not corrections.arms:  # every arm is compared with itself
            factors, drawn_factors = np.ones((1, 2)), np.ones((self._bootstrap.draws, 1, 2))
        moved = (parts.reshape(width, m, 2) * factors).sum(axis=(1, 2))
        drawn_moved = np.einsum("rgmk,rmk->rg", drawn_parts.reshape(-1, width, m, 2), drawn_factors)
        conversations = self._bootstrap.counts(groups, width)
        return [
            self._figure(
                label,
                groups == group,
                int(conversations[group]),
                np.append(own[group], own[group, 2] + moved[group]),
                np.column_stack([drawn_own[:, group], drawn_own[:, group, 2] + drawn_moved[:, group]]),
            )
            for group, label in enumerate(labels)
        ]

    def _figure(
        self, label: str, is_own: BoolArray, conversations: int, sums: FloatArray, drawn: FloatArray
    ) -> SavingsFigure:
        """Make a figure of sums; the last one is the cost of what did not happen."""
        requests = int(is_own.sum())
        is_moved = self.rows.whole["other"][is_own] >= 0
        other = saving = share = None
        if conversations >= MIN_BLOCKS:
            scale, drawn_scale = requests / sums[0], requests / drawn[:, 0]
            fact, drawn_fact = sums[1] * scale, drawn[:, 1] * drawn_scale
            absent, drawn_absent = sums[-1] * scale, drawn[:, -1] * drawn_scale
            sign = 1.0 if self.kind is Kind.PROJECTED else -1.0
            before, drawn_before = (fact, drawn_fact) if self.kind is Kind.PROJECTED else (absent, drawn_absent)
            gap, drawn_gap = sign * (fact - absent), sign * (drawn_fact - drawn_absent)
            other = interval_of(absent, drawn_absent, conversations)
            saving = interval_of(gap, drawn_gap, conversations)
            if before > 0.0 and (drawn_before > 0.0).all():
                share = interval_of(gap / before, drawn_gap / drawn_before, conversations)
        return SavingsFigure(
            label,
            requests,
            conversations,
            to_usd(int(self.rows.whole["cost_picousd"][is_own].sum())),
            other,
            saving,
            share,
            _gain(sums, drawn, conversations),
            float(is_moved.mean()),
            float(self.rows.number["is_abstention"][is_own].mean()),
        )


def _gain(sums: FloatArray, drawn: FloatArray, conversations: int) -> Interval | None:
    """Return the mean predicted gain; the errors of one artifact's predictions are taken to go the same way."""
    known = sums[5]
    if conversations < MIN_BLOCKS or known <= 0.0 or not (drawn[:, 5] > 0.0).all():
        return None
    found = interval_of(sums[3] / known, drawn[:, 3] / drawn[:, 5], conversations)
    model = Z95 * float(sums[4] / known)
    below, above = math.hypot(found.value - found.low, model), math.hypot(found.high - found.value, model)
    return Interval(found.value, found.value - below, found.value + above)


def _notes(compared: _Compared, total: SavingsFigure, days: int) -> list[str]:
    """Say what the figures rest on where it is little."""
    rows, is_kind, arms = compared.rows, compared.is_kind, compared.corrections.arms
    found = []
    if total.conversations < MIN_BLOCKS:
        found.append(
            f"{total.conversations} conversations are too few for an interval, so no saving is stated: "
            f"at least {MIN_BLOCKS} are needed"
        )
    if days < FEW_DAYS:
        found.append(f"the log covers {days} day{'' if days == 1 else 's'}: other days of the week may differ")
    expected = rows.number["other_prompt_usd"] + rows.number["other_rest_usd"]
    weight = np.bincount(
        rows.whole["other"][is_kind] + 1, weights=expected[is_kind], minlength=len(arms) + 1
    )[1:]  # fmt: skip
    for arm, usd in zip(arms, weight.tolist(), strict=True):
        if usd > 0.0 and arm.ground is Ground.ASSUMED:
            found.append(
                f"{arm.model.arm} has answered in {arm.conversations} conversations, fewer than {MIN_BLOCKS}: how long "
                f"its answers are is assumed, within a factor of up to {math.exp(Z95 * UNKNOWN_ARM_SPREAD):.0f}"
            )
        elif usd > 0.0 and arm.ground is Ground.OWN:
            why = "explored" if compared.kind is Kind.REALISED else "matching"
            found.append(
                f"{arm.model.arm} has too few {why} answers: how long its answers to these requests are is taken from "
                f"its other answers, within a factor of {math.exp(Z95 * ELSEWHERE_SPREAD):.1f}"
            )
    return found
