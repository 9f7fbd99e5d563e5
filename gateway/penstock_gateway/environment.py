"""Settings without a file: which deployments follow from the provider keys in the environment.

Owns the choice of default models per provider. It reads the mapping it is given, never `os.environ`. Read
`deployments_from_keys` first.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from penstock_gateway.providers import PROVIDERS


@dataclass(frozen=True, slots=True)
class _DefaultModel:
    tier: str
    model: str


# One generally available model per tier; USD per million input / output tokens of the bundled snapshot. The large ones,
# which answer when in doubt, are chosen among those that still take `temperature`, because most clients send it; newer
# models of both makers refuse it. A test checks that each is priced, in rising order, and not about to be switched off.
_DEFAULT_MODELS: dict[str, tuple[_DefaultModel, ...]] = {
    "openai": (
        _DefaultModel("small", "gpt-6-luna"),  # 0.10 / 0.50
        _DefaultModel("medium", "gpt-5.4-mini"),  # 0.75 / 4.50
        _DefaultModel("large", "gpt-5.4"),  # 2.50 / 15
        _DefaultModel("frontier", "gpt-6-astra"),  # 10 / 50
    ),
    "anthropic": (
        _DefaultModel("small", "claude-haiku-5-5"),  # 0.10 / 0.50
        _DefaultModel("medium", "claude-haiku-4-5"),  # 1 / 5
        _DefaultModel("large", "claude-sonnet-4-6"),  # 3 / 15
        _DefaultModel("frontier", "claude-opus-5-5"),  # 4 / 20
    ),
}
_DEFAULT_TIER = "large"
"""Tier of the default arm without a file: what most applications would call, not the dearest there is."""

BASE_URL_VARIABLES = {"openai": "OPENAI_BASE_URL"}


def deployments_from_keys(environ: Mapping[str, str]) -> list[dict[str, object]]:
    """Return deployment settings for the providers whose key is set.

    Parameters
    ----------
    environ : mapping of str to str
        ``OPENAI_API_KEY`` and ``ANTHROPIC_API_KEY`` are looked at, and ``OPENAI_BASE_URL`` is respected. Anthropic is
        reached through its OpenAI-compatible endpoint, which needs no further package.

    Returns
    -------
    list of dict
        Four per provider, one of each tier, as they would stand in a file; empty when no key is set.
    """
    found: list[dict[str, object]] = []
    for provider, models in _DEFAULT_MODELS.items():
        key = environ.get(PROVIDERS[provider].key_variable, "")
        if not key:
            continue
        base_url = environ.get(BASE_URL_VARIABLES.get(provider, ""), "")
        for entry in models:
            deployment: dict[str, object] = {
                "name": entry.model,
                "provider": provider,
                "tier": entry.tier,
                "api_key": key,
            }
            if base_url:
                deployment["base_url"] = base_url
            found.append(deployment)
    return found


def default_arm_of(deployments: list[dict[str, object]]) -> str:
    """Return the name of the default arm among `deployments_from_keys`: the first of the large tier."""
    return next(str(entry["name"]) for entry in deployments if entry["tier"] == _DEFAULT_TIER)


def describe_keys() -> list[str]:
    """Return the variables that make the gateway work without a file."""
    return [PROVIDERS[provider].key_variable for provider in _DEFAULT_MODELS]
