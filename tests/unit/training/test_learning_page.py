"""The commands that ``docs/learning.md`` shows exist as shown."""

from __future__ import annotations

import re
import shlex
from pathlib import Path

import pytest

from penstock_training.cli import main

TEXT = (Path(__file__).resolve().parents[3] / "docs" / "learning.md").read_text(encoding="utf-8")
COMMANDS = re.findall(r"^ {4}penstock-train (.+)$", TEXT.replace("\\\n", " "), re.MULTILINE)


@pytest.mark.parametrize("line", COMMANDS)
def test_learning_page_every_command_takes_the_options_shown(line: str) -> None:
    """Whoever copies a command from the page must not be told that an option does not exist."""
    name, *arguments = shlex.split(line)
    main.commands[name].make_context(name, arguments)


def test_learning_page_shows_every_step_of_the_loop() -> None:
    """The page goes once around: from collecting to publishing what the log has taught."""
    assert [line.split()[0] for line in COMMANDS] == [
        "collect",
        "check-outcomes",
        "cross-validate",
        "fit",
        "evaluate",
        "publish",
        "import",
        "evaluate-logged",
        "fit",
        "collect",
        "publish",
    ]
