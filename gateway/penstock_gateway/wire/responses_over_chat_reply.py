"""From a chat completion to a response object.

Pure. Read `translate_reply`.

Wire rules: platform.openai.com/docs/api-reference/chat/object and /responses/object.
"""

from __future__ import annotations

from typing import Any

import msgspec

from penstock_gateway.wire.responses_over_chat_chunks import said_in
from penstock_gateway.wire.responses_over_chat_reasoning import (
    OWN_REASONING_ID,
    reasoning_item,
    seal_thinking,
    whole_items,
)
from penstock_gateway.wire.responses_over_chat_shape import (
    Item,
    Outcome,
    ResponseShape,
    call_item,
    flat_annotations,
    flat_logprobs,
    message_item,
    text_part,
)
from penstock_gateway.wire.translation import Asked

_decode = msgspec.json.Decoder().decode
_encode = msgspec.json.Encoder().encode


def translate_reply(body: bytes, asked: Asked) -> bytes:
    """Translate a chat completion; see `translation.Translator.reply`.

    Parameters
    ----------
    body : bytes
    asked : Asked

    Returns
    -------
    bytes

    Raises
    ------
    ValueError
        It is not a chat completion.

    Notes
    -----
    Of several choices the first counts: the Responses API has no ``n``. Reasoning comes first, then text, then calls,
    as in OpenAI's answers. A call without arguments gets an empty object, because clients parse them.
    """
    try:
        completion = _decode(body)
    except (msgspec.DecodeError, ValueError, RecursionError) as error:
        raise ValueError("a body that is not JSON") from error
    if not isinstance(completion, dict):
        raise ValueError("a body that is not a JSON object")
    choice = _first_choice(completion.get("choices"))
    message = choice.get("message")
    if not isinstance(message, dict):
        raise ValueError("a body with a choice that has no message")
    outcome = Outcome(
        model=completion.get("model"),
        created=completion.get("created"),
        usage=completion.get("usage"),
        service_tier=completion.get("service_tier"),
    )
    outcome.end(choice.get("finish_reason"))
    output = _output(message, choice.get("logprobs"), asked)
    if output and outcome.status == "incomplete" and "status" in output[-1]:
        output[-1]["status"] = "incomplete"
    return bytes(ResponseShape(asked).encode(outcome, output))


def _first_choice(choices: object) -> dict[str, Any]:
    for choice in choices if isinstance(choices, list) else ():
        if isinstance(choice, dict):
            return choice
    raise ValueError("a body without choices")


def _output(message: dict[str, Any], logprobs: object, asked: Asked) -> list[Item]:
    said, thought = said_in(message.get("content"))
    output = _reasoning(message, thought, asked)
    parts: list[Item] = []
    if said:
        parts.append(text_part(said, flat_annotations(message.get("annotations")), flat_logprobs(logprobs)))
    refusal = message.get("refusal")
    if refusal and isinstance(refusal, str):
        parts.append({"type": "refusal", "refusal": refusal})
    if parts:
        output.append(message_item(f"msg_chat_{asked.id}_{len(output)}", "completed", parts))
    for call in _calls(message):
        place = len(output)
        call_id, function = call.get("id"), call["function"]
        name = function.get("name")
        output.append(
            call_item(
                f"fc_chat_{asked.id}_{place}",
                "completed",
                call_id if call_id and isinstance(call_id, str) else f"call_{asked.id}_{place}",
                name if isinstance(name, str) else "",
                _arguments(function.get("arguments")),
            )
        )
    return output


def _reasoning(message: dict[str, Any], thought: str, asked: Asked) -> list[Item]:
    whole = whole_items(message.get("reasoning_items"))
    if whole:
        return whole
    texts = (message.get("reasoning_content"), message.get("reasoning"), thought)
    text = next((text for text in texts if text and isinstance(text, str)), "")
    sealed = seal_thinking(message.get("thinking_blocks"))
    if not text and sealed is None:
        return []
    return [reasoning_item(f"{OWN_REASONING_ID}{asked.id}_0", [text] if text else [], sealed)]


def _calls(message: dict[str, Any]) -> list[dict[str, Any]]:
    """Return the calls of functions, the older ``function_call`` too."""
    calls = message.get("tool_calls")
    found = [
        call
        for call in (calls if isinstance(calls, list) else ())
        if isinstance(call, dict) and isinstance(call.get("function"), dict)
    ]
    old = message.get("function_call")
    return found if found or not isinstance(old, dict) else [{"function": old}]


def _arguments(arguments: object) -> str:
    """Return the text of a call's arguments; some servers send the object itself."""
    if isinstance(arguments, dict):
        return _encode(arguments).decode()
    return arguments if arguments and isinstance(arguments, str) else "{}"
