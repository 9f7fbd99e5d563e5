"""Speaking to every provider that has no OpenAI-compatible API, through litellm.

Owns the import of litellm and everything that is allowed to reach it: this is the only file that imports it, and it
does so when the first `LitellmUpstream` is made. Host, credential, provider and retries come from the deployment
alone. It must not fetch anything at import, log content, or return litellm's own error texts, which may name hosts
and keys. Read `LitellmUpstream.send` first, then `litellm_request.split_body`.
"""

from __future__ import annotations

import asyncio
import inspect
import logging
import os
from collections.abc import AsyncGenerator, Awaitable
from types import ModuleType
from typing import Any, TypeVar

import msgspec

from penstock_gateway.errors import (
    UpstreamBroken,
    UpstreamError,
    UpstreamRejectedKey,
    UpstreamTimeout,
    UpstreamUnreachable,
)
from penstock_gateway.money.usage import Usage
from penstock_gateway.upstream.litellm_request import CHAT_ARGUMENTS, has_remote_media, split_body, takes_extra_body
from penstock_gateway.upstream.protocol import UpstreamRequest
from penstock_gateway.upstream.sse import EventScanner
from penstock_gateway.upstream.usage import read_reply, read_usage
from penstock_routers.errors import MissingExtraError
from penstock_routers.installation import install_command

_log = logging.getLogger(__name__)
_T = TypeVar("_T")

# Read by litellm while it is imported: no price map, header map or .env file is loaded from elsewhere, it logs
# nothing below errors, and it downloads no image (a limit of 0 MB switches downloads off).
_ENVIRONMENT = {
    "LITELLM_LOCAL_ANTHROPIC_BETA_HEADERS": "True",
    "LITELLM_LOCAL_BLOG_POSTS": "True",
    "LITELLM_LOCAL_MODEL_COST_MAP": "True",
    "LITELLM_LOG": "ERROR",
    "LITELLM_MODE": "PRODUCTION",
    "MAX_IMAGE_URL_DOWNLOAD_SIZE_MB": "0",
}
_KEY_REFUSED = frozenset({401, 403})
_NOT_CONNECTED = frozenset(
    {"ClientConnectorDNSError", "ClientConnectorError", "ConnectError", "ConnectionRefusedError", "gaierror"}
)
_CONNECTION_LOST = frozenset(
    {"APIConnectionError", "ClientPayloadError", "JSONDecodeError", "ReadError", "RemoteProtocolError"}
)
_ERROR_CODES = {
    "ContextWindowExceededError": "context_length_exceeded",
    "ContentPolicyViolationError": "content_policy_violation",
    "ImageFetchError": "media_url_unsupported",
    "UnsupportedParamsError": "unsupported_parameter",
}
_RETURNED_HEADERS = ("retry-after", "retry-after-ms")
_encode = msgspec.json.Encoder().encode


class LitellmUpstream:
    """Sends chat requests to any provider that litellm knows.

    Making one imports litellm (3 to 7 s, 200 MB), so it is made at start and only when a deployment needs it.

    Raises
    ------
    MissingExtraError
        litellm is not installed.
    """

    def __init__(self) -> None:
        self._litellm = _import_litellm()
        self._owned_names = _owned_names(self._litellm)

    async def send(self, request: UpstreamRequest) -> LitellmReply:
        """Send one request and return when the provider has begun to answer.

        Parameters
        ----------
        request : UpstreamRequest
            Its body may hold anything a client can send; what reaches litellm is decided by `split_body`.

        Returns
        -------
        LitellmReply
            Statuses of 400 and above carry a body of ours: litellm's texts are not shown. A request with a remote
            image or document gets a 400 without a call, because litellm would fetch it from inside our network.

        Raises
        ------
        UpstreamUnreachable, UpstreamTimeout, UpstreamBroken, UpstreamRejectedKey
        """
        deployment = request.deployment
        body = {name: msgspec.json.decode(value) for name, value in request.body.items()}
        if has_remote_media(body.get("messages")):
            return LitellmReply.refusal(
                400, "media_url_unsupported", "This model takes images and documents as data: URLs only."
            )
        keywords = self._keywords(request, body)
        started = asyncio.get_running_loop().time()
        try:
            answer = await _within(self._litellm.acompletion(**keywords), deployment.first_byte_timeout_seconds)
        except Exception as error:  # anything may come out of litellm; all of it is translated
            return _refusal_or_raise(error)
        return LitellmReply(answer, request, total_deadline=started + deployment.total_timeout_seconds)

    async def aclose(self) -> None:
        """Close the clients that litellm pools; safe to call twice."""
        await self._litellm.close_litellm_async_clients()

    def _keywords(self, request: UpstreamRequest, body: dict[str, Any]) -> dict[str, Any]:
        """Return the keyword arguments of the call; later ones cannot be set by a client."""
        deployment = request.deployment
        arguments, extra_body = split_body(body, self._owned_names)
        keywords: dict[str, Any] = {
            **arguments,
            "model": deployment.model,
            "api_base": deployment.base_url or None,
            "api_key": deployment.api_key or None,
            "extra_headers": {**deployment.headers, "x-request-id": request.request_id},
            "timeout": deployment.total_timeout_seconds,
            "num_retries": 0,
            "max_retries": 0,
            "caching": False,
            "drop_params": False,
            "stream": request.is_stream,
            "no-log": True,
            "_skip_mcp_handler": True,  # a tool of type "mcp" must not make litellm call servers
        }
        if request.is_stream:
            keywords["stream_options"] = {"include_usage": True}
        if extra_body and takes_extra_body(deployment.model):
            keywords["extra_body"] = extra_body
        return keywords


class LitellmReply:
    """litellm's answer in OpenAI's wire format; see `protocol.UpstreamReply`."""

    def __init__(self, answer: Any, request: UpstreamRequest | None, *, total_deadline: float = 0.0) -> None:
        self.status = 200
        self.content_type = "application/json"
        self.headers: tuple[tuple[bytes, bytes], ...] = ()
        self.usage: Usage | None = None
        self.output_bytes = 0
        self.stream_error: str | None = None
        self._answer = answer
        self._request = request
        self._total_deadline = total_deadline
        self._error_body = b""
        if request is not None and request.is_stream:
            self.content_type = "text/event-stream"

    @classmethod
    def refusal(cls, status: int, code: str, message: str) -> LitellmReply:
        """Return a reply that refuses the request in OpenAI's error shape."""
        reply = cls(None, None)
        reply.status = status
        kind = "rate_limit_error" if status == 429 else "invalid_request_error" if status < 500 else "upstream_error"
        error = {"message": message, "type": kind, "param": None, "code": code}
        reply._error_body = _encode({"error": error})
        return reply

    async def read(self) -> bytes:
        """Return the reply as OpenAI's JSON; usage is known afterwards."""
        if self._request is None:
            return self._error_body
        body = _encode(_plain(self._answer))
        try:
            self.usage, self.output_bytes = read_reply(body)
        except ValueError as error:
            raise UpstreamBroken(f"The provider sent {error}.") from error
        return body

    async def events(self) -> AsyncGenerator[bytes, None]:
        """Yield the stream as server-sent events, one per chunk, with ``[DONE]`` at the end.

        Raises
        ------
        UpstreamTimeout
            No next chunk within the idle deadline, or the total deadline passed.
        UpstreamBroken
            Reset or cut short. litellm makes up a finish reason when a stream just ends; that chunk is held back.
        """
        assert self._request is not None
        scanner = EventScanner(hides_usage=False)
        usage_chunk: dict[str, Any] | None = None
        try:
            while (chunk := await self._next_chunk()) is not None:
                fields, usage = _chunk(chunk)
                if usage is not None:
                    usage_chunk = {**fields, "choices": [], "usage": usage}
                if _is_empty(fields):
                    continue
                if _has_finish(fields) and not self._has_real_finish():
                    raise UpstreamBroken("The provider ended the stream before the answer was complete.")
                block = scanner.feed(_event(fields))
                self.output_bytes = scanner.output_bytes
                yield block
            if not scanner.is_complete:
                raise UpstreamBroken("The provider ended the stream before the answer was complete.")
            self.usage = self._reported_usage(usage_chunk)
            if self.usage is not None and usage_chunk is not None and not self._request.hides_usage:
                yield _event(usage_chunk)
            yield b"data: [DONE]\n\n"
        finally:
            await self.aclose()

    async def aclose(self) -> None:
        """Release the connection; safe to call twice, and in the middle of a stream."""
        answer, self._answer = self._answer, None
        close = getattr(answer, "aclose", None)
        if close is not None:
            await close()

    async def _next_chunk(self) -> Any:
        """Return litellm's next chunk, None at the end."""
        assert self._request is not None
        remaining = self._total_deadline - asyncio.get_running_loop().time()
        limit = min(self._request.deployment.idle_timeout_seconds, max(0.0, remaining))
        try:
            return await _within(anext(self._answer, None), limit)
        except Exception as error:  # anything may come out of litellm; all of it is translated
            raise translate_error(error) from error

    def _has_real_finish(self) -> bool:
        """Whether the provider itself sent a finish reason (litellm keeps it; unknown counts as yes)."""
        names = ("received_finish_reason", "intermittent_finish_reason")
        return any(getattr(self._answer, name, "unknown") is not None for name in names)

    def _reported_usage(self, usage_chunk: dict[str, Any] | None) -> Usage | None:
        """Return the usage of a stream, None when litellm counted it itself because the provider did not."""
        if usage_chunk is None:
            return None
        kept = getattr(self._answer, "chunks", None)
        if kept is not None and all(getattr(chunk, "usage", None) is None for chunk in kept):
            return None
        return read_usage(usage_chunk["usage"], usage_chunk.get("service_tier"))


def translate_error(error: Exception) -> UpstreamError:
    """Return our error for one of litellm's, without its text.

    Parameters
    ----------
    error : Exception
        Whatever came out of litellm.

    Returns
    -------
    UpstreamError
    """
    _log.warning("upstream_error adapter=litellm error=%s status=%s", type(error).__name__, _status(error))
    names = {type(link).__name__ for link in _chain(error)}
    if isinstance(error, UpstreamError):
        return error
    if isinstance(error, TimeoutError) or names & {"Timeout", "APITimeoutError", "TimeoutException"}:
        return UpstreamTimeout("The provider did not answer in time.")
    if _status(error) in _KEY_REFUSED:
        return UpstreamRejectedKey("The provider refused this gateway's credential.")
    if names & _NOT_CONNECTED:
        return UpstreamUnreachable("The provider could not be reached.")
    return UpstreamBroken("The provider's answer was broken off or could not be understood.")


def _refusal_or_raise(error: Exception) -> LitellmReply:
    """Return a reply for an error status of the provider; raise for everything else."""
    status = _status(error)
    names = {type(link).__name__ for link in _chain(error)}
    is_status = status is not None and status >= 400 and status not in _KEY_REFUSED and status != 408
    if not is_status or names & (_NOT_CONNECTED | _CONNECTION_LOST):
        raise translate_error(error) from error
    assert status is not None
    code = _ERROR_CODES.get(type(error).__name__, f"upstream_status_{status}")
    _log.warning("upstream_error adapter=litellm error=%s status=%s", type(error).__name__, status)
    reply = LitellmReply.refusal(status, code, f"The provider answered with status {status} ({code}).")
    reply.headers = _returned_headers(error)
    return reply


def _status(error: Exception) -> int | None:
    status = getattr(error, "status_code", None)
    return status if isinstance(status, int) else None


def _chain(error: BaseException) -> list[BaseException]:
    """Return the error and those it came from, litellm's wrappers included."""
    links: list[BaseException] = []
    link: BaseException | None = error
    while link is not None and link not in links:
        links.append(link)
        link = link.__cause__ or link.__context__
    return links


def _returned_headers(error: Exception) -> tuple[tuple[bytes, bytes], ...]:
    headers = getattr(error, "litellm_response_headers", None) or {}
    found = ((name, headers.get(name)) for name in _RETURNED_HEADERS)
    return tuple((name.encode(), str(value).encode("latin-1", "ignore")) for name, value in found if value)


async def _within(awaitable: Awaitable[_T], seconds: float) -> _T:
    async with asyncio.timeout(seconds):
        return await awaitable


def _plain(answer: Any) -> dict[str, Any]:
    """Return a complete answer as OpenAI's JSON object."""
    fields: dict[str, Any] = answer.model_dump(exclude_none=True)
    for choice in fields.get("choices", ()):
        _tidy(choice)
        message = choice.get("message", {})
        _tidy(message)
        message.setdefault("content", None)
    usage = fields.get("usage", {})
    usage.pop("cost", None)  # litellm's own estimate, from its own price map
    if not usage.get("prompt_tokens") and not usage.get("completion_tokens"):
        fields.pop("usage", None)  # litellm fills in zeros when the provider reported nothing
    return fields


def _chunk(chunk: Any) -> tuple[dict[str, Any], dict[str, Any] | None]:
    """Return a chunk as OpenAI's JSON object, and its usage apart."""
    fields: dict[str, Any] = chunk.model_dump(exclude_none=True)
    for choice in fields.get("choices", ()):
        _tidy(choice)
        _tidy(choice.get("delta", {}))
        choice.setdefault("finish_reason", None)
    usage = fields.pop("usage", None)
    if usage is not None:
        usage.pop("cost", None)
    return fields, usage


def _tidy(fields: dict[str, Any]) -> None:
    """Move what litellm keeps aside to where OpenAI has it."""
    aside = fields.get("provider_specific_fields")
    if not isinstance(aside, dict):
        return
    if "refusal" in aside:
        fields.setdefault("refusal", aside.pop("refusal"))
    if not aside:
        del fields["provider_specific_fields"]


def _is_empty(fields: dict[str, Any]) -> bool:
    """Whether a chunk says nothing: litellm sends one for its usage."""
    return all(not choice.get("delta") and choice["finish_reason"] is None for choice in fields.get("choices", ()))


def _has_finish(fields: dict[str, Any]) -> bool:
    return any(choice["finish_reason"] is not None for choice in fields.get("choices", ()))


def _event(fields: dict[str, Any]) -> bytes:
    return b"data: " + _encode(fields) + b"\n\n"


def _import_litellm() -> ModuleType:
    """Import litellm so that it fetches nothing, reports nothing and keeps nothing."""
    os.environ.update(_ENVIRONMENT)
    try:
        import litellm
    except ImportError as error:
        raise MissingExtraError(
            f"A deployment uses the litellm adapter, which is not installed: {install_command('litellm')}"
        ) from error
    litellm.telemetry = False
    litellm.suppress_debug_info = True
    litellm.turn_off_message_logging = True
    litellm.drop_params = False
    litellm.cache = None
    litellm.num_retries = 0
    litellm.default_fallbacks = litellm.model_fallbacks = None
    for name in ("callbacks", "input_callback", "success_callback", "failure_callback"):
        setattr(litellm, name, [])
    module: ModuleType = litellm
    return module


def _owned_names(litellm: ModuleType) -> frozenset[str]:
    """Return every keyword that the installed litellm gives a meaning, minus the chat parameters."""
    names = set(litellm.types.utils.all_litellm_params)
    for function in (litellm.acompletion, litellm.completion):
        names.update(inspect.signature(function).parameters)
    return frozenset(name.lower() for name in names) - CHAT_ARGUMENTS
