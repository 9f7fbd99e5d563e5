"""A process that does what may take for ever: regular expressions, and JSON schemas, which hold them.

Started by `bounded_work` and killed when it is late; JSON lines in and out. Stands alone under ``python -I``. Must not
be imported by anything of ours. Read `answer`.
"""

from __future__ import annotations

import contextlib
import json
import re
import resource
import sys
from typing import Any

_MEMORY_BYTES = 1 << 30


def answer(question: dict[str, Any]) -> dict[str, Any]:
    """Do one piece of work.

    Parameters
    ----------
    question : dict
        ``{"work": "regex", "pattern", "text"}``, ``{"work": "schema", "schema", "instance"}`` or
        ``{"work": "check-schema", "schema"}``.

    Returns
    -------
    dict
        ``{"holds": bool, "why": str}``, or ``{"error": str}`` when pattern or schema are wrong themselves.
    """
    if question["work"] == "regex":
        try:
            return {"holds": re.search(question["pattern"], question["text"]) is not None, "why": ""}
        except (re.error, RecursionError, OverflowError) as error:
            return {"error": f"the pattern is no regular expression: {error}"}
    return _schema(question)


def _schema(question: dict[str, Any]) -> dict[str, Any]:
    import jsonschema  # type: ignore[import-untyped]
    import referencing

    schema = question["schema"]
    try:
        kind = jsonschema.validators.validator_for(schema, default=jsonschema.Draft202012Validator)
        kind.check_schema(schema)
    except jsonschema.SchemaError as error:
        return {"error": f"the schema is not valid at {error.json_path}"}
    if question["work"] == "check-schema":
        return {"holds": True, "why": ""}
    # An empty registry: without it, a reference to another document would be fetched.
    validator = kind(schema, registry=referencing.Registry())
    try:
        problem = next(validator.iter_errors(question["instance"]), None)
    except referencing.exceptions.Unresolvable as error:
        return {"error": f"the schema refers to {str(error.ref)[:80]!r}, which is not in it"}
    if problem is None:
        return {"holds": True, "why": ""}
    return {"holds": False, "why": f"`{problem.validator}` fails at {problem.json_path[:80]}"}


def main() -> None:
    """Answer questions until there are no more."""
    with contextlib.suppress(ValueError, OSError):
        resource.setrlimit(resource.RLIMIT_AS, (_MEMORY_BYTES, _MEMORY_BYTES))
    for line in sys.stdin.buffer:
        try:
            result = answer(json.loads(line))
        except MemoryError:
            result = {"holds": False, "why": "it needs more than 1 GiB of memory"}
        except RecursionError:
            result = {"holds": False, "why": "it is nested too deeply"}
        sys.stdout.buffer.write(json.dumps(result).encode() + b"\n")
        sys.stdout.buffer.flush()


if __name__ == "__main__":
    main()
