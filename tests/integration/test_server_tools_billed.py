"""What a provider's own tools cost is on the bill, or the bill says that something is missing."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from penstock_gateway.events.segments import PATTERN
from penstock_gateway.settings import load_settings
from penstock_gateway.upstream.messages_scanner import read_messages_reply
from penstock_gateway.upstream.protocol import UpstreamRequest
from support.fakes import FakeReply
from support.running_gateway import running

CONFIG = """
deployments:
  - {name: priced, model: m, base_url: "http://127.0.0.1:9/v1", wire_formats: [messages],
     price: {input: 1, output: 2, web_search: 0.01}}
  - {name: unpriced, model: m, base_url: "http://127.0.0.1:9/v1", wire_formats: [messages],
     price: {input: 1, output: 2}}
routing: {artifact: none, default_arm: priced}
events: {folder: log}
"""


def answer(tool: str | None) -> dict[str, Any]:
    """Return a message for which the provider ran a tool twice."""
    calls = [{"type": "server_tool_use", "id": f"srvtoolu_{n}", "name": tool, "input": {}} for n in (1, 2) if tool]
    return {
        "id": "msg_1",
        "type": "message",
        "role": "assistant",
        "model": "m",
        "content": [*calls, {"type": "text", "text": "So."}],
        "stop_reason": "end_turn",
        "usage": {"input_tokens": 3, "output_tokens": 2},
    }


@pytest.mark.parametrize(
    ("model", "tool", "cost", "is_marked"),
    [
        ("priced", None, "0.000007", False),
        ("priced", "web_search", "0.020007", False),
        ("unpriced", "web_search", "0.000007", True),
        ("priced", "code_execution", "0.000007", True),
        ("priced", "web_fetch", "0.000007", False),
    ],
)
async def test_bill_of_an_answer_with_tools_of_the_provider_is_complete_or_says_that_it_is_not(
    tmp_path: Path, model: str, tool: str | None, cost: str, is_marked: bool
) -> None:
    """A search is charged where its price is known; what has none marks the cost, and is counted and in the log."""
    path = tmp_path / "penstock.yaml"
    path.write_text(CONFIG, encoding="utf-8")
    body = json.dumps(answer(tool)).encode()

    def reply(_: UpstreamRequest) -> FakeReply:
        return FakeReply(body=body, usage=read_messages_reply(body)[0])

    async with running(load_settings(path, {}), reply) as gateway:
        asked = {"model": model, "max_tokens": 9, "messages": [{"role": "user", "content": "x"}]}
        headers = {"x-penstock-include-cost": "true"}
        response = await gateway.http.post(f"{gateway.url}/v1/messages", json=asked, headers=headers)
        usage = (await response.json())["usage"]
        assert (usage["cost_usd"], usage["is_cost_estimated"]) == (cost, is_marked)
        counted = f'penstock_unpriced_requests_total{{model="{model}"}} 1.0' in await gateway.metrics()
        assert counted is is_marked
    events = [json.loads(line) for file in (tmp_path / "log").glob(PATTERN) for line in file.open("rb")]
    [outcome] = [event for event in events if event["type"] == "outcome"]
    found = outcome["usage"]
    assert (found["web_searches"], found["other_tool_calls"]) == (
        2 * (tool == "web_search"),
        2 * (tool == "code_execution"),
    )
    assert (outcome["cost_usd"], outcome["is_cost_estimated"]) == (cost, is_marked)
