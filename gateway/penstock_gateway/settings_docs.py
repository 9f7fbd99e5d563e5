"""The configuration's documentation and JSON Schema, made from the models. Development time, and ``config-schema``.

Owns the layout of docs/configuration.md's table and of docs/configuration.schema.json. Run
``python -m penstock_gateway.settings_docs docs`` to write both; a test fails when they are stale.
"""

from __future__ import annotations

import json
import re
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from pydantic_core import PydanticUndefined

from penstock_gateway.providers import PROVIDERS
from penstock_gateway.settings_models import Settings
from penstock_gateway.settings_validation import section_model

BEGIN, END = "<!-- settings: begin (made by penstock_gateway.settings_docs) -->", "<!-- settings: end -->"
PROVIDERS_BEGIN, PROVIDERS_END = "<!-- providers: begin -->", "<!-- providers: end -->"


def json_schema() -> str:
    """Return the JSON Schema of the configuration file as text."""
    schema = Settings.model_json_schema(mode="validation")
    schema = {"$schema": "https://json-schema.org/draft/2020-12/schema", **schema, "title": "Penstock configuration"}
    return json.dumps(schema, indent=1) + "\n"


def settings_table() -> str:
    """Return every setting as a Markdown table: path, type and range, default, meaning."""
    lines = ["| setting | type | default | meaning |", "| --- | --- | --- | --- |"]
    lines += [f"| `{path}` | {kind} | {default} | {meaning} |" for path, kind, default, meaning in _rows(Settings, "")]
    return "\n".join(lines)


def providers_table() -> str:
    """Return the known providers as a Markdown table."""
    lines = ["| provider | adapter | base URL | key variable |", "| --- | --- | --- | --- |"]
    for provider in PROVIDERS.values():
        base_url = f"`{provider.base_url}`" if provider.base_url else "–"
        variable = f"`{provider.key_variable}`" if provider.key_variable else "–"
        lines.append(f"| `{provider.name}` | {provider.adapter} | {base_url} | {variable} |")
    return "\n".join(lines)


def with_tables(document: str) -> str:
    """Return docs/configuration.md with both tables replaced by the current ones.

    Parameters
    ----------
    document : str
        With the marks `BEGIN` … `END` and `PROVIDERS_BEGIN` … `PROVIDERS_END`, each once.

    Returns
    -------
    str

    Raises
    ------
    ValueError
        A mark is missing.
    """
    for begin, end, content in (
        (BEGIN, END, settings_table()),
        (PROVIDERS_BEGIN, PROVIDERS_END, providers_table()),
    ):
        head, _, rest = document.partition(begin)
        old, found, tail = rest.partition(end)
        if not found:
            raise ValueError(f"the document has no {begin} … {end}")
        del old
        document = f"{head}{begin}\n\n{content}\n\n{end}{tail}"
    return document


def _rows(model: type[Any], prefix: str) -> Iterator[tuple[str, str, str, str]]:
    properties = model.model_json_schema(mode="validation")
    definitions = properties.get("$defs", {})
    for name, field in model.model_fields.items():
        schema = properties["properties"][name]
        path = f"{prefix}{name}"
        section, is_list = section_model(field.annotation)
        meaning = (field.description or "").replace("|", "\\|")
        if section is None:
            default = "required" if field.default is PydanticUndefined and field.default_factory is None else None
            yield path, _kind(schema, definitions), default or _default(schema), meaning
            continue
        kind = f"list of at most {schema['maxItems']}" if is_list else "section"
        yield path, kind, "–", meaning
        yield from _rows(section, f"{path}[]." if is_list else f"{path}.")


def _default(schema: dict[str, Any]) -> str:
    value = schema.get("default")
    return "–" if value is None or value in ([], {}) else f"`{json.dumps(value).strip(chr(34))}`"


def _kind(schema: dict[str, Any], definitions: dict[str, Any]) -> str:
    """Return type and range of one setting in words."""
    if "$ref" in schema:
        return _kind(definitions[schema["$ref"].rpartition("/")[2]], definitions)
    options = [option for option in schema.get("anyOf", []) if option.get("type") != "null"]
    if options:
        return " or ".join(dict.fromkeys(_kind(option, definitions) for option in options))
    if "const" in schema:
        return f"`{schema['const']}`"
    if "enum" in schema:
        return ", ".join(f"`{word}`" for word in schema["enum"])
    if schema.get("type") == "array":
        return f"list of {_kind(schema['items'], definitions)}"
    if schema.get("type") == "object":
        return "mapping"
    kind = {"integer": "integer", "number": "number", "boolean": "boolean"}.get(str(schema.get("type")), "text")
    return kind + _range(schema)


def _range(schema: dict[str, Any]) -> str:
    low, high = schema.get("minimum"), schema.get("maximum")
    above = schema.get("exclusiveMinimum")
    parts = [f"≥ {_plain(low)}"] if low is not None else [f"> {_plain(above)}"] if above is not None else []
    parts += [f"≤ {_plain(high)}"] if high is not None else []
    return f", {', '.join(parts)}" if parts else ""


def _plain(number: float) -> str:
    return re.sub(r"\.0$", "", str(number))


def main(arguments: list[str]) -> int:
    """Write ``configuration.md``'s tables and ``configuration.schema.json`` into a folder."""
    folder = Path(arguments[0] if arguments else "docs")
    document = folder / "configuration.md"
    document.write_text(with_tables(document.read_text(encoding="utf-8")), encoding="utf-8")
    (folder / "configuration.schema.json").write_text(json_schema(), encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
