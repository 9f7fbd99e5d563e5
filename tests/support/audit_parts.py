"""An auditor and a steering with everything around them, without a gateway. Read `Parts`."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable
from decimal import Decimal
from typing import Any

import numpy as np
from prometheus_client import CollectorRegistry

from penstock_cache.audit import AuditAccount
from penstock_cache.entries import FloatArray
from penstock_cache.judging import EntryJudge
from penstock_cache.load_policy import LoadPolicy, ModelCapacity
from penstock_cache.lookups import Hit
from penstock_gateway.caching.agreement import AnswerComparison
from penstock_gateway.caching.audit_accounts import OwnAccount
from penstock_gateway.caching.audit_books import AuditBooks, BookKeeper
from penstock_gateway.caching.auditor import AuditCase, Auditor
from penstock_gateway.caching.model_calls import ModelCalls
from penstock_gateway.caching.start import policies_of
from penstock_gateway.caching.steering import CategorySteering, SearchTerms
from penstock_gateway.chooser import ArmChooser
from penstock_gateway.metrics_cache import CacheMetrics
from penstock_gateway.money.usage import Usage
from penstock_gateway.request_body import parse_chat_request
from penstock_gateway.settings_cache import CacheSettings
from support.cache_documents import document
from support.fakes import FakeReply, FakeUpstream, deployment
from support.semantic_gateway import TextVerifier, completion, rule

SMALL = deployment("small", max_output_tokens=1000)
SETTINGS = CacheSettings.model_validate({
    "mode": "semantic",
    "audit": {"rate": 1.0},
    "categories": {"faq": {"false_hit_budget": 0.3, "max_stale_seconds": 600.0}},
})  # fmt: skip
USAGE = Usage(input_tokens=1000, output_tokens=100)  # costs 0.0012 USD at the fake price


def plain_reply(text: str = "Paris") -> FakeReply:
    """Return a reply with a completion."""
    return FakeReply(body=completion(text), usage=USAGE)


def request(**fields: Any) -> Any:
    """Return a parsed chat request."""
    body = {"model": "small", "messages": [{"role": "user", "content": "Where?"}], **fields}
    return parse_chat_request(json.dumps(body).encode())


def case(number: int = 0, terms: SearchTerms | None = None, **fields: Any) -> AuditCase:
    """Return a hit on an entry that says Paris."""
    chooser = ArmChooser([SMALL], default_arm="small", baseline="small", tradeoff="balanced", parts=None)
    asked = request(**fields)
    decision = chooser.physical(asked, SMALL)
    entry = document(number, body=completion("Paris"))
    return AuditCase(asked, decision, entry, "Where?", "faq", terms or SearchTerms(0.3))


async def verify(texts: Any) -> FloatArray:
    """The fake second encoder."""
    return np.stack([await TextVerifier().encode(text) for text in texts])


class Parts:
    """An auditor with everything around it."""

    def __init__(
        self, reply: Callable[..., FakeReply], *, rate: float = 1.0, limit: str = "10", policies: Any = None
    ) -> None:
        self.upstream = FakeUpstream(reply)
        self.metrics = CacheMetrics(CollectorRegistry())
        self.keeper = BookKeeper(None, AuditBooks(), lambda _: None)
        self.load = LoadPolicy({"small": ModelCapacity(slow_latency_seconds=3.0)})
        self.now = 1_000.0
        self.judge = EntryJudge(rule(), verify)
        self.steering = CategorySteering(
            policies or policies_of(SETTINGS),
            self.judge.rule,
            self.load,
            SETTINGS,
            self.keeper,
            self.metrics,
            lambda: self.now,
        )
        self.account = AuditAccount(Decimal(limit), state=self.keeper.books.account)
        self.auditor = Auditor(
            ModelCalls(lambda: {"small": SMALL}, {"fake": self.upstream}),
            AnswerComparison(verify, 0.85),
            self.steering,
            self.judge,
            OwnAccount(self.account),
            rate=rate,
            metrics=self.metrics,
            clock=lambda: self.now,
            secret=b"secret",
        )

    async def done(self) -> None:
        """Wait for all audits."""
        while self.auditor._tasks:
            await asyncio.gather(*self.auditor._tasks)
            await asyncio.sleep(0)

    def count(self, outcome: str) -> float:
        """Return how many audits had an outcome."""
        value: float = self.metrics.audits.labels("faq", outcome)._value.get()
        return value


def hit() -> Hit:
    """Return a semantic hit."""
    return Hit(document(), "hit-semantic", 1.0)
