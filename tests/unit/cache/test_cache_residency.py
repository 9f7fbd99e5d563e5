"""The resident set: what comes in, what goes for it, and what the figures say."""

from __future__ import annotations

import hashlib
import math
from typing import Any

import pytest

from penstock_cache.admission import Admission, Candidate, EvictionReason
from penstock_cache.entries import Neighbour
from penstock_cache.eviction import EvictionRules, HitValue
from penstock_cache.quotas import CategoryQuota, CategoryQuotas
from penstock_cache.residency import ResidentSet

NOW = 1_000.0
RULES = EvictionRules(usd_per_second=0.0, probation_share=0.0)


def _candidate(
    name: str, category: str = "chat", size_bytes: int = 100, cost_usd: float = 1.0, **more: Any
) -> Candidate:
    more.setdefault("fingerprint", hashlib.blake2b(name.encode(), digest_size=16).digest())
    more.setdefault("expires_at", NOW + 1e6)
    return Candidate(name, category, size_bytes, HitValue(cost_usd), **more)


def _set(capacity: int = 1_000, quotas: dict[str, CategoryQuota] | None = None, **more: Any) -> ResidentSet:
    return ResidentSet(CategoryQuotas(capacity, quotas), more.pop("rules", RULES), **more)


def _filled(count: int = 10, **more: Any) -> ResidentSet:
    residents = _set(**more)
    for number in range(count):
        assert residents.admit(_candidate(f"e{number}", cost_usd=1.0 + number), NOW).is_admitted
    return residents


def _gone(admission: Admission) -> list[tuple[str, EvictionReason]]:
    return [(eviction.entry_id, eviction.reason) for eviction in admission.evictions]


def test_admission_to_a_full_set_names_the_least_valuable_entries() -> None:
    """An entry that needs the room of two sends away the two that are worth least."""
    residents = _filled()
    admission = residents.admit(_candidate("new", size_bytes=200), NOW)
    assert admission.is_admitted
    assert _gone(admission) == [("e0", EvictionReason.ROOM), ("e1", EvictionReason.ROOM)]
    assert "e0" not in residents
    assert len(residents) == 9
    assert residents.quotas.total_bytes == 1_000


def test_admission_with_expired_entries_takes_those_first() -> None:
    """However valuable, an expired entry goes before any other."""
    residents = _filled(9)
    residents.admit(_candidate("dear but over", cost_usd=1e6, expires_at=NOW + 5), NOW)
    assert _gone(residents.admit(_candidate("new"), NOW + 5)) == [("dear but over", EvictionReason.EXPIRED)]


def test_admission_of_an_expired_or_too_large_candidate_is_refused() -> None:
    """What could never be served, or never fit, costs no other entry."""
    residents = _filled(quotas={"code": CategoryQuota(cap_bytes=300)})
    for refused in (
        _candidate("over", expires_at=NOW),
        _candidate("larger than all", size_bytes=1_001),
        _candidate("larger than its cap", "code", size_bytes=301),
    ):
        admission = residents.admit(refused, NOW)
        assert not admission.is_admitted
        assert admission.evictions == ()
    assert len(residents) == 10


def test_admission_of_a_resident_id_replaces_the_entry() -> None:
    """The same id again counts once, in its new category and size."""
    residents = _set()
    residents.admit(_candidate("e", "chat", 400), NOW)
    assert _gone(residents.admit(_candidate("e", "code", 300), NOW)) == [("e", EvictionReason.REPLACED)]
    assert residents.quotas.used_bytes("chat") == 0
    assert residents.quotas.used_bytes("code") == 300
    assert len(residents) == 1


def test_admission_into_a_reserve_takes_from_the_borrower() -> None:
    """A category below its reserve gets its bytes back from the one that borrowed them."""
    residents = _filled(quotas={"medical": CategoryQuota(300)})
    for number in range(3):
        admission = residents.admit(_candidate(f"m{number}", "medical", cost_usd=0.001), NOW)
        assert [eviction.category for eviction in admission.evictions] == ["chat"]
    assert residents.quotas.used_bytes("medical") == 300
    for number in range(20):  # a flood of dear entries
        residents.admit(_candidate(f"f{number}", cost_usd=100.0), NOW)
    assert residents.quotas.used_bytes("medical") == 300


def test_discard_bit_on_a_full_set_keeps_a_candidate_out_until_it_returns() -> None:
    """A predicted discard never costs an entry; when the same request comes again, the bit is overruled and counted."""
    residents = _filled()
    fingerprint = bytes(range(16))
    first = residents.admit(_candidate("d1", is_discard=True, fingerprint=fingerprint), NOW)
    assert not first.is_admitted
    assert first.evictions == ()
    again = residents.admit(_candidate("d2", is_discard=True, fingerprint=fingerprint), NOW)
    assert again.is_admitted
    figures = residents.figures()["chat"]
    assert (figures.discards_predicted, figures.discards_returned) == (2, 1)


def test_discard_bit_with_room_left_lets_a_candidate_in_as_the_next_victim() -> None:
    """Free room costs nothing, so a predicted discard may use it until somebody else needs it."""
    residents = _filled(9)
    assert residents.admit(_candidate("discard", cost_usd=1e6, is_discard=True), NOW).is_admitted
    assert _gone(residents.admit(_candidate("new"), NOW)) == [("discard", EvictionReason.ROOM)]


def test_admission_of_an_evicted_request_that_returns_outlives_newcomers() -> None:
    """A fingerprint that was evicted not long ago counts as asked twice, and so does one the caller knows."""
    for proven in ("returned", "known"):
        residents = _filled(1)
        residents.admit(_candidate("filler", size_bytes=900, cost_usd=100.0), NOW)
        if proven == "returned":
            assert _gone(residents.admit(_candidate("other", cost_usd=1.0), NOW))[0][0] == "e0"
            residents.remove("other")
            fingerprint = _candidate("e0").fingerprint
            assert residents.admit(_candidate("returned", fingerprint=fingerprint), NOW).is_admitted
        else:
            residents.remove("e0")
            residents.admit(_candidate("known", is_returning=True), NOW)
        residents.remove("filler")
        for number in range(9):
            residents.admit(_candidate(f"n{number}", cost_usd=2.0), NOW)
        assert _gone(residents.admit(_candidate("last"), NOW))[0][0] != proven


def test_hit_on_an_entry_saves_it_from_the_next_eviction() -> None:
    """One hit is worth more than being new, so the entry that was hit stays."""
    residents = _filled()
    assert residents.note_hit("e0", NOW)
    assert _gone(residents.admit(_candidate("new"), NOW)) == [("e1", EvictionReason.ROOM)]
    assert not residents.note_hit("e1", NOW)
    figures = residents.figures()["chat"]
    assert (figures.hits, figures.hit_value_usd) == (1, 1.0)


def test_near_misses_around_an_entry_save_it_without_any_hit() -> None:
    """An entry near many missed prompts is kept, and neighbours that are gone are passed over."""
    residents = _filled()
    for _ in range(200):
        residents.note_near_miss([Neighbour("e0", 0.97), Neighbour("gone", 0.99)], NOW)
    residents.note_near_miss([], NOW)
    assert _gone(residents.admit(_candidate("new"), NOW)) == [("e1", EvictionReason.ROOM)]


def test_rescaling_of_an_entry_found_wrong_makes_it_the_next_victim() -> None:
    """An entry whose hits are right less often than thought is worth as much less."""
    residents = _filled()
    assert residents.rescale("e9", 0.01, NOW)
    assert not residents.rescale("gone", 0.5, NOW)
    assert _gone(residents.admit(_candidate("new"), NOW)) == [("e9", EvictionReason.ROOM)]


def test_remove_of_an_entry_frees_its_bytes_and_forgets_it() -> None:
    """A deleted entry is gone at once, and was not evicted, so its return is nobody's second request."""
    residents = _filled(1)
    assert residents.remove("e0")
    assert not residents.remove("e0")
    assert residents.quotas.total_bytes == 0
    residents.admit(_candidate("e0", is_discard=True), NOW)
    assert residents.figures()["chat"].discards_returned == 0


def test_expire_up_to_a_limit_takes_the_longest_expired_first() -> None:
    """Expiry goes by end, takes no more than it may in one call, and leaves nothing behind."""
    residents = _set()
    for number, ends in enumerate((5.0, 3.0, 4.0, 9.0)):
        residents.admit(_candidate(f"e{number}", expires_at=NOW + ends), NOW)
    assert [eviction.entry_id for eviction in residents.expire(NOW + 5.0, limit=2)] == ["e1", "e2"]
    assert [eviction.entry_id for eviction in residents.expire(NOW + 5.0)] == ["e0"]
    assert residents.expire(NOW + 5.0) == []
    assert residents.expire(NOW - 1e6) == []
    assert len(residents) == 1


def test_figures_of_each_category_state_bytes_reserves_and_caps() -> None:
    """The figures are those of the quotas and the queues."""
    residents = _set(quotas={"code": CategoryQuota(200, 500)}, rules=EvictionRules(probation_share=0.5))
    residents.admit(_candidate("a", "code", 100), NOW)
    residents.admit(_candidate("b", "code", 50), NOW)
    residents.admit(_candidate("c", "chat", 70), NOW)
    code = residents.figures()["code"]
    assert (code.entries, code.used_bytes, code.probation_bytes) == (2, 150, 50)
    assert (code.reserve_bytes, code.cap_bytes, code.admitted) == (200, 500, 2)
    assert residents.figures()["chat"].cap_bytes == 1_000


def test_resident_set_given_the_same_calls_gives_the_same_answers() -> None:
    """Nothing is drawn and no hash is salted: two sets that see the same calls hold the same entries."""
    answers = []
    for _ in range(2):
        residents = _set(5_000)
        log: list[Any] = []
        for number in range(400):
            name = f"e{number * 7919 % 97}"
            if not residents.note_hit(name, NOW + number):
                log.append(residents.admit(_candidate(name, size_bytes=50 + number % 90), NOW + number))
        answers.append(log)
    assert answers[0] == answers[1]


@pytest.mark.parametrize(
    "fields", [{"size_bytes": 0}, {"size_bytes": 2**32}, {"expires_at": math.nan}, {"fingerprint": b"short"}]
)
def test_candidate_that_cannot_be_kept_is_refused(fields: dict[str, Any]) -> None:
    """A size beyond its column, an end that is no time, and a digest that is none are errors of the caller."""
    with pytest.raises(ValueError, match=r"bytes|time"):
        _set(2**40).admit(_candidate("e", **fields), NOW)


def test_resident_set_of_many_entries_takes_at_most_150_bytes_for_each() -> None:
    """Columns, queues and the map from ids together cost at most 150 bytes an entry, the ghost table apart."""
    count, cells = 20_000, 64
    residents = _set(100 * count, ghost_cells=cells, rules=EvictionRules())
    for number in range(count):
        residents.admit(_candidate(f"{number:032x}", ("a", "b", "c")[number % 3]), NOW)
    assert len(residents) == count
    assert (residents.memory_bytes() - 8 * cells) / count <= 150
