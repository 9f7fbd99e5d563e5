"""``penstock spend reconcile``: spend by the event log beside spend by the ledger, or beside a provider's bill.

Owns arguments, output and the exit code: 1 when anything differs by more than the tolerance. The ledger is asked
through the admin API, since the gateway alone surely has its figures. Read `reconcile_command`.
"""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from decimal import Decimal, InvalidOperation
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import click

from penstock_gateway.commands.admin_client import AdminClient, plain, shared_options, write_json, write_table
from penstock_gateway.commands.event_places import EventPlace, raw_settings

if TYPE_CHECKING:
    from penstock_gateway.ledger.contract import Charge, Period
    from penstock_gateway.ledger.periods import Calendar
    from penstock_gateway.reports.provider_export import ProviderRow
    from penstock_gateway.reports.reconcile import LoggedSpend, SpendDifference, SpendKey

EXIT_DIFFERENT: Final = 1
_KINDS: Final = ("key", "team", "tag")
_CORRECTIONS_AT_ONCE: Final = 100
_CAUSES: Final = {
    "not_settled": "on its way: outcomes of the last minute explain it; look again",
    "log_begins_within": "the log begins within this window",
    "unreadable": "lines of the log cannot be read",
    "ledger_empty": "the ledger has nothing: started anew without this log, or the key is deleted",
    "not_in_log": "the log has nothing: another folder, or events deleted without a checkpoint",
    "unknown": "unknown",
}


@click.command("reconcile")
@click.option(
    "--folder",
    type=click.Path(path_type=Path, file_okay=False),
    help="Events folder; default: `events.folder` of the configuration.",
)
@click.option(
    "--period",
    "periods",
    multiple=True,
    type=click.Choice(("hour", "day", "week", "month", "total")),
    help="Windows to compare; may be repeated.  [default: day, month, total]",
)
@click.option("--timezone", help="The ledger's, where the configuration does not say.")
@click.option("--tolerance-usd", default="0", show_default=True, help="Differences up to this are none.")
@click.option("--apply", "applies", is_flag=True, help="Charge the ledger with what it lacks.")
@click.option(
    "--provider-csv",
    type=click.Path(path_type=Path, exists=True, dir_okay=False),
    help="Compare with a provider's own export instead: date, model, cost.",
)
@shared_options
def reconcile_command(
    folder: Path | None,
    periods: tuple[str, ...],
    timezone: str | None,
    tolerance_usd: str,
    applies: bool,
    provider_csv: Path | None,
    url: str | None,
    config: Path | None,
    as_json: bool,
) -> int:
    """Rebuild spend from the events and compare it with the ledger's figures.

    The log is the record: what the ledger lacks can be charged with --apply; what it has above the log is only shown.
    """
    tolerance = _usd(tolerance_usd)
    place = EventPlace(folder, config)
    if provider_csv is not None:
        if applies:
            raise click.UsageError("--apply is for the ledger, not for a provider's bill")
        return _compare_provider(place, provider_csv, raw_settings(config), tolerance, as_json=as_json)
    from penstock_gateway.ledger.contract import Period
    from penstock_gateway.reports.reconcile import corrections

    calendar = _calendar(timezone, raw_settings(config))
    wanted = tuple(Period(name) for name in periods or ("day", "month", "total"))
    if applies and Period.DAY not in wanted:
        wanted = (Period.DAY, *wanted)
    client = AdminClient(url, config)
    logged, found = _differences(place, client, wanted, calendar)
    sent: list[Charge] = []
    if applies and (sent := corrections(found)):
        _send(client, sent)
        logged, found = _differences(place, client, wanted, calendar)
    found = [each for each in found if abs(_picousd_as_usd(each.missing_picousd)) > tolerance]
    if as_json:
        write_json(_json(logged, found, wanted, calendar, sent))
    else:
        _show(logged, found, calendar, sent)
        place.show_problems()
    return EXIT_DIFFERENT if found else 0


def _differences(
    place: EventPlace, client: AdminClient, periods: Sequence[Period], calendar: Calendar
) -> tuple[LoggedSpend, list[SpendDifference]]:
    from penstock_gateway.reports.reconcile import compare_spend, log_spend

    place.problems.clear()
    now = time.time()
    logged = log_spend(place.events(("outcome", "checkpoint")), calendar, now=now)
    logged.unreadable += len(place.problems)
    asked = logged.windows(periods, calendar, now)
    return logged, compare_spend(logged, _live(client, asked), asked, calendar)


def _live(client: AdminClient, asked: Mapping[tuple[Period, str], float]) -> dict[SpendKey, int]:
    """Ask the gateway for what every key, team and tag has spent in some windows."""
    from penstock_gateway.money.amounts import to_picousd

    found: dict[SpendKey, int] = {}
    for (period, window), at in asked.items():
        for kind in _KINDS:
            answer = client.ask("GET", "/spend", query={"by": kind, "period": period.value, "at": _iso(at)})
            for row in answer["data"]:
                found[str(row["scope"]), period, window] = to_picousd(Decimal(str(row["spent_usd"])))
    return found


def _iso(at: float) -> str:
    from datetime import UTC, datetime

    return datetime.fromtimestamp(at, UTC).isoformat()


def _send(client: AdminClient, charges: Sequence[Charge]) -> None:
    """Charge the ledger with what it lacks."""
    for start in range(0, len(charges), _CORRECTIONS_AT_ONCE):
        rows = [
            {"id": charge.id, "scope": charge.accounts[0].scope, "at": charge.at, "picousd": charge.amount_picousd}
            for charge in charges[start : start + _CORRECTIONS_AT_ONCE]
        ]
        client.ask("POST", "/spend/corrections", content={"corrections": rows})


def _show(logged: LoggedSpend, found: Sequence[SpendDifference], calendar: Calendar, sent: Sequence[Charge]) -> None:
    from penstock_gateway.reports.wording import amount, counted

    if found:
        rows = [
            (
                each.scope,
                each.window,
                amount(_picousd_as_usd(each.logged_picousd)),
                amount(_picousd_as_usd(each.live_picousd)),
                amount(_picousd_as_usd(each.missing_picousd)),
                "; ".join(_CAUSES[cause.value] for cause in each.causes),
            )
            for each in found
        ]
        write_table(("scope", "window", "log USD", "ledger USD", "ledger lacks", "cause"), rows, right=(2, 3, 4))
        click.echo("")
    if sent:
        click.echo(f"charged: {counted(len(sent), 'correction')}", err=True)
    verdict = f"{counted(len(found), 'difference')}" if found else "log and ledger agree"
    estimated = ""
    if logged.estimated_picousd:
        estimated = f"; {amount(_picousd_as_usd(logged.estimated_picousd))} USD of it were estimated"
    click.echo(
        f"{verdict}: {counted(logged.outcomes, 'outcome')} in the log{estimated}; windows in {calendar.zone_name}",
        err=True,
    )


def _json(
    logged: LoggedSpend,
    found: Sequence[SpendDifference],
    periods: Sequence[Period],
    calendar: Calendar,
    sent: Sequence[Charge],
) -> dict[str, Any]:
    return {
        "object": "spend.reconciliation",
        "is_equal": not found,
        "periods": [period.value for period in periods],
        "timezone": calendar.zone_name,
        "outcomes": logged.outcomes,
        "unreadable": logged.unreadable,
        "estimated_usd": _text(_picousd_as_usd(logged.estimated_picousd)),
        "corrections": len(sent),
        "differences": [
            {
                "scope": each.scope,
                "period": each.period.value,
                "window": each.window,
                "logged_usd": _text(_picousd_as_usd(each.logged_picousd)),
                "live_usd": _text(_picousd_as_usd(each.live_picousd)),
                "missing_usd": _text(_picousd_as_usd(each.missing_picousd)),
                "causes": [cause.value for cause in each.causes],
            }
            for each in found
        ],
    }


def _compare_provider(
    place: EventPlace, path: Path, settings: Mapping[str, Any], tolerance: Decimal, *, as_json: bool
) -> int:
    from penstock_gateway.reports.provider_export import ProviderFileError, compare_provider, provider_totals

    try:
        billed = provider_totals(path.read_text(encoding="utf-8"))
    except (ProviderFileError, UnicodeDecodeError, OSError) as error:
        raise click.ClickException(f"{path}: {plain(str(error))}") from None
    rows = compare_provider(place.events(("outcome",)), billed, _models(settings))
    is_different = any(abs(row.difference_usd) > tolerance for row in rows)
    if as_json:
        content = [
            {
                "day": row.day,
                "model": row.model,
                "logged_usd": _text(row.logged_usd),
                "billed_usd": _text(row.billed_usd),
                "difference_usd": _text(row.difference_usd),
                "estimated_usd": _text(row.estimated_usd),
            }
            for row in rows
        ]
        write_json({"object": "spend.provider_comparison", "is_equal": not is_different, "rows": content})
    else:
        _show_provider(rows)
        place.show_problems()
    return EXIT_DIFFERENT if is_different else 0


def _show_provider(rows: Sequence[ProviderRow]) -> None:
    from penstock_gateway.reports.wording import amount, percent

    cells = [
        (
            row.day,
            row.model,
            amount(row.logged_usd),
            amount(row.billed_usd),
            amount(row.difference_usd),
            percent(float(row.difference_usd / row.billed_usd)) if row.billed_usd else "-",
            amount(row.estimated_usd),
        )
        for row in rows
    ]
    head = ("day", "model", "log USD", "billed USD", "difference", "share", "log's estimates")
    write_table(head, cells, right=(2, 3, 4, 5, 6))
    total = sum((row.difference_usd for row in rows), Decimal(0))
    click.echo(f"\nthe provider bills {amount(total)} USD more than the log has, by UTC days", err=True)


def _models(settings: Mapping[str, Any]) -> dict[str, str]:
    """Return what providers call the deployments of a configuration."""
    deployments = settings.get("deployments")
    return {
        entry["name"]: entry["model"]
        for entry in (deployments if isinstance(deployments, list) else ())
        if isinstance(entry, dict) and isinstance(entry.get("name"), str) and isinstance(entry.get("model"), str)
    }


def _calendar(named: str | None, settings: Mapping[str, Any]) -> Calendar:
    from penstock_gateway.ledger.periods import Calendar, UnknownTimeZone

    ledger = settings.get("ledger")
    configured = ledger.get("timezone") if isinstance(ledger, dict) else None
    try:
        return Calendar(named or (configured if isinstance(configured, str) else "UTC"))
    except UnknownTimeZone as error:
        raise click.ClickException(str(error)) from None


def _usd(text: str) -> Decimal:
    try:
        amount = Decimal(text)
    except InvalidOperation:
        amount = Decimal("NaN")
    if not amount.is_finite() or amount < 0:
        raise click.UsageError(f"--tolerance-usd {text!r} is no amount of USD")
    return amount


def _picousd_as_usd(picousd: int) -> Decimal:
    from penstock_gateway.money.amounts import to_usd

    return to_usd(picousd)


def _text(usd: Decimal) -> str:
    from penstock_gateway.money.prices import format_usd

    return format_usd(usd)
