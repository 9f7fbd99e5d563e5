"""What asking a router costs: time per estimate on this machine, and that time in money.

Owns the clock of the evaluation. A latency belongs to the machine it was measured on, not to the artifact. Read
`measure_latency`.
"""

from __future__ import annotations

import platform
import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np

from penstock_routers.artifact import RouterArtifact
from penstock_routers.encoder import PromptEncoder
from penstock_routers.features import prompt_features

# About what a rented core costs on demand; an assumption, named beside every number that is made from it.
CORE_USD_PER_HOUR: Final = 0.05
_WARM_UP: Final = 20
_MAX_PROMPTS: Final = 500


@dataclass(frozen=True, slots=True)
class Latency:
    """Time to encode one prompt and estimate all arms, one prompt at a time on one thread.

    Attributes
    ----------
    p50_microseconds, p99_microseconds, mean_microseconds : float
    encode_share : float, in [0, 1]
        Share of the time that the encoder took.
    prompts : int
        Prompts timed.
    usd_per_million_requests : float
        Mean time at `core_usd_per_hour`.
    core_usd_per_hour : float
        Assumed price of a CPU core.
    machine : str
        Architecture and operating system.
    """

    p50_microseconds: float
    p99_microseconds: float
    mean_microseconds: float
    encode_share: float
    prompts: int
    usd_per_million_requests: float
    core_usd_per_hour: float
    machine: str


def measure_latency(
    artifact: RouterArtifact,
    encoder: PromptEncoder,
    prompts: Sequence[str],
    reference_arm: str,
    *,
    core_usd_per_hour: float = CORE_USD_PER_HOUR,
) -> Latency:
    """Time a router on real prompts.

    Parameters
    ----------
    artifact : RouterArtifact
    encoder : PromptEncoder
    prompts : sequence of str
        At least one; the first 500 are timed after a warm-up.
    reference_arm : str
    core_usd_per_hour : float

    Returns
    -------
    Latency

    Notes
    -----
    ``usd_per_million_requests = mean µs · 10⁶ / (3600 · 10⁶) · core_usd_per_hour``.
    """
    timed = prompts[:_MAX_PROMPTS]
    for prompt in timed[:_WARM_UP]:
        _ask(artifact, encoder, prompt, reference_arm)
    steps = np.array([_ask(artifact, encoder, prompt, reference_arm) for prompt in timed]) / 1e3
    total = steps.sum(axis=1)
    mean = float(total.mean())
    return Latency(
        p50_microseconds=float(np.quantile(total, 0.5)),
        p99_microseconds=float(np.quantile(total, 0.99)),
        mean_microseconds=mean,
        encode_share=float(steps[:, 0].sum() / total.sum()),
        prompts=len(timed),
        usd_per_million_requests=mean / 3600.0 * core_usd_per_hour,
        core_usd_per_hour=core_usd_per_hour,
        machine=f"{platform.machine()}, {platform.system()}",
    )


def _ask(artifact: RouterArtifact, encoder: PromptEncoder, prompt: str, reference_arm: str) -> tuple[int, int]:
    """Nanoseconds to encode, and to estimate with the form's features."""
    start = time.perf_counter_ns()
    vector = encoder.encode([prompt])[0]
    middle = time.perf_counter_ns()
    artifact.estimate(vector, prompt_features(prompt), reference_arm=reference_arm)
    return middle - start, time.perf_counter_ns() - middle
