"""Whether groups, fallbacks and the `attempts` section fit together.

Owns the checks of these alone. Read `check_attempts`.
"""

from __future__ import annotations

from penstock_gateway.configuration_problems import did_you_mean
from penstock_gateway.settings_models import Settings
from penstock_gateway.settings_source import SettingsSource


def check_attempts(settings: Settings, source: SettingsSource) -> None:
    """Add a problem to `source` for every group or fallback that cannot work, and for bounds in the wrong order."""
    _check_groups(settings, source)
    _check_fallbacks(settings, source)
    attempts = settings.attempts
    for section, low, high in (
        ((), "backoff_seconds", "max_backoff_seconds"),
        (("breaker",), "open_seconds", "max_open_seconds"),
        (("breaker",), "rate_limited_seconds", "max_cool_seconds"),
        (("balance",), "pressure_low", "pressure_high"),
    ):
        part = attempts if not section else getattr(attempts, section[0])
        if getattr(part, low) > getattr(part, high):
            source.report(("attempts", *section, high), f"is below {low}", f"raise it, or lower {low}")


def _check_groups(settings: Settings, source: SettingsSource) -> None:
    names = {entry.name for entry in settings.deployments}
    for index, entry in enumerate(settings.deployments):
        group = entry.group
        if group is None:
            continue
        if group in names:
            message = f"{group!r} is the name of a deployment, so clients could not ask for the group"
            source.report(("deployments", index, "group"), message, "take another name")
        if group == "auto" or group.startswith(("auto:", "auto@")):
            message = f"{group!r} is how clients let Penstock choose"
            source.report(("deployments", index, "group"), message, "take another name")


def _check_fallbacks(settings: Settings, source: SettingsSource) -> None:
    names = [entry.name for entry in settings.deployments]
    known = [*names, *dict.fromkeys(entry.group for entry in settings.deployments if entry.group is not None)]
    for index, entry in enumerate(settings.deployments):
        for position, name in enumerate(entry.fallbacks):
            key = ("deployments", index, "fallbacks", position)
            if name == entry.name:
                source.report(key, f"{name!r} cannot be its own fallback", "remove it")
            elif name not in known:
                message = f"there is no deployment or group {name!r}"
                source.report(key, message, did_you_mean(name, known))
