"""What a piece of feedback may be, and which ones are written: each once, not too many, and not too fast.

Owns the duplicates, the rate and the number of pieces of a decision; writing them is `log`'s. Bounded like the
decisions themselves. Read `FeedbackDesk.give`.
"""

from __future__ import annotations

import asyncio
import time
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass
from math import ceil
from typing import Final, Protocol

from penstock_gateway.errors import Conflict, InvalidRequest, RateLimited, feedback_not_kept
from penstock_gateway.events import log

MAX_PER_DECISION: Final = 8
_MAX_DECISIONS: Final = 100_000
_MAX_TENANTS: Final = 10_000


@dataclass(frozen=True, slots=True)
class Feedback:
    """What somebody says about an answer.

    Attributes
    ----------
    score : float or None, in [0, 1]
    rating : str or None
        ``up`` or ``down``, when the score was given so.
    label : str or None
    comment : str or None
    """

    score: float | None = None
    rating: str | None = None
    label: str | None = None
    comment: str | None = None


@dataclass(frozen=True, slots=True)
class GivenElsewhere:
    """What other processes know of a piece and its decision.

    Attributes
    ----------
    count : int
        Pieces that the decision has had.
    is_same : bool
        Whether this one is among them: under its idempotency key, else as the last.
    is_key_used : bool
        Whether its idempotency key is.
    """

    count: int
    is_same: bool
    is_key_used: bool


class SharesFeedback(Protocol):
    """What processes tell each other of feedback; `penstock_gateway.shared_feedback.SharedFeedback` is one."""

    async def find(self, decision_id: str, feedback: Feedback, idempotency_key: str | None) -> GivenElsewhere | None:
        """Return what is known of a piece, None when nothing is."""
        ...

    async def note(self, decision_id: str, feedback: Feedback, idempotency_key: str | None) -> bool:
        """Tell the others of a piece that is on disk; return whether they know now."""
        ...


@dataclass(slots=True)
class _Given:
    """The feedback of one decision: by idempotency key, the last piece, and those that are being written.

    With `is_shared` the last piece has been told to other processes, so that they know which one is the last.
    """

    count: int
    by_key: dict[str, tuple[Feedback, asyncio.Future[None]]]
    last: tuple[Feedback, asyncio.Future[None]] | None = None
    is_shared: bool = False


class FeedbackDesk:
    """Takes feedback.

    Parameters
    ----------
    clock : callable
        Monotonic seconds.

    Attributes
    ----------
    shared : SharesFeedback or None
        Asked for what other processes have written; None when there is nobody to ask.
    """

    def __init__(self, *, clock: Callable[[], float] = time.monotonic) -> None:
        self.shared: SharesFeedback | None = None
        self._clock = clock
        self._buckets: OrderedDict[str, tuple[float, float]] = OrderedDict()  # pieces left, and when that was
        self._given: OrderedDict[str, _Given] = OrderedDict()

    async def give(
        self,
        events: log.EventLog,
        tenant: str,
        decision_id: str,
        feedback: Feedback,
        *,
        request_id: str = "",
        idempotency_key: str | None = None,
    ) -> bool:
        """Write a piece of feedback unless it has been; return when it is on disk.

        Parameters
        ----------
        events : EventLog
        tenant : str
        decision_id : str
            Of that tenant; the caller has checked it.
        feedback : Feedback
        request_id : str
        idempotency_key : str or None
            The same key again is the same piece. Without one, the same content as the decision's last piece is.

        Returns
        -------
        bool
            False when it was there already.

        Raises
        ------
        RateLimited
            With ``Retry-After``.
        Conflict
            ``idempotency_key_reused``: the key was given with other content.
        InvalidRequest
            ``too_much_feedback``.
        Overloaded
            ``events_overloaded``: it is not on disk yet. Sent again it is still written once.
        """
        elsewhere = None
        if self.shared is not None:
            elsewhere = await self.shared.find(decision_id, feedback, idempotency_key)
        given = self._given_for(decision_id)  # from here to the writing nothing is waited for
        if await _is_repeated(given, elsewhere, feedback, idempotency_key):
            return False
        if max(given.count, 0 if elsewhere is None else elsewhere.count) >= MAX_PER_DECISION:
            raise InvalidRequest(
                f"This decision has {MAX_PER_DECISION} pieces of feedback already.", code="too_much_feedback"
            )
        self._take(tenant, events.feedback_per_minute)
        written = events.put_feedback(
            tenant,
            decision_id,
            request_id=request_id,
            score=feedback.score,
            rating=feedback.rating,
            label=feedback.label,
            comment=feedback.comment,
        )
        given.count += 1
        given.last = last = (feedback, asyncio.wrap_future(written))
        given.is_shared = False
        if idempotency_key is not None:
            given.by_key[idempotency_key] = last
        await _on_disk(last[1])
        if self.shared is not None:
            is_told = await self.shared.note(decision_id, feedback, idempotency_key)
            given.is_shared = is_told and given.last is last
        return True

    def has_some(self, decision_id: str) -> bool:
        """Whether this process has been given a piece for a decision lately."""
        return decision_id in self._given

    def _given_for(self, decision_id: str) -> _Given:
        given = self._given.get(decision_id)
        if given is None:
            given = self._given[decision_id] = _Given(0, {})
            if len(self._given) > _MAX_DECISIONS:
                self._given.popitem(last=False)
        return given

    def _take(self, tenant: str, per_minute: int) -> None:
        """Take one from a tenant's bucket, which holds a minute's allowance and refills evenly."""
        now = self._clock()
        left, at = self._buckets.pop(tenant, (float(per_minute), now))
        left = min(float(per_minute), left + (now - at) * per_minute / 60.0)
        is_empty = left < 1.0
        self._buckets[tenant] = (left if is_empty else left - 1.0, now)
        if len(self._buckets) > _MAX_TENANTS:
            self._buckets.popitem(last=False)
        if is_empty:
            seconds = ceil((1.0 - left) * 60.0 / per_minute)
            raise RateLimited(
                f"At most {per_minute} pieces of feedback a minute; try again in {seconds} s.",
                code="feedback_rate_limited",
                headers={"retry-after": str(seconds)},
            )


async def _is_repeated(
    given: _Given, elsewhere: GivenElsewhere | None, feedback: Feedback, idempotency_key: str | None
) -> bool:
    """Whether a piece has been written, by then on disk; waits for nothing when it has not.

    Raises
    ------
    Conflict
    """
    known = given.last if idempotency_key is None else given.by_key.get(idempotency_key)
    if elsewhere is not None and idempotency_key is None and given.is_shared:
        known = None  # somebody else may have written a later one
    if known is not None and known[0] == feedback:
        await _on_disk(known[1])
        return True
    if known is None and elsewhere is not None and elsewhere.is_same:
        return True
    if idempotency_key is not None and (known is not None or (elsewhere is not None and elsewhere.is_key_used)):
        raise Conflict("This idempotency key was used for other feedback.", code="idempotency_key_reused")
    return False


async def _on_disk(written: asyncio.Future[None]) -> None:
    """Wait for a piece to be on disk, and leave it to be written when that takes too long or the client leaves."""
    await asyncio.wait({written}, timeout=log.ACKNOWLEDGE_SECONDS)
    if not written.done():
        raise feedback_not_kept()
