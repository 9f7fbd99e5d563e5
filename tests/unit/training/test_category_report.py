"""Probe prompts, where they go, and what is said about it."""

from __future__ import annotations

from collections import Counter

import numpy as np
import pytest

from penstock_routers.policy import Tradeoff
from penstock_training.category_report import Probe, confusion_by_source, load_probes, measure_probes
from penstock_training.decisions import EstimateArrays

ARMS = ("weak", "strong")


def _decided(choices: list[int], novelty: float = 0.0) -> EstimateArrays:
    """Estimates under which λ = 0 without guard takes exactly these arms; the weak one is free."""
    quality = np.where(np.array(choices)[:, None] == np.arange(2), 0.9, 0.2)
    count = len(choices)
    return EstimateArrays(
        ARMS, "strong", quality, quality - quality[:, [1]], np.zeros((count, 2)), np.full(count, novelty),
        np.tile([0.001, 0.01], (count, 1)),
    )  # fmt: skip


def _report(probes: list[Probe], choices: list[int], novelty: float = 0.0):
    return measure_probes(
        probes,
        _decided(choices, novelty),
        top_arm="strong",
        tradeoffs=[Tradeoff("quality", 0.0, 0.0)],
        cost_scale_usd=0.01,
        novelty_max=0.5,
    )


def _probes(kind: str, easy: int, hard: int) -> list[Probe]:
    return [Probe(kind, f"easy {i}", "easy") for i in range(easy)] + [
        Probe(kind, f"hard {i}", "hard") for i in range(hard)
    ]


def test_load_probes_every_kind_has_at_least_twelve_different_prompts() -> None:
    """Each kind is large enough for a share to mean something, and no prompt occurs twice."""
    probes = load_probes()
    counts = Counter((probe.kind, probe.difficulty) for probe in probes)
    assert min(counts.values()) >= 12
    assert {("coding", "easy"), ("coding", "hard"), ("maths", "easy"), ("maths", "hard"), ("jailbreak", "")} <= set(
        counts
    )
    assert len({probe.prompt for probe in probes}) == len(probes)


@pytest.mark.parametrize(
    ("easy_strong", "hard_strong", "words"),
    [
        (12, 12, "Nearly every coding prompt goes to strong, easy ones too"),
        (1, 11, "It tells hard coding from easy"),
        (11, 1, "It sends easy coding to strong more often than hard"),
        (6, 7, "No sign that it tells hard coding from easy"),
    ],
)
def test_measure_probes_verdict_on_difficulty_follows_the_interval(
    easy_strong: int, hard_strong: int, words: str
) -> None:
    """Topic or difficulty: all to the top, told apart, the wrong way round, or not decided."""
    choices = [int(i < easy_strong) for i in range(12)] + [int(i < hard_strong) for i in range(12)]
    found = _report(_probes("coding", 12, 12), choices)
    assert found.verdicts[0].sentence.startswith(words)
    by_difficulty = {result.difficulty: result for result in found.results}
    assert by_difficulty["easy"].top_share.value == pytest.approx(easy_strong / 12)
    assert by_difficulty["hard"].arm_shares == pytest.approx({"strong": hard_strong / 12, "weak": 1 - hard_strong / 12})


def test_measure_probes_jailbreaks_that_leave_the_default_arm_are_named() -> None:
    """Where jailbreaks go is said with shares and with what to do about it."""
    probes = [Probe("jailbreak", f"attempt {i}") for i in range(10)]
    assert "30 % leave the default arm strong (30 % to weak)" in _report(probes, [0] * 3 + [1] * 7).verdicts[0].sentence
    assert _report(probes, [1] * 10).verdicts[0].sentence == "All stay with the default arm strong."


def test_measure_probes_novel_prompts_are_not_praised_as_judged() -> None:
    """Prompts that keep the default arm because they are novel are counted and named as such."""
    found = _report([Probe("smalltalk", f"hello {i}") for i in range(12)], [0] * 12, novelty=0.9)
    assert found.results[0].abstained_share == 1.0
    assert found.results[0].top_share.value == 1.0
    assert "100 % only because the prompt is novel" in found.verdicts[0].sentence
    assert found.arms_by_cost == ("weak", "strong")


def test_confusion_by_source_counts_listed_prompts_and_leaves_unlisted_ones_out() -> None:
    """Accuracy is over prompts whose category the label map lists; chat says nothing about the head."""
    found = confusion_by_source(
        ["coding", "maths", "general", "legal", "coding"],
        ["code", "code", "code", "poetry", ""],
        ["", "", "", "", ""],
        ["a", "a", "a", "a", "b"],
    )
    assert [f.source for f in found] == ["a"]  # source b names no category
    only = found[0]
    assert (only.prompts, only.listed) == (4, 3)
    assert only.accuracy.value == pytest.approx(1 / 3)
    assert only.named_accuracy.value == pytest.approx(1 / 2)
    assert only.general_share == pytest.approx(1 / 4)
    row = dict(zip(only.labels, only.counts[only.labels.index("coding")], strict=True))
    assert row == {"coding": 1, "maths": 1, "legal": 0, "general": 1}
