"""How long work says how far it is.

Owns one type and its silent form; drawing bars is the command line's affair (`penstock_training.commands.shell`).
"""

from __future__ import annotations

from collections.abc import Callable

Progress = Callable[[str, int, int], None]
"""Called with a stage's name, steps done and steps in total; what follows a colon in the name may change."""


def silent(stage: str, done: int, total: int) -> None:
    """Report nothing."""


def renamed(progress: Progress, name: str) -> Progress:
    """Report under another stage's name, where one kind of work is done twice."""
    return lambda stage, done, total: progress(name, done, total)
