"""On which terms a category is looked up: what its audits prove, and what an overloaded model may loosen.

Owns the switches, the ledgers and the conversion between budgets by request and by hit. It looks nothing up and audits
nothing. Read `CategorySteering.terms`, then `note_audit`.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping
from dataclasses import replace
from decimal import Decimal
from typing import Final

import msgspec

from penstock_cache.audit import AuditLedger
from penstock_cache.categories import CacheMode, CategoryPolicy, ChosenPolicy
from penstock_cache.category_switch import CategorySwitch, SwitchChange, SwitchRules
from penstock_cache.confidence_sequence import Interval
from penstock_cache.eviction import EvictionRules, HitValue
from penstock_cache.load_policy import CategoryLimits, LoadPolicy
from penstock_cache.lookups import Hit, Miss
from penstock_cache.rule import DecisionRule, RuleMode
from penstock_gateway.caching.audit_books import BookKeeper
from penstock_gateway.metrics_cache import CacheMetrics
from penstock_gateway.settings_cache import CacheSettings

LADDER: Final = (0.75, 0.5, 0.25, 0.0)
"""Rungs of every switch, strictest first: how much of the way from the certified threshold to certainty is asked for
beyond it."""

FALSE_SHARE_OF_HITS: Final = 0.05
"""Where hits are rare a budget by request says little of them; then one hit in twenty may be wrong, or as many as the
budget by request allows, if that is more."""

CPU_USD_PER_SECOND: Final = 1.1e-5
"""A rented virtual core costs some 0.04 USD an hour."""

_UNDECIDED: Final = frozenset({"no_rule", "not_certifiable"})
_LEAST_BUDGET: Final = 1e-6
_MOST_BUDGET: Final = 0.999

_log = logging.getLogger("penstock.cache")


class SearchTerms(msgspec.Struct, frozen=True, gc=False):
    """On which terms one request is looked up.

    Attributes
    ----------
    error_budget : float
        False hits per request.
    relaxation : float, in [0, 1]
        Share of ``max_stale_seconds`` by which the TTL is prolonged; above 0 the budget is relaxed too.
    min_threshold : float
        Of the switch; 0 leaves it to the certified one.
    is_served : bool
        False: the look-up is made and audited, and the model answers.
    epoch : int
        Of the switch: how often it had moved. An audit of a hit on earlier terms says nothing of those in force.
    """

    error_budget: float
    relaxation: float = 0.0
    min_threshold: float = 0.0
    is_served: bool = True
    epoch: int = 0

    @property
    def is_relaxed(self) -> bool:
        """Whether a busy model has loosened them."""
        return self.relaxation > 0.0


class CategorySteering:
    """The switches and ledgers of all categories.

    Parameters
    ----------
    policies : mapping of str to CategoryPolicy
    rule : DecisionRule or None
        None: exact only, nothing to switch.
    load : LoadPolicy
    settings : CacheSettings
    keeper : BookKeeper
    metrics : CacheMetrics
    clock : callable
        Unix time, seconds.

    Attributes
    ----------
    ledger : AuditLedger
        Of hits served at rest, and of the shadow.
    relaxed : AuditLedger
        Of hits served under a relaxed budget; of this process only.
    """

    def __init__(
        self,
        policies: Mapping[str, CategoryPolicy],
        rule: DecisionRule | None,
        load: LoadPolicy,
        settings: CacheSettings,
        keeper: BookKeeper,
        metrics: CacheMetrics,
        clock: Callable[[], float],
    ) -> None:
        self.ledger = AuditLedger(keeper.books.ledger)
        self.relaxed = AuditLedger()
        self.load = load
        self._policies = policies
        self._rule = rule
        self._settings = settings
        self._keeper = keeper
        self._metrics = metrics
        self._clock = clock
        self._over_relaxed_budget: set[str] = set()
        self._switches = {name: switch for name in policies if (switch := self._switch_of(name)) is not None}
        for name in self._switches:
            self._show(name)

    def terms(self, chosen: ChosenPolicy, arm: str, *, is_opted_in: bool) -> SearchTerms:
        """Return the terms of one request.

        Parameters
        ----------
        chosen : ChosenPolicy
        arm : str
            Deployment that a miss would call.
        is_opted_in : bool
            Whether the tenant lets load loosen anything.
        """
        budget, relaxation = chosen.policy.false_hit_budget, 0.0
        if is_opted_in and chosen.category not in self._over_relaxed_budget:
            allowance = self.load.allowance(arm, self.limits(chosen.policy), self._clock(), is_opted_in=True)
            budget, relaxation = allowance.error_budget, allowance.relaxation
        switch = self._switches.get(chosen.category)
        if switch is None:
            return SearchTerms(budget, relaxation)
        # On its loosest rung the switch asks for nothing beyond what is certified, which load may move.
        is_loosest = switch.state.rung == len(switch.rules.ladder) - 1
        return SearchTerms(
            error_budget=budget,
            relaxation=relaxation,
            min_threshold=0.0 if is_loosest else switch.operating_point,
            is_served=switch.is_on,
            epoch=switch.state.changes,
        )

    def limits(self, policy: CategoryPolicy) -> CategoryLimits:
        """Return what load may move between, for one policy."""
        most = min(1.0, policy.false_hit_budget * self._settings.load.max_budget_factor)
        return CategoryLimits(
            error_budget=policy.false_hit_budget,
            max_error_budget=max(most, policy.false_hit_budget),
            ttl_seconds=policy.ttl_seconds,
            max_ttl_seconds=policy.ttl_seconds + policy.max_stale_seconds,
            is_volatile=policy.is_volatile,
        )

    def note_lookup(
        self, category: str, terms: SearchTerms, found: Hit | Miss, *, call_cost_usd: float, seconds: float
    ) -> None:
        """Count a look-up, shadow look-ups included.

        Parameters
        ----------
        category : str
        terms : SearchTerms
        found : Hit or Miss
            Look-ups that no rule was there to decide do not count.
        call_cost_usd : float, at least 0
            Expected, of the call that a miss makes.
        seconds : float, at least 0
            That the look-up took; waiting for the store is counted as work.
        """
        if isinstance(found, Miss) and found.reason in _UNDECIDED:
            return
        ledger = self.relaxed if terms.is_relaxed else self.ledger
        ledger.note_lookup(
            category,
            is_hit=isinstance(found, Hit),
            value_usd=_saved_usd(found) if isinstance(found, Hit) else call_cost_usd,
            overhead_usd=seconds * CPU_USD_PER_SECOND,
        )

    def note_audit(self, category: str, terms: SearchTerms, *, is_disagreement: bool, is_control: bool) -> None:
        """Count an audit or a control, and move the category's switch if that proves that it has to, or may.

        Parameters
        ----------
        category : str
        terms : SearchTerms
            Of the look-up whose hit was audited.
        is_disagreement, is_control : bool
            As in `AuditLedger.note`.
        """
        if terms.is_relaxed:
            self.relaxed.note(category, is_disagreement=is_disagreement, is_control=is_control)
            self._review_relaxed(category)
            return
        switch = self._switches.get(category)
        if is_control or switch is None or switch.state.changes == terms.epoch:
            self.ledger.note(category, is_disagreement=is_disagreement, is_control=is_control)
        self._review(category)
        self._show(category)
        self._keeper.note_change()

    def note_spending(self) -> None:
        """Have the account's state kept."""
        self._keeper.note_change()

    def switch(self, category: str) -> CategorySwitch | None:
        """Return a category's switch; None when nothing is certified for it."""
        return self._switches.get(category)

    def certified_threshold(self, category: str) -> float | None:
        """Return the threshold that is certified for a category's own budget; None when there is none."""
        policy = self._policies[category]
        if self._rule is None or not policy.mode.is_semantic:
            return None
        mode: RuleMode = "faq-intent" if policy.mode is CacheMode.FAQ_INTENT else "semantic"
        return self._rule.threshold(category, mode, policy.false_hit_budget)

    def relaxed_error(self, category: str) -> Interval:
        """Return the false hits per request while the budget was relaxed."""
        return per_request(self.relaxed.false_hit_rate(category), self.relaxed.hit_rate(category))

    def is_over_relaxed_budget(self, category: str) -> bool:
        """Whether relaxed hits were proven to be wrong more often than even the relaxed budget allows.

        Load then loosens nothing more there, as long as the process lives.
        """
        return category in self._over_relaxed_budget

    def _review_relaxed(self, category: str) -> None:
        self._metrics.show_false_hits(category, "relaxed", self.relaxed.false_hit_rate(category))
        most = self.limits(self._policies[category]).max_error_budget
        if self.relaxed_error(category).low > most and category not in self._over_relaxed_budget:
            self._over_relaxed_budget.add(category)
            self._metrics.problems.labels("cache_relaxed_over_budget").inc()
            _log.warning("cache_relaxed_over_budget", extra={"category": category})

    def _review(self, category: str) -> None:
        switch = self._switches.get(category)
        if switch is None:
            return
        hit_rate = self.ledger.hit_rate(category)
        # Off needs proof that the errors by request are above the budget, and back on that they are below.
        bound = hit_rate.low if switch.is_on else hit_rate.high
        budget = budget_of_hits(self._policies[category].false_hit_budget, bound)
        switch.rules = replace(switch.rules, budget=budget)
        change = switch.review(self.ledger)
        if change in (SwitchChange.NONE, SwitchChange.RENEWED):
            return
        self._metrics.switch_changes.labels(category, change.value).inc()
        report = _log.info if switch.is_on else _log.warning
        report("cache_switch_changes", extra={"category": category, "change": change.value})

    def _switch_of(self, category: str) -> CategorySwitch | None:
        certified = self.certified_threshold(category)
        if certified is None:
            return None
        rules = SwitchRules(
            budget=budget_of_hits(self._policies[category].false_hit_budget, 0.0),
            ladder=tuple(certified + (1.0 - certified) * share for share in LADDER),
            start=len(LADDER) - 1,
            error_cost_usd=float(self._settings.audit.wrong_hit_cost_usd),
        )
        switch = CategorySwitch(category, rules, self._keeper.books.switches.get(category))
        self._keeper.books.switches[category] = switch.state
        return switch

    def _show(self, category: str) -> None:
        switch = self._switches.get(category)
        if switch is not None:
            self._metrics.show_switch(category, is_on=switch.is_on, threshold=switch.operating_point)
        self._metrics.show_false_hits(category, "usual", self.ledger.false_hit_rate(category))


def budget_of_hits(budget: float, hit_rate: float) -> float:
    """Return the share of hits that may be wrong.

    Parameters
    ----------
    budget : float, in [0, 1]
        Share of requests that may be answered wrongly.
    hit_rate : float, in [0, 1]

    Returns
    -------
    float, in (0, 1)
        ``min(ε/h, max(ε, 0.05))``.
    """
    most = max(budget, FALSE_SHARE_OF_HITS)
    share = budget / hit_rate if hit_rate > 0.0 else most
    return min(max(min(share, most), _LEAST_BUDGET), _MOST_BUDGET)


def _saved_usd(hit: Hit) -> float:
    document = hit.document
    value = HitValue(float(Decimal(document.cost_usd or "0")), document.latency_ms / 1000.0, 1.0)
    return value.worth_usd(EvictionRules().usd_per_second)


def per_request(false_share: Interval, hit_rate: Interval) -> Interval:
    """Return the share of requests that were answered wrongly, from the share of hits that are and the hit rate."""
    known = false_share.estimate is not None and hit_rate.estimate is not None
    estimate = (false_share.estimate or 0.0) * (hit_rate.estimate or 0.0) if known else None
    return Interval(false_share.low * hit_rate.low, false_share.high * hit_rate.high, estimate)
