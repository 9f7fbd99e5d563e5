"""What is wrong with a configuration: every problem, where it is, and what to write instead.

Owns the two records `Problem` and `ConfigurationError` and the nearest-match hint. It never sees the value of a
secret: callers pass names and places. Read `Problem` first.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Sequence
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Problem:
    """One thing that is wrong, or worth knowing, about a configuration.

    Attributes
    ----------
    where : str
        Place to go to: ``penstock.yaml:12``, the name of an environment variable, or a command-line option.
    setting : str
        Dotted path of the setting, for example ``deployments[0].price.input``; empty for the whole file.
    message : str
        What is wrong, in one sentence, without the value of any secret.
    hint : str
        What to write instead; may be empty.
    """

    where: str
    setting: str
    message: str
    hint: str = ""

    def __str__(self) -> str:
        """Return the problem as one line."""
        subject = f"{self.setting}: " if self.setting else ""
        hint = f" ({self.hint})" if self.hint else ""
        return f"{self.where}: {subject}{self.message}{hint}"

    def as_dict(self) -> dict[str, str]:
        """Return the problem as plain text fields, for ``--json``."""
        return {"where": self.where, "setting": self.setting, "message": self.message, "hint": self.hint}


class ConfigurationError(Exception):
    """The configuration is refused; `problems` lists everything that is wrong with it.

    Parameters
    ----------
    problems : iterable of Problem
        At least one.
    """

    def __init__(self, problems: Iterable[Problem]) -> None:
        self.problems = tuple(problems)
        super().__init__("\n".join(str(problem) for problem in self.problems))


def nearest_match(word: str, known: Sequence[str]) -> str | None:
    """Return the known word closest to `word`, or None when none is close.

    Parameters
    ----------
    word : str
        What was written.
    known : sequence of str
        What could have been meant.

    Returns
    -------
    str or None
        The best match with a similarity ratio of at least 0.6 (`difflib.get_close_matches`), else the one that begins
        with `word`.

    Examples
    --------
    >>> nearest_match("timeouts_", ["timeouts", "tier"])
    'timeouts'
    """
    found = difflib.get_close_matches(word.lower(), [name.lower() for name in known], n=1, cutoff=0.6)
    if not found:
        return next((name for name in known if len(word) >= 3 and name.lower().startswith(word.lower())), None)
    return next(name for name in known if name.lower() == found[0])


def did_you_mean(word: str, known: Sequence[str]) -> str:
    """Return a hint naming the nearest match, else the choices when they are few."""
    match = nearest_match(word, known)
    if match is not None:
        return f"did you mean {match!r}?"
    names = dict.fromkeys(known)
    return f"known: {', '.join(names)}" if 0 < len(names) <= 24 else ""


def setting_path(path: Sequence[str | int]) -> str:
    """Return a path as text.

    Examples
    --------
    >>> setting_path(("deployments", 0, "price", "input"))
    'deployments[0].price.input'
    """
    text = ""
    for part in path:
        text += f"[{part}]" if isinstance(part, int) else f".{part}" if text else part
    return text
