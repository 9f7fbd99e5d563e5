"""``POST /v1/feedback``: how good an answer was, said by who got it.

A tenant rates its own decisions only: the recent ones of this process, and whatever has an id that says whose it is.
Read `feedback_routes`.
"""

from __future__ import annotations

from typing import Any, Final, Literal

import msgspec
from fastapi import APIRouter, Request
from fastapi.responses import JSONResponse

from penstock_gateway.asgi import ONLY_REMEMBERED, read_body, read_head
from penstock_gateway.decisions import RouteDecision, Settlement
from penstock_gateway.errors import InvalidRequest, NotFound
from penstock_gateway.events.feedback import Feedback
from penstock_gateway.pipeline import Pipeline

MAX_BODY_BYTES: Final = 16_384
MAX_COMMENT_CHARACTERS: Final = 2_000
MAX_LABEL_CHARACTERS: Final = 64
MAX_KEY_CHARACTERS: Final = 128
_SCORES: Final = {"up": 1.0, "down": 0.0}

_DOC: Final[dict[str, Any]] = {
    "requestBody": {
        "required": True,
        "content": {
            "application/json": {
                "schema": {
                    "type": "object",
                    "properties": {
                        "decision_id": {"type": "string"},
                        "request_id": {"type": "string"},
                        "score": {"type": "number", "minimum": 0, "maximum": 1},
                        "rating": {"type": "string", "enum": ["up", "down"]},
                        "label": {"type": "string", "minLength": 1, "maxLength": MAX_LABEL_CHARACTERS},
                        "comment": {"type": "string", "maxLength": MAX_COMMENT_CHARACTERS},
                        "idempotency_key": {"type": "string", "minLength": 1, "maxLength": MAX_KEY_CHARACTERS},
                    },
                    "additionalProperties": False,
                }
            }
        },
    }
}


class _Feedback(msgspec.Struct, forbid_unknown_fields=True):
    decision_id: str | None = None
    request_id: str | None = None
    score: float | None = None
    rating: Literal["up", "down"] | None = None
    label: str | None = None
    comment: str | None = None
    idempotency_key: str | None = None


_decoder = msgspec.json.Decoder(_Feedback)


def feedback_routes(pipeline: Pipeline) -> APIRouter:
    """Return the route of one gateway.

    Parameters
    ----------
    pipeline : Pipeline
    """
    routes = APIRouter()

    @routes.post("/v1/feedback", openapi_extra=_DOC, status_code=201, summary="Say how good an answer was")
    async def feedback(request: Request) -> JSONResponse:
        """Rate one of the caller's decisions; answered when the feedback is on disk, 200 if it was before."""
        body = await read_body(read_head(request.scope), request.receive, max_bytes=MAX_BODY_BYTES)
        given = parse_feedback(body)
        events = pipeline.events
        if events is None:
            raise InvalidRequest("This gateway keeps no feedback: events.folder is not set.", code="events_off")
        tenant: str = request.scope["penstock.principal"].tenant
        decision_id, found = _decision_of(pipeline, tenant, given, only_remembered=ONLY_REMEMBERED in request.scope)
        score = given.score if given.rating is None else _SCORES[given.rating]
        is_new = await pipeline.feedback.give(
            events,
            tenant,
            decision_id,
            Feedback(score, given.rating, given.label, given.comment),
            request_id=given.request_id or pipeline.decisions.request_id_of(decision_id),
            idempotency_key=given.idempotency_key,
        )
        if is_new and found is not None:
            pipeline.metrics.router.note_feedback(*found, score)
        shown = {
            "object": "feedback",
            "decision_id": decision_id,
            "score": score,
            "label": given.label,
            "is_comment_kept": given.comment is not None and events.capture_content,
        }
        return JSONResponse(shown, status_code=201 if is_new else 200)

    return routes


def parse_feedback(body: bytes) -> _Feedback:
    """Return a valid piece of feedback.

    Raises
    ------
    InvalidRequest
        ``invalid_json``, ``invalid_type`` or ``invalid_value``.
    """
    try:
        given = _decoder.decode(body)
    except msgspec.ValidationError as error:
        raise InvalidRequest(f"The feedback is not valid: {error}.".replace("`", "'"), code="invalid_type") from None
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        raise InvalidRequest("The body is not valid JSON.", code="invalid_json") from None
    if (given.decision_id is None) == (given.request_id is None):
        raise _wrong("Give either 'decision_id' or 'request_id'.", "decision_id")
    if given.score is not None and given.rating is not None:
        raise _wrong("Give either 'score' or 'rating'.", "score")
    if given.score is None and given.rating is None and given.label is None and given.comment is None:
        raise _wrong("Give a 'score', a 'rating', a 'label' or a 'comment'.", "score")
    if given.score is not None and not 0.0 <= given.score <= 1.0:
        raise _wrong("'score' must be from 0 to 1.", "score")
    if given.label is not None and not (0 < len(given.label) <= MAX_LABEL_CHARACTERS and given.label.isprintable()):
        raise _wrong(f"'label' must have 1 to {MAX_LABEL_CHARACTERS} printable characters.", "label")
    if given.comment is not None and len(given.comment) > MAX_COMMENT_CHARACTERS:
        raise _wrong(f"'comment' must have at most {MAX_COMMENT_CHARACTERS} characters.", "comment")
    if given.idempotency_key is not None and not 0 < len(given.idempotency_key) <= MAX_KEY_CHARACTERS:
        raise _wrong(f"'idempotency_key' must have 1 to {MAX_KEY_CHARACTERS} characters.", "idempotency_key")
    return given


def _decision_of(
    pipeline: Pipeline, tenant: str, given: _Feedback, *, only_remembered: bool
) -> tuple[str, tuple[RouteDecision, Settlement | None] | None]:
    """Return the id of the tenant's own decision that is meant, and what is known of it here."""
    decision_id = given.decision_id
    if given.request_id is not None:
        decision_id = pipeline.decisions.id_of_request(tenant, given.request_id)
    found = None if decision_id is None else pipeline.decisions.find(tenant, decision_id)
    is_known = found is not None
    if decision_id is not None and not is_known and pipeline.decision_ids.is_of(tenant, decision_id):
        is_known = not only_remembered or pipeline.feedback.has_some(decision_id)
    if decision_id is None or not is_known:
        raise NotFound("No such decision; only recent ones are kept.", code="decision_not_found")
    return decision_id, found


def _wrong(message: str, param: str) -> InvalidRequest:
    return InvalidRequest(message, code="invalid_value", param=param)
