"""Reading YAML and the environment into one tree with places."""

from __future__ import annotations

from contextlib import chdir
from decimal import Decimal
from pathlib import Path

import pytest

from penstock_gateway.settings_source import MAX_DEPTH, MAX_FILE_BYTES, SettingsSource, is_secret, read_source


def _read(folder: Path, text: str, environ: dict[str, str] | None = None) -> SettingsSource:
    path = Path("penstock.yaml")
    (folder / path).write_text(text, encoding="utf-8")
    with chdir(folder):
        return read_source(path, environ or {})


def test_source_of_nested_settings_knows_each_line(tmp_path: Path) -> None:
    """Every value has the file's name and its line."""
    source = _read(tmp_path, "version: 1\nserver:\n  host: a\n  port: 4000\n")
    assert source.tree == {"version": 1, "server": {"host": "a", "port": 4000}}
    assert source.place(("server", "port")) == "penstock.yaml:4"
    assert source.place(("server", "missing")) == "penstock.yaml:2"


@pytest.mark.parametrize(
    ("written", "expected"),
    [
        ("0.10", Decimal("0.10")),
        ("1e-3", Decimal("0.001")),
        ("4000", 4000),
        ("true", True),
        ("null", None),
        ("no", "no"),
        ("12:30", "12:30"),
        ("2025-01-01", "2025-01-01"),
        ("'4000'", "4000"),
        (".nan", ".nan"),
        ("0x10", "0x10"),
    ],
)
def test_plain_text_of_each_kind_means_only_what_it_says(tmp_path: Path, written: str, expected: object) -> None:
    """Only true, false, null, integers and decimals are not text, and decimals stay exact."""
    found = _read(tmp_path, f"a: {written}\n").tree["a"]
    assert found == expected
    assert type(found) is type(expected)


def test_invalid_yaml_in_a_file_is_reported_with_line_and_column(tmp_path: Path) -> None:
    """A syntax error names line and column."""
    source = _read(tmp_path, "server:\n  host: [1, 2\n  port: 3\n")
    assert [problem.where for problem in source.problems] == ["penstock.yaml:3:7"]
    assert "not valid YAML" in source.problems[0].message


def test_duplicate_key_in_a_mapping_is_refused(tmp_path: Path) -> None:
    """The second of two equal keys is a problem at its own line; the first counts."""
    source = _read(tmp_path, "server:\n  port: 1\n  port: 2\n")
    assert str(source.problems[0]) == "penstock.yaml:3: server.port: is given twice"
    assert source.tree == {"server": {"port": 1}}


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("a: !!python/name:os.system x", "tags"),
        ("a: !mine {b: 1}", "tags"),
        ("base: &b {x: 1}\na:\n  <<: *b\n", "merge keys"),
        ("? [1, 2]\n: 3\n", "plain text"),
        ("- 1\n- 2\n", "mapping of settings"),
    ],
)
def test_yaml_feature_beyond_the_subset_is_refused(tmp_path: Path, text: str, message: str) -> None:
    """Tags, merge keys and keys that are no text are refused with the reason."""
    assert message in str(_read(tmp_path, text).problems[0])


def test_alias_bomb_in_a_file_is_refused_quickly(tmp_path: Path) -> None:
    """Nine levels of ninefold aliases, a billion values, are cut off at the bound."""
    lines = ["a0: &a0 [x, x, x, x, x, x, x, x, x]"]
    lines += [f"a{i}: &a{i} [{', '.join([f'*a{i - 1}'] * 9)}]" for i in range(1, 10)]
    source = _read(tmp_path, "\n".join(lines))
    assert len([p for p in source.problems if "aliases are expanded" in p.message]) == 1


def test_alias_to_itself_in_a_file_is_refused(tmp_path: Path) -> None:
    """A mapping that contains itself ends at the depth bound."""
    source = _read(tmp_path, "a: &a\n  b: *a\n")
    assert source.problems


def test_deep_nesting_of_lists_is_refused_before_parsing(tmp_path: Path) -> None:
    """Twenty thousand open brackets are a problem, not a stack overflow."""
    source = _read(tmp_path, "a: " + "[" * 20_000)
    assert f"nested deeper than {MAX_DEPTH}" in source.problems[0].message


def test_large_file_of_comments_is_refused_by_size(tmp_path: Path) -> None:
    """A file beyond the limit is not parsed."""
    source = _read(tmp_path, "# x\n" * (MAX_FILE_BYTES // 4 + 1))
    assert "larger than" in source.problems[0].message


def test_missing_file_is_reported_with_the_reason(tmp_path: Path) -> None:
    """A file that is not there is a problem, not an exception."""
    source = read_source(tmp_path / "none.yaml", {})
    assert "cannot be read: No such file" in source.problems[0].message


def test_binary_file_is_reported_as_no_text(tmp_path: Path) -> None:
    """Bytes that are not UTF-8 are named by position."""
    path = tmp_path / "x.yaml"
    path.write_bytes(b"a: \xff\xfe")
    assert "not UTF-8 text (byte 3)" in read_source(path, {}).problems[0].message


def test_reference_inside_a_flow_mapping_is_replaced(tmp_path: Path) -> None:
    """A bare ${NAME} works inside braces although plain YAML would not take it there."""
    source = _read(tmp_path, "client_keys: [{name: a, key: ${K}}]", {"K": "value-of-k"})
    assert source.problems == []
    assert source.tree == {"client_keys": [{"name": "a", "key": "value-of-k"}]}


def test_reference_in_either_spelling_is_replaced(tmp_path: Path) -> None:
    """${NAME} may stand inside a value; os.environ/NAME is a whole value."""
    source = _read(tmp_path, "a: https://${H}/v1\nb: os.environ/H\n", {"H": "host"})
    assert source.tree == {"a": "https://host/v1", "b": "host"}


def test_reference_to_a_number_gives_a_number_unless_quoted(tmp_path: Path) -> None:
    """A whole, unquoted reference means what its text would mean in its place."""
    source = _read(tmp_path, 'a: ${N}\nb: "${N}"\nc: x${N}\n', {"N": "4000"})
    assert source.tree == {"a": 4000, "b": "4000", "c": "x4000"}


def test_reference_to_a_secret_of_digits_stays_text(tmp_path: Path) -> None:
    """A key that looks like a number is not turned into one, so leading zeros survive."""
    source = _read(tmp_path, "deployments:\n  - api_key: ${K}\n", {"K": "0012345"})
    assert source.tree == {"deployments": [{"api_key": "0012345"}]}


@pytest.mark.parametrize(("environ", "state"), [({}, "is not set"), ({"K": ""}, "is empty")])
def test_reference_to_a_missing_variable_names_it(tmp_path: Path, environ: dict[str, str], state: str) -> None:
    """A variable that is not set, or empty, is a problem that names it and the line."""
    source = _read(tmp_path, "a: 1\nb: ${K}\n", environ)
    assert str(source.problems[0]) == f"penstock.yaml:2: b: environment variable K {state} (export K=…)"


def test_malformed_reference_in_a_value_is_refused(tmp_path: Path) -> None:
    """Shell defaults and the like are not supported, and not taken for text."""
    assert "a reference should be" in _read(tmp_path, 'b: "${K:-x}"\n').problems[0].message


@pytest.mark.parametrize(
    "text",
    [
        "deployments:\n  - api_key: sk-literal\n",
        "client_keys:\n  - key: sk-literal\n",
        "deployments:\n  - headers: {X-Api-Key: sk-literal}\n",
        "deployments:\n  - headers: {Authorization: Bearer sk-literal}\n",
    ],
)
def test_literal_secret_in_a_file_is_refused_without_showing_it(tmp_path: Path, text: str) -> None:
    """A secret that stands in the file is a problem, and its text appears nowhere."""
    source = _read(tmp_path, text)
    assert "a secret should not stand in the file" in source.problems[0].message
    assert "sk-literal" not in str(source.problems)


def test_variables_over_a_file_win_and_are_named_as_the_place() -> None:
    """PENSTOCK__ variables lie over the file; numbers in names count list entries."""
    environ = {"PENSTOCK__SERVER__PORT": "5000", "PENSTOCK__DEPLOYMENTS__0__NAME": "x"}
    source = read_source(None, environ)
    assert source.tree == {"server": {"port": 5000}, "deployments": [{"name": "x"}]}
    assert source.place(("server", "port")) == "PENSTOCK__SERVER__PORT"


def test_variable_with_a_list_is_read_as_yaml() -> None:
    """A variable may hold a list or a mapping."""
    assert read_source(None, {"PENSTOCK__SERVER__ALLOWED_HOSTS": "[a, b]"}).tree == {
        "server": {"allowed_hosts": ["a", "b"]}
    }


def test_variable_with_a_secret_is_taken_as_it_is() -> None:
    """A secret in a variable is neither parsed nor refused."""
    source = read_source(None, {"PENSTOCK__DEPLOYMENTS__0__API_KEY": "{not: yaml"})
    assert source.tree == {"deployments": [{"api_key": "{not: yaml"}]}
    assert source.problems == []


def test_variable_that_skips_a_list_entry_is_reported() -> None:
    """Entries of a list are numbered without gaps."""
    source = read_source(None, {"PENSTOCK__DEPLOYMENTS__3__NAME": "x"})
    assert source.problems[0].where == "PENSTOCK__DEPLOYMENTS__3__NAME"


def test_option_over_a_variable_wins() -> None:
    """Command-line options lie over everything and are named as the place."""
    source = read_source(None, {"PENSTOCK__SERVER__PORT": "1"}, {"--port": (("server", "port"), "2")})
    assert source.tree == {"server": {"port": 2}}
    assert source.place(("server", "port")) == "--port"


def test_secret_settings_are_recognised_by_their_path() -> None:
    """Keys and header values with telling names are secret; paths and plain headers are not."""
    assert is_secret(("deployments", 0, "api_key"))
    assert is_secret(("deployments", 0, "headers", "X-Auth"))
    assert not is_secret(("deployments", 0, "headers", "x-region"))
    assert not is_secret(("deployments", 0, "api_key_file"))
    assert not is_secret(("client_keys", 0))
