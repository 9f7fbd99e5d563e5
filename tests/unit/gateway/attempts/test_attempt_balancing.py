"""Choosing among the deployments of a group."""

from __future__ import annotations

from collections import Counter
from typing import Any

import pytest

from penstock_gateway.attempts.balancing import Group, Load
from penstock_gateway.attempts.lanes import Lane
from penstock_gateway.attempts.load import GroupPace
from penstock_gateway.settings_attempts import BalanceSettings, BreakerSettings
from support.fakes import deployment, price

NOW = 1000.0
LOAD = Load(1000, 200)


def _lanes(*prices: str, limit: int | None = None, **changes: Any) -> list[Lane]:
    """Return lanes of a group that have all been seen, named a, b, c, …"""
    pace = GroupPace()
    lanes = []
    for name, usd in zip("abcdefghijklmnop", prices, strict=False):
        made = deployment(name, group="g", price=price(usd, usd), max_parallel_requests=limit, **changes)
        lane = Lane(made, BreakerSettings(), pace)
        passage = lane.load.begin(1000, 200)
        lane.load.finish(passage, 200, 4.0, NOW)
        lanes.append(lane)
    return lanes


def _group(lanes: list[Lane], **settings: Any) -> Group:
    modes: list[str] = []
    group = Group("g", lanes, BalanceSettings(**settings), draw=lambda: 0.0, on_mode=modes.append)
    group.seen_modes = modes  # type: ignore[attr-defined]
    return group


def _names(group: Group, load: Load = LOAD, now: float = NOW) -> str:
    return "".join(lane.name for lane in group.order(load, now))


def _busy(lane: Lane, requests: int) -> None:
    for _ in range(requests):
        lane.slots.take()
        lane.load.begin(1000, 200)


def test_group_of_equal_prices_goes_by_predicted_work() -> None:
    """The deployment where a request costs least time comes first."""
    lanes = _lanes("1", "1", "1")
    _busy(lanes[0], 5)
    _busy(lanes[1], 1)
    assert _names(_group(lanes)) == "cba"


def test_group_weighs_work_by_tokens_and_not_by_requests() -> None:
    """One long prompt is more work than three short ones."""
    lanes = _lanes("1", "1")
    lanes[0].load.begin(30_000, 200)
    for _ in range(3):
        lanes[1].load.begin(50, 10)
    assert _names(_group(lanes)) == "ba"


def test_group_with_a_deployment_that_was_not_seen_tries_it_next() -> None:
    """What nobody knows is found out by one request at a time."""
    lanes = _lanes("1", "1")
    fresh = Lane(deployment("z", group="g", price=price("1", "1")), BreakerSettings(), lanes[0].load.pace)
    group = _group([*lanes, fresh])
    assert _names(group)[0] == "z"
    fresh.load.begin(1000, 200)
    fresh.load.begin(1000, 200)
    assert _names(group)[0] != "z"


def test_group_in_cost_mode_takes_the_cheapest_first_however_busy() -> None:
    """While there is room money decides; deployments of one price go by work, the dearer ones follow by price."""
    lanes = _lanes("3", "1", "1", "2")
    _busy(lanes[1], 3)
    assert _names(_group(lanes, mode="cost")) == "cbda"


def test_group_in_capacity_mode_goes_by_work_whatever_it_costs() -> None:
    """With capacity asked for, prices do not count."""
    lanes = _lanes("3", "1")
    _busy(lanes[1], 3)
    assert _names(_group(lanes, mode="capacity")) == "ab"


def test_group_under_pressure_changes_to_capacity_and_back_with_hysteresis() -> None:
    """It goes over at the high mark, stays between the marks, and comes back at the low one, for all of the load."""
    lanes = _lanes("1", "3", limit=10)
    group = _group(lanes, min_mode_seconds=1.0)
    _busy(lanes[0], 5)
    _names(group, now=NOW)
    assert _names(group, now=NOW + 60) == "ab"
    _busy(lanes[0], 5)
    assert _names(group, now=NOW + 120)[0] == "b"
    assert group.mode == "capacity"
    for _ in range(3):
        lanes[0].slots.give_back()
    _names(group, now=NOW + 180)
    assert group.mode == "capacity"  # 0.7 lies between the marks
    for _ in range(3):
        lanes[0].slots.give_back()
    _names(group, now=NOW + 240)
    assert group.mode == "cost"
    assert group.seen_modes == ["capacity", "cost"]  # type: ignore[attr-defined]


def test_group_in_capacity_mode_counts_the_load_that_others_carry() -> None:
    """The cheap one being idle now is no reason to send everything back to it."""
    lanes = _lanes("1", "3", limit=10)
    group = _group(lanes)
    for _ in range(9):
        lanes[1].slots.take()
    assert group.pressure(NOW) == pytest.approx(0.9)


def test_group_after_a_change_of_mode_keeps_it_for_the_least_time() -> None:
    """Two changes follow each other only after a while."""
    lanes = _lanes("1", "3", limit=1)
    group = _group(lanes, min_mode_seconds=30.0)
    _busy(lanes[0], 1)
    _names(group, now=NOW)
    _names(group, now=NOW + 60)
    assert group.mode == "capacity"
    lanes[0].slots.give_back()
    _names(group, now=NOW + 89)
    assert group.mode == "capacity"
    _names(group, now=NOW + 91)
    assert group.mode == "cost"


def test_group_pressure_rises_with_429s_queue_and_outage_of_the_cheapest() -> None:
    """Each sign of a full deployment counts by itself."""
    lanes = _lanes("1", "3")
    group = _group(lanes)
    calm = group.pressure(NOW)
    for _ in range(10):
        lanes[0].note_rate_limited(True, NOW)
    assert calm < 0.5 < 1.0 < group.pressure(NOW)
    assert group.pressure(NOW + 600) == pytest.approx(calm)
    lanes[0].breaker.cool(NOW, 5.0, began=NOW, is_probe=False)
    assert group.pressure(NOW) >= 1.0


def test_conversation_stays_with_one_deployment_and_conversations_spread() -> None:
    """A key always leads to the same place, and keys lead everywhere."""
    group = _group(_lanes("1", "1", "1", "1"))
    firsts = [_names(group, Load(1000, 200, b"key-%d" % number))[0] for number in range(200)]
    assert firsts == [_names(group, Load(1000, 200, b"key-%d" % number))[0] for number in range(200)]
    assert min(Counter(firsts).values()) > 25


def test_conversation_of_a_deployment_that_left_moves_and_no_other() -> None:
    """Rendezvous hashing: taking one away moves only what was there."""
    lanes = _lanes("1", "1", "1", "1")
    whole, rest = _group(lanes), _group(lanes[1:])
    for number in range(100):
        load = Load(1000, 200, b"key-%d" % number)
        before = _names(whole, load)[0]
        assert before == "a" or _names(rest, load)[0] == before


@pytest.mark.parametrize("why", ["open", "cooling", "full", "busy"])
def test_conversation_leaves_its_deployment_when_that_cannot_serve_it_well(why: str) -> None:
    """Affinity ends where it would cost an answer or too much time."""
    lanes = _lanes("1", "1", "1", limit=30)
    group = _group(lanes, affinity_factor=2.0)
    load = Load(1000, 200, b"some conversation")
    own = group.order(load, NOW)[0]
    _busy(own, 1)
    assert group.order(load, NOW)[0] is own  # a little slower is no reason
    if why == "open":
        own.breaker.reject(NOW, is_probe=False)
    elif why == "cooling":
        own.breaker.cool(NOW, 5.0, began=NOW, is_probe=False)
    elif why == "full":
        own.slots.resize(1)
    else:
        for _ in range(20):
            own.load.begin(4000, 200)
    assert group.order(load, NOW)[0] is not own


def test_large_group_compares_two_drawn_and_keeps_the_others_behind() -> None:
    """Of more than eight deployments two are drawn, so that choosing takes the same time in any group."""
    lanes = _lanes(*(["1"] * 12))
    drawn = iter([0.5, 0.0])  # the seventh, and the one after it
    group = Group("g", lanes, BalanceSettings(), draw=lambda: next(drawn))
    _busy(lanes[6], 3)
    names = _names(group)
    assert names[:2] == "hg"
    assert sorted(names) == sorted("abcdefghijkl")
