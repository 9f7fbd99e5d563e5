"""Errors in the shape of the client's format, our own and those of providers.

Pure. Read `shaped_error`.

Shapes: platform.openai.com/docs/guides/error-codes; platform.claude.com/docs/en/api/errors;
platform.openai.com/docs/api-reference/responses-streaming/error.
"""

from __future__ import annotations

from typing import Any, Final

import msgspec

from penstock_gateway.errors import GatewayError
from penstock_gateway.wire.formats import PATHS, WireFormat
from penstock_gateway.wire.server_sent import event_bytes

_ANTHROPIC_TYPES: Final = {
    400: "invalid_request_error",
    401: "authentication_error",
    402: "billing_error",
    403: "permission_error",
    404: "not_found_error",
    408: "timeout_error",
    413: "request_too_large",
    429: "rate_limit_error",
    503: "overloaded_error",
    504: "timeout_error",
    529: "overloaded_error",
}
_OPENAI_TYPES: Final = {401: "authentication_error", 403: "permission_error", 404: "not_found_error"}
_MESSAGES_PATH: Final = "/v1" + PATHS[WireFormat.MESSAGES]

_decode = msgspec.json.Decoder(dict[str, Any]).decode
_encode = msgspec.json.Encoder().encode
_UNREADABLE = (msgspec.DecodeError, UnicodeDecodeError, RecursionError)


def format_of_path(path: str) -> WireFormat:
    """Return the format in which errors of a path are shown: Anthropic's below ``/v1/messages``, else OpenAI's."""
    return WireFormat.MESSAGES if path.startswith(_MESSAGES_PATH) else WireFormat.CHAT


def anthropic_type(status: int) -> str:
    """Return Anthropic's word for a status.

    Examples
    --------
    >>> anthropic_type(429), anthropic_type(422), anthropic_type(502)
    ('rate_limit_error', 'invalid_request_error', 'api_error')
    """
    return _ANTHROPIC_TYPES.get(status, "api_error" if status >= 500 else "invalid_request_error")


def shaped_error(front: WireFormat, error: GatewayError) -> bytes:
    """Return the JSON body of an error.

    Parameters
    ----------
    front : WireFormat
        The client's.
    error : GatewayError

    Returns
    -------
    bytes
        OpenAI's shape; for Messages Anthropic's, with our code and the field at fault beside its own two fields.
    """
    if front is not WireFormat.MESSAGES:
        return error.body()
    shown: dict[str, object] = {"type": anthropic_type(error.status), "message": error.message, "code": error.code}
    if error.param is not None:
        shown["param"] = error.param
    body: dict[str, object] = {"type": "error", "error": shown}
    if "x-request-id" in error.headers:
        body["request_id"] = error.headers["x-request-id"]
    return _encode(body)


def shaped_event(front: WireFormat, error: GatewayError, sequence_number: int = 0) -> bytes:
    """Return an error as the last event of a stream that has begun.

    Parameters
    ----------
    front : WireFormat
        The client's.
    error : GatewayError
    sequence_number : int
        Of the event, in the Responses format.
    """
    if front is WireFormat.MESSAGES:
        return event_bytes(shaped_error(front, error), "error")
    if front is WireFormat.RESPONSES:
        fields = {"type": "error", "code": error.code, "message": error.message, "param": error.param}
        return event_bytes({**fields, "sequence_number": sequence_number}, "error")
    return error.sse_event()


def shaped_provider_error(front: WireFormat, back: WireFormat, status: int, body: bytes) -> bytes:
    """Return a provider's error in the client's shape.

    Parameters
    ----------
    front, back : WireFormat
        The client's and the provider's.
    status : int
    body : bytes
        Of the provider.

    Returns
    -------
    bytes
        As it is when both formats have one shape, or when there is no error object with a message in it.
    """
    if (front is WireFormat.MESSAGES) == (back is WireFormat.MESSAGES):
        return body
    try:
        error = _decode(body).get("error")
    except _UNREADABLE:
        return body
    if not isinstance(error, dict) or not isinstance(error.get("message"), str):
        return body
    message = error["message"]
    # Some providers put the status, a number, into `code`: then the type says more.
    code = next((error[name] for name in ("code", "type") if error.get(name) and isinstance(error[name], str)), None)
    if front is WireFormat.MESSAGES:
        return _encode({"type": "error", "error": {"type": anthropic_type(status), "message": message, "code": code}})
    kind = _OPENAI_TYPES.get(status, "invalid_request_error" if status < 500 else "server_error")
    kind = "rate_limit_error" if status == 429 else kind
    return _encode({"error": {"message": message, "type": kind, "param": error.get("param"), "code": code}})
