"""Observe mode over real HTTP: the named model answers, and the report says what the router would have saved."""

from __future__ import annotations

from pathlib import Path

import pytest

from penstock_gateway.events.reading import read_events
from penstock_gateway.money.usage import Usage
from penstock_gateway.reports.savings import savings_report
from penstock_gateway.reports.savings_rows import Kind
from penstock_gateway.settings import Settings, load_settings
from penstock_gateway.upstream.protocol import UpstreamRequest
from support.fakes import FakeReply
from support.running_gateway import running

CONFIG = """
deployments:
  - {name: small, base_url: "http://127.0.0.1:9/v1", tier: small, price: {input: 0.1, output: 0.4},
     context_tokens: 80000, max_output_tokens: 4000}
  - {name: frontier, base_url: "http://127.0.0.1:9/v1", tier: frontier, price: {input: 10, output: 30},
     context_tokens: 80000, max_output_tokens: 4000}
teams: [{name: search}]
client_keys: [{name: ci, key: '${CI_KEY}', team: search, tradeoff: 0}]
routing: {observe: %s}
events: {folder: log, pseudonym_key: '${PSEUDONYMS}'}
"""
SECRETS = {"CI_KEY": "sk-0123456789abcdef", "PSEUDONYMS": "pseudonyms-0123456789"}
ASKED = 25


@pytest.fixture(params=["true", "false"])
def settings(tmp_path: Path, request: pytest.FixtureRequest) -> Settings:
    """A gateway that observes, and one that does not; a knob at 0 would choose the cheapest."""
    path = tmp_path / "penstock.yaml"
    path.write_text(CONFIG % request.param, encoding="utf-8")
    return load_settings(path, SECRETS)


def completion(_: UpstreamRequest) -> FakeReply:
    """Answer with a completion of 50 tokens in and 200 out."""
    return FakeReply(body=b'{"id":"c1","choices":[]}', usage=Usage(50, 200))


async def test_observed_requests_are_answered_as_asked_and_reported_as_projected(
    settings: Settings, tmp_path: Path
) -> None:
    """The model that is named answers; what the cheap one would have saved is projected, where the gateway observes."""
    async with running(settings, completion) as gateway:
        for number in range(ASKED):
            message = {"role": "user", "content": f"Solve {number} x + {number * number} = 12 step by step."}
            answer = await gateway.chat(
                model="frontier", messages=[message], headers={"authorization": f"Bearer {SECRETS['CI_KEY']}"}
            )
            assert answer.status == 200
            assert answer.headers["x-penstock-model"] == "frontier"
    assert [sent.deployment.name for sent in gateway.upstream.requests] == ["frontier"] * ASKED
    report = savings_report(read_events(tmp_path / "log"), dimensions=("team",), draws=100)
    if not settings.routing.observe:
        assert report.sections == ()
        return
    section = report.sections[0]
    assert (section.kind, section.total.requests, section.total.conversations) == (Kind.PROJECTED, ASKED, ASKED)
    assert section.total.cost_usd * 1000 == ASKED * (50 * 10 + 200 * 30) / 1000
    assert section.total.moved_share == 1.0
    assert section.total.saving_share is not None
    assert 0.5 < section.total.saving_share.low < section.total.saving_share.high < 1.0
    assert [figure.label for figure in section.by["team"]] == ["search"]
