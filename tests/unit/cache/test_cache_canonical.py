"""The canonical form of JSON values, pinned byte by byte."""

from __future__ import annotations

import pytest

from penstock_cache.canonical import MAX_DEPTH, canonical_json, decode_plain, digest_of, encode_canonical
from penstock_cache.errors import CacheError

# A change of any of these digests means that stored keys are lost: raise entries.CACHE_SCHEMA.
GOLDEN = [
    (
        b'{"b":[true,false,null,1.50,-0.0,1e3,0.1],"a":"\\u00e9\\u0041/\\n"}',
        '{"a":"éA/\\n","b":[true,false,null,15e-1,0,1000,1e-1]}',
        "7c257de8b78a8e0ede226ff97a7d4e78",
    ),
    (b" [ ] ", "[]", "8ba067bf9e0799b98700bbaa80772bad"),
    (
        '{"é":1,"z":{"y":2,"x":3}}'.encode(),
        '{"z":{"x":3,"y":2},"é":1}',
        "73881cf2d27b9a5619883a9a83f1983b",
    ),
]


@pytest.mark.parametrize(("raw", "canonical", "digest"), GOLDEN)
def test_canonical_form_of_golden_values_is_as_it_always_was(raw: bytes, canonical: str, digest: str) -> None:
    """Bytes and digests of known values never change under one schema."""
    assert canonical_json(raw) == canonical.encode()
    assert digest_of(b"test", (canonical_json(raw),)).hex() == digest


@pytest.mark.parametrize(
    ("spellings", "canonical"),
    [
        (("1", "1.0", "1e0", "1E+0", "10e-1", "0.1e1", "1.000"), b"1"),
        (("0", "-0", "0.0", "-0.0", "0e5", "0.000e-9"), b"0"),
        (("-2.50", "-25e-1", "-0.25E1"), b"-25e-1"),
        (("1000", "1e3", "1.0E3"), b"1000"),
        (("0.10", "1e-1", "0.1e0"), b"1e-1"),
        (("1e400", "10e399"), b"1" + b"0" * 400),
        (("1e2000", "10e1999"), b"1e2000"),
        (("1" + "0" * 60, "1e60"), b"1" + b"0" * 60),
        (("18446744073709551617.0", "18446744073709551617"), b"18446744073709551617"),
    ],
)
def test_number_in_any_spelling_has_one_form(spellings: tuple[str, ...], canonical: bytes) -> None:
    """Numbers are told apart by value, not by spelling."""
    assert {canonical_json(spelling.encode()) for spelling in spellings} == {canonical}


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ("9007199254740993.0", "9007199254740992.0"),
        ("0.1", "0.1000000000000000055511151231257827"),
        ("1e-400", "0"),
        ("1", "true"),
        ("0", "false"),
        ("1", '"1"'),
        ("null", '"null"'),
        ("[]", "{}"),
        ('["a","b"]', '["ab"]'),
        ('{"a":1}', '{"a":1,"b":null}'),
        ('"\u00e9"', '"e\u0301"'),
        ('"a"', '"A"'),
        ('"a "', '"a"'),
    ],
)
def test_values_that_differ_in_anything_have_different_forms(one: str, other: str) -> None:
    """Nothing is rounded, trimmed, folded or normalised as text."""
    assert canonical_json(one.encode()) != canonical_json(other.encode())


def test_object_with_a_repeated_name_counts_its_last_value() -> None:
    """A repeated name means its last value, as the gateway itself reads it."""
    assert canonical_json(b'{"a":1,"a":2}') == canonical_json(b'{"a":2}')


@pytest.mark.parametrize("levels", [MAX_DEPTH + 1, 500, 100_000])
@pytest.mark.parametrize("brackets", [(b"[", b"]"), (b'{"a":', b"}")])
def test_value_nested_too_deeply_is_refused_with_its_code(levels: int, brackets: tuple[bytes, bytes]) -> None:
    """Depth has a bound of its own that no interpreter setting moves."""
    opening, closing = brackets
    with pytest.raises(CacheError) as caught:
        canonical_json(opening * levels + b"1" + closing * levels)
    assert caught.value.code == "cache_request_too_deep"


def test_value_at_the_greatest_depth_is_read() -> None:
    """The bound itself is allowed, beside any number of brackets that are not nested."""
    deep = b"[" * MAX_DEPTH + b"]" * MAX_DEPTH
    assert canonical_json(deep) == deep
    assert canonical_json(b"[" + b"[]," * 1000 + b"[]]").count(b"[]") == 1001


@pytest.mark.parametrize(
    "raw",
    [b"", b"{", b"[1,]", b"nul", b'"\xff"', b'"\\ud800"', b"NaN", b"Infinity", b"1" * 9000, b"1." + b"1" * 9000, b"01"],
)
def test_bytes_that_are_no_json_are_refused_with_a_code(raw: bytes) -> None:
    """Malformed bytes, lone surrogates and numbers without end are one kind of error."""
    with pytest.raises(CacheError) as caught:
        decode_plain(raw)
    assert caught.value.code == "cache_request_unreadable"


def test_form_of_a_form_is_itself() -> None:
    """Canonical bytes are JSON, and writing them again changes nothing."""
    once = canonical_json(b'{"z":[1.25e-7,{"b":1e30,"a":"\\u2028"}],"a":-3.0}')
    assert canonical_json(once) == once
    assert encode_canonical(decode_plain(once)) == once


def test_digest_of_parts_depends_on_where_parts_end() -> None:
    """Moving a byte from one part to the next, or an empty part more, is another digest."""
    digests = {digest_of(b"p", parts) for parts in [(b"ab", b"c"), (b"a", b"bc"), (b"abc",), (b"abc", b"")]}
    assert len(digests) == 4
    assert digest_of(b"p", (b"abc",)) != digest_of(b"q", (b"abc",))
