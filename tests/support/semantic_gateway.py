"""A gateway whose cache answers other wordings, by a rule that a test makes: no artifact, no second encoder to load.

Every prompt has the same vector, so every stored one is a neighbour; the rule's model and the guards decide. Read
`semantic`.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Sequence
from itertools import product
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from penstock_cache.entries import FloatArray
from penstock_cache.judging import EntryJudge
from penstock_cache.rule import RULE_SCHEMA, DecisionRule, OperatingPoint, PairModel, RuleManifest, rule_feature_set
from penstock_gateway import wiring
from penstock_gateway.caching import start
from penstock_gateway.chooser import RoutingParts
from penstock_gateway.money.usage import Usage
from penstock_gateway.upstream.protocol import UpstreamRequest
from support.fakes import FakeArtifact, FakeEncoderService, FakeReply
from support.running_gateway import Running, eventually

ANN, BOB = ({"authorization": f"Bearer {letter * 32}"} for letter in "ab")
ENVIRONMENT = {"A": "a" * 32, "B": "b" * 32}
CONFIG = """
version: 1
deployments:
  - {name: small, model: up-small, base_url: "http://127.0.0.1:9/v1", tier: small,
     price: {input: 100, output: 400}, context_tokens: 8000, max_output_tokens: 4000,
     abilities: [streaming, tools, vision, json]}
routing: {artifact: default}
client_keys:
  - {name: ann, key: "${A}", cache_category: faq, cache_categories: [code], cache_under_load: true}
  - {name: bob, key: "${B}", cache_category: faq}
cache:
  mode: semantic
  audit: {rate: 1, max_usd_per_day: 100}
  categories: {faq: {false_hit_budget: 0.3, max_stale_seconds: 600, ttl_seconds: 60}}
"""
USAGE = Usage(input_tokens=100, output_tokens=20)

WORDINGS: Sequence[str] = tuple(
    f"{opening} {verb} the capital of France{end}"
    for end, opening, verb in product(
        ("", " please", " now please", " for me", " for me please", " for us", " for us please"),
        ("Please", "Kindly", "Do", "Could you", "Could you please", "Would you", "Would you please", "Can you"),
        ("tell me", "name", "say", "state"),
    )
)
"""Distinct prompts that ask the same thing, so that none is an exact repeat."""


class TextVerifier:
    """A second encoder by which equal texts have cosine 1 and all others about 0."""

    async def encode(self, text: str) -> FloatArray:
        """Return a direction that depends on the text alone."""
        seed = int.from_bytes(hashlib.sha256(text.encode()).digest()[:8], "big")
        vector = np.random.default_rng(seed).normal(size=256).astype(np.float32)
        return vector / np.linalg.norm(vector)

    async def aclose(self) -> None:
        """Nothing to close."""


def rule(
    model: PairModel = lambda rows: np.full(len(rows), 0.9, np.float32),
    points: Sequence[tuple[float, float | None]] = ((0.1, 0.85), (0.3, 0.8), (0.6, 0.6)),
) -> DecisionRule:
    """Return a rule with operating points (budget, threshold) for all categories."""
    manifest = RuleManifest(
        schema_version=RULE_SCHEMA,
        feature_set=rule_feature_set(),
        encoder_id="encoder-of-tests",
        verifier_id="verifier-of-tests",
        model_sha256="",
        candidates=4,
        min_cosine=0.5,
        min_plausible=0.1,
        plausible_miss_rate=0.0,
        word_weights={},
        unknown_word_weight=0.0,
        points=[OperatingPoint("*", "semantic", budget, threshold, 100, 50, 1, budget) for budget, threshold in points],
        data=[],
        versions={},
    )
    return DecisionRule(manifest, model)


def semantic(monkeypatch: pytest.MonkeyPatch, decided_by: DecisionRule | None = None) -> None:
    """Have gateways that are started from now on judge by a rule, beside an encoder for which all prompts are alike."""
    artifact = FakeArtifact({"small": 0.9})
    artifact.manifest.encoder = SimpleNamespace(id="encoder-of-tests", dimension=2)
    artifact.manifest.categories = ()
    verifier = TextVerifier()
    used = decided_by or rule()

    async def judge(*_: object) -> tuple[Any, Any, None]:
        return EntryJudge(used, start.verifier_of(verifier)), verifier, None  # type: ignore[arg-type]

    parts = RoutingParts(artifact, FakeEncoderService())  # type: ignore[arg-type]
    monkeypatch.setattr(wiring, "load_routing", lambda *_: (parts, None))
    monkeypatch.setattr(start, "_judge", judge)


class Model:
    """A model that gives one answer, which a test may change; or does what `reply` says."""

    def __init__(self, answer: str = "Paris") -> None:
        self.answer = answer
        self.reply: Callable[[UpstreamRequest], FakeReply] = self._plain
        self.audits = 0
        self.last_audit: UpstreamRequest | None = None

    def __call__(self, request: UpstreamRequest) -> FakeReply:
        """Answer a request; the ones of audits are told apart by their id."""
        if request.request_id.startswith("audit-"):
            self.audits += 1
            self.last_audit = request
        return self.reply(request)

    def _plain(self, _: UpstreamRequest) -> FakeReply:
        return FakeReply(body=completion(self.answer), usage=USAGE)


def completion(text: str, finish_reason: str = "stop") -> bytes:
    """Return a completion object."""
    choice = {"index": 0, "message": {"role": "assistant", "content": text}, "finish_reason": finish_reason}
    return json.dumps(
        {"id": "c", "object": "chat.completion", "created": 1, "model": "m", "choices": [choice]}
    ).encode()


async def ask(gateway: Running, text: str, headers: dict[str, str] = ANN, **fields: Any) -> dict[str, str]:
    """Ask one thing and return the response's headers, with the answer under ``answer`` unless it streams."""
    response = await gateway.chat(
        headers=headers, messages=[{"role": "user", "content": text}], **fields
    )  # fmt: skip
    content = await response.read()
    assert response.status == 200, content
    shown = dict(response.headers)
    if not fields.get("stream"):
        shown["answer"] = json.loads(content)["choices"][0]["message"]["content"]
    return shown


async def primed(gateway: Running, headers: dict[str, str] = ANN) -> None:
    """Ask twice, after which the second wording may answer others: a context that was seen once may not."""
    desk = gateway.app.pipeline.cache
    assert desk is not None
    before = len(desk.services.cache.parts.mirror)
    for count, text in enumerate(("What is the capital of France?", "Which city is the capital of France?"), start=1):
        await ask(gateway, text, headers)
        await eventually(lambda count=count: len(desk.services.cache.parts.mirror) >= before + count)


async def metrics(gateway: Running) -> str:
    """Return the metrics page, which takes a key here."""
    return await (await gateway.http.get(f"{gateway.url}/metrics", headers=ANN)).text()


def sample(text: str, name: str, **labels: str) -> float:
    """Return one sample of a metrics page; 0 when it is not there."""
    for line in text.splitlines():
        head, _, value = line.rpartition(" ")
        metric, _, rest = head.partition("{")
        if metric == name and all(f'{key}="{label}"' in rest for key, label in labels.items()):
            return float(value)
    return 0.0
