"""``POST /admin/spend/corrections``: charges that bring the ledger up to the event log.

Made by ``penstock spend reconcile --apply``. Read `correction_routes`.
"""

from __future__ import annotations

from typing import Annotated, Any, Final

from fastapi import APIRouter, Request
from fastapi.responses import Response
from pydantic import Field, StringConstraints

from penstock_gateway.accounts.fields import validated
from penstock_gateway.endpoints.admin_requests import AdminParts, answer, counted, note_change, read_object
from penstock_gateway.ledger.contract import Account, Charge
from penstock_gateway.money.amounts import MAX_PICOUSD
from penstock_gateway.settings_accounts import Moment
from penstock_gateway.settings_types import Section

MAX_CORRECTIONS: Final = 100


class _Correction(Section):
    id: Annotated[str, StringConstraints(pattern=r"^reconcile [ -~]{1,400}$")]  # never the id of a request
    scope: Annotated[str, StringConstraints(pattern=r"^(key|team|tag):[ -~]{1,200}$")]
    at: Moment
    picousd: Annotated[int, Field(gt=0, le=MAX_PICOUSD)]


class _Corrections(Section):
    corrections: Annotated[tuple[_Correction, ...], Field(strict=False, min_length=1, max_length=MAX_CORRECTIONS)]


def correction_routes(parts: AdminParts) -> APIRouter:
    """Return the route of one gateway.

    Parameters
    ----------
    parts : AdminParts
    """
    routes = APIRouter()

    @routes.post("/admin/spend/corrections", summary="Charge the ledger with what it lacks", openapi_extra=_BODY)
    async def correct(request: Request) -> Response:
        """Add to what scopes have spent; the same `id` again counts once for as long as the ledger remembers ids."""
        given = validated(_Corrections, await read_object(request)).corrections
        await counted(
            parts.ledger.settle([Charge(each.id, (Account(each.scope),), each.picousd, 0, each.at) for each in given])
        )
        for each in given:
            kind, _, name = each.scope.partition(":")
            note_change(request, "corrected", kind, name, ("spent",))
        return answer({"object": "spend.corrections", "settled": len(given)})

    return routes


_BODY: Final[dict[str, Any]] = {
    "requestBody": {
        "required": True,
        "content": {
            "application/json": {
                "schema": {
                    "type": "object",
                    "required": ["corrections"],
                    "properties": {
                        "corrections": {
                            "type": "array",
                            "maxItems": MAX_CORRECTIONS,
                            "items": {
                                "type": "object",
                                "required": ["id", "scope", "at", "picousd"],
                                "properties": {
                                    "id": {
                                        "type": "string",
                                        "examples": ["reconcile team:search 2026-11-26 0 75000000"],
                                    },
                                    "scope": {"type": "string", "examples": ["team:search"]},
                                    "at": {"type": ["string", "number"]},
                                    "picousd": {"type": "integer", "minimum": 1},
                                },
                                "additionalProperties": False,
                            },
                        }
                    },
                    "additionalProperties": False,
                }
            }
        },
    }
}
