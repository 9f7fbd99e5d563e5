"""A decision as text for a terminal: what was chosen, why, and how the others compared.

Read `decision_lines`.
"""

from __future__ import annotations

from typing import Any


def decision_lines(decision: dict[str, Any], novelty_max: float | None, width: int) -> list[str]:
    """Return a decision as text.

    Parameters
    ----------
    decision : dict
        As ``/v1/route`` and ``/v1/decisions`` write it.
    novelty_max : float or None
        Above which a prompt is not routed, where that is known.
    width : int
        Of the terminal, columns.
    """
    from penstock_gateway.settings_report import aligned_usd, table, wrapped

    candidates = decision["candidates"]
    costs = aligned_usd([entry["estimated_cost_usd"] for entry in candidates])
    rows = [
        (
            entry["model"],
            entry["tier"] or "-",
            "-" if entry["quality"] is None else f"{entry['quality']:.3f}",
            "-" if entry["gain"] is None else f"{entry['gain']:+.3f} ± {entry['gain_se']:.3f}",
            cost,
            entry["rejected"] or "",
        )
        for entry, cost in zip(candidates, costs, strict=True)
    ]
    saving = decision["estimated_saving_usd"]
    lines = [f"{decision['model']} ({decision['reason']}, tradeoff {decision['tradeoff']})"]
    if decision["reason"].startswith("abstained") and decision["novelty"] is not None and novelty_max is not None:
        lines.append(f"novelty {decision['novelty']:.3f}, limit {novelty_max:.3f}: a prompt above it is not routed")
    lines += _policy_lines(decision)
    if saving is not None:
        lines.append(f"estimated saving against {decision['baseline_model']}: {saving} USD")
    lines.append("")
    head = ("model", "tier", "quality", "gain", "cost_usd", "rejected")
    lines += table(head, rows, right=(2, 3, 4), spare=(1, 2), width=width)
    for entry in candidates:
        if entry["rejected"]:
            lines.append(wrapped(f"rejected  {entry['model']}: {entry['rejected_detail']}", 10, width))
    if any(entry["gain"] is not None for entry in candidates):
        lines.append(f"\ngain: predicted quality over {decision['default_model']}, ± one standard error")
    return lines


def _policy_lines(decision: dict[str, Any]) -> list[str]:
    """Say which limits were in force, and how likely the choice was when it was drawn."""
    limits = [f"{name} {decision[name]:g}" for name in ("max_cost_usd", "min_quality") if decision[name] is not None]
    if decision["floor"] is not None:
        limits.append(f"no tier below {decision['floor']}")
    lines = [f"limits: {', '.join(limits)}"] if limits else []
    if decision["propensity"] != 1.0:
        lines.append(f"propensity {decision['propensity']:.4f}: exploration is on")
    return lines
