"""Files of texts whose right answers are known: three formats, and every bad row by file and line."""

from __future__ import annotations

import gzip
import hashlib
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from penstock_training.cache_rule.texts import MAX_TEXT_CHARACTERS, read_texts
from penstock_training.errors import TrainingError

GOOD: list[dict[str, Any]] = [{"text": "one", "group": "a"}, {"text": "two", "group": "b"}]


def write(path: Path, rows: list[Any], *, end: str = "\n") -> Path:
    """Write rows as JSON lines; a string is written as it is."""
    lines = [row if isinstance(row, str) else json.dumps(row, ensure_ascii=False) for row in rows]
    path.write_text("".join(line + end for line in lines), encoding="utf-8", newline="")
    return path


def refusal(*files: Path) -> TrainingError:
    """Return the error that reading raises."""
    with pytest.raises(TrainingError) as caught:
        read_texts(files)
    return caught.value


def test_texts_in_groups_keep_order_group_and_category(tmp_path: Path) -> None:
    """A group is named by a text or a number; without a category a text is general."""
    rows = [
        {"text": "Turn it on", "group": "on", "category": "faq"},
        {"text": "Turn it off", "group": 7},
        {"text": "Switch it on", "group": "on", "ignored": [1]},
    ]
    found = read_texts([write(tmp_path / "own.jsonl", rows)])
    assert (found.name, len(found), found.texts) == ("own", 3, ("Turn it on", "Turn it off", "Switch it on"))
    assert found.groups[0] == found.groups[2] != found.groups[1]
    assert sorted(set(found.groups.tolist())) == [0, 1]
    assert found.categories == ("faq", "general", "general")
    assert found.blocks.tolist() == found.groups.tolist()
    assert found.remarks == ()


def test_texts_in_pairs_are_one_group_or_two_in_one_block(tmp_path: Path) -> None:
    """Both sides of a pair stay together when a set is parted, also where their answers differ."""
    rows = [{"a": "one", "b": "uno", "same": True}, {"a": "two", "b": "three", "same": False, "category": "code"}]
    found = read_texts([write(tmp_path / "pairs.jsonl", rows)])
    assert found.texts == ("one", "uno", "two", "three")
    assert found.groups[0] == found.groups[1]
    assert len(set(found.groups.tolist())) == 3
    assert found.blocks[0] == found.blocks[1] != found.blocks[2] == found.blocks[3]
    assert found.categories == ("general", "general", "code", "code")


def test_texts_in_quads_are_two_groups_in_one_block(tmp_path: Path) -> None:
    """The first two wordings have one answer, the last two another."""
    rows = [{"a": f"a{n}", "a2": f"aa{n}", "b": f"b{n}", "b2": f"bb{n}", "kind": "x"} for n in range(2)]
    found = read_texts([write(tmp_path / "quads.jsonl", rows)])
    first, second = found.groups[:4].tolist(), found.groups[4:].tolist()
    assert first[0] == first[1] != first[2] == first[3]
    assert not set(first) & set(second)
    assert len(set(found.blocks[:4].tolist())) == len(set(found.blocks[4:].tolist())) == 1
    assert found.blocks[0] != found.blocks[4]


def test_texts_of_several_files_are_one_set(tmp_path: Path) -> None:
    """Groups go by name across files, rows of pairs never meet, and the digest is that of all bytes."""
    pair = {"a": "x", "b": "y", "same": False}
    files = [write(tmp_path / f"{n}.jsonl", [*GOOD, pair | {"a": f"x{n}", "b": f"y{n}"}]) for n in range(2)]
    found = read_texts(files, name="both")
    assert found.name == "both"
    assert len(set(found.groups.tolist())) == 2 + 2 * 2
    assert found.digest == hashlib.sha256(files[0].read_bytes() + files[1].read_bytes()).hexdigest()


def test_texts_that_are_zipped_read_like_plain_ones(tmp_path: Path) -> None:
    """The digest is of the content, not of the packing."""
    plain = write(tmp_path / "own.jsonl", GOOD)
    packed = tmp_path / "own.jsonl.gz"
    packed.write_bytes(gzip.compress(plain.read_bytes()))
    one, other = read_texts([plain]), read_texts([packed])
    assert (one.texts, one.digest, one.name) == (other.texts, other.digest, other.name)


@pytest.mark.parametrize("separator", ["\u2028", "\u2029", "\x85", "\x0b", "\x0c", "\x1c", "\x1e"])
def test_texts_with_a_line_separator_of_unicode_inside_are_one_row(tmp_path: Path, separator: str) -> None:
    """JSON leaves these as they are, so a row ends at a line feed and nowhere else."""
    text = f"first{separator}second"
    row = f'{{"text": "{text}", "group": "a"}}' if separator >= "\x7f" else json.dumps({"text": text, "group": "a"})
    found = read_texts([write(tmp_path / "own.jsonl", [row, GOOD[1]])])
    assert found.texts == (text, "two")


def test_texts_with_carriage_returns_and_blank_lines_are_read(tmp_path: Path) -> None:
    """Files from other systems and trailing blank lines are no errors, and blank lines count as lines."""
    path = write(tmp_path / "own.jsonl", [GOOD[0], "", "  ", GOOD[1]], end="\r\n")
    assert read_texts([path]).texts == ("one", "two")
    path = write(tmp_path / "own.jsonl", [GOOD[0], "", "{"], end="\r\n")
    assert "own.jsonl:3" in refusal(path).message


@pytest.mark.parametrize(
    ("row", "what"),
    [
        ("{", "not JSON"),
        ("[" * 100_000, "not JSON"),
        ('{"text": "x", "group": ' + "1" * 5_000 + "}", "not JSON"),
        ("[1]", "not an object"),
        ('"text"', "not an object"),
        ({}, "a row has"),
        ({"a": "x", "b": "y"}, "a row has"),
        ({"a": "x", "b": "y", "same": "true"}, "a row has"),
        ({"a": "x", "b": "y", "same": 1}, "a row has"),
        ({"a": "x", "a2": "y", "b": "z"}, "a row has"),
        ({"text": "x"}, "'group'"),
        ({"text": "x", "group": None}, "'group'"),
        ({"text": "x", "group": ""}, "'group'"),
        ({"text": "x", "group": True}, "'group'"),
        ({"text": "x", "group": 1.5}, "'group'"),
        ({"text": "", "group": "a"}, "'text'"),
        ({"text": " \n", "group": "a"}, "'text'"),
        ({"text": 5, "group": "a"}, "'text'"),
        ({"text": None, "group": "a"}, "'text'"),
        ({"text": "x" * (MAX_TEXT_CHARACTERS + 1), "group": "a"}, "200,000"),
        ({"a": "x", "b": 5, "same": True}, "'b'"),
        ({"a": "x", "a2": "y", "b": "z", "b2": ""}, "'b2'"),
        ({"text": "x", "group": "a", "category": 5}, "'category'"),
        ({"text": "x", "group": "a", "category": ""}, "'category'"),
        ({"text": "x", "group": "a", "category": None}, "'category'"),
    ],
)
def test_texts_with_a_bad_row_are_refused_by_file_and_line(tmp_path: Path, row: object, what: str) -> None:
    """The first bad row is named with what is wrong in it; nothing is skipped in silence."""
    good, bad = write(tmp_path / "good.jsonl", GOOD), write(tmp_path / "bad.jsonl", [*GOOD, row])
    error = refusal(good, bad)
    assert error.code == "cache_texts_invalid"
    assert error.message.startswith("bad.jsonl:3: ")
    assert what in error.message
    assert len(error.message) < 300


def test_texts_file_that_is_not_there_or_cut_is_refused(tmp_path: Path) -> None:
    """A missing file, a folder, and packed files that are cut, changed or none at all have one code."""
    packed = gzip.compress(json.dumps(GOOD[0]).encode() * 100)
    damaged = bytearray(packed)
    damaged[12:20] = b"\xff" * 8
    contents = {"cut.gz": packed[:-12], "none.gz": b"{}", "empty.gz": b"", "damaged.gz": bytes(damaged)}
    for name, content in contents.items():
        (tmp_path / name).write_bytes(content)
    for name in ("missing.jsonl", ".", "cut.gz", "none.gz", "damaged.gz"):
        error = refusal(tmp_path / name)
        assert error.code == "cache_texts_missing", name
        assert str(tmp_path / name) in error.message
    assert refusal(tmp_path / "empty.gz").code == "cache_texts_one_group"


@pytest.mark.parametrize(
    "rows", [[], [""], GOOD[:1], [GOOD[0], {"text": "other", "group": "a"}], [{"a": "x", "b": "y", "same": True}]]
)
def test_texts_of_fewer_than_two_groups_are_refused(tmp_path: Path, rows: list[Any]) -> None:
    """With one answer for everything nothing could be told apart."""
    assert refusal(write(tmp_path / "own.jsonl", rows)).code == "cache_texts_one_group"


@pytest.mark.parametrize(
    ("one", "other", "is_joined"),
    [
        ("What is it?", "what is  it", True),
        ("What's the time", "what s the time?", True),
        ("my to-do list", "My to do list!", True),
        ("STRASSE", "straße", True),
        ("Is a hushed(app) number real?", "Is a Hushed (app) number real?", True),
        ("Learn C", "Learn C++", False),
        ("Learn C#", "Learn C", False),
        ("Is 3 < 4", "Is 3 > 4", False),
        ("What does % mean in C?", "What does ~ mean in C?", False),
        ("Is -5 cold?", "Is 5 cold?", False),
        ("Take 3.5 of it", "Take 3 5 of it", False),
        ("Pay $5", "Pay €5", False),
        ("turn it on", "turn it off", False),
        ("???", "!!!", False),
        ("➰", "✊", False),
    ],
)
def test_texts_of_two_groups_with_the_same_words_join_their_groups(
    tmp_path: Path, one: str, other: str, is_joined: bool
) -> None:
    """Labels that contradict each other make one group; a sign that changes the question keeps them apart."""
    rows = [
        {"text": one, "group": "a"},
        {"text": "apple", "group": "a"},
        {"text": other, "group": "b"},
        {"text": "pear", "group": "b"},
        {"text": "plum", "group": "c"},
    ]
    found = read_texts([write(tmp_path / "own.jsonl", rows)])
    groups = found.groups.tolist()
    assert groups[0] == groups[1]
    assert groups[2] == groups[3]
    assert (groups[0] == groups[2]) is is_joined
    assert len(set(groups)) == (2 if is_joined else 3)
    assert bool(found.remarks) is is_joined


def test_texts_that_join_groups_in_a_chain_make_one_of_all(tmp_path: Path) -> None:
    """If a meets b and b meets c, all three are one group, in whatever order the rows come."""
    rows = [
        {"text": text, "group": group}
        for text, group in [("x", "a"), ("y", "b"), ("z", "c"), ("Y!", "c"), ("w", "d"), ("x?", "c"), ("v", "e")]
    ]
    for order in (rows, rows[::-1]):
        found = read_texts([write(tmp_path / "own.jsonl", order)])
        groups = dict(zip(found.texts, found.groups.tolist(), strict=True))
        assert groups["x"] == groups["y"] == groups["z"]
        assert len(set(groups.values())) == 3
        assert found.remarks == ("2 groups hold the same words as another and were joined with it",)


def test_texts_part_keeps_what_belongs_to_the_rows(tmp_path: Path) -> None:
    """Groups and blocks are numbered anew without gaps, texts and categories stay with their rows."""
    rows = [{"text": f"t{n}", "group": f"g{n // 2}", "category": f"c{n % 2}"} for n in range(8)]
    part = read_texts([write(tmp_path / "own.jsonl", rows)]).part(np.array([2, 3, 6]))
    assert part.texts == ("t2", "t3", "t6")
    assert part.groups.tolist() == part.blocks.tolist() == [0, 0, 1]
    assert part.categories == ("c0", "c1", "c0")
