"""The journal: what a kill leaves, what is refused, and what a continued run may rely on."""

from __future__ import annotations

import json
from collections.abc import Callable
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest

from penstock_training.collect.journal import CallEnded, PromptScored, open_journal, peek_journal
from penstock_training.errors import TrainingError

SETTINGS: dict[str, Any] = {"arms": ["a", "b"], "seed": 0, "prompts (SHA-256)": "f" * 64}
SAMPLE = [("s\x1fq1", "random"), ("s\x1fq2", "informative")]
KEY = SAMPLE[0][0]
ARMS = ("a", "b")


def _end(call: int, arm: str, result: str = "answered", charge: str = "0.25") -> CallEnded:
    return CallEnded(call, KEY, arm, result, Decimal(charge), 1.0, 0.5, answer="x" if result == "answered" else None)


def _filled(path: Path) -> Path:
    """A journal with an answer by a, a scoring of it, and a call to b that never ended."""
    with open_journal(path, SETTINGS, SAMPLE) as journal:
        journal.end_call(_end(journal.begin_call(KEY, "a", Decimal(1)), "a"))
        call = journal.begin_call(KEY, "", Decimal(1))
        journal.end_call(PromptScored(call, KEY, {"a": (1.0, "equal")}, Decimal("0.1")))
        journal.begin_call(KEY, "b", Decimal("0.7"))
    return path


def test_journal_opened_again_knows_answers_scores_and_what_a_lost_call_may_have_cost(tmp_path: Path) -> None:
    """Charges add up, and a call without an end counts as the most it can have cost."""
    path = _filled(tmp_path / "out.jsonl.journal")
    with open_journal(path, SETTINGS, []) as journal:
        state = journal.state
        assert journal.is_continued
        assert [tuple(entry) for entry in journal.start.sample] == SAMPLE
        assert state.spent_usd == Decimal("0.25") + Decimal("0.1") + Decimal("0.7")
        assert state.lost_calls == 1
        assert state.missing_arms(KEY, ARMS) == ("b",)
        assert not state.needs_scoring(KEY, ARMS)
        journal.end_call(_end(journal.begin_call(KEY, "b", Decimal(1)), "b"))
        assert state.needs_scoring(KEY, ARMS)  # the earlier scoring did not see this answer


@pytest.mark.parametrize(
    "damage",
    [
        lambda text: text + b'{"type":"end","ca',
        lambda text: text + b"\0" * 50,
        lambda text: text[:-1],
        lambda text: text + b"{}\n",
    ],
    ids=["half a line", "zeros", "no line end", "no record"],
)
def test_journal_with_a_damaged_last_line_is_cut_and_goes_on(tmp_path: Path, damage: Callable[[bytes], bytes]) -> None:
    """A line that a crash left half-written is cut off, its length is reported, and new records follow whole ones."""
    path = _filled(tmp_path / "out.jsonl.journal")
    path.write_bytes(damage(path.read_bytes()))
    with open_journal(path, SETTINGS, []) as journal:
        assert journal.cut_bytes > 0
        journal.end_call(_end(journal.begin_call(KEY, "b", Decimal(1)), "b", "censored"))
    lines = path.read_bytes().splitlines()
    assert all(json.loads(line) for line in lines)
    with open_journal(path, SETTINGS, []) as journal:
        assert journal.cut_bytes == 0
        assert journal.state.missing_arms(KEY, ARMS) == ()


def test_journal_damaged_in_the_middle_is_refused_and_left_alone(tmp_path: Path) -> None:
    """Damage that no crash makes is not papered over."""
    path = _filled(tmp_path / "out.jsonl.journal")
    lines = path.read_bytes().splitlines(keepends=True)
    path.write_bytes(b"".join([lines[0], b"garbage\n", *lines[2:]]))
    before = path.read_bytes()
    with pytest.raises(TrainingError, match="line 2 is damaged") as caught, open_journal(path, SETTINGS, []):
        pass
    assert caught.value.code == "journal_damaged"
    assert path.read_bytes() == before


def test_journal_with_other_settings_is_refused_by_naming_the_difference(tmp_path: Path) -> None:
    """What differs is named with both values, and nothing else is."""
    path = _filled(tmp_path / "out.jsonl.journal")
    other = SETTINGS | {"arms": ["a", "c"], "max tokens": 5}
    for opening in (lambda: peek_journal(path, other), lambda: open_journal(path, other, []).__enter__()):
        with pytest.raises(TrainingError) as caught:
            opening()
        assert caught.value.code == "other_settings"
        assert 'arms: ["a","b"] before, ["a","c"] now' in caught.value.message
        assert "max tokens: nothing before, 5 now" in caught.value.message
        assert "seed" not in caught.value.message


def test_journal_that_another_run_writes_is_locked(tmp_path: Path) -> None:
    """Two runs never write one file; the lock goes with the process that holds it."""
    path = tmp_path / "out.jsonl.journal"
    with open_journal(path, SETTINGS, SAMPLE):
        with pytest.raises(TrainingError) as caught, open_journal(path, SETTINGS, SAMPLE):
            pass
        assert caught.value.code == "journal_locked"
    with open_journal(path, SETTINGS, SAMPLE) as journal:
        assert journal.is_continued


def test_journal_peeked_at_is_neither_made_nor_changed(tmp_path: Path) -> None:
    """Looking leaves no file behind and cuts nothing."""
    path = tmp_path / "out.jsonl.journal"
    assert peek_journal(path, SETTINGS) is None
    assert not path.exists()
    _filled(path)
    path.write_bytes(path.read_bytes() + b"{")
    found = peek_journal(path, SETTINGS)
    assert found is not None
    assert found[1].lost_calls == 1
    assert path.read_bytes().endswith(b"{")


def test_journal_answer_is_never_replaced_by_a_later_failure(tmp_path: Path) -> None:
    """An answer or a time-out stands; a failure only stands until something better comes."""
    with open_journal(tmp_path / "j", SETTINGS, SAMPLE) as journal:
        for arm, results in {"a": ("failed", "answered", "failed"), "b": ("censored", "failed")}.items():
            for result in results:
                journal.end_call(_end(journal.begin_call(KEY, arm, Decimal(1)), arm, result))
        assert journal.state.answered_arms(KEY, ARMS) == ("a",)
        assert journal.state.missing_arms(KEY, ARMS) == ()


def test_journal_of_another_version_is_refused(tmp_path: Path) -> None:
    """A file of a later version is not misread."""
    path = tmp_path / "j"
    path.write_text(json.dumps({"type": "run", "version": 99, "settings": {}, "sample": []}) + "\n")
    with pytest.raises(TrainingError, match="no journal of this version"):
        peek_journal(path, {})
