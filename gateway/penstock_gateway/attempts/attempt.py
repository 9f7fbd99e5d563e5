"""One try under way: what it holds, and the one moment at which it is over.

Owns the slot, the probe and the load of a try from its beginning to its end, and completes its record. Whatever happens
to a try, one of `finish`, `fail` and `abandon` is called, and only the first call counts. Read `Attempt`.
"""

from __future__ import annotations

from collections.abc import Callable

from penstock_gateway.attempts.failures import UNHEALTHY, Failure, FailureKind
from penstock_gateway.attempts.lanes import Lane
from penstock_gateway.attempts.load import Passage
from penstock_gateway.attempts.records import AttemptKind, AttemptRecord
from penstock_gateway.deployments import Deployment
from penstock_gateway.metrics_attempts import AttemptMetrics
from penstock_gateway.money.usage import Usage
from penstock_routers.token_counts import ASSUMED_OUTPUT_TOKENS, estimate_tokens

_NEUTRAL = frozenset({FailureKind.DEADLINE, FailureKind.UNCOVERED})  # the deployment was not asked, or had no time
_TIMER_SECONDS = 0.02  # timers of the loop and of the HTTP client are not exact


class Attempt:
    """A try at one deployment, which holds one of its slots.

    Parameters
    ----------
    lane : Lane
        A slot of it has been taken.
    deployment : Deployment
        As it is sent, deadlines cut to what is left.
    kind : AttemptKind
    job_started : float
        When the client's request was complete, on the same clock.
    clock : callable
        Seconds.
    metrics : AttemptMetrics or None
    input_tokens : float
        Predicted.
    output_tokens : float or None
        Predicted; None for a usual number.
    deadline : float or None
        The job's, on the same clock.
    records_first_bytes : bool
        Whether first bytes are remembered for hedging.

    Attributes
    ----------
    record : AttemptRecord
    is_over : bool
    is_stream : bool
        Set before the first byte.
    """

    __slots__ = (
        "_clock",
        "_deadline",
        "_is_probe",
        "_job_started",
        "_metrics",
        "_passage",
        "_records_first_bytes",
        "began",
        "deployment",
        "is_over",
        "is_stream",
        "lane",
        "record",
    )

    def __init__(
        self,
        lane: Lane,
        deployment: Deployment,
        kind: AttemptKind,
        job_started: float,
        clock: Callable[[], float],
        metrics: AttemptMetrics | None,
        *,
        input_tokens: float = 0.0,
        output_tokens: float | None = None,
        deadline: float | None = None,
        records_first_bytes: bool = False,
    ) -> None:
        self.lane = lane
        self.deployment = deployment
        self.began = clock()
        self.record = AttemptRecord(deployment.name, kind, (self.began - job_started) * 1000.0)
        self.is_over = False
        self.is_stream = False
        self._clock = clock
        self._deadline = deadline
        self._job_started = job_started
        self._metrics = metrics
        self._records_first_bytes = records_first_bytes
        self._is_probe = lane.breaker.begin()
        self._passage: Passage | None = None
        if lane.is_balanced:
            self._passage = lane.load.begin(input_tokens, output_tokens or ASSUMED_OUTPUT_TOKENS)

    @property
    def deadline_has_passed(self) -> bool:
        """Whether the job's time is over: a time-out is then nobody's fault."""
        return self._deadline is not None and self._clock() >= self._deadline - _TIMER_SECONDS

    @property
    def elapsed_seconds(self) -> float:
        """Time since it began."""
        return self._clock() - self.began

    def note_first_byte(self) -> None:
        """Note the first event of a stream, or the status line of a plain reply."""
        if self.is_over:
            return
        now = self._clock()
        seconds = now - self.began
        self.record.first_byte_ms = (now - self._job_started) * 1000.0
        self.lane.breaker.answer(is_probe=self._is_probe)
        self._is_probe = False
        if self._passage is not None and self.is_stream:
            self.lane.load.note_first_byte(self._passage, seconds)
        if self._records_first_bytes:
            self.lane.first_bytes.add(seconds, is_stream=self.is_stream)
        if self._metrics is not None:
            self._metrics.note_first_byte(self.lane.name, seconds)

    def finish(self, usage: Usage | None, output_bytes: int) -> None:
        """End with a complete answer."""
        if self.is_over:
            return
        now = self._clock()
        self.lane.breaker.succeed(now)
        if self._passage is not None:
            passage, self._passage = self._passage, None
            tokens = estimate_tokens(output_bytes) if usage is None else usage.output_tokens
            self.lane.load.finish(passage, tokens, now - self.began, now)
            self.lane.note_rate_limited(False, now)
        self._end(now, None, "ok", usage)

    def fail(self, failure: Failure, usage: Usage | None = None) -> None:
        """End with a failure, before or after the first byte."""
        if self.is_over:
            return
        now = self._clock()
        self._note_health(failure, now)
        if self.lane.is_balanced and failure.kind is FailureKind.RATE_LIMIT:
            self.lane.note_rate_limited(True, now)
        self._end(now, failure.code, failure.kind.value, usage)

    def abandon(self, error_code: str, usage: Usage | None = None) -> None:
        """End because nobody waits for it any more; the deployment is not to blame."""
        if self.is_over:
            return
        now = self._clock()
        self.lane.breaker.abandon(is_probe=self._is_probe)
        if self._records_first_bytes and self.record.first_byte_ms is None:
            # it would have taken longer: left out, a quantile of what was fast enough would shrink for ever
            self.lane.first_bytes.add(now - self.began, is_stream=self.is_stream)
        self._end(now, error_code, error_code, usage)

    def complete_record(self, usage: Usage | None) -> None:
        """Fill in what is known by now, for whoever settles before the end."""
        if not self.is_over:
            self.record.duration_ms = (self._clock() - self.began) * 1000.0
            self.record.usage = usage

    def _note_health(self, failure: Failure, now: float) -> None:
        breaker, kind = self.lane.breaker, failure.kind
        if kind in UNHEALTHY:
            breaker.fail(now, is_probe=self._is_probe)
        elif kind is FailureKind.RATE_LIMIT:
            breaker.cool(now, failure.asked_wait_seconds, began=self.began, is_probe=self._is_probe)
        elif kind is FailureKind.CREDENTIAL:
            breaker.reject(now, is_probe=self._is_probe)
        elif kind in _NEUTRAL:
            breaker.abandon(is_probe=self._is_probe)
        else:
            breaker.answer(is_probe=self._is_probe)  # it answers, if only to refuse

    def _end(self, now: float, error_code: str | None, outcome: str, usage: Usage | None) -> None:
        self.is_over = True
        record, lane = self.record, self.lane
        seconds = now - self.began
        record.duration_ms = seconds * 1000.0
        record.error_code = error_code
        record.usage = usage
        if self._passage is not None:
            lane.load.abandon(self._passage, now)
            self._passage = None
        if lane.slots.limit is not None:
            lane.note_service(seconds)
        lane.slots.give_back()
        if self._metrics is not None:
            self._metrics.note_end(lane.name, record.kind.value, outcome)
