"""How busy each deployment is, by how its calls go: what the load policy is fed with.

Owns the count of calls under way, and each deployment's usual pace. It decides nothing. Read `LoadSignals.end`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Final

from penstock_cache.load_policy import LoadPolicy, ModelCapacity
from penstock_gateway.decisions import Settlement
from penstock_gateway.settings_cache import CacheLoadSettings

FIRST_TOKEN_IN_TOKENS: Final = 64
"""Waiting for the first token counts as writing so many. Services that write 50 to 150 tokens a second begin after
about half a second to a second; without it short answers would look slow."""

WARM_UP_CALLS: Final = 50
"""Before so many calls nobody knows what is usual, so nothing is slow."""

USUAL_HALF_LIFE_SECONDS: Final = 21_600.0
"""After six hours half of what counts as usual is newer: slower than any overload that a cache can help with, quicker
than a provider's change of hardware."""

_MOST_AT_ONCE: Final = 2.0  # times the usual: more of one call does not move what is usual
_BUSY_STATUSES: Final = frozenset({429, 503, 504})


@dataclass(slots=True)
class _Usual:
    """A deployment's usual pace, seconds per token."""

    seen_at: float
    pace_seconds: float = 0.0
    calls: int = 0

    def learn(self, pace_seconds: float, now: float) -> None:
        if self.calls:
            pace_seconds = min(pace_seconds, _MOST_AT_ONCE * self.pace_seconds)
        self.calls += 1
        if self.calls <= WARM_UP_CALLS:
            weight = 1.0 / self.calls
        else:
            weight = 1.0 - 2.0 ** (-max(0.0, now - self.seen_at) / USUAL_HALF_LIFE_SECONDS)
        self.pace_seconds += weight * (pace_seconds - self.pace_seconds)
        self.seen_at = now


def load_policy(settings: CacheLoadSettings, deployments: Iterable[str]) -> LoadPolicy:
    """Return the policy for the deployments of these names; latency is given to it as a multiple of the usual one."""
    return LoadPolicy(_capacities(settings, deployments))


def _capacities(settings: CacheLoadSettings, deployments: Iterable[str]) -> dict[str, ModelCapacity]:
    return {name: ModelCapacity(settings.max_in_flight.get(name), settings.slow_factor) for name in deployments}


class LoadSignals:
    """Watches the calls to deployments.

    Parameters
    ----------
    policy : LoadPolicy
    settings : CacheLoadSettings
    clock : callable
        Unix time, seconds.
    """

    def __init__(self, policy: LoadPolicy, settings: CacheLoadSettings, clock: Callable[[], float]) -> None:
        self.policy = policy
        self._settings = settings
        self._slow_factor = settings.slow_factor
        self._clock = clock
        self._in_flight: dict[str, int] = {}
        self._usual: dict[str, _Usual] = {}

    def follow(self, deployments: Iterable[str]) -> None:
        """Watch the deployments of these names from now on; what is known of those that stay is kept."""
        capacities = _capacities(self._settings, deployments)
        self.policy.use(capacities)
        self._usual = {name: usual for name, usual in self._usual.items() if name in capacities}
        self._in_flight = {name: count for name, count in self._in_flight.items() if count or name in capacities}

    def begin(self, name: str) -> None:
        """Count a call that begins.

        Parameters
        ----------
        name : str
            Of the deployment.
        """
        count = self._in_flight[name] = self._in_flight.get(name, 0) + 1
        self.policy.observe(name, self._clock(), in_flight=count)

    def end(self, name: str, settlement: Settlement) -> None:
        """Note how a call went.

        Parameters
        ----------
        name : str
        settlement : Settlement

        Notes
        -----
        Compared is the time per token, ``duration / (output tokens + 64)``, with its own long mean: whole durations
        differ tenfold with the length of answers. A refusal for overload, or a timeout, counts as full load.
        """
        count = self._in_flight[name] = max(0, self._in_flight.get(name, 0) - 1)
        now = self._clock()
        self.policy.observe(name, now, in_flight=count, latency_seconds=self._slowness(name, settlement, now))

    def _slowness(self, name: str, settlement: Settlement, now: float) -> float | None:
        """Return how many times slower than usual a call was; None when it does not tell."""
        if settlement.status in _BUSY_STATUSES:
            return self._slow_factor
        if settlement.error_code is not None or settlement.usage is None:
            return None
        seconds = max(0.0, settlement.duration_ms - settlement.overhead_ms) / 1000.0
        pace_seconds = seconds / (settlement.usage.output_tokens + FIRST_TOKEN_IN_TOKENS)
        usual = self._usual.get(name)
        if usual is None:
            usual = self._usual[name] = _Usual(now)
        is_known = usual.calls >= WARM_UP_CALLS and usual.pace_seconds > 0.0
        slowness = min(pace_seconds / usual.pace_seconds, 2.0 * self._slow_factor) if is_known else None
        usual.learn(pace_seconds, now)
        return slowness
