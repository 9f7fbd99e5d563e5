"""Sending spans to a collector, in batches by a thread of OpenTelemetry's.

Owns the import of OpenTelemetry, which happens when tracing is switched on. Read `Tracing`.
"""

from __future__ import annotations

import asyncio
from typing import Any, Protocol

from penstock_gateway.decisions import Settlement
from penstock_gateway.settings_tracing import TracingSettings
from penstock_gateway.settling import Passage
from penstock_gateway.tracing.context import Trace, TraceBook
from penstock_gateway.tracing.spans import SpanData, request_spans
from penstock_routers.installation import install_command

_SEND_SECONDS = 3.0  # retries included: a stop waits for what is being sent
_STOP_SECONDS = 5.0


class TracingNotInstalled(Exception):
    """OpenTelemetry is missing; the message says how to install it."""


class SpanSink(Protocol):
    """Takes spans that are over, and never blocks."""

    def put(self, spans: list[SpanData]) -> None:
        """Take the spans of one request."""
        ...

    def close(self) -> None:
        """Send what waits; blocks."""
        ...


class Tracing:
    """Traces requests.

    Parameters
    ----------
    sink : SpanSink
    book : TraceBook
    """

    def __init__(self, sink: SpanSink, book: TraceBook) -> None:
        self._sink = sink
        self._book = book

    def follow(self, settings: TracingSettings) -> None:
        """Trace another share of the requests from now on."""
        self._book.sample_share = settings.sample_share

    def begin(self, traceparent: str | None) -> Trace:
        """Return the place of a request; see `TraceBook.begin`."""
        return self._book.begin(traceparent)

    def end(self, passage: Passage, settlement: Settlement, trace: Trace) -> None:
        """Tell of a request that is over."""
        if trace.is_sampled:
            self._sink.put(request_spans(passage, settlement, trace))

    async def aclose(self) -> None:
        """Send what waits, for a moment."""
        async with asyncio.timeout(_STOP_SECONDS):
            await asyncio.to_thread(self._sink.close)


class OtlpSink:
    """Sends spans by OTLP over HTTP; what the collector does not take in time is dropped, never waited for.

    Parameters
    ----------
    settings : TracingSettings
        With an endpoint.
    exporter : SpanExporter, optional
        In the place of OTLP; for tests.

    Raises
    ------
    TracingNotInstalled
    """

    def __init__(self, settings: TracingSettings, exporter: Any = None) -> None:
        try:
            from opentelemetry import trace as api
            from opentelemetry.sdk import resources, trace
            from opentelemetry.sdk.trace.export import BatchSpanProcessor
            from opentelemetry.sdk.util.instrumentation import InstrumentationScope

            if exporter is None:
                from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter

                exporter = OTLPSpanExporter(endpoint=settings.endpoint, timeout=_SEND_SECONDS)
        except ImportError as error:
            raise TracingNotInstalled(f"tracing.endpoint needs OpenTelemetry: {install_command('otel')}") from error
        self._api, self._sdk = api, trace
        self._resource = resources.Resource.create({"service.name": settings.service_name})
        self._scope = InstrumentationScope("penstock")
        self._processor: Any = BatchSpanProcessor(exporter)

    def put(self, spans: list[SpanData]) -> None:
        """Hand the spans of one request to the thread that sends them."""
        for span in spans:
            self._processor.on_end(self._readable(span))

    def close(self) -> None:
        """Send what waits; blocks."""
        self._processor.shutdown()

    def _readable(self, span: SpanData) -> Any:
        api, sdk = self._api, self._sdk
        flags = api.TraceFlags(api.TraceFlags.SAMPLED)
        parent = None
        if span.parent_id is not None:
            parent = api.SpanContext(span.trace_id, span.parent_id, is_remote=span.is_server, trace_flags=flags)
        status = api.Status(api.StatusCode.UNSET)
        if span.error is not None:
            status = api.Status(api.StatusCode.ERROR, span.error)
        return sdk.ReadableSpan(
            name=span.name,
            context=api.SpanContext(span.trace_id, span.span_id, is_remote=False, trace_flags=flags),
            parent=parent,
            resource=self._resource,
            attributes=span.attributes,
            kind=api.SpanKind.SERVER if span.is_server else api.SpanKind.CLIENT,
            status=status,
            start_time=span.started_ns,
            end_time=span.ended_ns,
            instrumentation_scope=self._scope,
        )


def start_tracing(settings: TracingSettings) -> Tracing | None:
    """Return what traces requests; None when tracing is off.

    Raises
    ------
    TracingNotInstalled
    """
    if settings.endpoint is None:
        return None
    return Tracing(OtlpSink(settings), TraceBook(settings.sample_share))
