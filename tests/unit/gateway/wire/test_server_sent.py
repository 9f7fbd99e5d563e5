"""Single server-sent events, as translators read them."""

from __future__ import annotations

from penstock_gateway.wire.server_sent import events_of


def test_events_of_a_stream_with_a_byte_order_mark_have_the_first_one() -> None:
    """The HTML standard allows the mark at the beginning (9.2.6), and the scanner of the stream passes it on."""
    block = b"\xef\xbb\xbfdata: 1\n\nevent: e\ndata: 2\n\n"
    assert list(events_of(block)) == [("", b"1"), ("e", b"2")]
