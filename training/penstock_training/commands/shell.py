"""What the commands of ``penstock-train`` share: options, errors in one line, progress bars, opening folders and files.

Must not do a command's work. Read `errors_shown` and `progress_bars`.
"""

from __future__ import annotations

import importlib.util
import json
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, Literal

import click

from penstock_routers.bundled import DEFAULT_ENCODER, bundled_folder
from penstock_routers.errors import RouterError
from penstock_routers.installation import install_command, is_source_checkout
from penstock_training.errors import TrainingError
from penstock_training.progress import Progress

if TYPE_CHECKING:
    from penstock_training.data_checks import DataReport
    from penstock_training.engines.protocol import Engine
    from penstock_training.outcomes import OutcomeMatrix
    from penstock_training.set_outcomes import SetOutcomes

DEFAULT_ARTIFACT: Final = "default-router"
BadRows = Literal["refuse", "skip"]

encoder_option = click.option(
    "--encoder", type=click.Path(path_type=Path), help="Encoder folder or the name of a bundled one."
)
bad_rows_option = click.option(
    "--on-bad-rows",
    type=click.Choice(["refuse", "skip"]),
    default="refuse",
    show_default=True,
    help="Refuse files with a bad row, or leave bad rows out; both show them.",
)
outcomes_option = click.option(
    "--outcomes",
    "files",
    type=click.Path(path_type=Path, dir_okay=False),
    multiple=True,
    required=True,
    help="Outcome file, Parquet or JSONL; may be repeated.",
)
json_option = click.option("--json", "as_json", is_flag=True, help="Print one JSON object instead of text.")


def load_matrix(files: tuple[Path, ...], on_bad_rows: BadRows) -> OutcomeMatrix:
    """Read outcome files and show on standard error what was skipped in them."""
    from penstock_training.outcomes import load_outcomes

    table = load_outcomes(files, on_bad_rows=on_bad_rows)
    if remarks := table.report.describe():
        click.echo(remarks, err=True)
    return table.matrix()


def load_checked(files: tuple[Path, ...], on_bad_rows: BadRows, family: str) -> OutcomeMatrix:
    """Read outcome files to fit on: warnings go to standard error, and what a fit must not go on with is refused."""
    return _checked(load_matrix(files, on_bad_rows), on_bad_rows, family)


def load_sources(
    sources: tuple[str, ...], on_bad_rows: BadRows, family: str, engine: Engine, progress: Progress
) -> OutcomeMatrix | SetOutcomes:
    """Read outcomes to fit on, checked as by `load_checked`: files here, data sets where the engine works."""
    from penstock_training.parquet_sets import is_parquet_set
    from penstock_training.set_outcomes import load_sets

    if engine.name == "local" and not any(is_parquet_set(source) for source in sources):
        return load_checked(tuple(Path(source) for source in sources), on_bad_rows, family)
    found = load_sets(sources, engine, on_bad_rows=on_bad_rows, progress=progress)
    if remarks := found.report.describe():
        click.echo(remarks, err=True)
    _checked(found.matrix, on_bad_rows, family)
    return found


def _checked(matrix: OutcomeMatrix, on_bad_rows: BadRows, family: str) -> OutcomeMatrix:
    from penstock_training.data_checks import MINIMUM_QUESTIONS, check_outcomes

    report = check_outcomes(
        matrix,
        on_bad_rows=on_bad_rows,
        has_propensity=matrix.propensity is not None,
        minimum_questions={family: MINIMUM_QUESTIONS[family]},
    )
    report.raise_if_refused()
    show_warnings(report, report.codes("warned"))
    return matrix


def check_measured(matrix: OutcomeMatrix, trained_on: OutcomeMatrix | None) -> None:
    """Warn of prompts in languages that no encoder knows; refuse outcomes that share questions with a fit."""
    from penstock_training.data_checks import check_outcomes

    report = check_outcomes(matrix, against=trained_on, has_propensity=matrix.propensity is not None)
    # What only a fit has to refuse is left to the evaluation, which says what it cannot measure.
    leaks = tuple(finding for finding in report.findings if finding.code == "leaking_groups")
    replace(report, findings=leaks).raise_if_refused()
    show_warnings(report, ("several_languages",))


def show_warnings(report: DataReport, codes: Sequence[str]) -> None:
    """Show on standard error what was found in outcomes, as far as it matters."""
    for finding in report.findings:
        if finding.code not in codes:
            continue
        click.echo(f"warning {finding.code}: {finding.message}, such as {finding.example}", err=True)
        click.echo(f"  {finding.advice}", err=True)


def model_folder(given: Path | None, bundled: str, kind: Literal["artifact", "encoder"]) -> Path:
    """A folder as given, or a bundled one by its name; refused by its name where there is neither."""
    if given is None:
        return bundled_folder(bundled)
    if given.exists():
        if not (given / "manifest.json").exists():
            raise TrainingError(f"{str(given)!r} is no {kind} folder: no manifest.json in it", code=f"{kind}_missing")
        return given
    if len(given.parts) > 1:
        raise TrainingError(f"there is no {kind} folder {str(given)!r}", code=f"{kind}_missing")
    try:
        return bundled_folder(str(given))
    except RouterError as error:
        message = f"there is no {kind} folder {str(given)!r}, and no bundled one of that name"
        raise TrainingError(message, code=f"{kind}_missing") from error


def encoder_folder(given: Path | None) -> Path | None:
    """An encoder folder as given, or a bundled one by its name; None stays None."""
    return None if given is None else model_folder(given, DEFAULT_ENCODER, "encoder")


def need_packages(*names: str) -> None:
    """Say how to install what a command needs, before anything is read."""
    missing = [name for name in names if not importlib.util.find_spec(name)]
    if missing:
        how = f"{'make setup, or: ' if is_source_checkout() else ''}{install_command('cpu,fit')}"
        raise TrainingError(f"this command needs {', '.join(missing)}; run: {how}", code="missing_extra")


@contextmanager
def errors_shown(as_json: bool) -> Iterator[None]:
    """Turn the errors of our packages into one line with the code (details below), or one JSON object; status 1."""
    try:
        yield
    except (TrainingError, RouterError) as error:
        if as_json:
            click.echo(json.dumps({"error": {"code": error.code, "message": error.message}}))
            sys.exit(1)
        summary, *details = error.message.split("\n")
        raise click.ClickException("\n".join([f"{summary} [{error.code}]", *details])) from error


@contextmanager
def progress_bars(is_quiet: bool) -> Iterator[Progress]:
    """One bar per stage on standard error; nothing when that is no terminal or output is for machines."""
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

    console = Console(stderr=True)
    columns = (TextColumn("{task.description:28}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
    with Progress(*columns, console=console, disable=is_quiet or not console.is_terminal) as bars:
        tasks: dict[str, Any] = {}

        def report(stage: str, done: int, total: int) -> None:
            name = stage.partition(":")[0]
            if name not in tasks:
                tasks[name] = bars.add_task(stage, total=total)
            bars.update(tasks[name], description=stage, completed=done, total=total)

        yield report
