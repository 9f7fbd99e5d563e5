"""The default artifact: which sets it is fitted on, with which licences, and how it is checked.

Owns everything that is special to the router that comes with the package. Read `fit_default`.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Final

import numpy as np
from numpy.typing import NDArray

from penstock_routers.artifact import RouterArtifact
from penstock_routers.bundled import DEFAULT_ENCODER, bundled_folder
from penstock_routers.encoder import PromptEncoder
from penstock_routers.manifest import Manifest, SourceEntry
from penstock_training.card import CardArm, CardReport, CardSource
from penstock_training.errors import TrainingError
from penstock_training.evaluation import evaluate
from penstock_training.evaluation_report import EvaluationReport
from penstock_training.fit import (
    Corpus,
    FitOptions,
    FittedRouter,
    completed,
    cost_scale_usd,
    estimate_arrays,
    feature_matrix,
    fit_router,
    single_threaded,
    split_prompts,
)
from penstock_training.outcomes import OutcomeMatrix, load_outcomes
from penstock_training.pack import Provenance, make_manifest, write_artifact
from penstock_training.progress import Progress, silent
from penstock_training.question_form import drop_options_in_half
from penstock_training.splits import leave_source_out, source_overlaps
from penstock_training.tiers import TIER_RULES, TIERS, TierTable, group_into_tiers, is_free_form
from penstock_training.vectors import encode_prompts, encoder_reference

REFERENCE_ARM: Final = "frontier"
# It meets traffic that nobody has seen, so it is shyer than a router fitted on one's own. With whole sets left out,
# guards below 2 standard errors cost up to 1.5 points of quality at ``quality`` (MMLU-Pro), 2 costs 0.1; giving up a
# quarter of the familiar prompts instead of a tenth brings ``balanced`` from -1.5 to -0.9 points on ZeroEval
# (docs/routing.md).
GUARD_Z_MIN: Final = 2.0
NOVELTY_QUANTILE: Final = 0.75
_APACHE: Final = "Apache-2.0"


@dataclass(frozen=True, slots=True)
class OutcomeSet:
    """One public outcome set.

    Attributes
    ----------
    source : str
        Its name inside the file.
    file : str
        Below ``routing/`` in the data folder.
    licence : str
        As its publisher states it.
    """

    source: str
    file: str
    licence: str


FITTED_SETS: Final = (
    OutcomeSet("mmlu_pro", "mmlu_pro.parquet", _APACHE),
    OutcomeSet("zeroeval", "zeroeval_core.parquet", _APACHE),
    OutcomeSet("routellm", "routellm_mmlu_gsm8k_mtbench.parquet", _APACHE),
)
# No licence is stated for its outcomes: nothing is fitted on it, it only checks what was fitted on the others.
CHECK_SET: Final = OutcomeSet("routerbench_3tasks", "routerbench_3tasks.parquet", "none stated; measured on only")

_NOTES: Final = (
    "models of each set grouped into tiers by accuracy and price (docs/routing.md); a tier's score is the mean "
    "over its models",
    "output lengths learned from free-form tasks only: gsm, math-l5, crux, gsm8k, mt_bench",
    "half of the multiple-choice questions were fitted without their options; all test prompts keep them",
    "rows of one query id with slightly different prompts count as one prompt, the first text standing for all",
)
_SUMMARY: Final = (
    "A starting point for gateways whose own outcomes are not collected yet. It scores four capability tiers; map your "
    "deployments to them. It knows exam questions, school and competition mathematics, small Python functions and "
    "logic grids, and abstains on most of what looks different. A few hundred outcomes of your own traffic make "
    "a better router: see `penstock-train fit --outcomes`."
)
_LIMITATIONS: Final = (
    "The outcomes are from 2023 and 2024. Today's small models are better than the small tier here, so the "
    "predicted loss from routing down is more likely too large than too small.",
    "Most prompts are multiple-choice exam questions. Chat, writing, translation, tool use and long documents are not "
    "covered; prompts far from the covered forms keep the default arm.",
    "A tier's score is a mean over several models, so the differences between models inside one tier are not seen.",
    "Completion lengths come from mathematics and code tasks; on other prompts they are close to one constant per "
    "tier.",
)
_USAGE: Final = (
    "It is in force without any configuration. Give each deployment a `tier` (`small`, `medium`, `large` or "
    "`frontier`) in "
    "the settings; `penstock route` shows what it decides and why. `make train` fits it again from the outcome sets."
)


def fit_default(data_folder: Path, out: Path, *, options: FitOptions, progress: Progress) -> RouterArtifact:
    """Fit, evaluate and write the default artifact.

    Parameters
    ----------
    data_folder : Path
        Holds ``routing/`` with the files of `FITTED_SETS` and, for the check, of `CHECK_SET`.
    out : Path
        Artifact folder to write.
    options : FitOptions
    progress : callable
        See `penstock_training.fit.fit_router`.

    Returns
    -------
    RouterArtifact
        As serving opens it.

    Raises
    ------
    TrainingError
        ``data_missing``, or whatever fitting raises.
    """
    shy = replace(options, guard_z_min=GUARD_Z_MIN, novelty_quantile=NOVELTY_QUANTILE)
    with single_threaded():
        return _fit_default(data_folder, out, shy, progress)


def _fit_default(data_folder: Path, out: Path, options: FitOptions, progress: Progress) -> RouterArtifact:
    encoder = PromptEncoder.load(bundled_folder(DEFAULT_ENCODER))
    models = _load(data_folder, FITTED_SETS)
    table = group_into_tiers(models)
    tested = split_prompts(table.matrix.groups, options.seed)["test"]
    shown = drop_options_in_half(table.matrix.prompts, tested)
    corpus = _corpus(table, shown, encoder, progress, "encoding")
    fitted = fit_router(corpus, reference_arm=REFERENCE_ARM, options=options, progress=progress)
    held_out = evaluate_on(fitted, corpus.rows(fitted.split["test"]), "held-out prompts of the fitted sets", options)
    original = _corpus(table, table.matrix.prompts, encoder, progress, "encoding with all options")
    left_out = _leave_sets_out(corpus, original, options, progress)
    check = _check(data_folder, fitted, table, encoder, options, progress)
    left_out.update(check)
    sources = _sources(models, FITTED_SETS)
    provenance = Provenance(
        encoder=encoder_reference(encoder),
        digest=models.digest,
        sources=sources,
        notes=_NOTES,
        tiers={tier: tier for tier in TIERS},
        members={tier: table.members(tier) for tier in TIERS},
        seed=options.seed,
    )
    manifest = make_manifest(fitted, corpus, provenance, held_out=held_out, left_out=left_out)
    card = _card(manifest, corpus, table, sources, held_out, left_out)
    return write_artifact(out, manifest, fitted.graph, card, estimator=fitted.estimator)


def evaluate_on(fitted: FittedRouter, corpus: Corpus, name: str, options: FitOptions) -> EvaluationReport:
    """Evaluate a fitted router at its own operating points on prompts it was not fitted on."""
    cost, balanced, quality = fitted.knob.tradeoffs
    corpus = completed(corpus, fitted.estimator)
    return evaluate(
        estimate_arrays(fitted.estimator, corpus, fitted.reference_arm),
        corpus.matrix,
        tradeoffs=(balanced, cost, quality),
        cost_scale_usd=cost_scale_usd(corpus.prices, fitted.reference_input_tokens, fitted.reference_output_tokens),
        novelty_max=fitted.novelty_max,
        name=name,
        resamples=options.resamples,
        seed=options.seed,
    )


def _load(data_folder: Path, sets: tuple[OutcomeSet, ...]) -> OutcomeMatrix:
    paths = [data_folder / "routing" / entry.file for entry in sets]
    missing = [path.name for path in paths if not path.is_file()]
    if missing:
        raise TrainingError(
            f"outcome files are missing under {data_folder}/routing: {', '.join(missing)}; set PENSTOCK_DATA",
            code="data_missing",
        )
    return load_outcomes(paths, on_bad_rows="skip").matrix()


def _corpus(table: TierTable, shown: list[str], encoder: PromptEncoder, progress: Progress, stage: str) -> Corpus:
    """Compute vectors and features of the prompts in the form in which they are shown."""
    vectors = encode_prompts(encoder, shown, lambda done, total: progress(stage, done, total))
    return Corpus(table.matrix, vectors, feature_matrix(shown), is_free_form(table.matrix.tasks), table.prices)


def _leave_sets_out(
    corpus: Corpus, original: Corpus, options: FitOptions, progress: Progress
) -> dict[str, EvaluationReport]:
    """Per set: fit on the others without its questions, evaluate on it in its original form."""
    reports = {}
    names = sorted(set(corpus.matrix.sources))
    for done, source in enumerate(names):
        progress("sets left out", done, len(names))
        train, test = leave_source_out(corpus.matrix, source)
        fitted = fit_router(corpus.rows(train), reference_arm=REFERENCE_ARM, options=options, progress=silent)
        reports[source] = evaluate_on(fitted, original.rows(test), f"all of {source}, fitted without it", options)
    progress("sets left out", len(names), len(names))
    return reports


def _check(
    data_folder: Path,
    fitted: FittedRouter,
    table: TierTable,
    encoder: PromptEncoder,
    options: FitOptions,
    progress: Progress,
) -> dict[str, EvaluationReport]:
    """Evaluate the final router on the set that nothing may be fitted on; empty when it is not there."""
    if not (data_folder / "routing" / CHECK_SET.file).is_file():
        return {}
    models = _load(data_folder, (CHECK_SET,))
    # Its frontier is that of the other sets; tiers without a model there stay empty and are not evaluated.
    rules = tuple(rule for rule in TIER_RULES if _has_member(models, rule.tier))
    found = group_into_tiers(models, rules)
    full = _with_all_arms(found.matrix, table.matrix.arms)
    checked = TierTable(full, found.models, table.prices)
    corpus = _corpus(checked, full.prompts, encoder, progress, "encoding the check set")
    source = full.sources[0]
    return {source: evaluate_on(fitted, corpus, f"all of {source}, never fitted on", options)}


def _has_member(models: OutcomeMatrix, tier: str) -> bool:
    try:
        group_into_tiers(models, tuple(rule for rule in TIER_RULES if rule.tier == tier))
    except TrainingError:
        return False
    return True


def _with_all_arms(matrix: OutcomeMatrix, arms: tuple[str, ...]) -> OutcomeMatrix:
    """Spread the columns over all arms, NaN where the set has none."""
    columns = [arms.index(arm) for arm in matrix.arms]

    def spread(values: NDArray[np.float32]) -> NDArray[np.float32]:
        wide = np.full((len(matrix.prompts), len(arms)), np.nan, dtype=np.float32)
        wide[:, columns] = values
        return wide

    return replace(
        matrix,
        arms=arms,
        score=spread(matrix.score),
        input_tokens=spread(matrix.input_tokens),
        output_tokens=spread(matrix.output_tokens),
        cost_usd=spread(matrix.cost_usd),
    )


def _sources(models: OutcomeMatrix, sets: tuple[OutcomeSet, ...]) -> tuple[SourceEntry, ...]:
    names = np.asarray(models.sources, dtype=object)
    entries = []
    for entry in sorted(sets, key=lambda entry: entry.source):
        rows = np.flatnonzero(names == entry.source)
        outcomes = int(np.isfinite(models.score[rows]).sum())
        entries.append(SourceEntry(entry.source, entry.licence, int(rows.size), outcomes))
    return tuple(entries)


def _card(
    manifest: Manifest,
    corpus: Corpus,
    table: TierTable,
    sources: tuple[SourceEntry, ...],
    held_out: EvaluationReport,
    left_out: Mapping[str, EvaluationReport],
) -> CardReport:
    return CardReport(
        title="default-router",
        summary=_SUMMARY,
        artifact_id=manifest.id,
        family=manifest.family,
        encoder=manifest.encoder.id,
        size_bytes=manifest.graph_bytes,
        default_arm=manifest.reference_arm,
        sources=[CardSource(s.name, s.licence, s.prompts, s.outcomes) for s in sources],
        arms=[
            CardArm(
                entry.name,
                entry.price_usd_per_million_input_tokens,
                entry.price_usd_per_million_output_tokens,
                entry.mean_score,
                entry.members,
            )
            for entry in manifest.arm_entries
        ],
        held_out=held_out,
        left_out=left_out,
        overlaps=source_overlaps(corpus.matrix.sources, corpus.matrix.groups),
        grouping=_grouping(table),
        limitations=_LIMITATIONS,
        usage=_USAGE,
    )


def _grouping(table: TierTable) -> tuple[str, ...]:
    """Say in words how models became tiers."""
    rules = "; ".join(
        f"`{r.tier}`: gap {'any' if r.gap_min == -np.inf else f'above {r.gap_min:g}'} up to {r.gap_max:g}, "
        f"{r.price_min:g} to {r.price_max:g} USD"
        for r in TIER_RULES
    )
    dropped = ", ".join(f"{m.source}/{m.model}" for m in table.models if m.tier is None)
    return (
        "A model belongs to a tier when its accuracy gap (logit of the set's best accuracy minus logit of its "
        "own) and its "
        f"blended list price (USD per million tokens, three input tokens to one output token) both fit: {rules}.",
        f"Fitting no tier, and left out: {dropped}.",
        "Prompts that ask the same question are one group, whatever set they come from, and are never divided between "
        "fitting and testing.",
    )
