"""Whether a deployment can take a request, and the request as that deployment wants it.

Pure. Routed requests are filtered and their parameters translated; a request for a physical model is passed on as
written when its server speaks the client's format. Read `reject` and `outgoing`.
"""

from __future__ import annotations

from dataclasses import dataclass

import msgspec

from penstock_gateway.deployments import Ability, Deployment, wire_between
from penstock_gateway.errors import InvalidRequest
from penstock_gateway.request_body import ChatRequest, decode_object, plain_field, raw
from penstock_gateway.upstream.litellm_request import has_remote_media
from penstock_gateway.upstream.protocol import JsonObject
from penstock_gateway.wire.extensions import without_extensions, without_unsigned_thinking
from penstock_gateway.wire.formats import WireFormat
from penstock_gateway.wire.native import NativeRequest
from penstock_gateway.wire.pairs import find_translator
from penstock_gateway.wire.translation import NOT_TRANSLATABLE
from penstock_routers.policy import RejectReason

_ABILITY_REASONS = {
    Ability.STREAMING: RejectReason.NO_STREAMING,
    Ability.TOOLS: RejectReason.NO_TOOLS,
    Ability.VISION: RejectReason.NO_VISION,
    Ability.AUDIO: RejectReason.NO_AUDIO,
    Ability.DOCUMENTS: RejectReason.NO_DOCUMENTS,
    Ability.JSON: RejectReason.NO_JSON,
}
# In the chat form of another format's request they say how, or for whom, not what: left out, and named, where a model
# does not take them.
_SOFT = frozenset({"reasoning_effort", "verbosity", "user", "safety_identifier", "prompt_cache_key", "metadata"})
_SPOKEN = {
    WireFormat.CHAT: "chat completions",
    WireFormat.MESSAGES: "requests to /v1/messages",
    WireFormat.RESPONSES: "requests to /v1/responses",
    WireFormat.COMPLETIONS: "text completions",
    WireFormat.EMBEDDINGS: "embeddings",
}
_USAGE_ON_REQUEST = (WireFormat.CHAT, WireFormat.COMPLETIONS)
_TOKEN_LIMIT_FIELDS = ("max_tokens", "max_completion_tokens")


@dataclass(frozen=True, slots=True)
class Rejection:
    """Why a deployment cannot take a request.

    Attributes
    ----------
    reason : RejectReason
    detail : str
        One clause for a person, with the numbers.
    """

    reason: RejectReason
    detail: str


def reject(request: ChatRequest, deployment: Deployment) -> Rejection | None:
    """Return why `deployment` cannot take `request`, or None when it can.

    Parameters
    ----------
    request : ChatRequest
    deployment : Deployment

    Returns
    -------
    Rejection or None
        The first obstacle, abilities before lengths before parameters.

    Raises
    ------
    InvalidRequest
        A parameter that must be looked at cannot be read.
    """
    if not request.needs <= deployment.abilities:
        missing = min(request.needs - deployment.abilities)
        return Rejection(_ABILITY_REASONS[missing], f"the model has no {missing.value}")
    if request.input_tokens > deployment.context_tokens:
        detail = f"about {request.input_tokens} prompt tokens exceed the context of {deployment.context_tokens}"
        return Rejection(RejectReason.CONTEXT_LENGTH, detail)
    if request.max_tokens is not None and request.max_tokens > deployment.max_output_tokens:
        detail = f"{request.max_tokens} output tokens exceed the limit of {deployment.max_output_tokens}"
        return Rejection(RejectReason.OUTPUT_LENGTH, detail)
    rules = deployment.parameters  # most models take all parameters, and most servers the client's format
    if (rules.unsupported or rules.droppable or rules.max_stops is not None) and (
        found := _reject_parameter(request, deployment)
    ):
        return found
    if deployment.adapter == "litellm" and (found := _reject_adapter(request)):
        return found
    return None if request.front in deployment.wires else reject_wire(request, deployment)


def reject_wire(request: ChatRequest, deployment: Deployment) -> Rejection | None:
    """Return why a request cannot be written as a deployment's server reads it, or None when it can."""
    wire = wire_between(request.front, deployment)
    if wire is request.front:
        return None
    front = _SPOKEN[request.front]
    if wire is None:
        return Rejection(RejectReason.WIRE_FORMAT, f"its server takes no {front}")
    if request.native is not None and request.native.obstacle is not None:
        why = request.native.obstacle.rstrip(".")
        return Rejection(RejectReason.WIRE_FORMAT, f"its server takes no {front}, and this has no other form: {why}")
    if wire is not WireFormat.CHAT and (obstacle := _obstacle(request, wire)) is not None:
        return Rejection(RejectReason.WIRE_FORMAT, obstacle)
    return None


def check_form(request: ChatRequest, deployment: Deployment) -> WireFormat:
    """Return the format in which a request is sent to a deployment.

    Raises
    ------
    InvalidRequest
        There is none.
    """
    wire = wire_between(request.front, deployment)
    if wire is None or (wire is not request.front and not request.is_reusable):
        rejection = reject_wire(request, deployment)
        assert rejection is not None
        raise InvalidRequest(
            f"'{deployment.name}' cannot take this request: {rejection.detail}.", code=NOT_TRANSLATABLE
        )
    return wire


class Outgoing(msgspec.Struct, frozen=True, gc=False):
    """A request as it is sent to one deployment.

    Attributes
    ----------
    wire : WireFormat
        Of the body.
    body : JsonObject
    hides_usage : bool
        The stream's usage was asked for and the client does not get it.
    dropped : tuple of str
        What of the client's request is not in the body, because its format has no place for it.
    """

    wire: WireFormat
    body: JsonObject
    hides_usage: bool = False
    dropped: tuple[str, ...] = ()


def outgoing(
    request: ChatRequest, deployment: Deployment, *, is_routed: bool, max_tokens: int | None = None
) -> Outgoing:
    """Return a request in the format of a deployment's server: the client's own fields where that is the same.

    Parameters
    ----------
    request : ChatRequest
    deployment : Deployment
    is_routed : bool
        Penstock chose the deployment, so parameters are translated; otherwise they stay as written.
    max_tokens : int, optional
        Limit on output tokens that a budget sets where the client gave none.

    Raises
    ------
    InvalidRequest
        There is no such form.
    """
    wire = check_form(request, deployment)
    if wire is not request.front and (obstacle := _stops_obstacle(request, deployment)) is not None:
        name = "stop_sequences" if request.front is WireFormat.MESSAGES else "stop"
        raise InvalidRequest(f"'{deployment.name}': {obstacle}.", code=NOT_TRANSLATABLE, param=name)
    asks_usage = _asks_usage(request, deployment, wire)
    if request.native is not None and wire is request.front:
        body = _native_body(request.native, deployment, is_routed=is_routed, max_tokens=max_tokens)
        if asks_usage:
            body["stream_options"] = _with_usage(body.get("stream_options"))
        lost: tuple[str, ...] = ()
        if wire is WireFormat.MESSAGES:
            body, lost = without_unsigned_thinking(body)
        return Outgoing(wire, body, asks_usage, lost)
    body = body_for(request, deployment, is_routed=is_routed, asks_usage=asks_usage, max_tokens=max_tokens)
    dropped = () if request.native is None else request.native.dropped
    if wire is WireFormat.CHAT and request.native is not None:
        body, lost = without_extensions(body, deployment.provider, deployment.adapter)
        refused = tuple(name for name in deployment.parameters.unsupported if body.pop(name, None) is not None)
        dropped = tuple(dict.fromkeys((*dropped, *lost, *sorted(refused))))
    if wire is WireFormat.CHAT:
        return Outgoing(wire, body, asks_usage and request.native is None, dropped)
    if wire is WireFormat.MESSAGES and request.max_tokens is None and max_tokens is None:
        body["max_tokens"] = raw(deployment.max_output_tokens)  # it must be given there
    translator = find_translator(WireFormat.CHAT, wire)
    assert translator is not None
    translated = translator.request(body)
    return Outgoing(wire, translated.fields, dropped=tuple(dict.fromkeys((*dropped, *translated.dropped))))


def _asks_usage(request: ChatRequest, deployment: Deployment, wire: WireFormat) -> bool:
    """Whether a stream's usage has to be asked for, and the client did not."""
    if not request.is_stream or wire not in _USAGE_ON_REQUEST or "stream_options" in deployment.parameters.unsupported:
        return False
    return not request.wants_usage or wire is not request.front


def _native_body(
    native: NativeRequest, deployment: Deployment, *, is_routed: bool, max_tokens: int | None
) -> JsonObject:
    body = {**native.fields, "model": raw(deployment.model)}
    if is_routed:
        for name in deployment.parameters.droppable:
            body.pop(name, None)
    if max_tokens is not None:
        body["max_output_tokens" if native.format is WireFormat.RESPONSES else "max_tokens"] = raw(max_tokens)
    return body


def _obstacle(request: ChatRequest, wire: WireFormat) -> str | None:
    """Return why a chat form cannot be put into a format; looked at once for each."""
    if wire not in request.obstacles:
        translator = find_translator(WireFormat.CHAT, wire)
        assert translator is not None
        try:
            translator.request(request.fields)
            request.obstacles[wire] = None
        except InvalidRequest as error:
            if error.code != NOT_TRANSLATABLE:  # the client's mistake, whoever gets it
                raise
            request.obstacles[wire] = error.message.rstrip(".")
    return request.obstacles[wire]


def body_for(
    request: ChatRequest, deployment: Deployment, *, is_routed: bool, asks_usage: bool, max_tokens: int | None = None
) -> JsonObject:
    """Return the body as it shall reach the model.

    Parameters
    ----------
    request : ChatRequest
    deployment : Deployment
    is_routed : bool
        Penstock chose the deployment, so parameters are translated; otherwise they stay as written.
    asks_usage : bool
        Ask a stream for its usage although the client did not.
    max_tokens : int, optional
        Limit on output tokens that a budget sets where the client gave none.

    Returns
    -------
    JsonObject
        A new object; the client's values are shared, not copied.
    """
    body = dict(request.fields)
    body["model"] = raw(deployment.model)
    if is_routed or request.native is not None:
        _rename_token_limit(body, deployment.parameters.max_tokens_field)
    if is_routed:
        for name in deployment.parameters.droppable:
            body.pop(name, None)
    if max_tokens is not None:
        wanted = deployment.parameters.max_tokens_field
        body["max_tokens" if wanted == "both" else wanted] = raw(max_tokens)
    if asks_usage:
        body["stream_options"] = _with_usage(body.get("stream_options"))
    return body


def _reject_parameter(request: ChatRequest, deployment: Deployment) -> Rejection | None:
    rules, fields = deployment.parameters, request.fields
    for name in rules.unsupported:
        if request.native is not None and name in _SOFT:
            continue
        if name in fields and bytes(fields[name]) != b"null":
            return Rejection(RejectReason.PARAMETER_UNSUPPORTED, f"the model does not take '{name}'")
    if (obstacle := _stops_obstacle(request, deployment)) is not None:
        return Rejection(RejectReason.PARAMETER_UNSUPPORTED, obstacle)
    for name, fixed in rules.droppable.items():
        if name in fields and plain_field(fields, name) not in (None, fixed):
            return Rejection(RejectReason.PARAMETER_UNSUPPORTED, f"the model takes '{name}' only as {fixed}")
    return None


def _stops_obstacle(request: ChatRequest, deployment: Deployment) -> str | None:
    """Return why a request has too many stop sequences; left out, the answer would not end where it is to end."""
    limit = deployment.parameters.max_stops
    if limit is None or "stop" not in request.fields:
        return None
    stops = plain_field(request.fields, "stop")
    if not isinstance(stops, list) or len(stops) <= limit:
        return None
    return f"the model takes {limit} stop sequences, and this request has {len(stops)}"


def _reject_adapter(request: ChatRequest) -> Rejection | None:
    """Return what the litellm adapter cannot do: fetch a client's URL, or tell the choices of a stream apart."""
    if request.attachments and has_remote_media(plain_field(request.fields, "messages")):
        return Rejection(RejectReason.REMOTE_MEDIA, "media must be sent inline (data:) through this adapter")
    if request.is_stream and request.choices > 1:
        return Rejection(RejectReason.PARAMETER_UNSUPPORTED, "the adapter does not stream more than one choice")
    return None


def _rename_token_limit(body: JsonObject, wanted: str) -> None:
    if wanted == "both":
        return
    for name in _TOKEN_LIMIT_FIELDS:
        if name != wanted and name in body:
            limit = body.pop(name)
            body.setdefault(wanted, limit)


def _with_usage(stream_options: msgspec.Raw | None) -> msgspec.Raw:
    given = bytes(stream_options or b"null")
    options = {} if given == b"null" else decode_object(given)
    return raw({**options, "include_usage": True})
