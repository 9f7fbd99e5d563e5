"""What ``collect`` says before money is spent, and what it refuses; the scorer's side; the budget under chance."""

from __future__ import annotations

import asyncio
import json
import random
from collections.abc import Sequence
from dataclasses import dataclass
from decimal import Decimal
from pathlib import Path
from typing import Any, cast

import pytest
from click.testing import CliRunner, Result
from hypothesis import given, settings
from hypothesis import strategies as st

from penstock_training.cli import main
from penstock_training.collect import scorer_choice
from penstock_training.collect.answers import CallResult
from penstock_training.collect.budget import ArmPrice, Ledger
from penstock_training.collect.calls import Attempt, ChatClient, Purse
from penstock_training.collect.journal import open_journal
from penstock_training.collect.plan import CollectPlan, PlannedPrompt
from penstock_training.collect.prompts import CollectPrompt
from penstock_training.collect.runner import RunEnd, Workplace, collect_outcomes
from penstock_training.collect.scorer_choice import make_scorer
from penstock_training.errors import TrainingError
from penstock_training.scorers.protocol import Scored, ScoringTask
from support.chat_upstream import ChatUpstream, running_chat_upstream
from support.outcome_samples import write_json_lines

LISTED = [
    {"id": name, "penstock": {"price_usd_per_million_tokens": {"input": price, "output": price}}}
    for name, price in (("small", "1"), ("free", "0"))
]


def _collect(folder: Path, upstream: ChatUpstream, *more: str, arms: str = "small,free") -> Result:
    prompts = folder / "asked.jsonl"
    if not prompts.exists():
        rows = [{"prompt": f"Xylophone {n}: say {n}", "reference": str(n), "category": "maths"} for n in range(20)]
        write_json_lines(prompts, rows)
    fixed = ["--prompts", str(prompts), "--arms", arms, "--scorer", "exact", "--out", str(folder / "out.jsonl")]
    return CliRunner().invoke(main, ["collect", *fixed, "--order", "random", "--base-url", upstream.base_url, *more])


def test_collect_dry_run_shows_sample_and_cost_and_calls_no_model(tmp_path: Path) -> None:
    """A dry run lists what would be asked and what it would cost, needs no budget, and leaves no file."""
    with running_chat_upstream(models=LISTED) as upstream:
        result = _collect(tmp_path, upstream, "--dry-run", "--json", "--sample", "10", "--order", "informative")
        text = _collect(tmp_path, upstream, "--dry-run", "--sample", "10")
    found = json.loads(result.stdout)
    assert found["sample"]["sampling"] == {"informative": 8, "random": 2}
    assert found["sample"]["categories"] == {"maths": 10}
    assert [arm["calls"] for arm in found["estimate"]["arms"]] == [10, 10]
    assert Decimal(found["estimate"]["expected_usd"]) < Decimal(found["estimate"]["at_most_usd"])
    assert "maths 10" in text.stdout
    assert upstream.seen == []
    assert [path.name for path in tmp_path.iterdir()] == ["asked.jsonl"]


def test_collect_that_costs_money_without_budget_or_yes_is_refused(tmp_path: Path) -> None:
    """Nothing is called before there is a budget, and where nobody can be asked, a yes."""
    with running_chat_upstream(models=LISTED) as upstream:
        without_budget = _collect(tmp_path, upstream, "--yes")
        without_yes = _collect(tmp_path, upstream, "--budget-usd", "1")
    assert "[budget_missing]" in without_budget.output
    assert "[not_confirmed]" in without_yes.output
    assert upstream.seen == []
    assert not (tmp_path / "out.jsonl.journal").exists()


def test_collect_from_free_arms_needs_neither_budget_nor_yes(tmp_path: Path) -> None:
    """Where nothing can cost anything, nothing is asked."""
    with running_chat_upstream(models=LISTED) as upstream:
        result = _collect(tmp_path, upstream, arms="free")
    assert result.exit_code == 0, result.output
    assert len(upstream.seen) == 20


@pytest.mark.parametrize(
    ("more", "arms", "code"),
    [
        (["--api-key-env", "NO_SUCH_VARIABLE"], "small", "api_key_missing"),
        ([], "small,unlisted", "no_prices"),
        ([], "small,small", "bad_arms"),
        (["--out", "out.csv"], "small", "out_format"),
        (["--out", "nowhere/out.jsonl"], "small", "out_unwritable"),
        (["--base-url", "ftp://127.0.0.1/v1"], "small", "bad_base_url"),
        (["--base-url", "http://sk-key@127.0.0.1/v1"], "small", "bad_base_url"),
        (["--base-url", "http://127.0.0.1:9/v1"], "small", "upstream_unreachable"),
        (["--scorer", "oracle"], "small", "scorer_unknown"),
        (["--scorer-option", "tolerence=1"], "small", "scorer_option"),
        (["--scorer-option", "seed=many"], "small", "scorer_option"),
    ],
)
def test_collect_with_a_mistake_in_its_options_is_refused_by_code(
    tmp_path: Path, more: list[str], arms: str, code: str
) -> None:
    """Every mistake is one line with its code, before anything is called."""
    with running_chat_upstream(models=LISTED) as upstream:
        result = _collect(tmp_path, upstream, "--budget-usd", "1", "--yes", *more, arms=arms)
    assert result.exit_code == 1
    assert f"[{code}]" in result.output
    assert upstream.seen == []


def test_collect_beside_a_foreign_file_leaves_it_alone(tmp_path: Path) -> None:
    """An outcome file without a journal is somebody else's and is not replaced."""
    (tmp_path / "out.jsonl").write_text("precious\n")
    with running_chat_upstream(models=LISTED) as upstream:
        result = _collect(tmp_path, upstream, arms="free")
    assert "[out_exists]" in result.output
    assert (tmp_path / "out.jsonl").read_text() == "precious\n"


def test_collect_with_a_refused_key_names_the_arm_and_keeps_the_other_answers(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A refused key ends the run with an error that shows neither key nor prompt; what was answered stays paid for."""
    monkeypatch.setenv("COLLECT_TEST_VALUE", "sk-secret-0123456789")
    with running_chat_upstream({"small": ["status:401"]}, LISTED) as upstream:
        result = _collect(tmp_path, upstream, "--budget-usd", "1", "--yes", "--api-key-env", "COLLECT_TEST_VALUE")
    assert result.exit_code == 1
    assert "[arm_refused]" in result.output
    assert "'small'" in result.output
    records = [json.loads(line) for line in (tmp_path / "out.jsonl.journal").read_text().splitlines()]
    assert any(record["type"] == "end" and record["arm"] == "free" for record in records)
    everything = result.output + (tmp_path / "out.jsonl.journal").read_text()
    assert "sk-secret" not in everything
    assert "Xylophone 0" not in result.output


def test_collect_order_informative_marks_how_each_prompt_came_in(tmp_path: Path) -> None:
    """Rows say whether their prompt was picked or drawn uniformly, so that evaluation can use the uniform part."""
    with running_chat_upstream(models=LISTED) as upstream:
        result = _collect(tmp_path, upstream, "--order", "informative", "--sample", "10", arms="free")
    assert result.exit_code == 0, result.output
    rows = [json.loads(line) for line in (tmp_path / "out.jsonl").read_text().splitlines()]
    assert sorted(row["sampling"] for row in rows) == ["informative"] * 8 + ["random"] * 2


class _FakeScorer:
    """Scores by a function of the tasks; counts what it saw."""

    name = "fake"

    def __init__(self, scores: Any = None, cost_usd: float = 0.0) -> None:
        self.seen: list[list[str]] = []
        self._scores, self._cost_usd = scores, cost_usd

    def estimate_cost_usd(self, prompts: int, arms: int) -> float:
        return self._cost_usd * prompts * arms

    async def score_all(self, tasks: Sequence[ScoringTask]) -> list[Scored]:
        self.seen.append([task.arm for task in tasks])
        return [Scored(1.0, "fine", self._cost_usd) for _ in tasks] if self._scores is None else self._scores

    async def aclose(self) -> None:
        """Hold nothing."""


class _FakeClient:
    """Answers, fails and repeats by chance; every attempt costs a share of its bound."""

    def __init__(self, seed: int, bound_usd: Decimal) -> None:
        self._random, self._bound_usd = random.Random(seed), bound_usd

    async def ask(self, prompt: CollectPrompt, arm: str, purse: Purse, price: ArmPrice) -> CallResult:
        for _ in range(4):
            await asyncio.sleep(0)
            if not purse.begin():
                return CallResult("failed", 0.0, reason="no_budget")
            await asyncio.sleep(0)
            draw = self._random.random()
            cost = None if draw < 0.3 else self._bound_usd * Decimal(str(round(self._random.random(), 3)))
            kind = "answered" if draw < 0.6 else "censored" if draw < 0.7 else "failed"
            result = CallResult(kind, 0.1, answer="x" if kind == "answered" else None, cost_usd=cost, reason=kind)
            purse.end(Attempt(result, cost))
            if kind != "failed":
                break
        return result


class _Willing(_FakeClient):
    """Answers everything at once and for nothing."""

    async def ask(self, prompt: CollectPrompt, arm: str, purse: Purse, price: ArmPrice) -> CallResult:
        assert purse.begin()
        result = CallResult("answered", 0.1, answer="x", cost_usd=Decimal(0))
        purse.end(Attempt(result, Decimal(0)))
        return result


def _plan(prompts: int) -> CollectPlan:
    entries = [CollectPrompt(f"q{n}", "s", "say", (("user", "say"),), None, None) for n in range(prompts)]
    return CollectPlan(
        ("a", "b", "c"),
        tuple(PlannedPrompt(entry, "random") for entry in entries),
        dict.fromkeys(("a", "b", "c"), ArmPrice(Decimal(0), Decimal(1_000_000))),
        max_tokens=1,
    )


async def _run(path: Path, client: Any, scorer: Any, budget: Decimal, seen: list[Decimal], prompts: int) -> RunEnd:
    plan = _plan(prompts)
    with open_journal(path, {}, plan.sample) as journal:
        ledger = Ledger(budget, journal.state.spent_usd)
        work = Workplace(
            cast(ChatClient, client), scorer, journal, ledger, 5, 5, lambda now: seen.append(now.spent_usd)
        )
        end = await collect_outcomes(plan, work, asyncio.Event())
        assert ledger.reserved_usd == 0
        return end


@settings(max_examples=40)
@given(seed=st.integers(0, 10_000), budget=st.decimals(0, 40, places=2), scoring=st.sampled_from([0.0, 0.25]))
def test_collect_under_random_costs_failures_and_runs_never_passes_the_budget(
    tmp_path_factory: pytest.TempPathFactory, seed: int, budget: Decimal, scoring: float
) -> None:
    """Whatever attempts cost within their bound (1 USD here), three runs into one file stay within its budget."""
    path = tmp_path_factory.mktemp("run") / "journal"
    seen: list[Decimal] = []
    for number in range(3):
        client = _FakeClient(seed + number, Decimal(1))
        asyncio.run(_run(path, client, _FakeScorer(cost_usd=scoring), budget, seen, prompts=8))
    assert max(seen) <= budget
    assert seen[-1] > 0 or budget < 4  # a prompt with its three calls and its scoring needs at most 3.75


def test_collect_with_a_scorer_dearer_than_it_said_learns_it_from_the_first_prompt(tmp_path: Path) -> None:
    """A scorer's estimate is no bound: the first prompt goes alone, and what it costs too much is all that is lost."""

    class Dear(_FakeScorer):
        def estimate_cost_usd(self, prompts: int, arms: int) -> float:
            return 0.5 * prompts

    seen: list[Decimal] = []
    scorer = Dear(cost_usd=1.0)  # 3 USD a prompt with three answers instead of 0.5
    end = asyncio.run(_run(tmp_path / "journal", _Willing(0, Decimal(1)), scorer, Decimal(20), seen, prompts=30))
    assert end is RunEnd.BUDGET
    assert max(seen) <= 20
    assert len(scorer.seen) == 5  # each is held at 3 for grading and 3 for calls: a sixth would need 6 of the last 5


@pytest.mark.parametrize("scores", [[], [Scored(1.5, "")] * 3, [Scored(1.0, "", -1.0)] * 3])
def test_collect_with_a_scorer_that_breaks_its_contract_stops(tmp_path: Path, scores: list[Scored]) -> None:
    """Scores that are too few, out of range or of negative cost are an error, and no outcome."""
    client = _FakeClient(0, Decimal(0))
    with pytest.raises(TrainingError) as caught:
        asyncio.run(_run(tmp_path / "journal", client, _FakeScorer(scores), Decimal(100), [], prompts=4))
    assert caught.value.code == "scorer_broken"


def test_collect_scores_all_answers_to_a_prompt_together(tmp_path: Path) -> None:
    """A judge sees every arm's answer to a prompt at once, in the order of the arms."""

    scorer = _FakeScorer()
    end = asyncio.run(_run(tmp_path / "journal", _Willing(0, Decimal(1)), scorer, Decimal(100), [], prompts=3))
    assert end is RunEnd.COMPLETE
    assert scorer.seen == [["a", "b", "c"]] * 3


def test_scorer_option_of_a_known_name_reaches_the_scorer_options(tmp_path: Path) -> None:
    """Options are typed by the registry's own fields, and a typing error is answered with the nearest name."""
    with pytest.raises(TrainingError, match="did you mean 'verdict_log'"):
        make_scorer("exact", {"verdict_logs": "x"}, seed=0, base_url="", api_key_env=None, prices={})
    assert make_scorer("exact", {"verdict_log": "x"}, seed=0, base_url="", api_key_env=None, prices={}).name == "exact"


@dataclass(frozen=True)
class _JudgeOptions:
    """The part of the registry's options that a judge reads."""

    judge_base_url: str | None = None
    judge_model: str | None = None
    judge_api_key_env: str = "OPENAI_API_KEY"
    judge_price_usd_per_million_input_tokens: float | None = None
    judge_price_usd_per_million_output_tokens: float | None = None


@pytest.mark.parametrize(
    ("given", "arms_key", "address", "key"),
    [
        ({}, "ARMS_KEY", "http://arms/v1", "ARMS_KEY"),
        ({}, None, "http://arms/v1", ""),
        ({"judge_base_url": "http://judge/v1"}, "ARMS_KEY", "http://judge/v1", "OPENAI_API_KEY"),
        ({"judge_base_url": "http://judge/v1", "judge_api_key_env": "MINE"}, None, "http://judge/v1", "MINE"),
    ],
)
def test_judge_key_goes_to_no_address_but_its_own(
    monkeypatch: pytest.MonkeyPatch, given: dict[str, str], arms_key: str | None, address: str, key: str
) -> None:
    """A judge at the arms' address gets their key or none; one elsewhere never gets theirs."""
    monkeypatch.setattr(scorer_choice, "ScorerOptions", _JudgeOptions)
    monkeypatch.setattr(scorer_choice, "build_scorer", lambda spec, options: options)
    prices = {"large": ArmPrice(Decimal(1), Decimal(2))}
    made: Any = make_scorer(
        "judge-rubric",
        given | {"judge_model": "large"},
        seed=0,
        base_url="http://arms/v1",
        api_key_env=arms_key,
        prices=prices,
    )
    assert (made.judge_base_url, made.judge_api_key_env) == (address, key)
    assert made.judge_price_usd_per_million_output_tokens == 2.0  # found in the price list


def test_judge_without_a_price_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    """A judge whose cost nobody knows would escape the budget."""
    monkeypatch.setattr(scorer_choice, "ScorerOptions", _JudgeOptions)
    with pytest.raises(TrainingError, match="the budget could not hold") as caught:
        make_scorer("judge-rubric", {"judge_model": "x"}, seed=0, base_url="", api_key_env=None, prices={})
    assert caught.value.code == "no_prices"
