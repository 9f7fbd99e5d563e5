"""Bytes by category: what is kept, who gives, and what re-tuning may move."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from penstock_cache.quotas import CategoryQuota, CategoryQuotas

CAPACITY = 1_000
NAMES = ("a", "b", "c", "d")


def _filled(quotas: dict[str, CategoryQuota], **used: int) -> CategoryQuotas:
    filled = CategoryQuotas(CAPACITY, quotas)
    for name, size_bytes in used.items():
        filled.charge(name, size_bytes)
    return filled


def test_victim_category_with_room_left_is_none() -> None:
    """While an entry fits as things are, nobody gives."""
    quotas = _filled({"a": CategoryQuota(500)}, a=400, b=500)
    assert quotas.choose_victim_category("b", 100) is None
    assert quotas.choose_victim_category("b", 101) is not None


def test_victim_category_of_a_category_at_its_cap_is_itself() -> None:
    """A category at its cap gives its own, even when the cache is half empty."""
    quotas = _filled({"a": CategoryQuota(cap_bytes=300)}, a=250)
    assert quotas.choose_victim_category("a", 51) == "a"
    assert quotas.choose_victim_category("a", 50) is None


def test_victim_category_among_borrowers_is_the_one_furthest_over_its_reserve_by_weight() -> None:
    """Borrowed bytes are called back from the largest surplus divided by weight."""
    quotas = {"a": CategoryQuota(400), "b": CategoryQuota(100), "c": CategoryQuota(0, weight=4.0)}
    assert _filled(quotas, a=450, b=200, c=350).choose_victim_category("a", 1) == "b"  # 50, 100, 350/4
    assert _filled(quotas, a=400, b=100, c=500).choose_victim_category("b", 1) == "c"


def test_victim_category_at_a_tie_is_the_one_that_asks_then_the_first_by_name() -> None:
    """Of equal surpluses the category that wants the room gives, so that nobody loses to his equal."""
    filled = _filled({}, a=500, b=500)
    assert filled.choose_victim_category("b", 1) == "b"
    assert filled.choose_victim_category("c", 1) == "a"


def test_victim_category_with_nobody_over_a_reserve_is_the_one_that_asks() -> None:
    """When every other holds no more than its reserve, a category makes room among its own."""
    filled = _filled({"a": CategoryQuota(700), "b": CategoryQuota(300)}, a=700, b=280)
    assert filled.choose_victim_category("b", 20) is None
    assert filled.choose_victim_category("b", 30) == "b"


def test_quotas_for_an_entry_that_only_reserves_could_make_room_for_refuse_it() -> None:
    """An entry that would need another category's reserve, or exceeds its own cap, does not fit at all."""
    filled = _filled({"a": CategoryQuota(700), "b": CategoryQuota(0, cap_bytes=200)}, a=900)
    assert filled.can_fit("c", 300)
    assert not filled.can_fit("c", 301)
    assert filled.can_fit("b", 200)
    assert not filled.can_fit("b", 201)


def test_quotas_charged_or_released_beyond_what_there_is_are_refused() -> None:
    """The count can neither exceed the capacity or a cap nor fall below 0."""
    filled = _filled({"a": CategoryQuota(cap_bytes=100)}, b=950)
    with pytest.raises(ValueError, match="do not fit"):
        filled.charge("b", 51)
    with pytest.raises(ValueError, match="does not hold"):
        filled.release("b", 951)
    filled.release("b", 950)
    with pytest.raises(ValueError, match="do not fit"):
        filled.charge("a", 101)
    assert filled.total_bytes == 0


@pytest.mark.parametrize(
    "fields",
    [
        {"reserve_bytes": -1}, {"reserve_bytes": 10, "cap_bytes": 9}, {"weight": 0.0}, {"weight": float("nan")},
    ],
)  # fmt: skip
def test_category_quota_that_contradicts_itself_is_refused(fields: dict[str, float]) -> None:
    """Reserve and cap stand in this order, and a weight is above 0."""
    with pytest.raises(ValueError, match="quota"):
        CategoryQuota(**fields)  # type: ignore[arg-type]


def test_quotas_with_more_reserved_than_there_is_are_refused() -> None:
    """Reserves that cannot all be kept are an error at start, and so is one for categories nobody has counted."""
    with pytest.raises(ValueError, match="exceed the capacity"):
        CategoryQuotas(100, {"a": CategoryQuota(60), "b": CategoryQuota(41)})
    with pytest.raises(ValueError, match="default"):
        CategoryQuotas(100, default=CategoryQuota(1))


quota = st.builds(
    lambda reserve, cap, weight: CategoryQuota(reserve, None if cap is None else max(cap, reserve), weight),
    st.integers(0, CAPACITY // 4),  # four of them fill the capacity
    st.none() | st.integers(1, CAPACITY),
    st.floats(0.1, 10.0),
)


@given(
    st.dictionaries(st.sampled_from(NAMES[:3]), quota),
    st.lists(st.tuples(st.sampled_from(NAMES), st.integers(1, CAPACITY // 2)), max_size=60),
)
def test_quotas_under_any_stream_keep_capacity_caps_and_reserves(
    quotas: dict[str, CategoryQuota], inserts: list[tuple[str, int]]
) -> None:
    """Inserts end, never exceed capacity or cap, and take from another category only while that is over its reserve."""
    filled = CategoryQuotas(CAPACITY, quotas)
    held: dict[str, list[int]] = {name: [] for name in NAMES}
    for name, size_bytes in inserts:
        if not filled.can_fit(name, size_bytes):
            continue
        while (victim := filled.choose_victim_category(name, size_bytes)) is not None:
            if victim != name:
                assert filled.used_bytes(victim) > filled.quota(victim).reserve_bytes
            filled.release(victim, held[victim].pop(0))  # an empty one would raise: can_fit promised room
        filled.charge(name, size_bytes)
        held[name].append(size_bytes)
        assert filled.total_bytes == sum(map(sum, held.values())) <= CAPACITY
        assert all(filled.used_bytes(each) == sum(held[each]) <= filled.cap_bytes(each) for each in NAMES)
