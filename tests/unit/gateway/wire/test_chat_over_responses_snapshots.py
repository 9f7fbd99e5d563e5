"""Chat clients in front of Responses providers: written-down requests, replies and streams."""

from __future__ import annotations

from pathlib import Path

import pytest

from penstock_gateway.wire.chat_over_responses import ChatOverResponses
from support.wire_snapshots import cases, check

TRANSLATOR = ChatOverResponses()


@pytest.mark.parametrize("path", cases("chat_over_responses"))
def test_snapshot_becomes_what_is_written_down(path: Path) -> None:
    """Each request, reply and stream becomes the expected one, and what is lost is named."""
    check(TRANSLATOR, path)
