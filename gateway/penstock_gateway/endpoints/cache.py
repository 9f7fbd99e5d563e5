"""``/v1/cache``: what a tenant has in the cache, and how it gets rid of it.

Every tenant sees and deletes its own entries only. An entry that is shared across tenants shows no content here, and
only keys that may write such entries delete it. Read `cache_routes`.
"""

from __future__ import annotations

import difflib
import re
from collections import OrderedDict
from collections.abc import Awaitable
from typing import Annotated, Any, Final, TypeVar

import msgspec
from fastapi import APIRouter, Path, Query, Request
from fastapi.responses import Response

from penstock_cache.entries import CachedDocument
from penstock_cache.errors import StoreUnavailable
from penstock_cache.lookups import SHARED_TENANT
from penstock_gateway.accounts.principal import CacheRights
from penstock_gateway.caching.diagnosis import diagnose
from penstock_gateway.caching.report import cache_report, entry_report
from penstock_gateway.caching.services import CacheServices
from penstock_gateway.errors import Conflict, Forbidden, InvalidRequest, NotFound, Overloaded
from penstock_gateway.pipeline import Pipeline

_MAX_REPORTS: Final = 10_000
_ENTRY_ID: Final = re.compile(r"[0-9a-f]{32}")
_SHARED_REFUSAL: Final = "Shared entries are deleted only by keys that may share answers."
_T = TypeVar("_T")

EntryId = Annotated[str, Path(description="As in the header `x-penstock-cache-entry`.")]


class WrongReports:
    """Which tenant has reported which shared entry, bounded: one tenant's word counts once against an entry of all."""

    def __init__(self, keep: int = _MAX_REPORTS) -> None:
        self._keep = keep
        self._reported: OrderedDict[tuple[str, str], None] = OrderedDict()

    def is_first(self, tenant: str, entry_id: str) -> bool:
        """Remember a report; False when this tenant has made it before."""
        if (tenant, entry_id) in self._reported:
            return False
        self._reported[tenant, entry_id] = None
        if len(self._reported) > self._keep:
            self._reported.popitem(last=False)
        return True


def cache_routes(pipeline: Pipeline) -> APIRouter:
    """Return the routes of one gateway.

    Parameters
    ----------
    pipeline : Pipeline
    """
    routes = APIRouter()
    _add_overview(routes, pipeline)
    _add_entries(routes, pipeline)
    return routes


def _add_overview(routes: APIRouter, pipeline: Pipeline) -> None:
    @routes.get("/v1/cache", summary="Show what the cache holds and does, by category")
    async def show(request: Request) -> Response:
        """Show the caller's entries, hits and savings, and how often hits are wrong."""
        services = _services(pipeline)
        _refuse_unknown_parameters(request, frozenset())
        return _json(await cache_report(services, _tenant(request), _rights(request)))

    @routes.get("/v1/cache/doctor", summary="Say what keeps the cache from answering")
    async def doctor(request: Request) -> Response:
        """Say whether semantic hits are possible, and which field keeps the caller's contexts from repeating."""
        services = _services(pipeline)
        _refuse_unknown_parameters(request, frozenset())
        parts = pipeline.chooser.parts
        labels = () if parts is None else parts.artifact.manifest.categories
        return _json(await diagnose(services, _tenant(request), labels))

    @routes.delete("/v1/cache", summary="Delete all of the caller's entries, or those of a category")
    async def delete_all(
        request: Request, category: Annotated[str | None, Query()] = None, shared: Annotated[bool, Query()] = False
    ) -> Response:
        """Delete the caller's entries for good, or those shared by all; answered when the store has done it."""
        services = _services(pipeline)
        _refuse_unknown_parameters(request, frozenset({"category", "shared"}))
        if shared and not _rights(request).may_share_answers:
            raise Forbidden(_SHARED_REFUSAL, code="cache_shared")
        tenant = SHARED_TENANT if shared else _tenant(request)
        if category is not None:
            await _check_category(services, tenant, category)
        elif not shared:
            services.samples.forget(tenant)
        count = await _stored(services.cache.delete_all(tenant, category))
        return _json({"object": "cache.deletion", "category": category, "deleted": count})


def _add_entries(routes: APIRouter, pipeline: Pipeline) -> None:
    reports = WrongReports()

    @routes.get("/v1/cache/entries/{entry_id}", summary="Show an entry")
    async def entry(request: Request, entry_id: EntryId) -> Response:
        """Show one entry, with its prompt and answer when it is the caller's own."""
        tenant = _tenant(request)
        return _json(entry_report(await _entry(_services(pipeline), tenant, entry_id), tenant))

    @routes.delete("/v1/cache/entries/{entry_id}", summary="Delete an entry")
    async def delete_entry(request: Request, entry_id: EntryId) -> Response:
        """Delete one entry for good."""
        services, tenant = _services(pipeline), _tenant(request)
        document = await _entry(services, tenant, entry_id)
        if not _may_delete(request, document):
            raise Forbidden(_SHARED_REFUSAL, code="cache_shared")
        count = await _stored(services.cache.delete(document.tenant, [entry_id]))
        return _json({"object": "cache.deletion", "id": entry_id, "deleted": count})

    @routes.post("/v1/cache/entries/{entry_id}/wrong", summary="Report a wrong hit")
    async def wrong(request: Request, entry_id: EntryId) -> Response:
        """Say that an entry's answer did not fit: it is deleted, or when it is shared, trusted less."""
        services, tenant = _services(pipeline), _tenant(request)
        document = await _entry(services, tenant, entry_id)
        may_delete = _may_delete(request, document)
        judge = services.oversight.judge
        if may_delete or reports.is_first(tenant, entry_id):
            if judge is not None:
                judge.note_evidence(entry_id, is_right=False)
            services.metrics.wrong_reports.labels(document.category).inc()
        if may_delete:
            await _stored(services.cache.delete(document.tenant, [entry_id]))
        return _json({"object": "cache.wrong_report", "id": entry_id, "is_deleted": may_delete})


def _services(pipeline: Pipeline) -> CacheServices:
    if pipeline.cache is None:
        raise Conflict("This gateway caches nothing: cache.mode is off.", code="cache_off")
    return pipeline.cache.services


def _tenant(request: Request) -> str:
    tenant: str = request.scope["penstock.principal"].tenant
    return tenant


def _rights(request: Request) -> CacheRights:
    rights: CacheRights = request.scope["penstock.principal"].cache
    return rights


async def _entry(services: CacheServices, tenant: str, entry_id: str) -> CachedDocument:
    """Return an entry of the tenant, or one that is shared.

    Raises
    ------
    NotFound
        ``cache_entry_not_found``: there is none, or it is another tenant's.
    """
    for owner in (tenant, SHARED_TENANT) if _ENTRY_ID.fullmatch(entry_id) else ():
        (document,) = await _stored(services.cache.find_entries(owner, [entry_id]))
        if document is not None:
            return document
    raise NotFound("There is no such entry; it may have expired.", code="cache_entry_not_found")


def _may_delete(request: Request, document: CachedDocument) -> bool:
    return document.tenant == _tenant(request) or _rights(request).may_share_answers


async def _check_category(services: CacheServices, tenant: str, category: str) -> None:
    """Refuse a category that neither the configuration nor an entry has: a slip of the pen must not look like success.

    Raises
    ------
    InvalidRequest
        ``unknown_cache_category``.
    """
    policies = services.cache.parts.policies
    if category in policies or category in await services.cache.parts.mirror.holdings(tenant):
        return
    near = difflib.get_close_matches(category[:40], policies, n=1)
    hint = f"Did you mean '{near[0]}'?" if near else f"Known: {', '.join(policies)}."
    raise InvalidRequest(f"Unknown category '{category[:40]}'. {hint}", code="unknown_cache_category", param="category")


def _refuse_unknown_parameters(request: Request, known: frozenset[str]) -> None:
    """Refuse what would be ignored: a misspelt ``category`` would delete everything."""
    for name in request.query_params:
        if name not in known:
            raise InvalidRequest(f"Unknown parameter '{name[:40]}'.", code="unknown_parameter", param=name[:40])


async def _stored(work: Awaitable[_T]) -> _T:
    try:
        return await work
    except StoreUnavailable:
        raise Overloaded(
            "The cache's store does not answer; try again shortly.",
            code="cache_store_unavailable",
            headers={"retry-after": "1"},
        ) from None


def _json(content: dict[str, Any]) -> Response:
    return Response(msgspec.json.encode(content), media_type="application/json")
