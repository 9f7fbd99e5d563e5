"""How often the contexts of requests repeat, and what keeps them from it.

Owns a bounded count of contexts by tenant, and the search for the field that makes each context a new one (a date in a
system prompt, say). Keeps digests and positions, never text. Pure. Read `ContextCounter`, then `varying_fields`.
"""

from __future__ import annotations

import hashlib
import re
from collections import Counter, OrderedDict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from enum import Enum
from itertools import pairwise
from typing import Final

from penstock_cache.canonical import PlainValue, decode_plain, encode_canonical
from penstock_cache.keys import canonical_fields, canonical_messages

MAX_CONTEXTS: Final = 200_000
"""Contexts that a counter remembers; each takes about 200 bytes."""


class ContextCounter:
    """Counts how often each context of each tenant was seen, in bounded memory.

    Parameters
    ----------
    max_contexts : int, >= 1
        Contexts remembered over all tenants.

    Notes
    -----
    Exact counts with the least recently seen context forgotten first, not a sketch: forgetting costs hits, while a
    sketch's overestimate would give a context that was seen once an entry. When the counter is full, a tenant with more
    than its even share gives up its own oldest context, so that no tenant's stream of unique contexts pushes out
    another's. Each step takes constant time on average. Counts are those of this process.
    """

    def __init__(self, max_contexts: int = MAX_CONTEXTS) -> None:
        self._max_contexts = max_contexts
        self._tenants: OrderedDict[str, OrderedDict[bytes, int]] = OrderedDict()
        self._size = 0

    def __len__(self) -> int:
        """Return the number of contexts remembered."""
        return self._size

    def see(self, tenant: str, context: bytes) -> int:
        """Count a request.

        Parameters
        ----------
        tenant : str
        context : bytes
            `CacheKey.context`.

        Returns
        -------
        int
            How often the context was seen, this time included; at least 1.
        """
        contexts = self._tenants.setdefault(tenant, OrderedDict())
        seen = contexts.pop(context, 0) + 1
        contexts[context] = seen
        if seen == 1:
            self._size += 1
            if self._size > self._max_contexts:
                self._forget_one(tenant)
        return seen

    def count(self, tenant: str, context: bytes) -> int:
        """Return how often a context was seen, without counting; 0 when never, or when forgotten."""
        contexts = self._tenants.get(tenant)
        return contexts.get(context, 0) if contexts else 0

    def repeat_share(self, tenant: str) -> float | None:
        """Return the share of the tenant's remembered requests whose context repeats, in [0, 1]; None without any."""
        counts = list(self._tenants.get(tenant, OrderedDict[bytes, int]()).values())
        return sum(seen for seen in counts if seen > 1) / sum(counts) if counts else None

    def forget(self, tenant: str) -> None:
        """Forget a tenant's contexts, say because its entries were deleted."""
        self._size -= len(self._tenants.pop(tenant, ()))

    def _forget_one(self, inserting: str) -> None:
        fair_share = self._max_contexts / len(self._tenants)
        loser = inserting
        if len(self._tenants[inserting]) <= fair_share:
            # Somebody holds more than the even share, or the sum would fit; found again at the front next time.
            while len(self._tenants[loser := next(iter(self._tenants))]) <= fair_share:
                self._tenants.move_to_end(loser)
        self._tenants[loser].popitem(last=False)
        self._size -= 1
        if not self._tenants[loser]:
            del self._tenants[loser]


class Varies(Enum):
    """What it is in a field that differs from request to request."""

    DATE = "date"
    TIME = "time"
    UUID = "uuid"
    IDENTIFIER = "identifier"
    NUMBER = "number"
    HISTORY = "history"
    OTHER = "other"


@dataclass(frozen=True, slots=True)
class ContextSketch:
    """One request's context as digests; holds no text.

    Attributes
    ----------
    fields : mapping of str to FieldSketch
        By path, for example ``messages[0].content`` or ``tools[3].function.description``.
    """

    fields: Mapping[str, FieldSketch]


@dataclass(frozen=True, slots=True)
class FieldSketch:
    """One field of a context.

    Attributes
    ----------
    whole : bytes, length 8
        Digest of the value.
    masked : bytes, length 8
        Digest of the value with every date, time, uuid, identifier and number in its first 8,192 characters replaced
        by its kind.
    marks : tuple of (Varies, int, bytes)
        Kind, position in characters and digest of each of those, in order; the first `MAX_MARKS`.
    blocks : tuple of bytes
        Digests of blocks of `BLOCK_CHARACTERS` characters, the first `MAX_BLOCKS`.
    """

    whole: bytes
    masked: bytes
    marks: tuple[tuple[Varies, int, bytes], ...]
    blocks: tuple[bytes, ...]


@dataclass(frozen=True, slots=True)
class VaryingField:
    """A field that keeps contexts from repeating.

    Attributes
    ----------
    path : str
    kind : Varies
    position : int or None
        Characters from the field's beginning to the first difference: exact for kinds that are recognised, the
        beginning of its block of 64 for ``other``; None where that has no meaning.
    values : int
        Different values among the requests looked at.
    split_share : float, in [0, 1]
        Share of the requests whose context would repeat without this difference and does not with it, other
        differences that were found set aside.
    """

    path: str
    kind: Varies
    position: int | None
    values: int
    split_share: float

    def __str__(self) -> str:
        """Return a sentence for an operator, without content."""
        role = " (system prompt)" if self.path.startswith("messages[") else ""
        if self.kind is Varies.HISTORY:
            what = "earlier turns differ, as they do in conversations; only openings repeat"
        elif self.position is None:
            what = "differs"
        else:
            kind = "text" if self.kind is Varies.OTHER else self.kind.value
            what = f"differs at character {self.position} ({kind})"
        path = self.path[:_SHOWN_PATH_CHARACTERS]
        return f"{path}{role}: {what}; {self.values} values, splits {self.split_share:.0%} of requests"


HISTORY_PATH: Final = "messages (history)"
MAX_MARKS: Final = 64
MAX_BLOCKS: Final = 64
BLOCK_CHARACTERS: Final = 64
_MAX_LEAVES = 256  # of one top-level field; a field with more is taken as one
_READ_CHARACTERS = 8_192  # of a field, in search of marks: what changes stands at the beginning of most prompts
_SHOWN_PATH_CHARACTERS = 80  # names inside a client's own fields may be content too
_MIN_SPLIT_SHARE = 0.05  # below, fixing the field would not be worth anybody's time

_MONTHS = r"(?:Jan|Feb|Mar|Apr|May|Jun|Jul|Aug|Sep|Oct|Nov|Dec)[a-z]{0,6}\.?"
_DAYS = r"(?:Mon|Tues|Wednes|Thurs|Fri|Satur|Sun)day"
_DIGIT = re.compile(r"[0-9]")
_MARKS = re.compile(
    r"\b(?:"  # once for all of them: most positions of a text are inside a word and are passed over at once
    r"(?P<uuid>[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}\b)"
    r"|(?P<time>\d{4}-\d\d-\d\d[T ]\d\d:\d\d(?::\d\d)?(?:[.,]\d+)?(?:Z|[+-]\d\d:?\d\d)?"
    r"|\d{1,2}:\d\d(?::\d\d)?(?:[.,]\d+)?(?: ?[ap]\.?m\b\.?)?"
    r"|1[5-9]\d{8}(?:\d{3})?\b)"  # Unix time of 2017 to 2033, seconds or milliseconds
    r"|(?P<date>\d{4}[-/.]\d{1,2}[-/.]\d{1,2}\b|\d{1,2}[-/.]\d{1,2}[-/.]\d{2,4}\b"
    rf"|(?:{_DAYS},? )?{_MONTHS} \d{{1,2}}(?:st|nd|rd|th)?(?:,? \d{{4}})?\b"
    rf"|(?:{_DAYS},? )?\d{{1,2}}\.? {_MONTHS},?(?: \d{{4}})?\b|{_DAYS}\b)"
    r"|(?P<identifier>(?=[a-z_-]{0,64}\d)(?=\d{0,64}[a-z_-])[0-9a-z_-]{16,128}\b))"
    r"|(?P<number>\d+(?:[.,]\d+)*)",
    re.IGNORECASE,
)


def sketch_context(fields: Mapping[str, bytes]) -> ContextSketch:
    """Reduce a request's context to digests, for `varying_fields`.

    Parameters
    ----------
    fields : mapping of str to bytes
        The request's top level; values are raw JSON.

    Returns
    -------
    ContextSketch
        Without the last user text. Earlier turns of a conversation are one field.

    Raises
    ------
    CacheError
        As `keys.cache_key`.
    """
    sketches: dict[str, FieldSketch] = {}
    for name, value in canonical_fields(fields).items():
        # Two different token limits are no JSON value any more (see `keys`); they are short and taken as they are.
        leaves = list(_leaves(decode_plain(value), name)) if name != "max_tokens" else [(name, value.decode())]
        if len(leaves) > _MAX_LEAVES:
            leaves = [(name, value.decode())]
        sketches |= {path: _sketch(text) for path, text in leaves}
    messages = canonical_messages(fields)
    opening = _opening_length(messages)
    for index, message in enumerate(messages[:opening]):
        sketches |= {path: _sketch(text) for path, text in _leaves(message, f"messages[{index}]")}
    history = messages[opening:-1] if _is_user(messages[-1]) else messages[opening:]
    if history:
        sketches[HISTORY_PATH] = replace(_sketch(encode_canonical(history).decode()), marks=(), blocks=())
    return ContextSketch(sketches)


def varying_fields(samples: Sequence[ContextSketch]) -> list[VaryingField]:
    """Name the fields that keep contexts from repeating.

    Parameters
    ----------
    samples : sequence of ContextSketch
        Recent requests of one tenant.

    Returns
    -------
    list of VaryingField
        The one that splits most first; those that split less than 5 % of the requests are left out.

    Notes
    -----
    A field's recognised kinds are masked where that at least halves its different values; a field that differs in other
    ways is set aside whole. With all of them masked, contexts repeat as often as they could be made to. A field's share
    is what is lost when it alone is put back as it was. Takes time linear in requests times varying fields: rows are
    compared by the sum of their fields' hashes, which changes by two terms when one field is put back.
    """
    if len(samples) < 2:
        return []
    paths = sorted({path for sample in samples for path in sample.fields})
    columns = {path: [sample.fields.get(path) for sample in samples] for path in paths}
    varying = {path: column for path, column in columns.items() if len(set(column)) > 1}
    calm = {path: _calmed(path, column) for path, column in varying.items()}
    rows = [sum(terms) for terms in zip(*calm.values(), strict=True)] or [0] * len(samples)
    best = _repeats(rows)
    findings = []
    for path, column in varying.items():
        own = _terms(path, column)
        lost = best - _repeats([row - calmed + term for row, calmed, term in zip(rows, calm[path], own, strict=True)])
        if lost >= _MIN_SPLIT_SHARE * len(samples):
            kind, position = _first_difference(path, column)
            findings.append(VaryingField(path, kind, position, len(set(column)), lost / len(samples)))
    return sorted(findings, key=lambda finding: (-finding.split_share, finding.path))


def _leaves(value: PlainValue, path: str) -> Iterator[tuple[str, str]]:
    """Yield path and text of every scalar; a string as it is, anything else as canonical JSON."""
    if isinstance(value, dict) and value:
        for name, inner in value.items():
            yield from _leaves(inner, f"{path}.{name}")
    elif isinstance(value, list) and value:
        for index, inner in enumerate(value):
            yield from _leaves(inner, f"{path}[{index}]")
    else:
        yield path, value if isinstance(value, str) else encode_canonical(value).decode()


def _opening_length(messages: Sequence[PlainValue]) -> int:
    """Return how many messages come before the first that is neither system's nor developer's."""
    for index, message in enumerate(messages):
        if not isinstance(message, dict) or message.get("role") not in ("system", "developer"):
            return index
    return len(messages)


def _is_user(message: PlainValue) -> bool:
    return isinstance(message, dict) and message.get("role") == "user"


def _sketch(text: str) -> FieldSketch:
    marks: list[tuple[Varies, int, bytes]] = []
    calm: list[str] = []
    position = 0
    for line in text[:_READ_CHARACTERS].splitlines(keepends=True):
        # Nearly every mark has a digit; the pattern costs 1 µs a character, this test a hundredth of it.
        found_in_line = _MARKS.finditer(line) if _DIGIT.search(line) or "day" in line else ()
        end = 0
        for found in found_in_line:
            kind = Varies(found.lastgroup)
            marks.append((kind, position + found.start(), _short_digest(found.group())))
            calm += (line[end : found.start()], "\0", kind.value)
            end = found.end()
        calm.append(line[end:])
        position += len(line)
    starts = range(0, min(len(text), MAX_BLOCKS * BLOCK_CHARACTERS), BLOCK_CHARACTERS)
    return FieldSketch(
        whole=_short_digest(text),
        masked=_short_digest("".join(calm) + text[_READ_CHARACTERS:]),
        marks=tuple(marks[:MAX_MARKS]),
        blocks=tuple(_short_digest(text[start : start + BLOCK_CHARACTERS]) for start in starts),
    )


def _short_digest(text: str) -> bytes:
    return hashlib.blake2b(text.encode(), digest_size=8).digest()


def _calmed(path: str, column: Sequence[FieldSketch | None]) -> list[int]:
    """Return a column's terms with its recognised differences masked, or none where that is not enough."""
    masked = [field and field.masked for field in column]
    is_by_kind = path != HISTORY_PATH and len(set(masked)) <= len(set(column)) / 2
    return _terms(path, masked) if is_by_kind else [0] * len(column)


def _terms(path: str, column: Sequence[object]) -> list[int]:
    return [hash((path, value)) for value in column]


def _repeats(rows: Sequence[int]) -> int:
    """Return how many rows have an equal one."""
    return sum(count for count in Counter(rows).values() if count > 1)


def _first_difference(path: str, column: Sequence[FieldSketch | None]) -> tuple[Varies, int | None]:
    """Return kind and position of the difference that is most common between a request and the one before it."""
    if path == HISTORY_PATH:
        return Varies.HISTORY, None
    differences = Counter(_difference(one, other) for one, other in pairwise(column) if one != other)
    return differences.most_common(1)[0][0]


def _difference(one: FieldSketch | None, other: FieldSketch | None) -> tuple[Varies, int | None]:
    if one is None or other is None:
        return Varies.OTHER, None
    if one.masked == other.masked:
        for mine, theirs in zip(one.marks, other.marks, strict=False):
            if mine[2] != theirs[2]:
                return mine[0], mine[1]
        return Varies.OTHER, None  # behind the marks that are kept
    for index, (mine_block, their_block) in enumerate(zip(one.blocks, other.blocks, strict=False)):
        if mine_block != their_block:
            return Varies.OTHER, index * BLOCK_CHARACTERS
    return Varies.OTHER, min(len(one.blocks), len(other.blocks)) * BLOCK_CHARACTERS
