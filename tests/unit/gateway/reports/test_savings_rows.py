"""From a decision and an outcome to a row that can be compared, or the reason why not."""

from __future__ import annotations

import json
from decimal import Decimal
from typing import Any

import pytest
from msgspec import structs

from penstock_gateway.accounts.principal import Principal
from penstock_gateway.attempts.records import AttemptKind, AttemptRecord
from penstock_gateway.decisions import CandidateReport
from penstock_gateway.events.records import candidate_record, decision_record, outcome_record
from penstock_gateway.ledger.contract import Account
from penstock_gateway.reports.joined import JoinCounts, JoinedRequest, join_requests
from penstock_gateway.reports.savings_rows import Kind, LeftOut, SavingsRow, row_of
from penstock_routers.policy import RejectReason, RouteReason
from support.event_samples import SETTLED, sample_decision

MINI = CandidateReport(
    "mini", "up", "small-2", "small", gain=-0.1, gain_se=0.03, output_tokens=90.0, estimated_cost_usd=0.0001
)
GPT = CandidateReport(
    "gpt", "up", "frontier-3", "frontier", gain=0.0, gain_se=0.0, output_tokens=120.0, estimated_cost_usd=0.004
)


def written(*, attempts: tuple[AttemptRecord, ...] = (), **changes: Any) -> JoinedRequest:
    """Return a request as the gateway writes and a reader reads it, answered by `mini`."""
    decision = sample_decision(**{"candidates": (MINI, GPT), "propensity": 0.2, "baseline_cost_usd": 0.004, **changes})
    made = decision_record(
        decision,
        request_id="req_1",
        tenant="0011223344556677",
        conversation="c1",
        encoder="static",
        cache=None,
        shadow=decision.shadow,
    )
    made["candidates"] = [candidate_record(report) for report in decision.candidates]
    if decision.shadow is not None:
        made["shadow"]["candidates"] = [candidate_record(report) for report in decision.shadow.candidates]
    settled = structs.replace(SETTLED, attempts=attempts or SETTLED.attempts[1:], cost_usd=Decimal("0.00018"))
    outcome = outcome_record(
        Principal("t", accounts=(Account("key:k1"), Account("team:search"))),
        decision,
        settled,
        request_id="req_1",
        tenant="0011223344556677",
        time=1_700_000_001.0,
        admitted_at=1_700_000_000.0,
        cost_picousd=180_000_000,
        attempt_costs=[Decimal("0.00003")] * (len(attempts) - 1) + [Decimal("0.00015")] if attempts else [None],
    )
    return JoinedRequest(*(json.loads(json.dumps(record)) for record in (made, outcome)))


def row(**changes: Any) -> SavingsRow:
    """Return the row of a request that can be compared."""
    found = row_of(written(**changes))
    assert isinstance(found, SavingsRow)
    return found


def test_routed_request_is_compared_with_its_baseline() -> None:
    """What the gateway writes of a routed request is all that the comparison needs."""
    found = row()
    assert found.kind is Kind.REALISED
    assert (found.served_arm, found.alternative.arm, found.alternative.cost_usd) == ("mini", "gpt", 0.004)
    assert found.served is not None
    assert (found.served.output_tokens, found.output_tokens) == (90.0, 34.0)
    assert found.labels == ("search", "medical", "mini", "k1", "2023-11-14")
    assert found.block == "0011223344556677 c1"
    assert found.cost_picousd == 180_000_000
    assert found.odds == pytest.approx(4.0)
    assert found.input_ratio == pytest.approx(4.0)
    assert found.gain == (pytest.approx(-0.1), pytest.approx(0.03))
    assert not found.is_chosen  # it was explored


def test_observed_request_is_compared_with_the_shadow() -> None:
    """The category and the estimates are those of the decision in the shadow; nothing is weighted."""
    shadow = sample_decision(candidates=(MINI, GPT), chosen="gpt", reason=RouteReason.ROUTED, category="law")
    found = row(reason=RouteReason.PHYSICAL_MODEL, propensity=1.0, artifact_id=None, category=None, shadow=shadow)
    assert found.kind is Kind.PROJECTED
    assert (found.alternative.arm, found.labels[1], found.odds) == ("gpt", "law", 0.0)
    assert found.gain == (pytest.approx(0.1), pytest.approx(0.03))
    abstained = structs.replace(shadow, reason=RouteReason.ABSTAINED_NOVEL)
    assert row(reason=RouteReason.PHYSICAL_MODEL, shadow=abstained).is_abstention


def test_baseline_that_a_rule_kept_out_is_compared_all_the_same() -> None:
    """A cost cap says what may be spent, not what the baseline could have done; a short context does."""
    capped = structs.replace(GPT, rejected=RejectReason.MAX_COST)
    assert row(candidates=(MINI, capped)).alternative.cost_usd == 0.004
    short = structs.replace(GPT, rejected=RejectReason.CONTEXT_LENGTH)
    assert row_of(written(candidates=(MINI, short))) is LeftOut.NO_ESTIMATE


def test_baseline_of_a_warm_conversation_has_answered_the_earlier_turns() -> None:
    """Its own candidate would pay for a cold cache, which it would not have had as the baseline of all turns."""
    assert row(warm="mini", baseline_cost_usd=0.001).alternative.cost_usd == 0.001
    assert row(baseline_cost_usd=0.001).alternative.cost_usd == 0.004


def test_failed_attempts_are_part_of_the_cost_and_not_of_the_answer() -> None:
    """What retries cost counts against routing, but must not make the arm's estimates look wrong."""
    failed = AttemptRecord("gpt", AttemptKind.FIRST, 0.5, 3.0, 503, "upstream_error", was_sent=True)
    found = row(attempts=(failed, SETTLED.attempts[1]))
    assert found.cost_picousd == 180_000_000
    assert found.answer_usd == pytest.approx(0.00015)


@pytest.mark.parametrize(
    "damage",
    [
        {"candidates": "text"},
        {"candidates": [None, 3, {"arm": 5, "cost_usd": []}]},
        {"candidates": [{"arm": "gpt", "cost_usd": "NaN"}]},
        {"shadow": {"arm": ["gpt"], "candidates": {}}},
        {"baseline": None, "default_arm": 7},
        {"propensity": "often", "time": "yesterday", "tenant": None, "input_tokens": -3},
        {"time": 1e300},
    ],
)
def test_request_with_damaged_fields_makes_no_report_fail(damage: dict[str, Any]) -> None:
    """Event files are edited and cut by people; what is wrong in one is left out or unknown."""
    request = written()
    damaged = JoinedRequest({**request.decision, **damage}, request.outcome)
    assert isinstance(row_of(damaged), SavingsRow | LeftOut)
    usage = {"usage": {"input_tokens": "12", "output_tokens": {}}, "accounts": "key:k1", "attempts": [1, {}]}
    assert isinstance(row_of(JoinedRequest(request.decision, {**request.outcome, **usage})), SavingsRow)


def test_join_waits_for_the_other_half_and_counts_what_never_comes() -> None:
    """Decision and outcome find each other over any distance; halves without the other are counted."""
    counts = JoinCounts()
    records = [
        {"type": "outcome", "decision_id": "b"},
        {"type": "decision", "decision_id": "a"},
        {"type": "feedback", "decision_id": "a"},
        {"type": "decision", "decision_id": "c"},
        {"type": "decision", "decision_id": "b"},
        {"type": "outcome", "decision_id": "d"},
        {"type": "decision", "decision_id": None},
        {"type": "outcome", "decision_id": "a"},
    ]
    joined = list(join_requests(records, counts))
    assert [request.decision["decision_id"] for request in joined] == ["b", "a"]
    assert all(request.decision["type"] == "decision" for request in joined)
    assert counts == JoinCounts(duplicates=0, without_outcome=1, without_decision=1)
