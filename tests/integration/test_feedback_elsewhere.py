"""Feedback on a decision that another process took: another gateway, or this one before a restart."""

from __future__ import annotations

import asyncio
import json
import stat
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from penstock_gateway.events.opening import DECISION_KEY_FILE
from penstock_gateway.events.segments import PATTERN
from penstock_gateway.money.usage import Usage
from penstock_gateway.settings import Settings, load_settings
from penstock_gateway.upstream.protocol import UpstreamRequest
from support.fakes import FakeReply
from support.redis_variants import ControlledRedis
from support.running_gateway import Running, running

CONFIG = """
deployments:
  - {name: small, base_url: "http://127.0.0.1:9/v1", tier: small, price: {input: 0.1, output: 0.4}}
client_keys: [{name: ann, key: '${ANN}'}, {name: bob, key: '${BOB}'}]
routing: {artifact: none}
"""
KEYS = {"ANN": "a" * 32, "BOB": "b" * 32, "SEAL": "one secret of all the gateways"}
ANN, BOB = ({"authorization": f"Bearer {KEYS[name]}"} for name in ("ANN", "BOB"))
NOT_FOUND = (404, "decision_not_found")
Reader = Callable[..., Settings]


def completion(_: UpstreamRequest) -> FakeReply:
    """Answer every question in one way."""
    return FakeReply(body=b'{"id":"c1","choices":[]}', usage=Usage(20, 2))


@pytest.fixture
def settings_of(tmp_path: Path) -> Reader:
    """Return the settings of a gateway that logs to a folder, with additions."""

    def read(folder: str = "log", events: str = "", addition: str = "", **environ: str) -> Settings:
        path = tmp_path / "penstock.yaml"
        path.write_text(f"{CONFIG}events: {{folder: {folder}{events}}}\n{addition}", encoding="utf-8")
        return load_settings(path, {**KEYS, **environ})

    return read


async def ask(gateway: Running) -> str:
    """Ask as Ann and return the decision's id."""
    response = await gateway.chat(model="auto", headers=ANN)
    assert response.status == 200
    return response.headers["x-penstock-decision-id"]


async def rate(gateway: Running, headers: dict[str, str] = ANN, **fields: Any) -> tuple[int, str | None]:
    """Send feedback, and return the status and the error's code."""
    response = await gateway.http.post(f"{gateway.url}/v1/feedback", json=fields, headers=headers)
    body = await response.json()
    return response.status, body["error"]["code"] if response.status >= 400 else None


def pieces(folder: Path) -> list[tuple[str, float | None]]:
    """Return the feedback on disk."""
    events = [json.loads(line) for path in sorted(folder.glob(PATTERN)) for line in path.open("rb")]
    return [(event["decision_id"], event["score"]) for event in events if event["type"] == "feedback"]


async def test_feedback_on_a_decision_from_before_a_restart_is_taken_of_its_tenant_only(
    settings_of: Reader, tmp_path: Path
) -> None:
    """The id says whose it is; any other is nobody's, and the key that says it is readable by its owner alone."""
    async with running(settings_of(), completion) as before:
        decision = await ask(before)
    async with running(settings_of(), completion) as after:
        assert await rate(after, BOB, decision_id=decision, score=1) == NOT_FOUND
        forged = decision[:-1] + ("0" if decision[-1] != "0" else "1")
        for wrong in (forged, decision[:28], "dec_" + "0" * 40, decision + "0", decision.upper()):
            assert await rate(after, decision_id=wrong, score=1) == NOT_FOUND
        assert await rate(after, decision_id=decision, score=0.5) == (201, None)
        assert await rate(after, decision_id=decision, score=0.5) == (200, None)
    assert pieces(tmp_path / "log") == [(decision, 0.5)]
    assert stat.S_IMODE((tmp_path / "log" / DECISION_KEY_FILE).stat().st_mode) == 0o600


async def test_feedback_on_another_gateways_decision_is_taken_where_they_have_one_key(
    settings_of: Reader, tmp_path: Path
) -> None:
    """``events.pseudonym_key`` is what gateways with folders of their own have in common, and no file is made then."""
    sealed = ", pseudonym_key: '${SEAL}'"
    async with (
        running(settings_of("here", sealed), completion) as here,
        running(settings_of("there", sealed), completion) as there,
        running(settings_of("apart", sealed, SEAL="a secret of another fleet"), completion) as apart,
        running(settings_of("own"), completion) as own,
    ):
        decision = await ask(here)
        assert await rate(there, decision_id=decision, score=0.25) == (201, None)
        assert await rate(there, BOB, decision_id=decision, score=0.25) == NOT_FOUND
        for stranger in (apart, own):
            assert await rate(stranger, decision_id=decision, score=0.25) == NOT_FOUND
    assert pieces(tmp_path / "there") == [(decision, 0.25)]
    assert not (tmp_path / "there" / DECISION_KEY_FILE).exists()
    assert KEYS["SEAL"] not in decision


async def test_feedback_on_another_gateways_decision_is_limited_like_any_other(settings_of: Reader) -> None:
    """The rate of a tenant and the pieces of a decision are bounded, whoever took it."""
    async with running(settings_of(events=", feedback_per_minute: 9"), completion) as before:
        decision, other = await ask(before), await ask(before)
    async with running(settings_of(events=", feedback_per_minute: 9"), completion) as after:
        given = [await rate(after, decision_id=decision, score=number / 10) for number in range(9)]
        assert given == [(201, None)] * 8 + [(400, "too_much_feedback")]
        assert await rate(after, decision_id=other, score=0) == (201, None)
        assert await rate(after, decision_id=other, score=1) == (429, "feedback_rate_limited")


async def test_gateway_whose_folder_has_an_open_key_file_rates_its_own_decisions_only(
    settings_of: Reader, tmp_path: Path
) -> None:
    """A key that others may read seals nothing; the gateway starts, says so, and goes on with what it remembers."""
    async with running(settings_of(), completion) as before:
        decision = await ask(before)
    (tmp_path / "log" / DECISION_KEY_FILE).chmod(0o644)
    async with running(settings_of(), completion) as after:
        assert await rate(after, decision_id=decision, score=1) == NOT_FOUND
        assert await rate(after, decision_id=await ask(after), score=1) == (201, None)
        page = await (await after.http.get(f"{after.url}/metrics", headers=ANN)).text()
        assert 'penstock_event_problems_total{problem="decisions_not_sealed"} 1.0' in page


@pytest.mark.redis
async def test_feedback_sent_again_to_another_gateway_is_written_once(
    settings_of: Reader, own_redis: ControlledRedis, tmp_path: Path
) -> None:
    """With ``redis.url`` a piece is one piece wherever it is sent; the last of all gateways is the last one."""
    sealed, shared = ", pseudonym_key: '${SEAL}'", "redis: {url: '${REDIS}', timeout_seconds: 1}\n"
    async with (
        running(settings_of("here", sealed, shared, REDIS=own_redis.url), completion) as here,
        running(settings_of("there", sealed, shared, REDIS=own_redis.url), completion) as there,
    ):
        decision = await ask(here)
        told: dict[str, Any] = {"decision_id": decision}
        steps = [
            (here, {"score": 1}, (201, None)),
            (there, {"score": 1}, (200, None)),
            (there, {"score": 0}, (201, None)),
            (here, {"score": 0}, (200, None)),
            (here, {"score": 1}, (201, None)),  # a change of mind, although it was this gateway's last piece
            (here, {"label": "late", "idempotency_key": "k"}, (201, None)),
            (there, {"label": "late", "idempotency_key": "k"}, (200, None)),
            (there, {"label": "early", "idempotency_key": "k"}, (409, "idempotency_key_reused")),
        ]
        for number, (gateway, fields, wanted) in enumerate(steps):
            assert await rate(gateway, **told, **fields) == wanted, number
        given = [await rate(there, **told, score=number / 10) for number in range(1, 6)]
        assert given == [(201, None)] * 4 + [(400, "too_much_feedback")]
        with own_redis.client() as client:
            kept = str({key: client.hgetall(key) for key in client.keys("penstock:feedback:*")})
            assert not any(word in kept for word in (decision, "late", "ann", "'k'"))
            assert all(0 < client.ttl(key) <= 86_400 for key in client.keys("penstock:feedback:*"))
    assert pieces(tmp_path / "here") == [(decision, 1), (decision, 1), (decision, None)]


@pytest.mark.redis
async def test_feedback_without_its_redis_is_written_once_at_each_gateway(
    settings_of: Reader, own_redis: ControlledRedis, tmp_path: Path
) -> None:
    """While Redis is away each gateway knows its own pieces: one that is sent to two is written twice."""
    sealed, shared = ", pseudonym_key: '${SEAL}'", "redis: {url: '${REDIS}', timeout_seconds: 0.1}\n"
    async with (
        running(settings_of("here", sealed, shared, REDIS=own_redis.url), completion) as here,
        running(settings_of("there", sealed, shared, REDIS=own_redis.url), completion) as there,
    ):
        decision = await ask(here)
        own_redis.kill()
        for gateway in (here, there):
            given = await asyncio.gather(*(rate(gateway, decision_id=decision, score=1) for _ in range(3)))
            assert sorted(status for status, _ in given) == [200, 200, 201]
    assert pieces(tmp_path / "here") == pieces(tmp_path / "there") == [(decision, 1)]
