"""Rules of the repository itself: pins, commands, sizes, what tracked files may say, what an import brings along."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
MAX_MODELS_BYTES = 34_000_000
MAX_TEXT_BYTES = 2_000_000
IGNORED_FOLDERS = frozenset({".git", ".venv", ".bench", "build", "dist"})

# Written in halves, so that this file does not hold what it forbids.
REGISTRY_HOSTS = tuple("".join(halves) for halves in [("pypi", ".org"), ("python", "hosted.org"), ("npmjs", ".org")])
MACHINE_PATHS = tuple(
    "".join(halves) for halves in [("/wo", "rk/"), ("/ro", "ot/"), ("/tmp/", "brief"), ("/opt/", "pypi")]
)

TRAINING_ONLY = ("torch", "sklearn", "pandas", "pyarrow", "matplotlib", "scipy", "onnx", "transformers", "ray")


def _repository_files() -> list[Path]:
    """Files that are tracked or would be, by git; every file where there is no checkout."""
    command = ["git", "ls-files", "--cached", "--others", "--exclude-standard", "-z"]
    try:
        listed = subprocess.run(command, cwd=ROOT, check=True, capture_output=True, text=True).stdout.split("\0")
    except (OSError, subprocess.CalledProcessError):
        listed = [path.relative_to(ROOT).as_posix() for path in ROOT.rglob("*")]
    paths = [ROOT / name for name in listed if name and not IGNORED_FOLDERS.intersection(Path(name).parts)]
    return sorted(path for path in paths if path.is_file() and "__pycache__" not in path.parts)


def _project() -> dict:
    return tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]


def _canonical(name: str) -> str:
    return re.sub(r"[-_.]+", "-", name).lower()


def _pins() -> dict[str, str]:
    lines = (ROOT / "constraints.txt").read_text(encoding="utf-8").splitlines()
    return dict(line.split("==") for line in lines if line and not line.startswith("#"))


def _targets() -> dict[str, str]:
    """Name and help sentence of each target that the Makefile explains."""
    text = (ROOT / "Makefile").read_text(encoding="utf-8")
    return dict(re.findall(r"^([a-z][a-z-]*):.*## (.+)$", text, re.MULTILINE))


def test_text_of_tracked_files_names_no_registry_and_no_machine() -> None:
    """No file names the host of a package registry or a path of the machine that it was written on."""
    found = []
    for path in _repository_files():
        if path.stat().st_size > MAX_TEXT_BYTES:
            continue
        text = path.read_bytes().decode("utf-8", errors="ignore")
        found += [f"{path.relative_to(ROOT)}: {word}" for word in (*REGISTRY_HOSTS, *MACHINE_PATHS) if word in text]
    assert not found, "\n".join(found)


def test_tracked_files_of_the_repository_hold_no_pickle_and_no_credential() -> None:
    """No pickled object, private key, database or environment file is committed."""
    suffixes = {".pkl", ".pickle", ".joblib", ".pt", ".bin", ".pem", ".key", ".sqlite", ".db", ".env"}
    assert [path.name for path in _repository_files() if path.suffix in suffixes or path.name == ".env"] == []


def test_onnx_models_folder_in_total_stays_within_34_megabytes() -> None:
    """Encoders and the default artifact travel in the wheel, so together they have at most 34 MB."""
    sizes = {path.name: path.stat().st_size for path in (ROOT / "onnx_models").rglob("*") if path.is_file()}
    assert 0 < sum(sizes.values()) <= MAX_MODELS_BYTES


def test_constraints_file_in_every_line_is_one_exact_pin() -> None:
    """Constraints are exact versions and nothing else: no index, no address, no option."""
    lines = (ROOT / "constraints.txt").read_text(encoding="utf-8").splitlines()
    wrong = [line for line in lines if not re.fullmatch(r"#.*|[a-z0-9-]+==[0-9][0-9a-z.]*", line)]
    assert not wrong, "\n".join(wrong)
    assert len(_pins()) == sum(1 for line in lines if not line.startswith("#"))


def test_constraints_of_every_declared_dependency_are_there() -> None:
    """Each package that the project or an extra names is pinned, and the pin satisfies what is declared."""
    project = _project()
    declared = [
        *project["dependencies"],
        *(line for extra in project["optional-dependencies"].values() for line in extra),
    ]
    pins = _pins()
    for requirement in declared:
        matched = re.match(r"([A-Za-z0-9._-]+)(?:\[[^\]]*\])?(?:(>=|==)([0-9.]+))?", requirement)
        assert matched, requirement
        name, comparison, version = _canonical(matched[1]), matched[2], matched[3]
        if name == "penstock":
            continue
        assert name in pins, requirement
        pinned, wanted = (tuple(int(part) for part in text.split(".")[:3]) for text in (pins[name], version))
        assert pinned[: len(wanted)] >= wanted if comparison == ">=" else pins[name] == version, requirement


def test_litellm_in_its_requirements_file_is_pinned_with_hashes() -> None:
    """litellm has one version in all three places, and a hash for each platform's file."""
    text = (ROOT / "requirements" / "litellm.txt").read_text(encoding="utf-8")
    pinned = re.findall(r"^litellm==(\S+)", text, re.MULTILINE)
    assert pinned == [_pins()["litellm"]]
    assert _project()["optional-dependencies"]["litellm"] == [f"litellm=={pinned[0]}"]
    hashes = re.findall(r"--hash=sha256:([0-9a-f]{64})\b", text)
    assert len(set(hashes)) == len(hashes) >= 4


def test_extras_cpu_and_gpu_share_no_package() -> None:
    """The two builds overwrite each other's files, so no package belongs to both extras."""
    extras = _project()["optional-dependencies"]
    names = {extra: {re.match(r"[\w.-]+", line)[0] for line in extras[extra]} for extra in ("cpu", "gpu")}
    assert not names["cpu"] & names["gpu"]


def test_makefile_target_of_any_name_has_one_sentence_of_help() -> None:
    """Every phony target says in a sentence what it does."""
    text = (ROOT / "Makefile").read_text(encoding="utf-8")
    phony = set(re.search(r"^\.PHONY: (.+)$", text, re.MULTILINE)[1].split())
    assert phony == set(_targets())
    assert [name for name, sentence in _targets().items() if not sentence.endswith(".")] == []


def test_make_without_arguments_lists_every_target() -> None:
    """Plain `make` prints each target with its sentence."""
    result = subprocess.run(["make"], cwd=ROOT, check=True, capture_output=True, text=True)
    listed = re.findall(r"^  make ([a-z-]+) ", result.stdout, re.MULTILINE)
    assert listed == list(_targets())


@pytest.mark.parametrize("command", ["demo", "test"])
def test_readme_command_for_a_newcomer_is_a_make_target(command: str) -> None:
    """The two commands that the README promises exist."""
    assert f"make {command}" in (ROOT / "README.md").read_text(encoding="utf-8")
    assert command in _targets()


def test_continuous_integration_of_the_project_runs_the_test_command() -> None:
    """CI calls `make test` and holds no logic of its own."""
    lines = (ROOT / ".ci" / "run").read_text(encoding="utf-8").splitlines()
    commands = [line for line in lines if line and not line.startswith("#")]
    assert commands[-1].startswith("exec make test")
    assert len(commands) <= 3
    assert os.access(ROOT / ".ci" / "run", os.X_OK)


def _loaded_after(code: str, names: tuple[str, ...]) -> list[str]:
    """Top-level modules out of `names` that a fresh interpreter has loaded after running `code`."""
    report = f"import sys, json; print('LOADED', json.dumps(sorted(set(sys.modules) & set({names!r}))))"
    # The lock-down of a test run is inherited through the environment, and with it the absence of credentials.
    result = subprocess.run(
        [sys.executable, "-c", f"{code}\n{report}"], cwd=ROOT, check=False, capture_output=True, text=True
    )
    assert result.returncode == 0, result.stderr
    last = [line for line in result.stdout.splitlines() if line.startswith("LOADED ")][-1]
    return json.loads(last.removeprefix("LOADED "))


_HELP = "from {module} import main\ntry:\n    main(['--help'])\nexcept SystemExit as end:\n    assert not end.code"


def test_help_of_the_command_line_imports_nothing_heavy() -> None:
    """`penstock --help` answers at once, so it loads no server, no model and no numeric package."""
    heavy = (*TRAINING_ONLY, "litellm", "onnxruntime", "tokenizers", "numpy", "aiohttp", "fastapi", "uvicorn", "openai")
    assert _loaded_after(_HELP.format(module="penstock_gateway.cli"), heavy) == []


def test_help_of_the_training_command_imports_nothing_heavy() -> None:
    """`penstock-train --help` answers at once too."""
    heavy = (*TRAINING_ONLY, "litellm", "onnxruntime", "sentence_transformers", "model2vec")
    assert _loaded_after(_HELP.format(module="penstock_training.cli"), heavy) == []


@pytest.mark.parametrize("package", ["penstock_gateway", "penstock_routers", "penstock_cache"])
def test_import_of_every_serving_module_brings_no_training_package(package: str) -> None:
    """Serving loads neither what only training needs nor, before a deployment asks for it, litellm."""
    code = (
        "import importlib, pkgutil\n"
        f"package = importlib.import_module({package!r})\n"
        "names = [m.name for m in pkgutil.walk_packages(package.__path__, package.__name__ + '.')]\n"
        "[importlib.import_module(name) for name in names if not name.endswith('__main__')]\n"
    )
    assert _loaded_after(code, (*TRAINING_ONLY, "litellm", "onnxruntime", "boto3", "tiktoken")) == []


def _bootstrap(folder: Path, *arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
    """Run a copy of the bootstrap script in `folder`, as it would run in a clone."""
    (folder / "scripts").mkdir()
    shutil.copy(ROOT / "scripts" / "bootstrap.sh", folder / "scripts")
    command = ["bash", "scripts/bootstrap.sh", *arguments]
    variables = {"PATH": os.environ["PATH"], **environment}
    return subprocess.run(command, cwd=folder, env=variables, check=False, capture_output=True, text=True)


def test_bootstrap_with_an_unknown_profile_shows_its_usage(tmp_path: Path) -> None:
    """A wrong profile is refused before anything is made."""
    result = _bootstrap(tmp_path, "everything")
    assert result.returncode == 2
    assert result.stderr.startswith("usage: scripts/bootstrap.sh")
    assert not (tmp_path / ".venv").exists()


def test_bootstrap_with_a_wrong_interpreter_names_it(tmp_path: Path) -> None:
    """An interpreter that does not work or is too old is named, and no environment is made with another."""
    result = _bootstrap(tmp_path, "demo", PYTHON="/nowhere/python3")
    assert result.returncode == 1
    assert "PYTHON=/nowhere/python3 is not a working Python 3.11 or newer" in result.stderr
    assert not (tmp_path / ".venv").exists()


def test_bootstrap_without_venv_module_names_the_package_to_install(tmp_path: Path) -> None:
    """Where the interpreter cannot make environments the message says which package brings that, or what else to do."""
    fake = tmp_path / "python3"
    fake.write_text(f'#!/bin/sh\ncase "$2" in\n  *ensurepip*) exit 1 ;;\n  *) exec {sys.executable} "$@" ;;\nesac\n')
    fake.chmod(0o755)
    tools = tmp_path / "tools"
    tools.mkdir()
    for name in ("bash", "dirname", "cat", "cksum", "rm", "sed", "id"):
        (tools / name).symlink_to(shutil.which(name))
    result = _bootstrap(tmp_path, "demo", PYTHON=str(fake), PATH=str(tools))
    assert result.returncode == 1
    assert "no venv module with pip (ensurepip)" in result.stderr
    assert not (tmp_path / ".venv").exists()
