"""A clock, an upstream with a script and a short way to jobs, for tests of attempts."""

from __future__ import annotations

import asyncio
from collections import defaultdict
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

from penstock_gateway.attempts.job import AttemptJob
from penstock_gateway.attempts.runner import AttemptRunner
from penstock_gateway.deployments import Deployment
from penstock_gateway.errors import UpstreamBroken
from penstock_gateway.money.usage import Usage
from penstock_gateway.settings_attempts import AttemptSettings
from penstock_gateway.upstream.protocol import UpstreamRequest
from support.fakes import FakeReply

DONE = b"data: [DONE]\n\n"
USAGE = Usage(input_tokens=10, output_tokens=5)

Action = FakeReply | Exception | Callable[[UpstreamRequest], Awaitable[FakeReply]]


class Clock:
    """A clock that moves when it is told to, or when somebody sleeps on it."""

    def __init__(self, now: float = 1000.0) -> None:
        self.now = now
        self.pauses: list[float] = []

    def __call__(self) -> float:
        """Return the time."""
        return self.now

    async def sleep(self, seconds: float) -> None:
        """Let so much time pass at once."""
        self.pauses.append(seconds)
        self.now += seconds
        await asyncio.sleep(0)


def answer(text: str = "yes") -> FakeReply:
    """Return a plain answer with usage."""
    return FakeReply(body=f'{{"answer": "{text}"}}'.encode(), usage=USAGE)


def stream(*blocks: bytes | Exception) -> FakeReply:
    """Return a stream of blocks, closed by ``[DONE]``."""
    return FakeReply(blocks=[*blocks, DONE], usage=USAGE, content_type="text/event-stream")


def status(code: int, body: bytes = b'{"error": {"message": "no"}}', **headers: str) -> FakeReply:
    """Return an error status; underscores in the names of headers stand for hyphens."""
    made = FakeReply(status=code, body=body)
    made.headers = tuple((name.replace("_", "-").encode(), value.encode()) for name, value in headers.items())
    return made


@dataclass
class ScriptedUpstream:
    """Does what the script of each deployment says, one action a request; the last one repeats."""

    scripts: dict[str, list[Action]]
    sent: list[UpstreamRequest] = field(default_factory=list)
    replies: list[FakeReply] = field(default_factory=list)
    counts: dict[str, int] = field(default_factory=lambda: defaultdict(int))

    async def send(self, request: UpstreamRequest) -> FakeReply:
        """Do the next action."""
        name = request.deployment.name
        script = self.scripts[name]
        action = script[min(self.counts[name], len(script) - 1)]
        self.counts[name] += 1
        self.sent.append(request)
        if isinstance(action, Exception):
            raise action
        reply = action if isinstance(action, FakeReply) else await action(request)
        self.replies.append(reply)
        return reply

    async def aclose(self) -> None:
        """Nothing to close."""

    @property
    def names(self) -> list[str]:
        """The deployments asked, in order."""
        return [request.deployment.name for request in self.sent]


@dataclass
class Bench:
    """A runner over a scripted upstream, with its clock."""

    runner: AttemptRunner
    upstream: ScriptedUpstream
    clock: Clock
    deployments: tuple[Deployment, ...]

    def job(self, *plan: str, is_stream: bool = False, **fields: Any) -> AttemptJob:
        """Return a job over deployments by name; all of them when none is named."""
        by_name = {deployment.name: deployment for deployment in self.deployments}
        return AttemptJob(
            tuple(by_name[name] for name in plan or by_name),
            lambda deployment: UpstreamRequest(deployment, {}, is_stream, False, "req-test"),
            self.clock.now,
            **fields,
        )

    def in_flight(self) -> int:
        """Slots taken at all deployments."""
        return sum(lane.slots.in_flight for lane in self.runner.book)


def bench(
    deployments: Sequence[Deployment],
    scripts: dict[str, list[Action]],
    *,
    draw: Callable[[], float] = lambda: 0.5,
    metrics: Any = None,
    clock: Clock | None = None,
    **settings: Any,
) -> Bench:
    """Build a runner whose pauses pass at once and whose random numbers are given."""
    clock = clock or Clock()
    upstream = ScriptedUpstream(scripts)
    runner = AttemptRunner(
        deployments,
        AttemptSettings(**settings),
        {"fake": upstream},
        metrics=metrics,
        clock=clock,
        unix_time=clock,
        draw=draw,
        sleep=clock.sleep,
    )
    return Bench(runner, upstream, clock, tuple(deployments))


def broken() -> UpstreamBroken:
    """Return a broken connection."""
    return UpstreamBroken("The connection to the provider broke before the answer was complete.")


async def until_cancelled(request: UpstreamRequest) -> FakeReply:
    """Never answer."""
    await asyncio.Event().wait()
    raise AssertionError("nobody sets it")
