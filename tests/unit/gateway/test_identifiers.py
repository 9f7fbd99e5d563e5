"""Rules of identifiers."""

from __future__ import annotations

import re

from penstock_gateway.identifiers import identifier_source


def test_identifier_source_gives_prefixed_unique_ids() -> None:
    """Ids carry their prefix, have a fixed length, and do not repeat; two sources do not follow each other."""
    first, second = identifier_source("dec"), identifier_source("dec")
    ids = [first() for _ in range(1000)] + [second() for _ in range(1000)]
    assert len(set(ids)) == 2000
    assert all(re.fullmatch(r"dec_[0-9a-f]{24}", value) for value in ids)
