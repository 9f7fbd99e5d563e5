"""Whatever is in the file, loading ends in settings or in a list of problems."""

from __future__ import annotations

from pathlib import Path

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from penstock_gateway.settings import ConfigurationError, Problem, Settings, build_deployments, load_settings
from penstock_gateway.settings_source import plain_value
from penstock_gateway.settings_validation import known_settings

SECRET = "sk-secret-value-0123456789"
ENVIRON = {"OPENAI_API_KEY": SECRET, "TEAM_KEY": SECRET}
NAMES = sorted(
    {
        *known_settings(()),
        *known_settings(("deployments", 0)),
        *known_settings(("server",)),
        *known_settings(("routing",)),
    }
    | {"input", "output", "connect_seconds", "x-token", "<<", ""}
)
scalars = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(),
    st.floats(allow_nan=False),
    st.sampled_from(
        [
            "${TEAM_KEY}",
            "${NOPE}",
            "${",
            "os.environ/TEAM_KEY",
            "openai",
            "bedrock",
            "auto:x",
            "small",
            "http://h/v1",
            "\ue000",
        ]
    ),
    st.text(max_size=8),
)
trees = st.recursive(
    scalars,
    lambda inner: st.one_of(
        st.lists(inner, max_size=3), st.dictionaries(st.sampled_from(NAMES) | st.text(max_size=4), inner, max_size=4)
    ),
    max_leaves=20,
)


@pytest.fixture(scope="module")
def path(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """One file that every example overwrites."""
    return tmp_path_factory.mktemp("fuzz") / "penstock.yaml"


def _load(path: Path, environ: dict[str, str] = ENVIRON) -> Settings | None:
    problems: tuple[Problem, ...] = ()
    try:
        return load_settings(path, environ)
    except ConfigurationError as error:
        problems = error.problems
    assert problems
    assert SECRET not in str(problems)
    return None


@given(tree=st.dictionaries(st.sampled_from(NAMES), trees, max_size=5))
def test_settings_from_any_tree_load_or_list_problems(path: Path, tree: object) -> None:
    """No tree of values raises anything but the list of problems, and no secret is in it."""
    path.write_text(yaml.safe_dump(tree, allow_unicode=True), encoding="utf-8", errors="surrogatepass")
    settings = _load(path)
    assert settings is None or build_deployments(settings)


@given(
    entry=st.fixed_dictionaries(
        {"name": st.sampled_from(["a", "gpt-5.4"]), "provider": st.sampled_from(["openai", "ollama", "bedrock", "x"])},
        optional=dict.fromkeys(("price", "tier", "headers", "timeouts", "parameters", "abilities", "base_url"), trees),
    )
)
def test_settings_with_any_deployment_load_or_list_problems(path: Path, entry: object) -> None:
    """A deployment that is nearly right is built, or refused with problems."""
    path.write_text(
        yaml.safe_dump({"deployments": [entry]}, allow_unicode=True), encoding="utf-8", errors="surrogatepass"
    )
    settings = _load(path)
    assert settings is None or len(build_deployments(settings)) == 1


@given(content=st.binary(max_size=200) | st.text(alphabet="{}[]:,-&*!|>'\"%@ \n\t#?a1$", max_size=200).map(str.encode))
def test_settings_from_any_bytes_load_or_list_problems(path: Path, content: bytes) -> None:
    """No file content raises anything but the list of problems."""
    path.write_bytes(content)
    assert _load(path) is None


@given(
    variables=st.dictionaries(
        st.lists(st.sampled_from(["SERVER", "PORT", "DEPLOYMENTS", "0", "1", "NAME", "API_KEY", ""]), max_size=4).map(
            lambda parts: "PENSTOCK__" + "__".join(parts)
        ),
        st.text(max_size=20),
        max_size=4,
    )
)
def test_settings_from_any_variables_load_or_list_problems(variables: dict[str, str]) -> None:
    """No PENSTOCK__ variable raises anything but the list of problems."""
    _load(Path("/dev/null"), {**ENVIRON, **variables})


@given(text=st.text(max_size=50))
def test_plain_value_of_any_text_never_raises(text: str) -> None:
    """Every text means something."""
    value = plain_value(text)
    assert value is None or str(value).lower() == text.lower() or not isinstance(value, str)
