"""The cache on the request path: what a request's headers and its key's settings ask of it.

Owns the reading of cache controls and the making of a look-up. Read `CacheDesk.open`; the rest is `visit.Visit`.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

import msgspec
from msgspec.structs import replace

from penstock_cache.categories import policy_for
from penstock_cache.directives import CacheDirective, parse_directive
from penstock_cache.eligibility import survey_request
from penstock_cache.errors import CacheError, DirectiveError
from penstock_cache.keys import CacheScope, canonical_request, key_in
from penstock_cache.lookups import SHARED_TENANT, Lookup
from penstock_cache.rule import MAX_SEMANTIC_CHARACTERS
from penstock_gateway.accounts.principal import CacheRights
from penstock_gateway.caching.services import CacheServices
from penstock_gateway.caching.visit import Visit
from penstock_gateway.errors import InvalidRequest
from penstock_gateway.request_body import ChatRequest, TradeoffValue, plain_field
from penstock_gateway.request_policy import RequestPolicy

MARKS: Final = ("personalised", "retrieval")
"""What ``x-penstock-cache-marks`` may say of a prompt; either keeps it out of the cache."""

_TRADEOFFS: Final[Mapping[str, float]] = {"cost": 0.0, "balanced": 0.5, "quality": 1.0}


class CacheCaller(msgspec.Struct, frozen=True, gc=False):
    """What of a caller the cache needs to know.

    Attributes
    ----------
    tenant : str
    directive, category, marks : str or None
        Values of ``x-penstock-cache``, ``x-penstock-cache-category`` and ``x-penstock-cache-marks``.
    rights : CacheRights or None
        What the caller's key may; None when the gateway asks for no key.
    """

    tenant: str
    directive: str | None = None
    category: str | None = None
    marks: str | None = None
    rights: CacheRights | None = None


class CacheDesk:
    """Opens requests' dealings with the cache.

    Parameters
    ----------
    services : CacheServices
    """

    def __init__(self, services: CacheServices) -> None:
        self.services = services
        policies = services.cache.parts.policies
        self._has_shared = any(policy.is_shared_across_tenants for policy in policies.values())

    def open(
        self,
        caller: CacheCaller,
        request: ChatRequest,
        policy: RequestPolicy,
        default: TradeoffValue,
        *,
        is_preview: bool = False,
    ) -> Visit:
        """Begin one request's dealings with the cache.

        Parameters
        ----------
        caller : CacheCaller
        request : ChatRequest
        policy : RequestPolicy
        default : str or float
            Trade-off in force when the policy names none.
        is_preview : bool
            Only `Visit.preview` will be asked: the request leaves no trace.

        Returns
        -------
        Visit

        Raises
        ------
        InvalidRequest
            A directive, a mark or a category cannot be understood or is not allowed.
        """
        rights = caller.rights
        try:
            directive = parse_directive(caller.directive)
            named = self._named(caller, rights)
            marks = _marks_of(caller.marks)
        except DirectiveError as error:
            raise InvalidRequest(error.message, code=error.code, param="x-penstock-cache") from None
        setting = _tradeoff_number(default if policy.tradeoff is None else policy.tradeoff)
        try:
            look = self._look_up(caller, request, directive, marks)
        except CacheError as error:
            self.services.metrics.problems.labels(error.code).inc()
            return Visit(self.services, request, None, named, setting, policy, rights)
        if not is_preview:
            self.services.cache.parts.contexts.see(look.tenant, look.key.context)
            self.services.sample(look.tenant, request.fields)
        return Visit(self.services, request, look, named, setting, policy, rights)

    def _named(self, caller: CacheCaller, key: CacheRights | None) -> str | None:
        """Return the category that header or key names, the header only within the allow-list of key or gateway."""
        table = self.services.cache.parts.policies
        if caller.category is not None:
            allowed = self.services.settings.header_categories if key is None else key.cache_categories
            return policy_for({}, table, named=caller.category, allow_list=allowed).category
        return None if key is None else key.cache_category

    def _look_up(
        self, caller: CacheCaller, request: ChatRequest, directive: CacheDirective, marks: frozenset[str]
    ) -> Lookup:
        fields = {name: bytes(value) for name, value in request.fields.items()}
        scope = CacheScope(
            tenant=caller.tenant,
            end_user=_end_user(request) if self.services.settings.separates_end_users else None,
            api_family=request.front.value,
            requested_model=request.model,
            encoder_id=self.services.cache.parts.encoder_id,
        )
        asked = canonical_request(fields)
        key = key_in(scope, asked)
        shared = key_in(replace(scope, tenant=SHARED_TENANT), asked) if self._has_shared else None
        traits = survey_request(
            asked.fields,
            key,
            is_personalised="personalised" in marks,
            is_retrieval_augmented="retrieval" in marks,
            is_beyond_encoder=len(key.last_user_text) > MAX_SEMANTIC_CHARACTERS,
        )
        return Lookup(caller.tenant, key, shared, traits, directive, request.input_tokens)


def _marks_of(value: str | None) -> frozenset[str]:
    """Read ``x-penstock-cache-marks``."""
    marks = frozenset(mark.strip().lower() for mark in (value or "").split(",") if mark.strip())
    for mark in marks:
        if mark not in MARKS:
            raise InvalidRequest(
                f"Unknown mark '{mark[:40]}' in 'x-penstock-cache-marks'. Known: {', '.join(MARKS)}.",
                code="invalid_cache_directive",
                param="x-penstock-cache-marks",
            )
    return marks


def _end_user(request: ChatRequest) -> str | None:
    """Return whom the client says it asks for; None when it does not say."""
    for name in ("safety_identifier", "user"):
        value = plain_field(request.fields, name) if name in request.fields else None
        if isinstance(value, str) and value:
            return value
    return None


def _tradeoff_number(setting: TradeoffValue) -> float:
    return _TRADEOFFS[setting] if isinstance(setting, str) else setting
