"""The order in which entries go, against a plain reference, and the parts it is made of."""

from __future__ import annotations

import math
import random
from array import array

import pytest
from hypothesis import given
from hypothesis import strategies as st

from penstock_cache import discard
from penstock_cache.discard import predict_discard
from penstock_cache.entry_slots import EntrySlots
from penstock_cache.eviction import CategoryQueue, EvictionRules, HitValue, near_miss_credits, value_density
from penstock_cache.ghosts import GhostTable, fingerprint_number
from penstock_cache.slot_heap import NOWHERE, SlotHeap

FAR = 1e9  # an end so far away that the life left counts in full


class _CountingList(list[float]):
    """Keys that count how often they are read."""

    reads = 0

    def __getitem__(self, index):  # type: ignore[no-untyped-def]
        self.reads += 1
        return super().__getitem__(index)


class _Queue:
    """A category queue with named entries."""

    def __init__(self, rules: EvictionRules | None = None) -> None:
        self.rules = rules or EvictionRules(probation_share=0.0)
        self.slots = EntrySlots()
        self.queue = CategoryQueue(self.slots, self.rules)

    def add(
        self, name: str, worth_usd: float = 1.0, size_bytes: int = 1, *, credit: float | None = None,
        expires_at: float = FAR, is_proven: bool = False,
    ) -> None:  # fmt: skip
        slot = self.slots.take(name)
        self.slots.worth_usd[slot] = worth_usd
        self.slots.credit[slot] = self.rules.newcomer_credit if credit is None else credit
        self.slots.size_bytes[slot] = size_bytes
        self.slots.expires_at[slot] = expires_at
        self.queue.add(slot, 0.0, is_proven=is_proven)

    def slot(self, name: str) -> int:
        slot = self.slots.slot_of(name)
        assert slot is not None
        return slot

    def hit(self, name: str) -> None:
        self.queue.note_hit(self.slot(name), 0.0)

    def pop(self) -> str:
        return self.slots.free(self.queue.pop_victim())

    def pop_all(self) -> list[str]:
        return [self.pop() for _ in range(len(self.queue))]


@given(st.lists(st.tuples(st.sampled_from(["push", "remove", "rekey"]), st.integers(0, 30), st.floats(-1e6, 1e6))))
def test_slot_heap_under_any_changes_gives_slots_in_the_order_of_keys(
    changes: list[tuple[str, int, float]],
) -> None:
    """Whatever was pushed, rekeyed and removed, the heap holds just that and hands it out smallest key first."""
    keys, positions = array("d", [0.0] * 31), array("i", [NOWHERE] * 31)
    heap = SlotHeap(keys, positions)
    model: dict[int, float] = {}
    for change, slot, key in changes:
        if change == "push" and slot not in model:
            heap.push(slot, key)
            model[slot] = key
        elif change == "rekey" and slot in model:
            heap.rekey(slot, key)
            model[slot] = key
        elif change == "remove" and slot in model:
            heap.remove(slot)
            del model[slot]
        assert len(heap) == len(model)
    drained = []
    while len(heap):
        drained.append(heap.first())
        heap.remove(drained[-1])
    assert [model[slot] for slot in drained] == sorted(model.values())
    assert sorted(drained) == sorted(model)
    assert set(positions) == {NOWHERE}


@pytest.mark.parametrize("count", [1_000, 32_000])
def test_slot_heap_of_many_slots_reads_logarithmically_many_keys(count: int) -> None:
    """A change reads at most four keys on each of the log2(n) + 1 levels, twice over, however many slots there are."""
    keys = _CountingList([0.0] * (count + 1))
    heap = SlotHeap(keys, [NOWHERE] * (count + 1))
    draws = random.Random(0)
    for slot in range(count):
        heap.push(slot, draws.random())
    worst = 0
    for turn in range(300):
        keys.reads = 0
        slot = draws.randrange(count)
        if turn % 2:
            heap.rekey(slot, draws.random())
        else:
            heap.remove(slot)
            heap.push(slot, draws.random())
        worst = max(worst, keys.reads)
    assert worst <= 8 * (math.log2(count) + 1)


def test_value_density_of_an_entry_follows_the_formula() -> None:
    """An entry is worth credit times worth per byte, less when it has less than the horizon to live."""
    full = value_density(2.0, 0.01, ttl_left_seconds=100.0, horizon_seconds=100.0, size_bytes=1000)
    assert full == pytest.approx(2e-5)
    assert value_density(2.0, 0.01, 25.0, 100.0, 1000) == pytest.approx(full / 4)
    assert value_density(2.0, 0.01, 1e9, 100.0, 1000) == full
    assert value_density(2.0, -0.01, 100.0, 100.0, 1000) == value_density(2.0, 0.01, -1.0, 100.0, 1000) == 0.0


def test_hit_value_with_errors_weighs_saving_against_harm() -> None:
    """The worth of a hit is its saving when right less its cost when wrong, and may be below 0."""
    value = HitValue(cost_usd=0.02, latency_seconds=4.0, precision=0.9, error_cost_usd=0.1)
    assert value.worth_usd(0.0005) == pytest.approx(0.9 * 0.022 - 0.1 * 0.1)
    assert HitValue(0.02, precision=0.5, error_cost_usd=1.0).worth_usd(0.0) < 0.0


@pytest.mark.parametrize("bad", [-1.0, math.nan, math.inf])
def test_hit_value_with_an_impossible_amount_is_refused(bad: float) -> None:
    """An amount that is negative or not finite would spoil every later priority."""
    with pytest.raises(ValueError, match="amounts"):
        HitValue(bad)
    with pytest.raises(ValueError, match="precision"):
        HitValue(1.0, precision=bad)


@given(
    st.lists(st.tuples(st.floats(0.0, 1e6), st.floats(-1.0, 1.0)), max_size=8),
    st.floats(0.0, 50.0),
    st.floats(1e-3, 10.0),
)
def test_near_miss_credits_of_any_neighbours_are_less_than_a_hit_together(
    neighbours: list[tuple[float, float]], sharpness: float, damping: float
) -> None:
    """One missed prompt gives away at most one hit's credit, and never takes any."""
    shares = near_miss_credits(
        [credit for credit, _ in neighbours],
        [cosine for _, cosine in neighbours],
        sharpness=sharpness,
        damping=damping,
    )
    assert all(share >= 0.0 for share in shares)
    assert sum(shares) <= 1.0 + 1e-12  # rounding of a sum of eight terms


def test_near_miss_credits_of_near_and_far_neighbours_fall_with_distance_and_are_shared_by_twins() -> None:
    """The nearer neighbour gets more, and two twins together get no more than 1 and each less than one alone."""
    near, far = near_miss_credits([1.0, 1.0], [0.95, 0.7], sharpness=10.0, damping=1.0)
    assert near > 10 * far > 0.0
    alone = near_miss_credits([1.0], [0.95], sharpness=10.0, damping=1.0)[0]
    twins = near_miss_credits([1.0, 1.0], [0.95, 0.95], sharpness=10.0, damping=1.0)
    assert twins[0] == twins[1] < alone


class _Reference:
    """GDSF by scanning everything."""

    def __init__(self) -> None:
        self.inflation = 0.0
        self.entries: dict[str, list[float]] = {}  # credit, worth, size, priority

    def renew(self, name: str) -> None:
        entry = self.entries[name]
        entry[3] = self.inflation + entry[0] * entry[1] / entry[2]

    def evict(self, name: str) -> None:
        self.inflation = self.entries.pop(name)[3]

    def least(self) -> float:
        return min(entry[3] for entry in self.entries.values())


@pytest.mark.parametrize("seed", range(5))
def test_category_queue_without_probation_evicts_as_a_scan_over_all_priorities_would(seed: int) -> None:
    """After any adds, hits, near misses and new prices the victim is one of least priority by the plain formula."""
    draws = random.Random(seed)
    ours, reference, names = _Queue(), _Reference(), iter(f"e{i}" for i in range(10_000))
    for _ in range(3_000):
        turn, name = draws.random(), draws.choice(list(reference.entries)) if reference.entries else ""
        if turn < 0.4 or not name:
            name, worth, size = next(names), draws.uniform(0.0, 2.0), draws.randint(1, 50)
            ours.add(name, worth, size)
            reference.entries[name] = [ours.rules.newcomer_credit, worth, size, 0.0]
            reference.renew(name)
        elif turn < 0.6:
            ours.hit(name)
            reference.entries[name][0] += 1.0
            reference.renew(name)
        elif turn < 0.65:
            ours.queue.note_near_miss(ours.slot(name), 0.3, 0.0)
            reference.entries[name][0] += 0.3
            reference.entries[name][3] += 0.3 * reference.entries[name][1] / reference.entries[name][2]
        elif turn < 0.75:
            worth = draws.uniform(-0.5, 2.0)
            ours.queue.reprice(ours.slot(name), worth, 0.0)
            reference.entries[name][1] = max(0.0, worth)
            reference.renew(name)
        else:
            victim = ours.pop()
            # 1e-5: worth and credit are kept as float32, whose relative error is 6e-8 a step.
            assert reference.entries[victim][3] <= reference.least() + 1e-5
            before = ours.queue.inflation
            reference.evict(victim)
            reference.inflation = before
    assert len(ours.queue) == len(reference.entries)


def test_category_queue_over_any_evictions_never_lowers_its_inflation() -> None:
    """The priority of victims only rises, which is what ages the entries that stay."""
    draws, ours = random.Random(1), _Queue(EvictionRules())
    seen = 0.0
    for turn in range(2_000):
        ours.add(f"e{turn}", draws.expovariate(1.0), draws.randint(1, 90))
        if turn > 100:
            ours.pop()
            assert ours.queue.inflation >= seen
            seen = ours.queue.inflation
    assert seen > 0.0


def test_category_queue_of_worthless_and_valuable_entries_evicts_the_worthless_first() -> None:
    """Cheap, large, short-lived and harmful entries go before dear, small, long-lived and right ones."""
    ours = _Queue()
    ours.add("good", 1.0, 100)
    ours.add("cheap", 0.1, 100)
    ours.add("large", 1.0, 10_000)
    ours.add("short", 1.0, 100, expires_at=864.0)  # a hundredth of the horizon
    ours.add("harmful", -1.0, 100)
    assert ours.pop() == "harmful"
    assert ours.pop_all()[-2:] == ["cheap", "good"]


def test_category_queue_with_an_old_favourite_lets_it_go_when_nobody_asks_any_more() -> None:
    """Evictions raise the inflation until an entry that was hit often, long ago, is the least of all."""
    ours = _Queue()
    ours.add("favourite")
    for _ in range(20):
        ours.hit("favourite")
    gone = None
    for turn in range(2_000):
        for name in (f"a{turn}", f"b{turn}"):
            ours.add(name)
            ours.hit(name)
        if "favourite" in (ours.pop(), ours.pop()):
            gone = turn
            break
    assert gone is not None
    assert gone > 5


def test_probation_of_a_full_category_keeps_newcomers_whatever_they_are_worth() -> None:
    """A newcomer worth nothing outlives others while on probation; then it goes before what came with it."""
    ours = _Queue(EvictionRules(probation_share=0.3))
    for turn in range(20):
        ours.add(f"rich{turn}", worth_usd=1.0)
    ours.add("poor", worth_usd=1e-6)
    assert all(ours.pop().startswith("rich") for _ in range(5))
    for turn in range(10):
        ours.add(f"later{turn}", worth_usd=1.0)
    order = ours.pop_all()
    assert order.index("poor") < min(order.index(f"later{turn}") for turn in range(3))


def test_probation_left_too_large_by_removals_gives_the_victims() -> None:
    """When the main queue has been emptied by removals, what was hit is not evicted to spare what was not."""
    ours = _Queue(EvictionRules(probation_share=0.2))
    for turn in range(10):
        ours.add(f"e{turn}")
    ours.hit("e9")
    for name in ("e0", "e1", "e2", "e3", "e4", "e5", "e6", "e7"):
        ours.queue.remove(ours.slot(name))
        ours.slots.free(ours.slot(name))
    assert ours.pop_all() == ["e8", "e9"]


def test_probation_of_an_entry_that_is_hit_ends_with_the_hit() -> None:
    """The first hit moves an entry to the main queue, with a credit above that of any newcomer."""
    ours = _Queue(EvictionRules(probation_share=0.5))
    for turn in range(10):
        ours.add(f"e{turn}")
    before = ours.queue.probation_bytes
    ours.hit("e9")
    assert ours.queue.probation_bytes == before - 1
    order = ours.pop_all()
    assert order.index("e9") > max(order.index(f"e{turn}") for turn in range(5))
    assert not ours.queue.used_bytes


@given(st.lists(st.tuples(st.integers(1, 100), st.booleans()), min_size=1, max_size=60))
def test_probation_of_any_entries_keeps_within_its_share_after_each_add(entries: list[tuple[int, bool]]) -> None:
    """After an add the entries on probation take at most their share of the category's bytes."""
    ours = _Queue(EvictionRules(probation_share=0.25))
    for number, (size_bytes, is_proven) in enumerate(entries):
        ours.add(f"e{number}", size_bytes=size_bytes, is_proven=is_proven)
        assert ours.queue.probation_bytes <= 0.25 * ours.queue.used_bytes
    assert ours.queue.used_bytes == sum(size for size, _ in entries)


def test_category_queue_with_an_entry_without_credit_evicts_it_next() -> None:
    """A predicted discard, which starts with no credit, is the next victim, and an entry like others once it is hit."""
    ours = _Queue()
    ours.add("dear", 5.0)
    ours.pop()  # so that the inflation is above 0
    ours.add("kept", 0.5)
    ours.add("discard", 5.0, credit=0.0)
    assert ours.pop() == "discard"
    ours.add("wrongly predicted", 5.0, credit=0.0)
    ours.hit("wrongly predicted")
    assert ours.pop() == "kept"


@pytest.mark.parametrize(
    "fields",
    [
        {"usd_per_second": -1.0}, {"horizon_seconds": 0.0}, {"probation_share": 1.0}, {"sharpness": -1.0},
        {"damping": 0.0}, {"newcomer_credit": 0.0}, {"newcomer_credit": 2.0}, {"horizon_seconds": math.nan},
    ],
)  # fmt: skip
def test_eviction_rules_out_of_range_are_refused(fields: dict[str, float]) -> None:
    """Rules that make priorities meaningless are an error at start, not a bad cache."""
    with pytest.raises(ValueError, match="out of range"):
        EvictionRules(**fields)


@pytest.mark.parametrize(
    "prompt",
    [
        "What happened to 3f2b8a44-9c1e-4d5a-8f60-1b2c3d4e5f60?",
        "why did order 4500123987 not arrive",
        "Is ticket ABC-1234567 closed yet?",
        "Write to jane.doe+test@example.co.uk about the delay",
        "Summarise https://example.com/post/17 for me",
        "explain commit 9fceb02d0ae598e95dc970b74767f19372d61af8",
        "word " * 500,
    ],
)
def test_discard_of_a_prompt_that_is_somebodys_own_is_predicted(prompt: str) -> None:
    """Unique ids, addresses and long pasted texts do not come back."""
    assert predict_discard(prompt)


@pytest.mark.parametrize(
    "prompt",
    [
        "How do I reset my password?",
        "my card was declined, what should I do",
        "convert 1,000,000,000 yen to dollars",
        "What is 123456 * 654321?",
        "who won the world cup in 2022 and 2018",
        "best time to visit Norway",
        "What does error 0x80070057 mean",
        "facade effaced decade",
    ],
)
def test_discard_of_a_question_that_many_ask_is_not_predicted(prompt: str) -> None:
    """Ordinary questions, with numbers or with "my", keep their trial."""
    assert not predict_discard(prompt)


def test_discard_by_weak_signs_needs_both_of_them() -> None:
    """Personal words alone, or a volatile category alone, are no reason; both are, and so is a long context."""
    prompt = "Write a birthday poem for my boss"
    assert not predict_discard(prompt)
    assert not predict_discard("what is new?", is_volatile=True)
    assert predict_discard(prompt, is_volatile=True)
    assert predict_discard("and in Paris?", context_tokens=8_000)


_NEAR_SIGNS = st.sampled_from([*"019afAFgz-_ .,@/:", "www.", "://", "a@b.cd", "ABC-", "123456", "deadbeef", "my boss"])


@given(st.lists(_NEAR_SIGNS | st.text(max_size=3), max_size=40).map("".join), st.booleans())
def test_discard_of_any_text_is_what_the_expressions_alone_say(prompt: str, is_volatile: bool) -> None:
    """What is looked for first only saves time: no expression would have found what it did not let through."""
    is_own = any(expression.search(prompt) for expression in (discard._UNIQUE_ID, discard._ADDRESS))
    is_personal = is_volatile and discard._PERSONAL.search(prompt) is not None
    assert predict_discard(prompt, is_volatile=is_volatile) is (is_own or is_personal)


def test_discard_on_the_paraphrase_sets_is_nearly_never_predicted(penstock_data) -> None:  # type: ignore[no-untyped-def]
    """Of questions that do come back in other words fewer than one in a thousand is called a discard."""
    import gzip
    import json

    for name in ("banking77", "clinc150", "hwu64_slots"):
        with gzip.open(penstock_data / "cache" / f"{name}.jsonl.gz", "rt", encoding="utf-8") as lines:
            bits = [predict_discard(json.loads(line)["text"]) for line in lines]
        assert sum(bits) < len(bits) / 1_000, name


def test_ghost_table_of_evicted_entries_remembers_each_once_until_overwritten() -> None:
    """An evicted fingerprint is found once; one that shares its cell takes its place."""
    ghosts = GhostTable(8)
    ghosts.add(17)
    assert ghosts.take(17)
    assert not ghosts.take(17)
    ghosts.add(17)
    ghosts.add(25)  # the same cell of eight
    assert not ghosts.take(17)
    assert ghosts.take(25)
    with pytest.raises(ValueError, match="power of two"):
        GhostTable(12)


def test_fingerprint_number_of_a_digest_is_never_the_empty_cell() -> None:
    """A digest of zeros is a fingerprint like others, and a short one is refused."""
    assert fingerprint_number(bytes(16)) == 1
    assert fingerprint_number(b"\x02" + bytes(15)) == 2
    with pytest.raises(ValueError, match="8 bytes"):
        fingerprint_number(b"short")
