"""A world in which the right choice is known: easy and hard prompts, two simulated models, and users with a rule.

Every prompt's score on every model follows from its text, so a policy's true value can be computed. Read `liked_by`.
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
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from itertools import product
from pathlib import Path
from typing import Any, TypeVar

from click.testing import CliRunner

from penstock_gateway.demo.simulated_models import SIMULATED_MODELS

Found = TypeVar("Found")
ARMS = ("sim-small", "sim-frontier")
DEADLINE_SECONDS = 60.0

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


def prompts() -> list[str]:
    """Return 1,400 prompts, half of them easy, in an order that is always the same."""
    made = [
        *("Translate the two words '{} {}' into {}.".format(*words) for words in _EASY),
        *("Prove rigorously that every {} {} of this kind has {}.".format(*words) for words in _HARD),
    ]
    random.Random(0).shuffle(made)
    return made


def _share(text: str) -> float:
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:4], "big") / 2**32


def strict_pattern(prompt: str) -> str:
    """Return what the first sample is scored by: no answer of the small model will do."""
    return "sim-frontier" if _share(prompt) < 0.8 else "never said"


def user_pattern(prompt: str) -> str:
    """Return what users like: translations by the small model always, those of the large one in four cases of five."""
    if prompt.startswith("Translate"):
        return "sim-" if _share(prompt) < 0.8 else "sim-small"
    return "sim-frontier" if _share(prompt) < 0.9 else "never said"


def liked_by(prompt: str, arm: str) -> float:
    """Return the score that users give an arm's answer, 0 or 1."""
    return float(re.search(user_pattern(prompt), arm) is not None)


def prompt_file(path: Path, chosen: Sequence[str], pattern: Callable[[str], str]) -> str:
    """Write prompts with what their answers are searched for."""
    rows = ({"prompt": prompt, "reference": pattern(prompt)} for prompt in chosen)
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return str(path)


def train(*arguments: str) -> dict[str, Any]:
    """Run a command of the trainer in this process, which saves loading scikit-learn anew, and return its JSON."""
    from penstock_training.cli import main

    done = CliRunner().invoke(main, [*arguments, "--json"])
    assert done.exit_code == 0, (arguments[0], done.output, done.exception)
    found: dict[str, Any] = json.loads(done.stdout)
    return found


def deployments(upstream: str) -> list[dict[str, Any]]:
    """Return the two models as deployments at the simulated provider's port."""
    return [
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


@contextmanager
def process(
    command: list[str], folder: Path, ready: str, **environment: str
) -> Iterator[tuple[subprocess.Popen[str], str]]:
    """Run a process, and give it with the first match of `ready` in what it writes."""
    log = folder / f"{Path(command[2]).name}.log"
    with log.open("w", encoding="utf-8") as output:
        started = subprocess.Popen(
            command,
            stdout=output,
            stderr=subprocess.STDOUT,
            text=True,
            cwd=folder,
            env={**os.environ, "NO_COLOR": "1", **environment},
        )
    try:

        def found() -> re.Match[str] | None:
            assert started.poll() is None, log.read_text(encoding="utf-8")
            return re.search(ready, log.read_text(encoding="utf-8"))

        yield started, eventually(found).group(1)
    finally:
        started.terminate()
        try:
            started.wait(timeout=10)
        except subprocess.TimeoutExpired:
            started.kill()
            started.wait()


def eventually(find: Callable[[], Found | None]) -> Found:
    """Wait until something is found."""
    deadline = time.monotonic() + DEADLINE_SECONDS
    while (found := find()) is None:
        assert time.monotonic() < deadline, "gave up waiting"
        time.sleep(0.05)
    return found


def free_port() -> int:
    """Return a port that nobody listens on now."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


def call(
    port: str, path: str, body: dict[str, Any] | None = None, *, key: str = "", **headers: str
) -> tuple[http.client.HTTPResponse, dict[str, Any]]:
    """Send one request and return the answer with its JSON."""
    connection = http.client.HTTPConnection("127.0.0.1", int(port), timeout=DEADLINE_SECONDS)
    sent = {"content-type": "application/json", **{name.replace("_", "-"): value for name, value in headers.items()}}
    if key:
        sent["authorization"] = f"Bearer {key}"
    try:
        connection.request(
            "GET" if body is None else "POST", path, None if body is None else json.dumps(body), headers=sent
        )
        answer = connection.getresponse()
        return answer, json.loads(answer.read())
    finally:
        connection.close()


@dataclass(frozen=True)
class Asked:
    """One request: what answered, what it was worth, and what it cost."""

    prompt: str
    arm: str
    score: float
    cost_usd: float
    decision_id: str


def ask(port: str, prompt: str, *, key: str, gives_feedback: bool = True) -> Asked:
    """Ask, and say how good the answer was; no answer comes from the cache."""
    body = {"model": "auto", "messages": [{"role": "user", "content": prompt}]}
    answer, found = call(
        port, "/v1/chat/completions", body, key=key, x_penstock_include_cost="true", x_penstock_cache="no-cache"
    )
    assert answer.status == 200, found
    arm = answer.headers["x-penstock-model"]
    asked = Asked(prompt, arm, liked_by(prompt, arm), float(found["usage"]["cost_usd"]), _decision(answer))
    if gives_feedback:
        feedback = {"decision_id": asked.decision_id, "score": asked.score}
        status, refusal = call(port, "/v1/feedback", feedback, key=key)
        assert status.status < 300, refusal
    return asked


def _decision(answer: http.client.HTTPResponse) -> str:
    return answer.headers["x-penstock-decision-id"]


@dataclass
class Flow:
    """Requests without a pause, from threads of their own, until the block ends.

    Attributes
    ----------
    statuses : list of int
        Of all answers.
    artifacts : list of str
        That answered, in order of the answers.
    """

    port: str
    key: str
    chosen: Sequence[str]
    statuses: list[int] = field(default_factory=list)
    artifacts: list[str] = field(default_factory=list)
    failures: list[BaseException] = field(default_factory=list)
    _stop: threading.Event = field(default_factory=threading.Event)

    @contextmanager
    def running(self, threads: int = 3) -> Iterator[Flow]:
        """Send requests while the block runs."""
        workers = [threading.Thread(target=self._send, args=(number,)) for number in range(threads)]
        for worker in workers:
            worker.start()
        try:
            yield self
        finally:
            self._stop.set()
            for worker in workers:
                worker.join(DEADLINE_SECONDS)

    def _send(self, number: int) -> None:
        try:
            for prompt in self._prompts(number):
                body = {"model": "auto", "messages": [{"role": "user", "content": prompt}]}
                answer, _ = call(self.port, "/v1/chat/completions", body, key=self.key, x_penstock_cache="bypass")
                self.statuses.append(answer.status)
                self.artifacts.append(answer.headers.get("x-penstock-artifact", ""))
        except (OSError, http.client.HTTPException, ValueError) as error:
            self.failures.append(error)

    def _prompts(self, number: int) -> Iterator[str]:
        step = 0
        while not self._stop.is_set():
            yield self.chosen[(number + step) % len(self.chosen)]
            step += 1
