"""One rule, computed twice: what the calibration replayed is what the cache serves."""

from __future__ import annotations

import asyncio
import json
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import msgspec
import numpy as np
import pytest
from numpy.typing import NDArray

from penstock_cache.answer_cache import AnswerCache, CacheParts
from penstock_cache.entries import FloatArray
from penstock_cache.index.partitions import PartitionedIndex
from penstock_cache.judging import EntryJudge
from penstock_cache.lookups import Hit
from penstock_cache.mirror import IndexMirror
from penstock_cache.pairs import JudgedText, PairCandidate
from penstock_cache.quotas import CategoryQuotas
from penstock_cache.residency import ResidentSet
from penstock_cache.rule import DecisionRule, OperatingPoint, load_rule
from penstock_cache.stores.changes import IndexRecord
from penstock_cache.stores.memory import MemoryDocumentStore
from penstock_gateway.caching.start import open_pair_model
from penstock_training.cache_rule.calibrate import MIN_COSINE
from penstock_training.cache_rule.pair_table import EncodedTexts, PairTable, pair_table
from penstock_training.cache_rule.rule_files import read_scorer
from penstock_training.cache_rule.scoring import PairScores, score_pairs
from penstock_training.cache_rule.session import Encoders, calibrate_own
from penstock_training.cache_rule.streams import replay
from penstock_training.cache_rule.texts import read_texts
from support.cache_documents import NOW
from support.cache_lookups import FAQ, POLICIES, accepts_all, answer, chosen, completion, look

STREAMED_QUADS = 60
THRESHOLDS = np.array([0.9, 0.7, 0.5])
TOLERANCE = 1e-6  # the same float32 graph over the same float32 features on either side


@dataclass(frozen=True)
class Made:
    """A rule from the command's own code, and everything that its calibration saw of the streamed texts."""

    rule: DecisionRule
    encoders: Encoders
    encoded: EncodedTexts
    table: PairTable
    scores: PairScores


@pytest.fixture(scope="module")
def made(repository_root: Path, tmp_path_factory: pytest.TempPathFactory) -> Made:
    """Calibrate on one part of the open corpus, and look at another part of it."""
    folder = tmp_path_factory.mktemp("rule")
    lines = (repository_root / "cache/corpus/open_1.jsonl").read_text(encoding="utf-8").rstrip("\n").split("\n")
    lines = [lines[number] for number in np.random.default_rng(0).permutation(len(lines)).tolist()]
    for name, part in (("fitted", lines[STREAMED_QUADS:]), ("streamed", lines[:STREAMED_QUADS])):
        (folder / f"{name}.jsonl").write_text("\n".join(part) + "\n", encoding="utf-8")
    calibrate_own([folder / "fitted.jsonl"], folder / "out", base=folder, refits=True, mode="semantic")
    encoders = Encoders.bundled()
    rule = load_rule(
        folder / "out",
        open_pair_model,
        encoder_id=encoders.search.encoder_id,
        verifier_id=encoders.verify.encoder_id,
    )
    encoded = encoders.encode(read_texts([folder / "streamed.jsonl"]))
    table = pair_table(encoded, min_cosine=MIN_COSINE)
    scores = score_pairs(table, read_scorer(folder / "out"), np.arange(len(encoded.texts)))
    return Made(rule, encoders, encoded, table, scores)


def test_rule_in_serving_says_of_each_pair_what_the_calibration_said(made: Made) -> None:
    """The same vetoes, the same pairs worth the second encoder, and the same probabilities with and without it."""
    table, rule, scores = made.table, made.rule, made.scores
    texts = [JudgedText.of(text) for text in table.texts.texts]
    counts = Counter[str]()
    for row, column in np.argwhere(table.is_near).tolist():
        other = int(table.neighbours[row, column])
        candidate = PairCandidate("x", texts[other], float(table.cosines[row, column]))
        screened, reason = rule.screen(texts[row], [candidate])
        plausible = scores.plausible[row, column]
        assert reason.startswith("guard:") is bool(table.is_vetoed[row, column])
        if not screened:
            # Pairs at the bound itself may fall on either side of it.
            assert plausible < rule.manifest.min_plausible + TOLERANCE
            counts["vetoed" if table.is_vetoed[row, column] else "implausible"] += 1
            continue
        counts["judged"] += 1
        verified = float(table.verified[row, column])
        assert float(rule._model(screened[0].features[None, :])[0]) == pytest.approx(plausible, abs=TOLERANCE)
        served = rule.judge(screened, [verified], 0.5)
        assert served.probability == pytest.approx(scores.full[row, column], abs=TOLERANCE)
    assert min(counts[name] for name in ("vetoed", "implausible", "judged")) > 50


@pytest.mark.parametrize("threshold", THRESHOLDS.tolist())
def test_rule_screens_by_the_threshold_without_losing_a_pair_that_would_be_served(made: Made, threshold: float) -> None:
    """What no second cosine could lift is dropped early; every pair that `judge` serves is still there."""
    table, scores = made.table, made.scores
    rule = DecisionRule(msgspec.structs.replace(made.rule.manifest, min_plausible=0.0), made.rule._model)
    texts = [JudgedText.of(text) for text in table.texts.texts]
    counts = Counter[str]()
    for row, column in np.argwhere(table.is_near & ~table.is_vetoed).tolist():
        other = int(table.neighbours[row, column])
        candidate = PairCandidate("x", texts[other], float(table.cosines[row, column]))
        screened, _ = rule.screen(texts[row], [candidate], threshold)
        counts["kept" if screened else "dropped"] += 1
        assert screened or scores.full[row, column] < threshold + TOLERANCE
    assert min(counts["kept"], counts["dropped"]) > 50


def test_rule_without_the_second_encoder_says_what_the_calibration_counted(made: Made) -> None:
    """Never asked, the model's first word is the last: serving and the calibration of that use take the same number."""
    table, manifest = made.table, made.rule.manifest
    rule = DecisionRule(manifest, made.rule._model, "never")
    texts = [JudgedText.of(text) for text in table.texts.texts]
    for row, column in np.argwhere(table.is_near & ~table.is_vetoed)[:400].tolist():
        candidate = PairCandidate("x", texts[table.neighbours[row, column]], float(table.cosines[row, column]))
        screened, _ = rule.screen(texts[row], [candidate], 0.99)
        expected = made.scores.plausible[row, column]
        assert rule.judge(screened, None, 0.5).probability == pytest.approx(expected, abs=TOLERANCE)
    always, never = manifest.other_uses
    assert never.miss_rate > manifest.plausible_miss_rate
    assert [each.hits for each in never.points] != [each.hits for each in always.points]


@dataclass(frozen=True)
class Served:
    """What an answer cache did with a stream."""

    is_hit: NDArray[np.bool_]
    is_true: NDArray[np.bool_]


async def served(made: Made, order: Sequence[int], threshold: float) -> Served:
    """Send texts through an answer cache with the real encoders; misses are stored, as the calibration has it."""
    point = OperatingPoint("*", "semantic", FAQ.false_hit_budget, threshold, 1, 1, 0, 0.0)
    rule = DecisionRule(msgspec.structs.replace(made.rule.manifest, points=[point]), made.rule._model)
    places = {text: row for row, text in enumerate(made.encoded.texts.texts)}

    async def verify(texts: Sequence[str]) -> FloatArray:
        return made.encoded.verify[[places[text] for text in texts]]

    problems: list[str] = []
    mirror = IndexMirror(
        PartitionedIndex(made.encoders.search.dimension),
        ResidentSet(CategoryQuotas(1 << 26, {})),
        clock=lambda: NOW,
        on_problem=problems.append,
    )
    judge = EntryJudge(rule, verify, reads_whole=made.encoders.verify.reads_whole)
    cache = AnswerCache(
        CacheParts(MemoryDocumentStore(), mirror, POLICIES, made.encoders.search.encoder_id, judge),
        clock=lambda: NOW,
        on_problem=problems.append,
        max_answer_bytes=10_000,
    )
    groups, told = made.encoded.texts.groups, []
    for row in order:
        asked, vector = look(made.encoded.texts.texts[row]), made.encoded.search[row]
        cache.parts.contexts.see(asked.tenant, asked.key.context)
        cache.parts.contexts.see(asked.tenant, asked.key.context)
        found = await cache.find_exact(asked, accepts_all)
        if not isinstance(found, Hit):
            found = await cache.find_semantic(asked, vector, chosen("faq"), accepts_all)
        if isinstance(found, Hit):
            group = json.loads(found.document.body)["choices"][0]["message"]["content"]
            told.append((True, group == f"group {groups[row]}"))
            continue
        told.append((False, False))
        fresh = answer(body=completion(f"group {groups[row]}"))
        stored = await cache.store(asked, chosen("faq"), fresh, vector)
        assert stored.document is not None
        mirror.add(IndexRecord.of(stored.document), stored.document.prompt_vector())
    assert problems == []
    is_hit, is_true = np.array(told).T
    return Served(is_hit, is_true)


@pytest.mark.parametrize("rung", range(len(THRESHOLDS)))
def test_cache_serves_what_the_calibration_replayed(made: Made, rung: int) -> None:
    """Over whole streams, repeats included, decisions of the real cache and of the replay agree nearly always."""
    rows = len(made.encoded.texts)
    shuffled = np.random.default_rng(7).permutation(rows)
    order = np.concatenate([shuffled, shuffled[:40]])
    world = made.scores.world(made.table, made.rule.manifest.min_plausible)
    expected = replay(world, order, THRESHOLDS[rung : rung + 1], candidates=made.rule.manifest.candidates)
    found = asyncio.run(served(made, order.tolist(), float(THRESHOLDS[rung])))
    differs = (found.is_hit != expected.is_hit[0]) | (found.is_true != expected.is_true[0])
    assert expected.is_hit.sum() > 80
    assert expected.is_false.any()
    # The cache keeps vectors in float16, which moves a cosine by up to 5e-4, and the calibration lists 24 near texts:
    # a pair at a bound may fall on its other side, and what it then stores or does not may change one more decision.
    assert differs.sum() <= 0.005 * len(order)
