"""The install command in messages."""

from __future__ import annotations

from pathlib import Path

import pytest

from penstock_routers import installation


def test_install_command_in_a_checkout_is_editable() -> None:
    """A checkout is not installed by name."""
    assert installation.install_command("litellm") == ".venv/bin/pip install -c constraints.txt -e '.[litellm]'"


def test_install_command_of_an_installed_package_names_the_distribution(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Without the sources around it, pip adds the extra to what is installed."""
    monkeypatch.setattr(installation, "__file__", str(tmp_path / "site-packages" / "penstock_routers" / "x.py"))
    assert installation.install_command("cpu") == "pip install 'penstock[cpu]'"
