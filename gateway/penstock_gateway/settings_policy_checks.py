"""Whether floors, key defaults and the event log agree with the rest of a configuration.

Owns the checks of what `request_policy` takes for granted; those of the event log are `settings_events_checks`'s. Read
`check_policies` first.
"""

from __future__ import annotations

from penstock_gateway.configuration_problems import did_you_mean
from penstock_gateway.deployments import TIERS
from penstock_gateway.settings_deployments import with_default_arm
from penstock_gateway.settings_events_checks import check_events
from penstock_gateway.settings_models import ClientKeySettings, Settings
from penstock_gateway.settings_source import SettingKey, SettingsSource


def check_policies(settings: Settings, source: SettingsSource) -> None:
    """Add a problem to `source` for a floor that the default arm breaks, for contradictory keys, and for a bad folder.

    Parameters
    ----------
    settings : Settings
        Valid in shape.
    source : SettingsSource
        Where each setting was written.

    Notes
    -----
    The default arm answers whenever the router does not know, so every floor must let it: a floor above it would turn
    each doubt into a refusal.
    """
    _check_floors(settings, source)
    _check_keys(settings, source)
    check_events(settings, source)


def check_floor_categories(settings: Settings, source: SettingsSource, categories: tuple[str, ...]) -> None:
    """Add a problem for a floor of a category that the artifact cannot recognise: it would apply to every prompt.

    Parameters
    ----------
    settings : Settings
    source : SettingsSource
    categories : tuple of str
        Those of the artifact.
    """
    for key, floors in _floors_of(settings):
        for category in floors:
            if category not in categories:
                near = did_you_mean(category, categories)
                message = f"the artifact has no category {category!r}, so this floor would apply to every prompt"
                source.report((*key, category), message, near)


def unknown_floors(settings: Settings, categories: tuple[str, ...]) -> list[str]:
    """Return the floored categories that an artifact does not know, in the order of the alphabet."""
    return sorted({name for _, floors in _floors_of(settings) for name in floors} - set(categories))


def _check_floors(settings: Settings, source: SettingsSource) -> None:
    if ("deployments",) in source.muted or not settings.deployments:
        return
    name = with_default_arm(settings).default_arm
    default = next((entry for entry in settings.deployments if entry.name == name), None)
    if default is None:  # reported by name already
        return
    rank = TIERS.index(default.tier) if default.tier is not None else -1
    for key, floors in _floors_of(settings):
        for category, tier in floors.items():
            if TIERS.index(tier) > rank:
                has = f"is of tier {default.tier}" if default.tier else "has no tier"
                message = f"the default arm {name!r} {has}, below this floor, and answers whenever the router is unsure"
                hint = f"set routing.default_arm to a deployment of tier {tier} or above"
                source.report((*key, category), message, hint)


def _floors_of(settings: Settings) -> list[tuple[SettingKey, dict[str, str]]]:
    found: list[tuple[SettingKey, dict[str, str]]] = [
        (("routing", "category_floors"), dict(settings.routing.category_floors))
    ]
    for index, entry in enumerate(settings.client_keys):
        found.append((("client_keys", index, "category_floors"), dict(entry.category_floors)))
    return found


def _check_keys(settings: Settings, source: SettingsSource) -> None:
    first: dict[str, ClientKeySettings] = {}
    for index, entry in enumerate(settings.client_keys):
        if entry.tradeoff is not None and entry.min_quality is not None:
            message = f"{entry.name!r} has a tradeoff too, and a minimum of quality takes its place"
            source.report(("client_keys", index, "min_quality"), message, "keep one of them")
        other = first.setdefault(entry.name, entry)
        if _policy(entry) != _policy(other):
            message = f"{entry.name!r} has two keys with different defaults; a decision is made by name"
            source.report(("client_keys", index, "name"), message, "give them the same, or different names")


def _policy(entry: ClientKeySettings) -> tuple[object, ...]:
    return entry.tradeoff, entry.max_cost_usd, entry.min_quality, entry.explore_rate, entry.category_floors
