"""What was read out of a prompt as bytes, and back: a tenth of the memory, and none of it the garbage collector's.

Owns the packed form, which never leaves the process. Pure. Read `pack`.
"""

from __future__ import annotations

from types import MappingProxyType
from typing import Any

import msgspec

from penstock_cache.guards.antonyms import NOTHING_SAID
from penstock_cache.guards.dates import NO_DATES
from penstock_cache.guards.entities import NO_ENTITIES
from penstock_cache.guards.formats import NO_FORMATS
from penstock_cache.guards.identifiers import NO_IDENTIFIERS
from penstock_cache.guards.negation import NO_NEGATION
from penstock_cache.guards.numbers import NO_NUMBERS
from penstock_cache.guards.order import NO_ORDER
from penstock_cache.guards.signature import PromptSignature
from penstock_cache.guards.units import NO_UNITS

# Guards ask whether a reading *is* one of these: what only equals it was read in a text that may have said something.
_NOTHING = MappingProxyType(
    {
        "numbers": NO_NUMBERS,
        "units": NO_UNITS,
        "dates": NO_DATES,
        "negation": NO_NEGATION,
        "antonyms": NOTHING_SAID,
        "entities": NO_ENTITIES,
        "identifiers": NO_IDENTIFIERS,
        "order": NO_ORDER,
        "formats": NO_FORMATS,
    }
)
_FIELDS = msgspec.structs.fields(PromptSignature)
_NOTHING_BY_PLACE: list[Any] = [_NOTHING.get(each.name) for each in _FIELDS]
_PACKED: Any = tuple[tuple(each.type | None if each.name in _NOTHING else each.type for each in _FIELDS)]  # type: ignore[misc]
_encoder = msgspec.msgpack.Encoder()
_decoder = msgspec.msgpack.Decoder(_PACKED)


def pack(signature: PromptSignature) -> bytes:
    """Return a signature as bytes.

    Raises
    ------
    UnicodeEncodeError
        It holds half of a surrogate pair.
    """
    values = msgspec.structs.astuple(signature)
    return _encoder.encode(
        [None if value is nothing else value for value, nothing in zip(values, _NOTHING_BY_PLACE, strict=True)]
    )


def unpack(packed: bytes) -> PromptSignature:
    """Return the signature that was packed: no guard can tell it from the first."""
    values = _decoder.decode(packed)
    return PromptSignature(
        *[nothing if value is None else value for value, nothing in zip(values, _NOTHING_BY_PLACE, strict=True)]
    )
