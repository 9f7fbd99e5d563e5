"""Every error a caller of the gateway can see, and the one shape they are shown in.

::

    GatewayError
    ├── InvalidRequest            400  the body, a parameter or a control value is wrong
    ├── Unauthenticated           401  no client key, or an unknown one
    ├── Forbidden                 403  host or key not allowed here
    ├── NotFound                  404  no such path, model or decision
    ├── MethodNotAllowed          405
    ├── RequestTimeout            408  the body did not arrive in time
    ├── Conflict                  409  the gateway is not set up for what is asked
    ├── RequestTooLarge           413
    ├── HeadTooLarge              431
    ├── UnsupportedMedia          415
    ├── NoCandidate               400  no deployment can take this request; names each one's reason
    ├── RateLimited               429  requests, tokens or parallel requests of a key, team or tag; a full queue
    ├── QuotaExceeded             429  a budget is used up
    ├── UpstreamError             502  the provider failed; the subclasses say how
    │   ├── UpstreamUnreachable   502  refused, DNS, TLS
    │   ├── UpstreamTimeout       504  no answer within the deadline
    │   ├── UpstreamBroken        502  reset, truncated or malformed
    │   └── UpstreamRejectedKey   502  the provider refused our credential (its text is not shown)
    ├── Overloaded                503
    └── InternalError             500  anything else; details stay in the log

`message` is safe to show to the caller. Details for the operator go to the log, never here.
"""

from __future__ import annotations

import msgspec


class GatewayError(Exception):
    """Base: an error with OpenAI's shape.

    Parameters
    ----------
    message : str
        What happened and what to do, for the caller.
    code : str, optional
        Stable identifier; the class has a default.
    param : str, optional
        The request field at fault.
    headers : dict of str to str, optional
        Extra response headers, for example ``Retry-After``.
    """

    status = 500
    type = "api_error"
    default_code = "internal_error"

    def __init__(
        self,
        message: str,
        *,
        code: str | None = None,
        param: str | None = None,
        headers: dict[str, str] | None = None,
    ) -> None:
        super().__init__(message)
        self.message = message
        self.code = code or self.default_code
        self.param = param
        self.headers = headers or {}

    def body(self) -> bytes:
        """Return the JSON body in OpenAI's error shape."""
        error = {"message": self.message, "type": self.type, "param": self.param, "code": self.code}
        return msgspec.json.encode({"error": error})

    def sse_event(self) -> bytes:
        """Return the error as one server-sent event, for a stream that has begun."""
        return b"data: " + self.body() + b"\n\n"


class InvalidRequest(GatewayError):
    """The body, a parameter or a control value is wrong."""

    status, type, default_code = 400, "invalid_request_error", "invalid_request"


class Unauthenticated(GatewayError):
    """No client key, or an unknown one."""

    status, type, default_code = 401, "authentication_error", "invalid_api_key"


class Forbidden(GatewayError):
    """The key or the host header is not allowed here."""

    status, type, default_code = 403, "permission_error", "forbidden"


class NotFound(GatewayError):
    """No such path, model or decision."""

    status, type, default_code = 404, "not_found_error", "not_found"


class MethodNotAllowed(GatewayError):
    """The path exists, the method does not."""

    status, type, default_code = 405, "invalid_request_error", "method_not_allowed"


class RequestTimeout(GatewayError):
    """The client did not finish sending its body in time."""

    status, type, default_code = 408, "invalid_request_error", "request_timeout"


class Conflict(GatewayError):
    """The gateway is not set up for what is asked."""

    status, type, default_code = 409, "invalid_request_error", "conflict"


class RequestTooLarge(GatewayError):
    """The body is larger than the configured limit."""

    status, type, default_code = 413, "invalid_request_error", "request_too_large"


class HeadTooLarge(GatewayError):
    """Request line and headers are larger than the server takes."""

    status, type, default_code = 431, "invalid_request_error", "request_headers_too_large"


class UnsupportedMedia(GatewayError):
    """The content type is not JSON."""

    status, type, default_code = 415, "invalid_request_error", "unsupported_media_type"


class NoCandidate(GatewayError):
    """No deployment can take this request; the message names each one's reason."""

    status, type, default_code = 400, "invalid_request_error", "no_candidate"


class RateLimited(GatewayError):
    """A key, team or tag asks too much at a time, or too many requests wait; ``Retry-After`` says when to come back."""

    status, type, default_code = 429, "rate_limit_error", "rate_limit_exceeded"


class QuotaExceeded(GatewayError):
    """A budget is used up: waiting for the next window, or a higher limit, helps."""

    status, type, default_code = 429, "insufficient_quota", "budget_exceeded"


class UpstreamError(GatewayError):
    """The provider failed."""

    status, type, default_code = 502, "upstream_error", "upstream_error"


class UpstreamUnreachable(UpstreamError):
    """Connection refused, name not resolved, or TLS failed."""

    default_code = "upstream_unreachable"


class UpstreamTimeout(UpstreamError):
    """No answer, or no next chunk, within the deadline."""

    status, default_code = 504, "upstream_timeout"


class UpstreamBroken(UpstreamError):
    """The connection was reset, or the answer was truncated or malformed."""

    default_code = "upstream_broken"


class UpstreamRejectedKey(UpstreamError):
    """The provider refused our credential; its own text is never shown."""

    default_code = "upstream_rejected_credential"


class Overloaded(GatewayError):
    """Too much is in flight; try again later."""

    status, type, default_code = 503, "api_error", "overloaded"


class InternalError(GatewayError):
    """An unexpected failure; the log has the details."""


def shutting_down() -> Overloaded:
    """Return the error of a request that the stopping server could not wait for."""
    return Overloaded("The gateway is shutting down; try again shortly.", code="shutting_down")


def feedback_not_kept() -> Overloaded:
    """Return the error of feedback that is not on disk."""
    message = "The event log does not keep up; send the feedback again."
    return Overloaded(message, code="events_overloaded", headers={"retry-after": "2"})


def unexpected_failure() -> InternalError:
    """Return the error that stands for a bug: nothing of its text is shown."""
    return InternalError("Something went wrong in the gateway; its log has details.")
