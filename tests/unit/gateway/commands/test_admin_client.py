"""Where the commands look for the admin API."""

from __future__ import annotations

from pathlib import Path

import click
import pytest

from penstock_gateway.commands.admin_client import configured_url, plain, shown


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("admin: {port: 4001}", "http://127.0.0.1:4001"),
        ("admin: {port: 5000, host: 0.0.0.0}", "http://127.0.0.1:5000"),
        ("admin: {port: 5000, host: '::1'}", "http://[::1]:5000"),
        ("admin: {port: 5000, host: admin.example, key: '${NOT_SET_HERE}'}", "http://admin.example:5000"),
    ],
)
def test_url_of_a_configuration_is_where_its_admin_api_listens(tmp_path: Path, text: str, expected: str) -> None:
    """Address and port come from the file, which need not be complete here."""
    path = tmp_path / "penstock.yaml"
    path.write_text(text)
    assert configured_url(path, {}) == expected
    assert configured_url(None, {"PENSTOCK_CONFIG": str(path)}) == expected


def test_url_without_a_configuration_is_the_usual_port(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Away from the gateway's configuration the usual port of this machine is tried, or that of the environment."""
    monkeypatch.chdir(tmp_path)
    assert configured_url(None, {}) == "http://127.0.0.1:4001"
    assert configured_url(None, {"PENSTOCK__ADMIN__PORT": "4444"}) == "http://127.0.0.1:4444"


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("log: {level: info}", "the admin API is off: add 'admin: {port: 4001"),
        ("admin: {port: 0}", "say where it is with --url"),
    ],
)
def test_configuration_without_an_admin_api_says_what_to_add(tmp_path: Path, text: str, expected: str) -> None:
    """The error names the setting and the file."""
    path = tmp_path / "penstock.yaml"
    path.write_text(text)
    with pytest.raises(click.ClickException) as caught:
        configured_url(path, {})
    assert expected in caught.value.message


def test_configuration_that_is_not_there_is_an_error(tmp_path: Path) -> None:
    """A file that was named and cannot be read is not passed over."""
    with pytest.raises(click.ClickException, match=r"none\.yaml"):
        configured_url(tmp_path / "none.yaml", {})


def test_value_of_the_api_is_one_harmless_line() -> None:
    """Lists and mappings are shown in a line, and nothing moves the terminal's cursor."""
    assert shown([{"period": "day", "limit_usd": "1", "soft_share": None}, 2]) == "period=day limit_usd=1, 2"
    assert plain("a\x1b[2Jb\n") == "a�[2Jb�"
