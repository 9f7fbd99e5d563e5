"""When a Redis is left alone, and when it is asked again."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from penstock_gateway.redis_breaker import BreakerRules, BreakerState, CircuitBreaker

RULES = BreakerRules(
    failures=3,
    failure_share=0.5,
    window_seconds=10.0,
    least_commands=8,
    first_wait_seconds=1.0,
    longest_wait_seconds=6.0,
)


def breaker() -> CircuitBreaker:
    """One that waits its full time."""
    return CircuitBreaker(RULES, jitter=lambda: 0.0)


def opened(now: float = 0.0) -> CircuitBreaker:
    """One that has just opened."""
    made = breaker()
    for _ in range(RULES.failures):
        made.note_failure(now)
    assert made.is_open
    return made


def test_breaker_with_one_failure_less_than_allowed_stays_closed() -> None:
    """It opens at the configured number of failures in a row, and says so once."""
    made = breaker()
    assert [made.note_failure(0.0) for _ in range(3)] == [False, False, True]
    assert made.state is BreakerState.OPEN
    assert not made.note_failure(0.0)


def test_breaker_with_successes_in_between_counts_anew() -> None:
    """A success ends a row of failures."""
    made = breaker()
    for _ in range(3):
        made.note_failure(0.0)
        made.note_failure(0.0)
        for _ in range(5):  # so that the share of failures stays below a half
            made.note_success(0.0)
    assert not made.is_open


def test_breaker_with_every_second_command_lost_opens_by_its_share() -> None:
    """A server that loses half of the commands is left alone, although no two are lost in a row."""
    made = breaker()
    opened_after = 0
    while not made.is_open:
        opened_after += 2
        made.note_success(0.1 * opened_after)
        made.note_failure(0.1 * opened_after)
    assert opened_after == RULES.least_commands


def test_breaker_with_failures_long_ago_has_forgotten_them() -> None:
    """What lies before the window does not count for the share."""
    made = breaker()
    for _ in range(3):
        made.note_success(0.0)
        made.note_failure(0.0)
    for moment in range(20, 28):
        made.note_success(float(moment))
    made.note_failure(28.0)
    assert not made.is_open


def test_breaker_whose_probes_fail_doubles_its_wait_up_to_the_longest() -> None:
    """While the server stays away it is asked ever less often, up to a bound."""
    made, waits, now = opened(), [], 0.0
    for _ in range(5):
        waits.append(made.probe_at - now)
        now = made.probe_at
        made.begin_probe()
        assert made.state is BreakerState.HALF_OPEN
        assert not made.note_probe(has_answered=False, now=now)
        assert made.state is BreakerState.OPEN
    assert waits == [1.0, 2.0, 4.0, 6.0, 6.0]


def test_breaker_after_a_good_probe_is_closed_and_its_next_failure_opens_it_at_once() -> None:
    """The first command after a probe is on trial: its failure opens the breaker for twice as long."""
    made = opened()
    made.begin_probe()
    assert made.note_probe(has_answered=True, now=1.0)
    assert made.state is BreakerState.CLOSED
    assert made.note_failure(1.5)
    assert made.probe_at == 3.5


def test_breaker_after_a_good_probe_and_a_success_is_as_new() -> None:
    """A command that succeeds ends the trial, and the next wait is the first one again."""
    made = opened()
    made.note_probe(has_answered=True, now=1.0)
    made.note_success(1.1)
    assert [made.note_failure(2.0) for _ in range(3)] == [False, False, True]
    assert made.probe_at == 3.0


def test_breaker_while_open_takes_no_notice_of_late_outcomes() -> None:
    """Commands that were sent before it opened change nothing, however they end."""
    made = opened()
    made.note_success(0.5)
    assert made.state is BreakerState.OPEN
    assert made.probe_at == 1.0


def test_breaker_with_jitter_probes_a_quarter_earlier_at_most() -> None:
    """The wait is shortened at random, so that replicas do not probe in step."""
    made = CircuitBreaker(RULES, jitter=lambda: 1.0)
    for _ in range(3):
        made.note_failure(0.0)
    assert made.probe_at == 0.75


@given(st.lists(st.sampled_from(["ok", "lost", "probe ok", "probe lost"]), max_size=200), st.floats(0.0, 5.0))
def test_breaker_after_any_history_is_open_with_a_probe_ahead_or_closed(history: list[str], step: float) -> None:
    """Whatever happens, an open breaker has a time for its next probe, within the longest wait."""
    made, now = CircuitBreaker(RULES), 0.0
    for event in history:
        now += step
        if event == "ok":
            made.note_success(now)
        elif event == "lost":
            made.note_failure(now)
        elif made.is_open:
            now = max(now, made.probe_at)
            made.begin_probe()
            made.note_probe(has_answered=event == "probe ok", now=now)
        if made.is_open:
            assert made.probe_at - now <= RULES.longest_wait_seconds
