"""Whether a deployment can take a request, and the request as that deployment wants it.

Pure. Routed requests are filtered and translated; a request for a physical model is passed on as written.
"""

from __future__ import annotations

from dataclasses import dataclass

import msgspec

from penstock_gateway.deployments import Ability, Deployment
from penstock_gateway.request_body import ChatRequest, decode_object, plain_field, raw
from penstock_gateway.upstream.litellm_request import has_remote_media
from penstock_gateway.upstream.protocol import JsonObject
from penstock_routers.policy import RejectReason

_ABILITY_REASONS = {
    Ability.STREAMING: RejectReason.NO_STREAMING,
    Ability.TOOLS: RejectReason.NO_TOOLS,
    Ability.VISION: RejectReason.NO_VISION,
    Ability.AUDIO: RejectReason.NO_AUDIO,
    Ability.DOCUMENTS: RejectReason.NO_DOCUMENTS,
    Ability.JSON: RejectReason.NO_JSON,
}
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
    return _reject_parameter(request.fields, deployment) or _reject_adapter(request, deployment)


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
    if is_routed:
        _rename_token_limit(body, deployment.parameters.max_tokens_field)
        for name in deployment.parameters.droppable:
            body.pop(name, None)
    if max_tokens is not None:
        wanted = deployment.parameters.max_tokens_field
        body["max_tokens" if wanted == "both" else wanted] = raw(max_tokens)
    if asks_usage:
        body["stream_options"] = _with_usage(body.get("stream_options"))
    return body


def _reject_parameter(fields: JsonObject, deployment: Deployment) -> Rejection | None:
    rules = deployment.parameters
    for name in rules.unsupported:
        if name in fields and bytes(fields[name]) != b"null":
            return Rejection(RejectReason.PARAMETER_UNSUPPORTED, f"the model does not take '{name}'")
    for name, fixed in rules.droppable.items():
        if name in fields and plain_field(fields, name) not in (None, fixed):
            return Rejection(RejectReason.PARAMETER_UNSUPPORTED, f"the model takes '{name}' only as {fixed}")
    return None


def _reject_adapter(request: ChatRequest, deployment: Deployment) -> Rejection | None:
    """Return what the litellm adapter cannot do: fetch a client's URL, or tell the choices of a stream apart."""
    if deployment.adapter != "litellm":
        return None
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
