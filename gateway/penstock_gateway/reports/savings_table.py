"""Many comparable requests as columns of numbers: a fifth of the memory of objects, and what numpy works on.

Owns codes for names and which rows a model of an arm's cost may be judged by. Estimates nothing. Read `SavingsTable`.
"""

from __future__ import annotations

import math
from array import array
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Final, NamedTuple

import numpy as np
from numpy.typing import NDArray

from penstock_gateway.reports.joined import JoinCounts, Record, join_requests
from penstock_gateway.reports.savings_rows import DIMENSIONS, Expected, Kind, LeftOut, SavingsRow, row_of

FloatArray = NDArray[np.float64]
IntArray = NDArray[np.int64]

_NUMBERS: Final = (
    "answer_usd",
    "output_tokens",
    "served_output_tokens",
    "served_prompt_usd",
    "served_rest_usd",
    "other_prompt_usd",
    "other_rest_usd",
    "odds",
    "is_chosen",
    "gain",
    "gain_se",
    "is_abstention",
)
_WHOLES: Final = ("kind", "block", "served", "other", "cost_picousd", *DIMENSIONS)


class CostModel(NamedTuple):
    """Estimates that are judged together: of one arm, made in one way.

    Attributes
    ----------
    arm : str
    is_predicted : bool
        As in `Expected`.
    has_parts : bool
        Whether the prompt's part of the cost is known.
    """

    arm: str
    is_predicted: bool
    has_parts: bool


@dataclass(frozen=True, slots=True)
class SavingsArrays:
    """Rows of one kind, or of both, n of them.

    Attributes
    ----------
    number : dict of str to ndarray of float64, shape (n,)
        ``answer_usd``; ``output_tokens`` in fact and ``served_output_tokens`` expected, NaN when unknown;
        ``served_prompt_usd``, ``served_rest_usd``, ``other_prompt_usd``, ``other_rest_usd``: expected costs, the
        prompt's part corrected by its tokens in fact; ``odds``; ``gain`` and ``gain_se``, NaN when unknown;
        ``is_chosen`` and ``is_abstention``, 0 or 1.
    whole : dict of str to ndarray of int64, shape (n,)
        ``kind`` (0 projected), ``block``, ``served`` and ``other`` (cost models; -1: none, or the arm is compared with
        itself), ``cost_picousd``, and a code for each dimension.
    """

    number: dict[str, FloatArray]
    whole: dict[str, IntArray]

    def __len__(self) -> int:
        """Return the number of rows."""
        return int(self.whole["block"].size)

    def rows(self, chosen: NDArray[np.bool_] | IntArray) -> SavingsArrays:
        """Take some rows."""
        return SavingsArrays(
            {name: values[chosen] for name, values in self.number.items()},
            {name: values[chosen] for name, values in self.whole.items()},
        )


@dataclass(slots=True)
class SavingsTable:
    """Comparable requests by column, and what was left out.

    Attributes
    ----------
    counts : JoinCounts
    left_out, left_out_picousd : Counter of LeftOut
        Requests, and what they cost.
    estimated_picousd : int
        Part of the cost whose usage no provider reported.
    """

    counts: JoinCounts = field(default_factory=JoinCounts)
    left_out: Counter[LeftOut] = field(default_factory=Counter)
    left_out_picousd: Counter[LeftOut] = field(default_factory=Counter)
    estimated_picousd: int = 0
    _numbers: dict[str, array[float]] = field(default_factory=lambda: {name: array("d") for name in _NUMBERS})
    _wholes: dict[str, array[int]] = field(default_factory=lambda: {name: array("q") for name in _WHOLES})
    _codes: dict[str, dict[str, int]] = field(default_factory=lambda: {name: {} for name in ("block", *DIMENSIONS)})
    _models: dict[CostModel, int] = field(default_factory=dict)

    @classmethod
    def read(cls, records: Iterable[Record]) -> SavingsTable:
        """Read event records; see `join_requests` for their order."""
        table = cls()
        for request in join_requests(records, table.counts):
            row = row_of(request)
            if isinstance(row, LeftOut):
                table.left_out[row] += 1
                table.left_out_picousd[row] += request.cost_picousd or 0
                continue
            table.add(row)
            if request.outcome.get("is_cost_estimated") is not False:
                table.estimated_picousd += row.cost_picousd
        return table

    def add(self, row: SavingsRow) -> None:
        """Append one row."""
        numbers, wholes = self._numbers, self._wholes
        ratio, served, other = row.input_ratio or 1.0, row.served, row.alternative
        is_same = other.arm == row.served_arm
        gain = row.gain or (math.nan, math.nan)
        served_prompt, served_rest = _parts(served, ratio)
        other_prompt, other_rest = _parts(other, ratio)
        expected_tokens = math.nan if served is None or served.output_tokens is None else served.output_tokens
        values = (
            row.answer_usd,
            math.nan if row.output_tokens is None else row.output_tokens,
            expected_tokens,
            served_prompt,
            served_rest,
            other_prompt,
            other_rest,
            row.odds,
            float(row.is_chosen),
            *gain,
            float(row.is_abstention),
        )
        for name, value in zip(_NUMBERS, values, strict=True):
            numbers[name].append(value)
        codes = [self._code(name, label) for name, label in zip(DIMENSIONS, row.labels, strict=True)]
        whole = (
            int(row.kind is Kind.REALISED),
            self._code("block", row.block),
            -1 if served is None else self._model(served),
            -1 if is_same else self._model(other),
            row.cost_picousd,
            *codes,
        )
        for name, value in zip(_WHOLES, whole, strict=True):
            wholes[name].append(value)

    def arrays(self) -> SavingsArrays:
        """Return all rows; the table may not grow afterwards."""
        return SavingsArrays(
            {name: np.frombuffer(values, np.float64) for name, values in self._numbers.items()},
            {name: np.frombuffer(values, np.int64) for name, values in self._wholes.items()},
        )

    def names(self, dimension: str) -> list[str]:
        """Return the labels of a dimension by code."""
        return list(self._codes[dimension])

    @property
    def models(self) -> list[CostModel]:
        """The cost models by code."""
        return list(self._models)

    def _code(self, name: str, label: str) -> int:
        codes = self._codes[name]
        return codes.setdefault(label, len(codes))

    def _model(self, expected: Expected) -> int:
        model = CostModel(expected.arm, expected.is_predicted, expected.prompt_cost_usd is not None)
        return self._models.setdefault(model, len(self._models))


def _parts(expected: Expected | None, input_ratio: float) -> tuple[float, float]:
    """Return the expected cost of the prompt with its tokens in fact, and of the rest."""
    if expected is None:
        return 0.0, 0.0
    if expected.prompt_cost_usd is None:
        return 0.0, expected.cost_usd
    return expected.prompt_cost_usd * input_ratio, expected.cost_usd - expected.prompt_cost_usd
