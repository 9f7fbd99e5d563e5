"""An artifact, opened to be measured: its estimates for many prompts, its operating points, its own test prompts.

Owns the step from an artifact folder to estimate arrays and an evaluation report. Must not define measures. Read
`RouterUnderTest` and `evaluate_artifact`.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from penstock_routers.artifact import RouterArtifact
from penstock_routers.encoder import PromptEncoder
from penstock_routers.features import NO_CONTEXT, PromptContext, prompt_features
from penstock_routers.policy import Tradeoff
from penstock_training.decisions import EstimateArrays
from penstock_training.evaluation import evaluate
from penstock_training.evaluation_report import EvaluationReport
from penstock_training.latency import measure_latency
from penstock_training.outcomes import OutcomeMatrix
from penstock_training.predict import known_arm, open_router
from penstock_training.progress import Progress, silent
from penstock_training.splits import grouped_split
from penstock_training.vectors import encode_prompts

ALL_PROMPTS = "all prompts of the files"
OWN_TEST_PART = "test part of the data that the artifact was fitted on"


@dataclass(frozen=True, slots=True)
class PromptAnswers:
    """What a router says about n prompts.

    Attributes
    ----------
    estimates : EstimateArrays
    categories : tuple of str, length n
        Of the category head; ``general`` where it abstains.
    """

    estimates: EstimateArrays
    categories: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class RouterUnderTest:
    """An artifact with its encoder and the setting under which it decides.

    Attributes
    ----------
    name : str
        What reports call it.
    artifact : RouterArtifact
    encoder : PromptEncoder
        The artifact's own.
    default_arm : str
    tradeoffs : tuple of Tradeoff
        Its operating points.
    cost_scale_usd : float
    """

    name: str
    artifact: RouterArtifact
    encoder: PromptEncoder
    default_arm: str
    tradeoffs: tuple[Tradeoff, ...]
    cost_scale_usd: float

    @classmethod
    def open(cls, name: str, folder: Path, encoder_folder: Path | None, default_arm: str | None) -> RouterUnderTest:
        """Open an artifact folder.

        Parameters
        ----------
        name : str
        folder : Path
        encoder_folder : Path or None
            The bundled encoder of the manifest's name when None.
        default_arm : str or None
            The artifact's reference arm when None.

        Raises
        ------
        RouterError
            The artifact or the encoder is refused.
        TrainingError
            ``unknown_arm``: the artifact has no arm `default_arm`.
        """
        artifact, encoder = open_router(folder, encoder_folder)
        manifest = artifact.manifest
        prices = [
            (arm.price_usd_per_million_input_tokens, arm.price_usd_per_million_output_tokens)
            for arm in manifest.arm_entries
        ]
        return cls(
            name=name,
            artifact=artifact,
            encoder=encoder,
            default_arm=known_arm(manifest, default_arm),
            tradeoffs=tuple(artifact.tradeoff(point.name) for point in manifest.operating_points),
            cost_scale_usd=max(artifact.cost_scale_usd(*price) for price in prices) or 1.0,
        )

    @property
    def novelty_max(self) -> float:
        """Prompts with a larger novelty keep the default arm."""
        return self.artifact.manifest.guard.novelty_max

    def ask(
        self,
        prompts: Sequence[str],
        prompt_tokens: NDArray[np.float64],
        progress: Progress,
        contexts: Sequence[PromptContext] | None = None,
    ) -> PromptAnswers:
        """Ask about every prompt, the way the gateway does, one at a time.

        Parameters
        ----------
        prompts : sequence of str, length n
        prompt_tokens : ndarray of float64, shape (n,)
        progress : callable
        contexts : sequence of PromptContext, length n, optional
            What stood around the prompts.

        Returns
        -------
        PromptAnswers
            Expected costs follow from the prompt's tokens, the predicted answer length and the artifact's price
            reference.
        """
        return ask_artifact(self.artifact, self.encoder, prompts, prompt_tokens, self.default_arm, progress, contexts)

    def held_out_rows(self, matrix: OutcomeMatrix, files_digest: str | None) -> NDArray[np.int64] | None:
        """Find the prompts that the artifact kept from fitting, if these are the files that it was fitted on.

        Parameters
        ----------
        matrix : OutcomeMatrix
        files_digest : str or None
            Digest of the outcome files' matrix, before any grouping of arms.

        Returns
        -------
        ndarray of int64 or None
            Rows of the test part of the artifact's split; None when the files are others, so that all may be used.
        """
        manifest = self.artifact.manifest
        if files_digest != manifest.training.digest:
            return None
        split = grouped_split(matrix.groups, fractions=manifest.split.fractions, seed=manifest.split.seed)
        return split["test"]


def ask_artifact(
    artifact: RouterArtifact,
    encoder: PromptEncoder,
    prompts: Sequence[str],
    prompt_tokens: NDArray[np.float64],
    default_arm: str,
    progress: Progress,
    contexts: Sequence[PromptContext] | None = None,
) -> PromptAnswers:
    """Ask an artifact about every prompt, the way the gateway does, one at a time.

    Parameters
    ----------
    artifact : RouterArtifact
    encoder : PromptEncoder
        The artifact's own.
    prompts : sequence of str, length n
    prompt_tokens : ndarray of float64, shape (n,)
    default_arm : str
        The arm that gains are measured against.
    progress : callable
    contexts : sequence of PromptContext, length n, optional
        What stood around the prompts.

    Returns
    -------
    PromptAnswers
        Expected costs follow from the prompt's tokens, the predicted answer length and the artifact's price reference.

    Raises
    ------
    ArtifactError
        The artifact does not know `default_arm`, or its graph fails.
    """
    vectors = encode_prompts(encoder, prompts, lambda done, total: progress("encoding", done, total))
    found = [
        artifact.estimate(vector, prompt_features(prompt), reference_arm=default_arm, context=context)
        for vector, prompt, context in zip(vectors, prompts, contexts or [NO_CONTEXT] * len(prompts), strict=True)
    ]
    price = np.array(
        [
            (arm.price_usd_per_million_input_tokens, arm.price_usd_per_million_output_tokens)
            for arm in artifact.manifest.arm_entries
        ]
    )
    answer_tokens = np.stack([estimate.output_tokens for estimate in found]).astype(np.float64)
    estimates = EstimateArrays(
        arms=artifact.manifest.arms,
        reference_arm=default_arm,
        quality=np.stack([estimate.quality for estimate in found]),
        gain=np.stack([estimate.gain for estimate in found]),
        gain_se=np.stack([estimate.gain_se for estimate in found]),
        novelty=np.array([estimate.novelty for estimate in found], dtype=np.float64),
        cost_usd=(prompt_tokens[:, None] * price[:, 0] + answer_tokens * price[:, 1]) / 1e6,
    )
    return PromptAnswers(estimates, tuple(estimate.category for estimate in found))


def evaluate_router(
    router: RouterUnderTest,
    answers: PromptAnswers,
    matrix: OutcomeMatrix,
    *,
    name: str = ALL_PROMPTS,
    resamples: int = 1000,
    seed: int = 0,
) -> EvaluationReport:
    """Measure a router at its own operating points, and time it.

    Parameters
    ----------
    router : RouterUnderTest
    answers : PromptAnswers
        From `RouterUnderTest.ask`, for the prompts of `matrix`.
    matrix : OutcomeMatrix
    name, resamples, seed
        As for `penstock_training.evaluation.evaluate`.

    Returns
    -------
    EvaluationReport

    Raises
    ------
    OutcomeError
        The outcomes do not fit the artifact's arms.
    """
    report = evaluate(
        answers.estimates,
        matrix,
        tradeoffs=router.tradeoffs,
        cost_scale_usd=router.cost_scale_usd,
        novelty_max=router.novelty_max,
        name=name,
        resamples=resamples,
        seed=seed,
    )
    latency = measure_latency(router.artifact, router.encoder, matrix.prompts, router.default_arm)
    return replace(report, latency=latency)


def evaluate_artifact(
    folder: Path,
    matrix: OutcomeMatrix,
    *,
    encoder_folder: Path | None = None,
    progress: Progress = silent,
    default_arm: str | None = None,
    files_digest: str | None = None,
    resamples: int = 1000,
    seed: int = 0,
) -> EvaluationReport:
    """Measure an artifact folder at its own operating points.

    Parameters
    ----------
    folder : Path
    matrix : OutcomeMatrix
        Its arms are matched with the artifact's by name.
    encoder_folder : Path, optional
        The bundled encoder of the manifest's name when omitted.
    progress : callable, optional
        Called with a stage's name, steps done and steps in total.
    default_arm : str, optional
        The artifact's reference arm when omitted.
    files_digest : str, optional
        Digest of the outcome files' matrix, before any grouping of arms. If it is the one that the artifact was fitted
        on, only the test part of the artifact's split is used.
    resamples, seed : int
        Of the bootstrap.

    Returns
    -------
    EvaluationReport

    Raises
    ------
    RouterError
        The artifact or the encoder is refused.
    TrainingError
        ``unknown_arm``: the artifact has no arm `default_arm`.
    OutcomeError
        The outcomes do not fit the artifact's arms.
    """
    router = RouterUnderTest.open(folder.name, folder, encoder_folder, default_arm)
    rows, name = router.held_out_rows(matrix, files_digest), ALL_PROMPTS
    if rows is not None:
        matrix, name = matrix.rows(rows), OWN_TEST_PART
    answers = router.ask(matrix.prompts, matrix.prompt_tokens, progress, matrix.contexts)
    progress("bootstrap", 0, 1)
    report = evaluate_router(router, answers, matrix, name=name, resamples=resamples, seed=seed)
    progress("bootstrap", 1, 1)
    return report
