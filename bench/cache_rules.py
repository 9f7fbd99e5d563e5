"""Decision rules that the cache's own is compared with: thresholds on a cosine, vCache's rule, the oracle.

Owns their scores and, for rules that learn while they run, their own replay. Read `cosine_world`, then `replay_vcache`.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from penstock_training.cache_rule.pair_table import PairTable
from penstock_training.cache_rule.streams import Neighbourhood, Replay

FloatArray = NDArray[np.float64]
IntArray = NDArray[np.int64]

VCACHE_LEAST_OBSERVATIONS = 6
_STEEPNESS = np.array([5.0, 10.0, 20.0, 40.0, 80.0])
_MIDPOINTS = np.linspace(0.5, 1.0, 51)
_LEVELS = np.array([0.01, 0.05, 0.1, 0.2, 0.3, 0.5])


def cosine_world(table: PairTable, *, second: bool = False) -> Neighbourhood:
    """Score pairs by a cosine alone: the search encoder's, or the second one's."""
    return Neighbourhood(table.neighbours, table.verified if second else table.cosines, table.texts.groups)


def oracle_world(table: PairTable) -> Neighbourhood:
    """Score a pair 1 when it has the same answer: what any rule over these neighbours could reach at most."""
    return Neighbourhood(table.neighbours, np.where(table.is_same, 1.0, -np.inf), table.texts.groups)


def same_words_world(table: PairTable) -> Neighbourhood:
    """Score a pair 1 when its texts hold the same words in the same order, two or more, courtesies and articles aside.

    Their answers are the same whoever reads them, or nearly always, so what a set's labels say of them tells how often
    the labels are wrong: no rule can be certified for a budget that these mistakes alone use up.
    """
    words = [
        tuple(word for word in _WORD.findall(text.lower()) if word not in _COURTESIES) for text in table.texts.texts
    ]
    numbers = {found: number for number, found in enumerate(sorted(set(words)))}
    codes = np.array([numbers[found] for found in words])
    counts = np.array([len(found) for found in words])
    is_same = (codes[table.neighbours] == codes[:, None]) & (counts >= _LEAST_WORDS)[:, None] & table.is_near
    return Neighbourhood(table.neighbours, np.where(is_same, 1.0, -np.inf), table.texts.groups)


_WORD = re.compile(r"[^\W_]+(?:['.,][^\W_]+)*|[^\w\s?.!,;:]")
_COURTESIES = frozenset(
    ["a", "an", "the", "please", "kindly", "can", "could", "will", "would", "you", "to", "hey", "hi", "ok", "okay"]
)
_LEAST_WORDS = 2


@dataclass(slots=True)
class _Observed:
    """What is known of the neighbours of one entry: similarities, and whether its answer fitted."""

    similarities: list[float] = field(default_factory=lambda: [0.0, 1.0])
    fits: list[bool] = field(default_factory=lambda: [False, True])


def replay_vcache(table: PairTable, order: IntArray, error_rate: float, *, seed: int) -> Replay:
    """Replay vCache's rule (arXiv 2502.03771), written from the paper.

    Parameters
    ----------
    table : PairTable
    order : ndarray of int64, shape (n,)
    error_rate : float
        δ, its bound on wrong answers per request.
    seed : int
        Of its exploration.

    Returns
    -------
    Replay
        With one row.

    Notes
    -----
    Each entry keeps (similarity, fits) pairs of the prompts that were nearest to it, two made-up ones included. With
    six or more a logistic curve L(s) of midpoint t and steepness γ is fitted; the model is asked with probability
    τ = min over ε of max(0, 1 − δ / (1 − (1 − ε) L(s; t′(ε), γ))), where t′(ε) is the midpoint's upper 1 − ε confidence
    bound, here by the likelihood on a grid. An asked model tells whether the entry's answer fits; if it does not, the
    new answer is stored.
    """
    draws = np.random.default_rng(seed)
    groups = table.texts.groups
    cached = np.zeros(len(groups), dtype=np.bool_)
    known = np.zeros(int(groups.max()) + 1, dtype=np.bool_)
    observed: dict[int, _Observed] = {}
    hit, true, possible = (np.zeros((1, len(order)), dtype=np.bool_) for _ in range(3))
    for moment, row in enumerate(order.tolist()):
        possible[0, moment] = known[groups[row]]
        if cached[row]:
            hit[0, moment] = true[0, moment] = True
            continue
        near = np.flatnonzero(cached[table.neighbours[row]])
        if near.size:
            entry = int(table.neighbours[row, near[0]])
            similarity = float(table.cosines[row, near[0]])
            seen = observed.setdefault(entry, _Observed())
            fits = bool(groups[entry] == groups[row])
            if draws.random() >= _exploration(seen, similarity, error_rate):
                hit[0, moment], true[0, moment] = True, fits
                continue
            seen.similarities.append(similarity)
            seen.fits.append(fits)
            if fits:
                continue
        cached[row] = True
        known[groups[row]] = True
    return Replay(hit, true, possible)


def _exploration(seen: _Observed, similarity: float, error_rate: float) -> float:
    """Return the probability of asking the model."""
    if len(seen.fits) < VCACHE_LEAST_OBSERVATIONS:
        return 1.0
    similarities, fits = np.array(seen.similarities), np.array(seen.fits)
    curves = 1.0 / (1.0 + np.exp(-_STEEPNESS[:, None, None] * (similarities - _MIDPOINTS[:, None])))
    likelihood = np.where(fits, np.log(curves + 1e-12), np.log(1.0 - curves + 1e-12)).sum(axis=2)
    best = np.unravel_index(likelihood.argmax(), likelihood.shape)
    steepness = _STEEPNESS[best[0]]
    weights = np.exp(likelihood[best[0]] - likelihood.max())
    below = np.cumsum(weights) / weights.sum()
    midpoints = _MIDPOINTS[np.searchsorted(below, 1.0 - _LEVELS).clip(max=len(_MIDPOINTS) - 1)]
    fitting = (1.0 - _LEVELS) / (1.0 + np.exp(-steepness * (similarity - midpoints)))
    return float(np.maximum(0.0, 1.0 - error_rate / np.maximum(1e-9, 1.0 - fitting)).min())
