"""Outcomes for the benches of routers: generated ones of any size, and MMLU-Pro where the data folder is there.

Read `generated_corpus` and `real_corpus`. Generated outcomes give times, never a judgement about quality.
"""

from __future__ import annotations

import importlib.util

import numpy as np
from data_folder import data_folder

from penstock_routers.bundled import DEFAULT_ENCODER, bundled_folder
from penstock_routers.encoder import PromptEncoder
from penstock_routers.features import FEATURE_NAMES
from penstock_training.fit import Corpus, feature_matrix
from penstock_training.outcomes import OutcomeMatrix, load_outcomes
from penstock_training.own_router import arm_prices

DIMENSION = 256
TOPICS = 150


def generated_corpus(prompts: int, arms: int, seed: int = 0) -> Corpus:
    """Make up outcomes that depend on the topic of the prompt.

    Parameters
    ----------
    prompts, arms : int
    seed : int

    Returns
    -------
    Corpus
        Vectors of 256 dimensions around 150 topics; arms of rising price and skill that differ in a few traits.
    """
    random = np.random.default_rng(seed)
    topic = random.integers(0, TOPICS, prompts)
    centers = random.standard_normal((TOPICS, DIMENSION))
    vectors = centers[topic] + 0.8 * random.standard_normal((prompts, DIMENSION))
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    features = random.standard_normal((prompts, len(FEATURE_NAMES))) + 0.5 * (topic % 5)[:, None]
    level = np.linspace(-1.0, 1.5, arms)
    logit = level - random.normal(0.0, 1.0, (TOPICS, 1))
    logit = logit + 0.7 * random.standard_normal((TOPICS, 4)) @ random.standard_normal((4, arms))
    score = (random.random((prompts, arms)) < 1.0 / (1.0 + np.exp(-logit[topic]))).astype(np.float32)
    names = tuple(f"arm-{index:02d}" for index in range(arms))
    prices = {name: (price, 4.0 * price) for name, price in zip(names, np.geomspace(0.05, 10.0, arms), strict=True)}
    sent = np.broadcast_to(random.integers(20, 400, (prompts, 1)), (prompts, arms)).astype(np.float32)
    written = random.lognormal(5.0, 0.6, (prompts, arms)).astype(np.float32)
    table = np.array([prices[name] for name in names])
    matrix = OutcomeMatrix(
        prompts=[f"prompt {index} about topic {number}" for index, number in enumerate(topic)],
        groups=np.arange(prompts),
        sources=["generated"] * prompts,
        tasks=[""] * prompts,
        categories=["math" if number % 2 else "law" for number in topic],
        arms=names,
        score=score,
        input_tokens=sent,
        output_tokens=written,
        cost_usd=((sent * table[:, 0] + written * table[:, 1]) / 1e6).astype(np.float32),
    )
    is_free_form = np.ones(prompts, dtype=bool)
    return Corpus(matrix, vectors.astype(np.float32), features.astype(np.float32), is_free_form, prices)


def real_corpus() -> Corpus | None:
    """Load MMLU-Pro's 12,032 prompts and 29 models; None without the data folder (PENSTOCK_DATA) or pyarrow."""
    folder = data_folder()
    path = folder / "routing" / "mmlu_pro.parquet"
    if not path.is_file() or importlib.util.find_spec("pyarrow") is None:
        return None
    matrix = load_outcomes([path], on_bad_rows="skip").matrix()
    vectors = PromptEncoder.load(bundled_folder(DEFAULT_ENCODER)).encode(matrix.prompts)
    is_free_form = np.ones(len(matrix.prompts), dtype=bool)
    return Corpus(matrix, vectors, feature_matrix(matrix.prompts), is_free_form, arm_prices(matrix, {}))
