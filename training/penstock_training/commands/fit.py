"""``penstock-train fit``: a router artifact from outcome files."""

from __future__ import annotations

import json
import shlex
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from penstock_routers.bundled import DEFAULT_ENCODER, bundled_folder
from penstock_training.commands.shell import (
    DEFAULT_ARTIFACT,
    BadRows,
    bad_rows_option,
    encoder_option,
    errors_shown,
    load_matrix,
    model_folder,
    need_packages,
    progress_bars,
)
from penstock_training.progress import Progress

if TYPE_CHECKING:
    from penstock_routers.manifest import Manifest


@click.command()
@click.option("--default", "is_default", is_flag=True, help="Fit the artifact that comes with the package.")
@click.option(
    "--outcomes",
    type=click.Path(path_type=Path, dir_okay=False),
    multiple=True,
    help="Outcome file, Parquet or JSONL; may be repeated.",
)
@click.option("--out", type=click.Path(path_type=Path), help="Artifact folder to write; a router in it is replaced.")
@click.option(
    "--data",
    type=click.Path(path_type=Path, file_okay=False),
    envvar="PENSTOCK_DATA",
    help="With --default: folder of the outcome sets.  [env: PENSTOCK_DATA; default: ../shared/data]",
)
@encoder_option
@click.option("--reference-arm", help="Arm that answers when in doubt; the dearest one by default.")
@click.option(
    "--prices",
    type=click.Path(path_type=Path, dir_okay=False),
    help='JSON: {"arm": [input, output], ...}, USD per million tokens; what the outcomes cost otherwise.',
)
@click.option("--seed", type=click.IntRange(0), default=0, show_default=True, help="Of split, clustering, bootstrap.")
@bad_rows_option
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object instead of text.")
def fit(
    is_default: bool,
    outcomes: tuple[Path, ...],
    out: Path | None,
    data: Path | None,
    encoder: Path | None,
    reference_arm: str | None,
    prices: Path | None,
    seed: int,
    on_bad_rows: BadRows,
    as_json: bool,
) -> None:
    """Fit a router artifact from outcomes."""
    if is_default == bool(outcomes):
        raise click.UsageError("give either --default or --outcomes FILE")
    if is_default and (encoder or reference_arm or prices):
        raise click.UsageError("--encoder, --reference-arm and --prices go with --outcomes, not with --default")
    if outcomes and out is None:
        raise click.UsageError("--outcomes needs --out FOLDER")
    with errors_shown(as_json), progress_bars(as_json) as progress:
        need_packages("sklearn", "onnx", "pyarrow", "matplotlib")
        if is_default:
            target = out or bundled_folder(DEFAULT_ENCODER).parent / DEFAULT_ARTIFACT
            manifest = _fit_default(data, target, seed, progress)
        else:
            target = out or Path()
            manifest = _fit_own(outcomes, target, encoder, reference_arm, prices, seed, on_bad_rows, progress)
    if as_json:
        click.echo(json.dumps(_summary(manifest), indent=1))
    else:
        _print_manifest(manifest, target)


def _fit_default(data: Path | None, out: Path, seed: int, progress: Progress) -> Manifest:
    from penstock_training.default_router import fit_default
    from penstock_training.fit import FitOptions
    from penstock_training.pack import check_folder

    check_folder(out)
    folder = data or bundled_folder(DEFAULT_ENCODER).parents[1] / ".." / "shared" / "data"
    return fit_default(folder, out, options=FitOptions(seed=seed), progress=progress).manifest


def _fit_own(
    outcomes: tuple[Path, ...],
    out: Path,
    encoder: Path | None,
    reference_arm: str | None,
    prices: Path | None,
    seed: int,
    on_bad_rows: BadRows,
    progress: Progress,
) -> Manifest:
    from penstock_routers.encoder import PromptEncoder
    from penstock_training.fit import FitOptions
    from penstock_training.own_router import fit_outcomes
    from penstock_training.pack import check_folder
    from penstock_training.predict import read_price_list

    check_folder(out)
    given = read_price_list(prices) if prices else {}
    return fit_outcomes(
        load_matrix(outcomes, on_bad_rows),
        out,
        encoder=PromptEncoder.load(model_folder(encoder, DEFAULT_ENCODER, "encoder")),
        reference_arm=reference_arm,
        prices=given,
        options=FitOptions(seed=seed),
        progress=progress,
    ).manifest


def _summary(manifest: Manifest) -> dict[str, Any]:
    """Name, size, settings and measured points of an artifact, as JSON types."""
    import msgspec

    points: list[dict[str, Any]] = msgspec.to_builtins(manifest.operating_points)
    return {
        "id": manifest.id,
        "arms": list(manifest.arms),
        "reference_arm": manifest.reference_arm,
        "graph_bytes": manifest.graph_bytes,
        "guard": msgspec.to_builtins(manifest.guard),
        "hyperparameters": manifest.hyperparameters,
        "operating_points": points,
        "prompts": manifest.split.prompts,
        "metrics": manifest.metrics,
    }


def _print_manifest(manifest: Manifest, folder: Path) -> None:
    click.echo(f"artifact   {manifest.id}")
    click.echo(f"arms       {', '.join(manifest.arms)} (default: {manifest.reference_arm})")
    click.echo(f"graph      {manifest.graph_bytes / 1e6:.2f} MB, encoder {manifest.encoder.id}")
    click.echo(f"prompts    {', '.join(f'{name} {count:,}' for name, count in manifest.split.prompts.items())}")
    click.echo("on test prompts    quality   (95 % interval)   of best arm   cost of default arm")
    for point in manifest.operating_points:
        found = point.test
        click.echo(
            f"  {point.name:<16} {found.quality:8.3f}   {found.quality_low:6.3f} - {found.quality_high:5.3f}"
            f"   {100 * found.share_of_best:9.1f} %   {100 * found.relative_cost:17.1f} %"
        )
    shown = shlex.quote(str(folder))
    click.echo(f"wrote {shown}; next: penstock-train evaluate {shown} --outcomes OTHER")
