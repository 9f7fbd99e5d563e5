"""Collecting as a user runs it: rows, budget, resumption, kill, refusals, against a real local server."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
import time
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result

from penstock_training.cli import main
from penstock_training.collect.budget import ArmPrice, call_bound_usd
from penstock_training.collect.prompts import read_prompts
from penstock_training.outcomes import load_outcomes
from support.chat_upstream import INPUT_TOKENS, OUTPUT_TOKENS, ChatUpstream, running_chat_upstream
from support.outcome_samples import write_json_lines

MAX_TOKENS = 20
PRICES = {"good": [1.0, 2.0], "bad": [0.5, 1.0]}
CALL_USD = Decimal(INPUT_TOKENS + 2 * OUTPUT_TOKENS) / 1_000_000


class _Place:
    """A folder with prompts and prices, and the command line that collects from them."""

    def __init__(self, folder: Path, prompts: int = 6) -> None:
        self.folder, self.out = folder, folder / "out.jsonl"
        self.journal = folder / "out.jsonl.journal"
        rows = [{"prompt": f"Question {number}: say {number}", "reference": str(number)} for number in range(prompts)]
        self.prompts = write_json_lines(folder / "asked.jsonl", rows)
        (folder / "prices.json").write_text(json.dumps(PRICES))

    def arguments(self, upstream: ChatUpstream, *more: str, arms: str = "good,bad", budget: str = "1") -> list[str]:
        fixed = ["--prompts", str(self.prompts), "--arms", arms, "--scorer", "exact", "--out", str(self.out)]
        fixed += ["--base-url", upstream.base_url, "--prices", str(self.folder / "prices.json"), "--order", "random"]
        fixed += ["--budget-usd", budget, "--max-tokens", str(MAX_TOKENS), "--concurrency", "2", "--yes", *more]
        return ["collect", *fixed]

    def run(self, upstream: ChatUpstream, *more: str, **changes: str) -> Result:
        return CliRunner().invoke(main, self.arguments(upstream, *more, **changes))

    def rows(self) -> list[dict[str, Any]]:
        return [json.loads(line) for line in self.out.read_text().splitlines()]


@pytest.fixture
def place(tmp_path: Path) -> _Place:
    """Six prompts, two priced arms."""
    return _Place(tmp_path)


def _json(result: Result) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(result.stdout)
    return found


def _bounds(place: _Place) -> dict[str, Decimal]:
    """Most that a call to each arm can cost; all prompts are equally long."""
    prompt = read_prompts([place.prompts]).prompts[0]
    return {
        arm: call_bound_usd(prompt, ArmPrice(Decimal(str(i)), Decimal(str(o))), MAX_TOKENS)
        for arm, (i, o) in PRICES.items()
    }


def test_collect_of_a_whole_file_writes_outcomes_that_the_trainer_reads(place: _Place) -> None:
    """One row per prompt and arm with score, tokens, cost and how the prompt was drawn; nothing unknown in them."""
    with running_chat_upstream({"bad": ["say:nonsense"]}) as upstream:
        result = place.run(upstream, "--json")
    assert result.exit_code == 0, result.output
    table = load_outcomes([place.out])
    assert table.report.describe() == ""
    matrix = table.matrix()
    assert matrix.arms == ("bad", "good")
    assert matrix.score.mean(axis=0).tolist() == [0.0, 1.0]
    assert (matrix.output_tokens == OUTPUT_TOKENS).all()
    assert {row["sampling"] for row in place.rows()} == {"random"}
    summary = _json(result)
    assert summary["end"] == "complete"
    assert Decimal(summary["spent_usd"]) == 6 * CALL_USD * Decimal("1.5")
    assert [arm["mean_score"] for arm in summary["arms"]] == [1.0, 0.0]


def test_collect_text_output_shows_estimate_summary_and_next_command(place: _Place) -> None:
    """A person sees the cost before, each arm's score after, and what to do next."""
    with running_chat_upstream({"bad": ["cut"]}) as upstream:
        result = place.run(upstream)
    assert "at most USD" in result.stderr
    assert "1.000 ± 0.000" in result.stdout
    assert "6 cut at --max-tokens" in result.stdout
    assert f"penstock-train fit --outcomes {place.out}" in result.stdout


def test_outcome_file_that_is_written_anew_is_never_half_there(place: _Place) -> None:
    """Who reads the old file while the new one is written reads all of the old one."""
    with running_chat_upstream({"bad": ["status:400", "ok"]}) as upstream:
        place.run(upstream)
        with place.out.open("rb") as reader:
            place.run(upstream)
            assert len(reader.read().splitlines()) == 11
    assert len(place.rows()) == 12
    assert sorted(path.name for path in place.folder.iterdir() if "out" in path.name) == [
        "out.jsonl",
        "out.jsonl.journal",
    ]


def test_collect_given_again_when_complete_calls_nothing(place: _Place) -> None:
    """What is paid for is not paid for again, and the file stays as it is."""
    with running_chat_upstream() as upstream:
        place.run(upstream)
        before, calls = place.out.read_bytes(), len(upstream.seen)
        result = place.run(upstream)
    assert result.exit_code == 0
    assert len(upstream.seen) == calls == 12
    assert place.out.read_bytes() == before


def test_collect_within_a_small_budget_completes_prompts_and_goes_on_with_a_larger_one(place: _Place) -> None:
    """The budget ends the run with complete prompts only; a larger one asks only for what is missing."""
    budget = 2 * sum(_bounds(place).values())
    with running_chat_upstream() as upstream:
        result = place.run(upstream, "--json", budget=str(budget))
        summary = _json(result)
        assert result.exit_code == 3
        assert summary["end"] == "budget_used"
        assert 0 < summary["prompts_complete"] < 6
        assert Decimal(summary["spent_usd"]) <= budget
        assert len(place.rows()) == 2 * summary["prompts_complete"]
        assert _json(place.run(upstream, "--json"))["end"] == "complete"
    assert sorted(upstream.calls("good")) == sorted(set(upstream.calls("good")))
    assert len(place.rows()) == 12


def test_collect_cell_that_failed_is_asked_again_by_the_next_run_and_scored_with_the_rest(place: _Place) -> None:
    """A failure leaves its cell open; the next run asks that cell alone and grades the prompt anew."""
    with running_chat_upstream({"bad": ["status:400", "ok"]}) as upstream:
        first = _json(place.run(upstream, "--json"))
        assert first["end"] == "incomplete"
        assert [arm["failures"] for arm in first["arms"]] == [{}, {"http_400": 1}]
        assert len(place.rows()) == 11
        assert _json(place.run(upstream, "--json"))["end"] == "complete"
    assert (len(upstream.calls("good")), len(upstream.calls("bad"))) == (6, 7)
    assert len(place.rows()) == 12


def test_collect_answer_that_times_out_is_a_censored_row_without_a_score(place: _Place) -> None:
    """A time-out is written down as censored with the time waited, is not asked again, and counts in the summary."""
    with running_chat_upstream({"bad": ["hang", "ok"]}) as upstream:
        result = place.run(upstream, "--json", "--timeout-seconds", "0.5", "--concurrency", "1")
        summary = _json(result)
        assert summary["arms"][1]["censored"] == 1
        bounds = _bounds(place)["bad"]
        known = 6 * CALL_USD + 5 * CALL_USD / 2
        assert Decimal(summary["spent_usd"]) == known + bounds  # nobody knows what the one that hung has cost
        place.run(upstream, "--timeout-seconds", "0.5")
    censored = [row for row in place.rows() if row.get("is_censored")]
    assert len(censored) == 1
    assert censored[0]["score"] is None
    assert censored[0]["latency_seconds"] >= 0.5
    assert len(upstream.seen) == 12


def test_collect_arm_that_keeps_failing_stops_the_others_from_being_paid(tmp_path: Path) -> None:
    """After ten failures in a row the run ends, so that no more is spent on prompts without a comparison."""
    place = _Place(tmp_path, prompts=30)
    with running_chat_upstream({"bad": ["status:400"]}) as upstream:
        summary = _json(place.run(upstream, "--json"))
    assert summary["end"] == "arm_failing"
    assert len(upstream.calls("good")) < 15


def test_collect_unscored_answers_give_no_row_and_are_counted(place: _Place) -> None:
    """An answer without a reference cannot be compared: it is no outcome, and no zero."""
    write_json_lines(place.prompts, [{"prompt": "say 1", "reference": "1"}, {"prompt": "Name a river"}])
    with running_chat_upstream() as upstream:
        summary = _json(place.run(upstream, "--json"))
        assert [(arm["scored"], arm["unscored"]) for arm in summary["arms"]] == [(1, 1), (1, 1)]
        assert {row["prompt"] for row in place.rows()} == {"say 1"}
        place.out.unlink()
        place.journal.unlink()
        write_json_lines(place.prompts, [{"prompt": "Name a river"}])
        summary = _json(place.run(upstream, "--json"))
    assert (summary["outcomes"], summary["out"], place.out.exists()) == (0, None, False)


@pytest.mark.parametrize(
    ("change", "named"),
    [
        (["--max-tokens", "21"], "max tokens: 20 before, 21 now"),
        (["--seed", "5"], "seed: 0 before, 5 now"),
        (["--arms", "good"], 'arms: ["good","bad"] before, ["good"] now'),
        (["--sample", "3"], "sample: nothing before, 3 now"),
    ],
)
def test_collect_with_other_settings_into_the_same_file_is_refused(
    place: _Place, change: list[str], named: str
) -> None:
    """A run goes on only with the settings that it was begun with; the difference is named."""
    with running_chat_upstream() as upstream:
        place.run(upstream)
        before = place.journal.read_bytes()
        result = place.run(upstream, *change)
    assert result.exit_code == 1
    assert "[other_settings]" in result.output
    assert named in result.output
    assert place.journal.read_bytes() == before


def test_collect_killed_in_the_middle_goes_on_and_never_passes_the_budget(tmp_path: Path) -> None:
    """After kill -9 no answer is lost or asked twice, lost calls count as spent, and no half-written file is left."""
    place = _Place(tmp_path, prompts=12)
    script = "from penstock_training.cli import main; main()"
    with running_chat_upstream({"good": ["slow:0.1"], "bad": ["slow:0.1"]}) as upstream:
        process = subprocess.Popen(
            [sys.executable, "-c", script, *place.arguments(upstream)], stderr=subprocess.DEVNULL
        )
        deadline = time.monotonic() + 60
        while len(upstream.seen) < 9 and time.monotonic() < deadline:
            time.sleep(0.01)
        process.kill()
        assert process.wait(30) == -signal.SIGKILL
        records = [json.loads(line) for line in place.journal.read_bytes().splitlines()]
        answered = {(r["key"], r["arm"]) for r in records if r["type"] == "end"}
        assert 0 < len(answered) < 24
        assert [path.name for path in tmp_path.iterdir() if "out" in path.name] == ["out.jsonl.journal"]
        asked = len(upstream.seen)
        result = place.run(upstream, "--json")
    summary = _json(result)
    assert summary["end"] == "complete"
    assert len(upstream.seen) - asked == 24 - len(answered)
    assert len(place.rows()) == 24
    lost = {r["call"]: Decimal(r["bound_usd"]) for r in records if r["type"] == "start"}
    for record in records:
        lost.pop(record.get("call"), None) if record["type"] in ("end", "scores") else None
    assert Decimal(summary["spent_usd"]) == 12 * CALL_USD * Decimal("1.5") + sum(lost.values())


def test_collect_interrupted_once_finishes_what_is_under_way_and_writes_the_file(tmp_path: Path) -> None:
    """Ctrl-C begins no further prompt, keeps the answers under way, and leaves a file that can be used."""
    place = _Place(tmp_path, prompts=40)
    script = "from penstock_training.cli import main; main()"
    with running_chat_upstream({"good": ["slow:0.1"], "bad": ["slow:0.1"]}) as upstream:
        command = [sys.executable, "-c", script, *place.arguments(upstream, "--json")]
        process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
        deadline = time.monotonic() + 60
        while len(upstream.seen) < 6 and time.monotonic() < deadline:
            time.sleep(0.01)
        process.send_signal(signal.SIGINT)
        output, _ = process.communicate(timeout=30)
    summary = json.loads(output)
    assert process.returncode == 3
    assert summary["end"] == "stopped"
    assert 0 < summary["prompts_complete"] < 40
    assert len(place.rows()) == len(upstream.seen) == summary["outcomes"]
