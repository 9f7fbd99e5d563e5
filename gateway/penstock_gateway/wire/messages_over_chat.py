"""Anthropic's clients in front of providers of chat completions.

Owns the class; each direction has its file: `messages_over_chat_request` (with `_turns`), `messages_over_chat_reply`,
`messages_over_chat_stream`. Read `MessagesOverChat`.
"""

from __future__ import annotations

from penstock_gateway.upstream.protocol import JsonObject
from penstock_gateway.wire.formats import WireFormat
from penstock_gateway.wire.messages_over_chat_reply import translate_reply
from penstock_gateway.wire.messages_over_chat_request import translate_request
from penstock_gateway.wire.messages_over_chat_stream import ChatChunks
from penstock_gateway.wire.translation import Asked, StreamTranslator, TranslatedRequest


class MessagesOverChat:
    """Front Messages, back chat completions; fulfils `translation.Translator`."""

    def __init__(self) -> None:
        self.front = WireFormat.MESSAGES
        self.back = WireFormat.CHAT

    def request(self, fields: JsonObject) -> TranslatedRequest:
        """Translate a request; see `messages_over_chat_request.translate_request`."""
        return translate_request(fields)

    def reply(self, body: bytes, asked: Asked) -> bytes:
        """Translate a completion; see `messages_over_chat_reply.translate_reply`."""
        return translate_reply(body, asked)

    def stream(self, asked: Asked) -> StreamTranslator:
        """Return the translator of one stream of chunks."""
        return ChatChunks(asked)
