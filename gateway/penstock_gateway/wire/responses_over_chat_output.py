"""The items of a streamed response while they are being sent, and the writing of their events.

Owns the order of events inside an item. Texts are joined as raw JSON and never decoded. Pure. Read `EventWriter`, then
`OpenMessage`.

Wire rules: platform.openai.com/docs/api-reference/responses-streaming.
"""

from __future__ import annotations

from typing import Protocol

import msgspec

from penstock_gateway.wire.call_arguments import ArgumentsReader
from penstock_gateway.wire.responses_over_chat_reasoning import reasoning_item, seal_thinking
from penstock_gateway.wire.responses_over_chat_shape import Item, call_item, message_item, text_part
from penstock_gateway.wire.server_sent import event_bytes

_encode = msgspec.json.Encoder().encode
_decode_string = msgspec.json.Decoder(str).decode


class EventWriter:
    """Writes the events of one response and numbers them."""

    def __init__(self) -> None:
        self.next_number = 0

    def write(self, kind: str, members: Item) -> bytes:
        """Return one event."""
        event = {"type": kind, "sequence_number": self.next_number, **members}
        self.next_number += 1
        return event_bytes(event, kind)

    def write_delta(self, kind: bytes, place: bytes, piece: bytes, more: bytes = b"") -> bytes:
        """Return an event that adds a piece of text.

        Parameters
        ----------
        kind : bytes
        place : bytes
            Members that say where, as raw JSON without braces.
        piece : bytes
            The inside of a JSON string.
        more : bytes
            Members that follow, each after a comma.
        """
        number = self.next_number
        self.next_number += 1
        return b'event: %b\ndata: {"type":"%b","sequence_number":%d,%b,"delta":"%b"%b}\n\n' % (
            kind,
            kind,
            number,
            place,
            piece,
            more,
        )

    def write_item(self, is_done: bool, index: int, item: Item) -> bytes:
        """Return the event that opens or closes an item."""
        kind = "response.output_item.done" if is_done else "response.output_item.added"
        return self.write(kind, {"output_index": index, "item": item})


class OpenItem(Protocol):
    """An item that is being sent."""

    index: int

    def item(self, status: str) -> Item:
        """Return it as it is by now."""
        ...

    def close(self, status: str) -> bytes:
        """Return the events that end it."""
        ...


class _OpenPart:
    """A part of a message: text or a refusal."""

    def __init__(self, kind: str, place: Item) -> None:
        self.kind = kind
        self.place = place
        self.raw_place = _encode(place)[1:-1]
        self.pieces: list[bytes] = []
        self.annotations: list[Item] = []
        self.logprobs: list[Item] = []

    def part(self) -> Item:
        """Return it as it is by now."""
        text = _joined(self.pieces)
        if self.kind == "refusal":
            return {"type": "refusal", "refusal": text}
        return text_part(text, self.annotations, self.logprobs)


class OpenMessage:
    """A message of the assistant.

    Parameters
    ----------
    writer : EventWriter
    item_id : str
    index : int
        Its place in the output.
    """

    def __init__(self, writer: EventWriter, item_id: str, index: int) -> None:
        self.index = index
        self._writer = writer
        self._id = item_id
        self._done: list[Item] = []
        self._part: _OpenPart | None = None

    def begin(self) -> bytes:
        """Return the event that opens it."""
        return self._writer.write_item(False, self.index, message_item(self._id, "in_progress", []))

    def add_text(self, piece: bytes, logprobs: list[Item]) -> bytes:
        """Return the events of a piece of text, the inside of a JSON string."""
        opening, part = self._part_of("output_text")
        part.pieces.append(piece)
        part.logprobs += logprobs
        more = b',"logprobs":' + (_encode(logprobs) if logprobs else b"[]")
        return opening + self._writer.write_delta(b"response.output_text.delta", part.raw_place, piece, more)

    def add_refusal(self, piece: bytes) -> bytes:
        """Return the events of a piece of a refusal."""
        opening, part = self._part_of("refusal")
        part.pieces.append(piece)
        return opening + self._writer.write_delta(b"response.refusal.delta", part.raw_place, piece)

    def annotate(self, annotations: list[Item]) -> bytes:
        """Return the events of citations in the text that is open; without one they are left out."""
        part = self._part
        if part is None or part.kind != "output_text":
            return b""
        events = b""
        for annotation in annotations:
            members = {**part.place, "annotation_index": len(part.annotations), "annotation": annotation}
            part.annotations.append(annotation)
            events += self._writer.write("response.output_text.annotation.added", members)
        return events

    def item(self, status: str) -> Item:
        """Return the message as it is by now."""
        parts = self._done if self._part is None else [*self._done, self._part.part()]
        return message_item(self._id, status, parts)

    def close(self, status: str) -> bytes:
        """Return the events that end it."""
        return self._end_part() + self._writer.write_item(True, self.index, self.item(status))

    def _part_of(self, kind: str) -> tuple[bytes, _OpenPart]:
        """Return the open part of a kind, with the events that were needed to open it."""
        part = self._part
        if part is not None and part.kind == kind:
            return b"", part
        ended = self._end_part()
        place: Item = {"item_id": self._id, "output_index": self.index, "content_index": len(self._done)}
        part = self._part = _OpenPart(kind, place)
        empty: Item = {"type": "refusal", "refusal": ""} if kind == "refusal" else text_part("", [], [])
        return ended + self._writer.write("response.content_part.added", {**place, "part": empty}), part

    def _end_part(self) -> bytes:
        part, self._part = self._part, None
        if part is None:
            return b""
        whole = part.part()
        self._done.append(whole)
        if part.kind == "refusal":
            members = {**part.place, "refusal": whole["refusal"]}
            event = self._writer.write("response.refusal.done", members)
        else:
            members = {**part.place, "text": whole["text"], "logprobs": part.logprobs}
            event = self._writer.write("response.output_text.done", members)
        return event + self._writer.write("response.content_part.done", {**part.place, "part": whole})


class OpenReasoning:
    """Reasoning that is shown as it comes.

    Parameters
    ----------
    writer : EventWriter
    item_id : str
    index : int
        Its place in the output.
    """

    def __init__(self, writer: EventWriter, item_id: str, index: int) -> None:
        self.index = index
        self.blocks: list[object] = []
        self.whole: Item | None = None
        self._writer = writer
        self._id = item_id
        self._place: Item = {"item_id": item_id, "output_index": index, "summary_index": 0}
        self._raw_place = _encode(self._place)[1:-1]
        self._pieces: list[bytes] = []

    def begin(self) -> bytes:
        """Return the event that opens it."""
        return self._writer.write_item(False, self.index, reasoning_item(self._id, []))

    def add_text(self, piece: bytes) -> bytes:
        """Return the events of a piece of text, the inside of a JSON string."""
        opening = b""
        if not self._pieces:
            members = {**self._place, "part": {"type": "summary_text", "text": ""}}
            opening = self._writer.write("response.reasoning_summary_part.added", members)
        self._pieces.append(piece)
        return opening + self._writer.write_delta(b"response.reasoning_summary_text.delta", self._raw_place, piece)

    def item(self, status: str) -> Item:
        """Return the item; one that came whole keeps all but its id, which the events before have told."""
        if self.whole is not None:
            return {**self.whole, "id": self._id}
        return reasoning_item(self._id, [_joined(self._pieces)] if self._pieces else [], seal_thinking(self.blocks))

    def close(self, status: str) -> bytes:
        """Return the events that end it."""
        events = b""
        if self._pieces:
            text = _joined(self._pieces)
            events = self._writer.write("response.reasoning_summary_text.done", {**self._place, "text": text})
            members = {**self._place, "part": {"type": "summary_text", "text": text}}
            events += self._writer.write("response.reasoning_summary_part.done", members)
        return events + self._writer.write_item(True, self.index, self.item(status))


class OpenCall:
    """A call of a function; it is announced when its name is known.

    Parameters
    ----------
    writer : EventWriter
    item_id, call_id : str
    """

    def __init__(self, writer: EventWriter, item_id: str, call_id: str) -> None:
        self.index = -1
        self.call_id = call_id
        self.name = ""
        self._writer = writer
        self._id = item_id
        self._raw_place = b""
        self._pieces: list[bytes] = []
        self._reader = ArgumentsReader()
        self._read = 0  # pieces that the reader has had

    @property
    def is_announced(self) -> bool:
        """Whether it has a place in the output."""
        return self.index >= 0

    def is_whole(self) -> bool:
        """Whether its arguments are a whole object by now; each piece is read once, and only where this is asked."""
        while self._read < len(self._pieces) and not self._reader.is_whole:
            self._reader.end_in(_decode_string(_joined([self._pieces[self._read]])))
            self._read += 1
        return self._reader.is_whole

    def announce(self, index: int) -> bytes:
        """Return the event that opens it at a place in the output, and what has come before its name."""
        self.index = index
        self._raw_place = _encode({"item_id": self._id, "output_index": index})[1:-1]
        opening = self._writer.write_item(False, index, call_item(self._id, "in_progress", self.call_id, self.name, ""))
        return opening + b"".join(self._delta(piece) for piece in self._pieces)

    def add_arguments(self, piece: bytes) -> bytes:
        """Return the event of a piece of its arguments, the inside of a JSON string."""
        self._pieces.append(piece)
        return self._delta(piece) if self.is_announced else b""

    def item(self, status: str) -> Item:
        """Return the call as it is by now."""
        return call_item(self._id, status, self.call_id, self.name, _joined(self._pieces))

    def close(self, status: str) -> bytes:
        """Return the events that end it; without arguments it gets an empty object, because clients parse them."""
        events = b"" if self._pieces else self.add_arguments(b"{}")
        members: Item = {"item_id": self._id, "output_index": self.index, "arguments": _joined(self._pieces)}
        events += self._writer.write("response.function_call_arguments.done", {**members, "name": self.name})
        return events + self._writer.write_item(True, self.index, self.item(status))

    def _delta(self, piece: bytes) -> bytes:
        return self._writer.write_delta(b"response.function_call_arguments.delta", self._raw_place, piece)


def _joined(pieces: list[bytes]) -> msgspec.Raw:
    return msgspec.Raw(b'"' + b"".join(pieces) + b'"')
