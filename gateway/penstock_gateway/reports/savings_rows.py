"""Requests as the estimate of savings needs them: who answered, for how much, and what another arm should have cost.

Owns which requests can be compared at all, and why the others cannot. Computes no savings. Read `row_of`.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from datetime import UTC, datetime
from enum import StrEnum
from typing import Final

from penstock_gateway.money.amounts import PICOUSD_PER_USD
from penstock_gateway.reports.joined import (
    JoinedRequest,
    Record,
    account_name,
    number_of,
    records_of,
    text_of,
    whole_of,
)

DIMENSIONS: Final = ("team", "category", "model", "key", "day")
NO_LABEL: Final = "(none)"

_REJECTED_BY_RULE: Final = frozenset({"max_cost", "category_floor", "no_estimate", "not_allowed"})
"""A baseline that was rejected for one of these could have answered; for any other reason it could not."""

_BLOCK_SECONDS: Final = 600.0
"""Requests of one tenant within ten minutes count as one conversation where the log does not name conversations."""


class Kind(StrEnum):
    """Which question a request answers."""

    REALISED = "realised"  # it was routed: what was saved against the baseline
    PROJECTED = "projected"  # its model was given: what the decision in the shadow would have saved


class LeftOut(StrEnum):
    """Why a request is not compared."""

    CACHED = "cached"  # nothing was called; what the cache saves is counted there
    NOT_ANSWERED = "not_answered"  # failed, broken off or left by the client
    COST_UNKNOWN = "cost_unknown"
    NOT_OBSERVED = "not_observed"  # the client named its model, and no decision was taken in the shadow
    NO_ESTIMATE = "no_estimate"  # the other arm could not have taken it, or detail was dropped


@dataclass(frozen=True, slots=True)
class Expected:
    """What an arm was expected to do with a request, before anything was called.

    Attributes
    ----------
    arm : str
    cost_usd : float, >= 0
    prompt_cost_usd : float or None
        The part of `cost_usd` for the prompt; None where the log does not part them.
    output_tokens : float or None
    gain, gain_se : float or None
        Predicted quality minus the default arm's.
    is_predicted : bool
        Whether a router artifact said so; the length of the answer is a fixed assumption otherwise.
    """

    arm: str
    cost_usd: float
    prompt_cost_usd: float | None = None
    output_tokens: float | None = None
    gain: float | None = None
    gain_se: float | None = None
    is_predicted: bool = True


@dataclass(frozen=True, slots=True)
class SavingsRow:
    """One request that can be compared.

    Attributes
    ----------
    kind : Kind
    block : str
        Conversation, or what stands for it: requests of one block may depend on each other.
    labels : tuple of str
        One for each of `DIMENSIONS`.
    served : Expected or None
        What was expected of the arm that answered; None when it had no estimate.
    served_arm : str
    alternative : Expected
        The arm that is compared with: the baseline, or the one chosen in the shadow.
    cost_picousd : int
        In fact, failed attempts included.
    answer_usd : float
        In fact, of the attempt that answered.
    output_tokens : float or None
        In fact; None when no provider reported them.
    input_ratio : float or None
        Prompt tokens in fact over those assumed for the decision.
    odds : float, >= 0
        ``(1 - p) / p`` of the propensity p with which the arm was chosen by chance; 0 when it was not.
    is_chosen : bool
        Whether the arm that answered is the router's own choice.
    is_abstention : bool
    """

    kind: Kind
    block: str
    labels: tuple[str, ...]
    served: Expected | None
    served_arm: str
    alternative: Expected
    cost_picousd: int
    answer_usd: float
    output_tokens: float | None
    input_ratio: float | None
    odds: float
    is_chosen: bool
    is_abstention: bool

    @property
    def gain(self) -> tuple[float, float] | None:
        """Predicted quality with routing minus that without, and its standard error; None when either is unknown."""
        if self.alternative.arm == self.served_arm:
            return 0.0, 0.0
        served, other = self.served, self.alternative
        if served is None or served.gain is None or other.gain is None:
            return None
        sign = 1.0 if self.kind is Kind.PROJECTED else -1.0
        return sign * (other.gain - served.gain), math.hypot(other.gain_se or 0.0, served.gain_se or 0.0)


def row_of(request: JoinedRequest) -> SavingsRow | LeftOut:
    """Return a request as a row, or why it cannot be compared.

    Parameters
    ----------
    request : JoinedRequest

    Returns
    -------
    SavingsRow or LeftOut
    """
    decision, outcome, shadow = request.decision, request.outcome, request.decision.get("shadow")
    reason = text_of(decision.get("reason"))
    if reason == "cached":
        return LeftOut.CACHED
    if not request.is_answered:
        return LeftOut.NOT_ANSWERED
    cost = request.cost_picousd
    if cost is None:
        return LeftOut.COST_UNKNOWN
    served_arm = text_of(outcome.get("served_arm"))
    made: Record = decision
    if isinstance(shadow, dict):
        kind, made = Kind.PROJECTED, shadow
        alternative_arm = text_of(shadow.get("arm"))
    elif reason == "physical_model":
        return LeftOut.NOT_OBSERVED
    else:
        kind = Kind.REALISED
        alternative_arm = text_of(decision.get("baseline")) or text_of(decision.get("default_arm"))
    is_predicted = isinstance(made.get("artifact"), str)
    expected = {
        found.arm: found
        for candidate in records_of(made.get("candidates"))
        if (found := _expected(candidate, is_predicted)) is not None
    }
    alternative = expected.get(alternative_arm)
    if kind is Kind.REALISED:
        alternative = _baseline(decision, alternative_arm, alternative, is_predicted=is_predicted)
    if alternative is None:
        if alternative_arm != served_arm:
            return LeftOut.NO_ESTIMATE
        alternative = Expected(served_arm, cost / PICOUSD_PER_USD)  # compared with itself: nothing is estimated
    has_usage = outcome.get("is_cost_estimated") is False
    usage = outcome.get("usage") if has_usage else None
    return SavingsRow(
        kind=kind,
        block=_block(decision),
        labels=_labels(request, made, served_arm),
        served=expected.get(served_arm) if has_usage else None,
        served_arm=served_arm,
        alternative=alternative,
        cost_picousd=cost,
        answer_usd=_answer_picousd(outcome, cost) / PICOUSD_PER_USD,
        output_tokens=number_of(usage.get("output_tokens")) if isinstance(usage, dict) else None,
        input_ratio=_input_ratio(decision, usage),
        odds=_odds(decision, served_arm) if kind is Kind.REALISED else 0.0,
        is_chosen=_is_chosen(decision, made, served_arm),
        is_abstention=text_of(made.get("reason")).startswith("abstained"),
    )


def _baseline(decision: Record, arm: str, own: Expected | None, *, is_predicted: bool) -> Expected | None:
    """Return what the baseline was expected to cost; in a warm conversation, had it answered every earlier turn too."""
    cost = number_of(decision.get("baseline_cost_usd"))
    candidates = records_of(decision.get("candidates"))
    rejected = next((each.get("rejected") for each in candidates if each.get("arm") == arm), None)
    if rejected is not None and rejected not in _REJECTED_BY_RULE:
        return None
    if cost is None or cost < 0.0 or (own is not None and decision.get("warm_arm") is None):
        return own
    gain, gain_se = (None, None) if own is None else (own.gain, own.gain_se)
    return Expected(arm, cost, gain=gain, gain_se=gain_se, is_predicted=is_predicted)


def _expected(candidate: Record, is_predicted: bool) -> Expected | None:
    """Read a candidate; None when it could not have taken the request."""
    cost = number_of(candidate.get("cost_usd"))
    if cost is None or cost < 0.0 or candidate.get("rejected") is not None:
        return None
    prompt = number_of(candidate.get("prompt_cost_usd"))
    return Expected(
        text_of(candidate.get("arm")),
        cost,
        prompt if prompt is not None and 0.0 <= prompt <= cost else None,
        number_of(candidate.get("output_tokens")),
        number_of(candidate.get("gain")),
        number_of(candidate.get("gain_se")),
        is_predicted,
    )


def _block(decision: Record) -> str:
    tenant, conversation = text_of(decision.get("tenant")), text_of(decision.get("conversation"))
    if conversation:
        return f"{tenant} {conversation}"
    return f"{tenant} at {(number_of(decision.get('time')) or 0.0) // _BLOCK_SECONDS:.0f}"


def _labels(request: JoinedRequest, made: Record, served_arm: str) -> tuple[str, ...]:
    outcome, time = request.outcome, number_of(request.decision.get("time")) or 0.0
    return (
        account_name(outcome, "team") or NO_LABEL,
        text_of(made.get("category")) or NO_LABEL,
        served_arm,
        account_name(outcome, "key") or NO_LABEL,
        day_of(time),
    )


def day_of(time: float) -> str:
    """Return the UTC date of a moment, ISO; empty when the calendar ends before it.

    Examples
    --------
    >>> day_of(1_700_000_000.0)
    '2023-11-14'
    """
    try:
        return datetime.fromtimestamp(time, UTC).date().isoformat()
    except (OverflowError, OSError, ValueError):
        return ""


def _answer_picousd(outcome: Record, total: int) -> int:
    """Return what the attempt that answered cost: the whole less what is known of the failed ones."""
    failed = 0
    for attempt in records_of(outcome.get("attempts")):
        if attempt.get("error_code") is not None:
            failed += whole_of(attempt.get("cost_picousd")) or 0
    return max(total - failed, 0)


def _input_ratio(decision: Record, usage: object) -> float | None:
    assumed = number_of(decision.get("input_tokens"))
    seen = number_of(usage.get("input_tokens")) if isinstance(usage, dict) else None
    return seen / assumed if assumed and seen and assumed > 0.0 and seen > 0.0 else None


def _is_chosen(decision: Record, made: Record, served_arm: str) -> bool:
    if made is not decision:
        return made.get("arm") == served_arm
    return decision.get("reason") != "explored" and decision.get("intended_arm") == served_arm


def _odds(decision: Record, served_arm: str) -> float:
    """Odds against the arm that answered, if chance could have chosen another; 0 after a fallback."""
    propensity = number_of(decision.get("propensity"))
    if propensity is None or not 0.0 < propensity < 1.0 or decision.get("intended_arm") != served_arm:
        return 0.0
    return (1.0 - propensity) / propensity
