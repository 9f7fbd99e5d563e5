"""Relaying a stream of OpenAI's Responses API byte for byte while reading what the bill needs; plain replies too.

Owns what its events mean for usage, completeness and errors; `sse` cuts the stream. The events are described at
platform.openai.com/docs/api-reference/responses-streaming. What a response repeats of its request (instructions, tools)
is not decoded. No I/O. Read `ResponsesScanner` first.
"""

from __future__ import annotations

from typing import Any, ClassVar, Final

import msgspec

from penstock_gateway.errors import UpstreamBroken
from penstock_gateway.money.usage import Usage
from penstock_gateway.surrogates import without_halves
from penstock_gateway.upstream.server_tools import ServerTools, tools_in_output
from penstock_gateway.upstream.sse import MAX_EVENT_BYTES, EventScanner
from penstock_gateway.upstream.usage import FAILED_REPLY, decoded_reply, raw_text_bytes, read_usage, text_bytes_in

_ENDS: Final = frozenset({"response.completed", "response.incomplete", "response.failed"})
_FAILED: Final = "response.failed"
_BEGUN: Final = "response.output_item.added"
_OF_ITEMS: Final = frozenset({_BEGUN, "response.output_item.done"})
_NULL: Final = b"null"
_DONE: Final = b"[DONE]"
_NAME: Final = b"event: "
_DATA: Final = b"data: "
_ENDINGS: Final = (_DONE, b"error", *(end.encode() for end in sorted(_ENDS)))


class _Response(msgspec.Struct):
    status: Any = None
    usage: Any = None
    error: Any = None
    service_tier: Any = None
    output: msgspec.Raw = msgspec.Raw()

    @property
    def has_output(self) -> bool:
        return len(self.output) > 0 and bytes(self.output) != _NULL


class _Event(msgspec.Struct):
    type: Any = None
    delta: msgspec.Raw = msgspec.Raw()
    item: msgspec.Raw = msgspec.Raw()
    response: msgspec.Raw = msgspec.Raw()
    code: Any = None
    error: Any = None


class _Part(msgspec.Struct):
    text: msgspec.Raw = msgspec.Raw()
    refusal: msgspec.Raw = msgspec.Raw()


class _Item(msgspec.Struct):
    type: Any = None
    action: Any = None
    name: msgspec.Raw = msgspec.Raw()
    arguments: msgspec.Raw = msgspec.Raw()
    input: msgspec.Raw = msgspec.Raw()
    content: list[_Part] | None = None
    summary: list[_Part] | None = None
    encrypted_content: msgspec.Raw = msgspec.Raw()

    def output_bytes(self) -> int:
        """Return how many bytes of generated text this holds, JSON escapes included.

        A summary is shorter than the reasoning that is billed; the encrypted reasoning, when there is one, is longer.
        """
        total = raw_text_bytes(self.name) + raw_text_bytes(self.arguments) + raw_text_bytes(self.input)
        for part in (*(self.content or ()), *(self.summary or ())):
            total += raw_text_bytes(part.text) + raw_text_bytes(part.refusal)
        return total if self.content else total + raw_text_bytes(self.encrypted_content)


_decode_event = msgspec.json.Decoder(_Event).decode
_RESPONSE = msgspec.json.Decoder(_Response)
_decode_item = msgspec.json.Decoder(_Item).decode
_ITEMS = msgspec.json.Decoder(list[_Item])


class ResponsesScanner(EventScanner):
    """Cuts one stream of the Responses API into complete events and keeps what was learnt from them.

    Parameters
    ----------
    hides_usage : bool
        Has no effect: in this format usage is part of an event that every client needs.
    max_event_bytes : int
        Bytes; a longer event breaks the stream.

    Attributes
    ----------
    usage : Usage or None
        Of the event that ends the response, one that failed too.
    output_bytes : int
        Bytes of all deltas (text, refusal, shown reasoning, input of calls), names of calls, and encrypted reasoning
        unless the reasoning itself was shown. When the response ends without usage and holds more than that, its.
    is_done : bool
        The response has ended, in whichever way; nothing after it is relayed.
    stream_error : str or None
        Code of an ``error`` event or of a response that failed.
    failure : UpstreamError or None
        As for `EventScanner`.
    """

    _beginnings: ClassVar[tuple[bytes, ...]] = (b"event: ",)
    _endings: ClassVar[tuple[bytes, ...]] = _ENDINGS

    def __init__(self, *, hides_usage: bool = False, max_event_bytes: int = MAX_EVENT_BYTES) -> None:
        super().__init__(hides_usage=hides_usage, max_event_bytes=max_event_bytes)
        self._has_shown_reasoning = False  # in the item under way, and not a summary
        self._tools = ServerTools()

    @property
    def is_complete(self) -> bool:
        """Whether the stream may end here: the response has ended, or an error was told."""
        return self.is_done or self.stream_error is not None

    @property
    def finished_choices(self) -> int:
        """1 when the response has ended with an answer, else 0."""
        return int(self.is_done and self.stream_error is None)

    def feed(self, packet: bytes) -> bytes:
        """Take the next bytes of the stream and return the complete events they finish; see `EventScanner.feed`."""
        if packet.startswith(_NAME) and packet.endswith(b"\n\n") and not self._tail and b"\r" not in packet:
            name_end = packet.find(b"\n")
            is_single = packet.startswith(_DATA, name_end + 1) and packet.find(b"\n", name_end + 1) == len(packet) - 2
            if is_single and not self.is_over:  # the usual case: one whole event, its name in front of its data
                payload = packet[name_end + 1 + len(_DATA) : -2]
                return packet if self._inspect(payload) and self.failure is None else b""
        return super().feed(packet)

    def _inspect(self, payload: bytes) -> bool:
        """Learn from one event's data; return whether the event is passed on."""
        if not payload:
            return True
        if payload.startswith(_DONE):  # of servers that end every stream like a chat stream; alone it ends no response
            return self.is_complete or self._break("The provider ended the stream before the answer was complete.")
        try:
            event = _decode_event(payload)
        except (msgspec.ValidationError, UnicodeDecodeError):
            self.output_bytes += len(payload)  # an upper bound: an estimate must not come out too low
            return True
        except (msgspec.DecodeError, RecursionError):
            if (mended := without_halves(payload)) is not payload:
                return self._inspect(mended)
            return self._break("The provider sent a stream event that is not JSON.")
        self.output_bytes += raw_text_bytes(event.delta)
        kind = event.type if isinstance(event.type, str) else ""
        if kind == "response.reasoning_text.delta":
            self._has_shown_reasoning = True
        elif kind in _OF_ITEMS:
            self._note_item(kind, event.item)
        elif kind == "error":
            self._note_error(event.error if isinstance(event.error, dict) else {"code": event.code})
        elif kind in _ENDS:
            self._end(kind, _response_of(event.response))
        return True

    def _note_item(self, kind: str, raw: msgspec.Raw) -> None:
        """Count what does not come in pieces: a call's name when it begins, encrypted reasoning when it ends."""
        try:
            item = _decode_item(raw)
        except (msgspec.DecodeError, ValueError, RecursionError):
            return
        if kind == _BEGUN:
            self._has_shown_reasoning = False
            self.output_bytes += raw_text_bytes(item.name)
            return
        self._tools.note_item(item.type, item.action)
        if not self._has_shown_reasoning:
            self.output_bytes += raw_text_bytes(item.encrypted_content)

    def _end(self, kind: str, response: _Response) -> None:
        usage = self._tools.added_to(read_responses_usage(response.usage, response.service_tier))
        self.usage = usage or self.usage
        if self.usage is None:
            self.output_bytes = max(self.output_bytes, _output_bytes(response))
        if kind == _FAILED:
            self._note_error(response.error)
        self.is_done = True

    def _break(self, message: str) -> bool:
        self.failure = UpstreamBroken(message)
        return False


def read_responses_usage(fields: object, service_tier: object = None) -> Usage | None:
    """Return the token counts of a ``usage`` object of the Responses API.

    Parameters
    ----------
    fields : object
        The decoded value, whatever it is.
    service_tier : object
        The decoded value of the response's.

    Returns
    -------
    Usage or None
        Under the same conditions as `upstream.usage.read_usage`, whose rules hold for the same counts under their other
        names (platform.openai.com/docs/api-reference/responses/object: ``input_tokens`` includes cached ones,
        ``output_tokens`` includes reasoning).

    Examples
    --------
    >>> counts = {"input_tokens": 9, "input_tokens_details": {"cached_tokens": 4}, "output_tokens": 2}
    >>> read_responses_usage(counts).cached_input_tokens
    4
    """
    if not isinstance(fields, dict):
        return None
    renamed = {
        "prompt_tokens": fields.get("input_tokens"),
        "completion_tokens": fields.get("output_tokens"),
        "total_tokens": fields.get("total_tokens"),
        "prompt_tokens_details": fields.get("input_tokens_details"),
        "completion_tokens_details": fields.get("output_tokens_details"),
    }
    return read_usage(renamed, service_tier)


def read_responses_reply(body: bytes) -> tuple[Usage | None, int]:
    """Return usage and bytes of generated text of a complete response; see `usage.read_reply`.

    Raises
    ------
    ValueError
        The body is not a JSON object, or an error object or a response that failed although the status said success.
    """
    response = decoded_reply(body, _RESPONSE)
    if response.status == "failed" or (response.error is not None and not response.has_output):
        raise ValueError(FAILED_REPLY)
    usage = tools_in_output(response.output).added_to(read_responses_usage(response.usage, response.service_tier))
    return usage, 0 if usage is not None else _output_bytes(response)


def _response_of(response: msgspec.Raw) -> _Response:
    try:
        return _RESPONSE.decode(response)
    except (msgspec.DecodeError, ValueError, RecursionError):
        return _Response()


def _output_bytes(response: _Response) -> int:
    return text_bytes_in(response.output, _ITEMS) if response.has_output else 0
