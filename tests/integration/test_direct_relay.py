"""The direct upstream against a provider on loopback: what goes out, and what comes back."""

from __future__ import annotations

import msgspec
import pytest

from penstock_gateway.money.usage import Usage
from penstock_gateway.upstream.direct import DirectUpstream
from penstock_gateway.upstream.protocol import UpstreamRequest
from support.attempts import UPSTREAM_KEY, make_deployment, make_request
from support.replay_upstream import (
    CHUNKINGS,
    ReplayUpstream,
    load_recording,
    recording_names,
)

ANSWERS = tuple(name for name in recording_names() if name != "error-in-stream")


def expected_usage(name: str) -> Usage | None:
    """Return what a recording's plain reply reports; its stream reports the same."""
    usage = load_recording(name, includes_usage=True).plain.get("usage")
    if usage is None:
        return None
    return Usage(
        usage["prompt_tokens"],
        usage["completion_tokens"],
        usage.get("prompt_tokens_details", {}).get("cached_tokens", 0),
        usage.get("completion_tokens_details", {}).get("reasoning_tokens", 0),
    )


async def stream_of(upstream: DirectUpstream, request: UpstreamRequest) -> tuple[bytes, Usage | None]:
    reply = await upstream.send(request)
    relayed = b"".join([block async for block in reply.events()])
    return relayed, reply.usage


@pytest.mark.parametrize("name", ANSWERS)
async def test_direct_plain_reply_is_returned_byte_for_byte(
    provider: ReplayUpstream, upstream: DirectUpstream, name: str
) -> None:
    """A plain reply reaches the caller as the provider sent it, with its usage read."""
    reply = await upstream.send(make_request(make_deployment(provider.base_url, model=name)))
    body = await reply.read()
    recording = load_recording(name, includes_usage=False)
    assert (reply.status, reply.content_type, body) == (200, "application/json", recording.body())
    assert reply.usage == expected_usage(name)


@pytest.mark.parametrize("chunking", CHUNKINGS)
@pytest.mark.parametrize("name", ANSWERS)
async def test_direct_stream_is_relayed_byte_for_byte(
    provider: ReplayUpstream, upstream: DirectUpstream, name: str, chunking: str
) -> None:
    """A stream reaches the caller as the provider sent it, however it was cut on the wire."""
    deployment = make_deployment(provider.base_url, model=f"{name}@{chunking}")
    relayed, usage = await stream_of(upstream, make_request(deployment, is_stream=True))
    assert relayed == b"".join(load_recording(name, includes_usage=True).events)
    assert usage == expected_usage(name)


@pytest.mark.parametrize("chunking", CHUNKINGS)
async def test_direct_hidden_usage_equals_a_stream_without_it(
    provider: ReplayUpstream, upstream: DirectUpstream, chunking: str
) -> None:
    """A client that did not ask for usage sees the stream that it would see without the gateway."""
    deployment = make_deployment(provider.base_url, model=f"openai-tools@{chunking}")
    relayed, usage = await stream_of(upstream, make_request(deployment, is_stream=True, hides_usage=True))
    assert relayed == b"".join(load_recording("openai-tools", includes_usage=False).events)
    assert usage == Usage(80, 41)


async def test_direct_body_values_are_sent_byte_for_byte(provider: ReplayUpstream, upstream: DirectUpstream) -> None:
    """Values go out as the client wrote them: spacing, number forms and escapes, unknown fields too."""
    deployment = make_deployment(provider.base_url, model="echo")
    values = {
        "model": b'"echo"',
        "messages": '[ {"role":"user" ,"content":"caf\\u00e9 \\ud83c\\udf0a ü"} ]'.encode(),
        "temperature": b"1.0",
        "seed": b"12345678901234567890",
        "vendor_field": b'{"b":1e2,  "a":[null,true]}',
    }
    body = {name: msgspec.Raw(value) for name, value in values.items()}
    reply = await upstream.send(UpstreamRequest(deployment, body, False, False, "req-1"))
    await reply.read()
    sent = provider.requests[-1].body
    assert sent == b"{" + b",".join(b'"%b":%b' % (name.encode(), value) for name, value in values.items()) + b"}"


async def test_direct_image_parts_reach_the_provider_unfetched(
    provider: ReplayUpstream, upstream: DirectUpstream
) -> None:
    """An image URL is passed on as text; the gateway does not look at it."""
    image = {"type": "image_url", "image_url": {"url": f"http://127.0.0.1:{provider.port}/image.png"}}
    deployment = make_deployment(provider.base_url, model="openai-vision")
    reply = await upstream.send(make_request(deployment, messages=[{"role": "user", "content": [image]}]))
    await reply.read()
    assert [seen.path for seen in provider.requests] == ["/v1/chat/completions"]
    assert provider.requests[0].json["messages"][0]["content"] == [image]


async def test_direct_headers_are_exactly_ours(provider: ReplayUpstream, upstream: DirectUpstream) -> None:
    """Nothing goes out but the closed list of headers, with the deployment's credential."""
    deployment = make_deployment(
        provider.base_url, headers={"x-team": "blue", "Host": "elsewhere", "CONTENT-LENGTH": "1"}
    )
    await (await upstream.send(make_request(deployment))).read()
    assert provider.requests[0].headers == {
        "host": f"127.0.0.1:{provider.port}",
        "content-type": "application/json",
        "accept": "application/json",
        "accept-encoding": "identity",
        "user-agent": "penstock",
        "x-request-id": "req-under-test",
        "authorization": f"Bearer {UPSTREAM_KEY}",
        "x-team": "blue",
        "content-length": str(len(provider.requests[0].body)),
    }


async def test_direct_without_a_key_sends_no_authorization(provider: ReplayUpstream, upstream: DirectUpstream) -> None:
    """A deployment without a key (a local server, or Azure's api-key header) sends no bearer token."""
    deployment = make_deployment(provider.base_url, api_key="", headers={"api-key": "azure-key"})
    await (await upstream.send(make_request(deployment))).read()
    headers = provider.requests[0].headers
    assert "authorization" not in headers
    assert headers["api-key"] == "azure-key"


async def test_direct_base_url_query_is_kept(provider: ReplayUpstream, upstream: DirectUpstream) -> None:
    """Azure's api-version lives in the query of the base URL and ends up behind the path."""
    base = f"http://127.0.0.1:{provider.port}/openai/deployments/gpt%204o/?api-version=2025-01-01"
    await (await upstream.send(make_request(make_deployment(base)))).read()
    assert provider.requests[0].path == "/openai/deployments/gpt%204o/chat/completions?api-version=2025-01-01"


async def test_direct_cookies_are_not_kept(provider: ReplayUpstream, upstream: DirectUpstream) -> None:
    """A cookie set for one request must not travel with another tenant's."""
    for _ in range(2):
        await (await upstream.send(make_request(make_deployment(provider.base_url)))).read()
    assert all("cookie" not in seen.headers for seen in provider.requests)


async def test_direct_returned_headers_are_a_closed_list(provider: ReplayUpstream, upstream: DirectUpstream) -> None:
    """Rate limits and request ids come back; cookies and server names do not."""
    reply = await upstream.send(make_request(make_deployment(provider.base_url, model="openai-text!status-429")))
    assert dict(reply.headers) == {
        b"x-upstream-request-id": b"req_replayed",
        b"retry-after": b"7",
        b"x-ratelimit-remaining-requests": b"0",
    }


@pytest.mark.parametrize("status", [400, 404, 429, 500, 502, 503])
@pytest.mark.parametrize("is_stream", [False, True])
async def test_direct_error_status_has_its_body(
    provider: ReplayUpstream, upstream: DirectUpstream, status: int, is_stream: bool
) -> None:
    """An error status is an answer: its body can be read, of a stream request too."""
    deployment = make_deployment(provider.base_url, model=f"openai-text!status-{status}")
    reply = await upstream.send(make_request(deployment, is_stream=is_stream))
    body = await reply.read()
    assert reply.status == status
    assert (b"Bad gateway" if status == 502 else b"on demand") in body
    assert reply.usage is None


async def test_direct_compression_that_was_not_asked_for_is_undone(
    provider: ReplayUpstream, upstream: DirectUpstream
) -> None:
    """A provider that compresses anyway is understood, plain and streamed."""
    deployment = make_deployment(provider.base_url, model="openai-text!gzip")
    body = await (await upstream.send(make_request(deployment))).read()
    relayed, _ = await stream_of(upstream, make_request(deployment, is_stream=True))
    recording = load_recording("openai-text", includes_usage=True)
    assert (body, relayed) == (recording.body(), b"".join(recording.events))


async def test_direct_error_event_in_a_stream_is_passed_on_and_recorded(
    provider: ReplayUpstream, upstream: DirectUpstream
) -> None:
    """The provider's own error event reaches the client, and the caller knows that the request failed."""
    deployment = make_deployment(provider.base_url, model="error-in-stream")
    reply = await upstream.send(make_request(deployment, is_stream=True))
    relayed = b"".join([block async for block in reply.events()])
    assert relayed == b"".join(load_recording("error-in-stream", includes_usage=True).events)
    assert reply.stream_error == "engine_crash"


@pytest.mark.parametrize("is_stream", [False, True])
async def test_direct_reply_without_usage_has_its_text_counted(
    provider: ReplayUpstream, upstream: DirectUpstream, is_stream: bool
) -> None:
    """When nothing is reported, usage stays unknown and the length of the text is there for an estimate."""
    reply = await upstream.send(make_request(make_deployment(provider.base_url, model="no-usage"), is_stream=is_stream))
    if is_stream:
        _ = [block async for block in reply.events()]
    else:
        await reply.read()
    assert (reply.usage, reply.output_bytes) == (None, len("Nobody counted this."))
