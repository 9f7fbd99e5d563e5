"""``penstock import``: taking over the configuration of another gateway.

Owns arguments, output and exit codes: 0 written, whatever was left out; 1 refused. Read `litellm_command`.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING

import click

from penstock_gateway.commands.admin_client import write_json

if TYPE_CHECKING:
    from penstock_gateway.importing.conversion import Imported


@click.group("import")
def import_group() -> None:
    """Translate the configuration of another gateway."""


@import_group.command("litellm")
@click.argument("config", type=click.Path(path_type=Path))
@click.option("--out", type=click.Path(path_type=Path, dir_okay=False), help="File to write; default: standard output.")
@click.option("--force", is_flag=True, help="Write over a file that is there.")
@click.option(
    "--json", "as_json", is_flag=True, help="Write one JSON document; without --out, the configuration in it."
)
def litellm_command(config: Path, out: Path | None, force: bool, as_json: bool) -> int:
    """Write a penstock.yaml from LiteLLM's CONFIG, and report on every field.

    Each field is mapped, mapped with another meaning, or not mapped, with the reason. Keys that stand in CONFIG are
    not copied: the report says which variables to export instead.
    """
    from penstock_gateway.importing.conversion import import_litellm
    from penstock_gateway.importing.foreign_yaml import ForeignFileError
    from penstock_gateway.importing.report_text import report_fields, report_lines

    if out is not None and out.exists() and not force:
        raise click.ClickException(f"{out} is there already; write elsewhere, or over it with --force")
    try:
        imported = import_litellm(config)
    except ForeignFileError as error:
        raise click.ClickException(str(error)) from None
    if out is not None:
        _write(out, imported)
    if as_json:
        configuration = {} if out is not None else {"configuration": imported.text}
        write_json({**report_fields(imported), **configuration})
        return 0
    if out is None:
        click.echo(imported.text, nl=False)
    for line in report_lines(imported):
        click.echo(line, err=out is None)
    return 0


def _write(out: Path, imported: Imported) -> None:
    """Write the file whole or not at all: a configuration that is cut in the middle may still be read."""
    waiting = out.with_name(f".{out.name}.{os.getpid()}")
    try:
        waiting.write_text(imported.text, encoding="utf-8")
        waiting.replace(out)
    except OSError as error:
        waiting.unlink(missing_ok=True)
        raise click.ClickException(f"{out} cannot be written: {error.strerror or 'unknown error'}") from None
