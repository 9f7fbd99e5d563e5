"""``penstock-train judge-report``: how far a judge can be trusted, from the verdicts that it left."""

from __future__ import annotations

from pathlib import Path

import click

from penstock_training.commands.shell import errors_shown, json_option


@click.command("judge-report")
@click.argument("verdicts", type=click.Path(path_type=Path, dir_okay=False))
@click.option(
    "--human-labels",
    "labels",
    type=click.Path(path_type=Path, dir_okay=False),
    help="JSONL with query_id, arm and score by people, such as an outcome file scored with `human`.",
)
@click.option("--seed", type=click.IntRange(0), default=0, show_default=True, help="Of the bootstrap.")
@json_option
def judge_report(verdicts: Path, labels: Path | None, seed: int, as_json: bool) -> None:
    """Report how far judges can be trusted: bias, agreement.

    VERDICTS is the log that the scorers judge-pairwise and judge-rubric append to.
    """
    with errors_shown(as_json):
        from penstock_training.scorers.judge_report import as_json_text, read_human_labels, report_on
        from penstock_training.scorers.verdict_log import read_verdicts

        found = report_on(read_verdicts(verdicts), read_human_labels(labels) if labels else None, seed=seed)
        text = as_json_text(found) if as_json else "\n\n".join(report.as_text() for report in found)
    click.echo(text)
