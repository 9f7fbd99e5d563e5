"""The bytes between an encode server and a gateway."""

from __future__ import annotations

import struct

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from penstock_gateway.remote_encoder import wire
from penstock_gateway.remote_encoder.address import EncoderAddress
from penstock_gateway.remote_encoder.wire import Failure, FrameReader, Kind, Precision, WireError


@given(st.lists(st.binary(max_size=40), max_size=6), st.lists(st.integers(1, 9), max_size=60))
def test_frame_reader_cut_anywhere_gives_the_frames(contents: list[bytes], cuts: list[int]) -> None:
    """However a stream is cut on its way, the frames are the same and in order."""
    stream = b"".join(wire.frame(Kind.TEXT, content) for content in contents)
    reader, found, at = FrameReader(40), [], 0
    for size in [*cuts, len(stream)]:
        found += reader.feed(stream[at : at + size])
        at += size
    assert found == [(Kind.TEXT, content) for content in contents]


@pytest.mark.parametrize("length", [0, 42, 0xFFFFFFFF])
def test_frame_reader_bad_length_is_refused_before_anything_is_kept(length: int) -> None:
    """An empty frame and one over the limit are errors as soon as their length is there."""
    with pytest.raises(WireError):
        FrameReader(40).feed(struct.pack("<I", length))


def test_text_request_is_read_back() -> None:
    """Number, milliseconds and text arrive as they left, through the general frame too."""
    sent = wire.text_request(7, 250, "naïve".encode())
    ((kind, content),) = FrameReader(100).feed(sent)
    assert sent == wire.frame(Kind.TEXT, content)
    assert (kind, wire.read_text_request(content)) == (Kind.TEXT, (7, 250, "naïve"))


@pytest.mark.parametrize(("precision", "tolerance"), [(Precision.FLOAT32, 0.0), (Precision.FLOAT16, 3e-4)])
def test_vector_is_read_back_within_its_precision(precision: Precision, tolerance: float) -> None:
    """float32 loses nothing, float16 at most half a thousandth of a number below 1."""
    vector = np.linspace(-1, 1, 9, dtype=np.float32)
    ((_, content),) = FrameReader(100).feed(wire.vector_answer(3, vector, precision))
    number, found = wire.read_vector(content, 9, precision)
    assert number == 3
    assert found.dtype == np.float32
    np.testing.assert_allclose(found, vector, atol=tolerance)
    with pytest.raises(WireError):
        wire.read_vector(content, 8, precision)


@pytest.mark.parametrize("content", [b"", b"\x00" * 37, b"HTTP/1.1 400 Bad Request" + b" " * 13])
def test_read_challenge_of_another_server_is_refused(content: bytes) -> None:
    """What does not begin as an encode server does is none."""
    with pytest.raises(WireError, match="no encode server"):
        wire.read_challenge(content)


def test_read_challenge_of_another_version_is_refused() -> None:
    """A server that speaks another version is told from one that is none."""
    content = wire.challenge(bytes(32))[5:]
    with pytest.raises(WireError, match="version 2"):
        wire.read_challenge(content[:3] + struct.pack("<H", 2) + content[5:])


@pytest.mark.parametrize(
    "content",
    [b"", bytes(67), bytes(68), struct.pack("<HB", 1, 9) + bytes(65), bytes(67) + b"x" * 201, bytes(67) + b"\xff"],
)
def test_read_hello_of_another_form_is_refused(content: bytes) -> None:
    """Too short, too long, an unknown precision, an id that is no text."""
    if content == bytes(68):
        assert wire.read_hello(content).encoder_id == "\x00"
        return
    with pytest.raises(WireError):
        wire.read_hello(content)


def test_read_failure_of_another_form_is_refused() -> None:
    """A reason that this version does not know is no answer."""
    assert wire.read_failure(wire.failure(5, Failure.LATE)[5:]) == (5, Failure.LATE)
    for content in (b"", struct.pack("<IB", 5, 99)):
        with pytest.raises(WireError):
            wire.read_failure(content)


def test_proof_depends_on_everything_it_vouches_for() -> None:
    """Another secret, speaker, nonce or encoder gives another proof; without a secret it is zeros."""
    given = (b"a secret of size", b"client", b"s" * 32, b"c" * 32, "e@1")
    proofs = {wire.proof_of(*given)}
    for place, other in enumerate((b"another secret!!", b"server", b"t" * 32, b"d" * 32, "e@2")):
        proofs.add(wire.proof_of(*given[:place], other, *given[place + 1 :]))  # type: ignore[arg-type]
    assert len(proofs) == 6
    assert wire.proof_of(b"", *given[1:]) == bytes(32)


@pytest.mark.parametrize(
    ("text", "is_local"),
    [
        ("unix:/run/penstock/encoder.sock", True),
        ("tcp://127.0.0.1:7070", True),
        ("tcp://[::1]:7070", True),
        ("tcp://localhost:7070", True),
        ("tls://encoder.example:7070", False),
        ("tcp://10.0.0.7:7070", False),
    ],
)
def test_address_is_read_and_written(text: str, is_local: bool) -> None:
    """An address is written as it is read, and says whether other machines reach it."""
    address = EncoderAddress.parse(text)
    assert str(address) == text
    assert address.is_local is is_local


@pytest.mark.parametrize(
    "text",
    [
        "",
        "unix:relative",
        "unix:/" + "x" * 107,
        "tcp://host",
        "tcp://host:99999",
        "http://host:1",
        "tcp://:1",
        "tcp://h:1/p",
    ],
)
def test_address_of_another_form_is_refused(text: str) -> None:
    """Anything else is an error, not a guess."""
    with pytest.raises(ValueError, match=r"path|should be|port"):
        EncoderAddress.parse(text)
