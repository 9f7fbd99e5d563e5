"""What the last requests came to, worked out from the decisions in memory when somebody looks.

Owns the figures of the overview and of the models' page. Nothing is counted for it while requests are served. Read
`summarise`.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from decimal import Decimal
from typing import Final

from penstock_gateway.decisions import RouteDecision, Settlement
from penstock_gateway.metrics_router import counterfactual_usd
from penstock_routers.policy import RouteReason

LOOKED_AT: Final = 2_000
"""Newest decisions that are read: under 10 ms of a core."""
COLUMNS: Final = 48

Record = tuple[str, RouteDecision, Settlement | None]


@dataclass(slots=True)
class ModelFigures:
    """What one deployment's last requests came to."""

    requests: int = 0
    errors: int = 0
    cost_usd: Decimal = Decimal(0)
    durations_ms: list[float] = field(default_factory=list)

    @property
    def p50_ms(self) -> float | None:
        """Median of the answered ones, milliseconds."""
        return quantile(self.durations_ms, 0.5)

    @property
    def p99_ms(self) -> float | None:
        """99th percentile of the answered ones, milliseconds."""
        return quantile(self.durations_ms, 0.99)


@dataclass(slots=True)
class Recent:
    """What the last requests came to.

    Attributes
    ----------
    requests, errors, cached, routed, abstained : int
        Finished ones; of these, failed, answered from the cache, asked of the router, and left to the default model.
    cost_usd : Decimal
    saved_usd : float
        Estimated: what the baseline would have cost minus what was paid, over answered requests where both are known.
    baseline_usd : float
        What the baseline would have cost for those.
    durations_ms : list of float
        Of all answered ones.
    overheads_ms : list of float
    models : dict of str to ModelFigures
    reasons : dict of str to int
    first_at, last_at : float or None
        UNIX seconds.
    columns : list of (int, int, int)
        Answered by a model, from the cache, failed; in `COLUMNS` equal parts of the time.
    """

    requests: int = 0
    errors: int = 0
    cached: int = 0
    routed: int = 0
    abstained: int = 0
    cost_usd: Decimal = Decimal(0)
    saved_usd: float = 0.0
    baseline_usd: float = 0.0
    durations_ms: list[float] = field(default_factory=list)
    overheads_ms: list[float] = field(default_factory=list)
    models: dict[str, ModelFigures] = field(default_factory=dict)
    reasons: dict[str, int] = field(default_factory=dict)
    first_at: float | None = None
    last_at: float | None = None
    columns: list[tuple[int, int, int]] = field(default_factory=list)


def summarise(records: Sequence[Record]) -> Recent:
    """Add up finished requests.

    Parameters
    ----------
    records : sequence of Record
        As `RecentDecisions.newest` gives them.

    Returns
    -------
    Recent
    """
    recent = Recent()
    finished = [(decision, settled) for _, decision, settled in records if settled is not None]
    for decision, settled in finished:
        _add(recent, decision, settled)
    if finished:
        moments = [decision.created_at for decision, _ in finished]
        recent.first_at, recent.last_at = min(moments), max(moments)
        recent.columns = _columns(finished, recent.first_at, recent.last_at)
    return recent


def quantile(values: Sequence[float], share: float) -> float | None:
    """Return the smallest value that at least this share of the values does not pass; None of none.

    Parameters
    ----------
    values : sequence of float
    share : float, in (0, 1]
    """
    ordered = sorted(values)
    return ordered[max(math.ceil(share * len(ordered)) - 1, 0)] if ordered else None


def _add(recent: Recent, decision: RouteDecision, settled: Settlement) -> None:
    model = recent.models.setdefault(settled.served or decision.chosen, ModelFigures())
    recent.requests += 1
    model.requests += 1
    recent.reasons[decision.reason.value] = recent.reasons.get(decision.reason.value, 0) + 1
    is_cached = decision.reason is RouteReason.CACHED
    recent.cached += is_cached
    recent.routed += not is_cached and decision.reason is not RouteReason.PHYSICAL_MODEL
    recent.abstained += decision.reason.value.startswith("abstained")
    cost = settled.cost_usd
    if cost is not None:
        recent.cost_usd += cost
        model.cost_usd += cost
    if settled.error_code is not None:
        recent.errors += 1
        model.errors += 1
        return
    recent.durations_ms.append(settled.duration_ms)
    recent.overheads_ms.append(settled.overhead_ms)
    if not is_cached:
        model.durations_ms.append(settled.duration_ms)
    if decision.baseline_cost_usd is None:
        return
    baseline = decision.baseline_cost_usd if is_cached else counterfactual_usd(decision, settled)
    if cost is not None or is_cached:
        recent.baseline_usd += baseline
        recent.saved_usd += baseline - float(cost or 0)


def _columns(
    finished: Sequence[tuple[RouteDecision, Settlement]], first_at: float, last_at: float
) -> list[tuple[int, int, int]]:
    span = max(last_at - first_at, 1e-6)
    counts = [[0, 0, 0] for _ in range(COLUMNS)]
    for decision, settled in finished:
        place = min(int((decision.created_at - first_at) / span * COLUMNS), COLUMNS - 1)
        kind = 2 if settled.error_code else 1 if decision.reason is RouteReason.CACHED else 0
        counts[place][kind] += 1
    return [(a, b, c) for a, b, c in counts]
