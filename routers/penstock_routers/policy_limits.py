"""Who may be a candidate at all: category floors and the cap on a request's cost.

Pure, like `penstock_routers.policy`. Owns the rule from a prompt's category to the lowest tier that may answer it, and
the verdict on one arm. A floor fails safe: where the category is not known for sure, the strictest floor that may apply
does. Read `floor_rank`, then `violation`.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

import msgspec

from penstock_routers.policy import RejectReason

NO_TIER: Final = -1
"""Rank of an arm without a tier: below every floor."""

DEFAULT_FLOOR_PROBABILITY: Final = 0.2
"""Share of a floored category from which its floor applies, whatever the label says."""


class Limits(msgspec.Struct, frozen=True, gc=False):
    """What one request allows.

    Attributes
    ----------
    min_tier_rank : int
        Lowest rank of tier that may answer; `NO_TIER` when there is no floor.
    max_cost_usd : float or None
        Highest expected cost, USD; None for no cap.
    """

    min_tier_rank: int = NO_TIER
    max_cost_usd: float | None = None


def floor_rank(
    floors: Mapping[str, int],
    *,
    category: str | None,
    shares: Mapping[str, float],
    is_novel: bool,
    probability: float = DEFAULT_FLOOR_PROBABILITY,
) -> int:
    """Return the lowest rank of tier that may answer a prompt.

    Parameters
    ----------
    floors : mapping of str to int
        Category to rank of the lowest tier that may answer it.
    category : str or None
        Label of the prompt; None without an estimate.
    shares : mapping of str to float
        Probability of every category that the artifact knows, each in [0, 1].
    is_novel : bool
        The prompt lies beyond the artifact's novelty bound, so its label is a guess.
    probability : float, in [0, 1]
        A floored category with at least this share counts as present, whatever the label.

    Returns
    -------
    int
        `NO_TIER` when no floor applies.

    Notes
    -----
    The highest of the floors that may apply; all of them may for a novel prompt and for one without an estimate, and
    that of a category which the artifact does not know always may. So a floor can apply where it need not, but is
    never passed by in silence. Raising any floor never lowers the result. O(c) for c floors.
    """
    if not floors:
        return NO_TIER
    if category is None or is_novel:
        return max(floors.values())
    return max(
        (
            rank
            for floored, rank in floors.items()
            # a NaN counts as present, so the comparison is the negated one
            if floored == category or floored not in shares or not shares[floored] < probability
        ),
        default=NO_TIER,
    )


def violation(limits: Limits, *, tier_rank: int, cost_usd: float) -> RejectReason | None:
    """Return why an arm may not answer, or None when it may.

    Parameters
    ----------
    limits : Limits
    tier_rank : int
        Rank of the arm's tier, `NO_TIER` when it has none.
    cost_usd : float
        Expected cost of the request on the arm, USD.

    Returns
    -------
    RejectReason or None
        The floor is looked at first: an arm below it is no alternative, however cheap.
    """
    if tier_rank < limits.min_tier_rank:
        return RejectReason.CATEGORY_FLOOR
    if limits.max_cost_usd is not None and not cost_usd <= limits.max_cost_usd:
        return RejectReason.MAX_COST
    return None
