"""``penstock cache``: shows, examines and deletes what a running gateway has cached for one key.

Owns these commands' arguments and output. They speak HTTP to ``/v1/cache`` and read no configuration. Nothing heavy is
imported before a command runs. Read `cache_group`.
"""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Callable
from typing import Any, Final, TypeVar

import click

from penstock_gateway.commands.gateway_client import DEFAULT_URL, ask, plain

_ENTRY_ID: Final = re.compile(r"[0-9a-f]{32}")

_Command = TypeVar("_Command", bound=Callable[..., int])


def _shared_options(command: _Command) -> _Command:
    """Add the options that every command here takes."""
    url = click.option("--url", default=DEFAULT_URL, show_default=True, help="Where the gateway listens.")
    as_json = click.option("--json", "as_json", is_flag=True, help="Write one JSON document.")
    return url(as_json(command))


@click.group("cache")
def cache_group() -> None:
    """Show, examine and delete what a running gateway has cached; the key comes from $PENSTOCK_API_KEY."""


@cache_group.command("show")
@_shared_options
def show_command(url: str, as_json: bool) -> int:
    """Show entries, hits, savings and the rate of wrong hits, by category."""
    report = _ask("GET", url, "")
    if as_json:
        return _write_json(report)
    from penstock_gateway.settings_report import table  # noqa: PLC0415 - settings take 0.4 s to import

    rows = [_category_cells(row) for row in report["categories"]]
    head = ("category", "mode", "semantic", "entries", "kB", "hits", "misses", "saved_usd", "false_hits", "audits")
    width = shutil.get_terminal_size((120, 24)).columns
    click.echo("\n".join(table(head, rows, right=(3, 4, 5, 6, 7, 9), spare=(4, 6), width=width)))
    click.echo(
        "\nfalse_hits: share of hits that are wrong by the audits, with bounds that hold at every look", err=True
    )
    return 0


@cache_group.command("doctor")
@_shared_options
def doctor_command(url: str, as_json: bool) -> int:
    """Say what keeps the cache from answering: settings, or a field that makes every context a new one."""
    found = _ask("GET", url, "/doctor")
    if as_json:
        return _write_json(found)
    from penstock_gateway.settings_report import finding_lines  # noqa: PLC0415 - settings take 0.4 s to import

    width = shutil.get_terminal_size((120, 24)).columns
    for finding in found["findings"]:
        click.echo(finding_lines({name: plain(value) for name, value in finding.items()}, width))
    return 0


def running_findings(url: str) -> list[dict[str, str]]:
    """Return what a running gateway's cache says of itself, for ``penstock doctor``; no answer is a finding, too.

    Parameters
    ----------
    url : str
        Where the gateway listens.
    """
    try:
        findings = _ask("GET", url, "/doctor")["findings"]
    except click.UsageError:
        raise
    except click.ClickException as error:
        return [{"level": "fail", "subject": "cache", "detail": error.message, "fix": ""}]
    return [{name: plain(value) for name, value in finding.items()} for finding in findings]


@cache_group.command("entry")
@click.argument("entry_id")
@_shared_options
def entry_command(entry_id: str, url: str, as_json: bool) -> int:
    """Show one entry; the id is in the header x-penstock-cache-entry of a hit."""
    entry = _ask("GET", url, _entry_path(entry_id))
    if as_json:
        return _write_json(entry)
    answer = entry.pop("answer")
    for name, value in entry.items():
        if value is not None and name != "object":
            click.echo(f"{name}: {plain(value)}")
    if answer is not None:
        click.echo(f"answer: {plain(_answer_text(answer))}")
    return 0


@cache_group.command("delete")
@click.argument("entry_id", required=False)
@click.option("--category", help="Delete all entries of a category.")
@click.option("--all", "is_all", is_flag=True, help="Delete all entries of the key.")
@click.option("--shared", "is_shared", is_flag=True, help="With --all or --category: those shared by all tenants.")
@_shared_options
def delete_command(
    entry_id: str | None, category: str | None, is_all: bool, is_shared: bool, url: str, as_json: bool
) -> int:
    """Delete an entry, a category, or everything that the key has in the cache."""
    if (entry_id is not None) + (category is not None) + is_all != 1:
        raise click.UsageError("name either an entry, --category or --all")
    if is_shared and entry_id is not None:
        raise click.UsageError("--shared goes with --category or --all")
    if entry_id is not None:
        done = _ask("DELETE", url, _entry_path(entry_id))
    else:
        from urllib.parse import urlencode  # noqa: PLC0415 - only when called for

        wanted = ({"category": category} if category is not None else {}) | ({"shared": "true"} if is_shared else {})
        done = _ask("DELETE", url, f"?{urlencode(wanted)}" if wanted else "")
    if as_json:
        return _write_json(done)
    click.echo(f"deleted: {done['deleted']}")
    return 0


@cache_group.command("wrong")
@click.argument("entry_id")
@_shared_options
def wrong_command(entry_id: str, url: str, as_json: bool) -> int:
    """Report that an entry answered a question that it does not fit; it is deleted."""
    done = _ask("POST", url, f"{_entry_path(entry_id)}/wrong")
    if as_json:
        return _write_json(done)
    click.echo("reported and deleted" if done["is_deleted"] else "reported; it is shared and stays")
    return 0


def _ask(method: str, url: str, path: str) -> dict[str, Any]:
    return ask(method, url, f"/v1/cache{path}")


def _entry_path(entry_id: str) -> str:
    """Return where an entry is; anything but an id could name another path, such as the one that deletes everything."""
    if not _ENTRY_ID.fullmatch(entry_id):
        raise click.UsageError("an entry id is 32 hexadecimal digits, as in the header x-penstock-cache-entry")
    return f"/entries/{entry_id}"


def _category_cells(row: dict[str, Any]) -> tuple[str, ...]:
    rate = row["false_hit_rate"]
    shown = "-"
    if rate["audits"]:
        shown = f"{rate['estimate']:.2%} [{rate['low']:.2%}, {rate['high']:.2%}]"
    return (
        row["category"],
        row["mode"],
        row["semantic"].replace("_", " "),
        str(row["entries"]),
        f"{row['size_bytes'] / 1000.0:.1f}",
        str(sum(row["hits"].values())),
        str(sum(row["misses"].values())),
        row["saved_usd"],
        shown,
        str(rate["audits"]),
    )


def _answer_text(answer: dict[str, Any]) -> str:
    """Return the first choice's text, or the whole answer when there is none."""
    try:
        return str(answer["choices"][0]["message"]["content"])
    except (KeyError, IndexError, TypeError):
        return json.dumps(answer)


def _write_json(content: dict[str, Any]) -> int:
    click.echo(json.dumps(content, indent=2))
    return 0
