"""How far today's prompts are from those that the router knows: population stability index over a rolling window.

Owns the counts; `metrics_router` shows them. A prompt costs one addition and one place in a ring; everything else is
worked out when metrics are read. Read `PromptDrift.note`, then `PromptDrift.index`.
"""

from __future__ import annotations

import math
from bisect import bisect_left
from collections import deque
from collections.abc import Mapping, Sequence
from typing import Final

from penstock_routers.manifest import Guard

NOVELTY_BOUNDS: Final = (0.25, 0.5, 0.75, 1.0, 1.25, 1.5, 2.0)
"""Upper bounds of novelty, in units of the artifact's own limit (`Guard.novelty_max`): 1 is that limit."""

WINDOW: Final = 1_000
"""Prompts that are compared, and as many of the start that they are compared with."""

LEAST: Final = 200
"""With fewer prompts an index says nothing. Without any drift, n prompts in b bins give some (b - 1) / n against a
known share, and (b - 1) (1 / n + 1 / m) against m prompts (Yurdakul, Naranjo 2020, "Statistical properties of the
population stability index"): 0.05 for 200 prompts in nine categories."""

_BINS: Final = len(NOVELTY_BOUNDS) + 1
_WITHIN: Final = NOVELTY_BOUNDS.index(1.0)


def stability_index(expected: Sequence[float], found: Sequence[float]) -> float:
    """Return the population stability index of two distributions.

    Parameters
    ----------
    expected, found : sequence of float
        Shares of the same bins, all greater than 0, each adding up to 1.

    Returns
    -------
    float
        At least 0; 0 for equal ones.

    Notes
    -----
    The sum over bins of (found - expected) · ln(found / expected), which is the symmetric Kullback-Leibler divergence
    of Jeffreys (1946). By the custom of credit scoring (Siddiqi 2006, "Credit Risk Scorecards") less than 0.1 is
    no change, 0.1 to 0.25 a small and more than 0.25 a large one.

    Examples
    --------
    >>> stability_index((0.5, 0.5), (0.5, 0.5))
    0.0
    >>> round(stability_index((0.75, 0.25), (0.5, 0.5)), 4)
    0.2747
    """
    return math.fsum((b - a) * math.log(b / a) for a, b in zip(expected, found, strict=True))


def shares(counts: Sequence[int]) -> tuple[float, ...]:
    """Return shares, none of them 0: half a prompt is added to every bin, as by Jeffreys' prior.

    Examples
    --------
    >>> shares((3, 0))
    (0.875, 0.125)
    """
    total = sum(counts) + len(counts) / 2
    return tuple((count + 0.5) / total for count in counts)


class PromptDrift:
    """Novelty and category of the last prompts, beside those of the first after the artifact came in force.

    Parameters
    ----------
    guard : Guard
        Of the artifact.
    categories : sequence of str
        That it knows.

    Notes
    -----
    The artifact holds one number of its own prompts' distribution: the share of held-out ones whose novelty is within
    the limit (`Guard.novelty_quantile`). It holds no shares of categories, so these are compared with the first
    `WINDOW` prompts that this process has read by the artifact.
    """

    def __init__(self, guard: Guard, categories: Sequence[str]) -> None:
        self._limit = max(guard.novelty_max, 1e-9)
        self.fit_share = min(max(guard.novelty_quantile, 1e-4), 1.0 - 1e-4)
        self._rows: Mapping[str, int] = {name: number * _BINS for number, name in enumerate(categories)}
        self._start = [0] * (len(categories) * _BINS)
        self._recent = [0] * (len(categories) * _BINS)
        self._ring: deque[int] = deque()
        self.start_prompts = 0

    @property
    def recent_prompts(self) -> int:
        """How many of the prompts after the start are looked at."""
        return len(self._ring)

    def relative(self, novelty: float) -> float:
        """Return a novelty in units of the limit, at most 10; what is no number counts as novel, as the guard does."""
        ratio = novelty / self._limit
        return ratio if ratio < 10.0 else 10.0

    def note(self, ratio: float, category: str) -> None:
        """Count one prompt by what `relative` has returned and its category; one that is not known is left out."""
        row = self._rows.get(category)
        if row is None:
            return
        place = row + bisect_left(NOVELTY_BOUNDS, ratio)
        if self.start_prompts < WINDOW:
            self._start[place] += 1
            self.start_prompts += 1
            return
        self._recent[place] += 1
        self._ring.append(place)
        if len(self._ring) > WINDOW:
            self._recent[self._ring.popleft()] -= 1

    def within_share(self) -> float:
        """Return the share of recent prompts within the artifact's limit; NaN of fewer than `LEAST`."""
        counts = self._recent if len(self._ring) >= LEAST else self._start
        total = sum(counts)
        return sum(_novelties(counts)[: _WITHIN + 1]) / total if total >= LEAST else math.nan

    def index(self, of: str, against: str) -> float:
        """Return a stability index.

        Parameters
        ----------
        of : {"novelty", "category"}
        against : {"fit", "start"}
            The artifact's held-out prompts, which are known by novelty alone, or the first prompts here.

        Returns
        -------
        float
            NaN of fewer than `LEAST` prompts.
        """
        if against == "fit":
            within = self.within_share()
            if math.isnan(within):
                return math.nan
            found = min(max(within, 1e-4), 1.0 - 1e-4)
            return stability_index((self.fit_share, 1.0 - self.fit_share), (found, 1.0 - found))
        if self.start_prompts < WINDOW or len(self._ring) < LEAST:
            return math.nan
        marginal = _novelties if of == "novelty" else _categories
        return stability_index(shares(marginal(self._start)), shares(marginal(self._recent)))


def _novelties(counts: Sequence[int]) -> list[int]:
    return [sum(counts[number::_BINS]) for number in range(_BINS)]


def _categories(counts: Sequence[int]) -> list[int]:
    return [sum(counts[first : first + _BINS]) for first in range(0, len(counts), _BINS)]
