"""Makes, changes and ends keys, teams and tags.

Owns the rules of change: names are given once, what is named exists, what is in use stays, a secret is shown once.
Every method is one change of the store, all or nothing. Read `Registrar.create_key`.
"""

from __future__ import annotations

import secrets
from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any, Final, TypeVar

from penstock_gateway.accounts.agreement import Known, disagreements
from penstock_gateway.accounts.directory import Directory
from penstock_gateway.accounts.fields import given_fields, merged, validated
from penstock_gateway.accounts.key_format import RandomBytes, holds_secret, new_id, new_secret
from penstock_gateway.accounts.records import (
    MAX_GROUPS,
    MAX_KEYS,
    AccountSnapshot,
    Changes,
    Kind,
    StoredKey,
    StoredSecret,
    StoredTag,
    StoredTeam,
)
from penstock_gateway.configuration_problems import setting_path
from penstock_gateway.errors import Conflict, InvalidRequest, NotFound
from penstock_gateway.ledger.contract import Period
from penstock_gateway.settings_accounts import BudgetSettings, KeyFields, PolicyFields, TagFields

DEFAULT_OVERLAP_SECONDS: Final = 86_400.0
MAX_SECRETS: Final = 8
"""Secrets of one key that are valid at once."""

_ID_ATTEMPTS: Final = 32
_Group = TypeVar("_Group", StoredTeam, StoredTag)


class Registrar:
    """Changes what a directory's store holds.

    Parameters
    ----------
    directory : Directory
    known : callable
        Returns what the configuration in force has.
    random_bytes : callable
        As `secrets.token_bytes`.
    """

    def __init__(
        self,
        directory: Directory,
        known: Callable[[], Known],
        *,
        random_bytes: RandomBytes = secrets.token_bytes,
    ) -> None:
        self.directory = directory
        self._known = known
        self._random_bytes = random_bytes

    async def create_key(self, name: str, fields: Mapping[str, Any]) -> tuple[StoredKey, str]:
        """Make a key.

        Parameters
        ----------
        name : str
        fields : mapping
            Of `KeyFields`, by name.

        Returns
        -------
        key : StoredKey
        secret : str
            The only time that it is shown.

        Raises
        ------
        InvalidRequest
            A field is wrong, or names something that does not exist.
        Conflict
            ``name_taken`` or ``too_many_keys``.
        """

        def edit(snapshot: AccountSnapshot) -> tuple[Changes, tuple[StoredKey, str]]:
            _refuse_secret(name)
            if len(snapshot.keys) >= MAX_KEYS:
                raise Conflict(f"There are {MAX_KEYS} keys already; delete some.", code="too_many_keys")
            key_id = self._free_id(snapshot)
            secret = new_secret(key_id, self._random_bytes)
            newest = StoredSecret(digest=self.directory.digest(secret))
            own = {"id": key_id, "name": name, "secrets": (newest,), "created_at": self.directory.clock()}
            key = validated(StoredKey, {**given_fields(KeyFields, fields), **own})
            self._check_key(key, snapshot)
            self._check_expiry(key)
            return Changes((key,)), (key, secret)

        return await self.directory.change(edit)

    async def update_key(self, name_or_id: str, given: Mapping[str, Any]) -> StoredKey:
        """Change a key's name or fields; those that are not given stay, None sets the default.

        Raises
        ------
        NotFound, InvalidRequest, Conflict
        """

        def edit(snapshot: AccountSnapshot) -> tuple[Changes, StoredKey]:
            before = self._key(snapshot, name_or_id)
            key = merged(before, given)
            _refuse_secret(key.name)
            self._check_key(key, snapshot)
            if key.expires_at != before.expires_at:
                self._check_expiry(key)
            return Changes((key,)), key

        return await self.directory.change(edit)

    async def rotate_key(
        self, name_or_id: str, overlap_seconds: float = DEFAULT_OVERLAP_SECONDS
    ) -> tuple[StoredKey, str]:
        """Give a key a new secret; the older ones stay valid for a while.

        Parameters
        ----------
        name_or_id : str
        overlap_seconds : float
            0 ends the older secrets at once.

        Returns
        -------
        key : StoredKey
        secret : str
            The only time that it is shown.

        Raises
        ------
        NotFound
        Conflict
            ``key_revoked``, ``read_only`` or ``too_many_secrets``.
        """

        def edit(snapshot: AccountSnapshot) -> tuple[Changes, tuple[StoredKey, str]]:
            before = self._key(snapshot, name_or_id)
            if before.is_revoked:
                raise Conflict(
                    f"The key '{before.name}' has been revoked for good; make a new one.", code="key_revoked"
                )
            now = self.directory.clock()
            end = now + overlap_seconds
            older = [
                secret.model_copy(update={"ends_at": end if secret.ends_at is None else min(end, secret.ends_at)})
                for secret in before.secrets
                if (secret.ends_at is None or secret.ends_at > now) and overlap_seconds > 0
            ]
            if len(older) >= MAX_SECRETS:
                raise Conflict(
                    f"{MAX_SECRETS} secrets of this key are valid already; rotate with an overlap of 0 seconds.",
                    code="too_many_secrets",
                )
            secret = new_secret(before.id, self._random_bytes)
            newest = StoredSecret(digest=self.directory.digest(secret))
            key = before.model_copy(update={"secrets": (newest, *older), "rotated_at": now})
            return Changes((key,)), (key, secret)

        return await self.directory.change(edit)

    async def revoke_key(self, name_or_id: str) -> StoredKey:
        """End a key for good; it stays on the list. Revoking it again changes nothing.

        Raises
        ------
        NotFound, Conflict
        """

        def edit(snapshot: AccountSnapshot) -> tuple[Changes, StoredKey]:
            before = self._key(snapshot, name_or_id)
            if before.is_revoked:
                return Changes(), before
            key = before.model_copy(update={"is_revoked": True, "revoked_at": self.directory.clock()})
            return Changes((key,)), key

        return await self.directory.change(edit)

    async def delete_key(self, name_or_id: str) -> StoredKey:
        """Take a key off the list, whether it was revoked or not.

        Raises
        ------
        NotFound, Conflict
        """

        def edit(snapshot: AccountSnapshot) -> tuple[Changes, StoredKey]:
            key = self._key(snapshot, name_or_id)
            return Changes(deletes=(("key", key.id),)), key

        return await self.directory.change(edit)

    async def create_team(self, name: str, fields: Mapping[str, Any]) -> StoredTeam:
        """Make a team.

        Raises
        ------
        InvalidRequest, Conflict
        """
        return await self._create(StoredTeam, "team", name, fields)

    async def create_tag(self, name: str, fields: Mapping[str, Any]) -> StoredTag:
        """Make a tag.

        Raises
        ------
        InvalidRequest, Conflict
        """
        return await self._create(StoredTag, "tag", name, fields)

    async def update_team(self, name: str, given: Mapping[str, Any]) -> StoredTeam:
        """Change a team's fields; those that are not given stay, None sets the default.

        Raises
        ------
        NotFound, InvalidRequest, Conflict
        """

        def edit(snapshot: AccountSnapshot) -> tuple[Changes, StoredTeam]:
            team = merged(self._group(snapshot.teams, "team", name), given)
            self._check(team, snapshot)
            after = self._with_stored(replace(snapshot, teams={**snapshot.teams, name: team}))
            for key in snapshot.keys.values():
                if key.team == name and not key.is_revoked:
                    _check_member(key, after)
            return Changes((team,)), team

        return await self.directory.change(edit)

    async def update_tag(self, name: str, given: Mapping[str, Any]) -> StoredTag:
        """Change a tag's fields; those that are not given stay, None sets the default.

        Raises
        ------
        NotFound, InvalidRequest, Conflict
        """

        def edit(snapshot: AccountSnapshot) -> tuple[Changes, StoredTag]:
            tag = merged(self._group(snapshot.tags, "tag", name), given)
            self._check(tag, snapshot)
            return Changes((tag,)), tag

        return await self.directory.change(edit)

    async def delete_team(self, name: str) -> StoredTeam:
        """Delete a team that no key is in, revoked ones aside.

        Raises
        ------
        NotFound
        Conflict
            ``in_use`` or ``read_only``.
        """

        def edit(snapshot: AccountSnapshot) -> tuple[Changes, StoredTeam]:
            team = self._group(snapshot.teams, "team", name)
            _refuse_in_use("team", name, [k for k in snapshot.keys.values() if k.team == name])
            return Changes(deletes=(("team", name),)), team

        return await self.directory.change(edit)

    async def delete_tag(self, name: str) -> StoredTag:
        """Delete a tag that no key has, revoked ones aside.

        Raises
        ------
        NotFound
        Conflict
            ``in_use`` or ``read_only``.
        """

        def edit(snapshot: AccountSnapshot) -> tuple[Changes, StoredTag]:
            tag = self._group(snapshot.tags, "tag", name)
            _refuse_in_use("tag", name, [k for k in snapshot.keys.values() if name in k.tags])
            return Changes(deletes=(("tag", name),)), tag

        return await self.directory.change(edit)

    async def set_budget(self, kind: Kind, name: str, budget: BudgetSettings) -> StoredKey | StoredTeam | StoredTag:
        """Give a key, team or tag a budget, in the place of its budget of that period.

        Raises
        ------
        NotFound, InvalidRequest, Conflict
        """
        return await self._change_budgets(kind, name, budget.period, budget)

    async def remove_budget(self, kind: Kind, name: str, period: Period) -> StoredKey | StoredTeam | StoredTag:
        """Take a budget away.

        Raises
        ------
        NotFound, Conflict
        """
        return await self._change_budgets(kind, name, period, None)

    async def _change_budgets(
        self, kind: Kind, name: str, period: Period, budget: BudgetSettings | None
    ) -> StoredKey | StoredTeam | StoredTag:
        def edit(snapshot: AccountSnapshot) -> tuple[Changes, StoredKey | StoredTeam | StoredTag]:
            before: StoredKey | StoredTeam | StoredTag
            if kind == "key":
                before = self._key(snapshot, name)
            elif kind == "team":
                before = self._group(snapshot.teams, "team", name)
            else:
                before = self._group(snapshot.tags, "tag", name)
            others = tuple(given for given in before.budgets if given.period != period)
            if budget is None and len(others) == len(before.budgets):
                raise NotFound(f"The {kind} '{name}' has no budget for a {period.value}.", code="budget_not_found")
            after = before.model_copy(update={"budgets": others if budget is None else (*others, budget)})
            return Changes((after,)), after

        return await self.directory.change(edit)

    async def _create(self, model: type[_Group], kind: Kind, name: str, fields: Mapping[str, Any]) -> _Group:
        def edit(snapshot: AccountSnapshot) -> tuple[Changes, _Group]:
            _refuse_secret(name)
            configured = self.directory.configured
            stored, listed = (snapshot.teams, configured.teams) if kind == "team" else (snapshot.tags, configured.tags)
            if len(stored) >= MAX_GROUPS:
                raise Conflict(f"There are {MAX_GROUPS} {kind}s already; delete some.", code=f"too_many_{kind}s")
            given = given_fields(PolicyFields if kind == "team" else TagFields, fields)
            record = validated(model, {**given, "name": name, "created_at": self.directory.clock()})
            if name in stored or name in listed:
                raise _taken(kind, name)
            if kind == "team" and (name.startswith("key:") or any(name == k.name for _, k in configured.keys)):
                raise Conflict(f"'{name}' is a tenant already: that of a key. Take another name.", code="name_taken")
            self._check(record, snapshot)
            return Changes((record,)), record

        return await self.directory.change(edit)

    def _key(self, snapshot: AccountSnapshot, name_or_id: str) -> StoredKey:
        """Return a stored key by its id, else by its name."""
        found = snapshot.keys.get(name_or_id) or next(
            (key for key in snapshot.keys.values() if key.name == name_or_id), None
        )
        if found is None:
            if any(entry.name == name_or_id for _, entry in self.directory.configured.keys):
                raise _read_only("key", name_or_id)
            raise NotFound(f"There is no key '{name_or_id[:128]}'.", code="key_not_found")
        return found

    def _group(self, stored: Mapping[str, _Group], kind: Kind, name: str) -> _Group:
        configured = self.directory.configured
        if name in (configured.teams if kind == "team" else configured.tags):
            raise _read_only(kind, name)
        found = stored.get(name)
        if found is None:
            raise NotFound(f"There is no {kind} '{name[:128]}'.", code=f"{kind}_not_found")
        return found

    def _free_id(self, snapshot: AccountSnapshot) -> str:
        names = {key.name for key in snapshot.keys.values()}
        names |= {entry.name for _, entry in self.directory.configured.keys}
        for _ in range(_ID_ATTEMPTS):
            key_id = new_id(self._random_bytes)
            if key_id not in snapshot.keys and key_id not in names:
                return key_id
        raise Conflict("No free id was found; try again.", code="too_many_keys")

    def _check_key(self, key: StoredKey, snapshot: AccountSnapshot) -> None:
        is_taken = any(other.name == key.name and other.id != key.id for other in snapshot.keys.values())
        is_id = key.name != key.id and key.name in snapshot.keys
        if is_taken or is_id or any(entry.name == key.name for _, entry in self.directory.configured.keys):
            raise _taken("key", key.name)
        self._check(key, snapshot)

    def _check(self, fields: KeyFields | PolicyFields | TagFields, snapshot: AccountSnapshot) -> None:
        for path, message, hint in disagreements(fields, self._with_stored(snapshot)):
            text = f"{setting_path(path)}: {message}{f' ({hint})' if hint else ''}."
            raise InvalidRequest(text, code="invalid_value", param=setting_path(path))

    def _check_expiry(self, key: StoredKey) -> None:
        if key.expires_at is not None and key.expires_at <= self.directory.clock():
            raise InvalidRequest("expires_at: lies in the past.", code="invalid_value", param="expires_at")

    def _with_stored(self, snapshot: AccountSnapshot) -> Known:
        known = self._known()
        return replace(known, teams={**snapshot.teams, **known.teams}, tags={*snapshot.tags, *known.tags})


def _check_member(key: StoredKey, known: Known) -> None:
    """Refuse a change of a team that would leave one of its keys without any model."""
    for path, message, _ in disagreements(key, known):
        if path == ("allowed_models",):
            raise Conflict(f"The key '{key.name}' {message}.", code="key_without_models")


def _refuse_secret(name: str) -> None:
    if holds_secret(name):
        raise InvalidRequest("name: is a key; a name is shown and logged.", code="invalid_value", param="name")


def _taken(kind: Kind, name: str) -> Conflict:
    return Conflict(f"There is a {kind} '{name}' already.", code="name_taken")


def _read_only(kind: Kind, name: str) -> Conflict:
    return Conflict(f"The {kind} '{name}' comes from the configuration; change it there.", code="read_only")


def _refuse_in_use(kind: Kind, name: str, keys: list[StoredKey]) -> None:
    live = [key.name for key in keys if not key.is_revoked]
    if live:
        shown = ", ".join(live[:5]) + (", …" if len(live) > 5 else "")
        raise Conflict(f"The {kind} '{name}' is in use by {len(live)} keys: {shown}.", code="in_use")
