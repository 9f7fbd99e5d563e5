"""Which work leaves the process, and that an engine which works on copies finds the same."""

from __future__ import annotations

import copy
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, ClassVar

import numpy as np
import pytest

from penstock_training import places
from penstock_training.crossfit import fit_head
from penstock_training.engines.protocol import LocalEngine, Report, Shared, unreported
from penstock_training.errors import TrainingError
from penstock_training.families import registry
from penstock_training.families.registry import RouterSpec, router_spec
from penstock_training.fit import FitOptions, fit_router
from penstock_training.progress import silent
from support.generated_training import generated


@dataclass(frozen=True)
class CopyingEngine(LocalEngine):
    """Works in this process, but on copies and last part first, as workers elsewhere may.

    Attributes
    ----------
    asked : list of (str, int)
        Name of each function that was mapped, and over how many parts.
    """

    asked: list[tuple[str, int]] = field(default_factory=list)

    @property
    def name(self) -> Any:
        """Not the local one."""
        return "ray"

    def share(self, common: Any) -> Shared[Any]:
        """Keep a copy: what is done to the original afterwards does not reach it."""
        return Shared(copy.deepcopy(common))

    def map(
        self, function: Callable[..., Any], shared: Shared[Any], parts: Sequence[Any], report: Report = unreported
    ) -> list[Any]:
        """Each part on a copy of its own."""
        self.asked.append((function.__name__, len(parts)))
        found = [copy.deepcopy(function(copy.deepcopy(shared.held), part)) for part in reversed(parts)]
        return found[::-1]


@pytest.mark.parametrize("router", ["ensemble", "boosting", "irt"])
def test_fit_router_on_copies_gives_the_same_graph(router: str) -> None:
    """Nothing that a part finds depends on what another left behind."""
    corpus = generated(500, arms=3, shape="cluster", missing=0.1, seed=4).corpus()
    options = FitOptions(router_spec(router, {}), resamples=20)
    local = fit_router(corpus, reference_arm="arm02", options=options, progress=silent)
    engine = CopyingEngine()
    spread = fit_router(corpus, reference_arm="arm02", options=replace(options, engine=engine), progress=silent)
    assert spread.graph == local.graph
    assert ("_arm_lengths", 3) in engine.asked


def test_fit_head_ensemble_is_one_part_per_member_and_fold(monkeypatch: pytest.MonkeyPatch) -> None:
    """Five members on five folds are 25 parts, and clusterings and fills that they share are made once before."""
    engine = CopyingEngine()
    made: list[int] = []
    original = places.make_prototypes

    def counted(*arguments: Any, count: int, seed: int) -> places.Prototypes:
        made.append(count)
        return original(*arguments, count=count, seed=seed)

    monkeypatch.setattr(places, "make_prototypes", counted)
    training = generated(400, missing=0.2).training()
    fit_head(training, np.arange(400), RouterSpec("ensemble"), seed=0, engine=engine)
    asked = dict(engine.asked)
    assert asked["_predicted"] == 25
    assert asked["_filled"] == 5
    assert len(made) == len(set(made)) == asked["_clustered"]


class _Failing:
    defaults: ClassVar[dict[str, float]] = {}

    def fit(self, *_: object) -> None:
        raise TrainingError("not today", code="too_few_prompts")


def test_fit_head_member_that_fails_on_an_engine_drops_out_as_it_does_here(monkeypatch: pytest.MonkeyPatch) -> None:
    """A part's error is a note of the ensemble, and of a single family the error that it was."""
    monkeypatch.setattr(registry, "FAMILIES", {**registry.FAMILIES, "kernel": _Failing})
    training, groups, engine = generated(300).training(), np.arange(300), CopyingEngine()
    spec = RouterSpec("ensemble", members=("linear", "kernel"))
    assert fit_head(training, groups, spec, seed=0, engine=engine).notes == ("kernel dropped out: not today",)
    with pytest.raises(TrainingError, match="not today") as caught:
        fit_head(training, groups, RouterSpec("kernel"), seed=0, engine=engine)
    assert caught.value.code == "too_few_prompts"


def test_fit_head_with_support_points_stays_in_this_process() -> None:
    """Their index over all prompts is one for all folds; elsewhere each worker would build it again."""
    engine = CopyingEngine()
    training = generated(300).training()
    fit_head(training, np.arange(300), router_spec("knn", {"support_points": 1.0}), seed=0, engine=engine)
    assert engine.asked == []
