"""Source files of importers: what is found, what is refused, and what a killed import leaves."""

from __future__ import annotations

import gzip
import io
import os
import pickle
import signal
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

from penstock_training.errors import TrainingError
from penstock_training.importers.formats import import_outcomes
from penstock_training.importers.options import ImportOptions
from penstock_training.importers.routerbench import written_list
from penstock_training.importers.source_files import find_sources, number_of, read_records
from penstock_training.importers.token_counts import token_counter
from support.import_samples import mmlu_pro_answers, routerbench_rows, write_csv, write_lines, write_zip


def _code(path: Path, out: Path, name: str = "routerbench") -> tuple[str, str]:
    with pytest.raises(TrainingError) as caught:
        import_outcomes(name, [path], out, options=ImportOptions())
    assert not out.exists()
    return caught.value.code, caught.value.message


class _Trap:
    """Leaves a file behind when it is unpickled."""

    def __init__(self, target: Path) -> None:
        self.target = str(target)

    def __reduce__(self) -> tuple[object, tuple[str, str]]:
        return open, (self.target, "w")


@pytest.mark.parametrize("name", ["routerbench_0shot.pkl", "table.csv", "table.parquet"])
def test_pickle_is_refused_under_any_name_and_never_loaded(tmp_path: Path, name: str) -> None:
    """A pickle is refused by its ending and by its first bytes, with the way to convert it, and nothing in it runs."""
    sprung = tmp_path / "sprung"
    path = tmp_path / name
    path.write_bytes(pickle.dumps(_Trap(sprung)))
    code, message = _code(path, tmp_path / "out.parquet")
    assert code == "import_pickle_refused"
    assert "container" in message
    assert not sprung.exists()


def test_folder_is_searched_in_order_without_hidden_files_and_links(tmp_path: Path) -> None:
    """Files of a folder come sorted; hidden ones and links are left alone."""
    folder = tmp_path / "data"
    (folder / "b").mkdir(parents=True)
    (folder / ".git").mkdir()
    (tmp_path / "outside.csv").write_text("a\n1\n")
    for name in ("b/one.csv", "a.csv", ".hidden.csv", ".git/x.csv", "note.txt"):
        (folder / name).write_text("a\n1\n")
    (folder / "link.csv").symlink_to(tmp_path / "outside.csv")
    assert [file.relative.as_posix() for file in find_sources([folder], (".csv",))] == ["data/a.csv", "data/b/one.csv"]


def test_path_problems_are_named(tmp_path: Path) -> None:
    """A missing path, a folder without a table and a file of another kind each have a code."""
    (tmp_path / "empty").mkdir()
    (tmp_path / "notes.txt").write_text("hello there")
    out = tmp_path / "out.parquet"
    assert _code(tmp_path / "nothing.csv", out)[0] == "import_path_missing"
    assert _code(tmp_path / "empty", out)[0] == "import_nothing_found"
    assert _code(tmp_path / "notes.txt", out)[0] == "import_file_format"


def test_damaged_files_are_named_and_nothing_is_written(tmp_path: Path) -> None:
    """Cut gzip, broken Parquet and archives, wrong encoding and unclosed quotes are errors, not tracebacks."""
    whole = write_csv(tmp_path / "whole.csv", routerbench_rows(50)).read_bytes()
    squeezed = gzip.compress(whole)
    damaged = {
        "cut.csv.gz": squeezed[: len(squeezed) // 2],
        "cut.parquet": b"PAR1" + whole[:100],
        "cut.csv": b'sample_id,prompt\n1,"never closed',
        "latin.csv": "sample_id,prompt\n1,caf\xe9\n".encode("latin-1"),
    }
    for name, content in damaged.items():
        (tmp_path / name).write_bytes(content)
        code, message = _code(tmp_path / name, tmp_path / "out.parquet")
        assert (code, name in message) == ("import_file_unreadable", True), name
    archive = write_zip(tmp_path / "model_outputs_a_5shots.zip", {"a.json": mmlu_pro_answers()})
    archive.write_bytes(archive.read_bytes()[:-10])
    assert _code(archive, tmp_path / "out.parquet", "mmlu-pro")[0] in {"import_file_unreadable", "import_file_format"}


def test_archive_member_with_a_wrong_checksum_is_refused(tmp_path: Path) -> None:
    """A flipped bit inside an archive is noticed."""
    stream = io.BytesIO()
    with zipfile.ZipFile(stream, "w", zipfile.ZIP_STORED) as archive:
        archive.writestr("model_outputs_a_5shots.json", "[1, 2, 3]")
    path = tmp_path / "model_outputs_a_5shots.zip"
    path.write_bytes(stream.getvalue().replace(b"[1, 2, 3]", b"[1, 2, 4]"))
    assert _code(path, tmp_path / "out.parquet", "mmlu-pro")[0] == "import_file_unreadable"


def test_oversized_content_is_refused_before_it_fills_memory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What unpacks to more than the limit is refused as damage, in gzip files and in archives."""
    monkeypatch.setattr("penstock_training.importers.source_files.MAX_FILE_BYTES", 1000)
    (tmp_path / "bomb.csv.gz").write_bytes(gzip.compress(b"a" * 100_000))
    assert "larger" in _code(tmp_path / "bomb.csv.gz", tmp_path / "out.parquet")[1]
    bomb = write_zip(tmp_path / "model_outputs_a_5shots.zip", {"a.json": "a" * 100_000})
    assert "larger" in _code(bomb, tmp_path / "out.parquet", "mmlu-pro")[1]


def test_rows_with_too_few_fields_are_counted_as_broken(tmp_path: Path) -> None:
    """A CSV line that lost a field is a broken line and not a shifted row."""
    path = write_csv(tmp_path / "ponds.csv", routerbench_rows())
    path.write_text(path.read_text() + "3,pond.test.9\n")
    code, message = _code(path, tmp_path / "out.parquet")
    assert code == "import_rows_refused"
    assert "ponds.csv row 4: broken_line" in message


def test_target_is_checked_before_anything_is_read(tmp_path: Path) -> None:
    """An existing file, a missing folder and a wrong ending are refused, and the existing file is kept."""
    source = write_csv(tmp_path / "ponds.csv", routerbench_rows())
    kept = tmp_path / "kept.parquet"
    kept.write_bytes(b"mine")
    for out in (kept, tmp_path / "none" / "a.parquet", tmp_path / "a.txt"):
        with pytest.raises(TrainingError) as caught:
            import_outcomes("routerbench", [source], out, options=ImportOptions())
        assert caught.value.code == "import_out_refused"
    assert kept.read_bytes() == b"mine"
    import_outcomes("routerbench", [source], kept, options=ImportOptions(), may_overwrite=True)
    assert kept.read_bytes()[:4] == b"PAR1"


def test_unknown_format_lists_the_known_ones(tmp_path: Path) -> None:
    """A typing error in the format's name is answered with the names."""
    with pytest.raises(TrainingError, match="routerbench, routellm") as caught:
        import_outcomes("routerbensh", [tmp_path], tmp_path / "a.parquet", options=ImportOptions())
    assert caught.value.code == "import_format_unknown"


_SLOW_IMPORT = """
import sys, time
from pathlib import Path
import penstock_training.importers.formats as formats
from penstock_training.importers.options import ImportOptions

whole = formats._write_columns

def half(path, into):
    whole(path, into)
    path.write_bytes(path.read_bytes()[:200])
    print("writing", flush=True)
    time.sleep(60)

formats._write_columns = half
paths, out = [Path(sys.argv[1])], Path(sys.argv[2])
formats.import_outcomes("routerbench", paths, out, options=ImportOptions(), may_overwrite=True)
"""


@pytest.mark.parametrize("is_old_file_there", [False, True])
def test_killed_import_leaves_no_half_written_file(tmp_path: Path, is_old_file_there: bool) -> None:
    """A kill while the file is written leaves the old state, and the next run cleans up."""
    source = write_csv(tmp_path / "ponds.csv", routerbench_rows())
    folder = tmp_path / "out"
    folder.mkdir()
    out = folder / "ponds.jsonl"
    if is_old_file_there:
        out.write_text("old")
    command = [sys.executable, "-c", _SLOW_IMPORT, str(source), str(out)]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, env=dict(os.environ))
    assert process.stdout is not None
    assert process.stdout.readline() == b"writing\n"
    process.send_signal(signal.SIGKILL)
    process.wait(timeout=30)
    process.stdout.close()
    visible = [path.name for path in folder.iterdir() if not path.name.startswith(".")]
    assert visible == (["ponds.jsonl"] if is_old_file_there else [])
    assert not is_old_file_there or out.read_text() == "old"
    import_outcomes("routerbench", [source], out, options=ImportOptions(), may_overwrite=True)
    assert [path.name for path in folder.iterdir()] == ["ponds.jsonl"]


@pytest.mark.parametrize(
    ("value", "expected"),
    [(True, 1.0), ("False", 0.0), (" 0.5 ", 0.5), ("nan", None), ("", None), ("x", None), (None, None), ([1], None)],
)
def test_number_of_reads_numbers_truth_values_and_their_texts(value: object, expected: float | None) -> None:
    """Numbers and truth values are read as they stand or as text; anything else is missing."""
    assert number_of(value) == expected


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        ("['Why?', 'How?']", "Why?\nHow?"),
        ('["It\'s wet"]', "It's wet"),
        (["Why?"], "Why?"),
        ("[1, 2]", "[1, 2]"),
        ("[print('x')]", "[print('x')]"),
        ("Why?", "Why?"),
    ],
)
def test_written_list_joins_texts_and_runs_nothing(value: object, expected: str) -> None:
    """A list of texts written as Python is joined; other text stays as it is."""
    assert written_list(value) == expected


def test_token_counter_estimates_four_bytes_a_token() -> None:
    """The estimate is the gateway's rule without its allowance per message."""
    assert [token_counter("estimate")(text) for text in ("", "abcd", "abcde")] == [0, 1, 2]


def test_token_counter_without_tiktoken_names_the_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    """Counting with cl100k without its package says what to install."""
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(TrainingError, match="litellm extra") as caught:
        token_counter("cl100k")
    assert caught.value.code == "missing_extra"


def test_json_lines_with_a_broken_line_keep_their_numbers(tmp_path: Path) -> None:
    """A broken line is None under its own number, and blank lines count."""
    path = write_lines(tmp_path / "a.jsonl", [{"a": 1}])
    path.write_text(path.read_text() + "\n[1]\n{x\n" + '{"a": 2}\n')
    [file] = find_sources([path], (".jsonl",))
    assert list(read_records(file)) == [(1, {"a": 1}), (3, None), (4, None), (5, {"a": 2})]
