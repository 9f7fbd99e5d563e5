"""One call to one arm: an OpenAI-compatible chat completion over HTTP, with time-out, repeats and patience.

Owns the HTTP client and which failures are repeated. What an attempt may cost is asked and told through `Purse`; what
an answer says is read in `answers`. The key is sent in one header and never shown; nor are a provider's own words,
since they can repeat a prompt. Read `ChatClient.ask`.
"""

from __future__ import annotations

import asyncio
import random
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from decimal import Decimal
from types import TracebackType
from typing import Any, Final, Protocol

import aiohttp
import msgspec

from penstock_training.collect.answers import (
    CallResult,
    listed_price,
    read_answer,
    refused_field,
    retry_after_seconds,
)
from penstock_training.collect.budget import ArmPrice
from penstock_training.collect.prompts import CollectPrompt
from penstock_training.errors import TrainingError

MAX_ATTEMPTS: Final = 6
BACKOFF_SECONDS: Final = 0.5  # doubled from try to try, with full jitter
MAX_BACKOFF_SECONDS: Final = 30.0
MAX_RETRY_AFTER_SECONDS: Final = 600.0  # a server that asks for more has failed for this run
CONNECT_SECONDS: Final = 30.0
MAX_BODY_BYTES: Final = 32 * 1024 * 1024
_NOTHING: Final = Decimal(0)
_REPEATED: Final = frozenset({408, 409, 425, 429, 500, 502, 503, 529})
# A middleman that lost an answer may have had it made, and billed; the others say that they made none.
_MAYBE_BILLED: Final = frozenset({502, 504})
_FATAL: Final = {401: "the key is missing or refused", 403: "the key may not do this", 404: "no such model or address"}


@dataclass(frozen=True, slots=True)
class Attempt:
    """One request and what came of it.

    Attributes
    ----------
    result : CallResult
    charge_usd : Decimal or None
        What it cost; None when nobody knows, which counts as the most it can have been.
    wait_seconds : float or None
        How long the server asked to wait before another try, 0 when it did not say; None when another try is useless.
    """

    result: CallResult
    charge_usd: Decimal | None
    wait_seconds: float | None = None


class Purse(Protocol):
    """Where the attempts of one cell take money from and account for it."""

    def begin(self) -> bool:
        """Hold the most that one attempt can cost and write down that it starts; False when the budget has no room."""
        ...

    def end(self, attempt: Attempt) -> None:
        """Charge an attempt and write down how it ended."""
        ...


class ChatClient:
    """Asks arms, each by its name as the model.

    Parameters
    ----------
    base_url : str
        Of the API, such as ``http://127.0.0.1:4000/v1``.
    api_key : str or None
    max_tokens : int
        Limit of every completion.
    timeout_seconds : float
        From the start of an attempt to its last byte.
    sleep, jitter : callable, optional
        Replaced in tests: waits so many seconds; draws a number in [0, 1).
    """

    def __init__(
        self,
        base_url: str,
        api_key: str | None,
        *,
        max_tokens: int,
        timeout_seconds: float,
        sleep: Callable[[float], Awaitable[None]] = asyncio.sleep,
        jitter: Callable[[], float] = random.random,
    ) -> None:
        self._url = base_url.rstrip("/")
        self._max_tokens = max_tokens
        self._sleep, self._jitter = sleep, jitter
        self._not_before: dict[str, float] = {}
        self._token_field: dict[str, str] = {}
        headers = {"x-penstock-include-cost": "true"}
        if api_key is not None:
            headers["authorization"] = f"Bearer {api_key}"
        self._session = aiohttp.ClientSession(
            headers=headers,
            timeout=aiohttp.ClientTimeout(total=timeout_seconds, sock_connect=min(CONNECT_SECONDS, timeout_seconds)),
            connector=aiohttp.TCPConnector(limit=0),
        )

    async def __aenter__(self) -> ChatClient:
        """Nothing is opened before the first call."""
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Close all connections."""
        await self._session.close()

    async def listed_prices(self) -> dict[str, ArmPrice]:
        """Prices that a Penstock gateway lists with its models; empty for any other server.

        Raises
        ------
        TrainingError
            ``upstream_unreachable``, ``arm_refused`` (the key).
        """
        try:
            async with self._session.get(f"{self._url}/models", allow_redirects=False) as reply:
                status, content = reply.status, await _read(reply)
        except (aiohttp.ClientError, TimeoutError) as error:
            message = f"no answer from {self._url} ({type(error).__name__}); is it running, and is --base-url right?"
            raise TrainingError(message, code="upstream_unreachable") from error
        if status in (401, 403):
            raise TrainingError(f"{self._url} answers {status}: {_FATAL[status]}", code="arm_refused")
        try:
            entries = msgspec.json.decode(content, type=dict[str, Any]).get("data")
        except (msgspec.DecodeError, UnicodeDecodeError):
            return {}
        found = [(entry, listed_price(entry)) for entry in entries] if isinstance(entries, list) else []
        return {str(entry["id"]): price for entry, price in found if price is not None}

    async def ask(self, prompt: CollectPrompt, arm: str, purse: Purse, price: ArmPrice) -> CallResult:
        """Ask one arm, repeating what may pass.

        Parameters
        ----------
        prompt : CollectPrompt
        arm : str
        purse : Purse
        price : ArmPrice
            For an answer that brings its usage but not its cost.

        Returns
        -------
        CallResult
            A time-out is ``censored`` at once: asked again, the arm would only seem quicker than it is.

        Raises
        ------
        TrainingError
            ``arm_refused``: key, model name or address are wrong, so no other prompt would fare better.
        """
        result = CallResult("failed", 0.0, reason="no_budget")
        for number in range(MAX_ATTEMPTS):
            await self._wait_for_turn(arm)
            if not purse.begin():
                return result
            attempt = await self._attempt(prompt, arm, price)
            purse.end(attempt)
            result = attempt.result
            if attempt.wait_seconds is None or number + 1 == MAX_ATTEMPTS:
                break
            if attempt.wait_seconds > 0:
                self._not_before[arm] = max(self._not_before.get(arm, 0.0), time.monotonic() + attempt.wait_seconds)
            else:
                await self._sleep(min(BACKOFF_SECONDS * 2.0**number, MAX_BACKOFF_SECONDS) * self._jitter())
        if result.status in _FATAL:
            message = f"{self._url} answers {result.status} for arm {arm[:80]!r}: {_FATAL[result.status]}"
            raise TrainingError(message, code="arm_refused")
        return result

    async def _wait_for_turn(self, arm: str) -> None:
        """A server that asked for patience asked it of all calls to this arm; jitter keeps them from coming at once."""
        wait = self._not_before.get(arm, 0.0) - time.monotonic()
        if wait > 0:
            await self._sleep(wait + BACKOFF_SECONDS * self._jitter())

    async def _attempt(self, prompt: CollectPrompt, arm: str, price: ArmPrice) -> Attempt:
        started = time.monotonic()
        field = self._token_field.get(arm, "max_tokens")
        body = {
            "model": arm,
            "messages": [{"role": role, "content": text} for role, text in prompt.messages],
            field: self._max_tokens,
        }
        url = f"{self._url}/chat/completions"
        try:
            # A redirect could carry the key to another host, so none is followed.
            async with self._session.post(
                url, data=msgspec.json.encode(body), headers=_JSON, allow_redirects=False
            ) as r:
                status, retry_after, content = r.status, r.headers.get("retry-after"), await _read(r)
        except (aiohttp.ClientConnectorError, aiohttp.ConnectionTimeoutError):
            return Attempt(CallResult("failed", time.monotonic() - started, reason="connection"), _NOTHING, 0.0)
        except TimeoutError:
            return Attempt(CallResult("censored", time.monotonic() - started, reason="time_out"), None)
        except aiohttp.ClientError:
            return Attempt(CallResult("failed", time.monotonic() - started, reason="connection"), None, 0.0)
        seconds = time.monotonic() - started
        if status == 200:
            result = read_answer(content, seconds, price)
            return Attempt(result, result.cost_usd, None if result.result == "answered" else 0.0)
        return self._refusal(arm, field, status, retry_after, content, seconds)

    def _refusal(
        self, arm: str, field: str, status: int, retry_after: str | None, content: bytes, seconds: float
    ) -> Attempt:
        """What an answer without success means."""
        charge = None if status in _MAYBE_BILLED else _NOTHING
        if status == 504:
            return Attempt(CallResult("censored", seconds, reason="time_out", status=status), charge)
        result = CallResult("failed", seconds, reason=f"http_{status}", status=status)
        if status == 400 and field == "max_tokens" and refused_field(content) == field:
            self._token_field[arm] = "max_completion_tokens"  # what OpenAI's reasoning models ask for
            return Attempt(result, charge, 0.0)
        if status not in _REPEATED:
            return Attempt(result, charge)
        wait = retry_after_seconds(retry_after)
        return Attempt(result, charge, None if wait > MAX_RETRY_AFTER_SECONDS else wait)


_JSON: Final = {"content-type": "application/json"}


async def _read(reply: aiohttp.ClientResponse) -> bytes:
    """The whole body, at most `MAX_BODY_BYTES` of it: a longer one is cut and will not decode."""
    found = bytearray()
    async for block in reply.content.iter_chunked(1 << 16):
        found += block
        if len(found) > MAX_BODY_BYTES:
            break
    return bytes(found)
