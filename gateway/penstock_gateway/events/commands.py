"""``penstock events``: look into a gateway's event folder, check it, compact it, take content out of it.

Owns these commands' arguments and output. They work on the folder itself, beside a running gateway. Nothing heavy is
imported before a command runs. Read `events_group`.
"""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, TypeVar

import click

if TYPE_CHECKING:
    from penstock_gateway.events.exporting import Selection
    from penstock_gateway.events.reading import ReadingProblem

EXIT_UNSOUND: Final = 1
_POLL_SECONDS: Final = 0.25
_TYPES: Final = ("decision", "outcome", "feedback", "audit")

_Command = TypeVar("_Command", bound=Callable[..., int])
_Progress = Callable[[int, int], None]


@dataclass(frozen=True, slots=True)
class _Place:
    """The folder that is meant, and the key of its pseudonyms: None for none, empty when it is not known."""

    folder: Path
    key: str | None


def _place_options(command: _Command) -> _Command:
    """Add the options that say which folder is meant."""
    folder = click.option(
        "--folder",
        type=click.Path(path_type=Path, file_okay=False),
        help="Events folder; default: `events.folder` of the configuration.",
    )
    config = click.option(
        "--config",
        "config",
        type=click.Path(path_type=Path),
        help="Configuration file that names the folder and the key of its pseudonyms.",
    )
    as_json = click.option("--json", "as_json", is_flag=True, help="Write one JSON document.")
    return folder(config(as_json(command)))


def _filter_options(command: _Command) -> _Command:
    """Add the options that choose events."""
    since = click.option("--since", help="From here on: 2026-11-26, 2026-11-26T14:00+01:00, UNIX seconds, or 24h, 7d.")
    until = click.option("--until", help="Up to here, likewise.")
    types = click.option(
        "--type", "types", multiple=True, type=click.Choice(_TYPES), help="Only these; may be repeated."
    )
    tenant = click.option("--tenant", help="Only this tenant: its name, or its pseudonym.")
    return since(until(types(tenant(command))))


@click.group("events")
def events_group() -> None:
    """Look into a gateway's event log, check it, compact it, and take content out of it."""


@events_group.command("export")
@_place_options
@_filter_options
@click.option(
    "--format",
    "format_name",
    type=click.Choice(("jsonl", "csv", "parquet")),
    help="Default: by the ending of --out, else jsonl.",
)
@click.option("--out", type=click.Path(path_type=Path, dir_okay=False), help="File to write; default: standard output.")
def export_command(
    folder: Path | None,
    config: Path | None,
    as_json: bool,
    since: str | None,
    until: str | None,
    types: tuple[str, ...],
    tenant: str | None,
    format_name: str | None,
    out: Path | None,
) -> int:
    """Write events as JSON Lines, CSV or Parquet."""
    from penstock_gateway.events.catalog import replace_file
    from penstock_gateway.events.exporting import FORMATS, export, select

    place = _place(folder, config)
    wanted = _selection(place, since, until, types, tenant)
    named = format_name or (out.suffix.removeprefix(".") if out is not None else "jsonl")
    if named not in FORMATS:
        raise click.UsageError(f"name a --format: the ending of {out} is none of {', '.join(FORMATS)}")
    if out is None and (named == "parquet" or as_json):
        raise click.UsageError("Parquet, and a report as --json, need --out FILE")
    problems: list[ReadingProblem] = []
    counts = [0]
    with _failures_shown(), _spinner(as_json or out is None, "exporting") as tick:
        events = tick(select(place.folder, wanted, on_problem=problems.append))
        if out is None:
            counts[0] = export(events, sys.stdout.buffer, named)
        else:

            def write(stream: Any) -> None:
                counts[0] = export(events, stream, named)

            replace_file(out, write)
    if as_json:
        click.echo(json.dumps({"events": counts[0], "out": str(out), "passed_over": len(problems)}))
    elif out is not None:
        click.echo(f"{out}: {counts[0]:,} events")
    _show_passed_over(problems)
    return 0


@events_group.command("tail")
@_place_options
@_filter_options
@click.option(
    "--lines", "-n", "count", type=click.IntRange(0, 100_000), default=10, show_default=True, help="How many."
)
@click.option("--follow", "-f", "follows", is_flag=True, help="Go on with what comes, until interrupted.")
def tail_command(
    folder: Path | None,
    config: Path | None,
    as_json: bool,
    since: str | None,
    until: str | None,
    types: tuple[str, ...],
    tenant: str | None,
    count: int,
    follows: bool,
) -> int:
    """Show the newest events, one a line; with --json as they were written."""
    from penstock_gateway.events.following import Follower

    place = _place(folder, config)
    wanted = _selection(place, since, until, types, tenant)

    def show(event: dict[str, Any]) -> None:
        moment = event.get("time")
        is_in_time = isinstance(moment, int | float) and (
            (wanted.since is None or moment >= wanted.since) and (wanted.until is None or moment < wanted.until)
        )
        if event["type"] in wanted.types and wanted.takes(event) and is_in_time:
            click.echo(json.dumps(event) if as_json else _line(event))

    follower = Follower(place.folder)
    try:
        with _failures_shown():
            for event in follower.last(count):
                show(event)
            while follows:
                for event in follower.poll():
                    show(event)
                sys.stdout.flush()
                time.sleep(_POLL_SECONDS)
    finally:
        follower.close()
    return 0


@events_group.command("verify")
@_place_options
def verify_command(folder: Path | None, config: Path | None, as_json: bool) -> int:
    """Read every event; exit with 1 when a line cannot be read, or an outcome is there twice."""
    from penstock_gateway.events.verification import verify

    place = _place(folder, config)
    with _failures_shown(), _bar(as_json, "verifying") as progress:
        found = verify(place.folder, progress=progress)
    if as_json:
        click.echo(json.dumps(found.as_json()))
        return 0 if found.is_sound else EXIT_UNSOUND
    events = ", ".join(f"{kind} {count:,}" for kind, count in sorted(found.events.items())) or "none"
    click.echo(f"segments  {found.segments:,} ({found.compacted:,} compacted, {found.open_segments:,} being written)")
    click.echo(f"events    {events}")
    click.echo(
        f"joins     {found.decisions_without_outcome:,} decisions without an outcome, "
        f"{found.outcomes_without_decision:,} outcomes and {found.feedback_without_decision:,} pieces of feedback "
        "without a decision"
    )
    for problem in found.places:
        click.echo(f"problem   {problem.file} line {problem.line}: {problem.kind.value}")
    if (more := sum(found.problems.values()) - len(found.places)) > 0:
        click.echo(f"problem   and {more:,} more")
    for duplicate in found.duplicates:
        click.echo(f"twice     {duplicate}")
    click.echo("sound" if found.is_sound else "NOT sound")
    return 0 if found.is_sound else EXIT_UNSOUND


@events_group.command("compact")
@_place_options
def compact_command(folder: Path | None, config: Path | None, as_json: bool) -> int:
    """Turn closed segments into Parquet; segments that a gateway writes are left for the next time."""
    from penstock_gateway.events.compaction import compact

    place = _place(folder, config)
    with _failures_shown(), _bar(as_json, "compacting") as progress:
        report = compact(place.folder, progress=progress)
    if as_json:
        from dataclasses import asdict

        click.echo(json.dumps(asdict(report)))
        return 0
    click.echo(
        f"compacted {report.segments:,} segments, {report.events:,} events: "
        f"{report.json_bytes / 1e6:.1f} MB to {report.parquet_bytes / 1e6:.1f} MB"
    )
    if report.damaged_lines:
        click.echo(f"{report.damaged_lines:,} lines could not be read", err=True)
    return 0


@events_group.command("delete")
@_place_options
@click.option("--tenant", required=True, help="Whose content: its name, or its pseudonym.")
@click.option("--yes", "is_confirmed", is_flag=True, help="Do not ask.")
def delete_command(folder: Path | None, config: Path | None, as_json: bool, tenant: str, is_confirmed: bool) -> int:
    """Take a tenant's prompts, comments and labels out of all closed segments; what it spent stays.

    Exits with 1 when a gateway still writes a segment: do it again after `events.segment_seconds`.
    """
    from penstock_gateway.events.catalog import list_segments, maintenance
    from penstock_gateway.events.content import remove_content
    from penstock_gateway.events.shipping import is_shipped

    place = _place(folder, config)
    names = _names_of(tenant, place)
    if not is_confirmed:
        click.confirm(f"Remove all content of tenant {tenant!r} from {place.folder}?", abort=True, err=True)
    with _failures_shown(), _bar(as_json, "removing content") as progress, maintenance(place.folder):
        report = remove_content(place.folder, lambda event: event.get("tenant") in names, progress=progress)
    shipped = sum(is_shipped(segment) for segment in list_segments(place.folder))
    if as_json:
        from dataclasses import asdict

        click.echo(json.dumps({**asdict(report), "shipped_segments": shipped}))
    else:
        click.echo(f"removed the content of {report.events:,} events in {report.segments:,} segments")
        if not report.events and place.key is None:
            click.echo("if events.pseudonym_key is set, name the configuration with --config", err=True)
        if report.open_segments:
            click.echo(f"{len(report.open_segments)} segments are being written; do it again later", err=True)
        if shipped:
            click.echo(f"{shipped} segments have been shipped before: their copies still have it", err=True)
    return EXIT_UNSOUND if report.open_segments else 0


def _place(folder: Path | None, config: Path | None) -> _Place:
    """Return the folder that is meant, or say why there is none; nothing else of the configuration has to be right."""
    key: str | None = None
    if folder is None or config is not None:
        from penstock_gateway.commands.event_places import raw_settings

        events = raw_settings(config).get("events")
        events = events if isinstance(events, dict) else {}
        if "pseudonym_key" in events:
            key = events["pseudonym_key"] if isinstance(events["pseudonym_key"], str) else ""
        if folder is None:
            if not isinstance(events.get("folder"), str):
                raise click.ClickException("the configuration names no events.folder; name one with --folder")
            folder = Path(events["folder"])
    if not folder.is_dir():
        raise click.ClickException(f"there is no folder {folder}")
    return _Place(folder, key)


def _names_of(tenant: str, place: _Place) -> frozenset[str]:
    """Return the pseudonyms of a tenant; without the key its events could not be found."""
    from penstock_gateway.events.pseudonyms import pseudonyms_of

    if place.key == "":
        raise click.ClickException("events.pseudonym_key is not known: is its environment variable set?")
    return pseudonyms_of(tenant, place.key)


def _selection(
    place: _Place, since: str | None, until: str | None, types: tuple[str, ...], tenant: str | None
) -> Selection:
    from penstock_gateway.events.exporting import Selection, parse_moment

    moments = []
    for option, text in (("--since", since), ("--until", until)):
        try:
            moments.append(None if text is None else parse_moment(text, time.time()))
        except ValueError:
            raise click.UsageError(f"{option} {text!r} is neither a time nor how long ago, like 24h or 7d") from None
    tenants = None if tenant is None else _names_of(tenant, place)
    return Selection(types or _TYPES, moments[0], moments[1], tenants)


@contextmanager
def _failures_shown() -> Iterator[None]:
    """Show what can go wrong with a folder as one line."""
    from penstock_gateway.events.catalog import FolderBusy
    from penstock_gateway.events.parquet_segments import ParquetMissing

    try:
        yield
    except FolderBusy:
        raise click.ClickException("another process tidies up in this folder; try again shortly") from None
    except ParquetMissing as error:
        raise click.ClickException(str(error)) from None
    except BrokenPipeError:
        raise
    except (OSError, ValueError) as error:
        raise click.ClickException(f"the folder cannot be worked on: {error}") from None


@contextmanager
def _bar(is_quiet: bool, title: str) -> Iterator[_Progress]:
    """One bar on standard error; nothing when that is no terminal or the output is for machines."""
    from rich.console import Console
    from rich.progress import Progress

    console = Console(stderr=True)
    with Progress(console=console, disable=is_quiet or not console.is_terminal, transient=True) as bars:
        task = bars.add_task(title, total=None)
        yield lambda done, total: bars.update(task, completed=done, total=total)


@contextmanager
def _spinner(is_quiet: bool, title: str) -> Iterator[Callable[[Iterator[dict[str, Any]]], Iterator[dict[str, Any]]]]:
    """Count events on standard error while they pass."""
    with _bar(is_quiet, title) as progress:

        def counted(events: Iterator[dict[str, Any]]) -> Iterator[dict[str, Any]]:
            for number, event in enumerate(events, 1):
                if number % 1000 == 0:
                    progress(number, number)
                yield event

        yield counted


def _show_passed_over(problems: list[ReadingProblem]) -> None:
    if problems:
        first = problems[0]
        click.echo(
            f"passed over {len(problems):,} lines that cannot be read; first: {first.file} line {first.line} "
            f"({first.kind.value})",
            err=True,
        )


def _line(event: dict[str, Any]) -> str:
    """Return an event as one short line of plain text."""
    from datetime import UTC, datetime

    moment = event.get("time")
    shown = datetime.fromtimestamp(moment, UTC).strftime("%H:%M:%S") if isinstance(moment, int | float) else "--:--:--"
    kind, key = event["type"], event.get("decision_id")
    if kind == "outcome":
        rest = f"{event.get('served_arm') or '-'} {event.get('status')} {event.get('cost_usd') or '?'} USD"
        rest += f" {event.get('duration_ms')} ms" + (f" {event['error_code']}" if event.get("error_code") else "")
    elif kind == "decision":
        rest = f"{event.get('requested_model')} -> {event.get('intended_arm')} ({event.get('reason')})"
    else:
        rest = f"score {event.get('score')}" + (f" {event['label']}" if event.get("label") else "")
    text = f"{shown} {kind:<8} {key} {event.get('tenant')} {rest}"
    return "".join(character if character.isprintable() else "�" for character in text)
