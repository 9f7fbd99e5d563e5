"""Any bytes as a compressed body end as a body or as a refusal, and what was packed comes back."""

from __future__ import annotations

import contextlib
import gzip
import zlib

from hypothesis import given
from hypothesis import strategies as st

from penstock_gateway.content_coding import CODINGS, accepts_gzip, inflate
from penstock_gateway.errors import InvalidRequest, RequestTooLarge

LIMIT = 4096
REFUSALS = (InvalidRequest, RequestTooLarge)


@given(st.binary(max_size=300), st.sampled_from(sorted(CODINGS)))
def test_inflate_of_any_bytes_is_bounded_or_refused(packed: bytes, coding: bytes) -> None:
    """Nothing but the two refusals is ever raised."""
    with contextlib.suppress(*REFUSALS):
        assert len(inflate(packed, coding, max_bytes=LIMIT)) <= LIMIT


@given(st.binary(max_size=200), st.integers(0, 400), st.integers(0, 255))
def test_inflate_of_a_changed_byte_never_gives_another_body(body: bytes, place: int, value: int) -> None:
    """The checksum finds what the format does not; the fields of the header that mean nothing may change."""
    packed = bytearray(gzip.compress(body, mtime=0))
    packed[place % len(packed)] = value
    with contextlib.suppress(*REFUSALS):
        assert inflate(bytes(packed), b"gzip", max_bytes=LIMIT) == body


@given(st.lists(st.binary(max_size=200), min_size=1, max_size=5))
def test_inflate_of_any_members_joins_them(parts: list[bytes]) -> None:
    """However a body is cut into members, it is one body."""
    packed = b"".join(gzip.compress(part) for part in parts)
    assert inflate(packed, b"gzip", max_bytes=LIMIT) == b"".join(parts)
    assert inflate(zlib.compress(parts[0]), b"deflate", max_bytes=LIMIT) == parts[0]


@given(st.binary(max_size=100))
def test_accepts_gzip_reads_any_header(header: bytes) -> None:
    """A header is a client's; it gets an answer whatever it holds."""
    assert accepts_gzip(header) in (True, False)
