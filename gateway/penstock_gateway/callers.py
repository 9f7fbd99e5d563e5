"""Who sends a request, and with which control headers.

Read `caller_of`.
"""

from __future__ import annotations

import time

import msgspec

from penstock_gateway.accounts.principal import OPEN_PRINCIPAL, Principal
from penstock_gateway.asgi import RequestHead
from penstock_gateway.caching.desk import CacheCaller


class Caller(msgspec.Struct, frozen=True, gc=False):
    """Who asks, and with which control headers.

    Attributes
    ----------
    tenant : str
    request_id : str
    tradeoff : str or None
        Value of ``x-penstock-tradeoff``.
    includes_cost : bool
        ``x-penstock-include-cost``.
    started : float
        ``time.perf_counter()`` when the body was complete.
    max_cost_usd, min_quality, timeout : str or None
        Values of the headers of these names.
    cache : CacheCaller or None
        What the headers say of the cache.
    principal : Principal
        The key's rights and accounts, with the request's tags.
    traceparent : str or None
        Where the request stands in its caller's trace, unchecked.
    """

    tenant: str
    request_id: str
    tradeoff: str | None
    includes_cost: bool
    started: float
    max_cost_usd: str | None = None
    min_quality: str | None = None
    cache: CacheCaller | None = None
    principal: Principal = OPEN_PRINCIPAL
    timeout: str | None = None
    traceparent: str | None = None


def caller_of(head: RequestHead, principal: Principal, request_id: str) -> Caller:
    """Return who sent a request whose body is complete by now."""
    tenant = principal.tenant
    return Caller(
        tenant,
        request_id,
        head.tradeoff,
        head.include_cost,
        time.perf_counter(),
        head.max_cost_usd,
        head.min_quality,
        CacheCaller(tenant, head.cache, head.cache_category, head.cache_marks, principal.cache),
        principal,
        head.timeout,
        head.traceparent,
    )
