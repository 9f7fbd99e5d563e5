"""Where a request stands in a trace: what its caller says, and what its providers are told.

Owns the header ``traceparent`` (W3C Trace Context, www.w3.org/TR/trace-context). Read `TraceBook.begin`.
"""

from __future__ import annotations

import random
import re
from collections.abc import Callable
from typing import Final

TRACEPARENT: Final = "traceparent"
_PARENT = re.compile(r"([0-9a-f]{2})-([0-9a-f]{32})-([0-9a-f]{16})-([0-9a-f]{2})(-.*)?")
_SAMPLED = 0x01


class Trace:
    """One request in a trace.

    Parameters
    ----------
    trace_id, span_id : int
        128 and 64 bits, not 0; the span is the gateway's own.
    parent_id : int or None
        Of the caller's span.
    is_sampled : bool

    Attributes
    ----------
    attempt_ids : list of int
        Spans of the tries, in the order in which they began.
    """

    __slots__ = ("_draw", "attempt_ids", "is_sampled", "parent_id", "span_id", "trace_id")

    def __init__(
        self, trace_id: int, span_id: int, parent_id: int | None, draw: Callable[[int], int], *, is_sampled: bool
    ) -> None:
        self.trace_id = trace_id
        self.span_id = span_id
        self.parent_id = parent_id
        self.is_sampled = is_sampled
        self.attempt_ids: list[int] = []
        self._draw = draw

    def next_attempt(self) -> str:
        """Begin the span of another try, and return the ``traceparent`` that its provider is sent."""
        self.attempt_ids.append(_id(self._draw, 64))
        return f"00-{self.trace_id:032x}-{self.attempt_ids[-1]:016x}-{int(self.is_sampled):02x}"


class TraceBook:
    """Gives requests their places.

    Parameters
    ----------
    sample_share : float
        Of requests whose caller says nothing.
    draw_bits, draw : callable
        Random bits, and numbers in [0, 1).
    """

    def __init__(
        self,
        sample_share: float,
        *,
        draw_bits: Callable[[int], int] = random.getrandbits,
        draw: Callable[[], float] = random.random,
    ) -> None:
        self.sample_share = sample_share
        self._draw_bits = draw_bits
        self._draw = draw

    def begin(self, traceparent: str | None) -> Trace:
        """Return the place of a request.

        Parameters
        ----------
        traceparent : str or None
            As the caller sent it. One that is malformed is as good as none (section 4.2 of the recommendation), and the
            bit that says whether to record is heeded.
        """
        parent = parse_traceparent(traceparent)
        span_id = _id(self._draw_bits, 64)
        if parent is None:
            is_sampled = self._draw() < self.sample_share
            return Trace(_id(self._draw_bits, 128), span_id, None, self._draw_bits, is_sampled=is_sampled)
        trace_id, parent_id, flags = parent
        return Trace(trace_id, span_id, parent_id, self._draw_bits, is_sampled=bool(flags & _SAMPLED))


def parse_traceparent(text: str | None) -> tuple[int, int, int] | None:
    """Return trace id, parent id and flags of a header; None when it is no valid one.

    Examples
    --------
    >>> parse_traceparent("00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01")[2]
    1
    """
    found = None if text is None else _PARENT.fullmatch(text.strip())
    if found is None or found[1] == "ff" or (found[1] == "00" and found[5]):
        return None
    trace_id, parent_id = int(found[2], 16), int(found[3], 16)
    return (trace_id, parent_id, int(found[4], 16)) if trace_id and parent_id else None


def _id(draw: Callable[[int], int], bits: int) -> int:
    return draw(bits) or 1  # 0 is no id
