"""The parameter behind the colon of a scorer's spec: ``tolerance=0.01,decimal=comma``.

Owns its syntax and the errors about it. Read `read_settings`.
"""

from __future__ import annotations

import difflib
import math
from collections.abc import Mapping

from penstock_training.errors import TrainingError


def read_settings(scorer: str, parameter: str, known: Mapping[str, str]) -> dict[str, str]:
    """Read ``name=value`` pairs with commas between.

    Parameters
    ----------
    scorer : str
        For the error's text.
    parameter : str
        What follows the colon; may be empty.
    known : mapping
        Names that are allowed, with the value of each when it is not given.

    Returns
    -------
    dict of str
        Every known name.

    Raises
    ------
    TrainingError
        Code ``scorer_spec``: no pair, or an unknown name.
    """
    settings = dict(known)
    for pair in filter(None, parameter.split(",")):
        name, equals, value = (part.strip() for part in pair.partition("="))
        if name not in known or not equals:
            near = difflib.get_close_matches(name, known, n=1)
            hint = f"did you mean {near[0]!r}?" if near else f"known: {', '.join(known) or 'none'}"
            message = f"the scorer `{scorer}` has no setting {name[:40]!r} as NAME=VALUE; {hint}"
            raise TrainingError(message, code="scorer_spec")
        settings[name] = value
    return settings


def read_amount(scorer: str, name: str, text: str, *, highest: float = math.inf) -> float:
    """Read a setting that is a number from 0 to `highest`; a TrainingError of code ``scorer_spec`` otherwise."""
    try:
        value = float(text)
    except ValueError:
        value = math.nan
    if not (0.0 <= value <= highest and math.isfinite(value)):
        limit = "" if math.isinf(highest) else f" and at most {highest:g}"
        message = f"the scorer `{scorer}` needs {name} as a number of at least 0{limit}, not {text[:40]!r}"
        raise TrainingError(message, code="scorer_spec")
    return value


def read_choice(scorer: str, name: str, text: str, choices: tuple[str, ...]) -> str:
    """Read a setting that is one of a few words; a TrainingError of code ``scorer_spec`` otherwise."""
    if text not in choices:
        message = f"the scorer `{scorer}` knows for {name}: {', '.join(choices)}; not {text[:40]!r}"
        raise TrainingError(message, code="scorer_spec")
    return text
