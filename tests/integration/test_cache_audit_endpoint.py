"""Audits of hits over a real gateway: what they cost, what they find, and what becomes of a category that errs."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from penstock_gateway.errors import UpstreamUnreachable
from penstock_gateway.events.content import remove_content
from penstock_gateway.events.reading import read_events
from penstock_gateway.settings import Settings, load_settings
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

COST_USD = 100 * 100 / 1e6 + 20 * 400 / 1e6  # of USAGE at the price in CONFIG

TRUSTING = rule(points=((0.3, 0.1),))
"""Serves an entry that has been wrong many times, so that it is the category that goes off."""
DOUBTFUL = rule(lambda rows: np.full(len(rows), 0.7, np.float32), ((0.3, 0.8), (0.6, 0.6)))
"""Serves under the doubled budget only."""


def settings_of(tmp_path: Path, config: str = CONFIG) -> Settings:
    """Read a configuration from text."""
    path = tmp_path / "penstock.yaml"
    path.write_text(config)
    return load_settings(path, ENVIRONMENT)


@pytest.fixture(autouse=True)
def _semantic(monkeypatch: pytest.MonkeyPatch) -> None:
    semantic(monkeypatch)


async def audited(gateway: Running, count: int, category: str = "faq") -> str:
    """Wait until so many audits have been compared, and none is under way; return the metrics page."""
    services = gateway.app.pipeline.cache.services  # type: ignore[union-attr]
    ledger = services.oversight.steering.ledger
    done = ledger.state.categories

    def is_done() -> bool:
        counts = done.get(category)
        total = 0 if counts is None else counts.hit_audits
        return total >= count and not services.oversight.auditor._tasks  # type: ignore[union-attr]

    await eventually(is_done)
    return await metrics(gateway)


async def idle(gateway: Running) -> str:
    """Wait until no audit is under way and return the metrics page."""
    auditor = gateway.app.pipeline.cache.services.oversight.auditor  # type: ignore[union-attr]
    await eventually(lambda: not auditor._tasks)  # type: ignore[union-attr]
    return await metrics(gateway)


async def report(gateway: Running, headers: dict[str, str] = ANN, category: str = "faq") -> dict[str, Any]:
    """Return a category's row of the cache report."""
    response = await gateway.http.get(f"{gateway.url}/v1/cache", headers=headers)
    return next(row for row in (await response.json())["categories"] if row["category"] == category)


async def test_audit_of_a_semantic_hit_asks_the_model_without_the_client(tmp_path: Path) -> None:
    """The hit is served and free; the model is asked in the background, unstreamed, on an account of its own."""
    model = Model()
    async with running(settings_of(tmp_path), model) as gateway:
        await primed(gateway)
        shown = await ask(gateway, WORDINGS[0], stream=True)
        assert shown["x-penstock-cache"] == "hit-semantic"
        text = await audited(gateway, 1)
        assert model.last_audit is not None
        assert (model.last_audit.is_stream, "stream" in model.last_audit.body) == (False, False)
        assert json.loads(bytes(model.last_audit.body["messages"]))[-1]["content"] == WORDINGS[0]
        assert sample(text, "penstock_cache_audits_total", category="faq", outcome="agreed") == 1
        controls = sample(text, "penstock_cache_audits_total", category="faq", outcome="control_agreed")
        assert model.audits == 1 + controls
        cost = sample(text, "penstock_cache_audit_cost_usd_total", category="faq")
        assert cost == pytest.approx(COST_USD * model.audits)
        # Two misses are all that the tenant has paid for.
        assert sample(text, "penstock_cost_usd_total", model="small") == pytest.approx(2 * COST_USD)
        assert sample(text, "penstock_requests_total", model="small", status="200", reason="physical_model") == 2


@pytest.mark.parametrize("captures", [True, False])
async def test_audit_is_written_down_with_its_prompts_only_where_content_is_captured(
    tmp_path: Path, captures: bool
) -> None:
    """What an audit found can teach the rule; what was asked stays out of files unless the operator wants it there."""
    folder = tmp_path / "events"
    config = f"{CONFIG}events: {{folder: {folder}, capture_content: {str(captures).lower()}}}\n"
    async with running(settings_of(tmp_path, config), Model()) as gateway:
        await primed(gateway)
        shown = await ask(gateway, WORDINGS[0])
        assert shown["x-penstock-cache"] == "hit-semantic"
        await audited(gateway, 1)
    (event,) = read_events(folder, types=("audit",))
    assert (event["schema"], event["category"], event["is_right"]) == (2, "faq", True)
    (decision,) = (each for each in read_events(folder, types=("decision",)) if each["reason"] == "cached")
    assert event["tenant"] == decision["tenant"]
    stored = "Which city is the capital of France?"
    assert [event.get("prompt"), event.get("stored_prompt")] == ([WORDINGS[0], stored] if captures else [None, None])
    remove_content(folder, lambda found: found["tenant"] == event["tenant"])
    (left,) = read_events(folder, types=("audit",))
    assert left["is_right"] is True
    assert not {"prompt", "stored_prompt"} & set(left)


async def test_audit_of_half_the_hits_asks_the_model_twice(tmp_path: Path) -> None:
    """About half of the audits have a control, whose answers are compared with each other."""
    model = Model()
    async with running(settings_of(tmp_path), model) as gateway:
        await primed(gateway)
        for text in WORDINGS[:40]:
            await ask(gateway, text)
            await idle(gateway)
        text = await audited(gateway, 40)
        controls = sample(text, "penstock_cache_audits_total", category="faq", outcome="control_agreed")
        assert 4 <= controls <= 36  # five standard deviations of a fair draw of 40
        assert model.audits == 40 + controls
        rate = (await report(gateway))["false_hit_rate"]
        assert (rate["audits"], rate["controls"], rate["estimate"]) == (40, controls, 0.0)


@pytest.mark.parametrize("kind", ["exact", "bypass", "rate 0"])
async def test_audit_of_anything_but_a_drawn_semantic_hit_is_not_made(tmp_path: Path, kind: str) -> None:
    """Exact hits, bypasses and hits that are not drawn cost nothing."""
    config = CONFIG.replace("rate: 1", "rate: 0") if kind == "rate 0" else CONFIG
    model = Model()
    async with running(settings_of(tmp_path, config), model) as gateway:
        await primed(gateway)
        if kind == "exact":
            assert (await ask(gateway, "What is the capital of France?"))["x-penstock-cache"] == "hit-exact"
        elif kind == "bypass":
            headers = ANN | {"x-penstock-cache": "bypass"}
            assert (await ask(gateway, WORDINGS[0], headers))["x-penstock-cache"] == "bypass"
        else:
            assert (await ask(gateway, WORDINGS[0]))["x-penstock-cache"] == "hit-semantic"
        await idle(gateway)
        assert model.audits == 0


async def test_audit_that_the_account_cannot_pay_is_not_made(tmp_path: Path) -> None:
    """The longest answer allowed has to fit into what is left of the day's money."""
    model = Model()
    config = CONFIG.replace("max_usd_per_day: 100", "max_usd_per_day: 1.5")  # the longest costs 1.6
    async with running(settings_of(tmp_path, config), model) as gateway:
        await primed(gateway)
        await ask(gateway, WORDINGS[0])
        text = await idle(gateway)
        assert sample(text, "penstock_cache_audits_total", category="faq", outcome="over_limit") == 1
        assert model.audits == 0
        assert (await ask(gateway, WORDINGS[1]))["x-penstock-cache"] == "hit-semantic"


@pytest.mark.parametrize(
    ("reply", "outcome"),
    [
        (FakeReply(status=500, body=b'{"error": {}}'), "no_answer"),
        (FakeReply(body=completion("Par", "length"), usage=USAGE), "unusable"),
        (FakeReply(body=b"{", usage=USAGE), "unusable"),
        (UpstreamUnreachable("The provider cannot be reached."), "no_answer"),
        (RuntimeError("a bug"), "failed"),
    ],
)
async def test_audit_that_fails_is_counted_and_finds_nothing(
    tmp_path: Path, reply: FakeReply | Exception, outcome: str
) -> None:
    """A failed audit is no finding, and clients see nothing of it."""
    model = Model()
    async with running(settings_of(tmp_path), model) as gateway:
        await primed(gateway)

        def failing(_: object) -> FakeReply:
            if isinstance(reply, Exception):
                raise reply
            return reply

        model.reply = failing
        assert (await ask(gateway, WORDINGS[0]))["answer"] == "Paris"
        text = await idle(gateway)
        assert sample(text, "penstock_cache_audits_total", category="faq", outcome=outcome) == 1
        assert (await report(gateway))["false_hit_rate"]["audits"] == 0


@pytest.mark.redis
async def test_audits_of_two_gateways_on_one_redis_are_paid_from_one_account(tmp_path: Path, redis_url: str) -> None:
    """What one gateway has spent today is gone for the other, too."""
    model = Model()
    store = "store: {kind: redis, redis_url: '${REDIS}', lookup_timeout_seconds: 5, write_timeout_seconds: 5}"
    config = CONFIG.replace("max_usd_per_day: 100}", f"max_usd_per_day: 1.61}}\n  {store}")  # the longest costs 1.6
    path = tmp_path / "penstock.yaml"
    path.write_text(config)
    settings = load_settings(path, ENVIRONMENT | {"REDIS": redis_url})
    async with running(settings, model) as one:
        await primed(one)
        assert (await ask(one, WORDINGS[0]))["x-penstock-cache"] == "hit-semantic"
        await audited(one, 1)
    assert model.audits == 1  # a control does not fit any more
    async with running(settings, model) as other:
        mirror = other.app.pipeline.cache.services.cache.parts.mirror  # type: ignore[union-attr]
        await eventually(lambda: len(mirror) == 2)
        assert (await ask(other, WORDINGS[1]))["x-penstock-cache"] == "hit-semantic"
        text = await idle(other)
        assert sample(text, "penstock_cache_audits_total", category="faq", outcome="over_limit") == 1
    assert model.audits == 1


async def test_category_goes_off_by_proof_shadows_and_returns(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Only when the lower bound of the error is above the budget hits stop; look-ups and audits go on until it is sure
    that they would be right again."""
    semantic(monkeypatch, TRUSTING)
    model = Model()
    wordings = iter(WORDINGS)
    async with running(settings_of(tmp_path), model) as gateway:
        await primed(gateway)
        services = gateway.app.pipeline.cache.services  # type: ignore[union-attr]
        ledger, switch = services.oversight.steering.ledger, services.oversight.steering.switch("faq")
        assert switch is not None
        model.answer = "Lyon"
        served = 0
        while switch.is_on:
            assert ledger.false_hit_rate("faq").low <= switch.rules.budget
            assert (await ask(gateway, next(wordings)))["answer"] == "Paris"
            served += 1
            await idle(gateway)
        assert served > 5  # one disagreement, or a few, prove nothing
        row = await report(gateway)
        assert (row["semantic"], row["false_hit_rate"]["audits"]) == ("off", 0)
        text = await metrics(gateway)
        assert sample(text, "penstock_cache_switch_on", category="faq") == 0
        assert sample(text, "penstock_cache_switch_changes_total", category="faq", change="off_for_errors") == 1

        model.answer = "Paris"
        paid = len(gateway.upstream.requests) - model.audits
        asked = 0
        while not switch.is_on:
            assert ledger.false_hit_rate("faq").high > switch.rules.budget
            shown = await ask(gateway, next(wordings))
            assert (shown["x-penstock-cache"], shown["answer"]) == ("miss", "Paris")
            asked += 1
            await services.drain()
            await idle(gateway)
        assert len(gateway.upstream.requests) - model.audits - paid == asked
        row = await report(gateway)
        assert row["semantic"] == "on"
        assert 5 < row["misses"]["switched_off"] <= asked
        assert row["threshold"] > row["certified_threshold"]  # it comes back at its strictest
        text = await metrics(gateway)
        assert sample(text, "penstock_cache_switch_changes_total", category="faq", change="back_on") == 1
        assert (await ask(gateway, next(wordings)))["x-penstock-cache"] == "hit-semantic"


async def test_model_that_contradicts_itself_does_not_drive_its_category_off(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The control's disagreement is subtracted: unsteady models are not the cache's fault."""
    semantic(monkeypatch, TRUSTING)
    model = Model()
    count = 0

    def unsteady(_: object) -> FakeReply:
        nonlocal count
        count += 1
        return FakeReply(body=completion(f"Answer {count}"), usage=USAGE)

    async with running(settings_of(tmp_path), model) as gateway:
        await primed(gateway)
        model.reply = unsteady
        for text in WORDINGS[:30]:
            await ask(gateway, text)
            await idle(gateway)
        row = await report(gateway)
        rate = row["false_hit_rate"]
        assert rate["disagreements"] == rate["audits"] == 30
        assert rate["control_disagreements"] == rate["controls"] > 0
        assert (row["semantic"], rate["low"]) == ("on", 0.0)


async def test_audit_findings_survive_a_restart_beside_the_file_store(tmp_path: Path) -> None:
    """Counts, switches and the account are read back; another rule begins new counts on the same account."""
    config = CONFIG.replace("audit:", f"store: {{kind: file, folder: {tmp_path / 'cache'}}}\n  audit:")
    model = Model()
    async with running(settings_of(tmp_path, config), model) as gateway:
        await primed(gateway)
        await ask(gateway, WORDINGS[0])
        await audited(gateway, 1)
    kept = json.loads((tmp_path / "cache" / "audits.json").read_bytes())
    assert kept["ledger"]["categories"]["faq"]["hit_audits"] == 1
    assert float(kept["account"]["spent_usd"]) == pytest.approx(COST_USD * model.audits)
    assert (tmp_path / "cache" / "audits.json").stat().st_mode & 0o077 == 0
    async with running(settings_of(tmp_path, config), model) as gateway:
        assert (await report(gateway))["false_hit_rate"]["audits"] == 1
    (tmp_path / "cache" / "audits.json").write_bytes(b"{")
    async with running(settings_of(tmp_path, config), model) as gateway:
        assert (await report(gateway))["false_hit_rate"]["audits"] == 0
        text = await metrics(gateway)
        assert sample(text, "penstock_cache_problems_total", code="cache_audits_unreadable") == 1


async def test_overloaded_model_loosens_budget_and_ttl_for_keys_that_opted_in(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Under load an opted-in key gets the looser certified threshold and answers past their TTL, marked; no other."""
    semantic(monkeypatch, DOUBTFUL)
    model = Model()
    async with running(settings_of(tmp_path), model) as gateway:
        await primed(gateway, ANN)
        await primed(gateway, BOB)
        services = gateway.app.pipeline.cache.services  # type: ignore[union-attr]
        for headers in (ANN, BOB):
            assert (await ask(gateway, WORDINGS[0], headers))["x-penstock-cache"] == "miss"
        busy = services.oversight.load.policy
        now = services.cache._clock()
        busy.observe("small", now - 30, latency_seconds=9.0)
        busy.observe("small", now, latency_seconds=9.0)
        assert (await ask(gateway, WORDINGS[1], ANN))["x-penstock-cache"] == "hit-semantic"
        assert (await ask(gateway, WORDINGS[1], BOB))["x-penstock-cache"] == "miss"
        await eventually(lambda: services.oversight.steering.relaxed.audits("faq") == 1)
        row = (await report(gateway))["under_load"]
        assert (row["is_opted_in"], row["audits"], row["most_false_hits"]) == (True, 1, 0.6)
        assert row["models"]["small"]["allowed_budget"] > 0.3
        assert row["realised_false_hits"]["estimate"] == 0.0
        assert (await report(gateway))["false_hit_rate"]["audits"] == 0  # its errors are another rate

        services.cache._clock = services.oversight.steering._clock = lambda: now + 70.0
        busy.observe("small", now + 70, latency_seconds=9.0)
        text = "Which city is the capital of France?"
        shown = await ask(gateway, text, ANN)
        assert (shown["x-penstock-cache"], shown["x-penstock-cache-stale"]) == ("hit-exact", "true")
        assert (await ask(gateway, text, BOB))["x-penstock-cache"] == "miss"


async def test_slow_calls_of_a_deployment_raise_its_load(tmp_path: Path) -> None:
    """Refusals for overload count as full load; a deployment that goes on as usual has none."""
    model = Model()
    without_retries = settings_of(tmp_path, CONFIG + "attempts: {retries: 0}\n")
    async with running(without_retries, model) as gateway:
        load = gateway.app.pipeline.cache.services.oversight.load  # type: ignore[union-attr]
        now = load._clock()
        load._clock = lambda: now
        await ask(gateway, "Hello there", BOB)
        assert load.policy.load("small", now) == 0.0
        model.reply = lambda _: FakeReply(status=429, body=b'{"error": {"message": "slow down"}}')
        for second in (0, 30, 60):
            load._clock = lambda second=second: now + second
            await (await gateway.chat(headers=BOB, messages=[{"role": "user", "content": f"Hi {second}"}])).read()
        assert load.policy.load("small", now + 60) > 0.9
        assert math.isclose(sum(load._in_flight.values()), 0)
