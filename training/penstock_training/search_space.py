"""What the search over routers may try: kinds of routers, the ranges of their settings, and where each starts.

Owns numbers only: ranges, low-cost starting points, relative costs of fitting, and the order of kinds by how long an
estimate takes when serving. Must not fit or measure anything. Read `Kind`, then `KINDS`.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Final

from penstock_routers.manifest import RouterFamily
from penstock_training.families.head import Settings
from penstock_training.families.registry import ENSEMBLE, make_family

CONSTANT: Final[RouterFamily] = "constant"
_JUDGING: Final = 0.3  # nominal seconds a fold: predicting and measuring cost about the same for every kind


@dataclass(frozen=True, slots=True)
class Steps:
    """A setting that takes one of a few rising values; neighbouring values are a step apart for the search.

    Attributes
    ----------
    values : tuple of float
    """

    values: tuple[float, ...]


@dataclass(frozen=True, slots=True)
class Span:
    """A setting between two positive bounds, searched on a logarithmic scale.

    Attributes
    ----------
    low, high : float
        ``0 < low < high``.
    """

    low: float
    high: float


@dataclass(frozen=True, slots=True)
class Kind:
    """One kind of router with its search space.

    Attributes
    ----------
    label : str
        Name on the leaderboard.
    family : str
        Name in `penstock_training.families.registry.FAMILIES`.
    seconds : float
        Cost of one fit with the defaults, in seconds on 7,000 prompts and 29 arms: only ratios matter.
    ranges : mapping of str to Steps or Span
        What is searched; other settings keep their defaults.
    start : mapping of str to float
        Settings of the low-cost starting point that differ from the defaults; empty where the defaults are cheap.
    fixed : mapping of str to float
        Settings that make this kind what it is.
    costly : tuple of str
        Settings to which the cost of a fit is about proportional.
    """

    label: str
    family: RouterFamily
    seconds: float
    ranges: Mapping[str, Steps | Span] = field(default_factory=dict)
    start: Settings = field(default_factory=dict)
    fixed: Settings = field(default_factory=dict)
    costly: tuple[str, ...] = ()

    @property
    def defaults(self) -> dict[str, float]:
        """All settings of the family, as this kind has them when nothing is tuned."""
        return {**make_family(self.family).defaults, **self.fixed}

    def openings(self) -> list[dict[str, float]]:
        """Settings to try first: the low-cost start, then the defaults."""
        defaults = self.defaults
        return [{**defaults, **self.start}, defaults] if self.start else [defaults]

    def cost(self, settings: Settings) -> float:
        """Cost of one fit with its judging in nominal seconds, the same on every machine; > 0."""
        defaults, cost = self.defaults, self.seconds
        for name in self.costly:
            cost *= settings[name] / defaults[name]
        return cost + _JUDGING


# Shared steps, so that kinds that cluster prompts share their clusterings.
_PLACES: Final = Steps((60.0, 120.0, 250.0, 500.0, 1000.0))
_FORM: Final = Span(0.002, 0.2)

KINDS: Final = (
    Kind(CONSTANT, "constant", 0.001),
    Kind(
        "cluster",
        "cluster",
        0.05,
        {
            "clusters": Steps((15.0, 30.0, 60.0, 120.0, 250.0)),
            "bandwidth": Span(0.03, 0.3),
            "form_weight": _FORM,
            "strength": Span(3.0, 100.0),
        },
        fixed={"is_learned": 0.0},
    ),
    Kind(
        "cluster (learned map)",
        "cluster",
        2.0,
        {
            "clusters": Steps((15.0, 30.0, 60.0, 120.0)),
            "bandwidth": Span(0.03, 0.3),
            "form_weight": _FORM,
            "strength": Span(3.0, 100.0),
            "map_penalty": Span(0.1, 100.0),
        },
        start={"clusters": 15.0},
        fixed={"is_learned": 1.0},
        costly=("clusters",),
    ),
    Kind("linear", "linear", 0.4, {"form_weight": Span(0.003, 0.3), "prior_weight": Span(0.1, 10.0)}),
    Kind(
        "knn",
        "knn",
        0.1,
        {
            "prototypes": _PLACES,
            "bandwidth": Span(0.02, 0.2),
            "form_weight": Span(0.002, 0.05),
            "strength": Span(2.0, 100.0),
        },
        start={"prototypes": 120.0},
        costly=("prototypes",),
    ),
    Kind(
        "kernel",
        "kernel",
        0.8,
        {"landmarks": _PLACES, "bandwidth": Span(0.1, 1.5), "form_weight": Span(0.001, 0.1)},
        start={"landmarks": 120.0},
        costly=("landmarks",),
    ),
    Kind(
        "factorisation",
        "factorisation",
        3.0,
        {"rank": Steps((2.0, 4.0, 8.0, 16.0)), "penalty": Span(0.03, 10.0), "form_weight": Span(0.003, 0.3)},
        start={"rank": 2.0},
    ),
    Kind(
        "irt",
        "irt",
        4.4,
        {"rank": Steps((2.0, 4.0, 8.0, 16.0)), "penalty": Span(0.03, 10.0), "form_weight": Span(0.003, 0.3)},
        start={"rank": 2.0},
    ),
    Kind(
        "boosting",
        "boosting",
        2.4,
        {
            "iterations": Steps((20.0, 50.0, 100.0, 150.0, 300.0)),
            "learning_rate": Span(0.02, 0.3),
            "leaves": Steps((4.0, 8.0, 12.0, 24.0, 48.0)),
            "min_leaf": Span(5.0, 200.0),
            "penalty": Span(0.1, 100.0),
            "dimensions": Steps((16.0, 32.0, 48.0, 96.0)),
        },
        start={"iterations": 20.0, "leaves": 4.0},
        costly=("iterations",),
    ),
    Kind(
        "mlp",
        "mlp",
        4.0,
        {
            "hidden": Steps((16.0, 32.0, 64.0, 128.0)),
            "starts": Steps((1.0, 3.0)),
            "penalty": Span(0.01, 100.0),
            "learning_rate": Span(3e-4, 1e-2),
            "form_weight": Span(0.03, 1.0),
        },
        start={"hidden": 16.0, "starts": 1.0},
        costly=("starts",),
    ),
)

# From quick to slow when serving (bench/router.py), the order in which one standard error of doubt is resolved.
RUN_ORDER: Final[tuple[RouterFamily, ...]] = (
    "constant",
    "linear",
    "cluster",
    "factorisation",
    "irt",
    "mlp",
    "knn",
    "kernel",
    "boosting",
    ENSEMBLE,
)
