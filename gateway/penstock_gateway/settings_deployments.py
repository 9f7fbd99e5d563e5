"""From the settings to the deployments that the request path uses: every default filled in.

Owns the rules for defaults (provider, adapter, base URL, price, limits, abilities, arm). It checks nothing twice:
`settings.load_settings` has refused what cannot work. Read `build_deployments` first.
"""

from __future__ import annotations

import re
from collections.abc import Collection
from pathlib import Path

import msgspec

from penstock_gateway.configuration_problems import ConfigurationError, Problem, setting_path
from penstock_gateway.deployment_prices import known_price, stand_in_price
from penstock_gateway.deployments import TIERS, TRANSLATED, Ability, Deployment, HiddenReasoning, ParameterRules
from penstock_gateway.model_facts import ModelFacts, find_model, find_rules
from penstock_gateway.money.prices import Price
from penstock_gateway.providers import PROVIDERS
from penstock_gateway.settings_models import DeploymentSettings, RoutingSettings, Settings
from penstock_gateway.settings_secrets import SecretFileError, read_secret
from penstock_gateway.wire.formats import WireFormat
from penstock_routers.bundled import bundled_folder
from penstock_routers.errors import ArtifactError, RouterError
from penstock_routers.registry_layout import artifact_path, is_registry, read_pointer

# platform.openai.com/docs/models: what answers text completions, and nothing else.
_TEXT_MODEL = re.compile(r"-instruct\b|^babbage-|^davinci-")
UNKNOWN_CONTEXT_TOKENS = 8192
UNKNOWN_MAX_OUTPUT_TOKENS = 4096
DEFAULT_ARTIFACT = "default-router"
DEFAULT_REFERENCE_ARM = "frontier"
_MAX_MANIFEST_BYTES = 8_388_608


class _ManifestArm(msgspec.Struct):
    name: str


class _ManifestArms(msgspec.Struct):
    arms: list[_ManifestArm | str]
    reference_arm: str = ""


def build_deployments(settings: Settings, *, artifact_arms: Collection[str] | None = None) -> tuple[Deployment, ...]:
    """Return the deployments of a configuration, in its order, with every default filled in.

    Parameters
    ----------
    settings : Settings
    artifact_arms : collection of str, optional
        Arms of the router artifact, to find the arm of a deployment that names none; read from the configured
        artifact's manifest when not given.

    Returns
    -------
    tuple of Deployment

    Raises
    ------
    ConfigurationError
        A deployment has no price or a key file cannot be used. `load_settings` finds these earlier, with lines.
    """
    arms = read_artifact_arms(settings.routing) if artifact_arms is None else artifact_arms
    deployments: list[Deployment] = []
    problems: list[Problem] = []
    for index, entry in enumerate(settings.deployments):
        try:
            deployments.append(_build(settings, entry, arms))
        except (LookupError, SecretFileError) as error:
            problems.append(Problem("settings", setting_path(("deployments", index)), str(error)))
    if problems:
        raise ConfigurationError(problems)
    return tuple(deployments)


def _build(settings: Settings, entry: DeploymentSettings, arms: Collection[str]) -> Deployment:
    provider, adapter = provider_of(entry), adapter_of(entry)
    model = entry.model or entry.name
    facts = facts_of(entry)
    return Deployment(
        name=entry.name,
        model=_litellm_name(provider, model) if adapter == "litellm" else model,
        adapter=adapter,
        base_url=base_url_of(entry),
        tier=entry.tier,
        arm=arm_of(entry, arms),
        price=price_in(settings, entry),
        context_tokens=entry.context_tokens or (facts.context_tokens if facts else UNKNOWN_CONTEXT_TOKENS),
        max_output_tokens=entry.max_output_tokens or (facts.max_output_tokens if facts else UNKNOWN_MAX_OUTPUT_TOKENS),
        abilities=_abilities_of(entry, facts),
        parameters=rules_of(entry),
        api_key=read_secret(entry.api_key, entry.api_key_file),
        headers={name: value.get_secret_value() for name, value in entry.headers.items()},
        connect_timeout_seconds=entry.timeouts.connect_seconds,
        first_byte_timeout_seconds=entry.timeouts.first_byte_seconds,
        idle_timeout_seconds=entry.timeouts.idle_seconds,
        total_timeout_seconds=entry.timeouts.total_seconds,
        is_routable=entry.routable and any(wire in TRANSLATED for wire in wires_of(entry)),
        provider=provider,
        group=entry.group,
        fallbacks=entry.fallbacks,
        max_parallel_requests=entry.max_parallel_requests,
        on_disconnect=entry.on_disconnect,
        wires=wires_of(entry),
        hidden_reasoning=facts.hidden_reasoning if facts else HiddenReasoning.NEVER,
    )


def provider_of(entry: DeploymentSettings) -> str:
    """Return the provider's name; a base URL without a provider is some OpenAI-compatible server."""
    return entry.provider or "openai_compatible"


def adapter_of(entry: DeploymentSettings) -> str:
    """Return the adapter: as configured, else the provider's, else by whether there is a base URL."""
    if entry.adapter is not None:
        return entry.adapter
    known = PROVIDERS.get(provider_of(entry))
    if entry.base_url is not None and provider_of(entry) == "azure":
        return "direct"  # Azure's own /openai/v1 endpoint takes the common schema
    return known.adapter if known else "direct" if entry.base_url else "litellm"


def wires_of(entry: DeploymentSettings) -> tuple[WireFormat, ...]:
    """Return what the server speaks: as configured, else what the provider's own does."""
    if adapter_of(entry) == "litellm":
        return (WireFormat.CHAT,)
    if entry.wire_formats is not None:
        return tuple(dict.fromkeys(entry.wire_formats))
    provider = PROVIDERS.get(provider_of(entry), PROVIDERS["openai_compatible"])
    if provider.name == "openai" and _TEXT_MODEL.search(entry.model or entry.name):
        return (WireFormat.COMPLETIONS,)
    return provider.wires


def base_url_of(entry: DeploymentSettings) -> str:
    """Return the base URL without a slash at its end; empty when litellm knows it."""
    if entry.base_url is not None:
        return entry.base_url.rstrip("/")
    known = PROVIDERS.get(provider_of(entry))
    return known.base_url if known and adapter_of(entry) == "direct" else ""


def facts_of(entry: DeploymentSettings) -> ModelFacts | None:
    """Return what the snapshot knows of the deployment's model."""
    return find_model(provider_of(entry), entry.model or entry.name, adapter_of(entry))


def price_in(settings: Settings, entry: DeploymentSettings) -> Price:
    """Return the price of a deployment: configured, the snapshot's, or what ``money.unknown_price`` makes of none.

    Raises
    ------
    LookupError
        It has none, and that is not allowed.
    """
    if (known := known_price(entry, facts_of(entry))) is not None:
        return known
    policy = entry.unknown_price or settings.money.unknown_price
    if policy == "deny":
        raise LookupError(f"deployment {entry.name!r} has no price")
    others = [other for other in settings.deployments if entry.tier is not None and other.tier == entry.tier]
    tier_prices = [price for other in others if (price := known_price(other, facts_of(other))) is not None]
    return stand_in_price(provider_of(entry), entry.tier, tier_prices, is_allowed=policy == "allow")


def arm_of(entry: DeploymentSettings, arms: Collection[str]) -> str:
    """Return the artifact arm of a deployment: as configured, its own name if the artifact has it, else its tier.

    Without a tier, its own name, for which there are then no estimates.
    """
    if entry.arm is not None:
        return entry.arm
    return entry.name if entry.name in arms or entry.tier is None else entry.tier


def rules_of(entry: DeploymentSettings) -> ParameterRules:
    """Return the parameter rules: the built-in ones of the model, replaced where configured."""
    built_in = find_rules(provider_of(entry), entry.model or entry.name, adapter_of(entry))
    given = entry.parameters
    return ParameterRules(
        max_tokens_field=given.max_tokens_field or built_in.max_tokens_field,
        unsupported=built_in.unsupported if given.unsupported is None else frozenset(given.unsupported),
        droppable=built_in.droppable if given.droppable is None else dict(given.droppable),
        max_stops=given.max_stops or built_in.max_stops,
    )


def _abilities_of(entry: DeploymentSettings, facts: ModelFacts | None) -> frozenset[Ability]:
    if entry.abilities is not None:
        return frozenset(entry.abilities)
    return facts.abilities if facts else frozenset({Ability.STREAMING})


def _litellm_name(provider: str, model: str) -> str:
    """Return the model as litellm names it: with the provider in front."""
    if provider == "openai_compatible":
        provider = "openai"  # litellm's name for "any server with this schema", with api_base
    if provider == "together":
        provider = "together_ai"
    if provider == "fireworks":
        provider = "fireworks_ai"
    return model if model.startswith(provider + "/") else f"{provider}/{model}"


def artifact_folder(routing: RoutingSettings) -> Path | None:
    """Return the folder of the configured router artifact, in a registry the one in force or pinned; None if off.

    Raises
    ------
    RouterError
        Nothing bundled has that name, or the registry has nothing in force.
    """
    if routing.artifact == "none":
        return None
    folder = model_folder(DEFAULT_ARTIFACT if routing.artifact == "default" else routing.artifact)
    if not is_registry(folder):
        return folder
    if routing.artifact_digest is not None:
        return folder / artifact_path(routing.artifact_digest)
    pointer = read_pointer(folder)
    if pointer is None:
        raise ArtifactError(f"nothing has been published in {folder.name!r}", code="registry_empty")
    return folder / artifact_path(pointer.id)


def model_folder(name: str) -> Path:
    """Return the folder of an artifact or encoder: a path when it looks like one or exists, else a bundled folder.

    Raises
    ------
    RouterError
        Nothing bundled has that name.
    """
    path = Path(name).expanduser()
    return path if len(path.parts) > 1 or path.exists() else bundled_folder(name)


def read_artifact_arms(routing: RoutingSettings) -> tuple[str, ...]:
    """Return the arm names in the configured artifact's manifest, without loading the artifact.

    An artifact that is missing or damaged has none here: it is refused later, with the reason, and the gateway serves
    its default arm. The bundled artifact always has the four tiers.
    """
    return _read_arms(routing)[0]


def read_reference_arm(routing: RoutingSettings) -> str:
    """Return the default arm that the configured artifact was measured with; empty when there is none to read."""
    return _read_arms(routing)[1]


def with_default_arm(settings: Settings) -> Settings:
    """Settle the default arm when none is configured: the first routable deployment on the artifact's reference arm.

    Parameters
    ----------
    settings : Settings

    Returns
    -------
    Settings
        The same ones when a default arm is configured, or when no deployment is on that arm: `Settings.default_arm`
        then takes the highest tier, and among equals the first.
    """
    if settings.routing.default_arm is not None:
        return settings
    arms, reference = _read_arms(settings.routing)
    name = next(
        (e.name for e in settings.deployments if e.routable and reference and arm_of(e, arms) == reference), None
    )
    return settings.model_copy(update={"routing": settings.routing.model_copy(update={"default_arm": name})})


def _read_arms(routing: RoutingSettings) -> tuple[tuple[str, ...], str]:
    """Return the artifact's arms and its reference arm."""
    if routing.artifact == "default":
        return TIERS, DEFAULT_REFERENCE_ARM
    try:
        folder = artifact_folder(routing)
        if folder is None:
            return (), ""
        with (folder / "manifest.json").open("rb") as file:
            manifest = msgspec.json.decode(file.read(_MAX_MANIFEST_BYTES), type=_ManifestArms)
    except (RouterError, OSError, msgspec.MsgspecError, UnicodeDecodeError, RecursionError):
        return (), ""
    return tuple(arm if isinstance(arm, str) else arm.name for arm in manifest.arms), manifest.reference_arm
