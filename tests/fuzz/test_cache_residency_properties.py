"""Any sequence of calls on a resident set: it holds what a plain model holds, and never breaks a quota."""

from __future__ import annotations

import hashlib

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import Bundle, RuleBasedStateMachine, initialize, invariant, multiple, rule

from penstock_cache.admission import Candidate, EvictionReason
from penstock_cache.entries import Neighbour
from penstock_cache.eviction import EvictionRules, HitValue
from penstock_cache.quotas import CategoryQuota, CategoryQuotas
from penstock_cache.residency import ResidentSet

CAPACITY = 1_000
QUOTAS = {
    "faq": CategoryQuota(200, 600),
    "code": CategoryQuota(300, None, weight=2.0),
    "chat": CategoryQuota(0, 400),
}
NAMES = (*QUOTAS, "unnamed")

values = st.builds(HitValue, st.floats(0, 10), st.floats(0, 60), st.floats(0, 1), st.floats(0, 5))


class ResidencyMachine(RuleBasedStateMachine):
    """A resident set beside a dictionary of what must be in it."""

    ids = Bundle("ids")

    @initialize(probation_share=st.sampled_from([0.0, 0.1, 0.5]))
    def start(self, probation_share: float) -> None:
        """Begin with an empty set."""
        self.residents = ResidentSet(
            CategoryQuotas(CAPACITY, QUOTAS),
            EvictionRules(probation_share=probation_share),
            ghost_cells=16,
        )
        self.model: dict[str, tuple[str, int, float]] = {}
        self.now = 0.0

    def _used(self, category: str) -> int:
        return sum(size for name, size, _ in self.model.values() if name == category)

    @rule(
        target=ids, entry_id=st.integers(0, 60).map(str), category=st.sampled_from(NAMES), size=st.integers(1, 500),
        value=values, ttl=st.floats(-1.0, 100.0), prompt=st.integers(0, 30), is_discard=st.booleans(),
        is_returning=st.booleans(),
    )  # fmt: skip
    def admit(
        self, entry_id: str, category: str, size: int, value: HitValue, ttl: float, prompt: int, is_discard: bool,
        is_returning: bool,
    ) -> str:  # fmt: skip
        """Offer an entry, and follow what has to go for it."""
        fingerprint = hashlib.blake2b(b"%d" % prompt, digest_size=16).digest()
        ends = self.now + ttl
        candidate = Candidate(entry_id, category, size, value, ends, fingerprint, is_discard, is_returning)
        was_full = sum(each for _, each, _ in self.model.values()) + size > CAPACITY
        admission = self.residents.admit(candidate, self.now)
        for eviction in admission.evictions:
            name, _, expires_at = self.model[eviction.entry_id]
            assert name == eviction.category
            if eviction.reason is EvictionReason.EXPIRED:
                assert expires_at <= self.now
            elif eviction.reason is EvictionReason.REPLACED:
                assert eviction.entry_id == entry_id
            else:
                assert admission.is_admitted
                if name != category:
                    assert was_full
                    assert self._used(name) > self.residents.quotas.quota(name).reserve_bytes
            del self.model[eviction.entry_id]
        if admission.is_admitted:
            assert ends > self.now
            self.model[entry_id] = (category, size, ends)
        else:
            assert ends <= self.now or is_discard or not self.residents.quotas.can_fit(category, size)
        return entry_id

    @rule(entry_id=ids)
    def hit(self, entry_id: str) -> None:
        """Hit an entry, resident or not."""
        assert self.residents.note_hit(entry_id, self.now) is (entry_id in self.model)

    @rule(entry_ids=st.lists(ids, max_size=4), cosine=st.floats(-1.0, 1.0))
    def near_miss(self, entry_ids: list[str], cosine: float) -> None:
        """Credit some entries for a near miss, the same one twice perhaps."""
        self.residents.note_near_miss([Neighbour(entry_id, cosine) for entry_id in entry_ids], self.now)

    @rule(entry_id=ids, factor=st.floats(0, 4))
    def rescale(self, entry_id: str, factor: float) -> None:
        """Change what an entry is worth."""
        assert self.residents.rescale(entry_id, factor, self.now) is (entry_id in self.model)

    @rule(entry_id=ids)
    def remove(self, entry_id: str) -> None:
        """Delete an entry, resident or not."""
        assert self.residents.remove(entry_id) is (self.model.pop(entry_id, None) is not None)

    @rule(target=ids, seconds=st.floats(-30.0, 60.0), limit=st.integers(0, 5))
    def expire(self, seconds: float, limit: int) -> object:
        """Let time pass, backwards perhaps, and take out what is over."""
        self.now += seconds
        due = sorted((ends, name) for name, (_, _, ends) in self.model.items() if ends <= self.now)
        gone = self.residents.expire(self.now, limit)
        assert len(gone) == min(limit, len(due))
        assert [self.model.pop(each.entry_id)[2] for each in gone] == [ends for ends, _ in due[: len(gone)]]
        return multiple()

    @invariant()
    def holds_what_the_model_holds(self) -> None:
        """Entries, bytes, caps and the capacity agree with the model."""
        assert len(self.residents) == len(self.model)
        assert all(entry_id in self.residents for entry_id in self.model)
        quotas = self.residents.quotas
        assert quotas.total_bytes == sum(size for _, size, _ in self.model.values()) <= CAPACITY
        for name, figures in self.residents.figures().items():
            assert figures.used_bytes == self._used(name) <= quotas.cap_bytes(name)
            assert figures.entries == sum(category == name for category, _, _ in self.model.values())
            assert 0 <= figures.probation_bytes <= figures.used_bytes


ResidencyMachine.TestCase.settings = settings(max_examples=120, stateful_step_count=40)


class TestResidency(ResidencyMachine.TestCase):  # type: ignore[misc,valid-type]
    """The machine above, run by pytest."""
