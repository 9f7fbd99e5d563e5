"""From content blocks of the Messages API to parts of a chat message: text, images, documents, search results.

Owns the making of data URLs. Text and base64 data stay the client's own bytes. Pure. Read `parts_of`.

Wire rules: platform.claude.com/docs/en/build-with-claude/vision, /pdf-support and /search-results for the sources;
developers.openai.com/api/docs/guides/file-inputs for what a ``file`` part may hold: PDF only, text goes as text.
"""

from __future__ import annotations

import base64
import binascii
import re
from typing import Final

import msgspec

from penstock_gateway.upstream.protocol import JsonObject
from penstock_gateway.wire.raw_fields import (
    ITEMS,
    OBJECT,
    STRING,
    Dropped,
    given,
    invalid,
    is_null,
    is_string,
    read,
    required,
)
from penstock_gateway.wire.translation import NOT_TRANSLATABLE

Part = dict[str, object]
"""A part of a chat message, or a message; its values may be raw JSON."""

PATH: Final = "messages.content"
"""What errors blame."""

PARTS: Final = frozenset({"text", "image", "document", "search_result"})
"""Kinds of block that become parts."""

_IMAGE: Final = frozenset({"type", "source", "cache_control"})
_DOCUMENT: Final = frozenset({"type", "source", "title", "cache_control"})
_SEARCH_RESULT: Final = frozenset({"type", "source", "title", "content", "cache_control"})
_SOURCE: Final = f"{PATH}.source"
_MEDIA_TYPE = re.compile(r"[a-zA-Z0-9.+-]+/[a-zA-Z0-9.+-]+")  # it becomes part of a JSON string as it is


def parts_of(kind: str, block: JsonObject, dropped: Dropped) -> list[Part]:
    """Return the parts that a block becomes; its cache mark stands on the last.

    Parameters
    ----------
    kind : str
        One of `PARTS`.
    block : JsonObject
    dropped : Dropped

    Raises
    ------
    InvalidRequest
        A field is missing or of another type; `NOT_TRANSLATABLE` for files that Anthropic keeps.
    """
    if kind == "text":
        return [text_part(block, PATH, dropped)]
    if kind == "search_result":
        return [_search_result(block, dropped)]
    source = read(required(block, "source", _SOURCE), OBJECT, _SOURCE)
    how = read(required(source, "type", f"{_SOURCE}.type"), STRING, f"{_SOURCE}.type")
    if kind == "image":
        dropped.note_others(block, _IMAGE, f"{PATH}.")
        return [marked(_image(how, source), block)]
    dropped.note_others(block, _DOCUMENT, f"{PATH}.")
    parts = _document(how, source, given(block, "title"), dropped)
    marked(parts[-1], block)
    return parts


def text_part(block: JsonObject, path: str, dropped: Dropped) -> Part:
    """Return the part of a text block, with its citations."""
    text = required(block, "text", f"{path}.text")
    if not is_string(text):
        raise invalid(f"{path}.text", "must be a string", code="invalid_type")
    dropped.note_others(block, {"type", "text", "cache_control", "citations"}, f"{path}.")
    part = marked({"type": "text", "text": text}, block)
    citations = given(block, "citations")
    if citations is not None and read(citations, ITEMS, f"{path}.citations"):
        part["citations"] = citations
    return part


def marked(part: Part, block: JsonObject) -> Part:
    """Put a block's cache mark on a part, and return that."""
    control = given(block, "cache_control")
    if control is not None:
        read(control, OBJECT, f"{PATH}.cache_control")
        part["cache_control"] = control
    return part


def joined(parts: list[Part]) -> object:
    """Return parts as content: one plain text as a string, which every server takes; none as an empty one."""
    if not parts:
        return ""
    if len(parts) == 1 and parts[0].keys() == {"type", "text"}:
        return parts[0]["text"]
    return parts


def is_text(part: Part) -> bool:
    """Whether a part is text, which is all that a tool message can hold."""
    return part["type"] == "text"


def kind_of(block: JsonObject, path: str) -> str:
    """Return a block's type.

    Raises
    ------
    InvalidRequest
        It has none, or another value than a string.
    """
    kind = block.get("type")
    if kind is None or is_null(kind):
        raise invalid(f"{path}.type", "is required", code="missing_field")
    return read(kind, STRING, f"{path}.type")


def _image(how: str, source: JsonObject) -> Part:
    url = _web_address(source) if how == "url" else _data_url(_media_type(how, source), source)
    return {"type": "image_url", "image_url": {"url": url}}


def _document(how: str, source: JsonObject, title: msgspec.Raw | None, dropped: Dropped) -> list[Part]:
    """Return a document: text as text under its title, since chat servers take no other files than PDF."""
    if how == "text":
        return [_titled(title, _plain(required(source, "data", f"{_SOURCE}.data"), f"{_SOURCE}.data"))]
    if how == "content":
        return _inner_parts(required(source, "content", f"{_SOURCE}.content"), title, dropped)
    if how == "url":
        return [_file(_web_address(source), title)]
    media_type = _media_type(how, source)
    if media_type.startswith("text/"):
        return [_titled(title, _decoded(source))]
    return [_file(_data_url(media_type, source), title)]


def _inner_parts(content: msgspec.Raw, title: msgspec.Raw | None, dropped: Dropped) -> list[Part]:
    """Return a document made of blocks: text and images, in order."""
    path = f"{_SOURCE}.content"
    if is_string(content):
        return [_titled(title, read(content, STRING, path))]
    parts = [] if title is None else [_titled(title)]
    for item in read(content, ITEMS, path):
        block = read(item, OBJECT, path)
        if (kind := kind_of(block, path)) not in ("text", "image"):
            raise invalid(f"{path}.type", f"must be text or image, not '{kind[:40]}'")
        parts += parts_of(kind, block, dropped)
    return parts or [_titled(None, "")]


def _titled(title: msgspec.Raw | None, *texts: str) -> Part:
    heads = [] if title is None else [read(title, STRING, f"{PATH}.title")]
    return {"type": "text", "text": "\n\n".join([*heads, *texts])}


def _file(data: object, title: msgspec.Raw | None) -> Part:
    if title is not None:
        read(title, STRING, f"{PATH}.title")
    return {"type": "file", "file": {"filename": "document.pdf" if title is None else title, "file_data": data}}


def _web_address(source: JsonObject) -> msgspec.Raw:
    url = required(source, "url", f"{_SOURCE}.url")
    read(url, STRING, f"{_SOURCE}.url")
    return url


def _media_type(how: str, source: JsonObject) -> str:
    if how != "base64":
        raise invalid(f"{_SOURCE}.type", f"is '{how[:40]}', which another provider keeps", code=NOT_TRANSLATABLE)
    media_type = read(required(source, "media_type", f"{_SOURCE}.media_type"), STRING, f"{_SOURCE}.media_type")
    if _MEDIA_TYPE.fullmatch(media_type) is None:
        raise invalid(f"{_SOURCE}.media_type", "must be a media type such as image/png")
    return media_type.lower()


def _data_url(media_type: str, source: JsonObject) -> msgspec.Raw:
    """Return a data URL (RFC 2397) around the client's own base64."""
    data = _base64(source)
    return msgspec.Raw(b'"data:' + media_type.encode() + b";base64," + bytes(memoryview(data)[1:]))


def _base64(source: JsonObject) -> msgspec.Raw:
    data = required(source, "data", f"{_SOURCE}.data")
    if not is_string(data):
        raise invalid(f"{_SOURCE}.data", "must be a string", code="invalid_type")
    return data


def _decoded(source: JsonObject) -> str:
    try:
        return base64.b64decode(read(_base64(source), STRING, f"{_SOURCE}.data"), validate=True).decode()
    except (binascii.Error, ValueError):
        raise invalid(f"{_SOURCE}.data", "is not UTF-8 text in base64") from None


def _search_result(block: JsonObject, dropped: Dropped) -> Part:
    """Return a search result as text: its title, where it was found, what it says."""
    dropped.note_others(block, _SEARCH_RESULT, f"{PATH}.")
    heads = [
        read(value, STRING, f"{PATH}.{name}")
        for name in ("title", "source")
        if (value := given(block, name)) is not None
    ]
    content = given(block, "content")
    text = "" if content is None else _plain(content, f"{PATH}.content")
    return marked({"type": "text", "text": "\n".join([*heads, text])}, block)


def _plain(content: msgspec.Raw, path: str) -> str:
    """Return a string, or the texts of blocks, each on a line of its own."""
    if is_string(content):
        return read(content, STRING, path)
    blocks = (read(item, OBJECT, path) for item in read(content, ITEMS, path))
    texts = (given(block, "text") for block in blocks)
    return "\n".join(read(text, STRING, path) for text in texts if text is not None)
