"""``penstock-train fit``: a router artifact from outcome files."""

from __future__ import annotations

import json
import shlex
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from penstock_routers.bundled import DEFAULT_ENCODER, bundled_folder
from penstock_routers.errors import RouterError
from penstock_training.commands.engine_options import EngineChoice, engine_options, opened_engine
from penstock_training.commands.shell import (
    DEFAULT_ARTIFACT,
    BadRows,
    bad_rows_option,
    encoder_option,
    errors_shown,
    load_sources,
    model_folder,
    need_packages,
    progress_bars,
)
from penstock_training.errors import TrainingError
from penstock_training.progress import Progress

if TYPE_CHECKING:
    from penstock_routers.manifest import Manifest
    from penstock_training.fit import FitOptions
    from penstock_training.prior import Prior
    from penstock_training.search_result import SearchResult
    from penstock_training.search_trials import SearchOptions


@click.command()
@click.option("--default", "is_default", is_flag=True, help="Fit the artifact that comes with the package.")
@click.option(
    "--outcomes",
    multiple=True,
    help="Outcome file, Parquet or JSONL, or a data set of Parquet files, a folder or a URL; may be repeated.",
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
@click.option(
    "--router",
    default="ensemble",
    show_default=True,
    help="knn, cluster, linear, kernel, mlp, boosting, factorisation, irt, constant, ensemble; learned:HEAD; "
    "auto searches all of them.",
)
@click.option(
    "--budget", default="10m", show_default=True, help="With --router auto: how long to search, like 90s, 1h."
)
@click.option(
    "--metric",
    default="area",
    show_default=True,
    help="With --router auto: what to search by: area, aiq, cost95, cost99, brier.",
)
@click.option(
    "--leaderboard",
    type=click.Path(path_type=Path, dir_okay=False),
    help="With --router auto: JSON file to write the leaderboard to.",
)
@click.option(
    "--set", "settings", multiple=True, metavar="NAME=NUMBER", help="A hyper-parameter of the router; may be repeated."
)
@click.option("--prior", type=click.Path(path_type=Path), help="Router to start from; the bundled one by default.")
@click.option("--no-prior", is_flag=True, help="Start from nothing.")
@click.option("--seed", type=click.IntRange(0), default=0, show_default=True, help="Of split, clustering, bootstrap.")
@click.option(
    "--max-tenant-share",
    type=click.FloatRange(0, 1, min_open=True),
    help="Most of an arm's weight that the feedback of one tenant may have, like 0.2; no limit when left out.",
)
@bad_rows_option
@click.option("--captured", is_flag=True, help="The prompts were captured by a gateway; the artifact will say so.")
@click.option(
    "--allow-prompt-vectors",
    is_flag=True,
    help="Let the router keep vectors of single prompts (support_points=1), which tell what was asked.",
)
@engine_options
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object instead of text.")
def fit(
    is_default: bool,
    outcomes: tuple[str, ...],
    out: Path | None,
    data: Path | None,
    encoder: Path | None,
    reference_arm: str | None,
    prices: Path | None,
    router: str,
    budget: str,
    metric: str,
    leaderboard: Path | None,
    settings: tuple[str, ...],
    prior: Path | None,
    no_prior: bool,
    seed: int,
    max_tenant_share: float | None,
    on_bad_rows: BadRows,
    captured: bool,
    allow_prompt_vectors: bool,
    engine: EngineChoice,
    as_json: bool,
) -> None:
    """Fit a router artifact from outcomes.

    Outcomes of your own are few, so the router starts from the bundled one as prior unless told otherwise.
    """
    _check_own(is_default, encoder, reference_arm, prices, prior, captured, max_tenant_share)
    if prior and no_prior:
        raise click.UsageError("give either --prior or --no-prior")
    if router == "auto" and (is_default or settings):
        raise click.UsageError("--router auto goes with --outcomes, and chooses the settings itself")
    _check_place(is_default, outcomes, out, engine)
    found: list[SearchResult] = []
    with errors_shown(as_json), progress_bars(as_json) as progress:
        need_packages("sklearn", "onnx", "pyarrow", "matplotlib")
        if is_default:
            target = out or bundled_folder(DEFAULT_ENCODER).parent / DEFAULT_ARTIFACT
            options = fit_options(router, settings, seed)
            _check_prompt_vectors(options, allow_prompt_vectors)
            manifest = _fit_default(data, target, options, progress)
        else:
            target = out or Path()
            search = _search_options(budget, metric, leaderboard) if router == "auto" else None
            options = fit_options(router if search is None else "ensemble", settings, seed, max_tenant_share)
            _check_prompt_vectors(options, allow_prompt_vectors)
            start = None if no_prior else (prior or bundled_folder(DEFAULT_ENCODER).parent / DEFAULT_ARTIFACT)
            wanted = _Wanted(
                outcomes,
                target,
                encoder,
                reference_arm,
                prices,
                start,
                prior is not None,
                on_bad_rows,
                captured,
                allow_prompt_vectors,
                search,
                found.append,
                engine,
            )
            manifest = _fit_own(wanted, options, progress)
    _show_fit(manifest, target, found, leaderboard, as_json)


def _check_own(is_default: bool, *given: object) -> None:
    """Refuse, for the bundled artifact, what is said about outcomes of one's own."""
    if is_default and any(given):
        raise click.UsageError(
            "--encoder, --reference-arm, --prices, --prior, --captured and --max-tenant-share go with --outcomes"
        )


def _show_fit(
    manifest: Manifest, folder: Path, found: list[SearchResult], leaderboard: Path | None, as_json: bool
) -> None:
    if leaderboard is not None and found:
        leaderboard.write_text(json.dumps(found[0].to_json(), indent=1) + "\n", encoding="utf-8")
    if as_json:
        searched = {"search": found[0].to_json()} if found else {}
        click.echo(json.dumps(_summary(manifest) | searched, indent=1))
    else:
        _print_search(found)
        _print_manifest(manifest, folder)


def _check_place(is_default: bool, outcomes: tuple[str, ...], out: Path | None, engine: EngineChoice) -> None:
    if is_default and engine.name != "local":
        raise click.UsageError("--engine ray goes with --outcomes")
    if is_default == bool(outcomes):
        raise click.UsageError("give either --default or --outcomes FILE")
    if outcomes and out is None:
        raise click.UsageError("--outcomes needs --out FOLDER")


@dataclass(frozen=True, slots=True)
class _Wanted:
    """What the command line says about outcomes of one's own."""

    outcomes: tuple[str, ...]
    out: Path
    encoder: Path | None
    reference_arm: str | None
    prices: Path | None
    prior: Path | None
    must_have_prior: bool
    on_bad_rows: BadRows
    is_captured: bool
    may_hold_prompt_vectors: bool
    search: SearchOptions | None
    on_found: Callable[[SearchResult], None]
    engine: EngineChoice


def _search_options(budget: str, metric: str, leaderboard: Path | None) -> SearchOptions:
    """Check what the search is asked for, before anything is read."""
    from penstock_training.frugal import need_search_library
    from penstock_training.search import parse_budget
    from penstock_training.search_metric import known_metric
    from penstock_training.search_trials import SearchOptions

    need_search_library()
    if leaderboard is not None and not leaderboard.parent.is_dir():
        raise TrainingError(f"there is no folder {str(leaderboard.parent)!r}", code="folder_missing")
    return SearchOptions(metric=known_metric(metric), budget_seconds=parse_budget(budget))


def _print_search(found: list[SearchResult]) -> None:
    from penstock_training.search_result import describe

    for result in found:
        click.echo(describe(result) + "\n")


def fit_options(router: str, settings: tuple[str, ...], seed: int, max_tenant_share: float | None = None) -> FitOptions:
    """Read ``--router``, ``--set``, ``--seed`` and ``--max-tenant-share``."""
    from penstock_training.families.registry import router_spec
    from penstock_training.fit import FitOptions

    given = {}
    for setting in settings:
        name, _, number = setting.partition("=")
        try:
            given[name.strip()] = float(number)
        except ValueError:
            raise click.UsageError(f"--set {setting!r} should read NAME=NUMBER") from None
    return FitOptions(router=router_spec(router, given), seed=seed, max_tenant_share=max_tenant_share)


def _check_prompt_vectors(options: FitOptions, is_allowed: bool) -> None:
    """Refuse vectors of single prompts, before anything is read, unless they were allowed."""
    from penstock_routers.prompt_content import SUPPORT_POINTS

    settings = options.router.settings.items()
    if not is_allowed and any(value > 0.0 for name, value in settings if name.rpartition(".")[2] == SUPPORT_POINTS):
        raise TrainingError(
            f"{SUPPORT_POINTS} keeps a vector of every prompt, which tells what was asked to whoever has the artifact; "
            "allow it with --allow-prompt-vectors, or leave it out: prototypes are means of five prompts at least",
            code="prompt_vectors_not_allowed",
        )


def _fit_default(data: Path | None, out: Path, options: FitOptions, progress: Progress) -> Manifest:
    from penstock_training.default_router import fit_default
    from penstock_training.pack import check_folder

    check_folder(out)
    folder = data or bundled_folder(DEFAULT_ENCODER).parents[1] / ".." / "shared" / "data"
    return fit_default(folder, out, options=options, progress=progress).manifest


def _fit_own(wanted: _Wanted, options: FitOptions, progress: Progress) -> Manifest:
    from penstock_routers.encoder import PromptEncoder
    from penstock_training.outcomes import OutcomeMatrix
    from penstock_training.own_router import fit_outcomes
    from penstock_training.pack import check_folder
    from penstock_training.predict import read_price_list

    check_folder(wanted.out)
    given = read_price_list(wanted.prices) if wanted.prices else {}
    folder = model_folder(wanted.encoder, DEFAULT_ENCODER, "encoder")
    encoder = PromptEncoder.load(folder)
    prior = load_prior(wanted.prior, encoder.encoder_id, must_have=wanted.must_have_prior)
    with opened_engine(wanted.engine) as engine:
        read = load_sources(wanted.outcomes, wanted.on_bad_rows, options.router.family, engine, progress)
        matrix, encode = (
            (read, None) if isinstance(read, OutcomeMatrix) else (read.matrix, read.encoding(folder, encoder))
        )
        return fit_outcomes(
            matrix,
            wanted.out,
            encoder=encoder,
            reference_arm=wanted.reference_arm,
            prices=given,
            options=replace(options, prior=prior, engine=engine),
            progress=progress,
            is_captured=wanted.is_captured,
            may_hold_prompt_vectors=wanted.may_hold_prompt_vectors,
            search=wanted.search,
            on_found=wanted.on_found,
            encode=encode,
        ).manifest


def load_prior(given: Path | None, encoder_id: str, *, must_have: bool) -> Prior | None:
    """Open the prior; the bundled one is left out in silence when the encoder is another one."""
    from penstock_training.prior import Prior

    if given is None:
        return None
    folder = model_folder(given, DEFAULT_ARTIFACT, "artifact")
    try:
        prior = Prior.load(folder, encoder_id=encoder_id)
    except RouterError as error:
        if must_have or error.code != "artifact_encoder_mismatch":
            raise
        return None
    if prior is None and must_have:
        raise TrainingError(f"{given} was made by an earlier release and is no prior", code="prior_unusable")
    return prior


def _summary(manifest: Manifest) -> dict[str, Any]:
    """Name, size, settings and measured points of an artifact, as JSON types."""
    import msgspec

    points: list[dict[str, Any]] = msgspec.to_builtins(manifest.operating_points)
    return {
        "id": manifest.id,
        "family": manifest.family,
        "arms": list(manifest.arms),
        "reference_arm": manifest.reference_arm,
        "graph_bytes": manifest.graph_bytes,
        "neighbours": msgspec.to_builtins(manifest.neighbours),
        "guard": msgspec.to_builtins(manifest.guard),
        "hyperparameters": manifest.hyperparameters,
        "operating_points": points,
        "prompts": manifest.split.prompts,
        "metrics": manifest.metrics,
    }


def _print_manifest(manifest: Manifest, folder: Path) -> None:
    click.echo(f"artifact   {manifest.id}")
    click.echo(f"router     {manifest.family}")
    click.echo(f"arms       {', '.join(manifest.arms)} (default: {manifest.reference_arm})")
    click.echo(f"graph      {manifest.graph_bytes / 1e6:.2f} MB, encoder {manifest.encoder.id}")
    if (beside := manifest.neighbours) is not None:
        click.echo(
            f"neighbours {beside.points:,} prompts beside the graph ({beside.kind}), "
            f"{beside.total_bytes / 1e6:.1f} MB, recall {beside.recall:.3f} of the {beside.neighbours} nearest"
        )
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
