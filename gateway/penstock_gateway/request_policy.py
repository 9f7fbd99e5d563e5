"""What one request allows, from its own controls, its key's defaults, and the gateway's configuration.

Owns the order in which these three apply, and the draw of exploration. The rules themselves are pure and live in
`penstock_routers.policy`, `policy_limits` and `policy_explore`. Read `PolicyBook.resolve` first.
"""

from __future__ import annotations

import hashlib
import hmac
import secrets
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

import msgspec
from msgspec.structs import replace

from penstock_gateway.deployments import TIERS
from penstock_gateway.errors import InvalidRequest
from penstock_gateway.request_body import ChatRequest, TradeoffValue, parse_number
from penstock_gateway.settings_models import ClientKeySettings, ExploreSettings, Settings
from penstock_routers.policy_limits import DEFAULT_FLOOR_PROBABILITY, NO_TIER

Draw = Callable[[str], tuple[float, float]]

_SECRET_BYTES = 32


class RequestPolicy(msgspec.Struct, frozen=True, gc=False):
    """What one request allows.

    Attributes
    ----------
    tradeoff : str, float or None
        None takes the gateway's own.
    max_cost_usd : float or None
        Highest expected cost, USD.
    min_quality : float or None
        Quality that the answering arm should surely have, in [0, 1].
    floors : dict of str to int
        Category to rank of the lowest tier that may answer it.
    explore_rate : float, in [0, 1]
    choosable : frozenset of str or None
        Deployments that may be chosen; None: all.
    """

    tradeoff: TradeoffValue | None = None
    max_cost_usd: float | None = None
    min_quality: float | None = None
    floors: Mapping[str, int] = msgspec.field(default_factory=dict)
    explore_rate: float = 0.0
    choosable: frozenset[str] | None = None

    @property
    def has_limits(self) -> bool:
        """Whether an arm may be refused for its tier or its cost."""
        return bool(self.floors) or self.max_cost_usd is not None


UNLIMITED = RequestPolicy()


@dataclass(frozen=True, slots=True)
class PolicyRules:
    """What holds for every request.

    Attributes
    ----------
    floor_probability : float, in [0, 1]
        Share of a floored category from which its floor applies.
    switch_share : float, in [0, 1]
        Share of the lost cache discount that leaving a warm arm is charged with.
    max_cost_ratio : float
        Cap of exploration, times the default arm's cost.
    draw : callable
        From a decision's id to two uniform numbers in [0, 1).
    """

    floor_probability: float = DEFAULT_FLOOR_PROBABILITY
    switch_share: float = 0.25
    max_cost_ratio: float = 1.0
    draw: Draw = field(default_factory=lambda: draw_from(secrets.token_bytes(_SECRET_BYTES)))


class PolicyBook:
    """The policies of one configuration, by tenant.

    Parameters
    ----------
    settings : Settings
    """

    def __init__(self, settings: Settings) -> None:
        routing = settings.routing
        own = RequestPolicy(floors=ranks_of(routing.category_floors), explore_rate=routing.explore.rate)
        self._own = own
        self._by_tenant = {entry.name: _policy_of(entry, own) for entry in settings.client_keys}

    def resolve(
        self,
        tenant: str,
        request: ChatRequest,
        header: RequestPolicy,
        alias: TradeoffValue | None,
        default: RequestPolicy | None = None,
    ) -> RequestPolicy:
        """Return the policy of one request.

        Parameters
        ----------
        tenant : str
        request : ChatRequest
            Its body's controls count.
        header : RequestPolicy
            What its headers say; see `header_policy`.
        alias : str, float or None
            Trade-off named by the model alias.
        default : RequestPolicy, optional
            Of the caller's key; without one the configuration's, by tenant.

        Returns
        -------
        RequestPolicy

        Raises
        ------
        InvalidRequest
            ``conflicting_tradeoff`` or ``conflicting_controls``: alias, header and body disagree, or ask for both a
            trade-off and a minimum of quality, which are two ways to set one thing.

        Notes
        -----
        A request's trade-off or quality takes the place of its key's, whichever of the two that is. Its cap can lower
        its key's but not raise it. Floors and exploration are not the client's to set.
        """
        if default is None or default is UNLIMITED:
            default = self._by_tenant.get(tenant, self._own)
        in_body = request.tradeoff, request.max_cost_usd, request.min_quality
        if header is UNLIMITED and alias is None and in_body == (None, None, None):
            return default  # as nearly every request is
        tradeoff = _one((alias, header.tradeoff, request.tradeoff), "trade-offs", "conflicting_tradeoff")
        min_quality = _one_number((header.min_quality, request.min_quality), "min_quality")
        cap = _one_number((header.max_cost_usd, request.max_cost_usd), "max_cost_usd")
        if tradeoff is not None and min_quality is not None:
            raise InvalidRequest(
                "Ask for a trade-off or for min_quality, not for both: a minimum of quality takes the knob's place.",
                code="conflicting_controls",
            )
        if tradeoff is None and min_quality is None:
            tradeoff, min_quality = default.tradeoff, default.min_quality
        caps = [limit for limit in (cap, default.max_cost_usd) if limit is not None]
        return replace(default, tradeoff=tradeoff, min_quality=min_quality, max_cost_usd=min(caps) if caps else None)


def rules_of(settings: Settings) -> PolicyRules:
    """Return what a configuration says for every request."""
    routing = settings.routing
    return PolicyRules(
        floor_probability=routing.floor_probability,
        switch_share=routing.switch_regret,
        max_cost_ratio=routing.explore.max_cost_ratio,
        draw=draw_from(_secret_of(routing.explore)),
    )


def header_policy(
    *, max_cost_usd: str | None, min_quality: str | None, tradeoff: TradeoffValue | None
) -> RequestPolicy:
    """Return what a request's headers say.

    Raises
    ------
    InvalidRequest
        ``invalid_value``: not a number, or out of range.
    """
    if max_cost_usd is None and min_quality is None and tradeoff is None:
        return UNLIMITED
    return RequestPolicy(
        tradeoff=tradeoff,
        max_cost_usd=None if max_cost_usd is None else parse_number(max_cost_usd, param="x-penstock-max-cost-usd"),
        min_quality=None
        if min_quality is None
        else parse_number(min_quality, param="x-penstock-min-quality", high=1.0),
    )


def draw_from(secret: bytes) -> Draw:
    """Return the draw of exploration for one secret.

    Parameters
    ----------
    secret : bytes

    Returns
    -------
    callable
        From a decision's id to two numbers, uniform in [0, 1) and independent for whoever does not know the secret;
        the same id always gives the same two.

    Notes
    -----
    The first and second eight bytes of HMAC-SHA-256(secret, id), 53 bits of each. A client can neither choose nor
    foresee whether it is explored, and whoever has the secret can check every logged draw.
    """

    def draw(decision_id: str) -> tuple[float, float]:
        digest = hmac.digest(secret, decision_id.encode(), hashlib.sha256)
        first, second = (int.from_bytes(digest[start : start + 8]) >> 11 for start in (0, 8))
        return first * 2.0**-53, second * 2.0**-53

    return draw


def ranks_of(floors: Mapping[str, str]) -> dict[str, int]:
    """Return floors with the rank of each tier in place of its name."""
    return {category: tier_rank(tier) for category, tier in floors.items()}


def tier_rank(tier: str | None) -> int:
    """Return the rank of a tier; no tier ranks below all."""
    return TIERS.index(tier) if tier in TIERS else NO_TIER


def _policy_of(entry: ClientKeySettings, own: RequestPolicy) -> RequestPolicy:
    """Return a key's policy: its floors can raise the gateway's, not lower them."""
    floors = dict(own.floors)
    for category, rank in ranks_of(entry.category_floors).items():
        floors[category] = max(rank, floors.get(category, NO_TIER))
    return RequestPolicy(
        tradeoff=entry.tradeoff,
        max_cost_usd=entry.max_cost_usd,
        min_quality=entry.min_quality,
        floors=floors,
        explore_rate=own.explore_rate if entry.explore_rate is None else entry.explore_rate,
    )


def _secret_of(explore: ExploreSettings) -> bytes:
    return explore.key.get_secret_value().encode() if explore.key is not None else secrets.token_bytes(_SECRET_BYTES)


def _one_number(given: tuple[float | None, float | None], what: str) -> float | None:
    found = _one(given, f"values of {what}", "conflicting_controls")
    return None if found is None else float(found)


def _one(given: tuple[TradeoffValue | None, ...], what: str, code: str) -> TradeoffValue | None:
    """Return the one setting that was given; the places may agree but not contradict each other."""
    found = {value for value in given if value is not None}
    if len(found) > 1:
        raise InvalidRequest(f"Model alias, x-penstock- headers and body ask for different {what}.", code=code)
    return found.pop() if found else None
