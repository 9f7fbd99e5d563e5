"""One ``penstock-train collect`` from its options to its last line: read, choose, estimate, ask, run, write.

Owns the order of these steps and the conversation with the user. Read `collect`.
"""

from __future__ import annotations

import asyncio
import json
import os
import signal
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from decimal import Decimal
from pathlib import Path
from typing import Final
from urllib.parse import urlsplit

import click

from penstock_training.collect.budget import ArmPrice, Ledger, RunEstimate
from penstock_training.collect.calls import ChatClient
from penstock_training.collect.display import (
    describe_budget,
    describe_composition,
    describe_estimate,
    describe_summary,
    estimate_json,
    run_bar,
    summary_json,
)
from penstock_training.collect.journal import Journal, RunStarted, RunState, open_journal, peek_journal
from penstock_training.collect.outcome_rows import outcome_rows, summarise, write_outcomes
from penstock_training.collect.plan import (
    CollectPlan,
    CollectRequest,
    RouterView,
    choose_sample,
    composition,
    expected_lengths,
    recall_sample,
)
from penstock_training.collect.prompts import PromptSet, read_prompts
from penstock_training.collect.runner import RunEnd, Workplace, collect_outcomes, count_progress
from penstock_training.collect.scorer_choice import make_scorer
from penstock_training.collect.selection import Order
from penstock_training.commands.shell import (
    DEFAULT_ARTIFACT,
    encoder_folder,
    model_folder,
    need_packages,
    progress_bars,
)
from penstock_training.errors import TrainingError
from penstock_training.predict import open_router, read_price_list
from penstock_training.scorers.protocol import Scorer

_LISTING_SECONDS: Final = 30.0


@dataclass(frozen=True, slots=True)
class CollectOptions:
    """The command's options; see its help for what each means."""

    prompts: tuple[Path, ...]
    arms: tuple[str, ...]
    scorer: str
    scorer_options: dict[str, str]
    out: Path
    sample: int | None
    order: Order
    random_share: float
    budget_usd: Decimal | None
    max_tokens: int
    max_prompt_tokens: int
    base_url: str
    api_key_env: str | None
    prices: Path | None
    artifact: Path | None
    encoder: Path | None
    concurrency: int
    timeout_seconds: float
    seed: int
    is_confirmed: bool
    is_dry: bool
    as_json: bool

    @property
    def journal_path(self) -> Path:
        """Where the run is written down."""
        return self.out.with_name(self.out.name + ".journal")


def collect(options: CollectOptions) -> None:
    """Run the command.

    Parameters
    ----------
    options : CollectOptions

    Raises
    ------
    TrainingError
        ``bad_arms``, ``out_format``, ``out_exists``, ``api_key_missing``, ``bad_base_url``, ``no_prices``,
        ``budget_missing``, ``not_confirmed``, and those of the steps.
    """
    _check_options(options)
    say = _Voice(options.as_json)
    prompts = read_prompts(options.prompts, max_prompt_tokens=options.max_prompt_tokens)
    say(prompts.describe())
    key = _api_key(options.api_key_env)
    prices, others = _find_prices(options, key)
    scorer = make_scorer(
        options.scorer,
        options.scorer_options,
        seed=options.seed,
        base_url=options.base_url,
        api_key_env=options.api_key_env,
        prices=others,
    )
    request = CollectRequest(
        options.arms, options.scorer, options.scorer_options, options.sample, options.order, options.random_share,
        options.max_tokens, options.seed,
    )  # fmt: skip
    settings = request.settings(prompts, prices)
    earlier = peek_journal(options.journal_path, settings)
    if earlier is None and options.out.exists() and not options.is_dry:
        message = f"{options.out} is there and has no journal beside it; choose another --out"
        raise TrainingError(message, code="out_exists")
    plan, state, lengths = _make_plan(options, prompts, request, prices, earlier)
    estimate = plan.estimate(state, scorer, lengths)
    ledger = Ledger(options.budget_usd, state.spent_usd)
    say(f"asking {len(plan.prompts):,} of them, order {options.order}\n")
    say(describe_estimate(estimate, options.max_tokens))
    say(describe_budget(ledger, estimate, state.lost_calls))
    if options.is_dry:
        _end_dry_run(options, plan, estimate)
        return
    _confirm(options, estimate)
    with open_journal(options.journal_path, settings, plan.sample) as journal:
        if journal.cut_bytes:
            say(f"The journal's last line was damaged; {journal.cut_bytes:,} bytes were cut off.")
        if journal.start.sample != plan.sample:
            raise TrainingError("another run has begun this journal just now", code="journal_locked")
        ledger = Ledger(options.budget_usd, journal.state.spent_usd)
        rows = 0
        try:
            end = asyncio.run(_run(options, key, plan, scorer, journal, ledger))
        finally:
            rows = _write(options.out, plan, journal)
        _end(options, plan, journal, ledger, end, rows)


class _Voice:
    """Speaks to a person on standard error; silent when output is for machines."""

    def __init__(self, is_silent: bool) -> None:
        self._is_silent = is_silent

    def __call__(self, text: str) -> None:
        if text and not self._is_silent:
            click.echo(text, err=True)


def _check_options(options: CollectOptions) -> None:
    if not options.arms or len(set(options.arms)) != len(options.arms):
        raise TrainingError("--arms: name at least one arm, and each once", code="bad_arms")
    if not options.out.name.endswith(".jsonl"):
        raise TrainingError(f"--out {options.out}: the name must end in .jsonl", code="out_format")
    if not options.out.parent.is_dir():
        raise TrainingError(f"--out: there is no folder {options.out.parent}", code="out_unwritable")
    parts = urlsplit(options.base_url)
    if parts.scheme not in ("http", "https") or not parts.hostname:
        raise TrainingError("--base-url must begin with http:// or https:// and a host", code="bad_base_url")
    if "@" in parts.netloc:  # it is shown in messages
        raise TrainingError("--base-url must not hold a credential; use --api-key-env", code="bad_base_url")


def _api_key(variable: str | None) -> str | None:
    """The key from the environment; never from the command line, where other users of the machine could read it."""
    if variable is None:
        return None
    key = os.environ.get(variable, "").strip()
    if not key:
        raise TrainingError(f"the environment variable {variable[:80]!r} is not set", code="api_key_missing")
    return key


def _find_prices(options: CollectOptions, key: str | None) -> tuple[dict[str, ArmPrice], Mapping[str, ArmPrice]]:
    """Prices of the arms, and all that are known: from the file, or as a Penstock gateway lists them."""
    if options.prices is not None:
        listed = {
            arm: ArmPrice(Decimal(str(pair[0])), Decimal(str(pair[1])))
            for arm, pair in read_price_list(options.prices).items()
        }
        where = options.prices.name
    else:
        listed = asyncio.run(_listed_prices(options, key))
        where = f"the gateway at {options.base_url}"
    if missing := [arm for arm in options.arms if arm not in listed]:
        known = f"it knows {', '.join(sorted(listed))}" if listed else "it lists none, so write them with --prices"
        raise TrainingError(f"{where} has no price of {', '.join(missing)}; {known}", code="no_prices")
    return {arm: listed[arm] for arm in options.arms}, listed


async def _listed_prices(options: CollectOptions, key: str | None) -> dict[str, ArmPrice]:
    async with _client(options, key, _LISTING_SECONDS) as client:
        return await client.listed_prices()


def _client(options: CollectOptions, key: str | None, timeout_seconds: float) -> ChatClient:
    return ChatClient(options.base_url, key, max_tokens=options.max_tokens, timeout_seconds=timeout_seconds)


def _make_plan(
    options: CollectOptions,
    prompts: PromptSet,
    request: CollectRequest,
    prices: dict[str, ArmPrice],
    earlier: tuple[RunStarted, RunState] | None,
) -> tuple[CollectPlan, RunState, dict[tuple[str, str], float]]:
    """Choose the sample or recall it, with what is done of it and expected lengths of arms that an artifact knows."""
    if options.order != "random":
        need_packages("sklearn")
    router = None
    if options.order != "random" or options.artifact is not None:
        folder = model_folder(options.artifact, DEFAULT_ARTIFACT, "artifact")
        router = RouterView(*open_router(folder, encoder_folder(options.encoder)))
    with progress_bars(options.as_json) as progress:
        chosen = (
            recall_sample(prompts, earlier[0].sample) if earlier else choose_sample(prompts, request, router, progress)
        )
    plan = CollectPlan(options.arms, chosen, prices, options.max_tokens)
    return plan, earlier[1] if earlier else RunState(), expected_lengths(plan, router)


def _confirm(options: CollectOptions, estimate: RunEstimate) -> None:
    """Nothing that costs money starts without a budget and a yes."""
    if estimate.bound_usd == 0:
        return
    if options.budget_usd is None:
        raise TrainingError("give --budget-usd: the most that this file may cost", code="budget_missing")
    if options.is_confirmed:
        return
    if options.as_json or not sys.stdin.isatty():
        raise TrainingError("nobody can be asked here; add --yes to spend money", code="not_confirmed")
    click.confirm("Go ahead?", abort=True, err=True)


async def _run(
    options: CollectOptions, key: str | None, plan: CollectPlan, scorer: Scorer, journal: Journal, ledger: Ledger
) -> RunEnd:
    """Run until the end; the first Ctrl-C or SIGTERM finishes what is under way, the second breaks it off."""
    stop = asyncio.Event()
    loop, task = asyncio.get_running_loop(), asyncio.current_task()

    def end_soon() -> None:
        if stop.is_set() and task is not None:
            task.cancel()
        stop.set()

    for number in (signal.SIGINT, signal.SIGTERM):
        loop.add_signal_handler(number, end_soon)
    is_person = options.scorer.partition(":")[0] == "human"  # asks at the terminal: one thing at a time, and no bar
    scorings = 1 if is_person else options.concurrency
    try:
        with run_bar(options.as_json or is_person) as report:
            async with _client(options, key, options.timeout_seconds) as client:
                work = Workplace(client, scorer, journal, ledger, options.concurrency, scorings, report)
                return await collect_outcomes(plan, work, stop)
    except asyncio.CancelledError:
        return RunEnd.STOPPED
    finally:
        await scorer.aclose()


def _write(out: Path, plan: CollectPlan, journal: Journal) -> int:
    """The outcome file, unless there is nothing to put into it."""
    if next(outcome_rows(plan, journal.state), None) is None:
        return 0
    return write_outcomes(out, plan, journal.state)


def _end_dry_run(options: CollectOptions, plan: CollectPlan, estimate: RunEstimate) -> None:
    found = composition(plan)
    if options.as_json:
        click.echo(json.dumps({"sample": found, "estimate": estimate_json(estimate)}))
    else:
        click.echo(describe_composition(found))


def _end(options: CollectOptions, plan: CollectPlan, journal: Journal, ledger: Ledger, end: RunEnd, rows: int) -> None:
    arms, progress = summarise(plan, journal.state), count_progress(plan, journal, ledger)
    if options.as_json:
        click.echo(json.dumps(summary_json(arms, end, progress, rows, options.out)))
    else:
        click.echo(describe_summary(arms, end, progress, rows, options.out))
        if ledger.overruns:
            click.echo(f"{ledger.overruns} calls cost more than the most that was computed for them.", err=True)
    if end is not RunEnd.COMPLETE:
        sys.exit(3)
