"""The official JavaScript clients, and the Vercel AI SDK, get through the gateway what they get without it.

Each client runs the same script twice, straight at the providers and through the gateway; the two outputs are compared.
"""

from __future__ import annotations

import json
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest

from support import client_script as script
from support.wire_gateway import Way, Ways

pytestmark = [pytest.mark.slow, pytest.mark.timeout(300)]
SCRIPTS = Path(__file__).parents[1] / "support" / "javascript"
RUN_SECONDS = 100


@pytest.fixture(scope="module")
def folder(node_folder: Path) -> Path:
    """The folder with the installed clients, and the scripts in it."""
    for source in SCRIPTS.glob("*.mjs"):
        shutil.copy(source, node_folder)
    words = {
        "question": script.QUESTION,
        "pixel": script.PIXEL,
        "pixelType": script.PIXEL_TYPE,
        "pixelUrl": script.PIXEL_URL,
        "longQuestion": script.LONG_QUESTION,
        "weather": script.WEATHER_SCHEMA,
        "city": script.CITY_SCHEMA,
    }
    (node_folder / "script.json").write_text(json.dumps(words), encoding="utf-8")
    return node_folder


def run(folder: Path, name: str, way: Way, *arguments: str) -> dict[str, Any]:
    """Return what a script prints."""
    done = subprocess.run(
        ["node", name, way.url, way.key, *arguments],
        cwd=folder,
        capture_output=True,
        text=True,
        timeout=RUN_SECONDS,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    found: dict[str, Any] = json.loads(done.stdout)
    return found


def chat_gist(completion: Any) -> Any:
    message, usage = completion["choices"][0]["message"], completion["usage"]
    calls = [
        (call["function"]["name"], json.loads(call["function"]["arguments"]))
        for call in message.get("tool_calls") or []
    ]
    counts = (usage["prompt_tokens"], usage["completion_tokens"])
    return message["content"], calls, completion["choices"][0]["finish_reason"], counts


def response_gist(response: Any) -> Any:
    items = []
    for item in response["output"]:
        if item["type"] == "function_call":
            items.append((item["name"], json.loads(item["arguments"])))
        else:
            items.append([part["text"] for part in item.get("content") or item.get("summary")])
    return items, response["status"], response["usage"]["total_tokens"]


def message_gist(message: Any) -> Any:
    blocks = [
        (block["type"], block.get("text"), block.get("thinking"), block.get("name"), block.get("input"))
        for block in message["content"]
    ]
    return blocks, message["stop_reason"], message["usage"]["input_tokens"], message["usage"]["output_tokens"]


def test_openai_node_client_gets_what_the_provider_sends(ways: Ways, folder: Path) -> None:
    """Every answer, event and error of OpenAI's formats is the same object, and a stream that is left is stopped."""
    direct = run(folder, "openai_client.mjs", ways.direct, "gpt-4o", "gpt-4o")
    ways.upstream.wait_until_left()
    ways.upstream.wait_until_left()
    through = run(folder, "openai_client.mjs", ways.gateway, "gpt-4o", "gpt-4o")
    for part, expected in direct.items():
        assert through[part] == expected, part
    assert set(direct["chat"]) == {"text", "tools", "parallel-tools", "structured", "image", "long"}
    assert direct["parsed"] == {"city": "Zürich", "population": 443037}
    ways.upstream.wait_until_left()
    ways.upstream.wait_until_left()


def test_openai_node_client_is_told_the_same_by_another_format(ways: Ways, folder: Path) -> None:
    """In front of Anthropic's API every answer says and counts the same, and errors are the same exceptions."""
    direct = run(folder, "openai_client.mjs", ways.direct, "gpt-4o", "gpt-4o")
    through = run(folder, "openai_client.mjs", ways.gateway, "claude-sonnet-4-5", "claude-sonnet-4-5")
    for scenario in direct["chat"]:
        assert chat_gist(through["chat"][scenario]) == chat_gist(direct["chat"][scenario])
        assert through["chatFinal"][scenario].get("content") == direct["chatFinal"][scenario].get("content")
    for scenario in direct["responses"]:
        assert response_gist(through["responses"][scenario]) == response_gist(direct["responses"][scenario])
        ends = [found["responsesEvents"][scenario][-1] for found in (through, direct)]
        assert response_gist(ends[0]["response"]) == response_gist(ends[1]["response"])
    for errors in ("chatErrors", "responsesErrors"):
        assert [(error["kind"], error["status"]) for error in through[errors]] == [
            (error["kind"], error["status"]) for error in direct[errors]
        ]
    for _ in range(4):
        ways.upstream.wait_until_left()


def test_anthropic_node_client_gets_what_the_provider_sends(ways: Ways, folder: Path) -> None:
    """Every answer, event and error of Anthropic's is the same object, and a stream that is left is stopped."""
    direct = run(folder, "anthropic_client.mjs", ways.direct, "claude-sonnet-4-5")
    through = run(folder, "anthropic_client.mjs", ways.gateway, "claude-sonnet-4-5")
    for part, expected in direct.items():
        assert through[part] == expected, part
    assert len(direct["messages"]) == 7
    for _ in range(2):
        ways.upstream.wait_until_left()


@pytest.mark.parametrize("server", ["chat-only", "responses-only"])
def test_anthropic_node_client_is_told_the_same_by_another_format(ways: Ways, folder: Path, server: str) -> None:
    """In front of OpenAI's formats every message says and counts the same, plain and streamed."""
    direct = run(folder, "anthropic_client.mjs", ways.direct, "claude-sonnet-4-5")
    through = run(folder, "anthropic_client.mjs", ways.gateway, server)
    for scenario, message in direct["messages"].items():
        assert message_gist(through["messages"][scenario]) == message_gist(message)
        assert message_gist(through["final"][scenario]) == message_gist(message)
    assert [error["kind"] for error in through["errors"]] == [error["kind"] for error in direct["errors"]]
    for _ in range(2):
        ways.upstream.wait_until_left()


@pytest.mark.parametrize(
    ("kind", "own", "server"),
    [
        pytest.param("chat", "gpt-4o", "gpt-4o", id="chat"),
        pytest.param("chat", "gpt-4o", "claude-sonnet-4-5", id="chat-over-messages"),
        pytest.param("responses", "gpt-4o", "gpt-4o", id="responses"),
        pytest.param("unstored", "gpt-4o", "chat-only", id="responses-over-chat"),
        pytest.param("messages", "claude-sonnet-4-5", "claude-sonnet-4-5", id="messages"),
        pytest.param("messages", "claude-sonnet-4-5", "chat-only", id="messages-over-chat"),
    ],
)
def test_vercel_ai_client_comes_to_what_it_does_without_the_gateway(
    ways: Ways, folder: Path, kind: str, own: str, server: str
) -> None:
    """Runs with tools, streams, structured output and errors come to the same, in front of every format."""
    direct = run(folder, "vercel_ai_client.mjs", ways.direct, kind, own)
    through = run(folder, "vercel_ai_client.mjs", ways.gateway, kind, server)
    assert through["runs"] == direct["runs"]
    assert through["streams"] == direct["streams"]
    assert through["structured"] == direct["structured"] == {"city": "Zürich", "population": 443037}
    assert [(error["kind"], error["status"]) for error in through["errors"]] == [
        (error["kind"], error["status"]) for error in direct["errors"]
    ]
    if own == server:
        assert through["errors"] == direct["errors"]
    assert [len(direct["runs"][scenario]) for scenario in ("text", "tools", "parallel-tools")] == [1, 2, 2]
    for _ in range(2):
        ways.upstream.wait_until_left()
