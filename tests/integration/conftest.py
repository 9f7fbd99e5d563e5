"""What integration tests share: a provider on loopback that misbehaves on demand, a transport, a Redis of their own."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator

import pytest

from penstock_gateway.upstream.direct import DirectUpstream
from support.redis_server import NOT_INSTALLED, redis_binary
from support.redis_variants import ControlledRedis, controlled_redis
from support.replay_upstream import ReplayUpstream, running_replay_upstream


@pytest.fixture
async def provider() -> AsyncIterator[ReplayUpstream]:
    """A provider of recorded answers."""
    async with running_replay_upstream() as server:
        yield server


@pytest.fixture
async def upstream() -> AsyncIterator[DirectUpstream]:
    """A transport with its default limits, closed after the test."""
    transport = DirectUpstream()
    yield transport
    await transport.aclose()


@pytest.fixture
def own_redis() -> Iterator[ControlledRedis]:
    """A Redis that the test may do anything to."""
    binary = redis_binary()
    if binary is None:
        pytest.skip(NOT_INSTALLED)
    with controlled_redis(binary) as started:
        yield started
