"""Plain fakes shared by tests: deployments, an upstream that answers from a list, a router with fixed numbers."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Callable, Sequence
from dataclasses import dataclass, field
from decimal import Decimal
from types import SimpleNamespace
from typing import Any

import numpy as np

from penstock_gateway.deployments import TIERS, Ability, Deployment
from penstock_gateway.money.prices import Price
from penstock_gateway.money.usage import Usage
from penstock_gateway.upstream.protocol import UpstreamRequest
from penstock_routers.estimates import Estimate
from penstock_routers.manifest import Guard
from penstock_routers.policy import Tradeoff

ALL_ABILITIES = frozenset(Ability)


def price(input_usd: str = "1", output_usd: str = "2") -> Price:
    """Return a price whose cached and reasoning parts equal the rest."""
    return Price(Decimal(input_usd), Decimal(input_usd), Decimal(output_usd), Decimal(output_usd))


def deployment(name: str, **changes: Any) -> Deployment:
    """Return a capable deployment named after its tier, with changes."""
    values: dict[str, Any] = {
        "name": name,
        "model": f"upstream-{name}",
        "adapter": "fake",
        "base_url": "http://127.0.0.1:9/v1",
        "tier": name if name in TIERS else None,
        "arm": name,
        "price": price(),
        "context_tokens": 8192,
        "max_output_tokens": 4096,
        "abilities": ALL_ABILITIES,
        "provider": "fake",
    }
    return Deployment(**{**values, **changes})


class FakeReply:
    """An upstream reply with a fixed body or fixed event blocks."""

    def __init__(
        self,
        *,
        status: int = 200,
        body: bytes = b"{}",
        blocks: Sequence[bytes | Exception] = (),
        usage: Usage | None = None,
        content_type: str = "application/json",
    ) -> None:
        self.status = status
        self.content_type = content_type
        self.headers: tuple[tuple[bytes, bytes], ...] = ((b"x-ratelimit-remaining-requests", b"7"),)
        self.usage: Usage | None = None
        self.output_bytes = 0
        self.stream_error: str | None = None
        self.is_closed = False
        self._body = body
        self._blocks = blocks
        self._usage = usage

    async def read(self) -> bytes:
        """Return the body; the usage is known from then on."""
        self.usage = self._usage
        self.output_bytes = len(self._body)
        return self._body

    async def events(self) -> AsyncGenerator[bytes, None]:
        """Yield the blocks; an exception among them is raised."""
        for block in self._blocks:
            if isinstance(block, Exception):
                raise block
            self.output_bytes += len(block)
            if b"[DONE]" in block:
                self.usage = self._usage
            yield block

    async def aclose(self) -> None:
        """Remember that it was closed."""
        self.is_closed = True


@dataclass
class FakeUpstream:
    """Answers every request with what `reply` returns, and remembers the requests."""

    reply: Callable[[UpstreamRequest], FakeReply]
    requests: list[UpstreamRequest] = field(default_factory=list)
    replies: list[FakeReply] = field(default_factory=list)
    is_closed: bool = False

    async def send(self, request: UpstreamRequest) -> FakeReply:
        """Return the next reply, or raise what the function raises."""
        self.requests.append(request)
        made = self.reply(request)
        self.replies.append(made)
        return made

    async def aclose(self) -> None:
        """Remember that it was closed."""
        self.is_closed = True


class FakeEncoderService:
    """An encoder that returns one vector, or fails."""

    def __init__(self, failure: Exception | None = None) -> None:
        self.failure = failure
        self.texts: list[str] = []

    async def encode(self, text: str) -> Any:
        """Return a unit vector."""
        self.texts.append(text)
        if self.failure is not None:
            raise self.failure
        return np.array([1.0, 0.0], dtype=np.float32)

    async def aclose(self) -> None:
        """Nothing to close."""


class FakeArtifact:
    """A router artifact with one fixed estimate."""

    id = "sha256:" + "0" * 64
    short_id = "0" * 12
    fused = None
    reads_context = False

    def __init__(
        self,
        quality: dict[str, float],
        *,
        gain: dict[str, float] | None = None,
        gain_se: float = 0.0,
        novelty: float = 0.1,
        novelty_max: float = 0.5,
        output_tokens: float = 100.0,
        category: str = "general",
        category_shares: dict[str, float] | None = None,
    ) -> None:
        self.quality = quality
        self.gain = gain
        self.gain_se = gain_se
        self.novelty = novelty
        self.novelty_max = novelty_max
        self.output_tokens = output_tokens
        self.category = category
        self.category_shares = category_shares or {}
        self.manifest = SimpleNamespace(
            id=self.id,
            arms=tuple(quality),
            family="knn",
            encoder=SimpleNamespace(id="fake-encoder"),
            calibration=SimpleNamespace(id="fake-calibration"),
            parent=None,
            guard=Guard(2.0, novelty_max, 0.75, "fixed"),
            categories=("coding", "general"),
        )

    def estimate(self, prompt_vector: Any, features: Any, *, reference_arm: str, context: Any = None) -> Estimate:
        """Return the fixed numbers, with gains against the reference unless given."""
        arms = tuple(self.quality)
        gains = self.gain or {arm: self.quality[arm] - self.quality[reference_arm] for arm in arms}
        count = len(arms)
        return Estimate.of(
            arms,
            reference_arm,
            quality=[self.quality[arm] for arm in arms],
            quality_se=[0.01] * count,
            gain=[gains[arm] for arm in arms],
            gain_se=[self.gain_se] * count,
            output_tokens=[self.output_tokens] * count,
            novelty=self.novelty,
            category=self.category,
            shares=self.category_shares,
        )

    def is_novel(self, estimate: Estimate) -> bool:
        """Compare with the bound."""
        return self.novelty > self.novelty_max

    def cost_scale_usd(self, input_price: float, output_price: float) -> float:
        """Return the cost of 100 tokens in and 100 out."""
        return (100.0 * input_price + 100.0 * output_price) / 1e6

    def tradeoff(self, value: str | float) -> Tradeoff:
        """Map the names to plain weights and a number to a falling weight."""
        weights = {"cost": 1.0, "balanced": 0.2, "quality": 0.0}
        if isinstance(value, str):
            return Tradeoff(value, weights[value], 1.0)
        return Tradeoff(str(value), float("inf") if value == 0 else (1.0 - value) / value, 1.0)
