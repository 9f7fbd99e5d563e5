"""Prometheus metrics of the router: what it saves, how strange its prompts are, and whether its promises hold.

Label values come from closed sets: configured deployments, arms of the artifact, words of our own. Read
`RouterMetrics.observe`, then `RouterMetrics.note_feedback`.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from math import nan
from typing import Final

from prometheus_client import CollectorRegistry, Gauge

from penstock_gateway.decisions import RouteDecision, Settlement
from penstock_gateway.loop_metrics import LoopCounter, LoopHistogram
from penstock_gateway.metrics_drift import NOVELTY_BOUNDS, PromptDrift
from penstock_gateway.money.prices import Price
from penstock_routers.manifest import Manifest
from penstock_routers.policy import RejectReason, RouteReason

_INDICES: Final = (("novelty", "fit"), ("novelty", "start"), ("category", "start"))
# Nothing was chosen: the cache counts what it saves itself, and a client that names a model is not advised.
_NOT_CHOSEN: Final = frozenset({RouteReason.CACHED, RouteReason.PHYSICAL_MODEL})

# What keeps a deployment from being chosen though it could answer; as in `reports.savings_rows`.
_BY_RULE: Final = frozenset(
    {RejectReason.MAX_COST, RejectReason.CATEGORY_FLOOR, RejectReason.NO_ESTIMATE, RejectReason.NOT_ALLOWED}
)


class RouterMetrics:
    """The counters and gauges that routed requests and feedback feed.

    Parameters
    ----------
    registry : CollectorRegistry

    Attributes
    ----------
    price_of : callable
        From the name of a deployment to its price; None when there is no such deployment any more.
    drift : PromptDrift or None
        Of the artifact in force.
    """

    def __init__(self, registry: CollectorRegistry) -> None:
        self.price_of: Callable[[str], Price | None] = lambda _: None
        self.drift: PromptDrift | None = None
        self._artifact_id: str | None = None
        self._add_savings(registry)
        self._add_novelty(registry)
        self._add_calibration(registry)
        self.artifact = Gauge(
            "penstock_artifact_info",
            "The router artifact in force, with its family, encoder, calibration, and the artifact that it grew from.",
            ("artifact", "family", "encoder", "calibration", "parent"),
            registry=registry,
        )

    def _add_savings(self, registry: CollectorRegistry) -> None:
        self.baseline_cost = LoopCounter(
            "penstock_baseline_cost_usd",
            "What routed requests would have cost, USD, had the named baseline answered them: estimated.",
            ("baseline",),
            registry=registry,
        )
        self.compared_cost = LoopCounter(
            "penstock_compared_cost_usd",
            "What those same requests did cost, USD; the difference of the two is what routing saves.",
            ("baseline",),
            registry=registry,
        )
        self.uncompared = LoopCounter(
            "penstock_uncompared_requests",
            "Answered routed requests that are in neither: baseline_price (the baseline's is not known), cost (their "
            "own is not), baseline (it cannot answer such requests).",
            ("reason",),
            registry=registry,
        )

    def _add_novelty(self, registry: CollectorRegistry) -> None:
        self.novelty = LoopHistogram(
            "penstock_prompt_novelty_ratio",
            "Novelty of prompts in units of the artifact's limit: above 1 the default arm answers; cut at 10.",
            buckets=NOVELTY_BOUNDS,
            registry=registry,
        )
        self.within = Gauge(
            "penstock_novelty_within_share",
            "Share of prompts within that limit: recent (the last 1,000 here), fit (held-out ones of the artifact).",
            ("prompts",),
            registry=registry,
        )
        self.index = Gauge(
            "penstock_drift_stability_index",
            "Population stability index of the last 1,000 prompts, by novelty or category, against the artifact's "
            "held-out prompts (fit) or the first 1,000 that it was given here (start); NaN of too few.",
            ("of", "against"),
            registry=registry,
        )
        self.compared_prompts = Gauge(
            "penstock_drift_prompts",
            "Prompts that are compared: recent, and start.",
            ("prompts",),
            registry=registry,
        )
        self.within.labels("recent").set_function(lambda: nan if self.drift is None else self.drift.within_share())
        self.within.labels("fit").set_function(lambda: nan if self.drift is None else self.drift.fit_share)
        for of, against in _INDICES:
            self.index.labels(of, against).set_function(partial(self._index, of, against))
        for part in ("recent", "start"):
            self.compared_prompts.labels(part).set_function(partial(self._prompts, part))

    def _add_calibration(self, registry: CollectorRegistry) -> None:
        self.scored = LoopCounter(
            "penstock_feedback_scores",
            "Scores of routed answers by feedback, by the arm that gave the answer.",
            ("arm",),
            registry=registry,
        )
        self.observed = LoopCounter(
            "penstock_feedback_observed_quality", "Sum of those scores, each from 0 to 1.", ("arm",), registry=registry
        )
        self.predicted = LoopCounter(
            "penstock_feedback_predicted_quality",
            "Sum of the quality that had been predicted for those answers.",
            ("arm",),
            registry=registry,
        )
        self.squared_error = LoopCounter(
            "penstock_feedback_squared_error",
            "Sum of the squares of predicted minus observed: by the number of scores, the Brier score.",
            ("arm",),
            registry=registry,
        )

    def note_artifact(self, manifest: Manifest) -> None:
        """Show which artifact is in force, and no other; begin to compare prompts anew."""
        self._artifact_id = manifest.id
        self.drift = PromptDrift(manifest.guard, manifest.categories)
        self.artifact.clear()
        self.artifact.labels(
            manifest.id, manifest.family, manifest.encoder.id, manifest.calibration.id, manifest.parent or ""
        ).set(1)

    def observe(self, decision: RouteDecision, settlement: Settlement) -> None:
        """Count one finished request."""
        if decision.novelty is not None and self.drift is not None and decision.artifact_id == self._artifact_id:
            ratio = self.drift.relative(decision.novelty)
            self.novelty.observe(ratio)
            self.drift.note(ratio, decision.category or "")
        if decision.reason not in _NOT_CHOSEN and settlement.error_code is None and settlement.served is not None:
            self._compare(decision, settlement)

    def note_feedback(self, decision: RouteDecision, settlement: Settlement | None, score: float | None) -> None:
        """Compare a score with the quality that had been predicted for the answer; nothing where none had been.

        Parameters
        ----------
        decision : RouteDecision
        settlement : Settlement or None
        score : float or None
            In [0, 1].
        """
        if score is None or decision.reason in _NOT_CHOSEN:
            return
        served = decision.chosen if settlement is None else settlement.served
        found = next((report for report in decision.candidates if report.name == served), None)
        if found is None or found.quality is None:
            return
        self.scored.labels(found.arm).inc()
        self.observed.labels(found.arm).inc(score)
        self.predicted.labels(found.arm).inc(found.quality)
        self.squared_error.labels(found.arm).inc((found.quality - score) ** 2)

    def _compare(self, decision: RouteDecision, settlement: Settlement) -> None:
        """Add what a request has cost, and what it would have on the baseline, where both are known."""
        if settlement.cost_usd is None:
            self.uncompared.labels("cost").inc()
            return
        if decision.baseline_cost_usd is None or not _may_answer(decision, decision.baseline):
            self.uncompared.labels("baseline").inc()
            return
        price = self.price_of(decision.baseline)
        if price is None or price.is_unknown or price.is_estimate:
            self.uncompared.labels("baseline_price").inc()
            return
        self.compared_cost.labels(decision.baseline).inc(float(settlement.cost_usd))
        self.baseline_cost.labels(decision.baseline).inc(counterfactual_usd(decision, settlement))

    def _index(self, of: str, against: str) -> float:
        return nan if self.drift is None else self.drift.index(of, against)

    def _prompts(self, part: str) -> int:
        if self.drift is None:
            return 0
        return self.drift.recent_prompts if part == "recent" else self.drift.start_prompts


def _may_answer(decision: RouteDecision, name: str) -> bool:
    """Whether a deployment could have taken the request: it was no candidate only because of a rule, if at all."""
    for report in decision.candidates:
        if report.name == name:
            return report.rejected is None or report.rejected in _BY_RULE
    return True


def counterfactual_usd(decision: RouteDecision, settlement: Settlement) -> float:
    """Return what an answered request would have cost on the baseline, USD.

    Parameters
    ----------
    decision : RouteDecision
        With a `baseline_cost_usd`.
    settlement : Settlement
        With a `cost_usd` and who served.

    Returns
    -------
    float
        The cost expected of the baseline before the call, times what the answer did cost over what had been expected
        of the arm that gave it: an answer twice as long as expected is taken to be so on the baseline as well, and a
        request that the baseline itself answered saves nothing, whatever was expected. Without an expected cost, or
        after several tries that are billed, the cost expected of the baseline alone.
    """
    baseline, served = decision.baseline_cost_usd or 0.0, settlement.served
    attempts = settlement.attempts
    if len(attempts) > 1 and sum(attempt.usage is not None for attempt in attempts) > 1:
        return baseline
    for report in decision.candidates:  # the one that served is nearly always the first
        if report.name == served:
            expected = report.estimated_cost_usd
            return baseline * float(settlement.cost_usd or 0) / expected if expected else baseline
    return baseline
