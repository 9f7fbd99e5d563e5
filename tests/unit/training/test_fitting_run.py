"""Cross-validation as a whole and as a command: what it counts, finds, says and refuses."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner

from penstock_training.cli import main
from penstock_training.commands.shell import load_checked
from penstock_training.cross_validation import CrossValidationOptions, FitFold, IndexArray
from penstock_training.decisions import EstimateArrays
from penstock_training.errors import TrainingError
from penstock_training.families.registry import RouterSpec
from penstock_training.fit import FitOptions, single_threaded
from penstock_training.fitting_evaluation import MOST_PARTS, evaluate_fitting, plan_fitting
from penstock_training.fitting_run import FittingRunOptions, plan_run, run_fitting
from penstock_training.html_report import render_page
from penstock_training.outcomes import OutcomeMatrix
from penstock_training.run_text import render_run
from support.fold_fits import COST_SCALE_USD, ridge_fit, topic_corpus
from support.outcome_samples import outcome_row, write_json_lines
from support.small_router import made_up_corpus

OPTIONS = FittingRunOptions(FitOptions(router=RouterSpec("linear"), resamples=50), folds=3, sizes=(50, 200), draws=2)


def test_fitting_plan_counts_every_fit_that_is_made() -> None:
    """The forecast of the time stands on the number of fits and their sizes, so both must be right."""
    corpus, seen = topic_corpus(240), []

    def make_fit(matrix: OutcomeMatrix) -> FitFold:
        fit = ridge_fit(matrix, corpus.vectors)

        def counted(train: IndexArray, test: IndexArray, seed: int) -> EstimateArrays:
            seen.append(train.size)
            return fit(train, test, seed)

        return counted

    evaluate_fitting("ridge", corpus.matrix, make_fit, CrossValidationOptions(COST_SCALE_USD, resamples=20), folds=3)
    planned = plan_fitting(corpus.matrix, folds=3).fit_sizes
    assert len(seen) == planned.size
    # An inner part holds a fifth of the questions, give or take one of two prompts.
    assert sum(seen) == pytest.approx(planned.sum(), abs=2 * planned.size)


def test_fitting_plan_leaves_few_parts_out_one_by_one() -> None:
    """Fifty tasks would cost a hundred fits; the largest are left out one by one and all others at once."""
    matrix = topic_corpus(1000).matrix
    many = replace(matrix, tasks=[f"task {i % 25}" for i in range(1000)], sources=[f"s{i % 25}" for i in range(1000)])
    plan = plan_fitting(many)
    assert len(plan.tasks) == MOST_PARTS + 1
    assert sum(split.test.size for split in plan.tasks) == 1000
    assert len(plan.sources) == MOST_PARTS


def test_run_fitting_where_topics_tell_arms_apart_says_that_routing_pays() -> None:
    """On made-up topics the cheap arm suffices for half; every chapter is filled and the first answer is yes."""
    corpus = made_up_corpus(900, missing=0.0)
    with single_threaded():
        found = run_fitting(corpus, "dear", OPTIONS, files=["made-up.jsonl"])
    run = found.evaluation
    assert list(run.cross_validation) == ["linear, 3 folds", "linear, each task left out"]
    assert run.control is not None
    assert run.control.is_passed
    assert [table.name for table in run.baselines] == ["length table", "keyword table", "category table"]
    text = render_run(run)
    assert "+ Does routing by prompt pay (linear, 3 folds)? Yes" in text
    assert "+ Is the measurement itself sound?" in text
    assert "Would more outcomes pay (linear)?" in text
    page = render_page(run)
    assert "<h1>Cross-validation: linear, 3 folds" in page
    assert "Settings were chosen inside the other folds" in page
    assert json.loads(json.dumps(run.to_json()))["artifacts"] == []


def test_run_fitting_on_outcomes_without_a_pattern_does_not_say_that_it_pays() -> None:
    """Where outcomes have nothing to do with prompts, the answer must not be yes."""
    corpus = made_up_corpus(600, missing=0.0)
    order = np.random.default_rng(0).permutation(600)
    blind = replace(corpus, matrix=replace(corpus.matrix, score=corpus.matrix.score[order]))
    with single_threaded():
        found = run_fitting(blind, "dear", replace(OPTIONS, sizes=()))
    assert "+ Does routing by prompt pay" not in render_run(found.evaluation)


def test_plan_run_of_a_log_with_one_arm_a_prompt_is_refused() -> None:
    """Folds compare arms on the same prompts; a log shows one arm each and has a command of its own."""
    corpus = made_up_corpus(200, missing=0.0)
    score = np.where(np.eye(3, dtype=bool)[np.arange(200) % 3], corpus.matrix.score, np.nan).astype(np.float32)
    log = replace(corpus, matrix=replace(corpus.matrix, score=score))
    with pytest.raises(TrainingError, match="evaluate-logged") as caught:
        plan_run(log, "dear", OPTIONS)
    assert caught.value.code == "outcome_no_complete_row"


def test_plan_run_refuses_a_curve_that_the_outcomes_cannot_fill() -> None:
    """It is said before the long work that a curve needs two sizes."""
    with pytest.raises(TrainingError, match="--sizes") as caught:
        plan_run(made_up_corpus(200, missing=0.0), "dear", replace(OPTIONS, sizes=(100, 400)))
    assert caught.value.code == "too_few_prompts"


def _outcome_file(folder: Path, prompts: int) -> str:
    topics = ("translate the word {} into French", "prove the theorem about group number {}")
    rows = []
    for i in range(prompts):
        for arm, cost in (("small", 0.0001), ("frontier", 0.01)):
            score = float(arm == "frontier" or i % 2 == 0) if i % 10 else 0.0
            rows.append(outcome_row(topics[i % 2].format(i), arm, score=score, cost_usd=cost, propensity=...))
    return str(write_json_lines(folder / "own.jsonl", rows))


def test_cross_validate_command_writes_text_page_and_json(tmp_path: Path) -> None:
    """One command answers whether routing pays, on the terminal, as a page and for machines."""
    command = ["cross-validate", "--outcomes", _outcome_file(tmp_path, 200), "--router", "cluster", "--folds", "2",
               "--no-prior", "--resamples", "50"]  # fmt: skip
    text = CliRunner().invoke(main, [*command, "--html", str(tmp_path / "page.html")])
    assert text.exit_code == 0, text.output
    assert "Does routing by prompt pay (cluster, 2 folds)?" in text.stdout
    assert "Cross-validation: cluster, 2 folds" in (tmp_path / "page.html").read_text(encoding="utf-8")
    found = json.loads(CliRunner().invoke(main, [*command, "--json"]).stdout)
    assert set(found["cross_validation"]) == {"cluster, 2 folds"}
    assert found["control"]["is_passed"] in (True, False)
    assert found["skipped"] == {}


def test_load_checked_shows_warnings_and_refuses_what_a_fit_must_not_go_on_with(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """A doubtful arm is a warning on standard error with its code; too few questions stop the fit."""
    rows = [outcome_row(f"question {i}?", arm, score=i % 2 if arm == "a" else 1, propensity=...)
            for i in range(150) for arm in ("a", "b")]  # fmt: skip
    path = write_json_lines(tmp_path / "own.jsonl", rows)
    assert len(load_checked((path,), "refuse", "linear").prompts) == 150
    shown = capsys.readouterr().err
    assert "warning constant_scores: arms with one score on every prompt: 1 of 2" in shown
    write_json_lines(path, rows[:100])
    with pytest.raises(TrainingError) as caught:
        load_checked((path,), "refuse", "linear")
    assert caught.value.code == "too_few_prompts"


def test_evaluate_command_given_its_training_outcomes_refuses_shared_questions(tmp_path: Path) -> None:
    """An artifact that has seen the questions looks good on them, in whatever dress they come again."""
    fitted = write_json_lines(tmp_path / "fitted.jsonl", [outcome_row("Question: Why is the sea salty?", "a")])
    asked = write_json_lines(tmp_path / "asked.jsonl", [outcome_row("why is the sea salty?", "a")])
    done = CliRunner().invoke(
        main, ["evaluate", "default-router", "--outcomes", str(asked), "--trained-on", str(fitted)]
    )
    assert done.exit_code == 1
    assert done.stderr.splitlines()[0].endswith("[leaking_groups]")


@pytest.mark.parametrize(
    ("options", "code"), [(["--sizes", "50"], 2), (["--sizes", "a,b"], 2), (["--set", "tau"], 2), ([], 1)]
)
def test_cross_validate_command_refuses_what_cannot_be_meant(options: list[str], code: int, tmp_path: Path) -> None:
    """Wrong options are wrong usage; too few outcomes are one line with a code."""
    done = CliRunner().invoke(main, ["cross-validate", "--outcomes", _outcome_file(tmp_path, 20), *options])
    assert done.exit_code == code
    assert "Traceback" not in done.output
    if code == 1:
        assert "[too_few_prompts]" in done.stderr.splitlines()[0]
