"""Documentation and example made from, or checked against, the models."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest
import yaml

from penstock_gateway import settings_docs
from penstock_gateway.settings import build_deployments, load_settings
from penstock_gateway.settings_models import Settings
from penstock_gateway.settings_validation import known_settings

EXAMPLE_VARIABLES = {
    "OPENAI_API_KEY": "a",
    "ANTHROPIC_API_KEY": "b",
    "LOCAL_QWEN_KEY": "c",
    "SEARCH_TEAM_KEY": "0123456789abcdef",
}


def test_settings_table_in_the_docs_is_current(repository_root: Path) -> None:
    """docs/configuration.md has every setting as the models have it."""
    document = (repository_root / "docs" / "configuration.md").read_text(encoding="utf-8")
    assert settings_docs.with_tables(document) == document, "run: python -m penstock_gateway.settings_docs docs"


def test_json_schema_in_the_docs_is_current(repository_root: Path) -> None:
    """docs/configuration.schema.json is what `penstock config-schema` writes."""
    committed = (repository_root / "docs" / "configuration.schema.json").read_text(encoding="utf-8")
    assert committed == settings_docs.json_schema(), "run: python -m penstock_gateway.settings_docs docs"


def test_setting_of_every_section_has_a_description() -> None:
    """No row of the table is without a meaning, and all sections are in it."""
    rows = [line.split(" | ") for line in settings_docs.settings_table().splitlines()[2:]]
    assert len(rows) > 45
    assert all(len(row[-1].strip(" |")) > 3 for row in rows)
    assert {f"| `{name}`" for name in Settings.model_fields} <= {row[0] for row in rows}


def test_document_without_marks_is_refused() -> None:
    """A document that lost its marks is not silently left stale."""
    with pytest.raises(ValueError, match="settings: begin"):
        settings_docs.with_tables("# Configuration\n")


def test_example_configuration_is_accepted_and_valid_by_the_schema(repository_root: Path) -> None:
    """examples/config.yaml loads, builds, and agrees with the JSON Schema that editors use."""
    jsonschema = pytest.importorskip("jsonschema", reason="jsonschema comes with litellm")
    path = repository_root / "examples" / "config.yaml"
    settings = load_settings(path, EXAMPLE_VARIABLES)
    assert [built.name for built in build_deployments(settings)] == ["gpt-5.4-mini", "gpt-5.4", "opus", "local-qwen"]
    jsonschema.validate(yaml.safe_load(path.read_text(encoding="utf-8")), json.loads(settings_docs.json_schema()))


def test_example_configuration_names_every_setting(repository_root: Path) -> None:
    """Whoever reads the example has seen all that can be set."""
    text = (repository_root / "examples" / "config.yaml").read_text(encoding="utf-8")
    names = set(re.findall(r"^\| `([^`]+)`", settings_docs.settings_table(), flags=re.MULTILINE))
    missing = [name for name in names if not re.search(rf"\b{re.escape(name.split('.')[-1].strip('[]'))}:", text)]
    assert missing == []


def test_known_settings_of_a_place_are_those_of_its_section() -> None:
    """Nearest matches are looked for among what may stand there."""
    assert "port" in known_settings(("server",))
    assert "api_key" in known_settings(("deployments", 0))
    assert known_settings(("deployments", 0, "price"))[:2] == ["input", "cached_input"]
    assert "tokens" in known_settings(("deployments", 0, "price", "above", 1))
    assert "multiplier" in known_settings(("deployments", 0, "price", "service_tiers", "flex"))
    assert known_settings(("deployments", 0, "headers")) == []
    assert known_settings(("nothing",)) == []


def test_snippets_of_yaml_in_the_docs_are_accepted(repository_root: Path, tmp_path: Path) -> None:
    """Every YAML block of docs/configuration.md is a configuration that works."""
    document = (repository_root / "docs" / "configuration.md").read_text(encoding="utf-8")
    blocks: list[Any] = re.findall(r"```yaml\n(.*?)```", document, flags=re.DOTALL)
    assert blocks
    for number, block in enumerate(blocks):
        path = tmp_path / f"{number}.yaml"
        path.write_text(block, encoding="utf-8")
        load_settings(path, EXAMPLE_VARIABLES)
