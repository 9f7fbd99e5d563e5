"""Whether an answer in ZeroEval's files is right, by the rules of its own evaluation.

Owns the extraction of answers from a model's text and the comparison per task. Must not read files. Read `mark`.

References
----------
WildEval/ZeroEval, ``src/evaluation``: ``eval_utils.py`` (extraction), ``math_eval.py`` (gsm, math-l5),
``crux_eval.py``, ``mcqa_eval.py`` (mmlu-redux), ``zebra_grid_eval.py``. Our changes: fractions are divided instead of
evaluated as programs, and text that cannot be read as expected is a wrong answer instead of a failure.
"""

from __future__ import annotations

import re
import string
from collections.abc import Mapping
from typing import Any, Final

import msgspec

TASKS: Final = ("gsm", "math-l5", "crux", "mmlu-redux", "zebra-grid")
_KEYS: Final = ("reasoning", "answer")
_NUMBER: Final = re.compile(r"-?\d+(\.\d+)?")
_FRACTION: Final = re.compile(r"\s*\(?\s*(-?\d{1,15}(?:\.\d{1,15})?)\s*/\s*(\d{1,15}(?:\.\d{1,15})?)\s*\)?\s*")
_BOXED: Final = re.compile(r"\\boxed{(\w+)}")
_BOXED_WITHIN: Final = 30  # characters from the end, as upstream


def mark(task: str, record: Mapping[str, Any], output: str, model: str) -> float | None:
    """Mark an answer.

    Parameters
    ----------
    task : str
        One of `TASKS`.
    record : mapping
        The object of the result file: question, right answer and, when already marked, ``matched``.
    output : str
        What the model wrote.
    model : str
        Its name; answers of Llama 3.1 may stand in a box.

    Returns
    -------
    float or None
        1 or 0; None when the record does not tell the right answer.
    """
    if "matched" in record:
        return float(record["matched"] is True)
    if task == "zebra-grid":
        return _mark_grid(record.get("solution"), output)
    found = _answer(output, model, is_last=task == "mmlu-redux")
    if task == "mmlu-redux":
        right = _right_letter(record)
        return None if right is None else float(found == right)
    truth = record.get("answer")
    if not isinstance(truth, str):
        return None
    if found is None:
        return 0.0
    return float(_is_same_literal(found, truth) if task == "crux" else _is_same_number(found, truth))


def _answer(output: str, model: str, *, is_last: bool) -> object:
    """Find the answer that the model gave, None when there is none."""
    whole = _json_objects(output, is_last=is_last)
    if whole is not None and "answer" in whole:
        return whole["answer"]
    if (loose := _loose_answer(output)) is not None:
        return loose
    if "Llama-3.1" in model and "boxed" in output[-_BOXED_WITHIN:] and (boxed := _BOXED.search(output)):
        return boxed[1]
    return None


def _json_objects(text: str, *, is_last: bool) -> dict[str, Any] | None:
    """Decode the first or the last outermost pair of braces, with line ends taken out; None when that fails."""
    depth, start, last = 0, 0, ""
    for match in re.finditer(r"[{}]", text):
        if match[0] == "{":
            start = match.start() if depth == 0 else start
            depth += 1
        elif depth:
            depth -= 1
            if depth == 0:
                last = text[start : match.end()]
                if not is_last:
                    break
    try:
        found = msgspec.json.decode(last.replace("\n", "").encode("utf-8", "surrogatepass"))
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        return None
    return found if isinstance(found, dict) else None


def _loose_answer(text: str) -> str | None:
    """Find ``"answer": …`` in text that is no JSON, with and without quotes."""
    key = _KEYS[1]
    for pattern, flags in (
        (rf'"{key}"\s*:\s*"([^"]*?)"', 0),
        (rf'"{key}"\s*:\s*([^,\s]*)', 0),
        (rf"{key}\s*:\s*([^,\s]*)", 0),
    ):
        if match := re.search(pattern, text, flags):
            return match[1]
    return None


def _number_in(text: str) -> float | None:
    """Find the first number of an answer, without currency signs and thousands separators."""
    plain = text.replace("$", "").strip().replace(",", "")
    if (fraction := _FRACTION.fullmatch(plain)) and float(fraction[2]):
        return float(fraction[1]) / float(fraction[2])
    match = _NUMBER.search(plain)
    return float(match[0]) if match else None


def _is_same_number(found: object, truth: str) -> bool:
    expected = _number_in(truth.replace("#", "").strip())
    return expected is not None and _number_in(str(found)) == expected


def _is_same_literal(found: object, truth: str) -> bool:
    return str(found).strip("'\"").replace("\n", "\\n") == truth.strip("'\"")


def _right_letter(record: Mapping[str, Any]) -> str | None:
    choices, correct = record.get("choices"), record.get("correct_answer")
    if not isinstance(choices, list) or correct not in choices:
        return None
    position = choices.index(correct)
    return string.ascii_uppercase[position] if position < len(string.ascii_uppercase) else None


def _mark_grid(solution: object, output: str) -> float | None:
    """Compare every cell of a logic grid; None without a solution, or with one that was blanked out."""
    if not isinstance(solution, Mapping):
        return None
    head, rows = solution.get("header"), solution.get("rows")
    if (
        not isinstance(head, list)
        or not isinstance(rows, list)
        or not rows
        or not all(isinstance(r, list) for r in rows)
    ):
        return None
    truth = {
        (f"House {house}", str(name)): str(cell).strip().lower()
        for house, row in enumerate(rows, 1)
        for name, cell in list(zip(head, row, strict=False))[1:]
    }
    if not truth or any(not cell.strip("_ ") for cell in truth.values()):
        return None
    answer = _json_objects(output, is_last=True)
    table = answer.get("solution") if answer else None
    if not isinstance(table, Mapping):
        return 0.0
    for (house, name), cell in truth.items():
        given = table.get(house)
        given = given.get(name) if isinstance(given, Mapping) else None
        given = given[0] if isinstance(given, list) and given else given
        if not isinstance(given, str) or given.strip().lower() != cell:
            return 0.0
    return 1.0
