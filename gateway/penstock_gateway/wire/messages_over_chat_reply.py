"""From a chat completion to a Message of Anthropic's API.

Owns what both plain and streamed answers share: stop reasons, usage, citations, ids. Pure. Read `translate_reply`.

Wire rules: platform.claude.com/docs/en/api/messages and /docs/en/build-with-claude/handling-stop-reasons;
platform.openai.com/docs/api-reference/chat/object.
"""

from __future__ import annotations

from typing import Any, Final

import msgspec

from penstock_gateway.upstream.usage import read_usage
from penstock_gateway.wire.translation import Asked

STOP_REASONS: Final = {
    "stop": "end_turn",
    "length": "max_tokens",
    "tool_calls": "tool_use",
    "function_call": "tool_use",
    "content_filter": "refusal",
}
"""By OpenAI's ``finish_reason``; ``end_turn`` for those that are not known."""

_CHAT_PREFIX = "chatcmpl-"
_SERVICE_TIERS: Final = {"default": "standard", "standard": "standard", "priority": "priority"}
# Anthropic's own counts, which chat usage keeps beside its own (`chat_over_messages_reply`, litellm).
_KEPT_COUNTS: Final = ("cache_creation", "server_tool_use")


class ChatMessage(msgspec.Struct):
    """The fields of a message or a delta that are read; of any type, because servers differ."""

    content: Any = None
    reasoning_content: Any = None
    reasoning: Any = None
    refusal: Any = None
    thinking_blocks: Any = None
    citations: Any = None
    annotations: Any = None
    tool_calls: Any = None
    function_call: Any = None


class ChatChoice(msgspec.Struct):
    """One choice of an answer or of a chunk."""

    index: Any = 0
    message: ChatMessage | None = None
    delta: ChatMessage | None = None
    finish_reason: Any = None
    stop_reason: Any = None  # vLLM: the sequence that ended the text
    matched_stop: Any = None  # SGLang: the same


class ChatAnswer(msgspec.Struct):
    """An answer or a chunk."""

    id: Any = None
    model: Any = None
    choices: list[ChatChoice] | None = None
    usage: Any = None
    service_tier: Any = None
    error: Any = None


_decode_answer = msgspec.json.Decoder(ChatAnswer).decode
_decode_any = msgspec.json.Decoder().decode
_decode_object = msgspec.json.Decoder(dict[str, msgspec.Raw]).decode
_encode = msgspec.json.Encoder().encode
_UNREADABLE = (msgspec.DecodeError, UnicodeDecodeError, RecursionError)


def translate_reply(body: bytes, asked: Asked) -> bytes:
    """Translate a chat completion; see `translation.Translator.reply`.

    Raises
    ------
    ValueError
        It is not a completion.

    Notes
    -----
    Thinking comes first, then text, then calls. Arguments that are not a JSON object, which Anthropic's clients cannot
    hold, are put into one under the name ``_arguments``, so that nothing is lost.
    """
    try:
        answer = _decode_answer(body)
    except msgspec.ValidationError as error:
        raise ValueError("a body that is not a chat completion") from error
    except _UNREADABLE as error:
        raise ValueError("a body that is not a JSON object") from error
    if not answer.choices:
        raise ValueError("a body without choices")
    choice = answer.choices[0]
    message = choice.message or ChatMessage()
    calls = calls_of(message)
    content = [
        *thinking_of(message),
        *texts_of(message),
        *(
            {"type": "tool_use", "id": call_id(call, place, asked), "name": name_of(call), "input": input_of(call)}
            for place, call in enumerate(calls)
        ),
    ]
    is_refusal = bool(refusal_of(message)) and not text_of(message.content)
    reason, sequence = stop_reason(choice, has_calls=bool(calls), is_refusal=is_refusal)
    return _encode(
        {
            **message_head(answer, asked),
            "content": content,
            "stop_reason": reason,
            "stop_sequence": sequence,
            "usage": message_usage(answer.usage, answer.service_tier),
        }
    )


def message_head(answer: ChatAnswer, asked: Asked) -> dict[str, object]:
    """Return id, type, role and model of a message."""
    own = answer.id if isinstance(answer.id, str) and answer.id else asked.id
    return {
        "id": own if own.startswith("msg_") else f"msg_{own.removeprefix(_CHAT_PREFIX)}",
        "type": "message",
        "role": "assistant",
        "model": _model_of(answer, asked),
    }


def message_usage(fields: object, service_tier: object = None) -> dict[str, object]:
    """Return a ``usage`` object in Anthropic's convention, zeros when the provider told none that makes sense.

    Notes
    -----
    ``input_tokens`` is what was neither read from nor written to the cache
    (platform.claude.com/docs/en/build-with-claude/prompt-caching).

    Examples
    --------
    >>> message_usage({"prompt_tokens": 103, "completion_tokens": 5, "prompt_tokens_details": {"cached_tokens": 100}})[
    ...     "input_tokens"
    ... ]
    3
    """
    usage = read_usage(fields, service_tier)
    if usage is None:
        return {"input_tokens": 0, "output_tokens": 0}
    read, written = usage.cached_input_tokens, usage.cache_write_tokens
    counts: dict[str, object] = {
        "input_tokens": max(0, usage.input_tokens - read - written),
        "cache_creation_input_tokens": written,
        "cache_read_input_tokens": read,
        "output_tokens": usage.output_tokens,
    }
    if usage.reasoning_tokens:
        counts["output_tokens_details"] = {"thinking_tokens": usage.reasoning_tokens}
    if isinstance(fields, dict):
        counts.update({name: fields[name] for name in _KEPT_COUNTS if isinstance(fields.get(name), dict)})
    if isinstance(service_tier, str) and service_tier in _SERVICE_TIERS:
        counts["service_tier"] = _SERVICE_TIERS[service_tier]
    return counts


def stop_reason(choice: ChatChoice, *, has_calls: bool, is_refusal: bool = False) -> tuple[str, str | None]:
    """Return Anthropic's word for why an answer ended, and the sequence that ended it where the server tells.

    Parameters
    ----------
    choice : ChatChoice
        With the finish reason.
    has_calls : bool
        Some servers say ``stop`` after a call, others ``tool_calls`` without one; clients wait for calls that the
        reason promises.
    is_refusal : bool
        The answer is a ``refusal`` and nothing else, which OpenAI ends with ``stop``.
    """
    reason = choice.finish_reason if isinstance(choice.finish_reason, str) else "stop"
    known = STOP_REASONS.get(reason, "end_turn")
    if known == "tool_use" and not has_calls:
        return "end_turn", None
    if known != "end_turn":
        return known, None
    if has_calls:
        return "tool_use", None
    if is_refusal:
        return "refusal", None
    for sequence in (choice.stop_reason, choice.matched_stop):
        if isinstance(sequence, str) and sequence:
            return "stop_sequence", sequence
    return "end_turn", None


def thinking_of(message: ChatMessage) -> list[dict[str, Any]]:
    """Return the thinking blocks of a message: as they came, or made of its visible reasoning, without a signature."""
    blocks = thinking_blocks_of(message)
    text = "" if blocks else reasoning_of(message)
    return [{"type": "thinking", "thinking": text, "signature": ""}] if text else blocks


def thinking_blocks_of(message: ChatMessage) -> list[dict[str, Any]]:
    """Return what of the ``thinking_blocks`` of a message or a delta is one."""
    found = message.thinking_blocks if isinstance(message.thinking_blocks, list) else []
    return [block for one in found if isinstance(one, dict) and (block := _thinking_block(one)) is not None]


def _thinking_block(block: dict[str, Any]) -> dict[str, Any] | None:
    if block.get("type") == "redacted_thinking":
        return block if isinstance(block.get("data"), str) else None
    if block.get("type") != "thinking":
        return None
    texts = {name: text if isinstance(text := block.get(name), str) else "" for name in ("thinking", "signature")}
    return {**block, **texts} if any(texts.values()) else None


def reasoning_of(message: ChatMessage) -> str:
    """Return the visible reasoning of a message or a delta; Mistral's is among the parts of its content."""
    for text in (message.reasoning_content, message.reasoning):
        if isinstance(text, str) and text:
            return text
    parts = message.content if isinstance(message.content, list) else []
    thinking = (part for part in parts if isinstance(part, dict) and part.get("type") == "thinking")
    return "".join(text_of(part.get("thinking")) for part in thinking)


def text_of(content: object) -> str:
    """Return the text of a message's content, a string or parts."""
    if isinstance(content, str):
        return content
    parts = content if isinstance(content, list) else []
    texts = (part.get("text") if isinstance(part, dict) else part for part in parts)
    return "".join(text for text in texts if isinstance(text, str))


def refusal_of(message: ChatMessage) -> str:
    """Return the refusal of a message or a delta."""
    return message.refusal if isinstance(message.refusal, str) else ""


def texts_of(message: ChatMessage) -> list[object]:
    """Return the text block of a message, its refusal when it has nothing else."""
    text = text_of(message.content) or refusal_of(message)
    if not text:
        return []
    block: dict[str, object] = {"type": "text", "text": text}
    citations = citations_of(message, text)
    if citations:
        block["citations"] = citations
    return [block]


def citations_of(message: ChatMessage, text: str) -> list[object]:
    """Return Anthropic's citations of a message or a delta: as they came, or made of OpenAI's for web addresses.

    Parameters
    ----------
    message : ChatMessage
    text : str
        Of the whole answer as far as it has come, in which annotations count characters.
    """
    if isinstance(message.citations, list):
        own: list[object] = [
            one for one in message.citations if isinstance(one, dict) and isinstance(one.get("type"), str)
        ]
        if own:
            return own
    annotations = message.annotations if isinstance(message.annotations, list) else []
    return [cited for one in annotations if (cited := _citation(one, text)) is not None]


def _citation(annotation: object, text: str) -> object:
    """Return a citation of a web page; the index that Anthropic's own searches have in it is empty."""
    fields = annotation.get("url_citation") if isinstance(annotation, dict) else None
    if not isinstance(fields, dict) or not isinstance(fields.get("url"), str):
        return None
    start, end, title = fields.get("start_index"), fields.get("end_index"), fields.get("title")
    is_placed = isinstance(start, int) and isinstance(end, int) and 0 <= start <= end
    return {
        "type": "web_search_result_location",
        "url": fields["url"],
        "title": title if isinstance(title, str) else None,
        "cited_text": text[start:end] if is_placed else "",
        "encrypted_index": "",
    }


def calls_of(message: ChatMessage) -> list[dict[str, Any]]:
    """Return the tool calls of a message or a delta; one of the older form counts as the first."""
    if isinstance(message.tool_calls, list):
        return [call for call in message.tool_calls if isinstance(call, dict)]
    if isinstance(message.function_call, dict):
        return [{"index": 0, "function": message.function_call}]
    return []


def name_of(call: dict[str, Any]) -> str:
    """Return the name of a call's function."""
    function = call.get("function")
    name = function.get("name") if isinstance(function, dict) else None
    return name if isinstance(name, str) else ""


def arguments_of(call: dict[str, Any]) -> str:
    """Return the text of a call's arguments; some servers send the object itself."""
    function = call.get("function")
    arguments = function.get("arguments") if isinstance(function, dict) else None
    if isinstance(arguments, dict):
        return _encode(arguments).decode()
    return arguments if isinstance(arguments, str) else ""


def input_of(call: dict[str, Any]) -> object:
    """Return the input of a call: the object that its arguments are."""
    arguments = arguments_of(call)
    if arguments.strip() in ("", "null"):
        return {}
    try:
        return _decode_object(arguments.encode())
    except _UNREADABLE:
        return {"_arguments": arguments}


def call_id(call: dict[str, Any], place: int, asked: Asked) -> str:
    """Return the id of a call."""
    own = call.get("id")
    return own if isinstance(own, str) and own else f"toolu_{asked.id}_{place}"


def _model_of(answer: ChatAnswer, asked: Asked) -> str:
    if isinstance(answer.model, str) and answer.model:
        return answer.model
    try:
        wanted = _decode_any(asked.fields["model"])
    except (KeyError, *_UNREADABLE):
        return ""
    return wanted if isinstance(wanted, str) else ""
