"""Chat clients in front of providers of Anthropic's Messages API.

Owns the class; each direction has its file: `chat_over_messages_request` (with `_turns`, `_parts`, `_tools` and
`claude_generations`), `chat_over_messages_reply`, `chat_over_messages_stream`. Read `ChatOverMessages`.
"""

from __future__ import annotations

from penstock_gateway.upstream.protocol import JsonObject
from penstock_gateway.wire.chat_over_messages_reply import translate_reply
from penstock_gateway.wire.chat_over_messages_request import translate_request
from penstock_gateway.wire.chat_over_messages_stream import MessageEvents
from penstock_gateway.wire.formats import WireFormat
from penstock_gateway.wire.translation import Asked, StreamTranslator, TranslatedRequest


class ChatOverMessages:
    """Front chat completions, back Messages; fulfils `translation.Translator`."""

    def __init__(self) -> None:
        self.front = WireFormat.CHAT
        self.back = WireFormat.MESSAGES

    def request(self, fields: JsonObject) -> TranslatedRequest:
        """Translate a chat request; see `chat_over_messages_request.translate_request`."""
        return translate_request(fields)

    def reply(self, body: bytes, asked: Asked) -> bytes:
        """Translate a Message; see `chat_over_messages_reply.translate_reply`."""
        return translate_reply(body, asked)

    def stream(self, asked: Asked) -> StreamTranslator:
        """Return the translator of one stream of a Message."""
        return MessageEvents(asked)
