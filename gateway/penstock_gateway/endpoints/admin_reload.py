"""``POST /admin/reload``: read the configuration again.

Read `reload_routes`.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Any

from fastapi import APIRouter, Request
from fastapi.responses import JSONResponse

from penstock_gateway.endpoints.admin_requests import read_object
from penstock_gateway.errors import Conflict

_STATUS = {"reloaded": 200, "refused": 422, "failed": 500, "partial": 500}


def reload_routes(find: Callable[[], Callable[[], Awaitable[dict[str, Any]]] | None]) -> APIRouter:
    """Return the route of one gateway.

    Parameters
    ----------
    find : callable
        Returns what reads the configuration again; None where nobody can.
    """
    routes = APIRouter()

    @routes.post("/admin/reload", summary="Read the configuration again")
    async def reload(request: Request) -> JSONResponse:
        """Put the configuration in force as it is now in its files, or say every reason why not."""
        await read_object(request)
        read_again = find()
        if read_again is None:
            raise Conflict("This gateway has no configuration that could be read again.", code="reload_off")
        outcome = await read_again()
        return JSONResponse(outcome, status_code=_STATUS[outcome["result"]])

    return routes
