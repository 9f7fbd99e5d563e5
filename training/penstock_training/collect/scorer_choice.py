"""The scorer that the command line names: its options by name, and what its own calls cost.

Owns the way from ``--scorer`` and ``--scorer-option`` to a scorer. Must not score. Read `make_scorer`.
"""

from __future__ import annotations

import difflib
import types
import typing
from collections.abc import Mapping
from dataclasses import fields
from pathlib import Path
from typing import Any, Final

from penstock_training.collect.budget import ArmPrice
from penstock_training.errors import TrainingError
from penstock_training.scorers.options import ScorerOptions
from penstock_training.scorers.protocol import Scorer
from penstock_training.scorers.registry import build_scorer

_WORDS: Final = {"true": True, "yes": True, "1": True, "false": False, "no": False, "0": False}
_READABLE: Final = (str, int, float, bool, Path)
_JUDGE_PRICES: Final = ("judge_price_usd_per_million_input_tokens", "judge_price_usd_per_million_output_tokens")


def make_scorer(
    spec: str,
    given: Mapping[str, str],
    *,
    seed: int,
    base_url: str,
    api_key_env: str | None,
    prices: Mapping[str, ArmPrice],
) -> Scorer:
    """Build a scorer.

    Parameters
    ----------
    spec : str
        As the registry takes it.
    given : mapping of str to str
        Options by name; those of `ScorerOptions` that text can express.
    seed, base_url, api_key_env
        Of the run. A judge without an address of its own is reached the way the arms are, with their key or with none.
    prices : mapping of str to ArmPrice
        Known prices by model, for a judge whose own are not given.

    Returns
    -------
    Scorer

    Raises
    ------
    TrainingError
        ``scorer_option``: no such option, or a value of another type. ``no_prices``: a judge without prices would
        escape the budget. And what the registry raises.
    """
    kinds = {name: kind for name, kind in _kinds().items() if kind is not None}
    values: dict[str, Any] = {}
    for name, text in given.items():
        if name not in kinds:
            near = difflib.get_close_matches(name, kinds, n=1)
            hint = f"did you mean {near[0]!r}?" if near else f"there are: {', '.join(sorted(kinds))}"
            raise TrainingError(f"no scorer has an option {name[:40]!r}; {hint}", code="scorer_option")
        values[name] = _convert(name, text, kinds[name])
    defaults: dict[str, Any] = {"seed": seed}
    if (
        "judge_base_url" not in values
    ):  # a key belongs to one address: no other one is sent there, nor this one elsewhere
        defaults |= {"judge_base_url": base_url, "judge_api_key_env": api_key_env or ""}
    for name, value in defaults.items():
        if name in kinds:
            values.setdefault(name, value)
    if spec.partition(":")[0].startswith("judge"):
        _add_judge_prices(values, prices)
    return build_scorer(spec, ScorerOptions(**values))


def _add_judge_prices(values: dict[str, Any], prices: Mapping[str, ArmPrice]) -> None:
    """Take a judge's prices from the price list, unless they are given."""
    price = prices.get(str(values.get("judge_model")))
    if price is not None:
        values.setdefault(_JUDGE_PRICES[0], float(price.input))
        values.setdefault(_JUDGE_PRICES[1], float(price.output))
    if missing := [name for name in _JUDGE_PRICES if name not in values]:
        shown = " and ".join(f"--scorer-option {name}=..." for name in missing)
        message = f"the judge has no price, so the budget could not hold; name it in --prices, or give {shown}"
        raise TrainingError(message, code="no_prices")


def _kinds() -> dict[str, type | None]:
    """Type of every option as text gives it; None for those that text cannot give."""
    hints = typing.get_type_hints(ScorerOptions)
    found: dict[str, type | None] = {}
    for entry in fields(ScorerOptions):
        hint = hints[entry.name]
        parts = typing.get_args(hint) if isinstance(hint, types.UnionType) else (hint,)
        known = [part for part in parts if part in _READABLE]
        found[entry.name] = known[0] if known else None
    return found


def _convert(name: str, text: str, kind: type) -> Any:
    try:
        return _WORDS[text.casefold()] if kind is bool else kind(text)
    except (KeyError, ValueError) as error:
        raise TrainingError(
            f"scorer option {name}: {text[:40]!r} is no {kind.__name__}", code="scorer_option"
        ) from error
