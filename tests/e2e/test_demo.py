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
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import openai
import pytest

from penstock_gateway.demo.prompts import DEMO_PROMPTS
from penstock_gateway.demo.simulated_models import SIMULATED_MODELS

DEMO = [sys.executable, "-m", "penstock_gateway", "demo", "--port", "0"]
PREDICT = [str(Path(sys.executable).with_name("penstock-train")), "predict"]


ONE_PROMPT = [sys.executable, "-c", "from penstock_gateway.demo.run import demo; demo(port=0, prompts=('Hello',))"]

# A shell that is not interactive starts ``command &`` with interrupts ignored, and the command inherits that.
IN_BACKGROUND = ["/bin/sh", "-c", 'trap "" INT; exec "$@"', "sh"]


def _run(*options: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [*DEMO, *options], capture_output=True, text=True, timeout=100, check=False, env={**os.environ, "NO_COLOR": "1"}
    )


@contextmanager
def _running(command: list[str]) -> Iterator[tuple[subprocess.Popen[str], str]]:
    """A demonstration that stays up, and what it has written by then."""
    process = subprocess.Popen([*IN_BACKGROUND, *command], stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    assert process.stdout is not None
    lines = []
    for line in process.stdout:
        lines.append(line)
        if "Ctrl-C" in line:
            break
    try:
        yield process, "".join(lines)
    finally:
        process.kill()
        process.wait()
        process.stdout.close()


@pytest.fixture(scope="module")
def document() -> dict[str, Any]:
    """What ``penstock demo --once --json`` writes."""
    done = _run("--once", "--json")
    assert done.returncode == 0, done.stderr
    found: dict[str, Any] = json.loads(done.stdout)
    return found


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


def test_demo_totals_compare_with_every_model_alone(document: dict[str, Any]) -> None:
    """No rival is left out: the routed run stands beside always using each of the four models."""
    fixed = [f"always {name}" for name in list(SIMULATED_MODELS)[::-1]]
    assert [total["strategy"] for total in document["totals"]] == ["routed", *fixed]


def test_demo_rows_of_the_same_decisions_have_the_same_figures(document: dict[str, Any]) -> None:
    """With the knob at 0 every prompt goes to the cheapest model, so both tables must give that model's figures."""
    cheapest = next(total for total in document["totals"] if total["strategy"] == "always sim-small")
    at_zero = next(point for point in document["same_prompts_at_other_settings"] if point["tradeoff"] == "0")
    assert document["decisions_by_reason"].get("abstained_novel", 0) > 0
    assert at_zero["decisions_by_tier"] == {"small": len(DEMO_PROMPTS)}
    assert at_zero["predicted_quality"] == pytest.approx(cheapest["predicted_quality"])
    assert at_zero["predicted_cost_usd"] == cheapest["predicted_cost_usd"]


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


def test_demo_run_once_shows_a_semantic_hit_and_a_refused_near_miss(document: dict[str, Any]) -> None:
    """The shipped rule answers another wording, refuses the near-miss for a stated reason, and repeats are exact."""
    shown = document["cache"]
    assert shown["semantic"] == "on"
    rows = shown["questions"]
    assert [row["cache"] for row in rows] == ["miss", "miss", "hit-semantic", "miss", "hit-exact"]
    first, hit, refused, repeat = rows[1:]
    assert refused["reason"].startswith("guard:") or refused["reason"] in ("implausible", "below_threshold")
    assert refused["measured_similarity"] > hit["measured_similarity"] > 0.8
    assert hit["measured_age_seconds"] >= 0.0
    assert float(hit["simulated_saving_usd"]) > 0.0 == float(refused["simulated_saving_usd"])
    assert hit["simulated_saving_usd"] == repeat["simulated_saving_usd"]
    assert (hit["model"], repeat["measured_similarity"]) == (first["model"], 1.0)


@pytest.mark.parametrize("options", [["--tradeoff", "bananas"], ["--port", "70000"]])
def test_demo_with_a_wrong_option_is_refused_as_wrong_usage(options: list[str]) -> None:
    """A user's mistake gives exit code 2 and a sentence, before anything runs and without a traceback."""
    done = _run("--once", *options)
    assert done.returncode == 2
    assert done.stdout == ""
    assert "Traceback" not in done.stderr
    assert options[0] in done.stderr


def test_demo_in_a_pipe_prints_plain_text_and_answers_clients_until_interrupted() -> None:
    """A pipe gets plain rows, totals and lines that work when pasted; Ctrl-C ends it with code 0."""
    with _running([*DEMO, "--tradeoff", "cost"]) as (process, text):
        assert "\x1b" not in text
        assert len(re.findall(r"^ {0,2}\d+ {2}.* sim-", text, flags=re.MULTILINE)) == 40
        assert "Trade-off: cost." in text
        assert re.search(r"^Price of delivery to Peru\? +hit-semantic +0\.\d{3} +\d+ +0\.\d{6}$", text, re.MULTILINE)
        assert re.search(
            r"^What does delivery from Peru cost\? +miss, [\w:]+ +0\.\d{3} +- +0\.000000$", text, re.MULTILINE
        )
        assert re.search(r"^always sim-frontier +\d\.\d{3} +\d+\.\d{6} +\d+\.\d{6}$", text, flags=re.MULTILINE)
        base_url = re.findall(r"http://127\.0\.0\.1:\d+/v1", text)[0]
        assert f"curl -i {base_url}/chat/completions" in text
        assert f'OpenAI(base_url="{base_url}"' in text
        pasted = json.loads(re.findall(r"-d '(.*?)'", text, flags=re.DOTALL)[0])
        pasted_lines = text.partition("The gateway stays up.")[2].replace(sys.executable, "python").splitlines()
        assert max(len(line) for line in pasted_lines) <= 80
        with openai.OpenAI(base_url=base_url, api_key="unused", max_retries=0) as client:
            reply = client.chat.completions.with_raw_response.create(**pasted)
        assert (reply.parse().choices[0].message.content or "").startswith("[Simulated answer from sim-")
        assert not reply.headers["x-penstock-reason"].startswith("abstained")
        process.send_signal(signal.SIGINT)
        assert process.wait(timeout=30) == 0
        with pytest.raises(ConnectionError):
            http.client.HTTPConnection("127.0.0.1", int(base_url.split(":")[2].split("/")[0]), timeout=2).connect()


@pytest.mark.parametrize(
    ("path", "body"),
    [
        ("completions", {"prompt": "What is a penstock?"}),
        ("responses", {"input": "What is a penstock?"}),
        ("messages", {"max_tokens": 50, "messages": [{"role": "user", "content": "What is a penstock?"}]}),
    ],
)
def test_demo_answers_every_wire_format_that_can_be_routed(path: str, body: dict[str, Any]) -> None:
    """Whoever tries another client on the demonstration gets an answer, though its models speak chat alone."""
    with _running(ONE_PROMPT) as (_, shown):
        found = re.search(r"http://127\.0\.0\.1:(\d+)/v1", shown)
        assert found is not None
        connection = http.client.HTTPConnection("127.0.0.1", int(found[1]), timeout=20)
        sent = json.dumps({"model": "auto", **body})
        connection.request("POST", f"/v1/{path}", sent, {"content-type": "application/json"})
        reply = connection.getresponse()
        answered = json.loads(reply.read())
        connection.close()
    assert reply.status == 200, answered
    assert "imulated" in json.dumps(answered)


def test_demo_asked_to_terminate_ends_cleanly() -> None:
    """SIGTERM, as a process manager sends it, is treated like Ctrl-C."""
    with _running(ONE_PROMPT) as (process, _):
        process.terminate()
        assert process.wait(timeout=30) == 0
