"""One request's dealings with the cache, from its key to its stored answer.

Owns the order of exact look-up, waiting for an identical request, semantic look-up and storing, and whether the caller
may be served by an entry's arm. A failure in here is a miss. Read `Visit.exact`, then `Visit.semantic`.
"""

from __future__ import annotations

import time
from collections.abc import Awaitable
from decimal import Decimal
from typing import Final

from penstock_cache.categories import CategoryPolicy, ChosenPolicy, policy_for
from penstock_cache.directives import CacheDirective
from penstock_cache.eligibility import Reach, may_look_up
from penstock_cache.entries import CachedDocument
from penstock_cache.lookups import Accepts, FreshAnswer, Hit, Lookup, Miss
from penstock_cache.single_flight import Seat
from penstock_gateway.accounts.principal import CacheRights
from penstock_gateway.caching.assembly import assemble
from penstock_gateway.caching.auditor import AuditCase
from penstock_gateway.caching.services import CacheServices
from penstock_gateway.caching.steering import SearchTerms
from penstock_gateway.decisions import RouteDecision, Settlement
from penstock_gateway.prompt_readings import UNREAD, PromptReading
from penstock_gateway.request_body import ChatRequest, is_alias
from penstock_gateway.request_policy import RequestPolicy, tier_rank
from penstock_routers.policy import RejectReason, RouteReason

_REUSABLE: Final = ("not_admitted", "store_unavailable")  # not stored, but of use to whoever waits for the same
_ANY_DIRECTIVE: Final = CacheDirective()
_LOOSEST: Final = CategoryPolicy(caches_default_temperature=True, max_temperature=2.0)


class Visit:
    """One request's dealings with the cache.

    Parameters
    ----------
    services : CacheServices
    request : ChatRequest
    look : Lookup or None
        None when the request has no key.
    named : str or None
        Category named by header or key.
    setting : float, in [0, 1]
        The knob's setting that the request asks for.
    policy : RequestPolicy
    rights : CacheRights, optional

    Attributes
    ----------
    status : str
        ``miss`` or ``bypass``, for the response header.
    """

    def __init__(
        self,
        services: CacheServices,
        request: ChatRequest,
        look: Lookup | None,
        named: str | None,
        setting: float,
        policy: RequestPolicy,
        rights: CacheRights | None = None,
    ) -> None:
        self.status = "miss"
        self._services = services
        self._request = request
        self._look = look
        self._named = named
        self._setting = setting
        self._policy = policy
        self._rights = rights or CacheRights()
        self._reading = UNREAD
        self._chosen: ChosenPolicy | None = None
        self._seat: Seat[CachedDocument] | None = None
        self._unaccepted: CachedDocument | None = None
        self._served_case: AuditCase | None = None
        self._shadow_case: AuditCase | None = None
        self._is_storing = False
        self._miss: Miss | None = None
        may = None if look is None else may_look_up(look.traits, _LOOSEST, look.directive)
        self._may_look_up = may is not None and may.reach is not Reach.NOTHING
        if not self._may_look_up:
            self.status = "bypass"
            self._miss = None if may is None else Miss(may.reason.value)

    @property
    def wants_reading(self) -> bool:
        """Whether the prompt's vector, or its category, is of use here: not where its key's category is exact."""
        look = self._look
        if look is None or not self._services.is_semantic:
            return False
        named = self._named_policy
        # Whatever this request may look up: its answer may be stored for other wordings of later ones.
        return named is None or may_look_up(look.traits, named, _ANY_DIRECTIVE).reach is Reach.SEMANTIC

    @property
    def wants_answer(self) -> bool:
        """Whether the answer should be kept until its end, to be stored."""
        return self._look is not None and self._look.directive.may_store

    async def exact(self) -> Hit | None:
        """Look for the same request, and wait for one under way."""
        look = self._look
        if look is None or not self._may_look_up:
            return None
        asked = self._named_policy
        if asked is not None and may_look_up(look.traits, asked, look.directive).reach is Reach.NOTHING:
            return None  # `semantic` says why
        stale_share = 1.0 if self._rights.cache_under_load else 0.0  # load decides once the arm is known
        found = await self._guarded(self._services.cache.find_exact(look, self._accepts, stale_share=stale_share))
        if isinstance(found, Hit):
            return self._served(found)
        if not look.directive.may_store:
            return None
        self._seat = self._services.seat(look.key.fingerprint)
        if self._seat is None or self._seat.is_leader:
            return None
        document = await self._seat.wait(self._services.settings.single_flight_seconds)
        if document is None or not self._accepts(document):
            return None
        return self._served(Hit(document, "hit-exact", 0.0))

    async def semantic(self, reading: PromptReading, decision: RouteDecision) -> Hit | None:
        """Look for another wording, now that it is known what the prompt is about and which arm would answer."""
        look = self._look
        self._reading = reading
        if look is None:
            return None
        chosen = self._chosen = self._category(look, reading)
        if not self._may_look_up:
            return None
        terms = self._services.terms(chosen, decision.chosen, is_opted_in=self._rights.cache_under_load)
        accepts = self._accepts_instead(chosen, terms, decision)
        verdict = may_look_up(look.traits, chosen.policy, look.directive)
        other = self._unaccepted
        if other is not None and verdict.reach is not Reach.NOTHING and accepts(other):
            return self._served(Hit(other, "hit-exact", self._services.age_seconds(other)))
        if verdict.reach is Reach.NOTHING:
            self.status = "bypass"
        if verdict.reach is not Reach.SEMANTIC or reading.vector is None:
            has_reach = verdict.reach is Reach.SEMANTIC
            self._note_miss(look, chosen.category, Miss("no_vector" if has_reach else verdict.reason.value))
            return None
        return await self._search(look, chosen, decision, terms, accepts)

    async def preview(self, reading: PromptReading, decision: RouteDecision) -> Hit | Miss:
        """Say what would be served, without serving, waiting or counting anything.

        Parameters
        ----------
        reading : PromptReading
        decision : RouteDecision
            Need not be that of a request.
        """
        look, cache = self._look, self._services.cache
        if look is None or not self._may_look_up:
            return self._miss or Miss("no_key")
        found = await cache.find_exact(look, self._accepts)
        if isinstance(found, Hit):
            return found
        chosen = self._category(look, reading)
        verdict = may_look_up(look.traits, chosen.policy, look.directive)
        if verdict.reach is not Reach.SEMANTIC:
            return found if verdict.reach is Reach.EXACT else Miss(verdict.reason.value)
        if reading.vector is None:
            return Miss("no_vector")
        terms = self._services.terms(chosen, decision.chosen, is_opted_in=self._rights.cache_under_load)
        near = await cache.find_semantic(
            look,
            reading.vector,
            chosen,
            self._accepts_instead(chosen, terms, decision),
            budget=terms.error_budget,
            min_threshold=terms.min_threshold,
            stale_share=terms.relaxation,
            is_shadow=True,
        )
        is_served = isinstance(near, Miss) or terms.is_served
        return near if is_served else Miss("switched_off", near.similarity, near.probability)

    def keep(self, answer: bytes, decision: RouteDecision, settlement: Settlement, *, is_stream: bool) -> None:
        """Store a complete answer in the background.

        Parameters
        ----------
        answer : bytes
            The body, or the events of a complete stream.
        decision : RouteDecision
        settlement : Settlement
        is_stream : bool
        """
        self._is_storing = True
        self._services.spawn(self._store(answer, decision, settlement, is_stream=is_stream))

    def headers(self, hit: Hit | None) -> dict[str, str]:
        """Return what the response says of the cache."""
        if hit is None:
            return {"x-penstock-cache": self.status} | self._miss_headers()
        document = hit.document
        stale = {} if self._services.is_in_time(document) else {"x-penstock-cache-stale": "true"}
        return stale | {
            "x-penstock-cache": hit.kind,
            "x-penstock-cache-age": f"{hit.age_seconds:.0f}",
            "x-penstock-cache-similarity": f"{hit.similarity:.4f}",
            "x-penstock-cache-entry": document.entry_id,
            "x-penstock-cache-saved-usd": document.cost_usd,
        }

    def close(self, *, is_over: bool = False) -> None:
        """Give back the seat, unless the answer is still being stored, and have a hit audited that has been served.

        Parameters
        ----------
        is_over : bool
            The model has been asked, and what came of it is of no use to who waits: all go on at once. Otherwise the
            next of them asks in the place of this request.
        """
        if not self._is_storing:
            if is_over and self._seat is not None:
                self._seat.decline()
            self._leave()
        case, self._served_case = self._served_case, None
        auditor = self._services.oversight.auditor
        if case is not None and auditor is not None:
            auditor.consider(case)

    async def _search(
        self, look: Lookup, chosen: ChosenPolicy, decision: RouteDecision, terms: SearchTerms, accepts: Accepts
    ) -> Hit | None:
        """Look for another wording; in the shadow only, while audits keep the category off."""
        question = look.key.last_user_text
        started = time.perf_counter()
        found = await self._find(look, chosen, terms, accepts)
        seconds = time.perf_counter() - started
        zone = self._services.oversight.grey_zone
        if zone is not None and isinstance(found, Miss) and terms.is_served and await zone.consider(question, found):
            found = await self._find(look, chosen, terms, accepts)
        if found is None:
            return None
        self._services.oversight.steering.note_lookup(
            chosen.category, terms, found, call_cost_usd=decision.estimated_cost_usd or 0.0, seconds=seconds
        )
        if isinstance(found, Miss):
            self._note_miss(look, chosen.category, found)
            return None
        case = AuditCase(self._request, decision, found.document, question, chosen.category, terms)
        if terms.is_served:
            self._served_case = case
            return self._served(found)
        self._shadow_case = case
        self._note_miss(look, chosen.category, Miss("switched_off"))
        return None

    async def _find(
        self, look: Lookup, chosen: ChosenPolicy, terms: SearchTerms, accepts: Accepts
    ) -> Hit | Miss | None:
        vector = self._reading.vector
        assert vector is not None
        return await self._guarded(
            self._services.cache.find_semantic(
                look,
                vector,
                chosen,
                accepts,
                budget=terms.error_budget,
                min_threshold=terms.min_threshold,
                stale_share=terms.relaxation,
                is_shadow=not terms.is_served,
            )
        )

    async def _store(self, answer: bytes, decision: RouteDecision, settlement: Settlement, *, is_stream: bool) -> None:
        try:
            body = assemble(answer, settlement.usage) if is_stream else answer
            look, chosen = self._look, self._chosen
            if look is None or chosen is None:
                return
            if body is None:
                self._services.metrics.stores.labels(chosen.category, "not_assembled").inc()
                return
            if self._shadow_case is not None and self._services.oversight.auditor is not None:
                self._services.oversight.auditor.consider_shadow(self._shadow_case, body)
            result = await self._services.cache.store(
                look,
                chosen,
                self._fresh(body, decision, settlement),
                self._reading.vector,
                may_be_stale=self._rights.cache_under_load,
                on_made=self._deliver,
            )
            self._services.metrics.stores.labels(chosen.category, result.reason).inc()
            if result.document is None and result.reason not in _REUSABLE:
                self._services.note_declined(look.key.fingerprint)
        finally:
            if self._seat is not None:
                self._seat.decline()
            self._leave()

    def _category(self, look: Lookup, reading: PromptReading) -> ChosenPolicy:
        """Return the policy of what the prompt is about."""
        estimate = None if self._named is not None else reading.estimate  # a category that is named is taken as it is
        return policy_for(
            {} if estimate is None else estimate.category_shares(),
            self._services.cache.parts.policies,
            named=self._named,
            allow_list=() if self._named is None else (self._named,),
            prompt=look.key.last_user_text,
        )

    def _accepts_instead(self, chosen: ChosenPolicy, terms: SearchTerms, decision: RouteDecision) -> Accepts:
        """Return what says of an entry whether it may stand in for the deployment that was chosen."""
        least = tier_rank(decision.tier)

        def accepts(document: CachedDocument) -> bool:
            is_in_time = self._services.is_in_time(document, terms.relaxation, chosen.policy)
            return (is_in_time and self._is_servable(document)) and (
                document.arm == decision.chosen or tier_rank(document.tier) >= max(least, 0)
            )

        return accepts

    def _note_miss(self, look: Lookup, category: str, miss: Miss) -> None:
        self._miss = miss
        self._services.note_miss(look.tenant, category, miss.reason)

    def _miss_headers(self) -> dict[str, str]:
        """Say why nothing was served; how near something came only where all of it is the tenant's own."""
        miss, look = self._miss, self._look
        if miss is None or look is None:
            return {}
        headers = {"x-penstock-cache-reason": miss.reason}
        if miss.similarity > 0.0 and look.shared_key is None:
            headers["x-penstock-cache-similarity"] = f"{miss.similarity:.4f}"
        return headers

    def _deliver(self, document: CachedDocument) -> None:
        """Give the answer to those who wait for it, before it is stored: a store that is slow is not theirs to bear."""
        if self._seat is not None:
            self._seat.deliver(document)

    def _fresh(self, body: bytes, decision: RouteDecision, settlement: Settlement) -> FreshAnswer:
        usage = settlement.usage
        served = settlement.served or decision.chosen
        return FreshAnswer(
            body=body,
            status=settlement.status,
            arm=served,
            tier=next((report.tier for report in decision.candidates if report.name == served), None),
            tradeoff=self._setting if self._is_of_setting(decision) else 0.0,
            input_tokens=0 if usage is None else usage.input_tokens,
            output_tokens=0 if usage is None else usage.output_tokens,
            cost_usd=settlement.cost_usd or Decimal(0),
            latency_seconds=settlement.duration_ms / 1000.0,
            may_be_shared=self._rights.may_share_answers,
        )

    def _is_of_setting(self, decision: RouteDecision) -> bool:
        """Whether the knob chose the arm: a cap, a wanted quality or a draw may have put it lower."""
        is_capped = any(report.rejected is RejectReason.MAX_COST for report in decision.candidates)
        return self._policy.min_quality is None and not is_capped and decision.reason is not RouteReason.EXPLORED

    @property
    def _named_policy(self) -> CategoryPolicy | None:
        return None if self._named is None else self._services.cache.parts.policies.get(self._named)

    def _leave(self) -> None:
        seat, self._seat = self._seat, None
        if seat is not None:
            seat.leave()

    def _accepts(self, document: CachedDocument) -> bool:
        """Whether an entry may be served before it is known which arm would answer.

        Its own request must have asked for at least as much quality, and it must be in time. One that is not so is kept
        for `semantic`, where the tiers and the arm's load decide.
        """
        if not self._is_servable(document):
            return False
        is_good = self._policy.min_quality is None and document.tradeoff >= self._setting
        is_in_time = self._services.is_in_time(document, asked=self._named_policy)
        if is_good and is_in_time and self._is_above_floor(document):
            return True
        self._unaccepted = document
        return False

    def _is_servable(self, document: CachedDocument) -> bool:
        """Whether the deployment that answered is still one the caller could get."""
        deployment = self._services.deployment(document.arm)
        if deployment is None:
            return False
        return deployment.is_routable if is_alias(self._request.model) else deployment.name == self._request.model

    def _is_above_floor(self, document: CachedDocument) -> bool:
        """Whether the entry's tier satisfies every floor; which one applies is known only once the prompt is read."""
        return tier_rank(document.tier) >= max(self._policy.floors.values(), default=-1)

    def _served(self, hit: Hit) -> Hit:
        self._leave()
        if self._look is not None:
            self._services.note_hit(self._look.tenant, hit)
        return hit

    async def _guarded(self, work: Awaitable[Hit | Miss]) -> Hit | Miss | None:
        try:
            return await work
        except Exception as failure:  # the guard around the cache: its failure never fails a request
            self._services.note_failure(failure)
            return None
