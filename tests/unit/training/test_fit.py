"""One training run on made-up outcomes: what it promises, refuses and repeats."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from threadpoolctl import threadpool_limits

from penstock_routers.artifact import RouterArtifact
from penstock_routers.errors import ArtifactError
from penstock_routers.manifest import decode_manifest
from penstock_routers.token_counts import message_tokens
from penstock_training.errors import TrainingError
from penstock_training.fit import Corpus, cost_scale_usd, fit_estimator, fit_router, single_threaded, split_prompts
from penstock_training.own_router import arm_prices, dearest_arm
from penstock_training.pack import GOLDEN_ROWS, check_folder, write_artifact
from penstock_training.splits import grouped_split
from support.generated_training import generated
from support.small_router import (
    ARMS,
    OPTIONS,
    PRICES,
    fitted_small_router,
    made_up_corpus,
    small_manifest,
)


def _fit(corpus: Corpus, reference_arm: str = "dear") -> bytes:
    return fit_router(corpus, reference_arm=reference_arm, options=OPTIONS, progress=lambda *_: None).graph


def test_fit_router_routes_easy_topics_down_and_keeps_the_promised_quality() -> None:
    """Where two of four topics need no dear arm, ``cost`` saves a fifth and keeps 95 % on test prompts."""
    fitted = fit_router(made_up_corpus(5000), reference_arm="dear", options=OPTIONS, progress=lambda *_: None)
    found = fitted.test["cost"]
    assert found.relative_cost < 0.8  # the easy half makes 30 % of the dear arm's cost
    assert found.share_of_best > 0.95 - 0.03  # 670 complete test prompts: the standard error of the share is 0.014
    assert found.relative_cost <= fitted.test["balanced"].relative_cost <= fitted.test["quality"].relative_cost + 1e-9


def test_fit_router_few_prompts_certify_less() -> None:
    """With 124 complete validation prompts, 99 % of the best arm cannot be shown, so balanced hardly leaves it."""
    _, fitted = fitted_small_router()
    assert fitted.test["balanced"].relative_cost > 0.9


def test_fit_router_gains_follow_the_topics() -> None:
    """The cheap arm's predicted loss is small on the topics it can do and large on the others."""
    corpus, fitted = fitted_small_router()
    test = corpus.rows(fitted.split["test"])
    found = fitted.estimator.predict(test.vectors.astype(float), test.features.astype(float), ARMS.index("dear"))
    topic = np.array([int(prompt.split()[1]) for prompt in test.matrix.prompts])
    assert found.gain[topic == 0, 0].mean() > -0.15
    assert found.gain[topic == 3, 0].mean() < -0.4
    assert (found.gain_se[:, :2] > 0.0).all()


def test_fit_router_on_shuffled_outcomes_keeps_the_default_arm() -> None:
    """Outcomes without any relation to the prompts leave nothing to route by: balanced is the dear arm."""
    corpus = made_up_corpus(1500, missing=0.0)
    order = np.random.default_rng(0).permutation(1500)
    matrix = replace(corpus.matrix, score=corpus.matrix.score[order])
    fitted = fit_router(replace(corpus, matrix=matrix), reference_arm="dear", options=OPTIONS, progress=lambda *_: None)
    assert fitted.test["balanced"].relative_cost > 0.97


def test_fit_router_any_number_of_threads_gives_the_same_graph() -> None:
    """Inside single_threaded a run is repeatable to the byte, whatever limit holds outside."""
    corpus = made_up_corpus()
    graphs = []
    for threads in (1, 2):
        with threadpool_limits(threads), single_threaded():
            graphs.append(_fit(corpus))
    assert graphs[0] == graphs[1]


def test_fit_router_thirty_arms_on_the_fewest_prompts_gives_a_sound_router() -> None:
    """160 prompts, 30 arms, one that never fails and one that always does: a graph that agrees, and honest numbers."""
    sample = generated(160, arms=30, seed=1)
    score = sample.score.copy()
    score[:, 3], score[:, 4] = 1.0, 0.0
    corpus = replace(sample, score=score).corpus()
    fitted = fit_router(corpus, reference_arm="arm29", options=OPTIONS, progress=lambda *_: None)
    assert fitted.parity.passes
    found = fitted.estimator.predict(corpus.vectors, corpus.features, 29)
    assert all(np.isfinite(getattr(found, name)).all() for name in ("quality", "quality_se", "gain", "gain_se"))
    assert found.quality[:, 3].min() > 0.9
    assert found.quality[:, 4].max() < 0.1


def test_fit_router_arm_with_one_outcome_is_estimated_and_known_to_be_unsure() -> None:
    """An arm added yesterday is no reason to refuse, and its estimate is the least certain of all."""
    sample = generated(600, seed=2)
    score = sample.score.copy()
    score[1:, 0] = np.nan
    estimator, _, _ = fit_estimator(replace(sample, score=score).corpus(), OPTIONS, lambda *_: None)
    found = estimator.predict(sample.vectors, sample.features, 2)
    assert np.isfinite(found.quality).all()
    assert np.ptp(found.quality[:, 0]) < 1.0
    factor = estimator.frame.observe(sample.inputs).variance_factor
    assert (factor[:, 0] > factor[:, 1]).all()


def test_fit_router_unknown_reference_arm_is_refused() -> None:
    """The default arm must have outcomes."""
    with pytest.raises(TrainingError) as caught:
        _fit(made_up_corpus(), "nobody")
    assert caught.value.code == "unknown_arm"


def test_fit_router_too_few_prompts_says_how_many_are_needed() -> None:
    """A knob is never chosen on a handful of prompts."""
    with pytest.raises(TrainingError, match="20 are needed, so about 150 in all") as caught:
        _fit(made_up_corpus(80))
    assert caught.value.code == "too_few_prompts"


@pytest.mark.parametrize(
    ("scores", "prices", "code"),
    [
        (1.0, PRICES, "constant_scores"),
        (0.0, PRICES, "constant_scores"),
        (None, {**PRICES, "dear": (0.0, 0.0)}, "free_reference_arm"),
    ],
)
def test_fit_router_nothing_to_learn_or_to_measure_by_is_refused(
    scores: float | None, prices: dict[str, tuple[float, float]], code: str
) -> None:
    """Equal scores everywhere teach nothing, and a default arm without a price gives no unit of cost."""
    corpus = made_up_corpus(missing=0.0)
    if scores is not None:
        corpus = replace(corpus, matrix=replace(corpus.matrix, score=np.full_like(corpus.matrix.score, scores)))
    with pytest.raises(TrainingError) as caught:
        _fit(replace(corpus, prices=prices))
    assert caught.value.code == code


def test_cost_scale_is_the_dearest_arms_typical_request_as_in_serving(tmp_path: Path) -> None:
    """λ is chosen in the unit that the gateway and a prediction use, whichever arm is the default."""
    artifact = write_artifact(tmp_path, small_manifest(), fitted_small_router()[1].graph)
    request = (artifact.manifest.reference_input_tokens, artifact.manifest.reference_output_tokens)
    served = max(artifact.cost_scale_usd(*price) for price in PRICES.values())
    assert cost_scale_usd(PRICES, *request) == pytest.approx(served, rel=1e-12)
    assert served == artifact.cost_scale_usd(*PRICES["dear"])


def test_make_manifest_split_can_be_made_again_from_it() -> None:
    """Shares and seed of the manifest give the very test prompts that the router was measured on."""
    corpus, fitted = fitted_small_router()
    split = small_manifest().split
    again = grouped_split(corpus.matrix.groups, fractions=split.fractions, seed=split.seed)
    for name, rows in fitted.split.items():
        np.testing.assert_array_equal(again[name], rows)


def test_split_prompts_parts_are_disjoint_and_complete() -> None:
    """Every prompt is in one part, and a group never in two."""
    groups = np.repeat(np.arange(1200), 2)
    split = split_prompts(groups, 3)
    together = np.concatenate(list(split.values()))
    assert sorted(together.tolist()) == list(range(groups.size))
    found = [set(groups[rows]) for rows in split.values()]
    assert sum(len(part) for part in found) == len(set().union(*found))


def test_matrix_prompt_tokens_fall_back_on_the_gateways_estimate() -> None:
    """A prompt whose tokens nobody counted has as many as the gateway would take it for."""
    corpus = made_up_corpus(10)
    counts = corpus.matrix.input_tokens.copy()
    counts[0] = np.nan
    found = replace(corpus.matrix, input_tokens=counts).prompt_tokens
    assert found[0] == message_tokens(corpus.matrix.prompts[0])
    assert found[1] == counts[1, 0]


def test_arm_prices_are_recovered_from_costs_or_taken_as_given() -> None:
    """Prices come from the outcomes' own costs; given ones win."""
    found = arm_prices(made_up_corpus(300).matrix, {"cheap": (9.0, 9.0)})
    assert found["cheap"] == (9.0, 9.0)
    assert found["dear"] == pytest.approx(PRICES["dear"], rel=1e-3)
    assert dearest_arm(PRICES) == "dear"


def test_arm_prices_without_costs_names_the_arms_that_need_one() -> None:
    """Without costs and without a price list, fitting stops and says for which arms."""
    matrix = made_up_corpus(50).matrix
    matrix = replace(matrix, cost_usd=np.full_like(matrix.cost_usd, np.nan))
    with pytest.raises(TrainingError, match="middle, dear") as caught:
        arm_prices(matrix, {"cheap": (1.0, 1.0)})
    assert caught.value.code == "no_prices"
    with pytest.raises(TrainingError, match="stranger"):
        arm_prices(matrix, {"stranger": (1.0, 1.0)})


def test_write_artifact_loads_again_and_holds_no_prompt(tmp_path: Path) -> None:
    """The written folder is what serving loads; neither prompts nor their vectors are in it."""
    corpus, fitted = fitted_small_router()
    artifact = write_artifact(tmp_path, small_manifest(), fitted.graph)
    assert artifact.id == small_manifest().id
    assert sorted(path.name for path in tmp_path.iterdir()) == ["manifest.json", "router.onnx"]
    written = b"".join(path.read_bytes() for path in tmp_path.iterdir())
    assert not any(prompt.encode() in written for prompt in corpus.matrix.prompts)
    assert not any(vector.tobytes() in written for vector in corpus.vectors)
    golden = decode_manifest((tmp_path / "manifest.json").read_bytes()).golden
    assert len(golden.prompt_vectors) == GOLDEN_ROWS
    similarity = np.asarray(golden.prompt_vectors) @ corpus.vectors.T
    assert similarity.max() < 0.9999


def test_write_artifact_that_serving_refuses_leaves_the_earlier_one(tmp_path: Path) -> None:
    """A router takes the place of another only after it could be opened; no file of it stays otherwise."""
    _, fitted = fitted_small_router()
    write_artifact(tmp_path, small_manifest(), fitted.graph)
    with pytest.raises(ArtifactError):
        write_artifact(tmp_path, small_manifest(), fitted.graph + b"\x00")
    assert RouterArtifact.load(tmp_path, encoder_id=None).id == small_manifest().id
    assert sorted(path.name for path in tmp_path.iterdir()) == ["manifest.json", "router.onnx"]


def test_check_folder_holding_something_else_or_below_a_file_is_refused(tmp_path: Path) -> None:
    """Nobody's files are mixed with a router's, and a folder that cannot be made is found before the long work."""
    check_folder(tmp_path / "new" / "folder")
    check_folder(tmp_path)
    assert not list(tmp_path.iterdir())
    (tmp_path / "manifest.json").write_text("{}")
    for folder, code in ((tmp_path, "out_not_empty"), (tmp_path / "manifest.json" / "x", "out_not_writable")):
        with pytest.raises(TrainingError) as caught:
            check_folder(folder)
        assert caught.value.code == code
    (tmp_path / "router.onnx").write_bytes(b"")
    check_folder(tmp_path)


def test_make_manifest_states_split_arms_and_reference_request() -> None:
    """The manifest's numbers are those of the run."""
    corpus, fitted = fitted_small_router()
    manifest = small_manifest()
    assert manifest.split.prompts == {name: rows.size for name, rows in fitted.split.items()}
    assert manifest.reference_arm == "dear"
    assert manifest.reference_output_tokens == pytest.approx(
        np.nanmean(corpus.matrix.output_tokens[fitted.split["train"], 2]), abs=0.1
    )
    assert [entry.tier for entry in manifest.arm_entries] == [None, None, "frontier"]
    assert manifest.training.digest == corpus.matrix.digest
    assert manifest.calibration.rows == fitted.split["train"].size
