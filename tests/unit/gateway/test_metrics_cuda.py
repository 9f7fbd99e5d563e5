"""Faults of the GPU, as gateway and encode server show them."""

from __future__ import annotations

from collections.abc import Callable

import pytest
from prometheus_client import CollectorRegistry

from penstock_gateway.metrics import GatewayMetrics
from penstock_gateway.remote_encoder.metrics import EncodeServerMetrics
from penstock_routers.cuda_fallback import CUDA_FAULTS


@pytest.mark.parametrize(
    "registry", [lambda: GatewayMetrics().registry, lambda: EncodeServerMetrics(CollectorRegistry()).registry]
)
def test_faults_of_the_gpu_show_where_prompts_are_encoded(registry: Callable[[], CollectorRegistry]) -> None:
    """What the CPU had to answer for the GPU is a metric of the process that holds the encoder."""
    shown = registry()
    before = shown.get_sample_value("penstock_cuda_faults")
    assert before is not None
    CUDA_FAULTS.add()
    assert shown.get_sample_value("penstock_cuda_faults") == before + 1.0
