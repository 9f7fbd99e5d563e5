"""What the suites over every implementation share: a real store is given the time that a busy machine takes."""

from __future__ import annotations

import pytest

from penstock_gateway import redis_multiplexed


@pytest.fixture(autouse=True)
def _connecting_may_take_long(monkeypatch: pytest.MonkeyPatch) -> None:
    """A second is right in service; here a machine that stood still for longer is no failure of the store."""
    monkeypatch.setattr(redis_multiplexed, "CONNECT_SECONDS", 30.0)
