"""Parts of a stream's body that go to the connection without a message for each."""

from __future__ import annotations

import pytest

from penstock_gateway.http_exchange import HttpExchange

STREAM_HEAD = {"type": "http.response.start", "status": 200, "headers": [(b"content-type", b"text/event-stream")]}
PLAIN_HEAD = {"type": "http.response.start", "status": 200, "headers": [(b"content-length", b"2")]}


class Wire:
    """Keeps what is written."""

    common_headers = b"server: fake\r\n"

    def __init__(self) -> None:
        self.written: list[bytes] = []
        self.answered = 0

    def write(self, data: bytes) -> None:
        """Keep it."""
        self.written.append(data)

    def close(self) -> None:
        """Nothing to close."""

    async def drain(self) -> None:
        """There is always room."""

    def resume_reading(self) -> None:
        """There is nothing to read."""

    def note_answered(self) -> None:
        """Count it."""
        self.answered += 1


def exchange(wire: Wire) -> HttpExchange:
    """Return an exchange whose request has been read."""
    return HttpExchange(wire, {"method": "POST"}, keep_alive=True, expects_continue=False)


async def test_relay_of_a_stream_writes_what_messages_would() -> None:
    """The client cannot tell which way a part went."""
    by_message, relayed = Wire(), Wire()
    for wire in (by_message, relayed):
        answer = exchange(wire)
        await answer.send(dict(STREAM_HEAD))
        for part in (b"data: 1\n\n", b"", b"data: 2\n\n"):
            if wire is relayed:
                await answer.relay(part)
            else:
                await answer.send({"type": "http.response.body", "body": part, "more_body": True})
        await answer.send({"type": "http.response.body", "body": b""})
    assert relayed.written == by_message.written
    assert relayed.answered == 1


async def test_relay_before_the_head_or_after_the_end_is_refused() -> None:
    """A part outside of a stream's body would break the framing of the connection."""
    answer = exchange(Wire())
    with pytest.raises(RuntimeError):
        await answer.relay(b"x")
    await answer.send(dict(PLAIN_HEAD))
    with pytest.raises(RuntimeError):  # its head waits for its body
        await answer.relay(b"x")
    await answer.send({"type": "http.response.body", "body": b"ok"})
    with pytest.raises(RuntimeError):
        await answer.relay(b"x")


async def test_relay_to_a_client_that_has_left_writes_nothing() -> None:
    """As a message to it would: its connection is gone."""
    wire = Wire()
    answer = exchange(wire)
    await answer.send(dict(STREAM_HEAD))
    before = list(wire.written)
    answer.lose_client()
    await answer.relay(b"x")
    assert wire.written == before
