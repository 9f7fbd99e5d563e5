"""Chat clients in front of Messages providers: written-down requests, replies and streams."""

from __future__ import annotations

from pathlib import Path

import pytest

from penstock_gateway.wire.chat_over_messages import ChatOverMessages
from support.wire_snapshots import cases, check

TRANSLATOR = ChatOverMessages()


@pytest.mark.parametrize("path", cases("chat_over_messages"))
def test_snapshot_becomes_what_is_written_down(path: Path) -> None:
    """Each request, reply and stream becomes the expected one, and what is lost is named."""
    check(TRANSLATOR, path)
