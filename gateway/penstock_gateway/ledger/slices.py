"""A replica's own part of each budget, for when Redis is away.

A slice is money of a budget that Redis holds for this replica, under a lease. While Redis is away the replica grants
requests from its slices alone, and only until their leases end by its own clock, so that nobody else was granted the
same money meanwhile. This module is the replica's side: plain bookkeeping, no I/O. Read `SliceBook`.
"""

from __future__ import annotations

import time
from collections import OrderedDict
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Final

from penstock_gateway.ledger.contract import BudgetState
from penstock_gateway.ledger.periods import Calendar
from penstock_gateway.ledger.reckoning import BudgetLine, budget_state

MAX_SLICES: Final = 10_000
"""Budgets that a replica holds slices of; of more, those used last."""
LEASE_USED: Final = 0.9
"""Part of a lease during which a slice is spent from: clocks differ, and Redis's may be set."""
FREE_PARTS: Final = 10
"""All replicas together hold at most a tenth of what is free of a budget in slices."""


@dataclass(frozen=True, slots=True)
class SliceRules:
    """How large slices are.

    Attributes
    ----------
    share : float, in [0, 1]
        Of a budget's limit.
    minimum_picousd : int
        A slice of a small budget is this large all the same, within the part of what is free that it may take.
    seconds : float
        Lease: how long a replica goes on without Redis.
    replicas : int, at least 1
        How many there are, as far as anybody knows.
    """

    share: float = 0.01
    minimum_picousd: int = 500_000_000_000
    seconds: float = 600.0
    replicas: int = 1

    @property
    def free_parts(self) -> int:
        """One replica's slice takes at most one part in so many of what is free of a budget."""
        return FREE_PARTS * self.replicas


@dataclass(frozen=True, slots=True)
class SliceAsk:
    """A slice of one budget that a replica wants to hold.

    Attributes
    ----------
    line : BudgetLine
    wanted_picousd : int
    least_picousd : int
        Spent from it already, and not charged yet: held in any case.
    """

    line: BudgetLine
    wanted_picousd: int
    least_picousd: int


@dataclass(frozen=True, slots=True)
class SliceHeld:
    """What Redis holds of a slice, and how far its budget is used.

    Attributes
    ----------
    amount_picousd, spent_picousd, held_picousd : int
    """

    amount_picousd: int
    spent_picousd: int
    held_picousd: int


@dataclass(slots=True)
class _Slice:
    """`amount` may be granted here, `used` of it was and is not charged yet; Redis holds `stored`. All picodollars."""

    line: BudgetLine
    noted: float
    amount: int = 0
    used: int = 0
    stored: int = 0
    charged: int = 0  # in all, ever
    valid_until: float = float("-inf")
    is_asked: bool = False
    spent: int = 0
    held: int = 0

    def available(self, now: float) -> int:
        return 0 if self.is_asked or now >= self.valid_until else max(0, self.amount - self.used)


class SliceBook:
    """The slices of one replica.

    Parameters
    ----------
    calendar : Calendar
    rules : SliceRules
    clock : callable
        Monotonic seconds.

    Attributes
    ----------
    changes : int
        How often Redis has said what it holds.

    Notes
    -----
    What Redis holds is never less than what may be spent here: `amount` counts from before a command is sent, nothing
    is granted while a command that may change it is under way or has failed, and a charge that has reached Redis is
    taken off `amount`, since it is spent there from then on.
    """

    def __init__(
        self, calendar: Calendar, rules: SliceRules | None = None, *, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self.rules = rules or SliceRules()
        self._calendar = calendar
        self._clock = clock
        self._slices: OrderedDict[str, _Slice] = OrderedDict()
        self.changes = 0
        self.is_filled = True  # whether slices are wanted; what Redis holds is given back where they are not

    def __len__(self) -> int:
        """Return how many slices there are, empty ones included."""
        return len(self._slices)

    def note(self, lines: Iterable[BudgetLine]) -> bool:
        """Note that budgets are in use, and return whether one of them has no slice yet."""
        now, is_new = self._clock(), False
        for line in lines if self.is_filled else ():
            known = self._slices.get(line.field)
            if known is None:
                is_new = True
                self._slices[line.field] = _Slice(line, now)
                self._drop_one()
            else:
                known.line, known.noted = line, now
                self._slices.move_to_end(line.field)
        return is_new

    def available_picousd(self, field: str) -> int:
        """Return what may still be granted from a slice, by `BudgetLine.field`."""
        known = self._slices.get(field)
        return 0 if known is None else known.available(self._clock())

    def held_picousd(self, field: str) -> int:
        """Return what Redis holds of a slice beside what was spent from it."""
        known = self._slices.get(field)
        return 0 if known is None else max(0, known.amount - known.used)

    def fits(self, lines: Iterable[BudgetLine], amount_picousd: int) -> bool:
        """Whether the slice of every budget reaches for an amount."""
        return amount_picousd == 0 or all(self.available_picousd(line.field) >= amount_picousd for line in lines)

    def use(self, lines: Iterable[BudgetLine], amount_picousd: int) -> None:
        """Grant an amount from the slices of some budgets, or take it back when it is negative."""
        now = self._clock()
        for line in lines:
            each = self._slices.setdefault(line.field, _Slice(line, now))
            each.used, each.noted = max(0, each.used + amount_picousd), now

    def charge(self, lines: Iterable[BudgetLine], amount_picousd: int) -> None:
        """Note that an amount that was granted here is charged in Redis now."""
        for line in lines:
            each = self._slices.get(line.field)
            if each is not None:
                each.used = max(0, each.used - amount_picousd)
                each.amount = max(0, each.amount - amount_picousd)
                each.charged += amount_picousd

    def states(self, lines: Iterable[BudgetLine]) -> tuple[BudgetState, ...]:
        """Return how far budgets were used when Redis was last asked, with what was granted here since."""
        found = []
        for line in lines:
            each = self._slices.get(line.field)
            spent, held = (0, 0) if each is None else (each.spent, max(each.held, each.used))
            found.append(budget_state(line, spent, held))
        return tuple(found)

    def asks(self, at: float) -> list[SliceAsk]:
        """Return what Redis should hold now: of budgets in use as much as the rules say, of others nothing.

        Parameters
        ----------
        at : float
            UNIX seconds. A window that begins before the slices' leases end gets its slices beforehand.
        """
        now = self._clock()
        self._note_next_windows(at, now)
        found = []
        for field, each in list(self._slices.items()):
            ends_at = each.line.window.ends_at
            is_in_use = self.is_filled and now - each.noted < self.rules.seconds and (ends_at is None or at < ends_at)
            if not is_in_use and not each.stored and not each.used:
                del self._slices[field]
                continue
            found.append(SliceAsk(each.line, each.used + (self._size(each.line) if is_in_use else 0), each.used))
        return found

    def asks_as_they_are(self) -> list[SliceAsk]:
        """Return what Redis should hold again after its books were lost: what may still be spent here."""
        now = self._clock()
        found = []
        for each in self._slices.values():
            amount = each.used + each.available(now)
            if amount:
                found.append(SliceAsk(each.line, amount, amount))
        return found

    def ask_nothing(self, field: str) -> list[SliceAsk]:
        """Return how to give the rest of a slice back, if there is any."""
        each = self._slices.get(field)
        has_rest = each is not None and max(each.amount, each.stored) > each.used
        return [SliceAsk(each.line, each.used, each.used)] if each is not None and has_rest else []

    def begin(self, asks: Sequence[SliceAsk]) -> tuple[list[SliceAsk], list[int]]:
        """Note that Redis is being asked: nothing is granted from these slices until it has answered.

        Parameters
        ----------
        asks : sequence of SliceAsk

        Returns
        -------
        list of SliceAsk
            What to ask for, with what was spent since.
        list of int
            A receipt for `note_held`.
        """
        fresh, receipt = [], []
        for ask in asks:
            each = self._slices.setdefault(ask.line.field, _Slice(ask.line, self._clock()))
            each.is_asked = True
            least = max(ask.least_picousd, each.used)
            fresh.append(SliceAsk(ask.line, ask.wanted_picousd + least - ask.least_picousd, least))
            receipt.append(each.charged)
        return fresh, receipt

    def note_held(
        self, asks: Sequence[SliceAsk], receipt: Sequence[int], held: Sequence[SliceHeld], sent: float
    ) -> None:
        """Note what Redis holds.

        Parameters
        ----------
        asks : sequence of SliceAsk
        receipt : sequence of int
            From `begin`.
        held : sequence of SliceHeld
        sent : float
            Monotonic seconds before the command was sent; the leases began later.
        """
        self.changes += 1
        for ask, charged, found in zip(asks, receipt, held, strict=True):
            each = self._slices.get(ask.line.field)
            if each is None:
                continue
            # What was charged meanwhile may have been charged before or after Redis counted what is free.
            each.stored = found.amount_picousd
            each.amount = max(0, found.amount_picousd - (each.charged - charged))
            each.valid_until = sent + LEASE_USED * self.rules.seconds
            each.is_asked = False
            each.spent, each.held = found.spent_picousd, found.held_picousd

    def _size(self, line: BudgetLine) -> int:
        return max(self.rules.minimum_picousd, int(line.budget.limit_picousd * self.rules.share))

    def _note_next_windows(self, at: float, now: float) -> None:
        for each in list(self._slices.values()) if self.is_filled else ():
            ends_at = each.line.window.ends_at
            if ends_at is None or not at < ends_at <= at + self.rules.seconds or now - each.noted >= self.rules.seconds:
                continue
            window = self._calendar.window(each.line.budget.period, ends_at)
            line = BudgetLine(each.line.scope, each.line.budget, window)
            if line.field not in self._slices:
                self._slices[line.field] = _Slice(line, now)
                self._drop_one()

    def _drop_one(self) -> None:
        """Forget the slice that was used longest ago; Redis gives it back when its lease ends."""
        if len(self._slices) > MAX_SLICES:
            field = next((field for field, each in self._slices.items() if not each.used), None)
            if field is not None:
                del self._slices[field]
