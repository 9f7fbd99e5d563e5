"""Chat clients in front of providers of OpenAI's Responses API.

Owns the class; each direction has its file: `chat_over_responses_request` (with `_items`), `chat_over_responses_reply`,
`chat_over_responses_stream`. Read `ChatOverResponses`.
"""

from __future__ import annotations

from penstock_gateway.upstream.protocol import JsonObject
from penstock_gateway.wire.chat_over_responses_reply import translate_reply
from penstock_gateway.wire.chat_over_responses_request import translate_request
from penstock_gateway.wire.chat_over_responses_stream import ResponseEvents
from penstock_gateway.wire.formats import WireFormat
from penstock_gateway.wire.translation import Asked, StreamTranslator, TranslatedRequest


class ChatOverResponses:
    """Front chat completions, back Responses; fulfils `translation.Translator`."""

    def __init__(self) -> None:
        self.front = WireFormat.CHAT
        self.back = WireFormat.RESPONSES

    def request(self, fields: JsonObject) -> TranslatedRequest:
        """Translate a chat request; see `chat_over_responses_request.translate_request`."""
        return translate_request(fields)

    def reply(self, body: bytes, asked: Asked) -> bytes:
        """Translate a response; see `chat_over_responses_reply.translate_reply`."""
        return translate_reply(body, asked)

    def stream(self, asked: Asked) -> StreamTranslator:
        """Return the translator of one stream of a response."""
        return ResponseEvents(asked)
