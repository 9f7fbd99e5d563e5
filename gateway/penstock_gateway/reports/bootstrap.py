"""How sure a sum over conversations is: Bayesian bootstrap over blocks of dependent requests.

Owns randomness of the reports, always from a seed. Knows nothing of money. Read `BlockBootstrap`.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from statistics import NormalDist
from typing import Final

import numpy as np
from numpy.typing import NDArray

FloatArray = NDArray[np.float64]
IntArray = NDArray[np.int64]

DRAWS: Final = 1000
LEVEL: Final = 0.95
_WEIGHTS_PER_STEP: Final = 2_000_000  # weights drawn at once: 16 MB


@dataclass(frozen=True, slots=True)
class Interval:
    """A number with its 95 % interval.

    Attributes
    ----------
    value, low, high : float
    """

    value: float
    low: float
    high: float


class BlockBootstrap:
    """Weighted sums over blocks, for the rows as they are and for random weights.

    Parameters
    ----------
    blocks : ndarray of int64, shape (n,)
        Block of each row.
    draws : int
    seed : int

    Attributes
    ----------
    draws : int

    Notes
    -----
    Each draw gives every block a weight from the exponential distribution of mean 1; sums of different calls use the
    same weights, so they may be divided and subtracted draw by draw. Unlike counts of drawn blocks, the weights are
    never 0, so no ratio loses its denominator. O(draws · blocks · width), in steps of bounded memory.

    References
    ----------
    Rubin, "The Bayesian bootstrap" (Annals of Statistics 9, 1981); over clusters as in Cameron, Gelbach and Miller,
    "Bootstrap-based improvements for inference with clustered errors" (Review of Economics and Statistics 90, 2008).
    """

    def __init__(self, blocks: IntArray, *, draws: int = DRAWS, seed: int = 0) -> None:
        self.draws = draws
        self._seed = seed
        _, block = np.unique(blocks, return_inverse=True)
        self._order = np.argsort(block, kind="stable")
        self._block = block[self._order].astype(np.int64)
        self.blocks = int(self._block[-1]) + 1 if self._block.size else 0
        self._step = max(1, _WEIGHTS_PER_STEP // draws)

    def sums(self, columns: IntArray, values: FloatArray, width: int) -> tuple[FloatArray, FloatArray]:
        """Sum values by column.

        Parameters
        ----------
        columns : ndarray of int64, shape (n,)
            Which column each row adds to, in [0, width); rows below 0 add to none.
        values : ndarray of float64, shape (n, k)
        width : int

        Returns
        -------
        point : ndarray of float64, shape (width, k)
        drawn : ndarray of float64, shape (draws, width, k)
        """
        column, value = columns[self._order], values[self._order]
        kept = column >= 0
        column, value, block = column[kept], value[kept], self._block[kept]
        k = values.shape[1]
        point = np.zeros((width, k))
        np.add.at(point, column, value)
        drawn = np.zeros((self.draws, width * k))
        for start in range(0, self.blocks, self._step):
            end = min(start + self._step, self.blocks)
            weights = self._weights(start, end)
            low, high = np.searchsorted(block, (start, end))
            if low == high:
                continue
            sums = np.zeros((end - start, width, k))
            np.add.at(sums, (block[low:high] - start, column[low:high]), value[low:high])
            drawn += weights @ sums.reshape(end - start, width * k)
        return point, drawn.reshape(self.draws, width, k)

    def counts(self, columns: IntArray, width: int) -> IntArray:
        """Count the blocks with a row in each column, shape (width,)."""
        column = columns[self._order]
        kept = column >= 0
        pairs = np.unique(np.column_stack([self._block[kept], column[kept]]), axis=0)
        return np.bincount(pairs[:, 1], minlength=width).astype(np.int64)

    def _weights(self, start: int, end: int) -> FloatArray:
        generator = np.random.default_rng((self._seed, start))
        return generator.standard_exponential((self.draws, end - start))


def interval_of(value: float, drawn: FloatArray, blocks: int) -> Interval:
    """Return the expanded percentile interval of a bootstrapped number.

    Parameters
    ----------
    value : float
        On the rows as they are.
    drawn : ndarray of float64, shape (draws,)
    blocks : int, >= 2
        How many blocks it rests on.

    Returns
    -------
    Interval
        95 %.

    Notes
    -----
    With g blocks, percentiles are taken at ``Φ(∓ t · sqrt((g + 1) / (g - 1)))``, t the 97.5 % quantile of Student's t
    with g - 1 degrees of freedom: plain percentiles are too narrow for few blocks, by the missing degree of freedom,
    by the weights' variance of g / (g + 1), and by the normal quantile.

    References
    ----------
    Hesterberg, "What teachers should know about the bootstrap" (The American Statistician 69, 2015), section 3.4.
    """
    wide = student_quantile(0.5 + LEVEL / 2.0, blocks - 1.0) * math.sqrt((blocks + 1.0) / (blocks - 1.0))
    tail = NormalDist().cdf(-wide)
    low, high = np.quantile(drawn, (tail, 1.0 - tail))
    return Interval(value, float(low), float(high))


def student_quantile(probability: float, degrees: float) -> float:
    """Quantile of Student's t.

    Parameters
    ----------
    probability : float, in (0, 1)
    degrees : float, >= 1

    Returns
    -------
    float
        Within 0.5 % of the exact value for degrees >= 4 and probabilities in [.025, .975].

    References
    ----------
    Abramowitz and Stegun, "Handbook of Mathematical Functions" (1964), 26.7.5.

    Examples
    --------
    >>> round(student_quantile(0.975, 10.0), 2)
    2.23
    """
    z = NormalDist().inv_cdf(probability)
    terms = (
        (z**3 + z) / 4.0,
        (5 * z**5 + 16 * z**3 + 3 * z) / 96.0,
        (3 * z**7 + 19 * z**5 + 17 * z**3 - 15 * z) / 384.0,
    )
    return z + sum(term / degrees ** (power + 1) for power, term in enumerate(terms))
