"""Relaying an Anthropic event stream byte for byte while reading what the bill needs from it; plain replies too.

Owns what the events of the Messages API mean for usage, completeness and errors; `sse` cuts the stream. The events are
described at platform.claude.com/docs/en/build-with-claude/streaming. No I/O. Read `MessagesScanner` first.
"""

from __future__ import annotations

from typing import Any, ClassVar

import msgspec

from penstock_gateway.errors import UpstreamBroken
from penstock_gateway.money.usage import Usage
from penstock_gateway.surrogates import without_halves
from penstock_gateway.upstream.server_tools import ServerTools, tools_in_content
from penstock_gateway.upstream.sse import MAX_EVENT_BYTES, EventScanner
from penstock_gateway.upstream.usage import (
    FAILED_REPLY,
    decoded_reply,
    raw_text_bytes,
    read_anthropic_usage,
    text_bytes_in,
)

_NAME = b"event: "
_DATA = b"data: "
_DONE = b"[DONE]"
_NULL = b"null"
_NO_ARGUMENTS = b"{}"


class _Delta(msgspec.Struct):
    text: msgspec.Raw = msgspec.Raw()
    thinking: msgspec.Raw = msgspec.Raw()
    partial_json: msgspec.Raw = msgspec.Raw()
    signature: msgspec.Raw = msgspec.Raw()
    stop_reason: Any = None


class _Block(msgspec.Struct):
    type: Any = None
    text: msgspec.Raw = msgspec.Raw()
    thinking: msgspec.Raw = msgspec.Raw()
    data: msgspec.Raw = msgspec.Raw()
    name: msgspec.Raw = msgspec.Raw()
    input: msgspec.Raw = msgspec.Raw()

    def output_bytes(self) -> int:
        """Return how many bytes of generated text this holds, JSON escapes included."""
        total = raw_text_bytes(self.text) + raw_text_bytes(self.thinking) + raw_text_bytes(self.name)
        if self.type == "redacted_thinking":  # encrypted: longer than what was thought, which is billed
            total += raw_text_bytes(self.data)
        if len(self.input) and bytes(self.input) not in (_NULL, _NO_ARGUMENTS):
            total += len(self.input)
        return total


class _Started(msgspec.Struct):
    usage: Any = None


class _Event(msgspec.Struct):
    type: Any = None
    delta: _Delta | None = None
    content_block: _Block | None = None
    message: _Started | None = None
    usage: Any = None
    error: Any = None


class _LooseEvent(msgspec.Struct):
    type: Any = None
    delta: Any = None
    message: Any = None
    usage: Any = None
    error: Any = None


class _ReplyView(msgspec.Struct):
    type: Any = None
    usage: Any = None
    error: Any = None
    content: msgspec.Raw = msgspec.Raw()


_decode_event = msgspec.json.Decoder(_Event).decode
_decode_loose_event = msgspec.json.Decoder(_LooseEvent).decode
_REPLY = msgspec.json.Decoder(_ReplyView)
_CONTENT = msgspec.json.Decoder(list[_Block])


class MessagesScanner(EventScanner):
    """Cuts one stream of the Messages API into complete events and keeps what was learnt from them.

    Parameters
    ----------
    hides_usage : bool
        Has no effect: in this format usage is part of events that every client needs.
    max_event_bytes : int
        Bytes; a longer event breaks the stream.

    Attributes
    ----------
    usage : Usage or None
        The counts of ``message_start`` overlaid with those of each ``message_delta``, which are running totals. None
        until a ``message_delta`` has come: the first counts hold no output, and a cancelled answer is to be estimated.
    output_bytes : int
        Bytes of generated text seen (answer, thinking, names and arguments of tool calls), JSON escapes included.
        Where thinking is not shown, its signature stands for it.
    is_done : bool
        ``message_stop`` was seen; nothing after it is relayed.
    stream_error : str or None
        Type of an ``error`` event.
    failure : UpstreamError or None
        As for `EventScanner`.
    """

    _beginnings: ClassVar[tuple[bytes, ...]] = (b"event: ",)
    _endings: ClassVar[tuple[bytes, ...]] = (_DONE, b"message_stop")

    def __init__(self, *, hides_usage: bool = False, max_event_bytes: int = MAX_EVENT_BYTES) -> None:
        super().__init__(hides_usage=hides_usage, max_event_bytes=max_event_bytes)
        self._counts: dict[str, Any] = {}
        self._has_stopped = False
        self._has_shown_thinking = False
        self._tools = ServerTools()

    @property
    def is_complete(self) -> bool:
        """Whether the stream may end here: ``message_stop``, an error event, or a stop reason was seen."""
        return self.is_done or self._has_stopped or self.stream_error is not None

    @property
    def finished_choices(self) -> int:
        """1 when the message has its stop reason, else 0."""
        return int(self._has_stopped)

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
        try:
            event = _decode_event(payload)
        except (msgspec.ValidationError, UnicodeDecodeError):
            return self._inspect_loosely(payload)
        except (msgspec.DecodeError, RecursionError):
            mended = without_halves(payload)
            return self._break() if mended is payload else self._inspect(mended)
        if event.delta is not None:
            self._note_delta(event.delta)
        if event.content_block is not None:
            self._has_shown_thinking = False
            self.output_bytes += event.content_block.output_bytes()
            self._tools.note_block(event.content_block.type, event.content_block.name)
        if event.message is not None:
            self._note_counts(event.message.usage, is_first=True)
        if event.usage is not None:
            self._note_counts(event.usage)
        if event.type == "message_stop":
            self.is_done = self._has_stopped = True
        self._note_failure(event.type, event.error)
        return True

    def _inspect_loosely(self, payload: bytes) -> bool:
        """Learn what can be learnt from JSON of an unknown shape, which is passed on as it is."""
        if payload.startswith(_DONE):  # read as a list, until its first letter
            return self._end_by_mark()
        self.output_bytes += len(payload)  # an upper bound: an estimate must not come out too low
        try:
            event = _decode_loose_event(payload)
        except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
            return True
        if isinstance(event.delta, dict) and event.delta.get("stop_reason"):
            self._has_stopped = True
        if isinstance(event.message, dict):
            self._note_counts(event.message.get("usage"), is_first=True)
        self._note_counts(event.usage)
        if event.type == "message_stop":
            self.is_done = self._has_stopped = True
        self._note_failure(event.type, event.error)
        return True

    def _end_by_mark(self) -> bool:
        """Take the end mark of the chat format, which some servers add; alone it ends no message."""
        if not self._has_stopped:
            return self._break()
        self.is_done = True
        return True

    def _break(self) -> bool:
        self.failure = UpstreamBroken("The provider sent a stream event that is not JSON.")
        return False

    def _note_delta(self, delta: _Delta) -> None:
        shown = raw_text_bytes(delta.thinking)
        self._has_shown_thinking = self._has_shown_thinking or shown > 0
        self.output_bytes += raw_text_bytes(delta.text) + shown + raw_text_bytes(delta.partial_json)
        if not self._has_shown_thinking:
            self.output_bytes += raw_text_bytes(delta.signature)
        if delta.stop_reason:
            self._has_stopped = True

    def _note_counts(self, counts: object, *, is_first: bool = False) -> None:
        """Overlay the counts known so far; a 0 or a null says nothing about a count that was there already."""
        if not isinstance(counts, dict):
            return
        self._counts.update({name: value for name, value in counts.items() if value or name not in self._counts})
        if not is_first:
            self.usage = self._tools.added_to(read_anthropic_usage(self._counts)) or self.usage

    def _note_failure(self, kind: object, error: object) -> None:
        if error is not None:
            self._note_error(error)
        elif kind == "error":
            self._note_error({})


def read_messages_reply(body: bytes) -> tuple[Usage | None, int]:
    """Return usage and bytes of generated text of a complete reply of the Messages API; see `usage.read_reply`.

    Raises
    ------
    ValueError
        The body is not a JSON object, or it is an error object although the status said success.
    """
    view = decoded_reply(body, _REPLY)
    is_without_content = not view.content or bytes(view.content) == _NULL
    if view.type == "error" or (view.error is not None and is_without_content):
        raise ValueError(FAILED_REPLY)
    usage = tools_in_content(view.content).added_to(read_anthropic_usage(view.usage))
    return usage, 0 if usage is not None else text_bytes_in(view.content, _CONTENT)
