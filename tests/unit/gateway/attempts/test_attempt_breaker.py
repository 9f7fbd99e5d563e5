"""The circuit breaker and the cool-downs of one deployment."""

from __future__ import annotations

from typing import Any

import pytest

from penstock_gateway.attempts.breaker import Breaker, BreakerState
from penstock_gateway.settings_attempts import BreakerSettings


def _breaker(**changes: Any) -> tuple[Breaker, list[BreakerState]]:
    states: list[BreakerState] = []
    settings = BreakerSettings(**{"consecutive_failures": 3, "min_attempts": 8, **changes})
    return Breaker(settings, states.append), states


def _fail(breaker: Breaker, now: float, times: int = 1) -> None:
    for _ in range(times):
        breaker.fail(now, is_probe=breaker.begin())


def test_breaker_after_consecutive_failures_opens_until_its_time_is_over() -> None:
    """Failures in a row close the deployment to requests."""
    breaker, states = _breaker()
    _fail(breaker, 100.0, 2)
    assert breaker.admits(100.0)
    _fail(breaker, 100.0)
    assert states == [BreakerState.OPEN]
    assert not breaker.admits(104.9)
    assert breaker.closed_seconds(101.0) == 4.0
    assert breaker.admits(105.0)


def test_breaker_with_a_success_between_failures_counts_anew() -> None:
    """Failures that are not in a row need the share."""
    breaker, _ = _breaker(min_attempts=100)
    for _ in range(3):
        _fail(breaker, 100.0, 2)
        breaker.succeed(100.0)
    assert breaker.state is BreakerState.CLOSED


def test_breaker_with_a_high_share_of_failures_opens_from_the_least_number_on() -> None:
    """Half of the window's attempts is too much, but two of four say nothing."""
    breaker, _ = _breaker()
    for _ in range(3):
        breaker.succeed(100.0)
        _fail(breaker, 100.0)
    assert breaker.state is BreakerState.CLOSED
    breaker.succeed(100.0)
    _fail(breaker, 100.0)
    assert breaker.state is BreakerState.OPEN


def test_breaker_with_failures_older_than_its_window_forgets_them() -> None:
    """What happened before the window is no reason."""
    breaker, _ = _breaker(window_seconds=30.0, consecutive_failures=100)
    _fail(breaker, 100.0, 7)
    _fail(breaker, 131.0, 1)
    assert breaker.state is BreakerState.CLOSED
    _fail(breaker, 131.0, 7)
    assert breaker.state is BreakerState.OPEN


def test_half_open_breaker_lets_one_probe_through_and_its_answer_closes_it() -> None:
    """One request finds out; the others stay away until then."""
    breaker, states = _breaker()
    _fail(breaker, 100.0, 3)
    assert breaker.admits(105.0)
    assert breaker.begin()
    assert not breaker.admits(105.0)
    breaker.answer(is_probe=True)
    assert breaker.admits(105.0)
    assert states == [BreakerState.OPEN, BreakerState.HALF_OPEN, BreakerState.CLOSED]
    _fail(breaker, 105.0, 2)
    assert breaker.state is BreakerState.CLOSED  # old failures count no more


def test_failed_probe_opens_for_twice_as_long_up_to_the_longest() -> None:
    """A deployment that stays down is asked less and less."""
    breaker, _ = _breaker(max_open_seconds=15.0)
    now = 100.0
    _fail(breaker, now, 3)
    lengths = []
    for _ in range(4):
        lengths.append(breaker.closed_seconds(now))
        now += lengths[-1]
        assert breaker.admits(now)
        _fail(breaker, now)
    assert lengths == [5.0, 10.0, 15.0, 15.0]


def test_abandoned_probe_leaves_the_place_to_another() -> None:
    """A client that leaves during the probe does not close the deployment for good."""
    breaker, _ = _breaker()
    _fail(breaker, 100.0, 3)
    assert breaker.begin()
    breaker.abandon(is_probe=True)
    assert breaker.admits(105.0)


def test_failure_of_a_request_begun_before_the_breaker_opened_changes_nothing() -> None:
    """Only the probe decides while it is not closed: late failures neither lengthen the time nor take its place."""
    breaker, _ = _breaker()
    late = [breaker.begin() for _ in range(4)]
    _fail(breaker, 100.0, 3)
    breaker.fail(104.0, is_probe=late[0])
    assert breaker.closed_seconds(104.0) == 1.0
    assert breaker.begin()
    breaker.fail(105.0, is_probe=late[1])
    breaker.abandon(is_probe=late[2])
    assert breaker.state is BreakerState.HALF_OPEN
    assert not breaker.admits(105.0)


def test_rate_limited_deployment_cools_for_as_long_as_it_asks() -> None:
    """A 429 is no failure: the deployment is left alone for that time and then takes everything again."""
    breaker, states = _breaker()
    for _ in range(20):
        breaker.cool(100.0, 7.0, began=99.0, is_probe=False)
    assert not breaker.admits(106.9)
    assert breaker.cooling_seconds(100.0) == 7.0
    assert breaker.admits(107.0)
    assert states == []


def test_rate_limited_deployment_that_asks_for_hours_cools_for_the_longest() -> None:
    """A provider cannot take itself out for a day by one header."""
    breaker, _ = _breaker(max_cool_seconds=60.0)
    breaker.cool(100.0, 86_400.0, began=100.0, is_probe=False)
    assert breaker.cooling_seconds(100.0) == 60.0


def test_rate_limited_deployment_that_asks_for_nothing_cools_longer_each_time() -> None:
    """Requests under way together raise the cool-down once; one sent after it doubles it; a success resets it."""
    breaker, _ = _breaker()
    for _ in range(5):
        breaker.cool(100.0, None, began=99.0, is_probe=False)
    breaker.cool(100.5, None, began=99.5, is_probe=False)
    assert breaker.cooling_seconds(100.0) == 1.0
    breaker.cool(102.0, None, began=101.5, is_probe=False)
    assert breaker.cooling_seconds(102.0) == 2.0
    breaker.succeed(105.0)
    breaker.cool(106.0, None, began=105.5, is_probe=False)
    assert breaker.cooling_seconds(106.0) == 1.0


def test_probe_that_is_rate_limited_has_found_the_deployment_alive() -> None:
    """A 429 ends the outage and begins a cool-down."""
    breaker, _ = _breaker()
    _fail(breaker, 100.0, 3)
    breaker.cool(105.0, 2.0, began=105.0, is_probe=breaker.begin())
    assert breaker.state is BreakerState.CLOSED
    assert not breaker.admits(106.0)
    assert breaker.admits(107.0)


def test_rejected_credential_opens_at_once_and_for_long() -> None:
    """A refused key does not mend itself in seconds; refusals under way together count once."""
    breaker, _ = _breaker(rejected_key_seconds=60.0)
    for _ in range(3):
        breaker.reject(100.0, is_probe=False)
    assert breaker.closed_seconds(100.0) == 60.0
    assert breaker.may_be_probed


@pytest.mark.parametrize("jump", [-50.0, 0.0])
def test_breaker_on_a_clock_that_goes_back_goes_on_counting(jump: float) -> None:
    """A clock that jumps back empties the window and breaks nothing."""
    breaker, _ = _breaker(consecutive_failures=100)
    _fail(breaker, 100.0, 4)
    _fail(breaker, 100.0 + jump, 8)
    assert breaker.state is BreakerState.OPEN
