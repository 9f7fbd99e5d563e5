"""Models that are asked over a real gateway where the rule is unsure, or two answers differ in their words."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from penstock_gateway.caching.model_judge import DIFFERENT, SAME
from penstock_gateway.settings import Settings, load_settings
from penstock_gateway.upstream.protocol import UpstreamRequest
from support.fakes import FakeReply
from support.running_gateway import Running, eventually, running
from support.semantic_gateway import (
    ANN,
    BOB,
    CONFIG,
    ENVIRONMENT,
    USAGE,
    WORDINGS,
    Model,
    ask,
    completion,
    metrics,
    primed,
    rule,
    sample,
    semantic,
)

UNSURE = rule(lambda rows: 0.7 + 0.2 * rows[:, 1], ((0.3, 0.8),))
"""Finds pairs that the second encoder has far apart 70 % likely, equal ones 90 %, where 80 % are asked for."""
NO_STORE = ANN | {"x-penstock-cache": "no-store"}
"""The fresh answer is not kept, so that asking again is no exact repeat."""


class Judged(Model):
    """A model that answers clients, and as judge says what a test wants."""

    def __init__(self, verdict: str = SAME) -> None:
        super().__init__()
        self.verdict = verdict
        self.shown: list[dict[str, str]] = []

    def __call__(self, request: UpstreamRequest) -> FakeReply:
        """Tell opinions apart from requests by their id."""
        if not request.request_id.startswith("judge-"):
            return super().__call__(request)
        self.shown.append(json.loads(json.loads(bytes(request.body["messages"]))[1]["content"]))
        return FakeReply(body=completion(self.verdict), usage=USAGE)


def settings_of(tmp_path: Path, cache: str) -> Settings:
    """Read the usual configuration with more in its cache section."""
    path = tmp_path / "penstock.yaml"
    path.write_text(CONFIG.replace("mode: semantic\n", f"mode: semantic\n  {cache}\n"))
    return load_settings(path, ENVIRONMENT)


async def judged(gateway: Running) -> None:
    """Wait until no opinion is under way."""
    zone: Any = gateway.app.pipeline.cache.services.oversight.grey_zone  # type: ignore[union-attr]
    await zone.drain()


@pytest.fixture(autouse=True)
def _unsure(monkeypatch: pytest.MonkeyPatch) -> None:
    semantic(monkeypatch, UNSURE)


async def test_question_in_the_grey_zone_is_a_miss_now_and_served_the_next_time(tmp_path: Path) -> None:
    """The opinion comes after the answer; the same question is then a hit, another wording is not."""
    model = Judged()
    async with running(settings_of(tmp_path, "grey_zone: {model: small}"), model) as gateway:
        await primed(gateway)
        await judged(gateway)
        model.shown.clear()
        assert (await ask(gateway, WORDINGS[0], NO_STORE))["x-penstock-cache"] == "miss"
        await judged(gateway)
        assert [shown["second_question"] for shown in model.shown] == [WORDINGS[0]]
        assert (await ask(gateway, WORDINGS[0], NO_STORE))["x-penstock-cache"] == "hit-semantic"
        model.verdict = DIFFERENT
        assert (await ask(gateway, WORDINGS[1], NO_STORE))["x-penstock-cache"] == "miss"
        text = await metrics(gateway)
        assert sample(text, "penstock_cache_judgements_total", kind="questions", outcome="same") >= 1
        assert sample(text, "penstock_cache_judge_cost_usd_total", kind="questions") > 0


async def test_question_that_waits_for_the_opinion_is_served_at_once(tmp_path: Path) -> None:
    """With `waits` the opinion decides the request that asked for it."""
    model = Judged(DIFFERENT)
    async with running(settings_of(tmp_path, "grey_zone: {model: small, waits: true}"), model) as gateway:
        await primed(gateway)
        model.verdict = SAME
        shown = await ask(gateway, WORDINGS[0])
        assert (shown["x-penstock-cache"], shown["answer"]) == ("hit-semantic", "Paris")


async def test_question_found_different_stays_a_miss_and_is_not_asked_about_again(tmp_path: Path) -> None:
    """An opinion is bought once."""
    model = Judged(DIFFERENT)
    async with running(settings_of(tmp_path, "grey_zone: {model: small}"), model) as gateway:
        await primed(gateway)
        await judged(gateway)
        model.shown.clear()
        for _ in range(3):
            shown = await ask(gateway, WORDINGS[0], NO_STORE)
            assert shown["x-penstock-cache"] == "miss"
            await judged(gateway)
        assert shown["x-penstock-cache-reason"] == "opinion"
        assert len(model.shown) == 1


async def test_question_below_the_zone_is_not_shown_to_a_model(tmp_path: Path) -> None:
    """Pairs that the rule finds unlikely are not worth an opinion."""
    model = Judged()
    config = "grey_zone: {model: small, from_probability: 0.75}"
    async with running(settings_of(tmp_path, config), model) as gateway:
        await primed(gateway)
        assert (await ask(gateway, WORDINGS[0]))["x-penstock-cache"] == "miss"
        await judged(gateway)
        assert model.shown == []


async def test_opinion_on_one_tenants_texts_serves_and_shows_no_other(tmp_path: Path) -> None:
    """What was approved for one tenant is a miss for another, whose pair is shown by itself."""
    model = Judged()
    async with running(settings_of(tmp_path, "grey_zone: {model: small}"), model) as gateway:
        await primed(gateway, ANN)
        await ask(gateway, WORDINGS[0], NO_STORE)
        await judged(gateway)
        model.shown.clear()
        bob = BOB | {"x-penstock-cache": "no-store"}
        assert (await ask(gateway, WORDINGS[0], bob))["x-penstock-cache"] == "miss"
        await judged(gateway)
        assert model.shown == []  # Bob has nothing stored that it could be compared with
        assert (await ask(gateway, WORDINGS[0], NO_STORE))["x-penstock-cache"] == "hit-semantic"


async def test_judge_of_the_configuration_decides_audits_of_answers_in_other_words(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Two answers that no encoder has close are the same when the judge says so, and it sees the question."""
    semantic(monkeypatch)
    model = Judged()
    config = CONFIG.replace("audit: {rate: 1,", "audit: {rate: 1, judge: small,")
    path = tmp_path / "penstock.yaml"
    path.write_text(config)
    async with running(load_settings(path, ENVIRONMENT), model) as gateway:
        await primed(gateway)
        model.answer = "It is the city of Paris"
        assert (await ask(gateway, WORDINGS[0]))["x-penstock-cache"] == "hit-semantic"
        auditor: Any = gateway.app.pipeline.cache.services.oversight.auditor  # type: ignore[union-attr]
        await eventually(lambda: not auditor._tasks)
        text = await metrics(gateway)
        assert sample(text, "penstock_cache_audits_total", category="faq", outcome="agreed") == 1
        expected = {"question": WORDINGS[0], "first_answer": "Paris", "second_answer": model.answer}
        assert model.shown[0] == expected


async def test_money_spent_on_opinions_alone_is_kept_over_a_restart(tmp_path: Path) -> None:
    """The day's cap holds although the process began anew."""
    store = f"store: {{kind: file, folder: {tmp_path / 'cache'}}}"
    async with running(settings_of(tmp_path, f"{store}\n  grey_zone: {{model: small}}"), Judged()) as gateway:
        await primed(gateway)
        await ask(gateway, WORDINGS[0])
        await judged(gateway)
    kept = json.loads((tmp_path / "cache" / "audits.json").read_bytes())
    assert float(kept["account"]["spent_usd"]) > 0.0
