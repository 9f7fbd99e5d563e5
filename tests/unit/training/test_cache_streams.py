"""A cache replayed over a stream: against a slow cache written out, and rules that hold on any world."""

from __future__ import annotations

import numpy as np
import pytest
from numpy.typing import NDArray

from penstock_training.cache_rule.streams import Neighbourhood, Replay, nearest, replay

IntArray = NDArray[np.int64]
THRESHOLDS = np.array([0.9, 0.7, 0.5, 0.2])


def world_of(seed: int, rows: int = 40, groups: int = 12, neighbours: int = 15) -> Neighbourhood:
    """Return a random world; some pairs are never served, and some scores are equal."""
    random = np.random.default_rng(seed)
    vectors = random.normal(size=(rows, 6)).astype(np.float32)
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    near, _ = nearest(vectors, neighbours)
    scores = np.round(random.random(near.shape), 1)
    scores[random.random(near.shape) < 0.3] = -np.inf
    return Neighbourhood(near, scores, random.integers(0, groups, rows))


def slow_replay(
    world: Neighbourhood, order: list[int], threshold: float, candidates: int
) -> list[tuple[bool, bool, bool]]:
    """Return for each request whether it is a hit, whether the answer is right, and whether one was possible."""
    cache: list[int] = []
    told = []
    for row in order:
        possible = any(world.groups[entry] == world.groups[row] for entry in cache)
        if row in cache:
            told.append((True, True, possible))
            continue
        judged = [column for column, entry in enumerate(world.neighbours[row]) if entry in cache][:candidates]
        best = max(judged, key=lambda column: (world.scores[row, column], -column), default=None)
        if best is not None and world.scores[row, best] >= threshold:
            entry = world.neighbours[row, best]
            told.append((True, bool(world.groups[entry] == world.groups[row]), possible))
        else:
            told.append((False, False, possible))
            cache.append(row)
    return told


def told_by(found: Replay, rung: int) -> list[tuple[bool, bool, bool]]:
    """Return one threshold's replay in the same form."""
    return list(
        zip(found.is_hit[rung].tolist(), found.is_true[rung].tolist(), found.was_possible[rung].tolist(), strict=True)
    )


@pytest.mark.parametrize("seed", range(25))
def test_replay_on_random_worlds_equals_a_cache_written_out(seed: int) -> None:
    """Hits, right hits and possible hits are those of a plain list of entries, at every threshold and in any order."""
    world = world_of(seed)
    random = np.random.default_rng(1_000 + seed)
    candidates = int(random.integers(1, 9))
    orders = (
        random.permutation(len(world.groups)),
        random.zipf(1.4, 120) % len(world.groups),
        random.permutation(len(world.groups))[:7],
    )
    for order in orders:
        found = replay(world, order, THRESHOLDS, candidates=candidates)
        for rung, threshold in enumerate(THRESHOLDS.tolist()):
            assert told_by(found, rung) == slow_replay(world, order.tolist(), threshold, candidates)


def test_replay_of_an_exact_repeat_hits_its_own_entry_at_any_threshold() -> None:
    """A text that comes again is answered by itself, and rightly, even where the rule would serve nothing."""
    world = Neighbourhood(np.array([[1], [0]]), np.full((2, 1), -np.inf), np.array([0, 1]))
    found = replay(world, np.array([0, 0, 1, 0, 1]), np.array([0.999, 0.5]))
    for rung in range(2):
        assert found.is_hit[rung].tolist() == [False, True, False, True, True]
        assert found.is_true[rung].tolist() == [False, True, False, True, True]
    assert not found.is_false.any()


def test_replay_serves_nothing_from_the_future() -> None:
    """What comes later in the stream has no influence on what came before."""
    world = world_of(3)
    order = np.random.default_rng(3).permutation(len(world.groups))
    whole = replay(world, order, THRESHOLDS)
    for length in (1, 5, 17, 39):
        part = replay(world, order[:length], THRESHOLDS)
        for name in ("is_hit", "is_true", "was_possible"):
            np.testing.assert_array_equal(getattr(part, name), getattr(whole, name)[:, :length])
    assert not whole.is_hit[:, 0].any()
    assert not whole.was_possible[:, 0].any()


def test_replay_hit_inserts_nothing() -> None:
    """A served request leaves no entry of its own, so a chain of near texts does not drift away from its answer."""
    # 0 – 1 – 2 in a chain: 1 is near 0 and 2 is near 1 only.
    neighbours = np.array([[1, 2], [0, 2], [1, 0]])
    scores = np.array([[0.9, 0.0], [0.9, 0.9], [0.9, 0.0]])
    found = replay(Neighbourhood(neighbours, scores, np.array([0, 0, 1])), np.array([0, 1, 2]), np.array([0.5]))
    assert found.is_hit[0].tolist() == [False, True, False]


def test_replay_judges_only_the_nearest_that_are_cached() -> None:
    """A candidate beyond the number is not served however high it scores; what is not cached takes no place."""
    neighbours = np.array([[1, 2, 3], [0, 2, 3], [0, 1, 3], [0, 1, 2]])
    scores = np.full((4, 3), 0.1)
    scores[0, 2] = 0.9
    world = Neighbourhood(neighbours, scores, np.array([0, 1, 1, 0]))
    all_cached, two_cached = np.array([1, 2, 3, 0]), np.array([2, 3, 0])
    assert not replay(world, all_cached, np.array([0.5]), candidates=2).is_hit[0, -1]
    assert replay(world, all_cached, np.array([0.5]), candidates=3).is_true[0, -1]
    assert replay(world, two_cached, np.array([0.5]), candidates=2).is_true[0, -1]


def test_replay_counts_false_hits_as_hits_of_another_group() -> None:
    """A hit is either true or false, and a possible one needs the request's own group in the cache."""
    found = replay(world_of(8), np.random.default_rng(8).permutation(40), THRESHOLDS)
    assert (found.is_true | found.is_false).tolist() == found.is_hit.tolist()
    assert not (found.is_true & found.is_false).any()
    assert found.is_false.any()
    assert (found.is_true <= found.was_possible).all()


def test_nearest_lists_the_other_texts_by_falling_cosine() -> None:
    """Blocks of rows do not change anything, no text is its own neighbour, and few texts have few neighbours."""
    random = np.random.default_rng(1)
    vectors = random.normal(size=(50, 8)).astype(np.float32)
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    near, cosines = nearest(vectors, 7, rows_per_block=16)
    full = (vectors @ vectors.T).astype(np.float64)
    np.fill_diagonal(full, -np.inf)
    for row in range(50):
        assert row not in near[row]
        # float32 products of 8 terms, summed in another order by each block.
        np.testing.assert_allclose(cosines[row], np.sort(full[row])[::-1][:7], atol=1e-6)
        np.testing.assert_allclose(full[row, near[row]], cosines[row], atol=1e-6)
    assert nearest(vectors[:3], 7)[0].shape == (3, 2)
