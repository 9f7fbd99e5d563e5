"""The families by name.

Owns the list and the meaning of ``--router NAME``. Read `FAMILIES`.
"""

from __future__ import annotations

import difflib
import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Final

from penstock_routers.manifest import RouterFamily
from penstock_training.errors import TrainingError
from penstock_training.families.boosting import BoostingFamily
from penstock_training.families.cluster import ClusterFamily
from penstock_training.families.constant import ConstantFamily
from penstock_training.families.factorisation import FactorFamily
from penstock_training.families.head import Family
from penstock_training.families.kernel import KernelFamily
from penstock_training.families.knn import KnnFamily
from penstock_training.families.linear import LinearFamily
from penstock_training.families.neural import NeuralFamily

FAMILIES: Final[Mapping[RouterFamily, Callable[[], Family]]] = {
    "knn": KnnFamily,
    "cluster": ClusterFamily,
    "linear": LinearFamily,
    "kernel": KernelFamily,
    "mlp": NeuralFamily,
    "boosting": BoostingFamily,
    "factorisation": lambda: FactorFamily(is_item_response=False),
    "irt": lambda: FactorFamily(is_item_response=True),
    "constant": ConstantFamily,
}
ENSEMBLE: Final[RouterFamily] = "ensemble"
AUTO: Final = "auto"
# `learned` is what the papers call the ones that learn weights; it stands for the quickest of them.
_ALIASES: Final = {"learned": "linear"}
ROUTER_NAMES: Final = (*FAMILIES, ENSEMBLE, AUTO, *_ALIASES)
# Members of an ensemble unless others are named: different enough in kind, and together under a millisecond a prompt.
DEFAULT_MEMBERS: Final = ("linear", "kernel", "knn", "cluster", "factorisation")
# Where a member serves an ensemble better with other settings than by itself.
MEMBER_SETTINGS: Final[Mapping[str, Mapping[str, float]]] = {"cluster": {"is_learned": 1.0}}
# Divided by, or a count that may not be none.
_POSITIVE: Final = (
    "bandwidth",
    "strength",
    "hidden",
    "learning_rate",
    "neighbours",
    "iterations",
    "dimensions",
    "epochs",
)


@dataclass(frozen=True, slots=True)
class RouterSpec:
    """Which router to fit.

    Attributes
    ----------
    family : str
        A name in `FAMILIES`, or ``ensemble``.
    settings : mapping of str to float
        Hyper-parameters that differ from the family's defaults; for an ensemble, ``member.name`` to value.
    members : tuple of str
        Families of an ensemble.
    """

    family: RouterFamily
    settings: Mapping[str, float] = field(default_factory=dict)
    members: tuple[str, ...] = DEFAULT_MEMBERS


def known_family(name: str) -> RouterFamily:
    """Find a family by its name.

    Raises
    ------
    TrainingError
        ``unknown_router``.
    """
    for family in (*FAMILIES, ENSEMBLE):
        if family == name:
            return family
    close = difflib.get_close_matches(name, ROUTER_NAMES, 1)
    hint = f" (did you mean {close[0]}?)" if close else ""
    raise TrainingError(
        f"there is no router {name!r}{hint}; known: {', '.join(ROUTER_NAMES)}, learned:HEAD", code="unknown_router"
    )


def make_family(name: str) -> Family:
    """Make a family by its name.

    Raises
    ------
    TrainingError
        ``unknown_router``: there is none of that name, or it is made of others (``ensemble``).
    """
    family = known_family(name)
    if family == ENSEMBLE:
        raise TrainingError("an ensemble is made of other families", code="unknown_router")
    return FAMILIES[family]()


def router_spec(name: str, settings: Mapping[str, float] | None = None) -> RouterSpec:
    """Read ``--router NAME``: a family, ``ensemble``, ``learned``, or ``learned:HEAD``.

    Raises
    ------
    TrainingError
        ``unknown_router``; ``unknown_setting``: the family has no such hyper-parameter; ``bad_setting``: its number is
        negative or not finite, or 0 where it may not be.
    """
    base, _, head = name.partition(":")
    family = known_family(head if base == "learned" and head else _ALIASES.get(name, name))
    given = dict(settings or {})
    if family == ENSEMBLE:
        known = [f"{member}.{key}" for member in DEFAULT_MEMBERS for key in make_family(member).defaults]
    else:
        known = list(make_family(family).defaults)
    if unknown := sorted(set(given) - set(known)):
        raise TrainingError(
            f"{family} has no setting {', '.join(unknown)}; it has {', '.join(known) or 'none'}", code="unknown_setting"
        )
    for key, value in given.items():
        setting = key.rpartition(".")[2]
        if not (math.isfinite(value) and value >= 0.0) or (setting in _POSITIVE and value == 0.0):
            least = "above 0" if setting in _POSITIVE else "0 or more"
            raise TrainingError(f"{key} must be a number, {least}; not {value:g}", code="bad_setting")
    return RouterSpec(family, given)
