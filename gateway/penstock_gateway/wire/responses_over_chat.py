"""OpenAI Responses clients in front of providers of chat completions.

Owns the class; each direction has its files: `responses_over_chat_request` (with `_items`, `_parts` and `_tools`),
`responses_over_chat_reply`, `responses_over_chat_stream` (with `_chunks` and `_output`); `responses_over_chat_shape`
and `_reasoning` are what both answers share. Read `ResponsesOverChat`.
"""

from __future__ import annotations

from penstock_gateway.upstream.protocol import JsonObject
from penstock_gateway.wire.formats import WireFormat
from penstock_gateway.wire.responses_over_chat_reply import translate_reply
from penstock_gateway.wire.responses_over_chat_request import translate_request
from penstock_gateway.wire.responses_over_chat_stream import ResponseEvents
from penstock_gateway.wire.translation import Asked, StreamTranslator, TranslatedRequest


class ResponsesOverChat:
    """Front Responses, back chat completions; fulfils `translation.Translator`."""

    def __init__(self) -> None:
        self.front = WireFormat.RESPONSES
        self.back = WireFormat.CHAT

    def request(self, fields: JsonObject) -> TranslatedRequest:
        """Translate a Responses request; see `responses_over_chat_request.translate_request`."""
        return translate_request(fields)

    def reply(self, body: bytes, asked: Asked) -> bytes:
        """Translate a chat completion; see `responses_over_chat_reply.translate_reply`."""
        return translate_reply(body, asked)

    def stream(self, asked: Asked) -> StreamTranslator:
        """Return the translator of one stream of chat chunks."""
        return ResponseEvents(asked)
