"""Whether a JSON value has the shape that a maker's own client declares for it. Read `problems_of`."""

from __future__ import annotations

from functools import cache
from typing import Annotated, Any, Literal, get_args, get_origin

import pydantic

UNDECLARED = frozenset({"obfuscation", "store"})
"""What OpenAI sends although its client's types do not say so: padding, and whether a response is kept."""


def problems_of(value: dict[str, Any], model: Any) -> list[str]:
    """Return what is wrong with a value: fields that are missing, of another type, or not declared.

    Parameters
    ----------
    value : dict
    model : type
        A model of a client, or a union of them that their ``type`` tells apart.
    """
    members = _members(model)
    if members:
        found = members.get(value.get("type"))
        if found is None:
            return [f"type {value.get('type')!r} is not declared"]
        model = found
    try:
        parsed = model.model_validate(value)
    except pydantic.ValidationError as error:
        return [f"{'.'.join(map(str, each['loc']))}: {each['msg']}" for each in error.errors()]
    return [f"{name} is not declared" for name in set(parsed.model_extra or {}) - UNDECLARED]


@cache
def _members(model: Any) -> dict[Any, Any]:
    """Return the members of a union by their ``type``; none for a model."""
    while get_origin(model) is Annotated:
        model = get_args(model)[0]
    members = {}
    for member in get_args(model):
        kind = member.model_fields["type"].annotation
        members |= dict.fromkeys(get_args(kind) if get_origin(kind) is Literal else (), member)
    return members
