"""``penstock-train import``: outcome files from other projects' results, spend logs and our own events."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Literal

import click

from penstock_training.commands.shell import (
    BadRows,
    bad_rows_option,
    errors_shown,
    json_option,
    need_packages,
    progress_bars,
)
from penstock_training.errors import TrainingError

if TYPE_CHECKING:
    from penstock_training.importers.collected import ImportReport

_FILE = click.Path(path_type=Path, dir_okay=False)
_ARMS_SHOWN = 40


@click.command("import", short_help="Make an outcome file from files of other projects.")
@click.argument("format_name", metavar="FORMAT", required=False)
@click.argument("paths", metavar="PATH...", nargs=-1, type=click.Path(path_type=Path))
@click.option("--list", "is_list", is_flag=True, help="List the formats and what each takes.")
@click.option("--out", type=_FILE, help="Outcome file to write, .parquet or .jsonl.")
@click.option("--overwrite", is_flag=True, help="Replace the file when it exists.")
@click.option("--arms", help="Keep only these arms, separated by commas.")
@click.option("--arm", help="Name of the arm where the files do not tell it (mmlu-pro).")
@click.option("--source", help="Name of the set; the format's own by default.")
@click.option(
    "--tokens",
    type=click.Choice(["estimate", "cl100k"]),
    default="estimate",
    show_default=True,
    help="How to count tokens of texts without counts; cl100k needs tiktoken.",
)
@click.option("--prices", type=_FILE, help='JSON: {"arm": [input, output], ...}, USD per million tokens.')
@click.option("--scores", type=_FILE, help="Scores by request_id or decision_id: CSV, JSONL or Parquet.")
@click.option("--prompts", type=_FILE, help="Prompts by request_id or decision_id, for logs without contents.")
@click.option(
    "--arm-field",
    type=click.Choice(["model", "model_group"]),
    default="model",
    show_default=True,
    help="Which field of a spend log names the arm.",
)
@click.option("--artifact-arms", is_flag=True, help="Name arms of events as the artifact does (tiers).")
@click.option("--all-rows", is_flag=True, help="Keep events that are censored, fallbacks or a client's choice.")
@bad_rows_option
@json_option
def import_outcomes(
    format_name: str | None,
    paths: tuple[Path, ...],
    is_list: bool,
    out: Path | None,
    overwrite: bool,
    arms: str | None,
    arm: str | None,
    source: str | None,
    tokens: Literal["estimate", "cl100k"],
    prices: Path | None,
    scores: Path | None,
    prompts: Path | None,
    arm_field: Literal["model", "model_group"],
    artifact_arms: bool,
    all_rows: bool,
    on_bad_rows: BadRows,
    as_json: bool,
) -> None:
    """Make an outcome file from local files of another project (docs/data.md)."""
    if is_list:
        _print_formats(as_json)
        return
    if format_name is None or not paths or out is None:
        raise click.UsageError("give FORMAT, at least one PATH and --out FILE; --list names the formats")
    with errors_shown(as_json):
        need_packages("pyarrow")
        from penstock_training.importers.formats import import_outcomes as run
        from penstock_training.importers.options import ImportOptions, read_prompts, read_scores
        from penstock_training.predict import read_price_list

        with progress_bars(as_json) as progress:
            options = ImportOptions(
                source=source,
                arm=arm,
                arm_field=arm_field,
                uses_artifact_arms=artifact_arms,
                keeps_all_rows=all_rows,
                tokens=tokens,
                prices=read_price_list(prices) if prices else {},
                scores=read_scores(scores) if scores else None,
                prompts=read_prompts(prompts) if prompts else None,
                progress=progress,
            )
            report = run(
                format_name,
                paths,
                out,
                options=options,
                arms=_names(arms),
                on_bad_rows=on_bad_rows,
                may_overwrite=overwrite,
            )
        if as_json:
            click.echo(json.dumps(report.to_json()))
        else:
            _print_report(report)


def _names(arms: str | None) -> tuple[str, ...]:
    names = tuple(name.strip() for name in (arms or "").split(",") if name.strip())
    if arms is not None and not names:
        raise TrainingError("--arms names no arm", code="import_arm_unknown")
    return names


def _print_formats(as_json: bool) -> None:
    from penstock_training.importers.formats import FORMATS

    if as_json:
        click.echo(json.dumps([{"name": f.name, "summary": f.summary, "takes": f.takes} for f in FORMATS.values()]))
        return
    for made in FORMATS.values():
        click.echo(f"{made.name:<14} {made.summary}\n{'':<14} takes {made.takes}")


def _print_report(report: ImportReport) -> None:
    click.echo(f"{report.out}: rows {report.rows:,}, prompts {report.prompts:,}, arms {len(report.arms)}")
    width = max(len(name) for name in report.arms)
    click.echo(f"  {'arm':<{width}} {'rows':>9}  mean score")
    for name, count in list(report.arms.items())[:_ARMS_SHOWN]:
        click.echo(f"  {name:<{width}} {count.rows:>9,}  {count.mean_score:.3f}")
    if len(report.arms) > _ARMS_SHOWN:
        click.echo(f"  and {len(report.arms) - _ARMS_SHOWN} more")
    for title, counts in (("refused and skipped", report.bad), ("left out", report.left_out)):
        if counts:
            click.echo(f"{title}: " + ", ".join(f"{name} {count:,}" for name, count in counts.items()))
    for place in report.places[:5]:
        click.echo(f"  such as {place.where}: {place.kind}")
    for remark in report.remarks:
        click.echo(f"note: {remark}")
    click.echo(f"digest {report.digest}")
