"""From the plain values of a request to checked records, and back to plain values.

Owns the wording of what is wrong with a field, and how money and moments are shown. Read `validated` and
`shown_fields`.
"""

from __future__ import annotations

from collections.abc import Mapping
from datetime import UTC, datetime
from decimal import Decimal
from typing import Any, Final, TypeVar

from pydantic import BaseModel, ValidationError

from penstock_gateway.configuration_problems import did_you_mean, setting_path
from penstock_gateway.errors import InvalidRequest
from penstock_gateway.money.prices import format_usd

_Model = TypeVar("_Model", bound=BaseModel)

_KEPT: Final = frozenset({"id", "secrets", "created_at", "rotated_at", "revoked_at", "is_revoked"})
_UNION_MEMBERS: Final = frozenset({"bool", "int", "float", "str", "[key]"})
_MAX_SHOWN: Final = 40


def validated(model: type[_Model], plain: Mapping[str, Any]) -> _Model:
    """Return plain values as a model's instance.

    Parameters
    ----------
    model : type
    plain : mapping
        As `records.parse_json` returns it.

    Raises
    ------
    InvalidRequest
        ``invalid_value`` or ``unknown_field``, with the field; the values themselves are not repeated.
    """
    try:
        return model.model_validate(dict(plain))
    except ValidationError as error:
        detail = error.errors(include_url=False, include_input=False)[0]
        raise _refused(model, detail["loc"], detail["type"], detail["msg"]) from None


def given_fields(model: type[BaseModel], given: Mapping[str, Any]) -> dict[str, Any]:
    """Return the fields that are given; those that are None take their default, so they are left out.

    Raises
    ------
    InvalidRequest
        ``unknown_field``: the model does not have it.
    """
    for name in given:
        if name not in model.model_fields:
            raise _refused(model, (name,), "extra_forbidden", "")
    return {name: value for name, value in given.items() if value is not None}


def merged(before: _Model, given: Mapping[str, Any]) -> _Model:
    """Return a record with some of its fields changed, as by a JSON merge patch (RFC 7396).

    Parameters
    ----------
    before : model
    given : mapping
        New values by field; None takes the default. Mappings are merged, lists replaced.

    Raises
    ------
    InvalidRequest
    """
    plain = {name: getattr(before, name) for name in type(before).model_fields}
    for name, value in given.items():
        if name not in plain or name in _KEPT:
            raise _refused(type(before), (name,), "extra_forbidden", "")
        field = type(before).model_fields[name]
        if value is None and not field.is_required():
            del plain[name]
        elif isinstance(value, dict) and isinstance(plain[name], dict | BaseModel):
            old = plain[name] if isinstance(plain[name], dict) else dict(plain[name])
            plain[name] = {part: new for part, new in {**old, **value}.items() if new is not None}
        else:
            plain[name] = value
    return validated(type(before), plain)


def _refused(model: type[BaseModel], location: tuple[int | str, ...], kind: str, message: str) -> InvalidRequest:
    path = tuple(
        part if isinstance(part, int) else part[:_MAX_SHOWN].encode("ascii", "replace").decode()
        for part in location
        if part not in _UNION_MEMBERS
    )
    shown = setting_path(path)
    if kind == "extra_forbidden":
        known = [name for name in model.model_fields if name not in _KEPT] if len(path) == 1 else []
        hint = did_you_mean(str(path[-1]), known)
        return InvalidRequest(
            f"There is no field '{shown}'{f'; {hint}' if hint else ''}.", code="unknown_field", param=shown
        )
    text = message.removeprefix("Value error, ").removeprefix("Input ")
    return InvalidRequest(f"{shown or 'The body'}: {text}.", code="invalid_value", param=shown or None)


def shown_fields(fields: BaseModel, names: Mapping[str, Any]) -> dict[str, Any]:
    """Return some fields as JSON shows them: money as decimal text, moments as ISO 8601 text.

    Parameters
    ----------
    fields : model
    names : mapping
        Whose keys are the names of the fields.
    """
    return {name: _shown(name, getattr(fields, name)) for name in names}


def iso(moment: float | None) -> str | None:
    """Return UNIX seconds as text such as ``2026-11-26T07:15:00Z``; None stays None."""
    if moment is None:
        return None
    return datetime.fromtimestamp(moment, UTC).isoformat(timespec="seconds").replace("+00:00", "Z")


def _shown(name: str, value: Any) -> Any:
    if isinstance(value, Decimal):
        return format_usd(value)
    if isinstance(value, BaseModel):
        return shown_fields(value, type(value).model_fields)
    if isinstance(value, tuple):
        return [_shown("", item) for item in value]
    return iso(value) if name.endswith("_at") else value
