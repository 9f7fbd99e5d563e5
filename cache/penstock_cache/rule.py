"""The decision rule: whether an earlier prompt asks for the same answer.

Owns the order of the questions (vetoes, a cheap model, the second encoder, the full model, the threshold) and the
rule's manifest. It embeds nothing and fetches nothing: cosines and texts are given. Read `DecisionRule.screen`, then
`DecisionRule.judge`.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal

import msgspec
import numpy as np

from penstock_cache.entries import FloatArray
from penstock_cache.errors import RuleError
from penstock_cache.guards.agreement import GuardReport, examine
from penstock_cache.pair_features import FEATURE_NAMES, Grams, feature_set_id, pair_values
from penstock_cache.pairs import Draft, Drafts, JudgedText, PairCandidate, Screened
from penstock_cache.word_evidence import WordEvidence

RULE_SCHEMA = 1
MANIFEST_FILE = "manifest.json"
MODEL_FILE = "pair_model.onnx"
POOLED = "*"
"""Row of the operating points that holds for categories without one of their own."""

MAX_SEMANTIC_CHARACTERS = 1_000
"""Longest text that another wording may stand for. The second encoder reads 256 tokens, about so many characters of
English; prompts that differ behind its window would look alike."""

PairModel = Callable[[FloatArray], FloatArray]
"""From pair features, shape (n, f), to probabilities that both prompts have the same answer, shape (n,)."""

_VERIFY, _HAS_VERIFY = FEATURE_NAMES.index("verify_cosine"), FEATURE_NAMES.index("has_verify_cosine")

RuleMode = Literal["semantic", "faq-intent"]

VerifierUse = Literal["adaptive", "always", "never"]
"""For which near entries the second encoder runs: plausible ones, all, none. Thresholds hold for one use alone."""

# Checked when a manifest is read: a threshold of zero would serve everything.
_Share = Annotated[float, msgspec.Meta(ge=0.0, le=1.0)]
_Threshold = Annotated[float, msgspec.Meta(gt=0.0, le=1.0)]
_Cosine = Annotated[float, msgspec.Meta(ge=-1.0, le=1.0)]
_Candidates = Annotated[int, msgspec.Meta(ge=1, le=1_000)]


class OperatingPoint(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """One certified threshold.

    Attributes
    ----------
    category : str
        `POOLED` for all that have none of their own.
    mode : str
    budget : float
        Most false hits per request that the calibration certified.
    threshold : float or None
        Least probability of a hit; None: not certifiable, semantic look-ups stay off at this budget.
    requests, hits, false_hits : int
        Of the calibration stream.
    false_hit_rate_upper : float
        Upper bound at confidence ``1 − delta``.
    delta : float
    """

    category: str
    mode: RuleMode
    budget: _Share
    threshold: _Threshold | None
    requests: int
    hits: int
    false_hits: int
    false_hit_rate_upper: float
    delta: float = 0.05


class OtherUse(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What is certified where the second encoder is not used adaptively.

    Attributes
    ----------
    use : str
    miss_rate : float
        Share of the true hits that it loses on the calibration data, against asking always.
    points : list of OperatingPoint
    """

    use: Literal["always", "never"]
    miss_rate: _Share
    points: list[OperatingPoint]


class RuleManifest(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What a rule's folder says of itself.

    Attributes
    ----------
    schema_version : int
    feature_set : str
        `pair_features.feature_set_id` of the version that it was fitted with.
    encoder_id : str
        Search encoder whose cosines it was fitted on.
    verifier_id : str
        Second encoder.
    model_sha256 : str
    candidates : int
        Nearest entries that are judged.
    min_cosine : float
        Search cosine under which a pair is not looked at.
    min_plausible : float
        Probability without the second encoder under which it is not asked.
    plausible_miss_rate : float
        Share of the served true hits that `min_cosine` and `min_plausible` lose on the calibration data.
    word_weights : dict of str to float
        Log-odds that a word on one side only means another answer.
    unknown_word_weight : float
    points : list of OperatingPoint
    data : list of dict
        Name, licence, number of texts and digest of everything it was fitted or calibrated on.
    versions : dict of str to str
    other_uses : list of OtherUse
        Empty in rules that were calibrated for the adaptive use alone.
    """

    schema_version: int
    feature_set: str
    encoder_id: str
    verifier_id: str
    model_sha256: str
    candidates: _Candidates
    min_cosine: _Cosine
    min_plausible: _Share
    plausible_miss_rate: _Share
    word_weights: dict[str, float]
    unknown_word_weight: float
    points: list[OperatingPoint]
    data: list[dict[str, str | int]]
    versions: dict[str, str]
    other_uses: list[OtherUse] = []


@dataclass(frozen=True, slots=True)
class Judgement:
    """What the rule says of one look-up.

    Attributes
    ----------
    entry_id : str or None
        None: a miss.
    probability : float
        Of the best candidate, evidence included; 0 when none got so far.
    cosine : float
        Of that candidate.
    reason : str
        ``served``, ``no_neighbour``, ``implausible``, ``below_threshold``, ``opinion``, or ``guard:`` and the veto's
        name.
    best_id : str or None
        The best candidate, served or not; None when none got so far.
    """

    entry_id: str | None
    probability: float
    cosine: float
    reason: str
    best_id: str | None = None


class DecisionRule:
    """Judges pairs of prompts.

    Parameters
    ----------
    manifest : RuleManifest
    model : PairModel
    use : str
        Of the second encoder.

    Raises
    ------
    RuleError
        Code ``cache_rule_mismatch``: nothing is calibrated for that use.
    """

    def __init__(self, manifest: RuleManifest, model: PairModel, use: VerifierUse = "adaptive") -> None:
        self.manifest = manifest
        self.points = _points_for(manifest, use)
        self.asks_verifier = use != "never"
        self._min_plausible = manifest.min_plausible if use == "adaptive" else 0.0
        self._model = model
        self._words = WordEvidence(manifest.word_weights, manifest.unknown_word_weight)
        self._points: dict[tuple[str, str], list[OperatingPoint]] = {}
        for point in sorted(self.points, key=lambda point: point.budget):
            self._points.setdefault((point.mode, point.category), []).append(point)

    def threshold(self, category: str, mode: RuleMode, budget: float) -> float | None:
        """Return the threshold that is certified for a budget; None when nothing is.

        Parameters
        ----------
        category : str
        mode : str
        budget : float
            False hits per request. The largest calibrated budget that is not above it counts.
        """
        points = self._points.get((mode, category)) or self._points.get((mode, POOLED)) or []
        within = [point for point in points if point.budget <= budget * (1.0 + 1e-9)]
        return within[-1].threshold if within else None

    def draft(self, drafts: Drafts, candidates: Sequence[PairCandidate], threshold: float = 0.0) -> list[Draft]:
        """Work out what `screen` needs of candidates, but for what is in `drafts` already, and put it there.

        Parameters
        ----------
        drafts : Drafts
            Of the prompt.
        candidates : sequence of PairCandidate
            Their evidence is not looked at.
        threshold : float
            As for `screen`.

        Returns
        -------
        list of Draft
            In the order of the candidates.
        """
        found = [drafts.find(candidate) or self._drafted(drafts, candidate) for candidate in candidates]
        if not self.asks_verifier:
            return found
        wants_most = threshold > 0.0
        unasked = [
            draft
            for draft in found
            if draft.features is not None and (draft.alone is None or (wants_most and draft.most is None))
        ]
        if unasked:
            rows = np.array([draft.features for draft in unasked])
            if wants_most:  # asked with the others: a run of the model costs as much as some ten rows
                rows = np.concatenate((rows, rows))
                rows[len(unasked) :, _VERIFY] = rows[len(unasked) :, _HAS_VERIFY] = 1.0
            told = self._probabilities(rows)
            for draft, alone, most in zip(unasked, told[: len(unasked)], told[-len(unasked) :], strict=True):
                draft.alone, draft.most = alone, most if wants_most else None
        return found

    def screen(
        self,
        prompt: JudgedText,
        candidates: Sequence[PairCandidate],
        threshold: float = 0.0,
        *,
        drafts: Drafts | None = None,
    ) -> tuple[list[Screened], str]:
        """Drop candidates that cannot be served, without the second encoder.

        Parameters
        ----------
        prompt : JudgedText
        candidates : sequence of PairCandidate
        threshold : float
            As `judge` will be given it: who would stay below it whatever the second encoder says is dropped, too.
        drafts : Drafts, optional
            What `draft` has worked out of the same prompt.

        Returns
        -------
        screened : list of Screened
        reason : str
            Why the nearest candidate was dropped, when all were.

        Notes
        -----
        The plausibility was calibrated, and loses the share of hits that the manifest tells. Dropping by the threshold
        loses nothing: the model never falls as the second encoder's cosine rises (`fit_pair_model` fits it so), so its
        probability at a cosine of 1 is the most that a candidate can reach.
        """
        near = [candidate for candidate in candidates if candidate.cosine >= self.manifest.min_cosine]
        if not near:
            return [], "no_neighbour"
        found = self.draft(Drafts(prompt) if drafts is None else drafts, near, threshold)
        reason = f"guard:{found[0].found}" if isinstance(found[0].found, str) else "implausible"
        kept = [
            (Screened(candidate, draft.found, draft.features), draft)
            for candidate, draft in zip(near, found, strict=True)
            if draft.features is not None and not isinstance(draft.found, str)
        ]
        if not kept:
            return [], reason
        if not self.asks_verifier:
            return [item for item, _ in kept], "below_threshold"
        plausible = [(item, draft) for item, draft in kept if (draft.alone or 0.0) >= self._min_plausible]
        if not plausible:
            return [], reason
        reachable = [
            item
            for item, draft in plausible
            if threshold <= 0.0 or item.candidate.evidence.shrunk(draft.most or 0.0) >= threshold
        ]
        return reachable, "below_threshold"

    def judge(self, screened: Sequence[Screened], verified: Sequence[float] | None, threshold: float) -> Judgement:
        """Choose the entry that is served, if any.

        Parameters
        ----------
        screened : sequence of Screened, length n, at least 1
            As `screen` returned them.
        verified : sequence of float, length n, or None
            Cosines by the second encoder; None where it is never asked.
        threshold : float
            As `threshold` returned it.

        Returns
        -------
        Judgement
        """
        rows = [item.features for item in screened]
        if verified is not None:
            rows = [with_verifier(row, cosine) for row, cosine in zip(rows, verified, strict=True)]
        probabilities = [
            item.candidate.evidence.shrunk(p)
            for item, p in zip(screened, self._probabilities(np.array(rows)), strict=True)
        ]
        best = max(range(len(screened)), key=probabilities.__getitem__)
        candidate = screened[best].candidate
        is_served = probabilities[best] >= threshold
        reason = "served" if is_served else "below_threshold"
        served_id = candidate.entry_id if is_served else None
        return Judgement(served_id, probabilities[best], candidate.cosine, reason, candidate.entry_id)

    def _probabilities(self, rows: FloatArray) -> list[float]:
        found: list[float] = self._model(rows).tolist()
        return found

    def _drafted(self, drafts: Drafts, candidate: PairCandidate) -> Draft:
        """Let the guards compare the prompt with an entry's, and measure the pair if none forbids reuse."""
        prompt, other = drafts.prompt, candidate.judged
        found = examine(prompt.signature, other.signature)
        features = None
        if not isinstance(found, str):
            features = rule_features(
                prompt, other, found, self._words, cosine=candidate.cosine, verified=math.nan, grams=drafts.grams
            )
        draft = drafts.by_entry[candidate.entry_id] = Draft(other.text, candidate.cosine, found, features)
        return draft


def _points_for(manifest: RuleManifest, use: VerifierUse) -> list[OperatingPoint]:
    found: dict[str, list[OperatingPoint]] = {other.use: other.points for other in manifest.other_uses}
    if use == "adaptive" or use in found:
        return found.get(use, manifest.points)
    raise RuleError(
        f"The cache rule has no thresholds for a second encoder that is asked {use} (cache.verifier_use); "
        "calibrate it again with 'penstock-train cache-calibrate'.",
        code="cache_rule_mismatch",
    )


def with_verifier(features: FloatArray, cosine: float) -> FloatArray:
    """Return a pair's features with the second encoder's cosine put in, shape (f,)."""
    found = features.copy()
    found[_VERIFY], found[_HAS_VERIFY] = cosine, 1.0
    return found


def rule_features(
    one: JudgedText,
    other: JudgedText,
    report: GuardReport,
    words: WordEvidence,
    *,
    cosine: float,
    verified: float,
    grams: Grams | None = None,
) -> FloatArray:
    """Return the features of a pair as serving and training both compute them, shape (f,), float32."""
    a, b = one.signature, other.signature
    shared = pair_values(a, b, report, cosine=cosine, verify_cosine=verified, grams=grams)
    return np.array((*shared, *words.values(a, b)), dtype=np.float32)


def rule_feature_set() -> str:
    """Return the identifier of everything that `rule_features` computes."""
    return f"{feature_set_id()}-{WordEvidence.VERSION}"


def load_rule(
    folder: Path,
    open_model: Callable[[bytes], PairModel],
    *,
    encoder_id: str,
    verifier_id: str,
    use: VerifierUse = "adaptive",
) -> DecisionRule:
    """Read a rule's folder and verify it.

    Parameters
    ----------
    folder : Path
    open_model : callable
        Opens an ONNX graph of one input ``features`` (n, f) and one output (n,).
    encoder_id, verifier_id : str
        Fingerprints of the encoders in use.
    use : str
        For which entries the second encoder is to run.

    Returns
    -------
    DecisionRule

    Raises
    ------
    RuleError
        A file is missing or changed, or the rule was made for another encoder, feature set, schema or use.
    """
    try:
        content = (folder / MANIFEST_FILE).read_bytes()
        graph = (folder / MODEL_FILE).read_bytes()
    except OSError as error:
        raise RuleError(
            f"The cache rule in {folder} cannot be read: {error.strerror}.", code="cache_rule_missing"
        ) from None
    manifest = read_manifest(content)
    if hashlib.sha256(graph).hexdigest() != manifest.model_sha256:
        raise RuleError(f"The cache rule in {folder} is damaged: its model was changed.", code="cache_rule_damaged")
    expected: Mapping[str, tuple[str, str]] = {
        "feature set": (manifest.feature_set, rule_feature_set()),
        "search encoder": (manifest.encoder_id, encoder_id),
        "second encoder": (manifest.verifier_id, verifier_id),
    }
    for name, (made_for, in_use) in expected.items():
        if made_for != in_use:
            raise RuleError(
                f"The cache rule in {folder} was made for another {name} ({made_for[:16]}, here {in_use[:16]}); "
                "calibrate it again with 'penstock-train cache-calibrate'.",
                code="cache_rule_mismatch",
            )
    return DecisionRule(manifest, open_model(graph), use)


def read_manifest(content: bytes) -> RuleManifest:
    """Read a manifest.

    Raises
    ------
    RuleError
        It is not one, or of another schema.
    """
    try:
        manifest = msgspec.json.decode(content, type=RuleManifest)
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise RuleError(f"The cache rule's manifest cannot be read: {error}.", code="cache_rule_damaged") from None
    if manifest.schema_version != RULE_SCHEMA:
        raise RuleError(
            f"The cache rule has schema {manifest.schema_version}; this version reads {RULE_SCHEMA}.",
            code="cache_rule_mismatch",
        )
    return manifest
