"""How long one routing decision takes per family: estimate, candidates and policy for 30 arms on one CPU thread.

Fits every family on generated outcomes with 30 arms, exports it, and times what the gateway does once a prompt has its
vector: one run of the graph, 30 candidates with their costs, the policy; and the whole of the gateway's decision with
its report. An empty ONNX graph and the linear family's arithmetic in NumPy are timed in the same run.

Usage::

    python bench/router.py                  every family, a few minutes on one core
    python bench/router.py --quick          600 prompts, small settings; no figure is to be believed
"""

from __future__ import annotations

import argparse
import asyncio
import json
import sys
import tempfile
import time
from collections.abc import Callable
from decimal import Decimal
from pathlib import Path
from typing import Any, cast

import numpy as np
from machine import describe_machine, machine_lines
from numpy.typing import NDArray
from router_corpora import DIMENSION, generated_corpus

from penstock_gateway.chooser import ArmChooser, RoutingParts
from penstock_gateway.deployments import Ability, Deployment
from penstock_gateway.money.prices import Price
from penstock_gateway.request_body import ChatRequest, parse_chat_request
from penstock_routers.artifact import RouterArtifact
from penstock_routers.estimates import Estimate
from penstock_routers.features import FEATURE_NAMES
from penstock_routers.manifest import EncoderReference, TensorSpec
from penstock_routers.onnx_session import create_session
from penstock_routers.policy import Candidate, decide
from penstock_training.default_router import evaluate_on
from penstock_training.families.registry import router_spec
from penstock_training.fit import Corpus, FitOptions, fit_router, single_threaded
from penstock_training.graph import GraphBuilder
from penstock_training.own_router import dearest_arm
from penstock_training.pack import Provenance, make_manifest, write_artifact

PACKAGES = ("penstock", "numpy", "onnx", "onnxruntime")
ARMS = 30
SHORT_US, LONG_US = 100.0, 1000.0
SUPPORT_POINTS = 20_000
ENCODER = EncoderReference("generated@000000000000", "generated", DIMENSION, {})
# Name in the table, family, settings, and the line in µs.
ROUTERS: tuple[tuple[str, str, dict[str, float], float], ...] = (
    ("constant", "constant", {}, SHORT_US),
    ("cluster", "cluster", {}, SHORT_US),
    ("cluster learned", "cluster", {"is_learned": 1.0}, SHORT_US),
    ("linear", "linear", {}, SHORT_US),
    ("knn prototypes", "knn", {}, SHORT_US),
    ("kernel", "kernel", {}, LONG_US),
    ("factorisation", "factorisation", {}, LONG_US),
    ("irt", "irt", {}, LONG_US),
    ("mlp", "mlp", {}, LONG_US),
    ("boosting", "boosting", {}, LONG_US),
    ("ensemble", "ensemble", {}, LONG_US),
    ("knn exact", "knn", {"support_points": 1.0}, LONG_US),
)
Say = Callable[[str], None]
Prompts = tuple[NDArray[np.float32], NDArray[np.float32]]


def main() -> None:
    """Run the bench as the command line asks."""
    options = _parse()
    say: Say = (lambda line: print(line, file=sys.stderr)) if options.json else print
    machine = describe_machine(PACKAGES)
    for line in machine_lines(machine):
        say(line)
    calls = 200 if options.quick else options.calls
    chosen = [r for r in ROUTERS if options.routers is None or r[0] in options.routers.split(",")]
    if not chosen:
        sys.exit(f"known routers: {', '.join(router[0] for router in ROUTERS)}")
    corpus = generated_corpus(600 if options.quick else options.prompts, ARMS)
    prompts = corpus.vectors[:256], corpus.features[:256]
    floor = _percentiles(_empty_graph(), prompts, calls)
    numpy_linear = _percentiles(_numpy_linear(), prompts, calls)
    say(f"{calls:,} calls each; µs, median unless said otherwise, one thread; p10 is what a quiet core would show")
    say(f"an empty ONNX graph {floor[0]:.0f} ({floor[1]:.0f}); NumPy's linear estimate {numpy_linear[0]:.0f}\n")
    titles = ("estimate", "decide", "both", "p10", "p99", "line", "× empty", "gateway", "KB")
    say(f"{'router':<17}" + "".join(f"{title:>9}" for title in titles))
    rows = []
    with tempfile.TemporaryDirectory(prefix="penstock-bench-") as scratch, single_threaded():
        for name, family, settings, line in chosen:
            for artifact, label in _artifacts(corpus, name, family, settings, Path(scratch), options.quick):
                row = {"router": label, "line_us": line, **_measure(artifact, corpus, prompts, calls)}
                row["ratio_to_empty"] = round(row["both_us"] / floor[0], 1)
                rows.append(row)
                _print_row(row, say)
    if options.json:
        result = {"machine": machine, "calls": calls, "empty_graph_us": floor[0], "numpy_linear_us": numpy_linear[0]}
        print(json.dumps({**result, "routers": rows}, indent=1))


def _parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n", maxsplit=1)[0])
    parser.add_argument("--routers", help=f"of {', '.join(router[0] for router in ROUTERS)}; all by default")
    parser.add_argument("--prompts", type=int, default=6000, help="generated prompts (6000)")
    parser.add_argument("--calls", type=int, default=4000, help="timed calls per router (4000)")
    parser.add_argument("--quick", action="store_true", help="600 prompts, 200 calls")
    parser.add_argument("--json", action="store_true", help="print one JSON object; the table goes to stderr")
    return parser.parse_args()


def _artifacts(
    corpus: Corpus, name: str, family: str, settings: dict[str, float], scratch: Path, is_quick: bool
) -> list[tuple[RouterArtifact, str]]:
    """Fit and export one router; exact neighbours at 20,000 support points."""
    if settings.get("support_points"):
        wanted = 2_000 if is_quick else SUPPORT_POINTS
        corpus = generated_corpus(round(wanted / 0.75) + 1, ARMS)
        name = f"{name} {corpus.vectors.shape[0] * 3 // 4 // 1000}k"
    options = FitOptions(router=router_spec(family, settings), resamples=20)
    fitted = fit_router(corpus, reference_arm=dearest_arm(corpus.prices), options=options, progress=lambda *_: None)
    held_out = evaluate_on(fitted, corpus.rows(fitted.split["test"]), "generated prompts", options)
    provenance = Provenance(ENCODER, "0" * 64, (), (), {}, {}, 0)
    manifest = make_manifest(fitted, corpus, provenance, held_out=held_out, left_out={})
    return [(write_artifact(scratch / name.replace(" ", "-"), manifest, fitted.graph), name)]


def _measure(artifact: RouterArtifact, corpus: Corpus, prompts: Prompts, calls: int) -> dict[str, Any]:
    reference = artifact.manifest.reference_arm
    price = [corpus.prices[arm] for arm in artifact.manifest.arms]
    tradeoff = artifact.tradeoff("balanced")
    scale = artifact.cost_scale_usd(*corpus.prices[reference])

    def estimate(vector: NDArray[np.float32], features: NDArray[np.float32]) -> Estimate:
        return artifact.estimate(vector, features, reference_arm=reference)

    def choose(found: Estimate) -> object:
        candidates = [
            Candidate(arm, quality, quality_se, gain, gain_se, (120.0 * sent + tokens * written) / 1e6)
            for arm, (quality, quality_se, gain, gain_se, tokens), (sent, written) in zip(
                found.arms, found.numbers(), price, strict=True
            )
        ]
        return decide(
            candidates,
            default_arm=reference,
            tradeoff=tradeoff,
            cost_scale_usd=scale,
            is_novel=artifact.is_novel(found),
        )

    chooser, request = _gateway(artifact, corpus)
    fixed = estimate(prompts[0][0], prompts[1][0])
    both = _percentiles(lambda v, f: choose(estimate(v, f)), prompts, calls)
    with asyncio.Runner() as runner:
        gateway = runner.run(_gateway_microseconds(chooser, request, calls))
    return {
        "estimate_us": _percentiles(estimate, prompts, calls)[0],
        "decide_us": _percentiles(lambda *_: choose(fixed), prompts, calls)[0],
        "both_us": both[0],
        "both_p99_us": both[1],
        "both_p10_us": both[2],
        "gateway_us": gateway,
        "graph_bytes": artifact.manifest.graph_bytes,
    }


class _GivenVector:
    """An encoder service that has the vector already."""

    def __init__(self, vector: NDArray[np.float32]) -> None:
        self._vector = vector

    async def encode(self, text: str) -> NDArray[np.float32]:
        return self._vector


async def _gateway_microseconds(chooser: ArmChooser, request: ChatRequest, calls: int) -> float:
    """Median µs of the gateway's whole decision: filters, features, estimate, policy, report."""
    seconds = np.empty(calls)
    for number in range(calls):
        started = time.perf_counter()
        await chooser.choose(request, None)
        seconds[number] = time.perf_counter() - started
    return round(float(np.median(seconds)) * 1e6, 1)


def _gateway(artifact: RouterArtifact, corpus: Corpus) -> tuple[ArmChooser, ChatRequest]:
    """Return the gateway's chooser over one deployment per arm, with a request for ``auto``."""
    deployments = [
        Deployment(
            name=arm,
            model=arm,
            adapter="direct",
            base_url="http://127.0.0.1:9/v1",
            tier=None,
            arm=arm,
            price=Price(Decimal(str(sent)), Decimal(str(sent)), Decimal(str(written)), Decimal(str(written))),
            context_tokens=128_000,
            max_output_tokens=8_192,
            abilities=frozenset(Ability),
        )
        for arm, (sent, written) in corpus.prices.items()
    ]
    body = json.dumps({"model": "auto", "messages": [{"role": "user", "content": "Why is the sea salty?"}]}).encode()
    reference = artifact.manifest.reference_arm
    parts = RoutingParts(artifact, cast(Any, _GivenVector(corpus.vectors[0])))
    chooser = ArmChooser(deployments, default_arm=reference, baseline=reference, tradeoff="balanced", parts=parts)
    return chooser, parse_chat_request(body)


def _percentiles(call: Callable[..., object], prompts: Prompts, calls: int) -> tuple[float, float, float]:
    """Median, 99th and 10th percentile in µs over different prompts, after a warm-up."""
    vectors, features = prompts
    for number in range(20):
        call(vectors[number], features[number])
    seconds = np.empty(calls)
    for number in range(calls):
        row = number % vectors.shape[0]
        started = time.perf_counter()
        call(vectors[row], features[row])
        seconds[number] = time.perf_counter() - started
    median, high, low = (round(float(value) * 1e6, 1) for value in np.quantile(seconds, (0.5, 0.99, 0.1)))
    return median, high, low


def _empty_graph() -> Callable[..., object]:
    """Return a run of a graph that hands its input on: what any run costs."""
    builder = GraphBuilder()
    builder.output("y", "x")
    specs = [TensorSpec("x", "float32", ("n", DIMENSION))], [TensorSpec("y", "float32", ("n", DIMENSION))]
    session = create_session(builder.model("empty", *specs), device="cpu", threads=1)
    return lambda vector, _: session.run({"x": vector.reshape(1, -1)})


def _numpy_linear() -> Callable[..., object]:
    weight = np.random.default_rng(0).standard_normal((DIMENSION + len(FEATURE_NAMES), ARMS)).astype(np.float32)
    return lambda vector, features: np.concatenate([vector, features]) @ weight


def _print_row(row: dict[str, Any], say: Say) -> None:
    is_late = "  over its line" if row["both_us"] > row["line_us"] else ""
    names = ("estimate_us", "decide_us", "both_us", "both_p10_us", "both_p99_us", "line_us")
    numbers = "".join(f"{row[name]:9.0f}" for name in names)
    rest = f"{row['ratio_to_empty']:9.1f}{row['gateway_us']:9.0f}{row['graph_bytes'] / 1e3:9.0f}"
    say(f"{row['router']:<17}{numbers}{rest}{is_late}")


if __name__ == "__main__":
    main()
