"""What is known of models: exact look-ups and parameter rules."""

from __future__ import annotations

from datetime import date, timedelta

import pytest

from penstock_gateway.deployments import Ability, HiddenReasoning
from penstock_gateway.environment import default_arm_of, deployments_from_keys
from penstock_gateway.model_facts import find_model, find_rules
from penstock_gateway.money.snapshot import load_snapshot


def test_dated_name_of_a_known_model_is_found() -> None:
    """A date at the end of a name is no other model."""
    plain = find_model("openai", "gpt-5.4-mini", "direct")
    assert plain is not None
    assert find_model("openai", "gpt-5.4-mini-2026-03-17", "direct") == plain
    assert find_model("anthropic", "claude-haiku-4-5-20251001", "direct") == find_model(
        "anthropic", "claude-haiku-4-5", "direct"
    )


@pytest.mark.parametrize("name", ["gpt-5.4-mini-turbo", "gpt-5.4-min", "GPT-5.4-mini", "gpt-5.4-mini-2026", ""])
def test_similar_name_of_a_known_model_is_not_found(name: str) -> None:
    """A near name is never taken for a known one: it could cost anything."""
    assert find_model("openai", name, "direct") is None


def test_model_of_another_provider_is_not_found() -> None:
    """Prices belong to a provider."""
    assert find_model("groq", "gpt-5.4-mini", "direct") is None


@pytest.mark.parametrize("model", ["o1", "o3", "o4-mini", "gpt-5", "gpt-5-mini-2025-08-07", "gpt-5.5", "gpt-6-astra"])
def test_reasoning_model_of_openai_takes_the_new_length_field_and_fixed_sampling(model: str) -> None:
    """Reasoning models take max_completion_tokens, and sampling fields only at their defaults."""
    rules = find_rules("openai", model, "direct")
    assert rules.max_tokens_field == "max_completion_tokens"
    assert rules.droppable["temperature"] == 1
    assert rules.droppable["top_p"] == 1
    assert "logit_bias" in rules.unsupported


@pytest.mark.parametrize("model", ["gpt-5.1", "gpt-5.4", "gpt-5.4-mini"])
def test_optionally_reasoning_model_of_openai_takes_sampling(model: str) -> None:
    """Models that do not reason unless asked take a temperature."""
    rules = find_rules("openai", model, "direct")
    assert rules.max_tokens_field == "max_completion_tokens"
    assert "temperature" not in rules.droppable


@pytest.mark.parametrize("model", ["gpt-4o", "gpt-4.1-mini", "gpt-3.5-turbo", "gpt-oss-120b", "omni-x"])
def test_older_model_of_openai_takes_the_common_schema_without_an_effort(model: str) -> None:
    """Models before the reasoning ones take the common schema; those that are known not to reason refuse an effort."""
    rules = find_rules("openai", model, "direct")
    known = model in ("gpt-4o", "gpt-4.1-mini", "gpt-3.5-turbo")
    assert rules.unsupported == (frozenset({"reasoning_effort"}) if known else frozenset())
    assert (rules.max_tokens_field, rules.droppable) == ("both", {})
    assert "reasoning_effort" not in find_rules("openai", "gpt-5.4", "direct").unsupported


def test_claude_can_do_json_and_documents_but_no_sound() -> None:
    """Its own API has structured outputs and documents, and no content block for sound."""
    direct = find_model("anthropic", "claude-haiku-4-5", "direct")
    assert direct is not None
    assert {Ability.JSON, Ability.DOCUMENTS} <= direct.abilities
    assert Ability.AUDIO not in direct.abilities


def test_newer_claude_of_any_provider_refuses_sampling() -> None:
    """Models marked as taking no sampling have it fixed, wherever they are served."""
    assert find_rules("anthropic", "claude-opus-5-5", "direct").droppable["temperature"] == 1
    assert "temperature" not in find_rules("anthropic", "claude-haiku-4-5", "direct").droppable
    assert find_rules("bedrock", "anthropic.claude-haiku-5-5", "litellm").droppable["temperature"] == 1


@pytest.mark.parametrize(
    ("provider", "model", "hidden"),
    [
        ("openai", "gpt-5", HiddenReasoning.ALWAYS),
        ("azure", "o3", HiddenReasoning.ALWAYS),
        ("openai", "gpt-5.4", HiddenReasoning.ON_REQUEST),
        ("openai", "gpt-4o", HiddenReasoning.NEVER),
        ("gemini", "gemini-2.5-flash", HiddenReasoning.ALWAYS),
        ("deepinfra", "google/gemini-2.5-pro", HiddenReasoning.ALWAYS),
        ("anthropic", "claude-haiku-4-5", HiddenReasoning.ON_REQUEST),
        ("anthropic", "claude-opus-5-5", HiddenReasoning.ALWAYS),
        ("bedrock", "anthropic.claude-opus-4-7", HiddenReasoning.ON_REQUEST),
        ("deepseek", "deepseek-reasoner", HiddenReasoning.NEVER),
        ("groq", "openai/gpt-oss-120b", HiddenReasoning.NEVER),
    ],
)
def test_reasoning_of_each_maker_is_known_to_be_shown_or_not(
    provider: str, model: str, hidden: HiddenReasoning
) -> None:
    """Servers of open models stream what the model thinks; the others bill tokens that no byte shows."""
    facts = find_model(provider, model, "direct")
    assert facts is not None
    assert facts.hidden_reasoning is hidden


def test_mistral_takes_only_the_old_length_field() -> None:
    """Mistral refuses fields that it does not know."""
    assert find_rules("mistral", "mistral-large-latest", "direct").max_tokens_field == "max_tokens"


def test_unknown_provider_has_no_rules() -> None:
    """A server of one's own takes what is sent."""
    assert find_rules("openai_compatible", "gpt-5", "direct").max_tokens_field == "both"


@pytest.mark.parametrize("variable", ["OPENAI_API_KEY", "ANTHROPIC_API_KEY"])
def test_default_models_of_each_provider_are_priced_current_and_in_order(variable: str) -> None:
    """Models taken without a file are in the snapshot, rise in price with the tier, and last for three months."""
    entries = deployments_from_keys({variable: "k"})
    facts = [find_model(str(entry["provider"]), str(entry["name"]), "direct") for entry in entries]
    outputs = [found.price.output for found in facts if found is not None]
    assert [entry["tier"] for entry in entries] == ["small", "medium", "large", "frontier"]
    assert len(outputs) == 4
    assert outputs == sorted(outputs)
    soon = date.fromisoformat(load_snapshot().as_of) + timedelta(days=90)
    for found in facts:
        assert found is not None
        assert not found.deprecated_on or date.fromisoformat(found.deprecated_on) > soon
    assert default_arm_of(entries) == entries[2]["name"]
