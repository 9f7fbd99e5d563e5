"""Which entry of a category goes first: the least valuable per byte, once its time on probation is over.

Owns the worth of a hit, the priority made of it, the credit of near misses, and one category's two queues. No I/O, no
clock: `now` is an argument. Must not know quotas or other categories. Read `CategoryQueue`, then `value_density`.

The priority is that of GreedyDual-Size with Frequency [1]_ with three changes: the cost is the money and time that a
hit saves, less what a wrong one costs; the frequency is fractional, so that near misses count too [2]_ and an entry
without a hit counts for little; and new entries spend some time in a small first-in, first-out queue [3]_, where a
first hit finds them whatever they are worth.

References
----------
.. [1] L. Cherkasova, "Improving WWW Proxies Performance with Greedy-Dual-Size-Frequency Caching Policy", HP Labs 1998.
.. [2] SphereLFU, arXiv:2603.03301, appendix B.2.1; here without its periodic decay, because the inflation ages entries.
.. [3] J. Yang et al., "FIFO queues are all you need for cache eviction", SOSP 2023: 10 % for the small queue.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

import msgspec

from penstock_cache.entry_slots import EntrySlots
from penstock_cache.slot_heap import SlotHeap

_MOST: Final = 1e9  # an infinite priority would raise the inflation to infinity for good


@dataclass(frozen=True, slots=True)
class EvictionRules:
    """How entries are valued.

    Attributes
    ----------
    usd_per_second : float, at least 0
        What a second less of waiting is worth. The default is 1.80 USD an hour: small beside the price of a large
        model's answer, and enough that answers of models without a price are told apart.
    horizon_seconds : float, above 0
        Entries that live on for longer than this are all alike; one with less left is worth proportionally less.
    probation_share : float, in [0, 1)
        Share of a category's bytes that entries without a hit have to themselves; 0 for no probation.
    newcomer_credit : float, in (0, 1]
        Credit of an entry without a hit, beside 1 a hit: how many hits are to be expected of it. The default is the
        share of chat prompts that an earlier one answers, 4.5 to 7.5 % (SCALM, arXiv:2406.00025).
    sharpness : float, at least 0
        κ of the near-miss credit: how fast it falls with distance. At 10 a cosine of 0.9 has weight 0.14.
    damping : float, above 0
        α of the near-miss credit: what the neighbours together leave to nobody, so that a near miss is worth less than
        a hit.
    """

    usd_per_second: float = 0.0005
    horizon_seconds: float = 86_400.0
    probation_share: float = 0.1
    newcomer_credit: float = 0.05
    sharpness: float = 10.0
    damping: float = 1.0

    def __post_init__(self) -> None:
        if not (self.usd_per_second >= 0.0 and self.horizon_seconds > 0.0 and 0.0 <= self.probation_share < 1.0):
            raise ValueError("usd_per_second, horizon_seconds or probation_share is out of range")
        if not (self.sharpness >= 0.0 and self.damping > 0.0 and 0.0 < self.newcomer_credit <= 1.0):
            raise ValueError("sharpness, damping or newcomer_credit is out of range")


class HitValue(msgspec.Struct, frozen=True, gc=False):
    """What one hit on an entry brings, and what it costs when it is wrong.

    Attributes
    ----------
    cost_usd : float, in [0, 1e9]
        What the stored answer cost: the call that a hit saves.
    latency_seconds : float, in [0, 1e9]
        How long the stored answer took.
    precision : float, in [0, 1]
        Probability that a hit on it is right; 1 for an entry of the exact tier.
    error_cost_usd : float, in [0, 1e9]
        What a wrong hit costs, by the category's policy.
    """

    cost_usd: float
    latency_seconds: float = 0.0
    precision: float = 1.0
    error_cost_usd: float = 0.0

    def __post_init__(self) -> None:
        amounts = (self.cost_usd, self.latency_seconds, self.error_cost_usd)
        if not (all(0.0 <= amount <= _MOST for amount in amounts) and 0.0 <= self.precision <= 1.0):
            raise ValueError("a hit's value needs amounts in [0, 1e9] and a precision in [0, 1]")

    def worth_usd(self, usd_per_second: float) -> float:
        """Return ``p·(C + w·T) − (1 − p)·C_err``, USD; below 0 when a hit is expected to do harm."""
        saved = self.cost_usd + usd_per_second * self.latency_seconds
        return self.precision * saved - (1.0 - self.precision) * self.error_cost_usd


def value_density(
    credit: float, worth_usd: float, ttl_left_seconds: float, horizon_seconds: float, size_bytes: int
) -> float:
    """Return what an entry is expected to bring per byte it takes.

    Parameters
    ----------
    credit : float, at least 0
        Fractional frequency.
    worth_usd : float
        Of one hit.
    ttl_left_seconds : float
    horizon_seconds : float, above 0
    size_bytes : int, at least 1

    Returns
    -------
    float
        USD per byte, at least 0: ``max(0, c·worth)·min(1, ttl_left/horizon)/S``.
    """
    if worth_usd <= 0.0 or ttl_left_seconds <= 0.0:
        return 0.0
    return credit * worth_usd * min(1.0, ttl_left_seconds / horizon_seconds) / size_bytes


def near_miss_credits(
    credits: Sequence[float], cosines: Sequence[float], *, sharpness: float, damping: float
) -> list[float]:
    """Share one missed prompt among the entries near it.

    Parameters
    ----------
    credits : sequence of float, length k
        Credit of every neighbour, at least 0.
    cosines : sequence of float, length k
        Of every neighbour with the prompt, in [-1, 1].
    sharpness, damping : float
        κ and α of `EvictionRules`.

    Returns
    -------
    list of float, length k
        What each is to be given, at least 0 and below 1 together.

    Notes
    -----
    ``r_i = c_i·e^(−κ·d_i²) / (Σ_j c_j·e^(−κ·d_j²) + α)`` with ``d² = 2 − 2·cos``, the squared distance of unit vectors
    (SphereLFU, arXiv:2603.03301, appendix B.2.1). Duplicates share what one of them alone would get.
    """
    weights = [
        credit * math.exp(-sharpness * max(0.0, 2.0 - 2.0 * cosine))
        for credit, cosine in zip(credits, cosines, strict=True)
    ]
    total = sum(weights) + damping
    return [weight / total for weight in weights]


class CategoryQueue:
    """The entries of one category in the order in which they go.

    Parameters
    ----------
    slots : EntrySlots
        Shared with the other categories.
    rules : EvictionRules

    Attributes
    ----------
    inflation : float
        L: priority of the last victim of the main queue; never falls.
    main_bytes, probation_bytes : int

    Notes
    -----
    A touch writes the priority only, O(1); the heap learns of it when the entry reaches its front. A priority that
    falls moves at once. `add`, `remove` and `pop_victim` are O(log n), the last one amortised over touches.
    """

    def __init__(self, slots: EntrySlots, rules: EvictionRules) -> None:
        self.inflation = 0.0
        self.main_bytes = 0
        self.probation_bytes = 0
        self._slots = slots
        self._rules = rules
        self._main = SlotHeap(slots.queue_keys, slots.queue_positions)
        self._probation = SlotHeap(slots.queue_keys, slots.queue_positions)
        self._arrivals = 0

    def __len__(self) -> int:
        return len(self._main) + len(self._probation)

    @property
    def used_bytes(self) -> int:
        """Bytes of both queues."""
        return self.main_bytes + self.probation_bytes

    def add(self, slot: int, now: float, *, is_proven: bool) -> None:
        """Take in a slot whose columns are filled.

        Parameters
        ----------
        slot : int
            With a credit of 0 it is the next victim.
        now : float
            Unix time, seconds.
        is_proven : bool
            It came back after an eviction, so it skips probation.

        Notes
        -----
        Probation that exceeds its share hands its oldest over to the main queue.
        """
        if is_proven or not self._slots.credit[slot]:
            self._add_to_main(slot, now)
            return
        self._arrivals += 1
        self._slots.is_probation[slot] = 1
        self._probation.push(slot, float(self._arrivals))
        self.probation_bytes += self._slots.size_bytes[slot]
        while self.probation_bytes > self._rules.probation_share * self.used_bytes:
            self._end_probation(self._probation.first(), now)

    def note_hit(self, slot: int, now: float) -> None:
        """Credit a hit: the entry leaves probation and its priority is made anew."""
        self._slots.credit[slot] += 1.0
        if self._slots.is_probation[slot]:
            self._end_probation(slot, now)
        else:
            self._renew(slot, now)

    def note_near_miss(self, slot: int, share: float, now: float) -> None:
        """Credit a share of a near miss: it adds to the priority, but does not make the entry young again."""
        self._slots.credit[slot] += share
        if not self._slots.is_probation[slot]:
            self._slots.priority[slot] += share * self._unit_density(slot, now)

    def reprice(self, slot: int, worth_usd: float, now: float) -> None:
        """Give an entry another worth, say after an audit."""
        self._slots.worth_usd[slot] = worth_usd
        if not self._slots.is_probation[slot]:
            self._renew(slot, now)

    def remove(self, slot: int) -> None:
        """Take out a slot, wherever it waits."""
        size_bytes = self._slots.size_bytes[slot]
        if self._slots.is_probation[slot]:
            self._probation.remove(slot)
            self.probation_bytes -= size_bytes
        else:
            self._main.remove(slot)
            self.main_bytes -= size_bytes

    def pop_victim(self) -> int:
        """Take out the entry that goes first and return its slot.

        Raises
        ------
        IndexError
            There is none.

        Notes
        -----
        The least priority of the main queue, which becomes the inflation. The oldest of probation where that queue
        exceeds its share, as after expiries and removals, or is all there is.
        """
        if len(self._main) and self.probation_bytes <= self._rules.probation_share * self.used_bytes:
            slot = self._settled_first()
            self.inflation = self._slots.priority[slot]
        else:
            slot = self._probation.first()
        self.remove(slot)
        return slot

    def memory_bytes(self) -> int:
        """Return what the orders take, bytes."""
        return self._main.memory_bytes() + self._probation.memory_bytes()

    def _end_probation(self, slot: int, now: float) -> None:
        self._probation.remove(slot)
        self.probation_bytes -= self._slots.size_bytes[slot]
        self._add_to_main(slot, now)

    def _add_to_main(self, slot: int, now: float) -> None:
        self._slots.is_probation[slot] = 0
        priority = self.inflation + self._density(slot, now)
        self._slots.priority[slot] = priority
        self._main.push(slot, priority)
        self.main_bytes += self._slots.size_bytes[slot]

    def _renew(self, slot: int, now: float) -> None:
        priority = self.inflation + self._density(slot, now)
        self._slots.priority[slot] = priority
        if priority < self._slots.queue_keys[slot]:
            self._main.rekey(slot, priority)

    def _settled_first(self) -> int:
        """Return the slot with the least priority, after telling the heap of raised ones in front of it."""
        priorities, keys = self._slots.priority, self._slots.queue_keys
        while priorities[slot := self._main.first()] > keys[slot]:
            self._main.rekey(slot, priorities[slot])
        return slot

    def _density(self, slot: int, now: float) -> float:
        return self._slots.credit[slot] * self._unit_density(slot, now)

    def _unit_density(self, slot: int, now: float) -> float:
        """Return the value density of one hit."""
        slots, horizon_seconds = self._slots, self._rules.horizon_seconds
        ttl_left = slots.expires_at[slot] - now
        return value_density(1.0, slots.worth_usd[slot], ttl_left, horizon_seconds, slots.size_bytes[slot])
