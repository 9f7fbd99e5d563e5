"""Which deployment of a group takes a request: the one where it costs least time, or least money while there is room.

Owns the order of a group's deployments for one request, the group's mode (`cost` or `capacity`) and the affinity of
conversations. It takes no slots and calls nothing. Read `Group.order`.
"""

from __future__ import annotations

import hashlib
import math
import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal

from penstock_gateway.attempts.lanes import Lane
from penstock_gateway.attempts.load import TYPICAL_INPUT_TOKENS, TYPICAL_OUTPUT_TOKENS
from penstock_gateway.settings_attempts import BalanceSettings

Mode = Literal["cost", "capacity"]

MAX_SCANNED = 8
"""Up to so many deployments all are compared; of more, two drawn at random (M. Mitzenmacher, "The Power of Two Choices
in Randomized Load Balancing", IEEE TPDS 12, 2001), which costs little of the gain and none of the time."""

SLOW_FACTOR = 3.0
"""A request that takes so many times as long as on an idle deployment counts as full pressure."""

RATE_LIMITED_SHARE = 0.1
"""Share of 429s that counts as full pressure."""

_HALF_LIFE_SECONDS = 5.0  # of the pressure's mean: bursts of a second do not change the mode
_SAME_PRICE = 1.001


@dataclass(frozen=True, slots=True)
class Load:
    """What one request is expected to be, for choosing among deployments of one model.

    Attributes
    ----------
    input_tokens, output_tokens : float, at least 0
    affinity_key : bytes or None
        Of its conversation; equal in all gateways, so that they choose alike.
    """

    input_tokens: float
    output_tokens: float
    affinity_key: bytes | None = None


class Group:
    """Interchangeable deployments.

    Parameters
    ----------
    name : str
    lanes : sequence of Lane
        With one `pace`.
    settings : BalanceSettings
    draw : callable
        Random numbers in [0, 1).
    on_mode : callable, optional
        Called with each new mode.

    Attributes
    ----------
    mode : str
        ``"cost"`` or ``"capacity"``.
    """

    def __init__(
        self,
        name: str,
        lanes: Sequence[Lane],
        settings: BalanceSettings,
        *,
        draw: Callable[[], float] = random.random,
        on_mode: Callable[[Mode], None] = lambda mode: None,
    ) -> None:
        self.name = name
        self.lanes = tuple(lanes)
        self._settings = settings
        self._draw = draw
        self._on_mode = on_mode
        prices = [lane.price_usd(TYPICAL_INPUT_TOKENS, TYPICAL_OUTPUT_TOKENS) for lane in self.lanes]
        least = min(prices, default=0.0)
        self._cheapest = tuple(
            lane for lane, price in zip(self.lanes, prices, strict=True) if price <= least * _SAME_PRICE
        )
        self.mode: Mode = "cost" if settings.mode != "capacity" and self._has_prices else "capacity"
        self._changed_at = -math.inf
        self._pressure = 0.0
        self._seen_at: float | None = None

    @property
    def _has_prices(self) -> bool:
        return len(self._cheapest) < len(self.lanes)

    def order(self, load: Load, now: float) -> list[Lane]:
        """Return the deployments, the one that should take a request first.

        Parameters
        ----------
        load : Load
        now : float
            Seconds on the lanes' clock.

        Returns
        -------
        list of Lane
            All of them, also those that admit nobody now.

        Notes
        -----
        In capacity mode by `LaneLoad.cost_seconds`; in cost mode the cheapest ones go first, in that order, then the
        others, which so get what the cheapest have no slot for. A conversation goes to its own deployment among the
        first (rendezvous hashing: D. Thaler, C. Ravishankar, IEEE/ACM Transactions on Networking 6, 1998) unless that
        admits nobody, has no slot, or costs more than `affinity_factor` times the best. What that costs at most was
        measured by bench/balancing.py with a key of its own for every request: at 1.5 on average 6 %, at most 19 % of
        p99. What it saves is the reading of prompts that a provider has cached, and their price.
        """
        if self._settings.mode == "auto" and self._has_prices:
            self._choose_mode(now)
        lanes = self.lanes if self.mode == "capacity" else self._cheapest
        ordered = self._by_time(lanes, load, now)
        if load.affinity_key is not None and self._settings.affinity_factor > 1.0 and len(ordered) > 1:
            self._put_own_first(ordered, load.affinity_key, load, now)
        if self.mode == "cost":
            rest = [lane for lane in self.lanes if lane not in self._cheapest]
            ordered += sorted(rest, key=lambda lane: lane.price_usd(load.input_tokens, load.output_tokens))
        return ordered

    def pressure(self, now: float) -> float:
        """Return how hard the whole group's load would press on its cheapest deployments; 1 and more is full.

        The largest of: requests in flight in the group over the slots of the cheapest; whether anybody waits for one of
        these; their share of 429s over `RATE_LIMITED_SHARE`; the slowdown that they would have with all the load over
        `SLOW_FACTOR`; and whether none of them admits anybody. As the load counts, not who carries it now, the pressure
        does not fall because others have come to help.
        """
        cheapest = self._cheapest
        if any(lane.slots.waiting for lane in cheapest) or not any(lane.breaker.admits(now) for lane in cheapest):
            return 1.0
        in_flight = sum(lane.slots.in_flight for lane in self.lanes)
        limits = [lane.slots.limit for lane in cheapest]
        fullness = 0.0 if None in limits else in_flight / sum(limit or 0 for limit in limits)
        limited = max(lane.rate_limited_share(now) for lane in cheapest) / RATE_LIMITED_SHARE
        share = 1.0 / len(cheapest)
        prompt_tokens = sum(lane.load.prompt_tokens for lane in self.lanes)
        slowdown = cheapest[0].load.slowdown(in_flight * share, prompt_tokens * share)
        return max(fullness, limited, (slowdown - 1.0) / (SLOW_FACTOR - 1.0))

    def _choose_mode(self, now: float) -> None:
        """Follow the pressure's mean: up at `pressure_high`, down at `pressure_low`, never twice in a short time."""
        settings = self._settings
        elapsed = 0.0 if self._seen_at is None else max(0.0, now - self._seen_at)
        self._seen_at = now
        weight = 1.0 - 2.0 ** (-elapsed / _HALF_LIFE_SECONDS)
        self._pressure += weight * (min(self.pressure(now), 2.0) - self._pressure)
        if now - self._changed_at < settings.min_mode_seconds:
            return
        wanted = self.mode
        if self.mode == "cost" and self._pressure >= settings.pressure_high:
            wanted = "capacity"
        elif self.mode == "capacity" and self._pressure <= settings.pressure_low:
            wanted = "cost"
        if wanted != self.mode:
            self.mode = wanted
            self._changed_at = now
            self._on_mode(wanted)

    def _by_time(self, lanes: Sequence[Lane], load: Load, now: float) -> list[Lane]:
        """Return lanes by the time that the request costs there; unseen ones first, so that each is known."""
        if len(lanes) == 1:
            return list(lanes)
        if len(lanes) > MAX_SCANNED:
            first = int(self._draw() * len(lanes))
            second = (first + 1 + int(self._draw() * (len(lanes) - 1))) % len(lanes)
            drawn = (lanes[first], lanes[second])
            rest = [lane for lane in lanes if lane not in drawn]
            return self._by_time(drawn, load, now) + rest

        def cost(lane: Lane) -> float:
            if lane.load.is_stale(now):
                return -1.0
            return lane.load.cost_seconds(load.input_tokens, load.output_tokens)

        return sorted(lanes, key=cost)

    def _put_own_first(self, ordered: list[Lane], key: bytes, load: Load, now: float) -> None:
        able = [lane for lane in ordered if lane.slots.has_free and lane.breaker.admits(now)]
        own = max(ordered, key=lambda lane: _weight(key, lane.name))
        if own not in able:
            return
        cost = own.load.cost_seconds(load.input_tokens, load.output_tokens)
        best = able[0].load.cost_seconds(load.input_tokens, load.output_tokens)
        if cost <= self._settings.affinity_factor * best:
            ordered.remove(own)
            ordered.insert(0, own)


def _weight(key: bytes, name: str) -> bytes:
    return hashlib.blake2b(key, digest_size=8, key=name.encode()[:64]).digest()
