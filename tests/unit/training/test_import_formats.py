"""Each importable format: a made-up file in its layout gives the rows that its documents promise."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from penstock_routers.features import NO_CONTEXT, PromptContext
from penstock_training.errors import TrainingError
from penstock_training.importers.collected import ImportReport
from penstock_training.importers.formats import FORMATS, import_outcomes
from penstock_training.importers.options import ImportOptions, read_prompts, read_scores
from penstock_training.outcomes import OutcomeMatrix, load_outcomes
from support.import_samples import (
    ROUTERBENCH_MODELS,
    decision_and_outcome,
    feedback_event,
    mmlu_pro_answers,
    request_event,
    routellm_folder,
    routerbench_rows,
    spend_log,
    write_csv,
    write_lines,
    write_zip,
    zeroeval_folder,
)
from support.outcome_samples import write_parquet

PLAIN = ImportOptions()


def _import(
    name: str, paths: list[Path], tmp_path: Path, options: ImportOptions = PLAIN, **more: Any
) -> tuple[ImportReport, OutcomeMatrix]:
    out = tmp_path / "out.parquet"
    report = import_outcomes(name, paths, out, options=options, may_overwrite=True, **more)
    return report, load_outcomes([out], on_bad_rows="skip").matrix()


def _raises(code: str, name: str, paths: list[Path], tmp_path: Path, options: ImportOptions = PLAIN) -> TrainingError:
    with pytest.raises(TrainingError) as caught:
        import_outcomes(name, paths, tmp_path / "out.parquet", options=options)
    assert caught.value.code == code
    assert not (tmp_path / "out.parquet").exists()
    return caught.value


@pytest.mark.parametrize("ending", ["csv", "parquet", "jsonl"])
def test_routerbench_wide_table_becomes_one_row_per_model(tmp_path: Path, ending: str) -> None:
    """A wide table gives one outcome per prompt and model, whatever the container."""
    path = tmp_path / f"ponds.{ending}"
    {"csv": write_csv, "parquet": write_parquet, "jsonl": write_lines}[ending](path, routerbench_rows())
    report, matrix = _import("routerbench", [path], tmp_path)
    assert (report.rows, report.prompts, matrix.arms) == (6, 3, tuple(sorted(ROUTERBENCH_MODELS)))
    assert matrix.prompts[0] == "How deep is pond 0?"
    assert matrix.score[:, matrix.arms.index("tiny-7b")].tolist() == [0.0, 1.0, 0.0]
    assert matrix.cost_usd[0, matrix.arms.index("acme/big-1")] == pytest.approx(0.002, rel=1e-6)  # float32
    assert (matrix.tasks[0], matrix.categories[0], matrix.sources[0]) == ("ponds", "ponds", "routerbench")


def test_routerbench_file_of_a_split_names_task_and_split(tmp_path: Path) -> None:
    """A file called TASK_train holds task TASK, and the split is its category."""
    path = write_csv(tmp_path / "pond_life_train.csv", routerbench_rows())
    _, matrix = _import("routerbench", [path], tmp_path)
    assert (set(matrix.tasks), set(matrix.categories)) == ({"pond_life"}, {"train"})


def test_routerbench_table_without_a_model_is_refused(tmp_path: Path) -> None:
    """A table that has no pair of performance and cost columns is no RouterBench table."""
    rows = [{"sample_id": "1", "prompt": "Why?", "eval_name": "ponds", "tiny-7b": 1.0}]
    _raises("import_column_missing", "routerbench", [write_csv(tmp_path / "a.csv", rows)], tmp_path)


def test_routerbench_cost_without_its_performance_is_refused(tmp_path: Path) -> None:
    """A model whose performance column is gone is named instead of being lost in silence."""
    rows = [{k: v for k, v in row.items() if k != "tiny-7b"} for row in routerbench_rows()]
    error = _raises("import_column_missing", "routerbench", [write_csv(tmp_path / "a.csv", rows)], tmp_path)
    assert "tiny-7b" in error.message


def test_routerbench_score_out_of_range_is_refused_with_its_place(tmp_path: Path) -> None:
    """A wild score refuses the file, names row and model, and can be skipped and counted."""
    rows = routerbench_rows()
    rows[1]["tiny-7b"] = 7.0
    path = write_csv(tmp_path / "ponds.csv", rows)
    error = _raises("import_rows_refused", "routerbench", [path], tmp_path)
    assert "score_out_of_range" in error.message
    assert "ponds.csv row 2, tiny-7b" in error.message
    assert "pond 1" not in error.message  # no prompt
    report, _ = _import("routerbench", [path], tmp_path, on_bad_rows="skip")
    assert (report.rows, report.bad) == (5, {"score_out_of_range": 1})


def test_routellm_folder_gives_both_models_of_three_sets(tmp_path: Path) -> None:
    """The evals folder gives MMLU, GSM8K and MT-Bench under one name per model."""
    report, matrix = _import("routellm", [routellm_folder(tmp_path)], tmp_path)
    assert set(report.arms) == {"gpt-4-1106-preview", "mistralai/Mixtral-8x7B-Instruct-v0.1"}
    assert sorted(set(matrix.tasks)) == ["gsm8k", "mmlu", "mt_bench"]
    newts = matrix.prompts.index("What do newts eat?\nA. Rocks\nB. Insects\nAnswer:")
    assert matrix.score[newts].tolist() == [1.0, 0.0]
    assert matrix.output_tokens[newts].tolist() == [1.0, 1.0]  # one letter
    poem = matrix.prompts.index("Write a poem about a newt.")
    assert matrix.score[poem].tolist() == pytest.approx([8.5 / 9, 5 / 9], rel=1e-6)  # grades 10 and 9; 6
    assert report.left_out == {"unscored": 1}  # the judge's -1


def test_routellm_prompt_that_stands_twice_is_taken_once(tmp_path: Path) -> None:
    """A table that repeats a question gives it once and says so."""
    rows = [{"prompt": text, "a-1": "True", "b-1": "False"} for text in ("Why?", "How?", "Why?")]
    report, matrix = _import("routellm", [write_csv(tmp_path / "mmlu_ponds.csv", rows)], tmp_path)
    assert (matrix.prompts, report.left_out) == (["Why?", "How?"], {"repeated_prompt": 1})


def test_routellm_battles_score_the_preferred_answer(tmp_path: Path) -> None:
    """A battle gives 1 to the winner, 0 to the loser and one half each for a tie, and says what that means."""
    common = {"prompt": '["Why do newts hide?", "And frogs?"]', "model_a": "a-1", "model_b": "b-1"}
    rows = [
        {"id": 1, **common, "winner_model_a": 1, "winner_model_b": 0, "winner_tie": 0},
        {"id": 2, **common, "winner_model_a": 0, "winner_model_b": 0, "winner_tie": 1},
    ]
    report, matrix = _import("routellm", [write_csv(tmp_path / "battles.csv", rows)], tmp_path)
    assert matrix.prompts == ["Why do newts hide?"] * 2
    assert matrix.score.tolist() == [[1.0, 0.0], [0.5, 0.5]]
    assert "preferred" in report.remarks[0]


def test_routellm_table_of_another_kind_is_refused(tmp_path: Path) -> None:
    """A table whose columns are no marks is none of the layouts."""
    path = write_csv(tmp_path / "notes.csv", [{"prompt": "Why?", "comment": "good"}])
    _raises("import_file_format", "routellm", [path], tmp_path)


def test_mmlu_pro_archive_names_model_and_marks_answers(tmp_path: Path) -> None:
    """The archive's name tells the model; an answer without a letter scores 0; N/A options are dropped."""
    path = write_zip(
        tmp_path / "model_outputs_Newt-2-7b_5shots.zip", {"model_outputs_Newt-2-7b_5shots.json": mmlu_pro_answers()}
    )
    _, matrix = _import("mmlu-pro", [path], tmp_path, replace(PLAIN, prices={"Newt-2-7b": (1.0, 2.0)}))
    assert matrix.arms == ("Newt-2-7b",)
    assert matrix.prompts[0] == "Which gas do ponds release?\nA. Methane\nB. Neon"
    assert matrix.score[:, 0].tolist() == [1.0, 0.0]
    tokens = matrix.input_tokens[0, 0] + 2 * matrix.output_tokens[0, 0]
    assert matrix.cost_usd[0, 0] == pytest.approx(float(tokens) / 1e6, rel=1e-6)  # list price times tokens


def test_mmlu_pro_folder_per_model_is_read_and_summaries_are_not(tmp_path: Path) -> None:
    """A folder of category results is one model named like the folder."""
    folder = tmp_path / "eval_results" / "newt-4"
    folder.mkdir(parents=True)
    write_lines(folder / "biology_summary.json", [{"acc": 1}])
    (folder / "biology_result.json").write_text(json.dumps(mmlu_pro_answers()))
    report, _ = _import("mmlu-pro", [tmp_path / "eval_results"], tmp_path)
    assert {name: count.rows for name, count in report.arms.items()} == {"newt-4": 2}


def test_mmlu_pro_file_of_unknown_model_asks_for_its_name(tmp_path: Path) -> None:
    """A file whose name does not tell the model is refused until --arm names it."""
    path = tmp_path / "answers.json"
    path.write_text(json.dumps(mmlu_pro_answers()))
    assert "--arm" in _raises("import_arm_unknown", "mmlu-pro", [path], tmp_path).message
    report, _ = _import("mmlu-pro", [path], tmp_path, replace(PLAIN, arm="newt-9"))
    assert list(report.arms) == ["newt-9"]


def test_zeroeval_folder_is_marked_by_task(tmp_path: Path) -> None:
    """Every model file of a task folder is marked; other runs and summaries are left out by name."""
    report, matrix = _import("zeroeval", [zeroeval_folder(tmp_path)], tmp_path)
    assert matrix.arms == ("large-1", "small-1")
    newts = matrix.prompts.index("Two newts meet three newts. How many?")
    assert matrix.score[newts].tolist() == [1.0, 0.0]
    assert matrix.prompts[1 - newts] == "Where do newts live?\nA) Deserts\nB) Ponds"
    assert matrix.categories[1 - newts] == "zoology"
    assert report.left_out == {"file_of_another_task": 2}


def test_zeroeval_spellings_of_one_model_are_united_and_its_second_run_is_left_out(tmp_path: Path) -> None:
    """File names that mean one model give one arm; of two runs the one under the model's own name counts."""
    folder = zeroeval_folder(tmp_path)
    (folder / "gsm" / "small-1.json").rename(folder / "gsm" / "gemma-2-9b-it.json")
    (folder / "gsm" / "large-1.json").rename(folder / "gsm" / "gemma-2-9b-it@together.json")
    (folder / "mmlu-redux" / "large-1.json").rename(folder / "mmlu-redux" / "gemma-2-9b-it@nvidia.json")
    report, _ = _import("zeroeval", [folder], tmp_path)
    assert {name: (count.rows, count.mean_score) for name, count in report.arms.items()} == {"gemma-2-9b-it": (2, 0.5)}
    assert report.left_out["another_run_of_a_model"] == 1


def test_zeroeval_arms_that_were_not_asked_for_are_left_out(tmp_path: Path) -> None:
    """With a list of arms the other ones are left out, and an arm without a row is an error."""
    folder = zeroeval_folder(tmp_path)
    report, _ = _import("zeroeval", [folder], tmp_path, arms=["large-1"])
    assert list(report.arms) == ["large-1"]
    with pytest.raises(TrainingError) as caught:
        _import("zeroeval", [folder], tmp_path, arms=["large-1", "huge-1"])
    assert caught.value.code == "import_arm_unknown"


def test_spend_logs_without_scores_are_refused_with_the_reason(tmp_path: Path) -> None:
    """A spend log says nothing about quality, so it is refused until scores are given."""
    path = write_lines(tmp_path / "spend.jsonl", [spend_log()])
    error = _raises("import_needs_scores", "litellm-spend", [path], tmp_path)
    assert "--scores" in error.message


def test_spend_logs_joined_with_scores_keep_cost_time_and_tokens(tmp_path: Path) -> None:
    """Scores are joined by request id; cost, tokens, latency and time come from the log."""
    path = write_lines(tmp_path / "spend.jsonl", [spend_log("r1"), spend_log("r2"), spend_log("r3")])
    scores = write_csv(tmp_path / "scores.csv", [{"request_id": "r1", "score": 0.5}, {"request_id": "r2", "score": 1}])
    report, matrix = _import("litellm-spend", [path], tmp_path, replace(PLAIN, scores=read_scores(scores)))
    assert (report.rows, report.left_out) == (2, {"unscored": 1})
    assert matrix.prompts[0] == "Why do newts hide?"
    assert matrix.score[:, 0].tolist() == [0.5, 1.0]
    assert matrix.cost_usd[0, 0] == pytest.approx(0.0021, rel=1e-6)  # float32
    table = load_outcomes([tmp_path / "out.parquet"])
    assert table.number["latency_seconds"].tolist() == [2.5, 2.5]
    assert table.number["timestamp"][0] == 1767607200.0  # without a zone it is UTC
    assert "one arm" in report.remarks[0]


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"status": "failure"}, "failed"),
        ({"status": None, "metadata": '{"status": "failure"}'}, "failed"),
        ({"cache_hit": "True"}, "cache_hit"),
        ({"call_type": "aembedding"}, "other_call"),
        ({"messages": {}}, "no_prompt"),
        ({"messages": "{}"}, "no_prompt"),
        ({"messages": [{"role": "user", "content": "Why (litellm_truncated skipped 9 chars) hide?"}]}, "prompt_cut"),
    ],
)
def test_spend_logs_of_unusable_requests_are_left_out_by_name(
    tmp_path: Path, changes: dict[str, Any], reason: str
) -> None:
    """Failed, cached, other and contentless requests are left out, each under its name."""
    path = write_lines(tmp_path / "spend.jsonl", [spend_log("r1"), spend_log("r2", **changes)])
    options = replace(PLAIN, scores={"r1": 1.0, "r2": 1.0})
    report, _ = _import("litellm-spend", [path], tmp_path, options)
    assert (report.rows, report.left_out) == (1, {reason: 1})


def test_spend_logs_without_contents_take_prompts_from_a_file(tmp_path: Path) -> None:
    """Where the proxy stored no contents, prompts are joined by request id."""
    path = tmp_path / "spend.json"
    path.write_text(json.dumps({"data": [spend_log("r1", messages={})]}))
    prompts = read_prompts(write_lines(tmp_path / "prompts.jsonl", [{"request_id": "r1", "prompt": "Why hide?"}]))
    options = replace(PLAIN, scores={"r1": 1.0}, prompts=prompts, arm_field="model_group")
    _, matrix = _import("litellm-spend", [path], tmp_path, options)
    assert (matrix.prompts, matrix.arms) == (["Why hide?"], ("chat",))


def test_spend_log_exported_as_csv_reads_json_columns(tmp_path: Path) -> None:
    """An export of the table holds JSON columns as text."""

    row = spend_log("r1")
    path = write_csv(
        tmp_path / "t.csv", [{k: json.dumps(v) if isinstance(v, dict | list) else v for k, v in row.items()}]
    )
    _, matrix = _import("litellm-spend", [path], tmp_path, replace(PLAIN, scores={"r1": 1.0}))
    assert (matrix.prompts, matrix.arms) == (["Why do newts hide?"], ("acme/big-1",))


def test_scores_out_of_range_are_refused_with_their_row(tmp_path: Path) -> None:
    """A score file with a score that is none is refused, and the row named."""
    path = write_csv(tmp_path / "scores.csv", [{"id": "r1", "score": 1}, {"id": "r2", "score": 11}])
    with pytest.raises(TrainingError, match="row 2") as caught:
        read_scores(path)
    assert caught.value.code == "import_scores_refused"


def test_events_join_the_last_feedback_across_segments(tmp_path: Path) -> None:
    """Feedback is joined from any segment, and the latest one counts."""
    folder = tmp_path / "events"
    folder.mkdir()
    write_lines(
        folder / "events-1.jsonl", [feedback_event("dec_1", 0.25, time=2.0), feedback_event("dec_1", 1.0, time=1.0)]
    )
    write_lines(folder / "events-2.jsonl", [request_event("dec_1"), request_event("dec_2")])
    report, matrix = _import("events", [folder], tmp_path)
    assert (report.rows, report.left_out) == (1, {"unscored": 1})
    assert (matrix.arms, matrix.score.tolist()) == (("big",), [[0.25]])
    table = load_outcomes([tmp_path / "out.parquet"])
    assert table.number["propensity"].tolist() == [0.99]
    assert table.number["cost_usd"].tolist() == [0.0012]


FALLBACK = {"served_arm": "small", "served_artifact_arm": "small"}
CENSORED = {"served_arm": None, "served_artifact_arm": None, "is_timeout": True, "status": 504}


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        (FALLBACK, "fallback"),
        (CENSORED, "censored"),
        ({"is_timeout": True}, "censored"),
        ({"reason": "physical_model", "propensity": 1.0}, "client_choice"),
        ({"served_arm": None, "status": 502}, "not_answered"),
        ({"prompt": ""}, "no_prompt"),
        ({"is_prompt_cut": True}, "prompt_cut"),
    ],
)
def test_events_that_cannot_be_used_are_left_out_by_name(tmp_path: Path, changes: dict[str, Any], reason: str) -> None:
    """Fallbacks, time-outs, client choices, failures and missing prompts are left out, each under its name."""
    feedback = [feedback_event("dec_1"), feedback_event("dec_2")]
    for rows in (
        [request_event("dec_1"), request_event("dec_2", **changes)],
        [*decision_and_outcome("dec_1"), *decision_and_outcome("dec_2", **changes)],
    ):
        report, _ = _import("events", [write_lines(tmp_path / "e.jsonl", rows + feedback)], tmp_path)
        assert (report.rows, report.left_out) == (1, {reason: 1})


def test_events_with_all_rows_mark_censoring_and_carry_no_false_propensity(tmp_path: Path) -> None:
    """A kept fallback or client choice has no propensity; a censored row has the intended arm and no score."""
    rows = [
        request_event("dec_1"),
        request_event("dec_2", **FALLBACK),
        request_event("dec_3", **CENSORED),
        request_event("dec_4", reason="physical_model", propensity=1.0),
        *(feedback_event(f"dec_{n}") for n in (1, 2, 3, 4)),
    ]
    path = write_lines(tmp_path / "e.jsonl", rows)
    out = tmp_path / "all.jsonl"
    report = import_outcomes("events", [path], out, options=replace(PLAIN, keeps_all_rows=True))

    kept = {row["query_id"]: row for row in map(json.loads, out.read_text().splitlines())}
    assert report.rows == 4
    assert "propensity" in kept["dec_1"]
    assert "propensity" not in kept["dec_2"]
    assert (kept["dec_2"]["arm"], kept["dec_2"]["intended_arm"]) == ("small", "big")
    assert (kept["dec_3"]["arm"], kept["dec_3"]["is_censored"]) == ("big", True)
    assert "score" not in kept["dec_3"]
    assert "propensity" not in kept["dec_4"]


def test_events_name_arms_as_the_artifact_when_asked(tmp_path: Path) -> None:
    """The arms can be tiers instead of deployments."""
    path = write_lines(tmp_path / "e.jsonl", [request_event(), feedback_event()])
    _, matrix = _import("events", [path], tmp_path, replace(PLAIN, uses_artifact_arms=True))
    assert matrix.arms == ("frontier",)


def test_events_of_a_deployment_outside_the_artifact_have_no_artifact_arm(tmp_path: Path) -> None:
    """A deployment that the artifact does not know is left out when arms are named as in the artifact."""
    rows = [request_event(), request_event("dec_2", intended_artifact_arm=None, served_artifact_arm=None)]
    path = write_lines(tmp_path / "e.jsonl", [*rows, feedback_event(), feedback_event("dec_2")])
    report, _ = _import("events", [path], tmp_path, replace(PLAIN, uses_artifact_arms=True))
    assert report.left_out == {"no_artifact_arm": 1}


def test_events_half_written_tail_is_left_out_and_a_broken_middle_is_refused(tmp_path: Path) -> None:
    """A killed gateway leaves half a line at the end, which is expected; damage before it is not."""
    rows = [request_event(), feedback_event()]
    report, _ = _import("events", [write_lines(tmp_path / "tail.jsonl", rows, tail='{"schema": 1, "ty')], tmp_path)
    assert report.left_out == {"cut_tail": 1}
    middle = tmp_path / "middle.jsonl"
    middle.write_text("{broken\n" + (tmp_path / "tail.jsonl").read_text())
    (tmp_path / "out.parquet").unlink()
    assert "middle.jsonl row 1" in _raises("import_rows_refused", "events", [middle], tmp_path).message


def test_events_of_schema_2_join_decision_outcome_and_feedback_across_segments(tmp_path: Path) -> None:
    """The two records of a request meet whatever segment each is in; what only one side knows comes from there."""
    folder = tmp_path / "events"
    folder.mkdir()
    first, second = decision_and_outcome("dec_1"), decision_and_outcome("dec_2")
    first[0].update({"system_bytes": 640, "tools": 3, "turns": 1})  # what earlier releases did not write down
    write_lines(folder / "events-1.jsonl", [feedback_event("dec_1", 0.25), first[1], second[0]])
    write_lines(folder / "events-2.jsonl", [first[0], second[1], feedback_event("dec_2", 0.75)])
    report, _ = _import("events", [folder], tmp_path)
    table = load_outcomes([tmp_path / "out.parquet"])
    assert (report.rows, report.left_out) == (2, {})
    assert sorted(table.number["score"].tolist()) == [0.25, 0.75]
    assert table.number["propensity"].tolist() == [0.99, 0.99]
    assert table.number["input_tokens"].tolist() == [12.0, 12.0]
    assert table.number["latency_seconds"].tolist() == [1.5, 1.5]
    assert table.matrix().tenants == ["0123456789abcdef"] * 2
    assert sorted(table.matrix().contexts) == [NO_CONTEXT, PromptContext(640, 3, 1)]


def test_events_of_schema_2_without_their_other_half_are_left_out(tmp_path: Path) -> None:
    """A decision without an outcome was under way; an outcome without a decision lost it under load."""
    rows = [*decision_and_outcome("dec_1"), decision_and_outcome("dec_2")[0], decision_and_outcome("dec_3")[1]]
    rows += [feedback_event(f"dec_{n}") for n in (1, 2, 3)]
    damaged = {"schema": 2, "type": "damaged", "bytes": 9}
    later = {"schema": 2, "type": "novelty", "decision_id": "dec_1"}
    twice = decision_and_outcome("dec_1")[1]
    report, _ = _import("events", [write_lines(tmp_path / "e.jsonl", [*rows, damaged, later, twice])], tmp_path)
    assert report.rows == 1
    left = {"no_outcome": 1, "no_decision": 1, "damaged": 1, "unknown_event": 1, "repeated_event": 1}
    assert report.left_out == left


def test_events_cost_is_that_of_the_attempt_that_answered(tmp_path: Path) -> None:
    """A failed attempt is billed, but the arm that answered is not dearer for it."""
    attempts = [
        {"deployment": "big", "error_code": "upstream_error", "cost_usd": "0.5"},
        {"deployment": "big", "error_code": None, "cost_usd": "0.0007"},
    ]
    rows = [*decision_and_outcome(attempts=attempts, cost_usd="0.5007"), feedback_event()]
    _import("events", [write_lines(tmp_path / "e.jsonl", rows)], tmp_path)
    assert load_outcomes([tmp_path / "out.parquet"]).number["cost_usd"].tolist() == [0.0007]


def test_events_scores_and_prompts_of_ones_own_join_by_request_id(tmp_path: Path) -> None:
    """An application that knows its own request ids needs no decision ids."""
    rows = decision_and_outcome(prompt="")
    options = replace(PLAIN, scores={"req_dec_1": 0.5}, prompts={"req_dec_1": "Why do newts hide?"})
    _, matrix = _import("events", [write_lines(tmp_path / "e.jsonl", rows)], tmp_path, options)
    assert (matrix.prompts, matrix.score.tolist()) == (["Why do newts hide?"], [[0.5]])


def test_events_feedback_without_a_score_leaves_the_score_that_came_before(tmp_path: Path) -> None:
    """A label or a comment alone says nothing about how good the answer was."""
    label = {**feedback_event(score=None, time=1767607999.0), "label": "too long"}
    rows = [*decision_and_outcome(), feedback_event(score=0.75), label]
    _, matrix = _import("events", [write_lines(tmp_path / "e.jsonl", rows)], tmp_path)
    assert matrix.score.tolist() == [[0.75]]


def test_events_of_another_schema_are_refused(tmp_path: Path) -> None:
    """A log of a later gateway is not read by guesswork."""
    path = write_lines(tmp_path / "e.jsonl", [request_event(schema=3)])
    _raises("event_schema_unknown", "events", [path], tmp_path)


def test_import_equal_inputs_give_equal_digests(tmp_path: Path) -> None:
    """The digest depends on the outcomes, not on the container or the run."""
    path = write_csv(tmp_path / "ponds.csv", routerbench_rows())
    digests = {
        import_outcomes("routerbench", [path], tmp_path / name, options=PLAIN).digest
        for name in ("a.parquet", "b.jsonl")
    }
    assert len(digests) == 1


def test_import_repeated_cell_is_refused(tmp_path: Path) -> None:
    """A second row for the same source, query and arm refuses the import."""
    path = write_csv(tmp_path / "ponds.csv", routerbench_rows() + routerbench_rows(1))
    assert "duplicate_cell" in _raises("import_rows_refused", "routerbench", [path], tmp_path).message


def test_every_format_has_a_reader_that_can_be_imported() -> None:
    """The registry names functions that exist."""
    assert all(callable(made.reader()) for made in FORMATS.values())
