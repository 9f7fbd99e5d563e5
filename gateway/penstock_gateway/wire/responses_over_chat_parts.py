"""From the content of a Responses item to the content of a chat message: text, refusals, images, files, sound.

Texts and base64 data stay the client's own bytes. Pure. Read `content_of`.

Wire rules: platform.openai.com/docs/api-reference/responses/create (``input``) and /chat/create (``messages``).
"""

from __future__ import annotations

from typing import Final

import msgspec

from penstock_gateway.errors import InvalidRequest
from penstock_gateway.upstream.protocol import JsonObject
from penstock_gateway.wire.raw_fields import (
    ITEMS,
    OBJECT,
    OBJECTS,
    STRING,
    Dropped,
    given,
    invalid,
    is_string,
    read,
    required,
)
from penstock_gateway.wire.translation import NOT_TRANSLATABLE

Part = dict[str, object]
"""A part of a chat message; its values may be raw JSON."""

_TEXTS: Final = frozenset({"input_text", "output_text", "text"})
# What the Responses API itself adds to the text of an answer; empty lists of them say nothing.
_OF_ANSWERS: Final = ("annotations", "logprobs")
# OpenAI's mark of where a prompt's cached beginning ends has the same name in both APIs.
_CACHE_MARK: Final = "prompt_cache_breakpoint"


def content_of(content: msgspec.Raw, dropped: Dropped, path: str) -> msgspec.Raw | list[Part]:
    """Return a message's content: a string as it is, a single plain text as a string, else parts.

    Parameters
    ----------
    content : msgspec.Raw
        A string or a list of parts.
    dropped : Dropped
    path : str
        Of the content, in the client's format.

    Raises
    ------
    InvalidRequest
        Of another type, or a part without what it needs; `NOT_TRANSLATABLE` for what a provider keeps.
    """
    if is_string(content):
        return content
    parts = parts_of(content, dropped, path)
    if len(parts) == 1 and parts[0].keys() == {"type", "text"}:
        text = parts[0]["text"]
        assert isinstance(text, msgspec.Raw)
        return text
    return parts


def parts_of(content: msgspec.Raw, dropped: Dropped, path: str) -> list[Part]:
    """Return the chat parts of a list of Responses parts; see `content_of`."""
    return [_part(part, dropped, path) for part in read(content, OBJECTS, path)]


def said_by_assistant(content: msgspec.Raw, dropped: Dropped, path: str) -> tuple[list[msgspec.Raw], list[msgspec.Raw]]:
    """Return the texts and the refusals of an answer.

    Raises
    ------
    InvalidRequest
        A part that no answer has.
    """
    if is_string(content):
        return [content], []
    texts: list[msgspec.Raw] = []
    refusals: list[msgspec.Raw] = []
    for part in read(content, OBJECTS, path):
        kind = _kind(part, path)
        if kind in _TEXTS:
            texts.append(_text(part, dropped, path))
        elif kind == "refusal":
            refusals.append(_string(part, "refusal", path))
        else:
            raise invalid(f"{path}.type", f"is '{kind[:40]}', which no answer has")
    return texts, refusals


def joined(texts: list[msgspec.Raw], separator: bytes = b"") -> msgspec.Raw:
    """Return several JSON strings as one.

    Parameters
    ----------
    texts : list of msgspec.Raw
    separator : bytes
        As it stands in a JSON string.
    """
    if len(texts) == 1:
        return texts[0]
    return msgspec.Raw(b'"' + separator.join(bytes(text)[1:-1] for text in texts) + b'"')


def _kind(part: JsonObject, path: str) -> str:
    return read(required(part, "type", f"{path}.type"), STRING, f"{path}.type")


def _string(part: JsonObject, name: str, path: str) -> msgspec.Raw:
    value = required(part, name, f"{path}.{name}")
    if not is_string(value):
        raise invalid(f"{path}.{name}", "must be a string", code="invalid_type")
    return value


def _text(part: JsonObject, dropped: Dropped, path: str) -> msgspec.Raw:
    for name in _OF_ANSWERS:
        value = given(part, name)
        if value is not None and read(value, ITEMS, f"{path}.{name}"):
            dropped.note(f"{path}.{name}")
    dropped.note_others(part, {"type", "text", _CACHE_MARK, *_OF_ANSWERS}, f"{path}.")
    return _string(part, "text", path)


def _part(part: JsonObject, dropped: Dropped, path: str) -> Part:
    kind = _kind(part, path)
    if kind in _TEXTS:
        made: Part = {"type": "text", "text": _text(part, dropped, path)}
    elif kind == "input_image":
        made = _image(part, dropped, path)
    elif kind == "input_file":
        made = _file(part, dropped, path)
    elif kind == "input_audio":
        dropped.note_others(part, {"type", "input_audio", _CACHE_MARK}, f"{path}.")
        sound = required(part, "input_audio", f"{path}.input_audio")
        read(sound, OBJECT, f"{path}.input_audio")
        made = {"type": "input_audio", "input_audio": sound}
    else:
        raise InvalidRequest(
            f"'{path}.type' is '{kind[:40]}', which chat completions do not have.",
            code=NOT_TRANSLATABLE,
            param=f"{path}.type",
        )
    mark = given(part, _CACHE_MARK)
    return made if mark is None else {**made, _CACHE_MARK: mark}


def _image(part: JsonObject, dropped: Dropped, path: str) -> Part:
    dropped.note_others(part, {"type", "image_url", "file_id", "detail", _CACHE_MARK}, f"{path}.")
    if given(part, "image_url") is None and given(part, "file_id") is not None:
        raise _kept_elsewhere(f"{path}.file_id")
    image: Part = {"url": _string(part, "image_url", path)}
    detail = given(part, "detail")
    if detail is not None:
        wanted = read(detail, STRING, f"{path}.detail")
        image["detail"] = "high" if wanted == "original" else detail
        if wanted == "original":
            dropped.note(f"{path}.detail")
    return {"type": "image_url", "image_url": image}


def _file(part: JsonObject, dropped: Dropped, path: str) -> Part:
    known = {"type", "file_data", "filename", "file_id", "file_url", _CACHE_MARK}
    dropped.note_others(part, known, f"{path}.")
    if given(part, "file_data") is None:
        if given(part, "file_url") is not None:
            raise invalid(
                f"{path}.file_url", "has no place in chat completions; send 'file_data'", code=NOT_TRANSLATABLE
            )
        if given(part, "file_id") is not None:
            raise _kept_elsewhere(f"{path}.file_id")
    file: Part = {"file_data": _string(part, "file_data", path)}
    if given(part, "filename") is not None:
        file["filename"] = _string(part, "filename", path)
    return {"type": "file", "file": file}


def _kept_elsewhere(path: str) -> InvalidRequest:
    return invalid(path, "is a file that a provider keeps, and this model's provider keeps none", code=NOT_TRANSLATABLE)
