"""Choosing the number of prototypes: the fewest within the loss allowed, with the loss stated in the manifest."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner

from penstock_training.cli import main
from penstock_training.crossfit import fit_head
from penstock_training.errors import TrainingError
from penstock_training.families.head import TrainingSet
from penstock_training.families.knn import KnnFamily, PrototypeHead
from penstock_training.families.registry import RouterSpec, router_spec
from penstock_training.fit import fit_router, make_training_set
from penstock_training.places import FormScaler
from penstock_training.prototype_choice import choose_prototypes
from support.small_router import OPTIONS, made_up_corpus

COST = np.array([0.2, 2.0, 9.0])


def _training(prompts: int = 1500, missing: float = 0.0) -> tuple[TrainingSet, np.ndarray]:
    corpus = made_up_corpus(prompts, missing=missing)
    return make_training_set(corpus, FormScaler.fit(corpus.features), OPTIONS), corpus.matrix.groups


def test_choice_is_the_fewest_prototypes_within_the_loss() -> None:
    """With four topics 50 prototypes are enough for a loose promise; every compared number states its error."""
    training, groups = _training()
    choice = choose_prototypes(training, groups, {**KnnFamily.defaults, "prototype_loss": 0.5}, seed=0, arm_cost=COST)
    assert choice.chosen.prototypes == 50
    assert [loss.prototypes for loss in choice.compared] == [50, 100, 200]  # five prompts each at least
    assert choice.exact.area is not None
    assert 0.0 < choice.exact.area < 1.0
    assert set(choice.errors()) == {
        "knn_exact_neighbours", "knn_50_prototypes", "knn_100_prototypes", "knn_200_prototypes"
    }  # fmt: skip


def test_choice_without_room_for_loss_takes_the_least_error() -> None:
    """No loss allowed: the number with the smallest error, or all of them beaten by exact neighbours."""
    training, groups = _training()
    choice = choose_prototypes(training, groups, {**KnnFamily.defaults, "prototype_loss": 0.0}, seed=0)
    best = min(choice.compared, key=lambda loss: loss.squared_error)
    assert choice.chosen == best
    assert choice.exact.area is None
    assert f"{best.prototypes} prototypes: squared error" in choice.describe()
    beats_exact = best.squared_error <= choice.exact.squared_error
    assert ("no number has as little" in choice.describe()) == (not beats_exact)


def test_choice_needs_prompts_to_compare_on() -> None:
    """A handful of prompts cannot tell numbers of prototypes apart."""
    training, groups = _training(60)
    with pytest.raises(TrainingError) as caught:
        choose_prototypes(training, groups, KnnFamily.defaults, seed=0)
    assert caught.value.code == "too_few_prompts"


def test_fit_head_with_zero_prototypes_fits_the_chosen_number_and_says_so() -> None:
    """The number in force is in the settings, the errors are among the metrics, the loss is in the notes."""
    training, groups = _training()
    spec = router_spec("knn", {"prototypes": 0.0, "prototype_loss": 0.5})
    fitted = fit_head(training, groups, spec, seed=0, arm_cost=COST)
    assert fitted.settings["prototypes"] == 50.0
    assert isinstance(fitted.head, PrototypeHead)
    assert 40 <= len(fitted.head.prototypes) <= 50
    assert "50 prototypes: squared error" in fitted.notes[0]
    assert "area under cost and quality" in fitted.notes[0]
    assert {"knn", "knn_exact_neighbours", "knn_50_prototypes"} <= set(fitted.error)


def test_fit_head_of_an_ensemble_chooses_for_its_member() -> None:
    """``--set knn.prototypes=0`` of an ensemble is chosen once, before stacking."""
    training, groups = _training(700)
    spec = RouterSpec("ensemble", {"knn.prototypes": 0.0, "knn.prototype_loss": 0.5}, ("linear", "knn"))
    fitted = fit_head(training, groups, spec, seed=0)
    assert fitted.settings.get("knn.prototypes", 50.0) == 50.0
    assert "knn_50_prototypes" in fitted.error


def test_fit_router_with_chosen_prototypes_measures_its_frame_on_them() -> None:
    """The chosen number also makes novelty and evidence, not the 0 that asked for a choice."""
    options = replace(OPTIONS, router=router_spec("knn", {"prototypes": 0.0, "prototype_loss": 0.5}))
    fitted = fit_router(made_up_corpus(), reference_arm="dear", options=options, progress=lambda *_: None)
    assert len(fitted.estimator.frame.prototypes) > 10


@pytest.mark.parametrize(("router", "setting"), [("knn", "support_points=1"), ("ensemble", "knn.support_points=1")])
def test_fit_with_support_points_needs_leave_to_keep_prompt_vectors(tmp_path: Path, router: str, setting: str) -> None:
    """Vectors of single prompts are content: without the flag the fit ends before a file is read."""
    command = ["fit", "--outcomes", "absent.jsonl", "--out", str(tmp_path / "router"), "--router", router]
    done = CliRunner().invoke(main, [*command, "--set", setting, "--json"])
    assert done.exit_code != 0
    assert "prompt_vectors_not_allowed" in done.output
    assert "--allow-prompt-vectors" in done.output
    allowed = CliRunner().invoke(main, [*command, "--set", setting, "--json", "--allow-prompt-vectors"])
    assert "prompt_vectors_not_allowed" not in allowed.output
    assert not (tmp_path / "router").exists()
