"""``penstock cache doctor`` and what a miss says of itself, over a real gateway."""

from __future__ import annotations

import asyncio
import json
import uuid
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from penstock_cache.category_switch import SwitchState
from penstock_gateway import cli
from penstock_gateway.settings import load_settings
from support.running_gateway import Running, eventually, running
from support.semantic_gateway import ANN, BOB, CONFIG, ENVIRONMENT, WORDINGS, Model, ask, primed, rule, semantic

REQUESTS = 12


def start(tmp_path: Path, config: str = CONFIG.replace("rate: 1", "rate: 0")) -> Any:
    """Run a gateway from text."""
    path = tmp_path / "penstock.yaml"
    path.write_text(config)
    return running(load_settings(path, ENVIRONMENT), Model())


@pytest.fixture(autouse=True)
def _semantic(monkeypatch: pytest.MonkeyPatch) -> None:
    semantic(monkeypatch)
    monkeypatch.setenv("PENSTOCK_API_KEY", "a" * 32)
    monkeypatch.setenv("COLUMNS", "200")


async def talk(gateway: Running, prompts: list[str], headers: dict[str, str] = ANN) -> None:
    """Send one question under each of these system prompts, and wait until they have been looked at."""
    services = gateway.app.pipeline.cache.services
    for number, prompt in enumerate(prompts):
        messages = [{"role": "system", "content": prompt}, {"role": "user", "content": f"question {number}"}]
        await (await gateway.chat(headers=headers, messages=messages)).read()
    await services.drain()


async def diagnosis(gateway: Running, headers: dict[str, str] = ANN) -> dict[str, Any]:
    """Return what the gateway says of a key's cache."""
    response = await gateway.http.get(f"{gateway.url}/v1/cache/doctor", headers=headers)
    assert response.status == 200
    found: dict[str, Any] = await response.json()
    return found


def details(found: dict[str, Any], subject: str) -> list[str]:
    """Return the sentences about one subject."""
    return [finding["detail"] for finding in found["findings"] if finding["subject"] == subject]


async def test_cache_doctor_names_the_field_that_keeps_contexts_from_repeating(tmp_path: Path) -> None:
    """A request id in the system prompt makes every context a new one: path, kind, position and share are told."""
    async with start(tmp_path) as gateway:
        await talk(gateway, [f"You help Ann. Request {uuid.uuid4()}." for _ in range(REQUESTS)])
        found = await diagnosis(gateway)
        contexts = found["contexts"]
        assert (contexts["repeat_share"], contexts["sampled_requests"]) == (0.0, REQUESTS)
        assert contexts["varying_fields"] == [
            {
                "path": "messages[0].content",
                "kind": "uuid",
                "position": len("You help Ann. Request "),
                "values": REQUESTS,
                "split_share": 1.0,
            }
        ]
        warned = [finding for finding in found["findings"] if finding["subject"] == "contexts"][1]
        assert warned["level"] == "warn"
        assert "messages[0].content (system prompt): differs at character 22 (uuid)" in warned["detail"]
        assert "splits 100% of requests" in warned["detail"]
        assert "metadata" in warned["fix"]
        assert "You help Ann" not in json.dumps(found)


async def test_cache_doctor_tells_each_tenant_of_its_own_requests_alone(tmp_path: Path) -> None:
    """What one key sends is nobody else's to know, and deleting everything forgets the digests, too."""
    async with start(tmp_path) as gateway:
        await talk(gateway, [f"Now: 10:{minute:02d}" for minute in range(REQUESTS)])
        await talk(gateway, ["You help Bob."] * REQUESTS, BOB)
        ann, bob = await diagnosis(gateway), await diagnosis(gateway, BOB)
        assert [field["kind"] for field in ann["contexts"]["varying_fields"]] == ["time"]
        assert bob["contexts"] == {"repeat_share": 1.0, "sampled_requests": REQUESTS, "varying_fields": []}
        assert "100% of this key's requests have a context that repeats" in details(bob, "contexts")[0]
        await gateway.http.delete(f"{gateway.url}/v1/cache?category=faq", headers=BOB)
        assert (await diagnosis(gateway, BOB))["contexts"]["sampled_requests"] == REQUESTS
        await gateway.http.delete(f"{gateway.url}/v1/cache", headers=BOB)
        assert (await diagnosis(gateway, BOB))["contexts"]["sampled_requests"] == 0
        assert (await diagnosis(gateway))["contexts"]["sampled_requests"] == REQUESTS


async def test_cache_doctor_of_few_requests_names_no_field(tmp_path: Path) -> None:
    """Before there is anything to compare it says so instead of guessing."""
    async with start(tmp_path) as gateway:
        assert "no request of this key yet" in details(await diagnosis(gateway), "contexts")[0]
        await talk(gateway, ["You help Ann."] * 3)
        assert "too early" in details(await diagnosis(gateway), "contexts")[0]


async def test_cache_doctor_of_a_conversation_blames_nobody(tmp_path: Path) -> None:
    """Earlier turns differ in conversations; that is told, and there is nothing to fix."""
    async with start(tmp_path) as gateway:
        for number in range(REQUESTS):
            turns = ["Hi", f"reply {number} of many {number * 7}", "and then?"]
            messages = [{"role": ("user", "assistant")[i % 2], "content": turn} for i, turn in enumerate(turns)]
            await (await gateway.chat(headers=ANN, messages=messages)).read()
        await gateway.app.pipeline.cache.services.drain()
        findings = (await diagnosis(gateway))["findings"]
        history = next(finding for finding in findings if "messages (history)" in finding["detail"])
        assert (history["level"], history["fix"]) == ("ok", "")


async def test_cache_doctor_of_a_parameter_needs_more_than_an_odd_request(tmp_path: Path) -> None:
    """Two requests with a seed of their own are somebody trying things out; many are a finding, with its own fix."""
    async with start(tmp_path) as gateway:
        await talk(gateway, ["You help Ann."] * REQUESTS)
        for number in range(2):
            await ask(gateway, f"question {number}", seed=number)
        await gateway.app.pipeline.cache.services.drain()
        assert (await diagnosis(gateway))["contexts"]["varying_fields"] == []
        for number in range(2, 8):
            await ask(gateway, f"question {number}", seed=number)
        await gateway.app.pipeline.cache.services.drain()
        (named,) = [found for found in (await diagnosis(gateway))["findings"] if "seed: differs" in found["detail"]]
        assert (named["level"], named["fix"]) == ("warn", "send the same value each time, or leave it out")


async def test_cache_doctor_says_where_semantic_hits_are_possible(tmp_path: Path) -> None:
    """The rule in force, the key's category and a switch that audits have moved are all seen."""
    async with start(tmp_path) as gateway:
        assert details(await diagnosis(gateway), "cache")[0].startswith("semantic hits in faq (at most 30 %")
        switch = gateway.app.pipeline.cache.services.oversight.steering.switch("faq")
        switch.state = SwitchState(is_on=False)
        assert "audits have switched semantic hits off in faq" in details(await diagnosis(gateway), "cache")


async def test_cache_doctor_of_a_rule_that_certifies_nothing_warns(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A running gateway that can never give a semantic hit says so."""
    semantic(monkeypatch, rule(points=((0.3, None),)))
    async with start(tmp_path) as gateway:
        found = (await diagnosis(gateway))["findings"]
        assert found[0]["level"] == "warn"
        assert "no category can have a semantic hit" in found[0]["detail"]


async def test_cache_doctor_of_a_gateway_whose_rule_was_refused_names_the_code(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What was refused at the start is not only in the log."""

    async def refused(*_: object) -> tuple[None, None, str]:
        return None, None, "cache_rule_mismatch"

    monkeypatch.setattr("penstock_gateway.caching.start._judge", refused)
    async with start(tmp_path) as gateway:
        finding = (await diagnosis(gateway))["findings"][0]
        assert "[cache_rule_mismatch]" in finding["detail"]
        assert "cache-calibrate" in finding["fix"]


async def test_cache_doctor_refuses_what_it_does_not_know_and_needs_a_key(tmp_path: Path) -> None:
    """The call is as strict as its neighbours."""
    async with start(tmp_path) as gateway:
        response = await gateway.http.get(f"{gateway.url}/v1/cache/doctor?tenant=bob", headers=ANN)
        assert (response.status, (await response.json())["error"]["code"]) == (400, "unknown_parameter")
        assert (await gateway.http.get(f"{gateway.url}/v1/cache/doctor")).status == 401


async def test_sketch_that_fails_is_counted_and_fails_no_request(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The search for a varying field is never worth an answer."""

    def broken(_: object) -> bytes:
        raise ZeroDivisionError

    monkeypatch.setattr("penstock_gateway.caching.services.sketch_bytes", broken)
    async with start(tmp_path) as gateway:
        await talk(gateway, ["You help Ann."] * 3)
        text = await (await gateway.http.get(f"{gateway.url}/metrics", headers=ANN)).text()
        assert 'penstock_cache_problems_total{code="cache_failed"} 3.0' in text
        assert (await diagnosis(gateway))["contexts"]["sampled_requests"] == 0


async def test_commands_show_the_findings_of_a_running_gateway(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """``cache doctor`` and ``doctor --url`` say the same sentences, and ``--json`` writes them as the API does."""
    async with start(tmp_path) as gateway:
        await talk(gateway, [f"Today is 2026-11-{day + 1:02d}." for day in range(REQUESTS)])
        capsys.readouterr()
        assert await asyncio.to_thread(cli.run, ["cache", "doctor", "--url", gateway.url]) == 0
        shown = capsys.readouterr().out
        assert "warn  contexts: messages[0].content (system prompt): differs at character 9 (date)" in shown
        assert "\n      fix: leave the date out" in shown
        assert await asyncio.to_thread(cli.run, ["cache", "doctor", "--url", gateway.url, "--json"]) == 0
        assert json.loads(capsys.readouterr().out)["object"] == "cache.diagnosis"
        empty = tmp_path / "none.yaml"
        empty.write_text("deployments: [{name: gpt-5.4-mini, provider: openai, tier: medium}]\n")
        await asyncio.to_thread(cli.run, ["doctor", "--config", str(empty), "--url", gateway.url])
        assert "differs at character 9 (date)" in capsys.readouterr().out


def test_doctor_command_whose_gateway_does_not_answer_fails(capsys: pytest.CaptureFixture[str]) -> None:
    """An address that was asked for and does not answer is a finding, after all the others."""
    assert cli.run(["doctor", "--url", "http://127.0.0.1:9"]) == 1
    assert "fail  cache: no answer from http://127.0.0.1:9" in capsys.readouterr().out
    assert cli.run(["doctor", "--url", "ftp://127.0.0.1"]) == 2


async def test_miss_says_why_and_how_near_something_came(tmp_path: Path) -> None:
    """A refused near-miss has its guard in a header; a request that was not looked up has the reason for that."""
    async with start(tmp_path) as gateway:
        await primed(gateway)
        refused = await ask(gateway, "What is not the capital of France?")
        assert (refused["x-penstock-cache"], refused["x-penstock-cache-similarity"]) == ("miss", "1.0000")
        assert refused["x-penstock-cache-reason"] == "guard:negation"
        other = await ask(gateway, "What is the capital of France?", BOB)
        assert other["x-penstock-cache-reason"] == "no_neighbour"
        assert "x-penstock-cache-similarity" not in other
        bypassed = await ask(gateway, WORDINGS[0], ANN | {"x-penstock-cache": "no-cache"})
        assert (bypassed["x-penstock-cache"], bypassed["x-penstock-cache-reason"]) == ("bypass", "directive")
        hit = await ask(gateway, WORDINGS[1])
        assert hit["x-penstock-cache"] == "hit-semantic"
        assert "x-penstock-cache-reason" not in hit


async def test_miss_where_answers_are_shared_does_not_say_how_near_it_came(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nearness to other tenants' questions would let a caller feel its way to them."""
    semantic(monkeypatch, rule(lambda rows: np.full(len(rows), 0.3, np.float32)))
    config = CONFIG.replace("rate: 1", "rate: 0").replace("cache_under_load: true", "may_share_answers: true")
    config = config.replace("max_stale_seconds: 600", "is_shared_across_tenants: true")
    async with start(tmp_path, config) as gateway:
        await primed(gateway)
        await eventually(lambda: len(gateway.app.pipeline.cache.services.cache.parts.mirror) == 2)
        refused = await ask(gateway, WORDINGS[0], BOB)
        assert refused["x-penstock-cache-reason"] == "below_threshold"
        assert "x-penstock-cache-similarity" not in refused


async def test_category_in_a_header_without_client_keys_is_allowed_by_the_gateways_list(tmp_path: Path) -> None:
    """On a machine of one's own a category can be named, too, but only one that the operator allows."""
    config = CONFIG.replace("rate: 1", "rate: 0")
    config = config[: config.index("client_keys:")] + config[config.index("cache:\n") :]
    async with start(tmp_path, config + "  header_categories: [faq]\n") as gateway:
        await ask(gateway, WORDINGS[0], {"x-penstock-cache-category": "faq"})
        services = gateway.app.pipeline.cache.services
        await eventually(lambda: len(services.cache.parts.mirror) == 1)
        assert list(await services.cache.parts.mirror.holdings("default")) == ["faq"]
        refused = await gateway.chat(headers={"x-penstock-cache-category": "code"})
        assert (refused.status, (await refused.json())["error"]["code"]) == (400, "cache_category_not_allowed")
