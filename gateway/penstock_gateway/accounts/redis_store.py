"""Keys, teams and tags in Redis: shared by all gateways of an organisation.

Owns the one key that they lie in, and the scripts that read and change it. Speaks to Redis through an object like
`redis_client.RedisClient`. Read `RedisAccountStore`.

::

    penstock:accounts:{o:<organisation>}    hash: "version", "pepper", and "key:ID", "team:NAME", "tag:NAME" → JSON

One key, so that a reader sees all records of one version, and so that it lies in one slot of a cluster. A change is
one script; looking for changes reads one field.
"""

from __future__ import annotations

import asyncio
from typing import Final

from penstock_cache.errors import StoreUnavailable
from penstock_cache.stores.redis_commands import Argument, RedisCommands
from penstock_gateway.accounts.records import AccountsDamaged, AccountSnapshot, Changes, RecordReader, encode_record
from penstock_gateway.accounts.records import field_of as name_of
from penstock_gateway.accounts.store import AccountsConflict, AccountsLost, next_version

_VERSION: Final = b"version"
_PEPPER: Final = b"pepper"
_SLOW_FACTOR: Final = 20.0  # all records against one field

# HGETALL by script: the reply stays a list, as it is on the wire.
_LOAD: Final = b"return redis.call('HGETALL', KEYS[1])"

# ARGV: expected version, new version, pepper check or '', number of puts, then field and content each, then deletes.
_COMMIT: Final = b"""
local version = redis.call('HGET', KEYS[1], 'version') or ''
if version ~= ARGV[1] then return version end
local last = 4 + 2 * tonumber(ARGV[4])
for i = 5, last, 2 do redis.call('HSET', KEYS[1], ARGV[i], ARGV[i + 1]) end
for i = last + 1, #ARGV do redis.call('HDEL', KEYS[1], ARGV[i]) end
if ARGV[3] ~= '' then redis.call('HSET', KEYS[1], 'pepper', ARGV[3]) end
redis.call('HSET', KEYS[1], 'version', ARGV[2])
return ARGV[2]
"""


class RedisAccountStore:
    """The records of one organisation; fulfils `store.AccountStore`.

    Parameters
    ----------
    commands : RedisCommands
        Closed with the store.
    organisation : str
    timeout_seconds : float
        Deadline of a look at the version; reading and writing have twenty times as long.
    """

    kind = "redis"

    def __init__(self, commands: RedisCommands, *, organisation: str, timeout_seconds: float) -> None:
        self._commands = commands
        self._key = f"penstock:accounts:{{o:{organisation}}}".encode()
        self._timeout_seconds = timeout_seconds
        self._reader = RecordReader()

    async def version(self) -> str:
        """Return the version; see `AccountStore`."""
        reply = await self._commands.execute(b"HGET", self._key, _VERSION, deadline_seconds=self._timeout_seconds)
        return _text(reply) if reply is not None else ""

    async def load(self) -> AccountSnapshot:
        """Return everything; see `AccountStore`."""
        reply = await self._execute(b"EVAL", _LOAD, 1, self._key)
        if not isinstance(reply, list):
            raise AccountsDamaged("Redis did not answer with records")
        return await asyncio.to_thread(_snapshot, reply, self._reader)

    async def commit(self, expected_version: str, changes: Changes) -> str:
        """Write a change; see `AccountStore`."""
        version = next_version(expected_version)
        arguments: list[Argument] = [expected_version.encode(), version.encode(), changes.pepper_check.encode()]
        arguments.append(len(changes.puts))
        for record in changes.puts:
            arguments += [_field(*name_of(record)), encode_record(record)]
        arguments += [_field(kind, name) for kind, name in changes.deletes]
        found = _text(await self._execute(b"EVAL", _COMMIT, 1, self._key, *arguments))
        if found == version:
            return version
        if not found:
            raise AccountsLost
        raise AccountsConflict

    async def aclose(self) -> None:
        """Close the connections, if the client can."""
        await self._commands.aclose()

    async def _execute(self, *command: Argument) -> object:
        return await self._commands.execute(*command, deadline_seconds=self._timeout_seconds * _SLOW_FACTOR)


def _field(kind: str, name: str) -> bytes:
    return f"{kind}:{name}".encode()


def _text(reply: object) -> str:
    if not isinstance(reply, bytes):
        raise StoreUnavailable("Redis answered with something else than a version.")
    return reply.decode("ascii", "replace")


def _snapshot(reply: list[object], reader: RecordReader) -> AccountSnapshot:
    fields = {bytes(name): bytes(content) for name, content in zip(reply[::2], reply[1::2], strict=True)}  # type: ignore[call-overload]
    version, check = fields.pop(_VERSION, b""), fields.pop(_PEPPER, b"")
    split = [(*name.decode("utf-8", "replace").partition(":")[::2], content) for name, content in fields.items()]
    records = reader.read(split)
    if any(name_of(record) != (kind, name) for record, (kind, name, _) in zip(records, split, strict=True)):
        raise AccountsDamaged("a stored record does not have the id or name that it lies under")
    return AccountSnapshot.of(version.decode("ascii", "replace"), check.decode("ascii", "replace"), records)
