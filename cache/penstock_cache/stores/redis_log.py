"""The log of changes in Redis: how they are published, and how a replica follows the others.

Owns positions in the log, the detection of lost changes, and snapshots. Read `RedisIndexLog.follow` first; keys and
scripts are in `redis_layout`.
"""

from __future__ import annotations

import asyncio
import secrets
from collections.abc import AsyncGenerator, Callable, Iterable
from dataclasses import dataclass
from typing import cast

from penstock_cache.errors import DocumentDamaged, StoreUnavailable
from penstock_cache.stores.changes import (
    Cleared,
    IndexEvent,
    IndexRecord,
    Inserted,
    InStep,
    Removed,
    Reset,
    Stored,
    WireChange,
    decode_change,
    decode_record,
    encode_change,
)
from penstock_cache.stores.redis_commands import RedisCommands
from penstock_cache.stores.redis_layout import (
    CLUSTER_SHARDS,
    POSITION,
    PUBLISH,
    ShardKeys,
    TenantKeys,
    pseudonym,
    shard_of,
)

LOG_CHANGES = 100_000  # of a shard; some 15 MB
LOG_SECONDS = 3_600.0  # a replica away for longer starts from a snapshot
LOG_TTL_SECONDS = 86_400.0  # of a log nobody writes to; as long as the longest TTL in it where that is longer
BLOCK_SECONDS = 1.0  # between checks that the log is still the same one
READ_SECONDS = 1.0  # deadline of reads outside any request
_READ_CHANGES = 256
_SNAPSHOT_RECORDS = 128
_QUEUED_EVENTS = 1_024
_FIRST_RETRY_SECONDS, _LONGEST_RETRY_SECONDS = 0.05, 2.0


@dataclass(slots=True)
class _Position:
    """What a follower has seen of a shard's log."""

    epoch: bytes
    number: int
    last_id: bytes


@dataclass(frozen=True, slots=True)
class _OutOfStep:
    """Changes are missing between what was seen and what is there."""

    reason: str


class RedisIndexLog:
    """Publishes and follows changes.

    Parameters
    ----------
    commands : RedisCommands
        For publishing; following uses connections apart.
    on_problem : callable
        Called with a code for everything that was damaged or interrupted.
    block_seconds : float
        How long a read waits for changes.
    """

    def __init__(
        self,
        commands: RedisCommands,
        *,
        on_problem: Callable[[str], None] = lambda _: None,
        block_seconds: float = BLOCK_SECONDS,
    ) -> None:
        self._commands = commands
        self._on_problem = on_problem
        self._block_seconds = block_seconds
        self._shards = [ShardKeys(shard) for shard in range(CLUSTER_SHARDS if commands.is_cluster else 1)]

    def publish_command(self, change: WireChange, *, ttl_seconds: float) -> tuple[bytes | int, ...]:
        """Return the command that appends a change to its tenant's shard.

        Parameters
        ----------
        change : Stored, Removed or Cleared
        ttl_seconds : float
            Of the entry it is about; the log lives at least as long.
        """
        tenant = pseudonym(change.tenant)
        shard = self._shards[shard_of(tenant, len(self._shards))]
        ttl_ms = int(max(ttl_seconds, LOG_TTL_SECONDS) * 1000)
        keys = (shard.head, shard.log, shard.tenants)
        content = (secrets.token_hex(8).encode(), encode_change(change), tenant)
        return (b"EVAL", PUBLISH, 3, *keys, *content, LOG_CHANGES, int(LOG_SECONDS * 1000), ttl_ms)

    async def tenants(self) -> list[bytes]:
        """Return the pseudonyms of all tenants that have entries, or had.

        Raises
        ------
        StoreUnavailable
        """
        found: list[bytes] = []
        for shard in self._shards:
            reply = await self._commands.execute(b"SMEMBERS", shard.tenants, deadline_seconds=READ_SECONDS)
            found += cast(list[bytes], reply)
        return found

    async def follow(self) -> AsyncGenerator[IndexEvent, None]:
        """Yield `Reset`, a snapshot, `InStep`, and then every change; begin again when changes were lost.

        Notes
        -----
        Every change has a number, one more than the one before it in its shard, and the epoch of the log. So a follower
        knows that it has missed something (trimmed before it was read, written by a failed-over server that did not
        have the last changes) from the next change, and when none comes, from the head that it looks at every
        `block_seconds`; a store that was emptied or exchanged has another epoch. A connection that is lost is opened
        again and reading goes on where it was. In between, the index stays: it can only find what `get` then misses.
        """
        reason, delay = "start", _FIRST_RETRY_SECONDS
        commands = self._commands.apart()
        try:
            while True:
                try:
                    positions = [await _position(commands, shard) for shard in self._shards]
                    yield Reset(reason)
                    async for record in self._snapshot(commands):
                        yield Inserted(record)
                except StoreUnavailable as error:
                    self._on_problem(error.code)
                    await asyncio.sleep(delay)
                    delay = min(delay * 2, _LONGEST_RETRY_SECONDS)
                    continue
                delay = _FIRST_RETRY_SECONDS
                yield InStep()
                tail = _Tail(commands, self._shards, positions, self._on_problem, self._block_seconds)
                try:
                    while isinstance(event := await tail.next_event(), Inserted | Removed | Cleared):
                        yield event
                finally:
                    await tail.aclose()
                reason = event.reason
                self._on_problem("cache_log_" + reason)
        finally:
            await commands.aclose()

    async def _snapshot(self, commands: RedisCommands) -> AsyncGenerator[IndexRecord, None]:
        for shard in self._shards:
            tenants = await commands.execute(b"SMEMBERS", shard.tenants, deadline_seconds=READ_SECONDS)
            for tenant in cast(list[bytes], tenants):
                async for record in scan_records(commands, TenantKeys(tenant), self._on_problem):
                    yield record


async def scan_records(
    commands: RedisCommands, keys: TenantKeys, on_problem: Callable[[str], None]
) -> AsyncGenerator[IndexRecord, None]:
    """Yield a tenant's records, some perhaps twice; damaged ones are counted and left out.

    Raises
    ------
    StoreUnavailable
    """
    async for _, stored in scan_stored(commands, keys):
        record = _readable(stored, on_problem)
        if record is not None:
            yield record


async def scan_stored(commands: RedisCommands, keys: TenantKeys) -> AsyncGenerator[tuple[str, bytes], None]:
    """Yield entry id and stored record of a tenant's entries, some perhaps twice.

    Raises
    ------
    StoreUnavailable
    """
    cursor = b"0"
    while True:
        reply = await commands.execute(
            b"HSCAN", keys.records, cursor, b"COUNT", _SNAPSHOT_RECORDS, deadline_seconds=READ_SECONDS
        )
        cursor, flat = cast(tuple[bytes, list[bytes]], reply)
        for entry_id, stored in zip(flat[::2], flat[1::2], strict=True):
            yield entry_id.decode(errors="replace"), stored
        if cursor == b"0":
            return


class _Tail:
    """Reads the logs of all shards at once, each from its position, until one is out of step."""

    def __init__(
        self,
        commands: RedisCommands,
        shards: Iterable[ShardKeys],
        positions: Iterable[_Position],
        on_problem: Callable[[str], None],
        block_seconds: float,
    ) -> None:
        self._commands = commands
        self._on_problem = on_problem
        self._block_seconds = block_seconds
        self._events: asyncio.Queue[Inserted | Removed | Cleared | _OutOfStep] = asyncio.Queue(_QUEUED_EVENTS)
        self._readers = [
            asyncio.create_task(self._read(shard, position)) for shard, position in zip(shards, positions, strict=True)
        ]

    async def next_event(self) -> Inserted | Removed | Cleared | _OutOfStep:
        """Return the next change of any shard; after `_OutOfStep` nothing of use follows."""
        return await self._events.get()

    async def aclose(self) -> None:
        """Stop reading."""
        for reader in self._readers:
            reader.cancel()
        await asyncio.gather(*self._readers, return_exceptions=True)

    async def _read(self, shard: ShardKeys, position: _Position) -> None:
        delay = _FIRST_RETRY_SECONDS
        while True:
            try:
                events = await self._next_events(shard, position)
            except StoreUnavailable as error:
                self._on_problem(error.code)
                await asyncio.sleep(delay)
                delay = min(delay * 2, _LONGEST_RETRY_SECONDS)
                continue
            delay = _FIRST_RETRY_SECONDS
            for event in events:
                await self._events.put(event)
                if isinstance(event, _OutOfStep):
                    return

    async def _next_events(
        self, shard: ShardKeys, position: _Position
    ) -> list[Inserted | Removed | Cleared | _OutOfStep]:
        """Return what follows a position, and move the position past it."""
        entries = await self._entries(shard, position, int(self._block_seconds * 1000))
        if not entries:
            head = await _position(self._commands, shard)
            if (head.epoch, head.number) == (position.epoch, position.number):
                return []
            entries = await self._entries(shard, position, 1)  # what came between the two looks
            if not entries or head.number < position.number:
                return [_OutOfStep("replaced" if head.epoch != position.epoch else "gap")]
        changes: list[WireChange] = []
        seen = _Position(position.epoch, position.number, position.last_id)
        for entry_id, fields in entries:
            named = dict(zip(fields[::2], fields[1::2], strict=True))
            epoch, number = named.get(b"e", b""), int(named.get(b"n", b"-1"))
            if seen.number and epoch != seen.epoch:
                return [_OutOfStep("replaced")]
            if number != seen.number + 1:
                return [_OutOfStep("gap")]
            seen = _Position(epoch, number, entry_id)
            try:
                changes.append(decode_change(named.get(b"c", b"")))
            except DocumentDamaged as error:
                self._on_problem(error.code)
        events = await self._resolve(changes)
        position.epoch, position.number, position.last_id = seen.epoch, seen.number, seen.last_id
        return events

    async def _entries(self, shard: ShardKeys, position: _Position, block_ms: int) -> list[tuple[bytes, list[bytes]]]:
        reply = await self._commands.execute(
            b"XREAD", b"COUNT", _READ_CHANGES, b"BLOCK", block_ms, b"STREAMS", shard.log, position.last_id,
            deadline_seconds=block_ms / 1000 + READ_SECONDS,
        )  # fmt: skip
        if reply is None:
            return []
        [(_, entries)] = cast(list[tuple[bytes, list[tuple[bytes, list[bytes]]]]], reply)
        return entries

    async def _resolve(self, changes: list[WireChange]) -> list[Inserted | Removed | Cleared | _OutOfStep]:
        """Fetch the records of what was stored; what is gone already is left out."""
        wanted: dict[str, list[str]] = {}
        for change in changes:
            if isinstance(change, Stored):
                wanted.setdefault(change.tenant, []).append(change.entry_id)
        records: dict[tuple[str, str], bytes | None] = {}
        for tenant, entry_ids in wanted.items():
            reply = await self._commands.execute(
                b"HMGET", TenantKeys(pseudonym(tenant)).records, *(entry_id.encode() for entry_id in entry_ids),
                deadline_seconds=READ_SECONDS,
            )  # fmt: skip
            for entry_id, stored in zip(entry_ids, cast(list[bytes | None], reply), strict=True):
                records[tenant, entry_id] = stored
        events: list[Inserted | Removed | Cleared | _OutOfStep] = []
        for change in changes:
            if not isinstance(change, Stored):
                events.append(change)
                continue
            stored = records[change.tenant, change.entry_id]
            record = None if stored is None else _readable(stored, self._on_problem)
            if record is not None and (record.tenant, record.entry_id) == (change.tenant, change.entry_id):
                events.append(Inserted(record))
        return events


async def _position(commands: RedisCommands, shard: ShardKeys) -> _Position:
    """Return the end of a shard's log."""
    reply = await commands.execute(b"EVAL", POSITION, 2, shard.head, shard.log, deadline_seconds=READ_SECONDS)
    epoch, number, last_id = cast(tuple[bytes, bytes, bytes], reply)
    return _Position(epoch, int(number), last_id)


def _readable(stored: bytes, on_problem: Callable[[str], None]) -> IndexRecord | None:
    try:
        return decode_record(stored)
    except DocumentDamaged as error:
        on_problem(error.code)
        return None
