"""Whether OpenAI's strict mode takes a JSON schema that Anthropic's takes.

Pure. Read `is_strict`.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, Final

import msgspec

from penstock_gateway.wire.raw_fields import read

_ANY = msgspec.json.Decoder()
_SCHEMAS_BY_NAME: Final = ("properties", "$defs", "definitions")
_SCHEMAS: Final = ("items", "anyOf", "oneOf", "allOf", "prefixItems")


def is_strict(schema: msgspec.Raw, path: str) -> bool:
    """Return whether every object in a schema forbids other properties and requires all of its own.

    Parameters
    ----------
    schema : msgspec.Raw
        A JSON object.
    path : str
        What to blame in the error, in the client's format.

    Returns
    -------
    bool
        False means that the schema must be sent without ``strict``: OpenAI would refuse the request. The rule is that
        of developers.openai.com/api/docs/guides/structured-outputs ("All fields must be required"); Anthropic's
        strict mode allows optional properties.

    Raises
    ------
    InvalidRequest
        It is malformed, or nested too deeply.

    Examples
    --------
    >>> is_strict(msgspec.Raw(b'{"type":"object","properties":{"a":{}},"additionalProperties":false}'), "schema")
    False
    """
    waiting = [read(schema, _ANY, path)]
    while waiting:
        part = waiting.pop()
        if not isinstance(part, dict):
            continue
        if part.get("type") == "object" or "properties" in part:
            own, required = part.get("properties") or {}, part.get("required") or []
            if part.get("additionalProperties") is not False or not isinstance(own, dict):
                return False
            if not isinstance(required, list) or not own.keys() <= {n for n in required if isinstance(n, str)}:
                return False
        waiting += _inner(part)
    return True


def _inner(schema: dict[str, Any]) -> Iterator[Any]:
    for name in _SCHEMAS_BY_NAME:
        by_name = schema.get(name)
        yield from by_name.values() if isinstance(by_name, dict) else ()
    for name in _SCHEMAS:
        inner = schema.get(name)
        yield from inner if isinstance(inner, list) else (inner,)
