"""``penstock spend``: what has been spent.

Owns the group and ``show``; other commands add themselves to the group. Read `spend_group`.
"""

from __future__ import annotations

from pathlib import Path
from typing import Final

import click

from penstock_gateway.commands.admin_client import AdminClient, shared_options, write_json, write_table

_COUNTS: Final = ("input_tokens", "cached_input_tokens", "output_tokens", "reasoning_tokens")


@click.group("spend")
def spend_group() -> None:
    """Show and check what has been spent."""


@spend_group.command("show")
@click.option("--by", type=click.Choice(("key", "team", "tag", "model")), default="key", show_default=True, help="By.")
@click.option(
    "--period",
    type=click.Choice(("hour", "day", "week", "month", "total")),
    default="month",
    show_default=True,
    help="Window, in the ledger's time zone.",
)
@click.option("--at", help="A moment of the window, 2026-11-01T00:00:00Z say; default: now.")
@click.option("--tokens", is_flag=True, help="Tokens too, read from the event log; by model they always are.")
@shared_options
def show_command(
    by: str, period: str, at: str | None, tokens: bool, url: str | None, config: Path | None, as_json: bool
) -> int:
    """Show what was spent in one window; who has spent nothing is left out."""
    query = {"by": by, "period": period, "at": at, "tokens": "true" if tokens else None}
    found = AdminClient(url, config).ask("GET", "/spend", query=query)
    if as_json:
        return write_json(found)
    from penstock_gateway.settings_report import aligned_usd

    amounts = aligned_usd([row["spent_usd"] for row in found["data"]])
    titles = (by,) if by == "model" else (by, "scope")
    counts = _COUNTS if by == "model" or tokens else ()
    rows = [
        (*((row["name"], row["scope"])[: len(titles)]), usd, *(str(row["usage"][name]) for name in counts))
        for row, usd in zip(found["data"], amounts, strict=True)
    ]
    columns = (*titles, "spent_usd", *counts)
    write_table(columns, rows, right=tuple(range(len(titles), len(columns))))
    click.echo(f"\n{found['total_usd']} USD in the {period} of {found['at']}".replace("the total", "all"), err=True)
    return 0
