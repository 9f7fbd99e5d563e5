"""The litellm adapter: a client's body can change what is asked, never where, as whom, how often or by whom.

litellm is imported once for the module (it takes seconds), and its pooled clients live on the module's event loop.
"""

from __future__ import annotations

import asyncio
import functools
import importlib.util
import inspect
import json
import re
import subprocess
import sys
from collections.abc import AsyncIterator, Awaitable
from pathlib import Path
from typing import Any

import pytest
import pytest_asyncio

from penstock_gateway.errors import (
    UpstreamBroken,
    UpstreamError,
    UpstreamRejectedKey,
    UpstreamTimeout,
    UpstreamUnreachable,
)
from penstock_gateway.money.usage import Usage
from penstock_gateway.upstream.litellm_adapter import LitellmReply, LitellmUpstream
from penstock_gateway.upstream.litellm_request import CHAT_ARGUMENTS
from penstock_routers.errors import MissingExtraError
from penstock_routers.installation import install_command
from support.attempts import UPSTREAM_KEY, make_deployment, make_request
from support.replay_upstream import ReplayUpstream, running_replay_upstream

pytestmark = [
    pytest.mark.asyncio(loop_scope="module"),
    pytest.mark.skipif(
        importlib.util.find_spec("litellm") is None,
        reason=f"the litellm extra is not installed: {install_command('litellm')}",
    ),
]
# Providers whose litellm code takes host and credential from different places.
PROVIDERS = (
    "anthropic",
    "azure",
    "azure_ai",
    "bedrock",
    "cohere_chat",
    "databricks",
    "gemini",
    "gigachat",
    "hosted_vllm",
    "huggingface",
    "oci",
    "ollama_chat",
    "openai",
    "openrouter",
    "replicate",
    "sagemaker_chat",
    "vertex_ai",
    "watsonx",
)
# What would be worth the most to an attacker, tried one by one: all at once, one can hide another.
ADDRESS_NAMES = (
    "api_base",
    "api_key",
    "apikey",
    "aws_bedrock_runtime_endpoint",
    "azure_ad_token",
    "base_url",
    "custom_llm_provider",
    "extra_headers",
    "gigachat_access_token",
    "gigachat_auth_url",
    "oci_endpoint_id",
    "sagemaker_base_url",
    "token",
    "url",
    "vertex_credentials",
    "zen_api_key",
)
HOSTILE_KEY = "sk-hostile"


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def upstream() -> AsyncIterator[LitellmUpstream]:
    transport = LitellmUpstream()
    yield transport
    await transport.aclose()


@pytest_asyncio.fixture(loop_scope="module")
async def provider() -> AsyncIterator[ReplayUpstream]:
    async with running_replay_upstream() as server:
        yield server


@pytest_asyncio.fixture(loop_scope="module")
async def attacker() -> AsyncIterator[ReplayUpstream]:
    async with running_replay_upstream() as server:
        yield server


async def ask(
    upstream: LitellmUpstream,
    server: ReplayUpstream,
    model: str = "openai/openai-text",
    *,
    fields: dict[str, Any] | None = None,
    is_stream: bool = False,
    **changes: float,
) -> LitellmReply:
    deployment = make_deployment(server.base_url, model=model, adapter="litellm", **changes)
    return await upstream.send(make_request(deployment, is_stream=is_stream, **(fields or {})))


async def outcome(attempt: Awaitable[LitellmReply]) -> str:
    """Return what a caller is told: the reply's error body, or the error's message, or nothing."""
    try:
        reply = await attempt
    except UpstreamError as error:
        return error.message
    return (await reply.read()).decode() if reply.status >= 400 else ""


async def collect(reply: LitellmReply, received: list[bytes]) -> None:
    async for block in reply.events():
        received.append(block)


@functools.cache
def names_that_litellm_reads() -> frozenset[str]:
    """Return every keyword of litellm's completion functions and every name its sources take from a request."""
    import litellm

    names = set(litellm.types.utils.all_litellm_params)
    for function in (litellm.acompletion, litellm.completion):
        names.update(inspect.signature(function).parameters)
    root = Path(litellm.__file__).parent
    read = re.compile(r'(?:kwargs|optional_params|litellm_params|extra_body)(?:\.(?:get|pop)\(\s*|\[)"([^"\s]+)"')
    for source in (root / "main.py", root / "utils.py", *root.glob("llms/**/*.py")):
        names.update(read.findall(source.read_text(encoding="utf-8")))
    credentials = {"aws_access_key_id", "aws_secret_access_key", "aws_bedrock_runtime_endpoint", "azure_ad_token"}
    assert credentials | {"api_base", "base_url", "fallbacks", "mock_response", "vertex_credentials"} <= names
    return frozenset(names)


def hostile_values(attacker: ReplayUpstream) -> list[Any]:
    """Return values that would be felt if litellm took them: an address, a key, a number, a fallback, a switch."""
    elsewhere = {"model": "openai/openai-text", "api_base": attacker.base_url, "api_key": HOSTILE_KEY}
    return [attacker.base_url, HOSTILE_KEY, 7, [elsewhere], elsewhere, True]


async def test_litellm_no_keyword_changes_host_credential_or_number_of_calls(
    upstream: LitellmUpstream, provider: ReplayUpstream, attacker: ReplayUpstream
) -> None:
    """Each name that litellm reads, with each hostile value: one call, to the deployment, with its key."""
    names = sorted(names_that_litellm_reads() - CHAT_ARGUMENTS)
    assert len(names) > 500
    gate = asyncio.Semaphore(8)

    async def send(fields: dict[str, Any]) -> LitellmReply:
        async with gate:
            return await ask(upstream, provider, fields=fields)

    attempts = [{name: attacker.base_url} for name in names]
    attempts += [dict.fromkeys(names, value) for value in hostile_values(attacker)]
    replies = await asyncio.gather(*(send(fields) for fields in attempts))
    assert attacker.accepted_connections == 0
    assert [reply.status for reply in replies] == [200] * len(attempts)
    assert len(provider.requests) == len(attempts)
    for seen in provider.requests:
        assert (seen.path, seen.headers["authorization"]) == ("/v1/chat/completions", f"Bearer {UPSTREAM_KEY}")
        assert seen.json["model"] == "openai-text"
        assert HOSTILE_KEY not in json.dumps(seen.headers)
        assert attacker.base_url not in json.dumps(seen.headers)


async def test_litellm_no_chat_parameter_reaches_elsewhere(
    upstream: LitellmUpstream, provider: ReplayUpstream, attacker: ReplayUpstream
) -> None:
    """A hostile value in a parameter that is passed on gets an answer or a refusal, and no call goes elsewhere."""
    for name in sorted(CHAT_ARGUMENTS):
        for value in hostile_values(attacker):
            before = len(provider.requests)
            message = await outcome(ask(upstream, provider, fields={name: value}))
            assert HOSTILE_KEY not in message
            assert len(provider.requests) - before <= 1
    assert attacker.accepted_connections == 0


@pytest.mark.parametrize("provider_name", PROVIDERS)
async def test_litellm_no_provider_takes_its_address_or_credential_from_the_body(
    upstream: LitellmUpstream, provider: ReplayUpstream, attacker: ReplayUpstream, provider_name: str
) -> None:
    """For each kind of provider, with a deployment that has no key to give: nothing of the body fills the gap."""
    everything = sorted(names_that_litellm_reads() - CHAT_ARGUMENTS)
    for names in (*([name] for name in ADDRESS_NAMES), everything):
        for value in (attacker.base_url, HOSTILE_KEY):
            deployment = make_deployment(
                provider.base_url,
                model=f"{provider_name}/openai-text",
                adapter="litellm",
                api_key="",
                first_byte_timeout_seconds=5.0,
            )
            message = await outcome(upstream.send(make_request(deployment, **dict.fromkeys(names, value))))
            assert HOSTILE_KEY not in message
            assert attacker.base_url not in message
    assert attacker.accepted_connections == 0
    for seen in provider.requests:
        assert HOSTILE_KEY not in json.dumps(seen.headers) + seen.path
        assert attacker.base_url not in json.dumps(seen.headers) + seen.path


@pytest.mark.parametrize("tool", [{"type": "mcp", "server_url": "litellm_proxy", "server_label": "x"}])
async def test_litellm_mcp_tool_calls_no_server(
    upstream: LitellmUpstream, provider: ReplayUpstream, attacker: ReplayUpstream, tool: dict[str, Any]
) -> None:
    """A tool that names a server is the provider's to judge; nothing is called from here."""
    tools = [tool, {**tool, "server_url": attacker.base_url}]
    await ask(upstream, provider, fields={"tools": tools})
    assert attacker.accepted_connections == 0
    assert len(provider.requests) == 1


@pytest.mark.parametrize("status", [429, 500, 503])
async def test_litellm_failed_call_is_not_repeated(
    upstream: LitellmUpstream, provider: ReplayUpstream, attacker: ReplayUpstream, status: int
) -> None:
    """Retries and fallbacks are the gateway's: one attempt is one call, whatever the body asks for."""
    fallback = {"model": "openai/openai-text", "api_base": attacker.base_url, "api_key": HOSTILE_KEY}
    fields = {"num_retries": 3, "max_retries": 3, "fallbacks": [fallback], "context_window_fallback_dict": fallback}
    reply = await ask(upstream, provider, f"openai/openai-text!status-{status}", fields=fields)
    assert reply.status == status
    assert len(provider.requests) == 1
    assert attacker.accepted_connections == 0


async def test_litellm_unknown_field_reaches_the_provider(upstream: LitellmUpstream, provider: ReplayUpstream) -> None:
    """A field of the provider's own travels in its body."""
    await ask(upstream, provider, fields={"top_k": 3, "chat_template_kwargs": {"a": 1}, "metadata": {"b": "c"}})
    sent = provider.requests[0].json
    assert (sent["top_k"], sent["chat_template_kwargs"], sent["metadata"]) == (3, {"a": 1}, {"b": "c"})


@pytest.mark.parametrize("provider_name", PROVIDERS)
@pytest.mark.parametrize("kind", ["image_url", "file"])
async def test_litellm_remote_media_is_refused_without_any_call(
    upstream: LitellmUpstream,
    provider: ReplayUpstream,
    attacker: ReplayUpstream,
    monkeypatch: pytest.MonkeyPatch,
    provider_name: str,
    kind: str,
) -> None:
    """No URL of a client is ever fetched from here, whichever provider would have litellm do it."""
    import litellm

    # litellm's own guard refuses loopback addresses; without it, only ours stands.
    monkeypatch.setattr(litellm, "user_url_validation", False)
    address = f"{attacker.base_url}/secret.png"
    part = {"image_url": {"url": address, "detail": "high"}} if kind == "image_url" else {"file": {"file_id": address}}
    messages = [{"role": "user", "content": [{"type": kind, **part}]}]
    reply = await ask(upstream, provider, f"{provider_name}/openai-text", fields={"messages": messages})
    assert reply.status == 400
    assert json.loads(await reply.read())["error"]["code"] == "media_url_unsupported"
    assert (attacker.accepted_connections, provider.accepted_connections) == (0, 0)


async def test_litellm_itself_would_fetch_media(
    upstream: LitellmUpstream, attacker: ReplayUpstream, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The control of the test above: without our check, litellm's token counter alone asks the attacker."""
    import litellm

    monkeypatch.setattr(litellm, "user_url_validation", False)
    image = {"type": "image_url", "image_url": {"url": f"{attacker.base_url}/secret.png", "detail": "high"}}
    messages = [{"role": "user", "content": [image]}]

    def count() -> None:
        with pytest.raises(Exception, match="."):  # noqa: RUF043 - the answer is not an image
            litellm.token_counter(model="gpt-4o", messages=messages)

    await asyncio.to_thread(count)
    assert attacker.accepted_connections > 0


@pytest.mark.parametrize(
    ("name", "usage"),
    [
        ("openai-text", Usage(14, 6)),
        ("openai-tools", Usage(80, 41)),
        ("openai-reasoning", Usage(20, 140, 0, 128)),
        ("openai-json", Usage(25, 12, 16, 0)),
        ("deepseek-reasoning", Usage(17, 30, 0, 22)),
        ("unicode-text", Usage(9, 21)),
    ],
)
async def test_litellm_stream_has_openai_form_and_its_usage_is_known(
    upstream: LitellmUpstream, provider: ReplayUpstream, name: str, usage: Usage
) -> None:
    """A stream is events of OpenAI chunks with a finish reason, one usage chunk and [DONE]."""
    reply = await ask(upstream, provider, f"openai/{name}", is_stream=True)
    received: list[bytes] = []
    await collect(reply, received)
    assert received[-1] == b"data: [DONE]\n\n"
    chunks = [json.loads(event[len(b"data: ") :]) for event in received[:-1]]
    assert all(chunk["object"] == "chat.completion.chunk" for chunk in chunks)
    assert [choice["finish_reason"] for chunk in chunks for choice in chunk["choices"]].count(None) == len(chunks) - 2
    assert chunks[-1]["choices"] == []
    assert chunks[-1]["usage"]["completion_tokens"] == usage.output_tokens
    assert reply.usage == usage


async def test_litellm_stream_hides_usage_that_the_client_did_not_ask_for(
    upstream: LitellmUpstream, provider: ReplayUpstream
) -> None:
    """The usage chunk is read and kept back."""
    deployment = make_deployment(provider.base_url, model="openai/openai-text", adapter="litellm")
    reply = await upstream.send(make_request(deployment, is_stream=True, hides_usage=True))
    received: list[bytes] = []
    await collect(reply, received)
    assert b'"usage"' not in b"".join(received)
    assert reply.usage == Usage(14, 6)
    assert reply.output_bytes == len("The reservoir feeds the penstock.")


async def test_litellm_plain_reply_has_openai_form(upstream: LitellmUpstream, provider: ReplayUpstream) -> None:
    """A plain reply is OpenAI's object: tool calls, content null, usage, and nothing of litellm's."""
    reply = await ask(upstream, provider, "openai/openai-tools")
    body = json.loads(await reply.read())
    message = body["choices"][0]["message"]
    assert message["content"] is None
    assert [call["function"]["name"] for call in message["tool_calls"]] == ["get_weather", "get_forecast"]
    assert body["usage"]["completion_tokens"] == 41
    assert "provider_specific_fields" not in json.dumps(body)
    assert reply.usage == Usage(80, 41)


@pytest.mark.parametrize("is_stream", [False, True])
@pytest.mark.parametrize(
    ("behaviour", "error"),
    [
        ("stall", UpstreamTimeout),
        ("close", UpstreamBroken),
        ("garbage", UpstreamBroken),
        ("status-401", UpstreamRejectedKey),
        ("status-403", UpstreamRejectedKey),
    ],
)
async def test_litellm_failure_is_translated_without_its_text(
    upstream: LitellmUpstream, provider: ReplayUpstream, behaviour: str, error: type[UpstreamError], is_stream: bool
) -> None:
    """Each failure has our error; host, key and the provider's words stay inside."""
    model = f"openai/openai-text!{behaviour}"
    with pytest.raises(error) as raised:
        await ask(upstream, provider, model, is_stream=is_stream, first_byte_timeout_seconds=0.5)
    for secret in (UPSTREAM_KEY, "127.0.0.1", "sk-secret", "itellm", "OpenAIException"):
        assert secret not in raised.value.message
    assert len(provider.requests) == 1


@pytest.mark.parametrize("status", [400, 404, 422, 429, 500, 502])
async def test_litellm_error_status_is_a_reply_of_ours(
    upstream: LitellmUpstream, provider: ReplayUpstream, status: int
) -> None:
    """A provider's error status is an answer in OpenAI's shape, with a text of ours."""
    reply = await ask(upstream, provider, f"openai/openai-text!status-{status}")
    body = json.loads(await reply.read())
    assert reply.status == status
    assert body["error"]["code"] == f"upstream_status_{status}"
    assert "on demand" not in body["error"]["message"]
    assert dict(reply.headers) == ({b"retry-after": b"7"} if status == 429 else {})
    assert reply.usage is None


@pytest.mark.parametrize("is_stream", [False, True])
async def test_litellm_usage_that_nobody_reported_is_unknown(
    upstream: LitellmUpstream, provider: ReplayUpstream, is_stream: bool
) -> None:
    """litellm's own counts and zeros are not taken for the provider's: the caller estimates, and says so."""
    reply = await ask(upstream, provider, "openai/no-usage", is_stream=is_stream)
    received: list[bytes] = []
    if is_stream:
        await collect(reply, received)
    else:
        received.append(await reply.read())
    assert (reply.usage, reply.output_bytes) == (None, len("Nobody counted this."))
    assert b'"usage"' not in b"".join(received)


async def test_litellm_refused_connection_is_unreachable(upstream: LitellmUpstream, provider: ReplayUpstream) -> None:
    """Nobody listening means unreachable."""
    await provider.aclose()
    deployment = make_deployment("http://127.0.0.1:9/v1", model="openai/openai-text", adapter="litellm")
    with pytest.raises(UpstreamUnreachable):
        await upstream.send(make_request(deployment))


@pytest.mark.parametrize("behaviour", ["truncate-after-3", "cut-after-3", "reset-after-3", "stall-after-3"])
async def test_litellm_stream_that_breaks_ends_without_done(
    upstream: LitellmUpstream, provider: ReplayUpstream, behaviour: str
) -> None:
    """A broken stream raises after its good chunks; the finish reason that litellm makes up is not passed on."""
    model = f"openai/openai-text!{behaviour}"
    reply = await ask(upstream, provider, model, is_stream=True, idle_timeout_seconds=0.5)
    received: list[bytes] = []
    with pytest.raises(UpstreamTimeout if behaviour.startswith("stall") else UpstreamBroken):
        await collect(reply, received)
    relayed = b"".join(received)
    assert b"reservoir" in relayed
    assert b'"stop"' not in relayed
    assert b"[DONE]" not in relayed


async def test_litellm_stream_closed_early_closes_its_connection(
    upstream: LitellmUpstream, provider: ReplayUpstream
) -> None:
    """A client that goes away stops the generation."""
    reply = await ask(upstream, provider, "openai/openai-text!stall-after-3", is_stream=True)
    await anext(aiter(reply.events()))
    await reply.aclose()
    await reply.aclose()
    await provider.until_open_connections(0)


async def test_litellm_is_imported_late_and_fetches_nothing() -> None:
    """Importing the adapter does not import litellm; making it does, without a name looked up or a connection made."""
    program = """
import sys
import penstock_gateway.upstream.litellm_adapter as adapter
assert "litellm" not in sys.modules
seen = []
sys.addaudithook(lambda event, args: seen.append(event) if event in ("socket.connect", "socket.getaddrinfo") else None)
adapter.LitellmUpstream()
assert "litellm" in sys.modules
assert seen == [], seen
import litellm
assert not litellm.telemetry and litellm.cache is None and not litellm.callbacks and not litellm.success_callback
"""
    await asyncio.to_thread(subprocess.run, [sys.executable, "-c", program], check=True, timeout=120)


async def test_litellm_missing_package_names_the_install_command(monkeypatch: pytest.MonkeyPatch) -> None:
    """Without the package, the error says exactly what to install."""
    monkeypatch.setitem(sys.modules, "litellm", None)
    with pytest.raises(MissingExtraError, match=re.escape(install_command("litellm"))):
        LitellmUpstream()
