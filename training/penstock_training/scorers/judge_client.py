"""Asks a judging model over an OpenAI-compatible API and reads its JSON verdict.

Owns HTTP, retries, time-outs, the key, cost from usage. Must not know what is judged, and never shows the key or a
provider's text. Read `JudgeClient.ask`.
"""

from __future__ import annotations

import asyncio
import json
import os
import re
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Any, Final
from urllib.parse import urlsplit

import aiohttp

from penstock_training.errors import TrainingError
from penstock_training.scorers.json_answers import json_in
from penstock_training.scorers.options import ScorerOptions

_MAX_REPLY_BYTES: Final = 4 * 1024 * 1024
_MAX_WAIT_SECONDS: Final = 60.0
_PASSING_STATUSES: Final = frozenset({408, 409, 425, 429, 500, 502, 503, 504, 529})
_REFUSING_STATUSES: Final = frozenset({401, 402, 403, 404})
_OBJECT: Final = re.compile(r"\{[^{}]*\}")


@dataclass(frozen=True, slots=True)
class JudgeSettings:
    """How a judge is reached and what it costs.

    Attributes
    ----------
    base_url : str
        Without a trailing slash, such as ``https://api.openai.com/v1``.
    model : str
    api_key : str or None
        Not shown by `repr`.
    price_usd_per_million_input_tokens, price_usd_per_million_output_tokens : float
        >= 0.
    timeout_seconds : float
        For one call.
    retries : int
        Further tries, >= 0.
    concurrency : int
        Calls at once, >= 1.
    """

    base_url: str
    model: str
    api_key: str | None
    price_usd_per_million_input_tokens: float
    price_usd_per_million_output_tokens: float
    timeout_seconds: float = 60.0
    retries: int = 3
    concurrency: int = 4

    def __repr__(self) -> str:
        return f"JudgeSettings({self.base_url!r}, {self.model!r}, api_key={'***' if self.api_key else None})"

    @classmethod
    def from_options(cls, options: ScorerOptions) -> JudgeSettings:
        """Take a judge's settings from the options of all scorers.

        Raises
        ------
        TrainingError
            Code ``judge_settings``: address, model or prices are missing or make no sense.
        """
        if not options.judge_base_url or not options.judge_model:
            raise TrainingError("a judge needs the base address of its API and a model", code="judge_settings")
        parts = urlsplit(options.judge_base_url)
        if parts.scheme not in ("http", "https") or not parts.hostname or parts.username or parts.query:
            raise TrainingError("the judge's base address must be a plain http(s) address", code="judge_settings")
        prices = (
            options.judge_price_usd_per_million_input_tokens,
            options.judge_price_usd_per_million_output_tokens,
        )
        if prices[0] is None or prices[1] is None or min(prices[0], prices[1]) < 0:
            message = (
                "a judge needs its prices, USD per million input and output tokens, for the budget to hold; "
                "0 and 0 for one that costs nothing"
            )
            raise TrainingError(message, code="judge_settings")
        return cls(
            base_url=options.judge_base_url.rstrip("/"),
            model=options.judge_model,
            api_key=os.environ.get(options.judge_api_key_env) or None,
            price_usd_per_million_input_tokens=prices[0],
            price_usd_per_million_output_tokens=prices[1],
            timeout_seconds=options.judge_timeout_seconds,
            retries=options.judge_retries,
            concurrency=options.judge_concurrency,
        )

    def cost_usd(self, input_tokens: float, output_tokens: float) -> float:
        """Return what a call with these tokens costs, USD."""
        sent = input_tokens * self.price_usd_per_million_input_tokens
        return (sent + output_tokens * self.price_usd_per_million_output_tokens) / 1e6


@dataclass(frozen=True, slots=True)
class JudgeReply:
    """What came of asking.

    Attributes
    ----------
    verdict : dict or None
        The JSON object of the reply; None when none could be had.
    failure : str
        Why there is none; "" otherwise.
    cost_usd : float
        Of all tries that reported their usage.
    """

    verdict: dict[str, Any] | None
    failure: str
    cost_usd: float


class JudgeClient:
    """Calls one judging model; opened when first asked.

    Parameters
    ----------
    settings : JudgeSettings
    sleep : callable, optional
        Waits for seconds; replaced in tests.
    """

    def __init__(self, settings: JudgeSettings, *, sleep: Callable[[float], Awaitable[None]] = asyncio.sleep) -> None:
        self.settings = settings
        self._sleep = sleep
        self._session: aiohttp.ClientSession | None = None
        self._places = asyncio.Semaphore(settings.concurrency)
        self._may_set_temperature = True
        self._refusal: TrainingError | None = None

    async def ask(self, instructions: str, question: str, is_verdict: Callable[[dict[str, Any]], bool]) -> JudgeReply:
        """Ask for a verdict at temperature 0.

        Parameters
        ----------
        instructions, question : str
            System and user message.
        is_verdict : callable
            Whether a JSON object is what was asked for; another one is asked for when it is not.

        Returns
        -------
        JudgeReply

        Raises
        ------
        TrainingError
            Code ``judge_refused``: key, address or model are wrong, so that no further call can succeed;
            ``judge_closed``: after `aclose`.

        Notes
        -----
        Tried again after time-outs, lost connections, statuses that may pass, and replies without a verdict: the n-th
        wait is 2ⁿ⁻¹ s or what ``Retry-After`` says, at most a minute. Redirects are not followed, as the key would
        travel.
        """
        cost_usd, failure = 0.0, ""
        async with self._places:
            for attempt in range(self.settings.retries + 1):
                if self._refusal is not None:
                    raise self._refusal  # of a call beside this one; nothing more is to be spent
                status, body, wait_seconds = await self._call(instructions, question)
                if status == 400 and self._may_set_temperature and b"temperature" in body:
                    self._may_set_temperature = False  # reasoning models have one fixed temperature
                    status, body, wait_seconds = await self._call(instructions, question)
                if status in _REFUSING_STATUSES:
                    message = f"the judge answers with status {status}; check its address, model and key"
                    self._refusal = TrainingError(message, code="judge_refused")
                    raise self._refusal
                if status == 200:
                    text, cost = self._read(body)
                    cost_usd += cost
                    verdict = object_in(text)
                    if verdict is not None and is_verdict(verdict):
                        return JudgeReply(verdict, "", cost_usd)
                    failure = "the judge gave no verdict in the form asked for"
                    continue
                failure = f"the judge answered with status {status}" if status else "the judge could not be reached"
                if status and status not in _PASSING_STATUSES:
                    break
                if attempt < self.settings.retries:
                    await self._sleep(min(_MAX_WAIT_SECONDS, wait_seconds or 2.0**attempt))
        return JudgeReply(None, failure, cost_usd)

    async def aclose(self) -> None:
        """Close the connections; calls that are still waiting for another try end."""
        self._refusal = self._refusal or TrainingError("the judge was closed", code="judge_closed")
        if self._session is not None:
            await self._session.close()
            self._session = None

    async def _call(self, instructions: str, question: str) -> tuple[int, bytes, float]:
        """Return (status, body, seconds to wait); status 0 when there was no answer."""
        if self._session is None:
            timeout = aiohttp.ClientTimeout(total=self.settings.timeout_seconds)
            self._session = aiohttp.ClientSession(timeout=timeout, trust_env=False)
        body: dict[str, Any] = {
            "model": self.settings.model,
            "messages": [{"role": "system", "content": instructions}, {"role": "user", "content": question}],
        }
        if self._may_set_temperature:
            body["temperature"] = 0
        headers = {"authorization": f"Bearer {self.settings.api_key}"} if self.settings.api_key else {}
        url = f"{self.settings.base_url}/chat/completions"
        try:
            async with self._session.post(url, json=body, headers=headers, allow_redirects=False) as response:
                content = await response.content.read(_MAX_REPLY_BYTES)
                while len(content) < _MAX_REPLY_BYTES and (part := await response.content.read(65_536)):
                    content += part
                return response.status, content, _seconds(response.headers.get("retry-after"))
        except (aiohttp.ClientError, TimeoutError):
            return 0, b"", 0.0

    def _read(self, body: bytes) -> tuple[str, float]:
        """Return the reply's text and what it cost; an odd body is an empty text."""
        try:
            reply = json.loads(body)
            usage = reply.get("usage") or {}
            tokens = [max(0, int(usage.get(name) or 0)) for name in ("prompt_tokens", "completion_tokens")]
            text = reply["choices"][0]["message"]["content"]
        except (ValueError, RecursionError, KeyError, IndexError, TypeError, AttributeError, OverflowError):
            return "", 0.0
        return text if isinstance(text, str) else "", self.settings.cost_usd(*tokens)


def object_in(text: str) -> dict[str, Any] | None:
    """Find the verdict in a judge's reply: all of it, a fenced block, or the last flat ``{…}`` in it."""
    whole = json_in(text)
    if whole is not None and isinstance(whole[0], dict):
        return whole[0]
    for candidate in reversed(_OBJECT.findall(text)):
        found = json_in(candidate)
        if found is not None and isinstance(found[0], dict):
            return found[0]
    return None


def _seconds(text: str | None) -> float:
    try:
        return max(0.0, float(text or 0))
    except ValueError:
        return 0.0
