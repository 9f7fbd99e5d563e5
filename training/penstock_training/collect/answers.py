"""What a server's reply says: the answer, its usage and cost, listed prices, and how long to wait.

Owns the reading of OpenAI-shaped bodies and of Penstock's additions to them. Must not call anything.
Read `read_answer`.
"""

from __future__ import annotations

import email.utils
import time
from dataclasses import dataclass
from decimal import Decimal, InvalidOperation
from typing import Any

import msgspec

from penstock_training.collect.budget import ArmPrice


@dataclass(frozen=True, slots=True)
class CallResult:
    """How one attempt, and with its last attempt a cell, ended.

    Attributes
    ----------
    result : str
        ``answered``, ``censored`` (time-out) or ``failed``.
    latency_seconds : float
        From the request to the last byte, or to the time-out.
    answer : str or None
    input_tokens, output_tokens : int or None
        As the server counts them.
    cost_usd : Decimal or None
        As a Penstock gateway says, or from usage and prices; None when neither is known.
    finish_reason : str or None
        ``length`` when the answer was cut at the limit.
    reason : str or None
        Of a failure: ``http_NNN``, ``connection``, ``bad_answer``, ``no_budget``; ``time_out``.
    status : int or None
        HTTP status of a failure.
    """

    result: str
    latency_seconds: float
    answer: str | None = None
    input_tokens: int | None = None
    output_tokens: int | None = None
    cost_usd: Decimal | None = None
    finish_reason: str | None = None
    reason: str | None = None
    status: int | None = None


def read_answer(content: bytes, latency_seconds: float, price: ArmPrice) -> CallResult:
    """Read a chat completion.

    Parameters
    ----------
    content : bytes
        Body of a reply with status 200.
    latency_seconds : float
    price : ArmPrice
        For a body with usage and without cost.

    Returns
    -------
    CallResult
        ``answered``, or ``failed`` with ``bad_answer`` when the body is no completion.
    """
    try:
        body = msgspec.json.decode(content, type=dict[str, Any])
        choice = body["choices"][0]
        answer = _text(choice["message"])
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError, LookupError, TypeError):
        return CallResult("failed", latency_seconds, reason="bad_answer", status=200)
    usage = body.get("usage")
    usage = usage if isinstance(usage, dict) else {}
    sent, written = _count(usage.get("prompt_tokens")), _count(usage.get("completion_tokens"))
    cost = amount(usage.get("cost_usd"))
    if cost is None and sent is not None and written is not None:
        cost = price.cost_usd(sent, written)
    finish = choice.get("finish_reason")
    return CallResult(
        "answered",
        latency_seconds,
        answer=answer,
        input_tokens=sent,
        output_tokens=written,
        cost_usd=cost,
        finish_reason=finish if isinstance(finish, str) else None,
    )


def listed_price(entry: object) -> ArmPrice | None:
    """Read the price that a Penstock gateway lists with a model; None for anything else.

    Cached input and reasoning can be priced apart; the dearer of each pair is taken, so that bounds hold.
    """
    penstock = entry.get("penstock") if isinstance(entry, dict) and isinstance(entry.get("id"), str) else None
    listed = penstock.get("price_usd_per_million_tokens") if isinstance(penstock, dict) else None
    if not isinstance(listed, dict):
        return None
    found = {name: amount(listed.get(name)) for name in ("input", "cached_input", "output", "reasoning")}
    if found["input"] is None or found["output"] is None:
        return None
    return ArmPrice(
        max(found["input"], found["cached_input"] or Decimal(0)), max(found["output"], found["reasoning"] or Decimal(0))
    )


def refused_field(content: bytes) -> str | None:
    """Name the parameter that an error in OpenAI's shape refuses."""
    try:
        error = msgspec.json.decode(content, type=dict[str, Any]).get("error")
    except (msgspec.DecodeError, UnicodeDecodeError):
        return None
    return error.get("param") if isinstance(error, dict) else None


def retry_after_seconds(value: str | None) -> float:
    """Read a Retry-After header, seconds or a date; 0 when there is none or it makes no sense."""
    if value is None:
        return 0.0
    seconds = amount(value.strip())
    if seconds is not None:
        return float(seconds)
    try:
        return max(0.0, email.utils.parsedate_to_datetime(value).timestamp() - time.time())
    except (ValueError, OverflowError):
        return 0.0


def amount(value: object) -> Decimal | None:
    """A number or decimal text as an exact amount; None unless finite and not negative."""
    if isinstance(value, bool) or not isinstance(value, int | float | str):
        return None
    try:
        found = Decimal(str(value))
    except InvalidOperation:
        return None
    return found if found.is_finite() and found >= 0 else None


def _count(value: object) -> int | None:
    return value if isinstance(value, int) and not isinstance(value, bool) and value >= 0 else None


def _text(message: dict[str, Any]) -> str:
    """Text of an answer: its content, its text parts, or its refusal; "" when all tokens went into reasoning."""
    content = message.get("content")
    if isinstance(content, list):
        content = "".join(str(part.get("text", "")) for part in content if isinstance(part, dict))
    if content is None:
        content = message.get("refusal") or ""
    if not isinstance(content, str):
        raise TypeError("content is no text")
    return content
