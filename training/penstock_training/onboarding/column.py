"""One new arm as a function of what an artifact says about the arms that it knows.

Owns the model, its fit and its arithmetic in NumPy (`penstock_training.onboarding.graph` writes the same as ONNX). Must
not read files, prompts or graphs. Read `fit_column`, then `OnboardedColumn.predict`.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

import numpy as np
from numpy.typing import NDArray

from penstock_training.calibration import QUALITY_BOUND
from penstock_training.estimator import ArmEstimates

FloatArray = NDArray[np.float64]

# Prior variances; docs/onboarding.md says on what they were chosen and how little they matter.
LEVEL_VARIANCE: Final = 0.1  # mean qualities of arms in one pool spread by 0.1 to 0.2; little is lost by believing less
SLOPE_VARIANCE: Final = 0.05
CONTRAST_VARIANCE: Final = 3.0  # 1 makes the arm a draw from the known arms; hidden arms lie further out than that
PAIRED_VARIANCE: Final = 0.3
PAIRED_MEAN: Final = 0.9  # of the known arms' mean surprise on a prompt that a new arm shares
_NOISE_ROWS: Final = 5.0  # prompts' worth of belief in the noise of a yes-or-no score
_MIN_NOISE: Final = 1e-3
_NOISE_STEPS: Final = 3
_MOST_TIMES: Final = 1e4
_BISECTIONS: Final = 30
_LENGTH_ROWS: Final = 5.0  # answers' worth of belief that the arm writes as much as the known ones


@dataclass(frozen=True, slots=True)
class ScoredPrompts:
    """What is known of n scored prompts.

    Attributes
    ----------
    quality : ndarray of float64, shape (n, m), in [0, 1]
        The artifact's estimates for the m known arms.
    score : ndarray of float64, shape (n,), in [0, 1]
        What the new arm scored.
    known_score : ndarray of float64, shape (n, m)
        What the known arms scored on the same prompts; NaN where unknown.
    """

    quality: FloatArray
    score: FloatArray
    known_score: FloatArray

    @property
    def residual(self) -> FloatArray:
        """By how much the known arms surprised, (n, m); NaN where unknown."""
        return self.known_score - self.quality

    @property
    def paired(self) -> int:
        """Prompts that at least one known arm was scored on."""
        return int(np.isfinite(self.known_score).any(axis=1).sum())

    @property
    def mean_surprise(self) -> float:
        """Mean over prompts of the known arms' mean residual; 0 without any."""
        return float(_surprises(self.residual)[:, 0].sum()) / max(self.paired, 1)


@dataclass(frozen=True, slots=True)
class OnboardedColumn:
    """``clip(quality @ weight + bias)`` with its uncertainty.

    Attributes
    ----------
    weight : ndarray of float64, shape (m,)
    bias : float
    spread : ndarray of float64, shape (m, k)
    spread_bias : ndarray of float64, shape (k,)
        ``‖quality @ spread + spread_bias‖²`` is the posterior variance of the affine function on a prompt.
    remainder : float
        Variance of what no mixture of known arms explains, from how well the known arms explain each other.
    nearest : int
        The known arm with the most similar quality; it stands in where gains are measured against the new arm.
    length_ratio : float
        The new arm's completion tokens over the mean of the known arms' estimates.
    noise : float
        Variance of one score around the fit, paired evidence used.
    precision : ndarray of float64, shape (k', k')
        What the scored prompts say of all coefficients, surprises included: ``XᵀX`` over ``noise``.
    prior_precision : ndarray of float64, shape (k', k')
    basis : ndarray of float64, shape (n, k)
        The scored prompts in the coefficients' coordinates.
    """

    weight: FloatArray
    bias: float
    spread: FloatArray
    spread_bias: FloatArray
    remainder: float
    nearest: int
    length_ratio: float
    noise: float
    precision: FloatArray
    prior_precision: FloatArray
    basis: FloatArray

    def quality(self, known: FloatArray) -> FloatArray:
        """Quality of the new arm, (n,), from that of the known arms, (n, m)."""
        return np.asarray(np.clip(known @ self.weight + self.bias, QUALITY_BOUND, 1.0 - QUALITY_BOUND))

    def own_variance(self, known: FloatArray) -> FloatArray:
        """Variance that the known arms' own errors do not account for, (n,)."""
        reach = known @ self.spread + self.spread_bias
        return np.asarray(np.square(reach).sum(axis=1) + self.remainder)

    def predict(self, known: ArmEstimates, against_nearest: ArmEstimates, reference: int) -> ArmEstimates:
        """Append the new arm to estimates.

        Parameters
        ----------
        known : ArmEstimates
            Of m arms, measured against `reference` where that is one of them.
        against_nearest : ArmEstimates
            The same prompts measured against the arm `nearest`; used where `reference` is m, the new arm.
        reference : int
            In 0 … m.

        Returns
        -------
        ArmEstimates
            Of m + 1 arms; the first m as they were.

        Notes
        -----
        Let q be the known qualities with standard errors s, and q̂ = q·w + b. Errors of known arms may be anything
        between independent and equal, so ``se² = (s · |w|)² + v``, where v is `own_variance`: the first part is the
        largest that it can be. For gains over a known arm r, ``q̂ − q_r = Σ w_a (q_a − q_r) + (Σ w − 1) q_r + b``, hence
        ``se² = (Σ |w_a| · gain_se_ar + |Σ w − 1| · s_r)² + v``. Against the new arm itself, standard errors go through
        the nearest known arm p by the triangle inequality:
        ``se² = (gain_se_ap + Σ |w_b| · gain_se_bp + |Σ w − 1| · s_p)² + v``.
        """
        arms = self.weight.size
        source = against_nearest if reference == arms else known
        anchor = self.nearest if reference == arms else reference
        fresh, share = self.quality(known.quality), np.abs(self.weight)
        variance = self.own_variance(known.quality)
        quality = np.column_stack([known.quality, fresh])
        fresh_se = np.sqrt(np.square(known.quality_se @ share) + variance)
        excess = abs(float(self.weight.sum()) - 1.0)
        inherited = source.gain_se @ share + excess * source.quality_se[:, anchor]
        if reference == arms:
            to_new = np.sqrt(np.square(source.gain_se + inherited[:, None]) + variance[:, None])
            gain_se = np.column_stack([to_new, np.zeros(fresh.size)])
        else:
            gain_se = np.column_stack([source.gain_se, np.sqrt(np.square(inherited) + variance)])
        tokens = known.output_tokens.mean(axis=1) * self.length_ratio
        return ArmEstimates(
            quality=quality,
            quality_se=np.column_stack([known.quality_se, fresh_se]),
            gain=quality - quality[:, [reference]],
            gain_se=gain_se,
            output_tokens=np.column_stack([known.output_tokens, tokens]),
            novelty=known.novelty,
            category=known.category,
        )

    def mean_quality(self, known: FloatArray) -> tuple[float, float]:
        """Mean quality of the new arm over prompts with known qualities (n, m), and its standard error.

        Notes
        -----
        Only the coefficients' covariance counts: the remainder differs from prompt to prompt, and its mean is part of
        the fitted level.
        """
        reach = known.mean(axis=0) @ self.spread + self.spread_bias
        return float(self.quality(known).mean()), float(np.sqrt(reach @ reach))

    def prompts_to_halve(self) -> int:
        """Further scored prompts, like the ones at hand, that would halve the standard error of the mean quality.

        Notes
        -----
        The posterior covariance with t times as many prompts is ``(P₀ + t · XᵀX / s²)⁻¹``; t is found by bisection.
        """
        target = 0.25 * self._mean_variance(1.0)
        low, high = 1.0, 2.0
        while self._mean_variance(high) > target and high < _MOST_TIMES:
            low, high = high, 2.0 * high
        for _ in range(_BISECTIONS):
            middle = 0.5 * (low + high)
            low, high = (middle, high) if self._mean_variance(middle) > target else (low, middle)
        return int(np.ceil((high - 1.0) * self.basis.shape[0]))

    def _mean_variance(self, times: float) -> float:
        center = self.basis.mean(axis=0)
        covariance = np.linalg.inv(self.prior_precision + times * self.precision)[: center.size, : center.size]
        return float(center @ covariance @ center)


def fit_column(scored: ScoredPrompts) -> OnboardedColumn:
    """Fit a new arm to its scored prompts.

    Parameters
    ----------
    scored : ScoredPrompts
        n >= 2 prompts, m >= 1 known arms.

    Returns
    -------
    OnboardedColumn
        With a ``length_ratio`` of 1; see `fit_length_ratio`.

    Notes
    -----
    With μ the mean of the known qualities on a prompt and μ̄ its mean over the scored ones, the score is

        μ̄ + β₀ + β₁ (μ − μ̄) + Σ_a w_a (q_a − μ − d_a) + ρ₀ r̄ + Σ_a ρ_a (r_a − r̄) + noise

    where d_a centres the contrasts and r are the known arms' surprises on the same prompts, as far as they are known.
    The priors are hierarchical in this order: the level β₀ ~ N(0, .1), the slope β₁ ~ N(1, .05), the contrasts
    w_a ~ N(0, 3 / m) and the surprises ρ₀ ~ N(.9, .3), ρ_a ~ N(0, .3 / m). With w_a ~ N(0, 1 / m) the arm would be a
    draw from a Gaussian process with the known arms' own mean and covariance. A prompt on which the known arms did
    worse than predicted was hard, which explains part of the new arm's score and leaves less to chance; surprises are
    not part of the prediction, where they are 0 on average. The noise is estimated with the fit and drawn to that of a
    yes-or-no score with the observed mean. O(n m³) for the remainder, O(n m²) for everything else.

    References
    ----------
    Predicting an unseen model from its scores on a few prompts: UniRoute (arXiv 2502.08773, section 5), which takes
    means per cluster; the regression on other arms' scores follows Polo et al., "tinyBenchmarks" (arXiv 2402.14992) in
    its use of known models. Bayesian linear regression: Bishop, "Pattern Recognition and Machine Learning", 3.3.
    Control variates (the surprises): Owen, "Monte Carlo theory, methods and examples", 8.9.
    """
    arms = scored.quality.shape[1]
    to_basis, offset, center = _coordinates(scored.quality)
    basis = scored.quality @ to_basis + offset
    design = np.hstack([basis, _surprises(scored.residual)])
    paired = np.r_[PAIRED_VARIANCE, np.full(arms, PAIRED_VARIANCE / arms)]
    variance = np.r_[LEVEL_VARIANCE, SLOPE_VARIANCE, np.full(arms, CONTRAST_VARIANCE / arms), paired]
    start = np.zeros(variance.size)
    start[1], start[2 + arms] = 1.0, PAIRED_MEAN
    target = scored.score - center
    beta, noise = _regress(design, target, start, variance, _chance(scored.score))
    prior_precision, precision = np.diag(1.0 / variance), design.T @ design / noise
    covariance = np.linalg.inv(prior_precision + precision)[: 2 + arms, : 2 + arms]
    root = np.linalg.cholesky(covariance + 1e-12 * np.eye(2 + arms))
    coefficients = beta[: 2 + arms]
    weight = to_basis @ coefficients
    bias = float(center + offset @ coefficients)
    fitted = np.clip(scored.quality @ weight + bias, 0.0, 1.0)
    apart = np.square(scored.quality - fitted[:, None]).mean(axis=0)
    return OnboardedColumn(
        weight=weight,
        bias=bias,
        spread=to_basis @ root,
        spread_bias=offset @ root,
        remainder=_remainder(scored.quality),
        nearest=int(apart.argmin()),
        length_ratio=1.0,
        noise=noise,
        precision=precision,
        prior_precision=prior_precision,
        basis=basis,
    )


def fit_length_ratio(estimated_tokens: FloatArray, output_tokens: FloatArray) -> float:
    """Compare a new arm's answer lengths with the known arms' estimates.

    Parameters
    ----------
    estimated_tokens : ndarray of float64, shape (n, m)
        The artifact's estimates for the same prompts.
    output_tokens : ndarray of float64, shape (n,)
        NaN where unknown.

    Returns
    -------
    float
        Ratio to the known arms' mean estimate, drawn to 1 by five answers; > 0.
    """
    usual = estimated_tokens.mean(axis=1)
    seen = np.isfinite(output_tokens)
    belief = _LENGTH_ROWS * max(float(usual.mean()), 1.0)
    return float((output_tokens[seen].sum() + belief) / (usual[seen].sum() + belief))


def _coordinates(quality: FloatArray) -> tuple[FloatArray, FloatArray, float]:
    """Matrix and offset from known qualities to (1, μ − μ̄, contrasts), and μ̄."""
    arms = quality.shape[1]
    mean = quality.mean(axis=0)
    center = float(mean.mean())
    average = np.full((arms, 1), 1.0 / arms)
    contrasts = np.eye(arms) - average
    to_basis = np.hstack([np.zeros((arms, 1)), average, contrasts])
    return to_basis, np.r_[1.0, -center, -(mean @ contrasts)], center


def _surprises(residual: FloatArray) -> FloatArray:
    """Mean surprise and deviations from it, (n, 1 + m); 0 where unknown."""
    seen = np.isfinite(residual)
    filled = np.where(seen, residual, 0.0)
    mean = filled.sum(axis=1, keepdims=True) / np.maximum(seen.sum(axis=1, keepdims=True), 1)
    return np.hstack([mean, np.where(seen, residual - mean, 0.0)])


def _chance(score: FloatArray) -> float:
    """Variance of a yes-or-no score with about this mean; Laplace's rule keeps it above 0."""
    mean = (float(score.sum()) + 1.0) / (score.size + 2.0)
    return mean * (1.0 - mean)


def _regress(
    design: FloatArray, target: FloatArray, start: FloatArray, variance: FloatArray, chance: float
) -> tuple[FloatArray, float]:
    """Posterior mean of the coefficients, and the noise, in turns."""
    prompts = target.size
    missed = target - design @ start
    gram, noise, beta = design.T @ design, chance, start
    for _ in range(_NOISE_STEPS):
        inverse = np.linalg.inv(gram + np.diag(noise / variance))
        beta = start + inverse @ (design.T @ missed)
        used = float((inverse * gram).sum())
        squares = float(np.square(target - design @ beta).sum())
        noise = max((squares + _NOISE_ROWS * chance) / max(prompts - used + _NOISE_ROWS, 1.0), _MIN_NOISE)
    return beta, noise


def _remainder(quality: FloatArray) -> float:
    """Mean squared error of predicting each known arm from the others, prompt by prompt left out; 0 for one arm."""
    arms = quality.shape[1]
    if arms < 2:
        return 0.0
    variance = np.r_[LEVEL_VARIANCE, SLOPE_VARIANCE, np.full(arms - 1, CONTRAST_VARIANCE / (arms - 1))]
    errors = []
    for arm in range(arms):
        others = np.delete(quality, arm, axis=1)
        to_basis, offset, center = _coordinates(others)
        design = others @ to_basis + offset
        inverse = np.linalg.inv(design.T @ design + np.diag(_MIN_NOISE / variance))
        missed = quality[:, arm] - center - design[:, 1]
        error = missed - design @ (inverse @ (design.T @ missed))
        leverage = np.einsum("nk,kl,nl->n", design, inverse, design)
        errors.append(np.square(error / np.maximum(1.0 - leverage, _MIN_NOISE)).mean())
    return float(np.mean(errors))
