"""The x-penstock-cache header: what it may ask for, and how it is refused."""

from __future__ import annotations

import itertools

import pytest

from penstock_cache.directives import CacheDirective, parse_directive
from penstock_cache.errors import DirectiveError


@pytest.mark.parametrize(
    ("header", "expected"),
    [
        (None, CacheDirective()),
        ("", CacheDirective()),
        (" , ,", CacheDirective()),
        ("no-cache", CacheDirective(may_look_up=False)),
        ("no-store", CacheDirective(may_store=False)),
        ("bypass", CacheDirective(may_look_up=False, may_store=False)),
        ("No-Cache , NO-STORE", CacheDirective(may_look_up=False, may_store=False)),
        ("exact", CacheDirective(is_exact_only=True)),
        ("max-age=60", CacheDirective(max_age_seconds=60)),
        ("max-age = 60", CacheDirective(max_age_seconds=60)),
        ("ttl=3600", CacheDirective(ttl_seconds=3600)),
        ("max-age=0", CacheDirective(may_look_up=False, max_age_seconds=0)),
        ("ttl=0", CacheDirective(may_store=False, ttl_seconds=0)),
        ("ttl=60, ttl=10, ttl=30", CacheDirective(ttl_seconds=10)),
        ("exact,max-age=5,ttl=7", CacheDirective(is_exact_only=True, max_age_seconds=5, ttl_seconds=7)),
    ],
)
def test_header_of_known_directives_is_read_as_written(header: str | None, expected: CacheDirective) -> None:
    """Case, blanks and empty items do not matter; of two limits the shorter one holds."""
    assert parse_directive(header) == expected


@pytest.mark.parametrize(
    ("header", "hint"),
    [
        ("no-cash", "Did you mean 'no-cache'?"),
        ("nostore", "Did you mean 'no-store'?"),
        ("max_age=3", "Did you mean 'max-age'?"),
        ("maxage=60", "Did you mean 'max-age'?"),
        ("tll=60", "Did you mean 'ttl'?"),
        ("no-cache;exact", "Did you mean 'no-cache'?"),
        ("similarity=0.5", "Known: no-cache, no-store, bypass, exact, max-age, ttl."),
        ("only-if-cached", "Known:"),
        ("*", "Known:"),
    ],
)
def test_header_with_an_unknown_directive_is_refused_naming_the_nearest(header: str, hint: str) -> None:
    """Who misspells no-store must learn that it was not heard."""
    with pytest.raises(DirectiveError) as caught:
        parse_directive(f"exact, {header}")
    assert hint in caught.value.message
    assert caught.value.code == "invalid_cache_directive"


@pytest.mark.parametrize(
    "header",
    ["ttl", "ttl=", "ttl=-1", "ttl=1.5", "ttl=1e3", "ttl=60s", "ttl=٣", "max-age=99999999999", 'ttl="60"', "ttl=1=2"],
)
def test_header_with_a_malformed_limit_is_refused_with_an_example(header: str) -> None:
    """A limit is a plain number of whole seconds."""
    with pytest.raises(DirectiveError, match=r"takes whole seconds, for example '(ttl|max-age)=60'"):
        parse_directive(header)


@pytest.mark.parametrize("header", ["no-store=1", "bypass=true", "exact="])
def test_header_with_a_value_where_none_belongs_is_refused(header: str) -> None:
    """A value behind a flag may have been meant to switch it off, so it is not guessed at."""
    with pytest.raises(DirectiveError, match="takes no value"):
        parse_directive(header)


def test_header_of_any_length_shows_little_of_itself() -> None:
    """A long header is refused by its length, and a long name is cut in the message."""
    with pytest.raises(DirectiveError, match="longer than 256 characters"):
        parse_directive("no-cache," * 1000)
    with pytest.raises(DirectiveError) as caught:
        parse_directive("x" * 200)
    assert len(caught.value.message) < 160


@pytest.mark.parametrize(("wish", "policy", "kept"), [("ttl=60", 3600, 60), ("ttl=7200", 3600, 3600), ("", 3600, 3600)])
def test_ttl_beyond_the_policy_is_clamped_to_it(wish: str, policy: float, kept: float) -> None:
    """A caller shortens the life of an answer and never prolongs it."""
    assert parse_directive(wish).clamped_ttl_seconds(policy) == kept


def test_max_age_of_a_request_accepts_only_younger_answers() -> None:
    """An answer as old as the limit is still accepted, an older one is not; without a limit any age is."""
    assert parse_directive("max-age=60").accepts_age(60)
    assert not parse_directive("max-age=60").accepts_age(60.1)
    assert parse_directive(None).accepts_age(1e9)


def test_directives_joined_in_any_order_never_allow_more_than_either() -> None:
    """Narrowing is the same in both orders, and no field of the result is looser than that of a part."""
    headers = ["", "no-cache", "no-store", "bypass", "exact", "max-age=5", "ttl=5", "max-age=0", "ttl=90,exact"]
    for one, other in itertools.product(map(parse_directive, headers), repeat=2):
        joined = one.narrowed_by(other)
        assert joined == other.narrowed_by(one)
        for part in (one, other):
            assert joined.narrowed_by(part) == joined
            assert joined.may_look_up <= part.may_look_up
            assert joined.may_store <= part.may_store
            assert joined.is_exact_only >= part.is_exact_only
            assert joined.clamped_ttl_seconds(100) <= part.clamped_ttl_seconds(100)
            assert part.accepts_age(5) or not joined.accepts_age(5)
