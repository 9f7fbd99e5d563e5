"""``penstock-train cache-calibrate``: the semantic cache's decision rule, certified on texts with known answers."""

from __future__ import annotations

import json
import shlex
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Literal

import click

from penstock_training.commands.shell import errors_shown, json_option, need_packages, progress_bars

if TYPE_CHECKING:
    from penstock_cache.rule import RuleManifest


@click.command("cache-calibrate", short_help="Certify the semantic cache's rule on your own texts.")
@click.option(
    "--texts",
    "files",
    type=click.Path(path_type=Path, dir_okay=False),
    multiple=True,
    help='JSONL (or .gz): {"text", "group"}, {"a", "b", "same"} or {"a", "a2", "b", "b2"}; may be repeated.',
)
@click.option(
    "--events",
    type=click.Path(path_type=Path, exists=True),
    multiple=True,
    help="Event folder or segment: the gateway's own audits, beside --texts or alone; may be repeated.",
)
@click.option("--out", type=click.Path(path_type=Path, file_okay=False), required=True, help="Rule folder to write.")
@click.option("--base", type=click.Path(path_type=Path, file_okay=False), help="Rule to start from; the bundled one.")
@click.option("--refit", is_flag=True, help="Fit the pair model on these texts too, instead of taking the base's.")
@click.option(
    "--mode",
    type=click.Choice(["semantic", "faq-intent"]),
    default="semantic",
    show_default=True,
    help="Groups are wordings of one question, or questions that one FAQ entry answers.",
)
@click.option("--default", "is_default", is_flag=True, hidden=True, help="Make the bundled rule, in a checkout.")
@json_option
def cache_calibrate(
    files: tuple[Path, ...],
    events: tuple[Path, ...],
    out: Path,
    base: Path | None,
    refit: bool,
    mode: Literal["semantic", "faq-intent"],
    is_default: bool,
    as_json: bool,
) -> None:
    """Find thresholds that keep false hits within a budget, with a finite-sample guarantee.

    About 300 texts are the least that certify 1 %, 3,000 certify 0.1 %. Intent groups belong to --mode faq-intent: they
    would teach the strict rule false friends.
    """
    if not files and not events and not is_default:
        raise click.UsageError("name your texts with --texts, or the gateway's events with --events")
    with errors_shown(as_json), progress_bars(as_json) as progress:
        need_packages("onnx", "onnxruntime", "sklearn", "scipy")
        from penstock_routers.bundled import bundled_folder
        from penstock_training.cache_rule.session import calibrate_own, make_default

        if is_default:
            corpus = sorted(Path("cache/corpus").glob("open_*.jsonl"))
            manifest = make_default(corpus, files[0], out, progress=progress)
        else:
            base = base or (out if refit else bundled_folder("cache-rule"))
            with _with_audits(files, events, is_quiet=as_json) as texts:
                manifest = calibrate_own(texts, out, base=base, refits=refit, mode=mode, progress=progress)
    if as_json:
        import msgspec

        click.echo(json.dumps({"out": str(out), "points": msgspec.to_builtins(manifest.points)}, indent=1))
        return
    _show(manifest, out, mode)


@contextmanager
def _with_audits(files: tuple[Path, ...], events: tuple[Path, ...], *, is_quiet: bool) -> Iterator[tuple[Path, ...]]:
    """Name the audits of event logs as one more file of texts, for as long as it is needed."""
    if not events:
        yield files
        return
    from penstock_training.cache_rule.audits import audit_pairs

    pairs, left_out = audit_pairs(events)
    if not is_quiet:
        apart = ", ".join(f"{count:,} {name}" for name, count in sorted(left_out.items()))
        click.echo(f"{len(pairs):,} audits" + (f"; left out: {apart}" if apart else ""))
    with tempfile.TemporaryDirectory(prefix="penstock-audits-") as folder:
        path = Path(folder) / "audits.jsonl"
        path.write_text("".join(json.dumps(pair) + "\n" for pair in pairs), "utf-8")
        yield (*files, path)


def _show(manifest: RuleManifest, out: Path, mode: str) -> None:
    click.echo(
        f"{'category':<20} {'budget':>8} {'threshold':>15} {'requests':>9} {'hits':>7} {'false':>6} {'at most':>8}"
    )
    for point in manifest.points:
        threshold = "not certifiable" if point.threshold is None else f"{point.threshold:.3f}"
        name = "all together" if point.category == "*" else point.category
        click.echo(
            f"{name:<20} {100 * point.budget:>6g} % {threshold:>15} {point.requests:>9,} {point.hits:>7,} "
            f"{point.false_hits:>6,} {100 * point.false_hit_rate_upper:>6.2f} %"
        )
    rule = f"cache: {{mode: {mode}, rule: {out.resolve()}}}"
    click.echo(f"wrote {shlex.quote(str(out))}; next, in penstock.yaml: {rule}")
