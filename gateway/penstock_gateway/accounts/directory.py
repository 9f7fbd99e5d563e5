"""Who is behind a presented key: one look-up in memory, kept in step with the store in the background.

Owns the table in force, the look for changes, and what happens when the store is away: the keys that are known stay
valid. Read `Directory.authenticate`, then `Directory.refresh`.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field, replace
from typing import Final, TypeVar

from penstock_cache.errors import StoreUnavailable
from penstock_gateway.accounts.key_format import MAX_PRESENTED_CHARACTERS, digest_of, digester, pepper_check_of
from penstock_gateway.accounts.pepper import PepperError
from penstock_gateway.accounts.principal import Principal
from penstock_gateway.accounts.records import AccountsDamaged, AccountSnapshot, Changes, StoredKey
from penstock_gateway.accounts.store import AccountsConflict, AccountsLost, AccountStore
from penstock_gateway.accounts.table import AccountTable, Configured, KeyEntry, KeyRefusal, build_table
from penstock_gateway.configuration_problems import nearest_match
from penstock_gateway.errors import InvalidRequest, Overloaded, Unauthenticated
from penstock_gateway.settings_models import Settings

_log = logging.getLogger("penstock.accounts")

MAX_REQUEST_TAGS: Final = 8
TAGS_HEADER: Final = "x-penstock-tags"
UNAVAILABLE: Final = "accounts_store_unavailable"
DAMAGED: Final = "accounts_store_damaged"
LOST: Final = "accounts_store_lost"
PEPPER_CHANGED: Final = "accounts_pepper_changed"
BLOCKED: Final = "accounts_keys_blocked"
PROBLEMS: Final = (UNAVAILABLE, DAMAGED, LOST, PEPPER_CHANGED, BLOCKED)

_COMMIT_ATTEMPTS: Final = 8
_BUILT_INLINE: Final = 100  # keys: some 2 ms
_NEW_PEPPER: Final = (
    "the stored keys were digested under another pepper than this one, so none of them would be valid: "
    "give back the old pepper, or delete the stored keys and make new ones"
)
_REASONS: Final = {
    KeyRefusal.UNKNOWN: "This client key is not known.",
    KeyRefusal.EXPIRED: "This client key has expired; ask for a new one.",
    KeyRefusal.REVOKED: "This client key has been revoked.",
    KeyRefusal.BLOCKED: "The team of this client key, or one of its tags, does not exist any more.",
}
_T = TypeVar("_T")


@dataclass(frozen=True, slots=True)
class PreparedKeys:
    """Another configuration's keys, teams and tags, ready to be put in force.

    Attributes
    ----------
    asks_for_keys : bool
    configured : Configured
    table : AccountTable
        With what was stored when it was made: `snapshot`.
    snapshot : AccountSnapshot
    """

    asks_for_keys: bool
    configured: Configured = field(repr=False)
    table: AccountTable = field(repr=False)
    snapshot: AccountSnapshot = field(repr=False)


class Directory:
    """Finds principals by presented key, by id and by tags.

    Parameters
    ----------
    settings : Settings
        Its keys, teams and tags hold beside the stored ones and cannot be changed through the admin API.
    store : AccountStore or None
        None: the configuration's keys alone. Closed with the directory.
    pepper : bytes
        Of `pepper.read_pepper`.
    poll_seconds : float, at most 1
        How often the store is asked for changes.
    clock : callable
        UNIX seconds.
    on_problem : callable
        Called with one of `PROBLEMS` when it begins; each is logged once, and its end.

    Raises
    ------
    SecretFileError
        A key file cannot be used (`load_settings` reports that earlier, with its line).
    """

    def __init__(
        self,
        settings: Settings,
        store: AccountStore | None,
        pepper: bytes,
        *,
        poll_seconds: float = 0.5,
        clock: Callable[[], float] = time.time,
        on_problem: Callable[[str], None] = lambda _: None,
    ) -> None:
        self.store = store
        self.clock = clock
        self.asks_for_keys = settings.asks_for_keys
        self.configured = Configured.from_settings(settings, pepper)
        self.snapshot = AccountSnapshot()
        self.table: AccountTable = build_table(self.configured, self.snapshot)
        self.problem: str | None = None
        self._pepper = pepper
        self._digest = digester(pepper)
        self._pepper_check = pepper_check_of(pepper)
        self._poll_seconds = poll_seconds
        self._on_problem = on_problem
        self._is_loaded = store is None
        self._blocked: tuple[str, ...] = ()
        self._turn = asyncio.Lock()
        self._polling: asyncio.Task[None] | None = None

    def __repr__(self) -> str:
        """Show the number of keys, nothing else."""
        return f"Directory({len(self.table.keys)} keys)"

    # On the request path -----------------------------------------------------------------------------------------

    def authenticate(self, presented: str | None) -> Principal:
        """Return who presents a key.

        Parameters
        ----------
        presented : str or None
            As the client sent it, without ``Bearer``.

        Returns
        -------
        Principal
            The open one when the gateway asks for no key.

        Raises
        ------
        Unauthenticated
            ``missing_api_key``, ``invalid_api_key``, ``api_key_expired``, ``api_key_revoked`` or ``api_key_blocked``.
        Overloaded
            ``accounts_unavailable``: the store has not answered since the start, so that an unknown key may be valid.
        """
        if not self.asks_for_keys:
            return self.configured.open_principal
        if presented is None:
            raise Unauthenticated(
                "A client key is required: send 'Authorization: Bearer KEY' or 'x-api-key: KEY'.",
                code="missing_api_key",
            )
        found = self.look_up(presented)
        if isinstance(found, Principal):
            return found
        if found is KeyRefusal.UNKNOWN and not self._is_loaded:
            raise Overloaded(
                "The store of client keys has not answered yet; try again shortly.",
                code="accounts_unavailable",
                headers={"retry-after": "1"},
            )
        raise Unauthenticated(_REASONS[found], code=found.value)

    def look_up(self, presented: str) -> Principal | KeyRefusal:
        """Return who presents a key, or why nobody does.

        Notes
        -----
        The look-up goes by the digest under a secret pepper: what a caller can learn from its timing is about a
        digest that the caller cannot compute, so no comparison of key bytes takes place. One HMAC of a short text,
        about 2 µs, whatever the number of keys and whether the key is known.
        """
        if len(presented) > MAX_PRESENTED_CHARACTERS:
            return KeyRefusal.UNKNOWN
        found = self.table.secrets.get(self._digest(presented))
        if found is None:
            return KeyRefusal.UNKNOWN
        entry, ends_at = found
        principal = entry.principal
        if principal is None:
            return entry.refusal or KeyRefusal.UNKNOWN
        now = self.clock()
        if (ends_at is not None and now >= ends_at) or (
            principal.expires_at is not None and now >= principal.expires_at
        ):
            return KeyRefusal.EXPIRED
        return principal

    def principal_of(self, presented: str) -> Principal | None:
        """Return who presents a key; None when nobody valid does (`look_up` says why)."""
        found = self.look_up(presented)
        return found if isinstance(found, Principal) else None

    def principal(self, key_id: str) -> Principal | None:
        """Return who a key stands for by its id; None when it is unknown, revoked or blocked."""
        entry = self.table.keys.get(key_id)
        return None if entry is None else entry.principal

    def is_revoked_now(self, key_id: str) -> bool:
        """Whether a key that was valid has been revoked or deleted since; for answers under way.

        One look-up in a dictionary, without I/O. A key that has merely expired may finish what it has begun.
        """
        if not key_id:
            return False
        entry = self.table.keys.get(key_id)
        return entry is None or entry.principal is None

    def with_tags(self, principal: Principal, tags: str | Iterable[str] | None) -> Principal:
        """Return who asks, with the tags that a request names.

        Parameters
        ----------
        principal : Principal
        tags : str, iterable of str, or None
            Text is a list between commas, as in the header ``x-penstock-tags``.

        Raises
        ------
        InvalidRequest
            ``unknown_tag``: not registered, so that nobody knows its budget. ``too_many_tags``.
        """
        if not tags:
            return principal
        parts = tags.split(",") if isinstance(tags, str) else list(tags)
        named = dict.fromkeys(name for part in parts if (name := part.strip()))
        if len(named) > MAX_REQUEST_TAGS:
            raise InvalidRequest(
                f"A request may name {MAX_REQUEST_TAGS} tags.", code="too_many_tags", param=TAGS_HEADER
            )
        added = [name for name in named if name not in principal.tags]
        for name in added:
            if name not in self.table.tags:
                raise self._unknown_tag(name)
        if not added:
            return principal
        accounts = tuple(self.table.tags[name].account for name in added)
        return replace(principal, tags=(*principal.tags, *added), accounts=(*principal.accounts, *accounts))

    def _unknown_tag(self, name: str) -> InvalidRequest:
        near = nearest_match(name[:128], list(self.table.tags)[:1000])
        hint = f" Did you mean '{near}'?" if near else ""
        return InvalidRequest(f"The tag '{name[:80]}' is not registered.{hint}", code="unknown_tag", param=TAGS_HEADER)

    # In the background -------------------------------------------------------------------------------------------

    async def start(self) -> None:
        """Read the store, then go on looking for changes.

        A store that does not answer is waited for in the background.

        Raises
        ------
        AccountsDamaged
            Its records cannot be read; they are left as they are.
        PepperError
            Its keys were made with another pepper.
        """
        if self.store is None:
            return
        try:
            await self._look()
        except StoreUnavailable as error:
            self._note(UNAVAILABLE, error.message)
        self._polling = asyncio.get_running_loop().create_task(self._poll())

    async def aclose(self) -> None:
        """Stop looking, and close the store."""
        if self._polling is not None:
            self._polling.cancel()
            await asyncio.gather(self._polling, return_exceptions=True)
        if self.store is not None:
            await self.store.aclose()

    async def refresh(self) -> None:
        """Take over what has changed in the store since the last look; never raises for what is wrong with it."""
        try:
            await self._look()
        except StoreUnavailable as error:
            self._note(UNAVAILABLE, error.message)
        except AccountsDamaged as error:
            self._note(DAMAGED, str(error))
        except AccountsLost:
            self._note(LOST, "the store is empty; the keys that were in it stay valid here until a restart")
        except PepperError as error:
            self._note(PEPPER_CHANGED, str(error))
        else:
            self._note(None, "")

    async def prepare(self, settings: Settings) -> PreparedKeys:
        """Work out another configuration's keys, teams and tags; nothing changes before `use`.

        Raises
        ------
        SecretFileError
            A key file cannot be used.
        """
        configured = await asyncio.to_thread(Configured.from_settings, settings, self._pepper)
        snapshot = self.snapshot
        table = await self._built(configured, snapshot)
        return PreparedKeys(settings.asks_for_keys, configured, table, snapshot)

    def use(self, keys: PreparedKeys) -> None:
        """Put another configuration's keys, teams and tags in the place of the present one's, in one step.

        Parameters
        ----------
        keys : PreparedKeys

        Notes
        -----
        What is stored stays known, also while the store is away. It is merged anew here when it has changed since
        `prepare`: 1 µs a key.
        """
        table = keys.table
        if self.snapshot is not keys.snapshot:
            table = build_table(keys.configured, self.snapshot, table)
        self.configured = keys.configured
        self.asks_for_keys = keys.asks_for_keys
        self._put_in_force(self.snapshot, table)

    async def use_settings(self, settings: Settings) -> None:
        """Do `prepare` and `use`. Raises `SecretFileError`; everything stays as it was then."""
        self.use(await self.prepare(settings))

    async def change(self, edit: Callable[[AccountSnapshot], tuple[Changes, _T]]) -> _T:
        """Change what is stored, and take it over at once.

        Parameters
        ----------
        edit : callable
            Works out the change and a result from what is stored; called again when somebody else was quicker.

        Raises
        ------
        StoreUnavailable, AccountsDamaged, AccountsLost, PepperError
            Nothing was written, unless the store became unavailable while it wrote.
        AccountsConflict
            Others were quicker every time.
        """
        store = self._writable()
        async with self._turn:
            for _ in range(_COMMIT_ATTEMPTS):
                await self._load_if_changed(store)
                changes, result = edit(self.snapshot)
                if changes == Changes():
                    return result
                if any(isinstance(record, StoredKey) for record in changes.puts):
                    changes = replace(changes, pepper_check=self._pepper_check)
                try:
                    version = await store.commit(self.snapshot.version, changes)
                except AccountsConflict:
                    continue
                await self._take(self.snapshot.with_changes(changes, version))
                return result
        raise AccountsConflict

    def digest(self, secret: str) -> str:
        """Return the digest that a secret is stored under, hexadecimal."""
        return digest_of(self._pepper, secret).hex()

    async def restore(self) -> int:
        """Write back everything that is known into a store that has lost it; return the number of records.

        Raises
        ------
        AccountsConflict
            The store is not empty, or nothing is known.
        StoreUnavailable, AccountsDamaged
        """
        store = self._writable()
        async with self._turn:
            if not self.snapshot.version:
                raise AccountsConflict
            records = tuple(self.snapshot.records())
            check = self.snapshot.pepper_check
            version = await store.commit("", Changes(records, pepper_check=check))
            await self._take(AccountSnapshot.of(version, check, records))
        self._note(None, "")
        return len(records)

    def _writable(self) -> AccountStore:
        if self.store is None:
            raise StoreUnavailable("No store of accounts is configured.", code="accounts_store_off")
        return self.store

    async def _poll(self) -> None:
        while True:
            await asyncio.sleep(self._poll_seconds)
            try:
                await self.refresh()
            except Exception:  # a background task: a bug must not end the look for revoked keys
                _log.exception("accounts_poll_failed")

    async def _look(self) -> None:
        if self.store is not None:
            async with self._turn:
                await self._load_if_changed(self.store)

    async def _load_if_changed(self, store: AccountStore) -> None:
        version = await store.version()
        if not version and self.snapshot.version:
            raise AccountsLost
        if version == self.snapshot.version and self._is_loaded:
            return
        snapshot = await store.load()
        if not snapshot.version and self.snapshot.version:
            raise AccountsLost
        if snapshot.keys and snapshot.pepper_check != self._pepper_check:
            raise PepperError(_NEW_PEPPER)
        await self._take(snapshot)

    async def _take(self, snapshot: AccountSnapshot) -> None:
        """Put a snapshot of the store in force."""
        configured = self.configured
        table = await self._built(configured, snapshot)
        while configured is not self.configured:  # another configuration came into force meanwhile
            configured = self.configured
            table = await self._built(configured, snapshot)
        self._is_loaded = True
        self._put_in_force(snapshot, table)

    async def _built(self, configured: Configured, snapshot: AccountSnapshot) -> AccountTable:
        if len(snapshot.keys) + len(configured.keys) <= _BUILT_INLINE:
            return build_table(configured, snapshot, self.table)
        return await asyncio.to_thread(build_table, configured, snapshot, self.table)

    def _put_in_force(self, snapshot: AccountSnapshot, table: AccountTable) -> None:
        """Assign in one step, so that no request ever sees half of it."""
        self.snapshot, self.table = snapshot, table
        blocked = table.blocked
        if blocked and blocked != self._blocked:
            _log.warning(BLOCKED, extra={"count": len(blocked), "key_ids": blocked[:20]})
            self._on_problem(BLOCKED)
        self._blocked = blocked

    def _note(self, problem: str | None, detail: str) -> None:
        """Log and count a change of the store's state, once."""
        if problem == self.problem:
            return
        if problem is None:
            _log.info("accounts_store_back", extra={"after": self.problem})
        else:
            _log.warning(problem, extra={"detail": detail})
            self._on_problem(problem)
        self.problem = problem


def revoked_midway() -> Unauthenticated:
    """Return the error that ends a stream whose key has been revoked."""
    return Unauthenticated("This client key has been revoked; the answer ends here.", code=KeyRefusal.REVOKED.value)


def key_entries(table: AccountTable) -> list[KeyEntry]:
    """Return all keys, those of the configuration first, in the order of their ids."""
    return sorted(table.keys.values(), key=lambda entry: (entry.source, entry.id))
