"""The memory of prompts that were read: the same prompt of the same tenant is encoded once, nothing else is saved."""

from __future__ import annotations

import json
from typing import Any, cast

import numpy as np
import pytest

from penstock_gateway.chooser import ArmChooser, RoutingParts
from penstock_gateway.prompt_readings import PromptReading, ReadingMemory, reading_digest
from penstock_gateway.request_body import ChatRequest, parse_chat_request
from penstock_routers.errors import EncoderError
from support.fakes import FakeArtifact, FakeEncoderService, deployment, price


class CountingEncoder(FakeEncoderService):
    """Counts what it is asked."""

    def __init__(self, failure: Exception | None = None) -> None:
        super().__init__(failure)
        self.asked: list[str] = []

    async def encode(self, text: str) -> Any:
        """Count, then encode."""
        self.asked.append(text)
        return await super().encode(text)


def chooser(encoder: CountingEncoder) -> ArmChooser:
    """Return a chooser over fakes."""
    parts = RoutingParts(cast(Any, FakeArtifact({"small": 0.8, "large": 0.8})), cast(Any, encoder))
    arms = (deployment("small", price=price("0.1", "0.4")), deployment("large", price=price("10", "30")))
    return ArmChooser(arms, default_arm="large", baseline="large", tradeoff="balanced", parts=parts)


def request(text: str) -> ChatRequest:
    """Return a parsed request for ``auto``."""
    return parse_chat_request(json.dumps({"model": "auto", "messages": [{"role": "user", "content": text}]}).encode())


async def test_prompt_that_was_read_is_not_encoded_again() -> None:
    """The same decision, without the encoder."""
    encoder = CountingEncoder()
    arms = chooser(encoder)
    first = await arms.choose(request("hello"), None, tenant="ann")
    second = await arms.choose(request("hello"), None, tenant="ann")
    assert encoder.asked == ["hello"]
    assert (first.chosen, first.reason, first.candidates) == (second.chosen, second.reason, second.candidates)


async def test_prompt_of_another_tenant_is_read_anew() -> None:
    """How quick an answer is must not tell what somebody else has asked; without a tenant nothing is remembered."""
    encoder = CountingEncoder()
    arms = chooser(encoder)
    for tenant in ("ann", "bob", None, None):
        await arms.read(request("hello"), tenant)
    assert encoder.asked == ["hello"] * 4


async def test_prompt_under_another_artifact_is_read_anew() -> None:
    """What one router said is nothing to another."""
    encoder = CountingEncoder()
    arms = chooser(encoder)
    await arms.read(request("hello"), "ann")
    other = arms.with_artifact(
        cast(Any, FakeArtifact({"small": 0.1, "large": 0.9})), cast(Any, encoder), {"small": "small", "large": "large"}
    )
    await other.read(request("hello"), "ann")
    assert encoder.asked == ["hello", "hello"]


async def test_prompt_that_could_not_be_read_is_tried_again() -> None:
    """A failure is not remembered."""
    encoder = CountingEncoder(EncoderError("full", code="encoder_queue_full"))
    arms = chooser(encoder)
    for _ in range(2):
        assert (await arms.read(request("hello"), "ann")).estimate is None
    assert encoder.asked == ["hello", "hello"]


def test_memory_is_bounded_and_keeps_what_is_asked_for() -> None:
    """The prompt that was asked for longest ago goes first."""
    memory = ReadingMemory(2)
    for digest in (b"a", b"b"):
        memory.keep(digest, PromptReading(np.zeros(4, np.float32)))
    assert memory.find(b"a") is not None
    memory.keep(b"c", PromptReading(np.zeros(4, np.float32)))
    assert [memory.find(digest) is not None for digest in (b"a", b"b", b"c")] == [True, False, True]
    assert len(memory) == 2


@pytest.mark.parametrize(("one", "other"), [(("a", "bc"), ("ab", "c")), (("1:a", "b"), ("1", "a:b"))])
def test_memory_does_not_confuse_tenant_and_text(one: tuple[str, str], other: tuple[str, str]) -> None:
    """Where one ends and the other begins is part of the digest."""
    assert reading_digest(*one) != reading_digest(*other)
    assert reading_digest(*one) == reading_digest(*one)
