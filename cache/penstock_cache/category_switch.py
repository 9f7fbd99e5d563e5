"""When a category moves its operating point, goes off, or comes back, by what its audits prove.

Owns the rule and its state. Counts nothing itself and serves nothing. Read `CategorySwitch.review`.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum

import msgspec

from penstock_cache.audit import AuditLedger


class SwitchChange(Enum):
    """What a review did."""

    NONE = "none"
    STRICTER = "stricter"
    LOOSER = "looser"
    OFF_FOR_ERRORS = "off_for_errors"
    OFF_FOR_VALUE = "off_for_value"
    BACK_ON = "back_on"
    RENEWED = "renewed"


@dataclass(frozen=True, slots=True)
class SwitchRules:
    """Bounds inside which a category may move by itself.

    Attributes
    ----------
    budget : float, in (0, 1)
        Share of hits that may be wrong.
    ladder : tuple of float, at least one
        Operating points, the strictest first; only the decision rule knows what the numbers mean.
    start : int
        Index into `ladder` of the certified operating point.
    error_cost_usd : float, at least 0
        What one wrong hit costs.
    least_audits : int, at least 1
        Before so many audits an estimate above the budget is no reason for a stricter point.
    renew_after_audits : int, at least `least_audits`
        A sequence that is so long begins again, so that old traffic does not hide what changed.
    """

    budget: float
    ladder: tuple[float, ...]
    start: int = 0
    error_cost_usd: float = 0.0
    least_audits: int = 50
    renew_after_audits: int = 20_000

    def __post_init__(self) -> None:
        if not 0.0 < self.budget < 1.0 or not 0 <= self.start < len(self.ladder):
            raise ValueError("a switch needs a budget in (0, 1) and a start on its ladder")
        if not 1 <= self.least_audits <= self.renew_after_audits:
            raise ValueError("a switch needs 1 <= least_audits <= renew_after_audits")


class SwitchState(msgspec.Struct, forbid_unknown_fields=True):
    """Where a category stands; JSON by ``msgspec.json``.

    Attributes
    ----------
    is_on : bool
        Whether its semantic hits are served. Look-ups and audits go on in the shadow when not.
    rung : int
        Index into the ladder.
    changes : int
        Moves, switches and renewals so far.
    """

    is_on: bool = True
    rung: int = 0
    changes: int = 0


class CategorySwitch:
    """One category's controller.

    Parameters
    ----------
    category : str
    rules : SwitchRules
    state : SwitchState or None
        Of an earlier process; a rung beyond the ladder becomes its loosest.
    """

    def __init__(self, category: str, rules: SwitchRules, state: SwitchState | None = None) -> None:
        self.category = category
        self.rules = rules
        self.state = state or SwitchState(rung=rules.start)
        self.state.rung = min(max(self.state.rung, 0), len(rules.ladder) - 1)

    @property
    def is_on(self) -> bool:
        """Whether semantic hits are served."""
        return self.state.is_on

    @property
    def operating_point(self) -> float:
        """The point in force, or under which the shadow looks up."""
        return self.rules.ladder[self.state.rung]

    def review(self, ledger: AuditLedger) -> SwitchChange:
        """Look at the audits and move if they prove that it has to, or may.

        Parameters
        ----------
        ledger : AuditLedger
            Its sequences of this category begin again after every change.

        Notes
        -----
        On:  off when the *lower* bound of the false-hit rate exceeds the budget, or the *upper* bound of the net value
        is below 0; else one rung stricter when the estimate exceeds the budget; else one rung looser when the *upper*
        bound is within it. Off: back on, at the strictest rung, when the upper bound of the sequence that began when it
        went off is within the budget and its net value is estimated at 0 or more. May be called as often as one likes.
        """
        change = self._due_change(ledger)
        if change is SwitchChange.NONE:
            return change
        state = self.state
        if change in (SwitchChange.OFF_FOR_ERRORS, SwitchChange.OFF_FOR_VALUE):
            state.is_on, state.rung = False, 0
        elif change is SwitchChange.BACK_ON:
            state.is_on, state.rung = True, 0
        elif change is not SwitchChange.RENEWED:
            state.rung += 1 if change is SwitchChange.LOOSER else -1
        state.changes += 1
        ledger.restart(self.category)
        return change

    def _due_change(self, ledger: AuditLedger) -> SwitchChange:
        rules, audits = self.rules, ledger.audits(self.category)
        wrong = ledger.false_hit_rate(self.category)
        net = ledger.net_value_usd(self.category, rules.error_cost_usd)
        if not self.state.is_on:
            if wrong.high <= rules.budget and net.estimate is not None and net.estimate >= 0.0:
                return SwitchChange.BACK_ON
        elif wrong.low > rules.budget:
            return SwitchChange.OFF_FOR_ERRORS
        elif net.high < 0.0:
            return SwitchChange.OFF_FOR_VALUE
        elif self.state.rung and audits >= rules.least_audits and (wrong.estimate or 0.0) > rules.budget:
            return SwitchChange.STRICTER
        elif wrong.high <= rules.budget and self.state.rung < len(rules.ladder) - 1:
            return SwitchChange.LOOSER
        return SwitchChange.RENEWED if audits >= rules.renew_after_audits else SwitchChange.NONE
