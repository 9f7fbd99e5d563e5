"""The built wheel as a newcomer gets it: what is in it, and that it works away from the checkout."""

from __future__ import annotations

import os
import re
import subprocess
import sys
import zipfile
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
PACKAGES = {"gateway": "penstock_gateway", "routers": "penstock_routers", "cache": "penstock_cache"} | {
    "training": "penstock_training"
}


def _build(folder: Path) -> Path:
    command = [sys.executable, "-m", "hatchling", "build", "-t", "wheel", "-d", str(folder)]
    result = subprocess.run(command, cwd=ROOT, check=False, capture_output=True, text=True)
    assert result.returncode == 0, result.stdout + result.stderr
    (wheel,) = folder.glob("*.whl")
    return wheel


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The wheel, built offline by the installed build backend."""
    return _build(tmp_path_factory.mktemp("dist"))


@pytest.fixture(scope="module")
def installed(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the wheel unpacked as pip unpacks it, dependencies aside."""
    folder = tmp_path_factory.mktemp("installed")
    command = [sys.executable, "-m", "pip", "install", "--quiet", "--no-deps", "--no-index", "--target", str(folder)]
    result = subprocess.run([*command, str(wheel)], check=False, capture_output=True, text=True)
    assert result.returncode == 0, result.stderr
    return folder


def _shipped_sources() -> Iterator[str]:
    for folder, package in PACKAGES.items():
        for path in (ROOT / folder / package).rglob("*"):
            if path.is_file() and "__pycache__" not in path.parts:
                yield path.relative_to(ROOT / folder).as_posix()


def _run(installed: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    """Run Python with the installed wheel in front of the checkout, in a folder that is neither."""
    environment = {**os.environ, "PYTHONPATH": str(installed)}
    command = [sys.executable, *arguments]
    return subprocess.run(command, cwd=installed, env=environment, check=False, capture_output=True, text=True)


def test_wheel_in_its_contents_holds_every_source_file(wheel: Path) -> None:
    """All four packages are in the wheel, with their data files and type markers."""
    names = set(zipfile.ZipFile(wheel).namelist())
    assert sorted(set(_shipped_sources()) - names) == []
    assert {f"{package}/py.typed" for package in PACKAGES.values()} <= names


def test_wheel_in_its_contents_holds_encoders_and_artifact(wheel: Path) -> None:
    """Everything in onnx_models travels inside the wheel, byte for byte."""
    archive = zipfile.ZipFile(wheel)
    models = [path for path in (ROOT / "onnx_models").rglob("*") if path.is_file()]
    assert models
    for path in models:
        name = f"penstock_routers/onnx_models/{path.relative_to(ROOT / 'onnx_models').as_posix()}"
        assert archive.read(name) == path.read_bytes(), name


def test_wheel_in_its_contents_holds_nothing_else(wheel: Path) -> None:
    """No test, bench, cache or setting of the checkout slips into the wheel; licence and notice do come along."""
    names = zipfile.ZipFile(wheel).namelist()
    top = {name.split("/")[0] for name in names}
    assert {name for name in top if not name.endswith(".dist-info")} == set(PACKAGES.values())
    assert [name for name in names if name.endswith((".pyc", ".yaml", ".env")) or "__pycache__" in name] == []
    licences = {name.rsplit("/", 1)[1] for name in names if "/licenses/" in name}
    assert licences == {"LICENSE", "NOTICE"}


def test_wheel_built_twice_has_equal_contents(wheel: Path, tmp_path: Path) -> None:
    """Building again gives the same bytes, so a published wheel can be checked against the sources."""
    assert _build(tmp_path).read_bytes() == wheel.read_bytes()


def test_installed_wheel_in_another_folder_is_what_gets_imported(installed: Path) -> None:
    """The packages come from the wheel, not from the checkout, and so do the bundled encoders."""
    code = (
        "import penstock_gateway, penstock_training\n"
        "from penstock_routers.bundled import bundled_folder\n"
        "print(penstock_gateway.__file__, penstock_training.__file__, bundled_folder('static-minilm-256'), sep='\\n')"
    )
    result = _run(installed, "-c", code)
    assert result.returncode == 0, result.stderr
    assert [line for line in result.stdout.splitlines() if not line.startswith(str(installed))] == []


@pytest.mark.parametrize("command", ["penstock", "penstock-train"])
def test_installed_command_asked_for_help_answers(installed: Path, command: str) -> None:
    """Both console scripts start from the wheel alone and list their commands."""
    result = _run(installed, str(installed / "bin" / command), "--help")
    assert result.returncode == 0, result.stderr
    assert re.search(r"^Usage: ", result.stdout)


def test_installed_encoder_away_from_the_checkout_encodes(installed: Path) -> None:
    """The default encoder loads from the wheel and turns a prompt into a unit vector, without a network."""
    code = (
        "from penstock_routers.bundled import bundled_folder\n"
        "from penstock_routers.encoder import PromptEncoder\n"
        "encoder = PromptEncoder.load(bundled_folder('static-minilm-256'))\n"
        "vector = encoder.encode(['How does a turbine work?'])[0]\n"
        "print(vector.shape[0] == encoder.dimension, round(float(vector @ vector), 4))"
    )
    result = _run(installed, "-c", code)
    assert result.returncode == 0, result.stderr
    assert result.stdout.split() == ["True", "1.0"]
