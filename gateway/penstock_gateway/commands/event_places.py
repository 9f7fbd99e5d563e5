"""Where reports find a gateway's events, and what they say of lines that cannot be read.

Owns the options that name a folder and a time. Read `event_options`, then `EventPlace`.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Collection, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import click

if TYPE_CHECKING:
    from penstock_gateway.events.reading import ReadingProblem

_Command = TypeVar("_Command", bound=Callable[..., int])


def event_options(command: _Command) -> _Command:
    """Add the options that say which events are meant."""
    folder = click.option(
        "--folder",
        type=click.Path(path_type=Path, file_okay=False),
        help="Events folder; default: `events.folder` of the configuration.",
    )
    since = click.option("--since", help="From here on: 2026-11-26, 2026-11-26T14:00+01:00, UNIX seconds, or 24h, 7d.")
    until = click.option("--until", help="Up to here, likewise.")
    return folder(since(until(command)))


def config_option(command: _Command) -> _Command:
    """Add the option that names the configuration."""
    return click.option(
        "--config",
        type=click.Path(path_type=Path),
        help="Configuration file; default: $PENSTOCK_CONFIG, ./penstock.yaml.",
    )(command)


class EventPlace:
    """A folder of events.

    Parameters
    ----------
    folder : Path or None
        None: what the configuration says.
    config : Path or None
    since, until : str or None
        As on the command line.

    Raises
    ------
    click.ClickException
        There is no such folder, or a time is none.
    """

    def __init__(
        self, folder: Path | None, config: Path | None, since: str | None = None, until: str | None = None
    ) -> None:
        self.folder = _configured_folder(config) if folder is None else folder
        if not self.folder.is_dir():
            raise click.ClickException(f"there is no folder {self.folder}")
        self._since, self._until = _moment("--since", since), _moment("--until", until)
        self.problems: list[ReadingProblem] = []

    def events(self, types: Collection[str]) -> Iterator[dict[str, Any]]:
        """Yield the events; what cannot be read is passed over and kept in `problems`."""
        from penstock_gateway.events.parquet_segments import ParquetMissing
        from penstock_gateway.events.reading import read_events

        try:
            yield from read_events(
                self.folder, types=types, since=self._since, until=self._until, on_problem=self.problems.append
            )
        except ParquetMissing as error:
            raise click.ClickException(str(error)) from None
        except OSError as error:
            raise click.ClickException(f"the events cannot be read: {error}") from None

    def show_problems(self) -> None:
        """Say on standard error what was passed over."""
        if self.problems:
            first = self.problems[0]
            click.echo(
                f"passed over {len(self.problems):,} lines that cannot be read; first: {first.file} line {first.line} "
                f"({first.kind.value})",
                err=True,
            )


def raw_settings(config: Path | None) -> dict[str, Any]:
    """Return a configuration unchecked, the folder of events resolved: no report fails for what it does not use."""
    from penstock_gateway.settings import find_configuration
    from penstock_gateway.settings_source import read_source

    source = read_source(config or find_configuration(os.environ), os.environ)
    if config is not None and not source.tree and source.problems:
        raise click.ClickException(str(source.problems[0]))
    settings = dict(source.tree)
    events = settings.get("events")
    if isinstance(events, dict) and isinstance(events.get("folder"), str):
        settings["events"] = {**events, "folder": str(source.folder / Path(events["folder"]).expanduser())}
    return settings


def _configured_folder(config: Path | None) -> Path:
    events = raw_settings(config).get("events")
    folder = events.get("folder") if isinstance(events, dict) else None
    if not isinstance(folder, str):
        raise click.ClickException("the configuration names no events.folder; name one with --folder")
    return Path(folder)


def _moment(option: str, text: str | None) -> float | None:
    from penstock_gateway.events.exporting import parse_moment

    try:
        return None if text is None else parse_moment(text, time.time())
    except ValueError:
        raise click.UsageError(f"{option} {text!r} is neither a time nor how long ago, like 24h or 7d") from None
