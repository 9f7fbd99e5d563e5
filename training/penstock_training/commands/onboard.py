"""``penstock-train onboard``: one more arm in an artifact, from a few dozen scored prompts."""

from __future__ import annotations

import json
import shlex
from pathlib import Path

import click

from penstock_training.commands.shell import (
    BadRows,
    bad_rows_option,
    encoder_folder,
    encoder_option,
    errors_shown,
    json_option,
    load_matrix,
    model_folder,
    need_packages,
    outcomes_option,
    progress_bars,
)
from penstock_training.errors import TrainingError

_TIERS = ("small", "medium", "large", "frontier")


@click.command()
@click.argument("artifact", type=click.Path(path_type=Path))
@click.option("--arm", required=True, help="The new arm, by its name in the outcome files.")
@outcomes_option
@click.option("--out", type=click.Path(path_type=Path), required=True, help="Artifact folder to write.")
@click.option("--price-input", type=click.FloatRange(0), help="USD per million input tokens.")
@click.option("--price-output", type=click.FloatRange(0), help="USD per million output tokens.")
@click.option(
    "--prices",
    type=click.Path(path_type=Path, dir_okay=False),
    help='JSON: {"arm": [input, output], ...}, USD per million tokens; what the outcomes cost otherwise.',
)
@click.option("--tier", type=click.Choice(_TIERS), help="Tier of the new arm.")
@click.option(
    "--output-tokens", type=click.FloatRange(1), help="Mean completion length; what the outcomes say otherwise."
)
@encoder_option
@bad_rows_option
@json_option
def onboard(
    artifact: Path,
    arm: str,
    files: tuple[Path, ...],
    out: Path,
    price_input: float | None,
    price_output: float | None,
    prices: Path | None,
    tier: str | None,
    output_tokens: float | None,
    encoder: Path | None,
    on_bad_rows: BadRows,
    as_json: bool,
) -> None:
    """Add an arm to ARTIFACT from a few dozen scored prompts, without its training outcomes.

    10 prompts are the least, 50 a good start. Scores of known arms on the same prompts make the result surer.
    """
    if (price_input is None) != (price_output is None):
        raise click.UsageError("--price-input and --price-output go together")
    if prices and price_input is not None:
        raise click.UsageError("give either --prices or --price-input and --price-output")
    with errors_shown(as_json), progress_bars(as_json) as progress:
        need_packages("onnx", "onnxruntime", "pyarrow")
        from penstock_training.onboarding.evidence import NewArm
        from penstock_training.onboarding.session import onboard as add_arm
        from penstock_training.onboarding.text import describe, write_onboarding_card

        price = _price(arm, prices, price_input, price_output)
        report = add_arm(
            model_folder(artifact, str(artifact), "artifact"),
            load_matrix(files, on_bad_rows),
            out,
            NewArm(arm, price, tier, output_tokens),
            encoder_folder=encoder_folder(encoder),
            progress=progress,
        )
        write_onboarding_card(out, report)
    if as_json:
        click.echo(json.dumps(report.to_json(), indent=1))
        return
    for line in describe(report):
        click.echo(line)
    shown = shlex.quote(str(out))
    click.echo(f"wrote {report.manifest.id} to {shown}; next: penstock-train artifact show {shown}")


def _price(
    arm: str, prices: Path | None, price_input: float | None, price_output: float | None
) -> tuple[float, float] | None:
    """The price as given; None when the outcomes have to tell."""
    if price_input is not None and price_output is not None:
        return price_input, price_output
    if prices is None:
        return None
    from penstock_training.predict import read_price_list

    listed = read_price_list(prices)
    if arm not in listed:
        raise TrainingError(f"{prices.name} has no price of {arm!r}", code="no_prices")
    return listed[arm]
