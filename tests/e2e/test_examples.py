"""Every program in ``examples/`` runs as it is and prints answers, in front of a gateway over recorded providers."""

from __future__ import annotations

import importlib.util
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from support.wire_gateway import FT, Ways

ANSWER = "The reservoir feeds the penstock."
RUN_SECONDS = 100
OTHER_FILES = {"config.yaml", "README.md", "package.json", "package-lock.json", ".npmrc"}
LIGHT = {"openai_python.py": 2, "openai_responses.py": 3, "anthropic_python.py": 3}
"""Programs by the number of times that they print the answer."""
HEAVY = {"langchain_example.py": 3, "llamaindex_example.py": 2, "pydantic_ai_example.py": 3}
NEEDED = {
    "langchain_example.py": "langchain_openai",
    "llamaindex_example.py": "llama_index",
    "pydantic_ai_example.py": "pydantic_ai",
}
JAVASCRIPT = {"openai.mjs": 3, "anthropic.mjs": 2, "vercel_ai.mjs": 3}


def run(ways: Ways, command: list[str], folder: Path, server: str) -> str:
    """Return what a program prints that asks a server behind the gateway."""
    environment = {
        **os.environ,
        "PENSTOCK_BASE_URL": ways.gateway.url,
        "PENSTOCK_API_KEY": ways.gateway.key,
        "PENSTOCK_MODEL": f"{server}:text",
        "PENSTOCK_TOOL_MODEL": f"{server}:tools",
    }
    done = subprocess.run(
        command, cwd=folder, env=environment, capture_output=True, text=True, timeout=RUN_SECONDS, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def check(printed: str, count: int) -> None:
    """Check that the answers are there, and that a program with a tool had it called."""
    assert printed.count(ANSWER) == count
    assert f"stream: {ANSWER}" in printed
    if "with" in printed:
        assert "Zürich" in printed or "get_weather" in printed


@pytest.mark.parametrize("server", ["gpt-4o", "claude-sonnet-4-5"])
@pytest.mark.parametrize("name", LIGHT)
def test_example_in_python_prints_answers(ways: Ways, repository_root: Path, name: str, server: str) -> None:
    """The programs with OpenAI's and Anthropic's clients run in front of either provider."""
    check(run(ways, [sys.executable, name], repository_root / "examples", server), LIGHT[name])


@pytest.mark.slow
@pytest.mark.parametrize("name", HEAVY)
def test_example_of_a_framework_prints_answers(ways: Ways, repository_root: Path, name: str) -> None:
    """The programs with frameworks run."""
    if importlib.util.find_spec(NEEDED[name]) is None:
        pytest.skip("needs the clients extra: pip install 'penstock[clients]'")
    server = FT if name.startswith("llamaindex") else "claude-sonnet-4-5"
    check(run(ways, [sys.executable, name], repository_root / "examples", server), HEAVY[name])


@pytest.mark.slow
@pytest.mark.timeout(300)
@pytest.mark.parametrize("server", ["gpt-4o", "claude-sonnet-4-5"])
@pytest.mark.parametrize("name", JAVASCRIPT)
def test_example_in_javascript_prints_answers(ways: Ways, node_folder: Path, name: str, server: str) -> None:
    """The programs with JavaScript clients run in front of either provider."""
    check(run(ways, ["node", name], node_folder, server), JAVASCRIPT[name])


@pytest.mark.parametrize("server", ["gpt-4o", "claude-sonnet-4-5"])
def test_example_with_curl_is_answered_in_every_format(ways: Ways, repository_root: Path, server: str) -> None:
    """Every request of the shell program is answered."""
    if shutil.which("curl") is None:
        pytest.skip("needs curl on the PATH")
    printed = run(ways, ["sh", "curl.sh"], repository_root / "examples", server)
    parts = {part.partition("\n")[0]: part for part in printed.split("\n== ")[1:]}
    assert all(f'"{ANSWER}"' in parts[path] for path in ("/v1/responses", "/v1/messages", "/v1/completions"))
    assert "data: [DONE]" in parts["/v1/chat/completions"]
    assert '"input_tokens"' in parts["/v1/messages/count_tokens"]
    assert f'"{server}:text"' in parts["/v1/models"]


def test_example_of_every_kind_is_listed_and_run(repository_root: Path) -> None:
    """A program in the folder is in its README and in the tests above."""
    folder = repository_root / "examples"
    others = {
        "node_modules",
        "compose",
        "kubernetes",
    }  # no programs: tests/unit/test_image.py reads what the compose file mounts, test_rayjob_example.py the RayJob
    found = {path.name: path for path in folder.rglob("*") if path.is_file() and not others & set(path.parts)}
    programs = set(found) - OTHER_FILES - {name for name in found if name.endswith(".pyc")}
    assert programs == {*LIGHT, *HEAVY, *JAVASCRIPT, "curl.sh"}
    readme = (folder / "README.md").read_text(encoding="utf-8")
    assert all(f"]({found[name].relative_to(folder).as_posix()})" in readme for name in programs)


def test_example_lock_file_names_no_registry(repository_root: Path) -> None:
    """The lock file of the JavaScript clients works with any registry."""
    lock = (repository_root / "examples" / "javascript" / "package-lock.json").read_text(encoding="utf-8")
    assert '"resolved"' not in lock
    assert '"integrity"' in lock
