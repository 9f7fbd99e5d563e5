"""Reading and writing single server-sent events, for translators.

Pure. Cutting a byte stream into events is `upstream.sse`'s business. Read `read_event` and `event_bytes`.
"""

from __future__ import annotations

from collections.abc import Iterator

import msgspec

_BYTE_ORDER_MARK = b"\xef\xbb\xbf"
_encode = msgspec.json.Encoder().encode


def events_of(block: bytes) -> Iterator[tuple[str, bytes]]:
    """Yield name and data of each event of a block of complete events; comments and empty events are left out.

    Parameters
    ----------
    block : bytes
        One or more events, each with its blank line, in any of the three line endings. A byte order mark, which may
        stand before a stream's first event, is passed over.

    Yields
    ------
    name : str
        Empty when the event has none.
    data : bytes
        Its data lines, joined by a line feed (HTML standard, 9.2.6).
    """
    name, lines = b"", []
    block = block.removeprefix(_BYTE_ORDER_MARK)
    for line in block.replace(b"\r\n", b"\n").replace(b"\r", b"\n").split(b"\n"):
        if line:
            field, _, value = line.partition(b":")
            value = value[1:] if value.startswith(b" ") else value
            if field == b"data":
                lines.append(value)
            elif field == b"event":
                name = value
        elif lines:
            yield name.decode("utf-8", "replace"), b"\n".join(lines)
            name, lines = b"", []
        else:
            name = b""


def event_bytes(data: object, name: str = "") -> bytes:
    """Return one event.

    Parameters
    ----------
    data : object
        Encoded as JSON; bytes are taken as they are, and must hold no line break.
    name : str
        Of the event; left out when empty.
    """
    encoded = data if isinstance(data, bytes) else _encode(data)
    return (b"event: " + name.encode() + b"\n" if name else b"") + b"data: " + encoded + b"\n\n"
