"""The bundled price list as shipped."""

from __future__ import annotations

from datetime import date
from decimal import Decimal
from importlib.resources import files

from penstock_gateway.deployments import Ability
from penstock_gateway.money.price_forms import RATE_NAMES, rates_of, too_fine
from penstock_gateway.money.snapshot import load_snapshot
from penstock_gateway.providers import PROVIDERS


def test_snapshot_as_shipped_is_small_and_dated() -> None:
    """It stays under 300 kB, has a date, and names the package it comes from."""
    content = files("penstock_gateway.money").joinpath("snapshot.json").read_bytes()
    snapshot = load_snapshot()
    assert len(content) <= 300_000
    assert date.fromisoformat(snapshot.as_of) >= date(2025, 1, 1)
    assert snapshot.litellm_version in snapshot.name


def test_snapshot_as_shipped_belongs_to_known_providers() -> None:
    """Each provider in it can be configured by that name."""
    assert set(load_snapshot().models) <= set(PROVIDERS)
    assert {
        "openai",
        "anthropic",
        "gemini",
        "mistral",
        "deepseek",
        "xai",
        "groq",
        "cohere",
        "together",
        "bedrock",
    } <= set(load_snapshot().models)


def test_model_in_the_snapshot_has_sane_numbers() -> None:
    """Prices are positive and finite, reading a cache is never dearer than reading, limits are positive."""
    names = {ability.value for ability in Ability}
    for provider, models in load_snapshot().models.items():
        for name, model in models.items():
            where = f"{provider}/{name}"
            assert 0 < model.input < 1000, where
            assert 0 < model.output <= 1000, where
            assert model.cached_input is None or 0 < model.cached_input <= model.input, where
            assert model.context_tokens > 0, where
            assert model.max_output_tokens > 0, where
            assert set(model.abilities) <= names, where
            assert "streaming" in model.abilities, where


def test_price_in_the_snapshot_is_whole_picodollars_in_every_tier() -> None:
    """No price needs rounding in the ledger's unit, products of service tiers included."""
    snapshot = load_snapshot()
    for provider, models in snapshot.models.items():
        for name, model in models.items():
            for rates in rates_of(model.price(snapshot)):
                assert too_fine(getattr(rates, kind) for kind in RATE_NAMES) is None, f"{provider}/{name}"


def test_long_prompts_in_the_snapshot_are_never_cheaper() -> None:
    """Tiers ascend, and none makes a longer prompt cheaper per token: a mistake of the map would show here."""
    snapshot = load_snapshot()
    for provider, models in snapshot.models.items():
        for name, model in models.items():
            price = model.price(snapshot)
            starts = [step.above_tokens for step in price.above]
            assert starts == sorted(set(starts)), f"{provider}/{name}"
            for step in price.above:
                assert step.rates.input >= price.input, f"{provider}/{name}"
                assert step.rates.output >= price.output, f"{provider}/{name}"


def test_cached_tokens_in_the_snapshot_cost_at_most_the_prompt_and_written_ones_at_least() -> None:
    """The order that every provider keeps: read from the cache ≤ plain ≤ written for minutes ≤ written for an hour."""
    snapshot = load_snapshot()
    for provider, models in snapshot.models.items():
        for name, model in models.items():
            for rates in rates_of(model.price(snapshot)):
                assert rates.cached_input <= rates.input <= rates.cache_write, f"{provider}/{name}"


def test_anthropics_models_in_the_snapshot_price_cache_writes() -> None:
    """The surcharge that gateways forget most is there: 1.25 and 2 times the prompt."""
    snapshot = load_snapshot()
    rates = snapshot.models["anthropic"]["claude-sonnet-4-6"].price(snapshot).standard
    assert (rates.cache_write / rates.input, rates.cache_write_1h / rates.input) == (Decimal("1.25"), Decimal(2))
