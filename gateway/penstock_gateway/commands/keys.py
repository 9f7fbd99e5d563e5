"""``penstock keys``: the keys that clients present.

Read `keys_group`.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from penstock_gateway.commands.account_options import clear_option, fields_of, key_options
from penstock_gateway.commands.admin_client import (
    AdminClient,
    escaped,
    shared_options,
    shown,
    write_fields,
    write_json,
    write_table,
)


@click.group("keys")
def keys_group() -> None:
    """Create, show, rotate and revoke the keys that clients present; the admin key comes from $PENSTOCK_ADMIN_KEY."""


@keys_group.command("create")
@click.argument("name")
@key_options
@shared_options
def create_command(name: str, url: str | None, config: Path | None, as_json: bool, **options: Any) -> int:
    """Create a key and write it to standard output: the only time that it is shown."""
    key = AdminClient(url, config).ask("POST", "/keys", content={"name": name, **fields_of(options)})
    return _write_secret(key, as_json)


@keys_group.command("list")
@click.option("--team", help="Only keys of this team.")
@shared_options
def list_command(team: str | None, url: str | None, config: Path | None, as_json: bool) -> int:
    """List keys, without their secrets."""
    keys = list(AdminClient(url, config).pages("/keys", {"team": team}))
    if as_json:
        return write_json({"object": "list", "data": keys})
    rows = [
        (key["id"], key["name"], key["state"], key["team"] or "-", budgets_text(key), key["expires_at"] or "-")
        for key in keys
    ]
    write_table(("id", "name", "state", "team", "budgets_usd", "expires_at"), rows)
    return 0


@keys_group.command("show")
@click.argument("key")
@shared_options
def show_command(key: str, url: str | None, config: Path | None, as_json: bool) -> int:
    """Show a key, by its id or name."""
    found = AdminClient(url, config).ask("GET", f"/keys/{escaped(key)}")
    return _write(found, as_json)


@keys_group.command("update")
@click.argument("key")
@click.option("--name", help="New name.")
@key_options
@clear_option
@shared_options
def update_command(
    key: str, name: str | None, url: str | None, config: Path | None, as_json: bool, **options: Any
) -> int:
    """Change what is given; the rest stays."""
    fields = fields_of(options) | ({} if name is None else {"name": name})
    if not fields:
        raise click.UsageError("nothing to change; see --help for what can be")
    return _write(AdminClient(url, config).ask("PATCH", f"/keys/{escaped(key)}", content=fields), as_json)


@keys_group.command("rotate")
@click.argument("key")
@click.option(
    "--overlap-seconds",
    type=click.FloatRange(0),
    default=86_400.0,
    show_default=True,
    help="How long the old secret stays valid; 0 ends it at once.",
)
@shared_options
def rotate_command(key: str, overlap_seconds: float, url: str | None, config: Path | None, as_json: bool) -> int:
    """Give a key a new secret and write it to standard output: the only time that it is shown."""
    content = {"overlap_seconds": overlap_seconds}
    return _write_secret(AdminClient(url, config).ask("POST", f"/keys/{escaped(key)}/rotate", content=content), as_json)


@keys_group.command("revoke")
@click.argument("key")
@shared_options
def revoke_command(key: str, url: str | None, config: Path | None, as_json: bool) -> int:
    """End a key for good; it stays on the list."""
    done = AdminClient(url, config).ask("POST", f"/keys/{escaped(key)}/revoke", content={})
    return write_json(done) if as_json else _say(f"revoked: {done['name']} ({done['id']})")


@keys_group.command("delete")
@click.argument("key")
@shared_options
def delete_command(key: str, url: str | None, config: Path | None, as_json: bool) -> int:
    """Take a key off the list."""
    done = AdminClient(url, config).ask("DELETE", f"/keys/{escaped(key)}")
    return write_json(done) if as_json else _say(f"deleted: {done['name']} ({done['id']})")


def budgets_text(record: dict[str, Any]) -> str:
    """Return a record's budgets as one cell, such as ``10/day 200/month``."""
    return " ".join(f"{budget['limit_usd']}/{budget['period']}" for budget in record["budgets"]) or "-"


def _write_secret(key: dict[str, Any], as_json: bool) -> int:
    if as_json:
        return write_json(key)
    click.echo(key["secret"])
    team = f", team {key['team']}" if key["team"] else ""
    click.echo(f"key {key['id']} ({shown(key['name'])}{team}); keep it now, it is not shown again", err=True)
    return 0


def _write(key: dict[str, Any], as_json: bool) -> int:
    if as_json:
        return write_json(key)
    write_fields(key)
    return 0


def _say(text: str) -> int:
    click.echo(text)
    return 0
