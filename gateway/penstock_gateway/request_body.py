"""A thin view of a chat request: what routing needs, with every other byte left alone.

The top level is decoded to raw values, so unknown fields reach the model exactly as the client wrote them.
Read `parse_chat_request` first. No I/O.
"""

from __future__ import annotations

import difflib
import math
import re
from typing import TypeVar

import msgspec

from penstock_gateway.deployments import Ability
from penstock_gateway.errors import InvalidRequest
from penstock_gateway.request_messages import (
    context_of,
    is_agent_step,
    last_user_text,
    messages_decoder,
    opening_of,
    survey,
)
from penstock_gateway.surrogates import json_problem
from penstock_gateway.upstream.protocol import JsonObject
from penstock_gateway.wire.formats import WireFormat
from penstock_gateway.wire.native import NativeRequest
from penstock_routers.features import NO_CONTEXT, PromptContext
from penstock_routers.token_counts import TOKENS_PER_MESSAGE, estimate_tokens

_T = TypeVar("_T")

TRADEOFF_NAMES = ("cost", "balanced", "quality")
AUTO_ALIASES = ("auto", *(f"auto:{name}" for name in TRADEOFF_NAMES))
CONTROL_FIELD = "penstock"

# A mid-sized image costs 765 tokens on the tile scheme most providers follow; used for estimates only.
_TOKENS_PER_ATTACHMENT = 765
_ALIAS_NUMBER = re.compile(r"auto@(.*)", re.DOTALL)
_NUMBER = re.compile(r"(?:[0-9]{1,20}(?:\.[0-9]{0,20})?|\.[0-9]{1,20})(?:[eE][-+]?[0-9]{1,3})?")
_MAX_NUMBER_CHARACTERS = 32  # a trade-off in longhand; decisions keep the alias as written, so it must be short
# Above this a limit is a mistake: no model sold in 2026 writes a thousandth of it.
_MAX_TOKEN_LIMIT = 1_000_000_000


class _StreamOptions(msgspec.Struct):
    include_usage: bool | None = None


class _ResponseFormat(msgspec.Struct):
    type: str = "text"


class _Controls(msgspec.Struct):
    tradeoff: str | float | None = None
    max_cost_usd: float | None = None
    min_quality: float | None = None
    include_cost: bool = False


_NO_CONTROLS = _Controls()  # read only
_object_decoder = msgspec.json.Decoder(dict[str, msgspec.Raw])
_string_decoder = msgspec.json.Decoder(str)
_flag_decoder = msgspec.json.Decoder(bool | None)
_count_decoder = msgspec.json.Decoder(int | None)
_stream_options_decoder = msgspec.json.Decoder(_StreamOptions | None)
_response_format_decoder = msgspec.json.Decoder(_ResponseFormat | None)
_controls_decoder = msgspec.json.Decoder(_Controls)
_plain_decoder = msgspec.json.Decoder()
_encoder = msgspec.json.Encoder()

TradeoffValue = str | float


class ChatRequest(msgspec.Struct, frozen=True, gc=False):
    """What the pipeline knows about one chat request.

    Attributes
    ----------
    fields : JsonObject
        The client's object without our control field; values are raw bytes.
    model : str
        The model or alias as asked for.
    is_stream, wants_usage : bool
        Streaming, and whether the client asked for the stream's usage chunk.
    routing_text : str
        Text of the last user turn.
    input_tokens : int
        Estimated prompt tokens.
    attachments : int
        Images, audio clips and documents in the conversation.
    needs : frozenset of Ability
    max_tokens : int or None
        The client's limit on output tokens.
    choices : int
        ``n``.
    tradeoff : str, float or None
        From the body's control field; None when absent.
    includes_cost : bool
        The client wants the actual cost in the answer.
    max_cost_usd, min_quality : float or None
        From the body's control field.
    opening : str
        Beginning of system prompt and first user message: what a conversation is known by.
    is_follow_up : bool
        There is an earlier answer in the conversation.
    is_agent_step : bool
        A tool's result came after the last answer: a step of an agent's loop, which its model asked for.
    is_bound : bool
        It holds what only the model that made it can read.
    native : NativeRequest or None
        As the client wrote it, when that was another format: then `fields` are its chat form.
    context : PromptContext
        What stands around the last user turn.
    obstacles : dict of WireFormat to str or None
        Why the chat form cannot be put into a format, as far as that has been looked at; None when it can.
    """

    fields: JsonObject
    model: str
    is_stream: bool
    wants_usage: bool
    routing_text: str
    input_tokens: int
    attachments: int
    needs: frozenset[Ability]
    max_tokens: int | None
    choices: int
    tradeoff: TradeoffValue | None
    includes_cost: bool
    max_cost_usd: float | None = None
    min_quality: float | None = None
    opening: str = ""
    is_follow_up: bool = False
    is_agent_step: bool = False
    is_bound: bool = False
    native: NativeRequest | None = None
    context: PromptContext = NO_CONTEXT
    obstacles: dict[WireFormat, str | None] = msgspec.field(default_factory=dict)

    @property
    def front(self) -> WireFormat:
        """The client's format."""
        return WireFormat.CHAT if self.native is None else self.native.format

    @property
    def is_reusable(self) -> bool:
        """Whether another request's answer may do for this one: it has a chat form, which says all of it."""
        return self.native is None or self.native.obstacle is None


def decode_object(body: bytes) -> JsonObject:
    """Decode a JSON object to raw values.

    Raises
    ------
    InvalidRequest
        Not UTF-8, not JSON, nested too deeply, or not an object.
    """
    try:
        str(body, "utf-8")
        return _object_decoder.decode(body)
    except UnicodeDecodeError as error:
        raise InvalidRequest(f"The body is not valid UTF-8 (byte {error.start}).", code="invalid_json") from None
    except RecursionError:
        raise InvalidRequest("The body is nested too deeply.", code="json_too_deep") from None
    except msgspec.ValidationError:
        raise InvalidRequest("The body must be a JSON object.", code="invalid_json") from None
    except msgspec.DecodeError as error:
        raise InvalidRequest(f"The body is not valid JSON: {json_problem(body, error)}.", code="invalid_json") from None


def parse_chat_request(body: bytes, *, default_model: str | None = None) -> ChatRequest:
    """Parse the body of a chat completion; see `parse_chat_fields`."""
    return parse_chat_fields(decode_object(body), default_model=default_model)


def parse_chat_fields(fields: JsonObject, *, default_model: str | None = None) -> ChatRequest:
    """Read what routing needs out of a chat completion's fields.

    Parameters
    ----------
    fields : JsonObject
        The request as received; our control field is taken out of it.
    default_model : str, optional
        Used when the body names no model (``POST /v1/route``).

    Returns
    -------
    ChatRequest

    Raises
    ------
    InvalidRequest
        With a stable ``code`` and the ``param`` at fault.
    """
    controls = _read_controls(fields.pop(CONTROL_FIELD, None))
    if "model" in fields:
        model = _field(fields, "model", _string_decoder)
    elif default_model is not None:
        model = default_model
    else:
        raise InvalidRequest("'model' is required.", code="missing_field", param="model")
    if "messages" not in fields:
        raise InvalidRequest("'messages' is required.", code="missing_field", param="messages")
    messages = _field(fields, "messages", messages_decoder)
    if not messages:
        raise InvalidRequest("'messages' must not be empty.", code="empty_messages", param="messages")
    stream_options = _optional(fields, "stream_options", _stream_options_decoder)
    text_bytes, attachments, needs = survey(messages)
    is_stream = bool(_optional(fields, "stream", _flag_decoder))
    needs |= _needs_of_fields(fields, is_stream)
    return ChatRequest(
        fields=fields,
        model=model,
        is_stream=is_stream,
        wants_usage=bool(stream_options and stream_options.include_usage),
        routing_text=last_user_text(messages),
        input_tokens=_estimate_input_tokens(fields, text_bytes, len(messages), attachments),
        attachments=attachments,
        needs=frozenset(needs),
        max_tokens=_max_tokens(fields),
        choices=_choices(fields),
        tradeoff=controls.tradeoff,
        includes_cost=controls.include_cost,
        max_cost_usd=controls.max_cost_usd,
        min_quality=controls.min_quality,
        opening=opening_of(messages),
        is_follow_up=len(messages) > 2 and any(message.role == "assistant" for message in messages),
        is_agent_step=is_agent_step(messages),
        is_bound=any(message.is_bound for message in messages),
        context=context_of(messages, fields),
    )


def parse_alias(model: str) -> TradeoffValue | None:
    """Return the trade-off that an alias names, or None for plain ``auto``.

    Parameters
    ----------
    model : str
        A model name for which `is_alias` holds.

    Raises
    ------
    InvalidRequest
        The suffix is unknown or the number is outside [0, 1].
    """
    if model == "auto":
        return None
    number = _ALIAS_NUMBER.fullmatch(model)
    if number is not None:
        return parse_tradeoff(number.group(1), param="model")
    return parse_tradeoff(model.removeprefix("auto:"), param="model", allows_number=False)


def is_alias(model: str) -> bool:
    """Whether `model` asks for a choice rather than for a physical model."""
    return model == "auto" or model.startswith(("auto:", "auto@"))


def parse_tradeoff(value: TradeoffValue, *, param: str, allows_number: bool = True) -> TradeoffValue:
    """Validate a trade-off given as text or number.

    Parameters
    ----------
    value : str or float
        ``cost``, ``balanced``, ``quality``, or a number in [0, 1] (0 = cheapest, 1 = best).
    param : str
        What to blame in the error.
    allows_number : bool

    Returns
    -------
    str or float

    Raises
    ------
    InvalidRequest
        Code ``unknown_tradeoff``.
    """
    if isinstance(value, str) and value in TRADEOFF_NAMES:
        return value
    if allows_number:
        number = _as_number(value)
        if number is not None and 0.0 <= number <= 1.0:
            return number
    wanted = ", ".join(TRADEOFF_NAMES) + (" or a number from 0 (cheapest) to 1 (best)" if allows_number else "")
    shown = str(value)[:40]
    near = difflib.get_close_matches(shown, TRADEOFF_NAMES, n=1)
    hint = f" Did you mean '{near[0]}'?" if near else ""
    raise InvalidRequest(f"Unknown trade-off '{shown}': use {wanted}.{hint}", code="unknown_tradeoff", param=param)


def parse_number(value: str | float, *, param: str, high: float = math.inf) -> float:
    """Validate a limit given as text or number.

    Parameters
    ----------
    value : str or float
    param : str
        What to blame in the error.
    high : float
        Largest value allowed; the smallest is 0.

    Returns
    -------
    float

    Raises
    ------
    InvalidRequest
        Code ``invalid_value``.
    """
    if not isinstance(value, str) or _NUMBER.fullmatch(value):
        number = float(value)
        if math.isfinite(number) and 0.0 <= number <= high:
            return number
    wanted = "a number from 0" + ("" if math.isinf(high) else f" to {high:g}")
    raise InvalidRequest(f"'{param}' must be {wanted}, not '{str(value)[:40]}'.", code="invalid_value", param=param)


def encode_object(fields: JsonObject) -> bytes:
    """Encode an object whose values are raw JSON."""
    return _encoder.encode(fields)


def plain_field(fields: JsonObject, name: str) -> object:
    """Return the value of a field as plain Python.

    Raises
    ------
    InvalidRequest
        It is nested too deeply, or holds a number that Python cannot.
    """
    return _field(fields, name, _plain_decoder)


def raw(value: object) -> msgspec.Raw:
    """Return a plain value as raw JSON."""
    return msgspec.Raw(_encoder.encode(value))


def _as_number(value: TradeoffValue) -> float | None:
    if isinstance(value, str) and (
        len(value) > _MAX_NUMBER_CHARACTERS or not re.fullmatch(r"[0-9]*\.?[0-9]+|[0-9]+\.", value)
    ):
        return None
    number = float(value)
    return number if math.isfinite(number) else None


def _field(fields: JsonObject, name: str, decoder: msgspec.json.Decoder[_T]) -> _T:
    try:
        return decoder.decode(fields[name])
    except RecursionError:
        raise InvalidRequest(f"'{name}' is nested too deeply.", code="json_too_deep", param=name) from None
    except msgspec.ValidationError as error:
        problem = str(error).replace("`$", f"`{name}").replace("`", "'")
        raise InvalidRequest(f"'{name}' is not valid: {problem}.", code="invalid_type", param=name) from None
    except msgspec.DecodeError:
        raise InvalidRequest(f"'{name}' holds malformed JSON.", code="invalid_json", param=name) from None


def _optional(fields: JsonObject, name: str, decoder: msgspec.json.Decoder[_T]) -> _T | None:
    return _field(fields, name, decoder) if name in fields else None


def _read_controls(value: msgspec.Raw | None) -> _Controls:
    if value is None:
        return _NO_CONTROLS
    given = _field({CONTROL_FIELD: value}, CONTROL_FIELD, _object_decoder)
    known = _Controls.__struct_fields__
    for name in given:
        if name not in known:
            shown = name[:40]
            near = difflib.get_close_matches(shown, known, n=1)
            hint = f" Did you mean '{near[0]}'?" if near else f" Known: {', '.join(known)}."
            raise InvalidRequest(
                f"Unknown control '{CONTROL_FIELD}.{shown}'.{hint}", code="unknown_control", param=CONTROL_FIELD
            )
    controls = _field({CONTROL_FIELD: value}, CONTROL_FIELD, _controls_decoder)
    if controls.tradeoff is not None:
        controls.tradeoff = parse_tradeoff(controls.tradeoff, param=f"{CONTROL_FIELD}.tradeoff")
    if controls.max_cost_usd is not None:
        parse_number(controls.max_cost_usd, param=f"{CONTROL_FIELD}.max_cost_usd")
    if controls.min_quality is not None:
        parse_number(controls.min_quality, param=f"{CONTROL_FIELD}.min_quality", high=1.0)
    return controls


def _needs_of_fields(fields: JsonObject, is_stream: bool) -> set[Ability]:
    needs: set[Ability] = set()
    if is_stream:
        needs.add(Ability.STREAMING)
    for name in ("tools", "functions"):
        if name in fields and bytes(fields[name]) not in (b"null", b"[]"):
            needs.add(Ability.TOOLS)
    response_format = _optional(fields, "response_format", _response_format_decoder)
    if response_format is not None and response_format.type != "text":
        needs.add(Ability.JSON)
    return needs


def _estimate_input_tokens(fields: JsonObject, text_bytes: int, messages: int, attachments: int) -> int:
    extra = sum([len(fields[name]) for name in ("tools", "functions", "response_format") if name in fields])
    around = TOKENS_PER_MESSAGE * messages + _TOKENS_PER_ATTACHMENT * attachments
    return estimate_tokens(text_bytes + extra) + around


def _max_tokens(fields: JsonObject) -> int | None:
    limits = []
    for name in ("max_tokens", "max_completion_tokens"):
        limit = _optional(fields, name, _count_decoder)
        if limit is None:
            continue
        if not 1 <= limit <= _MAX_TOKEN_LIMIT:
            raise InvalidRequest(f"'{name}' must be from 1 to {_MAX_TOKEN_LIMIT}.", code="invalid_value", param=name)
        limits.append(limit)
    return max(limits) if limits else None


def _choices(fields: JsonObject) -> int:
    choices: int | None = _optional(fields, "n", _count_decoder)
    if choices is None:
        return 1
    if not 1 <= choices <= 128:
        raise InvalidRequest("'n' must be from 1 to 128.", code="invalid_value", param="n")
    return choices
