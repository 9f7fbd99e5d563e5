"""The cache as the gateway sees it: look up, store, delete.

Owns the order of the steps and what a failure turns into: a store that does not answer is a miss, never an error. The
rules live in the modules it calls. Read `AnswerCache.find_exact`, `find_semantic` and `store`.
"""

from __future__ import annotations

import asyncio
import secrets
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

from penstock_cache.categories import GENERAL, CacheMode, CategoryPolicy, ChosenPolicy
from penstock_cache.contexts import ContextCounter
from penstock_cache.discard import predict_discard
from penstock_cache.eligibility import Reach, Reason, is_decodable, may_look_up, may_store, survey_answer
from penstock_cache.entries import CachedDocument, FloatArray, Neighbour, encode_vector
from penstock_cache.errors import StoreUnavailable
from penstock_cache.judging import EntryJudge
from penstock_cache.lookups import (
    SHARED_TENANT,
    Accepts,
    FreshAnswer,
    Hit,
    HitKind,
    Lookup,
    Miss,
    StoreResult,
)
from penstock_cache.meanwhile import Meanwhile
from penstock_cache.mirror import IndexMirror
from penstock_cache.rule import Judgement, RuleMode
from penstock_cache.stores.changes import IndexRecord
from penstock_cache.stores.protocol import DocumentStore


@dataclass(frozen=True, slots=True)
class CacheParts:
    """What an `AnswerCache` is made of.

    Attributes
    ----------
    store : DocumentStore
    mirror : IndexMirror
        Follows the store's changes, own ones included.
    policies : mapping of str to CategoryPolicy
        By category; has ``general``.
    encoder_id : str
        Of the search vectors; empty when there is no encoder.
    judge : EntryJudge or None
        None: exact only.
    owns_documents : bool
        Evicting an entry here also deletes its document: true unless other replicas use the store.
    contexts : ContextCounter
    """

    store: DocumentStore
    mirror: IndexMirror
    policies: Mapping[str, CategoryPolicy]
    encoder_id: str = ""
    judge: EntryJudge | None = None
    owns_documents: bool = True
    contexts: ContextCounter = field(default_factory=ContextCounter)


class AnswerCache:
    """Finds, stores and deletes answers.

    Parameters
    ----------
    parts : CacheParts
    clock : callable
        Unix time, seconds.
    on_problem : callable
        Called with a stable code for everything that went wrong and was turned into a miss.
    max_answer_bytes : int
    """

    def __init__(
        self,
        parts: CacheParts,
        *,
        clock: Callable[[], float],
        on_problem: Callable[[str], None],
        max_answer_bytes: int,
    ) -> None:
        self.parts = parts
        self._clock = clock
        self._on_problem = on_problem
        self._max_answer_bytes = max_answer_bytes

    async def find_exact(self, look: Lookup, accepts: Accepts, *, stale_share: float = 0.0) -> Hit | Miss:
        """Look for the same request.

        Parameters
        ----------
        look : Lookup
        accepts : callable
        stale_share : float, in [0, 1]
            As for `is_in_time`.

        Returns
        -------
        Hit or Miss
        """
        now = self._clock()
        reason = "no_entry"
        for tenant, key in look.places():
            try:
                document = await self.parts.store.find_exact(tenant, key.fingerprint, now=now)
            except StoreUnavailable:
                self._on_problem("store_unavailable")
                return Miss("store_unavailable")
            if document is None:
                continue
            is_same = document.fingerprint == key.fingerprint
            if is_same and self._may_serve(document, tenant, look, now, accepts, stale_share):
                return self._hit(document, "hit-exact", now)
            reason = "not_acceptable"
        return Miss(reason)

    async def find_semantic(
        self,
        look: Lookup,
        vector: FloatArray,
        chosen: ChosenPolicy,
        accepts: Accepts,
        *,
        budget: float | None = None,
        min_threshold: float = 0.0,
        stale_share: float = 0.0,
        is_shadow: bool = False,
    ) -> Hit | Miss:
        """Look for another wording of the same question.

        Parameters
        ----------
        look : Lookup
        vector : ndarray of float32, shape (d,)
            The last user text by the search encoder.
        chosen : ChosenPolicy
        accepts : callable
        budget : float, optional
            False hits per request; default: the policy's.
        min_threshold : float
            A live controller's threshold; the certified one holds when it is stricter.
        stale_share : float, in [0, 1]
            As for `is_in_time`.
        is_shadow : bool
            The hit is not going to be served, so its entry gets no credit for it.

        Returns
        -------
        Hit or Miss
        """
        judge = self.parts.judge
        if judge is None:
            return Miss("no_rule")
        if not judge.reads_whole(look.key.last_user_text):
            return Miss("beyond_encoder")
        mode: RuleMode = "faq-intent" if chosen.policy.mode is CacheMode.FAQ_INTENT else "semantic"
        wanted = chosen.policy.false_hit_budget if budget is None else budget
        certified = judge.rule.threshold(chosen.category, mode, wanted)
        if certified is None:
            return Miss("not_certifiable")
        now, text, threshold = self._clock(), look.key.last_user_text, max(certified, min_threshold)
        near = self._neighbours(look, vector, judge.rule.manifest.candidates, judge.rule.manifest.min_cosine)
        if not near:
            return Miss("no_neighbour")
        cosines = [(neighbour.entry_id, neighbour.cosine) for _, neighbour in near]
        ahead = Meanwhile(lambda: judge.prepare(text, cosines, threshold))
        with ahead:
            documents = await self._documents(near, look, now, accepts, stale_share)
        if not documents:
            return Miss("no_neighbour")
        judgement = await judge.judge(text, documents, threshold, tenant=look.tenant, drafts=ahead.result)
        if judgement.entry_id is None:
            self.parts.mirror.residents.note_near_miss([neighbour for _, neighbour in near], now)
            near_miss = next((document for document, _ in documents if document.entry_id == judgement.best_id), None)
            return Miss(judgement.reason, judgement.cosine, judgement.probability, near_miss)
        served = next(document for document, _ in documents if document.entry_id == judgement.entry_id)
        return self._hit(served, "hit-semantic", now, judgement, is_shadow=is_shadow)

    async def store(
        self,
        look: Lookup,
        chosen: ChosenPolicy,
        answer: FreshAnswer,
        vector: FloatArray | None,
        *,
        may_be_stale: bool = False,
        on_made: Callable[[CachedDocument], None] = lambda _: None,
    ) -> StoreResult:
        """Store a model's answer if it may be reused.

        Parameters
        ----------
        look : Lookup
        chosen : ChosenPolicy
        answer : FreshAnswer
        vector : ndarray of float32, shape (d,), or None
            None: the entry is exact only.
        may_be_stale : bool
            Keep it for as long as load may prolong its TTL (`is_in_time`).
        on_made : callable
            Called before the store is asked, when the answer may be reused: who waits for it need not wait for the
            store, too.

        Returns
        -------
        StoreResult
        """
        now = self._clock()
        verdict = may_store(
            look.traits,
            chosen.policy,
            look.directive,
            survey_answer(answer.body, status=answer.status),
            has_repeated_context=self.parts.contexts.count(look.tenant, look.key.context) > 1,
            max_answer_bytes=self._max_answer_bytes,
        )
        if verdict.reach is Reach.NOTHING:
            return StoreResult(None, verdict.reason.value)
        if not is_decodable(answer.body):
            return StoreResult(None, Reason.UNREADABLE.value)
        judge = self.parts.judge
        is_read = judge is None or judge.reads_whole(look.key.last_user_text)
        kept_vector = vector if verdict.reach is Reach.SEMANTIC and is_read else None
        lifetime_seconds = self._lifetime_seconds(look, chosen, may_be_stale=may_be_stale)
        document = self._document(look, chosen, answer, kept_vector, now, lifetime_seconds)
        on_made(document)
        is_unlikely = predict_discard(
            look.key.last_user_text, context_tokens=look.context_tokens, is_volatile=chosen.policy.is_volatile
        )
        admission = self.parts.mirror.admit(IndexRecord.of(document), now, is_discard=is_unlikely)
        await self._drop(admission.gone)
        if not admission.is_admitted:
            return StoreResult(None, "not_admitted")
        try:
            await self.parts.store.put(document, now=now)
        except StoreUnavailable:
            self.parts.mirror.remove(document.entry_id)
            self._on_problem("store_unavailable")
            return StoreResult(None, "store_unavailable")
        return StoreResult(document, "stored")

    async def find_entries(self, tenant: str, entry_ids: Sequence[str]) -> list[CachedDocument | None]:
        """Return entries of a tenant by their ids, whether they may be served or not; None for what is gone.

        Raises
        ------
        StoreUnavailable
        """
        return await self.parts.store.get(tenant, entry_ids, now=self._clock())

    async def delete(self, tenant: str, entry_ids: Sequence[str]) -> int:
        """Delete entries of a tenant for good.

        Raises
        ------
        StoreUnavailable
            It may have been done in part: ask again.
        """
        return await self.parts.store.delete(tenant, entry_ids)

    async def delete_all(self, tenant: str, category: str | None = None) -> int:
        """Delete everything of a tenant, or of one of its categories.

        Raises
        ------
        StoreUnavailable
            It may have been done in part: ask again.
        """
        if category is None:
            self.parts.contexts.forget(tenant)
            if self.parts.judge is not None:
                self.parts.judge.forget_tenant(tenant)
            return await self.parts.store.delete_tenant(tenant, now=self._clock())
        return await self.parts.store.delete_category(tenant, category, now=self._clock())

    def is_in_time(
        self, document: CachedDocument, stale_share: float = 0.0, asked: CategoryPolicy | None = None
    ) -> bool:
        """Whether an entry may still be served.

        Parameters
        ----------
        document : CachedDocument
        stale_share : float, in [0, 1]
            How much of its category's ``max_stale_seconds`` is added to the TTL.
        asked : CategoryPolicy, optional
            Of the request, when it may be another than the entry's: the shorter TTL holds.

        Returns
        -------
        bool
        """
        now = self._clock()
        is_young = asked is None or now - document.stored_at <= _most_age_seconds(asked, stale_share)
        return is_young and self._is_in_time(document, now, stale_share)

    async def sweep(self) -> None:
        """Drop what has expired; to be called about once a minute."""
        now = self._clock()
        while self.parts.mirror.expire(now):
            await asyncio.sleep(0)
        try:
            await self.parts.store.sweep_expired(now=now)
        except StoreUnavailable:
            self._on_problem("store_unavailable")

    def _policy(self, category: str) -> CategoryPolicy:
        return self.parts.policies.get(category) or self.parts.policies[GENERAL]

    def _is_in_time(self, document: CachedDocument, now: float, stale_share: float) -> bool:
        policy = self._policy(document.category)
        return document.is_fresh(now) and now - document.stored_at <= _most_age_seconds(policy, stale_share)

    def _lifetime_seconds(self, look: Lookup, chosen: ChosenPolicy, *, may_be_stale: bool) -> float:
        """Return how long an entry is kept.

        A TTL that is shorter than its category's (a caller's wish, or a second plausible category) is never prolonged:
        `is_in_time` knows the category's alone.
        """
        policy = chosen.policy
        lifetime_seconds = look.directive.clamped_ttl_seconds(policy.ttl_seconds)
        is_shorter = lifetime_seconds < self._policy(chosen.category).ttl_seconds
        if is_shorter or policy.is_volatile or not may_be_stale:
            return lifetime_seconds
        return lifetime_seconds + policy.max_stale_seconds

    def _may_serve(
        self,
        document: CachedDocument,
        tenant: str,
        look: Lookup,
        now: float,
        accepts: Accepts,
        stale_share: float,
    ) -> bool:
        """Check everything that the keys should have made sure of already, and what they cannot know."""
        policy = self._policy(document.category)
        may_cross = document.is_shared and policy.is_shared_across_tenants  # what was shared once may not be any more
        return (
            document.tenant == tenant
            and (tenant != SHARED_TENANT or may_cross)
            # by the policy as it is now: a store outlives the configuration that an entry was stored under
            and may_look_up(look.traits, policy, look.directive).reach is not Reach.NOTHING
            and self._is_in_time(document, now, stale_share)
            and look.directive.accepts_age(now - document.stored_at)
            and accepts(document)
        )

    def _neighbours(
        self, look: Lookup, vector: FloatArray, count: int, min_cosine: float
    ) -> list[tuple[str, Neighbour]]:
        """Return the nearest entries in every place where the request may be found, nearest first."""
        found = [
            (tenant, neighbour)
            for tenant, key in look.places()
            for neighbour in self.parts.mirror.index.search(key.partition, vector, count, min_cosine)
            if neighbour.cosine >= min_cosine
        ]
        found.sort(key=lambda pair: -pair[1].cosine)
        return found[:count]

    async def _documents(
        self, near: Sequence[tuple[str, Neighbour]], look: Lookup, now: float, accepts: Accepts, stale_share: float
    ) -> list[tuple[CachedDocument, float]]:
        """Fetch entries and keep those that may be served, with their cosines."""
        partitions = {tenant: key.partition for tenant, key in look.places()}
        kept: list[tuple[CachedDocument, float]] = []
        for tenant, partition in partitions.items():
            wanted = [neighbour for owner, neighbour in near if owner == tenant]
            if not wanted:
                continue
            try:
                documents = await self.parts.store.get(tenant, [n.entry_id for n in wanted], now=now)
            except StoreUnavailable:
                self._on_problem("store_unavailable")
                continue
            for neighbour, document in zip(wanted, documents, strict=True):
                if document is None:
                    self.parts.mirror.remove(neighbour.entry_id)
                elif (
                    document.is_semantic
                    and self._policy(document.category).mode.is_semantic
                    and document.partition == partition
                    and document.encoder_id == self.parts.encoder_id
                    and self._may_serve(document, tenant, look, now, accepts, stale_share)
                ):
                    kept.append((document, neighbour.cosine))
        kept.sort(key=lambda pair: -pair[1])
        return kept

    def _hit(
        self,
        document: CachedDocument,
        kind: HitKind,
        now: float,
        judgement: Judgement | None = None,
        *,
        is_shadow: bool = False,
    ) -> Hit:
        if not is_shadow:
            self.parts.mirror.residents.note_hit(document.entry_id, now)
        age = max(0.0, now - document.stored_at)
        if judgement is None:
            return Hit(document, kind, age)
        return Hit(document, kind, age, judgement.cosine, judgement.probability)

    def _document(
        self,
        look: Lookup,
        chosen: ChosenPolicy,
        answer: FreshAnswer,
        vector: FloatArray | None,
        now: float,
        lifetime_seconds: float,
    ) -> CachedDocument:
        """Return the answer as it is stored: in the name of all tenants where category and key allow it."""
        is_shared = (
            chosen.policy.is_shared_across_tenants and answer.may_be_shared and look.shared_key is not None
        )  # fmt: skip
        key = look.shared_key if is_shared and look.shared_key is not None else look.key
        return CachedDocument(
            entry_id=secrets.token_hex(16),
            tenant=SHARED_TENANT if is_shared else look.tenant,
            partition=key.partition,
            fingerprint=key.fingerprint,
            prompt=key.last_user_text if vector is not None else "",
            category=chosen.category,
            arm=answer.arm,
            tier=answer.tier,
            tradeoff=answer.tradeoff,
            body=answer.body,
            input_tokens=answer.input_tokens,
            output_tokens=answer.output_tokens,
            cost_usd=f"{answer.cost_usd:f}",
            latency_ms=answer.latency_seconds * 1000.0,
            stored_at=now,
            expires_at=now + lifetime_seconds,
            encoder_id=self.parts.encoder_id if vector is not None else "",
            vector=encode_vector(vector) if vector is not None else b"",
            is_shared=is_shared,
        )

    async def _drop(self, gone: Sequence[tuple[str, str]]) -> None:
        """Let go of the documents, by tenant and id, of entries that had to make room."""
        if not self.parts.owns_documents:
            return
        owned: dict[str, list[str]] = {}
        for tenant, entry_id in gone:
            owned.setdefault(tenant, []).append(entry_id)
        for tenant, entry_ids in owned.items():
            try:
                await self.parts.store.evict(tenant, entry_ids)
            except StoreUnavailable:
                self._on_problem("store_unavailable")


def _most_age_seconds(policy: CategoryPolicy, stale_share: float) -> float:
    """Return the age up to which a policy serves an entry."""
    return policy.ttl_seconds + (0.0 if policy.is_volatile else stale_share * policy.max_stale_seconds)
