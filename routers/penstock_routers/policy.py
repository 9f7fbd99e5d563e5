"""The choice: from scored candidates to a route decision.

Pure: no I/O, no clock, no randomness, no logging. The same inputs give the same decision in the gateway, in
``penstock-train predict`` and in an evaluation. Who may be a candidate at all is said in `policy_limits`, what is
tried out now and then in `policy_explore`. Read `decide` first.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import Final

import msgspec

# One-sided 95 % quantile of the normal distribution: an arm counts as reaching a quality when chance alone would
# let a worse one look so good in one case of twenty.
MIN_QUALITY_Z: Final = 1.645


class RouteReason(StrEnum):
    """Why a decision came out as it did; a closed set, stable for clients and dashboards."""

    ROUTED = "routed"  # another arm than the default has a surely higher utility
    DEFAULT_BEST = "default_best"  # the default arm has the highest utility itself
    DEFAULT_KEPT = "default_kept"  # another arm looks better, but not by more than the guard asks
    DEFAULT_FILTERED = "default_filtered"  # the default cannot take this request; best of the rest
    CHEAPEST = "cheapest"  # the knob stands at 0: the cheapest candidate, whatever the estimates say
    ABSTAINED_NOVEL = "abstained_novel"  # the prompt is unlike anything the artifact knows
    ABSTAINED_NO_ESTIMATE = "abstained_no_estimate"  # no artifact, no text, or the router failed
    PHYSICAL_MODEL = "physical_model"  # the client named a model; nothing was chosen
    ONLY_CANDIDATE = "only_candidate"  # every other arm was filtered
    MIN_QUALITY = "min_quality"  # the cheapest arm that surely reaches the quality asked for
    MIN_QUALITY_UNREACHABLE = "min_quality_unreachable"  # no arm surely reaches it; the one that comes closest
    CACHED = "cached"  # a stored answer was served; nothing was chosen
    CONTINUED = "continued"  # a step of a conversation that its last deployment goes on with; nothing was chosen
    EXPLORED = "explored"  # drawn to learn from, instead of the policy's own choice


class RejectReason(StrEnum):
    """Why an arm was not a candidate for a request; a closed set."""

    CONTEXT_LENGTH = "context_length"
    OUTPUT_LENGTH = "output_length"
    NO_TOOLS = "no_tools"
    NO_VISION = "no_vision"
    NO_AUDIO = "no_audio"
    NO_DOCUMENTS = "no_documents"
    NO_JSON = "no_json"
    NO_STREAMING = "no_streaming"
    WIRE_FORMAT = "wire_format"  # the request cannot be put into a format that its server speaks
    REMOTE_MEDIA = "remote_media"  # the adapter would have to fetch a URL of the client's
    PARAMETER_UNSUPPORTED = "parameter_unsupported"
    NO_ESTIMATE = "no_estimate"
    CATEGORY_FLOOR = "category_floor"  # its tier is below the floor of the prompt's category
    MAX_COST = "max_cost"  # its expected cost is above the request's cap
    NOT_ALLOWED = "not_allowed"  # the caller's key may not use it


class Candidate(msgspec.Struct, frozen=True, gc=False):
    """An arm that passed the hard filters, with its scores for one request.

    A struct and no dataclass: 30 of them are made for every request, which takes 3 µs instead of 40.

    Attributes
    ----------
    arm : str
        Unique name of the arm.
    quality, quality_se : float
        Calibrated quality in [0, 1] and its standard error.
    gain, gain_se : float
        Expected quality minus the default arm's, and its standard error.
    cost_usd : float
        Expected cost of this request on this arm, USD, finite and >= 0.
    switch_cost_usd : float
        What answering here costs a warm conversation later, USD, >= 0: the provider's prompt cache of the arm that
        answered last goes cold (`penstock_routers.warmth.switch_cost_usd`). 0 on that arm, and outside of
        conversations.
    """

    arm: str
    quality: float
    quality_se: float
    gain: float
    gain_se: float
    cost_usd: float
    switch_cost_usd: float = 0.0

    @property
    def charged_usd(self) -> float:
        """What the choice charges this arm: its expected cost, and what switching to it costs."""
        return self.cost_usd + self.switch_cost_usd


@dataclass(frozen=True, slots=True)
class Tradeoff:
    """One setting of the cost-quality knob.

    Attributes
    ----------
    name : str
        ``cost``, ``balanced``, ``quality`` or a number as the client wrote it.
    cost_weight : float
        λ of the utility: quality given up per `cost_scale_usd` saved; >= 0, may be ``inf`` (cheapest).
    guard_z : float
        Standard errors by which a switch away from the default arm must pay; >= 0.
    """

    name: str
    cost_weight: float
    guard_z: float


class Choice(msgspec.Struct, frozen=True, gc=False):
    """The outcome of `decide`: which arm, why, and the order in which the rest would follow.

    Attributes
    ----------
    arm : str
    reason : RouteReason
    ranking : tuple of str
        `arm` first.
    utilities : tuple of float
        In the order of `ranking`.
    propensity : float, in (0, 1]
        Probability with which the policy chooses `arm` for this request; 1 without exploration.
    """

    arm: str
    reason: RouteReason
    ranking: tuple[str, ...]
    utilities: tuple[float, ...]
    propensity: float = 1.0

    @property
    def is_explored(self) -> bool:
        """Whether `arm` was drawn instead of the policy's own choice."""
        return self.reason is RouteReason.EXPLORED


def utility(candidate: Candidate, tradeoff: Tradeoff, cost_scale_usd: float) -> float:
    """Quality minus weighted relative cost.

    Parameters
    ----------
    candidate : Candidate
    tradeoff : Tradeoff
    cost_scale_usd : float
        Cost in USD of one typical request on the most expensive reference; > 0. It makes λ
        dimensionless, so that one artifact serves any price list.

    Returns
    -------
    float
        ``quality - λ · charged_usd / cost_scale_usd``; with an infinite λ, minus the request's own relative
        cost: who asks for the cheapest does not come back to a dear arm, so nothing is lost by leaving it.

    References
    ----------
    The plug-in rule of CARROT (arXiv 2502.03261) and UniRoute (arXiv 2502.08773, section 4), with the cost
    divided by a reference request's so that λ does not depend on the currency or the year.
    """
    if tradeoff.cost_weight == math.inf:
        return -(candidate.cost_usd / cost_scale_usd)
    return candidate.quality - tradeoff.cost_weight * (candidate.charged_usd / cost_scale_usd)


def switch_bound(candidate: Candidate, default: Candidate, tradeoff: Tradeoff, cost_scale_usd: float) -> float:
    """Lower bound of what leaving the default arm for `candidate` is worth, in units of quality.

    Returns
    -------
    float
        ``gain - z · gain_se - λ · (charged - charged to the default) / cost_scale_usd``; the switch is taken when
        it is positive. λ is finite here: with an infinite one `decide` takes the cheapest.
    """
    relative_saving = (default.charged_usd - candidate.charged_usd) / cost_scale_usd
    return candidate.gain - tradeoff.guard_z * candidate.gain_se + tradeoff.cost_weight * relative_saving


def forgone_usd(staying: Choice, free: Choice, tradeoff: Tradeoff, cost_scale_usd: float) -> float:
    """Return what staying at a warm arm costs on one request, in USD of utility.

    Parameters
    ----------
    staying : Choice
        What was chosen.
    free : Choice
        What would have been without switching costs, from the same candidates.
    tradeoff : Tradeoff
    cost_scale_usd : float
        As for `decide`.

    Returns
    -------
    float
        ``(utility of the free choice - utility of the arm that was chosen) · cost_scale_usd / λ``, both without
        switching costs, at least 0. 0 where λ is 0 or infinite: switching costs then decide nothing.
    """
    if staying.arm == free.arm or tradeoff.cost_weight == 0.0 or math.isinf(tradeoff.cost_weight):
        return 0.0
    lost = free.utilities[0] - free.utilities[free.ranking.index(staying.arm)]
    return max(0.0, lost * cost_scale_usd / tradeoff.cost_weight)


def quality_bound(candidate: Candidate) -> float:
    """Lower bound of a candidate's quality: ``quality - MIN_QUALITY_Z · quality_se``."""
    return candidate.quality - MIN_QUALITY_Z * candidate.quality_se


def decide(
    candidates: Sequence[Candidate],
    *,
    default_arm: str,
    tradeoff: Tradeoff,
    cost_scale_usd: float,
    is_novel: bool = False,
    min_quality: float | None = None,
) -> Choice:
    """Choose an arm.

    The ranking is by utility, ties going to the cheaper arm and then to the name, so the order of
    `candidates` never matters. An infinite λ takes the first of that ranking, the cheapest.
    Otherwise leaving the default arm needs a positive `switch_bound`, and a novel prompt keeps it.

    A quality asked for takes the place of λ and guard: the cheapest arm with at least that `quality_bound`, or when
    there is none the arm with the highest bound. It needs estimates that can be believed, so a novel prompt is
    decided as if it had not been given.

    Parameters
    ----------
    candidates : sequence of Candidate
        At least one, names unique.
    default_arm : str
        The arm that answers when the router is not sure. It may be absent from `candidates` (filtered).
    tradeoff : Tradeoff
    cost_scale_usd : float
        See `utility`; > 0.
    is_novel : bool
        The prompt lies beyond the artifact's novelty bound.
    min_quality : float, in [0, 1], optional
        Quality that the answering arm should surely have.

    Returns
    -------
    Choice
        With a propensity of 1; `penstock_routers.policy_explore.explore` may change it afterwards.

    Raises
    ------
    ValueError
        `candidates` is empty.

    Notes
    -----
    O(m log m) for m candidates.
    """
    if not candidates:
        raise ValueError("decide() needs at least one candidate")
    # Tuples that compare as they stand: names are unique, so two candidates are never compared themselves.
    keyed = sorted(_keys(candidates, tradeoff.cost_weight, cost_scale_usd))
    scored = [(-negative, c) for negative, _, _, c in keyed]
    if min_quality is not None and not is_novel:
        scored.sort(key=lambda pair: _by_quality(pair[1], min_quality))
        first = scored[0][1]
        is_reached = quality_bound(first) >= min_quality
        chosen, reason = first.arm, RouteReason.MIN_QUALITY if is_reached else RouteReason.MIN_QUALITY_UNREACHABLE
    else:
        chosen, reason = _choose([c for _, c in scored], default_arm, tradeoff, cost_scale_usd, is_novel)
    if scored[0][1].arm != chosen:
        place = next(place for place, (_, c) in enumerate(scored) if c.arm == chosen)
        scored.insert(0, scored.pop(place))
    return Choice(chosen, reason, tuple([c.arm for _, c in scored]), tuple([u for u, _ in scored]))


def _keys(
    candidates: Sequence[Candidate], cost_weight: float, cost_scale_usd: float
) -> list[tuple[float, float, str, Candidate]]:
    """What the ranking is sorted by: ``-utility``, written out here since a call for each arm costs as much again."""
    if cost_weight == math.inf:
        return [(c.cost_usd / cost_scale_usd, c.cost_usd + c.switch_cost_usd, c.arm, c) for c in candidates]
    return [
        (
            -(c.quality - cost_weight * ((charged := c.cost_usd + c.switch_cost_usd) / cost_scale_usd)),
            charged,
            c.arm,
            c,
        )
        for c in candidates
    ]


def _by_quality(candidate: Candidate, min_quality: float) -> tuple[bool, float, float, str]:
    """Sort key: arms that reach the quality come first, the cheapest ahead; then the rest, the best ahead."""
    bound = quality_bound(candidate)
    is_below = bound < min_quality
    return is_below, -bound if is_below else candidate.charged_usd, candidate.charged_usd, candidate.arm


def _choose(
    ranked: list[Candidate], default_arm: str, tradeoff: Tradeoff, cost_scale_usd: float, is_novel: bool
) -> tuple[str, RouteReason]:
    default = next((c for c in ranked if c.arm == default_arm), None)
    if len(ranked) == 1:
        is_default = default is not None
        return ranked[0].arm, RouteReason.DEFAULT_BEST if is_default else RouteReason.ONLY_CANDIDATE
    if math.isinf(tradeoff.cost_weight):
        return ranked[0].arm, RouteReason.CHEAPEST
    if default is None:
        return ranked[0].arm, RouteReason.DEFAULT_FILTERED
    if is_novel:
        return default_arm, RouteReason.ABSTAINED_NOVEL
    if ranked[0].arm == default_arm:
        return default_arm, RouteReason.DEFAULT_BEST
    for candidate in ranked:
        if candidate.arm == default_arm:
            break
        if switch_bound(candidate, default, tradeoff, cost_scale_usd) > 0.0:
            return candidate.arm, RouteReason.ROUTED
    return default_arm, RouteReason.DEFAULT_KEPT
