"""A semantic cache replayed over a stream of prompts whose groups are known: what it serves, and how wrongly.

Owns the replay. It fits nothing and chooses nothing. Read `replay`.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

FloatArray = NDArray[np.float64]
IntArray = NDArray[np.int64]
BoolArray = NDArray[np.bool_]

CANDIDATES = 8
"""Cached neighbours that a look-up judges; the k = 4–8 of the design notes, section 5.3."""


@dataclass(frozen=True, slots=True)
class Neighbourhood:
    """The nearest texts of every text in a set, and a score of each pair.

    Attributes
    ----------
    neighbours : ndarray of int64, shape (n, k)
        Row numbers, nearest first by the search encoder's cosine.
    scores : ndarray of float64, shape (n, k)
        What a rule says of the pair; a hit needs at least the threshold. Minus infinity: never.
    groups : ndarray of int64, shape (n,)
        Texts of one group have the same answer.
    """

    neighbours: IntArray
    scores: FloatArray
    groups: IntArray


@dataclass(frozen=True, slots=True)
class Replay:
    """What happened to every request at every threshold.

    Attributes
    ----------
    is_hit, is_true : ndarray of bool, shape (t, n)
        By threshold and request, in the order of the stream.
    was_possible : ndarray of bool, shape (t, n)
        An answer of the request's own group was in the cache.
    """

    is_hit: BoolArray
    is_true: BoolArray
    was_possible: BoolArray

    @property
    def is_false(self) -> BoolArray:
        """Hits whose answer belongs to another group, (t, n)."""
        return self.is_hit & ~self.is_true


def nearest(vectors: NDArray[np.float32], count: int, *, rows_per_block: int = 1024) -> tuple[IntArray, FloatArray]:
    """Find every text's nearest other texts by cosine.

    Parameters
    ----------
    vectors : ndarray of float32, shape (n, d)
        Of unit length.
    count : int
        Neighbours of each, k; fewer when there are not so many texts.
    rows_per_block : int
        Rows compared at once; bounds the memory at ``4 · n · rows_per_block`` bytes.

    Returns
    -------
    neighbours : ndarray of int64, shape (n, k)
    cosines : ndarray of float64, shape (n, k)
        Falling.
    """
    rows = len(vectors)
    count = min(count, rows - 1)
    neighbours = np.empty((rows, count), dtype=np.int64)
    cosines = np.empty((rows, count))
    for start in range(0, rows, rows_per_block):
        block = vectors[start : start + rows_per_block] @ vectors.T
        block[np.arange(len(block)), np.arange(start, start + len(block))] = -np.inf
        found = np.argpartition(-block, count - 1, axis=1)[:, :count]
        values = np.take_along_axis(block, found, axis=1)
        order = np.argsort(-values, axis=1, kind="stable")
        neighbours[start : start + len(block)] = np.take_along_axis(found, order, axis=1)
        cosines[start : start + len(block)] = np.take_along_axis(values, order, axis=1)
    return neighbours, cosines


def replay(world: Neighbourhood, order: IntArray, thresholds: FloatArray, *, candidates: int = CANDIDATES) -> Replay:
    """Send a stream of texts through a cache that starts empty and stores every miss.

    Parameters
    ----------
    world : Neighbourhood
    order : ndarray of int64, shape (n,)
        Row numbers in the order of arrival. A row that comes again (a Zipf order) is a request with the same text: it
        hits its own entry at every threshold.
    thresholds : ndarray of float64, shape (t,)
        Each is a cache of its own.
    candidates : int
        Nearest cached texts that are judged; the best score of them decides.

    Returns
    -------
    Replay

    Notes
    -----
    Protocol of the design notes, section 4.1: one pass, misses insert, a hit is true when the entry's group is the
    request's. A hit inserts nothing. O(n · t · k).
    """
    rungs, requests = len(thresholds), len(order)
    cached = np.zeros((rungs, len(world.groups)), dtype=np.bool_)
    known = np.zeros((rungs, int(world.groups.max()) + 1), dtype=np.bool_)
    hit, true, possible = (np.zeros((rungs, requests), dtype=np.bool_) for _ in range(3))
    rung = np.arange(rungs)
    for moment, row in enumerate(order.tolist()):
        group = world.groups[row]
        possible[:, moment] = known[:, group]
        own = cached[:, row]
        near = world.neighbours[row]
        present = cached[:, near]
        judged = present & (np.cumsum(present, axis=1) <= candidates)
        scores = np.where(judged, world.scores[row], -np.inf)
        best = scores.argmax(axis=1)
        is_hit = own | (scores[rung, best] >= thresholds)
        hit[:, moment] = is_hit
        true[:, moment] = own | (is_hit & (world.groups[near[best]] == group))
        cached[:, row] |= ~is_hit
        known[:, group] |= ~is_hit
    return Replay(hit, true, possible)
