"""``penstock-train collect``: outcomes of one's own, from prompts, arms and a scorer."""

from __future__ import annotations

from decimal import Decimal, InvalidOperation
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import click

from penstock_training.commands.shell import encoder_option, errors_shown, json_option

if TYPE_CHECKING:
    from penstock_training.collect.session import CollectOptions

DEFAULT_BASE_URL: Final = "http://127.0.0.1:4000/v1"


class UsdType(click.ParamType[Decimal]):
    """An amount of money: a decimal number >= 0."""

    name = "USD"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Decimal:
        """Read it exactly."""
        try:
            found = Decimal(str(value))
        except InvalidOperation:
            self.fail(f"{value!r} is no amount", param, ctx)
        if not found.is_finite() or found < 0:
            self.fail(f"{value!r} is no amount of 0 or more", param, ctx)
        return found


@click.command()
@click.option(
    "--prompts",
    type=click.Path(path_type=Path, dir_okay=False),
    multiple=True,
    required=True,
    help="Prompts or captured events: JSONL, plain text with a prompt per line, or Parquet; may be repeated.",
)
@click.option("--arms", required=True, help="Models to ask, separated by commas, as the server names them.")
@click.option("--scorer", required=True, metavar="SPEC", help="How answers are graded, such as exact or judge-rubric.")
@click.option(
    "--scorer-option", "scorer_options", multiple=True, metavar="NAME=VALUE", help="Of the scorer; may be repeated."
)
@click.option(
    "--out", type=click.Path(path_type=Path, dir_okay=False), required=True, help="Outcome file to write, .jsonl."
)
@click.option("--sample", type=click.IntRange(1), help="How many prompts to ask; all of them when left out.")
@click.option(
    "--order",
    type=click.Choice(["informative", "random"]),
    default="informative",
    show_default=True,
    help="Which prompts come first: of every kind those the artifact is least sure about, or any.",
)
@click.option(
    "--random-share",
    type=click.FloatRange(0, 1),
    default=0.2,
    show_default=True,
    help="With --order informative: share drawn uniformly, so that averages can be estimated.",
)
@click.option("--budget-usd", type=UsdType(), help="Never spend more than this on the file, repeated runs included.")
@click.option("--max-tokens", type=click.IntRange(1), default=1024, show_default=True, help="Limit of every answer.")
@click.option(
    "--max-prompt-tokens", type=click.IntRange(1), default=8000, show_default=True, help="Leave longer prompts out."
)
@click.option("--base-url", default=DEFAULT_BASE_URL, show_default=True, help="OpenAI-compatible API.")
@click.option("--api-key-env", metavar="NAME", help="Environment variable that holds the API key.")
@click.option(
    "--prices",
    type=click.Path(path_type=Path, dir_okay=False),
    help='JSON: {"arm": [input, output], ...}, USD per million tokens; what the gateway lists otherwise.',
)
@click.option("--artifact", type=click.Path(path_type=Path), help="Router for choosing; the bundled default otherwise.")
@encoder_option
@click.option("--concurrency", type=click.IntRange(1, 256), default=8, show_default=True, help="Calls at once.")
@click.option(
    "--timeout-seconds",
    type=click.FloatRange(0, min_open=True),
    default=120.0,
    show_default=True,
    help="Longest wait for an answer; a longer one is written down as censored.",
)
@click.option("--seed", type=click.IntRange(0), default=0, show_default=True, help="Of the choice of prompts.")
@click.option("--yes", "is_confirmed", is_flag=True, help="Do not ask before money is spent.")
@click.option("--dry-run", "is_dry", is_flag=True, help="Show the sample and its cost; call no model.")
@json_option
def collect(**given: Any) -> None:
    """Ask several arms the same prompts, grade the answers, and write outcomes.

    Shows what it will cost before it starts and never passes the budget. Stopped or killed, it goes on where it was
    when the same command is given again.
    """
    with errors_shown(given["as_json"]):
        from penstock_training.collect.session import collect as run_session

        run_session(_options(given))


def _options(given: dict[str, Any]) -> CollectOptions:
    """Command-line values as the session takes them."""
    from penstock_training.collect.session import CollectOptions

    arms = tuple(name.strip() for name in given.pop("arms").split(",") if name.strip())
    pairs = {}
    for text in given.pop("scorer_options"):
        name, equals, value = text.partition("=")
        if not equals or not name:
            raise click.UsageError(f"--scorer-option {text!r}: write NAME=VALUE")
        pairs[name.strip().replace("-", "_")] = value
    return CollectOptions(arms=arms, scorer_options=pairs, **given)
