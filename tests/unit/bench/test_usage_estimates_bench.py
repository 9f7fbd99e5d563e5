"""Rules of the token estimates bench's arithmetic, and a short run of it."""

from __future__ import annotations

import importlib
import json
import sys
from pathlib import Path
from types import ModuleType

import pytest


@pytest.fixture
def estimates(repository_root: Path, monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    """The bench as a module; its neighbours are found as they are when it runs."""
    monkeypatch.syspath_prepend(str(repository_root / "bench"))
    return importlib.import_module("usage_estimates")


def test_summary_of_texts_tells_single_errors_from_the_sum(estimates: ModuleType) -> None:
    """Errors of single texts are without sign; those of the sum cancel out, as they do on an invoice."""
    row = estimates.summary("t", "k", [(40, 8), (40, 20), (400, 100)], 1, 4)
    assert row["median_error"] == 0.25
    assert row["p95_error"] == 0.5
    assert row["bias"] == pytest.approx(120 / 128 - 1)
    assert row["bytes_per_token"] == pytest.approx(480 / 128)


@pytest.mark.parametrize(("share", "expected"), [(0.5, 2), (0.75, 3), (0.95, 4), (1.0, 4), (0.0, 1)])
def test_quantile_is_a_value_that_was_measured(estimates: ModuleType, share: float, expected: int) -> None:
    """The smallest value that at least so many do not exceed."""
    assert estimates.quantile([1, 2, 3, 4], share) == expected


def test_violations_are_counted_at_every_length_of_a_text(estimates: ModuleType) -> None:
    """A text whose beginning has a token per byte breaks the bound there, although the whole keeps it."""
    rows = list(estimates._rows("t", lambda text: text.count("1") + 1, {"k": ["1" * 50 + "a" * 200]}))
    assert 0 < rows[0]["violations"] < rows[0]["accumulations"]


def test_texts_of_every_kind_are_there_and_the_same_each_time(estimates: ModuleType) -> None:
    """Sixteen languages with their sentences, the project's files, and generated tables from a seed."""
    texts = estimates.texts_by_kind(per_kind=2)
    assert texts == estimates.texts_by_kind(per_kind=2)
    assert len(estimates.passages()) == 16
    assert all(len(texts[language]) > 3 for language in estimates.passages())
    assert all(pieces for pieces in texts.values())


def test_short_run_without_any_tokenizer_prints_one_json_object(
    estimates: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """The bench runs on a bare installation, says what is missing, and keeps standard output for machines."""
    monkeypatch.setattr(sys, "argv", ["usage_estimates.py", "--quick", "--json"])
    monkeypatch.setattr(estimates, "_litellm_tokenizers", tuple)
    monkeypatch.setenv("PENSTOCK_DATA", str(tmp_path))
    estimates.main()
    shown = capsys.readouterr()
    found = json.loads(shown.out)
    assert {row["tokenizer"] for row in found["rows"]} == {"bundled encoder"}
    assert [group["group"] for group in found["groups"]] == ["languages", "code, prose and JSON", "numbers and base64"]
    assert "recorded counts skipped" in shown.err
    assert "no language model's tokenizer" in shown.err
