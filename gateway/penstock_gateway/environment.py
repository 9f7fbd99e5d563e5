"""Settings without a file: what follows from the variables that OpenAI's, Anthropic's and LiteLLM's users have set.

Owns the choice of default models per provider and the list of foreign variables that are read (docs/litellm.md has the
table). It reads the mapping it is given, never `os.environ`, and nothing a client sends. Read `deployments_from_keys`
first, then `use_foreign_variables`.
"""

from __future__ import annotations

import ipaddress
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final
from urllib.parse import quote, urlsplit

from penstock_gateway.configuration_problems import ConfigurationError, Problem
from penstock_gateway.providers import PROVIDERS
from penstock_gateway.settings_source import SettingKey, SettingsSource, plain_value


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
    "gemini": (
        _DefaultModel("small", "gemini-3.5-flash-lite"),  # 0.30 / 2.50
        _DefaultModel("medium", "gemini-3.8-flash"),  # 0.75 / 3.75
        _DefaultModel("large", "gemini-3.5-flash"),  # 1.50 / 9
        _DefaultModel("frontier", "gemini-4-argon"),  # 2 / 10
    ),
    "mistral": (
        _DefaultModel("small", "ministral-8b-latest"),  # 0.15 / 0.15
        _DefaultModel("medium", "mistral-small-latest"),  # 0.15 / 0.60
        _DefaultModel("large", "mistral-large-latest"),  # 0.50 / 1.50
        _DefaultModel("frontier", "mistral-large-4"),  # 0.68 / 2.09
    ),
}
_DEFAULT_TIER = "large"
"""Tier of the default arm without a file: what most applications would call, not the dearest there is."""

BASE_URL_VARIABLES = {"openai": "OPENAI_BASE_URL", "anthropic": "ANTHROPIC_BASE_URL"}
"""Provider → the variable in which its own SDK looks for another address."""

_OLDER_BASE_URL_VARIABLES: Final = {"openai": "OPENAI_API_BASE", "anthropic": "ANTHROPIC_API_BASE"}

# Other names of key variables: Google's SDK, docs.litellm.ai/docs/providers, Cohere's SDK.
_OTHER_KEY_VARIABLES: Final = {
    "gemini": ("GOOGLE_API_KEY",),
    "together": ("TOGETHERAI_API_KEY", "TOGETHER_AI_API_KEY"),
    "fireworks": ("FIREWORKS_AI_API_KEY",),
    "cohere": ("CO_API_KEY",),
    "openrouter": ("OR_API_KEY",),
}
MASTER_KEY_VARIABLE: Final = "LITELLM_MASTER_KEY"
MASTER_KEY_NAME: Final = "litellm-master"
_DEFAULT_HOST: Final = "127.0.0.1"
_DEFAULT_PORT: Final = 4000
_REDIS_USERS: Final = (("ledger", "kind"), ("accounts", "store"), ("cache", "store", "kind"))


def deployments_from_keys(
    environ: Mapping[str, str], server: Mapping[str, object] | None = None
) -> list[dict[str, object]]:
    """Return deployment settings for the providers whose key is set.

    Parameters
    ----------
    environ : mapping of str to str
        ``OPENAI_API_KEY``, ``ANTHROPIC_API_KEY``, ``GEMINI_API_KEY`` (or ``GOOGLE_API_KEY``) and ``MISTRAL_API_KEY``
        are looked at, and the first two providers' base URLs respected.
    server : mapping, optional
        The ``server`` section as far as it is set, to know the gateway's own address.

    Returns
    -------
    list of dict
        Four per provider, one of each tier, as they would stand in a file; empty when no key is set.

    Raises
    ------
    ConfigurationError
        A base URL is the gateway's own address: it is meant for clients, and the gateway would call itself.
    """
    found: list[dict[str, object]] = []
    for provider, models in _DEFAULT_MODELS.items():
        key = key_of(provider, environ)
        if not key:
            continue
        variable, base_url = base_url_of(provider, environ)
        if base_url and is_own_address(base_url, *_own_address(environ, server)):
            raise ConfigurationError([_loop(variable, base_url)])
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


def default_models(provider: str) -> tuple[tuple[str, str], ...]:
    """Return the models that are taken of a provider without a file, each with its tier."""
    return tuple((entry.model, entry.tier) for entry in _DEFAULT_MODELS.get(provider, ()))


def default_arm_of(deployments: list[dict[str, object]]) -> str:
    """Return the name of the default arm among `deployments_from_keys`: the first of the large tier."""
    return next(str(entry["name"]) for entry in deployments if entry["tier"] == _DEFAULT_TIER)


def describe_keys() -> list[str]:
    """Return the variables that make the gateway work without a file."""
    return [PROVIDERS[provider].key_variable for provider in _DEFAULT_MODELS]


def key_of(provider: str, environ: Mapping[str, str]) -> str:
    """Return the credential of a provider from its usual variable, else from another name of it; empty without."""
    known = PROVIDERS.get(provider)
    if known is None or not known.key_variable:
        return ""
    names = (known.key_variable, *_OTHER_KEY_VARIABLES.get(provider, ()))
    return next((environ[name] for name in names if environ.get(name)), "")


def base_url_of(provider: str, environ: Mapping[str, str]) -> tuple[str, str]:
    """Return the variable that moves a provider's address, and the address; two empty texts when none does.

    Anthropic's variable ends before the version, as its SDK expects; ours ends behind it.
    """
    for variables in (BASE_URL_VARIABLES, _OLDER_BASE_URL_VARIABLES):
        variable = variables.get(provider, "")
        if url := environ.get(variable, ""):
            bare = url.rstrip("/")
            return variable, f"{bare}/v1" if provider == "anthropic" and not bare.endswith("/v1") else url
    return "", ""


def is_own_address(url: str, host: str, port: int) -> bool:
    """Say whether a URL leads to the gateway that listens on a host and a port.

    Parameters
    ----------
    url : str
    host : str
        As it is bound; ``0.0.0.0`` and ``::`` are all addresses of this machine, of which only loopback is known here.
    port : int

    Examples
    --------
    >>> is_own_address("http://localhost:4000/v1", "127.0.0.1", 4000)
    True
    """
    try:
        parts = urlsplit(url)
        there = parts.port or {"http": 80, "https": 443}.get(parts.scheme, 0)
    except ValueError:
        return False
    if there != port or not parts.hostname:
        return False
    named, bound = parts.hostname.lower(), host.strip("[]").lower()
    return named == bound or (_is_local(named) and _is_local(bound))


def use_foreign_variables(source: SettingsSource, environ: Mapping[str, str]) -> None:
    """Without a file, lay what LiteLLM's and others' variables say below the settings that are there.

    Parameters
    ----------
    source : SettingsSource
        Changed in place; nothing that is set is replaced.
    environ : mapping of str to str
        ``LITELLM_MASTER_KEY`` becomes the client key when there are neither client keys nor stored ones. ``PORT``
        becomes ``server.port``. ``REDIS_URL``, else ``REDIS_HOST``, ``REDIS_PORT``, ``REDIS_USERNAME`` and
        ``REDIS_PASSWORD``, become ``redis.url`` when a feature keeps something in Redis.
    """
    tree = source.tree
    key = environ.get(MASTER_KEY_VARIABLE, "")
    accounts = tree.get("accounts")
    has_store = isinstance(accounts, dict) and accounts.get("store") not in (None, "none")
    if key and not tree.get("client_keys") and not has_store:
        source.hide(key)
        tree["client_keys"] = [{"name": MASTER_KEY_NAME, "key": key}]
        source.places["client_keys",] = MASTER_KEY_VARIABLE
    if environ.get("PORT"):
        _lay(source, ("server", "port"), "PORT", plain_value(environ["PORT"]))
    if any(_value(tree, path) == "redis" for path in _REDIS_USERS):
        variable, url = _redis_url(environ)
        if url:
            source.hide(url)
            source.hide(environ.get("REDIS_PASSWORD", ""))
            _lay(source, ("redis", "url"), variable, url)


def _lay(source: SettingsSource, key: SettingKey, variable: str, value: object) -> None:
    """Set a setting of a section that is not there yet."""
    section = source.tree.setdefault(str(key[0]), {})
    if isinstance(section, dict) and section.get(key[1]) is None:
        section[key[1]] = value
        source.places[key] = variable


def _value(tree: Mapping[str, object], path: tuple[str, ...]) -> object:
    found: object = tree
    for name in path:
        found = found.get(name) if isinstance(found, dict) else None
    return found


def _redis_url(environ: Mapping[str, str]) -> tuple[str, str]:
    if environ.get("REDIS_URL"):
        return "REDIS_URL", environ["REDIS_URL"]
    host = environ.get("REDIS_HOST", "")
    if not host:
        return "", ""
    password, user = environ.get("REDIS_PASSWORD", ""), environ.get("REDIS_USERNAME", "")
    credential = f"{quote(user, safe='')}:{quote(password, safe='')}@" if password else ""
    return "REDIS_HOST", f"redis://{credential}{host}:{environ.get('REDIS_PORT') or 6379}"


def _own_address(environ: Mapping[str, str], server: Mapping[str, object] | None) -> tuple[str, int]:
    """Return host and port as they are set, else as they will be."""
    given = server or {}
    host = given.get("host") or environ.get("PENSTOCK__SERVER__HOST") or _DEFAULT_HOST
    for port in (given.get("port"), environ.get("PENSTOCK__SERVER__PORT"), environ.get("PORT")):
        text = "" if port is None else str(port)
        if text.isascii() and text.isdecimal() and len(text) <= 5:
            return str(host), int(text)
    return str(host), _DEFAULT_PORT


def _is_local(host: str) -> bool:
    if host == "localhost" or host.endswith(".localhost"):
        return True
    try:
        address = ipaddress.ip_address(host)
    except ValueError:
        return False
    return address.is_loopback or address.is_unspecified


def _loop(variable: str, url: str) -> Problem:
    parts = urlsplit(url)
    message = f"is this gateway's own address ({parts.hostname}:{parts.port}): it would call itself"
    return Problem(
        variable, "", message, f"it is for clients; start the gateway without: env -u {variable} penstock serve"
    )
