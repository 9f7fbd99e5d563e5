"""``penstock-train evaluate``: artifacts measured on outcome files."""

from __future__ import annotations

import json
from pathlib import Path

import click

from penstock_training.commands.shell import (
    DEFAULT_ARTIFACT,
    BadRows,
    bad_rows_option,
    check_measured,
    encoder_folder,
    encoder_option,
    errors_shown,
    load_matrix,
    model_folder,
    need_packages,
    outcomes_option,
    progress_bars,
)
from penstock_training.errors import TrainingError


@click.command(short_help="Measure artifacts on outcome files.")
@click.argument("artifacts", nargs=-1, required=True, type=click.Path(path_type=Path), metavar="ARTIFACT...")
@outcomes_option
@click.option("--tiers", is_flag=True, help="Group the files' models into the default artifact's tiers first.")
@encoder_option
@click.option(
    "--trained-on",
    type=click.Path(path_type=Path, dir_okay=False),
    multiple=True,
    help="Their training outcomes: refuse files that share questions with them.",
)
@click.option("--default-arm", help="Arm that answers when in doubt; each artifact's reference arm by default.")
@bad_rows_option
@click.option(
    "--resamples", type=click.IntRange(1, 100_000), default=1000, show_default=True, help="Bootstrap samples."
)
@click.option("--seed", type=click.IntRange(0), default=0, show_default=True, help="Of bootstrap and samples.")
@click.option(
    "--robustness",
    type=click.IntRange(0),
    default=300,
    show_default=True,
    help="Prompts to ask about again in changed wording; 0 leaves that out.",
)
@click.option("--baselines/--no-baselines", default=True, help="Also fit tables by length, keywords and category.")
@click.option("--html", "page", type=click.Path(path_type=Path, dir_okay=False), help="Also write a page to read.")
@click.option("--json", "as_json", is_flag=True, help="Print everything as one JSON object.")
def evaluate(
    artifacts: tuple[Path, ...],
    files: tuple[Path, ...],
    tiers: bool,
    encoder: Path | None,
    trained_on: tuple[Path, ...],
    default_arm: str | None,
    on_bad_rows: BadRows,
    resamples: int,
    seed: int,
    robustness: int,
    baselines: bool,
    page: Path | None,
    as_json: bool,
) -> None:
    """Measure artifacts on outcome files, against each other and against policies that do not read the prompt.

    ARTIFACT is a folder or the name of a bundled one; several are compared on the same prompts. Use outcomes that they
    were not fitted on. If the files are exactly those an artifact was fitted on, its test part is used.
    """
    with errors_shown(as_json), progress_bars(as_json) as progress:
        need_packages("pyarrow")
        from penstock_training.evaluation_run import EvaluationOptions, run_evaluation
        from penstock_training.html_report import write_page
        from penstock_training.router_under_test import RouterUnderTest
        from penstock_training.tiers import group_into_tiers

        models = load_matrix(files, on_bad_rows)
        check_measured(models, load_matrix(trained_on, on_bad_rows) if trained_on else None)
        folders = [model_folder(artifact, DEFAULT_ARTIFACT, "artifact") for artifact in artifacts]
        run = run_evaluation(
            [
                RouterUnderTest.open(name, folder, encoder_folder(encoder), default_arm)
                for name, folder in zip(_names(artifacts), folders, strict=True)
            ],
            group_into_tiers(models, may_lack_tiers=True).matrix if tiers else models,
            files=[file.name for file in files],
            files_digest=models.digest,
            options=EvaluationOptions(resamples, seed, robustness, baselines),
            progress=progress,
        )
        if page is not None:
            write_page(run, page)
    if as_json:
        click.echo(json.dumps(run.to_json(), ensure_ascii=False, indent=2))
        return
    from penstock_training.run_text import render_run

    click.echo(render_run(run))
    if page is not None:
        click.echo(f"\nwritten: {page}")


def _names(artifacts: tuple[Path, ...]) -> list[str]:
    """Folder names, or the paths as given where two folders have one name."""
    names = [artifact.name or artifact.resolve().name for artifact in artifacts]
    if len(set(names)) < len(names):
        names = [str(artifact) for artifact in artifacts]
    if len(set(names)) < len(names):
        raise TrainingError("one artifact was named twice: there is nothing to compare", code="artifact_repeated")
    return names
