"""Policies, the event log and feedback over real HTTP: what a client sees, and what is on disk afterwards."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from penstock_gateway.errors import UpstreamTimeout
from penstock_gateway.events.segments import PATTERN
from penstock_gateway.money.usage import Usage
from penstock_gateway.settings import Settings, load_settings
from penstock_gateway.settings_models import RoutingSettings
from penstock_gateway.upstream.protocol import UpstreamRequest
from support.fakes import FakeReply
from support.running_gateway import Running, running

CONFIG = """
deployments:
  - {name: small, model: up-small, base_url: "http://127.0.0.1:9/v1", tier: small,
     price: {input: 0.1, output: 0.4}, context_tokens: 80000, max_output_tokens: 4000, abilities: [streaming]}
  - {name: large, model: up-large, base_url: "http://127.0.0.1:9/v1", tier: large,
     price: {input: 10, cached_input: 1, output: 30}, context_tokens: 80000, max_output_tokens: 4000,
     abilities: [streaming]}
client_keys:
  - {name: north-clinic, key: '${NORTH_KEY}'}
  - {name: south-office, key: '${SOUTH_KEY}', max_cost_usd: 0.001}
routing: {artifact: none, category_floors: {medical: large}}
events: {folder: log}
"""
KEYS = {"NORTH_KEY": "north-0123456789abcdef", "SOUTH_KEY": "south-0123456789abcdef"}
NORTH = {"authorization": f"Bearer {KEYS['NORTH_KEY']}"}
SOUTH = {"authorization": f"Bearer {KEYS['SOUTH_KEY']}"}
QUESTION = "what is wrong with Rumpelstilzchen"


def completion(_: UpstreamRequest) -> FakeReply:
    """Answer with a completion of 2,000 tokens in and 200 out."""
    return FakeReply(body=b'{"id":"c1","choices":[]}', usage=Usage(2000, 200))


@pytest.fixture
def settings_of(tmp_path: Path) -> Callable[..., Settings]:
    """Return the settings of the configuration above, with additions."""

    def read(addition: str = "") -> Settings:
        path = tmp_path / "penstock.yaml"
        path.write_text(CONFIG + addition, encoding="utf-8")
        return load_settings(path, KEYS)

    return read


def events_in(folder: Path) -> list[dict[str, Any]]:
    """Return the events on disk."""
    return [json.loads(line) for path in sorted(folder.glob(PATTERN)) for line in path.open("rb")]


async def ask(gateway: Running, headers: dict[str, str], **fields: Any) -> tuple[int, dict[str, Any], str]:
    """Send a chat request for a choice; return status, body and decision id."""
    messages = [{"role": "user", "content": QUESTION}]
    response = await gateway.chat(headers=headers, **{"model": "auto", "messages": messages, **fields})
    return response.status, await response.json(), response.headers.get("x-penstock-decision-id", "")


async def rate(gateway: Running, headers: dict[str, str], **fields: Any) -> tuple[int, dict[str, Any]]:
    """Send feedback; return status and body."""
    response = await gateway.http.post(f"{gateway.url}/v1/feedback", json=fields, headers=headers)
    return response.status, await response.json()


async def test_chat_limits_by_header_body_and_key_are_kept(settings_of, tmp_path) -> None:
    """A cap refuses before anything is called, names the cost, and comes from header, body or key alike."""
    async with running(settings_of(), completion) as gateway:
        for headers, fields in (
            ({**NORTH, "x-penstock-max-cost-usd": "0.001"}, {}),
            (NORTH, {"penstock": {"max_cost_usd": 0.001}}),
            (SOUTH, {}),
            (SOUTH, {"penstock": {"max_cost_usd": 1}}),
        ):
            status, body, _ = await ask(gateway, headers, **fields)
            assert (status, body["error"]["code"]) == (400, "max_cost_exceeded")
            assert "large, is expected to cost 0.0078" in body["error"]["message"]
        assert gateway.upstream.requests == []
        status, _, _ = await ask(gateway, NORTH, penstock={"max_cost_usd": 0.1})
        assert status == 200
        assert "penstock" not in gateway.upstream.requests[0].body


async def test_chat_cheapest_without_estimate_respects_the_floor(settings_of) -> None:
    """Nobody can say that the prompt is not medical, so the knob's zero stays at the floor; `/v1/route` explains it."""
    async with running(settings_of(), completion) as gateway:
        body = {"model": "auto@0", "messages": [{"role": "user", "content": QUESTION}]}
        shown = await (await gateway.http.post(f"{gateway.url}/v1/route", json=body, headers=NORTH)).json()
        assert (shown["model"], shown["floor"], shown["propensity"], shown["is_explored"]) == (
            "large",
            "large",
            1.0,
            False,
        )
        refused = [c for c in shown["candidates"] if c["rejected"]]
        assert [(c["model"], c["rejected"]) for c in refused] == [("small", "category_floor")]


async def test_chat_request_leaves_decision_and_outcome_without_content_or_secret(settings_of, tmp_path) -> None:
    """Every request has both afterwards, and no prompt, key or answer is in the folder; accounts are, as labels."""
    async with running(settings_of(), completion) as gateway:
        _, _, decision_id = await ask(gateway, NORTH)
        await ask(gateway, NORTH, model="small")
        await gateway.http.post(
            f"{gateway.url}/v1/route", json={"messages": [{"role": "user", "content": "x"}]}, headers=NORTH
        )
    first, paid, second, _ = events_in(tmp_path / "log")
    assert (first["type"], paid["type"]) == ("decision", "outcome")
    assert (first["decision_id"], first["intended_arm"], first["tradeoff"]) == (decision_id, "large", "balanced")
    assert (paid["decision_id"], paid["served_arm"], paid["status"]) == (decision_id, "large", 200)
    assert (paid["cost_usd"], paid["cost_picousd"]) == ("0.026", 26_000_000_000)
    assert (second["reason"], second["intended_arm"]) == ("physical_model", "small")
    written = b"".join(path.read_bytes() for path in (tmp_path / "log").iterdir()).decode()
    for secret in ("Rumpel", "0123456789abcdef", "up-large", "choices"):
        assert secret not in written
    assert "north" not in written.replace('"key:north-clinic"', "")


async def test_chat_request_that_timed_out_is_a_censored_event(settings_of, tmp_path) -> None:
    """A deadline passed by the provider is no outcome: no arm served it and it is marked."""

    def late(_: UpstreamRequest) -> FakeReply:
        raise UpstreamTimeout("The provider did not answer in time.")

    async with running(settings_of(), late) as gateway:
        assert (await ask(gateway, NORTH))[0] == 504
    decision, event = events_in(tmp_path / "log")
    assert (decision["intended_arm"], event["served_arm"], event["is_timeout"]) == ("large", None, True)
    assert (event["status"], event["error_code"]) == (504, "upstream_timeout")


async def test_feedback_of_the_own_tenant_is_on_disk_when_it_is_acknowledged(settings_of, tmp_path) -> None:
    """Feedback joins its decision by id, and is kept without its comment unless content is captured."""
    async with running(settings_of(), completion) as gateway:
        _, _, decision_id = await ask(gateway, NORTH)
        status, body = await rate(gateway, NORTH, decision_id=decision_id, rating="down", comment="Rumpel was wrong")
        assert (status, body["score"], body["is_comment_kept"]) == (201, 0.0, False)
        on_disk = [event for event in events_in(tmp_path / "log") if event["type"] == "feedback"]
    assert [(event["decision_id"], event["score"], event["rating"]) for event in on_disk] == [
        (decision_id, 0.0, "down")
    ]
    assert "comment" not in on_disk[0]


async def test_feedback_is_compared_with_what_was_predicted_once(settings_of) -> None:
    """The Brier score of the arm that answered; what is sent again, and a label without a score, changes nothing."""
    settings = settings_of().model_copy(update={"routing": RoutingSettings()})
    async with running(settings, completion) as gateway:
        _, _, decision_id = await ask(gateway, NORTH)
        for fields in ({"score": 0.25}, {"score": 0.25}, {"label": "late", "idempotency_key": "k"}):
            await rate(gateway, NORTH, decision_id=decision_id, **fields)
        found = gateway.app.pipeline.decisions.find("north-clinic", decision_id)
        router = gateway.app.pipeline.metrics.router
        assert found is not None
        report = next(each for each in found[0].candidates if each.name == found[0].chosen)
        assert report.quality is not None
        assert router.scored.labels(report.arm).value == 1
        assert router.squared_error.labels(report.arm).value == pytest.approx((report.quality - 0.25) ** 2)


async def test_feedback_by_request_id_reaches_the_decision(settings_of, tmp_path) -> None:
    """An application that sends ids of its own needs no other; what is sent again changes nothing."""
    async with running(settings_of(), completion) as gateway:
        _, _, decision_id = await ask(gateway, {**NORTH, "x-request-id": "mine"})
        fields = {"request_id": "mine", "score": 0.25, "label": "wrong units"}
        statuses = [(await rate(gateway, NORTH, **fields))[0] for _ in range(2)]
        status, body = await rate(gateway, NORTH, decision_id=decision_id, label="late", idempotency_key="k")
        assert (statuses, status, body["score"], body["label"]) == ([201, 200], 201, None, "late")
        assert (await rate(gateway, NORTH, decision_id=decision_id, label="other", idempotency_key="k"))[0] == 409
    kept = [event for event in events_in(tmp_path / "log") if event["type"] == "feedback"]
    assert [(event["decision_id"], event["request_id"], event["label"], event["score"]) for event in kept] == [
        (decision_id, "mine", "wrong units", 0.25),
        (decision_id, "mine", "late", None),
    ]


async def test_feedback_faster_than_the_limit_is_told_when_to_come_back(settings_of) -> None:
    """The limit is per tenant and comes with Retry-After."""
    settings = settings_of()
    slow = settings.model_copy(update={"events": settings.events.model_copy(update={"feedback_per_minute": 1})})
    async with running(slow, completion) as gateway:
        _, _, decision_id = await ask(gateway, NORTH)
        assert (await rate(gateway, NORTH, decision_id=decision_id, score=0.5))[0] == 201
        fields = {"decision_id": decision_id, "score": 0.75}
        response = await gateway.http.post(f"{gateway.url}/v1/feedback", json=fields, headers=NORTH)
        assert (response.status, (await response.json())["error"]["code"]) == (429, "feedback_rate_limited")
        assert 1 <= int(response.headers["retry-after"]) <= 60


async def test_feedback_on_another_tenants_decision_does_not_exist(settings_of, tmp_path) -> None:
    """Whoever guesses an id learns nothing and changes nothing."""
    async with running(settings_of(), completion) as gateway:
        _, _, decision_id = await ask(gateway, {**NORTH, "x-request-id": "mine"})
        for headers, wanted in ((SOUTH, decision_id), (NORTH, "dec_000000000000000000000000")):
            status, body = await rate(gateway, headers, decision_id=wanted, score=1.0)
            assert (status, body["error"]["code"]) == (404, "decision_not_found")
        assert (await rate(gateway, {}, decision_id=decision_id, score=1.0))[0] == 401
        for headers, wanted in ((SOUTH, "mine"), (NORTH, "unknown")):
            status, body = await rate(gateway, headers, request_id=wanted, score=1.0)
            assert (status, body["error"]["code"]) == (404, "decision_not_found")
    assert [event["type"] for event in events_in(tmp_path / "log")] == ["decision", "outcome"]


async def test_feedback_beyond_eight_pieces_is_refused(settings_of) -> None:
    """One decision cannot fill the disk."""
    async with running(settings_of(), completion) as gateway:
        _, _, decision_id = await ask(gateway, NORTH)
        sent = [rate(gateway, NORTH, decision_id=decision_id, score=n / 10) for n in range(9)]
        statuses = sorted(status for status, _ in await asyncio.gather(*sent))
        assert statuses == [201] * 8 + [400]


async def test_chat_request_without_a_place_in_the_log_is_refused(settings_of) -> None:
    """No request goes unrecorded: while the disk takes nothing and all places are taken, requests get a 503."""
    settings = settings_of()
    small = settings.model_copy(update={"events": settings.events.model_copy(update={"max_waiting": 2})})
    async with running(small, completion) as gateway:
        events = gateway.app.pipeline.events
        assert (events.admit(), events.admit()) == (True, True)
        status, body, _ = await ask(gateway, NORTH)
        assert (status, body["error"]["code"]) == (503, "events_overloaded")
        assert gateway.upstream.requests == []
        events.release()
        assert (await ask(gateway, NORTH))[0] == 200


@pytest.mark.parametrize(
    ("fields", "code"),
    [
        ({"score": 1.5}, "invalid_value"),
        ({"score": -0.1}, "invalid_value"),
        ({}, "invalid_value"),
        ({"score": 1, "rating": "up"}, "invalid_value"),
        ({"rating": "good"}, "invalid_type"),
        ({"score": "1"}, "invalid_type"),
        ({"score": 1, "comment": "x" * 2001}, "invalid_value"),
        ({"label": "x" * 65}, "invalid_value"),
        ({"label": ""}, "invalid_value"),
        ({"label": "two\nlines"}, "invalid_value"),
        ({"score": 1, "request_id": "both"}, "invalid_value"),
        ({"score": 1, "decision_id": None}, "invalid_value"),
        ({"score": 1, "idempotency_key": "x" * 129}, "invalid_value"),
        ({"score": 1, "commment": "x"}, "invalid_type"),
        ({"score": 1, "decision_id": 7}, "invalid_type"),
    ],
)
async def test_feedback_that_is_malformed_is_refused(settings_of, fields: dict[str, object], code: str) -> None:
    """Wrong feedback is named, not guessed at."""
    async with running(settings_of(), completion) as gateway:
        status, body = await rate(gateway, NORTH, **{"decision_id": "dec_1", **fields})
        assert (status, body["error"]["code"]) == (400, code)


async def test_feedback_larger_than_its_bound_or_without_a_log_is_refused(settings_of, tmp_path) -> None:
    """A comment cannot be a book; and a gateway that keeps no events says so instead of pretending."""
    async with running(settings_of(), completion) as gateway:
        assert (await rate(gateway, NORTH, decision_id="d", score=1, comment="x" * 20_000))[0] == 413
    settings = settings_of()
    silent = settings.model_copy(update={"events": settings.events.model_copy(update={"folder": None})})
    async with running(silent, completion) as gateway:
        _, _, decision_id = await ask(gateway, NORTH)
        status, body = await rate(gateway, NORTH, decision_id=decision_id, score=1)
        assert (status, body["error"]["code"]) == (400, "events_off")


async def test_conversation_second_turn_knows_who_is_warm(settings_of) -> None:
    """A follow-up is priced with the cache of the deployment that answered; another tenant has none of it."""
    async with running(settings_of(), completion) as gateway:
        first = [{"role": "user", "content": QUESTION + " " * 8000}]
        await ask(gateway, NORTH, messages=first)
        body = {
            "model": "auto",
            "messages": [*first, {"role": "assistant", "content": "ok"}, {"role": "user", "content": "go on"}],
        }
        shown = await (await gateway.http.post(f"{gateway.url}/v1/route", json=body, headers=NORTH)).json()
        assert shown["warm_model"] == "large"
        cold = {**NORTH, "authorization": SOUTH["authorization"]}
        refused = await gateway.http.post(f"{gateway.url}/v1/route", json=body, headers=cold)
        assert (await refused.json())["error"]["code"] == "max_cost_exceeded"
        metrics = await (await gateway.http.get(f"{gateway.url}/metrics", headers=NORTH)).text()
        assert "penstock_events_dropped" in metrics


async def test_event_log_of_a_folder_that_cannot_be_written_does_not_stop_the_gateway(settings_of, tmp_path) -> None:
    """The log fails open: requests are answered, the problem is counted."""
    settings = settings_of()
    (tmp_path / "log").write_text("in the way")
    async with running(settings, completion) as gateway:
        assert (await ask(gateway, NORTH))[0] == 200
        metrics = await (await gateway.http.get(f"{gateway.url}/metrics", headers=NORTH)).text()
        assert 'penstock_event_problems_total{problem="write_failed"}' in metrics
