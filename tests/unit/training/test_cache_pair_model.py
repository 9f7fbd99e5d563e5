"""The pair model: what it learns, that its graph computes what its trees do, and that word weights are cross-fitted."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from penstock_cache.guards.signature import signature_of
from penstock_cache.pair_features import FEATURE_NAMES
from penstock_cache.word_evidence import WORD_FEATURE_NAMES
from penstock_training.cache_rule.pair_model import (
    MIN_WORD_COUNT,
    FittingSet,
    PairModelFit,
    _listed,
    fit_pair_model,
    open_scorer,
    without_verifier,
)
from penstock_training.cache_rule.pair_table import PairTable, pair_table
from penstock_training.cache_rule.scoring import score_pairs
from penstock_training.errors import TrainingError
from penstock_training.fit import single_threaded
from support.cache_questions import made_up_vectors, question_texts

VERIFY, HAS_VERIFY = FEATURE_NAMES.index("verify_cosine"), FEATURE_NAMES.index("has_verify_cosine")
FITTED_BLOCKS = 120


@pytest.fixture(scope="module")
def table(tmp_path_factory: pytest.TempPathFactory) -> PairTable:
    """800 generated texts in 200 blocks, with vectors that need no encoder; in 60 blocks words do not help."""
    texts = question_texts(tmp_path_factory.mktemp("texts"), 200, lookalikes=60)
    return pair_table(made_up_vectors(texts), min_cosine=0.45)


@pytest.fixture(scope="module")
def fitting(table: PairTable) -> FittingSet:
    """The texts of 120 blocks."""
    return FittingSet(table, np.flatnonzero(table.texts.blocks < FITTED_BLOCKS))


@pytest.fixture(scope="module")
def fit(fitting: FittingSet) -> PairModelFit:
    """The model of those."""
    with single_threaded():
        return fit_pair_model([fitting])


def features_of(table: PairTable, fit: PairModelFit) -> np.ndarray:
    """Return the features of all near pairs as the model sees them."""
    words = table.word_features(np.arange(len(table.texts)), fit.words)[table.is_near]
    return np.hstack([table.features[table.is_near], words])


def test_pair_model_tells_unseen_pairs_apart(table: PairTable, fit: PairModelFit) -> None:
    """On blocks that were not fitted on, pairs with the same answer get a much higher probability than others."""
    rows = np.flatnonzero(table.texts.blocks >= FITTED_BLOCKS)
    scores = score_pairs(table, fit, rows).full[rows]
    is_judged, is_same = np.isfinite(scores), table.is_same[rows]
    same, other = scores[is_judged & is_same], scores[is_judged & ~is_same]
    assert min(len(same), len(other)) > 50
    # Share of pairs of pairs in the right order; 1/2 would be a model that learnt nothing.
    assert (same[:, None] > other[None, :]).mean() > 0.95
    assert same.mean() - other.mean() > 0.5


def test_pair_model_counts_what_it_was_fitted_on(fitting: FittingSet, fit: PairModelFit) -> None:
    """Near pairs without a veto, both texts inside: nothing of the other texts is looked at."""
    table, (rows, columns) = fitting.table, fitting.pairs()
    assert (fit.pairs, fit.same) == (len(rows), int(table.is_same[rows, columns].sum()))
    assert np.isin(rows, fitting.rows).all()
    assert np.isin(table.neighbours[rows, columns], fitting.rows).all()
    assert table.is_near[rows, columns].all()
    assert not table.is_vetoed[rows, columns].any()


def test_pair_model_graph_computes_what_the_trees_do(table: PairTable, fit: PairModelFit) -> None:
    """ONNX and NumPy agree on fitted pairs, with and without the second encoder, and far outside the data."""
    real = features_of(table, fit)
    random = np.random.default_rng(0).normal(scale=5.0, size=(500, real.shape[1])).astype(np.float32)
    shared = real[:, : len(FEATURE_NAMES)]
    masked = np.hstack([without_verifier(shared), real[:, len(FEATURE_NAMES) :]])
    run = open_scorer(fit)
    for rows in (real, masked, random):
        expected = 1.0 / (1.0 + np.exp(-(fit.trees.sums(rows, 1)[:, 0] + fit.baseline)))
        # 220 leaves are added in float32 there and in float64 here: 220 · 2⁻²⁴ of the largest partial sum, about 1e-5.
        np.testing.assert_allclose(run(rows), expected, atol=2e-5)
    assert run(real[:1]).shape == (1,)


def test_pair_model_is_the_same_for_the_same_seed(fitting: FittingSet, fit: PairModelFit) -> None:
    """A rule can be made again from its data."""
    with single_threaded():
        again = fit_pair_model([fitting])
    assert again.graph() == fit.graph()
    assert again.words.weights == fit.words.weights


@pytest.mark.parametrize("name", ["cosine", "verify_cosine"])
def test_pair_model_never_trusts_nearer_texts_less(table: PairTable, fit: PairModelFit, name: str) -> None:
    """All else equal, a higher cosine by either encoder does not lower the probability."""
    rows = features_of(table, fit)[:200]
    run, found = open_scorer(fit), []
    for cosine in np.linspace(0.3, 1.0, 15):
        rows[:, FEATURE_NAMES.index(name)] = cosine
        found.append(run(rows))
    steps = np.diff(np.stack(found), axis=0)
    assert (steps >= -2e-5).all()  # 220 float32 leaves are added up, as above
    assert steps.max() > 0.01


def test_without_verifier_takes_out_the_second_cosine_alone() -> None:
    """Cosine and flag are zero, as where the second encoder was not asked; the given features stay as they are."""
    features = np.random.default_rng(0).normal(size=(3, len(FEATURE_NAMES))).astype(np.float32)
    kept = features.copy()
    masked = without_verifier(features)
    np.testing.assert_array_equal(features, kept)
    assert (masked[:, [VERIFY, HAS_VERIFY]] == 0).all()
    rest = [column for column in range(len(FEATURE_NAMES)) if column not in (VERIFY, HAS_VERIFY)]
    np.testing.assert_array_equal(masked[:, rest], kept[:, rest])


def test_pair_model_is_fitted_for_pairs_without_the_second_encoder_too(table: PairTable, fit: PairModelFit) -> None:
    """Before the second encoder is asked, the model already separates pairs, though less well than after."""
    rows = np.flatnonzero(table.texts.blocks >= FITTED_BLOCKS)
    scores = score_pairs(table, fit, rows)
    is_judged, is_same = np.isfinite(scores.full[rows]), table.is_same[rows]
    gaps = []
    for found in (scores.plausible[rows], scores.full[rows]):
        gaps.append(found[is_judged & is_same].mean() - found[is_judged & ~is_same].mean())
    assert 0.2 < gaps[0] < gaps[1]


def test_word_weights_say_which_words_change_the_answer(fit: PairModelFit) -> None:
    """The actions on which the generated near-misses turn weigh much, filling words of the wordings do not."""
    weights = fit.words.weights
    actions = ("install", "remove", "rename", "archive", "export", "encrypt")
    fillers = ("how", "please", "explain", "show", "way")
    assert min(weights[word] for word in actions) > max(weights[word] for word in fillers)
    assert min(weights[word] for word in actions) > 1.0


def test_word_weights_of_a_pair_come_from_other_blocks(fitting: FittingSet) -> None:
    """What the model sees of a pair's words was counted without the pair's own fold, so that it learns no leak."""
    pairs = _listed(fitting, seed=0)
    table = fitting.table
    blocks = table.texts.blocks[pairs.rows]
    for block in np.unique(blocks):
        assert len(set(pairs.folds[blocks == block].tolist())) == 1
    # A word that stands in pairs of one fold only is unknown to the evidence of that fold's pairs.
    homes: dict[str, set[int]] = {}
    for number, fold in enumerate(pairs.folds.tolist()):
        one, other = pairs.signatures(number)
        for word in one.words ^ other.words:
            homes.setdefault(word, set()).add(fold)
    own = {word for word, folds in homes.items() if len(folds) == 1}
    everywhere = {word for word, folds in homes.items() if len(folds) > 1}
    assert everywhere
    for fold in range(len(pairs.counts)):
        others = [counts for number, counts in enumerate(pairs.counts) if number != fold]
        seen = set().union(*(set(counts.same) | set(counts.other) for counts in others))
        assert not {word for word in own if homes[word] == {fold}} & seen


def test_word_evidence_of_fitted_pairs_differs_from_that_of_all_counts(fitting: FittingSet, fit: PairModelFit) -> None:
    """Were the model shown weights counted on the pair itself, both would be equal."""
    pairs = _listed(fitting, seed=0)
    drawn = np.arange(len(pairs.rows))
    crossed = pairs.word_features(drawn)
    leaked = np.stack([fit.words.features(*pairs.signatures(number)) for number in drawn.tolist()])
    assert crossed.shape == leaked.shape == (len(drawn), len(WORD_FEATURE_NAMES))
    assert (np.abs(crossed - leaked).max(axis=1) > 0.01).mean() > 0.5


def test_word_weight_of_a_rare_word_is_that_of_unknown_ones(fit: PairModelFit) -> None:
    """A word gets a weight of its own from a number of pairs on; one never seen has the weight of the rare ones."""
    assert MIN_WORD_COUNT > 1
    one, other = signature_of("rename a zeppelin"), signature_of("rename a")
    found = dict(zip(WORD_FEATURE_NAMES, fit.words.features(one, other).tolist(), strict=True))
    assert "zeppelin" not in fit.words.weights
    assert found["word_largest"] == pytest.approx(fit.words.unknown, abs=1e-6)  # float32


@pytest.mark.parametrize("is_near", [True, False])
def test_pair_model_without_two_kinds_of_pairs_is_refused(tmp_path: Path, is_near: bool) -> None:
    """Where no near pair has another answer, or there is none at all, nothing can be learnt, and that is said."""
    texts = question_texts(tmp_path, 30)
    first_group = {int(block): texts.groups[texts.blocks == block].min() for block in np.unique(texts.blocks)}
    keeps = np.array(
        [group == first_group[int(block)] for group, block in zip(texts.groups, texts.blocks, strict=True)]
    )
    texts = texts.part(np.flatnonzero(keeps))
    # In 32 dimensions random directions of other blocks stay below 0.75, and nothing reaches 1.5.
    table = pair_table(made_up_vectors(texts), min_cosine=0.75 if is_near else 1.5)
    assert bool(table.is_near.any()) is is_near
    assert not (table.is_near & ~table.is_same).any()
    with pytest.raises(TrainingError) as caught:
        fit_pair_model([FittingSet(table, np.arange(len(texts)))])
    assert caught.value.code == "cache_texts_no_pairs"
