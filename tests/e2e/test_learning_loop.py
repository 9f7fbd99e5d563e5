"""The learning loop of ``docs/learning.md`` from the first prompt to the second artifact, with a gateway that stays up.

The provider is the simulated one in a process of its own, the gateway a real ``penstock serve``; the trainer's commands
run in this process, which saves loading scikit-learn nine times.
"""

from __future__ import annotations

import hashlib
import http.client
import json
import os
import random
import re
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from itertools import product
from pathlib import Path
from typing import Any, TypeVar

import pytest
from click.testing import CliRunner

from penstock_gateway.demo.simulated_models import SIMULATED_MODELS
from penstock_training.cli import main

Found = TypeVar("Found")
ARMS = ("sim-small", "sim-frontier")
DEADLINE_SECONDS = 60.0
SAMPLE, TRAFFIC, HOLDOUT = 200, 500, 300

_EASY = product(
    ("happy", "broken", "golden", "quiet", "heavy", "tiny", "bitter", "ancient", "hollow", "bright"),
    ("horse", "window", "garden", "spoon", "mountain", "letter", "river", "candle", "basket", "jacket"),
    ("French", "Spanish", "German", "Italian", "Polish", "Swedish", "Dutch"),
)
_HARD = product(
    ("compact", "finite", "abelian", "bounded", "regular", "complete", "convex", "nilpotent", "separable", "ordered"),
    (
        "group",
        "metric space",
        "integral",
        "polynomial ring",
        "matrix",
        "series",
        "manifold",
        "lattice",
        "graph",
        "field",
    ),
    ("a fixed point", "a unique limit", "no torsion", "a basis", "an inverse", "rank two", "a maximal ideal"),
)
PROMPTS = [
    *("Translate the two words '{} {}' into {}.".format(*words) for words in _EASY),
    *("Prove rigorously that every {} {} of this kind has {}.".format(*words) for words in _HARD),
]
random.Random(0).shuffle(PROMPTS)


def _share(text: str) -> float:
    """A number in [0, 1) that depends on the text only."""
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:4], "big") / 2**32


def strict_pattern(prompt: str) -> str:
    """What the first sample is scored by: no answer of the small model will do."""
    return "sim-frontier" if _share(prompt) < 0.8 else "never said"


def user_pattern(prompt: str) -> str:
    """What users like: translations by the small model always, those of the large one in four cases of five."""
    if prompt.startswith("Translate"):
        return "no language model ran" if _share(prompt) < 0.8 else "sim-small"
    return "sim-frontier" if _share(prompt) < 0.9 else "never said"


def _prompt_file(path: Path, prompts: Sequence[str], pattern: Callable[[str], str]) -> str:
    rows = ({"prompt": prompt, "reference": pattern(prompt)} for prompt in prompts)
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return str(path)


def _train(*arguments: str, code: int = 0) -> dict[str, Any]:
    """Run a command of the trainer and return its JSON."""
    done = CliRunner().invoke(main, [*arguments, "--json"])
    assert done.exit_code == code, (arguments[0], done.output, done.exception)
    found: dict[str, Any] = json.loads(done.stdout)
    return found


@contextmanager
def _process(command: list[str], folder: Path, ready: str) -> Iterator[tuple[subprocess.Popen[str], str]]:
    """A process, and the first match of `ready` in what it writes."""
    log = folder / f"{Path(command[2]).name}.log"
    with log.open("w", encoding="utf-8") as output:
        process = subprocess.Popen(
            command, stdout=output, stderr=subprocess.STDOUT, text=True, cwd=folder, env={**os.environ, "NO_COLOR": "1"}
        )
    try:

        def found() -> re.Match[str] | None:
            assert process.poll() is None, log.read_text(encoding="utf-8")
            return re.search(ready, log.read_text(encoding="utf-8"))

        yield process, _eventually(found).group(1)
    finally:
        process.terminate()
        try:
            process.wait(timeout=10)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


def _eventually(find: Callable[[], Found | None]) -> Found:
    deadline = time.monotonic() + DEADLINE_SECONDS
    while (found := find()) is None:
        assert time.monotonic() < deadline, "gave up waiting"
        time.sleep(0.05)
    return found


def _call(port: str, path: str, body: dict[str, Any] | None = None) -> tuple[http.client.HTTPResponse, dict[str, Any]]:
    connection = http.client.HTTPConnection("127.0.0.1", int(port), timeout=DEADLINE_SECONDS)
    try:
        sent = None if body is None else json.dumps(body)
        connection.request("GET" if body is None else "POST", path, sent, {"content-type": "application/json"})
        answer = connection.getresponse()
        return answer, json.loads(answer.read())
    finally:
        connection.close()


def _free_port() -> str:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return str(probe.getsockname()[1])


def _configuration(folder: Path, upstream: str) -> str:
    """Two deployments at the simulated provider, a watched registry, every routed request explored and logged."""
    deployments = [
        {
            "name": name,
            "base_url": f"http://127.0.0.1:{upstream}/v1",
            "tier": SIMULATED_MODELS[name].tier,
            "price": {
                "input": str(SIMULATED_MODELS[name].input_usd_per_million_tokens),
                "output": str(SIMULATED_MODELS[name].output_usd_per_million_tokens),
            },
            "context_tokens": 128_000,
            "max_output_tokens": 8_192,
        }
        for name in ARMS
    ]
    routing = {"artifact": "./registry", "artifact_poll_seconds": 1, "explore": {"rate": 1.0}}
    events = {"folder": "./events", "capture_content": True}
    # JSON is YAML.
    settings = {"version": 1, "deployments": deployments, "routing": routing, "events": events}
    (folder / "penstock.yaml").write_text(json.dumps(settings), encoding="utf-8")
    return str(folder / "penstock.yaml")


def _use(port: str, prompt: str) -> None:
    """Ask, and say how good the answer was."""
    message = {"role": "user", "content": prompt}
    answer, found = _call(port, "/v1/chat/completions", {"model": "auto", "messages": [message]})
    assert answer.status == 200, found
    is_good = re.search(user_pattern(prompt), found["choices"][0]["message"]["content"]) is not None
    feedback = {"decision_id": answer.headers["x-penstock-decision-id"], "score": float(is_good)}
    assert _call(port, "/v1/feedback", feedback)[0].status < 300


@pytest.mark.timeout(300)
def test_learning_loop_from_collected_outcomes_to_an_artifact_fitted_from_logs(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Outcomes make a router, its log a better one, the gate lets it pass, and the gateway swaps while it runs."""
    monkeypatch.chdir(tmp_path)
    sample, traffic = PROMPTS[:SAMPLE], PROMPTS[SAMPLE : SAMPLE + TRAFFIC]
    held_out = PROMPTS[SAMPLE + TRAFFIC : SAMPLE + TRAFFIC + HOLDOUT]
    prices = {
        name: [float(m.input_usd_per_million_tokens), float(m.output_usd_per_million_tokens)]
        for name, m in SIMULATED_MODELS.items()
    }
    Path("prices.json").write_text(json.dumps(prices), encoding="utf-8")
    simulated = [sys.executable, "-m", "penstock_gateway.demo.simulated_upstream", "--port", "0", "--speed", "inf"]
    with _process(simulated, tmp_path, r"http://127\.0\.0\.1:(\d+)/v1") as (_, upstream):
        collect = ["collect", "--arms", ",".join(ARMS), "--scorer", "regex", "--prices", "prices.json", "--yes",
                   "--budget-usd", "50", "--base-url", f"http://127.0.0.1:{upstream}/v1"]  # fmt: skip
        asked = _prompt_file(tmp_path / "asked.jsonl", sample, strict_pattern)
        _train(*collect, "--prompts", asked, "--out", "outcomes.jsonl")
        first = _train("fit", "--outcomes", "outcomes.jsonl", "--out", "first-router")
        measured = _train("evaluate", "first-router", "--outcomes", "outcomes.jsonl", "--html", "first.html",
                          "--robustness", "20")  # fmt: skip
        assert measured["artifacts"][0]["artifact_id"] == first["id"]
        assert "first-router" in Path("first.html").read_text(encoding="utf-8")
        assert _train("publish", "first-router", "--registry", "registry")["published"]
        serve = [sys.executable, "-m", "penstock_gateway", "serve", "--config", _configuration(tmp_path, upstream),
                 "--port", _free_port()]  # fmt: skip
        with _process(serve, tmp_path, r"base URL http://127\.0\.0\.1:(\d+)/v1") as (gateway, port):
            assert _eventually(lambda: _artifact_in_force(port)) == first["id"]
            with ThreadPoolExecutor(8) as users:  # the log is written in batches, so one at a time would wait for each
                list(users.map(lambda prompt: _use(port, prompt), traffic))
            imported = _train("import", "events", "events", "--out", "log.jsonl")
            assert imported["rows"] >= 0.9 * TRAFFIC
            assert not _train("check-outcomes", "log.jsonl")["is_refused"]
            logged = _train("evaluate-logged", "first-router", "--logged", "log.jsonl", "--tradeoff", "balanced")
            assert logged["rows"] == imported["rows"]
            second = _train("fit", "--outcomes", "log.jsonl", "--captured", "--out", "second-router")
            assert _train("artifact", "show", "second-router")["is_from_captured_prompts"]
            asked = _prompt_file(tmp_path / "held-out-prompts.jsonl", held_out, user_pattern)
            _train(*collect, "--prompts", asked, "--order", "random", "--out", "holdout.jsonl")
            published = _train("publish", "second-router", "--registry", "registry", "--holdout", "holdout.jsonl",
                               "--trained-on", "log.jsonl")  # fmt: skip
            assert published["verdict"] == "promote", published
            _eventually(lambda: True if _artifact_in_force(port) == second["id"] else None)
            assert gateway.poll() is None
            answer, _ = _call(port, "/v1/chat/completions",
                              {"model": "auto", "messages": [{"role": "user", "content": held_out[0]}]})  # fmt: skip
            _, decision = _call(port, f"/v1/decisions/{answer.headers['x-penstock-decision-id']}")
            assert decision["artifact"] == second["id"]


def _artifact_in_force(port: str) -> str | None:
    try:
        _, found = _call(port, "/readyz")
    except ConnectionError:
        return None
    artifact: str | None = found["artifact"]
    return artifact
