"""Commands that ask a running gateway, and those that need none: what they print and when they refuse."""

from __future__ import annotations

import asyncio
import json
import re
import subprocess
import sys
from pathlib import Path

import pytest

from penstock_gateway.cli import run
from penstock_gateway.money.usage import Usage
from penstock_gateway.settings import Settings, load_settings
from support.fakes import FakeReply
from support.running_gateway import running

CONFIG = """
version: 1
deployments:
  - {name: small, base_url: "http://127.0.0.1:9/v1", tier: small, price: {input: 1, output: 2}}
  - {name: large, base_url: "http://127.0.0.1:9/v1", tier: large, price: {input: 5, output: 9}}
routing: {artifact: none}
"""
PLAIN = FakeReply(body=b'{"choices": []}', usage=Usage(input_tokens=10, output_tokens=5))
BUNDLED = Path(__file__).resolve().parents[2] / "onnx_models" / "default-router"


def configured(folder: Path) -> Settings:
    """Return settings with two deployments."""
    path = folder / "penstock.yaml"
    path.write_text(CONFIG)
    return load_settings(path, {})


async def test_explain_says_why_and_what_it_came_to(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """The id of the answer's header is enough."""
    async with running(configured(tmp_path), lambda _: PLAIN) as gateway:
        answer = await gateway.chat(model="auto")
        decision_id = answer.headers["x-penstock-decision-id"]
        await answer.read()
        assert await asyncio.to_thread(run, ["explain", decision_id, "--url", gateway.url]) == 0
        text = capsys.readouterr().out
        assert re.search(r"^large \(abstained", text)
        assert "small" in text
        assert "came to: status 200, cost_usd 0.000095, input tokens 10, output tokens 5" in text
        assert await asyncio.to_thread(run, ["explain", decision_id, "--url", gateway.url, "--json"]) == 0
        assert json.loads(capsys.readouterr().out)["outcome"]["status"] == 200


@pytest.mark.parametrize(
    ("decision_id", "status", "said"),
    [
        ("dec_" + "0" * 24, 1, "[decision_not_found]"),
        ("../admin", 2, "begins with dec_"),
    ],
)
async def test_explain_of_what_is_not_there_says_so(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], decision_id: str, status: int, said: str
) -> None:
    """In one line; and no other path of the gateway can be asked for."""
    async with running(configured(tmp_path), lambda _: PLAIN) as gateway:
        assert await asyncio.to_thread(run, ["explain", decision_id, "--url", gateway.url]) == status
    assert said in capsys.readouterr().err


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_completion_script_completes_both_programs(shell: str, capsys: pytest.CaptureFixture[str]) -> None:
    """What is written names both programs and the variables that make them answer."""
    assert run(["completion", shell]) == 0
    script = capsys.readouterr().out
    assert "_PENSTOCK_COMPLETE" in script
    assert "_PENSTOCK_TRAIN_COMPLETE" in script


def test_completion_of_a_prefix_lists_the_commands() -> None:
    """The program answers as the script asks it to."""
    environment = {"_PENSTOCK_COMPLETE": "bash_complete", "COMP_WORDS": "penstock art", "COMP_CWORD": "1"}
    done = subprocess.run(
        [sys.executable, "-m", "penstock_gateway"],
        env=environment,
        capture_output=True,
        text=True,
        timeout=60,
        check=True,
    )
    assert done.stdout.strip() == "plain,artifact"


def test_artifact_show_and_verify_of_the_bundled_router(capsys: pytest.CaptureFixture[str]) -> None:
    """Its id is the one that the gateway shows."""
    assert run(["artifact", "show", str(BUNDLED), "--json"]) == 0
    shown = json.loads(capsys.readouterr().out)
    assert shown["arms"]
    assert run(["artifact", "verify", str(BUNDLED), "--digest", shown["id"], "--json"]) == 0
    assert json.loads(capsys.readouterr().out) == {"ok": True, "id": shown["id"], "is_trusted": True}
    assert run(["artifact", "verify", str(BUNDLED)]) == 0
    assert "who made it was not checked" in capsys.readouterr().out


def test_artifact_verify_of_another_digest_or_nothing_is_refused(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """With the code that the gateway would refuse it with."""
    assert run(["artifact", "verify", str(BUNDLED), "--digest", "sha256:" + "0" * 64, "--json"]) == 1
    assert json.loads(capsys.readouterr().out)["code"] == "artifact_other_digest"
    assert run(["artifact", "show", str(tmp_path)]) == 1
    assert "(artifact_missing)" in capsys.readouterr().err


def test_config_group_is_another_name_for_the_two_commands(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """`config check` and `config schema`."""
    path = tmp_path / "penstock.yaml"
    path.write_text(CONFIG)
    assert run(["config", "check", str(path), "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["ok"] is True
    assert run(["config", "schema"]) == 0
    assert json.loads(capsys.readouterr().out)["properties"]["deployments"]
