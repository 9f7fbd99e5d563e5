"""Which category a prompt belongs to.

Owns the category head: a multinomial logistic regression on vector and form, or an earlier router's when the outcomes
name no categories. Must not know the names (`penstock_training.categories` does). Read `fit_categories`.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

import numpy as np
from numpy.typing import NDArray

from penstock_training.families.cluster import softmax
from penstock_training.families.head import FloatArray, GraphNames, PromptInputs
from penstock_training.graph import GraphBuilder

CATEGORY_WEIGHT: Final = "category_weight"  # names inside a graph; a later fit may take the head from there
CATEGORY_BIAS: Final = "category_bias"
MIN_EXAMPLES: Final = 20  # prompts of a category below which it is not learned
_IMPOSSIBLE: Final = -30.0
_INVERSE_PENALTY: Final = 10.0
_FORM_WEIGHT: Final = 0.1
_STEPS: Final = 200


@dataclass(frozen=True, slots=True)
class CategoryHead:
    """``softmax([v, z] @ weight + bias)``, the last category being ``general``.

    Attributes
    ----------
    weight : ndarray of float64, shape (d + f, c)
    bias : ndarray of float64, shape (c,)
    """

    weight: FloatArray
    bias: FloatArray

    def predict(self, inputs: PromptInputs) -> FloatArray:
        """Probabilities, (n, c)."""
        return softmax(inputs.design(1.0) @ self.weight + self.bias)

    def add_nodes(self, b: GraphBuilder, names: GraphNames) -> str:
        """Write `predict` into a graph."""
        joined = b.op("Concat", names.vector, names.form, axis=1)
        weight = b.constant(self.weight, name=CATEGORY_WEIGHT)
        logits = b.op("Gemm", joined, weight, b.constant(self.bias, name=CATEGORY_BIAS))
        return b.op("Softmax", logits, axis=1)


def fit_categories(
    inputs: PromptInputs, category: NDArray[np.int64], categories: int, fallback: CategoryHead | None
) -> CategoryHead:
    """Learn the categories that have enough examples.

    Parameters
    ----------
    inputs : PromptInputs
        n prompts.
    category : ndarray of int64, shape (n,)
        Index of each prompt's category; the last index is ``general``.
    categories : int
        Number c of categories.
    fallback : CategoryHead or None
        Taken when no category but ``general`` has `MIN_EXAMPLES` examples; None says ``general`` to everything then.

    Returns
    -------
    CategoryHead
    """
    from sklearn.linear_model import LogisticRegression

    size = inputs.vectors.shape[1] + inputs.forms.shape[1]
    counts = np.bincount(category, minlength=categories)
    learned = np.flatnonzero(counts >= MIN_EXAMPLES)
    if not (learned < categories - 1).any():
        if fallback is not None:
            return fallback
        bias = np.full(categories, _IMPOSSIBLE)
        bias[-1] = 0.0
        return CategoryHead(np.zeros((size, categories)), bias)
    label = np.where(np.isin(category, learned), category, categories - 1)
    weight, bias = np.zeros((size, categories)), np.full(categories, _IMPOSSIBLE)
    if np.unique(label).size < 2:
        bias[label[0]] = 0.0
        return CategoryHead(weight, bias)
    scale = np.concatenate([np.ones(inputs.vectors.shape[1]), np.full(inputs.forms.shape[1], _FORM_WEIGHT)])
    model = LogisticRegression(C=_INVERSE_PENALTY, max_iter=_STEPS).fit(inputs.design(_FORM_WEIGHT), label)
    if model.coef_.shape[0] == 1:  # two classes: scikit-learn keeps the second one's logit only
        weight[:, model.classes_[1]] = model.coef_[0] * scale
        bias[model.classes_] = 0.0, model.intercept_[0]
    else:
        weight[:, model.classes_] = model.coef_.T * scale[:, None]
        bias[model.classes_] = model.intercept_
    return CategoryHead(weight, bias)
