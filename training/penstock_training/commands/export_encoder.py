"""``penstock-train export-encoder``: a sentence-transformers model as an encoder folder."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

import click

from penstock_training.commands.shell import errors_shown


@click.command("export-encoder", short_help="Export a sentence-transformers model.")
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
    with errors_shown(as_json=False):
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
