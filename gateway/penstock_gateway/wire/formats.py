"""The wire formats that clients and providers speak.

Plain values. Read `WireFormat`.
"""

from __future__ import annotations

from enum import StrEnum
from types import MappingProxyType


class WireFormat(StrEnum):
    """How requests and answers are written; the value is what configurations call it."""

    CHAT = "chat"  # OpenAI's chat completions: the format in which requests are judged, routed and cached
    MESSAGES = "messages"  # Anthropic's
    RESPONSES = "responses"  # OpenAI's
    COMPLETIONS = "completions"  # OpenAI's older text completions
    EMBEDDINGS = "embeddings"  # OpenAI's; never translated

    __hash__ = str.__hash__  # an enumeration's own is a Python function, called for every member of a set


PATHS = MappingProxyType(
    {
        WireFormat.CHAT: "/chat/completions",
        WireFormat.MESSAGES: "/messages",
        WireFormat.RESPONSES: "/responses",
        WireFormat.COMPLETIONS: "/completions",
        WireFormat.EMBEDDINGS: "/embeddings",
    }
)
"""Under a base URL that ends with the version: the same for clients and providers."""
