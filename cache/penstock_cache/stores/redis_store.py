"""Documents in Redis, shared by all gateways.

Owns deadlines, the circuit breakers, and the checks of what comes back. Keys and scripts are in `redis_layout`, the log
of changes in `redis_log`, the client behind `RedisCommands`. Read `RedisDocumentStore`.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncGenerator, Callable, Coroutine, Sequence
from typing import cast

from penstock_cache.entries import CachedDocument, decode_document, encode_document
from penstock_cache.errors import DocumentDamaged, StoreUnavailable
from penstock_cache.stores.breaker import Breaker
from penstock_cache.stores.changes import (
    Cleared,
    IndexEvent,
    IndexRecord,
    Removed,
    Stored,
    WireChange,
    decode_record,
    encode_record,
)
from penstock_cache.stores.redis_commands import Argument, RedisCommands
from penstock_cache.stores.redis_layout import ADD_WITHIN, DELETE, PUT, READ, SWEEP, TenantKeys, counter_key, pseudonym
from penstock_cache.stores.redis_log import BLOCK_SECONDS, RedisIndexLog, scan_stored

_PROBE_SECONDS = 1.0  # nobody waits for it, so it may take as long as a connection over TLS
_DELETE_CHUNK = 100
_SWEEP_CHUNK = 200  # the script's own limit
_SCHEMA_CODE = "cache_document_schema"


class RedisDocumentStore:
    """Keeps documents in Redis 5 or later, one server or a cluster; fulfils `DocumentStore`.

    Parameters
    ----------
    commands : RedisCommands
        The store closes it.
    look_up_seconds, write_seconds : float
        Deadlines of `get` and `find_exact`, and of everything else; a deletion of many entries has it per 100.
    on_problem : callable
        Called with a code for every damaged document, and for every failure that no caller sees.
    clock : callable
        Monotonic seconds, for deadlines and breakers.
    block_seconds : float
        How often a follower without changes looks whether the log is still the same.

    Notes
    -----
    After three failures in a row look-ups fail at once, without a command, until a probe in the background has been
    answered; writes have a breaker of their own, since a server that is out of memory still reads. Deletions are always
    tried. Nothing is written twice: a caller whose `put` failed has a document that is perhaps there, and that is
    served only if all of it is.

    Redis should evict nothing by itself (``maxmemory-policy noeviction``, or a ``volatile-`` policy). Whatever it drops
    all the same is a miss: an entry is served only when its document and its record are both there.
    """

    def __init__(
        self,
        commands: RedisCommands,
        *,
        look_up_seconds: float = 0.05,
        write_seconds: float = 0.25,
        on_problem: Callable[[str], None] = lambda _: None,
        clock: Callable[[], float] = time.monotonic,
        block_seconds: float = BLOCK_SECONDS,
    ) -> None:
        self._commands = commands
        self._look_up_seconds = look_up_seconds
        self._write_seconds = write_seconds
        self._on_problem = on_problem
        self._clock = clock
        self._log = RedisIndexLog(commands, on_problem=on_problem, block_seconds=block_seconds)
        self._look_ups = Breaker()
        self._writes = Breaker()
        self._background: set[asyncio.Task[None]] = set()

    @property
    def is_answering(self) -> bool:
        """Whether look-ups are sent to Redis; False while its breaker is open."""
        return not self._look_ups.is_open

    async def get(self, tenant: str, entry_ids: Sequence[str], *, now: float) -> list[CachedDocument | None]:
        """Return documents, None for what is gone, damaged or not fresh."""
        if not entry_ids:
            return []
        stored = await self._read(tenant, entry_ids, self._clock() + self._look_up_seconds)
        return [
            self._checked(content, tenant, entry_id, now) for content, entry_id in zip(stored, entry_ids, strict=True)
        ]

    async def find_exact(self, tenant: str, fingerprint: bytes, *, now: float) -> CachedDocument | None:
        """Return the newest document of a whole request."""
        end = self._clock() + self._look_up_seconds
        pointer = TenantKeys(pseudonym(tenant)).pointer(fingerprint)
        found = cast(bytes | None, await self._guarded(self._look_ups, end, b"GET", pointer))
        if found is None:
            return None
        entry_id = found.decode(errors="replace")
        [stored] = await self._read(tenant, [entry_id], end)
        document = self._checked(stored, tenant, entry_id, now)
        if document is not None and document.fingerprint != fingerprint:
            self._on_problem("cache_document_misplaced")
            return None
        return document

    async def put(self, document: CachedDocument, *, now: float) -> None:
        """Store a document, its pointer and its record together, then tell the log.

        Notes
        -----
        The TTL is never longer than the entry's whole life, even when the clock has gone back since it was answered.
        """
        ttl_seconds = min(document.expires_at - now, document.expires_at - document.stored_at)
        if ttl_seconds < 0.001:
            return
        end = self._clock() + self._write_seconds
        keys = TenantKeys(pseudonym(document.tenant))
        entry_id = document.entry_id
        await self._guarded(
            self._writes, end, b"EVAL", PUT, 4,
            keys.records, keys.expiries, keys.document(entry_id), keys.pointer(document.fingerprint),
            entry_id.encode(), encode_document(document), encode_record(IndexRecord.of(document)),
            int(ttl_seconds * 1000), int((now + ttl_seconds) * 1000), int(now * 1000),
        )  # fmt: skip
        change = Stored(document.tenant, entry_id)
        await self._guarded(self._writes, end, *self._log.publish_command(change, ttl_seconds=ttl_seconds))

    async def delete(self, tenant: str, entry_ids: Sequence[str]) -> int:
        """Delete entries and tell the log, whether or not anything was there."""
        if not entry_ids:
            return 0
        keys = TenantKeys(pseudonym(tenant))
        removed = 0
        for start in range(0, len(entry_ids), _DELETE_CHUNK):
            chunk = entry_ids[start : start + _DELETE_CHUNK]
            reply = await self._write(b"HMGET", keys.records, *(entry_id.encode() for entry_id in chunk))
            stored = cast(list[bytes | None], reply)
            removed += await self._delete_stored(keys, list(zip(chunk, stored, strict=True)))
            await self._publish(Removed(tenant, tuple(chunk)))
        return removed

    async def evict(self, tenant: str, entry_ids: Sequence[str]) -> int:
        """Drop entries to make room; not tried while Redis does not take writes, since they expire anyway."""
        if self._writes.is_open:
            self._probe_when_due(self._writes)
            raise _left_alone()
        return await self.delete(tenant, entry_ids)

    async def delete_tenant(self, tenant: str, *, now: float) -> int:
        """Delete everything of a tenant that is known by a record; what has none is not served any more."""
        removed = await self._delete_where(tenant, None)
        await self._publish(Cleared(tenant, None, now))
        return removed

    async def delete_category(self, tenant: str, category: str, *, now: float) -> int:
        """Delete what a tenant has in a category, and what has a record that cannot be read."""
        removed = await self._delete_where(tenant, category)
        await self._publish(Cleared(tenant, category, now))
        return removed

    async def sweep_expired(self, *, now: float) -> int:
        """Free the records of expired entries; documents expire by themselves, and busy tenants are swept by `put`."""
        swept = 0
        for tenant in await self._log.tenants():
            keys = TenantKeys(tenant)
            in_turn = _SWEEP_CHUNK
            while in_turn == _SWEEP_CHUNK:
                reply = await self._write(b"EVAL", SWEEP, 2, keys.records, keys.expiries, int(now * 1000))
                in_turn = cast(int, reply)
                swept += in_turn
        return swept

    async def add_within(self, name: str, amount: int, *, most: int | None, ttl_seconds: float) -> bool:
        """Add to a counter that all gateways share, in one step, unless it would rise above `most`.

        Parameters
        ----------
        name : str
        amount : int
            May be negative.
        most : int or None
            None adds in any case.
        ttl_seconds : float
            How long the counter lives after its last change.

        Returns
        -------
        bool
            Whether it was added.

        Raises
        ------
        StoreUnavailable
        """
        bound = b"" if most is None else str(most).encode()
        end = self._clock() + self._write_seconds
        key, ttl_ms = counter_key(name), int(ttl_seconds * 1000)
        return await self._guarded(self._writes, end, b"EVAL", ADD_WITHIN, 1, key, amount, bound, ttl_ms) == 1

    def follow(self) -> AsyncGenerator[IndexEvent, None]:
        """Yield what any gateway stores and removes."""
        return self._log.follow()

    async def aclose(self) -> None:
        """Close the connections; followers are closed by who started them."""
        for task in self._background:
            task.cancel()
        await asyncio.gather(*self._background, return_exceptions=True)
        await self._commands.aclose()

    async def _read(self, tenant: str, entry_ids: Sequence[str], end: float) -> list[bytes | None]:
        keys = TenantKeys(pseudonym(tenant))
        reply = await self._guarded(
            self._look_ups, end, b"EVAL", READ, 1 + len(entry_ids),
            keys.records, *map(keys.document, entry_ids), *(entry_id.encode() for entry_id in entry_ids),
        )  # fmt: skip
        return cast(list[bytes | None], reply)

    def _checked(self, stored: bytes | None, tenant: str, entry_id: str, now: float) -> CachedDocument | None:
        """Return a document only if it is whole, fresh, and the one that was asked for."""
        if stored is None:
            return None
        try:
            document = decode_document(stored)
            if (document.tenant, document.entry_id) != (tenant, entry_id):
                raise DocumentDamaged("A document lay in another's place.", code="cache_document_misplaced")
        except DocumentDamaged as error:
            self._on_problem(error.code)
            if error.code != _SCHEMA_CODE:
                self._in_background(self._drop(tenant, entry_id))
            return None
        return document if document.is_fresh(now) else None

    async def _drop(self, tenant: str, entry_id: str) -> None:
        try:
            await self.delete(tenant, [entry_id])
        except StoreUnavailable as error:
            self._on_problem(error.code)

    async def _delete_where(self, tenant: str, category: str | None) -> int:
        keys = TenantKeys(pseudonym(tenant))
        removed, chunk = 0, dict[str, bytes]()
        async for entry_id, stored in scan_stored(self._commands, keys):
            if category is None or _category(stored) in (category, None):
                chunk[entry_id] = stored
            if len(chunk) >= _DELETE_CHUNK:
                removed += await self._delete_stored(keys, list(chunk.items()))
                chunk = {}
        return removed + (await self._delete_stored(keys, list(chunk.items())) if chunk else 0)

    async def _delete_stored(self, keys: TenantKeys, entries: Sequence[tuple[str, bytes | None]]) -> int:
        """Delete documents, records and those pointers that lead to them; the record says which pointer."""
        pairs: list[bytes] = []
        for entry_id, stored in entries:
            pairs += (keys.document(entry_id), keys.pointer(_fingerprint(stored)))
        reply = await self._write(
            b"EVAL", DELETE, 2 + len(pairs), keys.records, keys.expiries, *pairs,
            *(entry_id.encode() for entry_id, _ in entries),
        )  # fmt: skip
        return cast(int, reply)

    async def _publish(self, change: WireChange) -> None:
        await self._write(*self._log.publish_command(change, ttl_seconds=0.0))

    async def _write(self, *command: Argument) -> object:
        """Send a command whatever the breaker says, with a deadline of its own."""
        return await self._commands.execute(*command, deadline_seconds=self._write_seconds)

    async def _guarded(self, breaker: Breaker, end: float, *command: Argument) -> object:
        """Send a command unless the breaker is open; `end` is the clock's time at which it must be over."""
        if breaker.is_open:
            self._probe_when_due(breaker)
            raise _left_alone()
        try:
            reply = await self._commands.execute(*command, deadline_seconds=max(0.0, end - self._clock()))
        except StoreUnavailable:
            breaker.note_failure(self._clock())
            raise
        breaker.note_success()
        return reply

    def _probe_when_due(self, breaker: Breaker) -> None:
        if breaker.take_probe(self._clock()):
            self._in_background(self._probe(breaker))

    async def _probe(self, breaker: Breaker) -> None:
        has_answered = False
        try:
            await self._commands.execute(b"PING", deadline_seconds=_PROBE_SECONDS)
            has_answered = True
        except StoreUnavailable as error:
            self._on_problem(error.code)
        finally:
            breaker.note_probe(has_answered=has_answered, now=self._clock())

    def _in_background(self, coroutine: Coroutine[None, None, None]) -> None:
        task = asyncio.get_running_loop().create_task(coroutine)
        self._background.add(task)
        task.add_done_callback(self._background.discard)


def _left_alone() -> StoreUnavailable:
    return StoreUnavailable("The cache's store does not answer and is left alone.", code="cache_store_paused")


def _fingerprint(stored: bytes | None) -> bytes:
    """Return the fingerprint in a record; one that leads nowhere when there is no readable record."""
    record = _record(stored)
    return b"" if record is None else record.fingerprint


def _category(stored: bytes) -> str | None:
    record = _record(stored)
    return None if record is None else record.category


def _record(stored: bytes | None) -> IndexRecord | None:
    try:
        return None if stored is None else decode_record(stored)
    except DocumentDamaged:
        return None
