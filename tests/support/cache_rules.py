"""Decision rules whose model is a Python function, and second encoders that remember what they were asked.

Read `rule_of`, then `CountedVerifier`.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from typing import Any

import numpy as np

from penstock_cache.entries import FloatArray
from penstock_cache.pair_features import FEATURE_NAMES
from penstock_cache.rule import (
    POOLED,
    RULE_SCHEMA,
    DecisionRule,
    OperatingPoint,
    PairModel,
    RuleManifest,
    RuleMode,
    rule_feature_set,
)

COSINE, VERIFIED, HAS_VERIFIED = (
    FEATURE_NAMES.index(name) for name in ("cosine", "verify_cosine", "has_verify_cosine")
)  # fmt: skip
SEARCH_ID, VERIFIER_ID = "search-of-tests", "verifier-of-tests"


def by_verifier(rows: FloatArray) -> FloatArray:
    """Believe the second encoder where it was asked, and the first one where it was not."""
    return np.where(rows[:, HAS_VERIFIED] > 0, rows[:, VERIFIED], rows[:, COSINE])


def point(
    budget: float, threshold: float | None, category: str = POOLED, mode: RuleMode = "semantic"
) -> OperatingPoint:
    """Return an operating point."""
    return OperatingPoint(category, mode, budget, threshold, 1_000, 100, 1, budget)


def manifest_of(points: Sequence[OperatingPoint] = (point(0.01, 0.8),), **changes: Any) -> RuleManifest:
    """Return a manifest; whatever is named is changed."""
    values: dict[str, Any] = {
        "schema_version": RULE_SCHEMA,
        "feature_set": rule_feature_set(),
        "encoder_id": SEARCH_ID,
        "verifier_id": VERIFIER_ID,
        "model_sha256": hashlib.sha256(b"graph").hexdigest(),
        "candidates": 4,
        "min_cosine": 0.5,
        "min_plausible": 0.3,
        "plausible_miss_rate": 0.0,
        "word_weights": {},
        "unknown_word_weight": 0.0,
        "points": list(points),
        "data": [],
        "versions": {},
    }
    return RuleManifest(**{**values, **changes})


def rule_of(
    model: PairModel = by_verifier, points: Sequence[OperatingPoint] = (point(0.01, 0.8),), **changes: Any
) -> DecisionRule:
    """Return a rule that a function decides."""
    return DecisionRule(manifest_of(points, **changes), model)


class CountedVerifier:
    """A second encoder for which all texts are alike but those that a test names, and which remembers its calls.

    Parameters
    ----------
    cosines : dict of str to float
        By text: its cosine with every text that is not named.

    Attributes
    ----------
    calls : list of list of str
    """

    def __init__(self, cosines: dict[str, float] | None = None) -> None:
        self.cosines = cosines or {}
        self.calls: list[list[str]] = []

    async def __call__(self, texts: Sequence[str]) -> FloatArray:
        """Return unit vectors, shape (n, 2)."""
        self.calls.append(list(texts))
        cosines = np.array([self.cosines.get(text, 1.0) for text in texts], dtype=np.float32)
        return np.stack([cosines, np.sqrt(1.0 - cosines**2)], axis=1)
