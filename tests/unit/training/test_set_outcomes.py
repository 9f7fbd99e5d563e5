"""Parquet data sets read part by part: the same numbers as from files, and no text where it does not belong."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from penstock_routers.bundled import DEFAULT_ENCODER, bundled_folder
from penstock_routers.encoder import PromptEncoder
from penstock_training import set_outcomes
from penstock_training.engines.protocol import LOCAL
from penstock_training.errors import OutcomeError, TrainingError
from penstock_training.fit import feature_matrix
from penstock_training.outcomes import OutcomeMatrix, load_outcomes
from penstock_training.parquet_sets import list_chunks, prompt_key, read_texts, scan_chunk
from penstock_training.progress import silent
from penstock_training.set_outcomes import SetOutcomes, load_sets
from penstock_training.vectors import BLOCK, encode_prompts
from support.outcome_samples import outcome_row, write_parquet

WORDS = ("river", "matrix", "Brot und Käse", "tide", "verb", "lease", "piano", "zinc")


def _rows(prompts: int = 300, **changes: Any) -> list[dict[str, Any]]:
    """Prompts of several lengths and languages on two arms; every third shares its question with the one before."""
    rows = []
    for number in range(prompts):
        text = f"Question: What is {WORDS[number % 8]} {number - (number % 3 == 2)}? " + "and why " * (number % 40)
        for arm in ("large", "small"):
            tokens = None if number % 5 == 0 else 3 + number
            rows.append(outcome_row(text, arm, score=(number * 7 % 10) / 10, input_tokens=tokens, **changes))
    return rows


def _write(path: Path, rows: Sequence[dict[str, Any]], row_group_size: int) -> str:
    path.parent.mkdir(parents=True, exist_ok=True)
    pq.write_table(pa.Table.from_pylist(list(rows)), path, row_group_size=row_group_size)
    return str(path)


def _load(*urls: str, **options: Any) -> SetOutcomes:
    return load_sets(urls, LOCAL, progress=silent, **options)


def _assert_equal(found: SetOutcomes, expected: OutcomeMatrix) -> None:
    matrix = found.matrix
    assert matrix.prompts == [prompt_key(prompt) for prompt in expected.prompts]
    assert (matrix.digest, matrix.arms) == (expected.digest, expected.arms)
    assert (matrix.sources, matrix.tasks, matrix.languages) == (expected.sources, expected.tasks, expected.languages)
    assert matrix.groups.tolist() == expected.groups.tolist()
    np.testing.assert_array_equal(matrix.prompt_tokens, expected.prompt_tokens)
    for name in ("score", "input_tokens", "output_tokens", "cost_usd", "propensity"):
        np.testing.assert_array_equal(getattr(matrix, name), getattr(expected, name))


@pytest.mark.parametrize("row_group_size", [7, 64, 10_000])
def test_load_sets_one_file_gives_the_matrix_of_the_file(tmp_path: Path, row_group_size: int) -> None:
    """However a file is cut into row groups, matrix, questions, languages and digest are those of the whole file."""
    path = _write(tmp_path / "rows.parquet", _rows(), row_group_size)
    _assert_equal(_load(path), load_outcomes([Path(path)]).matrix())


@pytest.mark.parametrize("block", [1, 16])
def test_load_sets_numbers_questions_across_blocks(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, block: int) -> None:
    """Questions are sorted range by range, each in a place of its own, into the order that all of them have."""
    monkeypatch.setattr(set_outcomes, "BLOCK", block)
    path = _write(tmp_path / "rows.parquet", _rows(), 64)
    found = _load(path)
    assert len(found.blocks) == -(-300 // block)
    _assert_equal(found, load_outcomes([Path(path)]).matrix())


def test_load_sets_parts_and_files_give_the_matrix_of_all_rows(tmp_path: Path) -> None:
    """A folder's files are read in the order of their names, hidden ones left out, sets in the order given."""
    rows = _rows()
    for number, start in enumerate(range(0, len(rows), 150)):
        _write(tmp_path / "set" / f"day={number % 2}" / f"part-{number}.parquet", rows[start : start + 150], 50)
    (tmp_path / "set" / "_temporary.parquet").write_text("no Parquet")
    other = _write(tmp_path / "other.parquet", _rows(10, source="other"), 3)
    ordered = [rows[start : start + 150] for start in (0, 300, 150, 450)]
    whole = [row for part in ordered for row in part] + _rows(10, source="other")
    expected = load_outcomes([write_parquet(tmp_path / "whole.parquet", whole)]).matrix()
    _assert_equal(_load(str(tmp_path / "set"), other), expected)


@pytest.mark.parametrize("scheme", ["file", "memory"])
def test_load_sets_url_is_opened_by_its_store(tmp_path: Path, scheme: str) -> None:
    """A URL is read through the fsspec client of its scheme."""
    import fsspec

    path = _write(tmp_path / "rows.parquet", _rows(20), 9)
    url = f"{scheme}://{path if scheme == 'file' else '/test-sets/rows.parquet'}"
    if scheme == "memory":
        fsspec.filesystem("memory").pipe("/test-sets/rows.parquet", Path(path).read_bytes())
    _assert_equal(_load(url), load_outcomes([Path(path)]).matrix())


def test_load_sets_without_source_names_the_set(tmp_path: Path) -> None:
    """Rows without a source belong to their set, not to one of its part files."""
    _write(tmp_path / "march.v2" / "part-0.parquet", _rows(4, source=...), 3)
    assert set(_load(str(tmp_path / "march.v2")).matrix.sources) == {"march"}


def test_encode_gives_the_vectors_of_the_local_way_to_the_last_bit(tmp_path: Path) -> None:
    """Blocks lie where `encode_prompts` lays them, so vectors do not depend on how a set is cut up."""
    path = _write(tmp_path / "rows.parquet", _rows(BLOCK + 100), 333)
    folder = bundled_folder(DEFAULT_ENCODER)
    encoder = PromptEncoder.load(folder)
    expected = load_outcomes([Path(path)]).matrix()
    vectors, features = _load(path).encode(folder, encoder, silent)
    np.testing.assert_array_equal(vectors, encode_prompts(encoder, expected.prompts, lambda *_: None))
    np.testing.assert_array_equal(features, feature_matrix(expected.prompts))


def test_encode_another_encoder_under_that_name_is_refused(tmp_path: Path) -> None:
    """A worker that would make other vectors than this process says so."""
    path = _write(tmp_path / "rows.parquet", _rows(3), 10)
    encoder = PromptEncoder.load(bundled_folder(DEFAULT_ENCODER))
    other = next(f for f in bundled_folder(DEFAULT_ENCODER).parent.iterdir() if "minilm-l6" in f.name)
    with pytest.raises(TrainingError) as caught:
        _load(path).encode(other, encoder, silent)
    assert caught.value.code == "encoder_differs"


def test_scan_chunk_returns_no_text_of_a_prompt(tmp_path: Path) -> None:
    """What leaves a worker are hashes, and beginnings of 32 normalised questions that set the ranges."""
    path = _write(tmp_path / "rows.parquet", _rows(), 10_000)
    scan = scan_chunk(None, list_chunks(path)[0])
    assert all(re.fullmatch("[0-9a-f]{64}", value) for value in scan.raw.text["prompt"].values)
    assert len(scan.questions) <= 38
    assert max(map(len, scan.questions)) <= 64


def test_load_sets_edited_prompts_are_told_from_other_questions(tmp_path: Path) -> None:
    """Versions of one query are compared by their texts, as in files: an edited one passes, another question not."""
    first = outcome_row("Why is the sea so salty today?", "small", query_id="q1")
    edited = outcome_row("Why is the sea so salty, today ?", "large", query_id="q1")
    good = _write(tmp_path / "good.parquet", [first, edited], 1)
    assert _load(good).report.prompt_variants == 1
    other = outcome_row("Name three rivers in Peru.", "large", query_id="q1")
    bad = _write(tmp_path / "bad.parquet", [first, other], 1)
    with pytest.raises(OutcomeError) as caught:
        _load(bad)
    with pytest.raises(OutcomeError) as expected:
        load_outcomes([Path(bad)])
    assert caught.value.message == expected.value.message
    assert _load(bad, on_bad_rows="skip").report.rows_bad == 1


def test_load_sets_bad_rows_are_reported_as_from_the_file(tmp_path: Path) -> None:
    """Rows are numbered through the set, and a blank prompt is recognised without its text."""
    rows = [*_rows(5), outcome_row("  "), outcome_row("Fine?", score=2.0), outcome_row(None)]  # type: ignore[arg-type]
    path = _write(tmp_path / "rows.parquet", rows, 4)
    with pytest.raises(OutcomeError) as caught:
        _load(path)
    with pytest.raises(OutcomeError) as expected:
        load_outcomes([Path(path)])
    assert caught.value.message == expected.value.message
    assert caught.value.code == "outcome_rows_refused"


@pytest.mark.parametrize(
    ("url", "code"),
    [
        ("absent.parquet", "outcome_file_missing"),
        ("text.jsonl", "outcome_file_format"),
        ("damaged.parquet", "outcome_file_unreadable"),
        ("nothing://bucket/rows.parquet", "outcome_store_unknown"),
    ],
)
def test_load_sets_what_is_no_set_is_refused(tmp_path: Path, url: str, code: str) -> None:
    """Each refusal has a code of its own."""
    (tmp_path / "text.jsonl").write_text("{}\n")
    (tmp_path / "damaged.parquet").write_bytes(b"PAR1 but not really")
    with pytest.raises(OutcomeError) as caught:
        _load(url if "://" in url else str(tmp_path / url))
    assert caught.value.code == code


def test_read_texts_changed_file_is_refused(tmp_path: Path) -> None:
    """A set that changes during a run is noticed, instead of being fitted on half of each version."""
    path = _write(tmp_path / "rows.parquet", _rows(3), 10)
    (chunk,) = list_chunks(path)
    _write(tmp_path / "rows.parquet", [outcome_row("Another prompt?")], 10)
    with pytest.raises(OutcomeError) as caught:
        read_texts(chunk, [prompt_key("What was here before?")])
    assert caught.value.code == "outcome_file_unreadable"


def test_keyed_matrix_part_of_it_has_no_digest(tmp_path: Path) -> None:
    """Without texts the digest of some prompts cannot be known, and none is made up."""
    matrix = _load(_write(tmp_path / "rows.parquet", _rows(6), 5)).matrix
    part = matrix.rows(np.array([4, 1]))
    assert part.languages == [matrix.languages[4], matrix.languages[1]]
    assert part.text_tokens.tolist() == [matrix.text_tokens[4], matrix.text_tokens[1]]
    with pytest.raises(ValueError, match="no digest"):
        _ = part.digest


@dataclass(frozen=True)
class _Spread:
    """Cuts numbers by their remainder."""

    pieces: int


def _by_remainder(common: _Spread, part: list[int]) -> list[list[int]]:
    return [[number for number in part if number % common.pieces == piece] for piece in range(common.pieces)]


def _joined(common: _Spread, pieces: Sequence[list[int]]) -> list[int]:
    return [number for piece in pieces for number in piece]


def test_local_engine_shuffle_brings_pieces_together_in_order() -> None:
    """The k-th result holds the k-th pieces of all parts, in the order of the parts."""
    found = LOCAL.shuffle(_by_remainder, _joined, LOCAL.share(_Spread(2)), [[4, 1], [3, 2]], 2)
    assert found == [[4, 2], [1, 3]]
