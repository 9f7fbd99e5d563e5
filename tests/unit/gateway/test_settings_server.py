"""The `server` section: what other origins may be configured, and what is refused."""

from __future__ import annotations

from pathlib import Path

import pytest

from penstock_gateway.settings import ConfigurationError, load_settings

HEAD = """
routing: {artifact: none}
deployments: [{name: small, base_url: "http://127.0.0.1:9/v1", price: {input: 1, output: 1}}]
"""
KEYS = 'client_keys: [{name: ann, key: "${KEY}"}]\n'


def problems(folder: Path, text: str) -> list[str]:
    """Return what is wrong with a configuration; empty when it is right."""
    path = folder / "penstock.yaml"
    path.write_text(HEAD + text)
    try:
        load_settings(path, {"KEY": "k" * 32})
    except ConfigurationError as error:
        return [f"{problem.setting}: {problem.message}" for problem in error.problems]
    return []


@pytest.mark.parametrize(
    "origin",
    ["https://a.example", "http://localhost:3000", "http://[::1]:80801", "app://obsidian.md", "chrome-extension://abc"],
)
def test_origin_as_browsers_write_it_is_taken(tmp_path: Path, origin: str) -> None:
    """Scheme, host and port, of pages and of applications that are pages."""
    assert problems(tmp_path, f'server: {{cors: {{origins: ["{origin}"], credentials: true}}}}\n') == []


@pytest.mark.parametrize(
    "origin",
    [
        "a.example",
        "https://a.example/",
        "https://A.example",
        "https://a.example:443",
        "http://a.example:80",
        "null",
        "",
    ],
)
def test_origin_that_no_browser_sends_is_refused(tmp_path: Path, origin: str) -> None:
    """It could never match, and whoever wrote it would look for the reason elsewhere."""
    assert len(problems(tmp_path, f'server: {{cors: {{origins: ["{origin}"]}}}}\n')) == 1


def test_any_origin_needs_client_keys_and_no_credentials(tmp_path: Path) -> None:
    """Else every page that somebody on this machine opens could use the models."""
    assert problems(tmp_path, KEYS + 'server: {cors: {origins: ["*"]}}\n') == []
    found = problems(tmp_path, 'server: {cors: {origins: ["*", "https://a.example"], credentials: true}}\n')
    assert [line.partition(":")[0] for line in found] == [
        "server.cors.origins",
        "server.cors.credentials",
        "server.cors.origins",
    ]
