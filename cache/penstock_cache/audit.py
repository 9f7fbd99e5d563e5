"""What audits of hits tell: how often a category is wrong, what it earns, and how much may be spent on finding out.

Owns the counts, the sampling draw and the capped account. Calls no model and reads no clock. Read `AuditLedger`.

An audit asks the model although a stored answer was served, and compares the two. A control asks it twice about one
prompt, because it may disagree with itself.
"""

from __future__ import annotations

import hashlib
import hmac
from dataclasses import dataclass
from decimal import Decimal
from itertools import product
from math import inf
from typing import Final, Literal

import msgspec

from penstock_cache.confidence_sequence import Interval, corrected_rate, rate_interval, spent_alpha

DEFAULT_ALPHA: Final = 0.05
_SEQUENCES: Final = 3  # disagreements of hits, of controls, and the hit rate share α

AuditKind = Literal["hit", "control"]


def audit_draw(secret: bytes, request_id: str, kind: AuditKind) -> float:
    """Return a number in [0, 1) that is fixed for a request and that callers cannot foresee.

    Parameters
    ----------
    secret : bytes
        Keeps callers from choosing ids that are never audited.
    request_id : str
    kind : "hit" or "control"
        The two are drawn apart.

    Returns
    -------
    float
        Audit the request when it is below the sampled share.
    """
    digest = hmac.digest(secret, f"{kind}:{request_id}".encode("utf-8", "surrogatepass"), hashlib.sha256)
    return (int.from_bytes(digest[:8], "big") >> 11) * 2.0**-53  # a double holds 53 bits; more could round to 1


class CategoryAudit(msgspec.Struct, forbid_unknown_fields=True):
    """Counts of one category since its sequences began.

    Attributes
    ----------
    hit_audits, hit_disagreements : int
    control_audits, control_disagreements : int
    hit_epoch, control_epoch : int
        How many sequences have begun, this one included.
    lookups, hits : int
        Shadow look-ups of a category that is off count too.
    hit_value_usd, miss_value_usd : float
        Money and time, as USD, that calls cost which a hit saved, or which a miss had to make.
    overhead_usd : float
        Of all look-ups, and of the audits if the caller adds them.
    """

    hit_audits: int = 0
    hit_disagreements: int = 0
    control_audits: int = 0
    control_disagreements: int = 0
    hit_epoch: int = 1
    control_epoch: int = 1
    lookups: int = 0
    hits: int = 0
    hit_value_usd: float = 0.0
    miss_value_usd: float = 0.0
    overhead_usd: float = 0.0


class LedgerState(msgspec.Struct, forbid_unknown_fields=True):
    """All that a ledger knows; JSON by ``msgspec.json``.

    Attributes
    ----------
    categories : dict of str to CategoryAudit
    """

    categories: dict[str, CategoryAudit] = msgspec.field(default_factory=dict)


class AuditLedger:
    """Running statistics of audits, by category.

    Parameters
    ----------
    state : LedgerState or None
        Of an earlier process; belongs to this ledger from now on.
    alpha : float, in (0, 1)
        With probability at least 1 − α all that the ledger ever says about one category is true, whenever it is asked.

    Notes
    -----
    Eleven numbers a category. The promise stands on three sequences, each with α/3: disagreements of hits, of
    controls, and hits of look-ups; each new epoch of a sequence spends a part of its α. Hits served under a relaxed
    budget (`load_policy`) have another rate: keep a ledger of their own for them.
    """

    def __init__(self, state: LedgerState | None = None, *, alpha: float = DEFAULT_ALPHA) -> None:
        self.state = state or LedgerState()
        self._alpha = alpha / _SEQUENCES

    def note(self, category: str, *, is_disagreement: bool, is_control: bool) -> None:
        """Count one audit.

        Parameters
        ----------
        category : str
        is_disagreement : bool
            The two answers do not say the same.
        is_control : bool
            Both came from the model.
        """
        counts = self._counts(category)
        if is_control:
            counts.control_audits += 1
            counts.control_disagreements += is_disagreement
        else:
            counts.hit_audits += 1
            counts.hit_disagreements += is_disagreement

    def note_lookup(self, category: str, *, is_hit: bool, value_usd: float, overhead_usd: float) -> None:
        """Count one look-up, shadow look-ups included.

        Parameters
        ----------
        category : str
        is_hit : bool
        value_usd : float, at least 0
            Money and time, as USD, of the call that was saved, or that had to be made.
        overhead_usd : float, at least 0
            Of embedding and searching.
        """
        counts = self._counts(category)
        counts.lookups += 1
        counts.hits += is_hit
        counts.overhead_usd += overhead_usd
        if is_hit:
            counts.hit_value_usd += value_usd
        else:
            counts.miss_value_usd += value_usd

    def audits(self, category: str) -> int:
        """Return how many hits the present sequence has audited."""
        return self._counts(category).hit_audits

    def disagreement_rate(self, category: str, *, is_control: bool) -> Interval:
        """Return the share of audits, or of controls, that disagreed."""
        counts = self._counts(category)
        if is_control:
            alpha = spent_alpha(self._alpha, counts.control_epoch)
            return rate_interval(counts.control_disagreements, counts.control_audits, alpha)
        alpha = spent_alpha(self._alpha, counts.hit_epoch)
        return rate_interval(counts.hit_disagreements, counts.hit_audits, alpha)

    def false_hit_rate(self, category: str) -> Interval:
        """Return the share of hits that are wrong, the model's disagreement with itself taken off."""
        return corrected_rate(
            self.disagreement_rate(category, is_control=False), self.disagreement_rate(category, is_control=True)
        )

    def hit_rate(self, category: str) -> Interval:
        """Return the share of look-ups that hit."""
        counts = self._counts(category)
        return rate_interval(counts.hits, counts.lookups, spent_alpha(self._alpha, counts.hit_epoch))

    def net_value_usd(self, category: str, error_cost_usd: float) -> Interval:
        """Return what a look-up earns.

        Parameters
        ----------
        category : str
        error_cost_usd : float, at least 0
            What one wrong hit costs.

        Returns
        -------
        Interval
            USD per look-up, ``h·[(1 − f)·v − f·C_err] − overhead``; infinite without look-ups.

        Notes
        -----
        The bounds are the least and the largest value over the intervals of hit rate h and false share f; it is linear
        in each, so corners suffice. v, the value of the call that a hit saves, and the overhead are recorded, not
        sampled: their means so far are taken as they are. Before the first hit v is that of the calls made.
        """
        counts = self._counts(category)
        if counts.lookups == 0:
            return Interval(-inf, inf, None)
        value_usd = counts.hit_value_usd / counts.hits if counts.hits else counts.miss_value_usd / counts.lookups
        overhead_usd = counts.overhead_usd / counts.lookups
        hit_rate, false_rate = self.hit_rate(category), self.false_hit_rate(category)

        def net(hit: float, wrong: float) -> float:
            return hit * ((1.0 - wrong) * value_usd - wrong * error_cost_usd) - overhead_usd

        corners = [net(*corner) for corner in product((hit_rate.low, hit_rate.high), (false_rate.low, false_rate.high))]
        estimate = None if false_rate.estimate is None else net(hit_rate.estimate or 0.0, false_rate.estimate)
        return Interval(min(corners), max(corners), estimate)

    def restart(self, category: str, *, is_control_too: bool = False) -> None:
        """Begin new sequences: after the operating point moved, or, with the controls, after the model changed."""
        old = self._counts(category)
        fresh = CategoryAudit(hit_epoch=old.hit_epoch + 1, control_epoch=old.control_epoch)
        if is_control_too:
            fresh.control_epoch += 1
        else:
            fresh.control_audits, fresh.control_disagreements = old.control_audits, old.control_disagreements
        self.state.categories[category] = fresh

    def _counts(self, category: str) -> CategoryAudit:
        return self.state.categories.setdefault(category, CategoryAudit())


class AccountState(msgspec.Struct, forbid_unknown_fields=True):
    """What an account has spent; JSON by ``msgspec.json``, money as text.

    Attributes
    ----------
    period : int
        Number of the period since the epoch of Unix time.
    spent_usd : Decimal
        In that period, holds included.
    """

    period: int = 0
    spent_usd: Decimal = Decimal(0)


@dataclass(frozen=True, slots=True)
class AuditHold:
    """Money set aside for one audit.

    Attributes
    ----------
    period : int
    cost_usd : Decimal
    """

    period: int
    cost_usd: Decimal


class AuditAccount:
    """What audits may cost in a period.

    Parameters
    ----------
    limit_usd : Decimal, at least 0
        Per period.
    period_seconds : float, above 0
        Periods begin at its multiples of Unix time, so that replicas agree on them.
    state : AccountState or None
        Of an earlier process; belongs to this account from now on.

    Notes
    -----
    A clock that goes back never opens a new period: the later one goes on until it is over.
    """

    def __init__(
        self, limit_usd: Decimal, *, period_seconds: float = 86_400.0, state: AccountState | None = None
    ) -> None:
        if not limit_usd >= 0 or not period_seconds > 0.0:
            raise ValueError("the limit is at least 0, and the period above 0")
        self.state = state or AccountState()
        self._limit_usd = limit_usd
        self._period_seconds = period_seconds

    def may_spend(self, cost_usd: Decimal, now: float) -> bool:
        """Whether an audit of an expected cost would stay within the limit."""
        self._turn(now)
        return cost_usd >= 0 and self.state.spent_usd + cost_usd <= self._limit_usd

    def reserve(self, cost_usd: Decimal, now: float) -> AuditHold | None:
        """Set an audit's expected cost aside; None when the account does not allow it."""
        if not self.may_spend(cost_usd, now):
            return None
        self.state.spent_usd += cost_usd
        return AuditHold(self.state.period, cost_usd)

    def settle(self, hold: AuditHold, actual_usd: Decimal) -> None:
        """Charge what the audit cost, 0 when it was not made.

        Notes
        -----
        More than was set aside is charged even beyond the limit, because it has been spent. Less is given back, unless
        the period has ended since.
        """
        difference = actual_usd - hold.cost_usd
        if hold.period == self.state.period or difference > 0:
            self.state.spent_usd += difference

    def _turn(self, now: float) -> None:
        period = int(now // self._period_seconds)
        if period > self.state.period:
            self.state.period, self.state.spent_usd = period, Decimal(0)
