"""``penstock report``: what the event log says of savings, attempts and estimates.

Owns arguments and output. The commands read the folder of events themselves and need no running gateway. Read
`report_group`.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import click

from penstock_gateway.commands.event_places import EventPlace, config_option, event_options

if TYPE_CHECKING:
    from penstock_gateway.reports.attempts import AttemptsReport
    from penstock_gateway.reports.estimates import ArmEstimates

_DIMENSIONS: Final = ("team", "category", "model", "key", "day")
_json_option = click.option("--json", "as_json", is_flag=True, help="Write one JSON document.")


@click.group("report")
def report_group() -> None:
    """Show what the event log says: savings with their intervals, attempts, estimates against facts."""


@report_group.command("savings")
@event_options
@config_option
@click.option(
    "--by",
    "dimensions",
    multiple=True,
    type=click.Choice(_DIMENSIONS),
    help="Break down by; may be repeated.  [default: team, category, model]",
)
@click.option("--html", type=click.Path(path_type=Path, dir_okay=False), help="Also write a page with plots here.")
@click.option("--seed", type=click.IntRange(0), default=0, show_default=True, help="Of the bootstrap.")
@_json_option
def savings_command(
    folder: Path | None,
    config: Path | None,
    since: str | None,
    until: str | None,
    dimensions: tuple[str, ...],
    html: Path | None,
    seed: int,
    as_json: bool,
) -> int:
    """Show what routing saved, and what it would have saved where it only observes.

    Costs in fact are exact where providers reported usage; what did not happen is estimated, with a 95 % interval. A
    saving is not stated where there are too few conversations for one.
    """
    place = EventPlace(folder, config, since, until)
    from penstock_gateway.reports.savings import savings_report
    from penstock_gateway.reports.savings_text import render_savings, savings_json

    with _waiting(is_quiet=as_json):
        report = savings_report(
            place.events(("decision", "outcome")), dimensions=dimensions or _DIMENSIONS[:3], seed=seed
        )
    if html is not None:
        from penstock_gateway.reports.savings_page import savings_page

        try:
            html.write_text(savings_page(report), encoding="utf-8")
        except OSError as error:
            raise click.ClickException(f"{html} cannot be written: {error.strerror}") from None
    if as_json:
        return _write_json(savings_json(report))
    from rich.console import Console

    Console(highlight=False).print(render_savings(report))
    if html is not None:
        click.echo(f"page: {html}", err=True)
    place.show_problems()
    return 0


@report_group.command("attempts")
@event_options
@config_option
@_json_option
def attempts_command(
    folder: Path | None, config: Path | None, since: str | None, until: str | None, as_json: bool
) -> int:
    """Show how often requests were tried again, elsewhere or beside, and what failed attempts cost."""
    place = EventPlace(folder, config, since, until)
    from penstock_gateway.reports.attempts import attempts_report

    with _waiting(is_quiet=as_json):
        report = attempts_report(place.events(("outcome",)))
    if as_json:
        return _write_json(report.as_json())
    _show_attempts(report)
    place.show_problems()
    return 0


@report_group.command("estimates")
@event_options
@config_option
@_json_option
def estimates_command(
    folder: Path | None, config: Path | None, since: str | None, until: str | None, as_json: bool
) -> int:
    """Show how far costs and tokens expected before the call were from those of the bill."""
    place = EventPlace(folder, config, since, until)
    from penstock_gateway.reports.estimates import estimates_report

    with _waiting(is_quiet=as_json):
        arms = estimates_report(place.events(("decision", "outcome")))
    if as_json:
        return _write_json({"object": "report.estimates", "arms": [arm.as_json() for arm in arms]})
    _show_estimates(arms)
    place.show_problems()
    return 0


def _show_attempts(report: AttemptsReport) -> None:
    from penstock_gateway.commands.admin_client import write_table
    from penstock_gateway.money.amounts import to_usd
    from penstock_gateway.reports.wording import amount, percent

    rows = [
        (
            name,
            f"{found.attempts:,}",
            f"{found.kinds['retry']:,}",
            f"{found.kinds['fallback']:,}",
            f"{found.kinds['hedge']:,}",
            percent(found.failed / found.attempts),
            amount(to_usd(found.failed_picousd)),
            ", ".join(code for code, _ in found.errors.most_common(2)) or "-",
        )
        for name, found in sorted(report.deployments.items())
    ]
    head = ("deployment", "attempts", "retries", "fallbacks", "hedges", "failed", "failed USD", "most")
    write_table(head, rows, right=(1, 2, 3, 4, 5, 6))
    share = percent(report.requests_repeated / report.requests) if report.requests else "-"
    wasted = f"; failed attempts cost {amount(report.failed_usd)} of {amount(report.cost_usd)} USD"
    click.echo(f"\n{report.requests:,} requests, {share} with more than one attempt{wasted}", err=True)


def _show_estimates(arms: list[ArmEstimates]) -> None:
    from penstock_gateway.commands.admin_client import write_table
    from penstock_gateway.reports.estimates import ratio
    from penstock_gateway.reports.wording import percent

    def shown(fact: float, expected: float) -> str:
        return "-" if (found := ratio(fact, expected)) is None else f"{found:.2f}"

    rows = [
        (
            arm.arm,
            f"{arm.requests:,}",
            shown(arm.fact_usd, arm.expected_usd),
            shown(arm.fact_input, arm.expected_input),
            shown(arm.fact_output, arm.expected_output),
            percent(arm.cost_error),
        )
        for arm in arms
    ]
    write_table(("arm", "requests", "cost", "prompt", "answer", "median error"), rows, right=(1, 2, 3, 4, 5))
    click.echo("\ncost, prompt tokens and answer tokens: in fact over what was expected; 1 is right", err=True)


@contextmanager
def _waiting(*, is_quiet: bool) -> Iterator[None]:
    """Show that something is going on, on a terminal."""
    from rich.console import Console

    console = Console(stderr=True)
    if is_quiet or not console.is_terminal:
        yield
        return
    with console.status("reading events"):
        yield


def _write_json(content: dict[str, Any]) -> int:
    click.echo(json.dumps(content, indent=2))
    return 0
