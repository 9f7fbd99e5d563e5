"""Answers that are to be JSON of a given shape.

Owns `JsonSchemaScorer`: where the JSON stands in an answer, and that schemas are checked before they are used. The
validator itself runs in `bounded_worker`. Read `JsonSchemaScorer`.
"""

from __future__ import annotations

import importlib.util
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from penstock_routers.installation import install_command
from penstock_training.errors import TrainingError
from penstock_training.scorers.bounded_work import BoundedWorker, ask_once
from penstock_training.scorers.fenced import fenced_blocks
from penstock_training.scorers.protocol import Scored, ScoringTask


class JsonSchemaScorer:
    """1 when the answer is JSON that a schema allows, else 0.

    Parameters
    ----------
    schema : dict, bool or None
        JSON Schema, draft 2020-12 unless it names another; each task's reference holds its schema when None.

    Notes
    -----
    References to other documents are never fetched. `limit_seconds` bounds one validation, as schemas hold patterns.
    """

    name = "json-schema"

    def __init__(self, schema: dict[str, Any] | bool | None, *, limit_seconds: float = 2.0) -> None:
        if importlib.util.find_spec("jsonschema") is None:
            how = install_command("cpu,fit")
            raise TrainingError(f"the scorer `json-schema` needs jsonschema; run: {how}", code="missing_extra")
        self._schema = schema
        self._limit_seconds = limit_seconds
        self._worker = BoundedWorker(limit_seconds)

    @classmethod
    def from_file(cls, parameter: str) -> JsonSchemaScorer:
        """Make the scorer of ``json-schema:FILE``, or of ``json-schema`` with a schema in every reference.

        Raises
        ------
        TrainingError
            Code ``scorer_spec``: no such file, no JSON in it, or no schema; ``missing_extra``: jsonschema is absent.
        """
        if not parameter:
            return cls(None)
        try:
            schema = json.loads(Path(parameter).read_text(encoding="utf-8"))
        except (OSError, ValueError) as error:
            message = f"the JSON schema {parameter!r} cannot be read: {type(error).__name__}"
            raise TrainingError(message, code="scorer_spec") from error
        scorer = cls(schema)
        problem = _problem_of(schema) or ask_once({"work": "check-schema", "schema": schema}).get("error")
        if problem:
            raise TrainingError(f"{parameter!r}: {problem}", code="scorer_spec")
        return scorer

    def estimate_cost_usd(self, prompts: int, arms: int) -> float:
        """Return 0: nothing is paid for."""
        return 0.0

    async def score_all(self, tasks: Sequence[ScoringTask]) -> list[Scored]:
        """Validate each answer; see `Scorer.score_all`."""
        return [await self._score(task) for task in tasks]

    async def aclose(self) -> None:
        """End the process that validates."""
        await self._worker.aclose()

    async def _score(self, task: ScoringTask) -> Scored:
        schema: Any = self._schema
        if schema is None:
            try:
                schema = json.loads(task.reference or "")
            except (ValueError, RecursionError):
                return Scored(None, "the reference is no JSON schema")
            if problem := _problem_of(schema):
                return Scored(None, problem)
        instance = json_in(task.answer)
        if instance is None:
            return Scored(0.0, "there is no JSON in the answer")
        try:
            found = await self._worker.ask(work="schema", schema=schema, instance=instance[0])
        except RecursionError:
            return Scored(0.0, "it is nested too deeply")
        if found is None:
            return Scored(None, f"the validation was given up after at most {self._limit_seconds:g} s")
        if "error" in found:
            return Scored(None, found["error"])
        return Scored(float(found["holds"]), "valid" if found["holds"] else found["why"])


def json_in(answer: str) -> tuple[Any] | None:
    """Find the JSON in an answer.

    Parameters
    ----------
    answer : str

    Returns
    -------
    tuple of one JSON value, or None
        The whole answer, else the last fenced block that parses; None when there is neither. NaN and infinities are
        not JSON.
    """
    blocks = [block.body for block in fenced_blocks(answer) if block.language in ("", "json", "jsonc", "json5")]
    for text in (answer, *reversed(blocks)):
        try:
            return (json.loads(text, parse_constant=_refuse),)
        except (ValueError, RecursionError):
            continue
    return None


def _refuse(constant: str) -> Any:
    raise ValueError(constant)


def _problem_of(schema: object) -> str | None:
    return None if isinstance(schema, dict | bool) else "a JSON schema is an object, or true or false"
