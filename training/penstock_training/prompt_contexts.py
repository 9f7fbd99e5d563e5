"""The features of what stood around prompts, beside those of the prompts themselves.

Owns when they are looked at. The formulas are `penstock_routers.features`'.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from penstock_routers.features import PromptContext, context_features


def with_context(features: NDArray[np.float32], context: NDArray[np.float32] | None) -> NDArray[np.float32]:
    """Put the features of what stood around prompts behind their own, where it differs from one to the next.

    Parameters
    ----------
    features : ndarray of float32, shape (n, 10)
    context : ndarray of float32, shape (n, 3), or None
        Of `penstock_training.outcomes.OutcomeMatrix`.

    Returns
    -------
    ndarray of float32, shape (n, 13) or (n, 10)
    """
    if context is None or not (context != context[:1]).any():
        return features
    return np.hstack((features, np.stack([context_features(PromptContext(*row)) for row in context.tolist()])))
