"""The response object: what it repeats of the request, its items, its usage. For plain answers and streams alike.

Pure. Read `ResponseShape.encode`.

Wire rules: platform.openai.com/docs/api-reference/responses/object; the order of fields is that of OpenAI's answers.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, Final

import msgspec

from penstock_gateway.upstream.protocol import JsonObject
from penstock_gateway.upstream.usage import read_usage
from penstock_gateway.wire.translation import Asked

Item = dict[str, object]
"""An item or a part of one; its values may be raw JSON."""

# Values that the Responses API gives a field that the request leaves out.
_DEFAULTS: Final[dict[str, object]] = {
    "instructions": None,
    "max_output_tokens": None,
    "max_tool_calls": None,
    "parallel_tool_calls": True,
    "prompt_cache_key": None,
    "safety_identifier": None,
    "temperature": 1.0,
    "tool_choice": "auto",
    "top_logprobs": 0,
    "top_p": 1.0,
    "truncation": "disabled",
    "user": None,
    "metadata": {},
}
_FUNCTION_DEFAULTS: Final[Item] = {"description": None, "parameters": None, "strict": False}
_INCOMPLETE: Final = {"length": "max_output_tokens", "content_filter": "content_filter"}
_NULL = b"null"

_encode = msgspec.json.Encoder().encode
_decode_any = msgspec.json.Decoder().decode
_decode_object = msgspec.json.Decoder(dict[str, msgspec.Raw]).decode
_decode_objects = msgspec.json.Decoder(list[dict[str, msgspec.Raw]]).decode
_UNREADABLE = (msgspec.DecodeError, UnicodeDecodeError, RecursionError)


@dataclass(slots=True)
class Outcome:
    """What a response object says beyond its items.

    Attributes
    ----------
    status : str
    model : object
        As the provider named it.
    created : object
        UNIX seconds, as the provider said.
    reason : str or None
        Why it is incomplete.
    usage : object
        The decoded ``usage`` of a chat completion.
    service_tier : object
    error : dict or None
        With ``code`` and ``message``.
    """

    status: str = "in_progress"
    model: object = None
    created: object = None
    reason: str | None = None
    usage: object = None
    service_tier: object = None
    error: dict[str, str] | None = field(default=None)

    def end(self, finish_reason: object) -> None:
        """Set status and reason from a chat completion's finish reason."""
        self.reason = _INCOMPLETE.get(finish_reason) if isinstance(finish_reason, str) else None
        self.status = "completed" if self.reason is None else "incomplete"


class ResponseShape:
    """Makes the response objects of one answer.

    Parameters
    ----------
    asked : Asked

    Notes
    -----
    Values of the request are repeated as raw JSON, without white space between tokens: a line break in them would cut
    an event in two. A function gets the fields that OpenAI fills in; its schema is not decoded.
    """

    def __init__(self, asked: Asked) -> None:
        self.id = f"resp_{asked.id}"
        self._created = asked.created
        fields = asked.fields
        self._echo = {name: _given(fields, name, default) for name, default in _DEFAULTS.items()}
        self._model = _given(fields, "model", "")
        self._tier = _given(fields, "service_tier", None)
        self._tools = _tools(fields)
        self._text = {"format": {"type": "text"}, **_object(fields, "text")}
        self._reasoning = {"effort": None, "summary": None, **_object(fields, "reasoning")}

    def encode(self, outcome: Outcome, output: list[Item]) -> msgspec.Raw:
        """Return the response object.

        Parameters
        ----------
        outcome : Outcome
        output : list of dict
            Items.
        """
        echo = self._echo
        is_over = outcome.status != "in_progress"
        tier = outcome.service_tier if isinstance(outcome.service_tier, str) else self._tier
        whole = {
            "id": self.id,
            "object": "response",
            "created_at": outcome.created if type(outcome.created) is int else self._created,
            "status": outcome.status,
            "background": False,
            "error": outcome.error,
            "incomplete_details": None if outcome.reason is None else {"reason": outcome.reason},
            "instructions": echo["instructions"],
            "max_output_tokens": echo["max_output_tokens"],
            "max_tool_calls": echo["max_tool_calls"],
            "model": outcome.model if isinstance(outcome.model, str) and outcome.model else self._model,
            "output": output,
            "parallel_tool_calls": echo["parallel_tool_calls"],
            "previous_response_id": None,
            "prompt_cache_key": echo["prompt_cache_key"],
            "reasoning": self._reasoning,
            "safety_identifier": echo["safety_identifier"],
            "service_tier": tier or ("default" if is_over else "auto"),
            "store": False,
            "temperature": echo["temperature"],
            "text": self._text,
            "tool_choice": echo["tool_choice"],
            "tools": self._tools,
            "top_logprobs": echo["top_logprobs"],
            "top_p": echo["top_p"],
            "truncation": echo["truncation"],
            "usage": response_usage(outcome.usage, outcome.service_tier) if is_over else None,
            "user": echo["user"],
            "metadata": echo["metadata"],
        }
        return msgspec.Raw(_encode(whole))


def response_usage(fields: object, service_tier: object = None) -> dict[str, object] | None:
    """Return a ``usage`` object in the Responses API's convention; None when the counts make no sense.

    Parameters
    ----------
    fields : object
        The decoded ``usage`` of a chat completion.
    service_tier : object

    Examples
    --------
    >>> response_usage({"prompt_tokens": 3, "completion_tokens": 2, "total_tokens": 5})["input_tokens"]
    3
    """
    usage = read_usage(fields, service_tier)
    if usage is None:
        return None
    return {
        "input_tokens": usage.input_tokens,
        "input_tokens_details": {
            "cached_tokens": usage.cached_input_tokens,
            "cache_write_tokens": usage.cache_write_tokens,
        },
        "output_tokens": usage.output_tokens,
        "output_tokens_details": {"reasoning_tokens": usage.reasoning_tokens},
        "total_tokens": usage.input_tokens + usage.output_tokens,
    }


def message_item(item_id: str, status: str, parts: list[Item]) -> Item:
    """Return a message of the assistant."""
    return {"id": item_id, "type": "message", "status": status, "content": parts, "role": "assistant"}


def text_part(text: object, annotations: list[Item], logprobs: list[Item]) -> Item:
    """Return a part with text, a str or a raw JSON string."""
    return {"type": "output_text", "annotations": annotations, "logprobs": logprobs, "text": text}


def call_item(item_id: str, status: str, call_id: str, name: str, arguments: object) -> Item:
    """Return a call of a function; ``arguments`` is a str or a raw JSON string."""
    return {
        "id": item_id,
        "type": "function_call",
        "status": status,
        "arguments": arguments,
        "call_id": call_id,
        "name": name,
    }


def flat_annotations(annotations: object) -> list[Item]:
    """Return citations of web pages as the Responses API has them; others are left out.

    Parameters
    ----------
    annotations : object
        The decoded ``annotations`` of a chat message or delta, whatever it is.
    """
    found: list[Item] = []
    for annotation in annotations if isinstance(annotations, list) else ():
        cited = annotation.get("url_citation") if isinstance(annotation, dict) else None
        if not isinstance(cited, dict) or not isinstance(cited.get("url"), str):
            continue
        start, end, title = cited.get("start_index"), cited.get("end_index"), cited.get("title")
        found.append(
            {
                "type": "url_citation",
                "start_index": start if type(start) is int else 0,
                "end_index": end if type(end) is int else 0,
                "title": title if isinstance(title, str) else "",
                "url": cited["url"],
            }
        )
    return found


def flat_logprobs(logprobs: object) -> list[Item]:
    """Return the log probabilities of a chat choice's text as the Responses API has them.

    Parameters
    ----------
    logprobs : object
        The decoded ``logprobs`` of a choice, whatever it is.
    """
    content = logprobs.get("content") if isinstance(logprobs, dict) else None
    if not isinstance(content, list):
        return []
    return [
        {**token, "top_logprobs": [one for one in map(_token, _list(entry.get("top_logprobs"))) if one is not None]}
        for entry in content
        if (token := _token(entry)) is not None
    ]


def _token(entry: Any) -> Item | None:
    if not isinstance(entry, dict) or not isinstance(entry.get("token"), str):
        return None
    logprob = entry.get("logprob")
    if isinstance(logprob, bool) or not isinstance(logprob, int | float):
        return None
    return {"token": entry["token"], "bytes": _list(entry.get("bytes")), "logprob": logprob}


def _list(value: object) -> list[Any]:
    return value if isinstance(value, list) else []


def _given(fields: JsonObject, name: str, default: object) -> object:
    value = fields.get(name)
    return default if value is None or bytes(value) == _NULL else _on_one_line(value)


def _on_one_line(value: msgspec.Raw) -> msgspec.Raw:
    """Return raw JSON without line breaks, which stand only between its tokens."""
    text = bytes(value)
    if b"\n" not in text and b"\r" not in text:
        return value
    try:
        return msgspec.Raw(msgspec.json.format(text, indent=-1))
    except _UNREADABLE:
        return msgspec.Raw(_NULL)


def _object(fields: JsonObject, name: str) -> Item:
    """Return what is set in an object of the request."""
    try:
        members = _decode_object(fields[name])
    except (KeyError, *_UNREADABLE):
        return {}
    return {key: _on_one_line(value) for key, value in members.items() if bytes(value) != _NULL}


def _tools(fields: JsonObject) -> object:
    try:
        tools = _decode_objects(fields["tools"])
    except (KeyError, *_UNREADABLE):
        return []
    return [
        {
            **(_FUNCTION_DEFAULTS if bytes(tool.get("type", b"")) == b'"function"' else {}),
            **{name: _on_one_line(value) for name, value in tool.items()},
        }
        for tool in tools
    ]
