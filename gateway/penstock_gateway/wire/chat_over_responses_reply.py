"""From a response of OpenAI's Responses API to a chat completion.

Owns what both plain and streamed answers share: finish reasons, usage, calls, reasoning, annotations. What a response
repeats of its request (instructions, tools) is not decoded. Pure. Read `translate_reply`.

Wire rules: platform.openai.com/docs/api-reference/responses/object and /chat/object.
"""

from __future__ import annotations

from typing import Any, Final

import msgspec

from penstock_gateway.wire.translation import Asked

Fields = dict[str, Any]
"""An object of a chat completion; its values may be raw JSON."""

_INCOMPLETE: Final = {"max_output_tokens": "length", "content_filter": "content_filter"}
_UNFINISHED: Final = frozenset({"failed", "cancelled", "queued", "in_progress"})
_NO_ARGUMENTS: Final = "{}"


class ResponseView(msgspec.Struct):
    """A response without what it repeats of the request."""

    id: Any = None
    created_at: Any = None
    model: Any = None
    status: Any = None
    incomplete_details: Any = None
    error: Any = None
    usage: Any = None
    service_tier: Any = None
    moderation: Any = None
    output: msgspec.Raw = msgspec.Raw()


class ItemView(msgspec.Struct):
    """An output item of any kind."""

    type: Any = None
    id: Any = None
    call_id: Any = None
    name: Any = None
    arguments: Any = None
    input: Any = None
    content: Any = None
    summary: Any = None
    encrypted_content: Any = None

    @property
    def parts(self) -> list[Fields]:
        """Its content parts; empty when it has none."""
        return objects(self.content)


_decode_response = msgspec.json.Decoder(ResponseView).decode
_decode_items = msgspec.json.Decoder(list[msgspec.Raw]).decode
_decode_item = msgspec.json.Decoder(ItemView).decode
_decode_string = msgspec.json.Decoder(str).decode
_encode = msgspec.json.Encoder().encode
_UNREADABLE = (msgspec.DecodeError, UnicodeDecodeError, RecursionError)


def translate_reply(body: bytes, asked: Asked) -> bytes:
    """Translate a response; see `translation.Translator.reply`.

    Raises
    ------
    ValueError
        It is not a response, or one that has not ended or has failed.

    Notes
    -----
    What the provider's own tools did (searches, code) has no place in a chat completion; their sources are annotations.
    A client that speaks of ``functions`` gets the older ``function_call``, which has room for one.
    """
    try:
        response = _decode_response(body)
    except _UNREADABLE as error:
        raise ValueError("a body that is not a JSON object") from error
    if isinstance(response.status, str) and response.status in _UNFINISHED:
        raise ValueError(f"a response that is {response.status}")
    try:
        items = _decode_items(response.output)
    except _UNREADABLE as error:
        raise ValueError("a body without output") from error
    answer = Answer(items)
    is_old = wants_functions(asked)
    has_calls = bool(answer.calls)
    completion: Fields = {
        **completion_head(response, asked),
        "object": "chat.completion",
        "choices": [
            {
                "index": 0,
                "message": answer.message(is_old=is_old),
                "logprobs": {"content": answer.logprobs, "refusal": None} if answer.logprobs else None,
                "finish_reason": finish_reason(response, has_calls=has_calls, wants_functions=is_old),
            }
        ],
    }
    usage = chat_usage(response.usage)
    if usage is not None:
        completion["usage"] = usage
    return _encode({**completion, **extras(response)})


class Answer:
    """What output items add up to.

    Parameters
    ----------
    items : list of msgspec.Raw
    """

    def __init__(self, items: list[msgspec.Raw]) -> None:
        self.calls: list[Fields] = []
        self.logprobs: list[Fields] = []
        self._texts: list[str] = []
        self._length = 0
        self._refusals: list[str] = []
        self._thoughts: list[str] = []
        self._reasoning: list[msgspec.Raw] = []
        self._annotations: list[Fields] = []
        for raw in items:
            item = item_of(raw)
            if item is not None:
                self._add(item, raw)

    def _add(self, item: ItemView, raw: msgspec.Raw) -> None:
        if item.type == "reasoning":
            self._thoughts += reasoning_texts(item)
            if is_self_contained(item):
                self._reasoning.append(raw)
        elif item.type == "message":
            for part in item.parts:
                self._add_part(part)
        elif (call := tool_call(item)) is not None:
            self.calls.append(call)

    def _add_part(self, part: Fields) -> None:
        text, refusal = part.get("text"), part.get("refusal")
        if part.get("type") == "output_text" and isinstance(text, str):
            self._annotations += chat_annotations(part.get("annotations"), self._length)
            self.logprobs += chat_logprobs(part.get("logprobs"))
            self._texts.append(text)
            self._length += len(text)
        elif part.get("type") == "refusal" and isinstance(refusal, str):
            self._refusals.append(refusal)

    def message(self, *, is_old: bool) -> Fields:
        """Return the assistant's message; `is_old` when the client speaks of functions, not of tools."""
        message: Fields = {
            "role": "assistant",
            "content": "".join(self._texts) if self._texts or not (self.calls or self._refusals) else None,
            "refusal": "".join(self._refusals) or None,
        }
        if self._thoughts:
            message["reasoning_content"] = "\n\n".join(self._thoughts)
        if self._reasoning:
            message["reasoning_items"] = self._reasoning
        if self.calls and is_old:
            message["function_call"] = self.calls[0].get("function")
        elif self.calls:
            message["tool_calls"] = self.calls
        if self._annotations:
            message["annotations"] = self._annotations
        return message


def wants_functions(asked: Asked) -> bool:
    """Whether the client speaks the older form of tools, ``functions``, and reads ``function_call``."""
    return "functions" in asked.fields and "tools" not in asked.fields


def completion_head(response: ResponseView, asked: Asked) -> Fields:
    """Return id, time and model of a completion."""
    created = response.created_at
    is_time = isinstance(created, int | float) and 0 <= created < 1 << 53
    return {
        "id": response.id if isinstance(response.id, str) and response.id else asked.id,
        "created": int(created) if is_time else asked.created,
        "model": response.model if isinstance(response.model, str) and response.model else _model_asked_for(asked),
    }


def _model_asked_for(asked: Asked) -> str:
    try:
        return _decode_string(asked.fields["model"])
    except (KeyError, *_UNREADABLE):
        return ""


def extras(response: ResponseView) -> Fields:
    """Return what stands beside the usage of a completion."""
    found: Fields = {}
    if isinstance(response.service_tier, str):
        found["service_tier"] = response.service_tier
    if isinstance(response.moderation, dict):
        found["moderation"] = response.moderation
    return found


def item_of(raw: msgspec.Raw) -> ItemView | None:
    """Return the view of an output item; None for what is none."""
    try:
        return _decode_item(raw)
    except _UNREADABLE:
        return None


def items_of(response: ResponseView) -> list[msgspec.Raw]:
    """Return the output items of a response; empty when there are none."""
    try:
        return _decode_items(response.output)
    except _UNREADABLE:
        return []


def tool_call(item: ItemView) -> Fields | None:
    """Return an output item as a call of a chat message; None when it is none."""
    names = (name for name in (item.call_id, item.id) if isinstance(name, str) and name)
    call_id, name = next(names, ""), item.name if isinstance(item.name, str) else ""
    if item.type == "function_call":
        arguments = item.arguments if isinstance(item.arguments, str) and item.arguments else _NO_ARGUMENTS
        return {"id": call_id, "type": "function", "function": {"name": name, "arguments": arguments}}
    if item.type == "custom_tool_call":
        given = item.input if isinstance(item.input, str) else ""
        return {"id": call_id, "type": "custom", "custom": {"name": name, "input": given}}
    return None


def reasoning_texts(item: ItemView) -> list[str]:
    """Return the texts of a reasoning item that may be shown: its summary, else its content."""
    for parts in (item.summary, item.content):
        texts = [part.get("text") for part in objects(parts)]
        if found := [text for text in texts if isinstance(text, str) and text]:
            return found
    return []


def is_self_contained(item: ItemView) -> bool:
    """Whether a reasoning item can be sent back to a provider that has kept nothing; others would bind for nothing."""
    return bool(item.encrypted_content) or bool(item.content)


def chat_annotations(annotations: object, start: int) -> list[Fields]:
    """Return annotations in the chat format, which nests what the Responses format has flat.

    Parameters
    ----------
    annotations : object
        Of a text part, whatever it is. The chat format has those of web addresses only.
    start : int
        Where the part begins in the message's text, characters.

    Examples
    --------
    >>> cited = {"type": "url_citation", "url": "https://example.org", "title": "A", "start_index": 0, "end_index": 3}
    >>> chat_annotations([cited, {"type": "file_path"}], 10)[0]["url_citation"]["end_index"]
    13
    """
    found: list[Fields] = []
    for cited in objects(annotations):
        url, title = cited.get("url"), cited.get("title")
        if cited.get("type") != "url_citation" or not isinstance(url, str):
            continue
        first, last = (_index(cited.get(name)) + start for name in ("start_index", "end_index"))
        title = title if isinstance(title, str) else ""
        nested = {"start_index": first, "end_index": last, "title": title, "url": url}
        found.append({"type": "url_citation", "url_citation": nested})
    return found


def chat_logprobs(entries: object) -> list[Fields]:
    """Return log probabilities of tokens as chat clients expect them; streamed ones come without ``bytes``."""
    return [
        {"bytes": None, **entry, "top_logprobs": [{"bytes": None, **top} for top in objects(entry.get("top_logprobs"))]}
        for entry in objects(entries)
    ]


def finish_reason(response: ResponseView, *, has_calls: bool, wants_functions: bool, is_cut: bool = False) -> str:
    """Return the chat format's word for why a response ended; `is_cut` when its event says that it is incomplete."""
    if is_cut or response.status == "incomplete":
        details = response.incomplete_details
        reason = details.get("reason") if isinstance(details, dict) else None
        return _INCOMPLETE.get(reason, "length") if isinstance(reason, str) else "length"
    if not has_calls:
        return "stop"
    return "function_call" if wants_functions else "tool_calls"


def chat_usage(fields: object) -> Fields | None:
    """Return a ``usage`` object in the chat format's words; None when there are no counts.

    Examples
    --------
    >>> chat_usage({"input_tokens": 3, "output_tokens": 5, "output_tokens_details": {"reasoning_tokens": 4}})[
    ...     "completion_tokens_details"
    ... ]
    {'reasoning_tokens': 4}
    """
    if not isinstance(fields, dict):
        return None
    prompt, output = fields.get("input_tokens"), fields.get("output_tokens")
    if not isinstance(prompt, int) or not isinstance(output, int):
        return None
    total = fields.get("total_tokens")
    usage: Fields = {
        "prompt_tokens": prompt,
        "completion_tokens": output,
        "total_tokens": total if isinstance(total, int) else prompt + output,
    }
    for ours, theirs in (("prompt_tokens_details", "input"), ("completion_tokens_details", "output")):
        details = fields.get(f"{theirs}_tokens_details")
        if isinstance(details, dict):
            usage[ours] = details
    return usage


def objects(values: object) -> list[Fields]:
    """Return the objects of a list; empty for anything else."""
    return [value for value in values if isinstance(value, dict)] if isinstance(values, list) else []


def _index(value: object) -> int:
    return value if isinstance(value, int) else 0
