"""Settings without a file: which variables of others are read, and what they become."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from penstock_gateway import environment
from penstock_gateway.configuration_problems import ConfigurationError
from penstock_gateway.environment import (
    base_url_of,
    default_arm_of,
    deployments_from_keys,
    describe_keys,
    is_own_address,
    key_of,
    use_foreign_variables,
)
from penstock_gateway.model_facts import find_model
from penstock_gateway.settings_models import Settings
from penstock_gateway.settings_source import SettingsSource, read_source

MASTER_KEY = "sk-master-key-of-24-chars"


def laid(environ: Mapping[str, str], tree: dict[str, Any] | None = None) -> SettingsSource:
    """Return the settings that variables give above those of a tree."""
    source = read_source(None, environ)
    source.tree.update(tree or {})
    use_foreign_variables(source, environ)
    return source


@pytest.mark.parametrize("variable", ["OPENAI_API_KEY", "ANTHROPIC_API_KEY", "GEMINI_API_KEY", "MISTRAL_API_KEY"])
def test_key_of_each_provider_gives_a_priced_model_of_each_tier(variable: str) -> None:
    """Every provider that works without a file has four models in the list, in rising price, and a default."""
    entries = deployments_from_keys({variable: "k"})
    assert [entry["tier"] for entry in entries] == ["small", "medium", "large", "frontier"]
    facts = [find_model(str(entry["provider"]), str(entry["name"]), "direct") for entry in entries]
    outputs = [found.price.output for found in facts if found is not None]
    assert outputs == sorted(outputs)
    assert len(outputs) == 4
    assert default_arm_of(entries) == entries[2]["name"]
    assert variable in describe_keys()


@pytest.mark.parametrize(
    ("environ", "provider", "key"),
    [
        ({"GOOGLE_API_KEY": "g"}, "gemini", "g"),
        ({"GOOGLE_API_KEY": "g", "GEMINI_API_KEY": "own"}, "gemini", "own"),
        ({"TOGETHERAI_API_KEY": "t"}, "together", "t"),
        ({"GOOGLE_API_KEY": "g"}, "openai", ""),
        ({"OPENAI_API_KEY": "k"}, "ollama", ""),
        ({"OPENAI_API_KEY": "k"}, "openai_compatible", ""),
        ({"OPENAI_API_KEY": "k"}, "nobody", ""),
    ],
)
def test_key_of_a_provider_is_found_under_its_names_only(environ: dict[str, str], provider: str, key: str) -> None:
    """The provider's own variable wins, and no provider gets another's key."""
    assert key_of(provider, environ) == key


@pytest.mark.parametrize(
    ("environ", "provider", "expected"),
    [
        ({"OPENAI_BASE_URL": "http://h/v1"}, "openai", ("OPENAI_BASE_URL", "http://h/v1")),
        ({"OPENAI_API_BASE": "http://h/v1"}, "openai", ("OPENAI_API_BASE", "http://h/v1")),
        ({"OPENAI_API_BASE": "http://a", "OPENAI_BASE_URL": "http://b"}, "openai", ("OPENAI_BASE_URL", "http://b")),
        ({"ANTHROPIC_BASE_URL": "https://h"}, "anthropic", ("ANTHROPIC_BASE_URL", "https://h/v1")),
        ({"ANTHROPIC_API_BASE": "https://h/v1/"}, "anthropic", ("ANTHROPIC_API_BASE", "https://h/v1/")),
        ({"OPENAI_BASE_URL": "http://h"}, "gemini", ("", "")),
    ],
)
def test_base_url_of_a_provider_follows_its_own_variables(
    environ: dict[str, str], provider: str, expected: tuple[str, str]
) -> None:
    """The newer name wins; Anthropic's address ends before the version, ours behind it."""
    assert base_url_of(provider, environ) == expected


@pytest.mark.parametrize(
    ("url", "host", "port", "is_own"),
    [
        ("http://127.0.0.1:4000/v1", "127.0.0.1", 4000, True),
        ("http://localhost:4000", "127.0.0.1", 4000, True),
        ("http://[::1]:4000/v1", "0.0.0.0", 4000, True),
        ("http://0.0.0.0:4000", "127.0.0.1", 4000, True),
        ("http://gateway.internal:4000/v1", "gateway.internal", 4000, True),
        ("http://localhost/v1", "127.0.0.1", 80, True),
        ("http://127.0.0.1:4001/v1", "127.0.0.1", 4000, False),
        ("https://api.openai.com/v1", "0.0.0.0", 443, False),
        ("http://127.0.0.1:99999/v1", "127.0.0.1", 4000, False),
        ("not a url", "127.0.0.1", 4000, False),
    ],
)
def test_address_is_our_own_where_host_and_port_lead_back(url: str, host: str, port: int, is_own: bool) -> None:
    """All loopback names are one place; another port is another server."""
    assert is_own_address(url, host, port) is is_own


@pytest.mark.parametrize(
    ("environ", "server"),
    [
        ({"OPENAI_BASE_URL": "http://localhost:4000/v1"}, None),
        ({"OPENAI_API_BASE": "http://localhost:4100/v1", "PENSTOCK__SERVER__PORT": "4100"}, None),
        ({"OPENAI_BASE_URL": "http://127.0.0.1:4200/v1"}, {"port": 4200}),
        ({"OPENAI_BASE_URL": "http://127.0.0.1:8080/v1", "PORT": "8080"}, None),
    ],
)
def test_base_url_that_is_the_gateways_own_is_refused_in_one_line(
    environ: dict[str, str], server: dict[str, object] | None
) -> None:
    """A variable that is meant for clients must not make the gateway call itself."""
    with pytest.raises(ConfigurationError) as raised:
        deployments_from_keys({"OPENAI_API_KEY": "sk-secret", **environ}, server)
    (line,) = str(raised.value).splitlines()
    assert "own address" in line
    assert "env -u OPENAI_" in line
    assert "sk-secret" not in line


def test_base_url_of_a_client_does_no_harm_without_the_providers_key() -> None:
    """A provider that is not called has no address that could be wrong."""
    environ = {"ANTHROPIC_API_KEY": "k", "OPENAI_BASE_URL": "http://localhost:4000/v1"}
    assert {entry["provider"] for entry in deployments_from_keys(environ)} == {"anthropic"}


def test_master_key_is_the_client_key_where_nothing_else_is_set() -> None:
    """LITELLM_MASTER_KEY asks clients for it, and is kept out of messages."""
    source = laid({"LITELLM_MASTER_KEY": MASTER_KEY})
    settings = Settings.model_validate(source.tree)
    assert [entry.name for entry in settings.client_keys] == ["litellm-master"]
    assert MASTER_KEY not in repr(settings)
    assert MASTER_KEY in source.hidden
    assert source.place(("client_keys", 0, "key")) == "LITELLM_MASTER_KEY"


@pytest.mark.parametrize("tree", [{"client_keys": [{"name": "mine"}]}, {"accounts": {"store": "file"}}])
def test_master_key_never_opens_a_gateway_that_has_its_own_keys(tree: dict[str, Any]) -> None:
    """Where keys are configured or stored, a variable of another gateway adds none."""
    source = laid({"LITELLM_MASTER_KEY": MASTER_KEY}, tree)
    assert MASTER_KEY not in repr(source.tree)


def test_port_of_the_platform_is_taken_unless_ours_is_set() -> None:
    """PORT is where a platform sends requests; PENSTOCK__SERVER__PORT and --port lie over it."""
    assert laid({"PORT": "8080"}).tree["server"] == {"port": 8080}
    assert laid({"PORT": "8080", "PENSTOCK__SERVER__PORT": "4100"}).tree["server"] == {"port": 4100}


@pytest.mark.parametrize(
    ("environ", "url"),
    [
        ({"REDIS_URL": "rediss://h:1/2", "REDIS_HOST": "other"}, "rediss://h:1/2"),
        ({"REDIS_HOST": "h"}, "redis://h:6379"),
        ({"REDIS_HOST": "h", "REDIS_PORT": "1", "REDIS_PASSWORD": "a@b/c"}, "redis://:a%40b%2Fc@h:1"),
        ({"REDIS_HOST": "h", "REDIS_USERNAME": "u", "REDIS_PASSWORD": "p"}, "redis://u:p@h:6379"),
        ({"REDIS_PASSWORD": "p"}, None),
    ],
)
def test_redis_variables_are_the_redis_of_a_feature_that_wants_one(environ: dict[str, str], url: str | None) -> None:
    """A password may have any characters, and nothing is connected that no feature asks for."""
    wanted = laid({**environ, "PENSTOCK__LEDGER__KIND": "redis"})
    assert wanted.tree.get("redis", {}).get("url") == url  # type: ignore[attr-defined]
    assert "redis" not in laid(environ).tree


def test_variables_of_others_are_all_in_the_documentation() -> None:
    """Whoever looks for a variable finds it on the page about coming from LiteLLM."""
    read = set(re.findall(r'"([A-Z][A-Z0-9]*(?:_[A-Z0-9]+)+|PORT)"', Path(environment.__file__).read_text()))
    names = {name for name in read if not name.startswith("PENSTOCK__")} | set(describe_keys())
    page = (Path(__file__).resolve().parents[3] / "docs" / "litellm.md").read_text(encoding="utf-8")
    assert len(names) >= 15
    assert {name for name in names if f"`{name}`" not in page} == set()
