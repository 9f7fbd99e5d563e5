"""Streams that break the rules of server-sent events or end before their time.

Each function writes one answer and returns whether the connection can serve another request. Read them beside the
table in `faults`.
"""

from __future__ import annotations

import asyncio

from support.fault_exchange import (
    BEFORE_FAULT,
    DONE,
    INPUT_TOKENS,
    LAST_CHUNK,
    USAGE,
    WORDS,
    Exchange,
    completion,
    dump,
    event,
)

BIG_LINE_BYTES = 10_000_000
ENDLESS_LINE_BYTES = 20_000_000
DRIP_SECONDS = 0.02
_CRASHED = b"data: %b\n\n" % dump(
    {"error": {"message": "The engine crashed.", "type": "server_error", "code": "engine_crash"}}
)


async def stall_mid_stream(exchange: Exchange) -> bool:
    """Send three words, then nothing."""
    await exchange.stream_head()
    await exchange.words(BEFORE_FAULT)
    return await exchange.forever()


async def stall_after_finish(exchange: Exchange) -> bool:
    """Send the whole answer with its finish reason, then nothing: no usage, no ``[DONE]``."""
    await exchange.stream_head()
    await exchange.words()
    await exchange.chunk(event({}, finish_reason="stop"))
    return await exchange.forever()


async def reset_after_finish(exchange: Exchange) -> bool:
    """Send the whole answer with its finish reason, then reset the connection."""
    await exchange.stream_head()
    await exchange.words()
    await exchange.chunk(event({}, finish_reason="stop"))
    return await exchange.reset()


async def open_after_done(exchange: Exchange) -> bool:
    """Send everything up to ``[DONE]`` and keep the body open."""
    await exchange.stream_head()
    await exchange.words()
    for content in exchange.ending():
        await exchange.chunk(content)
    return await exchange.forever()


async def drip(exchange: Exchange) -> bool:
    """Send an endless body a few bytes at a time, each within the idle deadline."""
    if exchange.is_stream:
        await exchange.stream_head()
        await exchange.words(BEFORE_FAULT)
    else:
        exchange.charge()
        await exchange.head("Transfer-Encoding: chunked")
        await exchange.chunk(b'{"padding":"')
    while True:
        await exchange.chunk(b": \n" if exchange.is_stream else b"x")
        await asyncio.sleep(DRIP_SECONDS)


async def comments_forever(exchange: Exchange) -> bool:
    """Send comments that keep the connection alive, and no answer."""
    await exchange.stream_head()
    exchange.charge(output_tokens=0)
    while True:
        await exchange.chunk(b": PROCESSING\n\n")
        await asyncio.sleep(DRIP_SECONDS)


async def truncate(exchange: Exchange) -> bool:
    """End the stream in good order after three words."""
    return await exchange.stream(exchange.word_events(BEFORE_FAULT))


async def truncate_mid_event(exchange: Exchange) -> bool:
    """End the stream in good order in the middle of an event."""
    *whole, half = exchange.word_events(BEFORE_FAULT + 1)
    return await exchange.stream([*whole, half[: len(half) // 2]])


async def truncate_after_usage(exchange: Exchange) -> bool:
    """End the stream after three words that each carried the usage so far."""
    return await exchange.stream([_word_with_usage(exchange) for _ in range(BEFORE_FAULT)])


async def empty_stream(exchange: Exchange) -> bool:
    """End a stream that held nothing."""
    return await exchange.stream([])


async def bad_json(exchange: Exchange) -> bool:
    """Put an event that is not JSON between good ones."""
    first = exchange.word_events(BEFORE_FAULT)
    return await exchange.stream([*first, b"data: {oops\n\n", *exchange.word_events(), *exchange.ending()])


async def bad_utf8(exchange: Exchange) -> bool:
    """Put text that is not UTF-8 between good words."""
    first = exchange.word_events(BEFORE_FAULT)
    wrong = event({"content": "?"}).replace(b"?", b"\xff\xfe")
    return await exchange.stream([*first, wrong, *exchange.word_events(), *exchange.ending()])


async def too_deep(exchange: Exchange) -> bool:
    """Nest one event, or the body, a hundred thousand levels deep."""
    deep = b'{"choices":[],"x":' + b"[" * 100_000 + b"]" * 100_000 + b"}"
    if not exchange.is_stream:
        exchange.charge()
        return await exchange.reply(deep)
    first = exchange.word_events(BEFORE_FAULT)
    return await exchange.stream([*first, b"data: " + deep + b"\n\n", *exchange.word_events(), *exchange.ending()])


async def mixed_endings(exchange: Exchange) -> bool:
    """End lines by LF, CRLF and CR in turn."""
    endings = (b"\n", b"\r\n", b"\r")
    events = [*exchange.word_events(), *exchange.ending()]
    turned = [content.replace(b"\n", endings[number % 3]) for number, content in enumerate(events)]
    return await exchange.stream(turned)


async def comments_and_fields(exchange: Exchange) -> bool:
    """Begin with a byte order mark; mix in comments, unknown fields, ids and empty events."""
    words = [b": hello\nid: 7\nevent: message\nretry: 10\n" + content for content in exchange.word_events()]
    return await exchange.stream([b"\xef\xbb\xbf: begin\n\n", *words, b"\n\n", b"data\n\n", *exchange.ending()])


async def several_data_lines(exchange: Exchange) -> bool:
    """Spread each event's JSON over several data lines."""
    words = [content.replace(b',"choices"', b',\ndata: "choices"') for content in exchange.word_events()]
    return await exchange.stream([*words, *exchange.ending()])


async def odd_packets(exchange: Exchange) -> bool:
    """Send a whole stream seven bytes at a time."""
    whole = b"".join([*exchange.word_events(), *exchange.ending()])
    return await exchange.stream([whole[at : at + 7] for at in range(0, len(whole), 7)])


async def duplicate_done(exchange: Exchange) -> bool:
    """Send ``[DONE]`` three times."""
    return await exchange.stream([*exchange.word_events(), *exchange.ending(), DONE, DONE])


async def after_done(exchange: Exchange) -> bool:
    """Send another word and another usage after ``[DONE]``."""
    late = [event({"content": " Late."}), event(None, usage={**USAGE, "completion_tokens": 999})]
    return await exchange.stream([*exchange.word_events(), *exchange.ending(), *late])


async def no_done(exchange: Exchange) -> bool:
    """Leave ``[DONE]`` out after a finish reason."""
    return await exchange.stream([*exchange.word_events(), *exchange.ending()[:-1]])


async def no_blank_line(exchange: Exchange) -> bool:
    """Leave out the blank line after ``[DONE]``."""
    return await exchange.stream([*exchange.word_events(), *exchange.ending()[:-1], DONE.rstrip()])


async def error_event(exchange: Exchange) -> bool:
    """Send the provider's own error event after three words, then end."""
    await exchange.stream_head()
    await exchange.words(BEFORE_FAULT)
    await exchange.settle()
    await exchange.chunk(_CRASHED)
    await exchange.write(LAST_CHUNK)
    return True


async def early_error_event(exchange: Exchange) -> bool:
    """Send nothing but an error event."""
    return await exchange.stream([_CRASHED])


async def key_error_event(exchange: Exchange) -> bool:
    """Send an error event that repeats the credential."""
    failure = {"error": {"message": "Incorrect API key provided: sk-secret.", "code": "invalid_api_key"}}
    return await exchange.stream([*exchange.word_events(BEFORE_FAULT), b"data: " + dump(failure) + b"\n\n"])


async def big_line(exchange: Exchange) -> bool:
    """Put a line of 10 MB into a healthy answer."""
    filler = "x" * BIG_LINE_BYTES
    return await exchange.stream([event(None, padding=filler), *exchange.word_events(), *exchange.ending()])


async def endless_line(exchange: Exchange) -> bool:
    """Send one event of 20 MB, more than the largest that is read."""
    await exchange.stream_head()
    await exchange.words(BEFORE_FAULT)
    await exchange.chunk(b'data: {"choices":[],"padding":"')
    for _ in range(ENDLESS_LINE_BYTES // 1_000_000):
        await exchange.chunk(b"x" * 1_000_000)
    await exchange.chunk(b'"}\n\n')
    await exchange.write(LAST_CHUNK)
    return True


async def usage_in_every_chunk(exchange: Exchange) -> bool:
    """Report the usage so far with every word."""
    return await exchange.stream([*(_word_with_usage(exchange) for _ in WORDS), *exchange.ending()])


async def usage_after_done(exchange: Exchange) -> bool:
    """Report usage only after ``[DONE]``."""
    end = event({}, finish_reason="stop")
    return await exchange.stream([*exchange.word_events(), end, DONE, *exchange.usage_events(USAGE)])


async def usage_twice(exchange: Exchange) -> bool:
    """Report usage twice, first too low, then right; in a plain reply by a repeated field."""
    low = {"prompt_tokens": 1, "completion_tokens": 1, "total_tokens": 2}
    if exchange.is_stream:
        events = [*exchange.word_events(), *exchange.usage_events(low), *exchange.ending()]
        return await exchange.stream(events)
    exchange.charge()
    body = completion()
    return await exchange.reply(body[:-1].replace(b'"usage"', b'"usage":' + dump(low) + b',"usage"') + b"}")


def _word_with_usage(exchange: Exchange) -> bytes:
    word = WORDS[exchange.sent_words]
    exchange.sent_words += 1
    exchange.charge(output_tokens=exchange.sent_words)
    counts = {"prompt_tokens": INPUT_TOKENS, "completion_tokens": exchange.sent_words}
    return event({"content": word}, usage={**counts, "total_tokens": sum(counts.values())})
