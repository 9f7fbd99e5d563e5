"""The contract of a translator: a client's wire format on one side, a provider's on the other.

A translator is stateless; what it has to remember of one stream lives in the `StreamTranslator` that it makes. Nothing
here does I/O. Requests are judged, routed and cached as chat completions, so every format has a translator to it, and a
provider that speaks another format is reached by one from it; `pairs.find_translator` composes the rest. What the chat
format has no place for travels in it under the names below, so that a way through it and back loses nothing.

Extensions of a chat message that translators write and read (each is also what other software uses):

``reasoning_content`` (str, in messages and deltas)
    Visible reasoning or thinking text (DeepSeek, vLLM).
``thinking_blocks`` (list, in assistant messages and deltas)
    Anthropic's ``thinking`` and ``redacted_thinking`` blocks as they came, signatures included (litellm).
``reasoning_items`` (list, in assistant messages and deltas)
    The ``reasoning`` items of a Responses answer as they came, ``encrypted_content`` included.
``cache_control`` (object, in content parts, tools and messages)
    Anthropic's cache mark as it came (litellm, OpenRouter).
``citations`` (list, in text content parts and assistant messages)
    Anthropic's citations as they came; web addresses among them are also ``annotations``.

Read `Translator`.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

import msgspec

from penstock_gateway.upstream.protocol import JsonObject
from penstock_gateway.wire.formats import WireFormat

NOT_TRANSLATABLE = "not_translatable"
"""Code of the `InvalidRequest` for what cannot be left out without another answer (``n: 2`` for a provider that has no
such thing). What can be left out is, and its name is in `TranslatedRequest.dropped`."""


@dataclass(frozen=True, slots=True)
class TranslatedRequest:
    """A request in the provider's format.

    Attributes
    ----------
    fields : JsonObject
        Values that both formats share are the client's own bytes.
    dropped : tuple of str
        What the provider's format has no place for, by path in the client's format without indexes, each once, in the
        order of appearance: ``("top_k", "messages.content.cache_control")``. Fields that the translator does not know
        are among them; a field whose value is null is not.
    """

    fields: JsonObject
    dropped: tuple[str, ...] = ()


class Asked(msgspec.Struct, frozen=True, gc=False):
    """What a reply's translation may depend on.

    Attributes
    ----------
    fields : JsonObject
        The request in the client's format, as it came.
    id : str
        Of this answer; unique. Letters, digits, ``-`` and ``_``. Used where the provider's own id cannot be.
    created : int
        UNIX seconds.
    wants_usage : bool
        The client wants the usage of a stream where its format leaves it out otherwise
        (``stream_options.include_usage``).
    """

    fields: JsonObject
    id: str
    created: int
    wants_usage: bool = True


class StreamTranslator(Protocol):
    """Turns one stream of a provider into one of the client's format."""

    def feed(self, name: str, data: bytes) -> bytes:
        """Take one event and return the events it becomes, none or several.

        Parameters
        ----------
        name : str
            The event's; empty when it has none.
        data : bytes
            JSON that `upstream.sse`'s scanner for the format has accepted, or ``[DONE]``. An event of a kind that is
            not known, or with fields of other types than usual, is skipped or read as far as it goes: never an
            exception.
        """
        ...

    def finish(self) -> bytes:
        """Return what ends the client's stream, after the provider's has ended in good order."""
        ...


class Translator(Protocol):
    """One pair of formats.

    Attributes
    ----------
    front : WireFormat
        The client's.
    back : WireFormat
        The provider's.
    """

    front: WireFormat
    back: WireFormat

    def request(self, fields: JsonObject) -> TranslatedRequest:
        """Translate a request from the client's format to the provider's.

        The model's name is passed on as it is. Time is linear in the size.

        Raises
        ------
        InvalidRequest
            It is not valid in the client's format (codes as in `request_body`), or `NOT_TRANSLATABLE`; ``param`` is
            the field's path in the client's format.
        """
        ...

    def reply(self, body: bytes, asked: Asked) -> bytes:
        """Translate a successful plain answer from the provider's format to the client's.

        Raises
        ------
        ValueError
            It is not an answer in the provider's format; says what it is instead, as in "a body without choices".
        """
        ...

    def stream(self, asked: Asked) -> StreamTranslator:
        """Return the translator of one successful streamed answer, from the provider's format to the client's."""
        ...
