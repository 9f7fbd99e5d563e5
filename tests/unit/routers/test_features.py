"""Prompt features: what they count, and that they are bounded."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from penstock_routers.features import FEATURE_NAMES, prompt_features, prompt_features_of


def _named(text: str) -> dict[str, float]:
    return dict(zip(FEATURE_NAMES, prompt_features(text).tolist(), strict=True))


@pytest.mark.parametrize(
    ("text", "name", "value"),
    [
        ("2 + 2", "digit_share", 2 / 5),
        ("AbC", "upper_share", 2 / 3),
        ("a=b", "operator_share", 1 / 3),
        ("f(x)", "bracket_share", 2 / 4),
        ("\\frac", "backslash_share", 1 / 5),
        ("é", "non_ascii_share", 1.0),
        ("why??", "question_marks", 2.0),
        ("?" * 9, "question_marks", 5.0),
        ("```x```", "has_code_fence", 1.0),
        ("a\nb\nc", "log_lines", float(np.log(3))),
        ("abc", "log_bytes", float(np.log(4))),
    ],
)
def test_prompt_features_known_text_gives_hand_counted_value(text: str, name: str, value: float) -> None:
    """Every feature is the count or share that its name says."""
    assert _named(text)[name] == pytest.approx(value, rel=1e-6)


def test_prompt_features_empty_text_is_all_zero() -> None:
    """An empty prompt has no form; nothing is divided by zero."""
    assert not prompt_features("").any()


def test_prompt_features_long_text_reads_both_ends_only() -> None:
    """Beyond the window only head and tail count, apart from the length."""
    ends = "1" * 4096, "2" * 4096
    short, long = _named(ends[0] + ends[1]), _named(ends[0] + "x" * 50_000 + ends[1])
    assert long.pop("log_bytes") > short.pop("log_bytes")
    assert long == short


@given(st.text(alphabet=st.characters(exclude_categories=[]), max_size=300))
def test_prompt_features_any_text_is_finite_and_in_range(text: str) -> None:
    """Shares lie in [0, 1] and nothing is NaN, lone surrogates included."""
    features = prompt_features(text)
    assert features.shape == (len(FEATURE_NAMES),)
    assert features.dtype == np.float32
    assert np.isfinite(features).all()
    assert (features >= 0).all()
    assert (features[2:8] <= 1 + 1e-6).all()


def test_features_of_several_prompts_are_those_of_each() -> None:
    """A batch gives to the last digit what each prompt gives alone, whatever stands beside it."""
    texts = [
        "",
        "What is 2 + 2?",
        "A1(é?\n" * 249,
        "A1(é?\n" * 251,
        "é" * 9000,
        "x" * 9000,
        "```a```\n\n",
        "?" * 7,
        "\ud800",
        "Ça va, ABC?\\",
    ]
    together = prompt_features_of(texts)
    assert np.array_equal(together, np.stack([prompt_features(text) for text in texts]))
    assert np.array_equal(prompt_features_of(texts[1:2])[0], together[1])


@given(st.text(alphabet=st.sampled_from("aA1+(\\é?\n` 漢"), max_size=1_600))
def test_features_of_short_prompts_are_those_of_the_batch(text: str) -> None:
    """Counting byte by byte and NumPy's histogram agree to the last digit."""
    assert np.array_equal(prompt_features(text), prompt_features_of([text])[0])
