"""A replica's slices: never more may be granted from them than Redis holds."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from penstock_gateway.ledger.contract import Period
from penstock_gateway.ledger.periods import Calendar
from penstock_gateway.ledger.reckoning import BudgetLine, budget_lines
from penstock_gateway.ledger.slices import LEASE_USED, MAX_SLICES, SliceAsk, SliceBook, SliceHeld, SliceRules
from support.ledger_parts import NOON, Clock, key

RULES = SliceRules(share=0.1, minimum_picousd=5, seconds=600.0, replicas=2)


def lines_of(*budgets: tuple[Period, int], name: str = "key:a", at: float = NOON) -> list[BudgetLine]:
    """Return the budgets of an account in their windows."""
    return budget_lines([key(*budgets, name=name)], Calendar(), at)


def filled(clock: Clock, lines: list[BudgetLine], amount: int, rules: SliceRules = RULES) -> SliceBook:
    """Return a book whose slices hold an amount."""
    book = SliceBook(Calendar(), rules, clock=clock)
    book.note(lines)
    hold(book, clock, amount)
    return book


def hold(book: SliceBook, clock: Clock, amount: int) -> list[SliceAsk]:
    """Let Redis hold an amount in every slice that is asked for."""
    asks, receipt = book.begin(book.asks(NOON))
    book.note_held(asks, receipt, [SliceHeld(amount, 7, 9) for _ in asks], clock())
    return asks


def test_rules_of_slices_leave_nine_tenths_of_what_is_free() -> None:
    """All replicas together take a tenth."""
    assert SliceRules(replicas=1).free_parts == 10
    assert SliceRules(replicas=4).free_parts == 40


def test_asks_of_budgets_in_use_want_a_share_and_at_least_the_minimum() -> None:
    """A slice is a share of the limit; a small budget's is the minimum."""
    book = SliceBook(Calendar(), RULES, clock=Clock())
    assert book.note(lines_of((Period.MONTH, 1000), (Period.TOTAL, 20)))
    assert [(each.wanted_picousd, each.least_picousd) for each in book.asks(NOON)] == [(100, 0), (5, 0)]
    assert not book.note(lines_of((Period.MONTH, 1000)))


def test_slice_that_redis_holds_is_granted_up_to_its_amount() -> None:
    """Every budget's slice has to reach; an empty one stops the request."""
    lines = lines_of((Period.MONTH, 1000), (Period.TOTAL, 20))
    book = filled(Clock(), lines, 50)
    assert book.fits(lines, 50)
    assert not book.fits(lines, 51)
    book.use(lines, 30)
    assert book.fits(lines, 20)
    assert not book.fits(lines, 21)
    assert book.fits([*lines, *lines_of((Period.DAY, 10))], 0)
    assert not book.fits([*lines, *lines_of((Period.DAY, 10))], 1)


def test_slice_whose_lease_has_ended_by_our_clock_grants_nothing() -> None:
    """The lease is counted from before the command was sent, and not to its end."""
    clock = Clock()
    lines = lines_of((Period.TOTAL, 100))
    book = SliceBook(Calendar(), RULES, clock=clock)
    book.note(lines)
    asks, receipt = book.begin(book.asks(NOON))
    sent = clock()
    clock.advance(30.0)  # the reply was on its way for so long
    book.note_held(asks, receipt, [SliceHeld(50, 0, 0)], sent)
    clock.advance(LEASE_USED * RULES.seconds - 30.001)
    assert book.fits(lines, 50)
    clock.advance(0.002)
    assert not book.fits(lines, 1)


def test_slice_that_redis_is_being_asked_about_grants_nothing_until_it_answers() -> None:
    """A command under way may lower what is held; one whose reply was lost may have done so."""
    clock = Clock()
    lines = lines_of((Period.TOTAL, 100))
    book = filled(clock, lines, 50)
    asks, receipt = book.begin(book.asks(NOON))
    assert not book.fits(lines, 1)
    book.note_held(asks, receipt, [SliceHeld(8, 0, 0)], clock())
    assert book.fits(lines, 8)
    assert not book.fits(lines, 9)


def test_begin_asks_redis_to_hold_what_was_granted_since_the_asks_were_made() -> None:
    """What is spent from a slice stays held, whatever else happens to the slice."""
    lines = lines_of((Period.TOTAL, 100))
    book = filled(Clock(), lines, 50)
    asks = book.asks(NOON)
    book.use(lines, 40)
    [fresh], _ = book.begin(asks)
    assert (fresh.least_picousd, fresh.wanted_picousd) == (40, 50)
    [nothing] = book.ask_nothing(lines[0].field)
    assert (nothing.least_picousd, nothing.wanted_picousd) == (40, 40)


def test_charge_that_was_counted_is_taken_off_the_slice() -> None:
    """What is spent in Redis is no longer there to be granted again."""
    lines = lines_of((Period.TOTAL, 100))
    book = filled(Clock(), lines, 50)
    book.use(lines, 30)
    book.use(lines, -10)  # it came to 20
    assert book.fits(lines, 30)
    book.charge(lines, 20)
    assert book.available_picousd(lines[0].field) == 30
    assert book.held_picousd(lines[0].field) == 30


def test_charge_that_was_counted_while_redis_was_asked_is_not_granted_twice() -> None:
    """Nobody knows which came first in Redis, so the smaller figure counts."""
    clock = Clock()
    lines = lines_of((Period.TOTAL, 100))
    book = filled(clock, lines, 50)
    book.use(lines, 20)
    asks, receipt = book.begin(book.asks(NOON))
    book.charge(lines, 20)
    book.note_held(asks, receipt, [SliceHeld(50, 0, 0)], clock())
    assert book.available_picousd(lines[0].field) == 30


def test_asks_near_the_end_of_a_window_include_the_next_one() -> None:
    """Who is without Redis at midnight has slices of the new day."""
    clock = Clock()
    book = SliceBook(Calendar(), RULES, clock=clock)
    book.note(lines_of((Period.DAY, 1000), (Period.MONTH, 1000)))
    assert [each.line.window.id for each in book.asks(NOON)] == ["2096-10-02", "2096-10"]
    evening = NOON + 12 * 3600 - 300.0
    assert [each.line.window.id for each in book.asks(evening)] == ["2096-10-02", "2096-10", "2096-10-03"]


def test_asks_of_budgets_that_nobody_uses_any_more_give_them_back() -> None:
    """A slice of a window that is over, or of a budget out of use, is returned and then forgotten."""
    clock = Clock()
    lines = lines_of((Period.DAY, 1000))
    book = filled(clock, lines, 50)
    tomorrow = NOON + 12 * 3600 + 1.0
    [given_back] = book.asks(tomorrow)
    assert given_back.wanted_picousd == 0
    asks, receipt = book.begin([given_back])
    book.note_held(asks, receipt, [SliceHeld(0, 0, 0)], clock())
    assert book.asks(tomorrow) == []
    assert len(book) == 0
    book.note(lines)
    clock.advance(RULES.seconds)
    assert book.asks(NOON) == []


def test_asks_after_a_loss_are_for_what_may_still_be_spent() -> None:
    """What was promised and what was spent is held again in full, and nothing that had lapsed."""
    clock = Clock()
    lines = lines_of((Period.TOTAL, 100))
    book = filled(clock, lines, 50)
    book.use(lines, 20)
    assert book.asks_as_they_are() == [SliceAsk(lines[0], 50, 50)]
    clock.advance(RULES.seconds)
    assert book.asks_as_they_are() == [SliceAsk(lines[0], 20, 20)]


def test_states_of_budgets_without_redis_are_the_last_ones_seen() -> None:
    """A grant without Redis tells what was known, and what was granted since."""
    lines = lines_of((Period.TOTAL, 100))
    book = filled(Clock(), lines, 50)
    book.use(lines, 30)
    [state] = book.states(lines)
    assert (state.spent_picousd, state.held_picousd) == (7, 30)
    [unknown] = book.states(lines_of((Period.DAY, 100)))
    assert (unknown.spent_picousd, unknown.held_picousd) == (0, 0)


def test_book_of_too_many_budgets_forgets_those_used_longest_ago(monkeypatch: pytest.MonkeyPatch) -> None:
    """Slices are bounded, and one that was spent from is never forgotten."""
    monkeypatch.setattr("penstock_gateway.ledger.slices.MAX_SLICES", 3)
    assert MAX_SLICES > 3
    book = SliceBook(Calendar(), RULES, clock=Clock())
    first, *others = (lines_of((Period.TOTAL, 100), name=f"key:{number}") for number in range(6))
    book.note(first)
    book.use(first, 1)
    for each in others:
        book.note(each)
    assert [ask.line.scope for ask in book.asks(NOON)] == ["key:0", "key:4", "key:5"]


steps = st.lists(
    st.one_of(
        st.tuples(st.just("take"), st.integers(1, 40)),
        st.tuples(st.just("actual"), st.integers(0, 40)),
        st.tuples(st.just("charge"), st.just(0)),
        st.tuples(st.sampled_from(["ask", "reply", "lost", "wait"]), st.integers(0, 60)),
    ),
    max_size=60,
)


@given(steps)
def test_book_under_any_order_of_events_never_grants_what_redis_does_not_hold(events: list[tuple[str, int]]) -> None:
    """Against a Redis that may run a command at once and lose the reply, what is held there covers what is granted."""
    clock = Clock()
    lines = lines_of((Period.TOTAL, 10**6))
    book = SliceBook(Calendar(), RULES, clock=clock)
    book.note(lines)
    held = spent = 0  # in Redis: of the slice, and charged from it
    entitled = 0  # what Redis has set aside for this replica in all
    taken: list[int] = []
    under_way: tuple[list[SliceAsk], list[int], SliceHeld, float] | None = None
    for event, number in events:
        if event == "take" and book.fits(lines, number):
            book.use(lines, number)
            taken.append(number)
        elif event == "actual" and taken and number <= taken[-1]:
            book.use(lines, number - taken[-1])
            taken[-1] = number
        elif event == "charge" and taken:
            amount = taken.pop(0)
            spent += amount
            book.charge(lines, amount)
        elif event == "ask" and under_way is None:
            asks, receipt = book.begin(book.asks(NOON))
            held = max(min(asks[0].wanted_picousd, number), asks[0].least_picousd)
            under_way = asks, receipt, SliceHeld(held, 0, 0), clock()
            entitled = spent + held
        elif event == "reply" and under_way is not None:
            book.note_held(*under_way)
            under_way = None
        elif event == "lost":
            under_way = None
        elif event == "wait":
            clock.advance(number * 1.0)
        assert spent + sum(taken) <= entitled
        assert spent + sum(taken) + book.available_picousd(lines[0].field) <= max(entitled, spent + sum(taken))
