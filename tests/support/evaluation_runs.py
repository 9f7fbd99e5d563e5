"""A whole evaluation of two made-up routers, for tests of what is shown; names are as hostile as the caller wants."""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from penstock_routers.policy import Tradeoff
from penstock_training.category_report import Probe, confusion_by_source, measure_probes
from penstock_training.comparison import Contender, compare_routers
from penstock_training.cross_validation import CrossValidationOptions, cross_validate, grouped_folds
from penstock_training.decisions import EstimateArrays
from penstock_training.evaluation import evaluate, prepare_trial
from penstock_training.evaluation_run import EvaluationOptions, EvaluationRun, RouterSection
from penstock_training.latency import Latency
from penstock_training.learning_curve import LearningOptions, measure_learning_curve
from penstock_training.outcomes import OutcomeMatrix
from penstock_training.robustness import measure_robustness
from penstock_training.shuffled_control import run_shuffled_control
from support.fold_fits import COST_SCALE_USD, ridge_fit, topic_corpus
from support.outcome_samples import random_trial

POINTS = (Tradeoff("cost", 0.6, 0.5), Tradeoff("balanced", 0.2, 0.5), Tradeoff("quality", 0.0, 0.5))
SETTING = {"cost_scale_usd": 0.01, "novelty_max": 0.9}


def made_up_run(prefix: str = "", prompts: int = 300) -> EvaluationRun:
    """Two routers on the same prompts, every optional chapter filled; `prefix` goes before every name."""
    estimates, matrix = random_trial(0, prompts, skill=0.9)
    estimates, matrix = _renamed(estimates, matrix, prefix)
    shuffled = estimates.take(np.random.default_rng(1).permutation(prompts), estimates.arms)
    routers = {f"{prefix}good": estimates, f"{prefix}shuffled": shuffled}
    contenders = []
    for name, found in routers.items():
        trial, _, _ = prepare_trial(found, matrix, (0.01, 0.9), resamples=50, seed=0)
        contenders.append(Contender(name, trial, POINTS))
    corpus = topic_corpus(200)
    options = CrossValidationOptions(COST_SCALE_USD, resamples=30)
    fit = ridge_fit(corpus.matrix, corpus.vectors)
    test = np.arange(100, 200)
    return EvaluationRun(
        files=(f"{prefix}file.jsonl",),
        routers=tuple(_section(name, found, matrix, prefix) for name, found in routers.items()),
        baselines=(),
        comparison=compare_routers(contenders),
        options=EvaluationOptions(resamples=50),
        cross_validation={
            f"{prefix}ridge": cross_validate(corpus.matrix, fit, grouped_folds(corpus.matrix.groups, 2, 0), options)
        },
        control=run_shuffled_control(corpus.matrix, lambda m: ridge_fit(m, corpus.vectors), options, folds=2),
        learning_curves={
            f"{prefix}ridge": measure_learning_curve(
                lambda rows, seed, prior: fit(np.arange(100) if prior else rows, test, seed),
                np.arange(100),
                corpus.matrix.rows(test),
                LearningOptions(COST_SCALE_USD, sizes=(20, 40, 80), draws=2, resamples=10),
            )
        },
    )


def _renamed(estimates: EstimateArrays, matrix: OutcomeMatrix, prefix: str) -> tuple[EstimateArrays, OutcomeMatrix]:
    arms = tuple(f"{prefix}{arm}" for arm in estimates.arms)
    labels = [f"{prefix}{category}" for category in matrix.categories]
    sources = [f"{prefix}{source}" for source in matrix.sources]
    return (
        replace(estimates, arms=arms, reference_arm=arms[-1]),
        replace(matrix, arms=arms, categories=labels, sources=sources),
    )


def _section(name: str, estimates: EstimateArrays, matrix: OutcomeMatrix, prefix: str) -> RouterSection:
    probes = [Probe(kind, f"{kind} {i}", d) for kind, d in (("maths", "easy"), ("maths", "hard")) for i in range(12)]
    probes += [Probe("jailbreak", f"jailbreak {i}") for i in range(12)]
    report = evaluate(estimates, matrix, tradeoffs=POINTS, name=f"{prefix}all", resamples=50, **SETTING)
    probed = estimates.take(np.arange(len(probes)), estimates.arms)
    latency = Latency(40.0, 90.0, 45.0, 0.6, 300, 0.0006, 0.05, f"{prefix}machine")
    return RouterSection(
        name=name,
        artifact_id="sha256:" + "0" * 64,
        family="knn",
        seen_sources=(),
        report=replace(report, latency=latency),
        robustness=measure_robustness(
            estimates,
            matrix,
            lambda texts: estimates.take(np.roll(np.arange(len(texts)), 1), estimates.arms),
            tradeoffs=POINTS,
            names=("typos", "paraphrase"),
            resamples=20,
            **SETTING,
        ),
        probes=measure_probes(probes, probed, top_arm=report.best_arm, tradeoffs=POINTS, **SETTING),
        confusion=confusion_by_source(["maths"] * 300, ["code", "maths", "law"] * 100, [""] * 300, matrix.sources),
    )
