"""``penstock teams`` and ``penstock tags``.

Read `teams_group`.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import click

from penstock_gateway.commands.account_options import clear_option, fields_of, tag_options, team_options
from penstock_gateway.commands.admin_client import (
    AdminClient,
    escaped,
    shared_options,
    shown,
    write_fields,
    write_json,
    write_table,
)
from penstock_gateway.commands.keys import budgets_text


@click.group("teams")
def teams_group() -> None:
    """Manage teams: keys that share budgets, limits and restrictions."""


@click.group("tags")
def tags_group() -> None:
    """Manage tags: purposes that requests are charged to, across teams."""


def _add_commands(group: click.Group, kind: str, options: Callable[[Any], Any]) -> None:
    path = f"/{kind}s"

    @group.command("create", help=f"Create a {kind}.")
    @click.argument("name")
    @options
    @shared_options
    def create_command(name: str, url: str | None, config: Path | None, as_json: bool, **given: Any) -> int:
        return _write(AdminClient(url, config).ask("POST", path, content={"name": name, **fields_of(given)}), as_json)

    @group.command("list", help=f"List {kind}s.")
    @shared_options
    def list_command(url: str | None, config: Path | None, as_json: bool) -> int:
        found = list(AdminClient(url, config).pages(path, {}))
        if as_json:
            return write_json({"object": "list", "data": found})
        rows = [(entry["name"], budgets_text(entry), shown(entry["limits"]) or "-", entry["source"]) for entry in found]
        write_table(("name", "budgets_usd", "limits", "source"), rows)
        return 0

    @group.command("show", help=f"Show a {kind}.")
    @click.argument("name")
    @shared_options
    def show_command(name: str, url: str | None, config: Path | None, as_json: bool) -> int:
        return _write(AdminClient(url, config).ask("GET", f"{path}/{escaped(name)}"), as_json)

    @group.command("update", help="Change what is given; the rest stays.")
    @click.argument("name")
    @options
    @clear_option
    @shared_options
    def update_command(name: str, url: str | None, config: Path | None, as_json: bool, **given: Any) -> int:
        fields = fields_of(given)
        if not fields:
            raise click.UsageError("nothing to change; see --help for what can be")
        return _write(AdminClient(url, config).ask("PATCH", f"{path}/{escaped(name)}", content=fields), as_json)

    @group.command("delete", help=f"Delete a {kind} that no key is in.")
    @click.argument("name")
    @shared_options
    def delete_command(name: str, url: str | None, config: Path | None, as_json: bool) -> int:
        done = AdminClient(url, config).ask("DELETE", f"{path}/{escaped(name)}")
        if as_json:
            return write_json(done)
        click.echo(f"deleted: {done['name']}")
        return 0


def _write(entry: dict[str, Any], as_json: bool) -> int:
    if as_json:
        return write_json(entry)
    write_fields(entry)
    return 0


_add_commands(teams_group, "team", team_options)
_add_commands(tags_group, "tag", tag_options)
