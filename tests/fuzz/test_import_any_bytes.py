"""Importers on content of any kind: a report or a `TrainingError`, never anything else, and never half a file."""

from __future__ import annotations

import gzip
import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from penstock_training.data_checks import check_outcomes
from penstock_training.errors import TrainingError
from penstock_training.importers.formats import FORMATS, import_outcomes
from penstock_training.importers.options import ImportOptions
from penstock_training.importers.zeroeval_marks import TASKS, mark
from penstock_training.outcomes import load_outcomes
from support.import_samples import (
    feedback_event,
    mmlu_pro_answers,
    request_event,
    routerbench_rows,
    spend_log,
    write_zip,
)

SHARED_FOLDER = settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=40)
OPTIONS = ImportOptions(arm="some-1", scores={"chatcmpl-1": 0.5, "dec_1": 0.5}, keeps_all_rows=True)

leaves = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(),
    st.floats(),
    st.text(max_size=6),
    st.sampled_from(["A", "0.5", "nan", "2026-01-05", "[", '["x"]', "['x'", "True", "1e999", " "]),
)
values = st.recursive(
    leaves, lambda inner: st.lists(inner, max_size=2) | st.dictionaries(st.text(max_size=3), inner), max_leaves=4
)
SAMPLES: dict[str, dict[str, Any]] = {
    "routerbench": routerbench_rows(1)[0],
    "routellm": {"prompt": "Why?", "a-1": "True", "b-1": "False", "a-1_response": "So."},
    "mmlu-pro": mmlu_pro_answers()[0],
    "zeroeval": {
        "id": "1",
        "output": ['{"answer": "5"}'],
        "question": "2 + 3?",
        "answer": "# 5",
        "chat_history": ["?"],
    },
    "litellm-spend": spend_log(),
    "events": request_event(),
}


def _attempt(name: str, path: Path, out: Path, *, may_skip: bool = True) -> None:
    """Import; afterwards there is a whole outcome file or none."""
    out.unlink(missing_ok=True)
    try:
        report = import_outcomes(name, [path], out, options=OPTIONS, on_bad_rows="skip" if may_skip else "refuse")
    except TrainingError:
        assert not out.exists()
    else:
        table = load_outcomes([out], on_bad_rows="skip")
        assert report.rows >= len(table) > 0
        check_outcomes(table.matrix(), load_report=table.report)
    assert [entry.name for entry in out.parent.iterdir() if "unfinished" in entry.name] == []


def _place(name: str, folder: Path, ending: str) -> Path:
    """A path under which the format takes a file of this ending."""
    task = folder / "gsm"
    task.mkdir(exist_ok=True)
    return task / f"file{ending}" if name == "zeroeval" else folder / f"file{ending}"


@pytest.mark.parametrize("name", FORMATS)
def test_import_of_each_unchanged_sample_succeeds(name: str, tmp_path: Path) -> None:
    """What the properties below change is importable as it stands, so that they test more than refusals."""
    path = _place(name, tmp_path, ".json" if name in {"mmlu-pro", "zeroeval"} else ".jsonl")
    path.write_text(json.dumps([SAMPLES[name]]) if path.suffix == ".json" else json.dumps(SAMPLES[name]) + "\n")
    assert import_outcomes(name, [path], tmp_path / "out.parquet", options=OPTIONS).rows >= 1


@pytest.mark.parametrize("name", FORMATS)
@SHARED_FOLDER
@given(data=st.data())
def test_import_of_changed_records_reports_or_refuses(name: str, tmp_path: Path, data: st.DataObject) -> None:
    """Fields that are lost or hold something else never break an importer."""
    record = dict(SAMPLES[name])
    for key in data.draw(st.lists(st.sampled_from(sorted(record)), max_size=3, unique=True)):
        if data.draw(st.booleans()):
            record.pop(key)
        else:
            record[key] = data.draw(values)
    ending = ".json" if name in {"mmlu-pro", "zeroeval"} else ".jsonl"
    rows = [record, SAMPLES[name], *([feedback_event()] if name == "events" else [])]
    path = _place(name, tmp_path, ending)
    text = json.dumps(rows) if ending == ".json" else "".join(json.dumps(row) + "\n" for row in rows)
    path.write_bytes(text.encode("utf-8", "surrogatepass"))
    _attempt(name, path, tmp_path / "out.parquet", may_skip=data.draw(st.booleans()))
    _attempt(name, path, tmp_path / "out.jsonl")


@pytest.mark.parametrize("name", FORMATS)
@SHARED_FOLDER
@given(
    content=st.binary(max_size=200), ending=st.sampled_from([".csv", ".jsonl", ".json", ".parquet", ".csv.gz", ".zip"])
)
def test_import_of_any_bytes_reports_or_refuses(name: str, tmp_path: Path, content: bytes, ending: str) -> None:
    """Files of noise under every ending are refused, compressed noise too."""
    path = _place(name, tmp_path, ending)
    for noise in (content, gzip.compress(content)):
        path.write_bytes(noise)
        _attempt(name, path, tmp_path / "out.parquet")


@SHARED_FOLDER
@given(position=st.integers(0, 2000), byte=st.integers(0, 255))
def test_import_of_a_damaged_archive_reports_or_refuses(tmp_path: Path, position: int, byte: int) -> None:
    """One changed byte anywhere in an archive is noticed or harmless."""
    path = write_zip(tmp_path / "model_outputs_a_5shots.zip", {"model_outputs_a_5shots.json": mmlu_pro_answers()})
    content = bytearray(path.read_bytes())
    content[position % len(content)] = byte
    path.write_bytes(bytes(content))
    _attempt("mmlu-pro", path, tmp_path / "out.parquet")


@given(
    task=st.sampled_from(TASKS),
    output=st.one_of(st.text(max_size=40), st.from_regex(r'\{"answer": .{0,8}\}?', fullmatch=True)),
    record=st.dictionaries(st.sampled_from(["answer", "choices", "correct_answer", "solution", "matched"]), values),
)
def test_mark_of_any_answer_is_right_wrong_or_unknown(task: str, output: str, record: dict[str, Any]) -> None:
    """Marking never fails, whatever a model wrote and whatever the record holds."""
    assert mark(task, record, output, "Llama-3.1") in {0.0, 1.0, None}
