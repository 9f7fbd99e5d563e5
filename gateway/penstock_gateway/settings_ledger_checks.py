"""Whether the `ledger` section fits together and has what it needs.

Owns the checks of that section alone. Read `check_ledger`.
"""

from __future__ import annotations

from penstock_gateway.settings_models import Settings
from penstock_gateway.settings_redis_checks import check_redis_url
from penstock_gateway.settings_source import SettingKey, SettingsSource


def check_ledger(settings: Settings, source: SettingsSource) -> None:
    """Add a problem to `source` for everything in the ledger's settings that cannot work."""
    ledger = settings.ledger
    key: SettingKey = ("ledger",)
    if ledger.slice_seconds < ledger.lease_seconds:
        message = f"is shorter than lease_seconds ({ledger.lease_seconds:g}), and slices are prolonged with the leases"
        source.report((*key, "slice_seconds"), message, "raise it, or lower lease_seconds")
    if ledger.kind == "redis":
        check_redis_url(settings, source, "ledger")
