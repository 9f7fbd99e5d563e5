"""From the content of a chat message to content parts of the Responses API: text, images, files, refusals.

Text, addresses and base64 data stay the client's own bytes. Pure. Read `said_content` and `answer_content`.

Wire rules: platform.openai.com/docs/api-reference/responses/create (input), /docs/guides/images-vision and
/docs/guides/pdf-files.
"""

from __future__ import annotations

from typing import Final

import msgspec

from penstock_gateway.request_body import raw
from penstock_gateway.upstream.protocol import JsonObject
from penstock_gateway.wire.raw_fields import ITEMS, OBJECT, STRING, Dropped, given, invalid, is_string, read, required
from penstock_gateway.wire.translation import NOT_TRANSLATABLE

Item = dict[str, object]
"""An input item or a content part; its values may be raw JSON."""

_PATH: Final = "messages.content"
_MARK: Final = "prompt_cache_breakpoint"
"""Both formats have it, on the same parts."""
_FILE_FIELDS: Final = ("file_data", "file_id", "filename")
_EMPTY: Final = len(b'""')


def said_content(content: msgspec.Raw, dropped: Dropped) -> object:
    """Return the content of a message that a model reads, and of a tool's result.

    Parameters
    ----------
    content : msgspec.Raw
        A string or a list of parts.
    dropped : Dropped

    Raises
    ------
    InvalidRequest
        Of another type, or a part without what it needs; `NOT_TRANSLATABLE` for sound.
    """
    if is_string(content):
        return content
    return [_part(item, dropped) for item in read(content, ITEMS, _PATH)]


def answer_content(message: JsonObject, dropped: Dropped) -> object | None:
    """Return the content of an assistant's message, its refusal included; None when it said nothing.

    Raises
    ------
    InvalidRequest
        Of another type, or a part that is neither text nor a refusal.
    """
    content, refusal = given(message, "content"), given(message, "refusal")
    parts: list[Item] = []
    if content is not None and is_string(content):
        parts = [_output_text(content)] if len(content) > _EMPTY else []
    elif content is not None:
        parts = [_answer_part(item, dropped) for item in read(content, ITEMS, _PATH)]
    if refusal is not None and not is_string(refusal):
        raise invalid("messages.refusal", "must be a string", code="invalid_type")
    if refusal is not None and len(refusal) > _EMPTY:
        parts.append({"type": "refusal", "refusal": refusal})
    if len(parts) == 1 and "text" in parts[0]:  # as the simplest form, which every server takes
        return parts[0]["text"]
    return parts or None


def _part(item: msgspec.Raw, dropped: Dropped) -> Item:
    if is_string(item):
        return {"type": "input_text", "text": item}
    part = read(item, OBJECT, _PATH)
    kind = read(part["type"], STRING, f"{_PATH}.type") if "type" in part else "text"
    if kind == "text":
        read_part: Item = {"type": "input_text", "text": _string(part, "text")}
    elif kind == "image_url":
        read_part = _image(required(part, kind, f"{_PATH}.{kind}"), dropped)
    elif kind == "file":
        read_part = _file(read(required(part, kind, f"{_PATH}.file"), OBJECT, f"{_PATH}.file"), dropped)
    else:
        raise invalid(f"{_PATH}.type", f"is '{kind[:40]}', which this provider cannot take", code=NOT_TRANSLATABLE)
    dropped.note_others(part, {"type", kind, _MARK}, f"{_PATH}.")
    mark = given(part, _MARK)
    return read_part if mark is None else {**read_part, _MARK: mark}


def _image(image: msgspec.Raw, dropped: Dropped) -> Item:
    path = f"{_PATH}.image_url"
    if is_string(image):  # accepted by many servers
        return {"type": "input_image", "image_url": image, "detail": "auto"}
    fields = read(image, OBJECT, path)
    dropped.note_others(fields, {"url", "detail"}, f"{path}.")
    url = required(fields, "url", f"{path}.url")
    if not is_string(url):
        raise invalid(f"{path}.url", "must be a string", code="invalid_type")
    return {"type": "input_image", "image_url": url, "detail": given(fields, "detail") or raw("auto")}


def _file(file: JsonObject, dropped: Dropped) -> Item:
    dropped.note_others(file, _FILE_FIELDS, f"{_PATH}.file.")
    return {"type": "input_file", **{name: file[name] for name in _FILE_FIELDS if given(file, name) is not None}}


def _answer_part(item: msgspec.Raw, dropped: Dropped) -> Item:
    if is_string(item):
        return _output_text(item)
    part = read(item, OBJECT, _PATH)
    kind = read(part["type"], STRING, f"{_PATH}.type") if "type" in part else "text"
    if kind not in ("text", "refusal"):
        raise invalid(f"{_PATH}.type", f"is '{kind[:40]}', which an assistant does not say")
    dropped.note_others(part, {"type", kind}, f"{_PATH}.")
    said = _string(part, kind)
    return _output_text(said) if kind == "text" else {"type": kind, kind: said}


def _output_text(text: msgspec.Raw) -> Item:
    return {"type": "output_text", "text": text, "annotations": []}


def _string(fields: JsonObject, name: str) -> msgspec.Raw:
    value = required(fields, name, f"{_PATH}.{name}")
    if not is_string(value):
        raise invalid(f"{_PATH}.{name}", "must be a string", code="invalid_type")
    return value
