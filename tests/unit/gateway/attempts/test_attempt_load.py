"""Predicting how long a request takes at a deployment."""

from __future__ import annotations

import random

import pytest

from penstock_gateway.attempts.load import PRIOR_FIRST_BYTE_SECONDS, PRIOR_TOKEN_SECONDS, GroupPace, LaneLoad


def _serve(load: LaneLoad, *, input_tokens: float = 1000, output_tokens: int = 100, slow: float = 1.0) -> None:
    """Let one stream pass alone: a tenth of a second and 0.1 ms a prompt token, 10 ms a token."""
    passage = load.begin(input_tokens, output_tokens)
    first = slow * (0.1 + 0.0001 * input_tokens)
    load.note_first_byte(passage, first)
    load.finish(passage, output_tokens, first + slow * 0.01 * output_tokens, now=1.0)


def test_load_before_anything_was_measured_predicts_the_prior() -> None:
    """An unknown deployment is taken for a usual one."""
    load = LaneLoad(GroupPace())
    expected = PRIOR_FIRST_BYTE_SECONDS + 100 * PRIOR_TOKEN_SECONDS
    assert load.own_seconds(550, 100) == pytest.approx(expected, rel=0.1)


def test_load_after_many_answers_predicts_what_they_took() -> None:
    """Prompt and answer are learnt apart, so that requests of other lengths are predicted too."""
    draws = random.Random(1)
    load = LaneLoad(GroupPace())
    for _ in range(3000):
        _serve(load, input_tokens=draws.uniform(50, 6000), output_tokens=draws.randrange(5, 500))
    for input_tokens, output_tokens in [(100, 300), (5000, 10), (2000, 100)]:
        expected = 0.1 + 0.0001 * input_tokens + 0.01 * output_tokens
        assert load.own_seconds(input_tokens, output_tokens) == pytest.approx(expected, rel=0.1)


def test_load_of_a_slow_member_is_predicted_higher_by_what_it_is_slower() -> None:
    """The group shares the shape, each deployment has its own speed."""
    pace = GroupPace()
    quick, slow = LaneLoad(pace), LaneLoad(pace)
    for _ in range(500):
        _serve(quick)
        _serve(slow, slow=3.0)
    assert slow.own_seconds(1000, 100) == pytest.approx(3.0 * quick.own_seconds(1000, 100), rel=0.05)


def test_load_with_prompts_outstanding_counts_them_until_their_first_byte() -> None:
    """A prompt waits for those before it; once their answers are written they no longer count."""
    load = LaneLoad(GroupPace())
    for _ in range(200):
        _serve(load, input_tokens=500)
        _serve(load, input_tokens=4000)
    idle = load.own_seconds(1000, 0)
    passage = load.begin(8000, 10)
    assert load.own_seconds(1000, 0) == pytest.approx(idle + 0.0001 * 8000, rel=0.1)
    load.note_first_byte(passage, 0.9)
    assert load.prompt_tokens == 0.0
    load.finish(passage, 10, 1.0, now=2.0)
    assert (load.in_flight, load.output_tokens) == (0, 0.0)


def test_load_of_requests_in_flight_makes_tokens_slower_by_what_was_seen() -> None:
    """Answers that are written together share the machine, and the delay of the others counts as well."""
    load = LaneLoad(GroupPace())
    for _ in range(300):
        for crowd in (1, 9):
            others = [load.begin(10, 100) for _ in range(crowd - 1)]
            passage = load.begin(10, 100)
            load.note_first_byte(passage, 0.1)
            load.finish(passage, 100, 0.1 + 100 * (0.01 + 0.001 * crowd), now=1.0)
            for other in others:
                load.abandon(other, now=1.0)
    alone = load.cost_seconds(10, 100)
    crowd_of_eight = [load.begin(10, 100) for _ in range(8)]
    own, cost = load.own_seconds(10, 100), load.cost_seconds(10, 100)
    assert alone == pytest.approx(0.1 + 100 * 0.011, rel=0.15)
    assert own == pytest.approx(0.1 + 100 * 0.019, rel=0.15)
    assert cost == pytest.approx(own + 0.001 * 8 * 50, rel=0.15)
    assert load.slowdown(8, 80) > load.slowdown(0, 0) == pytest.approx(1.0)
    for passage in crowd_of_eight:
        load.abandon(passage, now=1.0)
    assert (load.in_flight, load.prompt_tokens, load.output_tokens) == (0, 0.0, 0.0)


def test_load_of_plain_replies_alone_learns_the_whole_time() -> None:
    """Without first bytes the whole is divided as predicted: totals of usual requests come out right."""
    load = LaneLoad(GroupPace())
    for _ in range(500):
        passage = load.begin(1000, 100)
        load.finish(passage, 100, 4.0, now=1.0)
    assert load.own_seconds(1000, 100) == pytest.approx(4.0, rel=0.05)
    assert load.prompt_tokens == 0.0


def test_load_with_one_absurd_answer_stays_in_reason() -> None:
    """One answer that hung for ten minutes does not brand a deployment."""
    load = LaneLoad(GroupPace())
    for _ in range(100):
        _serve(load)
    before = load.own_seconds(1000, 100)
    passage = load.begin(1000, 100)
    load.note_first_byte(passage, 0.2)
    load.finish(passage, 100, 600.0, now=1.0)
    assert before < load.own_seconds(1000, 100) < 1.5 * before


def test_load_where_everything_takes_no_time_stays_finite() -> None:
    """A stub that answers at once, a hundred thousand times, breaks no quotient."""
    load = LaneLoad(GroupPace())
    for _ in range(20_000):
        passage = load.begin(0, 0)
        load.note_first_byte(passage, 0.0)
        load.finish(passage, 0, 0.0, now=1.0)
    assert 0.0 <= load.cost_seconds(1000, 100) < 10.0


def test_load_of_a_new_member_is_predicted_like_its_group_is_now() -> None:
    """Line and factors are known as a product only: the factors come back to 1, so that the line alone holds."""
    pace = GroupPace()
    lanes = [LaneLoad(pace) for _ in range(3)]
    for slow, times in ((1.0, 1000), (3.0, 6000)):
        for _ in range(times):
            for lane in lanes:
                _serve(lane, slow=slow)
    assert LaneLoad(pace).own_seconds(1000, 100) == pytest.approx(3.0 * (0.2 + 1.0), rel=0.1)


def test_load_that_was_not_seen_for_minutes_is_stale_only_while_idle() -> None:
    """A deployment that was slow once is looked at again some time."""
    load = LaneLoad(GroupPace())
    assert load.is_stale(0.0)
    passage = load.begin(10, 10)
    assert not load.is_stale(0.0)
    load.finish(passage, 10, 1.0, now=100.0)
    assert not load.is_stale(300.0)
    assert load.is_stale(401.0)
