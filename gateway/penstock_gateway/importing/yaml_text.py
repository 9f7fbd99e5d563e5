"""The new configuration as commented YAML that `settings_source` reads back as it was meant.

Owns layout and quoting. Read `configuration_text`.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping
from decimal import Decimal
from typing import Final

from penstock_gateway.importing.draft import DeploymentDraft, Draft
from penstock_gateway.importing.references import Reference
from penstock_gateway.settings_source import plain_value

_PLAIN = re.compile(r"[A-Za-z0-9_./-][A-Za-z0-9_./:@+-]*")
_WIDTH: Final = 110
_ORDER: Final = ("server", "client_keys", "attempts", "cache", "redis", "ledger", "log")
_NOTES: Final = {
    "server": "LiteLLM listens on 0.0.0.0:4000; for other machines write host: 0.0.0.0",
    "client_keys": "the old master key is an ordinary client key now; make others with penstock keys (docs/keys.md)",
    "attempts": "docs/attempts.md",
    "cache": "docs/cache.md",
    "redis": "docs/redis.md",
    "ledger": "docs/money.md",
}
_SETTINGS: Final = (
    "name group provider model adapter base_url wire_formats api_key headers tier price unknown_price context_tokens "
    "max_output_tokens abilities timeouts routable fallbacks max_parallel_requests"
)
_ROUTING: Final = (
    "# 'auto' chooses among deployments with a tier: give each its tier (small, medium, large or frontier).",
)


def configuration_text(draft: Draft, source: str) -> str:
    """Return the whole file.

    Parameters
    ----------
    draft : Draft
    source : str
        Name of the file that was imported.

    Returns
    -------
    str
        Ends with a line break.
    """
    lines = [
        f"# Made by 'penstock import litellm' from {json.dumps(source, ensure_ascii=True)}.",
        "# What was mapped, what means something else now and what was left out is in the report of that command.",
        "# Every setting: docs/configuration.md",
        "",
        "version: 1",
        "",
        *_ROUTING,
        "deployments:",
    ]
    for deployment in draft.deployments:
        lines += _deployment_lines(deployment)
    for name in _ORDER:
        if section := draft.sections.get(name):
            lines += ["", f"{name}:{_comment(_NOTES.get(name, ''))}"]
            lines += list(_item(section, "  ")) if name == "client_keys" else list(_block(section, "  "))
    return "\n".join(lines) + "\n"


def _deployment_lines(deployment: DeploymentDraft) -> list[str]:
    given = {"name": deployment.name, **deployment.settings}
    settings = {name: given[name] for name in _SETTINGS.split() if name in given} | given
    line = f"  - {_flow(settings)}"
    comments = [f"  # {text}" for text in deployment.comments]
    if deployment.is_named_only:
        return [*comments, line]
    place = f"  # {deployment.entry.place}" if deployment.entry.place.isprintable() else ""
    return ["", place, *comments, *_item(settings, "  ")] if place else ["", *comments, *_item(settings, "  ")]


def _item(settings: Mapping[str, object], indent: str) -> Iterator[str]:
    """Yield a mapping as an entry of a list."""
    for number, line in enumerate(_block(settings, indent + "  ")):
        yield f"{indent}- {line.strip()}" if number == 0 else line


def _block(settings: Mapping[str, object], indent: str) -> Iterator[str]:
    for name, value in settings.items():
        if isinstance(value, Mapping) and len(flow := _flow(value)) > _WIDTH - len(indent) - len(name):
            yield f"{indent}{_text(name)}:"
            yield from _block(value, indent + "  ")
        elif isinstance(value, Mapping):
            yield f"{indent}{_text(name)}: {flow}"
        else:
            yield f"{indent}{_text(name)}: {_flow(value)}"


def _flow(value: object) -> str:
    """Return a value on one line."""
    if isinstance(value, Mapping):
        return "{" + ", ".join(f"{_text(str(name))}: {_flow(below)}" for name, below in value.items()) + "}"
    if isinstance(value, list):
        return "[" + ", ".join(_flow(below) for below in value) + "]"
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, Decimal):
        return f"{value:f}"
    if isinstance(value, int):
        return str(value)
    return _quoted(value) if isinstance(value, Reference) else _text(str(value))


def _text(text: str) -> str:
    """Return text plain where it reads back as itself, else in double quotes."""
    is_plain = _PLAIN.fullmatch(text) is not None and not text.endswith(":") and isinstance(plain_value(text), str)
    return text if is_plain and text not in ("---", "...", "-") else _quoted(text)


def _quoted(text: str) -> str:
    """Return text in double quotes; JSON's escapes are YAML's, and other characters are printable here."""
    return json.dumps(text, ensure_ascii=False)


def _comment(text: str) -> str:
    return f"  # {text}" if text else ""
