"""``penstock spend``: what has been spent.

Owns the group and ``show``; other commands add themselves to the group. Read `spend_group`.
"""

from __future__ import annotations

from pathlib import Path

import click

from penstock_gateway.commands.admin_client import AdminClient, shared_options, write_json, write_table


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
@shared_options
def show_command(by: str, period: str, at: str | None, url: str | None, config: Path | None, as_json: bool) -> int:
    """Show what was spent in one window; who has spent nothing is left out."""
    found = AdminClient(url, config).ask("GET", "/spend", query={"by": by, "period": period, "at": at})
    if as_json:
        return write_json(found)
    from penstock_gateway.settings_report import aligned_usd

    amounts = aligned_usd([row["spent_usd"] for row in found["data"]])
    if by == "model":
        tokens = ("input_tokens", "output_tokens", "reasoning_tokens")
        counted = [tuple(str(row["usage"][name]) for name in tokens) for row in found["data"]]
        models = [(row["name"], usd, *counts) for row, usd, counts in zip(found["data"], amounts, counted, strict=True)]
        write_table((by, "spent_usd", *tokens), models, right=(1, 2, 3, 4))
    else:
        rows = [(row["name"], row["scope"], usd) for row, usd in zip(found["data"], amounts, strict=True)]
        write_table((by, "scope", "spent_usd"), rows, right=(2,))
    click.echo(f"\n{found['total_usd']} USD in the {period} of {found['at']}".replace("the total", "all"), err=True)
    return 0
