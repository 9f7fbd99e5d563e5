"""MMLU-Pro: answers of many models to 12,032 questions with up to ten options.

Owns the reading of ``eval_results`` of ``TIGER-AI-Lab/MMLU-Pro``: ``model_outputs_<model>_5shots.zip`` (or the JSON in
it), and folders ``<model>/<category>_result.json``. Each file is a list of objects ``question_id``, ``question``,
``options``, ``answer``, ``category``, ``src``, ``pred`` and the text of the answer. Read `read_mmlu_pro`.
"""

from __future__ import annotations

import re
import string
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Final

from penstock_training.errors import TrainingError
from penstock_training.importers.collected import Collector, OutcomeRow
from penstock_training.importers.options import ImportOptions, need_columns
from penstock_training.importers.source_files import JSON_SUFFIXES, SourceFile, find_sources, read_records, text_of

SOURCE: Final = "mmlu_pro"
_NEEDED: Final = ("question_id", "question", "options", "answer", "pred")
_OUTPUTS: Final = ("model_outputs", "response", "generated_text")
_MODEL_FILE: Final = re.compile(r"^model_outputs_(?P<model>.+?)_\d+shots?\b")
_RESULT_FILE: Final = re.compile(r"_result\.json(\.gz)?$")
_NO_OPTION: Final = "N/A"


def read_mmlu_pro(paths: Sequence[Path], into: Collector, options: ImportOptions) -> list[str]:
    """Read MMLU-Pro's result files.

    Parameters
    ----------
    paths : sequence of Path
        The folder ``eval_results``, or zip archives, JSON files and folders from it.
    into : Collector
    options : ImportOptions
        ``source`` (default ``mmlu_pro``), ``arm`` (for a file whose name does not tell the model), ``tokens``,
        ``prices``.

    Returns
    -------
    list of str
        Remarks for the report.

    Raises
    ------
    TrainingError
        ``import_arm_unknown`` (the model's name cannot be told), ``import_column_missing``, and what `find_sources` and
        `read_records` raise.

    Notes
    -----
    Score: 1 when ``pred`` equals ``answer``. An answer in which no letter was found (``pred`` null) scores 0; upstream
    guesses at random there. Prompt: the question and its lettered options, without the five worked examples that the
    models saw, so input tokens are those of a zero-shot request.
    """
    count = options.counter()
    files = [file for file in find_sources(paths, JSON_SUFFIXES) if not file.name.startswith("summary")]
    files = [file for file in files if not file.name.endswith("_summary.json")]
    if not files:
        raise TrainingError("there are only summaries in the given folder", code="import_nothing_found")
    for done, file in enumerate(files):
        options.progress("reading results", done, len(files))
        arm = options.arm or _model_of(file)
        is_first = True
        for number, record in read_records(file):
            if record is None:
                into.refuse("broken_line", file.place(number))
                continue
            if is_first:
                need_columns(record, _NEEDED, file)
                is_first = False
            _add_answer(record, arm, file.place(number), into, options, count)
    options.progress("reading results", len(files), len(files))
    return ["input tokens and cost are those of a request without worked examples"]


def lettered(question: str, options: Sequence[str], mark: str = ". ") -> str:
    r"""Write a question with its options, one per line and each with a letter.

    Examples
    --------
    >>> lettered("Which is a noble gas?", ["nitrogen", "argon"])
    'Which is a noble gas?\nA. nitrogen\nB. argon'
    """
    lines = [f"{letter}{mark}{option}" for letter, option in zip(string.ascii_uppercase, options, strict=False)]
    return "\n".join([question, *lines])


def _model_of(file: SourceFile) -> str:
    parts = [*file.relative.parts[::-1], file.path.name]
    for part in parts:
        if matched := _MODEL_FILE.match(part):
            return matched["model"]
    if _RESULT_FILE.search(file.name) and len(file.relative.parts) > 1:
        return file.relative.parts[-2]
    raise TrainingError(
        f"{file.shown}: its name does not tell the model; give it with --arm NAME", code="import_arm_unknown"
    )


def _add_answer(
    record: Mapping[str, Any],
    arm: str,
    where: str,
    into: Collector,
    options: ImportOptions,
    count: Callable[[str], int],
) -> None:
    choices = record.get("options")
    question = text_of(record.get("question"))
    answer, predicted = record.get("answer"), record.get("pred")
    if not isinstance(choices, list) or not isinstance(answer, str) or not answer:
        into.refuse("wrong_type", where)
        return
    shown = [choice for choice in map(text_of, choices) if choice != _NO_OPTION]
    prompt = lettered(question, shown) if question.strip() else ""
    output = next((record[name] for name in _OUTPUTS if isinstance(record.get(name), str)), None)
    input_tokens = count(prompt)
    output_tokens = None if output is None else count(output)
    into.add(
        OutcomeRow(
            prompt=prompt,
            arm=arm,
            source=options.source or SOURCE,
            query_id=f"mmlu_pro/{text_of(record.get('question_id'))}",
            category=text_of(record.get("category")) or None,
            task=text_of(record.get("src")) or None,
            score=float(predicted == answer),
            input_tokens=input_tokens,
            output_tokens=output_tokens,
            cost_usd=options.list_cost_usd(arm, input_tokens, output_tokens),
            tokens_source=options.tokens_source(),
            cost_source="list_price_x_tokens",
        ),
        where,
    )
