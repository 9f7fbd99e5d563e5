"""From pydantic's findings to problems that a person can act on.

Owns the wording. It never shows the value of a setting that holds a secret. Read `explain` first.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, get_args, get_origin

from pydantic import BaseModel, ValidationError

from penstock_gateway.configuration_problems import did_you_mean, nearest_match
from penstock_gateway.settings_models import Settings
from penstock_gateway.settings_source import SettingKey, SettingsSource, is_secret
from penstock_gateway.settings_types import TRADEOFFS

_SHOWN_CHARACTERS = 60

_WORDS = {
    "missing": "is required",
    "int_type": "should be a whole number",
    "int_parsing": "should be a whole number",
    "float_type": "should be a number",
    "string_type": "should be text",
    "bool_type": "should be true or false",
    "dict_type": "should be a mapping",
    "model_type": "should be a mapping",
    "model_attributes_type": "should be a mapping",
    "tuple_type": "should be a list",
    "is_instance_of": "should be a decimal number",
    "decimal_type": "should be a decimal number",
    "finite_number": "should be a finite number",
}


def explain(error: ValidationError, source: SettingsSource) -> None:
    """Add a problem to `source` for everything that pydantic found, and take the wrong values out of its tree.

    With them out, the rest can still be checked, so that one run shows every problem.

    Parameters
    ----------
    error : ValidationError
        Of `settings_models.Settings`, validated from ``source.tree``.
    source : SettingsSource
    """
    seen: set[SettingKey] = set()
    for detail in error.errors(include_url=False):
        key = _setting_key(detail["loc"])
        if key in seen:
            continue
        seen.add(key)
        if key in source.unresolved:
            continue
        if detail["type"] == "extra_forbidden":
            names = known_settings(key[:-1])
            source.report(key, "there is no such setting", did_you_mean(str(key[-1]), names))
        else:
            context: Mapping[str, Any] = detail.get("ctx", {})
            message = _message(key, detail["type"], context, detail["msg"])
            source.report(key, message + _shown(key, source), _hint(detail["type"], key, context, source))
    for key in seen:
        _take_out(source.tree, key)
    source.muted |= seen | source.unresolved


def _take_out(tree: dict[str, object], key: SettingKey) -> None:
    """Remove a wrong value; what must be there (a name, an entry of a list) is replaced by a stand-in."""
    if not key:
        return
    parent, last = _value_at(tree, key[:-1]), key[-1]
    if isinstance(parent, list) and isinstance(last, int) and last < len(parent) and len(key) == 2:
        parent[last] = {"name": f"entry-{last}"}
    elif isinstance(parent, dict) and last == "name" and len(key) == 3:
        parent["name"] = f"entry-{key[1]}"
    elif isinstance(parent, list) or "price" in key[:-1]:
        _take_out(tree, key[:-1])
    elif isinstance(parent, dict):
        parent.pop(last, None)


def _setting_key(location: tuple[int | str, ...]) -> SettingKey:
    """Drop what pydantic adds to a place: the member of a union, ``[key]`` of a mapping."""
    return tuple(part for part in location if isinstance(part, int) or part not in _UNION_MEMBERS)


_UNION_MEMBERS = frozenset({"bool", "int", "float", "str", "[key]"})


def _message(key: SettingKey, kind: str, context: Mapping[str, Any], fallback: str) -> str:
    if kind == "value_error":
        return str(context.get("error", fallback))
    if kind in ("greater_than_equal", "less_than_equal", "greater_than", "less_than"):
        relation = {"greater_than_equal": "at least", "less_than_equal": "at most", "greater_than": "more than"}
        bound = next(iter(context.values()), "")
        return f"should be {relation.get(kind, 'less than')} {bound}"
    if kind == "string_pattern_mismatch":
        return f"should match {context.get('pattern', '')}"
    if kind in ("literal_error", "enum"):
        expected = str(context.get("expected", ""))
        return f"should be {'one of ' if ' or ' in expected else ''}{expected}"
    if kind in ("string_too_short", "too_short", "string_too_long", "too_long"):
        bound = context.get("min_length", context.get("max_length", 0))
        unit = "character" if kind.startswith("string") or is_secret(key) else "entry" if bound == 1 else "entries"
        plural = "s" if unit == "character" and bound != 1 else ""
        return f"should have at {'least' if kind.endswith('short') else 'most'} {bound} {unit}{plural}"
    return _WORDS.get(kind, fallback[:1].lower() + fallback[1:])


def _shown(key: SettingKey, source: SettingsSource) -> str:
    """Return ``, not 'value'`` for a short value that is no secret."""
    value = _value_at(source.tree, key)
    is_private = is_secret(key) or key in source.referring or "headers" in key or key[:1] == ("client_keys",)
    if value is None or is_private or isinstance(value, dict | list):
        return ""
    text = str(value)
    return f", not {text!r}" if len(text) <= _SHOWN_CHARACTERS else ""


def _hint(kind: str, key: SettingKey, context: Mapping[str, Any], source: SettingsSource) -> str:
    value = _value_at(source.tree, key)
    if kind in ("literal_error", "enum") and isinstance(value, str):
        known = [word.strip("'\" ") for word in str(context.get("expected", "")).replace(" or ", ",").split(",")]
        return _nearest(value, [word for word in known if word])
    if key == ("routing", "tradeoff") and isinstance(value, str):
        return _nearest(value, TRADEOFFS)
    if kind == "string_type" and value is not None and not isinstance(value, dict | list):
        return "put it in quotes"
    if kind == "missing" and isinstance(key[-1], str):
        return f"add '{key[-1]}: …'"
    return ""


def _nearest(value: str, known: Sequence[str]) -> str:
    """The message itself lists the choices, so the hint does not."""
    match = nearest_match(value, known)
    return f"did you mean {match!r}?" if match else ""


def _value_at(tree: object, key: SettingKey) -> object:
    for part in key:
        if isinstance(tree, dict) or (isinstance(tree, list) and isinstance(part, int) and part < len(tree)):
            tree = tree.get(part) if isinstance(tree, dict) else tree[part]  # type: ignore[index]
        else:
            return None
    return tree


def known_settings(key: SettingKey) -> list[str]:
    """Return the names that may stand below a place in the configuration.

    Parameters
    ----------
    key : SettingKey
        For example ``("deployments", 0)``; ``()`` is the top.

    Returns
    -------
    list of str
        Empty where there are no fixed names.
    """
    model: type[BaseModel] | None = Settings
    mapped: type[BaseModel] | None = None
    for part in key:
        if not isinstance(part, str):
            continue
        if mapped is not None:  # the part is a name of the user's, or one of a few, in a mapping
            model, mapped = mapped, None
            continue
        if model is None:
            return []
        field = model.model_fields.get(part)
        annotation = field.annotation if field is not None else None
        model, mapped = section_model(annotation)[0], _mapped_section(annotation)
    return list(model.model_fields) if model is not None else []


def _mapped_section(annotation: object) -> type[BaseModel] | None:
    """Return the section in ``dict[name, Section]``."""
    return section_model(get_args(annotation)[1])[0] if get_origin(annotation) is dict else None


def section_model(annotation: object) -> tuple[type[BaseModel] | None, bool]:
    """Return the section in ``Section``, ``Section | None`` or ``tuple[Section, ...]``, and whether it is a list."""
    origin = get_origin(annotation)
    if origin is None:
        is_section = isinstance(annotation, type) and issubclass(annotation, BaseModel)
        return (annotation if is_section else None), False  # type: ignore[return-value]
    if origin is dict:
        return None, False
    found = next((model for part in get_args(annotation) if (model := section_model(part)[0]) is not None), None)
    return found, origin is tuple
