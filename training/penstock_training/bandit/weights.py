"""Weights for fitting a router on logged outcomes.

Owns how much each logged cell counts, so that an arm that was explored on few prompts and chosen on many stands for all
prompts alike. Must not fit anything. Read `sample_weights`.
"""

from __future__ import annotations

from typing import Final

import numpy as np
from numpy.typing import NDArray

from penstock_training.bandit.logged import one_arm_message
from penstock_training.errors import TrainingError
from penstock_training.outcomes import OutcomeMatrix

# A cell counts at most this often the arm's median cell. ε = .1 over 5 arms asks for 46 at most; ridge models of real
# outcomes fitted on such logs had a squared error of .2277 with 10, .2280 with 3, .2291 with 1 and .2292 without a clip
# (standard error .0005 each, on the same logs): it matters little.
CLIP_RATIO: Final = 10.0


def sample_weights(
    matrix: OutcomeMatrix, *, clip_ratio: float = CLIP_RATIO, max_tenant_share: float | None = None
) -> NDArray[np.float64]:
    """Weigh cells by their inverse propensity, clipped and self-normalised per arm, no tenant beyond its share.

    Parameters
    ----------
    matrix : OutcomeMatrix
        n prompts, m arms.
    clip_ratio : float, >= 1
        A cell's raw weight is at most this many times the arm's median raw weight; ``inf`` does not clip.
    max_tenant_share : float, in (0, 1], optional
        Most of an arm's weight, and so of all weight, that one tenant's cells may have.

    Returns
    -------
    ndarray of float64, shape (n, m), >= 0
        Mean 1 over an arm's scored cells; 0 for cells without a score. All ones (and zeros) when the matrix holds no
        propensity and no share is given. Cells that another arm than the intended one answered have weight 0, unless
        that leaves the arm nothing.

    Raises
    ------
    TrainingError
        ``one_arm_log``: the matrix has propensities and scores of one arm only. ``no_tenants``: a share is given, and
        no row says whose it is.

    Notes
    -----
    ``w = min(1 / p, clip_ratio · median_a(1 / p)) / mean_a(…)``. Cells asked for certain (propensity NaN) have p = 1.
    Clipping trades variance for a bias towards prompts on which the arm was often chosen. O(n m).

    References
    ----------
    Swaminathan and Joachims, "Counterfactual risk minimization" (JMLR 16, 2015): clipped, normalised weights.
    """
    weights = _by_propensity(matrix, clip_ratio)
    if max_tenant_share is None:
        return weights
    if matrix.tenants is None:
        raise TrainingError(
            "no row says whose request it was, so no tenant's share can be limited; the column is `tenant`",
            code="no_tenants",
        )
    tenants = np.unique(matrix.tenants, return_inverse=True)[1]
    is_known = np.array([bool(tenant) for tenant in matrix.tenants])
    for arm in range(len(matrix.arms)):
        own = weights[:, arm] > 0.0
        if own.any():
            count = int(np.isfinite(matrix.score[:, arm]).sum())
            capped = cap_shares(weights[own, arm], np.where(is_known, tenants, -1)[own], max_tenant_share)
            weights[own, arm] = capped * count / capped.sum()
    return weights


def cap_shares(weights: NDArray[np.float64], tenants: NDArray[np.int64], max_share: float) -> NDArray[np.float64]:
    """Scale the weights of tenants down until none has more than its share of the sum.

    Parameters
    ----------
    weights : ndarray of float64, shape (n,), > 0
    tenants : ndarray of int64, shape (n,)
        Whose each is; -1 for nobody's, which is never scaled.
    max_share : float, in (0, 1]

    Returns
    -------
    ndarray of float64, shape (n,)
        Within a tenant the weights keep their proportions. Where there are too few tenants for the share (fewer than
        ``1 / max_share``, and nothing that is nobody's), all count alike.

    Notes
    -----
    With totals T_t and the k largest held to c, c solves ``c = max_share · (k c + Σ of the others)``; k is the first
    for which no other total is larger than c. O(n log n).
    """
    is_known = tenants >= 0
    names, codes = np.unique(tenants[is_known], return_inverse=True)
    if not names.size:
        return weights.copy()
    totals = np.bincount(codes, weights=weights[is_known])
    falling = np.sort(totals)[::-1]
    others = float(weights.sum())
    limit = float(falling[-1])  # when no k will do: all alike
    for k, total in enumerate((*falling, 0.0)):
        if k * max_share >= 1.0:
            break
        candidate = max_share * others / (1.0 - k * max_share)
        if total <= candidate and candidate > 0.0:
            limit = candidate
            break
        others -= float(total)
    scale = np.minimum(1.0, limit / totals)
    capped = weights.copy()
    capped[is_known] *= scale[codes]
    return capped


def _by_propensity(matrix: OutcomeMatrix, clip_ratio: float) -> NDArray[np.float64]:
    scored = np.isfinite(matrix.score)
    if matrix.propensity is None:
        return scored.astype(np.float64)
    per_arm = scored.sum(axis=0)
    if int((per_arm > 0).sum()) == 1:
        raise TrainingError(one_arm_message(int(per_arm.sum()), matrix.arms[int(per_arm.argmax())]), code="one_arm_log")
    propensity = np.where(np.isnan(matrix.propensity), 1.0, matrix.propensity.astype(np.float64))
    raw = np.divide(1.0, propensity, out=np.zeros_like(propensity), where=propensity > 0.0)
    weights = np.zeros(matrix.score.shape)
    for arm in range(len(matrix.arms)):
        cells = scored[:, arm]
        own = raw[cells, arm]
        if not own.size:
            continue
        if not own.any():
            own = np.ones_like(own)
        limit = clip_ratio * float(np.median(own[own > 0.0]))
        clipped = np.minimum(own, limit)
        weights[cells, arm] = clipped / clipped.mean()
    return weights
