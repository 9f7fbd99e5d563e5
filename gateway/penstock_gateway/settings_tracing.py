"""The `tracing` section of the configuration.

Owns its shape, defaults and descriptions. Read `TracingSettings`.
"""

from __future__ import annotations

from typing import Annotated

from pydantic import Field, StringConstraints

from penstock_gateway.settings_types import Section, Share, Text

OtlpUrl = Annotated[str, StringConstraints(pattern=r"^https?://[^\s?#@]{1,1000}$")]


class TracingSettings(Section):
    """Traces of requests for OpenTelemetry: off without an address, and nothing of it is imported then."""

    endpoint: OtlpUrl | None = Field(
        None,
        description="Where spans are sent by OTLP over HTTP: `http://collector:4318/v1/traces`. Credentials come from "
        "`OTEL_EXPORTER_OTLP_HEADERS`. Needs the extra `otel`.",
    )
    sample_share: Share = Field(
        1.0, description="Share of requests that are traced; a caller's `traceparent` decides for its own."
    )
    service_name: Text = Field("penstock", description="`service.name` of the spans.")
