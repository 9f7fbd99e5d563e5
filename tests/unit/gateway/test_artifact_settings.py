"""Where an artifact may come from: what a configuration must say, and what is refused with a line."""

from __future__ import annotations

from pathlib import Path

import pytest

from penstock_gateway import settings_checks
from penstock_gateway.artifact_source import artifact_url_problem
from penstock_gateway.settings import ConfigurationError, load_settings, note_settings
from penstock_gateway.settings_model_checks import routing_obstacle

DIGEST = "sha256:" + "ab" * 32
KEY = "A" * 43 + "="
DEPLOYMENTS = "deployments: [{name: m, base_url: 'http://127.0.0.1:9/v1', tier: small, price: {input: 1, output: 2}}]\n"


def problems(tmp_path: Path, routing: str, *, must_route: bool = False) -> list[str]:
    """Load a configuration with these routing settings; its problems."""
    path = tmp_path / "penstock.yaml"
    path.write_text(f"{DEPLOYMENTS}routing: {{{routing}}}\n")
    try:
        load_settings(path, {}, must_route=must_route)
    except ConfigurationError as error:
        return [f"{problem.setting}: {problem.message}" for problem in error.problems]
    return []


@pytest.fixture(autouse=True)
def _has_cryptography(monkeypatch: pytest.MonkeyPatch) -> None:
    """These rules do not depend on what is installed here."""
    monkeypatch.setattr(settings_checks, "find_spec", lambda name: object())


def test_artifact_url_without_digest_and_key_is_refused(tmp_path: Path) -> None:
    """A URL says where an artifact lies, not who made it."""
    found = problems(tmp_path, "artifact: 'https://example.org/r'")
    assert found == [
        "routing.artifact: an artifact from a URL needs artifact_digest or artifact_public_key, to know who made it"
    ]


@pytest.mark.parametrize("trust", [f"artifact_digest: '{DIGEST}'", f"artifact_public_key: '{KEY}'"])
@pytest.mark.parametrize("url", ["https://example.org/r", "http://127.0.0.1:9/r", "http://localhost/r"])
def test_artifact_url_with_digest_or_key_is_accepted(tmp_path: Path, url: str, trust: str) -> None:
    """Either of the two is enough, and nothing is fetched to find out."""
    assert problems(tmp_path, f"artifact: '{url}', {trust}", must_route=True) == []


@pytest.mark.parametrize(
    "url",
    [
        "http://example.org/r",
        "ftp://example.org/r",
        "https://",
        "https://user:word@example.org/r",
        "https://example.org/r?token=1",
        "https://example.org/r#a",
        "https://example.org/a b",
        "http://127.0.0.1.example.org/r",
        "https://[::1/r",
    ],
)
def test_artifact_url_that_is_unsafe_or_ambiguous_is_refused(tmp_path: Path, url: str) -> None:
    """Plain HTTP beyond this machine, credentials and queries are refused where they are written."""
    assert artifact_url_problem(url)
    found = problems(tmp_path, f"artifact: '{url}', artifact_digest: '{DIGEST}'")
    assert [line.split(":")[0] for line in found] == ["routing.artifact"]


@pytest.mark.parametrize(
    "setting",
    [
        "artifact_digest: 'sha256:AB'",
        "artifact_digest: abab",
        "artifact_public_key: short",
        "artifact_poll_seconds: -1",
        "artifact_poll_seconds: .inf",
    ],
)
def test_artifact_setting_of_the_wrong_form_is_one_problem(tmp_path: Path, setting: str) -> None:
    """A mistyped digest is said once, and is not also taken for a missing one."""
    found = problems(
        tmp_path,
        f"artifact: 'https://example.org/r', {setting}, artifact_digest: '{DIGEST}'"
        if "digest" not in setting
        else f"artifact: 'https://example.org/r', {setting}",
    )
    assert [line.split(":")[0] for line in found] == [f"routing.{setting.split(':', maxsplit=1)[0]}"]


@pytest.mark.parametrize("artifact", ["default", "none"])
def test_digest_of_the_bundled_artifact_has_no_meaning(tmp_path: Path, artifact: str) -> None:
    """A pin that nothing would check is refused, so that nobody relies on it."""
    assert len(problems(tmp_path, f"artifact: {artifact}, artifact_digest: '{DIGEST}'")) == 1


def test_public_key_without_the_library_names_the_extra(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A signature that could not be checked stops the start, not the first download."""
    monkeypatch.setattr(settings_checks, "find_spec", lambda name: None if name == "cryptography" else object())
    path = tmp_path / "penstock.yaml"
    path.write_text(f"{DEPLOYMENTS}routing: {{artifact: 'https://example.org/r', artifact_public_key: '{KEY}'}}\n")
    with pytest.raises(ConfigurationError) as caught:
        load_settings(path, {})
    assert "signing" in caught.value.problems[0].hint


def test_artifact_url_is_not_taken_for_a_folder(tmp_path: Path) -> None:
    """The URL stays as written, is not called unreadable, and 'serve' says what it waits for."""
    path = tmp_path / "penstock.yaml"
    url = "https://example.org/r"
    path.write_text(f"{DEPLOYMENTS}routing: {{artifact: '{url}', artifact_digest: '{DIGEST}'}}\n")
    settings = load_settings(path, {})
    assert settings.routing.artifact == url
    assert not [note for note in note_settings(settings) if note.setting == "routing.artifact"]
    assert "fetched" in routing_obstacle(settings)


def test_artifact_source_in_the_environment_is_checked_too(tmp_path: Path) -> None:
    """A variable is no way round the rule."""
    path = tmp_path / "penstock.yaml"
    path.write_text(DEPLOYMENTS)
    with pytest.raises(ConfigurationError):
        load_settings(path, {"PENSTOCK__ROUTING__ARTIFACT": "https://example.org/r"})
