"""A decision rule as a folder: manifest, ONNX graph, card.

Owns what is written and the reading of a rule's model back into training. Read `write_rule`.
"""

from __future__ import annotations

import hashlib
import importlib.metadata
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import msgspec

from penstock_cache.errors import RuleError
from penstock_cache.rule import (
    MANIFEST_FILE,
    MODEL_FILE,
    POOLED,
    RULE_SCHEMA,
    OperatingPoint,
    OtherUse,
    RuleManifest,
    read_manifest,
    rule_feature_set,
)
from penstock_cache.word_evidence import WordEvidence
from penstock_training.cache_rule.calibrate import RuleCalibration
from penstock_training.cache_rule.pair_model import PairScorer
from penstock_training.cache_rule.streams import CANDIDATES
from penstock_training.cache_rule.texts import TextSet
from penstock_training.errors import TrainingError

CARD_FILE = "CARD.md"
_TABLE_HEAD = (
    "| category | budget, of requests | threshold | calibration requests | hits | false hits | upper bound |",
    "| --- | --: | --: | --: | --: | --: | --: |",
)


def write_rule(
    folder: Path,
    calibration: RuleCalibration,
    model: PairScorer,
    *,
    encoder_id: str,
    verifier_id: str,
    data: Sequence[tuple[TextSet, str, str]],
) -> RuleManifest:
    """Write a rule's folder; the manifest last, so that a killed run leaves nothing that loads.

    Parameters
    ----------
    folder : Path
    calibration : RuleCalibration
    model : PairScorer
    encoder_id, verifier_id : str
    data : sequence of (TextSet, str, str)
        What was used, its role (``fit``, ``calibrate`` or both) and its licence.

    Returns
    -------
    RuleManifest
    """
    graph = model.graph()
    manifest = RuleManifest(
        schema_version=RULE_SCHEMA,
        feature_set=rule_feature_set(),
        encoder_id=encoder_id,
        verifier_id=verifier_id,
        model_sha256=hashlib.sha256(graph).hexdigest(),
        candidates=CANDIDATES,
        min_cosine=calibration.min_cosine,
        min_plausible=calibration.min_plausible,
        plausible_miss_rate=round(calibration.plausible_miss_rate, 4),
        word_weights=model.words.weights,
        unknown_word_weight=model.words.unknown,
        points=calibration.points,
        data=[
            {"name": texts.name, "role": role, "licence": licence, "texts": len(texts), "sha256": texts.digest}
            for texts, role, licence in data
        ],
        other_uses=[msgspec.structs.replace(use, miss_rate=round(use.miss_rate, 4)) for use in calibration.other_uses],
        versions={name: importlib.metadata.version(name) for name in ("penstock", "numpy", "scikit-learn")},
    )
    folder.mkdir(parents=True, exist_ok=True)
    (folder / MANIFEST_FILE).unlink(missing_ok=True)
    (folder / MODEL_FILE).write_bytes(graph)
    (folder / CARD_FILE).write_text(card(manifest), encoding="utf-8")
    content = msgspec.json.format(msgspec.json.encode(manifest), indent=1)
    (folder / MANIFEST_FILE).write_bytes(content + b"\n")
    return manifest


def card(manifest: RuleManifest) -> str:
    """Return the card: what the rule was made from and what is certified."""
    lines = [
        "# Decision rule of the semantic cache",
        "",
        "Whether an earlier prompt asks for the same answer: guards, then boosted trees over cosines of two encoders, "
        "lexical overlap, guard verdicts and learned word weights, then a threshold certified for a budget of false "
        "hits.",
        "",
        "| | |",
        "| --- | --- |",
        f"| words with a weight of their own | {len(manifest.word_weights):,} |",
        f"| search encoder | `{manifest.encoder_id}` |",
        f"| second encoder | `{manifest.verifier_id}`, asked where the model without it gives at least "
        f"{manifest.min_plausible:.3f}; that loses {100 * manifest.plausible_miss_rate:.1f} % of the true pairs |",
        *(f"| {item['role']} | {item['name']}, {item['texts']:,} texts, {item['licence']} |" for item in manifest.data),
        "",
        f"## Operating points (Learn then Test, δ = {manifest.points[0].delta:g})",
        "",
        *_TABLE_HEAD,
        *(_row(point) for point in manifest.points),
        *(line for use in manifest.other_uses for line in _use_lines(use)),
        "",
        "A budget without a threshold is not certifiable with this data: semantic look-ups then stay off.",
    ]
    return "\n".join(lines) + "\n"


def _use_lines(use: OtherUse) -> list[str]:
    return [
        "",
        f"With `cache.verifier_use: {use.use}`, which loses {100 * use.miss_rate:.1f} % of the true pairs that asking "
        "always serves:",
        "",
        *_TABLE_HEAD,
        *(_row(point) for point in use.points),
    ]


def _row(point: OperatingPoint) -> str:
    name = "all together" if point.category == POOLED else point.category
    threshold = "not certifiable" if point.threshold is None else f"{point.threshold:.3f}"
    cells = (
        name,
        f"{100 * point.budget:g} %",
        threshold,
        f"{point.requests:,}",
        f"{point.hits:,}",
        f"{point.false_hits:,}",
        f"{100 * point.false_hit_rate_upper:.2f} %",
    )
    return f"| {' | '.join(cells)} |"


@dataclass(frozen=True, slots=True)
class StoredScorer:
    """The pair model of a rule that lies in a folder.

    Attributes
    ----------
    manifest : RuleManifest
    words : WordEvidence
    content : bytes
        Its ONNX graph.
    """

    manifest: RuleManifest
    words: WordEvidence
    content: bytes

    def graph(self) -> bytes:
        """Return the ONNX graph."""
        return self.content


def read_scorer(folder: Path) -> StoredScorer:
    """Read a rule's pair model, to calibrate it anew.

    Raises
    ------
    TrainingError
        Code ``cache_rule_unusable``: missing, damaged, or of another feature set.
    """
    try:
        manifest = read_manifest((folder / MANIFEST_FILE).read_bytes())
        graph = (folder / MODEL_FILE).read_bytes()
    except OSError as error:
        raise TrainingError(f"{folder} holds no cache rule: {error.strerror}", code="cache_rule_unusable") from None
    except RuleError as error:
        raise TrainingError(error.message, code="cache_rule_unusable") from None
    if manifest.feature_set != rule_feature_set() or hashlib.sha256(graph).hexdigest() != manifest.model_sha256:
        raise TrainingError(
            f"the rule in {folder} was changed, or made by another version; fit one with --refit",
            code="cache_rule_unusable",
        )
    return StoredScorer(manifest, WordEvidence(manifest.word_weights, manifest.unknown_word_weight), graph)
