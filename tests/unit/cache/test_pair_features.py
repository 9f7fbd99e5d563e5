"""Features of a pair of prompts: symmetric, finite, in the stated order, and identified by a digest."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from penstock_cache import pair_features as module
from penstock_cache.guards import GUARD_NAMES, compare, signature_of
from penstock_cache.guards.tokens import listed
from penstock_cache.pair_features import FEATURE_NAMES, feature_set_id, grams_of, pair_features, pair_values

words = st.sampled_from(
    listed(
        "how do i not turn on off dark mode the Paris london 5 km miles twenty to from in french buy sell 12 March ?"
    )
)
prompts = st.lists(words, max_size=12).map(" ".join)


def _features(one: str, other: str, **values: float) -> dict[str, float]:
    a, b = signature_of(one), signature_of(other)
    array = pair_features(a, b, compare(a, b), **{"cosine": 0.9} | values)
    assert array.shape == (len(FEATURE_NAMES),)
    assert array.dtype == np.float32
    return dict(zip(FEATURE_NAMES, array.tolist(), strict=True))


@given(prompts, prompts)
def test_pair_features_of_exchanged_prompts_are_equal(one: str, other: str) -> None:
    """The features of (a, b) are exactly those of (b, a), whichever report is handed in."""
    a, b = signature_of(one), signature_of(other)
    forth = pair_features(a, b, compare(a, b), cosine=0.8, verify_cosine=0.7)
    back = pair_features(b, a, compare(b, a), cosine=0.8, verify_cosine=0.7)
    mixed = pair_features(a, b, compare(b, a), cosine=0.8, verify_cosine=0.7)
    np.testing.assert_array_equal(forth, back)
    np.testing.assert_array_equal(forth, mixed)


@given(prompts, prompts)
def test_pair_values_with_grams_at_hand_are_the_features(one: str, other: str) -> None:
    """Serving reads one prompt's grams once for all of its neighbours, and gets what training got."""
    a, b = signature_of(one), signature_of(other)
    values = pair_values(a, b, compare(a, b), cosine=0.8, grams=grams_of(a))
    np.testing.assert_array_equal(np.array(values, np.float32), pair_features(a, b, compare(a, b), cosine=0.8))


@given(st.text(max_size=60), st.text(max_size=60))
def test_pair_features_of_any_text_are_finite_and_shares_stay_in_range(one: str, other: str) -> None:
    """Whatever the texts hold, every feature is finite, and shares lie between 0 and 1."""
    features = _features(one, other)
    assert all(math.isfinite(value) for value in features.values())
    shares = [name for name in FEATURE_NAMES if name.endswith(("jaccard", "dice", "overlap", "ratio", "stem_order"))]
    assert len(shares) == 7
    assert all(0.0 <= features[name] <= 1.0 for name in shares)


def test_pair_features_of_equal_prompts_are_at_their_best() -> None:
    """A text and itself share everything, leave nothing over and have no veto."""
    features = _features("How do I turn off dark mode?", "How do I turn off dark mode?", verify_cosine=0.95)
    for name in (
        "word_jaccard",
        "content_word_jaccard",
        "stem_jaccard",
        "trigram_dice",
        "bigram_overlap",
        "stem_order",
    ):
        assert features[name] == 1.0
    assert features["residual_sum_larger"] == features["residual_max_larger"] == features["veto_count"] == 0.0
    assert features["length_ratio"] == features["has_same_question_type"] == 1.0
    assert features["content_count_larger"] == features["content_count_smaller"] == 3.0
    assert features["guard_antonyms"] == 1.0


def test_pair_features_without_a_second_encoder_say_so() -> None:
    """NaN for the second cosine gives zero and a lowered flag."""
    with_it = _features("a b", "a c", verify_cosine=0.75)
    without = _features("a b", "a c")
    assert (with_it["verify_cosine"], with_it["has_verify_cosine"]) == (0.75, 1.0)
    assert (without["verify_cosine"], without["has_verify_cosine"]) == (0.0, 0.0)


def test_pair_features_of_a_near_miss_carry_the_verdicts() -> None:
    """Each guard's verdict is a feature: -1 differs, 0 absent, 1 agrees; vetoes are counted."""
    features = _features("run 5 km in paris", "run 5 miles in london")
    assert features["guard_units"] == -1.0
    assert features["guard_entities"] == -1.0
    assert features["guard_negation"] == 0.0
    assert features["veto_count"] == 1.0
    assert [name for name in FEATURE_NAMES if name.startswith("guard_")] == [f"guard_{name}" for name in GUARD_NAMES]


def test_pair_features_of_reordered_words_show_in_the_order_only() -> None:
    """The same words in another order keep every set feature and lower those of order."""
    features = _features("alpha beta gamma delta", "delta gamma beta alpha")
    assert features["stem_jaccard"] == 1.0
    assert features["stem_order"] == 0.25
    assert features["bigram_overlap"] == 0.0


def test_feature_set_id_of_another_list_or_version_differs(monkeypatch: pytest.MonkeyPatch) -> None:
    """A model fitted on other features, another order or another version is told apart by the digest."""
    known = feature_set_id()
    assert len(known) == 16
    assert int(known, 16) >= 0
    seen = {known}
    for names, version in (
        (FEATURE_NAMES[::-1], 1),
        (FEATURE_NAMES[:-1], 1),
        (FEATURE_NAMES, module.FEATURE_VERSION + 1),
    ):
        feature_set_id.cache_clear()
        monkeypatch.setattr(module, "FEATURE_NAMES", names)
        monkeypatch.setattr(module, "FEATURE_VERSION", version)
        seen.add(feature_set_id())
    feature_set_id.cache_clear()
    assert len(seen) == 4
    assert len(set(FEATURE_NAMES)) == len(FEATURE_NAMES)
