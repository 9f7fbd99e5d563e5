"""Trying out other arms now and then, so that something can be learned about what is not chosen.

Pure: the draw is made outside, from the decision's id and a secret, and passed in. Owns which arms may be tried and
with which probability; never tries one that the limits of the request have filtered. Read `explore`.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from msgspec.structs import replace

from penstock_routers.policy import Candidate, Choice, RouteReason, quality_bound

# Reasons of choices that a draw may replace. Abstentions are not among them: on a prompt that the router cannot judge
# the default arm was promised. Neither is the knob at 0, which promises the cheapest.
EXPLORABLE = frozenset(
    {
        RouteReason.ROUTED,
        RouteReason.DEFAULT_BEST,
        RouteReason.DEFAULT_KEPT,
        RouteReason.DEFAULT_FILTERED,
        RouteReason.MIN_QUALITY,
    }
)


@dataclass(frozen=True, slots=True)
class Exploration:
    """How much is tried out, and the draw that decides.

    Attributes
    ----------
    rate : float, in [0, 1]
        Share of the requests whose arm is drawn.
    draw : (float, float), each in [0, 1)
        Two independent uniform numbers: whether to draw, and which arm.
    max_cost_ratio : float
        An arm is tried only if its cost, switching included, is at most this many times the cost of the default arm (of
        the chosen arm where the default is no candidate); >= 0.
    """

    rate: float
    draw: tuple[float, float]
    max_cost_ratio: float


def explore(
    choice: Choice,
    candidates: Sequence[Candidate],
    *,
    default_arm: str,
    exploration: Exploration,
    is_novel: bool = False,
    min_quality: float | None = None,
) -> Choice:
    """Return the choice, or the arm that was drawn in its place, with its propensity.

    Parameters
    ----------
    choice : Choice
        What `penstock_routers.policy.decide` chose from `candidates`.
    candidates : sequence of Candidate
        Only arms that passed every filter, floor and cap.
    default_arm : str
    exploration : Exploration
    is_novel : bool
        Nothing is tried out on a novel prompt.
    min_quality : float, in [0, 1], optional
        Only arms that surely reach it are tried.

    Returns
    -------
    Choice
        The drawn arm has reason ``explored`` and leads the ranking; a draw that hits the chosen arm changes
        only the propensity.

    Notes
    -----
    With rate ε and k arms that may be tried, in the order of their names, the chosen arm has propensity
    ``1 - ε + ε/k`` when it is one of them, else ``1 - ε``; every other one has ``ε/k``. They sum to 1. Without an arm
    to try, the choice stands with propensity 1. O(m log m) for m candidates.

    References
    ----------
    ε-greedy with logged propensities, as evaluation by inverse propensity needs it: Dudík, Langford and Li, "Doubly
    Robust Policy Evaluation and Learning", ICML 2011, section 2.
    """
    if exploration.rate <= 0.0 or is_novel or choice.reason not in EXPLORABLE:
        return choice
    arms = _arms_to_try(choice, candidates, default_arm, exploration.max_cost_ratio, min_quality)
    if not arms:
        return choice
    share = exploration.rate / len(arms)
    whether, which = exploration.draw
    drawn = arms[min(int(which * len(arms)), len(arms) - 1)] if whether < exploration.rate else choice.arm
    if drawn == choice.arm:
        return replace(choice, propensity=1.0 - exploration.rate + (share if choice.arm in arms else 0.0))
    pairs = sorted(zip(choice.ranking, choice.utilities, strict=True), key=lambda pair: pair[0] != drawn)
    ranking, utilities = (tuple(column) for column in zip(*pairs, strict=True))
    return Choice(drawn, RouteReason.EXPLORED, ranking, utilities, propensity=share)


def _arms_to_try(
    choice: Choice, candidates: Sequence[Candidate], default_arm: str, max_cost_ratio: float, min_quality: float | None
) -> list[str]:
    """Return the names of the arms that cost little enough and, where asked for, are surely good enough."""
    by_name = {candidate.arm: candidate for candidate in candidates}
    yardstick = by_name.get(default_arm, by_name[choice.arm])
    limit = max_cost_ratio * yardstick.charged_usd
    return sorted(
        c.arm for c in candidates if c.charged_usd <= limit and (min_quality is None or quality_bound(c) >= min_quality)
    )
