"""Outcome files: what is accepted, what is refused, and what the refusal tells."""

from __future__ import annotations

import gzip
import json
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from penstock_routers.token_counts import TOKENS_PER_MESSAGE
from penstock_training import outcome_files
from penstock_training.errors import OutcomeError
from penstock_training.outcome_checks import BAD_ROWS_SHOWN, PROBLEM_KINDS
from penstock_training.outcome_files import COLUMN_ALIASES, NUMBER_COLUMNS, TEXT_COLUMNS
from penstock_training.outcomes import load_outcomes
from support.outcome_samples import outcome_row, write_json_lines, write_parquet

GOOD = [outcome_row(), outcome_row(arm="large", score=0.5), outcome_row("Name three rivers.", source="other")]


@pytest.mark.parametrize("name", ["rows.jsonl", "rows.jsonl.gz", "rows.parquet"])
def test_load_outcomes_every_format_gives_the_same_rows(tmp_path: Path, name: str) -> None:
    """The three formats are one schema."""
    path = tmp_path / name
    if name.endswith(".parquet"):
        write_parquet(path, GOOD)
    elif name.endswith(".gz"):
        path.write_bytes(gzip.compress("\n".join(json.dumps(row) for row in GOOD).encode()))
    else:
        write_json_lines(path, GOOD)
    table = load_outcomes([path])
    assert len(table) == 3
    assert table.arms == ("large", "small")
    assert table.number["score"].tolist() == [1.0, 0.5, 1.0]
    assert table.number["timestamp"].tolist() == [1767607200.0] * 3
    assert table.report.rows_bad == 0
    assert table.report.unknown_columns == {}


def test_load_outcomes_foreign_column_names_are_mapped(tmp_path: Path) -> None:
    """`model`, `dataset` and `latency_s` mean `arm`, `source` and `latency_seconds`."""
    row = outcome_row(arm=..., source=..., latency_seconds=..., model="m1", dataset="d1", latency_s=2.5)
    table = load_outcomes([write_parquet(tmp_path / "a.parquet", [row])])
    assert table.arms == ("m1",)
    assert table.matrix().sources == ["d1"]
    assert table.number["latency_seconds"].tolist() == [2.5]


def test_load_outcomes_own_name_wins_over_foreign_name(tmp_path: Path) -> None:
    """A file with `arm` and `model` means `arm`, and `model` is reported as not read."""
    table = load_outcomes([write_json_lines(tmp_path / "a.jsonl", [outcome_row(model="other")])])
    assert table.arms == ("small",)
    assert table.report.unknown_columns == {"a.jsonl": ("model",)}


def test_load_outcomes_unknown_columns_are_reported_and_companions_are_not(tmp_path: Path) -> None:
    """A column we do not know is named; one that says how a number was made is no surprise."""
    row = outcome_row(colour="red", tokens_source="counted")
    table = load_outcomes([write_parquet(tmp_path / "a.parquet", [row])])
    assert table.report.unknown_columns == {"a.parquet": ("colour",)}


def test_load_outcomes_optional_columns_may_be_absent_or_empty(tmp_path: Path) -> None:
    """Prompt, arm and score are enough; the file's name becomes the source."""
    minimal = {"prompt": "Hello?", "arm": "a", "score": 1}
    table = load_outcomes(
        [write_json_lines(tmp_path / "mine.jsonl", [minimal, {**minimal, "arm": "b", "cost_usd": None}])]
    )
    matrix = table.matrix()
    assert matrix.sources == ["mine"]
    assert np.isnan(matrix.cost_usd).all()
    assert table.report.describe() == ""


BAD_VALUES: list[tuple[dict[str, Any], str, str]] = [
    ({"score": 1.5}, "score", "score_out_of_range"),
    ({"score": -0.1}, "score", "score_out_of_range"),
    ({"score": None}, "score", "missing_value"),
    ({"score": "high"}, "score", "wrong_type"),
    ({"score": [1]}, "score", "wrong_type"),
    ({"prompt": " \n"}, "prompt", "empty_prompt"),
    ({"prompt": None}, "prompt", "missing_value"),
    ({"prompt": 7}, "prompt", "wrong_type"),
    ({"arm": ""}, "arm", "empty_arm"),
    ({"input_tokens": -1}, "input_tokens", "negative_value"),
    ({"output_tokens": 2.5}, "output_tokens", "not_a_whole_number"),
    ({"output_tokens": True}, "output_tokens", "wrong_type"),
    ({"cost_usd": -0.01}, "cost_usd", "negative_value"),
    ({"latency_seconds": -3}, "latency_seconds", "negative_value"),
    ({"propensity": 0.0}, "propensity", "propensity_out_of_range"),
    ({"propensity": 1.01}, "propensity", "propensity_out_of_range"),
    ({"timestamp": "yesterday"}, "timestamp", "wrong_type"),
    ({"timestamp": "2026-01-05T10:00:00"}, "timestamp", "wrong_type"),
    ({"source": 3}, "source", "wrong_type"),
]


@pytest.mark.parametrize(("change", "column", "kind"), BAD_VALUES)
def test_load_outcomes_bad_value_is_named_with_row_column_and_kind(
    tmp_path: Path, change: dict[str, Any], column: str, kind: str
) -> None:
    """A refused value is reported by line, column and kind, and skipping leaves exactly the other rows."""
    path = write_json_lines(tmp_path / "a.jsonl", [*GOOD, {**outcome_row("Another prompt?"), **change}])
    with pytest.raises(OutcomeError) as refused:
        load_outcomes([path])
    assert refused.value.code == "outcome_rows_refused"
    table = load_outcomes([path], on_bad_rows="skip")
    assert len(table) == 3
    assert table.report.rows_bad == 1
    assert table.report.problems == {kind: 1}
    (shown,) = table.report.first_bad_rows
    assert (shown.file, shown.row, shown.column, shown.kind) == ("a.jsonl", 4, column, kind)


def test_load_outcomes_score_nan_in_parquet_is_refused(tmp_path: Path) -> None:
    """A score that is not a number is a missing score."""
    path = write_parquet(tmp_path / "a.parquet", [outcome_row(), outcome_row(arm="b", score=float("nan"))])
    table = load_outcomes([path], on_bad_rows="skip")
    assert table.report.problems == {"missing_value": 1}
    assert table.report.first_bad_rows[0].row == 2


def test_load_outcomes_infinite_cost_is_refused(tmp_path: Path) -> None:
    """Costs are finite."""
    path = write_parquet(tmp_path / "a.parquet", [outcome_row(), outcome_row(arm="b", cost_usd=float("inf"))])
    assert load_outcomes([path], on_bad_rows="skip").report.problems == {"not_finite": 1}


def test_load_outcomes_duplicate_cell_keeps_the_first_row(tmp_path: Path) -> None:
    """One prompt has one outcome per arm; later ones are refused or skipped."""
    path = write_json_lines(tmp_path / "a.jsonl", [outcome_row(score=1.0), outcome_row(score=0.0)])
    table = load_outcomes([path], on_bad_rows="skip")
    assert table.report.problems == {"duplicate_cell": 1}
    assert table.number["score"].tolist() == [1.0]


def test_load_outcomes_same_prompt_with_two_ids_is_two_queries(tmp_path: Path) -> None:
    """A query_id separates prompts of equal text; they still share a group."""
    rows = [outcome_row(query_id="q1"), outcome_row(query_id="q2", score=0.0)]
    matrix = load_outcomes([write_json_lines(tmp_path / "a.jsonl", rows)]).matrix()
    assert matrix.score.tolist() == [[1.0], [0.0]]
    assert matrix.groups[0] == matrix.groups[1]


def test_load_outcomes_one_id_for_two_questions_is_refused(tmp_path: Path) -> None:
    """A query_id that means two questions would mix their outcomes."""
    rows = [
        outcome_row("How do magnets work?", query_id="q1"),
        outcome_row("Translate the poem into French, please.", "large", query_id="q1"),
    ]
    path = write_json_lines(tmp_path / "a.jsonl", rows)
    assert load_outcomes([path], on_bad_rows="skip").report.problems == {"conflicting_prompt": 1}


def test_load_outcomes_one_id_for_an_edited_prompt_is_counted_and_kept(tmp_path: Path) -> None:
    """A mended typing error does not make another question; the first text stands."""
    rows = [
        outcome_row("What is thelength of a day on Mars?", query_id="q1"),
        outcome_row("What is the length of a day on Mars?", "large", query_id="q1"),
    ]
    table = load_outcomes([write_json_lines(tmp_path / "a.jsonl", rows)])
    assert table.report.prompt_variants == 1
    assert table.matrix().prompts == ["What is thelength of a day on Mars?"]


def test_load_outcomes_broken_lines_are_counted_with_their_line_numbers(tmp_path: Path) -> None:
    """Damage in a line costs that line; blank lines count for numbering only."""
    secret = "the quick brown fox guards the treasure"
    broken = f'{{"prompt": "{secret}", "arm": '
    path = write_json_lines(tmp_path / "a.jsonl", [outcome_row(), "", broken, "[1, 2]", "nonsense"])
    report = load_outcomes([path], on_bad_rows="skip").report
    assert report.problems == {"broken_line": 3}
    assert [bad.row for bad in report.first_bad_rows] == [3, 4, 5]
    assert secret not in report.describe()


def test_load_outcomes_over_long_line_is_refused_and_the_next_line_is_read(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A line beyond the bound is damage, and reading goes on after it."""
    monkeypatch.setattr(outcome_files, "MAX_LINE_BYTES", 400)
    path = write_json_lines(tmp_path / "a.jsonl", [outcome_row("long " * 400), outcome_row("Short one?")])
    table = load_outcomes([path], on_bad_rows="skip")
    assert table.report.problems == {"broken_line": 1}
    assert table.matrix().prompts == ["Short one?"]


def test_load_outcomes_report_never_shows_a_prompt(tmp_path: Path) -> None:
    """Reports name prompts by type and length only."""
    prompt = "a private matter nobody should read in a log"
    rows = [
        outcome_row(prompt, query_id="q"),
        outcome_row("Something else entirely, not the same at all.", query_id="q", arm="b"),
    ]
    rows += [outcome_row(prompt, score=7)]
    report = load_outcomes([write_json_lines(tmp_path / "a.jsonl", rows)], on_bad_rows="skip").report
    assert report.rows_bad == 2
    assert "private" not in report.describe()


def test_load_outcomes_long_values_are_cut(tmp_path: Path) -> None:
    """A bad value takes at most 40 characters of a report."""
    path = write_json_lines(tmp_path / "a.jsonl", [outcome_row(), outcome_row(arm="b", score="x" * 500)])
    (bad,) = load_outcomes([path], on_bad_rows="skip").report.first_bad_rows
    assert len(bad.value) == 40


def test_load_outcomes_many_bad_rows_are_all_counted_and_few_shown(tmp_path: Path) -> None:
    """Counts are complete; examples stop at a fixed number, the first rows first."""
    rows = [outcome_row()] + [outcome_row(f"Prompt {i}?", score=2) for i in range(50)]
    report = load_outcomes([write_json_lines(tmp_path / "a.jsonl", rows)], on_bad_rows="skip").report
    assert report.problems == {"score_out_of_range": 50}
    assert [bad.row for bad in report.first_bad_rows] == list(range(2, 2 + BAD_ROWS_SHOWN))


def test_load_outcomes_bad_row_of_second_file_is_numbered_within_its_file(tmp_path: Path) -> None:
    """Row numbers start anew with each file."""
    first = write_json_lines(tmp_path / "a.jsonl", GOOD)
    second = write_parquet(tmp_path / "b.parquet", [outcome_row("Fine?"), outcome_row("Bad?", score=3.0)])
    (bad,) = load_outcomes([first, second], on_bad_rows="skip").report.first_bad_rows
    assert (bad.file, bad.row) == ("b.parquet", 2)


@pytest.mark.parametrize("column", ["prompt", "arm", "score"])
@pytest.mark.parametrize("name", ["a.jsonl", "a.parquet"])
def test_load_outcomes_missing_required_column_is_an_error(tmp_path: Path, column: str, name: str) -> None:
    """Without prompt, arm or score there is no outcome, whatever the flag says."""
    write = write_parquet if name.endswith("parquet") else write_json_lines
    path = write(tmp_path / name, [outcome_row(**{column: ...})])
    with pytest.raises(OutcomeError, match=column) as refused:
        load_outcomes([path], on_bad_rows="skip")
    assert refused.value.code == "outcome_column_missing"


def test_load_outcomes_parquet_column_of_wrong_type_is_refused_per_row(tmp_path: Path) -> None:
    """A text column of scores makes every row bad and the file useless."""
    path = write_parquet(tmp_path / "a.parquet", [outcome_row(score="1"), outcome_row(arm="b", score="0")])
    with pytest.raises(OutcomeError) as refused:
        load_outcomes([path], on_bad_rows="skip")
    assert refused.value.code == "outcome_no_usable_row"
    assert "wrong_type" in refused.value.message


def test_load_outcomes_dictionary_and_decimal_columns_are_read(tmp_path: Path) -> None:
    """Other writers' encodings of texts and numbers are the same outcomes."""
    table = pa.Table.from_pylist(GOOD)
    texts = pa.chunked_array([table["arm"].combine_chunks().dictionary_encode()])
    costs = table["cost_usd"].cast(pa.decimal128(12, 6))
    table = table.set_column(table.schema.get_field_index("arm"), "arm", texts)
    table = table.set_column(table.schema.get_field_index("cost_usd"), "cost_usd", costs)
    pq.write_table(table, tmp_path / "a.parquet")
    loaded = load_outcomes([tmp_path / "a.parquet"])
    assert loaded.arms == ("large", "small")
    np.testing.assert_allclose(loaded.number["cost_usd"], 0.0001)


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("a.parquet", b"PAR1 this is not a table PAR1"),
        ("a.parquet", b""),
        ("a.jsonl.gz", b"\x1f\x8b broken"),
        ("a.jsonl.gz", gzip.compress(json.dumps(outcome_row()).encode() * 50, mtime=0)[:60]),
    ],
)
def test_load_outcomes_damaged_file_is_an_error_with_its_name(tmp_path: Path, name: str, content: bytes) -> None:
    """A file that cannot be read to its end is never used in part."""
    path = tmp_path / name
    path.write_bytes(content)
    with pytest.raises(OutcomeError, match=name) as refused:
        load_outcomes([path], on_bad_rows="skip")
    assert refused.value.code == "outcome_file_unreadable"


def test_load_outcomes_truncated_parquet_is_an_error(tmp_path: Path) -> None:
    """A Parquet file without its footer is damaged."""
    path = write_parquet(tmp_path / "a.parquet", GOOD)
    path.write_bytes(path.read_bytes()[:-20])
    with pytest.raises(OutcomeError) as refused:
        load_outcomes([path])
    assert refused.value.code == "outcome_file_unreadable"


def test_load_outcomes_file_without_usable_row_is_an_error_even_when_skipping(tmp_path: Path) -> None:
    """Skipping everything is not an evaluation of anything."""
    good = write_json_lines(tmp_path / "good.jsonl", GOOD)
    bad = write_json_lines(tmp_path / "bad.jsonl", [outcome_row("Hm?", score=9)])
    with pytest.raises(OutcomeError, match=r"bad\.jsonl") as refused:
        load_outcomes([good, bad], on_bad_rows="skip")
    assert refused.value.code == "outcome_no_usable_row"


@pytest.mark.parametrize(
    ("name", "code"), [("none.jsonl", "outcome_file_missing"), ("table.csv", "outcome_file_format")]
)
def test_load_outcomes_wrong_path_says_what_is_wrong(tmp_path: Path, name: str, code: str) -> None:
    """A missing file and an unknown format are different errors."""
    (tmp_path / "table.csv").write_text("prompt,arm,score\n")
    with pytest.raises(OutcomeError) as refused:
        load_outcomes([tmp_path / name])
    assert refused.value.code == code


def test_load_outcomes_empty_json_lines_file_is_an_error(tmp_path: Path) -> None:
    """A file without a line has nothing to fit on."""
    (tmp_path / "a.jsonl").write_text("\n\n")
    with pytest.raises(OutcomeError) as refused:
        load_outcomes([tmp_path / "a.jsonl"])
    assert refused.value.code == "outcome_no_usable_row"


def test_matrix_missing_cells_are_nan_and_rows_keep_file_order(tmp_path: Path) -> None:
    """The matrix has a row per prompt in order of appearance and NaN where an arm was not asked."""
    rows = [outcome_row("B?", "y"), outcome_row("A?", "x", score=0.25), outcome_row("B?", "x", score=0.0)]
    matrix = load_outcomes([write_json_lines(tmp_path / "a.jsonl", rows)]).matrix()
    assert matrix.prompts == ["B?", "A?"]
    assert matrix.arms == ("x", "y")
    np.testing.assert_array_equal(matrix.score, np.array([[0.0, 1.0], [0.25, np.nan]], dtype=np.float32))


def test_matrix_chosen_arms_set_columns_and_drop_prompts_without_them(tmp_path: Path) -> None:
    """Asking for some arms leaves out prompts that none of them answered."""
    rows = [outcome_row("B?", "y"), outcome_row("A?", "x")]
    table = load_outcomes([write_json_lines(tmp_path / "a.jsonl", rows)])
    assert table.matrix(["y"]).prompts == ["B?"]
    with pytest.raises(OutcomeError) as refused:
        table.matrix(["z"])
    assert refused.value.code == "outcome_arm_unknown"
    with pytest.raises(OutcomeError) as repeated:
        table.matrix(["x", "x"])
    assert repeated.value.code == "outcome_arm_repeated"


def test_matrix_digest_ignores_order_and_sees_every_change(tmp_path: Path) -> None:
    """The digest names the content, so a shuffled file is the same data and a changed score is not."""
    rows = [outcome_row(f"Prompt {i}?", arm, score=i / 10) for i in range(8) for arm in ("x", "y")]
    digests = []
    for name, content in {
        "a": rows,
        "b": rows[::-1],
        "c": [*rows[:-1], outcome_row("Prompt 7?", "y", score=0.71)],
        "d": [{**row, "category": "maths"} for row in rows],
    }.items():
        digests.append(load_outcomes([write_json_lines(tmp_path / f"{name}.jsonl", content)]).matrix().digest)
    assert digests[0] == digests[1]
    assert len(set(digests)) == 3


def test_matrix_prompt_tokens_come_from_counts_or_from_length(tmp_path: Path) -> None:
    """Counted tokens are averaged over arms; a prompt without any count is estimated as the gateway does."""
    rows = [
        outcome_row("x" * 40, "a", input_tokens=10),
        outcome_row("x" * 40, "b", input_tokens=14),
        outcome_row("y" * 40, "a", input_tokens=None),
    ]
    matrix = load_outcomes([write_json_lines(tmp_path / "a.jsonl", rows)]).matrix()
    assert matrix.prompt_tokens.tolist() == [12.0, 10.0 + TOKENS_PER_MESSAGE]


def test_outcome_schema_document_names_every_column_and_every_kind_of_problem(repository_root: Path) -> None:
    """What the loader reads and refuses is written down."""
    page = (repository_root / "docs" / "outcomes.md").read_text(encoding="utf-8")
    for name in (*TEXT_COLUMNS, *NUMBER_COLUMNS, *COLUMN_ALIASES, *PROBLEM_KINDS):
        assert f"`{name}`" in page
