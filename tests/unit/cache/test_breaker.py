"""When the circuit breaker opens, probes and closes."""

from __future__ import annotations

import pytest

from penstock_cache.stores.breaker import Breaker


def opened(now: float = 0.0) -> Breaker:
    """A breaker after three failures."""
    breaker = Breaker()
    for _ in range(3):
        breaker.note_failure(now)
    return breaker


def test_breaker_with_a_success_between_failures_stays_closed() -> None:
    """Only failures in a row open it."""
    breaker = Breaker()
    for failed in (True, True, False, True, True, False, True):
        if failed:
            breaker.note_failure(0.0)
        else:
            breaker.note_success()
    assert not breaker.is_open
    assert not breaker.take_probe(100.0)


def test_breaker_once_open_hands_out_one_probe_after_a_second() -> None:
    """Nobody probes before the wait is over, and then one does at a time."""
    breaker = opened()
    assert breaker.is_open
    assert not breaker.take_probe(0.99)
    assert breaker.take_probe(1.0)
    assert not breaker.take_probe(1.0)


def test_breaker_under_failing_probes_waits_twice_as_long_up_to_ten_seconds() -> None:
    """The wait doubles from one second to ten, counted from when a probe failed."""
    breaker, now, waits = opened(), 0.0, []
    for _ in range(6):
        wait = next(tenths / 10 for tenths in range(1, 200) if breaker.take_probe(now + tenths / 10))
        waits.append(wait)
        now += wait
        breaker.note_probe(has_answered=False, now=now)
    assert waits == [1.0, 2.0, 4.0, 8.0, 10.0, 10.0]


def test_breaker_after_a_good_probe_and_a_success_is_as_new() -> None:
    """After a probe and a call that were answered it takes three failures again, and the wait is a second again."""
    breaker = opened()
    assert breaker.take_probe(1.0)
    breaker.note_probe(has_answered=True, now=1.0)
    assert not breaker.is_open
    breaker.note_success()
    breaker.note_failure(2.0)
    breaker.note_failure(2.0)
    assert not breaker.is_open
    breaker.note_failure(2.0)
    assert not breaker.take_probe(2.9)
    assert breaker.take_probe(3.0)


def test_breaker_on_trial_opens_at_the_first_failure_for_twice_as_long() -> None:
    """A store that answers probes but not calls is left alone longer each time."""
    breaker = opened()
    assert breaker.take_probe(1.0)
    breaker.note_probe(has_answered=True, now=1.0)
    breaker.note_failure(1.0)
    assert breaker.is_open
    assert not breaker.take_probe(2.9)
    assert breaker.take_probe(3.0)


@pytest.mark.parametrize("is_late_success", [True, False])
def test_breaker_while_open_ignores_calls_that_began_before(is_late_success: bool) -> None:
    """Calls on the way when it opened neither close it nor push the probe away."""
    breaker = opened()
    if is_late_success:
        breaker.note_success()
    else:
        breaker.note_failure(0.9)
    assert breaker.is_open
    assert breaker.take_probe(1.0)
