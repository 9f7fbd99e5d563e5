"""From a Message of Anthropic's API to a chat completion.

Owns what both plain and streamed answers share: finish reasons, usage, service tiers, citations. Pure. Read
`translate_reply`.

Wire rules: platform.claude.com/docs/en/api/messages, /docs/en/build-with-claude/handling-stop-reasons and /citations;
platform.openai.com/docs/api-reference/chat/object.
"""

from __future__ import annotations

from typing import Any, Final

import msgspec

from penstock_gateway.upstream.usage import read_anthropic_usage
from penstock_gateway.wire.translation import Asked

_FINISH_REASONS: Final = {
    "end_turn": "stop",
    "stop_sequence": "stop",
    "tool_use": "tool_calls",
    "max_tokens": "length",
    "model_context_window_exceeded": "length",
    "pause_turn": "length",  # a long turn of the provider's own tools was cut: there is more to come
    "refusal": "content_filter",
}
_SERVICE_TIERS: Final = {"standard": "default"}
# Beside OpenAI's counts under Anthropic's own names, as other gateways pass them on.
_KEPT_COUNTS: Final = ("cache_creation_input_tokens", "cache_read_input_tokens", "cache_creation", "server_tool_use")
_WEB_CITATION: Final = "web_search_result_location"


class _Message(msgspec.Struct):
    content: list[msgspec.Raw] | None = None
    type: Any = None
    id: Any = None
    model: Any = None
    stop_reason: Any = None
    stop_details: Any = None
    usage: Any = None


class _Block(msgspec.Struct):
    type: Any = None
    text: Any = None
    citations: Any = None
    thinking: Any = None
    id: Any = None
    name: Any = None
    input: msgspec.Raw = msgspec.Raw()


_decode_message = msgspec.json.Decoder(_Message).decode
_decode_block = msgspec.json.Decoder(_Block).decode
_decode_any = msgspec.json.Decoder().decode
_encode = msgspec.json.Encoder().encode


class _Answer:
    """What a message's blocks add up to."""

    def __init__(self) -> None:
        self.text = ""
        self.reasoning = ""
        self.thinking_blocks: list[object] = []
        self.calls: list[dict[str, object]] = []
        self.citations: list[object] = []
        self.annotations: list[object] = []
        self._texts: list[str] = []
        self._thoughts: list[str] = []
        self._length = 0

    def add(self, raw: msgspec.Raw) -> None:
        """Take the next block; those of the provider's own tools have no place in a chat completion."""
        try:
            block = _decode_block(raw)
        except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
            return
        if block.type == "text" and isinstance(block.text, str):
            start, self._length = self._length, self._length + len(block.text)
            self._texts.append(block.text)
            if isinstance(block.citations, list) and block.citations:
                self.citations += block.citations
                self.annotations += annotations_of(block.citations, start, self._length)
        elif block.type in ("thinking", "redacted_thinking"):
            self.thinking_blocks.append(raw)
            if isinstance(block.thinking, str):
                self._thoughts.append(block.thinking)
        elif block.type == "tool_use":
            self.calls.append(tool_call(block.id, block.name, arguments_of(block.input), len(self.calls)))

    def close(self) -> None:
        """Join the texts."""
        self.text, self.reasoning = "".join(self._texts), "".join(self._thoughts)


def translate_reply(body: bytes, asked: Asked) -> bytes:
    """Translate a Message; see `translation.Translator.reply`.

    Raises
    ------
    ValueError
        It is not a Message.

    Notes
    -----
    A refusal has the finish reason ``content_filter``; its explanation, when there is one, is the ``refusal``. Text of
    several blocks is joined as it is, as Anthropic's own libraries do.
    """
    try:
        message = _decode_message(body)
    except msgspec.ValidationError as error:
        raise ValueError("a body that is not a message") from error
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise ValueError("a body that is not a JSON object") from error
    if message.content is None:
        raise ValueError("a body without content")
    answer = _Answer()
    for block in message.content:
        answer.add(block)
    answer.close()
    is_old = wants_functions(asked)
    completion: dict[str, object] = {
        "id": message.id if message.id and isinstance(message.id, str) else asked.id,
        "object": "chat.completion",
        "created": asked.created,
        "model": model_of(message.model, asked),
        "choices": [
            {
                "index": 0,
                "message": _chat_message(answer, message, is_old=is_old),
                "logprobs": None,
                "finish_reason": finish_reason(message.stop_reason, wants_functions=is_old),
            }
        ],
    }
    usage = chat_usage(message.usage)
    if usage is not None:
        completion["usage"] = usage
    tier = service_tier(message.usage)
    if tier is not None:
        completion["service_tier"] = tier
    return _encode(completion)


def _chat_message(answer: _Answer, message: _Message, *, is_old: bool) -> dict[str, object]:
    chat: dict[str, object] = {
        "role": "assistant",
        "content": answer.text or (None if answer.calls else ""),
        "refusal": refusal_of(message.stop_reason, message.stop_details),
    }
    if answer.reasoning:
        chat["reasoning_content"] = answer.reasoning
    if answer.thinking_blocks:
        chat["thinking_blocks"] = answer.thinking_blocks
    if answer.calls and is_old:
        chat["function_call"] = answer.calls[0]["function"]
    elif answer.calls:
        chat["tool_calls"] = answer.calls
    if answer.citations:
        chat["citations"] = answer.citations
    if answer.annotations:
        chat["annotations"] = answer.annotations
    return chat


def tool_call(call_id: object, name: object, arguments: str, index: int) -> dict[str, object]:
    """Return a call of a chat message or the beginning of one in a stream."""
    return {
        "id": call_id if call_id and isinstance(call_id, str) else f"call_{index}",
        "type": "function",
        "function": {"name": name if isinstance(name, str) else "", "arguments": arguments},
    }


def arguments_of(tool_input: msgspec.Raw) -> str:
    """Return a call's input as the text of its arguments: an empty object, which clients can parse, when it is none."""
    text = bytes(tool_input)
    return text.decode("utf-8", "replace") if text.startswith(b"{") else "{}"


def finish_reason(stop_reason: object, *, wants_functions: bool = False) -> str:
    """Return OpenAI's word for why a message ended; ``stop`` for reasons that are not known.

    Examples
    --------
    >>> finish_reason("tool_use"), finish_reason("pause_turn"), finish_reason("a_new_one")
    ('tool_calls', 'length', 'stop')
    """
    reason = _FINISH_REASONS.get(stop_reason, "stop") if isinstance(stop_reason, str) else "stop"
    return "function_call" if wants_functions and reason == "tool_calls" else reason


def refusal_of(stop_reason: object, stop_details: object) -> str | None:
    """Return the explanation of a refusal, when there is one."""
    if stop_reason != "refusal" or not isinstance(stop_details, dict):
        return None
    explanation = stop_details.get("explanation")
    return explanation if isinstance(explanation, str) else None


def wants_functions(asked: Asked) -> bool:
    """Whether the client speaks the older form of tools, ``functions``, and reads ``function_call``."""
    return "functions" in asked.fields and "tools" not in asked.fields


def model_of(model: object, asked: Asked) -> str:
    """Return the model that answered, or else the one asked for."""
    if isinstance(model, str) and model:
        return model
    try:
        wanted = _decode_any(asked.fields["model"])
    except (KeyError, msgspec.DecodeError, UnicodeDecodeError):
        return ""
    return wanted if isinstance(wanted, str) else ""


def service_tier(usage: object) -> str | None:
    """Return OpenAI's word for how a request was served."""
    tier = usage.get("service_tier") if isinstance(usage, dict) else None
    return _SERVICE_TIERS.get(tier, tier) if isinstance(tier, str) else None


def chat_usage(fields: object) -> dict[str, object] | None:
    """Return a ``usage`` object in OpenAI's convention; None when the counts make no sense.

    Parameters
    ----------
    fields : object
        The decoded ``usage`` of a message.

    Notes
    -----
    ``prompt_tokens`` = input + read from the cache + written to it; OpenAI's counts hold all three. Anthropic's own
    cache counts are kept beside them.

    Examples
    --------
    >>> chat_usage({"input_tokens": 3, "cache_read_input_tokens": 100, "output_tokens": 5})["prompt_tokens"]
    103
    """
    usage = read_anthropic_usage(fields)
    if usage is None or not isinstance(fields, dict):
        return None
    counts: dict[str, object] = {
        "prompt_tokens": usage.input_tokens,
        "completion_tokens": usage.output_tokens,
        "total_tokens": usage.input_tokens + usage.output_tokens,
        "prompt_tokens_details": {
            "cached_tokens": usage.cached_input_tokens,
            "cache_write_tokens": usage.cache_write_tokens,
        },
    }
    details = fields.get("output_tokens_details")
    thought = details.get("thinking_tokens") if isinstance(details, dict) else None
    if isinstance(thought, int) and 0 <= thought <= usage.output_tokens:
        counts["completion_tokens_details"] = {"reasoning_tokens": thought}
    counts.update({name: fields[name] for name in _KEPT_COUNTS if fields.get(name) is not None})
    return counts


def annotations_of(citations: list[object], start: int, end: int) -> list[object]:
    """Return OpenAI's annotations for the citations of web pages.

    Parameters
    ----------
    citations : list
        Of one text block.
    start, end : int
        Where its text begins and ends in the whole answer, characters.
    """
    return [
        {
            "type": "url_citation",
            "url_citation": {
                "start_index": start,
                "end_index": end,
                "title": citation["title"] if isinstance(citation.get("title"), str) else "",
                "url": citation["url"],
            },
        }
        for citation in citations
        if isinstance(citation, dict) and citation.get("type") == _WEB_CITATION and isinstance(citation.get("url"), str)
    ]
