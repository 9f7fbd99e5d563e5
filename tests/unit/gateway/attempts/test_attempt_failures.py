"""What statuses, errors and error events mean."""

from __future__ import annotations

import json

import pytest

from penstock_gateway.attempts.failures import (
    Failure,
    FailureKind,
    failure_of_error,
    failure_of_status,
    failure_of_stream_error,
)
from penstock_gateway.errors import UpstreamBroken, UpstreamRejectedKey, UpstreamTimeout, UpstreamUnreachable
from support.fakes import FakeReply


def _body(code: str | int | None = None, message: str = "no", kind: str | None = None) -> bytes:
    return json.dumps({"error": {"message": message, "code": code, "type": kind}}).encode()


@pytest.mark.parametrize(
    ("status", "body", "expected"),
    [
        (400, _body(), FailureKind.REFUSED),
        (422, _body(), FailureKind.REFUSED),
        (413, b"too large", FailureKind.REFUSED),
        (400, _body("context_length_exceeded"), FailureKind.CONTEXT),
        (400, _body(None, "This model's maximum context length is 8192 tokens."), FailureKind.CONTEXT),
        (413, _body(None, "prompt is too long: 210000 tokens"), FailureKind.CONTEXT),
        (401, _body("context_length_exceeded"), FailureKind.REFUSED),
        (402, b"", FailureKind.CREDENTIAL),
        (404, _body("model_not_found"), FailureKind.MISSING),
        (408, b"", FailureKind.TIMEOUT),
        (409, b"", FailureKind.CONFLICT),
        (429, _body("rate_limit_exceeded"), FailureKind.RATE_LIMIT),
        (429, b"<html>", FailureKind.RATE_LIMIT),
        (429, _body("insufficient_quota"), FailureKind.CREDENTIAL),
        (429, _body(429, kind="insufficient_quota"), FailureKind.CREDENTIAL),
        (500, b"", FailureKind.SERVER_ERROR),
        (503, b"[1]", FailureKind.SERVER_ERROR),
        (529, _body(None, kind="overloaded_error"), FailureKind.SERVER_ERROR),
    ],
)
def test_status_with_its_body_means_one_kind_of_failure(status: int, body: bytes, expected: FailureKind) -> None:
    """Who is at fault, and so what may be tried, follows from status and code."""
    assert failure_of_status(status, (), body, 0.0, None).kind is expected


def test_status_with_hints_in_its_headers_carries_them() -> None:
    """The provider's wishes travel with the failure."""
    failure = failure_of_status(503, [(b"retry-after", b"3"), (b"x-should-retry", b"false")], b"", 0.0, None)
    assert (failure.asked_wait_seconds, failure.may_retry) == (3.0, False)


@pytest.mark.parametrize(
    ("error", "expected"),
    [
        (UpstreamUnreachable("x"), FailureKind.CONNECT),
        (UpstreamTimeout("x", code="upstream_connect_timeout"), FailureKind.CONNECT),
        (UpstreamTimeout("x"), FailureKind.TIMEOUT),
        (UpstreamBroken("x"), FailureKind.BROKEN),
        (UpstreamRejectedKey("x"), FailureKind.CREDENTIAL),
    ],
)
def test_error_of_an_upstream_means_one_kind_of_failure(error, expected) -> None:
    """Each of our errors has its kind, and is kept to be raised."""
    failure = failure_of_error(error)
    assert (failure.kind, failure.code, failure.error) == (expected, error.code, error)


@pytest.mark.parametrize(
    ("code", "expected"),
    [
        ("rate_limit_exceeded", FailureKind.RATE_LIMIT),
        ("insufficient_quota", FailureKind.CREDENTIAL),
        ("context_length_exceeded", FailureKind.CONTEXT),
        ("invalid_request_error", FailureKind.REFUSED),
        ("overloaded_error", FailureKind.SERVER_ERROR),
        ("error", FailureKind.SERVER_ERROR),
    ],
)
def test_error_event_in_the_place_of_the_first_means_one_kind_of_failure(code, expected) -> None:
    """A stream that begins with an error is as good as a status."""
    assert failure_of_stream_error(code, FakeReply()).kind is expected


def test_failure_that_tells_the_client_when_to_come_back_is_kept_over_a_lesser_one() -> None:
    """Of all failures the client sees the one that helps most; of two alike the later."""
    limited, first, second = (
        Failure(FailureKind.RATE_LIMIT, "a"),
        Failure(FailureKind.BROKEN, "b"),
        Failure(FailureKind.BROKEN, "c"),
    )
    assert limited.is_more_useful_than(first)
    assert not first.is_more_useful_than(limited)
    assert second.is_more_useful_than(first)
    assert first.is_more_useful_than(None)
