"""What a simulated model says: templates, plainly labelled, with seeded length and speed.

Owns the text, the tool calls, the token counts and the delays of one simulated answer. Pure: no I/O, no clock, no
shared random state; the same model, request and seed give the same answer. Read `compose_answer` first.
"""

from __future__ import annotations

import hashlib
import json
import math
import random
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any

from penstock_gateway.demo.simulated_models import SimulatedModel

CountTokens = Callable[[str], int]
"""Number of tokens of a text; additive over pieces that are cut at white space and punctuation."""

# What OpenAI's chat format adds per message and per reply (their token-counting guide gives 3 and 3).
TOKENS_PER_MESSAGE = 3
TOKENS_PER_REPLY = 3
# OpenAI's fixed price of a low-detail image; the picture itself is never looked at.
TOKENS_PER_IMAGE = 85

_PIECE = re.compile(r"\s*(?:\w+|[^\w\s])")
_MAX_SCHEMA_DEPTH = 16

_SCALARS: Mapping[str, Any] = MappingProxyType({"integer": 0, "number": 0.0, "boolean": True, "null": None})

_SENTENCES = (
    "Step {i} of this template stands where a model would have worked on your request.",
    "The router sent the request here before any answer existed; it had only the prompt to go by.",
    "This sentence fills the answer up to its simulated length so that the token counts and costs add up.",
    "Point the gateway at a real provider and the same decision reaches a real model.",
    "Nothing in this paragraph depends on what was asked, except the quotation at the top.",
    "Length, speed and price of this reply come from a fixed table and a seed.",
)


@dataclass(frozen=True, slots=True)
class SimulatedAnswer:
    """One answer, ready to be sent whole or piece by piece.

    Attributes
    ----------
    pieces : tuple of str
        The text in order, about one token each; empty when `tool_call` is set.
    tool_call : tuple of (str, str) or None
        Function name and JSON arguments.
    finish_reason : str
        ``"stop"``, ``"length"`` or ``"tool_calls"``.
    input_tokens, output_tokens : int
    first_token_seconds : float
        Simulated wait before the first piece.
    seconds_per_token : float
    """

    pieces: tuple[str, ...]
    tool_call: tuple[str, str] | None
    finish_reason: str
    input_tokens: int
    output_tokens: int
    first_token_seconds: float
    seconds_per_token: float

    @property
    def text(self) -> str:
        """The whole answer."""
        return "".join(self.pieces)

    @property
    def total_seconds(self) -> float:
        """Simulated time from the request to the last piece."""
        return self.first_token_seconds + self.output_tokens * self.seconds_per_token


def count_pieces(text: str) -> int:
    """Count words and punctuation marks: the token count used when no tokenizer is at hand.

    Parameters
    ----------
    text : str

    Returns
    -------
    int
        Words (runs of letters, digits and underscores) plus single other characters that are not white space.

    Examples
    --------
    >>> count_pieces("Is 12.5 more than 12?")
    8
    """
    return sum(1 for _ in _PIECE.finditer(text))


def split_pieces(text: str) -> tuple[str, ...]:
    """Cut a text into words and punctuation marks, each with the white space before it."""
    return tuple(match.group() for match in _PIECE.finditer(text))


def compose_answer(
    model: SimulatedModel, request: Mapping[str, Any], *, seed: int, count_tokens: CountTokens
) -> SimulatedAnswer:
    """Compose the simulated answer to a chat request.

    Parameters
    ----------
    model : SimulatedModel
    request : mapping
        A chat-completions body that the server has validated.
    seed : int
        Changes lengths and speeds.
    count_tokens : CountTokens

    Returns
    -------
    SimulatedAnswer

    Notes
    -----
    The length is log-normal around ``model.median_output_tokens`` with sigma 0.45 (two thirds of the answers lie
    within a factor of 1.6), the wait for the first token log-normal with sigma 0.2.
    """
    messages: Sequence[Mapping[str, Any]] = request["messages"]
    draw = random.Random(_digest(model.name, messages, seed))  # seeded draw for a simulation, not for secrets
    input_tokens = count_input_tokens(request, count_tokens)
    wait = model.first_token_seconds * math.exp(draw.gauss(0.0, 0.2))
    pace = 1.0 / model.tokens_per_second
    function = _function_to_call(request)
    if function is not None:
        arguments = json.dumps(_instance(function.get("parameters"), 0), separators=(",", ":"))
        name = str(function["name"])
        tokens = count_tokens(name) + count_tokens(arguments)
        return SimulatedAnswer((), (name, arguments), "tool_calls", input_tokens, tokens, wait, pace)
    limit = _output_limit(request, model)
    wanted = round(model.median_output_tokens * math.exp(draw.gauss(0.0, 0.45)))
    pieces, tokens, is_cut = _cut(_text_pieces(model, request, wanted, count_tokens), limit, count_tokens)
    return SimulatedAnswer(pieces, None, "length" if is_cut else "stop", input_tokens, tokens, wait, pace)


def count_input_tokens(request: Mapping[str, Any], count_tokens: CountTokens) -> int:
    """Count the prompt tokens of a chat request: all texts, images at a fixed price, tools as their JSON."""
    total = TOKENS_PER_REPLY
    for message in request["messages"]:
        total += TOKENS_PER_MESSAGE + count_tokens(str(message.get("role", "")))
        total += sum(count_tokens(text) for text in _texts(message.get("content")))
        total += TOKENS_PER_IMAGE * _image_count(message.get("content"))
        if message.get("tool_calls"):
            total += count_tokens(json.dumps(message["tool_calls"]))
    if request.get("tools"):
        total += count_tokens(json.dumps(request["tools"]))
    return total


def _digest(model_name: str, messages: object, seed: int) -> int:
    canonical = json.dumps([model_name, messages, seed], sort_keys=True).encode()
    return int.from_bytes(hashlib.sha256(canonical).digest()[:8], "big")


def _texts(content: object) -> Iterator[str]:
    if isinstance(content, str):
        yield content
    elif isinstance(content, list):
        yield from (part["text"] for part in content if isinstance(part, dict) and isinstance(part.get("text"), str))


def _image_count(content: object) -> int:
    parts = content if isinstance(content, list) else []
    return sum(1 for part in parts if isinstance(part, dict) and part.get("type") == "image_url")


def _output_limit(request: Mapping[str, Any], model: SimulatedModel) -> int:
    asked = request.get("max_completion_tokens") or request.get("max_tokens") or model.max_output_tokens
    return min(int(asked), model.max_output_tokens)


def _text_pieces(
    model: SimulatedModel, request: Mapping[str, Any], wanted_tokens: int, count_tokens: CountTokens
) -> Iterator[str]:
    response_format = request.get("response_format") or {}
    if response_format.get("type") == "json_schema":
        wrapper = response_format.get("json_schema")
        schema = wrapper.get("schema") if isinstance(wrapper, dict) else None
        yield from split_pieces(json.dumps(_instance(schema, 0)))
        return
    if response_format.get("type") == "json_object":
        yield from split_pieces(json.dumps({"simulated": True, "model": model.name, "answer": "template"}))
        return
    opening = f"[Simulated answer from {model.name}; no language model ran.] You asked: “{_quotation(request)}”"
    written = 0
    for piece in split_pieces(opening):
        written += count_tokens(piece)
        yield piece
    step = 0
    while written < wanted_tokens:
        step += 1
        for piece in split_pieces(" " + _SENTENCES[(step - 1) % len(_SENTENCES)].format(i=step)):
            written += count_tokens(piece)
            yield piece


def _quotation(request: Mapping[str, Any]) -> str:
    """First words of the last user message, for the reader to recognise the request."""
    for message in reversed(request["messages"]):
        if message.get("role") == "user":
            words = " ".join(_texts(message.get("content"))).split()
            return " ".join(words[:8])[:80] + ("…" if len(words) > 8 else "")
    return ""


def _cut(pieces: Iterator[str], limit: int, count_tokens: CountTokens) -> tuple[tuple[str, ...], int, bool]:
    kept: list[str] = []
    used = 0
    for piece in pieces:
        tokens = count_tokens(piece)
        if used + tokens > limit:
            return tuple(kept), used, True
        kept.append(piece)
        used += tokens
    return tuple(kept), used, False


def _function_to_call(request: Mapping[str, Any]) -> Mapping[str, Any] | None:
    """Pick the function that the simulated model calls: one per request with tools, none once a result is there."""
    tools: list[Mapping[str, Any]] = [t["function"] for t in request.get("tools") or [] if t.get("type") == "function"]
    choice = request.get("tool_choice", "auto")
    if not tools or choice == "none":
        return None
    if isinstance(choice, dict):
        wanted = (choice.get("function") or {}).get("name")
        return next((tool for tool in tools if tool["name"] == wanted), None)
    if choice == "auto" and request["messages"][-1].get("role") == "tool":
        return None
    return tools[0]


def _instance(schema: object, depth: int) -> Any:
    """Make a small value that fits a JSON schema's types (not its patterns or bounds)."""
    if not isinstance(schema, dict) or depth > _MAX_SCHEMA_DEPTH:
        return {}
    if isinstance(schema.get("enum"), list) and schema["enum"]:
        return schema["enum"][0]
    if "const" in schema:
        return schema["const"]
    kind = schema.get("type", "object" if "properties" in schema else "string")
    if isinstance(kind, list) and kind:
        kind = kind[0]
    if kind == "object":
        properties = schema.get("properties")
        properties = properties if isinstance(properties, dict) else {}
        return {name: _instance(properties[name], depth + 1) for name in properties}
    if kind == "array":
        return [_instance(schema.get("items"), depth + 1)]
    return _SCALARS.get(str(kind), "simulated")
