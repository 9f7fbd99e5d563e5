"""Where a request is tried next: the same deployment again, another of its group, a fallback, or nowhere.

Owns the order of one request's tries and its waiting; takes the slot that a try needs. It sends nothing. Read
`Course.advance`, which states the rules.
"""

from __future__ import annotations

import asyncio
import math
from collections.abc import Awaitable, Callable, Iterator, Sequence
from itertools import chain

from penstock_gateway.attempts.balancing import Load
from penstock_gateway.attempts.failures import FINAL, Failure, FailureKind, deadline_exceeded
from penstock_gateway.attempts.job import AttemptJob
from penstock_gateway.attempts.lane_book import LaneBook
from penstock_gateway.attempts.lanes import Lane
from penstock_gateway.attempts.records import AttemptKind
from penstock_gateway.attempts.waits import backoff_seconds
from penstock_gateway.deployments import Deployment
from penstock_gateway.errors import GatewayError, Overloaded, RateLimited
from penstock_gateway.settings_attempts import AttemptSettings
from penstock_routers.token_counts import ASSUMED_OUTPUT_TOKENS

Sleep = Callable[[float], Awaitable[object]]


class Course:
    """The tries of one request.

    Parameters
    ----------
    job : AttemptJob
    book : LaneBook
    clock : callable
        Seconds, the clock of ``job.started``.
    draw : callable
        Random numbers in [0, 1).
    sleep : callable
        Waits so many seconds.

    Attributes
    ----------
    deadline : float or None
        Of the job, on the clock.
    failure : Failure or None
        The most useful one so far.
    """

    __slots__ = (
        "_attempts",
        "_book",
        "_clock",
        "_draw",
        "_job",
        "_lane",
        "_least_context",
        "_retries",
        "_settings",
        "_since",
        "_sleep",
        "_tried",
        "_waited",
        "deadline",
        "failure",
    )

    def __init__(
        self,
        job: AttemptJob,
        book: LaneBook,
        clock: Callable[[], float],
        draw: Callable[[], float],
        sleep: Sleep = asyncio.sleep,
    ) -> None:
        self._job = job
        self._book = book
        self._settings: AttemptSettings = book.settings
        self._clock = clock
        self._draw = draw
        self._sleep = sleep
        self._since = clock()
        self._waited = 0.0
        self._attempts = 0
        self._retries = 0
        self._lane: Lane | None = None
        self._tried: set[str] = set()
        self._least_context = 0
        self.failure: Failure | None = None
        limits = [seconds for seconds in (job.deadline_seconds, self._settings.deadline_seconds) if seconds is not None]
        self.deadline = job.started + min(limits) if limits else None

    async def advance(self, failed: Failure | None = None) -> tuple[Lane, AttemptKind] | None:
        """Return where to try next, with a slot taken; None when nothing is left but the failure.

        Parameters
        ----------
        failed : Failure or None
            Of the try before; None at first.

        Raises
        ------
        RateLimited
            Too many wait (``queue_full``), it waited too long (``queue_timeout``), or every deployment asks to be left
            alone for longer than it may wait (``upstream_rate_limited``).
        Overloaded
            Code ``no_deployment_available``: every breaker is open and its probe is under way.
        UpstreamTimeout
            Code ``deadline_exceeded``.

        Notes
        -----
        After a failure another member of the group that is free is asked at once. Else the same deployment is tried
        again, up to `retries` times, after a random backoff and not before its cool-down is over; if that is longer
        than the request may still wait, no time is lost and the plan goes on. Along the plan open and cooling
        deployments are passed over. A busy one is waited for, with its group, or (`when_full: fall_back`) passed over
        while a later one is free.

        When nothing is left but deployments that are cooling or open: the cool-down that ends first is waited for if
        the request may wait so long; else an open one without a probe under way is probed before its time, which is
        one request at a time. So a breaker never turns away what nothing else could answer, unless that is being tried.
        """
        if failed is not None and (lane := self._lane) is not None:
            self.note(failed, lane)
            if failed.kind in FINAL or self._attempts >= self._settings.max_attempts:
                return None
            if mate := self._free_mate(lane):
                mate.slots.take()
                return self._took(mate, AttemptKind.FALLBACK)
            if await self._may_retry(lane, failed):
                self._retries += 1
                return self._took(lane, AttemptKind.RETRY)
        kind = AttemptKind.FIRST if self._lane is None else AttemptKind.FALLBACK
        try:
            found = await self._elsewhere()
        except GatewayError:
            if self.failure is None:
                raise
            return None  # what a provider said helps more than that no other was free
        return None if found is None else self._took(found, kind)

    def beside(self) -> Lane | None:
        """Return a free deployment to ask beside the present one, with a slot taken; None when there is none."""
        if self._attempts >= self._settings.max_attempts:
            return None
        now = self._clock()
        for lane in chain.from_iterable(self._stops(now)):
            if lane.slots.has_free and lane.breaker.admits(now):
                lane.slots.take()
                self._attempts += 1
                self._tried.add(lane.name)
                return lane
        return None

    def note(self, failed: Failure, lane: Lane) -> None:
        """Remember a failure of a deployment, if it is the most useful so far."""
        if failed.is_more_useful_than(self.failure):
            self.failure = failed
        if failed.kind is FailureKind.CONTEXT:
            self._least_context = max(self._least_context, lane.deployment.context_tokens + 1)

    def output_tokens(self, deployment: Deployment) -> float:
        """Return how many tokens a deployment is predicted to write: as given, or as for its group."""
        given = self._job.output_tokens.get(deployment.name)
        if given is None and deployment.group is not None:
            mates = [other.name for other in self._job.plan if other.group == deployment.group]
            given = next((self._job.output_tokens[name] for name in mates if name in self._job.output_tokens), None)
        return ASSUMED_OUTPUT_TOKENS if given is None else given

    def rest_seconds(self) -> float:
        """Return how long the job may still take; infinite without a deadline."""
        return math.inf if self.deadline is None else self.deadline - self._clock()

    def _took(self, lane: Lane, kind: AttemptKind) -> tuple[Lane, AttemptKind]:
        if lane is not self._lane:
            self._lane = lane
            self._retries = 0
            self._tried.add(lane.name)
        self._attempts += 1
        return lane, kind

    async def _may_retry(self, lane: Lane, failed: Failure) -> bool:
        """Wait for a further try at the same deployment; whether it may be made, with a slot taken."""
        settings = self._settings
        if not failed.may_retry or failed.kind not in settings.retry_on or self._retries >= settings.retries:
            return False
        now = self._clock()
        pause = backoff_seconds(self._retries, settings.backoff_seconds, settings.max_backoff_seconds, self._draw())
        if failed.asked_wait_seconds is not None:
            pause += failed.asked_wait_seconds  # the breaker's cool-down is capped, what was asked for is not
        pause = max(pause, lane.breaker.cooling_seconds(now))
        if not self._may_wait(pause) or not (lane.breaker.admits(now + pause)):
            return False
        await self._pause(pause)
        if lane.slots.has_free:
            lane.slots.take()
        else:
            try:
                await self._queue([lane])
            except GatewayError:
                return False
        if lane.breaker.admits(self._clock()):
            return True
        lane.slots.give_back()
        return False

    def _may_wait(self, seconds: float) -> bool:
        return self._waited + seconds <= self._settings.max_wait_seconds and seconds < self.rest_seconds()

    async def _pause(self, seconds: float) -> None:
        self._waited += seconds
        await self._sleep(seconds)

    async def _elsewhere(self) -> Lane | None:
        """Return the next deployment along the plan, with a slot taken."""
        while True:
            if self.rest_seconds() <= 0.0:
                raise deadline_exceeded()
            now = self._clock()
            busy: list[Lane] = []
            closed: list[Lane] = []
            for stop in self._stops(now):
                for lane in stop:
                    if not lane.breaker.admits(now):
                        closed.append(lane)
                    elif lane.slots.has_free:
                        lane.slots.take()
                        return lane
                    else:
                        busy.append(lane)
                if busy and self._settings.when_full == "wait":
                    break
            if busy:
                lane = await self._queue(busy)
                if lane.breaker.admits(self._clock()):
                    return lane
                lane.slots.give_back()
            elif not closed:
                return None
            else:
                probe = await self._last_resort(closed)
                if probe is not None:
                    return probe

    async def _last_resort(self, closed: list[Lane]) -> Lane | None:
        """Wait for the first cool-down to end (None: look again), or take a probe before its time."""
        now = self._clock()
        cooling = [lane for lane in closed if not lane.breaker.may_be_probed]
        waits = [(lane.breaker.closed_seconds(now), lane) for lane in cooling]
        seconds, first = min(waits, key=lambda wait: wait[0], default=(math.inf, None))
        is_cool_down = first is not None and first.breaker.cooling_seconds(now) >= seconds
        if first is not None and is_cool_down:
            seconds += self._draw() * self._settings.backoff_seconds  # not all at once
            if self._may_wait(seconds):
                self._waited += seconds
                await self._book.room.hold(self._sleep, seconds, self._job.priority, [first.slots])
                return None
        for lane in closed:
            if lane.breaker.may_be_probed and lane.breaker.cooling_seconds(now) == 0.0 and lane.slots.has_free:
                lane.slots.take()
                return lane
        soonest = min(lane.breaker.closed_seconds(now) for lane in closed)
        raise _unavailable(soonest, is_rate_limited=is_cool_down)

    async def _queue(self, lanes: Sequence[Lane]) -> Lane:
        """Wait for a slot of one of some lanes."""
        rest = self.rest_seconds()
        patience = self._settings.max_wait_seconds - self._waited
        began = self._clock()
        service_seconds = sum(lane.service_seconds for lane in lanes) / len(lanes)
        try:
            slots = await self._book.room.wait(
                [lane.slots for lane in lanes], self._job.priority, self._since, min(rest, patience), service_seconds
            )
        except RateLimited as error:
            if rest < patience and error.code == "queue_timeout":
                raise deadline_exceeded() from None
            raise
        finally:
            self._waited += max(0.0, self._clock() - began)
        return next(lane for lane in lanes if lane.slots is slots)

    def _free_mate(self, lane: Lane) -> Lane | None:
        """Return another member of a lane's group that is free."""
        now = self._clock()
        for other in self._stop_of(lane.deployment, now):
            if other.slots.has_free and other.breaker.admits(now):
                return other
        return None

    def _stops(self, now: float) -> Iterator[Sequence[Lane]]:
        """Yield, along the plan, the deployments that have not been tried: one, or those of its group in order."""
        groups: set[str] = set()
        for deployment in self._job.plan:
            group = None if self._job.is_pinned else deployment.group
            if group is None:
                lane = self._book.lane(deployment)
                if self._is_left(lane):
                    yield (lane,)
            elif group not in groups:
                groups.add(group)
                yield self._stop_of(deployment, now)

    def _stop_of(self, deployment: Deployment, now: float) -> Sequence[Lane]:
        lane = self._book.lane(deployment)
        group = None if self._job.is_pinned else self._book.group_of(lane)
        if group is None:
            return (lane,) if self._is_left(lane) else ()
        load = Load(self._job.input_tokens, self.output_tokens(deployment), self._job.affinity_key)
        may_use = self._job.may_use
        return [
            other
            for other in group.order(load, now)
            if self._is_left(other)
            and (may_use is None or other.deployment in self._job.plan or may_use(other.deployment))
        ]

    def _is_left(self, lane: Lane) -> bool:
        return lane.name not in self._tried and lane.deployment.context_tokens >= self._least_context


def _unavailable(seconds: float, *, is_rate_limited: bool) -> GatewayError:
    headers = {"retry-after": str(max(1, math.ceil(seconds)))}
    if is_rate_limited:
        message = "Every provider of this model asks to be left alone; try again later."
        return RateLimited(message, code="upstream_rate_limited", headers=headers)
    message = "No provider of this model is available at the moment; try again later."
    return Overloaded(message, code="no_deployment_available", headers=headers)
