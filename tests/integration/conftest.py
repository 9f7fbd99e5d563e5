"""What the tests of the direct upstream share: a provider on loopback that misbehaves on demand, and the transport."""

from __future__ import annotations

from collections.abc import AsyncIterator

import pytest

from penstock_gateway.upstream.direct import DirectUpstream
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
