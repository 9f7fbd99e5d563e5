"""Rules of identifiers."""

from __future__ import annotations

import re

from penstock_gateway.identifiers import DecisionIds, identifier_source


def test_identifier_source_gives_prefixed_unique_ids() -> None:
    """Ids carry their prefix, have a fixed length, and do not repeat; two sources do not follow each other."""
    first, second = identifier_source("dec"), identifier_source("dec")
    ids = [first() for _ in range(1000)] + [second() for _ in range(1000)]
    assert len(set(ids)) == 2000
    assert all(re.fullmatch(r"dec_[0-9a-f]{24}", value) for value in ids)


def test_decision_id_under_a_key_is_known_by_whoever_has_the_key() -> None:
    """It says whose it is and nothing else: another tenant, another key and another id are told apart."""
    here, there, apart = DecisionIds(), DecisionIds(), DecisionIds()
    for ids, key in ((here, b"one"), (there, b"one"), (apart, b"two")):
        ids.use_key(key)
    made = here.new("ann")
    assert re.fullmatch(r"dec_[0-9a-f]{40}", made)
    assert here.is_of("ann", made)
    assert there.is_of("ann", made)
    assert not there.is_of("bob", made)
    assert not apart.is_of("ann", made)
    assert not there.is_of("ann", there.new("ann")[:28] + made[28:])
    assert not there.is_of("ann", made + "\n")


def test_decision_id_without_key_or_tenant_is_nobodys() -> None:
    """Where nothing says whose decisions are, only the process that took them knows."""
    ids = DecisionIds()
    plain = ids.new("ann")
    ids.use_key(b"one")
    assert not any(ids.is_of("ann", made) for made in (plain, ids.new(), ids.new(None)))
