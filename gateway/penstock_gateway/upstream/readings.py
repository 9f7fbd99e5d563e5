"""What is read out of a provider's answers, by wire format.

Owns the table and nothing else. Read `READINGS`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from types import MappingProxyType

from penstock_gateway.money.usage import Usage
from penstock_gateway.upstream.messages_scanner import MessagesScanner, read_messages_reply
from penstock_gateway.upstream.responses_scanner import ResponsesScanner, read_responses_reply
from penstock_gateway.upstream.sse import EventScanner
from penstock_gateway.upstream.usage import read_reply
from penstock_gateway.wire.embeddings import read_embeddings_reply
from penstock_gateway.wire.formats import WireFormat


@dataclass(frozen=True, slots=True)
class Reading:
    """How answers of one format are read.

    Attributes
    ----------
    new_scanner : callable
        Makes what cuts and reads a stream; its argument is whether chunks with nothing but usage are left out.
    read_reply : callable
        Returns usage and bytes of text of a plain answer, as `upstream.usage.read_reply` does.
    answer_begins : bytes
        What an answer's text comes after in a plain body.
    """

    new_scanner: Callable[[bool], EventScanner]
    read_reply: Callable[[bytes], tuple[Usage | None, int]]
    answer_begins: bytes


def _chat_scanner(hides_usage: bool) -> EventScanner:
    return EventScanner(hides_usage=hides_usage)


def _messages_scanner(_: bool) -> EventScanner:
    return MessagesScanner(hides_usage=False)


def _responses_scanner(_: bool) -> EventScanner:
    return ResponsesScanner(hides_usage=False)


_CHAT = Reading(_chat_scanner, read_reply, b'"choices"')

READINGS: Mapping[WireFormat, Reading] = MappingProxyType(
    {
        WireFormat.CHAT: _CHAT,
        WireFormat.COMPLETIONS: _CHAT,
        WireFormat.MESSAGES: Reading(_messages_scanner, read_messages_reply, b'"content"'),
        WireFormat.RESPONSES: Reading(_responses_scanner, read_responses_reply, b'"output"'),
        WireFormat.EMBEDDINGS: Reading(_chat_scanner, read_embeddings_reply, b'"data"'),
    }
)
"""By the format of the provider."""
