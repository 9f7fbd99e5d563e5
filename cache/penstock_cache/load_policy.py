"""How far a busy model may loosen the cache: the error budget and the TTL, inside stated bounds, and back again.

Owns the smoothed load of every model and the rule from load to allowance. Only budgets move; thresholds follow from the
calibrated curve of the decision rule. No clock: `now` is an argument. Read `LoadPolicy.allowance`.

The idea is that of category-aware semantic caching [1]_, whose gain is a projection; here the realised error is
reported beside the budget.

References
----------
.. [1] C. Wang et al., "Category-Aware Semantic Caching for Heterogeneous LLM Workloads", arXiv:2510.26835.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import msgspec

from penstock_cache.confidence_sequence import Interval


@dataclass(frozen=True, slots=True)
class LoadRules:
    """When a model counts as busy.

    Attributes
    ----------
    low, high : float, 0 <= low < high
        Load at which loosening begins and at which it is complete.
    hysteresis : float, at least 0
        A rising load counts as this much less, so that loosening begins at ``low + hysteresis`` and ends at `low`.
    half_life_seconds : float, above 0
        After which an observation has half its weight.
    stale_seconds : float, above 0
        An older observation is no evidence of load.
    """

    low: float = 0.7
    high: float = 0.95
    hysteresis: float = 0.1
    half_life_seconds: float = 10.0
    stale_seconds: float = 60.0

    def __post_init__(self) -> None:
        if not (0.0 <= self.low < self.high and self.hysteresis >= 0.0):
            raise ValueError("a load policy needs 0 <= low < high and a hysteresis of at least 0")
        if not (self.half_life_seconds > 0.0 and self.stale_seconds > 0.0):
            raise ValueError("half_life_seconds and stale_seconds are above 0")


@dataclass(frozen=True, slots=True)
class ModelCapacity:
    """What a model bears.

    Attributes
    ----------
    max_in_flight : int or None, at least 1
        Requests at once that it takes; None where nobody knows.
    slow_latency_seconds : float or None, above 0
        Latency or queue delay that counts as full load; None to look at requests in flight only.
    """

    max_in_flight: int | None = None
    slow_latency_seconds: float | None = None

    def __post_init__(self) -> None:
        if (self.max_in_flight is not None and self.max_in_flight < 1) or (
            self.slow_latency_seconds is not None and not self.slow_latency_seconds > 0.0
        ):
            raise ValueError("max_in_flight is at least 1, and slow_latency_seconds above 0")


class CategoryLimits(msgspec.Struct, frozen=True, gc=False):
    """What a category's policy allows at rest and at most.

    Attributes
    ----------
    error_budget, max_error_budget : float, in [0, 1], in this order
    ttl_seconds, max_ttl_seconds : float, at least 0, in this order
    is_volatile : bool
        Then nothing moves.
    """

    error_budget: float
    max_error_budget: float
    ttl_seconds: float
    max_ttl_seconds: float
    is_volatile: bool = False

    def __post_init__(self) -> None:
        if not 0.0 <= self.error_budget <= self.max_error_budget <= 1.0:
            raise ValueError("the error budgets are in [0, 1], the one at rest no larger than the other")
        if not 0.0 <= self.ttl_seconds <= self.max_ttl_seconds:
            raise ValueError("the TTLs are at least 0, the one at rest no longer than the other")


class LoadAllowance(msgspec.Struct, frozen=True, gc=False):
    """What holds for one request.

    Attributes
    ----------
    error_budget : float
    ttl_seconds : float
        How long an entry may be served after it was stored; beyond the category's TTL only marked as stale.
    relaxation : float, in [0, 1]
        How far both are from rest to their bounds.
    """

    error_budget: float
    ttl_seconds: float
    relaxation: float


@dataclass(frozen=True, slots=True)
class BudgetRow:
    """A category's budget beside its realised error.

    Attributes
    ----------
    category, model : str
    load : float
    error_budget, allowed_error_budget : float
        At rest, and now.
    realised : Interval
        False-hit rate by the audits of hits served under a relaxed budget.
    is_over_budget : bool
        The realised rate is proven to be above even the relaxed budget's bound.
    """

    category: str
    model: str
    load: float
    error_budget: float
    allowed_error_budget: float
    realised: Interval
    is_over_budget: bool


@dataclass(slots=True)
class _Signal:
    """A time-weighted mean that starts at 0, so that one observation proves nothing."""

    seen_at: float
    mean: float = 0.0

    def observe(self, value: float, now: float, half_life_seconds: float) -> None:
        weight = 1.0 - 2.0 ** (-max(0.0, now - self.seen_at) / half_life_seconds)
        self.mean += weight * (value - self.mean)
        self.seen_at = now  # also when the clock went back: waiting for it to catch up would freeze the load

    def at(self, now: float, stale_seconds: float) -> float:
        return self.mean if abs(now - self.seen_at) <= stale_seconds else 0.0


@dataclass(slots=True)
class _ModelLoad:
    """What is known of one model."""

    in_flight: _Signal | None = None
    latency: _Signal | None = None
    level: float = 0.0
    relaxed_seconds: float = 0.0
    seen_at: float | None = None


class LoadPolicy:
    """The load of every model, and what it allows.

    Parameters
    ----------
    capacities : mapping of str to ModelCapacity
        Models that are not named never loosen anything.
    rules : LoadRules
    """

    def __init__(self, capacities: Mapping[str, ModelCapacity], rules: LoadRules | None = None) -> None:
        self._capacities = dict(capacities)
        self._rules = rules or LoadRules()
        self._loads: dict[str, _ModelLoad] = {}

    def use(self, capacities: Mapping[str, ModelCapacity]) -> None:
        """Go by other capacities from now on; what is known of models that stay is kept."""
        self._capacities = dict(capacities)
        self._loads = {model: load for model, load in self._loads.items() if model in self._capacities}

    def observe(
        self, model: str, now: float, *, in_flight: int | None = None, latency_seconds: float | None = None
    ) -> None:
        """Note how busy a model is.

        Parameters
        ----------
        model : str
        now : float
            Unix time, seconds.
        in_flight : int or None, at least 0
            Requests that it is working on.
        latency_seconds : float or None, at least 0
            Of a request that has just ended, or its delay in a queue.
        """
        capacity = self._capacities.get(model)
        if capacity is None:
            return
        load = self._loads.get(model)
        if load is None:
            load = self._loads[model] = _ModelLoad()
        half_life = self._rules.half_life_seconds
        if in_flight is not None and capacity.max_in_flight is not None:
            load.in_flight = load.in_flight or _Signal(now)
            load.in_flight.observe(max(0, in_flight) / capacity.max_in_flight, now, half_life)
        if latency_seconds is not None and capacity.slow_latency_seconds is not None:
            load.latency = load.latency or _Signal(now)
            load.latency.observe(max(0.0, latency_seconds) / capacity.slow_latency_seconds, now, half_life)
        if load.seen_at is not None and self._relaxation(load, now) > 0.0:
            load.relaxed_seconds += min(max(0.0, now - load.seen_at), self._rules.stale_seconds)
        load.seen_at = now
        current = self.load(model, now)
        load.level = min(max(load.level, current - self._rules.hysteresis), current)

    def load(self, model: str, now: float) -> float:
        """Return a model's smoothed load: the larger of the two signals, 1 at capacity, 0 without recent evidence."""
        load = self._loads.get(model)
        if load is None:
            return 0.0
        stale_seconds = self._rules.stale_seconds
        busy = 0.0 if load.in_flight is None else load.in_flight.at(now, stale_seconds)
        slow = 0.0 if load.latency is None else load.latency.at(now, stale_seconds)
        return busy if busy > slow else slow

    def relaxed_seconds(self, model: str) -> float:
        """Return for how long a model's load has loosened anything so far."""
        load = self._loads.get(model)
        return 0.0 if load is None else load.relaxed_seconds

    def allowance(self, model: str, limits: CategoryLimits, now: float, *, is_opted_in: bool) -> LoadAllowance:
        """Return the budget and the TTL for a request.

        Parameters
        ----------
        model : str
            The one that a miss would call.
        limits : CategoryLimits
        now : float
            Unix time, seconds.
        is_opted_in : bool
            Whether the tenant allows it.

        Notes
        -----
        ``ε(u) = ε0 + (εmax − ε0)·clip((u' − low)/(high − low), 0, 1)`` and the TTL likewise, with u' between the load u
        less the hysteresis, and u (the play operator, bounded from above by its input): never looser than u says.
        """
        load = self._loads.get(model)
        share = 0.0
        if load is not None and is_opted_in and not limits.is_volatile:
            share = self._relaxation(load, now, self.load(model, now))
        return LoadAllowance(
            error_budget=_between(limits.error_budget, limits.max_error_budget, share),
            ttl_seconds=_between(limits.ttl_seconds, limits.max_ttl_seconds, share),
            relaxation=share,
        )

    def report(
        self, model: str, limits: Mapping[str, CategoryLimits], realised: Mapping[str, Interval], now: float
    ) -> list[BudgetRow]:
        """Put every category's budget for one model beside what its audits found.

        Parameters
        ----------
        model : str
        limits : mapping of str to CategoryLimits
        realised : mapping of str to Interval
            By `AuditLedger.false_hit_rate`; a category without one counts as unknown.
        now : float
            Unix time, seconds.
        """
        return [
            BudgetRow(
                category=category,
                model=model,
                load=self.load(model, now),
                error_budget=bounds.error_budget,
                allowed_error_budget=self.allowance(model, bounds, now, is_opted_in=True).error_budget,
                realised=(found := realised.get(category, Interval(0.0, 1.0, None))),
                is_over_budget=found.low > bounds.max_error_budget,
            )
            for category, bounds in limits.items()
        ]

    def _relaxation(self, load: _ModelLoad, now: float, current: float | None = None) -> float:
        """Return the share of the way to the bounds; a load that is no longer seen is none."""
        if load.seen_at is None or abs(now - load.seen_at) > self._rules.stale_seconds:
            return 0.0
        level = load.level if current is None else min(load.level, current)
        if level <= self._rules.low:  # as nearly always
            return 0.0
        return min(max((level - self._rules.low) / (self._rules.high - self._rules.low), 0.0), 1.0)


def _between(rest: float, bound: float, share: float) -> float:
    return min(rest + (bound - rest) * share, bound)
