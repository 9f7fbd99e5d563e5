"""The default artifact as shipped, and the run that makes it."""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np
import pytest

from penstock_routers.artifact import RouterArtifact
from penstock_routers.bundled import DEFAULT_ENCODER, bundled_folder
from penstock_routers.encoder import PromptEncoder
from penstock_routers.features import prompt_features
from penstock_training.default_router import CHECK_SET, FITTED_SETS, fit_default
from penstock_training.families.registry import router_spec
from penstock_training.fit import FitOptions

MAX_BYTES = 2 << 20


@pytest.fixture(scope="module")
def encoder() -> PromptEncoder:
    """The bundled static encoder."""
    return PromptEncoder.load(bundled_folder(DEFAULT_ENCODER))


@pytest.fixture(scope="module")
def artifact(encoder: PromptEncoder) -> RouterArtifact:
    """The bundled default artifact."""
    return RouterArtifact.load(bundled_folder("default-router"), encoder_id=encoder.encoder_id)


def test_default_router_is_small_and_fits_the_bundled_encoder(artifact: RouterArtifact) -> None:
    """Manifest and graph stay under 2 MB, and the four tiers are its arms."""
    folder = bundled_folder("default-router")
    assert sum((folder / name).stat().st_size for name in ("manifest.json", "router.onnx")) <= MAX_BYTES
    assert artifact.manifest.arms == ("small", "medium", "large", "frontier")


def test_default_router_is_fitted_on_licensed_sets_only(artifact: RouterArtifact) -> None:
    """Every set in the manifest is Apache-2.0; the one without a stated licence is not among them."""
    sources = artifact.manifest.training.sources
    assert {source.licence for source in sources} == {"Apache-2.0"}
    assert len(sources) == len(FITTED_SETS)
    assert not any(CHECK_SET.file.startswith(source.name) for source in sources)


def test_default_router_card_names_its_id_and_results_left_out(artifact: RouterArtifact) -> None:
    """The card belongs to this artifact and shows each set left out, always-best, hull and mixing."""
    card = (bundled_folder("default-router") / "CARD.md").read_text(encoding="utf-8")
    assert artifact.id in card
    for name in ("mmlu_pro", "routellm", "zeroeval", "always-best", "always-cheapest", "constant hull", "mixing"):
        assert name in card, name
    for picture in re.findall(r"\]\((\w+\.png)\)", card):
        assert (bundled_folder("default-router") / picture).is_file()


def test_default_router_balanced_point_is_validated_at_99_percent(artifact: RouterArtifact) -> None:
    """The operating points keep on validation what their names promise."""
    points = {point.name: point for point in artifact.manifest.operating_points}
    assert points["balanced"].validation.share_of_best >= 0.99
    assert points["cost"].validation.share_of_best >= 0.95
    assert points["cost"].validation.relative_cost <= points["balanced"].validation.relative_cost
    assert points["quality"].cost_weight == 0.0


@pytest.mark.parametrize("text", ["", "?", "x" * 100_000, "你好" * 500, "\x00\x01", "🙂"])
def test_default_router_any_text_gives_finite_estimates(
    artifact: RouterArtifact, encoder: PromptEncoder, text: str
) -> None:
    """Whatever the prompt, estimates are finite and inside their ranges."""
    found = artifact.estimate(encoder.encode([text])[0], prompt_features(text), reference_arm="frontier")
    assert ((found.quality > 0) & (found.quality < 1)).all()
    assert (found.gain_se >= 0).all()
    assert (found.output_tokens > 0).all()
    assert np.isfinite(found.novelty)


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_default_router_fitted_twice_has_one_id(penstock_data: Path, tmp_path: Path) -> None:
    """Two runs of the training on one machine give one id, and the files are equal."""
    options = FitOptions(
        router=router_spec("ensemble", {"kernel.landmarks": 100.0, "knn.prototypes": 100.0}), resamples=100
    )
    folders = [tmp_path / name for name in ("first", "second")]
    for folder in folders:
        fit_default(penstock_data, folder, options=options, progress=lambda *_: None)
    for name in ("manifest.json", "router.onnx", "CARD.md"):
        assert (folders[0] / name).read_bytes() == (folders[1] / name).read_bytes()
