"""What trying again costs: attempts by deployment, from the event log.

Counts only. Read `attempts_report`.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, field
from decimal import Decimal
from typing import Any

from penstock_gateway.attempts.records import AttemptKind
from penstock_gateway.money.amounts import to_usd
from penstock_gateway.money.prices import format_usd
from penstock_gateway.reports.joined import Record, records_of, text_of, whole_of


@dataclass(slots=True)
class DeploymentAttempts:
    """Attempts at one deployment.

    Attributes
    ----------
    kinds : Counter of str
        By `AttemptKind`.
    failed : int
        Attempts that did not answer, those that lost to a hedge included.
    errors : Counter of str
        Failed ones by error code.
    cost_picousd, failed_picousd : int
        Of all attempts, and of failed ones.
    """

    kinds: Counter[str] = field(default_factory=Counter)
    failed: int = 0
    errors: Counter[str] = field(default_factory=Counter)
    cost_picousd: int = 0
    failed_picousd: int = 0

    @property
    def attempts(self) -> int:
        """How many there were."""
        return self.kinds.total()


@dataclass(slots=True)
class AttemptsReport:
    """Attempts of all requests.

    Attributes
    ----------
    requests, requests_repeated : int
        Requests with an attempt, and those with more than one.
    deployments : dict of str to DeploymentAttempts
    """

    requests: int = 0
    requests_repeated: int = 0
    deployments: dict[str, DeploymentAttempts] = field(default_factory=dict)

    @property
    def failed_usd(self) -> Decimal:
        """What failed attempts cost, USD."""
        return to_usd(sum(found.failed_picousd for found in self.deployments.values()))

    @property
    def cost_usd(self) -> Decimal:
        """What all attempts cost, USD."""
        return to_usd(sum(found.cost_picousd for found in self.deployments.values()))

    def as_json(self) -> dict[str, Any]:
        """Return the report as plain values, deployments by name."""
        return {
            "object": "report.attempts",
            "requests": self.requests,
            "requests_repeated": self.requests_repeated,
            "cost_usd": format_usd(self.cost_usd),
            "failed_usd": format_usd(self.failed_usd),
            "deployments": [
                {
                    "deployment": name,
                    "attempts": found.attempts,
                    **{kind.value: found.kinds[kind.value] for kind in AttemptKind},
                    "failed": found.failed,
                    "errors": dict(found.errors.most_common()),
                    "cost_usd": format_usd(to_usd(found.cost_picousd)),
                    "failed_usd": format_usd(to_usd(found.failed_picousd)),
                }
                for name, found in sorted(self.deployments.items())
            ],
        }


def attempts_report(records: Iterable[Record]) -> AttemptsReport:
    """Count the attempts in the outcomes of a log.

    Parameters
    ----------
    records : iterable of mapping
        Events; each decision's first outcome counts.
    """
    report, seen = AttemptsReport(), set()
    for record in records:
        key = text_of(record.get("decision_id"))
        attempts = records_of(record.get("attempts"))
        if record.get("type") != "outcome" or key in seen or not attempts:
            continue
        seen.add(key)
        report.requests += 1
        report.requests_repeated += len(attempts) > 1
        for attempt in attempts:
            found = report.deployments.setdefault(text_of(attempt.get("deployment")), DeploymentAttempts())
            cost = whole_of(attempt.get("cost_picousd")) or 0
            found.kinds[text_of(attempt.get("kind"))] += 1
            found.cost_picousd += cost
            if (code := attempt.get("error_code")) is not None:
                found.failed += 1
                found.errors[text_of(code)] += 1
                found.failed_picousd += cost
    return report
