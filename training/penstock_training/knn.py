"""The ``knn`` family in plain NumPy: prototypes, kernel weights, shrunken means and their standard errors.

Owns the estimator that an exported graph must agree with (`penstock_training.export` writes the same arithmetic as ONNX
operators). Must not read files, split data or choose its own settings. Read `KnnEstimator.predict` first.

Notation, for one prompt with unit vector v and standardised features z: prototypes p with unit centroid c_p and feature
mean z_p; similarity s_p = v·c_p - β/2·|z - z_p|²; kernel weight w_p = exp((s_p - max s) / τ); novelty
1 - max_p (v·c_p - γ/2·|z - z_p|²), so a prompt is novel when no prototype has both its words and its form. Statistic of
a set of rows inside prototype p: count n_p, mean x̄_p, mean square. Every estimate has the form
(Σ w n x̄ + κ·prior) / (Σ w n + κ): a similarity-weighted mean over training prompts that falls back to the prior as the
neighbourhood empties.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

import numpy as np
from numpy.typing import NDArray

from penstock_routers.token_counts import ASSUMED_OUTPUT_TOKENS

FloatArray = NDArray[np.float64]
IndexArray = NDArray[np.int64]

MIN_MEMBERS: Final = 5  # prompts behind every published centroid, so that none can be traced to one prompt
QUALITY_BOUND: Final = 0.005  # estimates stay inside [bound, 1 - bound]
FEATURE_CLIP: Final = 3.0  # standard deviations


@dataclass(frozen=True, slots=True)
class KnnSettings:
    """Hyper-parameters, chosen on validation data.

    Attributes
    ----------
    prototypes : int
        Number of centroids.
    bandwidth : float
        τ of the kernel, in cosine similarity; > 0.
    feature_weight, novelty_weight : float
        β and γ: weight of the standardised features in the kernel and in novelty; 0 ignores them.
    quality_strength, gain_strength, token_strength, category_strength : float
        κ: prior strength in prompts; > 0.
    """

    prototypes: int
    bandwidth: float
    feature_weight: float
    novelty_weight: float
    quality_strength: float
    gain_strength: float
    token_strength: float
    category_strength: float


@dataclass(frozen=True, slots=True)
class Prototypes:
    """Where training prompts cluster, without their outcomes.

    Attributes
    ----------
    centroids : ndarray, shape (p, d)
        Unit length.
    feature_centroids : ndarray, shape (p, f)
        Mean standardised features of the members.
    feature_mean, feature_scale : ndarray, shape (f,)
        Of the standardisation.
    members : ndarray of int64, shape (n,)
        Prototype of every training row.
    """

    centroids: FloatArray
    feature_centroids: FloatArray
    feature_mean: FloatArray
    feature_scale: FloatArray
    members: IndexArray


@dataclass(frozen=True, slots=True)
class Moments:
    """Count, sum and sum of squares per prototype; the last axis is the prototype."""

    count: FloatArray
    total: FloatArray
    square: FloatArray


@dataclass(frozen=True, slots=True)
class PrototypeTable:
    """Outcomes summed per prototype.

    Attributes
    ----------
    score : Moments, each (m, p)
        Of the arm's scores.
    pair : Moments, each (m, m, p)
        ``[a, r]``: of the differences, arm a minus arm r, over prompts that have both (see `pair_moments`).
    token_count, token_total : ndarray, shape (m, p)
        Completion tokens over free-form prompts.
    category : ndarray, shape (c, p)
        Prompts per category.
    """

    score: Moments
    pair: Moments
    token_count: FloatArray
    token_total: FloatArray
    category: FloatArray


@dataclass(frozen=True, slots=True)
class Priors:
    """What is estimated without neighbours.

    Attributes
    ----------
    quality, quality_variance : ndarray, shape (m,)
    gain, gain_variance : ndarray, shape (m, m)
    output_tokens : ndarray, shape (m,)
    """

    quality: FloatArray
    quality_variance: FloatArray
    gain: FloatArray
    gain_variance: FloatArray
    output_tokens: FloatArray


@dataclass(frozen=True, slots=True)
class GainCalibration:
    """From kernel means to calibrated numbers, fitted on prompts that made no prototype.

    Attributes
    ----------
    anchor : int
        The reference arm, or the one with the most outcomes (`penstock_training.fit.choose_anchor`); its quality is
        calibrated, the others' are that plus a calibrated gain.
    anchor_slope, anchor_intercept : float
        On the logit of the anchor's raw quality.
    gain_slope, gain_intercept : ndarray, shape (m,)
        On the raw gain over the anchor; 1 and 0 for the anchor itself.
    """

    anchor: int
    anchor_slope: float
    anchor_intercept: float
    gain_slope: FloatArray
    gain_intercept: FloatArray


@dataclass(frozen=True, slots=True)
class KnnEstimates:
    """Estimates for n prompts; the arrays are those of the artifact's graph.

    Attributes
    ----------
    quality, quality_se, gain, gain_se, output_tokens : ndarray, shape (n, m)
    novelty : ndarray, shape (n,)
    category : ndarray, shape (n, c)
    """

    quality: FloatArray
    quality_se: FloatArray
    gain: FloatArray
    gain_se: FloatArray
    output_tokens: FloatArray
    novelty: FloatArray
    category: FloatArray


@dataclass(frozen=True, slots=True)
class RawEstimates:
    """Kernel means before calibration: anchor quality (n,) and gain over the anchor (n, m)."""

    anchor_quality: FloatArray
    anchor_gain: FloatArray


@dataclass(frozen=True, slots=True)
class KnnEstimator:
    """A fitted ``knn`` router.

    Attributes
    ----------
    settings : KnnSettings
    prototypes : Prototypes
    table : PrototypeTable
    priors : Priors
    calibration : GainCalibration
    """

    settings: KnnSettings
    prototypes: Prototypes
    table: PrototypeTable
    priors: Priors
    calibration: GainCalibration

    def weights(self, vectors: FloatArray, features: FloatArray) -> tuple[FloatArray, FloatArray]:
        """Kernel weights (n, p), the largest of each row being 1, and novelty (n,)."""
        places, settings = self.prototypes, self.settings
        scaled = standardise(features, places.feature_mean, places.feature_scale)
        cosine = vectors.astype(np.float64) @ places.centroids.T
        form = scaled @ places.feature_centroids.T - 0.5 * np.square(places.feature_centroids).sum(axis=1)
        similarity = cosine + settings.feature_weight * form
        similarity -= similarity.max(axis=1, keepdims=True)
        nearness = (cosine + settings.novelty_weight * form).max(axis=1)
        novelty = 1.0 - nearness + 0.5 * settings.novelty_weight * np.square(scaled).sum(axis=1)
        return np.exp(similarity / settings.bandwidth), novelty

    def raw(self, weights: FloatArray) -> RawEstimates:
        """Kernel means that `predict` calibrates, from the weights (n, p)."""
        anchor, settings, table = self.calibration.anchor, self.settings, self.table
        kq, kg = settings.quality_strength, settings.gain_strength
        mass = weights @ table.score.count[anchor]
        quality = (weights @ table.score.total[anchor] + kq * self.priors.quality[anchor]) / (mass + kq)
        pair_mass = weights @ table.pair.count[:, anchor].T
        gain = (weights @ table.pair.total[:, anchor].T + kg * self.priors.gain[:, anchor]) / (pair_mass + kg)
        return RawEstimates(quality, gain)

    def predict(self, vectors: FloatArray, features: FloatArray, reference: int) -> KnnEstimates:
        """Estimate every arm for n prompts.

        Parameters
        ----------
        vectors : ndarray, shape (n, d)
            Unit-length prompt vectors.
        features : ndarray, shape (n, f)
            As `penstock_routers.features.prompt_features` gives them.
        reference : int
            Index of the arm that gains are measured against.

        Returns
        -------
        KnnEstimates

        Notes
        -----
        quality[a] = σ(α + β·logit q̂[anchor]) + c_a + b_a·ĝ[a], clipped, where q̂ and ĝ are kernel means of the
        anchor's score and of the paired difference a - anchor. So arms that were scored on different prompts still
        compare: only differences on the same prompt enter. gain[a] = quality[a] - quality[reference] exactly, hence
        utilities and guard use one scale. quality_se is that of the arm's own kernel mean, before calibration; no
        decision uses it. gain_se comes from the paired differences a - reference,
        var = b² · (Σ w² n E[(d - d̂)²] + κ·σ²) / (Σ w n + κ)², the posterior variance of a normal mean with prior
        variance σ²/κ, times the squared slope of the calibration. O(n · p · (d + 7m + c)).
        """
        weights, novelty = self.weights(vectors, features)
        raw = self.raw(weights)
        quality = calibrated_quality(raw, self.calibration)
        squared = np.square(weights)
        gain_se = self._gain_se(weights, squared, reference)
        settings, table = self.settings, self.table
        kt = settings.token_strength
        tokens = (weights @ table.token_total.T + kt * self.priors.output_tokens) / (weights @ table.token_count.T + kt)
        counts = weights @ table.category.T
        category = counts / (counts.sum(axis=1, keepdims=True) + settings.category_strength)
        category[:, -1] = 1.0 - category[:, :-1].sum(axis=1)
        return KnnEstimates(
            quality=quality,
            quality_se=self._quality_se(weights, squared),
            gain=quality - quality[:, [reference]],
            gain_se=gain_se,
            output_tokens=tokens,
            novelty=novelty,
            category=category,
        )

    def _quality_se(self, weights: FloatArray, squared: FloatArray) -> FloatArray:
        return _shrunken_se(
            weights,
            squared,
            self.table.score,
            self.priors.quality,
            self.priors.quality_variance,
            self.settings.quality_strength,
        )

    def _gain_se(self, weights: FloatArray, squared: FloatArray, reference: int) -> FloatArray:
        moments = self.table.pair
        own = Moments(moments.count[:, reference], moments.total[:, reference], moments.square[:, reference])
        strength = self.settings.gain_strength
        prior, variance = self.priors.gain[:, reference], self.priors.gain_variance[:, reference]
        slope = gain_slopes(self.calibration)[:, reference]
        return slope * _shrunken_se(weights, squared, own, prior, variance, strength)


def standardise(features: FloatArray, mean: FloatArray, scale: FloatArray) -> FloatArray:
    """Standardise and clip to `FEATURE_CLIP` standard deviations; (n, f) to (n, f)."""
    return np.clip((features.astype(np.float64) - mean) / scale, -FEATURE_CLIP, FEATURE_CLIP)


def calibrated_quality(raw: RawEstimates, calibration: GainCalibration) -> FloatArray:
    """Apply the calibration of `KnnEstimator.predict`; (n,) and (n, m) to (n, m)."""
    bounded = np.clip(raw.anchor_quality, QUALITY_BOUND, 1.0 - QUALITY_BOUND)
    logit = np.log(bounded / (1.0 - bounded))
    anchor = 1.0 / (1.0 + np.exp(-(calibration.anchor_intercept + calibration.anchor_slope * logit)))
    gain = calibration.gain_intercept + calibration.gain_slope * raw.anchor_gain
    return np.clip(anchor[:, None] + gain, QUALITY_BOUND, 1.0 - QUALITY_BOUND)


def gain_slopes(calibration: GainCalibration) -> FloatArray:
    """Slope that a standard error of the pair (a, r) is multiplied by, shape (m, m): the larger of both arms'."""
    slope = calibration.gain_slope.copy()
    slope[calibration.anchor] = 0.0
    return np.maximum(slope[:, None], slope[None, :])


def _shrunken_se(
    weights: FloatArray, squared: FloatArray, moments: Moments, prior: FloatArray, variance: FloatArray, strength: float
) -> FloatArray:
    """Standard error of a shrunken kernel mean, (n, m); see `KnnEstimator.predict`."""
    mass = weights @ moments.count.T + strength
    mean = (weights @ moments.total.T + strength * prior) / mass
    spread = squared @ moments.square.T - 2.0 * mean * (squared @ moments.total.T)
    spread += np.square(mean) * (squared @ moments.count.T)
    return np.sqrt(np.maximum(spread, 0.0) + strength * variance) / mass


def make_prototypes(vectors: FloatArray, features: FloatArray, *, prototypes: int, seed: int) -> Prototypes:
    """Cluster training prompts by k-means on unit vectors and merge clusters that are too small.

    Parameters
    ----------
    vectors : ndarray, shape (n, d)
        Unit length.
    features : ndarray, shape (n, f)
    prototypes : int
        Clusters asked for; fewer come back when some would have less than `MIN_MEMBERS` prompts.
    seed : int

    Returns
    -------
    Prototypes

    Notes
    -----
    One thread (the caller sets the limit) and a fixed seed make it repeatable. O(n · p · d) per iteration.
    """
    from sklearn.cluster import KMeans

    wanted = max(1, min(prototypes, vectors.shape[0] // MIN_MEMBERS))
    unit = np.ascontiguousarray(vectors, dtype=np.float32)
    model = KMeans(wanted, init="random", n_init=1, max_iter=15, random_state=seed, algorithm="lloyd").fit(unit)
    members = _merge_small(unit, model.labels_.astype(np.int64), model.cluster_centers_)
    count = np.bincount(members).astype(np.float64)
    sums: FloatArray = np.stack([np.bincount(members, weights=column) for column in unit.T], axis=1).astype(np.float64)
    centroids = sums / np.maximum(np.linalg.norm(sums, axis=1, keepdims=True), 1e-12)
    mean = features.mean(axis=0, dtype=np.float64)
    scale = np.maximum(features.std(axis=0, dtype=np.float64), 1e-3)
    scaled = standardise(features, mean, scale)
    forms: FloatArray = np.stack([np.bincount(members, weights=column) for column in scaled.T], axis=1)
    return Prototypes(centroids, forms / count[:, None], mean, scale, members)


def _merge_small(vectors: NDArray[np.float32], labels: IndexArray, centers: NDArray[np.float32]) -> IndexArray:
    """Move the members of clusters below `MIN_MEMBERS` to the nearest larger cluster; number from 0 without gaps."""
    counts = np.bincount(labels, minlength=centers.shape[0])
    large = np.flatnonzero(counts >= MIN_MEMBERS)
    if large.size == 0:
        return np.zeros_like(labels)
    moved = np.flatnonzero(counts[labels] < MIN_MEMBERS)
    labels = labels.copy()
    if moved.size:
        offset = 0.5 * np.square(centers[large]).sum(axis=1)
        labels[moved] = large[np.argmax(vectors[moved] @ centers[large].T - offset, axis=1)]
    return np.unique(labels, return_inverse=True)[1].astype(np.int64)


def tabulate(
    prototypes: Prototypes,
    score: NDArray[np.float32],
    output_tokens: NDArray[np.float32],
    category: IndexArray,
    categories: int,
) -> PrototypeTable:
    """Sum training outcomes per prototype.

    Parameters
    ----------
    prototypes : Prototypes
    score : ndarray, shape (n, m)
        NaN where missing; rows in the order of ``prototypes.members``.
    output_tokens : ndarray, shape (n, m)
        NaN where missing or not free-form.
    category : ndarray of int64, shape (n,)
        Index of each prompt's category; the last index is ``general``.
    categories : int
        Number c of categories.

    Returns
    -------
    PrototypeTable
    """
    members, size = prototypes.members, prototypes.centroids.shape[0]
    own = _moments(score.T.astype(np.float64), members, size)
    tokens = _moments(output_tokens.T.astype(np.float64), members, size)
    counts = np.zeros((categories, size))
    np.add.at(counts, (category, members), 1.0)
    return PrototypeTable(own, pair_moments(score, own, members, size), tokens.count, tokens.total, counts)


def pair_moments(score: NDArray[np.float32], own: Moments, members: IndexArray, size: int) -> Moments:
    """Sum the differences of all pairs of arms per prototype, each (m, m, p).

    Notes
    -----
    Pairs with fewer than 30 common prompts, or with fewer than 5 % of the rarer arm's, have no paired evidence worth
    the name (outcomes logged from live traffic: one arm per prompt). For them the difference of the two arms' means
    inside a prototype is used, with the count min(n_a, n_r), which supposes that the arm did not depend on anything but
    the prototype.
    """
    arms = score.shape[1]
    columns = score.T.astype(np.float64)
    pair = Moments(*(np.zeros((arms, arms, size)) for _ in range(3)))
    total = own.count.sum(axis=1)
    for first in range(arms):
        difference = columns[first] - columns
        moments = _moments(difference, members, size)
        for second in range(arms):
            common = moments.count[second].sum()
            if common < 30 or common < 0.05 * min(total[first], total[second]):
                found = _unpaired(own, first, second)
            else:
                found = (moments.count[second], moments.total[second], moments.square[second])
            pair.count[first, second], pair.total[first, second], pair.square[first, second] = found
    return pair


def _unpaired(own: Moments, first: int, second: int) -> tuple[FloatArray, FloatArray, FloatArray]:
    """Moments of a difference between two arms that share no prompts, as if independent."""
    count = np.minimum(own.count[first], own.count[second])
    safe = [np.maximum(own.count[arm], 1.0) for arm in (first, second)]
    means = [own.total[arm] / n for arm, n in zip((first, second), safe, strict=True)]
    variances = [
        np.maximum(own.square[arm] / n - mean**2, 0.0)
        for arm, n, mean in zip((first, second), safe, means, strict=True)
    ]
    mean = means[0] - means[1]
    return count, count * mean, count * (variances[0] + variances[1] + mean**2)


def _moments(values: FloatArray, members: IndexArray, size: int) -> Moments:
    """Count, sum and sum of squares of the finite entries of each row of (k, n) per prototype, each (k, p)."""
    finite = np.isfinite(values)
    filled = np.where(finite, values, 0.0)
    count, total, square = (np.zeros((values.shape[0], size)) for _ in range(3))
    for row in range(values.shape[0]):
        count[row] = np.bincount(members, weights=finite[row], minlength=size)
        total[row] = np.bincount(members, weights=filled[row], minlength=size)
        square[row] = np.bincount(members, weights=np.square(filled[row]), minlength=size)
    return Moments(count, total, square)


def make_priors(table: PrototypeTable) -> Priors:
    """Global means and variances of everything in the table."""
    quality, quality_variance = _mean_and_variance(table.score)
    gain, gain_variance = _mean_and_variance(table.pair)
    count = table.token_count.sum(axis=-1)
    total = table.token_total.sum(axis=-1)
    overall = total.sum() / count.sum() if count.sum() > 0 else ASSUMED_OUTPUT_TOKENS
    tokens = np.where(count > 0, total / np.maximum(count, 1.0), overall)
    np.fill_diagonal(gain_variance, 0.0)  # an arm's gain over itself is 0, surely
    return Priors(quality, quality_variance, gain, gain_variance, tokens)


def _mean_and_variance(moments: Moments) -> tuple[FloatArray, FloatArray]:
    count = moments.count.sum(axis=-1)
    safe = np.maximum(count, 1.0)
    mean = moments.total.sum(axis=-1) / safe
    variance = np.maximum(moments.square.sum(axis=-1) / safe - mean**2, 1e-6)
    return mean, np.where(count > 0, variance, 1.0)
