"""Configurations of floors, key defaults, exploration and events: what is accepted and what is refused."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from penstock_gateway.settings import ConfigurationError, load_settings

Write = Callable[[str], Path]
MODELS = (
    "deployments:\n"
    '  - {name: s, base_url: "http://127.0.0.1:9/v1", tier: small, price: {input: 1, output: 2}}\n'
    '  - {name: l, base_url: "http://127.0.0.1:9/v1", tier: large, price: {input: 5, output: 9}}\n'
)
KEYS = {"A_KEY": "0123456789abcdef", "B_KEY": "fedcba9876543210", "DRAWS": "draws-0123456789", "SHORT": "draws"}


@pytest.fixture
def write(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Write:
    """Write a configuration with two deployments in an empty working folder."""
    monkeypatch.chdir(tmp_path)

    def write_text(text: str) -> Path:
        path = Path("penstock.yaml")
        path.write_text(MODELS + text, encoding="utf-8")
        return path

    return write_text


def problems(path: Path, **options: bool) -> list[str]:
    """Return the problems of a configuration that is refused."""
    with pytest.raises(ConfigurationError) as caught:
        load_settings(path, KEYS, **options)
    return [str(problem) for problem in caught.value.problems]


def test_settings_of_every_policy_are_read(write: Write) -> None:
    """Floors, defaults of a key, exploration and events have their place in the file."""
    settings = load_settings(
        write(
            "routing:\n  category_floors: {medical: large}\n"
            "  explore: {rate: 0.01, max_cost_ratio: 2, key: '${DRAWS}'}\n"
            "client_keys:\n  - {name: a, key: '${A_KEY}', tradeoff: 0.3, max_cost_usd: 0.05, explore_rate: 0}\n"
            "events: {folder: log, capture_content: true}\n"
        ),
        KEYS,
    )
    assert settings.routing.category_floors == {"medical": "large"}
    assert (settings.routing.explore.rate, settings.routing.explore.max_cost_ratio) == (0.01, 2.0)
    assert (settings.client_keys[0].tradeoff, settings.client_keys[0].max_cost_usd) == (0.3, 0.05)
    assert settings.events.folder is not None
    assert Path(settings.events.folder) == Path.cwd() / "log"
    assert "draws-0123" not in repr(settings)


@pytest.mark.parametrize(
    "text",
    [
        "routing: {category_floors: {medical: frontier}}\n",
        "routing: {default_arm: s, category_floors: {medical: medium}}\n",
        "client_keys:\n  - {name: a, key: '${A_KEY}', category_floors: {legal: frontier}}\n",
    ],
)
def test_settings_floor_above_the_default_arm_is_refused(write: Write, text: str) -> None:
    """The default arm answers every doubt, so a floor above it would refuse them all."""
    (problem,) = problems(write(text))
    assert "below this floor, and answers whenever the router is unsure" in problem
    assert "penstock.yaml:" in problem


def test_settings_floor_of_an_unknown_category_is_named_by_check_config(write: Write) -> None:
    """A floor that the artifact cannot apply by category would apply to every prompt, so `check-config` names it."""
    path = write("routing: {category_floors: {medcal: large}, default_arm: l}\n")
    load_settings(path, KEYS)  # the gateway itself starts: it fails safe
    found = problems(path, must_route=True)
    assert any("no category 'medcal'" in problem and "did you mean 'medical'?" in problem for problem in found)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("routing: {category_floors: {medical: larg}}\n", "should be one of 'small'"),
        ("routing: {explore: {rate: 1.5}}\n", "should be at most 1"),
        ("routing: {explore: {rat: 0.1}}\n", "did you mean 'rate'?"),
        (
            "routing: {explore: {key: plain-text}}\n",
            "explore.key: a secret should not stand in the file (write ${VARIABLE})",
        ),
        ("routing: {explore: {key: '${SHORT}'}}\n", "explore.key: should have at least 16 characters"),
        ("routing: {switch_regret: -1}\n", "should be at least 0"),
        ("events: {segment_bytes: 2000000, max_bytes: 1048576}\n", "is less than one segment"),
        ("events: {folder: penstock.yaml/log}\n", "is not a folder"),
        ("events: {folder: ''}\n", "events.folder: "),
        (
            "client_keys:\n  - {name: a, key: '${A_KEY}', tradeoff: cost, min_quality: 0.5}\n",
            "a minimum of quality takes its place",
        ),
        (
            "client_keys:\n  - {name: a, key: '${A_KEY}', min_quality: 0.5}\n  - {name: a, key: '${B_KEY}'}\n",
            "two keys with different defaults",
        ),
    ],
)
def test_settings_that_contradict_or_are_out_of_range_are_refused(write: Write, text: str, message: str) -> None:
    """Each mistake is named at its place."""
    (problem,) = problems(write(text))
    assert message in problem
