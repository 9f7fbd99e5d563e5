"""When a slow request is asked for a second time elsewhere, and how often that may happen.

Owns the waiting time before a hedge and the budget of extra calls. Read `Hedges`.
"""

from __future__ import annotations

from penstock_gateway.attempts.lanes import Lane
from penstock_gateway.settings_attempts import HedgeSettings

MAX_SAVED_HEDGES = 10.0
"""Hedges that a quiet time saves up: a burst of slow answers may use so many at once."""


class Hedges:
    """The rule and the budget.

    Parameters
    ----------
    settings : HedgeSettings
        May be replaced at any time.

    Notes
    -----
    Each request earns `max_share` of a hedge, each hedge costs one, so that over time the extra calls are at most that
    share of requests, plus `MAX_SAVED_HEDGES`. Waiting for a high quantile first is the scheme of J. Dean and L. A.
    Barroso, "The Tail at Scale", Communications of the ACM 56, 2013.
    """

    __slots__ = ("_saved", "settings")

    def __init__(self, settings: HedgeSettings) -> None:
        self._saved = 0.0
        self.settings = settings

    @property
    def is_on(self) -> bool:
        """Whether requests are hedged at all."""
        return self.settings.after != "off"

    def earn(self) -> None:
        """Note a request that may be hedged."""
        self._saved = min(self._saved + self.settings.max_share, MAX_SAVED_HEDGES)

    @property
    def may_spend(self) -> bool:
        """Whether the budget has a hedge."""
        return self._saved >= 1.0

    def spend(self) -> None:
        """Take one hedge from the budget."""
        self._saved -= 1.0

    def after_seconds(self, lane: Lane, *, is_stream: bool) -> float | None:
        """Return how long the first byte may take before another deployment is asked; None: it is waited for."""
        after = self.settings.after
        if isinstance(after, str):
            return None if after == "off" else lane.first_bytes.quantile(int(after[1:]) / 100.0, is_stream=is_stream)
        return after
