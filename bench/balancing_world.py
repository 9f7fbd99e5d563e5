"""Simulated deployments of one model and the traffic they serve: what `balancing.py` measures on.

A deployment batches continuously, as inference servers do: it reads one prompt at a time, writes all answers in its
batch at once, slower the more they are and slower still while it reads a prompt, and queues what finds no place in the
batch. Each has spells in which something else takes a part of it. None of this is the model that the balancer predicts
with: that one knows neither batch limit nor queue nor interference nor spells, and sees lengths only after the fact.
Events are discrete and nothing sleeps. Read `Server`, then `replay`.
"""

from __future__ import annotations

import heapq
import math
import random
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

TOKEN_SECONDS = 0.02
SPELL_EVERY_SECONDS, SPELL_SECONDS, SPELL_SPEED = 180.0, (10.0, 40.0), (0.3, 0.7)
"""50 tokens a second alone, at speed 1. Spells are invented."""

_NEVER = math.inf
_ROUNDING = 1e-6  # tokens


@dataclass(frozen=True)
class Hardware:
    """What a deployment of speed 1 does.

    Attributes
    ----------
    prompt_tokens_per_second : float
    max_batch : int
        Answers written at once.
    batch_that_halves : float
        Answers at once with which each is written half as fast as alone.
    reading_slows_writing : float, in (0, 1]
        Share of its pace that writing keeps while a prompt is read.

    Notes
    -----
    The defaults stand for a 70-billion-parameter model on one node of four to eight recent GPUs, in round numbers: some
    1,400 tokens a second in all.
    """

    prompt_tokens_per_second: float = 8000.0
    max_batch: int = 64
    batch_that_halves: float = 48.0
    reading_slows_writing: float = 0.5


USUAL = Hardware()


@dataclass(slots=True, eq=False)
class Request:
    """One request: what it is, what the balancer is told, and when what happened."""

    number: int
    at: float
    input_tokens: int
    output_tokens: int
    predicted_tokens: float
    lane: int = -1
    first_at: float = _NEVER
    ended_at: float = _NEVER


class Policy(Protocol):
    """Chooses among deployments, and is told what happens."""

    def choose(self, request: Request, now: float) -> int:
        """Return the number of the deployment that takes a request, which begins there now."""
        ...

    def note_first_byte(self, request: Request, now: float) -> None:
        """Note the first byte of an answer."""
        ...

    def note_end(self, request: Request, now: float) -> None:
        """Note the end of an answer."""
        ...


class Server:
    """One deployment.

    Parameters
    ----------
    hardware : Hardware
    speed : float, above 0
        Of that hardware.
    seed : int
        Of its spells.
    horizon_seconds : float
        Until when there may be spells.

    Notes
    -----
    All answers of a batch advance at one rate, so an answer ends when the tokens written since the start reach what
    they were when it began plus its length: a heap by that sum finds the next one.
    """

    def __init__(self, hardware: Hardware, speed: float, seed: int, horizon_seconds: float) -> None:
        self._hardware = hardware
        self._token_seconds = TOKEN_SECONDS / speed
        self._prompt_rate = hardware.prompt_tokens_per_second * speed
        self._now = 0.0
        self._written = 0.0
        self._batch: list[tuple[float, int, Request]] = []
        self._queue: deque[Request] = deque()
        self._reading: Request | None = None
        self._unread = 0.0
        self._speed = 1.0
        self._changes = deque(_spells(random.Random(seed), horizon_seconds))
        self.version = 0

    def add(self, request: Request) -> None:
        """Take a request."""
        self._queue.append(request)
        self._read_next()

    def next_event(self) -> float:
        """Return when something changes here by itself."""
        times = [self._changes[0][0] if self._changes else _NEVER]
        if self._reading is not None:
            times.append(self._now + self._unread / (self._prompt_rate * self._speed))
        if self._batch:
            times.append(self._now + (self._batch[0][0] - self._written) / self._rate())
        return min(times)

    def advance(self, until: float, policy: Policy) -> None:
        """Let time pass, and tell the policy what happens."""
        while (event := self.next_event()) <= until:
            self._pass(event - self._now)
            self._now = event
            self._handle(policy)
        self._pass(until - self._now)
        self._now = until

    def _rate(self) -> float:
        """Tokens a second of each answer."""
        rate = self._speed / (self._token_seconds * (1.0 + len(self._batch) / self._hardware.batch_that_halves))
        return rate * self._hardware.reading_slows_writing if self._reading is not None else rate

    def _pass(self, seconds: float) -> None:
        if self._batch:
            self._written += seconds * self._rate()
        if self._reading is not None:
            self._unread -= seconds * self._prompt_rate * self._speed

    def _handle(self, policy: Policy) -> None:
        while self._changes and self._changes[0][0] <= self._now:
            self._speed = self._changes.popleft()[1]
        if self._reading is not None and self._unread <= _ROUNDING:
            request, self._reading = self._reading, None
            request.first_at = self._now
            heapq.heappush(self._batch, (self._written + request.output_tokens, request.number, request))
            policy.note_first_byte(request, self._now)
        while self._batch and self._batch[0][0] <= self._written + _ROUNDING:
            request = heapq.heappop(self._batch)[2]
            request.ended_at = self._now
            policy.note_end(request, self._now)
        self._read_next()

    def _read_next(self) -> None:
        if self._reading is None and self._queue and len(self._batch) < self._hardware.max_batch:
            self._reading = self._queue.popleft()
            self._unread = float(self._reading.input_tokens)


def replay(
    requests: Sequence[Request], speeds: Sequence[float], policy: Policy, seed: int, hardware: Hardware = USUAL
) -> None:
    """Send requests through deployments as a policy says, to the end of the last.

    Parameters
    ----------
    requests : sequence of Request
        By time; what happens to them is written into them.
    speeds : sequence of float
        One for each deployment.
    policy : Policy
    seed : int
        Of the spells: equal for all policies that are compared.
    hardware : Hardware, optional
    """
    horizon = 4.0 * requests[-1].at + 1000.0
    servers = [Server(hardware, speed, seed * 100 + index, horizon) for index, speed in enumerate(speeds)]
    events: list[tuple[float, int, int]] = []

    def watch(index: int) -> None:
        server = servers[index]
        server.version += 1
        heapq.heappush(events, (server.next_event(), index, server.version))

    def run_until(until: float) -> None:
        while events and events[0][0] <= until:
            at, index, version = heapq.heappop(events)
            if version == servers[index].version and at < _NEVER:
                servers[index].advance(at, policy)
                watch(index)

    for request in requests:
        run_until(request.at)
        index = request.lane = policy.choose(request, request.at)
        servers[index].advance(request.at, policy)
        servers[index].add(request)
        watch(index)
    run_until(math.nextafter(_NEVER, 0.0))


def _spells(draws: random.Random, horizon_seconds: float) -> list[tuple[float, float]]:
    """Return when the speed changes to what."""
    changes = []
    now = 0.0
    while now < horizon_seconds:
        now += draws.expovariate(1.0 / SPELL_EVERY_SECONDS)
        changes.append((now, draws.uniform(*SPELL_SPEED)))
        now += draws.uniform(*SPELL_SECONDS)
        changes.append((now, 1.0))
    return changes


@dataclass(frozen=True)
class Arrival:
    """One line of a trace."""

    at: float
    service: str
    input_tokens: int
    output_tokens: int


def azure_trace(folder: Path) -> list[Arrival]:
    """Read the Azure trace of 2023 (CC BY 4.0): an hour of code and chat traffic."""
    import pyarrow.parquet as pq  # noqa: PLC0415  (needs the data first)

    columns = ["t_s", "service", "input_tokens", "output_tokens"]
    table = pq.read_table(folder / "traffic" / "traffic_azure_llm_2023.parquet", columns=columns)
    rows = zip(*(table[name].to_pylist() for name in columns), strict=True)
    return sorted((Arrival(*row) for row in rows), key=lambda arrival: arrival.at)


def generated_trace(count: int, seed: int) -> list[Arrival]:
    """Make traffic of the same kind: bursts, long prompts with short answers and short prompts with long ones."""
    draws = random.Random(seed)
    arrivals: list[Arrival] = []
    now = 0.0
    while len(arrivals) < count:
        now += draws.expovariate(8.0 if int(now / 20.0) % 3 else 16.0)
        if draws.random() < 0.3:
            tokens = int(draws.lognormvariate(7.3, 0.7)), int(draws.lognormvariate(2.9, 0.6))
            arrivals.append(Arrival(now, "code", max(2, tokens[0]), max(1, tokens[1])))
        else:
            tokens = int(draws.lognormvariate(6.7, 0.8)), int(draws.lognormvariate(5.1, 0.7))
            arrivals.append(Arrival(now, "chat", max(2, tokens[0]), max(1, tokens[1])))
    return arrivals


def requests_of(trace: Sequence[Arrival], speedup: float, sigma: float | None, seed: int) -> list[Request]:
    """Return fresh requests of a trace.

    Parameters
    ----------
    trace : sequence of Arrival
    speedup : float, above 0
        How many times as fast they come.
    sigma : float or None
        Of the logarithm of predicted over true output tokens; None: the balancer knows only the mean of the service.
    seed : int
    """
    draws = random.Random(seed)
    means = {
        service: sum(a.output_tokens for a in trace if a.service == service)
        / max(1, sum(a.service == service for a in trace))
        for service in {arrival.service for arrival in trace}
    }
    start = trace[0].at
    requests = []
    for number, arrival in enumerate(trace):
        if sigma is None:
            predicted = means[arrival.service]
        else:
            predicted = arrival.output_tokens * math.exp(draws.gauss(0.0, sigma) - sigma * sigma / 2.0)
        at = (arrival.at - start) / speedup
        requests.append(Request(number, at, arrival.input_tokens, arrival.output_tokens, max(1.0, predicted)))
    return requests
