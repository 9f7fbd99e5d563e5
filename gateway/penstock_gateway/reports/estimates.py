"""How far estimates were from facts, arm by arm: costs and tokens expected before the call against those of the bill.

Owns the figures; changes nothing. Read `estimates_report`.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable
from dataclasses import dataclass
from statistics import median
from typing import Any, Final

from penstock_gateway.money.amounts import PICOUSD_PER_USD
from penstock_gateway.reports.joined import JoinCounts, JoinedRequest, Record, join_requests, number_of, records_of

_KEPT: Final = 100_000  # requests of an arm whose errors are kept for the median; the first ones
_DIGITS: Final = 6


@dataclass(slots=True)
class ArmEstimates:
    """Estimates of one arm on the requests that it answered.

    Attributes
    ----------
    arm : str
    requests : int
        With cost estimate and reported usage.
    expected_usd, fact_usd : float
    expected_input, fact_input, expected_output, fact_output : float
        Tokens; prompts, and answers.
    cost_error : float
        Median of |expected - fact| / fact over requests.
    """

    arm: str
    requests: int = 0
    expected_usd: float = 0.0
    fact_usd: float = 0.0
    expected_input: float = 0.0
    fact_input: float = 0.0
    expected_output: float = 0.0
    fact_output: float = 0.0
    cost_error: float = 0.0

    def as_json(self) -> dict[str, Any]:
        """Return the figures as plain values; ratios are facts over expectations, null when nothing was expected."""
        return {
            "arm": self.arm,
            "requests": self.requests,
            "cost_ratio": ratio(self.fact_usd, self.expected_usd),
            "input_tokens_ratio": ratio(self.fact_input, self.expected_input),
            "output_tokens_ratio": ratio(self.fact_output, self.expected_output),
            "median_cost_error": round(self.cost_error, _DIGITS),
        }


def ratio(fact: float, expected: float) -> float | None:
    """Return a fact over what was expected; None when nothing was."""
    return round(fact / expected, _DIGITS) if expected > 0.0 else None


def estimates_report(records: Iterable[Record]) -> list[ArmEstimates]:
    """Compare estimates with facts.

    Parameters
    ----------
    records : iterable of mapping
        Events. Requests whose usage no provider reported are passed over: their "fact" is an estimate, too.

    Returns
    -------
    list of ArmEstimates
        By name.
    """
    found: dict[str, ArmEstimates] = {}
    errors: dict[str, list[float]] = defaultdict(list)
    for request in join_requests(records, JoinCounts()):
        if (numbers := _numbers(request)) is None:
            continue
        arm, expected, fact, tokens = numbers
        entry = found.setdefault(arm, ArmEstimates(arm))
        entry.requests += 1
        entry.expected_usd += expected
        entry.fact_usd += fact
        entry.expected_input += tokens[0]
        entry.fact_input += tokens[1]
        entry.expected_output += tokens[2]
        entry.fact_output += tokens[3]
        if fact > 0.0 and len(errors[arm]) < _KEPT:
            errors[arm].append(abs(expected - fact) / fact)
    for arm, values in errors.items():
        found[arm].cost_error = median(values)
    return [found[arm] for arm in sorted(found)]


def _numbers(request: JoinedRequest) -> tuple[str, float, float, tuple[float, float, float, float]] | None:
    decision, outcome = request.decision, request.outcome
    usage, cost, arm = outcome.get("usage"), request.cost_picousd, outcome.get("served_arm")
    is_fact = request.is_answered and outcome.get("is_cost_estimated") is False and isinstance(usage, dict)
    if not is_fact or cost is None or not isinstance(arm, str) or len(records_of(outcome.get("attempts"))) > 1:
        return None
    shadow = decision.get("shadow")
    made = shadow if isinstance(shadow, dict) else decision
    candidate = next((each for each in records_of(made.get("candidates")) if each.get("arm") == arm), None)
    expected = None if candidate is None else number_of(candidate.get("cost_usd"))
    if candidate is None or expected is None or not isinstance(usage, dict):
        return None
    tokens = (
        decision.get("input_tokens"),
        usage.get("input_tokens"),
        candidate.get("output_tokens"),
        usage.get("output_tokens"),
    )
    assumed_input, fact_input, assumed_output, fact_output = (number_of(value) or 0.0 for value in tokens)
    return arm, expected, cost / PICOUSD_PER_USD, (assumed_input, fact_input, assumed_output, fact_output)
