"""``penstock budgets``: what keys, teams and tags may spend, and how far it is used.

Read `budgets_group`.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from penstock_gateway.commands.admin_client import AdminClient, shared_options, write_json, write_table

_PERIODS = click.Choice(("hour", "day", "week", "month", "total"))


@click.group("budgets")
def budgets_group() -> None:
    """Show and set budgets; SCOPE is key:ID, key:NAME, team:NAME or tag:NAME."""


@budgets_group.command("list")
@click.argument("scope", required=False)
@shared_options
def list_command(scope: str | None, url: str | None, config: Path | None, as_json: bool) -> int:
    """Show budgets, and how far each is used in its present window."""
    states = list(AdminClient(url, config).pages("/budgets", {"scope": scope}))
    if as_json:
        return write_json({"object": "list", "data": states})
    rows = [
        (
            state["scope"],
            state["name"],
            state["window"],
            state["limit_usd"],
            state["spent_usd"],
            f"{state['used_share']:.1%}" + (" !" if state["is_soft_passed"] else ""),
            state["held_usd"],
            state["resets_at"] or "-",
        )
        for state in states
    ]
    head = ("scope", "name", "window", "limit_usd", "spent_usd", "used", "held_usd", "resets_at")
    write_table(head, rows, right=(3, 4, 5, 6))
    return 0


@budgets_group.command("set")
@click.argument("scope")
@click.argument("period", type=_PERIODS)
@click.argument("limit_usd")
@click.option("--soft-share", type=click.FloatRange(0, 1), help="Share from which a warning is given; default 0.8.")
@shared_options
def set_command(
    scope: str,
    period: str,
    limit_usd: str,
    soft_share: float | None,
    url: str | None,
    config: Path | None,
    as_json: bool,
) -> int:
    """Give a scope a budget, in the place of its budget of that period."""
    content: dict[str, Any] = {"scope": scope, "period": period, "limit_usd": limit_usd}
    if soft_share is not None:
        content["soft_share"] = soft_share
    done = AdminClient(url, config).ask("PUT", "/budgets", content=content)
    if as_json:
        return write_json(done)
    click.echo(f"{done['scope']}: {done['limit_usd']} USD a {done['period']}".replace(" a total", " in total"))
    return 0


@budgets_group.command("remove")
@click.argument("scope")
@click.argument("period", type=_PERIODS)
@shared_options
def remove_command(scope: str, period: str, url: str | None, config: Path | None, as_json: bool) -> int:
    """Take a budget away."""
    done = AdminClient(url, config).ask("DELETE", "/budgets", query={"scope": scope, "period": period})
    if as_json:
        return write_json(done)
    click.echo(f"removed: {done['scope']}, {done['period']}")
    return 0
