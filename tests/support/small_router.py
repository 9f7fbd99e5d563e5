"""A small router on made-up outcomes: three arms, four topics in twelve dimensions, fitted in a second."""

from __future__ import annotations

from functools import lru_cache
from pathlib import Path

import numpy as np

from penstock_routers.features import FEATURE_NAMES
from penstock_routers.manifest import EncoderReference, Manifest, SourceEntry
from penstock_training.fit import Corpus, FitOptions, FittedRouter, fit_router
from penstock_training.outcomes import OutcomeMatrix
from penstock_training.own_router import evaluate_on
from penstock_training.pack import Provenance, make_manifest, write_artifact

DIMENSION = 12
ENCODER = EncoderReference("made-up@000000000000", "made-up", DIMENSION, {"head_characters": 8, "tail_characters": 8})
ARMS = ("cheap", "middle", "dear")
PRICES = {"cheap": (0.1, 0.4), "middle": (1.0, 4.0), "dear": (5.0, 20.0)}
# Chance of a good answer per topic and arm: the cheap arm suffices on the first two topics only.
SKILL = np.array([[0.85, 0.86, 0.87], [0.80, 0.82, 0.84], [0.20, 0.55, 0.80], [0.10, 0.30, 0.75]])
OPTIONS = FitOptions(resamples=100)


def made_up_corpus(prompts: int = 900, *, seed: int = 7, missing: float = 0.1) -> Corpus:
    """Return outcomes of `prompts` prompts; a share `missing` of the cheap arm's cells is empty."""
    random = np.random.default_rng(seed)
    topic = random.integers(0, len(SKILL), prompts)
    centers = np.eye(len(SKILL), DIMENSION)
    vectors = centers[topic] + 0.15 * random.standard_normal((prompts, DIMENSION))
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    features = random.standard_normal((prompts, len(FEATURE_NAMES))) + topic[:, None]
    score = (random.random((prompts, len(ARMS))) < SKILL[topic]).astype(np.float32)
    score[random.random(prompts) < missing, 0] = np.nan
    tokens = random.integers(50, 150, (prompts, len(ARMS))) * (1 + topic)[:, None]
    sent = random.integers(20, 80, (prompts, 1)) + np.zeros((1, len(ARMS)))
    price = np.array([PRICES[arm] for arm in ARMS])
    cost = (sent * price[:, 0] + tokens * price[:, 1]) / 1e6
    missing_cells = np.isnan(score)
    matrix = OutcomeMatrix(
        prompts=[f"topic {t} prompt {i}" for i, t in enumerate(topic)],
        groups=np.arange(prompts),
        sources=["made-up"] * prompts,
        tasks=[""] * prompts,
        categories=["math" if t < 2 else "law" for t in topic],
        arms=ARMS,
        score=score,
        input_tokens=sent.astype(np.float32),
        output_tokens=np.where(missing_cells, np.nan, tokens).astype(np.float32),
        cost_usd=np.where(missing_cells, np.nan, cost).astype(np.float32),
    )
    is_free_form = np.ones(prompts, dtype=bool)
    return Corpus(matrix, vectors.astype(np.float32), features.astype(np.float32), is_free_form, PRICES)


@lru_cache(maxsize=1)
def fitted_small_router() -> tuple[Corpus, FittedRouter]:
    """Return the corpus and the router fitted on it; the same objects for every caller."""
    corpus = made_up_corpus()
    return corpus, fit_router(corpus, reference_arm="dear", options=OPTIONS, progress=lambda *_: None)


@lru_cache(maxsize=1)
def small_manifest() -> Manifest:
    """Return the manifest of the small router."""
    corpus, fitted = fitted_small_router()
    sources = (SourceEntry("made-up", "none", len(corpus.matrix.prompts), 1),)
    provenance = Provenance(ENCODER, corpus.matrix.digest, sources, ("made up",), {"dear": "frontier"}, {}, 0)
    held_out = evaluate_on(fitted, corpus.rows(fitted.split["test"]), "made-up prompts", OPTIONS)
    return make_manifest(fitted, corpus, provenance, held_out=held_out, left_out={})


def write_small_router(folder: Path) -> Manifest:
    """Write the small router's artifact and return its manifest."""
    manifest = small_manifest()
    write_artifact(folder, manifest, fitted_small_router()[1].graph)
    return manifest
