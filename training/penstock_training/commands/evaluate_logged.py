"""``penstock-train evaluate-logged``: an artifact measured on a log that shows only the chosen arms."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Literal

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
    progress_bars,
)


@click.command("evaluate-logged", short_help="Measure an artifact on a log of chosen arms.")
@click.argument("artifact", type=click.Path(path_type=Path))
@click.option(
    "--logged",
    "files",
    type=click.Path(path_type=Path, dir_okay=False),
    multiple=True,
    required=True,
    help="Outcome file with propensities, Parquet or JSONL; may be repeated.",
)
@click.option(
    "--tradeoff",
    "tradeoffs",
    multiple=True,
    default=("balanced",),
    help="cost, balanced, quality or a number, 0 to 1; may be repeated.  [default: balanced]",
)
@click.option(
    "--censored",
    type=click.Choice(["zero", "ipcw", "bounds"]),
    default="zero",
    show_default=True,
    help="Time-outs count as 0, are weighed away, or give bounds.",
)
@click.option(
    "--reward-model",
    type=click.Choice(["artifact", "log"]),
    default="artifact",
    show_default=True,
    help="The artifact's estimates as they are, or corrected on the log out of fold.",
)
@click.option(
    "--clip",
    "weight_limit",
    type=click.FloatRange(0, min_open=True),
    default=math.inf,
    help="Largest weight; biases every estimate.  [default: none]",
)
@encoder_option
@click.option("--default-arm", help="Arm that answers when in doubt; the artifact's reference arm by default.")
@bad_rows_option
@click.option("--seed", type=click.IntRange(0), default=0, show_default=True, help="Of the folds.")
@json_option
def evaluate_logged(
    artifact: Path,
    files: tuple[Path, ...],
    tradeoffs: tuple[str, ...],
    censored: Literal["zero", "ipcw", "bounds"],
    reward_model: Literal["artifact", "log"],
    weight_limit: float,
    encoder: Path | None,
    default_arm: str | None,
    on_bad_rows: BadRows,
    seed: int,
    as_json: bool,
) -> None:
    """Estimate what ARTIFACT would have scored on logged traffic, where each prompt was answered by one arm.

    ARTIFACT is a folder or the name of a bundled one. The log needs the probability with which each arm was chosen, and
    exploration: where the artifact sends prompts that the logging policy never sent there, the estimate is refused.
    """
    with errors_shown(as_json), progress_bars(as_json) as progress:
        need_packages("pyarrow")
        from penstock_training.bandit.evaluation import evaluate_logged_artifact
        from penstock_training.outcomes import load_outcomes

        table = load_outcomes(files, on_bad_rows=on_bad_rows)
        if remarks := table.report.describe():
            click.echo(remarks, err=True)
        report = evaluate_logged_artifact(
            model_folder(artifact, DEFAULT_ARTIFACT, "artifact"),
            table,
            tradeoffs=tradeoffs,
            encoder_folder=encoder_folder(encoder),
            default_arm=default_arm,
            reward_model=reward_model,
            censored=censored,
            weight_limit=weight_limit,
            seed=seed,
            progress=progress,
        )
    if as_json:
        click.echo(json.dumps(report.to_json(), ensure_ascii=False, indent=2))
        return
    from penstock_training.bandit.evaluation_text import render_logged

    click.echo(render_logged(report))
