"""What a person sees before, during and after a run.

Owns words and tables on the terminal, and the same numbers for machines. Must not decide or call anything. Read
`describe_estimate`.
"""

from __future__ import annotations

import math
import shlex
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from decimal import Decimal
from pathlib import Path
from typing import Any

from penstock_routers.token_counts import ASSUMED_OUTPUT_TOKENS
from penstock_training.collect.budget import Ledger, RunEstimate
from penstock_training.collect.outcome_rows import ArmSummary
from penstock_training.collect.runner import MAX_FAILURES_IN_A_ROW, Report, RunEnd, RunProgress

_ENDS = {
    RunEnd.COMPLETE: "All prompts are complete.",
    RunEnd.INCOMPLETE: "Some cells failed; the same command asks them again.",
    RunEnd.BUDGET: "The budget is used; the same command with a larger --budget-usd goes on.",
    RunEnd.STOPPED: "Stopped; the same command goes on where it was.",
    RunEnd.ARM_FAILING: f"An arm failed {MAX_FAILURES_IN_A_ROW} times in a row, so the others were not paid any "
    "further; the same command tries again.",
}


def describe_estimate(estimate: RunEstimate, max_tokens: int) -> str:
    """Render what a run will cost as a table."""
    width = max(12, *(len(arm.arm) for arm in estimate.arms))
    rows = [
        (arm.arm, f"{arm.calls:,}", f"{arm.input_tokens:,}", f"{arm.output_tokens:,}", arm.expected_usd, arm.bound_usd)
        for arm in estimate.arms
    ]
    rows.append(("scoring", "", "", "", estimate.scoring_usd, estimate.scoring_usd))
    rows.append(("total", "", "", "", estimate.expected_usd, estimate.bound_usd))
    decimals = _decimals([row[4] for row in rows])
    lines = [
        f"{'arm':<{width}} {'calls':>7} {'input tok':>10} {'output tok':>10} {'expected USD':>12} {'at most USD':>12}"
    ]
    for arm, calls, sent, written, expected, bound in rows:
        costs = f"{expected:>12,.{decimals}f} {bound:>12,.{decimals}f}"
        lines.append(f"{arm:<{width}} {calls:>7} {sent:>10} {written:>10} {costs}")
    lines.append(
        f"At most: {max_tokens:,} output tokens and a token for every byte of the prompt; without repeated calls."
    )
    if assumed := [arm.arm for arm in estimate.arms if arm.calls and not arm.has_learned_lengths]:
        shown = f"{min(ASSUMED_OUTPUT_TOKENS, max_tokens):.0f}"
        lines.append(f"Expected: {shown} output tokens a call are assumed for {', '.join(assumed)}.")
    return "\n".join(lines)


def describe_budget(ledger: Ledger, estimate: RunEstimate, lost_calls: int) -> str:
    """Say what the budget allows."""
    lines = []
    if ledger.spent_usd or lost_calls:
        lines.append(f"Earlier runs spent {usd_text(ledger.spent_usd)} USD of it.")
    if lost_calls:
        lines.append(
            f"{lost_calls} calls were under way when a run was killed; each counts as the most it can have cost."
        )
    if ledger.left_usd is not None:
        lines.insert(0, f"Budget: {usd_text(ledger.budget_usd or Decimal(0))} USD.")
        if estimate.bound_usd > ledger.left_usd:
            lines.append("It may not suffice for all; the run then ends with the prompts that it has completed.")
    return " ".join(lines)


def describe_composition(found: dict[str, Any]) -> str:
    """Render the composition of a sample."""

    def counts(name: str) -> str:
        return ", ".join(f"{key} {count:,}" for key, count in found[name].items())

    lengths = ", ".join(f"{key} {value:,.0f}" for key, value in found["input_tokens_quantiles"].items())
    return "\n".join(
        [
            f"sample       {found['prompts']:,} prompts, {found['with_reference']:,} with a reference",
            f"sampling     {counts('sampling')}",
            f"sources      {counts('sources')}",
            f"categories   {counts('categories')}",
            f"tokens       {lengths}",
        ]
    )


def describe_summary(arms: tuple[ArmSummary, ...], end: RunEnd, progress: RunProgress, rows: int, out: Path) -> str:
    """Render the end of a run: what each arm did, what it cost, and what to do next."""
    width = max(12, *(len(arm.arm) for arm in arms))
    decimals = _decimals([arm.cost_usd for arm in arms])
    lines = [f"{'arm':<{width}} {'scored':>7} {'mean score':>15} {'of random ones':>15} {'cost USD':>10}  remarks"]
    for arm in arms:
        lines.append(
            f"{arm.arm:<{width}} {arm.scored:>7,} {_mean_text(arm.mean_score, arm.mean_score_se):>15} "
            f"{_mean_text(arm.random_mean_score, arm.random_mean_score_se):>15} {arm.cost_usd:>10,.{decimals}f}  "
            f"{_remarks(arm)}".rstrip()
        )
    lines.append(
        f"{_ENDS[end]} {progress.prompts_complete:,} of {progress.prompts_total:,} prompts complete, "
        f"{usd_text(progress.spent_usd)} USD charged to the budget."
    )
    if rows:
        lines += [
            f"{rows:,} outcomes in {out}. Next:",
            f"  penstock-train fit --outcomes {shlex.quote(str(out))} --out my-router",
        ]
    else:
        lines.append("No outcome yet, so no file was written.")
    return "\n".join(lines)


def summary_json(
    arms: tuple[ArmSummary, ...], end: RunEnd, progress: RunProgress, rows: int, out: Path
) -> dict[str, Any]:
    """The end of a run for machines; money as decimal text."""
    return {
        "end": end.value,
        "prompts_complete": progress.prompts_complete,
        "prompts_total": progress.prompts_total,
        "spent_usd": format(progress.spent_usd, "f"),
        "outcomes": rows,
        "out": str(out) if rows else None,
        "arms": [
            {
                "arm": arm.arm,
                "scored": arm.scored,
                "unscored": arm.unscored,
                "censored": arm.censored,
                "failed": arm.failed,
                "failures": arm.failures,
                "missing": arm.missing,
                "mean_score": _number(arm.mean_score),
                "mean_score_se": _number(arm.mean_score_se),
                "random_mean_score": _number(arm.random_mean_score),
                "random_mean_score_se": _number(arm.random_mean_score_se),
                "cost_usd": format(arm.cost_usd, "f"),
                "cost_unknown": arm.cost_unknown,
                "cut_at_max_tokens": arm.cut,
            }
            for arm in arms
        ],
    }


def estimate_json(estimate: RunEstimate) -> dict[str, Any]:
    """An estimate for machines; money as decimal text."""
    return {
        "expected_usd": format(estimate.expected_usd, "f"),
        "at_most_usd": format(estimate.bound_usd, "f"),
        "scoring_usd": format(estimate.scoring_usd, "f"),
        "arms": [
            {
                "arm": arm.arm,
                "calls": arm.calls,
                "input_tokens": arm.input_tokens,
                "output_tokens": arm.output_tokens,
                "expected_usd": format(arm.expected_usd, "f"),
                "at_most_usd": format(arm.bound_usd, "f"),
            }
            for arm in estimate.arms
        ],
    }


@contextmanager
def run_bar(is_quiet: bool) -> Iterator[Report]:
    """A bar over all cells with the spend so far, on standard error; nothing when that is no terminal."""
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    console = Console(stderr=True)
    # Fits into 80 columns; beyond, rich would cut the numbers short.
    columns = (
        TextColumn("{task.description}"),
        BarColumn(bar_width=12),
        MofNCompleteColumn(),
        TextColumn("answers,"),
        TimeRemainingColumn(compact=True),
        TextColumn("left"),
    )
    with Progress(*columns, console=console, disable=is_quiet or not console.is_terminal) as bars:
        task = bars.add_task("", total=None)

        def report(now: RunProgress) -> None:
            of = "" if now.budget_usd is None else f" of {usd_text(now.budget_usd)}"
            text = f"{now.prompts_complete}/{now.prompts_total} prompts, {usd_text(now.spent_usd)}{of} USD"
            bars.update(task, description=text, completed=now.cells_done, total=now.cells_total)

        yield report


def usd_text(amount: Decimal) -> str:
    """An amount with four decimals, or as many as it takes to show what it is."""
    return f"{amount:,.{_decimals([amount])}f}"


def _decimals(amounts: Iterable[Decimal]) -> int:
    """Decimals for amounts in one column: four, or enough for two digits of the smallest; at most ten."""
    smallest = min((amount for amount in amounts if amount > 0), default=Decimal(1))
    return min(max(4, 1 - smallest.adjusted()), 10)


def _mean_text(mean: float, error: float) -> str:
    return "-" if math.isnan(mean) else f"{mean:.3f} ± {error:.3f}"


def _number(value: float) -> float | None:
    return None if math.isnan(value) else round(value, 6)


def _remarks(arm: ArmSummary) -> str:
    found = [
        (arm.unscored, "could not be scored"),
        (arm.censored, "timed out"),
        (arm.missing, "not asked"),
        (arm.cut, "cut at --max-tokens"),
        (arm.cost_unknown, "of unknown cost"),
    ]
    shown = [f"{count:,} {words}" for count, words in found if count]
    shown += [f"{count:,} failed ({reason})" for reason, count in arm.failures.items()]
    return ", ".join(shown)
