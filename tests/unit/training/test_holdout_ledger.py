"""The account of a hold-out: what a try may spend, and that no accident opens a new account."""

from __future__ import annotations

import math
from pathlib import Path

import pytest

from penstock_training.publishing.ledger import (
    FAMILY_ERROR_RATE,
    MINIMUM_ERROR_RATE,
    HoldoutLedger,
    error_rate,
    holdout_digest,
)

PROMPTS = ["What is 2 + 2?", "Why is the sea salty?", "Name a prime above ten."]
WHO = {"at": "2026-01-05T10:00:00Z", "by": "somebody"}


def test_error_rates_over_all_histories_stay_below_the_promise() -> None:
    """Summed over every try and every history of answers, the rates never exceed the family's."""
    total = sum(
        math.comb(tries, promotions) * error_rate(tries, promotions)
        for tries in range(400)
        for promotions in range(tries + 1)
    )
    assert 0.5 * FAMILY_ERROR_RATE < total <= FAMILY_ERROR_RATE  # the rest belongs to later tries


def test_error_rate_falls_with_every_try_and_every_promotion() -> None:
    """Whoever has asked more has to be surer."""
    assert error_rate(0, 0) > error_rate(1, 0) > error_rate(2, 0)
    assert error_rate(5, 0) > error_rate(5, 1) > error_rate(5, 2)


def test_holdout_is_used_up_after_thirteen_tries_without_promotion(tmp_path: Path) -> None:
    """The account closes where a mean's tail is no longer known well enough."""
    ledger = HoldoutLedger(tmp_path, "d")
    tries = 0
    while (rate := ledger.next_error_rate) > 0.0:
        assert rate >= MINIMUM_ERROR_RATE
        ledger.ask(f"q{tries}", rate, **WHO)
        ledger.answer(f"q{tries}", rate, "keep", **WHO)
        tries += 1
    assert tries == ledger.tries == 13


def test_ledger_opened_again_knows_everything(tmp_path: Path) -> None:
    """The account is in the file, not in the process."""
    first = HoldoutLedger(tmp_path, "d")
    first.ask("q", 0.01, **WHO)
    first.answer("q", 0.01, "promote", **WHO)
    again = HoldoutLedger(tmp_path, "d")
    assert (again.tries, again.promotions, again.earlier_answer("q")) == (1, 1, "promote")
    assert again.earlier_answer("other") is None
    assert HoldoutLedger(tmp_path, "e").tries == 0


def test_ledger_of_a_killed_try_counts_it(tmp_path: Path) -> None:
    """A try that was killed before its answer, or in the middle of its line, gives no free look."""
    ledger = HoldoutLedger(tmp_path, "d")
    ledger.ask("q", 0.01, **WHO)
    assert HoldoutLedger(tmp_path, "d").tries == 1
    path = tmp_path / "d.jsonl"
    path.write_bytes(path.read_bytes() + b'{"at": "2026-0')
    cut = HoldoutLedger(tmp_path, "d")
    assert cut.tries == 2
    cut.ask("r", 0.01, **WHO)
    assert HoldoutLedger(tmp_path, "d").tries == 3


@pytest.mark.parametrize(
    "same",
    [
        list(reversed(PROMPTS)),
        [*PROMPTS, PROMPTS[0]],
        [prompt.upper() + "  " for prompt in PROMPTS],
        [f"Question: {prompt}\nAnswer:" for prompt in PROMPTS],
    ],
)
def test_holdout_digest_of_the_same_questions_is_the_same(same: list[str]) -> None:
    """Another order, a repetition or another dress of the questions opens no new account."""
    assert holdout_digest(same) == holdout_digest(PROMPTS)


def test_holdout_digest_of_other_questions_differs() -> None:
    """Another question is another hold-out."""
    assert holdout_digest(PROMPTS[:2]) != holdout_digest(PROMPTS)
