"""From the content of a chat message to content blocks of the Messages API: text, images, documents.

Owns the reading of data URLs. Text and base64 data stay the client's own bytes. Pure. Read `content_blocks`.

Wire rules: platform.claude.com/docs/en/build-with-claude/vision and /pdf-support for the sources of images and
documents.
"""

from __future__ import annotations

import base64
import binascii
from typing import Final

import msgspec

from penstock_gateway.errors import InvalidRequest
from penstock_gateway.request_body import raw
from penstock_gateway.upstream.protocol import JsonObject
from penstock_gateway.wire.raw_fields import (
    ITEMS,
    OBJECT,
    STRING,
    Dropped,
    given,
    invalid,
    is_blank,
    is_null,
    is_string,
    read,
    required,
)
from penstock_gateway.wire.translation import NOT_TRANSLATABLE

Block = dict[str, object]
"""A content block; its values may be raw JSON."""

_PATH: Final = "messages.content"
_URL_HEAD_BYTES = 256  # type and parameters of a data URL; real ones are under 100
_PDF_BASE64 = "JVBERi"  # "%PDF-"
_PDF: Final = "application/pdf"
# Blocks of the Messages API that some chat clients send as parts, because other gateways take them.
_NATIVE_BLOCKS: Final = frozenset({"image", "document", "search_result"})


def content_blocks(content: msgspec.Raw, dropped: Dropped) -> list[Block]:
    """Return the blocks of a message's content.

    Parameters
    ----------
    content : msgspec.Raw
        A string, a list of parts, or null.
    dropped : Dropped

    Returns
    -------
    list of dict
        Without empty texts, which Anthropic refuses.

    Raises
    ------
    InvalidRequest
        Of another type, or a part without what it needs; `NOT_TRANSLATABLE` for sound, video and files kept by another
        provider.
    """
    if is_null(content):
        return []
    if is_string(content):
        return [] if is_blank(content) else [{"type": "text", "text": content}]
    blocks = (_block(item, dropped) for item in read(content, ITEMS, _PATH))
    return [block for block in blocks if block is not None]


def mark(block: Block, fields: JsonObject) -> Block:
    """Put the cache mark of a part, a tool or a message on its block."""
    control = given(fields, "cache_control")
    if control is not None:
        read(control, OBJECT, "cache_control")
        block["cache_control"] = control
    return block


def _block(item: msgspec.Raw, dropped: Dropped) -> Block | None:
    if is_string(item):
        return None if is_blank(item) else {"type": "text", "text": item}
    part = read(item, OBJECT, _PATH)
    kind = read(part["type"], STRING, f"{_PATH}.type") if "type" in part else "text"
    if kind in ("text", "refusal"):
        return _text(part, kind, dropped)
    if kind == "image_url":
        dropped.note_others(part, {"type", "image_url", "cache_control"}, f"{_PATH}.")
        return mark(_image(required(part, "image_url", f"{_PATH}.image_url"), dropped), part)
    if kind == "file":
        dropped.note_others(part, {"type", "file", "cache_control"}, f"{_PATH}.")
        return mark(_file(read(required(part, "file", f"{_PATH}.file"), OBJECT, f"{_PATH}.file"), dropped), part)
    if kind in _NATIVE_BLOCKS:
        return dict(part)
    raise invalid(f"{_PATH}.type", f"is '{kind[:40]}', which this provider cannot take", code=NOT_TRANSLATABLE)


def _text(part: JsonObject, kind: str, dropped: Dropped) -> Block | None:
    text = given(part, kind)
    dropped.note_others(part, {"type", kind, "cache_control", "citations"}, f"{_PATH}.")
    if text is None:
        return None
    if not is_string(text):
        raise invalid(f"{_PATH}.{kind}", "must be a string", code="invalid_type")
    if is_blank(text):
        return None
    block = mark({"type": "text", "text": text}, part)
    citations = given(part, "citations")
    if citations is not None and read(citations, ITEMS, f"{_PATH}.citations"):
        block["citations"] = citations
    return block


def _image(image: msgspec.Raw, dropped: Dropped) -> Block:
    path = f"{_PATH}.image_url.url"
    if is_string(image):  # accepted by many servers
        return _from_url(image, path)
    fields = read(image, OBJECT, f"{_PATH}.image_url")
    detail = given(fields, "detail")
    if detail is not None and bytes(detail) != b'"auto"':
        dropped.note(f"{_PATH}.image_url.detail")
    dropped.note_others(fields, {"url", "detail"}, f"{_PATH}.image_url.")
    return _from_url(required(fields, "url", path), path)


def _from_url(url: msgspec.Raw, path: str) -> Block:
    """Return the image block of a data URL or a web address; a PDF in a data URL is a document."""
    if not is_string(url):
        raise invalid(path, "must be a string", code="invalid_type")
    cut = _cut_data_url(url, path)
    if cut is not None:
        media_type, data = cut
        kind = "document" if media_type == _PDF else "image"
        return {"type": kind, "source": {"type": "base64", "media_type": media_type, "data": data}}
    _require_web_address(url, path)
    return {"type": "image", "source": {"type": "url", "url": url}}


def _require_web_address(url: msgspec.Raw, path: str) -> None:
    text = read(url, STRING, path)
    if not text[:8].lower().startswith(("http://", "https://")):
        raise invalid(path, "must be a data URL or an http(s) address")


def _cut_data_url(url: msgspec.Raw, path: str) -> tuple[str, msgspec.Raw] | None:
    """Return media type and base64 data (a JSON string) of a data URL, None for another URL; see RFC 2397."""
    head = bytes(memoryview(url)[1:_URL_HEAD_BYTES])
    if b"\\" in head:  # some encoders escape slashes
        url = raw(read(url, STRING, path))
        head = bytes(memoryview(url)[1:_URL_HEAD_BYTES])
    if head[:5].lower() != b"data:":
        return None
    before, separator, _ = head.partition(b";base64,")
    if not separator:
        raise invalid(path, "must hold base64 when it is a data URL")
    media_type = before[5:].split(b";")[0].strip().lower().decode("utf-8", "replace")
    data = msgspec.Raw(b'"' + bytes(memoryview(url)[1 + len(before) + len(separator) :]))
    return ("image/jpeg" if media_type == "image/jpg" else media_type), data


def _file(file: JsonObject, dropped: Dropped) -> Block:
    """Return the block of a ``file`` part: its data, a web address, or the id of a file kept at Anthropic."""
    path = f"{_PATH}.file"
    dropped.note_others(file, {"file_data", "file_id", "filename", "format"}, f"{path}.")
    name = given(file, "filename")
    title: Block = {} if name is None or not is_string(name) or is_blank(name) else {"title": name}
    file_id = given(file, "file_id")
    if file_id is not None:
        if not read(file_id, STRING, f"{path}.file_id").startswith("file_"):  # OpenAI's begin with file-
            raise invalid(f"{path}.file_id", "is a file that another provider keeps", code=NOT_TRANSLATABLE)
        return {"type": "document", "source": {"type": "file", "file_id": file_id}, **title}
    url = required(file, "file_data", f"{path}.file_data")
    if not is_string(url):
        raise invalid(f"{path}.file_data", "must be a string", code="invalid_type")
    return _document(url, title, f"{path}.file_data")


def _document(url: msgspec.Raw, title: Block, path: str) -> Block:
    cut = _cut_data_url(url, path)
    if cut is None:
        if bytes(memoryview(url)[1 : 1 + len(_PDF_BASE64)]).decode("latin-1") == _PDF_BASE64:  # without its data: head
            return _base64_document(_PDF, url, title)
        _require_web_address(url, path)
        return {"type": "document", "source": {"type": "url", "url": url}, **title}
    media_type, data = cut
    if media_type.startswith("image/"):
        return {"type": "image", "source": {"type": "base64", "media_type": media_type, "data": data}}
    if media_type.startswith("text/") or media_type == "application/json":
        source = {"type": "text", "media_type": "text/plain", "data": _plain_text(data, path)}
        return {"type": "document", "source": source, **title}
    return _base64_document(media_type, data, title)


def _base64_document(media_type: str, data: msgspec.Raw, title: Block) -> Block:
    return {"type": "document", "source": {"type": "base64", "media_type": media_type, "data": data}, **title}


def _plain_text(data: msgspec.Raw, path: str) -> str:
    try:
        return base64.b64decode(read(data, STRING, path), validate=True).decode("utf-8")
    except (binascii.Error, ValueError):
        raise InvalidRequest(f"'{path}' is not UTF-8 text in base64.", code="invalid_value", param=path) from None
