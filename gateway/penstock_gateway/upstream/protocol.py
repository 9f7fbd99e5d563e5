"""The contract between the pipeline and whatever speaks to a provider.

A transport is a class with one coroutine, `Upstream.send`. `direct` and `litellm` implement it; tests pass
their own. Nothing here imports an HTTP client.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator, Callable
from typing import NamedTuple, Protocol, runtime_checkable

import msgspec

from penstock_gateway.deployments import Deployment
from penstock_gateway.money.usage import Usage
from penstock_gateway.wire.formats import WireFormat

JsonObject = dict[str, msgspec.Raw]
"""A JSON object whose values are still the client's own bytes, so unknown fields survive untouched."""


class Cover(Protocol):
    """What holds the money for a request's attempts; see `spending.Hold`."""

    async def begin(self, deployment: Deployment) -> int:
        """Hold what one more attempt may cost at most, and return it, picodollars."""
        ...

    def forgive(self, bound_picousd: int) -> None:
        """Note that an attempt is surely free."""
        ...

    def serve(self, deployment: Deployment) -> None:
        """Note which deployment answers; only the first call counts."""
        ...

    def tokens_in(self, output_bytes: int) -> int:
        """Return how many completion tokens the answer counts for by its text."""
        ...

    async def keep_up(self, output_tokens: int) -> None:
        """Hold what an answer of so many completion tokens needs; raises when it must end."""
        ...


class ReplyTranslation(Protocol):
    """Puts the client's format in the place of the provider's; see `wire.replies`."""

    def wrap(self, reply: UpstreamReply) -> UpstreamReply:
        """Return a reply in the client's format."""
        ...


class UpstreamRequest(msgspec.Struct, frozen=True):
    """One attempt at one deployment.

    Attributes
    ----------
    deployment : Deployment
    body : JsonObject
        The request as it shall reach the model: model name set, control fields stripped, parameters
        translated.
    is_stream : bool
    hides_usage : bool
        We asked for the stream's usage and the client did not: the usage-only chunk is kept from it.
    request_id : str
        Passed on as ``x-request-id``.
    cover : Cover or None
        Asked before it is sent; None when there is no budget to keep.
    wire : WireFormat
        Of the body, and of the provider's answer.
    translation : ReplyTranslation or None
        Of the answer; None when the client speaks the same format.
    headers : tuple of (str, str)
        Of the client that belong to its format and are passed on (``anthropic-beta``).
    path : str or None
        Under the base URL; None for the format's own.
    """

    deployment: Deployment
    body: JsonObject
    is_stream: bool
    hides_usage: bool
    request_id: str
    cover: Cover | None = None
    wire: WireFormat = WireFormat.CHAT
    translation: ReplyTranslation | None = None
    headers: tuple[tuple[str, str], ...] = ()
    path: str | None = None


class Shortcut(NamedTuple):
    """A way for ordinary events of a stream past the reader of `UpstreamReply.events`, while that reader waits.

    Attributes
    ----------
    may_take : callable
        Whether the next events may go this way, given the bytes of text that there will be at most.
    take : callable
        Takes a block of events, as the reader would.
    """

    may_take: Callable[[int], bool]
    take: Callable[[bytes], None]


@runtime_checkable
class ShortReply(Protocol):
    """A reply whose ordinary events can be passed on as they come, without waking their reader."""

    def shorten(self, way: Shortcut) -> None:
        """Pass ordinary events on this way from now on; all others, and the end, go to the reader."""
        ...


class UpstreamReply(Protocol):
    """An answer whose status is known; the body may still be on its way."""

    @property
    def status(self) -> int:
        """Of the answer."""
        ...

    @property
    def content_type(self) -> str:
        """Of the body."""
        ...

    @property
    def headers(self) -> tuple[tuple[bytes, bytes], ...]:
        """The provider's headers that are worth passing on (rate limits, retry-after, request id)."""
        ...

    @property
    def usage(self) -> Usage | None:
        """What the provider reported; known once the body is complete (None until then, or when missing)."""
        ...

    @property
    def output_bytes(self) -> int:
        """Bytes of generated text seen so far, JSON escapes included, for an estimate when no usage arrives."""
        ...

    @property
    def stream_error(self) -> str | None:
        """Code of an error event that the provider itself sent inside a stream.

        The event was passed on and the stream then ends without raising: the client has been told, the request still
        failed.
        """
        ...

    async def read(self) -> bytes:
        """Return the whole body, of any status (for streams: of an error status only). Raises `UpstreamError`."""
        ...

    def events(self) -> AsyncGenerator[bytes, None]:
        """Yield blocks of one or more complete server-sent events, byte for byte as sent.

        The final ``data: [DONE]`` event is yielded like any other. Raises `UpstreamError` when the stream
        stalls, is reset or ends without ``[DONE]`` and without a finish reason for every choice.
        """
        ...

    async def aclose(self) -> None:
        """Release the connection; safe to call twice, and in the middle of a stream."""
        ...


class Upstream(Protocol):
    """Something that can send a request to a deployment."""

    async def send(self, request: UpstreamRequest) -> UpstreamReply:
        """Send one request and return when the status line is known.

        Raises
        ------
        UpstreamError
            Before any byte of an answer: unreachable, timed out, broken, credential refused.
        """
        ...

    async def aclose(self) -> None:
        """Close pooled connections."""
        ...
