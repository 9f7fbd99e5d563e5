"""Pages of other origins: which are let in, and what they may send and read."""

from __future__ import annotations

import pytest

from penstock_gateway.cross_origin import CrossOrigin
from penstock_gateway.settings_server import CrossOriginSettings

PAGE = b"https://chat.example.org"
OTHER = b"https://chat.example.org.evil.example"


def rules(*origins: str, **changes: object) -> CrossOrigin:
    """Return the rules for some origins."""
    return CrossOrigin(CrossOriginSettings(origins=origins or (PAGE.decode(),), **changes))


def question(origin: bytes = PAGE, headers: bytes = b"") -> list[tuple[bytes, bytes]]:
    """Return the headers of a browser's question."""
    asked = [(b"host", b"gateway"), (b"origin", origin), (b"access-control-request-method", b"POST")]
    return [*asked, (b"access-control-request-headers", headers)] if headers else asked


def preflight(cross_origin: CrossOrigin, *arguments: bytes) -> dict[bytes, bytes]:
    """Return the answer to a question as a dict."""
    answer = cross_origin.preflight("OPTIONS", question(*arguments))
    assert answer is not None
    return dict(answer)


def test_preflight_of_a_known_page_is_allowed() -> None:
    """Origin, methods, the headers that it asks for, and how long that holds."""
    answer = preflight(rules(), PAGE, b"authorization,content-type,x-stainless-os,x-penstock-cache,anthropic-beta")
    assert answer[b"access-control-allow-origin"] == PAGE
    assert answer[b"access-control-allow-methods"] == b"GET, HEAD, POST, OPTIONS"
    assert answer[b"access-control-allow-headers"] == (
        b"authorization, content-type, x-stainless-os, x-penstock-cache, anthropic-beta"
    )
    assert answer[b"access-control-max-age"] == b"600"
    assert b"origin" in answer[b"vary"]
    assert b"access-control-allow-credentials" not in answer


def test_preflight_leaves_out_headers_that_are_not_configured() -> None:
    """A browser then refuses by itself; further names can be configured, in any case."""
    assert preflight(rules(), PAGE, b"x-api-key, x-evil")[b"access-control-allow-headers"] == b"x-api-key"
    assert b"access-control-allow-headers" not in preflight(rules(), PAGE, b"x-evil")
    own = rules(headers=("X-Trace",))
    assert preflight(own, PAGE, b"X-TRACE")[b"access-control-allow-headers"] == b"x-trace"


@pytest.mark.parametrize("origin", [OTHER, b"http://chat.example.org", b"https://chat.example.org:444", b"null", b"*"])
def test_unknown_page_gets_no_permission(origin: bytes) -> None:
    """Neither before its request nor after it; caches learn that the answer depends on the origin."""
    assert list(preflight(rules(), origin)) == [b"vary"]
    assert rules().permissions(origin, []) == [(b"vary", b"origin")]
    assert rules().permissions(None, []) == [(b"vary", b"origin")]


@pytest.mark.parametrize(
    ("method", "headers"),
    [
        ("POST", question()),
        ("OPTIONS", [(b"origin", PAGE)]),
        ("OPTIONS", [(b"access-control-request-method", b"POST")]),
    ],
)
def test_ordinary_request_is_no_preflight(method: str, headers: list[tuple[bytes, bytes]]) -> None:
    """Only OPTIONS with both headers is a browser's question; the rest needs a key as ever."""
    assert rules().preflight(method, headers) is None


def test_answer_exposes_our_headers_and_no_others() -> None:
    """Pages may read ids, limits and what Penstock says, each name once."""
    sent = [
        (b"content-type", b"application/json"),
        (b"x-penstock-model", b"small"),
        (b"x-penstock-model", b"small"),
        (b"x-request-id", b"1"),
        (b"x-ratelimit-remaining-tokens", b"1"),
        (b"retry-after", b"1"),
        (b"x-internal", b"1"),
    ]
    added = dict(rules().permissions(PAGE, sent))
    assert added[b"access-control-allow-origin"] == PAGE
    assert added[b"access-control-expose-headers"] == (
        b"x-penstock-model, x-request-id, x-ratelimit-remaining-tokens, retry-after"
    )


def test_credentials_go_to_named_pages_only() -> None:
    """With ``*`` they are never allowed, whatever the settings say."""
    named = dict(rules(credentials=True).permissions(PAGE, []))
    assert named[b"access-control-allow-credentials"] == b"true"
    anyone = dict(rules("*", credentials=True).permissions(OTHER, []))
    assert anyone == {b"access-control-allow-origin": b"*"}
    assert preflight(rules("*", credentials=True), OTHER)[b"access-control-allow-origin"] == b"*"


def test_preflight_with_endless_names_is_bounded() -> None:
    """A question cannot be made to echo 64 kB."""
    answer = preflight(rules(), PAGE, b",".join(b"x-penstock-%d" % i for i in range(5000)))
    assert answer[b"access-control-allow-headers"].count(b",") < 128
