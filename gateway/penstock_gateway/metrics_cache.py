"""Prometheus metrics of the cache: names, units, bounded labels.

Label values come from closed sets: categories of the configuration, reasons and codes of our own. Read `CacheMetrics`.
"""

from __future__ import annotations

from decimal import Decimal
from math import nan

from prometheus_client import CollectorRegistry, Counter, Gauge

from penstock_cache.confidence_sequence import Interval
from penstock_cache.lookups import Hit
from penstock_gateway.loop_metrics import LoopCounter


class CacheMetrics:
    """The counters that the cache feeds.

    Parameters
    ----------
    registry : CollectorRegistry
    """

    def __init__(self, registry: CollectorRegistry) -> None:
        self.lookups = LoopCounter(
            "penstock_cache_lookups",
            "Requests that were looked up, by what came of it and the prompt's category.",
            ("result", "category"),
            registry=registry,
        )
        self.misses = LoopCounter(
            "penstock_cache_misses", "Misses by category and reason.", ("category", "reason"), registry=registry
        )
        self.stores = LoopCounter(
            "penstock_cache_stores",
            "Answers that came to be stored or not, by category and reason.",
            ("category", "reason"),
            registry=registry,
        )
        self.saved = Counter(
            "penstock_cache_saved_usd", "What the answers served had cost, USD.", ("category",), registry=registry
        )
        self.problems = Counter(
            "penstock_cache_problems",
            "Failures that were turned into misses, by stable code.",
            ("code",),
            registry=registry,
        )
        self.entries = Gauge("penstock_cache_entries", "Entries that this process knows.", registry=registry)
        self.is_in_step = Gauge(
            "penstock_cache_is_in_step", "1 when this process knows what the store holds.", registry=registry
        )
        self._add_audits(registry)

    def _add_audits(self, registry: CollectorRegistry) -> None:
        self.audits = Counter(
            "penstock_cache_audits",
            "Audits of hits by what they found, or why they found nothing, by category.",
            ("category", "outcome"),
            registry=registry,
        )
        self.audit_cost = Counter(
            "penstock_cache_audit_cost_usd",
            "What audits cost, USD; no part of what tenants cost.",
            ("category",),
            registry=registry,
        )
        self.judgements = Counter(
            "penstock_cache_judgements",
            "Opinions asked of a model on two `answers` of an audit or two `questions` of the grey zone, by outcome.",
            ("kind", "outcome"),
            registry=registry,
        )
        self.judge_cost = Counter(
            "penstock_cache_judge_cost_usd",
            "What these opinions cost, USD; on the account of audits.",
            ("kind",),
            registry=registry,
        )
        self.wrong_reports = Counter(
            "penstock_cache_wrong_reports", "Hits that a tenant reported as wrong.", ("category",), registry=registry
        )
        self.false_hits = Gauge(
            "penstock_cache_false_hit_rate",
            "Share of hits that are wrong by the audits, in `usual` terms or those `relaxed` under load: low and high "
            "are bounds that hold at every look, estimate is NaN without audits.",
            ("category", "terms", "bound"),
            registry=registry,
        )
        self.switch_on = Gauge(
            "penstock_cache_switch_on",
            "1 while other wordings are answered; 0 while audits keep a category to look-ups in the shadow.",
            ("category",),
            registry=registry,
        )
        self.switch_threshold = Gauge(
            "penstock_cache_switch_threshold",
            "Least probability of a hit at rest: the certified one, or stricter after audits.",
            ("category",),
            registry=registry,
        )
        self.switch_changes = Counter(
            "penstock_cache_switch_changes",
            "Moves of a category's switch by what they were.",
            ("category", "change"),
            registry=registry,
        )

    def show_false_hits(self, category: str, terms: str, rate: Interval) -> None:
        """Show the false-hit rate of a category in `usual` or `relaxed` terms."""
        for bound, value in (("low", rate.low), ("high", rate.high), ("estimate", rate.estimate)):
            self.false_hits.labels(category, terms, bound).set(nan if value is None else value)

    def show_switch(self, category: str, *, is_on: bool, threshold: float) -> None:
        """Show where a category's switch stands."""
        self.switch_on.labels(category).set(is_on)
        self.switch_threshold.labels(category).set(threshold)

    def note_hit(self, hit: Hit) -> None:
        """Count an answer from the cache."""
        category = hit.document.category
        self.lookups.labels(hit.kind, category).inc()
        self.saved.labels(category).inc(float(Decimal(hit.document.cost_usd or "0")))

    def note_miss(self, category: str, reason: str) -> None:
        """Count a look-up that found nothing to serve."""
        self.lookups.labels("miss", category).inc()
        self.misses.labels(category, reason).inc()
