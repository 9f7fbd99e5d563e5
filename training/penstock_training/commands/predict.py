"""``penstock-train predict``: which arm an artifact chooses, and why."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import IO, TYPE_CHECKING

import click

from penstock_training.commands.shell import (
    DEFAULT_ARTIFACT,
    encoder_folder,
    encoder_option,
    errors_shown,
    model_folder,
)
from penstock_training.errors import TrainingError

if TYPE_CHECKING:
    from penstock_training.predict import Prediction


@click.command()
@click.argument("prompts", nargs=-1)
@click.option("--artifact", type=click.Path(path_type=Path), help="Artifact folder; the bundled default otherwise.")
@encoder_option
@click.option("--tradeoff", default="balanced", show_default=True, help="cost, balanced, quality or a number, 0 to 1.")
@click.option("--max-cost-usd", type=click.FloatRange(0), help="Leave out arms that are expected to cost more, USD.")
@click.option(
    "--min-quality", type=click.FloatRange(0, 1), help="Cheapest arm that surely has it, whatever --tradeoff."
)
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
    max_cost_usd: float | None,
    min_quality: float | None,
    default_arm: str | None,
    prices: Path | None,
    prompt_file: IO[bytes] | None,
    as_json: bool,
) -> None:
    """Show which arm an artifact chooses for prompts, and why."""
    with errors_shown(as_json):
        texts = [*prompts, *_lines(prompt_file)]
        if not texts:
            raise click.UsageError("give prompts as arguments or with --prompts FILE")
        limits = {"max_cost_usd": max_cost_usd, "min_quality": min_quality}
        for prediction in _predictions(texts, artifact, encoder, tradeoff, default_arm, prices, limits):
            if as_json:
                click.echo(json.dumps(prediction.to_json()))
            else:
                _print_prediction(prediction)


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
    limits: dict[str, float | None],
) -> Iterator[Prediction]:
    from penstock_training.predict import (
        artifact_prices,
        known_arm,
        open_router,
        predict_prompt,
        prices_of_arms,
        read_price_list,
    )

    router, loaded_encoder = open_router(model_folder(artifact, DEFAULT_ARTIFACT, "artifact"), encoder_folder(encoder))
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
            text,
            artifact=router,
            encoder=loaded_encoder,
            prices=listed,
            tradeoff=setting,
            default_arm=default,
            **limits,
        )


def _print_prediction(prediction: Prediction) -> None:
    shown = " ".join(prediction.prompt.split())
    click.echo(f"{prediction.choice.arm:<12} {prediction.choice.reason.value:<22} {shown[:80]}")
    shown_rows = prediction.to_json()
    for row in shown_rows.get("candidates", ()):
        click.echo(
            f"    {row['arm']:<12} quality {row['quality']:.3f} ± {row['quality_se']:.3f}   gain {row['gain']:+.3f} ± "
            f"{row['gain_se']:.3f}   {row['output_tokens']:6.0f} tokens   {row['cost_usd']:.6f} USD"
        )
    for row in shown_rows.get("rejected", ()):
        click.echo(f"    {row['arm']:<12} rejected: {row['reason']}, expected cost {row['cost_usd']:.6f} USD")
