"""RouteLLM: two models on MMLU, GSM8K and MT-Bench, and its preference data.

Owns the reading of four layouts of ``lm-sys/RouteLLM``: ``routellm/evals/mmlu/responses/mmlu_<subject>.csv`` and
``routellm/evals/gsm8k/gsm8k_responses.csv`` (``prompt`` and one True/False column per model, for GSM8K also
``<model>_response``); ``routellm/evals/mt_bench/judgements.jsonl`` (grades of 1 to 10 per turn) with ``question.jsonl``
beside it; battles (``prompt``, ``model_a``, ``model_b``, ``winner_model_a``, ``winner_model_b``, ``winner_tie``), the
form of its training data. Read `read_routellm`.
"""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Final

import msgspec

from penstock_training.errors import TrainingError
from penstock_training.importers.collected import Collector, OutcomeRow
from penstock_training.importers.options import ImportOptions, need_columns, stem
from penstock_training.importers.source_files import (
    TABLE_SUFFIXES,
    SourceFile,
    find_sources,
    number_of,
    read_records,
    text_of,
)

SOURCE: Final = "routellm"
# The two spellings of its history; one name per model, so that parts from different commits fit together.
MODEL_NAMES: Final[Mapping[str, str]] = {"mixtral-8x7b-instruct-v0.1": "mistralai/Mixtral-8x7B-Instruct-v0.1"}
_BATTLE_COLUMNS: Final = ("prompt", "model_a", "model_b", "winner_model_a", "winner_model_b", "winner_tie")
_JUDGEMENT_COLUMNS: Final = ("question_id", "model", "score", "turn")
_JUDGED_QUESTION: Final = re.compile(r"\[Question\]\n(.*?)\n\n\[The Start of ", re.DOTALL)
_FIRST_GRADE, _LAST_GRADE = 1.0, 10.0
_IGNORED_FILES: Final = re.compile(r"contaminated_prompts|gpt-4_single|martian\.jsonl|unify\.jsonl")


def read_routellm(paths: Sequence[Path], into: Collector, options: ImportOptions) -> list[str]:
    """Read RouteLLM's evaluation files or battles.

    Parameters
    ----------
    paths : sequence of Path
        Files, or a folder such as ``routellm/evals``.
    into : Collector
    options : ImportOptions
        ``source`` (default ``routellm``), ``tokens``, ``prices``.

    Returns
    -------
    list of str
        Remarks for the report.

    Raises
    ------
    TrainingError
        ``import_column_missing``, ``import_file_format`` (a table of none of the layouts), and what `find_sources` and
        `read_records` raise.

    Notes
    -----
    MMLU answers are one letter: one output token. A prompt that stands twice in one table is taken once (MMLU's college
    physics repeats eleven questions). An MT-Bench score is (mean grade of both turns − 1) / 9. A battle gives two rows,
    1 for the winner, 0 for the loser, one half each for a tie: such scores say which of *these two* answers was
    preferred, so they mean something between the two arms of a pair only.
    """
    count = options.counter()
    files = [file for file in find_sources(paths, TABLE_SUFFIXES) if not _IGNORED_FILES.search(file.name)]
    questions = _questions(files)
    remarks: list[str] = []
    for done, file in enumerate(files):
        options.progress("reading tables", done, len(files))
        records = read_records(file)
        if file.name.startswith("question."):
            continue
        first = next((record for _, record in read_records(file) if record is not None), None)
        if first is None:
            raise TrainingError(f"{file.shown}: no row in it", code="import_nothing_found")
        if {"winner_model_a", "model_a"} <= set(first):
            need_columns(first, _BATTLE_COLUMNS, file)
            _read_battles(file, records, into, options, count)
            remarks.append("battles: a score says which of two answers was preferred, not how good it was")
        elif {"question_id", "turn"} <= set(first):
            need_columns(first, _JUDGEMENT_COLUMNS, file)
            _read_judgements(file, records, questions, into, options, count)
        else:
            _read_marks(file, records, _marked_models(first, file), into, options, count)
    options.progress("reading tables", len(files), len(files))
    return sorted(set(remarks))


def _name(model: str) -> str:
    return MODEL_NAMES.get(model, model)


def _marked_models(record: Mapping[str, Any], file: SourceFile) -> list[str]:
    """Columns that hold right or wrong: all but the prompt and the responses."""
    need_columns(record, ("prompt",), file)
    models = [name for name in record if name and name != "prompt" and not name.endswith("_response")]
    if not models or any(number_of(record[name]) is None for name in models):
        raise TrainingError(
            f"{file.shown}: expected a prompt and True/False columns, a battle table, or judgements",
            code="import_file_format",
        )
    return models


def _read_marks(
    file: SourceFile,
    records: Any,
    models: list[str],
    into: Collector,
    options: ImportOptions,
    count: Callable[[str], int],
) -> None:
    name = stem(file)
    subject = name.removeprefix("mmlu_") if name.startswith("mmlu_") else ""
    task = "mmlu" if subject else name.partition("_")[0]
    seen: set[str] = set()
    for number, record in records:
        if record is None:
            into.refuse("broken_line", file.place(number))
            continue
        prompt = text_of(record.get("prompt"))
        if prompt in seen:
            into.leave_out("repeated_prompt", file.place(number))
            continue
        seen.add(prompt)
        input_tokens = count(prompt)
        for model in models:
            response = record.get(f"{model}_response")
            output_tokens = count(text_of(response)) if response is not None else (1 if subject else None)
            into.add(
                OutcomeRow(
                    prompt=prompt,
                    arm=_name(model),
                    source=options.source or SOURCE,
                    query_id=f"{task}/{subject}/{number - 1}" if subject else f"{task}/{number - 1}",
                    category=subject or task,
                    task=task,
                    score=number_of(record.get(model)),
                    input_tokens=input_tokens,
                    output_tokens=output_tokens,
                    cost_usd=options.list_cost_usd(_name(model), input_tokens, output_tokens),
                    tokens_source=options.tokens_source(),
                    cost_source="list_price_x_tokens",
                ),
                f"{file.place(number)}, {model[:40]}",
            )


def _questions(files: Sequence[SourceFile]) -> dict[str, tuple[str, str]]:
    """First turn and category by question id, from ``question.jsonl``."""
    found: dict[str, tuple[str, str]] = {}
    for file in files:
        if file.name.startswith("question."):
            for _, record in read_records(file):
                turns = (record or {}).get("turns")
                if record and isinstance(turns, list) and turns and isinstance(turns[0], str):
                    found[text_of(record.get("question_id"))] = (turns[0], text_of(record.get("category")))
    return found


def _read_judgements(
    file: SourceFile,
    records: Any,
    questions: dict[str, tuple[str, str]],
    into: Collector,
    options: ImportOptions,
    count: Callable[[str], int],
) -> None:
    grades: dict[tuple[str, str], list[float]] = defaultdict(list)
    places: dict[tuple[str, str], int] = {}
    for number, record in records:
        grade = None if record is None else number_of(record.get("score"))
        if record is None or grade is None:
            into.refuse("broken_line", file.place(number))
        elif not _FIRST_GRADE <= grade <= _LAST_GRADE:  # -1: the judge's answer held no grade
            into.leave_out("unscored", file.place(number))
        else:
            key = (text_of(record.get("question_id")), text_of(record.get("model")))
            grades[key].append(grade)
            places.setdefault(key, number)
            judged = _JUDGED_QUESTION.search(text_of(record.get("user_prompt")))
            if judged and key[0] not in questions:
                questions[key[0]] = (judged[1], "mt_bench")
    for (question, model), values in grades.items():
        where = file.place(places[question, model])
        if question not in questions:
            into.leave_out("no_prompt", where)
            continue
        prompt, category = questions[question]
        mean = sum(values) / len(values)
        into.add(
            OutcomeRow(
                prompt=prompt,
                arm=_name(model),
                source=options.source or SOURCE,
                query_id=f"mt_bench/{question}",
                category=category,
                task="mt_bench",
                score=(mean - _FIRST_GRADE) / (_LAST_GRADE - _FIRST_GRADE),
                input_tokens=count(prompt),
                tokens_source=options.tokens_source(),
            ),
            where,
        )


def _read_battles(
    file: SourceFile,
    records: Any,
    into: Collector,
    options: ImportOptions,
    count: Callable[[str], int],
) -> None:
    for number, record in records:
        wins = None if record is None else [number_of(record.get(name)) for name in _BATTLE_COLUMNS[3:]]
        if record is None or wins is None or sorted(w if w is not None else -1.0 for w in wins) != [0.0, 0.0, 1.0]:
            into.refuse("broken_line", file.place(number))
            continue
        prompt = _first_turn(record.get("prompt"))
        scores = (1.0, 0.0) if wins[0] else (0.0, 1.0) if wins[1] else (0.5, 0.5)
        input_tokens = count(prompt)
        for side, score in zip(("model_a", "model_b"), scores, strict=True):
            into.add(
                OutcomeRow(
                    prompt=prompt,
                    arm=_name(text_of(record.get(side))),
                    source=options.source or f"{SOURCE}_battles",
                    query_id=text_of(record.get("id")) or f"{stem(file)}/{number - 1}",
                    task="battle",
                    score=score,
                    input_tokens=input_tokens,
                    tokens_source=options.tokens_source(),
                ),
                f"{file.place(number)}, {side}",
            )


def _first_turn(value: object) -> str:
    """First turn of a prompt that may be a list of turns written as JSON."""
    text = text_of(value)
    turns: object = value
    if text.startswith("["):
        try:
            turns = msgspec.json.decode(text.encode("utf-8", "surrogatepass"))
        except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
            return text
    return turns[0] if isinstance(turns, list) and turns and isinstance(turns[0], str) else text
