"""Deployments and requests for tests of the upstreams, with short deadlines."""

from __future__ import annotations

from decimal import Decimal
from typing import Any

import msgspec

from penstock_gateway.deployments import Ability, Deployment
from penstock_gateway.money.prices import Price
from penstock_gateway.upstream.protocol import UpstreamRequest

UPSTREAM_KEY = "sk-the-deployments-own-key"


def make_deployment(
    base_url: str, *, model: str = "openai-text", adapter: str = "direct", **changes: Any
) -> Deployment:
    """Return a deployment of `model` at `base_url` that can do everything."""
    values: dict[str, Any] = {
        "name": "under-test",
        "model": model,
        "adapter": adapter,
        "base_url": base_url,
        "tier": None,
        "arm": "under-test",
        "price": Price(Decimal(1), Decimal(1), Decimal(2), Decimal(2)),
        "context_tokens": 128_000,
        "max_output_tokens": 16_000,
        "abilities": frozenset(Ability),
        "api_key": UPSTREAM_KEY,
        "connect_timeout_seconds": 2.0,
        "first_byte_timeout_seconds": 10.0,
        "idle_timeout_seconds": 10.0,
        "total_timeout_seconds": 20.0,
    }
    return Deployment(**{**values, **changes})


def make_request(
    deployment: Deployment, *, is_stream: bool = False, hides_usage: bool = False, **fields: Any
) -> UpstreamRequest:
    """Return one attempt: the deployment's model, one short message, and `fields` of the body."""
    body: dict[str, Any] = {"model": deployment.model, "messages": [{"role": "user", "content": "Hello"}], **fields}
    if is_stream:
        body = {**body, "stream": True, "stream_options": {"include_usage": True}}
    return UpstreamRequest(
        deployment=deployment,
        body={name: msgspec.Raw(msgspec.json.encode(value)) for name, value in body.items()},
        is_stream=is_stream,
        hides_usage=hides_usage,
        request_id="req-under-test",
    )
