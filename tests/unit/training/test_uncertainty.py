"""Standard errors: of differences from pairs, scaled to the error that can be seen, and honest on a known truth."""

from __future__ import annotations

import numpy as np
import pytest

from penstock_training.families.registry import RouterSpec
from penstock_training.fit import FitOptions, fit_estimator, single_threaded
from penstock_training.uncertainty import MIN_COMMON, fit_uncertainty
from support.generated_training import Generated, generated


def _residuals(rows: int, correlation: float, seed: int = 0) -> np.ndarray:
    """Standard normal residuals of two arms, divided by 2."""
    random = np.random.default_rng(seed)
    shared, own = random.standard_normal((rows, 1)), random.standard_normal((rows, 2))
    return np.asarray(0.5 * (np.sqrt(correlation) * shared + np.sqrt(1.0 - correlation) * own))


def _one_cell_in(rows: int, size: int) -> np.ndarray:
    return np.arange(rows) // size


def test_fit_uncertainty_correlated_residuals_make_differences_surer_than_the_sum() -> None:
    """Arms that fail together differ little: the variance of a difference is its own."""
    residual = _residuals(4000, 0.8)
    found = fit_uncertainty(residual, np.ones((4000, 2), bool), np.full((4000, 1), 0.1), _one_cell_in(4000, 10))
    paired = found.paired[0, 1] / found.scale
    assert paired == pytest.approx(2 * 0.25 * 0.2, rel=0.1)  # 4,000 pairs: 2 % of standard error
    assert paired < 0.4 * (found.own[0] + found.own[1]) / found.scale
    assert not found.unpaired.any()


def test_fit_uncertainty_arms_without_common_prompts_add_their_variances() -> None:
    """Where nothing is shared, two single variances are all there is."""
    residual = _residuals(1000, 0.8)
    observed = np.zeros((1000, 2), bool)
    observed[::2, 0], observed[1::2, 1] = True, True
    found = fit_uncertainty(residual, observed, np.full((1000, 2), 0.05), _one_cell_in(1000, 10))
    factor = np.full((1, 2), 0.05)
    wanted = np.sqrt(np.square(found.quality_se(factor)).sum())
    assert found.gain_se(factor, 0)[0, 1] == pytest.approx(float(wanted), rel=1e-9)
    assert found.gain_se(factor, 0)[0, 0] == 0.0


def test_fit_uncertainty_fewer_common_prompts_than_the_minimum_are_not_paired() -> None:
    """A few shared prompts say nothing reliable about a difference."""
    residual = _residuals(600, 0.8)
    observed = np.zeros((600, 2), bool)
    observed[: 300 + MIN_COMMON - 1, 0], observed[300:, 1] = True, True
    found = fit_uncertainty(residual, observed, np.full((600, 2), 0.05), _one_cell_in(600, 10))
    assert found.paired[0, 1] == 0.0
    assert found.unpaired[0, 1] > 0.0


@pytest.mark.parametrize("scale", [3.0, 8.0])
def test_fit_uncertainty_finds_the_scale_of_a_known_error(scale: float) -> None:
    """Residuals with an error of ``c² s² h`` per cell give back c²."""
    random = np.random.default_rng(1)
    cells, factor = _one_cell_in(40_000, 10), 0.04
    noise = random.standard_normal((40_000, 2)) * 0.5
    error = random.standard_normal((4000, 2))[cells] * 0.5 * np.sqrt(scale * factor)
    found = fit_uncertainty(noise - error, np.ones((40_000, 2), bool), np.full((40_000, 1), factor), cells)
    # s² holds the error too, which makes c² smaller by 1 + c² h; chance is 4 % of the numerator's expectation per cell.
    assert found.scale == pytest.approx(scale / (1.0 + scale * factor), rel=0.12)


def test_fit_uncertainty_pure_noise_is_never_surer_than_a_local_mean() -> None:
    """Without visible error the scale rests near its lower bound and never falls below."""
    found = fit_uncertainty(
        _residuals(40_000, 0.5), np.ones((40_000, 2), bool), np.full((40_000, 1), 0.1), _one_cell_in(40_000, 20)
    )
    assert 1.0 <= found.scale < 1.2


def test_fit_uncertainty_arm_without_any_residual_has_a_variance_above_zero() -> None:
    """A perfect arm is not infinitely sure, and an arm without outcomes breaks nothing."""
    observed = np.ones((50, 3), bool)
    observed[:, 2] = False
    found = fit_uncertainty(np.zeros((50, 3)), observed, np.full((50, 3), 0.1), np.zeros(50, dtype=np.int64))
    assert (found.own > 0.0).all()
    assert np.isfinite(found.gain_se(np.full((1, 3), 0.2), 2)).all()
    assert found.gain_se(np.full((1, 3), 0.2), 2)[0, 0] > 0.0


def _coverage(family: str, shape: str, prompts: int, missing: float = 0.0) -> float:
    """Share of 1,000 unseen prompts whose true gain lies within 1.96 standard errors, over two arms and two draws."""
    shares = []
    for seed in (0, 1):
        sample = generated(prompts + 1000, shape=shape, seed=seed, strength=0.3, missing=missing, dimension=32)
        corpus = sample.corpus()
        router = FitOptions(RouterSpec("linear" if family == "linear" else "knn"))
        with single_threaded():
            estimator, _, _ = fit_estimator(corpus.rows(np.arange(prompts)), router, lambda *_: None)
        unseen = slice(prompts, prompts + 1000)
        found = estimator.predict(sample.vectors[unseen], sample.features[unseen], 2)
        truth = sample.truth[unseen] - sample.truth[unseen, [2]]
        within = np.abs(found.gain - truth) <= 1.96 * found.gain_se
        shares.append(float(within[:, :2].mean()))
    return float(np.mean(shares))


@pytest.mark.parametrize(
    ("family", "shape", "prompts"),
    [("linear", "linear", 300), ("linear", "linear", 1500), ("linear", "topic", 1500), ("knn", "topic", 300),
     ("knn", "topic", 1500)],
)  # fmt: skip
def test_gain_se_on_a_known_truth_covers_it(family: str, shape: str, prompts: int) -> None:
    """Nine in ten true gains lie within 1.96 standard errors, for a head that can express the truth."""
    assert _coverage(family, shape, prompts) >= 0.88


def test_gain_se_with_missing_cells_covers_the_truth() -> None:
    """Filled cells do not count as evidence."""
    assert _coverage("linear", "linear", 800, missing=0.5) >= 0.85


def test_gain_se_of_logs_with_one_arm_a_prompt_is_scaled_too() -> None:
    """Where no two arms share a prompt, the scale comes from single arms and is no default."""
    sample = generated(1500, shape="topic", seed=3, strength=1.5)
    asked = np.random.default_rng(0).integers(0, 3, 1500)
    logged = np.where(np.arange(3) == asked[:, None], sample.score, np.nan)
    corpus = Generated(sample.vectors, sample.features, sample.truth, logged).corpus()
    with single_threaded():
        estimator, _, _ = fit_estimator(corpus, FitOptions(RouterSpec("constant")), lambda *_: None)
    assert estimator.uncertainty.scale > 2.0  # a constant is wrong by far more than chance here
