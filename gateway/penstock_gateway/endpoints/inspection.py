"""Everything beside the hot path: models, dry runs, decisions, probes and metrics, as FastAPI routes.

The endpoints that call models are declared here too, so that the OpenAPI document holds them and a parity test can
compare; in production the dispatcher in `app` answers them before FastAPI sees them.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from datetime import UTC, datetime
from typing import Annotated, Any

from fastapi import APIRouter, Path, Request
from fastapi.responses import JSONResponse, Response

from penstock_gateway.accounts.principal import Principal
from penstock_gateway.asgi import RequestHead, read_body, read_head
from penstock_gateway.callers import caller_of
from penstock_gateway.deployments import members
from penstock_gateway.endpoints.inference import InferenceEndpoint
from penstock_gateway.endpoints.inference_docs import INFERENCE_DOCS
from penstock_gateway.errors import NotFound
from penstock_gateway.metrics import CONTENT_TYPE
from penstock_gateway.money.price_text import price_fields
from penstock_gateway.pipeline import Pipeline
from penstock_gateway.request_body import AUTO_ALIASES, parse_chat_request
from penstock_gateway.wire.formats import PATHS, WireFormat

ANTHROPIC_HEADER = "anthropic-version"
"""Sent with every request by clients that expect Anthropic's shapes."""

_ROUTE_DOC: dict[str, Any] = INFERENCE_DOCS[WireFormat.CHAT].openapi()


def inspection_routes(
    pipeline: Pipeline,
    inference: InferenceEndpoint,
    *,
    started_at: float,
    max_body_bytes: int,
    readiness: Callable[[], dict[str, Any]],
) -> APIRouter:
    """Return the routes of one gateway.

    Parameters
    ----------
    pipeline : Pipeline
    inference : InferenceEndpoint
    started_at : float
        Unix time, shown as the models' ``created``.
    max_body_bytes : int
    readiness : callable
        Returns what ``/readyz`` shows.
    """
    routes = APIRouter()
    _add_models(routes, pipeline, int(started_at))
    _add_decisions(routes, pipeline, max_body_bytes)
    _add_probes(routes, pipeline, readiness)

    for front, doc in INFERENCE_DOCS.items():
        routes.add_api_route(
            f"/v1{PATHS[front]}",
            _handover(inference),
            methods=["POST"],
            openapi_extra=doc.openapi(),
            name=doc.name,
            summary=doc.summary,
            description=doc.description,
        )
    return routes


def _handover(inference: InferenceEndpoint) -> Callable[[Request], Awaitable[Response]]:
    async def hand_over(request: Request) -> Response:
        return _InferenceResponse(inference, read_head(request.scope), request.scope["penstock.principal"])

    return hand_over


class _InferenceResponse(Response):
    """Hands the connection over to the raw endpoint."""

    def __init__(self, inference: InferenceEndpoint, head: RequestHead, principal: Principal) -> None:
        super().__init__()
        self._inference, self._head, self._principal = inference, head, principal

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        await self._inference(scope, receive, send, self._head, self._principal)


def _add_models(routes: APIRouter, pipeline: Pipeline, created: int) -> None:
    def model_object(name: str) -> dict[str, Any] | None:
        if name in AUTO_ALIASES:
            return {"id": name, "object": "model", "created": created, "owned_by": "penstock"}
        deployment = pipeline.deployments.get(name) or next(iter(members(pipeline.deployments.values(), name)), None)
        if deployment is None:
            return None
        return {
            "id": name,
            "object": "model",
            "created": created,
            "owned_by": deployment.provider or "unknown",
            "penstock": {
                "tier": deployment.tier,
                "arm": deployment.arm,
                "is_routable": deployment.is_routable,
                "context_tokens": deployment.context_tokens,
                "max_output_tokens": deployment.max_output_tokens,
                "abilities": sorted(deployment.abilities),
                "price_usd_per_million_tokens": price_fields(deployment.price),
            },
        }

    @routes.get("/v1/models", summary="List aliases and models")
    async def models(request: Request) -> JSONResponse:
        """List the aliases that ask for a choice and the models that can be named, as far as the key may use them."""
        groups = [deployment.group for deployment in pipeline.deployments.values() if deployment.group is not None]
        principal = request.scope["penstock.principal"]
        every = dict.fromkeys([*AUTO_ALIASES, *groups, *pipeline.deployments])
        names = [name for name in every if pipeline.may_ask_for(principal, name)]
        found = [shown for name in names if (shown := model_object(name)) is not None]
        if ANTHROPIC_HEADER in request.headers:
            page = {"data": [_for_anthropic(shown) for shown in found], "has_more": False}
            return JSONResponse(
                {**page, "first_id": names[0] if names else None, "last_id": names[-1] if names else None}
            )
        return JSONResponse({"object": "list", "data": found})

    @routes.get("/v1/models/{model:path}", summary="Show one alias or model")
    async def model(request: Request, model: Annotated[str, Path()]) -> JSONResponse:
        """Show one alias or model; one that the key may not use is not told from one that is not there."""
        found = model_object(model)
        if found is None or not pipeline.may_ask_for(request.scope["penstock.principal"], model):
            raise NotFound(f"The model '{model[:80]}' does not exist here.", code="model_not_found", param="model")
        return JSONResponse(_for_anthropic(found) if ANTHROPIC_HEADER in request.headers else found)


def _for_anthropic(shown: dict[str, Any]) -> dict[str, Any]:
    """Return a model as Anthropic's list has it (platform.claude.com/docs/en/api/models-list)."""
    created_at = datetime.fromtimestamp(shown["created"], UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
    return {"type": "model", "id": shown["id"], "display_name": shown["id"], "created_at": created_at}


def _add_decisions(routes: APIRouter, pipeline: Pipeline, max_body_bytes: int) -> None:
    @routes.post("/v1/route", openapi_extra=_ROUTE_DOC, summary="Show what would be chosen, without calling a model")
    async def route(request: Request) -> JSONResponse:
        """Decide as for a chat completion and show every candidate with its scores or why it was rejected."""
        head = read_head(request.scope)
        body = await read_body(head, request.receive, max_bytes=max_body_bytes)
        caller = caller_of(head, request.scope["penstock.principal"], head.request_id or "")
        decision = await pipeline.decide(caller, parse_chat_request(body, default_model="auto"))
        return JSONResponse(decision.as_json())

    @routes.get("/v1/decisions/{decision_id}", summary="Show a recent decision and what it came to")
    async def decision(request: Request, decision_id: Annotated[str, Path()]) -> JSONResponse:
        """Show one of the caller's recent decisions, with its actual cost once the request is over."""
        found = pipeline.decisions.find(request.scope["penstock.principal"].tenant, decision_id)
        if found is None:
            raise NotFound("No such decision; only recent ones are kept.", code="decision_not_found")
        made, settlement = found
        return JSONResponse({**made.as_json(), "outcome": None if settlement is None else settlement.as_json()})


def _add_probes(routes: APIRouter, pipeline: Pipeline, readiness: Callable[[], dict[str, Any]]) -> None:
    @routes.get("/livez", summary="Whether the process is alive")
    async def livez() -> JSONResponse:
        """Answer as long as the event loop turns."""
        return JSONResponse({"status": "alive"})

    @routes.get("/readyz", summary="Whether requests can be answered")
    async def readyz() -> JSONResponse:
        """Answer once the gateway can take requests; a refused artifact is named, and the default arm serves."""
        return JSONResponse(readiness())

    @routes.get("/metrics", summary="Prometheus metrics")
    async def metrics() -> Response:
        """Show all metrics in Prometheus' text format."""
        return Response(pipeline.metrics.render(), media_type=CONTENT_TYPE)
