"""The page of the cache: categories with thresholds, budgets and audits; finding and deleting an entry.

Read `cache_page`.
"""

from __future__ import annotations

import logging
import re
from typing import Any, Final

import msgspec

from penstock_cache.entries import CachedDocument
from penstock_cache.errors import StoreUnavailable
from penstock_cache.lookups import SHARED_TENANT
from penstock_gateway.caching.report import cache_report, entry_report
from penstock_gateway.caching.services import CacheServices
from penstock_gateway.console.contract import Asked, ConsoleParts, Moved, Page
from penstock_gateway.console.playground import answer_text
from penstock_gateway.errors import Conflict, InvalidRequest, NotFound, Overloaded

_log = logging.getLogger("penstock.admin")

MAX_TENANTS: Final = 200
"""Tenants that an entry is looked for under when none is chosen."""
_ENTRY_ID: Final = re.compile(r"[0-9a-f]{32}")


async def cache_page(parts: ConsoleParts, asked: Asked) -> Page:
    """Show the categories of one tenant, and an entry where one is asked for."""
    tenants = tenants_of(parts)
    tenant = asked.query.get("tenant") or tenants[0]
    if tenant not in tenants:
        raise NotFound("There is no such tenant.")
    values: dict[str, Any] = {
        "tenants": tenants,
        "tenant": tenant,
        "entry_id": asked.query.get("entry", "").strip().lower()[:64],
        "entry": None,
        "problem": "",
        "report": None,
        "shows_content": parts.shows_content,
    }
    if parts.pipeline.cache is None:
        return Page("cache.html", values)
    services = parts.pipeline.cache.services
    values |= {
        "report": await cache_report(services, tenant),
        "finding": services.finding,
        "settings": services.settings,
        "memory_bytes": services.cache.parts.mirror.memory_bytes(),
    }
    if values["entry_id"]:
        try:
            document = await _find(services, values["entry_id"], tenants)
        except (NotFound, InvalidRequest) as error:
            values["problem"] = error.message
        else:
            values["entry"] = _shown(parts, document)
    return Page("cache.html", values)


async def entry_change(parts: ConsoleParts, asked: Asked) -> Moved:
    """Delete an entry."""
    services = _services(parts)
    entry_id = asked.form.get("entry", "")
    document = await _find(services, entry_id, tenants_of(parts))
    try:
        await services.cache.delete(document.tenant, [entry_id])
    except StoreUnavailable:
        raise _unavailable() from None
    _log.info("cache_entry_deleted", extra={"entry": entry_id, "client": asked.client})
    return Moved("/cache", "entry-deleted")


async def category_change(parts: ConsoleParts, asked: Asked) -> Moved:
    """Delete a tenant's entries of a category."""
    services, tenant = _services(parts), asked.form.get("tenant", "")
    category = asked.form.get("category", "")
    if category not in services.cache.parts.policies or tenant not in tenants_of(parts):
        raise NotFound("There is no such category or tenant.")
    try:
        await services.cache.delete_all(tenant, category)
    except StoreUnavailable:
        raise _unavailable() from None
    _log.info("cache_category_deleted", extra={"category": category, "client": asked.client})
    return Moved("/cache", "category-deleted")


def tenants_of(parts: ConsoleParts) -> list[str]:
    """Return the tenants that the present keys stand for, and the owner of what is shared."""
    directory = parts.admin.directory
    table = directory.table
    named = {entry.principal.tenant for entry in table.keys.values() if entry.principal is not None}
    first = [] if directory.asks_for_keys else [directory.configured.open_principal.tenant]
    return [*first, *sorted(named)[:MAX_TENANTS], SHARED_TENANT]


def _services(parts: ConsoleParts) -> CacheServices:
    if parts.pipeline.cache is None:
        raise Conflict("This gateway caches nothing: cache.mode is off.", code="cache_off")
    return parts.pipeline.cache.services


async def _find(services: CacheServices, entry_id: str, tenants: list[str]) -> CachedDocument:
    """Return an entry of any tenant.

    Raises
    ------
    InvalidRequest, NotFound, Overloaded
    """
    if not _ENTRY_ID.fullmatch(entry_id):
        raise InvalidRequest(
            "An entry id is 32 hexadecimal digits, as in the header x-penstock-cache-entry.", param="entry"
        )
    for tenant in tenants:
        try:
            (document,) = await services.cache.find_entries(tenant, [entry_id])
        except StoreUnavailable:
            raise _unavailable() from None
        if document is not None:
            return document
    raise NotFound("There is no such entry; it may have expired.", code="cache_entry_not_found")


def _shown(parts: ConsoleParts, document: CachedDocument) -> dict[str, Any]:
    """Return what is shown of an entry: what was asked and answered only where content is captured anyway."""
    report = entry_report(document, document.tenant)
    answer = report.pop("answer")
    prompt = report.pop("prompt")
    shown = {**report, "tenant": document.tenant, "prompt": None, "answer": None}
    if parts.shows_content:
        shown |= {"prompt": prompt, "answer": answer_text(bytes(msgspec.Raw(answer or b"")))}
    return shown


def _unavailable() -> Overloaded:
    return Overloaded("The cache's store does not answer; try again shortly.", code="cache_store_unavailable")
