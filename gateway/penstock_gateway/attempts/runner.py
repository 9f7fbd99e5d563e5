"""Getting a request answered: one try, then another where the first one failed, within the rules of `course`.

Owns the loop over tries, the race of a hedged one, and what happens to a try whose client has left. Read
`AttemptRunner.run` first, then `course.Course.advance` for the rules.
"""

from __future__ import annotations

import asyncio
import random
import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import replace

from penstock_gateway.attempts.attempt import Attempt
from penstock_gateway.attempts.course import Course, Sleep
from penstock_gateway.attempts.draining import DrainDesk, UnansweredTry
from penstock_gateway.attempts.exchange import exchange
from penstock_gateway.attempts.failures import Failure, FailureKind, deadline_failure
from penstock_gateway.attempts.hedging import Hedges
from penstock_gateway.attempts.job import AttemptJob, Served
from penstock_gateway.attempts.lane_book import LaneBook
from penstock_gateway.attempts.lanes import Lane
from penstock_gateway.attempts.race import Leftovers, Outcome, Race
from penstock_gateway.attempts.records import AttemptKind
from penstock_gateway.attempts.reply import AttemptReply
from penstock_gateway.deployments import Deployment
from penstock_gateway.errors import GatewayError, Overloaded, UpstreamBroken
from penstock_gateway.metrics_attempts import AttemptMetrics
from penstock_gateway.settings_attempts import AttemptSettings
from penstock_gateway.upstream.protocol import Upstream, UpstreamRequest

_GRACE_SECONDS = 0.25


class AttemptRunner:
    """Answers jobs.

    Parameters
    ----------
    deployments : iterable of Deployment
    settings : AttemptSettings
    upstreams : mapping of str to Upstream
        By adapter name.
    metrics : AttemptMetrics, optional
    clock : callable
        Seconds, the clock of ``AttemptJob.started``.
    unix_time : callable
        Seconds.
    draw : callable
        Random numbers in [0, 1).
    sleep : callable
        Waits so many seconds.

    Attributes
    ----------
    book : LaneBook
        The live state of every deployment.
    desk : DrainDesk
        Reads answers on whose clients have left; to be closed when the gateway stops.
    """

    def __init__(
        self,
        deployments: Iterable[Deployment],
        settings: AttemptSettings,
        upstreams: Mapping[str, Upstream],
        *,
        metrics: AttemptMetrics | None = None,
        clock: Callable[[], float] = time.perf_counter,
        unix_time: Callable[[], float] = time.time,
        draw: Callable[[], float] = random.random,
        sleep: Sleep = asyncio.sleep,
    ) -> None:
        self.book = LaneBook(deployments, settings, metrics=metrics, draw=draw)
        self.desk = DrainDesk(settings.drain, lambda outcome: None if metrics is None else metrics.note_drain(outcome))
        self._upstreams = upstreams
        self._hedges = Hedges(settings.hedge)
        self._metrics = metrics
        self._clock = clock
        self._unix_time = unix_time
        self._draw = draw
        self._sleep = sleep
        self._leftovers = Leftovers()

    def adopt(
        self, deployments: Iterable[Deployment], settings: AttemptSettings, upstreams: Mapping[str, Upstream]
    ) -> None:
        """Follow a changed configuration; requests under way go on as they began."""
        self.book.adopt(deployments, settings)
        self._hedges.settings = settings.hedge
        self.desk.settings = settings.drain
        self._upstreams = upstreams

    async def run(self, job: AttemptJob) -> Served:
        """Try until a deployment has answered or nothing is left to try.

        Parameters
        ----------
        job : AttemptJob
            Its `records` tell what was tried, also when this raises.

        Returns
        -------
        Served
            Whose reply must be closed. Its status is 400 or above when a provider refused the request for good, or
            when all failed and a provider's own error says most.

        Raises
        ------
        GatewayError
            The most useful of the failures, or why nothing was tried; see `Course.advance`.
        """
        course = Course(job, self.book, self._clock, self._draw, self._sleep)
        if self._hedges.is_on and job.may_hedge:
            self._hedges.earn()
        place = await course.advance()
        while place is not None:
            outcome = await self._try(job, course, *place)
            if isinstance(outcome, AttemptReply):
                return Served(outcome.deployment, outcome, outcome.record)
            place = await course.advance(outcome)
        return _give_up(course.failure)

    async def aclose(self) -> None:
        """Stop reading answers on; what the desk holds is settled as far as it is known."""
        await self.desk.aclose()
        await self._leftovers.aclose()

    async def _try(self, job: AttemptJob, course: Course, lane: Lane, kind: AttemptKind) -> Outcome:
        """Make one try, with another beside it when it is slow and may be hedged."""
        attempt = self._begin(job, course, lane, kind)
        try:
            request = self._prepare(job, attempt)
        except GatewayError as error:
            return Failure(FailureKind.UNCOVERED, error.code, error=error)
        if self._hedges.is_on and job.may_hedge:
            after_seconds = self._hedges.after_seconds(lane, is_stream=request.is_stream)
            if after_seconds is not None:
                return await self._race(job, course, attempt, request, after_seconds)
        if attempt.deployment.on_disconnect == "drain" and job.on_drained is not None:
            return await self._outliving(job, attempt, request, course)
        return await self._send(attempt, request, course)

    def _begin(self, job: AttemptJob, course: Course, lane: Lane, kind: AttemptKind) -> Attempt:
        """Turn a slot that has been taken into a try, which gives it back."""
        deployment = lane.deployment
        if course.deadline is not None:
            deployment = _within(deployment, course.rest_seconds())
        attempt = Attempt(
            lane,
            deployment,
            kind,
            job.started,
            self._clock,
            self._metrics,
            input_tokens=job.input_tokens,
            output_tokens=course.output_tokens(deployment) if lane.is_balanced else 0.0,
            deadline=course.deadline,
            records_first_bytes=self._hedges.is_on,
        )
        job.records.append(attempt.record)
        return attempt

    def _prepare(self, job: AttemptJob, attempt: Attempt) -> UpstreamRequest:
        try:
            return job.prepare(attempt.deployment)
        except BaseException:
            attempt.abandon("not_sent")
            raise

    async def _send(self, attempt: Attempt, request: UpstreamRequest, course: Course) -> Outcome:
        upstream = self._upstreams[attempt.deployment.adapter]
        if course.deadline is None:
            return await exchange(attempt, upstream, request, self._unix_time)
        try:
            # the upstream keeps the deadline itself; this is for one that does not
            async with asyncio.timeout(max(0.0, course.rest_seconds()) + _GRACE_SECONDS):
                return await exchange(attempt, upstream, request, self._unix_time)
        except TimeoutError:
            attempt.record.error_code = "deadline_exceeded"
            return deadline_failure()

    async def _outliving(self, job: AttemptJob, attempt: Attempt, request: UpstreamRequest, course: Course) -> Outcome:
        """Make a try that goes on in the background when the client leaves."""
        task = asyncio.create_task(self._send(attempt, request, course))
        try:
            return await asyncio.shield(task)
        except asyncio.CancelledError:
            left, on_drained = UnansweredTry(task), job.on_drained
            if on_drained is not None and self.desk.drain(left, lambda: on_drained(left.reply)):
                job.is_draining = True
            else:
                self._leftovers.drop(task, attempt, "client_disconnected")
            raise

    async def _race(
        self, job: AttemptJob, course: Course, attempt: Attempt, request: UpstreamRequest, after_seconds: float
    ) -> Outcome:
        """Make a try; when its first byte is late, another beside it. The first answer wins."""
        race = Race(self._leftovers)
        race.enter(attempt, self._send(attempt, request, course))
        try:
            hedge = self._add_hedge(job, course, race) if await race.is_late(after_seconds) else None
            reply = await race.winner()
        except BaseException:
            race.drop("client_disconnected")
            raise
        if hedge is not None and self._metrics is not None:
            has_won = reply is not None and reply.record is hedge.record
            self._metrics.note_hedge(hedge.lane.name, "won" if has_won else "lost" if reply is not None else "failed")
        if reply is not None:
            return reply
        (_, failure), *others = race.failures()
        for other, failed in others:
            course.note(failed, other.lane)
        return failure

    def _add_hedge(self, job: AttemptJob, course: Course, race: Race) -> Attempt | None:
        """Ask another deployment too, if the budget allows it and one is free."""
        if not self._hedges.may_spend or (lane := course.beside()) is None:
            return None
        attempt = self._begin(job, course, lane, AttemptKind.HEDGE)
        try:
            request = self._prepare(job, attempt)
        except GatewayError:  # this deployment cannot take it; the first one is under way all the same
            job.records.remove(attempt.record)
            return None
        self._hedges.spend()
        race.enter(attempt, self._send(attempt, request, course))
        return attempt


def _within(deployment: Deployment, seconds: float) -> Deployment:
    """Return a deployment whose deadlines are not longer than what is left."""
    seconds = max(seconds, 0.001)
    return replace(
        deployment,
        connect_timeout_seconds=min(deployment.connect_timeout_seconds, seconds),
        first_byte_timeout_seconds=min(deployment.first_byte_timeout_seconds, seconds),
        total_timeout_seconds=min(deployment.total_timeout_seconds, seconds),
    )


def _give_up(failure: Failure | None) -> Served:
    """Return the provider's own error when it says most, else raise ours."""
    if failure is None:
        raise Overloaded("No deployment can take this request.", code="no_deployment_available")
    if isinstance(failure.reply, AttemptReply):
        return Served(failure.reply.deployment, failure.reply, failure.reply.record)
    raise failure.error or UpstreamBroken("The provider's answer could not be read.")
