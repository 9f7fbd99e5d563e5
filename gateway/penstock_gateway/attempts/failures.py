"""What a failed try means: whether the same deployment may be asked again, whether another, and what the client sees.

Owns the classification of errors, statuses and error events. It knows no clock and no deployment. Read `Failure`, then
the three functions that make one.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum

import msgspec

from penstock_gateway.attempts.waits import asked_wait_seconds
from penstock_gateway.errors import (
    GatewayError,
    UpstreamError,
    UpstreamRejectedKey,
    UpstreamTimeout,
    UpstreamUnreachable,
)
from penstock_gateway.upstream.protocol import UpstreamReply

HIGHEST_STATUS = 599

_CONTEXT_CODES = frozenset({"context_length_exceeded", "context_window_exceeded"})
# Servers without codes say it in words: vLLM, llama.cpp, Anthropic's and Gemini's compatible APIs.
_CONTEXT_WORDS = re.compile(rb"maximum context length|context (?:length|size|window)|prompt is too long", re.IGNORECASE)
_CONTEXT_STATUSES = frozenset({400, 413, 422})
_NO_CREDIT_CODES = frozenset({"insufficient_quota", "billing_hard_limit_reached", "billing_not_active"})
_RATE_LIMIT_CODES = frozenset({"429", "rate_limit_exceeded", "rate_limit_error", "tokens", "requests"})
_FINAL_CODES = frozenset(
    {"400", "422", "invalid_request_error", "invalid_prompt", "content_policy_violation", "content_filter"}
)
_MAX_SEARCHED_BYTES = 4096


class FailureKind(StrEnum):
    """Why a try failed; the first six are what ``attempts.retry_on`` may name."""

    CONNECT = "connect"  # nothing was sent
    TIMEOUT = "timeout"
    BROKEN = "broken"
    RATE_LIMIT = "rate_limit"
    CONFLICT = "conflict"
    SERVER_ERROR = "server_error"
    CREDENTIAL = "credential"  # our key is refused, or the account behind it is out of credit
    MISSING = "missing"  # the provider does not know the model
    CONTEXT = "context"  # the prompt is too long for this model
    REFUSED = "refused"  # the request is at fault: another deployment would say the same
    DEADLINE = "deadline"  # no time is left
    UNCOVERED = "uncovered"  # the gateway itself would not send it: the budget does not reach, say


UNHEALTHY = frozenset({FailureKind.CONNECT, FailureKind.TIMEOUT, FailureKind.BROKEN, FailureKind.SERVER_ERROR})
"""Failures that count against a deployment's health."""

FINAL = frozenset({FailureKind.REFUSED, FailureKind.DEADLINE})
"""Failures after which nothing else is tried."""

# What helps the caller most comes last: when to come back, then what the provider said, then what we saw.
_USEFULNESS = {
    FailureKind.UNCOVERED: -1,
    FailureKind.MISSING: 0,
    FailureKind.CREDENTIAL: 1,
    FailureKind.CONNECT: 2,
    FailureKind.CONTEXT: 2,
    FailureKind.BROKEN: 3,
    FailureKind.TIMEOUT: 4,
    FailureKind.CONFLICT: 5,
    FailureKind.SERVER_ERROR: 5,
    FailureKind.RATE_LIMIT: 6,
    FailureKind.REFUSED: 7,
    FailureKind.DEADLINE: 8,
}


@dataclass(frozen=True, slots=True)
class Failure:
    """One failed try.

    Attributes
    ----------
    kind : FailureKind
    code : str
        For records and metrics: an error's code, ``upstream_status`` or ``upstream_stream_error``.
    error : GatewayError or None
        What is raised when nothing else succeeds.
    reply : UpstreamReply or None
        What is passed on instead, read to its end.
    asked_wait_seconds : float or None
        How long the provider asks to be left alone.
    may_retry : bool
        False when the provider said ``x-should-retry: false``.
    """

    kind: FailureKind
    code: str
    error: GatewayError | None = None
    reply: UpstreamReply | None = None
    asked_wait_seconds: float | None = None
    may_retry: bool = True

    def is_more_useful_than(self, other: Failure | None) -> bool:
        """Whether the client learns more from this one; of two equals the later is taken."""
        return other is None or _USEFULNESS[self.kind] >= _USEFULNESS[other.kind]


class _ErrorFields(msgspec.Struct):
    code: str | int | None = None
    type: str | None = None


class _ErrorBody(msgspec.Struct):
    error: _ErrorFields | None = None


_decode_error = msgspec.json.Decoder(_ErrorBody).decode


def failure_of_error(error: UpstreamError) -> Failure:
    """Return what an error before the first byte means."""
    if isinstance(error, UpstreamRejectedKey):
        kind = FailureKind.CREDENTIAL
    elif was_never_sent(error):
        kind = FailureKind.CONNECT
    elif isinstance(error, UpstreamTimeout):
        kind = FailureKind.TIMEOUT
    else:
        kind = FailureKind.BROKEN
    return Failure(kind, error.code, error=error)


def was_never_sent(error: UpstreamError) -> bool:
    """Whether no connection was made, so that the provider cannot have seen the request."""
    return isinstance(error, UpstreamUnreachable) or error.code == "upstream_connect_timeout"


def failure_of_status(
    status: int,
    headers: Sequence[tuple[bytes, bytes]],
    body: bytes,
    unix_time: float,
    reply: UpstreamReply | None,
    error: UpstreamError | None = None,
) -> Failure:
    """Return what a status of 400 to 599 means.

    Parameters
    ----------
    status : int
    headers : sequence of (bytes, bytes)
    body : bytes
        Empty when it could not be read.
    unix_time : float
        Now, seconds.
    reply : UpstreamReply or None
        With this body; None when it could not be read.
    error : UpstreamError, optional
        Why it could not.
    """
    return Failure(
        _kind_of_status(status, body),
        "upstream_status",
        error=error,
        reply=reply,
        asked_wait_seconds=asked_wait_seconds(headers, unix_time),
        may_retry=(b"x-should-retry", b"false") not in headers,
    )


def failure_of_stream_error(code: str, reply: UpstreamReply) -> Failure:
    """Return what an error event in the place of the first event means.

    Parameters
    ----------
    code : str
        The event's code or type.
    reply : UpstreamReply
        That yields the event and ends.
    """
    if code in _NO_CREDIT_CODES:
        kind = FailureKind.CREDENTIAL
    elif code in _RATE_LIMIT_CODES:
        kind = FailureKind.RATE_LIMIT
    elif code in _CONTEXT_CODES:
        kind = FailureKind.CONTEXT
    else:
        kind = FailureKind.REFUSED if code in _FINAL_CODES else FailureKind.SERVER_ERROR
    return Failure(kind, "upstream_stream_error", reply=reply)


def deadline_exceeded() -> UpstreamTimeout:
    """Return the error of a request whose time is over."""
    return UpstreamTimeout("The request's deadline passed before the answer was complete.", code="deadline_exceeded")


def deadline_failure() -> Failure:
    """Return the failure of a request whose time is over."""
    error = deadline_exceeded()
    return Failure(FailureKind.DEADLINE, error.code, error=error)


def _kind_of_status(status: int, body: bytes) -> FailureKind:
    if status == 429:
        return FailureKind.CREDENTIAL if _codes(body) & _NO_CREDIT_CODES else FailureKind.RATE_LIMIT
    if status >= 500:
        return FailureKind.SERVER_ERROR
    if status == 408:
        return FailureKind.TIMEOUT
    if status == 409:
        return FailureKind.CONFLICT
    if status == 402:  # DeepSeek, OpenRouter: the account is empty
        return FailureKind.CREDENTIAL
    if status == 404:
        return FailureKind.MISSING
    if status in _CONTEXT_STATUSES and _is_about_context(body):
        return FailureKind.CONTEXT
    return FailureKind.REFUSED


def _is_about_context(body: bytes) -> bool:
    if _codes(body) & _CONTEXT_CODES:
        return True
    return _CONTEXT_WORDS.search(body, 0, _MAX_SEARCHED_BYTES) is not None


def _codes(body: bytes) -> set[str]:
    """Return code and type of an error in OpenAI's shape."""
    try:
        error = _decode_error(body).error
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        return set()
    if error is None:
        return set()
    return {str(value) for value in (error.code, error.type) if value}
