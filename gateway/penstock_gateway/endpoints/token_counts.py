"""``POST /v1/messages/count_tokens``: how many tokens a prompt has, by its provider where it counts, else estimated.

Nothing is generated and nothing is charged. Read `count_routes`.
"""

from __future__ import annotations

from fastapi import APIRouter, Request
from fastapi.responses import JSONResponse, Response

from penstock_gateway.asgi import read_body, read_head, request_id_of
from penstock_gateway.callers import Caller, caller_of
from penstock_gateway.deployments import Deployment, named_plan
from penstock_gateway.endpoints.inference_docs import INFERENCE_DOCS
from penstock_gateway.errors import UpstreamError
from penstock_gateway.pipeline import Pipeline
from penstock_gateway.request_body import CONTROL_FIELD, ChatRequest, decode_object, encode_object, is_alias, raw
from penstock_gateway.upstream.protocol import JsonObject, UpstreamRequest
from penstock_gateway.wire.extensions import without_unsigned_thinking
from penstock_gateway.wire.formats import PATHS, WireFormat
from penstock_gateway.wire.requests import parse_request

COUNT_PATH = PATHS[WireFormat.MESSAGES] + "/count_tokens"
Headers = tuple[tuple[str, str], ...]
ESTIMATED_HEADER = "x-penstock-estimated"


def count_routes(pipeline: Pipeline, *, max_body_bytes: int) -> APIRouter:
    """Return the route of one gateway.

    Parameters
    ----------
    pipeline : Pipeline
    max_body_bytes : int
    """
    routes = APIRouter()
    doc = INFERENCE_DOCS[WireFormat.MESSAGES].openapi()
    doc["requestBody"]["content"]["application/json"]["schema"]["required"] = ["model", "messages"]

    @routes.post(f"/v1{COUNT_PATH}", openapi_extra=doc, summary="Count a prompt's tokens (Anthropic)")
    async def count_tokens(request: Request) -> Response:
        """Count the tokens of a prompt; ``x-penstock-estimated: true`` says that no provider has counted."""
        head = read_head(request.scope)
        fields = decode_object(await read_body(head, request.receive, max_bytes=max_body_bytes))
        caller = caller_of(head, request.scope["penstock.principal"], request_id_of(request.scope))
        asked = parse_request(WireFormat.MESSAGES, encode_object({"max_tokens": raw(1), **fields}))
        pipeline.policy_of(caller, asked)  # only models that the key may use
        deployment = None if is_alias(asked.model) else _named(pipeline, asked)
        if deployment is not None and WireFormat.MESSAGES in deployment.wires:
            counted = await _counted_by_provider(pipeline, caller, deployment, fields, head.format_headers)
            if counted is not None:
                return counted
        return JSONResponse({"input_tokens": asked.input_tokens}, headers={ESTIMATED_HEADER: "true"})

    return routes


def _named(pipeline: Pipeline, request: ChatRequest) -> Deployment:
    found = named_plan(pipeline.deployments, request.model)
    if not found:
        raise pipeline.unknown_model(request.model)
    return found[0]


async def _counted_by_provider(
    pipeline: Pipeline, caller: Caller, deployment: Deployment, fields: JsonObject, headers: Headers
) -> Response | None:
    """Return the provider's own count, or its refusal; None when it does not count."""
    own = {name: value for name, value in fields.items() if name != CONTROL_FIELD}
    body, _ = without_unsigned_thinking(own | {"model": raw(deployment.model)})
    sent = UpstreamRequest(
        deployment, body, False, False, caller.request_id, wire=WireFormat.MESSAGES, headers=headers, path=COUNT_PATH
    )
    try:
        reply = await pipeline.upstreams[deployment.adapter].send(sent)
        try:
            content = await reply.read()
        finally:
            await reply.aclose()
    except UpstreamError:
        return None
    if reply.status in (404, 405) or reply.status >= 500:
        return None  # a server of the format that does not count
    return Response(content, reply.status, media_type="application/json")
