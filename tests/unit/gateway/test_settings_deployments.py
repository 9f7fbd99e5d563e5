"""Deployments from settings: every default, and where it comes from."""

from __future__ import annotations

import json
from decimal import Decimal
from pathlib import Path

import pytest

from penstock_gateway.configuration_problems import ConfigurationError
from penstock_gateway.deployments import TIERS, Ability, Deployment
from penstock_gateway.settings import Settings, build_deployments, load_settings, note_settings
from penstock_gateway.settings_deployments import read_artifact_arms, with_default_arm
from penstock_gateway.settings_models import (
    DeploymentSettings,
    ParameterSettings,
    RoutingSettings,
    TimeoutSettings,
)
from penstock_gateway.settings_prices import PriceSettings
from penstock_gateway.wiring import build_pipeline

PRICE = PriceSettings(input=Decimal(1), output=Decimal(2))


def _built(entry: DeploymentSettings) -> Deployment:
    return build_deployments(Settings(deployments=(entry,)))[0]


def test_known_model_of_a_known_provider_needs_nothing_more() -> None:
    """Provider and name give adapter, base URL, price, limits, abilities and rules."""
    built = _built(DeploymentSettings(name="gpt-5.4-mini", provider="openai", tier="medium"))
    assert (built.adapter, built.base_url, built.model) == ("direct", "https://api.openai.com/v1", "gpt-5.4-mini")
    assert (built.price.input, built.price.cached_input, built.price.output) == (
        Decimal("0.75"),
        Decimal("0.075"),
        Decimal("4.5"),
    )
    assert built.price.source.startswith("snapshot of litellm")
    assert built.price.as_of
    assert (built.context_tokens, built.max_output_tokens) == (272_000, 128_000)
    assert {Ability.STREAMING, Ability.TOOLS, Ability.VISION, Ability.JSON} <= built.abilities
    assert built.parameters.max_tokens_field == "max_completion_tokens"


def test_unknown_model_with_a_price_gets_cautious_limits() -> None:
    """Nothing is claimed of a model that nobody knows."""
    entry = DeploymentSettings(name="mine", base_url="http://127.0.0.1:8000/v1/", price=PRICE)
    built = _built(entry)
    assert built.base_url == "http://127.0.0.1:8000/v1"
    assert (built.context_tokens, built.max_output_tokens) == (8192, 4096)
    assert built.abilities == {Ability.STREAMING}
    notes = note_settings(Settings(deployments=(entry,)))
    assert any("cautious guesses" in note.message for note in notes)


def test_unknown_model_without_a_price_is_refused() -> None:
    """There is no such thing as an unpriced deployment."""
    with pytest.raises(ConfigurationError, match="has no price"):
        _built(DeploymentSettings(name="mine", base_url="http://127.0.0.1:8000/v1"))


def test_configured_values_win_over_the_known_ones() -> None:
    """Whatever stands in the configuration replaces the default, one field at a time."""
    built = _built(
        DeploymentSettings(
            name="fast",
            provider="openai",
            model="gpt-5.4-mini",
            base_url="https://gateway.example.org/v1",
            price=PRICE,
            context_tokens=1000,
            max_output_tokens=100,
            abilities=(Ability.TOOLS,),
            parameters=ParameterSettings(max_tokens_field="both", unsupported=("seed",), droppable={"n": 1}),
            timeouts=TimeoutSettings(connect_seconds=1, first_byte_seconds=2, idle_seconds=3, total_seconds=4),
            routable=False,
        )
    )
    assert (built.name, built.model) == ("fast", "gpt-5.4-mini")
    assert built.base_url == "https://gateway.example.org/v1"
    assert (built.price.input, built.price.reasoning) == (Decimal(1), Decimal(2))
    assert (built.context_tokens, built.max_output_tokens) == (1000, 100)
    assert built.abilities == {Ability.TOOLS}
    assert built.parameters.max_tokens_field == "both"
    assert built.parameters.unsupported == {"seed"}
    assert built.parameters.droppable == {"n": 1}
    assert (built.connect_timeout_seconds, built.first_byte_timeout_seconds) == (1.0, 2.0)
    assert (built.idle_timeout_seconds, built.total_timeout_seconds) == (3.0, 4.0)
    assert not built.is_routable


@pytest.mark.parametrize(
    ("provider", "model", "expected"),
    [
        ("bedrock", "amazon.nova-pro-v1:0", "bedrock/amazon.nova-pro-v1:0"),
        ("bedrock", "bedrock/amazon.nova-pro-v1:0", "bedrock/amazon.nova-pro-v1:0"),
        ("together", "Qwen/Qwen3-8B", "together_ai/Qwen/Qwen3-8B"),
        ("openai_compatible", "qwen", "openai/qwen"),
        ("some_new_provider", "x", "some_new_provider/x"),
    ],
)
def test_model_for_litellm_carries_its_provider(provider: str, model: str, expected: str) -> None:
    """The litellm adapter gets the model as litellm names it, provider first and once."""
    entry = DeploymentSettings(name="a", provider=provider, model=model, adapter="litellm", price=PRICE)
    assert _built(entry).model == expected


def test_adapter_of_each_kind_of_provider_follows_from_it() -> None:
    """Known OpenAI-compatible providers and plain base URLs are direct, others go through litellm."""
    adapters = [
        _built(DeploymentSettings(name="a", price=PRICE, **given)).adapter  # type: ignore[arg-type]
        for given in (
            {"provider": "mistral"},
            {"base_url": "http://h/v1"},
            {"provider": "bedrock"},
            {"provider": "azure"},
            {"provider": "azure", "base_url": "https://r.openai.azure.com/openai/v1"},
        )
    ]
    assert adapters == ["direct", "direct", "litellm", "litellm", "direct"]


def test_arm_of_a_deployment_is_own_name_then_tier(tmp_path: Path) -> None:
    """An arm named like the deployment wins over the tier's; a configured arm wins over both."""
    manifest = {"arms": [{"name": "qwen", "tier": None}, {"name": "small", "tier": "small"}], "else": 1}
    (tmp_path / "manifest.json").write_text(json.dumps(manifest))
    entries = tuple(
        DeploymentSettings(name=name, base_url="http://h/v1", price=PRICE, tier="small", arm=arm)
        for name, arm in (("qwen", None), ("llama", None), ("phi", "qwen"))
    )
    settings = Settings(deployments=entries, routing=RoutingSettings(artifact=str(tmp_path)))
    assert [built.arm for built in build_deployments(settings)] == ["qwen", "small", "qwen"]
    assert [built.arm for built in build_deployments(settings, artifact_arms=())] == ["small", "small", "qwen"]


def test_deployment_without_estimates_is_noted(tmp_path: Path) -> None:
    """A routable deployment that the artifact says nothing about is a note, not a refusal."""
    entry = DeploymentSettings(name="mine", base_url="http://h/v1", price=PRICE)
    notes = note_settings(Settings(deployments=(entry,)))
    assert any("no estimates" in note.message and "small" in note.hint for note in notes)


@pytest.mark.parametrize("content", [None, b"", b"{", b'{"arms": 5}', b"\xff"])
def test_artifact_that_cannot_be_read_is_noted_and_has_no_arms(tmp_path: Path, content: bytes | None) -> None:
    """A damaged artifact does not stop the gateway; the note says that the default arm answers."""
    if content is not None:
        (tmp_path / "manifest.json").write_bytes(content)
    entry = DeploymentSettings(name="mine", base_url="http://h/v1", price=PRICE, tier="small")
    settings = Settings(deployments=(entry,), routing=RoutingSettings(artifact=str(tmp_path)))
    assert build_deployments(settings)[0].arm == "small"
    assert any("no readable manifest" in note.message for note in note_settings(settings))


def test_long_context_surcharge_of_a_model_caps_its_default_context() -> None:
    """Routed prompts stay where the base price holds; an explicit limit goes beyond, at the provider's prices."""
    plain = DeploymentSettings(name="claude-haiku-5-5", provider="anthropic")
    beyond = DeploymentSettings(name="claude-haiku-5-5", provider="anthropic", context_tokens=900_000)
    assert _built(plain).context_tokens == 100_000
    assert _built(beyond).context_tokens == 900_000
    assert any("charges more beyond" in note.message for note in note_settings(Settings(deployments=(plain,))))
    messages = [note.message for note in note_settings(Settings(deployments=(beyond,)))]
    assert any("'auto' counts with that" in message for message in messages)
    rates = _built(beyond).price.rates_for(100_001)
    assert (rates.input, rates.output) == (Decimal("0.5"), Decimal("2.5"))


@pytest.mark.parametrize("manifest", [b'{"arms":' + b"[" * 100_000, b'{"arms":["\xff"]}', b"[]", b""])
def test_artifact_arms_damaged_manifest_has_none(tmp_path: Path, manifest: bytes) -> None:
    """Whatever stands in a manifest, the configuration can be read; the artifact is refused later."""
    (tmp_path / "manifest.json").write_bytes(manifest)
    assert read_artifact_arms(RoutingSettings(artifact=str(tmp_path))) == ()


def test_artifact_arms_bundled_name_means_the_bundled_folder() -> None:
    """A bundled artifact has the same arms by its name as by ``default``, and an unknown name has none."""
    assert read_artifact_arms(RoutingSettings(artifact="default-router")) == TIERS
    assert read_artifact_arms(RoutingSettings(artifact="no-such-router")) == ()


def test_pipeline_of_settings_made_in_python_has_the_artifacts_default_arm(tmp_path: Path) -> None:
    """The reference arm counts without a file too, and an artifact that is refused leaves that default."""
    (tmp_path / "manifest.json").write_text('{"arms": ["tiny", "big"], "reference_arm": "big"}')
    price = PriceSettings(input=Decimal(1), output=Decimal(1))
    entries = [DeploymentSettings(name=name, base_url="http://127.0.0.1:9/v1", price=price) for name in ("tiny", "big")]
    settings = Settings(deployments=tuple(entries), routing=RoutingSettings(artifact=str(tmp_path)))
    pipeline, finding = build_pipeline(settings, upstreams={})
    assert finding is not None
    assert pipeline.chooser.parts is None
    assert with_default_arm(settings).default_arm == "big"
    assert pipeline.chooser._default.name == "big"


def test_base_url_variable_in_force_is_noted() -> None:
    """Nobody should wonder where requests go."""
    environ = {"OPENAI_API_KEY": "k", "OPENAI_BASE_URL": "http://127.0.0.1:9/v1"}
    messages = [note.message for note in note_settings(load_settings(None, environ), environ)]
    expected = "OPENAI_BASE_URL is in force: requests go to http://127.0.0.1:9/v1, not to https://api.openai.com/v1"
    assert messages.count(expected) == 4
