"""One run of ``penstock-train cache-calibrate``: read, embed, fit if asked, certify, write.

Owns the order of the steps and what is kept apart from what. Read `calibrate_own` and `make_default`.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Final

import msgspec
import numpy as np
from numpy.typing import NDArray

from penstock_cache.rule import RuleManifest, RuleMode
from penstock_routers.bundled import DEFAULT_ENCODER, PARAPHRASE_ENCODER, bundled_folder
from penstock_routers.encoder import PromptEncoder
from penstock_training.cache_rule.calibrate import (
    BUDGETS,
    MIN_COSINE,
    RuleCalibration,
    calibrate_rule,
    fit_rule,
    halves,
)
from penstock_training.cache_rule.pair_model import PairScorer
from penstock_training.cache_rule.pair_table import EncodedTexts, pair_table
from penstock_training.cache_rule.rule_files import read_scorer, write_rule
from penstock_training.cache_rule.texts import TextSet, read_texts
from penstock_training.errors import TrainingError
from penstock_training.fit import single_threaded
from penstock_training.progress import Progress, silent

FIT_SHARE: Final = 0.6
"""Of the texts' groups that the pair model is fitted on; the rest certifies."""

DEFAULT_FIT_SHARE: Final = 0.5
"""The same of the bundled rule: half, so that its larger categories can certify 1 %."""

DEFAULT_MARGIN: Final = 0.5
"""Share of each budget that the bundled rule is certified for: nobody's traffic is our corpus (docs/cache.md)."""

MIN_TEXTS: Final = 300
"""With fewer requests not even zero false hits certify 1 % at δ = .05 (Clopper–Pearson: 299)."""

_BATCH: Final = 64
CORPUS_WEIGHT: Final = 3.0
"""Of a pair of our own corpus against one of hwu64, which has five times as many with the same answer."""


@dataclass(frozen=True, slots=True)
class Encoders:
    """The two encoders of a rule.

    Attributes
    ----------
    search, verify : PromptEncoder
    """

    search: PromptEncoder
    verify: PromptEncoder

    @classmethod
    def bundled(cls) -> Encoders:
        """Load the ones that come with the package."""
        search, verify = (PromptEncoder.load(bundled_folder(name)) for name in (DEFAULT_ENCODER, PARAPHRASE_ENCODER))
        return cls(search, verify)

    def encode(self, texts: TextSet, progress: Progress = silent) -> EncodedTexts:
        """Embed a set by both."""
        return EncodedTexts(
            texts,
            _encoded(self.search, texts, "embedding for the search", progress),
            _encoded(self.verify, texts, "embedding with the second encoder", progress),
        )


def calibrate_own(
    files: Sequence[Path],
    out: Path,
    *,
    base: Path,
    refits: bool,
    mode: RuleMode,
    licence: str = "own",
    progress: Progress = silent,
) -> RuleManifest:
    """Calibrate a rule on texts of one's own.

    Parameters
    ----------
    files : sequence of Path
        Group, pair or quad files.
    out : Path
        Folder to write.
    base : Path
        Rule whose pair model is taken, unless `refits`.
    refits : bool
        Fit the pair model on `FIT_SHARE` of the groups and calibrate on the rest.
    mode : str
    licence : str
        Recorded in the manifest.
    progress : Progress

    Returns
    -------
    RuleManifest

    Raises
    ------
    TrainingError
        The files cannot be used, or hold too few texts (``cache_texts_too_few``).
    """
    texts = read_texts(files)
    if len(texts) < MIN_TEXTS:
        raise TrainingError(
            f"{len(texts)} texts are too few: {MIN_TEXTS} requests without a false hit are the least that certify 1 %",
            code="cache_texts_too_few",
        )
    encoders = Encoders.bundled()
    with single_threaded():
        table = pair_table(encoders.encode(texts, progress), min_cosine=MIN_COSINE, progress=progress)
        rows: NDArray[np.int64] = np.arange(len(texts))
        model: PairScorer
        base_rule: RuleManifest | None = None
        if refits:
            fit_rows, rows = halves(texts, FIT_SHARE, 0)
            model = fit_rule([(table, fit_rows)], weights={})
            used = [(texts, "fit and calibrate", licence)]
        else:
            model = stored = read_scorer(base)
            base_rule = stored.manifest
            used = [(texts, "calibrate", licence)]
        calibration = _beside(
            base_rule,
            mode,
            lambda least: calibrate_rule(model, [(table, rows)], mode=mode, budgets=BUDGETS, min_plausible=least),
        )
    return write_rule(
        out,
        calibration,
        model,
        encoder_id=encoders.search.encoder_id,
        verifier_id=encoders.verify.encoder_id,
        data=used,
    )


def _beside(
    base: RuleManifest | None, mode: RuleMode, calibrated: Callable[[float | None], RuleCalibration]
) -> RuleCalibration:
    """Keep the base's thresholds of the other mode, which hold for its model and its plausibility only."""
    kept = [] if base is None else [point for point in base.points if point.mode != mode]
    if base is None or not kept:
        return calibrated(None)
    found = calibrated(base.min_plausible)
    others = {use.use: [point for point in use.points if point.mode != mode] for use in base.other_uses}
    uses = [msgspec.structs.replace(use, points=[*others.get(use.use, []), *use.points]) for use in found.other_uses]
    return replace(found, points=[*kept, *found.points], other_uses=uses)


def make_default(corpus: Sequence[Path], hwu64: Path, out: Path, *, progress: Progress = silent) -> RuleManifest:
    """Make the rule that comes with the package, from our own corpus and hwu64 (CC BY 4.0, numbers only).

    It is calibrated on our own corpus alone: hwu64 counts "turn this room light off" and "turn the room light off" as
    two questions, so that its own labels are over the budgets.

    Parameters
    ----------
    corpus : sequence of Path
        The open half; the frozen half is for testing.
    hwu64 : Path
    out : Path
    progress : Progress

    Returns
    -------
    RuleManifest
    """
    sets = [read_texts(corpus, name="own corpus, open half"), read_texts([hwu64], name="hwu64")]
    encoders = Encoders.bundled()
    with single_threaded():
        ours, foreign = (
            pair_table(encoders.encode(texts, progress), min_cosine=MIN_COSINE, progress=progress) for texts in sets
        )
        fit_rows, rows = halves(ours.texts, DEFAULT_FIT_SHARE, 0)
        everything = np.arange(len(foreign.texts))
        model = fit_rule([(ours, fit_rows), (foreign, everything)], weights={sets[0].name: CORPUS_WEIGHT})
        calibration = calibrate_rule(model, [(ours, rows)], margin=DEFAULT_MARGIN, by_category=False)
    licences = ("Apache-2.0", "CC BY 4.0")
    return write_rule(
        out,
        calibration,
        model,
        encoder_id=encoders.search.encoder_id,
        verifier_id=encoders.verify.encoder_id,
        data=[
            (texts, role, licence)
            for texts, role, licence in zip(sets, ("fit and calibrate", "fit"), licences, strict=True)
        ],
    )


def _encoded(encoder: PromptEncoder, texts: TextSet, stage: str, progress: Progress) -> NDArray[np.float32]:
    order = sorted(range(len(texts)), key=lambda row: len(texts.texts[row]))
    vectors: NDArray[np.float32] | None = None
    for start in range(0, len(order), _BATCH):
        rows = order[start : start + _BATCH]
        found = encoder.encode([texts.texts[row] for row in rows])
        if vectors is None:
            vectors = np.empty((len(texts), found.shape[1]), dtype=np.float32)
        vectors[rows] = found
        progress(stage, min(start + _BATCH, len(order)), len(order))
    if vectors is None:
        raise TrainingError("there are no texts", code="cache_texts_one_group")
    return vectors
