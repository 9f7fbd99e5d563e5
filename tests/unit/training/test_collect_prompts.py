"""Prompt files for collecting: every format, every problem with its count and a place, never a text."""

from __future__ import annotations

import gzip
import json
from pathlib import Path
from typing import Any

import pytest

from penstock_training.collect.prompts import PROBLEM_KINDS, PromptSet, read_prompts
from penstock_training.errors import TrainingError
from support.outcome_samples import write_json_lines, write_parquet

SECRET = "Xylophone"


def _read(tmp_path: Path, rows: list[dict[str, Any] | str], **options: int) -> PromptSet:
    return read_prompts([write_json_lines(tmp_path / "asked.jsonl", rows)], **options)


def test_prompt_row_with_every_field_keeps_all_of_them(tmp_path: Path) -> None:
    """Prompt, reference, query_id, category and source are taken as given; a number as reference becomes text."""
    row = {"prompt": "What is 6 times 7?", "reference": 42, "query_id": "q1", "category": "maths", "source": "school"}
    entry = _read(tmp_path, [row]).prompts[0]
    assert (entry.prompt, entry.reference, entry.query_id) == ("What is 6 times 7?", "42", "q1")
    assert (entry.category, entry.source, entry.messages) == ("maths", "school", (("user", "What is 6 times 7?"),))


def test_prompt_messages_are_sent_whole_and_routed_by_the_last_user_turn(tmp_path: Path) -> None:
    """All messages are kept; the outcome's prompt is the last user turn, and a logged answer at the end is dropped."""
    messages = [
        {"role": "system", "content": "Be short."},
        {"role": "user", "content": [{"type": "text", "text": "Why is"}, {"type": "text", "text": "snow white?"}]},
        {"role": "assistant", "content": "Because."},
    ]
    entry = _read(tmp_path, [{"messages": messages}]).prompts[0]
    assert entry.prompt == "Why is\nsnow white?"
    assert entry.messages == (("system", "Be short."), ("user", "Why is\nsnow white?"))


def test_event_log_row_gives_prompt_and_decision_id(tmp_path: Path) -> None:
    """A captured event is a prompt row with other fields beside it; its decision identifies it."""
    event = {"decision_id": "d-1", "model": "sim-small", "prompt": "Name a river.", "category": "general", "cost": 1}
    entry = _read(tmp_path, [event]).prompts[0]
    assert (entry.query_id, entry.prompt, entry.category) == ("d-1", "Name a river.", "general")


def test_prompt_files_of_other_formats_hold_the_same_prompts(tmp_path: Path) -> None:
    """Plain text, compressed JSON Lines and Parquet are read like JSON Lines; the file's name is the source."""
    texts = ["Name a river.", "Name a mountain."]
    (tmp_path / "plain.txt").write_text("\ufeff" + "\r\n".join(texts) + "\r\n", encoding="utf-8")
    lines = "".join(json.dumps({"prompt": text}) + "\n" for text in texts)
    (tmp_path / "packed.jsonl.gz").write_bytes(gzip.compress(lines.encode()))
    write_parquet(tmp_path / "table.parquet", [{"prompt": text, "unknown": 1} for text in texts])
    for name in ("plain.txt", "packed.jsonl.gz", "table.parquet"):
        found = read_prompts([tmp_path / name])
        assert [entry.prompt for entry in found.prompts] == texts
        assert {entry.source for entry in found.prompts} == {name.split(".")[0]}


def test_prompt_problems_of_every_kind_are_counted_with_a_place_and_no_text(tmp_path: Path) -> None:
    """Every kind of problem is counted, its first place is named by line and length, and no prompt text is shown."""
    image = [{"role": "user", "content": [{"type": "image_url", "image_url": {"url": SECRET}}]}]
    found = _read(
        tmp_path,
        [
            {"prompt": f"What is a {SECRET}?", "query_id": "one"},
            {"prompt": " \n"},
            "{" + SECRET,
            {"question": SECRET},
            {"messages": image},
            {"prompt": f"{SECRET} " * 5000},
            {"prompt": f"what is A {SECRET}"},
            {"prompt": f"Another {SECRET} question", "query_id": "one"},
        ],
    )
    assert {problem.kind: problem.count for problem in found.problems} == dict.fromkeys(PROBLEM_KINDS, 1)
    assert len(found.prompts) == 1
    assert "line 2, 2 characters" in found.describe()
    assert SECRET not in found.describe()


def test_prompt_conversations_with_equal_last_turns_are_different_prompts(tmp_path: Path) -> None:
    """Two conversations that end alike are one question only when what came before is equal too."""
    rows = [
        {"messages": [{"role": "system", "content": before}, {"role": "user", "content": "And now?"}]}
        for before in ("one", "two", "one")
    ]
    assert len(_read(tmp_path, rows).prompts) == 2


def test_prompt_set_in_several_languages_is_remarked(tmp_path: Path) -> None:
    """Languages are guessed and shown when there are several, since the encoders know English best."""
    texts = ["What is the capital of France?", "Was ist die Hauptstadt und wie groß ist sie?", "Где находится Москва?"]
    found = _read(tmp_path, [{"prompt": text} for text in texts])
    assert found.languages == {"en": 1, "de": 1, "cyrillic": 1}
    assert "several languages" in found.describe()
    assert "several languages" not in _read(tmp_path, [{"prompt": texts[0]}]).describe()


@pytest.mark.parametrize(
    ("name", "content", "code"),
    [
        ("absent.jsonl", None, "prompt_file_missing"),
        ("list.csv", b"prompt\n", "prompt_file_format"),
        ("broken.parquet", b"PAR1", "prompt_file_unreadable"),
        ("broken.jsonl.gz", b"\x1f\x8b\x08", "prompt_file_unreadable"),
        ("empty.jsonl", b"", "no_prompts"),
    ],
)
def test_prompt_file_that_cannot_be_used_is_refused_by_code(
    tmp_path: Path, name: str, content: bytes | None, code: str
) -> None:
    """Missing, foreign, damaged and empty files are told apart."""
    if content is not None:
        (tmp_path / name).write_bytes(content)
    with pytest.raises(TrainingError) as caught:
        read_prompts([tmp_path / name])
    assert caught.value.code == code


def test_prompt_set_digest_follows_every_field_that_is_sent_or_scored(tmp_path: Path) -> None:
    """A changed reference changes the digest, so that a continued run notices it."""
    first = _read(tmp_path, [{"prompt": "Name a river.", "reference": "Rhine"}])
    second = _read(tmp_path, [{"prompt": "Name a river.", "reference": "Elbe"}])
    assert first.digest != second.digest
