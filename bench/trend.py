"""Does a series of samples grow? The Theil–Sen slope with a bootstrap interval.

Read `trend_of`. NumPy only.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

RESAMPLES = 1_000
CONFIDENCE = 0.95
SEED = 20261126
MAX_BINS = 120
_SECONDS_PER_HOUR = 3_600.0


@dataclass(frozen=True, slots=True)
class Trend:
    """How a quantity moves.

    Attributes
    ----------
    level : float
        Median.
    per_hour, low, high : float
        Slope and the ends of its interval, units an hour.
    """

    level: float
    per_hour: float
    low: float
    high: float

    @property
    def excludes_zero(self) -> bool:
        """Whether the interval lies on one side of zero."""
        return self.low > 0.0 or self.high < 0.0

    def grows(self, negligible_per_hour: float) -> bool:
        """Whether there is growth that is both certain and more than what is negligible."""
        return self.low > 0.0 and self.per_hour > negligible_per_hour


def trend_of(seconds: Sequence[float], values: Sequence[float]) -> Trend:
    """Return the trend of a series.

    Parameters
    ----------
    seconds, values : sequence of float, shape (n,)
        n ≥ 4, in order of time.

    Returns
    -------
    Trend

    Notes
    -----
    Samples are put into at most `MAX_BINS` bins of equal length, each with its median: neighbouring seconds say the
    same, and there are n²/2 pairs. The slope is the median of the slopes of all pairs (Theil 1950, Sen 1968), which
    outliers do not move while they are under 29 % of the bins. The interval is the percentile interval of a bootstrap
    that keeps neighbours together: residuals are drawn in blocks of √n bins (moving blocks, Künsch 1989, Annals of
    Statistics 17:3) and added to the fitted line, because memory at one moment resembles memory at the next; drawing
    single points would make it too narrow.

    Examples
    --------
    >>> trend = trend_of(range(100), [5.0 + second for second in range(100)])
    >>> round(trend.per_hour), trend.excludes_zero
    (3600, True)
    >>> trend_of(range(100), [5.0] * 100).excludes_zero
    False
    """
    if len(seconds) != len(values) or len(seconds) < 4:
        raise ValueError("at least four samples, each with its time")
    times, levels = _binned(np.asarray(seconds, dtype=float), np.asarray(values, dtype=float))
    slope = _slope(times, levels)
    line = slope * times + np.median(levels - slope * times)
    residuals = levels - line
    source = np.random.default_rng(SEED)
    count = len(times)
    length = max(1, round(count**0.5))
    slopes = np.empty(RESAMPLES)
    for number in range(RESAMPLES):
        starts = source.integers(0, count - length + 1, size=-(-count // length))
        drawn = np.concatenate([residuals[start : start + length] for start in starts])[:count]
        slopes[number] = _slope(times, line + drawn)
    tail = (1.0 - CONFIDENCE) / 2.0
    low, high = np.quantile(slopes, [tail, 1.0 - tail])
    per_hour, low, high = (float(value) * _SECONDS_PER_HOUR for value in (slope, low, high))
    return Trend(float(np.median(values)), per_hour, low, high)


def _binned(times: np.ndarray, levels: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return the medians of at most `MAX_BINS` bins of neighbouring samples."""
    parts = np.array_split(np.arange(len(times)), min(MAX_BINS, len(times)))
    return (
        np.array([np.median(times[part]) for part in parts]),
        np.array([np.median(levels[part]) for part in parts]),
    )


def _slope(times: np.ndarray, levels: np.ndarray) -> float:
    """Return the median slope of all pairs."""
    first, second = np.triu_indices(len(times), 1)
    return float(np.median((levels[second] - levels[first]) / (times[second] - times[first])))
