"""Whether the prices of a configuration exist and make sense.

Owns the problems that stop the gateway (no price, tiers out of order, numbers that cannot be exact) and the notes that
do not. Read `check_price`.
"""

from __future__ import annotations

from decimal import Decimal

from penstock_gateway.model_facts import ModelFacts
from penstock_gateway.money.prices import format_usd
from penstock_gateway.settings_deployments import facts_of, price_in, provider_of
from penstock_gateway.settings_models import DeploymentSettings, Settings
from penstock_gateway.settings_prices import price_notes, price_problems
from penstock_gateway.settings_source import SettingKey, SettingsSource

Note = tuple[str, str]

_CENT = Decimal("0.01")


def check_price(settings: Settings, entry: DeploymentSettings, key: SettingKey, source: SettingsSource) -> None:
    """Add a problem for a deployment without a price, and for everything that does not fit together in one.

    Parameters
    ----------
    settings : Settings
    entry : DeploymentSettings
        One of its deployments.
    key : SettingKey
        Where it stands.
    source : SettingsSource
    """
    if entry.price is not None:
        for path, message, hint in price_problems(entry.price):
            source.report((*key, "price", *path), message, hint)
    elif facts_of(entry) is None and (entry.unknown_price or settings.money.unknown_price) == "deny":
        if source.muted & {("money", "unknown_price"), (*key, "unknown_price")}:
            return  # it was meant to say something else than the default
        model = entry.model or entry.name
        message = f"the price of {provider_of(entry)} model {model!r} is not known"
        hint = (
            "add 'price: {input: …, output: …}', USD per million tokens, 0 for a model of your own; or 'unknown_price: "
            "estimate' or 'allow'"
        )
        source.report((*key, "price"), message, hint)


def notes_on_price(settings: Settings, entry: DeploymentSettings) -> list[Note]:
    """Return what is worth knowing about the price of a deployment: texts with hints."""
    facts = facts_of(entry)
    if entry.price is not None:
        notes = [(note, "") for note in price_notes(entry.price)]
        return notes + _dearer_writes(entry, facts)
    if facts is not None:
        return _long_prompts(entry, facts)
    price = price_in(settings, entry)
    if price.is_unknown:
        text = "its price is not known, so neither are its costs; keys with a budget cannot use it"
        return [(text, "add a price")]
    shown = f"{format_usd(price.input)} and {format_usd(price.output)} USD per million tokens"
    return [(f"its price is not known; its costs are estimated at {shown} ({price.source})", "add a price")]


def _dearer_writes(entry: DeploymentSettings, facts: ModelFacts | None) -> list[Note]:
    if facts is None or entry.price is None or entry.price.cache_write is not None:
        return []
    listed = facts.price.standard
    if listed.cache_write <= listed.input:
        return []
    share = format_usd((listed.cache_write / listed.input).quantize(_CENT))
    text = f"its provider charges {share} times the input price for cache writes, and the price has no cache_write"
    return [(text, "add cache_write to the price")]


def _long_prompts(entry: DeploymentSettings, facts: ModelFacts) -> list[Note]:
    """Say where a provider charges more for long prompts."""
    if facts.context_tokens >= facts.provider_context_tokens:
        return []
    if entry.context_tokens is None:
        text = (
            f"'auto' sends it at most {facts.context_tokens} prompt tokens: the provider charges more beyond, "
            f"up to its own limit of {facts.provider_context_tokens}"
        )
        return [(text, "set context_tokens to change that")]
    if entry.context_tokens > facts.context_tokens:
        text = f"the provider charges more beyond {facts.context_tokens} prompt tokens; 'auto' counts with that"
        return [(text, "lower context_tokens")]
    return []
