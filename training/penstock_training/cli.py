"""The ``penstock-train`` command: ``fit``, ``evaluate``, ``predict``, ``export-encoder``.

Owns options, progress bars and output; every command's work lies in its own module, imported only when the command
runs, so that ``--help`` costs no scikit-learn and no torch. Read `main`.
"""

from __future__ import annotations

import importlib
import importlib.util
import json
import os
import sys
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import click

from penstock_routers.bundled import DEFAULT_ENCODER, bundled_folder
from penstock_routers.errors import RouterError
from penstock_training.errors import TrainingError

if TYPE_CHECKING:
    from penstock_routers.manifest import Manifest
    from penstock_training.predict import Prediction

DEFAULT_ARTIFACT: Final = "default-router"
# Command: (module, attribute, help). The help stands here so that listing commands imports none of them.
_ELSEWHERE: Final[Mapping[str, tuple[str, str, str]]] = {
    "evaluate": ("penstock_training.evaluation", "evaluate_command", "Measure an artifact on outcome files."),
    "export-encoder": (
        "penstock_training.export_encoder",
        "export_encoder_command",
        "Export a sentence-transformers model as an encoder folder.",
    ),
}


class _LazyGroup(click.Group):
    """A group that imports the commands of `_ELSEWHERE` only when one of them is called."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        return sorted({*super().list_commands(ctx), *_ELSEWHERE})

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        if cmd_name not in _ELSEWHERE:
            return super().get_command(ctx, cmd_name)
        module, attribute, _ = _ELSEWHERE[cmd_name]
        command: click.Command = getattr(importlib.import_module(module), attribute)
        return command

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        own = {name: command.get_short_help_str(100) for name, command in self.commands.items()}
        rows = {**own, **{name: text for name, (_, _, text) in _ELSEWHERE.items()}}
        with formatter.section("Commands"):
            formatter.write_dl(sorted(rows.items()))


@click.group(cls=_LazyGroup, context_settings={"help_option_names": ["-h", "--help"]})
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
@click.option("--out", type=click.Path(path_type=Path, file_okay=False), help="Artifact folder to write.")
@click.option(
    "--data",
    type=click.Path(path_type=Path, file_okay=False),
    envvar="PENSTOCK_DATA",
    help="With --default: folder of the outcome sets.  [env: PENSTOCK_DATA; default: "
    "../shared/data beside the checkout]",
)
@click.option("--encoder", type=click.Path(path_type=Path), help="Encoder folder or the name of a bundled one.")
@click.option("--reference-arm", help="The default arm; the dearest one by default.")
@click.option("--prices", type=click.Path(path_type=Path, dir_okay=False), help='JSON: {"arm": [input, output], ...}.')
@click.option("--seed", type=click.IntRange(0), default=0, show_default=True)
@click.option("--on-bad-rows", type=click.Choice(["refuse", "skip"]), default="refuse", show_default=True)
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
    on_bad_rows: str,
    as_json: bool,
) -> None:
    """Fit a router artifact from outcomes."""
    if is_default == bool(outcomes):
        raise click.UsageError("give either --default or --outcomes FILE")
    if outcomes and out is None:
        raise click.UsageError("--outcomes needs --out FOLDER")
    with _errors_shown(as_json):
        _need_extra()
        if is_default:
            manifest = _fit_default(data, out, seed, as_json)
        else:
            manifest = _fit_own(outcomes, out or Path(), encoder, reference_arm, prices, seed, on_bad_rows, as_json)
    if as_json:
        click.echo(json.dumps(_summary(manifest), indent=1))
    else:
        _print_manifest(manifest)


@main.command()
@click.argument("prompts", nargs=-1)
@click.option("--artifact", type=click.Path(path_type=Path), help="Artifact folder; the bundled default otherwise.")
@click.option("--encoder", type=click.Path(path_type=Path), help="Encoder folder or the name of a bundled one.")
@click.option("--tradeoff", default="balanced", show_default=True, help="cost, balanced, quality or a number, 0 to 1.")
@click.option("--default-arm", help="Arm that answers when in doubt; the artifact's reference arm by default.")
@click.option(
    "--prices",
    type=click.Path(path_type=Path, dir_okay=False),
    help='JSON: {"arm": [input, output], ...}, USD per million tokens; the artifact\'s references otherwise.',
)
@click.option(
    "--prompts", "prompt_file", type=click.File("r", encoding="utf-8"), help="One prompt per line; - for stdin."
)
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object per prompt.")
def predict(
    prompts: tuple[str, ...],
    artifact: Path | None,
    encoder: Path | None,
    tradeoff: str,
    default_arm: str | None,
    prices: Path | None,
    prompt_file: Any,
    as_json: bool,
) -> None:
    """Show which arm an artifact chooses for prompts, and why."""
    texts = [*prompts, *(line.rstrip("\r\n") for line in prompt_file or ())]
    if not texts:
        raise click.UsageError("give prompts as arguments or with --prompts FILE")
    with _errors_shown(as_json):
        predictions = _predict(texts, artifact, encoder, tradeoff, default_arm, prices)
    for prediction in predictions:
        if as_json:
            click.echo(json.dumps(prediction.to_json()))
        else:
            _print_prediction(prediction)


def _predict(
    texts: list[str],
    artifact: Path | None,
    encoder: Path | None,
    tradeoff: str,
    default_arm: str | None,
    prices: Path | None,
) -> list[Prediction]:
    from penstock_routers.artifact import RouterArtifact
    from penstock_routers.encoder import PromptEncoder
    from penstock_training.predict import artifact_prices, predict_prompt, prices_of_arms, read_price_list

    loaded_encoder = PromptEncoder.load(_folder(encoder, DEFAULT_ENCODER))
    router = RouterArtifact.load(_folder(artifact, DEFAULT_ARTIFACT), encoder_id=loaded_encoder.encoder_id)
    arms = router.manifest.arms
    listed = prices_of_arms(read_price_list(prices), arms) if prices else artifact_prices(router.manifest)
    default = default_arm or router.manifest.reference_arm
    if default not in listed:
        raise TrainingError(
            f"the default arm {default!r} has no price; priced arms: {', '.join(listed)}", code="unknown_arm"
        )
    try:
        setting = router.tradeoff(tradeoff)
    except ValueError as error:
        raise TrainingError(str(error), code="bad_tradeoff") from error
    return [
        predict_prompt(
            text, artifact=router, encoder=loaded_encoder, prices=listed, tradeoff=setting, default_arm=default
        )
        for text in texts
    ]


def _fit_default(data: Path | None, out: Path | None, seed: int, as_json: bool) -> Manifest:
    from penstock_training.default_router import fit_default
    from penstock_training.fit import FitOptions

    models = bundled_folder(DEFAULT_ENCODER).parent
    folder = data or models.parent / ".." / "shared" / "data"
    with _progress_bars(as_json) as progress:
        found = fit_default(folder, out or models / DEFAULT_ARTIFACT, options=FitOptions(seed=seed), progress=progress)
    return found.artifact.manifest


def _fit_own(
    outcomes: tuple[Path, ...],
    out: Path,
    encoder: Path | None,
    reference_arm: str | None,
    prices: Path | None,
    seed: int,
    on_bad_rows: str,
    as_json: bool,
) -> Manifest:
    from penstock_training.fit import FitOptions
    from penstock_training.own_router import fit_outcomes
    from penstock_training.predict import read_price_list

    with _progress_bars(as_json) as progress:
        found = fit_outcomes(
            outcomes,
            out,
            encoder_folder=_folder(encoder, DEFAULT_ENCODER),
            reference_arm=reference_arm,
            prices=read_price_list(prices) if prices else {},
            on_bad_rows="skip" if on_bad_rows == "skip" else "refuse",
            options=FitOptions(seed=seed),
            progress=progress,
        )
    return found.artifact.manifest


def _folder(given: Path | None, bundled: str) -> Path:
    """A folder as given, or a bundled one by its name."""
    if given is None:
        return bundled_folder(bundled)
    return given if given.exists() or len(given.parts) > 1 else bundled_folder(str(given))


def _need_extra() -> None:
    """Say how to install what fitting needs, before anything is read."""
    missing = [name for name in ("sklearn", "onnx", "pyarrow", "matplotlib") if not importlib.util.find_spec(name)]
    if missing:
        raise TrainingError(
            f"fitting needs {', '.join(missing)}; run: pip install 'penstock[cpu,fit]'", code="missing_extra"
        )


@contextmanager
def _errors_shown(as_json: bool) -> Iterator[None]:
    """Turn the errors of our packages into one line, or one JSON object, and exit status 1."""
    try:
        yield
    except (TrainingError, RouterError) as error:
        if as_json:
            click.echo(json.dumps({"error": {"code": error.code, "message": error.message}}))
            sys.exit(1)
        raise click.ClickException(f"{error.message} [{error.code}]") from error


@contextmanager
def _progress_bars(is_quiet: bool) -> Iterator[Callable[[str, int, int], None]]:
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


def _print_manifest(manifest: Manifest) -> None:
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


def _print_prediction(prediction: Prediction) -> None:
    shown = " ".join(prediction.prompt.split())
    click.echo(f"{prediction.choice.arm:<12} {prediction.choice.reason.value:<22} {shown[:80]}")
    for row in prediction.to_json().get("candidates", ()):
        click.echo(
            f"    {row['arm']:<12} quality {row['quality']:.3f} ± {row['quality_se']:.3f}   gain {row['gain']:+.3f} ± "
            f"{row['gain_se']:.3f}   {row['output_tokens']:6.0f} tokens   {row['cost_usd']:.6f} USD"
        )


if __name__ == "__main__":
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    main()
