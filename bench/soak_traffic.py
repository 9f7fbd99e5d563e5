"""Mixed traffic for a gateway at a steady rate: what `soak` sends, from a process of its own.

Plain answers and streams, named models and ``auto``, repeats that the cache answers, providers' errors and broken
answers, with and without a fallback, clients that leave in the middle, bad requests and wrong keys, from several keys
in turn. Each kind has one right outcome; anything else is a problem. Reads a JSON `TrafficPlan` on standard input,
writes a JSON `TrafficResult`. Read `KINDS`.
"""

from __future__ import annotations

import asyncio
import json
import random
import sys
from collections.abc import Awaitable, Callable
from dataclasses import asdict, dataclass, field
from typing import Any

import aiohttp
import uvloop
from uneven_upstream import LOOPBACK, raise_file_limit

MAX_RATE_PER_SECOND = 2_000.0
MAX_SECONDS = 86_400.0
MAX_UNDER_WAY = 2_000
ANSWER_SECONDS = 30.0
REPEATED_PROMPTS = 20
RESCUED = "rescued"
"""A deployment that always fails and has a healthy fallback."""

_KEPT_PROBLEMS = 5
_SUBJECTS = ("heat pumps", "tides", "registers", "trustees", "vaccines", "inflation", "hash tables", "entropy")


@dataclass(frozen=True, slots=True)
class TrafficPlan:
    """What to send.

    Attributes
    ----------
    port : int
    seconds : float
    rate_per_second : float
        Requests begin at this rate, whether or not earlier ones are over.
    keys : list of str
        Client keys, used in turn.
    seed : int
    """

    port: int
    seconds: float
    rate_per_second: float
    keys: list[str]
    seed: int = 1

    def __post_init__(self) -> None:
        """Refuse unbounded load."""
        if not 0 < self.rate_per_second <= MAX_RATE_PER_SECOND or not 0 < self.seconds <= MAX_SECONDS:
            raise ValueError(f"at most {MAX_RATE_PER_SECOND:g} requests a second and {MAX_SECONDS:g} seconds")


@dataclass(slots=True)
class TrafficResult:
    """What came back.

    Attributes
    ----------
    sent : int
    by_kind : dict of str to int
        Requests that ended as their kind should.
    cached : int
        Answers that came from the cache.
    skipped : int
        Requests that were due while `MAX_UNDER_WAY` others were under way.
    problems : int
    first_problems : list of str
    """

    sent: int = 0
    by_kind: dict[str, int] = field(default_factory=dict)
    cached: int = 0
    skipped: int = 0
    problems: int = 0
    first_problems: list[str] = field(default_factory=list)


class Traffic:
    """One run of the plan.

    Parameters
    ----------
    plan : TrafficPlan
    """

    def __init__(self, plan: TrafficPlan) -> None:
        self._plan = plan
        self._source = random.Random(plan.seed)
        self._url = f"http://{LOOPBACK}:{plan.port}/v1/chat/completions"
        self._result = TrafficResult()
        self._under_way: set[asyncio.Task[None]] = set()
        self._number = 0

    async def run(self) -> TrafficResult:
        """Send until the time is over, and wait for what is under way."""
        loop = asyncio.get_running_loop()
        kinds, weights = zip(*((kind, kind[1]) for kind in KINDS), strict=True)
        timeout = aiohttp.ClientTimeout(total=ANSWER_SECONDS)
        async with aiohttp.ClientSession(timeout=timeout, connector=aiohttp.TCPConnector(limit=0)) as http:
            began = loop.time()
            while (elapsed := loop.time() - began) < self._plan.seconds:
                due = self._number / self._plan.rate_per_second
                await asyncio.sleep(max(0.0, due - elapsed))
                self._number += 1
                if len(self._under_way) >= MAX_UNDER_WAY:
                    self._result.skipped += 1
                    continue
                name, _, ask = self._source.choices(kinds, weights)[0]
                task = loop.create_task(self._ask(name, ask, http))
                self._under_way.add(task)
                task.add_done_callback(self._under_way.discard)
            if self._under_way:
                await asyncio.wait(self._under_way, timeout=ANSWER_SECONDS)
        return self._result

    async def _ask(self, name: str, ask: Ask, http: aiohttp.ClientSession) -> None:
        self._result.sent += 1
        key = self._plan.keys[self._number % len(self._plan.keys)]
        try:
            problem = await ask(self, http, {"authorization": f"Bearer {key}"})
        except (aiohttp.ClientError, TimeoutError, OSError) as error:
            problem = f"{type(error).__name__}: {error}"
        if problem is None:
            self._result.by_kind[name] = self._result.by_kind.get(name, 0) + 1
            return
        self._result.problems += 1
        if len(self._result.first_problems) < _KEPT_PROBLEMS:
            self._result.first_problems.append(f"{name}: {problem}"[:300])

    def post(self, http: aiohttp.ClientSession, headers: dict[str, str], model: str, prompt: str, **fields: Any) -> Any:
        """Return the context of one chat request; only repeated prompts are stored in the cache, which stays full."""
        if "temperature" not in fields:
            headers = {**headers, "x-penstock-cache": "no-store"}
        body = {"model": model, "messages": [{"role": "user", "content": prompt}], **fields}
        return http.post(self._url, json=body, headers=headers)

    def fresh(self) -> str:
        """Return a prompt that was not asked before."""
        return f"Question {self._number}: tell me about {self._source.choice(_SUBJECTS)}."

    def repeated(self) -> str:
        """Return a prompt that was asked before, but for the first times."""
        return f"What is repeated question {self._source.randrange(REPEATED_PROMPTS)}?"

    def note_cached(self, answer: aiohttp.ClientResponse) -> None:
        """Count an answer that came from the cache."""
        self._result.cached += answer.headers.get("x-penstock-reason") == "cached"


Ask = Callable[[Traffic, aiohttp.ClientSession, dict[str, str]], Awaitable[str | None]]


async def _plain(traffic: Traffic, http: aiohttp.ClientSession, headers: dict[str, str]) -> str | None:
    async with traffic.post(http, headers, "steady", traffic.fresh()) as answer:
        return await _expect(answer, 200, b"Words that stand")


async def _auto(traffic: Traffic, http: aiohttp.ClientSession, headers: dict[str, str]) -> str | None:
    async with traffic.post(http, headers, "auto", traffic.fresh()) as answer:
        return await _expect(answer, 200, b"Words that stand")


async def _stream(traffic: Traffic, http: aiohttp.ClientSession, headers: dict[str, str]) -> str | None:
    async with traffic.post(http, headers, "slow", traffic.fresh(), stream=True) as answer:
        return await _expect(answer, 200, b"data: [DONE]")


async def _repeat(traffic: Traffic, http: aiohttp.ClientSession, headers: dict[str, str]) -> str | None:
    async with traffic.post(http, headers, "steady", traffic.repeated(), temperature=0) as answer:
        traffic.note_cached(answer)
        return await _expect(answer, 200, b"Words that stand")


async def _error(traffic: Traffic, http: aiohttp.ClientSession, headers: dict[str, str]) -> str | None:
    model, status = traffic._source.choice((("error-503", 503), ("error-429", 429)))
    async with traffic.post(http, headers, model, traffic.fresh()) as answer:
        return await _expect(answer, status, b"error")


async def _rescued(traffic: Traffic, http: aiohttp.ClientSession, headers: dict[str, str]) -> str | None:
    async with traffic.post(http, headers, RESCUED, traffic.fresh()) as answer:
        return await _expect(answer, 200, b"Words that stand")


async def _broken(traffic: Traffic, http: aiohttp.ClientSession, headers: dict[str, str]) -> str | None:
    async with traffic.post(http, headers, traffic._source.choice(("cut", "reset")), traffic.fresh()) as answer:
        return await _expect(answer, 502, b"upstream_broken")


async def _broken_stream(traffic: Traffic, http: aiohttp.ClientSession, headers: dict[str, str]) -> str | None:
    model = traffic._source.choice(("cut", "reset"))
    async with traffic.post(http, headers, model, traffic.fresh(), stream=True) as answer:
        return await _expect(answer, 200, b"upstream_broken")


async def _leave(traffic: Traffic, http: aiohttp.ClientSession, headers: dict[str, str]) -> str | None:
    async with traffic.post(http, headers, "slow", traffic.fresh(), stream=True) as answer:
        first = await answer.content.readany()
        answer.close()
        return None if first.startswith(b"data:") else f"no event, but {first[:100]!r}"


async def _bad_request(traffic: Traffic, http: aiohttp.ClientSession, headers: dict[str, str]) -> str | None:
    async with traffic.post(http, headers, "steady", "x", temperature={}, messages="none") as answer:
        return await _expect(answer, 400, b"error")


async def _wrong_key(traffic: Traffic, http: aiohttp.ClientSession, headers: dict[str, str]) -> str | None:
    wrong = {"authorization": "Bearer this-key-is-not-known-here"}
    async with traffic.post(http, wrong, "steady", "x") as answer:
        return await _expect(answer, 401, b"invalid_api_key")


KINDS: tuple[tuple[str, float, Ask], ...] = (
    ("plain", 25, _plain),
    ("rescued", 5, _rescued),
    ("auto", 8, _auto),
    ("stream", 20, _stream),
    ("repeat", 16, _repeat),
    ("provider's error", 6, _error),
    ("broken answer", 4, _broken),
    ("broken stream", 4, _broken_stream),
    ("client leaves", 6, _leave),
    ("bad request", 3, _bad_request),
    ("wrong key", 3, _wrong_key),
)
"""Name, share in per cent, and what is sent."""


async def _expect(answer: aiohttp.ClientResponse, status: int, text: bytes) -> str | None:
    """Read an answer; return what is wrong with it, or None."""
    body = await answer.read()
    if answer.status != status or text not in body:
        return f"{answer.status} where {status} was due, {body[-200:]!r}"
    return None


def main() -> None:
    """Read a plan, run it, write the result."""
    raise_file_limit()
    plan = TrafficPlan(**json.load(sys.stdin))
    json.dump(asdict(uvloop.run(Traffic(plan).run())), sys.stdout)


if __name__ == "__main__":
    main()
