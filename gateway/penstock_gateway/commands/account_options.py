"""The options that set fields of keys, teams and tags, and what they make of the command line.

Read `key_options` and `fields_of`.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, Final, TypeVar

import click

_Command = TypeVar("_Command", bound=Callable[..., int])

_PERIODS: Final = ("hour", "day", "week", "month", "total")
_LIMITS: Final = ("requests_per_minute", "tokens_per_minute", "parallel_requests")
_TEXTS: Final = ("team", "tradeoff", "max_cost_usd", "min_quality", "explore_rate", "priority", "expires_at")
_CLEARABLE: Final = (
    *("team", "tags", "allowed_models", "tradeoff", "max_cost_usd", "min_quality", "explore_rate", "category_floors"),
    *("priority", "budgets", "limits", "budget_rules", "expires_at", "cache_category", "cache_categories"),
)


def tag_options(command: _Command) -> _Command:
    """Add the options of tags."""
    return _with(
        command,
        click.option(
            "--budget", "budgets", multiple=True, metavar="PERIOD=USD", help=f"Budget; PERIOD: {', '.join(_PERIODS)}."
        ),
        click.option("--requests-per-minute", type=click.IntRange(1), help="Requests a minute."),
        click.option("--tokens-per-minute", type=click.IntRange(1), help="Prompt and completion tokens a minute."),
        click.option("--parallel-requests", type=click.IntRange(1), help="Requests under way at once."),
    )


def team_options(command: _Command) -> _Command:
    """Add the options of teams, which keys have too."""
    return tag_options(
        _with(
            command,
            click.option("--model", "models", multiple=True, help="Deployment or alias that may be asked for."),
            click.option("--tradeoff", help="cost, balanced, quality, or a number from 0 (cheapest) to 1 (best)."),
            click.option("--max-cost-usd", type=click.FloatRange(0), help="Highest expected cost of one request."),
            click.option("--min-quality", type=click.FloatRange(0, 1), help="Quality in place of a trade-off."),
            click.option("--explore-rate", type=click.FloatRange(0, 1), help="Share of requests to learn from."),
            click.option(
                "--floor", "floors", multiple=True, metavar="CATEGORY=TIER", help="Lowest tier of a category."
            ),
            click.option("--priority", type=click.Choice(("high", "normal", "low")), help="Place when requests wait."),
            click.option(
                "--budget-rule",
                "rules",
                multiple=True,
                metavar="SHARE=TRADEOFF",
                help="From this used share of a budget on, say 0.8=cost.",
            ),
        )
    )


def key_options(command: _Command) -> _Command:
    """Add the options of keys."""
    return team_options(
        _with(
            command,
            click.option("--team", help="Team whose budgets, limits and restrictions hold too."),
            click.option("--tag", "tags", multiple=True, help="Tag that every request is charged to."),
            click.option("--expires-at", help="2026-12-31T18:00:00Z, or a date alone (its first moment, UTC)."),
            click.option("--cache-category", help="Cache category of the key's requests."),
            click.option(
                "--named-cache-category", "cache_categories", multiple=True, help="Category that a header may name."
            ),
            click.option("--cache-under-load/--no-cache-under-load", default=None, help="Whether load may loosen it."),
            click.option("--share-answers/--no-share-answers", default=None, help="Whether answers serve all tenants."),
        )
    )


def clear_option(command: _Command) -> _Command:
    """Add the option that sets a field's default."""
    return click.option(
        "--clear", "cleared", multiple=True, type=click.Choice(_CLEARABLE), help="Field to set to its default."
    )(command)


def fields_of(options: dict[str, Any]) -> dict[str, Any]:
    """Return the fields that the options set, as the admin API takes them.

    Parameters
    ----------
    options : dict
        By parameter name; what was not given is None or empty.

    Raises
    ------
    click.UsageError
        A pair is not of the form NAME=VALUE.
    """
    fields: dict[str, Any] = dict.fromkeys(options.get("cleared", ()))
    for name in _TEXTS:
        if options.get(name) is not None:
            fields[name] = _number_or_text(options[name]) if name == "tradeoff" else options[name]
    for option, name in (("tags", "tags"), ("models", "allowed_models"), ("cache_categories", "cache_categories")):
        if options.get(option):
            fields[name] = list(options[option])
    if options.get("cache_category") is not None:
        fields["cache_category"] = options["cache_category"]
    for option, name in (("cache_under_load", "cache_under_load"), ("share_answers", "may_share_answers")):
        if options.get(option) is not None:
            fields[name] = options[option]
    if options.get("floors"):
        fields["category_floors"] = dict(_pairs(options["floors"], "--floor"))
    if options.get("budgets"):
        pairs = _pairs(options["budgets"], "--budget")
        fields["budgets"] = [{"period": period, "limit_usd": limit} for period, limit in pairs]
    if options.get("rules"):
        fields["budget_rules"] = [
            {"used_share": _share(share), "tradeoff": _number_or_text(tradeoff)}
            for share, tradeoff in _pairs(options["rules"], "--budget-rule")
        ]
    limits = {name: options[name] for name in _LIMITS if options.get(name) is not None}
    if limits:
        fields["limits"] = limits
    return fields


def _with(command: _Command, *options: Callable[[_Command], _Command]) -> _Command:
    for option in reversed(options):
        command = option(command)
    return command


def _pairs(texts: Sequence[str], option: str) -> list[tuple[str, str]]:
    found = []
    for text in texts:
        name, sign, value = text.partition("=")
        if not sign or not name or not value:
            raise click.UsageError(f"{option} takes NAME=VALUE, not {text!r}")
        found.append((name, value))
    return found


def _number_or_text(text: str) -> float | str:
    try:
        return float(text)
    except ValueError:
        return text


def _share(text: str) -> float:
    try:
        return float(text)
    except ValueError:
        raise click.UsageError(f"a share is a number from 0 to 1, not {text!r}") from None
