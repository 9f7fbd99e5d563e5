"""``penstock demo`` as a newcomer runs it: a process, its output, its exit code, its decisions."""

from __future__ import annotations

import http.client
import json
import os
import re
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import openai
import pytest

from penstock_gateway.demo.prompts import DEMO_PROMPTS
from penstock_gateway.demo.simulated_models import SIMULATED_MODELS

DEMO = [sys.executable, "-m", "penstock_gateway", "demo", "--port", "0"]
PREDICT = [str(Path(sys.executable).with_name("penstock-train")), "predict"]


def _run(*options: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [*DEMO, *options], capture_output=True, text=True, timeout=100, check=False, env={**os.environ, "NO_COLOR": "1"}
    )


@pytest.fixture(scope="module")
def document() -> dict[str, Any]:
    """What ``penstock demo --once --json`` writes."""
    done = _run("--once", "--json")
    assert done.returncode == 0, done.stderr
    found: dict[str, Any] = json.loads(done.stdout)
    return found


@pytest.fixture
def running_demo() -> Iterator[tuple[subprocess.Popen[str], str, list[str]]]:
    """A demonstration that stays up, its base URL, and the lines it has written."""
    process = subprocess.Popen(DEMO, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    assert process.stdout is not None
    lines = []
    for line in process.stdout:
        lines.append(line)
        if "Ctrl-C" in line:
            break
    try:
        yield process, next(re.findall(r"http://127\.0\.0\.1:\d+/v1", line)[0] for line in lines), lines
    finally:
        process.kill()
        process.wait()
        process.stdout.close()


def test_demo_run_once_uses_at_least_three_tiers(document: dict[str, Any]) -> None:
    """Under its default settings the shipped router spreads the prompts over three tiers or more."""
    assert len(document["decisions_by_tier"]) >= 3
    assert sum(document["decisions_by_tier"].values()) == len(DEMO_PROMPTS) == 40
    assert [row["prompt"] for row in document["prompts"]] == list(DEMO_PROMPTS)


def test_demo_run_once_names_every_figure_as_predicted_or_simulated(document: dict[str, Any]) -> None:
    """The document says what is simulated, and totals carry that word in their names."""
    assert "SIMULATED" in document["note"]
    for total in document["totals"]:
        assert set(total) == {"strategy", "predicted_quality", "predicted_cost_usd", "simulated_cost_usd"}
    assert [total["strategy"] for total in document["totals"]][:2] == ["routed", "always sim-frontier"]
    assert document["totals"][-1]["strategy"] == "always sim-small"


def test_demo_decisions_of_every_prompt_equal_those_of_penstock_train_predict(
    document: dict[str, Any], tmp_path: Path
) -> None:
    """The gateway and the trainer's command decide alike, prompt by prompt, with the same reason."""
    prices = {
        model.tier: [float(model.input_usd_per_million_tokens), float(model.output_usd_per_million_tokens)]
        for model in SIMULATED_MODELS.values()
    }
    (tmp_path / "prices.json").write_text(json.dumps(prices))
    default_tier = SIMULATED_MODELS[document["default_model"]].tier
    options = ["--default-arm", default_tier, "--tradeoff", str(document["tradeoff"]), "--json"]
    files = ["--prices", str(tmp_path / "prices.json")]
    done = subprocess.run(
        [*PREDICT, *options, *files, "--", *DEMO_PROMPTS], capture_output=True, text=True, timeout=100, check=False
    )
    assert done.returncode == 0, done.stderr
    rows = [json.loads(line) for line in done.stdout.splitlines()]
    assert [(row["arm"], row["reason"]) for row in rows] == [
        (row["tier"], row["reason"]) for row in document["prompts"]
    ]


def test_demo_in_a_pipe_is_plain_text_with_totals() -> None:
    """A pipe gets one line per prompt, no escape codes, and the totals; the exit code is 0."""
    done = _run("--once", "--tradeoff", "cost")
    assert done.returncode == 0, done.stderr
    assert "\x1b" not in done.stdout
    assert len(re.findall(r"^ {0,2}\d+ {2}.* sim-", done.stdout, flags=re.MULTILINE)) == 40
    assert "Trade-off: cost." in done.stdout
    assert re.search(r"^always sim-frontier +\d\.\d{3} +\d+\.\d{6} +\d+\.\d{6}$", done.stdout, flags=re.MULTILINE)


@pytest.mark.parametrize("options", [["--tradeoff", "best"], ["--port", "70000"]])
def test_demo_with_a_wrong_option_fails_in_one_sentence(options: list[str]) -> None:
    """A user's mistake gives an exit code and a sentence, never a traceback."""
    done = _run("--once", *options)
    assert done.returncode != 0
    assert "Traceback" not in done.stderr
    assert done.stderr.strip()


def test_demo_that_stays_up_answers_clients_until_interrupted(
    running_demo: tuple[subprocess.Popen[str], str, list[str]],
) -> None:
    """The printed lines name the right port, the official client works there, and Ctrl-C ends it with code 0."""
    process, base_url, lines = running_demo
    text = "".join(lines)
    assert f"curl -i {base_url}/chat/completions" in text
    assert f'OpenAI(base_url="{base_url}"' in text
    with openai.OpenAI(base_url=base_url, api_key="unused", max_retries=0) as client:
        reply = client.chat.completions.create(model="auto", messages=[{"role": "user", "content": "Hello"}])
    assert (reply.choices[0].message.content or "").startswith("[Simulated answer from sim-")
    process.send_signal(signal.SIGINT)
    assert process.wait(timeout=30) == 0
    with pytest.raises(ConnectionError):
        http.client.HTTPConnection("127.0.0.1", int(base_url.split(":")[2].split("/")[0]), timeout=2).connect()


def test_demo_asked_to_terminate_ends_cleanly(
    running_demo: tuple[subprocess.Popen[str], str, list[str]],
) -> None:
    """SIGTERM, as a process manager sends it, is treated like Ctrl-C."""
    process, _, _ = running_demo
    process.terminate()
    assert process.wait(timeout=30) == 0
