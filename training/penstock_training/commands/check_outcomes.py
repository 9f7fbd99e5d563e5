"""``penstock-train check-outcomes``: what is wrong with outcome files, before a fit."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import click

from penstock_training.commands.shell import (
    DEFAULT_ARTIFACT,
    BadRows,
    bad_rows_option,
    encoder_folder,
    encoder_option,
    errors_shown,
    json_option,
    model_folder,
    need_packages,
)

if TYPE_CHECKING:
    from penstock_training.data_checks import DataReport

_FILE = click.Path(path_type=Path, dir_okay=False)
_LANGUAGES_SHOWN = 5


@click.command("check-outcomes", short_help="Say what is wrong with outcome files.")
@click.argument("files", metavar="FILE...", nargs=-1, required=True, type=_FILE)
@click.option("--against", type=_FILE, multiple=True, help="Outcomes that must share no question; may be repeated.")
@click.option("--artifact", type=click.Path(path_type=Path), help="Artifact whose arms and encoder are compared.")
@click.option("--arms", help="Names of the arms that are known, separated by commas.")
@encoder_option
@bad_rows_option
@json_option
def check_outcomes(
    files: tuple[Path, ...],
    against: tuple[Path, ...],
    artifact: Path | None,
    arms: str | None,
    encoder: Path | None,
    on_bad_rows: BadRows,
    as_json: bool,
) -> None:
    """Say what is wrong with outcome files, with counts, examples and what to do.

    The exit status is 1 when a fit would be refused, 0 when there are warnings at most.
    """
    with errors_shown(as_json):
        need_packages("pyarrow")
        report = _checked(files, against, artifact, arms, encoder, on_bad_rows)
    if as_json:
        click.echo(json.dumps(report.to_json()))
    else:
        _print_report(report)
    sys.exit(1 if report.is_refused else 0)


def _checked(
    files: tuple[Path, ...],
    against: tuple[Path, ...],
    artifact: Path | None,
    arms: str | None,
    encoder: Path | None,
    on_bad_rows: BadRows,
) -> DataReport:
    from penstock_routers.artifact import RouterArtifact
    from penstock_routers.encoder import PromptEncoder
    from penstock_training.data_checks import MINIMUM_QUESTIONS
    from penstock_training.data_checks import check_outcomes as run
    from penstock_training.outcomes import load_outcomes

    known = tuple(name.strip() for name in arms.split(",") if name.strip()) if arms is not None else None
    encoder_ids = None
    if artifact is not None:
        folder = model_folder(artifact, DEFAULT_ARTIFACT, "artifact")
        manifest = RouterArtifact.load(folder, encoder_id=None).manifest
        known = known or manifest.arms
        if (used := encoder_folder(encoder)) is not None:
            encoder_ids = (manifest.encoder.id, PromptEncoder.load(used).encoder_id)
    table = load_outcomes(files, on_bad_rows="skip")
    return run(
        table.matrix(),
        load_report=table.report,
        on_bad_rows=on_bad_rows,
        known_arms=known,
        against=load_outcomes(against, on_bad_rows="skip").matrix() if against else None,
        has_propensity=bool((table.number["propensity"] > 0).all()),
        minimum_questions=MINIMUM_QUESTIONS,
        encoder_ids=encoder_ids,
    )


def _print_report(report: DataReport) -> None:
    click.echo(
        f"prompts {report.prompts:,}, different questions {report.questions:,}, scores {report.cells:,}, "
        f"arms {len(report.arms)}"
    )
    shares = list(report.languages.items())[:_LANGUAGES_SHOWN]
    click.echo("languages (guessed): " + ", ".join(f"{code} {share:.1%}" for code, share in shares))
    for finding in report.findings:
        click.echo(f"{finding.severity:<7} {finding.code}: {finding.message}")
        click.echo(f"{'':<7} such as {finding.example}")
        click.echo(f"{'':<7} {finding.advice}")
    if not report.findings:
        click.echo("nothing to complain about")
