"""Compressed bodies: what is read, what is refused, and how little a bomb can do."""

from __future__ import annotations

import gzip
import tracemalloc
import zlib
from typing import Any

import pytest

from penstock_gateway import content_coding
from penstock_gateway.content_coding import (
    INLINE_BYTES,
    MAX_MEMBERS,
    accepts_gzip,
    gzip_body,
    inflate,
    inflate_body,
)
from penstock_gateway.errors import InvalidRequest, RequestTooLarge

BODY = b'{"model": "small", "messages": []}' * 50
LIMIT = 1_000_000


def raw_deflate(body: bytes) -> bytes:
    """Compress without any frame, as some clients understand "deflate"."""
    packer = zlib.compressobj(wbits=-15)
    return packer.compress(body) + packer.flush()


@pytest.mark.parametrize(
    ("packed", "coding"),
    [
        (gzip.compress(BODY, mtime=0), b"gzip"),
        (gzip.compress(BODY, mtime=0), b"x-gzip"),
        (gzip.compress(BODY[:100], mtime=0) + gzip.compress(BODY[100:], mtime=0), b"gzip"),
        (gzip.compress(BODY, mtime=0) + bytes(512), b"gzip"),
        (gzip.compress(b"", mtime=0) + gzip.compress(BODY, mtime=0), b"gzip"),
        (zlib.compress(BODY), b"deflate"),
        (raw_deflate(BODY), b"deflate"),
    ],
)
def test_inflate_every_form_gives_the_body_back(packed: bytes, coding: bytes) -> None:
    """Also several gzip members, padding, and deflate with and without its frame."""
    assert inflate(packed, coding, max_bytes=len(BODY)) == BODY


@pytest.mark.parametrize(
    ("packed", "coding"),
    [
        (b"", b"gzip"),
        (BODY, b"gzip"),
        (gzip.compress(BODY, mtime=0)[:-1], b"gzip"),
        (gzip.compress(BODY, mtime=0)[:-9], b"gzip"),
        (gzip.compress(BODY, mtime=0)[:-8] + bytes(8), b"gzip"),
        (gzip.compress(BODY, mtime=0) + b"x", b"gzip"),
        (gzip.compress(BODY, mtime=0) + bytes(9) + b"x", b"gzip"),
        (b"", b"deflate"),
        (zlib.compress(BODY)[:-1], b"deflate"),
        (zlib.compress(BODY) + b"{}", b"deflate"),
        (b"{}", b"deflate"),
    ],
)
def test_inflate_of_what_is_broken_is_refused(packed: bytes, coding: bytes) -> None:
    """Truncated, corrupt, with a wrong checksum, or with something behind it: a clear 400."""
    with pytest.raises(InvalidRequest) as caught:
        inflate(packed, coding, max_bytes=LIMIT)
    assert (caught.value.status, caught.value.code) == (400, "invalid_content_encoding")


@pytest.mark.parametrize("members", [1, 2])
def test_inflate_stops_just_behind_the_limit(members: int) -> None:
    """The limit is exact, over all members together."""
    packed = gzip.compress(bytes(LIMIT // members), mtime=0) * members
    assert len(inflate(packed, b"gzip", max_bytes=LIMIT)) == LIMIT
    with pytest.raises(RequestTooLarge):
        inflate(packed, b"gzip", max_bytes=LIMIT - 1)


def test_inflate_of_a_bomb_takes_no_more_memory_than_the_limit() -> None:
    """200 MB packed into 200 kB cost the limit and a little, not 200 MB."""
    packer = zlib.compressobj(9, zlib.DEFLATED, 31)
    packed = b"".join(packer.compress(bytes(1_000_000)) for _ in range(200)) + packer.flush()
    assert len(packed) < 250_000
    tracemalloc.start()
    try:
        with pytest.raises(RequestTooLarge):
            inflate(packed, b"gzip", max_bytes=LIMIT)
        assert tracemalloc.get_traced_memory()[1] < 4 * LIMIT
    finally:
        tracemalloc.stop()


def test_inflate_of_very_many_members_is_refused() -> None:
    """A million empty members would cost seconds and hold nothing."""
    empty = gzip.compress(b"", mtime=0)
    assert inflate(empty * MAX_MEMBERS, b"gzip", max_bytes=LIMIT) == b""
    with pytest.raises(InvalidRequest):
        inflate(empty * (MAX_MEMBERS + 1), b"gzip", max_bytes=LIMIT)


class CountedBytes(bytes):
    """A body that adds up how much of it is copied by slices."""

    copied = 0

    def __getitem__(self, place: Any) -> Any:
        found = super().__getitem__(place)
        self.copied += len(found) if isinstance(found, bytes) else 1
        return found


def test_inflate_of_many_members_copies_no_rest_for_each() -> None:
    """The time is linear in the body's length: 4,096 members in 16 MB took 7 s when the rest was copied each time."""
    body = CountedBytes(gzip.compress(BODY, mtime=0) * 1000)
    assert inflate(body, b"gzip", max_bytes=len(BODY) * 1000) == BODY * 1000
    assert body.copied <= len(body)


@pytest.mark.parametrize("size", [10, INLINE_BYTES + 1, 3_000_000])
async def test_inflate_body_gives_the_body_back_on_either_side_of_the_thread(size: int) -> None:
    """What is small in transit and large inside is found out on the way."""
    packed = gzip.compress(bytes(size), mtime=0)
    assert await inflate_body(packed, b"gzip", max_bytes=size) == bytes(size)
    with pytest.raises(RequestTooLarge):
        await inflate_body(packed, b"gzip", max_bytes=size - 1)


async def test_inflate_body_leaves_the_loop_free_for_large_bodies(monkeypatch: pytest.MonkeyPatch) -> None:
    """Large ones are unpacked in another thread, small ones at once."""
    threads: list[int] = []

    async def in_thread(function, *arguments, **options):
        threads.append(len(arguments[0]))
        return function(*arguments, **options)

    monkeypatch.setattr(content_coding.asyncio, "to_thread", in_thread)
    small, large = gzip.compress(bytes(100), mtime=0), gzip.compress(bytes(INLINE_BYTES + 1), mtime=0)
    await inflate_body(small, b"gzip", max_bytes=LIMIT)
    assert threads == []
    await inflate_body(large, b"gzip", max_bytes=LIMIT)
    await gzip_body(bytes(INLINE_BYTES + 1))
    assert threads == [len(large), INLINE_BYTES + 1]


@pytest.mark.parametrize("size", [0, 2000, INLINE_BYTES + 1])
async def test_gzip_body_can_be_read_by_everyone(size: int) -> None:
    """One gzip file, whichever thread has made it."""
    assert gzip.decompress(await gzip_body(b"a" * size)) == b"a" * size


@pytest.mark.parametrize(
    ("header", "expected"),
    [
        (b"", False),
        (b"gzip", True),
        (b"GZIP", True),
        (b"x-gzip", True),
        (b"gzip, deflate, br, zstd", True),
        (b"br;q=1.0, gzip;q=0.8, *;q=0.1", True),
        (b"*", True),
        (b"*;q=0", False),
        (b"gzip;q=0", False),
        (b"gzip;q=0.000", False),
        (b"gzip; q=0.001", True),
        (b"*, gzip;q=0", False),
        (b"*;q=0, gzip", True),
        (b"identity", False),
        (b"identity;q=1, gzip;q=0.5", False),
        (b"identity;q=0.5, gzip", True),
        (b"gzip;q=nan", False),
        (b"gzip;q=2", False),
        (b"gzip;q=", False),
        (b"notgzip", False),
        (b",,;q=,gzip", True),
    ],
)
def test_accepts_gzip_follows_the_weights(header: bytes, expected: bool) -> None:
    """RFC 9110 section 12.5.3; what cannot be read as a weight is a no."""
    assert accepts_gzip(header) is expected
