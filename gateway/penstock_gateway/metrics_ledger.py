"""Prometheus metrics of the ledger: names, units, bounded labels.

Label values come from closed sets: reasons, states and problems of our own. Read `LedgerMetrics`.
"""

from __future__ import annotations

from collections.abc import Callable

from prometheus_client import CollectorRegistry, Counter, Gauge

_STATES = ("present", "away", "lost")


class LedgerMetrics:
    """The counters that the ledger and the spending on the request path feed.

    Parameters
    ----------
    registry : CollectorRegistry
    """

    def __init__(self, registry: CollectorRegistry) -> None:
        self._refusals = Counter(
            "penstock_ledger_refusals",
            "Requests and top-ups that were refused, by the limit that was reached.",
            ("reason",),
            registry=registry,
        )
        self._soft_limits = Counter(
            "penstock_budget_soft_limits_passed",
            "Budgets that passed the share of their limit from which a warning is given, by period.",
            ("period",),
            registry=registry,
        )
        self._away_answers = Counter(
            "penstock_ledger_away_answers",
            "Reservations and top-ups that were decided without Redis: `slice`, `open`, `refused`.",
            ("answer",),
            registry=registry,
        )
        self._settled = Counter("penstock_ledger_settled", "Charges that were counted.", registry=registry)
        self._settle_failures = Counter(
            "penstock_ledger_settle_failures", "Batches of charges that have to be settled again.", registry=registry
        )
        self.pending = Gauge("penstock_ledger_pending_charges", "Charges that are not counted yet.", registry=registry)
        self._state = Gauge(
            "penstock_ledger_state",
            "1 for the state of the books: `present`, `away` (Redis does not answer), `lost` (it was flushed, and "
            "spend is being put back from the event log).",
            ("state",),
            registry=registry,
        )
        self._changes = Counter(
            "penstock_ledger_state_changes", "Changes of that state, by what it became.", ("state",), registry=registry
        )
        self._rebuilt = Counter(
            "penstock_ledger_rebuilt_charges", "Charges that were put back from the event log.", registry=registry
        )
        self._problems = Counter(
            "penstock_ledger_problems",
            "Counters that are full or hold no number, logs too old to be looked through, and unforeseen failures.",
            ("problem",),
            registry=registry,
        )

    def note_refusal(self, reason: str) -> None:
        """Count a refusal by its `RefusalReason`."""
        self._refusals.labels(reason).inc()

    def note_soft_limit(self, period: str) -> None:
        """Count a budget that passed its soft limit."""
        self._soft_limits.labels(period).inc()

    def note_away(self, answer: str) -> None:
        """Count an answer that was given without Redis."""
        self._away_answers.labels(answer).inc()

    def note_settled(self, charges: int) -> None:
        """Count charges that were counted."""
        self._settled.inc(charges)

    def note_settle_failure(self) -> None:
        """Count a batch that has to be settled again."""
        self._settle_failures.inc()

    def show_state(self, state: str) -> None:
        """Show the state of the books."""
        for each in _STATES:
            self._state.labels(each).set(each == state)

    def note_change(self, state: str) -> None:
        """Show the state that the books have come to, and count the change."""
        self.show_state(state)
        self._changes.labels(state).inc()

    def note_rebuilt(self, charges: int) -> None:
        """Count charges that were put back."""
        self._rebuilt.inc(charges)

    def note_problem(self, problem: str) -> None:
        """Count a problem by its code."""
        self._problems.labels(problem).inc()

    def watch_pending(self, pending: Callable[[], int]) -> None:
        """Ask for the number of waiting charges whenever metrics are read."""
        self.pending.set_function(pending)
