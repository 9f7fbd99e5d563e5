"""The decision rule: which threshold holds, what is dropped before the second encoder, which entry is served."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pytest

from penstock_cache.entries import FloatArray
from penstock_cache.errors import RuleError
from penstock_cache.pair_features import FEATURE_NAMES
from penstock_cache.pairs import EVIDENCE_WEIGHT, Drafts, Evidence, JudgedText, PairCandidate
from penstock_cache.rule import (
    MANIFEST_FILE,
    MODEL_FILE,
    RULE_SCHEMA,
    DecisionRule,
    OtherUse,
    RuleManifest,
    VerifierUse,
    load_rule,
    read_manifest,
    rule_feature_set,
    with_verifier,
)
from penstock_cache.word_evidence import WORD_FEATURE_NAMES
from support.cache_rules import (
    COSINE,
    HAS_VERIFIED,
    SEARCH_ID,
    VERIFIED,
    VERIFIER_ID,
    by_verifier,
    manifest_of,
    point,
    rule_of,
)

QUESTION = JudgedText.of("How do I turn on dark mode?")


def candidate(
    entry_id: str, cosine: float, text: str = "How can I switch on dark mode?", evidence: Evidence | None = None
) -> PairCandidate:
    """Return an entry near the question."""
    return PairCandidate(entry_id, JudgedText.of(text), cosine, evidence or Evidence())


@pytest.mark.parametrize(
    ("category", "budget", "threshold"),
    [
        ("code", 0.01, 0.9),
        ("code", 0.005, 0.95),
        ("code", 0.007, 0.95),  # between two: the stricter one holds
        ("code", 0.5, 0.9),
        ("code", 0.004, None),  # below all that was certified
        ("legal", 0.01, None),  # its own row says not certifiable, and the pooled one must not overrule it
        ("faq", 0.01, 0.7),  # no row of its own
        ("no such category", 0.01, 0.7),
        ("faq", 0.009, None),
    ],
)
def test_threshold_is_that_of_the_largest_budget_within_the_one_wanted(
    category: str, budget: float, threshold: float | None
) -> None:
    """A category's own points go before the pooled ones, and no point above the budget is ever used."""
    points = [point(0.01, 0.9, "code"), point(0.01, 0.7), point(0.005, 0.95, "code"), point(0.01, None, "legal")]
    assert rule_of(points=points).threshold(category, "semantic", budget) == threshold


def test_threshold_of_the_other_mode_is_never_used() -> None:
    """Points certified for intents say nothing about paraphrases, nor the other way round."""
    rule = rule_of(points=[point(0.01, 0.6, mode="faq-intent"), point(0.01, 0.9, "faq")])
    assert rule.threshold("faq", "semantic", 0.01) == 0.9
    assert rule.threshold("code", "semantic", 0.01) is None
    assert rule.threshold("faq", "faq-intent", 0.01) == 0.6


def test_threshold_of_a_budget_with_a_rounding_error_is_found() -> None:
    """0.1 + 0.2 is not 0.3 in binary, and means it all the same."""
    rule = rule_of(points=[point(0.1 + 0.2, 0.9)])
    assert rule.threshold("faq", "semantic", 0.3) == 0.9


@pytest.mark.parametrize(
    ("near", "reason"),
    [
        ([], "no_neighbour"),
        ([("How can I switch on dark mode?", 0.49)], "no_neighbour"),
        ([("How do I turn off dark mode?", 0.95)], "guard:antonyms"),
        ([("How can I switch on dark mode?", 0.55)], "implausible"),
        ([("How do I turn off dark mode?", 0.95), ("How can I switch on dark mode?", 0.55)], "guard:antonyms"),
        ([("How can I switch on dark mode?", 0.56), ("How do I turn off dark mode?", 0.55)], "implausible"),
    ],
)
def test_screen_that_keeps_nothing_says_why_the_nearest_was_dropped(near: list[tuple[str, float]], reason: str) -> None:
    """Too far, forbidden by a guard, or implausible: the reason is the nearest entry's."""
    rule = rule_of(min_plausible=0.6)
    candidates = [candidate(f"e{number}", cosine, text) for number, (text, cosine) in enumerate(near)]
    assert rule.screen(QUESTION, candidates) == ([], reason)


def test_screen_drops_a_vetoed_entry_however_sure_the_model_is() -> None:
    """What a guard forbids never reaches the second encoder, and the next entry may still be served."""
    rule = rule_of(lambda rows: np.ones(len(rows), np.float32))
    screened, _ = rule.screen(QUESTION, [candidate("off", 0.99, "How do I turn off dark mode?"), candidate("on", 0.9)])
    assert [item.candidate.entry_id for item in screened] == ["on"]
    assert not screened[0].report.vetoes


def test_screen_asks_the_model_without_the_second_encoder() -> None:
    """Plausibility is judged with the second cosine left out and its flag lowered."""
    seen: list[FloatArray] = []

    def model(rows: FloatArray) -> FloatArray:
        seen.append(rows)
        return np.full(len(rows), 0.9, np.float32)

    rule_of(model).screen(QUESTION, [candidate("a", 0.9), candidate("b", 0.8)])
    (rows,) = seen
    assert rows.shape == (2, len(FEATURE_NAMES) + len(WORD_FEATURE_NAMES))
    assert rows.dtype == np.float32
    assert np.isfinite(rows).all()
    assert (rows[:, HAS_VERIFIED] == 0).all()


def test_screen_with_a_threshold_asks_the_model_once() -> None:
    """What is plausible and what the second encoder could make of it are rows of one run: each run has a price."""
    seen: list[FloatArray] = []

    def model(rows: FloatArray) -> FloatArray:
        seen.append(rows)
        return np.where(rows[:, HAS_VERIFIED] == 1, rows[:, 0], 0.9).astype(np.float32)

    near = [candidate("a", 0.95), candidate("b", 0.8), candidate("c", 0.85)]
    screened, _ = rule_of(model).screen(QUESTION, near, 0.84)
    assert [item.candidate.entry_id for item in screened] == ["a", "c"]
    (rows,) = seen
    assert rows[:, HAS_VERIFIED].tolist() == [0, 0, 0, 1, 1, 1]
    assert rows[:, VERIFIED].tolist() == [0, 0, 0, 1, 1, 1]


def test_screen_with_drafts_asks_the_model_about_what_is_new_alone() -> None:
    """What was drafted is asked about once; a draft of another text or cosine counts for nothing."""
    seen: list[int] = []

    def model(rows: FloatArray) -> FloatArray:
        seen.append(len(rows))
        return np.where(rows[:, HAS_VERIFIED] == 1, 1.0, rows[:, COSINE]).astype(np.float32)

    rule, drafts = rule_of(model), Drafts(QUESTION)
    near = [candidate("a", 0.95), candidate("b", 0.8), candidate("c", 0.85)]
    rule.draft(drafts, [*near[:1], candidate("b", 0.7), candidate("c", 0.85, "Can I switch on dark mode?")], 0.84)
    screened, _ = rule.screen(QUESTION, near, 0.84, drafts=drafts)
    assert [item.candidate.entry_id for item in screened] == ["a", "b", "c"]
    assert [item.features[COSINE] for item in screened] == pytest.approx([0.95, 0.8, 0.85])
    assert seen == [6, 4]


def test_screen_drops_an_entry_that_no_second_cosine_could_lift_to_the_threshold() -> None:
    """Where the model stays below the threshold even at a second cosine of 1, the second encoder cannot matter."""

    def model(rows: FloatArray) -> FloatArray:
        return np.where(rows[:, HAS_VERIFIED] > 0, np.minimum(rows[:, VERIFIED], rows[:, COSINE]), 0.9)

    candidates = [candidate("low", 0.75), candidate("high", 0.85)]
    screened, _ = rule_of(model).screen(QUESTION, candidates, 0.8)
    assert [item.candidate.entry_id for item in screened] == ["high"]
    assert (screened[0].features[[VERIFIED, HAS_VERIFIED]] == 0).all()
    assert rule_of(model).screen(QUESTION, candidates[:1], 0.8) == ([], "below_threshold")
    assert len(rule_of(model).screen(QUESTION, candidates, 0.75)[0]) == 2  # the threshold itself is served


@pytest.mark.parametrize(("evidence", "is_kept"), [(Evidence(0, 1), True), (Evidence(0, 3), False)])
def test_screen_counts_the_evidence_against_an_entry(evidence: Evidence, is_kept: bool) -> None:
    """An entry that was found wrong too often for the threshold is not worth the second encoder, however alike."""
    screened, _ = rule_of().screen(QUESTION, [candidate("a", 0.9, evidence=evidence)], 0.8)
    assert bool(screened) is is_kept  # 8 / 9 and 8 / 11 at most


def test_screen_says_of_an_entry_the_same_whatever_else_is_cached() -> None:
    """A pair's features do not depend on its neighbours: what was certified on one cache holds for another."""
    rule = rule_of()
    among, _ = rule.screen(QUESTION, [candidate("near", 0.95), candidate("it", 0.8), candidate("far", 0.6)])
    (alone,), _ = rule.screen(QUESTION, [candidate("it", 0.8)])
    (other,) = [item for item in among if item.candidate.entry_id == "it"]
    np.testing.assert_array_equal(alone.features, other.features)


def test_judge_serves_the_likeliest_entry_and_not_the_nearest() -> None:
    """Among screened entries the probability decides; the cosine reported is that entry's."""
    rule = rule_of()
    screened, _ = rule.screen(QUESTION, [candidate("near", 0.95), candidate("right", 0.7)])
    judgement = rule.judge(screened, [0.5, 0.9], 0.8)
    assert (judgement.entry_id, judgement.reason, judgement.cosine) == ("right", "served", 0.7)
    assert judgement.probability == pytest.approx(0.9, abs=1e-6)  # features are float32


@pytest.mark.parametrize(("threshold", "is_served"), [(0.75, True), (0.7500001, False)])
def test_judge_serves_from_the_threshold_on(threshold: float, is_served: bool) -> None:
    """A probability equal to the threshold is served, one below is not."""
    rule = rule_of()
    screened, _ = rule.screen(QUESTION, [candidate("a", 0.9)])
    judgement = rule.judge(screened, [0.75], threshold)  # 0.75 is exact in float32
    assert (judgement.entry_id == "a") is is_served
    assert judgement.reason == ("served" if is_served else "below_threshold")


@pytest.mark.parametrize(
    ("right", "wrong"), [(0, 0), (3, 0), (0, 3), (100, 0), (0, 100), (10_000, 10_000)]
)  # fmt: skip
def test_evidence_pulls_the_probability_towards_what_was_seen(right: int, wrong: int) -> None:
    """The model's estimate counts as eight confirmed hits; with many audits their share is all that counts."""
    probability, weight = 0.9, EVIDENCE_WEIGHT
    shrunk = Evidence(right, wrong).shrunk(probability)
    expected = (weight * probability + right) / (weight + right + wrong)
    assert shrunk == expected
    assert 0.0 <= shrunk <= 1.0
    if right + wrong >= 10_000:
        assert shrunk == pytest.approx(right / (right + wrong), abs=1e-3)  # the prior is 8 in 20,008


def test_judge_entry_found_wrong_before_loses_to_another() -> None:
    """Evidence decides between entries, and keeps one below the threshold that the model alone would serve."""
    rule = rule_of()
    bad = candidate("bad", 0.9, evidence=Evidence(0, 4))
    screened, _ = rule.screen(QUESTION, [bad, candidate("good", 0.89)])
    assert rule.judge(screened, [0.95, 0.85], 0.8).entry_id == "good"
    screened, _ = rule.screen(QUESTION, [bad])
    judgement = rule.judge(screened, [0.95], 0.8)
    assert (judgement.entry_id, judgement.reason) == (None, "below_threshold")
    assert judgement.probability == pytest.approx(8 * 0.95 / 12, abs=1e-6)


def test_features_hold_word_evidence_behind_the_pair_features() -> None:
    """A word on one side only brings its own weight; the order of the two texts does not matter."""
    rule = rule_of(word_weights={"night": 3.5, "dark": -1.0, "please": -0.5}, unknown_word_weight=0.25)
    one, other = JudgedText.of("turn on night mode"), JudgedText.of("turn on dark mode please")
    rows = []
    for first, second in ((one, other), (other, one)):
        (item,), _ = rule.screen(first, [PairCandidate("x", second, 0.9)])
        rows.append(item.features)
    np.testing.assert_array_equal(rows[0], rows[1])
    words = dict(zip(WORD_FEATURE_NAMES, rows[0][len(FEATURE_NAMES) :].tolist(), strict=True))
    assert words == {
        "word_largest": 3.5,
        "word_second": -0.5,
        "word_sum": 2.0,
        "word_smaller_largest": -0.5,
        "word_smaller_sum": -1.5,
    }


def test_judge_gets_the_second_cosine_of_each_entry_in_order() -> None:
    """Cosines by the second encoder belong to the screened entries one by one."""
    rule = rule_of()
    screened, _ = rule.screen(QUESTION, [candidate(f"e{number}", 0.9 - number / 100) for number in range(4)])
    for best in range(4):
        verified = [0.95 if number == best else 0.4 for number in range(4)]
        assert rule.judge(screened, verified, 0.9).entry_id == f"e{best}"


def for_use(use: VerifierUse) -> DecisionRule:
    """Return a rule with a threshold of its own for each use of the second encoder."""
    others = [OtherUse("always", 0.0, [point(0.01, 0.7)]), OtherUse("never", 0.3, [point(0.01, 0.85)])]
    return DecisionRule(manifest_of([point(0.01, 0.8)], other_uses=others, min_plausible=0.6), by_verifier, use)


@pytest.mark.parametrize(("use", "threshold"), [("adaptive", 0.8), ("always", 0.7), ("never", 0.85)])
def test_threshold_is_the_one_certified_for_the_use_of_the_second_encoder(use: VerifierUse, threshold: float) -> None:
    """What was certified with one use says nothing about another."""
    assert for_use(use).threshold("faq", "semantic", 0.01) == threshold


@pytest.mark.parametrize(("use", "kept"), [("adaptive", ["a"]), ("always", ["a", "b"]), ("never", ["a", "b"])])
def test_screen_drops_the_implausible_in_adaptive_use_only(use: VerifierUse, kept: list[str]) -> None:
    """Asked always, the second encoder may still lift what looks implausible; never asked, `judge` decides on all."""
    screened, _ = for_use(use).screen(QUESTION, [candidate("a", 0.9), candidate("b", 0.55)], 0.7)
    assert [item.candidate.entry_id for item in screened] == kept


def test_screen_without_the_second_encoder_drops_nothing_by_what_it_could_say() -> None:
    """What the model would say of a second cosine is no bound where there is none."""

    def doubts_verified(rows: FloatArray) -> FloatArray:
        return np.where(rows[:, HAS_VERIFIED] > 0, 0.1, rows[:, COSINE])

    rule = DecisionRule(manifest_of(other_uses=[OtherUse("never", 0.3, [])]), doubts_verified, "never")
    screened, _ = rule.screen(QUESTION, [candidate("a", 0.9)], 0.8)
    assert rule.judge(screened, None, 0.8).entry_id == "a"


@pytest.mark.parametrize(("threshold", "entry_id"), [(0.85, "a"), (0.95, None)])
def test_judge_without_second_cosines_decides_by_the_search_encoder(threshold: float, entry_id: str | None) -> None:
    """The features are left as they are where the second encoder is never asked."""
    rule = for_use("never")
    screened, _ = rule.screen(QUESTION, [candidate("b", 0.6), candidate("a", 0.9)], threshold)
    assert rule.judge(screened, None, threshold).entry_id == entry_id


@pytest.mark.parametrize("use", ["always", "never"])
def test_rule_that_was_not_calibrated_for_a_use_is_refused(tmp_path: Path, use: VerifierUse) -> None:
    """An older rule has thresholds for the adaptive use alone, and serves nothing by these in another."""
    write(tmp_path, manifest_of())
    with pytest.raises(RuleError, match="verifier_use") as caught:
        load_rule(tmp_path, lambda _: by_verifier, encoder_id=SEARCH_ID, verifier_id=VERIFIER_ID, use=use)
    assert caught.value.code == "cache_rule_mismatch"


def write(folder: Path, manifest: RuleManifest, graph: bytes = b"graph") -> None:
    """Write a rule's folder as it is meant to be."""
    folder.mkdir(exist_ok=True)
    (folder / MANIFEST_FILE).write_bytes(msgspec.json.encode(manifest))
    (folder / MODEL_FILE).write_bytes(graph)


def load(folder: Path, opened: list[bytes] | None = None) -> object:
    """Load a rule for the encoders of the tests."""

    def open_model(graph: bytes) -> Callable[[FloatArray], FloatArray]:
        if opened is not None:
            opened.append(graph)
        return by_verifier

    return load_rule(folder, open_model, encoder_id=SEARCH_ID, verifier_id=VERIFIER_ID)


def test_load_rule_of_a_whole_folder_opens_its_model(tmp_path: Path) -> None:
    """The graph whose digest was checked is the one that is opened."""
    write(tmp_path, manifest_of())
    opened: list[bytes] = []
    rule = load(tmp_path, opened)
    assert opened == [b"graph"]
    assert rule.manifest == manifest_of()  # type: ignore[attr-defined]


@pytest.mark.parametrize("missing", [MANIFEST_FILE, MODEL_FILE, "folder"])
def test_load_rule_without_a_file_is_refused_as_missing(tmp_path: Path, missing: str) -> None:
    """Half a folder, as a killed run leaves it, is no rule."""
    write(tmp_path, manifest_of())
    folder = tmp_path
    if missing == "folder":
        folder = tmp_path / "elsewhere"
    else:
        (tmp_path / missing).unlink()
    with pytest.raises(RuleError) as caught:
        load(folder)
    assert caught.value.code == "cache_rule_missing"


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"{",
        b"[]",
        b"\xff\xfe{}",
        b"{}",
        msgspec.json.encode(manifest_of())[:-20],
        msgspec.json.encode({**msgspec.to_builtins(manifest_of()), "more": 1}),
        msgspec.json.encode({**msgspec.to_builtins(manifest_of()), "points": [{"category": "x"}]}),
        msgspec.json.encode(manifest_of()).replace(b'"min_cosine":0.5', b'"min_cosine":"0.5"'),
        msgspec.json.encode(manifest_of()).replace(b'"mode":"semantic"', b'"mode":"loose"'),
        b"[" * 100_000,
    ],
)
def test_load_rule_with_a_manifest_that_is_none_is_refused_as_damaged(tmp_path: Path, content: bytes) -> None:
    """Cut, of another shape, or with fields this version does not know: nothing is opened."""
    write(tmp_path, manifest_of())
    (tmp_path / MANIFEST_FILE).write_bytes(content)
    opened: list[bytes] = []
    with pytest.raises(RuleError) as caught:
        load(tmp_path, opened)
    assert caught.value.code == "cache_rule_damaged"
    assert opened == []


def test_load_rule_whose_model_was_changed_is_refused_before_it_is_opened(tmp_path: Path) -> None:
    """A model that is not the one the manifest was certified with never runs."""
    write(tmp_path, manifest_of(), graph=b"grapH")
    opened: list[bytes] = []
    with pytest.raises(RuleError) as caught:
        load(tmp_path, opened)
    assert caught.value.code == "cache_rule_damaged"
    assert opened == []


@pytest.mark.parametrize(
    ("field", "value", "named"),
    [
        ("encoder_id", "another-search", "search encoder"),
        ("verifier_id", "another-verifier", "second encoder"),
        ("feature_set", "0000000000000000-words1", "feature set"),
        ("schema_version", RULE_SCHEMA + 1, "schema"),
    ],
)
def test_load_rule_made_for_something_else_is_refused_as_a_mismatch(
    tmp_path: Path, field: str, value: Any, named: str
) -> None:
    """Thresholds hold for the encoders and features they were certified with, and for no others."""
    write(tmp_path, manifest_of(**{field: value}))
    with pytest.raises(RuleError, match=named) as caught:
        load(tmp_path)
    assert caught.value.code == "cache_rule_mismatch"


@pytest.mark.parametrize(
    "change",
    [
        {"min_cosine": 1.5},
        {"min_plausible": -0.1},
        {"candidates": 0},
        {"points": [point(0.01, 0.0)]},
        {"points": [point(0.01, -1.0)]},
        {"points": [point(-0.01, 0.5)]},
    ],
)
def test_manifest_with_a_number_outside_its_range_is_refused(change: dict[str, Any]) -> None:
    """A threshold of zero would serve everything: numbers out of range are damage, not settings."""
    with pytest.raises(RuleError) as caught:
        read_manifest(msgspec.json.encode(manifest_of(**change)))
    assert caught.value.code == "cache_rule_damaged"


def test_manifest_written_and_read_back_is_the_same() -> None:
    """The schema holds all that a rule needs, None for what is not certifiable included."""
    manifest = manifest_of([point(0.01, 0.9), point(0.001, None, "legal")], data=[{"name": "own", "texts": 400}])
    assert read_manifest(msgspec.json.encode(manifest)) == manifest
    assert manifest.feature_set == rule_feature_set()
    assert manifest.model_sha256 == hashlib.sha256(b"graph").hexdigest()


def test_with_verifier_puts_in_the_second_cosine_alone() -> None:
    """What was computed before the second encoder was asked is used again, with its cosine and flag put in."""
    (item,), _ = rule_of().screen(QUESTION, [candidate("a", 0.9)])
    before = item.features.copy()
    after = with_verifier(item.features, 0.75)
    np.testing.assert_array_equal(item.features, before)
    assert (after[VERIFIED], after[HAS_VERIFIED]) == (0.75, 1.0)
    assert np.flatnonzero(after != before).tolist() == [VERIFIED, HAS_VERIFIED]
