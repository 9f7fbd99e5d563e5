"""``penstock-train publish`` and ``keygen``: putting an artifact in force, with a gate and a signature."""

from __future__ import annotations

import json
import sys
import textwrap
from pathlib import Path
from typing import TYPE_CHECKING, Final

import click

from penstock_training.commands.shell import (
    DEFAULT_ARTIFACT,
    BadRows,
    bad_rows_option,
    encoder_folder,
    encoder_option,
    errors_shown,
    json_option,
    load_matrix,
    model_folder,
    need_packages,
    progress_bars,
)

if TYPE_CHECKING:
    from penstock_training.publishing.publication import Publication

EXIT_NOT_PROMOTED: Final = 3
_file = click.Path(path_type=Path, dir_okay=False)


@click.command(short_help="Put an artifact in force in a registry, if it is better.")
@click.argument("artifact", type=click.Path(path_type=Path))
@click.option("--registry", type=click.Path(path_type=Path, file_okay=False), required=True, help="Made when missing.")
@click.option("--holdout", "holdouts", type=_file, multiple=True, help="Outcomes that nothing was fitted on.")
@click.option("--trained-on", type=_file, multiple=True, help="Its training outcomes, to check for shared questions.")
@click.option(
    "--tradeoff",
    type=click.Choice(["cost", "balanced", "quality"]),
    default="balanced",
    show_default=True,
    help="Setting that must improve: the one that the gateways run at.",
)
@click.option(
    "--margin",
    type=click.FloatRange(0.0, 0.2, min_open=True),
    default=0.01,
    show_default=True,
    help="Quality that may be lost where cost surely falls.",
)
@click.option("--default-arm", help="Arm that answers when in doubt; the running artifact's by default.")
@click.option("--force-reason", metavar="TEXT", help="Publish without asking the gate; TEXT goes into the history.")
@click.option("--sign-key", type=_file, help="Private key from 'keygen' to sign the artifact with.")
@click.option("--allow-prompt-vectors", is_flag=True, help="Accept vectors of single captured prompts in it.")
@encoder_option
@bad_rows_option
@json_option
def publish(
    artifact: Path,
    registry: Path,
    holdouts: tuple[Path, ...],
    trained_on: tuple[Path, ...],
    tradeoff: str,
    margin: float,
    default_arm: str | None,
    force_reason: str | None,
    sign_key: Path | None,
    allow_prompt_vectors: bool,
    encoder: Path | None,
    on_bad_rows: BadRows,
    as_json: bool,
) -> None:
    """Put ARTIFACT in force in a registry, if it is surely better there than the running one.

    The gate says promote (exit status 0), keep or not enough data (exit status 3). Gateways that watch the registry
    follow within half a minute.
    """
    if force_reason is not None and holdouts:
        raise click.UsageError("--force-reason does not ask the hold-out; give one of the two")
    if force_reason is not None and not force_reason.strip():
        raise click.UsageError("--force-reason needs a reason")
    with errors_shown(as_json), progress_bars(as_json) as progress:
        if holdouts or trained_on:
            need_packages("pyarrow")
        from penstock_training.publishing.gate import GateSettings
        from penstock_training.publishing.publication import PublishOrder, publish_artifact
        from penstock_training.publishing.registry import Registry

        order = PublishOrder(
            artifact=model_folder(artifact, DEFAULT_ARTIFACT, "artifact"),
            holdout=load_matrix(holdouts, on_bad_rows) if holdouts else None,
            trained_on=load_matrix(trained_on, on_bad_rows) if trained_on else None,
            force_reason=force_reason,
            sign_key=sign_key,
            may_hold_prompt_vectors=allow_prompt_vectors,
            default_arm=default_arm,
            encoder=encoder_folder(encoder),
            gate=GateSettings(tradeoff, margin),
        )
        publication = publish_artifact(order, Registry(registry), progress=progress)
    click.echo(json.dumps(publication.to_json(), indent=2) if as_json else _text(publication))
    if not publication.is_published:
        sys.exit(EXIT_NOT_PROMOTED)


@click.command(short_help="Make a key pair for signing artifacts.")
@click.argument("file", type=click.Path(path_type=Path, dir_okay=False))
@json_option
def keygen(file: Path, as_json: bool) -> None:
    """Write a private key to FILE (readable by you alone, no pass phrase) and print the public one.

    Gateways get the public key as routing.artifact_public_key. Keep FILE away from where artifacts are served.
    """
    with errors_shown(as_json):
        from penstock_routers.signatures import decode_public_key, key_id
        from penstock_training.publishing.signing import make_key

        public_key = make_key(file)
        name = key_id(decode_public_key(public_key))
    if as_json:
        click.echo(json.dumps({"public_key": public_key, "key_id": name}))
    else:
        click.echo(f"public key  {public_key}\nkey id      {name}\nprivate key in {file}")


def _text(publication: Publication) -> str:
    """Verdict first, then what it stands on."""
    answer = publication.answer
    lines = [f"{publication.verdict.replace('_', ' ')}: {publication.reason}"]
    if answer is not None:
        seen = f"Reserved part: {answer.prompts:,} prompts, {answer.groups:,} questions; the two decide differently on "
        spent = f"try {answer.try_number}, error rate {answer.error_rate:.2g}" if answer.try_number else "no try spent"
        lines.append(f"{seen}{answer.different:,} prompts; {spent}.")
    lines = [line for text in lines for line in textwrap.wrap(text, 80)]
    if answer is not None and answer.numbers is not None:
        from penstock_training.evaluation_text import interval_text

        lines += ["", f"open part, {answer.open_prompts:,} prompts: candidate minus running, with 95 % intervals"]
        lines.append(f"{'setting':<8}{'utility':>24}{'quality':>24}{'cost':>24}")
        for name, found in answer.numbers.items():
            cells = "".join(
                f"{interval_text(found[key], signed=True):>24}" for key in ("utility", "quality", "relative_cost")
            )
            lines.append(f"{name:<8}{cells}")
    state = "in force" if publication.is_published else "not published; in force is"
    shown = publication.id if publication.is_published else publication.running or "nothing"
    lines += ["", f"{state} {shown}{', signed' if publication.is_signed else ''}"]
    return "\n".join(lines)
