"""Answers that are wrong as HTTP, as JSON or as a bill, or that come too late.

Each function writes one answer and returns whether the connection can serve another request. Read them beside the
table in `faults`.
"""

from __future__ import annotations

import asyncio
import gzip
import time
from collections.abc import Awaitable, Callable
from email.utils import formatdate
from typing import Any

from support.fault_exchange import (
    BEFORE_FAULT,
    INPUT_TOKENS,
    LAST_CHUNK,
    OUTPUT_TOKENS,
    USAGE,
    Exchange,
    completion,
    dump,
    error_body,
    event,
)

Answer = Callable[[Exchange], Awaitable[bool]]

RETRY_AFTER_SECONDS = 2
BIG_BODY_BYTES = 10_000_000
DRIP_SECONDS = 0.05
_HTML = b"<html><head><title>502</title></head><body>Bad gateway at 10.0.0.7</body></html>"
_HALF = 2


def with_usage(usage: Any, *, input_tokens: int = INPUT_TOKENS, output_tokens: int = OUTPUT_TOKENS) -> Answer:
    """Return an answer that is healthy but for the usage that it reports; what is charged is given beside it."""

    async def answer(exchange: Exchange) -> bool:
        is_reusable = await exchange.answer(usage)
        exchange.charge(input_tokens, output_tokens)
        return is_reusable

    return answer


def status(code: int, *lines: str) -> Answer:
    """Return an answer with an error status, an error object and further headers."""

    async def answer(exchange: Exchange) -> bool:
        return await exchange.reply(error_body(code), *lines, status=code)

    return answer


async def healthy(exchange: Exchange) -> bool:
    """Answer as a good provider does."""
    return await exchange.answer()


async def usage_missing(exchange: Exchange) -> bool:
    """Report no usage, and bill all the same."""
    if exchange.is_stream:
        end = [event({}, finish_reason="stop"), b"data: [DONE]\n\n"]
        return await exchange.stream([*exchange.word_events(), *end])
    exchange.charge()
    return await exchange.reply(completion().replace(b',"usage":' + dump(USAGE), b""))


async def retry_after_date(exchange: Exchange) -> bool:
    """Answer 429 and name the time to come back."""
    later = formatdate(time.time() + RETRY_AFTER_SECONDS, usegmt=True)
    return await status(429, f"Retry-After: {later}")(exchange)


async def html_page(exchange: Exchange) -> bool:
    """Answer with an error page of some proxy."""
    return await exchange.reply(_HTML, status=502, kind="text/html")


async def html_success(exchange: Exchange) -> bool:
    """Answer 200 with a page."""
    return await exchange.reply(_HTML, kind="text/html")


async def wrong_type(exchange: Exchange) -> bool:
    """Answer as the other kind of request would be: JSON as text, a stream request with one document."""
    exchange.charge()
    return await exchange.reply(completion(), kind="application/json" if exchange.is_stream else "text/html")


async def no_type(exchange: Exchange) -> bool:
    """Answer well, without a content type."""
    if not exchange.is_stream:
        exchange.charge()
        return await exchange.reply(completion(), kind="")
    await exchange.head("Transfer-Encoding: chunked", kind="")
    for content in [*exchange.word_events(), *exchange.ending()]:
        await exchange.chunk(content)
    await exchange.write(LAST_CHUNK)
    return True


async def error_success(exchange: Exchange) -> bool:
    """Answer 200 with an error object."""
    return await exchange.reply(error_body(503), kind="application/json")


async def redirect(exchange: Exchange) -> bool:
    """Point somewhere else."""
    return await exchange.reply(b"", "Location: http://127.0.0.1:9/v1/chat/completions", status=307)


async def informational(exchange: Exchange) -> bool:
    """Send 100 and 103 before a healthy answer."""
    await exchange.write(b"HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 103 Early Hints\r\nLink: </x>\r\n\r\n")
    return await exchange.answer()


async def informational_forever(exchange: Exchange) -> bool:
    """Send 103 again and again, and no answer."""
    while True:
        await exchange.write(b"HTTP/1.1 103 Early Hints\r\nLink: </x>\r\n\r\n")
        await asyncio.sleep(DRIP_SECONDS)


async def switching_protocols(exchange: Exchange) -> bool:
    """Answer 101 although no other protocol was asked for."""
    await exchange.write(b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: h2c\r\nConnection: upgrade\r\n\r\n")
    return await exchange.forever()


async def no_content(exchange: Exchange) -> bool:
    """Answer 204."""
    await exchange.write(b"HTTP/1.1 204 No Content\r\n\r\n")
    return True


async def never_answer(exchange: Exchange) -> bool:
    """Take the request and say nothing; the provider may well charge the prompt."""
    exchange.charge(output_tokens=0)
    return await exchange.forever()


async def slow_head(exchange: Exchange) -> bool:
    """Send the head a byte at a time, each within the deadline of a read, for ever."""
    exchange.charge(output_tokens=0)
    await exchange.write(b"HTTP/1.1 200 OK\r\nX-Slow: ")
    while True:
        await exchange.write(b"x")
        await asyncio.sleep(DRIP_SECONDS)


async def stall_after_head(exchange: Exchange) -> bool:
    """Send the head, then nothing."""
    exchange.charge(output_tokens=0)
    if exchange.is_stream:
        await exchange.stream_head()
    else:
        await exchange.head("Content-Length: 500")
    return await exchange.forever()


async def stall_mid_body(exchange: Exchange) -> bool:
    """Send half a body, then nothing."""
    exchange.charge()
    body = completion()
    await exchange.head(f"Content-Length: {len(body)}")
    await exchange.write(body[: len(body) // _HALF])
    return await exchange.forever()


async def reset_before_status(exchange: Exchange) -> bool:
    """Reset the connection in place of an answer."""
    return await exchange.reset()


async def close_before_status(exchange: Exchange) -> bool:
    """Close the connection in good order in place of an answer."""
    return False


async def not_http(exchange: Exchange) -> bool:
    """Answer with bytes that are not HTTP."""
    await exchange.write(b"\x16\x03\x01 this is not HTTP\r\n\r\n")
    return False


async def reset_mid_body(exchange: Exchange) -> bool:
    """Reset the connection inside the answer."""
    await _half(exchange)
    return await exchange.reset()


async def length_too_long(exchange: Exchange) -> bool:
    """Announce a hundred bytes more than there are, then close."""
    content = _whole(exchange)
    await exchange.head(f"Content-Length: {len(content) + 100}")
    await exchange.write(content)
    await exchange.settle()
    return False


async def length_too_short(exchange: Exchange) -> bool:
    """Announce a hundred bytes less than are sent."""
    content = _whole(exchange)
    await exchange.head(f"Content-Length: {len(content) - 100}")
    await exchange.write(content[:-100])
    await exchange.settle()
    await exchange.write(content[-100:])
    return True


async def two_lengths(exchange: Exchange) -> bool:
    """Announce two different lengths."""
    content = _whole(exchange)
    await exchange.head(f"Content-Length: {len(content)}", "Content-Length: 7")
    await exchange.write(content)
    return False


async def negative_length(exchange: Exchange) -> bool:
    """Announce fewer bytes than none."""
    await exchange.head("Content-Length: -5")
    await exchange.write(_whole(exchange))
    return False


async def length_and_chunks(exchange: Exchange) -> bool:
    """Announce a length and send chunks: two readers could take different answers out of it."""
    content = _whole(exchange)
    await exchange.head("Content-Length: 7", "Transfer-Encoding: chunked")
    await exchange.chunk(content)
    await exchange.write(LAST_CHUNK)
    return False


async def second_answer(exchange: Exchange) -> bool:
    """Send another whole answer behind the first, for the next request on this connection to find."""
    body = completion(text="An answer to nobody.")
    head = b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: %d\r\n\r\n" % len(body)
    content = _whole(exchange)
    await exchange.head(f"Content-Length: {len(content)}")
    await exchange.write(content + head + body)  # at once, so that it is there before the next request
    return True


async def late_second_answer(exchange: Exchange) -> bool:
    """Send another whole answer on the idle connection."""
    await exchange.answer()
    await exchange.settle()
    body = completion(text="An answer to nobody.")
    return await exchange.reply(body, kind="application/json")


async def gzip_unasked(exchange: Exchange) -> bool:
    """Compress although identity was asked for."""
    return await _encoded(exchange, "gzip", gzip.compress(_whole(exchange)))


async def gzip_claimed(exchange: Exchange) -> bool:
    """Say gzip and send the plain bytes."""
    return await _encoded(exchange, "gzip", _whole(exchange))


async def gzip_cut(exchange: Exchange) -> bool:
    """End the compressed body in its middle."""
    content = gzip.compress(_whole(exchange))
    return await _encoded(exchange, "gzip", content[: len(content) // _HALF])


async def gzip_bomb(exchange: Exchange) -> bool:
    """Compress a hundred million zeros into a hundred thousand bytes."""
    return await _encoded(exchange, "gzip", gzip.compress(b"0" * 100_000_000, 1))


async def unknown_encoding(exchange: Exchange) -> bool:
    """Name an encoding that nobody has asked for and few can read."""
    return await _encoded(exchange, "br", b"\x1b\x0e\x00\xf8\xff" * 20)


async def empty_body(exchange: Exchange) -> bool:
    """Answer 200 with nothing."""
    return await exchange.reply(b"")


async def bad_body(exchange: Exchange) -> bool:
    """Answer 200 with JSON that is cut in the middle."""
    exchange.charge()
    body = completion()
    return await exchange.reply(body[: len(body) // _HALF])


async def body_not_utf8(exchange: Exchange) -> bool:
    """Answer with text that is not UTF-8."""
    exchange.charge()
    return await exchange.reply(completion(text="?").replace(b"?", b"\xff\xfe"))


async def body_array(exchange: Exchange) -> bool:
    """Answer 200 with a JSON array."""
    exchange.charge()
    return await exchange.reply(b"[" + completion() + b"]")


async def big_body(exchange: Exchange) -> bool:
    """Answer with one line of 10 MB."""
    exchange.charge()
    return await exchange.reply(completion(padding="x" * BIG_BODY_BYTES))


async def endless_body(exchange: Exchange) -> bool:
    """Send a body that never ends, as fast as it is taken."""
    exchange.charge()
    await exchange.head("Transfer-Encoding: chunked")
    await exchange.chunk(b'{"padding":"')
    while True:
        await exchange.chunk(b"x" * 1_000_000)


async def old_http(exchange: Exchange) -> bool:
    """Answer as HTTP/1.0 does: no length, the end of the connection is the end of the answer."""
    content = _whole(exchange)
    await exchange.head("Connection: close", version="HTTP/1.0")
    await exchange.write(content)
    return False


async def old_http_cut(exchange: Exchange) -> bool:
    """Answer as HTTP/1.0 does, and break off: nothing in the protocol tells this from the end."""
    await exchange.head("Connection: close", version="HTTP/1.0")
    if exchange.is_stream:
        await exchange.write(b"".join(exchange.word_events(BEFORE_FAULT)))
    else:
        content = _whole(exchange)
        await exchange.write(content[: len(content) // _HALF])
    return False


async def bad_chunk(exchange: Exchange) -> bool:
    """Send a chunk whose size is not a number."""
    await _half(exchange, "Transfer-Encoding: chunked")
    await exchange.settle()
    await exchange.write(b"zz\r\nwhat\r\n")
    return await exchange.forever()


async def missing_last_chunk(exchange: Exchange) -> bool:
    """Close without the chunk that ends the body."""
    await _half(exchange, "Transfer-Encoding: chunked")
    await exchange.settle()
    return False


async def header_flood(exchange: Exchange) -> bool:
    """Send a header of a million bytes."""
    await exchange.write(b"HTTP/1.1 200 OK\r\nX-Long: ")
    for _ in range(10):
        await exchange.write(b"x" * 100_000)
    await exchange.write(b"\r\n\r\n")
    return False


async def many_headers(exchange: Exchange) -> bool:
    """Send twenty thousand headers."""
    await exchange.write(b"HTTP/1.1 200 OK\r\n" + b"".join(b"X-%d: 1\r\n" % number for number in range(20_000)))
    await exchange.write(b"\r\n")
    return False


async def header_injection(exchange: Exchange) -> bool:
    """Put bytes that are no text into a header that is passed on."""
    return await exchange.reply(error_body(429), "Retry-After: 7\x00\xff", status=429)


def _whole(exchange: Exchange) -> bytes:
    """Return the body of a healthy answer in one piece, and charge it."""
    exchange.charge()
    return b"".join([*exchange.word_events(), *exchange.ending()]) if exchange.is_stream else completion()


async def _half(exchange: Exchange, line: str | None = None) -> None:
    """Send the head and the first part of a healthy answer, in chunks when the line says so or it is a stream."""
    if exchange.is_stream:
        await exchange.stream_head()
        await exchange.words(BEFORE_FAULT)
        return
    exchange.charge()
    body = completion()
    part = body[: len(body) // _HALF]
    await exchange.head(line or f"Content-Length: {len(body)}")
    await (exchange.write(part) if line is None else exchange.chunk(part))


async def _encoded(exchange: Exchange, encoding: str, content: bytes) -> bool:
    await exchange.head(f"Content-Encoding: {encoding}", f"Content-Length: {len(content)}")
    await exchange.write(content)
    return True
