"""One try from sending to its first byte: what can still be tried elsewhere is found out here, and nothing later.

Owns the look ahead: a stream's first event and a plain reply's whole body are read before the try counts as a success.
Read `exchange`.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Callable

from penstock_gateway.attempts.attempt import Attempt
from penstock_gateway.attempts.failures import (
    HIGHEST_STATUS,
    Failure,
    FailureKind,
    deadline_failure,
    failure_of_error,
    failure_of_status,
    failure_of_stream_error,
    was_never_sent,
)
from penstock_gateway.attempts.reply import AttemptReply
from penstock_gateway.errors import GatewayError, UpstreamBroken, UpstreamError, UpstreamTimeout
from penstock_gateway.upstream.protocol import Cover, Upstream, UpstreamReply, UpstreamRequest

ERROR_BODY_SECONDS = 10.0
"""How long the body of an error may take: it is a few hundred bytes, and others wait to be tried."""

COMMENT_SECONDS = 10.0
"""How long comments that keep a connection alive are held back before they count as the beginning of the stream: until
then a failure can still be tried elsewhere, after that the client needs a sign of life too."""

MAX_COMMENT_BYTES = 65_536


async def exchange(
    attempt: Attempt, upstream: Upstream, request: UpstreamRequest, unix_time: Callable[[], float]
) -> AttemptReply | Failure:
    """Send a request and read so far that it counts as answered.

    Parameters
    ----------
    attempt : Attempt
        Over when a failure or a plain reply is returned, or anything is raised.
    upstream : Upstream
    request : UpstreamRequest
    unix_time : callable
        Seconds, for dates in ``Retry-After``.

    Returns
    -------
    AttemptReply or Failure
        A reply has a status below 400 and must be closed. Nothing of a failure is left open.
    """
    attempt.is_stream = request.is_stream
    attempt.record.was_sent = True  # a cancelled one may have been
    reply: UpstreamReply | None = None
    try:
        reply = await upstream.send(request)
        attempt.record.status = reply.status
        if reply.status > HIGHEST_STATUS:
            raise UpstreamBroken("The provider answered with a status that does not exist.")
        if reply.status >= 400:
            return await _refused(attempt, reply, unix_time)
        if request.is_stream:
            return await _begun_stream(attempt, reply, request.cover)
        attempt.note_first_byte()
        body = await reply.read()
        attempt.finish(reply.usage, reply.output_bytes)
        return AttemptReply(attempt, reply, body=body)
    except UpstreamError as error:
        if reply is None:
            attempt.record.was_sent = not was_never_sent(error)
        return await _failed(attempt, reply, _failure(attempt, error))
    except GatewayError as error:  # not the provider's: whatever covers the cost has refused
        attempt.record.was_sent = reply is not None
        return await _failed(attempt, reply, Failure(FailureKind.UNCOVERED, error.code, error=error))
    except BaseException as error:
        attempt.abandon("internal_error" if isinstance(error, Exception) else "client_disconnected")
        if reply is not None:
            await reply.aclose()
        raise


def _failure(attempt: Attempt, error: UpstreamError) -> Failure:
    if isinstance(error, UpstreamTimeout) and attempt.deadline_has_passed:
        return deadline_failure()
    return failure_of_error(error)


async def _failed(attempt: Attempt, reply: UpstreamReply | None, failure: Failure) -> Failure:
    attempt.fail(failure, None if reply is None else reply.usage)
    if reply is not None:
        attempt.record.output_bytes = reply.output_bytes
        await reply.aclose()
    return failure


async def _refused(attempt: Attempt, reply: UpstreamReply, unix_time: Callable[[], float]) -> Failure:
    """Read the body of an error status, which says more; one that cannot be read is replaced by our own error."""
    body, unread = b"", None
    try:
        async with asyncio.timeout(ERROR_BODY_SECONDS):
            body = await reply.read()
    except UpstreamError as error:
        unread = error
    except TimeoutError:
        unread = UpstreamTimeout("The provider did not complete its answer in time.")
    passed_on = AttemptReply(attempt, reply, body=body) if unread is None else None
    failure = failure_of_status(reply.status, reply.headers, body, unix_time(), passed_on, unread)
    return await _failed(attempt, reply, failure)


async def _begun_stream(attempt: Attempt, reply: UpstreamReply, cover: Cover | None) -> AttemptReply | Failure:
    """Read up to the first event, which is not yielded yet."""
    blocks = reply.events()
    try:
        head = await _first_event(attempt, blocks)
    except BaseException:
        await blocks.aclose()
        raise
    if reply.stream_error is not None:
        # told by an event that the client may see, when nothing else helps
        await blocks.aclose()
        passed_on = AttemptReply(attempt, reply, head=head)
        return await _failed(attempt, reply, failure_of_stream_error(reply.stream_error, passed_on))
    attempt.note_first_byte()
    return AttemptReply(attempt, reply, head=head, blocks=blocks, cover=cover)


async def _first_event(attempt: Attempt, blocks: AsyncGenerator[bytes, None]) -> bytes:
    head = b""
    async for block in blocks:
        head = head + block if head else block
        if b"data:" in block or len(head) > MAX_COMMENT_BYTES or attempt.elapsed_seconds > COMMENT_SECONDS:
            return head
    raise UpstreamBroken("The provider ended the stream before it began.")
