"""Whatever stands in LiteLLM's file, importing ends in a configuration that loads, or in one line."""

from __future__ import annotations

import tempfile
from pathlib import Path

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from penstock_gateway.importing.conversion import Imported, import_litellm
from penstock_gateway.importing.entry_fields import _INFO, _PARAMETERS
from penstock_gateway.importing.foreign_yaml import ForeignFileError
from penstock_gateway.importing.setting_sections import _GENERAL, _LITELLM, _ROUTER
from penstock_gateway.importing.token_prices import PRICE_FIELDS
from penstock_gateway.settings import ConfigurationError, load_settings

WORDS = (
    "m|n|auto|*|openai/gpt-4o|azure/d|x y|os.environ/KEY|os.environ/|${KEY}|https://host/v1|redis|"
    "redis-semantic|30d|1e-6|-1|é\u2028|\ue000|simple-shuffle"
)
TEXTS = st.sampled_from(WORDS.split("|"))
SCALARS = st.one_of(
    st.just("a" * 2000),
    st.none(),
    st.booleans(),
    st.integers(-5, 10**6),
    st.floats(allow_nan=True),
    TEXTS,
    st.text(max_size=8),
)
VALUES = st.recursive(
    SCALARS,
    lambda below: st.one_of(st.lists(below, max_size=3), st.dictionaries(TEXTS, below, max_size=3)),
    max_leaves=6,
)


def mapping(*names: str) -> st.SearchStrategy[dict[str, object]]:
    """Return mappings with some of these fields."""
    return st.dictionaries(st.sampled_from(sorted(names)), VALUES, max_size=6)


PRICES = [*PRICE_FIELDS, "input_cost_per_token_above_200k_tokens", "output_cost_per_token_priority"]
ENTRIES = st.builds(
    lambda name, model, params, info: {
        "model_name": name,
        "litellm_params": {**params, "model": model},
        "model_info": info,
    },
    TEXTS,
    st.sampled_from(["openai/gpt-4o", "azure/d", "anthropic/claude-opus-5", "bedrock/x", "hosted_vllm/q"]),
    mapping(*_PARAMETERS, *PRICES),
    mapping(*_INFO, *PRICES, "supports_vision"),
)
CONFIGURATIONS = st.builds(
    lambda entries, router, litellm, general: {
        "model_list": entries,
        "router_settings": router,
        "litellm_settings": litellm,
        "general_settings": general,
    },
    st.lists(ENTRIES, min_size=1, max_size=4),
    mapping(*_ROUTER, "model_group_alias", "redis_host", "redis_port", "redis_password"),
    mapping(*_LITELLM),
    mapping(*_GENERAL),
)
# What depends on the variables' values and on what is installed, not on the importer.
ALLOWED = ("litellm, which is not installed", "redis is not installed", "is not a Redis URL", "is not a URL")


def import_or_none(path: Path) -> Imported | None:
    """Import, or return None when the configuration has no model that could be called."""
    try:
        return import_litellm(path)
    except ForeignFileError:
        return None


@given(configuration=CONFIGURATIONS)
def test_configuration_of_any_values_becomes_one_that_loads(configuration: dict[str, object]) -> None:
    """No value crashes the importer, and none that Penstock refuses is written."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "config.yaml"
        path.write_text(yaml.safe_dump(configuration, allow_unicode=True), encoding="utf-8")
        imported = import_or_none(path)
        if imported is None:
            return
        out = Path(folder) / "penstock.yaml"
        out.write_text(imported.text, encoding="utf-8")
        environ = {each.name: "https://value-of-a-variable.example.org" for each in imported.variables}
        try:
            load_settings(out, environ)
        except ConfigurationError as error:
            wrong = [str(each) for each in error.problems if not any(text in each.message for text in ALLOWED)]
            assert not wrong, (wrong, imported.text)


@given(content=st.binary(max_size=200))
def test_file_of_any_bytes_never_crashes_the_import(content: bytes) -> None:
    """What is no configuration is refused in one line."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "config.yaml"
        path.write_bytes(content)
        with pytest.raises(ForeignFileError) as raised:
            import_litellm(path)
        assert len(str(raised.value).splitlines()) == 1
