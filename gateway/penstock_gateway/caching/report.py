"""What a tenant is shown of the cache.

Owns the shape of ``GET /v1/cache`` and of an entry. Counts, entries and savings are the tenant's own; thresholds,
audits, load and quotas are the gateway's, because all tenants share them. Read `cache_report`.
"""

from __future__ import annotations

import math
import time
from typing import Any

import msgspec

from penstock_cache.audit import AuditLedger
from penstock_cache.categories import CategoryPolicy
from penstock_cache.confidence_sequence import Interval
from penstock_cache.entries import CachedDocument
from penstock_cache.load_policy import CategoryLimits
from penstock_cache.mirror import Holding
from penstock_gateway.accounts.principal import CacheRights
from penstock_gateway.caching.services import CacheServices
from penstock_gateway.caching.steering import CategorySteering
from penstock_gateway.caching.tallies import CategoryTally
from penstock_gateway.money.prices import format_usd

_DIGITS = 6


async def cache_report(services: CacheServices, tenant: str, rights: CacheRights | None = None) -> dict[str, Any]:
    """Return what a tenant has in the cache and what the cache did for it.

    Parameters
    ----------
    services : CacheServices
    tenant : str

    Returns
    -------
    dict
        Plain values; one row in ``categories`` for each category of the configuration.
    """
    parts = services.cache.parts
    held = await parts.mirror.holdings(tenant)
    tallies = services.tallies.of(tenant)
    load = _load_rows(services)
    figures = parts.mirror.residents.figures()
    rows = []
    for name, policy in parts.policies.items():
        own = _own_row(held.get(name, Holding()), tallies.get(name, CategoryTally()))
        known = figures.get(name)
        quotas = parts.mirror.residents.quotas
        quota = {
            "reserve_bytes": quotas.quota(name).reserve_bytes,
            "cap_bytes": quotas.cap_bytes(name),
            "used_bytes": quotas.used_bytes(name),
            "admitted": 0 if known is None else known.admitted,
            "refused": 0 if known is None else known.refused,
            "evicted": 0 if known is None else known.evicted,
        }
        rows.append({
            "category": name,
            **_certified_row(services.oversight.steering, name, policy),
            **own,
            **_audit_row(services, name),
            "under_load": {"is_opted_in": (rights or CacheRights()).cache_under_load, **load[name]},
            "quota": quota,
        })  # fmt: skip
    return {"object": "cache", "mode": services.settings.mode, "entries": _total(held), "categories": rows}


def entry_report(document: CachedDocument, tenant: str) -> dict[str, Any]:
    """Return what a tenant is shown of an entry: prompt and answer only when it is its own.

    Parameters
    ----------
    document : CachedDocument
    tenant : str
    """
    is_own = document.tenant == tenant
    return {
        "object": "cache.entry",
        "id": document.entry_id,
        "category": document.category,
        "model": document.arm,
        "tier": document.tier,
        "tradeoff": document.tradeoff,
        "is_semantic": document.is_semantic,
        "is_shared": document.is_shared,
        "created": int(document.stored_at),
        "expires": int(document.expires_at),
        "age_seconds": round(max(0.0, time.time() - document.stored_at), 1),
        "size_bytes": document.size_bytes(),
        "input_tokens": document.input_tokens,
        "output_tokens": document.output_tokens,
        "cost_usd": document.cost_usd,
        "latency_ms": round(document.latency_ms, 1),
        "prompt": (document.prompt or None) if is_own else None,
        "answer": msgspec.Raw(document.body) if is_own else None,
    }


def _own_row(holding: Holding, tally: CategoryTally) -> dict[str, Any]:
    return {
        "entries": holding.entries,
        "size_bytes": holding.size_bytes,
        "hits": {"exact": tally.exact_hits, "semantic": tally.semantic_hits},
        "misses": dict(sorted(tally.misses.items())),
        "saved_usd": format_usd(tally.saved_usd),
    }


def _certified_row(steering: CategorySteering, name: str, policy: CategoryPolicy) -> dict[str, Any]:
    certified, switch = steering.certified_threshold(name), steering.switch(name)
    if not policy.mode.is_semantic:
        state = "not_asked_for"
    elif switch is None:
        state = "not_certifiable"
    else:
        state = "on" if switch.is_on else "off"
    return {
        "mode": policy.mode.value,
        "semantic": state,
        "false_hit_budget": policy.false_hit_budget,
        "certified_threshold": _rounded(certified),
        "threshold": None if switch is None else _rounded(switch.operating_point),
        "ttl_seconds": policy.ttl_seconds,
    }


def _audit_row(services: CacheServices, name: str) -> dict[str, Any]:
    ledger = services.oversight.steering.ledger
    error_cost_usd = services.settings.audit.wrong_hit_cost_usd
    return {
        "false_hit_rate": _rate(ledger, name),
        "net_value_usd_per_lookup": _interval(ledger.net_value_usd(name, error_cost_usd)),
    }


def _load_rows(services: CacheServices) -> dict[str, dict[str, Any]]:
    """Return for each category the budget that load may move, where it stands by model, and the realised error."""
    steering = services.oversight.steering
    policies = services.cache.parts.policies
    limits = {name: steering.limits(policy) for name, policy in policies.items()}
    realised = {name: steering.relaxed_error(name) for name in policies}
    rows = {name: _load_row(steering, name, limits[name], realised[name]) for name in policies}
    now = time.time()
    for model in sorted(services.deployments()):
        for row in steering.load.report(model, limits, realised, now):
            if row.load > 0.0:
                shown = {"load": _rounded(row.load), "allowed_budget": _rounded(row.allowed_error_budget)}
                rows[row.category]["models"][model] = shown
    return rows


def _load_row(steering: CategorySteering, name: str, limits: CategoryLimits, realised: Interval) -> dict[str, Any]:
    return {
        "most_false_hits": _rounded(limits.error_budget if limits.is_volatile else limits.max_error_budget),
        "realised_false_hits": _interval(realised),
        "audits": steering.relaxed.audits(name),
        "is_over_budget": steering.is_over_relaxed_budget(name),
        "models": {},
    }


def _rate(ledger: AuditLedger, name: str) -> dict[str, Any]:
    rate = ledger.false_hit_rate(name)  # makes the counts where there are none
    counts = ledger.state.categories[name]
    return {
        **_interval(rate),
        "audits": counts.hit_audits,
        "disagreements": counts.hit_disagreements,
        "controls": counts.control_audits,
        "control_disagreements": counts.control_disagreements,
    }


def _interval(interval: Interval) -> dict[str, float | None]:
    return {
        "estimate": _rounded(interval.estimate),
        "low": _rounded(interval.low),
        "high": _rounded(interval.high),
    }


def _rounded(value: float | None) -> float | None:
    """Return a number as JSON can have it."""
    return None if value is None or not math.isfinite(value) else round(value, _DIGITS)


def _total(held: dict[str, Holding]) -> int:
    return sum(holding.entries for holding in held.values())
