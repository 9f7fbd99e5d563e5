"""Rules of the check that `make check` makes of the Markdown files."""

from __future__ import annotations

import importlib.util
from pathlib import Path
from types import ModuleType

import pytest

SCRIPT = Path(__file__).resolve().parents[2] / "scripts" / "check_docs.py"


@pytest.fixture(scope="module")
def check_docs() -> ModuleType:
    """The script as a module."""
    specification = importlib.util.spec_from_file_location("check_docs", SCRIPT)
    module = importlib.util.module_from_spec(specification)
    specification.loader.exec_module(module)
    return module


@pytest.fixture
def repository(tmp_path: Path) -> Path:
    """A small repository without a problem."""
    (tmp_path / "Makefile").write_text("help: ## List.\n\ntest-all: ## Test.\n")
    records = tmp_path / "docs" / "adr"
    records.mkdir(parents=True)
    (records / "README.md").write_text("# Records\n\n[1](0001-first.md)\n")
    (records / "0001-first.md").write_text("# First\n")
    (tmp_path / "README.md").write_text(
        "# A title\n\n## Speed, in `ms`\n\n[here](#speed-in-ms) `make test-all ARGS=-q`\n"
    )
    return tmp_path


def test_problems_of_a_sound_repository_are_none(check_docs: ModuleType, repository: Path) -> None:
    """Links, anchors, targets and records that are right give no finding."""
    assert list(check_docs.problems(repository)) == []


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("[x](docs/nothing.md)", "the link to docs/nothing.md leads nowhere"),
        ("[x](docs/adr/0001-first.md#second)", "the link to docs/adr/0001-first.md#second names a heading that is not"),
        ("[x](#nowhere)", "the link to #nowhere names a heading that is not there"),
        ("Run `make everything` now", "there is no `make everything`"),
        ("```\n$ make coffee\n```", "there is no `make coffee`"),
        ("Run `ONCE=1 make tea`", "there is no `make tea`"),
    ],
)
def test_problems_of_a_wrong_reference_name_it(
    check_docs: ModuleType, repository: Path, text: str, problem: str
) -> None:
    """A link, anchor or make target that is not there is named with its file."""
    (repository / "WRONG.md").write_text(text + "\n")
    (found,) = check_docs.problems(repository)
    assert found.startswith(f"WRONG.md: {problem}")


@pytest.mark.parametrize(
    "text",
    [
        "[x](https://example.org/a)",
        "[x](docs/adr/README.md#records)",
        "```\n[x](nothing.md)\n```",
        "Do not make it up.",
    ],
)
def test_problems_of_a_right_reference_are_none(check_docs: ModuleType, repository: Path, text: str) -> None:
    """Addresses, headings of other files, links inside code and plain prose are left alone."""
    (repository / "RIGHT.md").write_text(text + "\n")
    assert list(check_docs.problems(repository)) == []


def test_problems_of_an_unlisted_record_name_it(check_docs: ModuleType, repository: Path) -> None:
    """A decision record that the index does not list is a problem."""
    (repository / "docs" / "adr" / "0002-second.md").write_text("# Second\n")
    assert list(check_docs.problems(repository)) == ["docs/adr/README.md: 0002-second.md is not listed"]


def test_problems_of_a_gap_in_the_numbers_name_the_number(check_docs: ModuleType, repository: Path) -> None:
    """Records are numbered without gaps."""
    (repository / "docs" / "adr" / "0003-third.md").write_text("# Third\n")
    (repository / "docs" / "adr" / "README.md").write_text("# Records\n\n[1](0001-first.md) [3](0003-third.md)\n")
    (found,) = check_docs.problems(repository)
    assert "0003-third.md" in found
    assert found.endswith("expected 0002")


def test_problems_of_a_left_placeholder_name_it(check_docs: ModuleType, repository: Path) -> None:
    """A mark that somebody meant to fill in is found."""
    (repository / "README.md").write_text("# A title\n\n@@NUM" + "BERS@@\n")
    (problem,) = check_docs.problems(repository)
    assert problem == "README.md: the placeholder @@NUM" + "BERS@@ was never filled in"
