"""``penstock-train cross-validate``: whether a way of fitting pays on outcomes, and whether more of them would."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

import click

from penstock_routers.bundled import DEFAULT_ENCODER, bundled_folder
from penstock_training.commands.engine_options import EngineChoice, engine_options, opened_engine
from penstock_training.commands.fit import fit_options, load_prior
from penstock_training.commands.shell import (
    DEFAULT_ARTIFACT,
    BadRows,
    bad_rows_option,
    encoder_option,
    errors_shown,
    json_option,
    load_checked,
    model_folder,
    need_packages,
    outcomes_option,
    progress_bars,
)

if TYPE_CHECKING:
    from penstock_training.fitting_run import FittingRun, FittingRunOptions
    from penstock_training.progress import Progress

_QUICK_SECONDS = 5.0  # shorter runs are not announced


@click.command("cross-validate", short_help="Say whether a way of fitting pays on outcomes.")
@outcomes_option
@click.option("--router", default="ensemble", show_default=True, help="As for fit.")
@click.option(
    "--set", "settings", multiple=True, metavar="NAME=NUMBER", help="A hyper-parameter of the router; may be repeated."
)
@click.option("--folds", type=click.IntRange(2, 20), default=5, show_default=True, help="Parts that are left out.")
@click.option("--learning-curve", is_flag=True, help="Also fit on growing numbers of prompts.")
@click.option("--sizes", help="Of the learning curve, separated by commas; doubling from 50 to 3200 by default.")
@click.option(
    "--draws", type=click.IntRange(1, 100), default=5, show_default=True, help="Choices of prompts per size of it."
)
@click.option("--prior/--no-prior", "has_prior", default=True, help="Start from the bundled router, as fit does.")
@click.option("--reference-arm", help="Arm that answers when in doubt; the dearest one by default.")
@click.option(
    "--prices",
    type=click.Path(path_type=Path, dir_okay=False),
    help='JSON: {"arm": [input, output], ...}, USD per million tokens; what the outcomes cost otherwise.',
)
@encoder_option
@bad_rows_option
@click.option(
    "--resamples", type=click.IntRange(1, 100_000), default=1000, show_default=True, help="Bootstrap samples."
)
@click.option("--seed", type=click.IntRange(0), default=0, show_default=True, help="Of folds, fits and bootstrap.")
@click.option("--html", "page", type=click.Path(path_type=Path, dir_okay=False), help="Also write a page to read.")
@engine_options
@json_option
def cross_validate(
    files: tuple[Path, ...],
    router: str,
    settings: tuple[str, ...],
    folds: int,
    learning_curve: bool,
    sizes: str | None,
    draws: int,
    has_prior: bool,
    reference_arm: str | None,
    prices: Path | None,
    encoder: Path | None,
    on_bad_rows: BadRows,
    resamples: int,
    seed: int,
    page: Path | None,
    engine: EngineChoice,
    as_json: bool,
) -> None:
    """Fit again and again with a part of the outcomes left out, and measure on that part.

    Answers whether routing by prompt pays on this traffic, whether a simple table would do, whether the measurement is
    sound (on shuffled outcomes nothing may look good), and with --learning-curve whether more outcomes would pay.
    """
    with errors_shown(as_json), progress_bars(as_json) as progress:
        need_packages("sklearn", "pyarrow")
        from penstock_training.fitting_run import FittingRunOptions
        from penstock_training.html_report import write_page

        options = FittingRunOptions(
            fit=replace(fit_options(router, settings, seed), resamples=resamples),
            folds=folds,
            sizes=_sizes(sizes) if learning_curve or sizes is not None else (),
            draws=draws,
        )
        found = _run(files, on_bad_rows, encoder, prices, reference_arm, options, has_prior, engine, progress)
        if page is not None:
            write_page(found.evaluation, page)
    if as_json:
        skipped = {"skipped": found.skipped}
        click.echo(json.dumps(found.evaluation.to_json() | skipped, ensure_ascii=False, indent=2))
        return
    from penstock_training.run_text import render_run

    click.echo(render_run(found.evaluation))
    for part, reason in found.skipped.items():
        click.echo(f"\nnot measured {part}: {reason}")
    if page is not None:
        click.echo(f"\nwritten: {page}")


def _run(
    files: tuple[Path, ...],
    on_bad_rows: BadRows,
    encoder_path: Path | None,
    prices: Path | None,
    reference_arm: str | None,
    options: FittingRunOptions,
    has_prior: bool,
    choice: EngineChoice,
    progress: Progress,
) -> FittingRun:
    from penstock_routers.encoder import PromptEncoder
    from penstock_training.fit import single_threaded
    from penstock_training.fitting_run import plan_run, run_fitting
    from penstock_training.own_router import dearest_arm, own_corpus
    from penstock_training.predict import read_price_list

    given = read_price_list(prices) if prices else {}
    matrix = load_checked(files, on_bad_rows, options.fit.router.family)
    encoder = PromptEncoder.load(model_folder(encoder_path, DEFAULT_ENCODER, "encoder"))
    start = bundled_folder(DEFAULT_ENCODER).parent / DEFAULT_ARTIFACT if has_prior else None
    prior = load_prior(start, encoder.encoder_id, must_have=False)
    if has_prior and prior is None:
        click.echo(
            "the bundled router cannot be the prior (an earlier release, or another encoder): starting from nothing",
            err=True,
        )
    options = replace(options, fit=replace(options.fit, prior=prior))
    corpus = own_corpus(matrix, encoder=encoder, prices=given, progress=progress)
    reference = reference_arm or dearest_arm(corpus.prices)
    with single_threaded():
        plan = plan_run(corpus, reference, options)
        if plan.seconds > _QUICK_SECONDS:
            where = "on this machine" if choice.name == "local" else "on one processor like this one"
            click.echo(f"{plan.fits:,} fits, about {_time_text(plan.seconds)} {where}", err=True)
        with opened_engine(choice) as engine:
            options = replace(options, fit=replace(options.fit, engine=engine))
            return run_fitting(corpus, reference, options, files=[file.name for file in files], progress=progress)


def _sizes(text: str | None) -> tuple[int, ...]:
    from penstock_training.learning_curve import SIZES

    if text is None:
        return SIZES
    try:
        sizes = tuple(int(part) for part in text.split(","))
    except ValueError:
        raise click.UsageError(f"--sizes {text!r} should read like 50,100,200") from None
    if len(sizes) < 2 or sizes[0] < 1 or list(sizes) != sorted(set(sizes)):
        raise click.UsageError("--sizes needs at least two whole numbers, rising")
    return sizes


def _time_text(seconds: float) -> str:
    return f"{round(seconds, -1):.0f} s" if seconds < 90 else f"{seconds / 60:.0f} minutes"
