"""What the tests with official clients share: the two ways to the replaying providers, and the JavaScript clients."""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from support.wire_gateway import Ways, running_ways

NPM_SECONDS = 240


@pytest.fixture(scope="module")
def ways(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Ways]:
    """The providers and one gateway process in front of them."""
    with running_ways(tmp_path_factory.mktemp("gateway")) as running:
        yield running


@pytest.fixture(scope="session")
def node_folder(tmp_path_factory: pytest.TempPathFactory, repository_root: Path) -> Path:
    """A copy of ``examples/javascript`` with its packages installed; the test is skipped where that is not possible."""
    if shutil.which("node") is None or shutil.which("npm") is None:
        pytest.skip("needs node (20 or newer) and npm on the PATH")
    folder = tmp_path_factory.mktemp("javascript")
    source = repository_root / "examples" / "javascript"
    for path in [*source.glob("*.mjs"), *source.glob("*.json"), source / ".npmrc"]:
        shutil.copy(path, folder)
    command = ["npm", "ci", "--no-audit", "--no-fund", "--ignore-scripts"]
    try:
        done = subprocess.run(
            command, cwd=folder, capture_output=True, text=True, timeout=NPM_SECONDS, check=False, env={**os.environ}
        )
    except subprocess.TimeoutExpired:
        pytest.skip(f"npm ci did not end within {NPM_SECONDS} s: no network?")
    if done.returncode:
        pytest.skip(f"npm ci could not install the clients: {done.stderr.strip().splitlines()[-1:]}")
    return folder
