"""``POST /v1/feedback``: how good an answer was, said by who got it.

A tenant rates its own recent decisions only. Read `feedback_routes`.
"""

from __future__ import annotations

from collections import OrderedDict
from typing import Literal

import msgspec
from fastapi import APIRouter, Request
from fastapi.responses import JSONResponse

from penstock_gateway.asgi import read_body, read_head
from penstock_gateway.errors import InvalidRequest, NotFound, Overloaded
from penstock_gateway.pipeline import Pipeline

MAX_BODY_BYTES = 16_384
MAX_COMMENT_CHARACTERS = 2_000
MAX_PER_DECISION = 8
_MAX_COUNTED = 100_000
_SCORES = {"up": 1.0, "down": 0.0}

_DOC = {
    "requestBody": {
        "required": True,
        "content": {
            "application/json": {
                "schema": {
                    "type": "object",
                    "required": ["decision_id"],
                    "properties": {
                        "decision_id": {"type": "string"},
                        "score": {"type": "number", "minimum": 0, "maximum": 1},
                        "rating": {"type": "string", "enum": ["up", "down"]},
                        "comment": {"type": "string", "maxLength": MAX_COMMENT_CHARACTERS},
                    },
                    "additionalProperties": False,
                }
            }
        },
    }
}


class _Feedback(msgspec.Struct, forbid_unknown_fields=True):
    decision_id: str
    score: float | None = None
    rating: Literal["up", "down"] | None = None
    comment: str | None = None


_decoder = msgspec.json.Decoder(_Feedback)


class FeedbackCount:
    """How many pieces of feedback a decision has had, bounded like the decisions themselves."""

    def __init__(self, keep: int = _MAX_COUNTED) -> None:
        self._keep = keep
        self._counts: OrderedDict[str, int] = OrderedDict()

    def take(self, decision_id: str) -> bool:
        """Count one piece more; False when the decision has had enough."""
        count = self._counts.get(decision_id, 0)
        if count >= MAX_PER_DECISION:
            return False
        self._counts[decision_id] = count + 1
        if len(self._counts) > self._keep:
            self._counts.popitem(last=False)
        return True

    def give_back(self, decision_id: str) -> None:
        """Take back a piece that could not be written."""
        if self._counts.get(decision_id, 0) > 0:
            self._counts[decision_id] -= 1


def feedback_routes(pipeline: Pipeline) -> APIRouter:
    """Return the route of one gateway.

    Parameters
    ----------
    pipeline : Pipeline
    """
    routes = APIRouter()
    count = FeedbackCount()

    @routes.post("/v1/feedback", openapi_extra=_DOC, status_code=201, summary="Say how good an answer was")
    async def feedback(request: Request) -> JSONResponse:
        """Rate one of the caller's recent decisions; answered when the feedback is on disk."""
        body = await read_body(read_head(request.scope), request.receive, max_bytes=MAX_BODY_BYTES)
        given = parse_feedback(body)
        events = pipeline.events
        if events is None:
            raise InvalidRequest("This gateway keeps no feedback: events.folder is not set.", code="events_off")
        tenant = request.scope["penstock.tenant"]
        if pipeline.decisions.find(tenant, given.decision_id) is None:
            raise NotFound("No such decision; only recent ones are kept.", code="decision_not_found")
        if not count.take(given.decision_id):
            raise InvalidRequest(
                f"This decision has {MAX_PER_DECISION} pieces of feedback already.", code="too_much_feedback"
            )
        score = given.score if given.rating is None else _SCORES[given.rating]
        assert score is not None
        try:
            await events.note_feedback(
                tenant, given.decision_id, score=score, rating=given.rating, comment=given.comment
            )
        except Overloaded:  # the client is told to send it again, which must not use up its pieces
            count.give_back(given.decision_id)
            raise
        shown = {
            "object": "feedback",
            "decision_id": given.decision_id,
            "score": score,
            "is_comment_kept": given.comment is not None and events.capture_content,
        }
        return JSONResponse(shown, status_code=201)

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
    if (given.score is None) == (given.rating is None):
        raise InvalidRequest("Give either 'score' or 'rating'.", code="invalid_value", param="score")
    if given.score is not None and not 0.0 <= given.score <= 1.0:
        raise InvalidRequest("'score' must be from 0 to 1.", code="invalid_value", param="score")
    if given.comment is not None and len(given.comment) > MAX_COMMENT_CHARACTERS:
        raise InvalidRequest(
            f"'comment' must have at most {MAX_COMMENT_CHARACTERS} characters.", code="invalid_value", param="comment"
        )
    return given
