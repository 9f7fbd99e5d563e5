"""``penstock-train evaluate``: an artifact measured on outcome files."""

from __future__ import annotations

import json
from pathlib import Path

import click

from penstock_training.commands.shell import (
    DEFAULT_ARTIFACT,
    BadRows,
    bad_rows_option,
    encoder_folder,
    encoder_option,
    errors_shown,
    load_matrix,
    model_folder,
    need_packages,
    progress_bars,
)


@click.command(short_help="Measure an artifact on outcome files.")
@click.argument("artifact", type=click.Path(path_type=Path))
@click.option(
    "--outcomes",
    "files",
    type=click.Path(path_type=Path, dir_okay=False),
    multiple=True,
    required=True,
    help="Outcome file, Parquet or JSONL; may be repeated.",
)
@click.option("--tiers", is_flag=True, help="Group the files' models into the default artifact's tiers first.")
@encoder_option
@click.option("--default-arm", help="Arm that answers when in doubt; the artifact's reference arm by default.")
@bad_rows_option
@click.option(
    "--resamples", type=click.IntRange(1, 100_000), default=1000, show_default=True, help="Bootstrap samples."
)
@click.option("--seed", type=click.IntRange(0), default=0, show_default=True, help="Of the bootstrap.")
@click.option("--json", "as_json", is_flag=True, help="Print the whole report as JSON.")
def evaluate(
    artifact: Path,
    files: tuple[Path, ...],
    tiers: bool,
    encoder: Path | None,
    default_arm: str | None,
    on_bad_rows: BadRows,
    resamples: int,
    seed: int,
    as_json: bool,
) -> None:
    """Measure ARTIFACT on outcome files, against policies that do not read the prompt.

    ARTIFACT is a folder or the name of a bundled one. Use outcomes that it was not fitted on. If the files are exactly
    those it was fitted on, its test part is used.
    """
    with errors_shown(as_json), progress_bars(as_json) as progress:
        need_packages("pyarrow")
        from penstock_training.evaluation import evaluate_artifact
        from penstock_training.tiers import group_into_tiers

        models = load_matrix(files, on_bad_rows)
        report = evaluate_artifact(
            model_folder(artifact, DEFAULT_ARTIFACT, "artifact"),
            group_into_tiers(models).matrix if tiers else models,
            encoder_folder=encoder_folder(encoder),
            default_arm=default_arm,
            files_digest=models.digest,
            resamples=resamples,
            seed=seed,
            progress=progress,
        )
    if as_json:
        click.echo(json.dumps(report.to_json(), ensure_ascii=False, indent=2))
        return
    from penstock_training.evaluation_text import render_plain

    click.echo(render_plain(report))
