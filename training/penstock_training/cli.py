"""The ``penstock-train`` command: ``fit``, ``evaluate``, ``predict``, ``export-encoder``.

Owns options, progress bars and output; every command's work lies in its own module, imported only when the command
runs, so that ``--help`` costs no scikit-learn and no torch. Read `main`.
"""

from __future__ import annotations

import importlib.util
import json
import shlex
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any, Final, Literal

import click

from penstock_routers.bundled import DEFAULT_ENCODER, bundled_folder
from penstock_routers.errors import RouterError
from penstock_routers.installation import install_command, is_source_checkout
from penstock_training.errors import TrainingError

if TYPE_CHECKING:
    from penstock_routers.manifest import Manifest
    from penstock_training.fit import Progress
    from penstock_training.outcomes import OutcomeMatrix
    from penstock_training.predict import Prediction

DEFAULT_ARTIFACT: Final = "default-router"
BadRows = Literal["refuse", "skip"]

_ENCODER_OPTION = click.option(
    "--encoder", type=click.Path(path_type=Path), help="Encoder folder or the name of a bundled one."
)
_BAD_ROWS_OPTION = click.option(
    "--on-bad-rows",
    type=click.Choice(["refuse", "skip"]),
    default="refuse",
    show_default=True,
    help="Refuse files with a bad row, or leave bad rows out; both show them.",
)


@click.group(context_settings={"help_option_names": ["-h", "--help"]})
def main() -> None:
    """Fit, measure and try out router artifacts."""


@main.command()
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
@_ENCODER_OPTION
@click.option("--reference-arm", help="Arm that answers when in doubt; the dearest one by default.")
@click.option(
    "--prices",
    type=click.Path(path_type=Path, dir_okay=False),
    help='JSON: {"arm": [input, output], ...}, USD per million tokens; what the outcomes cost otherwise.',
)
@click.option("--seed", type=click.IntRange(0), default=0, show_default=True, help="Of split, clustering, bootstrap.")
@_BAD_ROWS_OPTION
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
    with _errors_shown(as_json), _progress_bars(as_json) as progress:
        _need_packages("sklearn", "onnx", "pyarrow", "matplotlib")
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


@main.command()
@click.argument("prompts", nargs=-1)
@click.option("--artifact", type=click.Path(path_type=Path), help="Artifact folder; the bundled default otherwise.")
@_ENCODER_OPTION
@click.option("--tradeoff", default="balanced", show_default=True, help="cost, balanced, quality or a number, 0 to 1.")
@click.option("--default-arm", help="Arm that answers when in doubt; the artifact's reference arm by default.")
@click.option(
    "--prices",
    type=click.Path(path_type=Path, dir_okay=False),
    help='JSON: {"arm": [input, output], ...}, USD per million tokens; the artifact\'s references otherwise.',
)
@click.option(
    "--prompts", "prompt_file", type=click.File("rb"), help="One prompt per line, blank ones skipped; - for stdin."
)
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object per prompt.")
def predict(
    prompts: tuple[str, ...],
    artifact: Path | None,
    encoder: Path | None,
    tradeoff: str,
    default_arm: str | None,
    prices: Path | None,
    prompt_file: IO[bytes] | None,
    as_json: bool,
) -> None:
    """Show which arm an artifact chooses for prompts, and why."""
    with _errors_shown(as_json):
        texts = [*prompts, *_lines(prompt_file)]
        if not texts:
            raise click.UsageError("give prompts as arguments or with --prompts FILE")
        for prediction in _predictions(texts, artifact, encoder, tradeoff, default_arm, prices):
            if as_json:
                click.echo(json.dumps(prediction.to_json()))
            else:
                _print_prediction(prediction)


@main.command(short_help="Measure an artifact on outcome files.")
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
@_ENCODER_OPTION
@click.option("--default-arm", help="Arm that answers when in doubt; the artifact's reference arm by default.")
@_BAD_ROWS_OPTION
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
    with _errors_shown(as_json), _progress_bars(as_json) as progress:
        _need_packages("pyarrow")
        from penstock_training.evaluation import evaluate_artifact
        from penstock_training.tiers import group_into_tiers

        models = _load(files, on_bad_rows)
        report = evaluate_artifact(
            _folder(artifact, DEFAULT_ARTIFACT, "artifact"),
            group_into_tiers(models).matrix if tiers else models,
            encoder_folder=_encoder_folder(encoder),
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


@main.command("export-encoder", short_help="Export a sentence-transformers model.")
@click.argument("out", type=click.Path(file_okay=False, path_type=Path))
@click.option("--kind", type=click.Choice(["static", "transformer"]), required=True, help="Token table, or the model.")
@click.option("--name", help="First half of the encoder id; the folder's name by default.")
@click.option("--model", help="Sentence-transformers folder or hub name; the pinned all-MiniLM-L6-v2 by default.")
@click.option("--weights-sha256", help="Refuse model.safetensors unless it has this SHA-256.")
@click.option(
    "--precision",
    type=click.Choice(["int8", "fp16", "fp32"]),
    default="int8",
    show_default=True,
    help="Of the stored weights.",
)
@click.option("--dimension", type=click.IntRange(1, 4096), default=256, show_default=True, help="Of the static kind.")
def export_encoder(
    out: Path,
    kind: Literal["static", "transformer"],
    name: str | None,
    model: str | None,
    weights_sha256: str | None,
    precision: Literal["int8", "fp16", "fp32"],
    dimension: int,
) -> None:
    """Export a sentence-transformers model to the encoder folder OUT."""
    with _errors_shown(as_json=False):
        from penstock_training import export_encoder as exporter

        exported = exporter.export_encoder(
            out,
            name=name or out.resolve().name,
            kind=kind,
            model=model,
            weights_sha256=weights_sha256,
            precision=precision,
            dimension=dimension,
        )
    click.echo(f"{exported.manifest.encoder_id}: {exported.total_bytes / 1e6:.1f} MB in {exported.folder}")
    click.echo(f"cosine to the original: mean {exported.mean_cosine:.4f}, smallest {exported.min_cosine:.4f}")


def _lines(prompt_file: IO[bytes] | None) -> Iterator[str]:
    """One prompt per line that is not blank."""
    for number, line in enumerate(prompt_file or (), 1):
        try:
            prompt = line.decode().rstrip("\r\n")
            if prompt.strip():
                yield prompt
        except UnicodeDecodeError as error:
            raise TrainingError(f"line {number} of the prompts is not UTF-8", code="bad_prompts") from error


def _predictions(
    texts: list[str],
    artifact: Path | None,
    encoder: Path | None,
    tradeoff: str,
    default_arm: str | None,
    prices: Path | None,
) -> Iterator[Prediction]:
    from penstock_training.predict import (
        artifact_prices,
        known_arm,
        open_router,
        predict_prompt,
        prices_of_arms,
        read_price_list,
    )

    router, loaded_encoder = open_router(_folder(artifact, DEFAULT_ARTIFACT, "artifact"), _encoder_folder(encoder))
    listed = (
        prices_of_arms(read_price_list(prices), router.manifest.arms) if prices else artifact_prices(router.manifest)
    )
    default = known_arm(router.manifest, default_arm)
    if default not in listed:
        raise TrainingError(
            f"the default arm {default!r} has no price; priced arms: {', '.join(listed)}", code="unknown_arm"
        )
    try:
        setting = router.tradeoff(tradeoff)
    except ValueError as error:
        raise TrainingError(str(error), code="bad_tradeoff") from error
    for text in texts:
        yield predict_prompt(
            text, artifact=router, encoder=loaded_encoder, prices=listed, tradeoff=setting, default_arm=default
        )


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
        _load(outcomes, on_bad_rows),
        out,
        encoder=PromptEncoder.load(_folder(encoder, DEFAULT_ENCODER, "encoder")),
        reference_arm=reference_arm,
        prices=given,
        options=FitOptions(seed=seed),
        progress=progress,
    ).manifest


def _load(files: tuple[Path, ...], on_bad_rows: BadRows) -> OutcomeMatrix:
    """Read outcome files and show on standard error what was skipped in them."""
    from penstock_training.outcomes import load_outcomes

    table = load_outcomes(files, on_bad_rows=on_bad_rows)
    if remarks := table.report.describe():
        click.echo(remarks, err=True)
    return table.matrix()


def _folder(given: Path | None, bundled: str, kind: Literal["artifact", "encoder"]) -> Path:
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


def _encoder_folder(given: Path | None) -> Path | None:
    return None if given is None else _folder(given, DEFAULT_ENCODER, "encoder")


def _need_packages(*names: str) -> None:
    """Say how to install what a command needs, before anything is read."""
    missing = [name for name in names if not importlib.util.find_spec(name)]
    if missing:
        how = f"{'make setup, or: ' if is_source_checkout() else ''}{install_command('cpu,fit')}"
        raise TrainingError(f"this command needs {', '.join(missing)}; run: {how}", code="missing_extra")


@contextmanager
def _errors_shown(as_json: bool) -> Iterator[None]:
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
def _progress_bars(is_quiet: bool) -> Iterator[Progress]:
    """One bar per stage on standard error; nothing when that is no terminal or output is for machines."""
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

    console = Console(stderr=True)
    columns = (TextColumn("{task.description:28}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
    with Progress(*columns, console=console, disable=is_quiet or not console.is_terminal) as bars:
        tasks: dict[str, Any] = {}

        def report(stage: str, done: int, total: int) -> None:
            if stage not in tasks:
                tasks[stage] = bars.add_task(stage, total=total)
            bars.update(tasks[stage], completed=done, total=total)

        yield report


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


def _print_prediction(prediction: Prediction) -> None:
    shown = " ".join(prediction.prompt.split())
    click.echo(f"{prediction.choice.arm:<12} {prediction.choice.reason.value:<22} {shown[:80]}")
    for row in prediction.to_json().get("candidates", ()):
        click.echo(
            f"    {row['arm']:<12} quality {row['quality']:.3f} ± {row['quality_se']:.3f}   gain {row['gain']:+.3f} ± "
            f"{row['gain_se']:.3f}   {row['output_tokens']:6.0f} tokens   {row['cost_usd']:.6f} USD"
        )
