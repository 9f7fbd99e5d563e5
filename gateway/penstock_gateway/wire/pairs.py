"""Which translator stands between a client and a provider.

Owns the table of pairs and the way through chat completions for those that have none of their own. Read
`find_translator`.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import cache
from types import MappingProxyType

from penstock_gateway.upstream.protocol import JsonObject
from penstock_gateway.wire.chat_over_messages import ChatOverMessages
from penstock_gateway.wire.chat_over_responses import ChatOverResponses
from penstock_gateway.wire.completions_over_chat import CompletionsOverChat
from penstock_gateway.wire.formats import WireFormat
from penstock_gateway.wire.messages_over_chat import MessagesOverChat
from penstock_gateway.wire.responses_over_chat import ResponsesOverChat
from penstock_gateway.wire.server_sent import events_of
from penstock_gateway.wire.translation import Asked, StreamTranslator, TranslatedRequest, Translator

_PAIRS: Mapping[tuple[WireFormat, WireFormat], Translator] = MappingProxyType(
    {
        (translator.front, translator.back): translator
        for translator in (
            MessagesOverChat(),
            ResponsesOverChat(),
            CompletionsOverChat(),
            ChatOverMessages(),
            ChatOverResponses(),
        )
    }
)


@cache
def find_translator(front: WireFormat, back: WireFormat) -> Translator | None:
    """Return what translates between a client's format and a provider's.

    Parameters
    ----------
    front, back : WireFormat

    Returns
    -------
    Translator or None
        None when they are the same, and for a pair that cannot be translated (`deployments.wire_between` offers none).
    """
    if front is back:
        return None
    if (front, back) in _PAIRS:
        return _PAIRS[front, back]
    first, second = _PAIRS.get((front, WireFormat.CHAT)), _PAIRS.get((WireFormat.CHAT, back))
    return None if first is None or second is None else ThroughChat(first, second)


class ThroughChat:
    """A pair of formats by way of chat completions; fulfils `Translator`.

    Parameters
    ----------
    first : Translator
        From the client's format to chat.
    second : Translator
        From chat to the provider's.
    """

    def __init__(self, first: Translator, second: Translator) -> None:
        self.front = first.front
        self.back = second.back
        self._first = first
        self._second = second

    def request(self, fields: JsonObject) -> TranslatedRequest:
        """Translate twice; names of the chat format among the dropped ones are those that it has in between."""
        chat = self._first.request(fields)
        translated = self._second.request(chat.fields)
        return TranslatedRequest(translated.fields, tuple(dict.fromkeys((*chat.dropped, *translated.dropped))))

    def reply(self, body: bytes, asked: Asked) -> bytes:
        """Translate a plain answer twice."""
        return self._first.reply(self._second.reply(body, asked), asked)

    def stream(self, asked: Asked) -> StreamTranslator:
        """Return the translator of a stream, event by event through both."""
        return _StreamThroughChat(self._first.stream(asked), self._second.stream(asked))


class _StreamThroughChat:
    """One stream through two translators."""

    def __init__(self, first: StreamTranslator, second: StreamTranslator) -> None:
        self._first = first
        self._second = second

    def feed(self, name: str, data: bytes) -> bytes:
        """Take one event of the provider."""
        return self._forward(self._second.feed(name, data))

    def finish(self) -> bytes:
        """End both streams."""
        return self._forward(self._second.finish()) + self._first.finish()

    def _forward(self, block: bytes) -> bytes:
        return b"".join(self._first.feed(name, data) for name, data in events_of(block)) if block else b""
