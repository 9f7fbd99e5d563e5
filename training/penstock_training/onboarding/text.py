"""What a person reads after onboarding: the terminal's lines and the card.

Owns the wording and ``CARD.md`` of an onboarded artifact. Must not compute results. Read `describe`.
"""

from __future__ import annotations

from pathlib import Path

from penstock_training.card import CARD_FILE
from penstock_training.onboarding.report import OnboardingReport


def describe(report: OnboardingReport) -> list[str]:
    """Word a report for a terminal, one line each, the remarks last."""
    return [f"{name + ':':<17}{value}" for name, value in _rows(report).items()] + [
        f"note: {remark}" for remark in report.remarks
    ]


def _rows(report: OnboardingReport) -> dict[str, str]:
    half = 100 * (report.quality_high - report.quality_low) / 2
    chosen = ", ".join(f"{name} {100 * share:.0f} %" for name, share in report.chosen.items())
    return {
        "new arm": f"{report.arm} (most like {report.nearest_arm})",
        "scored prompts": f"{report.prompts}, of which {report.paired} with scores of known arms",
        "mean score": f"{report.mean_score:.3f} as observed",
        "mean quality": f"{report.quality:.3f} estimated, 95 % interval {report.quality_low:.3f} to "
        f"{report.quality_high:.3f}",
        "more prompts": f"about {report.prompts_to_halve:,} more would halve the ± {half:.1f} points",
        "price": f"{report.price[0]:g} and {report.price[1]:g} USD per million input and output tokens",
        "answer length": f"{report.output_tokens:.0f} tokens on average",
        "surely better": f"than the default arm {report.default_arm} on {100 * report.surely_better:.0f} % of these "
        f"prompts, surely worse on {100 * report.surely_worse:.0f} %",
        "would be chosen": f"for these prompts at {chosen}",
    }


def write_onboarding_card(folder: Path, report: OnboardingReport) -> None:
    """Write ``CARD.md`` beside the manifest, all at once."""
    manifest = report.manifest
    text = [
        f"# {report.arm} added to an artifact",
        "",
        f"Artifact `{manifest.id}`, grown from `{manifest.parent}` without training outcomes. What the parent's card "
        "says of the other arms still holds; operating points and frontier were measured without the new arm.",
        "",
        *(f"- {name}: {value}" for name, value in _rows(report).items()),
        "",
        *(f"{remark[0].upper()}{remark[1:]}.\n" for remark in report.remarks),
    ]
    staged = folder / f".{CARD_FILE}.new"
    staged.write_text("\n".join(text), encoding="utf-8")
    staged.replace(folder / CARD_FILE)
