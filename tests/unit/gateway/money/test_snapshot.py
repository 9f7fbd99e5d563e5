"""The bundled price list as shipped."""

from __future__ import annotations

from datetime import date
from importlib.resources import files

from penstock_gateway.deployments import Ability
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
