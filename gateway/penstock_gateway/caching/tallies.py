"""What the cache did for each tenant: hits, misses by reason, and what they saved, since the start.

Owns counts only. The process's metrics have no tenants, because labels are for everybody to read; these are shown to
each tenant alone. Read `TenantTallies.of`.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from decimal import Decimal
from types import MappingProxyType
from typing import Final

from penstock_cache.lookups import Hit


@dataclass(slots=True)
class CategoryTally:
    """One tenant's counts in one category.

    Attributes
    ----------
    exact_hits, semantic_hits : int
    misses : dict of str to int
        By reason.
    saved_usd : Decimal
        What the answers served had cost.
    """

    exact_hits: int = 0
    semantic_hits: int = 0
    misses: dict[str, int] = field(default_factory=dict)
    saved_usd: Decimal = Decimal(0)


_NOTHING: Final[Mapping[str, CategoryTally]] = MappingProxyType({})


class TenantTallies:
    """Counts by tenant and category; tenants are those of the configuration, so they are few."""

    def __init__(self) -> None:
        self._tallies: dict[str, dict[str, CategoryTally]] = {}

    def of(self, tenant: str) -> Mapping[str, CategoryTally]:
        """Return a tenant's counts by category."""
        return self._tallies.get(tenant, _NOTHING)

    def note_hit(self, tenant: str, hit: Hit) -> None:
        """Count an answer from the cache."""
        tally = self._tally(tenant, hit.document.category)
        if hit.kind == "hit-exact":
            tally.exact_hits += 1
        else:
            tally.semantic_hits += 1
        tally.saved_usd += Decimal(hit.document.cost_usd or "0")

    def note_miss(self, tenant: str, category: str, reason: str) -> None:
        """Count a look-up that found nothing to serve."""
        misses = self._tally(tenant, category).misses
        misses[reason] = misses.get(reason, 0) + 1

    def _tally(self, tenant: str, category: str) -> CategoryTally:
        tallies = self._tallies.setdefault(tenant, {})
        tally = tallies.get(category)
        if tally is None:
            tally = tallies[category] = CategoryTally()
        return tally
