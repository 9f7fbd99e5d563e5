"""Whether keys, teams, tags, their store and the admin API fit together in a configuration.

Owns the checks of these sections; rules that the admin API shares are in `accounts.agreement`. Read `check_accounts`.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Final

from penstock_gateway.accounts.agreement import Known, disagreements
from penstock_gateway.settings_accounts import PolicyFields, TagFields
from penstock_gateway.settings_models import ClientKeySettings, Settings
from penstock_gateway.settings_redis_checks import check_redis_url
from penstock_gateway.settings_secrets import SecretFileError, read_secret
from penstock_gateway.settings_source import SettingKey, SettingsSource

_MIN_CHARACTERS: Final = 16
# Said of client keys by the checks of these settings already.
_SAID_OF_KEYS: Final = frozenset({"min_quality", "category_floors", "cache_category", "cache_categories"})


def check_accounts(settings: Settings, source: SettingsSource, *, is_admin_local: bool) -> None:
    """Add a problem to `source` for everything in these sections that does not fit.

    Parameters
    ----------
    settings : Settings
        Valid in shape.
    source : SettingsSource
        Where each setting was written.
    is_admin_local : bool
        Whether the admin API's address can only be reached from this machine.
    """
    _check_groups(settings, source)
    _check_keys(settings, source)
    _check_store(settings, source)
    _check_admin(settings, source, is_local=is_admin_local)


def _check_groups(settings: Settings, source: SettingsSource) -> None:
    for section, names in (("teams", [t.name for t in settings.teams]), ("tags", [t.name for t in settings.tags])):
        for index, name in enumerate(names):
            if (first := names.index(name)) < index:
                place = source.place((section, first, "name"))
                message = f"{name!r} is the name of another one ({place})"
                source.report((section, index, "name"), message, "give each its own")
    tenants = {entry.name: entry.team for entry in settings.client_keys}
    for index, team in enumerate(settings.teams):
        if tenants.get(team.name, team.name) != team.name:
            message = f"{team.name!r} is also a client key's name, so that both would share a cache"
            source.report(("teams", index, "name"), message, f"take another name, or write 'team: {team.name}' there")
        if team.name.startswith("key:"):
            source.report(("teams", index, "name"), "names that begin with key: stand for keys", "take another name")
    known = _known(settings, source)
    groups: Iterable[tuple[str, int, PolicyFields | TagFields]] = [
        *(("teams", index, team) for index, team in enumerate(settings.teams)),
        *(("tags", index, tag) for index, tag in enumerate(settings.tags)),
    ]
    for section, index, entry in groups:
        for path, message, hint in disagreements(entry, known):
            if not (path[0] in ("allowed_models", "category_floors") and _has_no_deployments(settings, source)):
                source.report((section, index, *path), message, hint)


def _check_keys(settings: Settings, source: SettingsSource) -> None:
    known = _known(settings, source)
    first: dict[str, ClientKeySettings] = {}
    for index, entry in enumerate(settings.client_keys):
        for path, message, hint in disagreements(entry, known):
            is_unsure = path[0] == "allowed_models" and _has_no_deployments(settings, source)
            if path[0] not in _SAID_OF_KEYS and not is_unsure:
                source.report(("client_keys", index, *path), message, hint)
        other = first.setdefault(entry.name, entry)
        if _shared(entry) != _shared(other):
            message = f"{entry.name!r} has two keys with different rights; spend and limits are counted by name"
            source.report(("client_keys", index, "name"), message, "give them the same, or different names")


def _has_no_deployments(settings: Settings, source: SettingsSource) -> bool:
    """Whether that is what is wrong, so that nothing can be said of names of deployments."""
    return ("deployments",) in source.muted or not settings.deployments


def _shared(entry: ClientKeySettings) -> Mapping[str, object]:
    """Return what keys of one name must have in common; one may expire before the other, which is how to rotate."""
    names = {"team", "tags", "allowed_models", "priority", "budgets", "limits", "budget_rules"}
    return {name: getattr(entry, name) for name in names}


def _known(settings: Settings, source: SettingsSource) -> Known:
    """Return what there is, without the stand-ins of names that are wrong themselves."""
    names = [
        entry.name
        for index, entry in enumerate(settings.deployments)
        if not source.muted & {("deployments", index), ("deployments", index, "name")}
    ]
    return replace(Known.from_settings(settings), deployments=names)


def _check_store(settings: Settings, source: SettingsSource) -> None:
    accounts = settings.accounts
    if accounts.pepper is not None and accounts.pepper_file is not None:
        source.report(("accounts", "pepper_file"), "is given together with pepper", "keep one of them")
    elif accounts.pepper_file is not None:
        _check_secret_file(accounts.pepper_file, ("accounts", "pepper_file"), source)
    if accounts.store == "file":
        _check_folder(accounts.folder, source)
    if accounts.store == "redis":
        _check_redis(settings, source)


def _check_folder(folder: str | None, source: SettingsSource) -> None:
    key: SettingKey = ("accounts", "folder")
    if folder is None:
        source.report(key, "is needed by the file store", "write folder: ./accounts")
        return
    shown = source.written.get(key, folder)
    path = Path(folder)
    existing = next((place for place in (path, *path.parents) if place.exists()), None)
    if existing is not None and not existing.is_dir():
        source.report(key, f"{shown} is not a folder, or lies in a file")
    elif existing is not None and not os.access(existing, os.W_OK | os.X_OK):
        source.report(key, f"{shown} cannot be written")


def _check_redis(settings: Settings, source: SettingsSource) -> None:
    accounts = settings.accounts
    check_redis_url(settings, source, "accounts")
    has_pepper = accounts.pepper is not None or accounts.pepper_file is not None or accounts.folder is not None
    if not has_pepper and ("accounts", "pepper") not in source.unresolved:
        message = "is needed by the redis store: all gateways must have the same"
        source.report(("accounts", "pepper"), message, "write pepper: ${PENSTOCK_PEPPER}")


def _check_admin(settings: Settings, source: SettingsSource, *, is_local: bool) -> None:
    admin = settings.admin
    if admin.key is not None and admin.key_file is not None:
        source.report(("admin", "key_file"), "is given together with key", "keep one of them")
    text = admin.key.get_secret_value() if admin.key is not None else ""
    if admin.key is None and admin.key_file is not None:
        text = _check_secret_file(admin.key_file, ("admin", "key_file"), source)
    if text and not (text.isascii() and text.isprintable() and text == text.strip()):
        source.report(("admin", "key"), "cannot be sent in a header (ASCII, no outer blanks)")
    if text and any(text == _client_secret(entry) for entry in settings.client_keys):
        source.report(("admin", "key"), "is a client key too: every client could make keys", "take another")
    if admin.port is None:
        return
    if admin.port and admin.port == settings.server.port:
        source.report(("admin", "port"), f"{admin.port} is the server's own port", "take another, such as 4001")
    has_key = admin.key is not None or admin.key_file is not None or ("admin", "key") in source.unresolved
    if not has_key and not is_local:
        message = f"{admin.host} can be reached from other machines and the admin API has no credential"
        source.report(("admin", "host"), message, "write key: ${PENSTOCK_ADMIN_KEY}, or bind 127.0.0.1")


def _client_secret(entry: ClientKeySettings) -> str | None:
    try:
        return read_secret(entry.key, entry.key_file) or None
    except SecretFileError:  # reported where client keys are checked
        return None


def _check_secret_file(file: str, key: SettingKey, source: SettingsSource) -> str:
    try:
        text = read_secret(None, file)
    except SecretFileError as error:
        source.report(key, str(error))
        return ""
    if len(text) < _MIN_CHARACTERS:
        source.report(key, f"holds less than {_MIN_CHARACTERS} characters")
    return text
