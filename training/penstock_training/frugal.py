"""Cost-frugal local search over the settings of one kind of router, by FLAML.

The only file that imports ``flaml``, when a search begins. Must not know what is searched or how it is measured. Read
`FrugalSearch`.
"""

from __future__ import annotations

import importlib.util
import logging
import warnings
from collections.abc import Mapping, Sequence
from typing import Any, Final

from penstock_routers.installation import install_command
from penstock_training.errors import TrainingError
from penstock_training.search_space import Span, Steps

_ASKS: Final = 30  # suggestions in a row that were all tried before; then the neighbourhood is exhausted
_LOSS, _COST = "loss", "cost"


class FrugalSearch:
    """Proposes settings near the best known ones, and learns what they yielded.

    Parameters
    ----------
    ranges : mapping of str to Steps or Span
        At least one.
    start : mapping of str to float
        The low-cost point from which the search begins anew when it has converged.
    tried : sequence of (mapping of str to float, float)
        Settings tried already and their losses, at least one; the search begins at the best of them.
    seed : int

    Raises
    ------
    TrainingError
        ``missing_extra``: FLAML is not installed.

    Notes
    -----
    Each proposal is a random direction from the incumbent and, if that was no improvement, its opposite; the step
    shrinks when many in a row fail. Only signs of differences count, so no scale of the loss is assumed. The same
    answers to the same seed give the same proposals; no clock is read.

    References
    ----------
    Wu, Wang, Huang, "Frugal optimization for cost-related hyperparameters" (AAAI 2021), CFO, as implemented by FLAML.
    """

    def __init__(
        self,
        ranges: Mapping[str, Steps | Span],
        start: Mapping[str, float],
        tried: Sequence[tuple[Mapping[str, float], float]],
        seed: int,
    ) -> None:
        flaml = _import_flaml()
        self._names = tuple(ranges)
        self._count = 0
        self._asked: tuple[str, dict[str, float]] | None = None
        self._searcher: Any = flaml.CFO(
            metric=_LOSS,
            mode="min",
            space={name: _domain(flaml, entry) for name, entry in ranges.items()},
            low_cost_partial_config=self._own(start),
            points_to_evaluate=[self._own(settings) for settings, _ in tried],
            evaluated_rewards=[loss for _, loss in tried],
            cost_attr=_COST,
            seed=seed,
        )

    def ask(self) -> dict[str, float] | None:
        """Propose settings, one per range; None when everything nearby has been tried."""
        for _ in range(_ASKS):
            self._count += 1
            name = f"trial{self._count}"
            proposed = self._searcher.suggest(name)
            if proposed is not None:
                self._asked = (name, proposed)
                return {key: float(value) for key, value in proposed.items()}
        return None

    def tell(self, loss: float, cost: float) -> None:
        """Say what the settings asked for last yielded: the smaller `loss` the better; `cost` > 0 in any one unit."""
        if self._asked is None:
            raise ValueError("nothing was asked for")
        name, proposed = self._asked
        self._asked = None
        result = {_LOSS: loss, _COST: cost, "config": proposed}
        result |= {f"config/{key}": value for key, value in proposed.items()}
        self._searcher.on_trial_complete(name, result)

    def _own(self, settings: Mapping[str, float]) -> dict[str, float]:
        return {name: settings[name] for name in self._names}


def need_search_library() -> None:
    """Refuse to search before anything is computed.

    Raises
    ------
    TrainingError
        ``missing_extra``.
    """
    if importlib.util.find_spec("flaml") is None:
        raise TrainingError(
            f"--router auto needs flaml; run: {install_command('cpu,fit')}, or name a router", code="missing_extra"
        )


def _import_flaml() -> Any:
    need_search_library()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)  # its AutoML part is not installed and not wanted
        import flaml
    logging.getLogger("flaml").setLevel(logging.WARNING)  # it sets itself to INFO when imported
    return flaml


def _domain(flaml: Any, entry: Steps | Span) -> Any:
    if isinstance(entry, Steps):
        return flaml.tune.choice(list(entry.values))
    return flaml.tune.loguniform(entry.low, entry.high)
