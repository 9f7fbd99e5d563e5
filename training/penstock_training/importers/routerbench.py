"""RouterBench: wide tables with one row per prompt and three columns per model.

Owns the reading of that layout (``withmartian/routerbench``: ``convertors/common.py``; the same columns in the CSV
files of ``shuhao02/RouterDC``). The published tables are pickles and are refused as such. Read `read_routerbench`.

Layout: ``sample_id``, ``prompt``, ``eval_name``; per model a column with its name (performance in [0, 1]),
``<model>|model_response`` and ``<model>|total_cost`` (USD); ``oracle_model_to_route_to``. ``prompt`` and the responses
are Python lists of texts written out as text.
"""

from __future__ import annotations

import ast
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Final

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

COST: Final = "|total_cost"
RESPONSE: Final = "|model_response"
_NEEDED: Final = ("sample_id", "prompt", "eval_name")
_SPLITS: Final = ("train", "test")
_NOT_MODELS: Final = frozenset({"oracle"})  # the project's own evaluation adds this column


def read_routerbench(paths: Sequence[Path], into: Collector, options: ImportOptions) -> list[str]:
    """Read RouterBench tables.

    Parameters
    ----------
    paths : sequence of Path
        CSV, JSON Lines or Parquet tables, or folders with them.
    into : Collector
    options : ImportOptions
        ``source`` (default ``routerbench``) and ``tokens``. Costs are the reported ones.

    Returns
    -------
    list of str
        Remarks for the report.

    Raises
    ------
    TrainingError
        ``import_column_missing`` (also a table without a single model), ``import_pickle_refused``, and what
        `find_sources` and `read_records` raise.

    Notes
    -----
    ``category`` is ``train`` or ``test`` when the file's name ends in it, else the ``eval_name``; ``task`` is the
    file's name without that ending, else the ``eval_name``.
    """
    count = options.counter()
    files = find_sources(paths, TABLE_SUFFIXES)
    for done, file in enumerate(files):
        options.progress("reading tables", done, len(files))
        models: list[str] | None = None
        for number, record in read_records(file):
            if record is None:
                into.refuse("broken_line", file.place(number))
                continue
            if models is None:
                models = _models(record, file)
            _add_prompt(record, models, file, number, into, options, count)
    options.progress("reading tables", len(files), len(files))
    return [f"costs are the reported ones; tokens are {options.tokens_source()}"]


def written_list(value: object) -> str:
    r"""Read a text that may be a list of texts written out in Python, and join its parts with line ends.

    Parameters
    ----------
    value : object

    Returns
    -------
    str
        The text itself when it is no such list.

    Notes
    -----
    `ast.literal_eval` reads literals only; nothing in the text is run.

    Examples
    --------
    >>> written_list("['Why?', 'How?']")
    'Why?\nHow?'
    >>> written_list("Why?")
    'Why?'
    """
    if isinstance(value, list | tuple):
        return "\n".join(part for part in value if isinstance(part, str))
    text = text_of(value)
    if not text.startswith("[") or not text.endswith("]"):
        return text
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # responses hold escapes that Python warns about
            parts = ast.literal_eval(text)
    except (ValueError, SyntaxError, MemoryError, RecursionError):
        return text
    is_texts = isinstance(parts, list) and all(isinstance(part, str) for part in parts)
    return "\n".join(parts) if is_texts else text


def _models(record: dict[str, Any], file: SourceFile) -> list[str]:
    need_columns(record, _NEEDED, file)
    models = [name for name in record if f"{name}{COST}" in record and name not in _NOT_MODELS]
    if orphans := [n.removesuffix(COST) for n in record if n.endswith(COST) and n.removesuffix(COST) not in record]:
        raise TrainingError(
            f"{file.shown}: costs but no performance column for {', '.join(sorted(orphans)[:5])}",
            code="import_column_missing",
        )
    if not models:
        raise TrainingError(f"{file.shown}: no pair of columns MODEL and MODEL{COST}", code="import_column_missing")
    return models


def _add_prompt(
    record: dict[str, Any],
    models: list[str],
    file: SourceFile,
    number: int,
    into: Collector,
    options: ImportOptions,
    count: Any,
) -> None:
    prompt = written_list(record.get("prompt"))
    evaluation = text_of(record.get("eval_name"))
    task, _, split = stem(file).rpartition("_")
    is_split = split in _SPLITS and bool(task)
    input_tokens = count(prompt)
    for model in models:
        score, cost = number_of(record.get(model)), number_of(record.get(f"{model}{COST}"))
        response = record.get(f"{model}{RESPONSE}")
        into.add(
            OutcomeRow(
                prompt=prompt,
                arm=model,
                source=options.source or "routerbench",
                query_id=text_of(record.get("sample_id")) or None,
                category=split if is_split else evaluation,
                task=task if is_split else evaluation,
                score=score,
                input_tokens=input_tokens,
                output_tokens=None if response is None else count(written_list(response)),
                cost_usd=cost,
                tokens_source=options.tokens_source(),
                cost_source="reported",
            ),
            f"{file.place(number)}, {model[:40]}",
        )
