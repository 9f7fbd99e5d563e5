"""Which prompts to ask, and in which order, so that every prefix of the order is a good sample.

Owns the choice and nothing else: no files, no calls, no prices. Read `choose_prompts`, then `decision_value` for what
"informative" means.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Final, Literal

import numpy as np
from numpy.typing import NDArray

from penstock_training.errors import TrainingError

FloatArray = NDArray[np.float64]
IndexArray = NDArray[np.int64]
Order = Literal["informative", "random"]

ORDERS: Final[tuple[Order, ...]] = ("informative", "random")
DEFAULT_RANDOM_SHARE: Final = 0.2
CLUSTERS: Final = 20
"""Kinds of prompts that take turns; as many as prompts asked did worse on two sets of four (docs/collecting.md)."""
_MIN_SE: Final = 1e-9


@dataclass(frozen=True, slots=True)
class Draw:
    """One chosen prompt.

    Attributes
    ----------
    row : int
        Position among the prompts to choose from.
    sampling : str
        ``random`` when it was drawn uniformly, so that means over such rows estimate means over all prompts;
        ``informative`` when it was picked.
    """

    row: int
    sampling: str


def choose_prompts(
    prompt_vectors: NDArray[np.float32] | None,
    total: int,
    *,
    count: int,
    order: Order,
    seed: int,
    information: FloatArray | None = None,
    random_share: float = DEFAULT_RANDOM_SHARE,
) -> list[Draw]:
    """Choose prompts and put them into the order in which they are asked.

    Parameters
    ----------
    prompt_vectors : ndarray of float32, shape (n, d), or None
        Unit length; needed unless `order` is ``random``.
    total : int
        n, the number of prompts to choose from; >= 1.
    count : int
        How many to choose; more than `total` takes all.
    order : {"informative", "random"}
    seed : int
    information : ndarray, shape (n,), optional
        What asking each prompt is worth (`decision_value`); needed unless `order` is ``random``.
    random_share : float, in [0, 1]
        Share of uniform draws, spread evenly over the order.

    Returns
    -------
    list of Draw
        ``min(count, total)`` different rows; equal for equal arguments.

    Notes
    -----
    K-means makes `CLUSTERS` clusters of the vectors of all prompts that are not drawn at random. They take turns by the
    divisor method of Sainte-Laguë, the next pick going to the largest ``size / (2 · picked + 1)``, so that every prefix
    holds the kinds of prompts in about the shares in which they occur. Within its cluster each pick is the prompt with
    most `information`. The uniform draws are fixed before any pick, so they are a simple random sample of all prompts,
    and each prefix holds its share of them. O(n · `CLUSTERS` · d) per k-means pass.

    References
    ----------
    Turns: Balinski, Young, "Fair Representation", 2nd edition, 2001, chapter on divisor methods. That the best picks by
    uncertainty alone fall into one corner, and that clusters mend it: Ash et al., "Deep Batch Active Learning by
    Diverse, Uncertain Gradient Lower Bounds", ICLR 2020, section 1; ours measures neither gradients nor distances
    between picks.
    """
    count = min(count, total)
    rng = np.random.default_rng(seed)
    shuffled = rng.permutation(total)
    if order == "random":
        return [Draw(int(row), "random") for row in shuffled[:count]]
    if prompt_vectors is None or information is None:
        raise TrainingError(f"the order {order!r} needs vectors and estimates", code="no_vectors")
    is_random = np.diff(np.floor(np.arange(count + 1) * random_share + 1e-9)) > 0
    drawn = shuffled[: int(is_random.sum())]
    pool = np.sort(shuffled[drawn.size :])
    picks = iter(_pick(prompt_vectors[pool], information[pool], count - drawn.size, int(rng.integers(2**31))))
    draws = iter(drawn.tolist())
    return [Draw(next(draws), "random") if uniform else Draw(int(pool[next(picks)]), order) for uniform in is_random]


def decision_value(gain: FloatArray, gain_se: FloatArray, novelty: FloatArray, novelty_max: float) -> FloatArray:
    """Value of knowing the truth about each prompt's decision.

    Parameters
    ----------
    gain, gain_se : ndarray, shape (n, m)
        Of every arm over the reference arm, in [-1, 1], and its standard error; the reference arm's own are 0.
    novelty : ndarray, shape (n,)
    novelty_max : float
        The artifact's bound; > 0.

    Returns
    -------
    ndarray, shape (n,)
        >= 0, in units of quality.

    Notes
    -----
    With a gain distributed as N(g, s²), deciding by the sign of g loses ``s φ(g/s) − |g| Φ(−|g|/s)`` on average against
    knowing it: much where the estimate is uncertain and the decision close. The largest over the arms is taken, times
    one plus novelty relative to its bound, since standard errors know nothing of prompts unlike any that were fitted.

    References
    ----------
    Expected value of perfect information: Raiffa, Schlaifer, "Applied Statistical Decision Theory", 1961, section 5.3
    (the unit-normal linear-loss integral). The factor for novelty is ours.
    """
    spread = np.maximum(gain_se, _MIN_SE)
    ratio = np.abs(gain) / spread
    density = np.exp(-0.5 * ratio**2) / math.sqrt(2.0 * math.pi)
    tail = 0.5 * np.array([[math.erfc(value / math.sqrt(2.0)) for value in row] for row in ratio])
    loss = np.maximum(spread * density - np.abs(gain) * tail, 0.0).max(axis=1)
    return np.asarray(loss * (1.0 + novelty / novelty_max))


def _pick(vectors: NDArray[np.float32], information: FloatArray, count: int, seed: int) -> list[int]:
    """`count` rows of a pool in the order of picking."""
    from sklearn.cluster import KMeans

    if count == 0:
        return []
    clusters = min(CLUSTERS, int(np.unique(vectors, axis=0).shape[0]))
    labels = KMeans(clusters, n_init=4, random_state=seed).fit(vectors).labels_
    ranked = np.lexsort((-information, labels))
    bounds = np.searchsorted(labels[ranked], np.arange(clusters + 1))
    size = np.diff(bounds)
    taken = np.zeros(clusters, dtype=np.int64)
    picked: list[int] = []
    while len(picked) < count:
        turn = np.where(taken < size, size / (2.0 * taken + 1.0), -1.0)
        cluster = int(turn.argmax())
        picked.append(int(ranked[bounds[cluster] + taken[cluster]]))
        taken[cluster] += 1
    return picked
