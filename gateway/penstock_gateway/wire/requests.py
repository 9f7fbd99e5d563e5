"""From a body in any wire format to the chat request that is judged, routed, priced and cached.

Owns what becomes of requests that have no chat form: they are judged by what can be read of them, and only a server of
their own format may take them. Read `parse_request`.
"""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType
from typing import Final

import msgspec
from msgspec.structs import replace

from penstock_gateway.errors import InvalidRequest
from penstock_gateway.request_body import CONTROL_FIELD, ChatRequest, decode_object, parse_chat_fields, plain_field, raw
from penstock_gateway.upstream.protocol import JsonObject
from penstock_gateway.wire.embeddings import parse_embeddings
from penstock_gateway.wire.formats import WireFormat
from penstock_gateway.wire.native import NativeRequest
from penstock_gateway.wire.pairs import find_translator
from penstock_gateway.wire.translation import NOT_TRANSLATABLE, TranslatedRequest
from penstock_routers.token_counts import estimate_tokens

# What ties a Responses request to what its provider has kept: looked at apart, because the rest has a chat form.
_STATE: Final[tuple[str, ...]] = ("previous_response_id", "conversation", "prompt", "background")
_LIMITS: Final[Mapping[WireFormat, str]] = MappingProxyType({WireFormat.RESPONSES: "max_output_tokens"})
_MODEL: Final = frozenset({"model", "stream", "user", CONTROL_FIELD})
_NOTHING_SAID: Final = raw([{"role": "user", "content": ""}])
_NO_INPUT: Final = frozenset({b"null", b"[]"})
_PROMPT: Final = frozenset({"messages", "system", "tools", "instructions", "input", "prompt"})
# As long as they are for other reasons: pictures, sound, files, and what a provider has sealed.
_NO_TEXT: Final = frozenset({"data", "file_data", "image_url", "url", "signature", "encrypted_content"})
_SET_TO_NOTHING: Final = frozenset({b"null", b"false"})


def parse_request(
    front: WireFormat, body: bytes, *, headers: tuple[tuple[str, str], ...] = (), default_model: str | None = None
) -> ChatRequest:
    """Parse a body of any format.

    Parameters
    ----------
    front : WireFormat
        Of the endpoint.
    body : bytes
        As received.
    headers : tuple of (str, str)
        That belong to the format and are passed on to a server of the same.
    default_model : str, optional
        Used when the body names none.

    Returns
    -------
    ChatRequest
        With `native` set, unless the client speaks the chat format.

    Raises
    ------
    InvalidRequest
        With a stable ``code``, and the ``param`` at fault in the client's format.
    """
    fields = decode_object(body)
    if front is WireFormat.CHAT:
        return parse_chat_fields(fields, default_model=default_model)
    if default_model is not None:
        fields.setdefault("model", raw(default_model))
    if front is WireFormat.EMBEDDINGS:
        return _embeddings(fields)
    state = {name: fields[name] for name in _STATE if name in fields and bytes(fields[name]) not in _SET_TO_NOTHING}
    state = state if front is WireFormat.RESPONSES else {}
    rest = {name: value for name, value in fields.items() if name not in state}
    if state and bytes(rest.get("input", b"null")) in _NO_INPUT:  # what is kept says what is asked
        rest["input"] = raw("")
    translated, obstacle = _chat_form(front, rest)
    unread = 0 if obstacle is None else _prompt_tokens(rest)
    if state:
        obstacle = f"'{next(iter(state))}' refers to what another provider keeps"
    request = parse_chat_fields(translated.fields)
    native = {name: value for name, value in fields.items() if name != CONTROL_FIELD}
    return replace(
        request,
        input_tokens=request.input_tokens + unread,
        wants_usage=front is not WireFormat.COMPLETIONS or request.wants_usage,
        native=NativeRequest(
            front,
            native,
            translated.dropped,
            obstacle,
            _answer_id(state),
            headers if front is WireFormat.MESSAGES else (),
        ),
    )


def _answer_id(state: JsonObject) -> str | None:
    """Return the earlier answer or the conversation that a request goes on with."""
    for name in ("previous_response_id", "conversation"):
        value = plain_field(state, name) if name in state else None
        value = value.get("id") if isinstance(value, dict) else value
        if isinstance(value, str) and value:
            return value
    return None


def _chat_form(front: WireFormat, fields: JsonObject) -> tuple[TranslatedRequest, str | None]:
    """Return the chat form of a request and None, or the little that can be said of it and why it has none."""
    translator = find_translator(front, WireFormat.CHAT)
    assert translator is not None
    try:
        return translator.request(fields), None
    except InvalidRequest as error:
        if error.code != NOT_TRANSLATABLE:
            raise
        kept = {name: value for name, value in fields.items() if name in _MODEL}
        limit = fields.get(_LIMITS.get(front, "max_tokens"))
        if limit is not None and bytes(limit) != b"0":
            kept["max_tokens"] = limit
        return TranslatedRequest({**kept, "messages": _NOTHING_SAID}), error.message


def _prompt_tokens(fields: JsonObject) -> int:
    """Estimate the tokens of a prompt that has no chat form; token ids count one each."""
    text_bytes = ids = 0
    for name in _PROMPT.intersection(fields):
        rest: list[object] = []
        try:
            rest.append(plain_field(fields, name))
        except InvalidRequest:  # Python cannot read it, its provider may
            text_bytes += len(bytes(fields[name]))
        while rest:
            value = rest.pop()
            if isinstance(value, str):
                text_bytes += len(value.encode())
            elif isinstance(value, list):
                rest += value
            elif isinstance(value, dict):
                is_text = value.get("type") == "text"
                rest += [inner for key, inner in value.items() if is_text or key not in _NO_TEXT]
            elif isinstance(value, int | float):
                ids += 1
    return estimate_tokens(text_bytes) + ids


def _embeddings(fields: JsonObject) -> ChatRequest:
    """Return a request for vectors: named models only, nothing to route or to reuse by meaning."""
    view = parse_embeddings(fields)
    control = {name: fields[name] for name in (CONTROL_FIELD,) if name in fields}
    native: dict[str, msgspec.Raw] = {name: value for name, value in fields.items() if name != CONTROL_FIELD}
    request = parse_chat_fields({"model": raw(view.model), "messages": _NOTHING_SAID, **control})
    return replace(
        request,
        input_tokens=view.input_tokens,
        max_tokens=0,
        native=NativeRequest(WireFormat.EMBEDDINGS, native, obstacle="vectors of two models do not mix"),
    )
