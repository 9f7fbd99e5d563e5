"""Importing LiteLLM's configuration: a verdict on every field, and a configuration that loads."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import yaml

from penstock_gateway import cli
from penstock_gateway.importing.conversion import Imported, import_litellm
from penstock_gateway.importing.entry_fields import FORBIDDEN_HEADERS
from penstock_gateway.importing.foreign_yaml import ForeignFileError
from penstock_gateway.importing.verdicts import Fate
from penstock_gateway.settings import Settings, load_settings
from penstock_gateway.settings_checks import _FORBIDDEN_HEADERS

FIXTURE = Path(__file__).resolve().parents[3] / "support" / "litellm_config.yaml"
SECRETS = (
    "sk-proj-this-key-stands-in-the-file-0123456789",
    "this-token-stands-in-the-file",
    "a-password-in-the-file",
    "pk-lf-in-the-file",
)
ODD = {"AZURE_API_BASE_WEST": "https://west.openai.azure.com", "REDIS_HOST": "127.0.0.1", "REDIS_PORT": "6379"}


@pytest.fixture
def imported() -> Imported:
    """The fixture's configuration, imported."""
    return import_litellm(FIXTURE)


def environ_of(imported: Imported) -> dict[str, str]:
    """Return a value for every variable that a new configuration refers to."""
    return {each.name: ODD.get(each.name, f"value-of-{each.name}") for each in imported.variables}


def settings_of(imported: Imported, folder: Path) -> Settings:
    """Load what was written as the gateway would."""
    path = folder / "penstock.yaml"
    path.write_text(imported.text, encoding="utf-8")
    return load_settings(path, environ_of(imported))


def run_import(folder: Path, text: str) -> Imported:
    """Import a configuration given as text."""
    path = folder / "config.yaml"
    path.write_text(text, encoding="utf-8")
    return import_litellm(path)


def one(params: str, rest: str = "") -> str:
    """Return a configuration of one model with some parameters."""
    return f"model_list:\n  - model_name: m\n    litellm_params: {{{params}}}\n{rest}"


def leaf_paths(value: object, path: str = "") -> list[str]:
    """Return the path of every leaf of a plain tree."""
    if isinstance(value, dict) and value:
        return [
            leaf for name, below in value.items() for leaf in leaf_paths(below, f"{path}.{name}" if path else str(name))
        ]
    if isinstance(value, list) and value:
        return [leaf for number, below in enumerate(value) for leaf in leaf_paths(below, f"{path}[{number}]")]
    return [path]


def fates(imported: Imported) -> dict[str, str]:
    """Return what became of each field."""
    return {each.path: each.fate.value for each in imported.verdicts}


def test_fixture_is_as_long_as_a_real_configuration() -> None:
    """The configuration of the other tests has at least a hundred lines that say something."""
    lines = [line for line in FIXTURE.read_text(encoding="utf-8").splitlines() if line.strip(" #")]
    assert len(lines) >= 100


def test_every_field_of_a_long_configuration_is_in_exactly_one_list(imported: Imported) -> None:
    """Nothing is passed over in silence, and nothing is told twice."""
    expected = leaf_paths(yaml.safe_load(FIXTURE.read_text(encoding="utf-8")))
    listed = [each.path for fate in Fate for each in imported.of(fate)]
    assert sorted(listed) == sorted(expected)
    assert len(set(listed)) == len(listed)


def test_every_field_that_was_not_mapped_as_it_was_has_its_reason(imported: Imported) -> None:
    """A changed meaning and a field that is left out are explained, and a mapped one has a place or a reason."""
    assert all(each.note for each in (*imported.of(Fate.CHANGED), *imported.of(Fate.NOT_MAPPED)))
    assert all(each.target or each.note for each in imported.of(Fate.MAPPED))


@pytest.mark.parametrize("secret", SECRETS)
def test_secret_that_stands_in_the_old_file_is_nowhere_in_the_new_one(imported: Imported, secret: str) -> None:
    """Neither the configuration nor the report repeats a key, a token or a password."""
    assert secret in FIXTURE.read_text(encoding="utf-8")
    assert secret not in imported.text
    assert secret not in repr(imported)


def test_written_configuration_of_a_long_one_loads(imported: Imported, tmp_path: Path) -> None:
    """What was written is a valid configuration with the values of the old one."""
    settings = settings_of(imported, tmp_path)
    by_name = {entry.name: entry for entry in settings.deployments}
    assert [name for name in by_name if by_name[name].group == "gpt-4o"] == [
        "gpt-4o/azure",
        "gpt-4o/azure-2",
        "gpt-4o/openai",
    ]
    east = by_name["gpt-4o/azure"]
    assert east.base_url == "https://acme-east.openai.azure.com/openai/v1"
    assert east.fallbacks == ("claude-sonnet", "llama-local")
    assert (east.timeouts.total_seconds, east.timeouts.idle_seconds) == (120, 30)
    mini = by_name["gpt-4o-mini"]
    assert mini.price is not None
    assert [str(rate) for rate in (mini.price.input, mini.price.cached_input, mini.price.output)] == [
        "0.15",
        "0.075",
        "0.6",
    ]
    assert mini.group == "haiku"
    assert mini.timeouts.total_seconds == 60
    assert by_name["embed-small"].fallbacks == ()
    assert settings.attempts.retries == 2
    assert settings.attempts.breaker.consecutive_failures == 4
    assert settings.cache.mode == "exact"
    assert [str(each.limit_usd) for each in settings.client_keys[0].budgets] == ["500"]


def test_wildcard_of_a_known_provider_becomes_the_models_of_the_list(imported: Imported, tmp_path: Path) -> None:
    """Clients go on asking for openai/MODEL; 'auto' does not choose among these."""
    settings = settings_of(imported, tmp_path)
    wild = [entry for entry in settings.deployments if entry.name.startswith("openai/")]
    assert len(wild) > 20
    assert not any(entry.routable for entry in wild)
    assert fates(imported)["model_list[16].model_name"] == "not_mapped"


def test_wildcard_alone_leaves_something_for_auto(tmp_path: Path) -> None:
    """Where there is nothing but a wildcard, one model of each tier can be routed to."""
    settings = settings_of(
        run_import(tmp_path, "model_list: [{model_name: '*', litellm_params: {model: 'anthropic/*', api_key: sk-1}}]"),
        tmp_path,
    )
    assert {entry.tier for entry in settings.deployments if entry.routable} == {"small", "medium", "large", "frontier"}


@pytest.mark.parametrize(
    ("params", "base_url"),
    [
        ("model: anthropic/claude-opus-5, api_base: 'https://a.example.org'", "https://a.example.org/v1"),
        ("model: anthropic/claude-opus-5, api_base: 'https://a.example.org/v1/messages'", "https://a.example.org/v1"),
        ("model: openai/mine, api_base: 'https://a.example.org/v1/chat/completions'", "https://a.example.org/v1"),
        (
            "model: azure/d, api_key: k, api_base: 'https://a.example.org/openai/deployments/d'",
            "https://a.example.org/openai/v1",
        ),
        ("model: ollama/q, api_base: 'http://10.0.0.1:11434/'", "http://10.0.0.1:11434/v1"),
        ("model: mine, base_url: 'http://10.0.0.1:8000/v1'", "http://10.0.0.1:8000/v1"),
        ("model: huggingface/org/model, api_base: 'https://a.example.org/x'", "https://a.example.org/x"),
    ],
)
def test_address_of_each_kind_of_provider_ends_where_ours_do(params: str, base_url: str, tmp_path: Path) -> None:
    """An api_base becomes the base_url to which Penstock puts its path."""
    (entry,) = settings_of(run_import(tmp_path, one(params)), tmp_path).deployments
    assert entry.base_url == base_url


@pytest.mark.parametrize(
    "base", ["ftp://x", "https://user:pw@host/v1", "https://host/v1?key=1", "", "[1]", "os.environ/A-B"]
)
def test_address_that_cannot_be_used_is_left_out(base: str, tmp_path: Path) -> None:
    """An address with credentials, a query or another scheme is not written, and its credentials are not told."""
    imported = run_import(tmp_path, one(f"model: openai/gpt-4o, api_base: '{base}'"))
    assert fates(imported)["model_list[0].litellm_params.api_base"] == "not_mapped"
    assert "pw@" not in imported.text + repr(imported.verdicts)


@pytest.mark.parametrize(
    ("params", "fate"),
    [
        ("timeout: 100000", "not_mapped"),
        ("timeout: -1", "not_mapped"),
        ("timeout: .nan", "not_mapped"),
        ("input_cost_per_token: -1", "not_mapped"),
        ("input_cost_per_token: 1e400", "not_mapped"),
        ("input_cost_per_token: 1.23456789e-7", "changed"),
        ("input_cost_per_token: 1.5e-7", "mapped"),
        ("max_parallel_requests: 1.5", "not_mapped"),
        ("extra_headers: {'a b': x}", "not_mapped"),
        ("extra_headers: {Host: x}", "not_mapped"),
        ('extra_headers: {x-a: "line\\nbreak"}', "not_mapped"),
        ("extra_headers: {x-a: '${HOME}'}", "not_mapped"),
        ("api_version: {a: b}", "not_mapped"),
        ("api_kye: k", "not_mapped"),
        ("timeout: null", "mapped"),
    ],
)
def test_odd_value_of_a_field_is_told_and_leaves_a_configuration_that_loads(
    params: str, fate: str, tmp_path: Path
) -> None:
    """A value that Penstock would refuse is left out instead of being written."""
    imported = run_import(tmp_path, one(f"model: openai/gpt-4o, api_key: os.environ/K, {params}"))
    assert imported.verdicts[-1].fate == fate
    assert settings_of(imported, tmp_path).deployments


def test_unknown_field_is_told_with_the_nearest_known_one(tmp_path: Path) -> None:
    """A typing error of the old file is found."""
    imported = run_import(tmp_path, one("model: openai/gpt-4o, api_kye: k", "router_setings: {timeout: 1}\n"))
    nearest = {each.path: each.nearest for each in imported.of(Fate.NOT_MAPPED)}
    assert nearest["model_list[0].litellm_params.api_kye"] == "did you mean api_key?"
    assert nearest["router_setings.timeout"] == "did you mean router_settings?"


@pytest.mark.parametrize("credential", ["Bearer abc123", "basic dTpw", "sk-abc123"])
def test_credential_under_a_plain_header_name_is_not_written_out(tmp_path: Path, credential: str) -> None:
    """What a value says of itself counts as well as its header's name: a secret is never in the new file."""
    imported = run_import(tmp_path, one(f"model: openai/gpt-4o, extra_headers: {{x-upstream: {credential}}}"))
    assert credential not in imported.text + repr(imported)
    assert imported.verdicts[-1].fate is Fate.CHANGED
    assert "M_X_UPSTREAM" in [each.name for each in imported.variables]


def test_key_written_twice_is_one_variable_and_two_keys_are_two(tmp_path: Path) -> None:
    """A variable stands for a secret, and takes no name that the old file uses for something else."""
    imported = run_import(
        tmp_path,
        "model_list:\n"
        "- {model_name: m, litellm_params: {model: openai/gpt-4o, api_key: sk-one}}\n"
        "- {model_name: n, litellm_params: {model: openai/gpt-5, api_key: sk-one}}\n"
        "- {model_name: o, litellm_params: {model: openai/gpt-5, api_key: sk-two}}\n"
        "- {model_name: p, litellm_params: {model: openai/gpt-5, api_key: os.environ/M_API_KEY}}\n",
    )
    assert [(each.name, each.place) for each in imported.variables] == [
        ("M_API_KEY_2", "config.yaml:2"),
        ("O_API_KEY", "config.yaml:4"),
        ("M_API_KEY", ""),
    ]


def test_master_key_becomes_a_client_key_and_a_short_one_is_told(tmp_path: Path) -> None:
    """Clients that have the master key go on; one that Penstock would refuse is named before it is."""
    imported = run_import(tmp_path, one("model: openai/gpt-4o", "general_settings: {master_key: sk-1234}\n"))
    (found,) = [each for each in imported.verdicts if each.path == "general_settings.master_key"]
    assert found.target == "client_keys[litellm-master].key"
    assert "shorter than 16 characters" in found.note
    assert any("penstock keys create" in step for step in imported.steps)
    assert "sk-1234" not in imported.text + repr(imported)


def test_alias_of_a_group_has_its_fallbacks_and_its_members(imported: Imported, tmp_path: Path) -> None:
    """Another name for a group behaves like the group."""
    settings = settings_of(imported, tmp_path)
    copies = [entry for entry in settings.deployments if entry.group == "gpt-4"]
    assert [entry.model for entry in copies] == ["gpt-4o-eastus", "gpt-4o-westus", "gpt-4o"]
    assert {entry.fallbacks for entry in copies} == {("claude-sonnet", "llama-local")}


def test_included_file_is_read_and_its_fields_are_told(tmp_path: Path) -> None:
    """Lists of an included file are added, and its other sections replace those of the file."""
    (tmp_path / "models.yaml").write_text(one("model: openai/gpt-4o") + "litellm_settings: {num_retries: 4}\n")
    imported = run_import(
        tmp_path,
        "include: [models.yaml]\nmodel_list: [{model_name: n, litellm_params: {model: openai/o3}}]\n"
        "litellm_settings: {num_retries: 1}\n",
    )
    assert fates(imported) == {
        "include[0]": "mapped",
        "model_list[0].model_name": "mapped",
        "model_list[0].litellm_params.model": "mapped",
        "models.yaml: model_list[0].model_name": "mapped",
        "models.yaml: model_list[0].litellm_params.model": "mapped",
        "litellm_settings.num_retries": "not_mapped",
        "models.yaml: litellm_settings.num_retries": "changed",
    }
    assert "retries: 4" in imported.text


BOMB = "a: &a [1, 1, 1, 1, 1, 1, 1, 1, 1, 1]\n" + "".join(
    f"{name}: &{name} [{', '.join(f'*{before}' for _ in range(10))}]\n"
    for before, name in zip("abcdef", "bcdefg", strict=True)
)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "is empty"),
        ("- a\n", "should be a mapping"),
        ("just text", "should be a mapping"),
        ("a: [1\n", "not valid YAML"),
        ("a: *sk-secret\n", "not valid YAML"),
        ("a: !!python/object:os.system {}\n", "tags"),
        ("a: 1\na: 2\n", "given twice"),
        ("{[a]: 1}\n", "plain text"),
        ("a: " + "[" * 40 + "]" * 40, "nested deeper"),
        (BOMB, "too large"),
        ("a: &a {b: *a}\n", "too large or too deep"),
        ("a: &a {<<: *a}\n", "too large or too deep"),
        ("x: " + "y" * 1_100_000, "is larger than"),
        ("models: []\n", "has no model_list"),
        ("modle_list: [1]\n", "did you mean 'model_list'?"),
        ("model_list: []\n", "at least one entry"),
        ("model_list: {a: 1}\n", "at least one entry"),
        ("model_list: [1]\n", "no model that Penstock could call"),
        ("include: [missing.yaml]\n", "missing.yaml cannot be read"),
        ("include: [config.yaml]\n", "included twice"),
        (
            one("model: whisper-1", "").replace(
                "litellm_params", "model_info: {mode: audio_transcription}\n    litellm_params"
            ),
            "no audio",
        ),
    ],
)
def test_file_that_is_none_of_litellms_is_refused_in_one_line(text: str, message: str, tmp_path: Path) -> None:
    """What cannot be imported is said in a sentence that repeats no value."""
    with pytest.raises(ForeignFileError, match=message) as raised:
        run_import(tmp_path, text)
    assert len(str(raised.value).splitlines()) == 1
    assert "secret" not in str(raised.value)


def test_command_writes_a_file_and_never_over_one_that_is_there(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """The report goes to standard output; without --force a file that is there stays."""
    out = tmp_path / "penstock.yaml"
    assert cli.run(["import", "litellm", str(FIXTURE), "--out", str(out)]) == 0
    assert "not mapped: " in capsys.readouterr().out
    out.write_text("mine")
    assert cli.run(["import", "litellm", str(FIXTURE), "--out", str(out)]) == 1
    assert "--force" in capsys.readouterr().err
    assert out.read_text() == "mine"
    assert cli.run(["import", "litellm", str(FIXTURE), "--out", str(out), "--force"]) == 0
    assert out.read_text().startswith("# Made by")
    assert list(tmp_path.iterdir()) == [out]


def test_command_without_a_file_to_write_keeps_the_two_streams_apart(capsys: pytest.CaptureFixture[str]) -> None:
    """The configuration can be piped on, and the report is still seen."""
    assert cli.run(["import", "litellm", str(FIXTURE)]) == 0
    shown = capsys.readouterr()
    assert shown.out == import_litellm(FIXTURE).text
    assert "left to do" in shown.err


def test_command_as_json_has_the_configuration_and_all_three_lists(capsys: pytest.CaptureFixture[str]) -> None:
    """Machines get every field with its place, and the configuration where no file is written."""
    assert cli.run(["import", "litellm", str(FIXTURE), "--json"]) == 0
    document: dict[str, Any] = json.loads(capsys.readouterr().out)
    assert document["configuration"] == import_litellm(FIXTURE).text
    assert {name: len(document[name]) for name in ("mapped", "changed", "not_mapped")} == document["counts"]
    assert document["mapped"][0] == {
        "path": "model_list[0].model_name",
        "place": "litellm_config.yaml:4",
        "target": "deployments[gpt-4o/azure].group",
        "note": "",
        "nearest": "",
    }


@pytest.mark.parametrize("name", ["missing.yaml", "."])
def test_command_on_a_file_that_cannot_be_read_ends_with_one_line(
    name: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """A user's mistake has exit code 1 and no traceback."""
    assert cli.run(["import", "litellm", str(tmp_path / name)]) == 1
    shown = capsys.readouterr().err
    assert "cannot be read" in shown
    assert len(shown.splitlines()) == 1


def test_headers_that_are_left_out_are_those_that_the_settings_refuse() -> None:
    """The importer writes no header that the configuration's check would refuse."""
    assert FORBIDDEN_HEADERS == _FORBIDDEN_HEADERS
