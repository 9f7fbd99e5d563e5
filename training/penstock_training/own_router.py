"""A router from a user's own outcome files: arms keep their own names and prices.

Owns that path only; the steps are those of `penstock_training.fit.fit_router`. Read `fit_outcomes`.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Final

import numpy as np
from numpy.typing import NDArray

from penstock_routers.artifact import RouterArtifact
from penstock_routers.encoder import PromptEncoder
from penstock_routers.manifest import Manifest, SourceEntry
from penstock_routers.prompt_content import CAPTURED_LICENCE
from penstock_routers.token_counts import ASSUMED_OUTPUT_TOKENS
from penstock_training.card import CardArm, CardReport, CardSource
from penstock_training.default_router import evaluate_on
from penstock_training.engines.protocol import LOCAL
from penstock_training.errors import TrainingError
from penstock_training.evaluation_report import EvaluationReport
from penstock_training.fit import (
    MIN_COMPLETE_PROMPTS,
    Corpus,
    FitOptions,
    feature_matrix,
    fit_router,
    single_threaded,
)
from penstock_training.outcomes import OutcomeMatrix
from penstock_training.pack import Provenance, make_manifest, write_artifact
from penstock_training.progress import Progress, silent
from penstock_training.prompt_contexts import with_context
from penstock_training.prompt_vectors import check_prompt_content
from penstock_training.search import choose_router
from penstock_training.search_result import SearchResult
from penstock_training.search_trials import SearchOptions
from penstock_training.splits import leave_source_out, source_overlaps
from penstock_training.tiers import recover_price
from penstock_training.vectors import encode_prompts, encoder_reference

Encode = Callable[[Progress], tuple[NDArray[np.float32], NDArray[np.float32]]]

_SUMMARY: Final = "Fitted on outcomes of your own. It knows the arms by the names that the outcome files give them."
_USAGE: Final = (
    "Name this folder in the settings under `routing.artifact`, and name each deployment, or its `arm`, like "
    "the arms above. "
    "`penstock-train predict --artifact FOLDER` shows single decisions."
)
_UNSTATED: Final = "not stated"
MAX_SOURCES_LEFT_OUT: Final = 10  # each is a fit of its own
# What is left without a source, or the source itself, may not suffice; then there is no report about it.
_TOO_LITTLE: Final = ("too_few_prompts", "constant_scores", "outcome_no_complete_row", "outcome_arm_unknown",
                      "outcome_best_arm_free")  # fmt: skip


def fit_outcomes(
    matrix: OutcomeMatrix,
    out: Path,
    *,
    encoder: PromptEncoder,
    reference_arm: str | None,
    prices: Mapping[str, tuple[float, float]],
    options: FitOptions,
    progress: Progress,
    is_captured: bool = False,
    may_hold_prompt_vectors: bool = False,
    search: SearchOptions | None = None,
    on_found: Callable[[SearchResult], None] | None = None,
    encode: Encode | None = None,
) -> RouterArtifact:
    """Fit, evaluate and write an artifact.

    Parameters
    ----------
    matrix : OutcomeMatrix
        From `penstock_training.outcomes.load_outcomes`.
    out : Path
        Artifact folder to write.
    encoder : PromptEncoder
    reference_arm : str or None
        The default arm; None takes the dearest.
    prices : mapping of str to (float, float)
        USD per million input and output tokens, in place of those that the outcomes' costs imply.
    options : FitOptions
    progress : callable
    is_captured : bool
        The prompts were captured by a gateway; the manifest says so.
    may_hold_prompt_vectors : bool
        Allow vectors of single captured prompts in the artifact.
    search : SearchOptions, optional
        Choose family and settings by a search instead of taking those of `options`. Fits without a source take what
        was chosen with all of them.
    on_found : callable, optional
        Called with what the search found, before anything is fitted on it.
    encode : callable, optional
        As for `own_corpus`.

    Returns
    -------
    RouterArtifact
        As serving opens it.

    Raises
    ------
    TrainingError
        ``too_few_arms``, ``no_prices``, ``prompt_vectors_refused``, what searching and fitting raise, or what
        `write_artifact` raises.
    """
    corpus = own_corpus(matrix, encoder=encoder, prices=prices, progress=progress, encode=encode)
    reference = reference_arm or dearest_arm(corpus.prices)
    notes: tuple[str, ...] = ()
    with single_threaded():
        if search is not None:
            found = choose_router(corpus, reference, options, search, progress)
            options, notes = replace(options, router=found.spec), (found.note,)
            if on_found is not None:
                on_found(found)
        fitted = fit_router(corpus, reference_arm=reference, options=options, progress=progress)
        held_out = evaluate_on(fitted, corpus.rows(fitted.split["test"]), "held-out prompts", options)
        left_out = _leave_sources_out(corpus, reference, options, progress)
        sources = _sources(matrix, CAPTURED_LICENCE if is_captured else _UNSTATED)
        provenance = Provenance(encoder_reference(encoder), matrix.digest, sources, notes, {}, {}, options.seed)
        manifest = make_manifest(fitted, corpus, provenance, held_out=held_out, left_out=left_out)
        check_prompt_content(manifest, is_allowed=may_hold_prompt_vectors)
        card = _card(out.resolve().name, manifest, corpus, held_out, left_out)
        return write_artifact(out, manifest, fitted.graph, card, estimator=fitted.estimator)


def own_corpus(
    matrix: OutcomeMatrix,
    *,
    encoder: PromptEncoder,
    prices: Mapping[str, tuple[float, float]],
    progress: Progress,
    encode: Encode | None = None,
) -> Corpus:
    """Encode the prompts and price the arms.

    Parameters
    ----------
    matrix, encoder, prices, progress
        As for `fit_outcomes`.
    encode : callable, optional
        Makes vectors (n, d) and features (n, f) where the texts are, when the matrix does not have them.

    Returns
    -------
    Corpus

    Raises
    ------
    TrainingError
        ``too_few_arms``, ``no_prices``.
    """
    if len(matrix.arms) < 2:
        raise TrainingError("the outcomes name one arm only; there is nothing to choose", code="too_few_arms")
    priced = arm_prices(matrix, prices)
    if encode is not None:
        vectors, features = encode(progress)
    else:
        vectors = encode_prompts(encoder, matrix.prompts, lambda done, total: progress("encoding", done, total))
        features = feature_matrix(matrix.prompts)
    features = with_context(features, matrix.context)
    # Every answer counts as free-form, since nothing tells them apart.
    is_free_form = np.ones(len(matrix.prompts), dtype=bool)
    return Corpus(matrix, vectors, features, is_free_form, priced)


def arm_prices(matrix: OutcomeMatrix, given: Mapping[str, tuple[float, float]]) -> dict[str, tuple[float, float]]:
    """Price every arm: as given, or as the costs in the outcomes imply.

    Raises
    ------
    TrainingError
        ``no_prices``: an arm has neither; ``unknown_arm``: a price for an arm without outcomes.
    """
    unknown = sorted(set(given) - set(matrix.arms))
    if unknown:
        raise TrainingError(f"prices name arms without outcomes: {', '.join(unknown)}", code="unknown_arm")
    lengths = matrix.prompt_tokens
    found, missing = dict(given), []
    for index, arm in enumerate(matrix.arms):
        if arm in found:
            continue
        sent = np.where(np.isfinite(matrix.input_tokens[:, index]), matrix.input_tokens[:, index], lengths)
        written = np.nan_to_num(matrix.output_tokens[:, index].astype(np.float64), nan=ASSUMED_OUTPUT_TOKENS)
        price = recover_price(sent.astype(np.float64), written, matrix.cost_usd[:, index].astype(np.float64))
        if math.isnan(price[0]):
            missing.append(arm)
        found[arm] = price
    if missing:
        raise TrainingError(
            f"no cost_usd in the outcomes and no price given for: {', '.join(missing)}; use --prices", code="no_prices"
        )
    return {arm: found[arm] for arm in matrix.arms}


def dearest_arm(prices: Mapping[str, tuple[float, float]]) -> str:
    """Name the arm with the highest blended price (three input tokens to one output token), the first of equals."""
    return max(prices, key=lambda arm: 3.0 * prices[arm][0] + prices[arm][1])


def _leave_sources_out(
    corpus: Corpus, reference: str, options: FitOptions, progress: Progress
) -> dict[str, EvaluationReport]:
    """Per large source, as far as the others suffice; nothing when there is only one."""
    counts = Counter(corpus.matrix.sources)
    large = [name for name, prompts in counts.most_common(MAX_SOURCES_LEFT_OUT) if prompts >= MIN_COMPLETE_PROMPTS]
    names = sorted(large) if len(counts) > 1 else []
    if not names:
        return {}
    shared = options.engine.share((corpus, reference, replace(options, engine=LOCAL)))
    found = options.engine.map(
        _without_source, shared, names, lambda done, total: progress("sources left out", done, total)
    )
    return {name: report for name, report in zip(names, found, strict=True) if report is not None}


def _without_source(everything: tuple[Corpus, str, FitOptions], source: str) -> EvaluationReport | None:
    corpus, reference, options = everything
    train, test = leave_source_out(corpus.matrix, source)
    try:
        fitted = fit_router(corpus.rows(train), reference_arm=reference, options=options, progress=silent)
        return evaluate_on(fitted, corpus.rows(test), f"all of {source}, fitted without it", options)
    except TrainingError as error:
        if error.code not in _TOO_LITTLE:
            raise
        return None


def _sources(matrix: OutcomeMatrix, licence: str) -> tuple[SourceEntry, ...]:
    names = np.asarray(matrix.sources, dtype=object)
    entries = []
    for name in sorted(set(matrix.sources)):
        rows = np.flatnonzero(names == name)
        entries.append(SourceEntry(name, licence, int(rows.size), int(np.isfinite(matrix.score[rows]).sum())))
    return tuple(entries)


def _card(
    name: str,
    manifest: Manifest,
    corpus: Corpus,
    held_out: EvaluationReport,
    left_out: dict[str, EvaluationReport],
) -> CardReport:
    return CardReport(
        title=name,
        summary=_SUMMARY,
        artifact_id=manifest.id,
        family=manifest.family,
        encoder=manifest.encoder.id,
        size_bytes=manifest.graph_bytes,
        default_arm=manifest.reference_arm,
        sources=[CardSource(s.name, s.licence, s.prompts, s.outcomes) for s in manifest.training.sources],
        arms=[CardArm(entry.name, *corpus.prices[entry.name], entry.mean_score) for entry in manifest.arm_entries],
        held_out=held_out,
        left_out=left_out,
        overlaps=source_overlaps(corpus.matrix.sources, corpus.matrix.groups),
        usage=_USAGE,
    )
