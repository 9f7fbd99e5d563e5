"""What is in an artifact, and how two of them differ, as JSON types and as text.

Owns the wording of ``penstock-train artifact show`` and ``diff``. It reads manifests only: nothing is run, nothing is
judged. Read `describe_artifact` and `compare_artifacts`.
"""

from __future__ import annotations

import textwrap
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Final

import msgspec

from penstock_routers.manifest import Manifest, Measured
from penstock_routers.prompt_content import holds_prompt_vectors, is_from_captured_prompts
from penstock_training.evaluation_text import WIDTH, interval_text, number_text
from penstock_training.intervals import Interval

_LABEL: Final = 18  # columns
_DIGITS: Final = 12  # of an id, for people


def describe_artifact(manifest: Manifest, key_id: str | None = None) -> dict[str, Any]:
    """Say what is in an artifact.

    Parameters
    ----------
    manifest : Manifest
    key_id : str, optional
        Of the key that its signature names; the signature is not checked here.

    Returns
    -------
    dict
        JSON types; prices in USD per million tokens, qualities in [0, 1].
    """
    described: dict[str, Any] = msgspec.to_builtins(manifest)
    for name in ("golden", "inputs", "outputs", "frontier", "calibration", "feature_names", "arms"):
        del described[name]
    return described | {
        "calibration": {"id": manifest.calibration.id, "rows": manifest.calibration.rows},
        "holds_prompt_vectors": holds_prompt_vectors(manifest),
        "is_from_captured_prompts": is_from_captured_prompts(manifest),
        "signed_by": key_id,
    }


def _vectors(manifest: Manifest) -> str:
    """Say whether vectors of single prompts are kept, and how many beside the graph."""
    if (beside := manifest.neighbours) is not None:
        size = f"{beside.total_bytes / 1e6:.1f} MB, recall {beside.recall:.3f}"
        return f"{beside.points:,} of single prompts beside the graph ({beside.kind}, {size})"
    return "of single prompts (support points)" if holds_prompt_vectors(manifest) else "none of single prompts"


def describe_text(manifest: Manifest, key_id: str | None = None) -> str:
    """Word an artifact for a terminal of 80 columns; as `describe_artifact`."""
    guard, training = manifest.guard, manifest.training
    tests = manifest.operating_points[0].test.prompts
    lines = [
        f"artifact {manifest.id}",
        *_labelled("family", f"{manifest.family}, graph of {manifest.graph_bytes / 1e6:.2f} MB"),
        *_labelled("encoder", f"{manifest.encoder.id}, {manifest.encoder.dimension} dimensions"),
        *_labelled("grown from", manifest.parent or "nothing: fitted from scratch"),
        *_labelled("signed by", key_id or "nobody"),
        *_labelled("default arm", manifest.reference_arm),
        *_labelled("guard", f"a switch must pay by {guard.z:g} standard errors"),
        *_labelled("novelty", f"kept by the default arm above {guard.novelty_max:.3f}"),
        *_labelled("prompt vectors", _vectors(manifest)),
        "",
        "arms, prices in USD per million tokens",
        *_table(
            ("arm", "tier", "in", "out", "prompts", "mean score", "tokens"),
            [
                (
                    arm.name,
                    arm.tier or "–",
                    f"{arm.price_usd_per_million_input_tokens:.3g}",
                    f"{arm.price_usd_per_million_output_tokens:.3g}",
                    f"{arm.prompts:,}",
                    number_text(arm.mean_score),
                    f"{arm.mean_output_tokens:.0f}",
                )
                for arm in manifest.arm_entries
            ],
        ),
        "",
        f"operating points on {tests:,} test prompts, quality with 95 % intervals",
        *_table(
            ("setting", "λ", "quality", "of best arm", "cost of default"),
            [
                (
                    point.name,
                    "∞" if point.cost_weight is None else f"{point.cost_weight:.3g}",
                    interval_text(quality_interval(point.test)),
                    f"{100 * point.test.share_of_best:.1f} %",
                    f"{100 * point.test.relative_cost:.0f} %",
                )
                for point in manifest.operating_points
            ],
        ),
        "",
        f"fitted on {training.prompts:,} prompts, {training.outcomes:,} outcomes",
        *_table(
            ("source", "licence", "prompts", "outcomes"),
            [(s.name, s.licence, f"{s.prompts:,}", f"{s.outcomes:,}") for s in training.sources],
        ),
        *(line for note in training.notes for line in _wrapped(f"  - {note}", "    ")),
        "",
        *_labelled("outcomes' digest", training.digest[:_DIGITS]),
        *_labelled("hyper-parameters", _pairs(manifest.hyperparameters)),
        *_labelled("made with", ", ".join(f"{name} {version}" for name, version in manifest.versions.items())),
    ]
    return "\n".join(lines)


def compare_artifacts(first: Manifest, second: Manifest) -> dict[str, Any]:
    """Say how two artifacts differ.

    Parameters
    ----------
    first, second : Manifest

    Returns
    -------
    dict
        JSON types. ``operating_points`` and ``metrics`` hold both values with their intervals and ``overlap``: whether
        the intervals touch. Two that do not touch differ surely; two that do may still differ. The test prompts of two
        artifacts are the same only when they were fitted on the same outcomes (``same_outcomes``).
    """
    one = {arm.name: arm for arm in first.arm_entries}
    two = {arm.name: arm for arm in second.arm_entries}
    prices = {
        name: [_prices(one[name]), _prices(two[name])]
        for name in one
        if name in two and _prices(one[name]) != _prices(two[name])
    }
    points = {p.name: p for p in second.operating_points}
    return {
        "first": first.id,
        "second": second.id,
        "family": [first.family, second.family],
        "encoder": [first.encoder.id, second.encoder.id],
        "reference_arm": [first.reference_arm, second.reference_arm],
        "same_outcomes": first.training.digest == second.training.digest,
        "arms_added": [name for name in two if name not in one],
        "arms_removed": [name for name in one if name not in two],
        "prices_changed": prices,
        "guard": _changes(_guard(first), _guard(second)),
        "hyperparameters": _changes(first.hyperparameters, second.hyperparameters),
        "operating_points": {
            point.name: {
                "cost_weight": [point.cost_weight, points[point.name].cost_weight],
                "relative_cost": [point.test.relative_cost, points[point.name].test.relative_cost],
                "quality": _both(quality_interval(point.test), quality_interval(points[point.name].test)),
            }
            for point in first.operating_points
        },
        "metrics": {
            name: _both(Interval(*values), Interval(*second.metrics[name]))
            for name, values in first.metrics.items()
            if len(values) == 3 and len(second.metrics.get(name, ())) == 3 and values != second.metrics[name]
        },
    }


def compare_text(first: Manifest, second: Manifest) -> str:
    """Word the difference of two artifacts for a terminal; as `compare_artifacts`."""
    found = compare_artifacts(first, second)
    if first.id == second.id:
        return f"both are {first.id}"
    lines = [f"first    {first.id}", f"second   {second.id}"]
    for name in ("family", "encoder", "reference_arm"):
        old, new = found[name]
        lines += _labelled(name.replace("_", " "), old if old == new else f"{old} → {new}")
    lines += _labelled("fitted on", "the same outcomes" if found["same_outcomes"] else "other outcomes")
    lines += _labelled("arms added", ", ".join(found["arms_added"]) or "none")
    lines += _labelled("arms removed", ", ".join(found["arms_removed"]) or "none")
    for arm, (old, new) in found["prices_changed"].items():
        lines += _labelled("price of " + arm, f"{old[0]:.3g} / {old[1]:.3g} → {new[0]:.3g} / {new[1]:.3g} USD per M")
    for title, changes in (("guard", found["guard"]), ("hyper-parameters", found["hyperparameters"])):
        told = ", ".join(f"{name} {_number(a)} → {_number(b)}" for name, (a, b) in changes.items())
        lines += _labelled(title, told or "the same")
    rows = [
        (
            name,
            _bracket(point["quality"]["first"]),
            _bracket(point["quality"]["second"]),
            " → ".join(f"{100 * share:.0f} %" for share in point["relative_cost"]),
            _verdict(point["quality"]),
        )
        for name, point in found["operating_points"].items()
    ]
    head = ("setting", "quality, first", "second", "cost of default", "")
    lines += ["", "operating points, each on its own test prompts", *_table(head, rows)]
    metrics = [
        (name, _bracket(values["first"]), _bracket(values["second"]), _verdict(values))
        for name, values in found["metrics"].items()
    ]
    if metrics:
        lines += ["", "metrics that differ", *_table(("metric", "first", "second", ""), metrics)]
    note = (
        "apart: the 95 % intervals do not touch. Overlapping intervals do not show that two artifacts are equal; the "
    )
    return "\n".join([*lines, "", *_wrapped(f"{note}gate of 'publish' compares them on the same prompts.", "")])


def quality_interval(measured: Measured) -> Interval:
    """Quality of an operating point with its interval."""
    return Interval(measured.quality, measured.quality_low, measured.quality_high)


def _both(first: Interval, second: Interval) -> dict[str, Any]:
    return {
        "first": [first.value, first.low, first.high],
        "second": [second.value, second.low, second.high],
        "overlap": first.low <= second.high and second.low <= first.high,
    }


def _verdict(both: Mapping[str, Any]) -> str:
    return "overlap" if both["overlap"] else "apart"


def _bracket(values: Sequence[float]) -> str:
    return interval_text(Interval(*values))


def _prices(arm: Any) -> list[float]:
    return [arm.price_usd_per_million_input_tokens, arm.price_usd_per_million_output_tokens]


def _guard(manifest: Manifest) -> dict[str, float]:
    return {"z": manifest.guard.z, "novelty_max": manifest.guard.novelty_max}


def _changes(first: Mapping[str, float], second: Mapping[str, float]) -> dict[str, list[float | None]]:
    names = dict.fromkeys([*first, *second])
    return {n: [first.get(n), second.get(n)] for n in names if first.get(n) != second.get(n)}


def _number(value: float | None) -> str:
    return "–" if value is None else f"{value:.4g}"


def _pairs(values: Mapping[str, float]) -> str:
    return ", ".join(f"{name} {value:.4g}" for name, value in values.items()) or "none"


def _labelled(label: str, text: str) -> list[str]:
    return _wrapped(f"{label:<{_LABEL}}{text}", " " * _LABEL)


def _wrapped(text: str, indent: str) -> list[str]:
    return textwrap.wrap(text, WIDTH, subsequent_indent=indent, break_long_words=False, break_on_hyphens=False) or [""]


def _table(head: tuple[str, ...], rows: Iterable[tuple[str, ...]]) -> list[str]:
    """First column left, the others right, indented."""
    cells = [head, *rows]
    widths = [max(len(row[column]) for row in cells) for column in range(len(head))]
    return [
        "  " + "  ".join(c.ljust(w) if i == 0 else c.rjust(w) for i, (c, w) in enumerate(zip(row, widths, strict=True)))
        for row in cells
    ]
