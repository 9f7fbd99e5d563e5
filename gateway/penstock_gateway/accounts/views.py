"""Keys, teams and tags as the admin API shows them: never a secret, never a digest.

Read `key_view`.
"""

from __future__ import annotations

from typing import Any

from penstock_gateway.accounts.fields import iso, shown_fields
from penstock_gateway.accounts.key_format import PREFIX
from penstock_gateway.accounts.records import StoredKey, StoredTag, StoredTeam
from penstock_gateway.accounts.table import GroupEntry, KeyEntry
from penstock_gateway.settings_accounts import KeyFields, PolicyFields, TagFields


def key_view(entry: KeyEntry, now: float) -> dict[str, Any]:
    """Return one key.

    Parameters
    ----------
    entry : KeyEntry
    now : float
        UNIX seconds.

    Returns
    -------
    dict
        ``state`` is ``active``, ``expired``, ``revoked`` or ``blocked``; ``secrets`` lists when each of its secrets
        ends, the newest first.
    """
    fields = entry.fields
    stored = fields if isinstance(fields, StoredKey) else None
    return {
        "object": "key",
        "id": entry.id,
        "name": entry.name,
        "source": entry.source,
        "prefix": None if stored is None else f"{PREFIX}{entry.id}_",
        "state": _state(entry, now),
        **shown_fields(fields, KeyFields.model_fields),
        "created_at": None if stored is None else iso(stored.created_at),
        "rotated_at": None if stored is None else iso(stored.rotated_at),
        "revoked_at": None if stored is None else iso(stored.revoked_at),
        "secrets": []
        if stored is None
        else [{"ends_at": iso(s.ends_at)} for s in stored.secrets if s.ends_at is None or s.ends_at > now],
    }


def group_view(kind: str, entry: GroupEntry) -> dict[str, Any]:
    """Return one team or tag.

    Parameters
    ----------
    kind : str
        ``team`` or ``tag``.
    entry : GroupEntry
    """
    fields = entry.fields
    created_at = fields.created_at if isinstance(fields, StoredTeam | StoredTag) else None
    model = PolicyFields if isinstance(fields, PolicyFields) else TagFields
    return {
        "object": kind,
        "name": entry.name,
        "source": entry.source,
        **shown_fields(fields, model.model_fields),
        "created_at": iso(created_at),
    }


def _state(entry: KeyEntry, now: float) -> str:
    if entry.refusal is not None:
        return entry.refusal.value.removeprefix("api_key_")
    ends_at = entry.fields.expires_at
    return "expired" if ends_at is not None and now >= ends_at else "active"
