"""Protobuf's wire format, as far as ONNX files need it: reading fields without copying, writing them.

Needs neither the ``onnx`` package nor ``onnxruntime``. It knows no field of ONNX; `penstock_routers.onnx_guard` and
`penstock_routers.graph_join` do. Read `fields`, then `field_of`.
"""

from __future__ import annotations

from collections.abc import Iterator

_VARINT, _BYTES = 0, 2


class Damaged(Exception):
    """The bytes are no protobuf message of the expected shape."""


def fields(content: memoryview) -> Iterator[tuple[int, int | memoryview]]:
    """Yield (field number, varint or bytes) of one protobuf message; fixed-width values come as bytes."""
    at, end = 0, len(content)
    while at < end:
        key, at = _varint(content, at)
        number, wire_type = key >> 3, key & 7
        if number == 0:
            raise Damaged
        if wire_type == 0:
            number_value, at = _varint(content, at)
            yield number, number_value
            continue
        if wire_type == 2:
            length, at = _varint(content, at)
        elif wire_type in (1, 5):
            length = 8 if wire_type == 1 else 4
        else:  # groups, which ONNX never had
            raise Damaged
        if length > end - at:
            raise Damaged
        yield number, content[at : at + length]
        at += length


def _varint(content: memoryview, at: int) -> tuple[int, int]:
    value = 0
    for shift in range(0, 70, 7):
        if at >= len(content):
            raise Damaged
        byte = content[at]
        at += 1
        value |= (byte & 0x7F) << shift
        if byte < 0x80:
            return value, at
    raise Damaged


def message(value: int | memoryview) -> memoryview:
    """Return a field's content as bytes; `Damaged` where it is a number."""
    if isinstance(value, int):
        raise Damaged
    return value


def text(value: int | memoryview) -> str:
    """Return a field's content as text; `Damaged` where it is none."""
    try:
        return bytes(message(value)).decode()
    except UnicodeDecodeError:
        raise Damaged from None


def field_of(number: int, value: int | bytes | memoryview) -> bytes:
    """Write one field.

    Parameters
    ----------
    number : int
        Of the field; >= 1.
    value : int, bytes or memoryview
        A number >= 0 is written as a varint, anything else with its length before it.

    Returns
    -------
    bytes
    """
    if isinstance(value, int):
        return _written(number << 3 | _VARINT) + _written(value)
    return b"".join((_written(number << 3 | _BYTES), _written(len(value)), value))


def _written(value: int) -> bytes:
    found = bytearray()
    while value > 0x7F:
        found.append(value & 0x7F | 0x80)
        value >>= 7
    found.append(value)
    return bytes(found)
