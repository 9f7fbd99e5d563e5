"""A provider's reply on its way through the gateway, which tells the deployment's state when it ends and how.

Owns what lies between the upstream's reply and the answer: the first block that was read ahead, the body that was read
already, the end of the try. Read `AttemptReply`, which fulfils `upstream.protocol.UpstreamReply`.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator
from contextlib import aclosing

from penstock_gateway.attempts.attempt import Attempt
from penstock_gateway.attempts.failures import (
    Failure,
    FailureKind,
    deadline_exceeded,
    failure_of_error,
    failure_of_stream_error,
)
from penstock_gateway.attempts.pump import BlockPump
from penstock_gateway.attempts.records import AttemptRecord
from penstock_gateway.deployments import Deployment
from penstock_gateway.errors import GatewayError, UpstreamBroken, UpstreamError
from penstock_gateway.upstream.protocol import Cover, Shortcut, ShortReply, UpstreamReply


class AttemptReply:
    """The reply of one try.

    Parameters
    ----------
    attempt : Attempt
    inner : UpstreamReply
        Of the provider.
    body : bytes, optional
        When it has been read.
    head : bytes, optional
        What has been read of a stream.
    blocks : async generator of bytes, optional
        The rest of a stream; None when there is none.
    cover : Cover, optional
        Asked while a stream is read on without its client.
    """

    __slots__ = (
        "_attempt",
        "_blocks",
        "_body",
        "_cover",
        "_head",
        "_inner",
        "_pump",
        "content_type",
        "headers",
        "output_bytes",
        "status",
        "stream_error",
        "usage",
    )

    def __init__(
        self,
        attempt: Attempt,
        inner: UpstreamReply,
        *,
        body: bytes | None = None,
        head: bytes = b"",
        blocks: AsyncGenerator[bytes, None] | None = None,
        cover: Cover | None = None,
    ) -> None:
        self.status = inner.status
        self.content_type = inner.content_type
        self.headers = inner.headers
        self.usage = inner.usage
        self.output_bytes = inner.output_bytes
        self.stream_error = inner.stream_error
        self._attempt = attempt
        self._inner = inner
        self._body = body
        self._head = head
        self._blocks = blocks
        self._cover = cover
        self._pump: BlockPump | None = None

    @property
    def deployment(self) -> Deployment:
        """Where the try was made, as configured."""
        return self._attempt.lane.deployment

    @property
    def record(self) -> AttemptRecord:
        """The record of this try."""
        return self._attempt.record

    @property
    def may_drain(self) -> bool:
        """Whether there is something left to read on, and the deployment wants it."""
        return not self._attempt.is_over and self._attempt.deployment.on_disconnect == "drain"

    def complete_record(self) -> None:
        """Fill in the record with what is known by now, for whoever settles before the stream has ended."""
        self._attempt.complete_record(self.usage)

    async def read(self) -> bytes:
        """Return the body, which has been read."""
        if self._body is None:
            raise UpstreamBroken("The provider answered with a stream where a body was expected.")
        return self._body

    async def events(self) -> AsyncGenerator[bytes, None]:
        """Yield the stream's blocks, the first one from memory; see `UpstreamReply.events`."""
        head, self._head = self._head, b""
        if head:
            yield head
        if self._blocks is None:
            return
        try:
            if self._attempt.deployment.on_disconnect == "drain":
                self._pump = self._pump or BlockPump(self._blocks)
                async for block in self._pump:
                    self._copy()
                    yield block
            else:
                async with aclosing(self._blocks) as blocks:
                    async for block in blocks:
                        self._copy()
                        yield block
        except UpstreamError as error:
            raise self._fail(error) from error.__cause__
        except Exception:
            self._copy()
            self._attempt.fail(Failure(FailureKind.BROKEN, "internal_error"), self.usage)
            raise
        self._finish()

    def shorten(self, way: Shortcut) -> None:
        """Pass ordinary events on this way, where the provider's reply can and nobody reads ahead of the client."""
        inner = self._inner
        if self._attempt.deployment.on_disconnect == "drain" or not isinstance(inner, ShortReply):
            return

        def take(block: bytes) -> None:
            self._copy()
            way.take(block)

        inner.shorten(Shortcut(way.may_take, take))

    async def read_to_end(self) -> None:
        """Read the rest of the stream without a client; usage is final afterwards.

        Raises
        ------
        UpstreamError
        QuotaExceeded, Overloaded
            The budget does not reach for the rest.
        """
        try:
            if self._blocks is not None:
                await self._read_on(self._pump or BlockPump(self._blocks))
        except UpstreamError as error:
            raise self._fail(error) from error.__cause__
        except GatewayError as error:
            self.give_up(error.code)
            raise
        self._finish()

    def give_up(self, error_code: str) -> None:
        """End the try in the middle of its answer, for a reason that is not the deployment's; to be closed then."""
        self._copy()
        self._attempt.abandon(error_code, self.usage)

    async def aclose(self) -> None:
        """Release the connection; a stream that has not ended by now was left by its client."""
        self.give_up("client_disconnected")
        if self._pump is not None:
            await self._pump.aclose()
        elif self._blocks is not None:
            await self._blocks.aclose()
        await self._inner.aclose()

    async def _read_on(self, pump: BlockPump) -> None:
        self._pump, cover = pump, self._cover
        if cover is not None:
            cover.serve(self.deployment)
        async for _ in pump:
            self._copy()
            if cover is not None:
                reported = 0 if self.usage is None else self.usage.output_tokens
                await cover.keep_up(max(cover.tokens_in(self.output_bytes), reported))

    def _copy(self) -> None:
        inner = self._inner
        self.usage = inner.usage
        self.output_bytes = inner.output_bytes
        self.stream_error = inner.stream_error

    def _finish(self) -> None:
        self._copy()
        if self.stream_error is None:
            self._attempt.finish(self.usage, self.output_bytes)
        else:
            self._attempt.fail(failure_of_stream_error(self.stream_error, self), self.usage)

    def _fail(self, error: UpstreamError) -> UpstreamError:
        """End the try; return the error to raise, which names the deadline where that is the reason."""
        self._copy()
        failure = failure_of_error(error)
        if failure.kind is FailureKind.TIMEOUT and self._attempt.deadline_has_passed:
            error = deadline_exceeded()
            failure = Failure(FailureKind.DEADLINE, error.code, error=error)
        self._attempt.fail(failure, self.usage)
        return error
