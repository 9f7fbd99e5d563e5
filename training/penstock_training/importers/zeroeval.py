"""ZeroEval: answers of many models to five sets of reasoning tasks, scored here by the project's rules.

Owns the reading of ``result_dirs/<task>/<model>.json`` of ``WildEval/ZeroEval`` (earlier ``yuchenlin/ZeroEval``):
lists of objects ``id``, ``chat_history``, ``output``, the question and its answer. How an answer is marked is in
`penstock_training.importers.zeroeval_marks`. Read `read_zeroeval`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Final

from penstock_training.importers.collected import Collector, OutcomeRow
from penstock_training.importers.mmlu_pro import lettered
from penstock_training.importers.options import ImportOptions, need_columns, stem
from penstock_training.importers.source_files import JSON_SUFFIXES, SourceFile, find_sources, read_records, text_of
from penstock_training.importers.zeroeval_marks import TASKS, mark

SOURCE: Final = "zeroeval"
# Other spellings of one model in file names, as the project's own summaries unite them (eval_utils.py).
MODEL_NAMES: Final[Mapping[str, str]] = {
    "gemma-2-9b-it@nvidia": "gemma-2-9b-it",
    "gemma-2-9b-it@together": "gemma-2-9b-it",
    "gemma-2-27b-it@nvidia": "gemma-2-27b-it",
    "gemma-2-27b-it@together": "gemma-2-27b-it",
    "deepseek-chat": "deepseek-v2-chat-0628",
    "deepseek-coder": "deepseek-v2-coder-0614",
    "DeepSeek-Coder-V2-0724": "deepseek-v2-coder-0724",
    "Llama-3.1-405B-Inst-fp8": "Llama-3.1-405B-Inst-fp8@together",
    "Llama-3.1-405B-Instruct-Turbo": "Llama-3.1-405B-Inst-fp8@together",
    "Meta-Llama-3.1-405B-Instruct@hyperbolic": "Llama-3.1-405B-Inst@hyperbolic",
    "Llama-3.1-405B-Inst-SN": "Llama-3.1-405B-Inst@sambanova",
}
_NEEDED: Final = ("id", "output")


def read_zeroeval(paths: Sequence[Path], into: Collector, options: ImportOptions) -> list[str]:
    """Read ZeroEval's result files.

    Parameters
    ----------
    paths : sequence of Path
        The folder ``result_dirs``, or task folders or files in it. Files of other tasks and runs (``sampling`` and
        such) are left alone.
    into : Collector
    options : ImportOptions
        ``source`` (default ``zeroeval``), ``tokens``, ``prices``.

    Returns
    -------
    list of str
        Remarks for the report.

    Raises
    ------
    TrainingError
        ``import_column_missing``, and what `find_sources` and `read_records` raise.

    Notes
    -----
    The prompt is the bare question; input tokens are those of the longer message that the models saw. A logic grid is
    scored only when its file still holds the solution, which the public files do not: such rows are left out as
    ``unscored``. An object that carries ``matched`` (``result_dirs_parsed``) is taken at its word.
    """
    count = options.counter()
    files = find_sources(paths, JSON_SUFFIXES)
    taken: set[tuple[str, str]] = set()
    files.sort(key=lambda file: stem(file) in MODEL_NAMES)  # a model's own spelling goes before the others
    for done, file in enumerate(files):
        options.progress("reading results", done, len(files))
        task, arm = _task_of(file), MODEL_NAMES.get(stem(file), stem(file))
        if task is None or (task, arm) in taken:
            into.leave_out("file_of_another_task" if task is None else "another_run_of_a_model", file.shown)
            continue
        taken.add((task, arm))
        is_first = True
        for number, record in read_records(file):
            if record is None:
                into.refuse("broken_line", file.place(number))
                continue
            if is_first:
                need_columns(record, _NEEDED, file)
                is_first = False
            _add_answer(record, task, arm, file.place(number), into, options, count)
    options.progress("reading results", len(files), len(files))
    return []


def _task_of(file: SourceFile) -> str | None:
    """Name of the folder that holds the file, when it is a task; of a single named file, its own folder."""
    folder = file.relative.parts[-2] if len(file.relative.parts) > 1 else file.path.parent.name
    return folder if folder in TASKS else None


def _add_answer(
    record: Mapping[str, Any],
    task: str,
    arm: str,
    where: str,
    into: Collector,
    options: ImportOptions,
    count: Callable[[str], int],
) -> None:
    outputs = record.get("output")
    output = outputs[0] if isinstance(outputs, list) and outputs else outputs
    if not isinstance(output, str):
        into.refuse("wrong_type", where)
        return
    asked = record.get("chat_history")
    prompt = _prompt(record)
    sent = asked[0] if isinstance(asked, list) and asked and isinstance(asked[0], str) else prompt
    input_tokens, output_tokens = count(sent), count(output)
    into.add(
        OutcomeRow(
            prompt=prompt,
            arm=arm,
            source=options.source or SOURCE,
            query_id=f"{task}/{text_of(record.get('id'))}",
            category=_category(record, task),
            task=task,
            score=mark(task, record, output, arm),
            input_tokens=input_tokens,
            output_tokens=output_tokens,
            cost_usd=options.list_cost_usd(arm, input_tokens, output_tokens),
            tokens_source=options.tokens_source(),
            cost_source="list_price_x_tokens",
        ),
        where,
    )


def _prompt(record: Mapping[str, Any]) -> str:
    question = next((text_of(record[n]) for n in ("question", "problem", "puzzle") if record.get(n)), "")
    choices = record.get("choices")
    is_choice = isinstance(choices, list) and bool(question.strip())
    return lettered(question, [text_of(choice) for choice in choices or ()], ") ") if is_choice else question


def _category(record: Mapping[str, Any], task: str) -> str:
    if task == "mmlu-redux":
        return text_of(record.get("config")) or task
    return f"zebra-{text_of(record.get('size'))}" if task == "zebra-grid" else task
