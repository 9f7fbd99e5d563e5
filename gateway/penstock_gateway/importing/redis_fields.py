"""Host, port and password of a Redis as one URL.

Owns the making of that URL: credentials by reference only. Read `redis_url`.
"""

from __future__ import annotations

from collections.abc import Mapping

from penstock_gateway.importing.draft import Draft
from penstock_gateway.importing.foreign_yaml import Node
from penstock_gateway.importing.references import Reference

_ESCAPING = "it is a part of a URL now: characters such as @ : / # % have to be written as %40 %3A %2F %23 %25"


def redis_url(draft: Draft, fields: Mapping[str, Node], prefix: str, target: str) -> str | None:
    """Return the URL that some fields make together, and settle them.

    Parameters
    ----------
    draft : Draft
    fields : mapping of str to Node
        A section of the old configuration.
    prefix : str
        Of the names: ``"redis_"`` in router_settings, empty in cache_params.
    target : str
        Setting that will hold the URL.

    Returns
    -------
    str or None
        None when no host and no URL is given.
    """
    named = {
        name: fields[f"{prefix}{name}"]
        for name in ("host", "port", "password", "username", "db", "ssl")
        if f"{prefix}{name}" in fields
    }
    whole = fields.get("redis_url") or fields.get("url")
    if whole is not None and whole.value:
        found = draft.references.secret(whole, "REDIS_URL")
        if found is not None:
            reference, is_plain = found
            if is_plain:
                draft.findings.changed(whole, target, f"it may hold a password; export it as {reference[2:-1]}")
            else:
                draft.findings.mapped(whole, target)
            for node in named.values():
                draft.findings.dropped(node, "redis_url says it all", target)
            return reference
    host = draft.references.text(named["host"]) if "host" in named else None
    if host is None:
        for node in named.values():
            draft.findings.dropped(node, "there is no host to go with it", "redis.url")
        return None
    return _joined(draft, named, host, target)


def _joined(draft: Draft, named: Mapping[str, Node], host: str, target: str) -> str:
    findings = draft.findings
    port, database, user = (
        (draft.references.text(named[name]) if name in named else None) for name in ("port", "db", "username")
    )
    credential = ""
    if "password" in named:
        found = draft.references.secret(named["password"], "REDIS_PASSWORD")
        if found is not None:
            credential = f"{user or ''}:{found[0]}@"
            plain = f"; it stands in the old file, export it as {found[0][2:-1]}" if found[1] else ""
            findings.changed(named["password"], target, _ESCAPING + plain)
    is_encrypted = "ssl" in named and named["ssl"].value in (True, "true", "True")
    for node in named.values():
        findings.mapped(node, target)
    url = f"{'rediss' if is_encrypted else 'redis'}://{credential}{host}:{port or 6379}"
    url += f"/{database}" if database else ""
    return Reference(url)
