"""Traces: what is said of a routed, a cached and a failed-over request, and what providers are told of their place."""

from __future__ import annotations

import gzip
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from aiohttp import web

from penstock_gateway.errors import UpstreamBroken
from penstock_gateway.metrics import GatewayMetrics
from penstock_gateway.money.usage import Usage
from penstock_gateway.settings import Settings, load_settings
from penstock_gateway.settings_tracing import TracingSettings
from penstock_gateway.tracing.context import TraceBook, parse_traceparent
from penstock_gateway.tracing.export import OtlpSink, Tracing
from penstock_gateway.tracing.spans import SpanData
from penstock_gateway.upstream.protocol import UpstreamRequest
from support.fakes import FakeReply
from support.running_gateway import Running, running

GOLDEN = Path(__file__).parent / "traces"
KEY = "a-client-key-for-traces"
PARENT = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"
SECRET = "What is the secret of the pyramids?"
CONFIG = """
version: 1
client_keys: [{name: ann, key: "${KEY}", cache_category: faq}]
cache: {mode: exact}
deployments:
  - {name: small, base_url: "http://127.0.0.1:9/v1", tier: small, price: {input: 1, output: 2},
     fallbacks: [large]}
  - {name: large, base_url: "http://127.0.0.1:9/v1", tier: frontier, price: {input: 5, output: 9}}
"""
ANSWER = {
    "id": "c",
    "object": "chat.completion",
    "created": 1,
    "model": "m",
    "choices": [{"index": 0, "message": {"role": "assistant", "content": "Sand."}, "finish_reason": "stop"}],
    "usage": {"prompt_tokens": 10, "completion_tokens": 5, "total_tokens": 15},
}
REPLY = FakeReply(body=json.dumps(ANSWER).encode(), usage=Usage(input_tokens=10, output_tokens=5))
# What is another in every run.
VARYING = {
    "penstock.decision.id",
    "penstock.decision.novelty",
    "penstock.overhead_ms",
    "penstock.request.id",
    "penstock.attempt.first_byte_ms",
    "penstock.artifact.id",
}


class Kept:
    """Keeps what would be sent."""

    def __init__(self) -> None:
        self.spans: list[SpanData] = []

    def put(self, spans: list[SpanData]) -> None:
        """Keep them."""
        self.spans += spans

    def close(self) -> None:
        """Nothing to do."""


def configured(folder: Path) -> Settings:
    """Return settings with two deployments, a cache and the bundled router."""
    path = folder / "penstock.yaml"
    path.write_text(CONFIG)
    return load_settings(path, {"KEY": KEY})


def traced(gateway: Running, share: float = 1.0) -> Kept:
    """Trace a gateway's requests with numbered ids."""
    kept, numbers = Kept(), iter(range(1, 1000))
    gateway.app.pipeline.use_tracing(Tracing(kept, TraceBook(share, draw_bits=lambda _: next(numbers))))
    return kept


async def asked(gateway: Running, text: str, model: str = "auto", **headers: str) -> int:
    """Ask, and return the status."""
    body = {"model": model, "messages": [{"role": "user", "content": text}]}
    sent = {"authorization": f"Bearer {KEY}", **headers}
    async with gateway.http.post(f"{gateway.url}/v1/chat/completions", json=body, headers=sent) as response:
        await response.read()
        return response.status


def shown(spans: list[SpanData]) -> list[dict[str, Any]]:
    """Return spans without what is another in every run; that it is there is shown."""
    return [
        {
            "name": span.name,
            "kind": "server" if span.is_server else "client",
            "trace_id": f"{span.trace_id:032x}",
            "span_id": f"{span.span_id:016x}",
            "parent_id": None if span.parent_id is None else f"{span.parent_id:016x}",
            "error": span.error,
            "attributes": {name: "…" if name in VARYING else value for name, value in sorted(span.attributes.items())},
        }
        for span in spans
    ]


def samples(metrics: GatewayMetrics) -> dict[str, float]:
    """Return the counters that requests have moved, without durations and what the ledger does a moment later."""
    return {
        f"{sample.name}{json.dumps(sample.labels, sort_keys=True)}": sample.value
        for family in metrics.registry.collect()
        for sample in family.samples
        if family.type == "counter" and sample.value and not sample.name.endswith(("_created", "ledger_settled_total"))
    }


def compare(name: str, found: dict[str, Any]) -> None:
    """Compare with the file of that name; WRITE_TRACES=1 writes it."""
    path = GOLDEN / f"{name}.json"
    text = json.dumps(found, indent=1, sort_keys=True, ensure_ascii=False) + "\n"
    if os.environ.get("WRITE_TRACES"):
        path.write_text(text)
    assert path.read_text() == text


async def test_trace_of_a_routed_and_of_a_cached_request(tmp_path: Path) -> None:
    """One span for the request and one for the call; no call, no second span when a stored answer is served."""
    async with running(configured(tmp_path), lambda _: REPLY) as gateway:
        kept = traced(gateway)
        assert await asked(gateway, SECRET) == 200
        routed, kept.spans = kept.spans, []
        compare("routed", {"spans": shown(routed), "counters": samples(gateway.app.pipeline.metrics)})
        assert await asked(gateway, SECRET) == 200
        compare("cached", {"spans": shown(kept.spans), "counters": samples(gateway.app.pipeline.metrics)})
        assert SECRET not in str(routed + kept.spans)
        assert KEY not in str(routed + kept.spans)
        for span in routed:
            assert 0 < span.ended_ns - span.started_ns < 60e9
        assert routed[0].started_ns <= routed[1].started_ns <= routed[1].ended_ns <= routed[0].ended_ns


async def test_trace_of_a_failed_over_request(tmp_path: Path) -> None:
    """Every try has its span, the failed one with its error, below the request's."""

    def reply(request: UpstreamRequest) -> FakeReply:
        if request.deployment.name == "small":
            raise UpstreamBroken("The connection broke.")
        return REPLY

    async with running(configured(tmp_path), reply) as gateway:
        kept = traced(gateway)
        assert await asked(gateway, SECRET, model="small", traceparent=PARENT) == 200
        compare("failed-over", {"spans": shown(kept.spans), "counters": samples(gateway.app.pipeline.metrics)})


async def test_trace_goes_on_at_the_provider(tmp_path: Path) -> None:
    """The provider is told the span of its own call, in the caller's trace; of a malformed header nothing is taken."""
    async with running(configured(tmp_path), lambda _: REPLY) as gateway:
        kept = traced(gateway)
        await asked(gateway, "one", traceparent=PARENT)
        await asked(gateway, "two", traceparent="00-not-a-trace")
        sent = [dict(request.headers)["traceparent"] for request in gateway.upstream.requests]
    own, call = kept.spans[:2]
    assert sent[0] == f"00-0af7651916cd43dd8448eb211c80319c-{call.span_id:016x}-01"
    assert own.parent_id == 0xB7AD6B7169203331
    assert (parse_traceparent(sent[1]) or (0, 0, 0))[0] == kept.spans[2].trace_id != own.trace_id


@pytest.mark.parametrize(
    ("share", "traceparent", "spans"), [(0.0, "", 0), (1.0, PARENT[:-1] + "0", 0), (0.0, PARENT, 2)]
)
async def test_trace_is_recorded_where_caller_or_share_say_so(
    tmp_path: Path, share: float, traceparent: str, spans: int
) -> None:
    """The caller's bit counts where there is one; without, the configured share."""
    async with running(configured(tmp_path), lambda _: REPLY) as gateway:
        kept = traced(gateway, share)
        await asked(gateway, "one", traceparent=traceparent)
        assert len(kept.spans) == spans
        assert "traceparent" in dict(gateway.upstream.requests[0].headers)  # the next one decides with the same bit


@pytest.mark.parametrize(
    "text",
    [
        "",
        "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331",
        "ff-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01",
        "00-00000000000000000000000000000000-b7ad6b7169203331-01",
        "00-0af7651916cd43dd8448eb211c80319c-0000000000000000-01",
        "00-0AF7651916CD43DD8448EB211C80319C-b7ad6b7169203331-01",
        "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01-more",
    ],
)
def test_traceparent_that_is_malformed_is_none(text: str) -> None:
    """By the recommendation's own rules: a request must not fail for it."""
    assert parse_traceparent(text) is None


def test_traceparent_of_a_later_version_is_read() -> None:
    """What later versions add comes behind."""
    assert parse_traceparent("cc-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01-what-comes") is not None


@pytest.fixture
def exported() -> Any:
    """Return OpenTelemetry's own exporter into memory."""
    memory = pytest.importorskip(
        "opentelemetry.sdk.trace.export.in_memory_span_exporter", reason="the extra 'otel' is not installed"
    )
    return memory.InMemorySpanExporter()


def test_trace_is_exported_as_opentelemetry_reads_it(exported: Any) -> None:
    """Ids, parent, times, kind, status and the service's name survive."""
    sink = OtlpSink(TracingSettings(endpoint="http://127.0.0.1:1/v1/traces", service_name="shop"), exporter=exported)
    sink.put([SpanData("chat auto", 7, 8, 9, True, 1000, 2000, {"penstock.attempts": 1}, "upstream_broken")])
    sink.close()
    (span,) = exported.get_finished_spans()
    assert (span.context.trace_id, span.context.span_id, span.parent.span_id) == (7, 8, 9)
    assert (span.start_time, span.end_time, span.kind.name) == (1000, 2000, "SERVER")
    assert (span.status.status_code.name, span.status.description) == ("ERROR", "upstream_broken")
    assert span.resource.attributes["service.name"] == "shop"
    assert dict(span.attributes) == {"penstock.attempts": 1}


async def test_trace_reaches_a_collector_over_http(tmp_path: Path) -> None:
    """As a gateway sends it that was configured for it: protobuf, and all of it at the latest when it stops."""
    collector = pytest.importorskip(
        "opentelemetry.proto.collector.trace.v1.trace_service_pb2", reason="the extra 'otel' is not installed"
    )
    received: list[bytes] = []

    async def take(request: web.Request) -> web.Response:
        body = await request.read()
        received.append(gzip.decompress(body) if request.headers.get("content-encoding") == "gzip" else body)
        return web.Response(content_type="application/x-protobuf")

    app = web.Application()
    app.router.add_post("/v1/traces", take)
    runner = web.AppRunner(app)
    await runner.setup()
    site = web.TCPSite(runner, "127.0.0.1", 0)
    await site.start()
    port = runner.addresses[0][1]
    settings = configured(tmp_path)
    tracing = TracingSettings(endpoint=f"http://127.0.0.1:{port}/v1/traces")
    try:
        async with running(settings.model_copy(update={"tracing": tracing}), lambda _: REPLY) as gateway:
            assert await asked(gateway, SECRET) == 200
    finally:
        await runner.cleanup()
    names = []
    for body in received:
        for resource in collector.ExportTraceServiceRequest.FromString(body).resource_spans:
            names += [span.name for scope in resource.scope_spans for span in scope.spans]
    assert names == ["chat auto", "chat large"]


def test_tracing_that_is_off_imports_nothing_of_opentelemetry() -> None:
    """It takes 0.2 s and 15 MB."""
    code = "import sys, penstock_gateway.app; assert not [m for m in sys.modules if m.startswith('opentelemetry.sdk')]"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 0, done.stderr
