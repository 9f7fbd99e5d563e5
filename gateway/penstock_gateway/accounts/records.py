"""Keys, teams and tags as they are stored, all of them at one moment, and a change of them.

Owns the stored form: one JSON object for each record, without any secret. Read `StoredKey` and `AccountSnapshot`.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from decimal import Decimal
from types import MappingProxyType
from typing import Annotated, Final, Literal

from pydantic import BeforeValidator, Field, StringConstraints, ValidationError

from penstock_gateway.accounts.key_format import ID_PATTERN
from penstock_gateway.settings_accounts import KeyFields, Moment, PolicyFields, TagFields
from penstock_gateway.settings_types import Name, Section, plain_float

FORMAT: Final = 1
MAX_KEYS: Final = 50_000
MAX_GROUPS: Final = 10_000
"""Teams, and tags, that are stored at most; with all keys and their fields some 40 MB of records."""

Kind = Literal["key", "team", "tag"]
_Digest = Annotated[str, StringConstraints(pattern=r"^[0-9a-f]{64}$"), Field(repr=False)]
_Time = Annotated[float, BeforeValidator(plain_float)]


class AccountsDamaged(Exception):
    """Stored records cannot be read, or may not be trusted; the message says where, without their content."""


class StoredSecret(Section):
    """One secret of a key.

    Attributes
    ----------
    digest : str
        HMAC-SHA-256 under the pepper, hexadecimal.
    ends_at : float or None
        UNIX seconds; None for the newest, which ends with its key.
    """

    digest: _Digest
    ends_at: _Time | None = None


class StoredKey(KeyFields):
    """A key that was made through the admin API.

    Attributes
    ----------
    id : str
    name : str
        Unique among keys; may change, the id does not.
    secrets : tuple of StoredSecret
        Newest first; older ones while they overlap.
    created_at, rotated_at, revoked_at : float or None
        UNIX seconds.
    is_revoked : bool
        For good; a revoked key is kept, so that its spend can be shown, until it is deleted.
    """

    id: Annotated[str, StringConstraints(pattern=f"^{ID_PATTERN}$")]
    name: Name
    secrets: tuple[StoredSecret, ...] = Field((), strict=False, repr=False)
    created_at: Moment
    rotated_at: Moment | None = None
    revoked_at: Moment | None = None
    is_revoked: bool = False


class StoredTeam(PolicyFields):
    """A team that was made through the admin API."""

    name: Name
    created_at: Moment


class StoredTag(TagFields):
    """A tag that was made through the admin API."""

    name: Name
    created_at: Moment


Record = StoredKey | StoredTeam | StoredTag
_MODELS: Final[Mapping[str, type[Record]]] = {"key": StoredKey, "team": StoredTeam, "tag": StoredTag}


@dataclass(frozen=True, slots=True)
class AccountSnapshot:
    """Everything that is stored, at one moment.

    Attributes
    ----------
    version : str
        Differs after every change, by whomever; empty when nothing has ever been stored.
    pepper_check : str
        `key_format.pepper_check_of` the pepper that the digests were made with; empty as long as there is no key.
    keys : mapping of str to StoredKey
        By id.
    teams, tags : mapping of str to StoredTeam, StoredTag
        By name.
    """

    version: str = ""
    pepper_check: str = field(default="", repr=False)
    keys: Mapping[str, StoredKey] = field(default_factory=lambda: MappingProxyType({}))
    teams: Mapping[str, StoredTeam] = field(default_factory=lambda: MappingProxyType({}))
    tags: Mapping[str, StoredTag] = field(default_factory=lambda: MappingProxyType({}))

    @classmethod
    def of(cls, version: str, pepper_check: str, records: Iterable[Record]) -> AccountSnapshot:
        """Return the snapshot of some records."""
        by_kind: dict[str, dict[str, Record]] = {"key": {}, "team": {}, "tag": {}}
        for record in records:
            kind, name = field_of(record)
            by_kind[kind][name] = record
        return cls(version, pepper_check, by_kind["key"], by_kind["team"], by_kind["tag"])  # type: ignore[arg-type]

    def records(self) -> list[Record]:
        """Return all records."""
        return [*self.keys.values(), *self.teams.values(), *self.tags.values()]

    def with_changes(self, changes: Changes, version: str) -> AccountSnapshot:
        """Return what is stored after a change; records that it does not name stay the same objects."""
        kept: dict[str, dict[str, Record]] = {"key": {**self.keys}, "team": {**self.teams}, "tag": {**self.tags}}
        for record in changes.puts:
            kind, name = field_of(record)
            kept[kind][name] = record
        for kind, name in changes.deletes:
            kept[kind].pop(name, None)
        check = changes.pepper_check or self.pepper_check
        return AccountSnapshot(version, check, kept["key"], kept["team"], kept["tag"])  # type: ignore[arg-type]


@dataclass(frozen=True, slots=True)
class Changes:
    """What is written at once, or not at all.

    Attributes
    ----------
    puts : tuple of Record
        Made, or put in the place of what has their id or name.
    deletes : tuple of (str, str)
        Kind, and id or name.
    pepper_check : str
        Written with keys; empty leaves what is there.
    """

    puts: tuple[Record, ...] = ()
    deletes: tuple[tuple[Kind, str], ...] = ()
    pepper_check: str = field(default="", repr=False)


def field_of(record: Record) -> tuple[Kind, str]:
    """Return the kind of a record, and its id or name."""
    if isinstance(record, StoredKey):
        return "key", record.id
    return ("team", record.name) if isinstance(record, StoredTeam) else ("tag", record.name)


def encode_record(record: Record) -> bytes:
    """Return a record as JSON; money as decimal text, defaults left out."""
    plain = record.model_dump(mode="json", exclude_defaults=True)
    return json.dumps(plain, separators=(",", ":"), ensure_ascii=False).encode()


def decode_record(kind: str, content: bytes | dict[str, object]) -> Record:
    """Return a stored record.

    Parameters
    ----------
    kind : str
    content : bytes or dict
        Of `encode_record`, or its plain values.

    Raises
    ------
    AccountsDamaged
    """
    try:
        plain = parse_json(content) if isinstance(content, bytes) else content
        return _MODELS[kind].model_validate(plain)
    except (KeyError, ValueError, RecursionError) as error:  # pydantic's and JSON's errors are ValueErrors
        where = _place_of(error)
        raise AccountsDamaged(f"a stored {kind if kind in _MODELS else 'record'} is not valid{where}") from None


class RecordReader:
    """Reads all records again and again, and checks only those whose content has changed.

    Checking takes 30 µs a record, comparing 1 µs: what one gateway changes, others take over within their second
    whether there are ten keys or tens of thousands. An unchanged record stays the same object.
    """

    def __init__(self) -> None:
        self._known: dict[str, tuple[object, Record]] = {}
        self._written: dict[str, tuple[Record, bytes]] = {}

    def read(self, contents: Iterable[tuple[str, str, bytes | dict[str, object]]]) -> list[Record]:
        """Return the records of some contents.

        Parameters
        ----------
        contents : iterable of (str, str, bytes or dict)
            Kind, a name that is given once, and the content.

        Raises
        ------
        AccountsDamaged
            Nothing is remembered of this reading then.
        """
        found: dict[str, tuple[object, Record]] = {}
        records = []
        for kind, name, content in contents:
            place = f"{kind}:{name}"
            known = self._known.get(place)
            record = known[1] if known is not None and known[0] == content else decode_record(kind, content)
            found[place] = content, record
            records.append(record)
        self._known = found
        return records

    def encode(self, records: Iterable[Record]) -> list[bytes]:
        """Return records as JSON, each encoded once as long as it stays the same object."""
        written: dict[str, tuple[Record, bytes]] = {}
        for record in records:
            place = ":".join(field_of(record))
            known = self._written.get(place)
            written[place] = known if known is not None and known[0] is record else (record, encode_record(record))
        self._written = written
        return [content for _, content in written.values()]


def _place_of(error: Exception) -> str:
    if not isinstance(error, ValidationError):
        return ""
    return f" ({'.'.join(str(part) for part in error.errors(include_url=False, include_input=False)[0]['loc'])})"


def parse_json(content: bytes) -> object:
    """Return JSON as plain values: numbers with a point exact, a name given twice refused.

    Raises
    ------
    ValueError
        Not JSON, or not UTF-8.
    RecursionError
        Nested too deeply.
    """
    return json.loads(
        content, parse_float=Decimal, parse_constant=_refuse_constant, object_pairs_hook=_refuse_duplicates
    )


def _refuse_constant(name: str) -> object:
    raise ValueError(f"{name} is not JSON")


def _refuse_duplicates(pairs: list[tuple[str, object]]) -> dict[str, object]:
    found = dict(pairs)
    if len(found) != len(pairs):
        raise ValueError("a name is given twice")
    return found
