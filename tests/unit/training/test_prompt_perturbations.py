"""Changes of prompts: deterministic, harmless, and measured on the decisions they cause."""

from __future__ import annotations

import json

import numpy as np
import pytest

from penstock_routers.policy import Tradeoff
from penstock_training.decisions import decide_rows
from penstock_training.perturbations import PERTURBATIONS, perturb
from penstock_training.robustness import measure_robustness, sample_rows
from support.outcome_samples import random_trial

CODE = (
    "Explain this:\n```python\ndo not = 'big' - x, \"y\"\nDefinition because. z\n```\nIt is wrong because of the loop."
)
PLAIN = 'Alice buys three pencils and does not pay. It is raining. How many pencils are there, and why is it "free"?'


@pytest.mark.parametrize("name", PERTURBATIONS)
def test_perturb_same_seed_gives_the_same_text_and_keeps_code(name: str) -> None:
    """A change depends on prompt and seed only, and never rewrites what stands in a code fence."""
    assert perturb(name, PLAIN, 1) == perturb(name, PLAIN, 1)
    assert perturb(name, PLAIN, 1) != PLAIN or name == "typos"
    fence = CODE[CODE.index("```") : CODE.rindex("```") + 3]
    if name not in {"quote wrapper", "JSON wrapper"}:  # these set every line, code too
        assert fence in perturb(name, CODE, 1)


def test_perturb_typos_differ_by_seed_and_stay_rare() -> None:
    """Another seed makes other typing errors, in about one of sixteen long words, and never in short ones."""
    text = "several thousand wonderful elephants walked quietly towards distant mountains " * 40
    one, two = perturb("typos", text, 1), perturb("typos", text, 2)
    assert one != two
    changed = sum(a != b for a, b in zip(one.split(), text.split(), strict=True))
    assert 0.03 < changed / len(text.split()) < 0.09
    assert perturb("typos", "to be or not to be " * 50, 1) == "to be or not to be " * 50


def test_perturb_paraphrase_contracts_substitutes_and_moves_the_question() -> None:
    """Contractions, a synonym and the question in front; keywords in capitals and options stay."""
    text = perturb("paraphrase", PLAIN, 3)
    assert text.startswith("How many pencils are there")
    assert "doesn't pay" in text
    assert "It's raining." in text
    query = "WRITE access is needed. Is that right?\nA) yes\nB) no"
    assert perturb("paraphrase", query, 3) == query


def test_perturb_wrappers_hold_the_whole_prompt() -> None:
    """Nothing of the question is lost: JSON decodes to it, quotation marks come off, other wrappers contain it."""
    assert json.loads(perturb("JSON wrapper", PLAIN, 0))["message"] == PLAIN
    quoted = perturb("quote wrapper", CODE, 0)
    assert "\n".join(line.removeprefix("> ") for line in quoted.split("\n")) == CODE
    assert PLAIN in perturb("polite wrapper", PLAIN, 0)
    assert PLAIN in perturb("system prefix", PLAIN, 0)


def test_perturb_unknown_name_is_a_key_error() -> None:
    """Only listed changes exist."""
    with pytest.raises(KeyError):
        perturb("rot13", PLAIN, 0)


def test_measure_robustness_same_estimates_change_nothing() -> None:
    """A router that does not react to wording keeps every decision, at no cost."""
    estimates, matrix = random_trial(0, 200, skill=0.9)
    found = measure_robustness(
        estimates,
        matrix,
        lambda texts: estimates,
        tradeoffs=[Tradeoff("balanced", 0.3, 0.5)],
        cost_scale_usd=0.01,
        novelty_max=0.9,
        names=("typos", "upper case"),
        resamples=50,
    )
    assert [result.perturbation for result in found] == ["typos", "upper case"]
    for result in found:
        assert result.unchanged_decisions.low == 1.0
        assert result.quality_change.value == result.cost_change.value == result.abstained_change.value == 0.0
    assert found[1].changed_text == 1.0


def test_measure_robustness_other_estimates_are_scored_by_the_original_labels() -> None:
    """Shares, quality and cost follow from the decisions on changed prompts and the outcomes of the original ones."""
    estimates, matrix = random_trial(0, 400, skill=0.9)
    shuffled = estimates.take(np.random.default_rng(0).permutation(400), estimates.arms)
    tradeoff = Tradeoff("balanced", 0.3, 0.0)
    (found,) = measure_robustness(
        estimates,
        matrix,
        lambda texts: shuffled,
        tradeoffs=[tradeoff],
        cost_scale_usd=0.01,
        novelty_max=np.inf,
        names=("paraphrase",),
        resamples=50,
    )
    before, after = (
        decide_rows(e, tradeoff, cost_scale_usd=0.01, novelty_max=np.inf).chosen for e in (estimates, shuffled)
    )
    rows = np.arange(400)
    assert found.unchanged_decisions.value == pytest.approx((before == after).mean())
    quality = matrix.score[rows, after].mean() - matrix.score[rows, before].mean()
    assert found.quality_change.value == pytest.approx(quality, abs=1e-6)
    cost = matrix.cost_usd[rows, after].mean() - matrix.cost_usd[rows, before].mean()
    assert found.cost_change.value == pytest.approx(cost / matrix.cost_usd[:, 2].mean(), rel=1e-4)


def test_sample_rows_are_sorted_distinct_and_repeatable() -> None:
    """A sample is the same for the same seed, and everything when there is less than asked for."""
    assert np.array_equal(sample_rows(10, 20, 0), np.arange(10))
    one = sample_rows(1000, 50, 4)
    assert np.array_equal(one, sample_rows(1000, 50, 4))
    assert np.unique(one).size == 50
