"""What each fault of the misbehaving upstream has to come to: the fault matrix, and the rows of ``docs/errors.md``.

One row a fault, one entry a kind of request. A row says what the client sees with no retry and no fallback, what is
charged then, and whether a healthy deployment further down the ranking saves the request. Read `EXPECTED`.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from enum import StrEnum

from support.fault_exchange import BEFORE_FAULT, OUTPUT_TOKENS
from support.faults import FAULTS, Fault, Mode


class Ending(StrEnum):
    """How an answer ends for the client."""

    WHOLE = "whole"  # a plain reply
    DONE = "[DONE]"  # one `[DONE]`, after everything else
    NO_DONE = "no [DONE]"  # in good order, but the provider sent none, and none is invented
    ERROR = "error"  # the gateway's or the provider's error object, or an error event


class Charge(StrEnum):
    """What the request is charged."""

    REPORTED = "as reported"  # to the last digit
    ESTIMATED = "estimated"  # and marked as such
    NOTHING = "nothing"


@dataclass(frozen=True)
class Expected:
    """What one fault comes to in one kind of request.

    Attributes
    ----------
    status : int
        That the client sees; a stream that breaks keeps its 200.
    ending : Ending
    code : str or None
        Of the error that the client sees.
    charge : Charge
    words : int
        Words of the answer that reach the client.
    headers : frozenset of str
        Of the provider that are passed on.
    is_saved : bool
        Whether a healthy fallback answers in its place.
    """

    status: int
    ending: Ending
    code: str | None = None
    charge: Charge = Charge.REPORTED
    words: int = 0
    headers: frozenset[str] = frozenset()
    is_saved: bool = False

    def client_cell(self) -> str:
        """Return what the client sees, for a table."""
        if self.ending is Ending.WHOLE:
            return str(self.status)
        if self.ending is not Ending.ERROR:
            return f"{self.status}, {self.ending}"
        if self.status == 200:
            return f"200, event `{self.code}`"
        return f"{self.status} `{self.code}`"


Row = dict[Mode, Expected]

_PLAIN_WHOLE = Expected(200, Ending.WHOLE, words=OUTPUT_TOKENS)
_STREAM_WHOLE = Expected(200, Ending.DONE, words=OUTPUT_TOKENS)
_STREAM_NO_DONE = Expected(200, Ending.NO_DONE, words=OUTPUT_TOKENS)


def _whole(charge: Charge = Charge.REPORTED) -> Row:
    """The client sees nothing of it."""
    return {Mode.PLAIN: replace(_PLAIN_WHOLE, charge=charge), Mode.STREAM: replace(_STREAM_WHOLE, charge=charge)}


def _failed(status: int, code: str, charge: Charge = Charge.ESTIMATED, *, is_saved: bool = True) -> Row:
    """Both kinds fail before the first byte."""
    failure = Expected(status, Ending.ERROR, code, charge, is_saved=is_saved)
    return {Mode.PLAIN: failure, Mode.STREAM: failure}


def _refused(status: int, *headers: str, is_saved: bool = True) -> Row:
    """The provider's own error is passed on."""
    refusal = _failed(status, f"on_demand_{status}", Charge.NOTHING, is_saved=is_saved)
    return {mode: replace(expected, headers=frozenset(headers)) for mode, expected in refusal.items()}


def _event(code: str, words: int = BEFORE_FAULT, *, charge: Charge = Charge.ESTIMATED, is_saved: bool = False) -> Row:
    """A stream ends with an error event."""
    return {Mode.STREAM: Expected(200, Ending.ERROR, code, charge, words, is_saved=is_saved)}


def _mixed(plain: Row, stream: Row) -> Row:
    """Each kind as in the row given for it."""
    return {Mode.PLAIN: plain[Mode.PLAIN], Mode.STREAM: stream[Mode.STREAM]}


_BROKEN = "upstream_broken"
_TIMEOUT = "upstream_timeout"
_UNREACHABLE = "upstream_unreachable"
_NO_DONE = {Mode.STREAM: _STREAM_NO_DONE}
_NO_DONE_ESTIMATED = {Mode.STREAM: replace(_STREAM_NO_DONE, charge=Charge.ESTIMATED)}

EXPECTED: dict[str, Row] = {
    "healthy": _whole(),
    "usage-missing": _whole(Charge.ESTIMATED),
    "usage-null": _whole(Charge.ESTIMATED),
    "usage-negative": _whole(Charge.ESTIMATED),
    "usage-absurd": _whole(Charge.ESTIMATED),
    "usage-not-numbers": _whole(Charge.ESTIMATED),
    "usage-twice": _whole(),
    "usage-in-every-chunk": _whole(),
    "usage-after-done": _whole(Charge.ESTIMATED),
    "usage-tenfold": _whole(),
    "status-400": _refused(400, is_saved=False),
    "status-401": _failed(502, "upstream_rejected_credential", Charge.NOTHING),
    "status-404": _refused(404),
    "status-429": _refused(429),
    "status-429-seconds": _refused(429, "retry-after"),
    "status-429-date": _refused(429, "retry-after"),
    "status-429-ms": _refused(429, "retry-after-ms"),
    "status-429-garbage": _failed(502, _BROKEN),
    "status-500": _refused(500),
    "status-502": _refused(502),
    "status-503": _refused(503, "retry-after"),
    "status-529": _refused(529),
    "status-999": _failed(502, _BROKEN, Charge.NOTHING),
    "html-page": _failed(502, _BROKEN, Charge.NOTHING),
    "redirect": _failed(502, _BROKEN),
    "informational": _whole(),
    "switching-protocols": _failed(502, _BROKEN),
    "no-content": _failed(502, _BROKEN),
    "never-answers": _failed(504, _TIMEOUT),
    "slow-headers": _failed(504, _TIMEOUT),
    "informational-forever": _failed(504, _TIMEOUT),
    "stall-after-headers": _failed(504, _TIMEOUT),
    "stall-mid-body": _failed(504, _TIMEOUT),
    "stall-mid-stream": _event(_TIMEOUT),
    "stall-after-finish": _NO_DONE_ESTIMATED,
    "open-after-done": _whole(),
    "slow-body": _mixed(_failed(504, _TIMEOUT), _event(_TIMEOUT)),
    "comments-forever": _failed(504, _TIMEOUT),
    "truncated": _event(_BROKEN),
    "truncated-mid-event": _event(_BROKEN),
    "truncated-after-usage": _event(_BROKEN, charge=Charge.REPORTED),
    "empty-stream": _failed(502, _BROKEN),
    "bad-json": _event(_BROKEN),
    "bad-utf8": _whole(),
    "mixed-endings": _whole(),
    "comments-and-fields": _whole(),
    "several-data-lines": _whole(),
    "odd-packets": _whole(),
    "duplicate-done": _whole(),
    "after-done": _whole(),
    "no-done": _NO_DONE,
    "no-blank-line": _whole(),
    "error-event": _event("engine_crash"),
    "early-error-event": {
        Mode.STREAM: Expected(200, Ending.ERROR, "engine_crash", Charge.ESTIMATED, is_saved=True)  # passed on
    },
    "key-error-event": _event("upstream_rejected_credential"),
    "big-line": _whole(),
    "endless-line": _event(_BROKEN),
    "empty-body": _failed(502, _BROKEN),
    "bad-body": _failed(502, _BROKEN),
    "body-not-utf8": {Mode.PLAIN: replace(_PLAIN_WHOLE, words=0)},
    "body-array": _failed(502, _BROKEN),
    "error-with-200": _failed(502, _BROKEN),
    "html-with-200": _failed(502, _BROKEN),
    "too-deep": _mixed(_failed(502, _BROKEN), _event(_BROKEN)),
    "wrong-type": _mixed(_whole(), _failed(502, _BROKEN)),
    "no-type": _whole(),
    "big-body": _whole(),
    "endless-body": _failed(502, _BROKEN),
    "reset-before-status": _failed(502, _BROKEN),
    "close-before-status": _failed(502, _BROKEN),
    "not-http": _failed(502, _BROKEN),
    "reset-mid-answer": _mixed(_failed(502, _BROKEN), _event(_BROKEN)),
    "reset-after-finish": _NO_DONE_ESTIMATED,
    "length-too-long": _mixed(_failed(502, _BROKEN, Charge.REPORTED), _whole()),
    "length-too-short": _mixed(_failed(502, _BROKEN), _event(_BROKEN, words=OUTPUT_TOKENS)),
    "two-lengths": _failed(502, _BROKEN),
    "negative-length": _failed(502, _BROKEN),
    "length-and-chunks": _failed(502, _BROKEN),
    "bad-chunk": _mixed(_failed(502, _BROKEN), _event(_BROKEN)),
    "missing-last-chunk": _mixed(_failed(502, _BROKEN), _event(_BROKEN)),
    "old-http": _whole(),
    "old-http-cut": _mixed(_failed(502, _BROKEN), _event(_BROKEN)),
    "second-answer": _whole(),
    "late-second-answer": _whole(),
    "gzip-unasked": _whole(),
    "gzip-claimed": _failed(502, _BROKEN),
    "gzip-cut": _failed(502, _BROKEN),
    "gzip-bomb": _failed(502, _BROKEN),
    "unknown-encoding": _failed(502, _BROKEN),
    "header-flood": _failed(502, _BROKEN),
    "many-headers": _failed(502, _BROKEN),
    "refused": _failed(502, _UNREACHABLE, Charge.NOTHING),
    "dns-failure": _failed(502, _UNREACHABLE, Charge.NOTHING),
    "tls-to-plain": _failed(502, _UNREACHABLE, Charge.NOTHING),
    "never-accepts": _failed(504, "upstream_connect_timeout", Charge.NOTHING),
}
"""By fault; a fault that can be shown in one kind of request alone has the other's entry ignored."""


def expected_of(fault: Fault, mode: Mode) -> Expected:
    """Return what a fault has to come to; raises KeyError when the matrix lacks it."""
    return EXPECTED[fault.name][mode]


def documented_row(fault: Fault) -> str:
    """Return a fault's row in the table of ``docs/errors.md``."""
    cells = [expected_of(fault, mode).client_cell() if mode in fault.modes else "" for mode in Mode]
    bills = list(dict.fromkeys(expected_of(fault, mode).charge.value for mode in fault.modes))
    saved = list(dict.fromkeys("yes" if expected_of(fault, mode).is_saved else "no" for mode in fault.modes))
    is_untouched = all(expected_of(fault, mode).ending is not Ending.ERROR for mode in fault.modes)
    shown_saved = "–" if is_untouched else " / ".join(saved)
    return f"| `{fault.name}` | {fault.what} | {cells[0]} | {cells[1]} | {' / '.join(bills)} | {shown_saved} |"


def documented_rows() -> list[str]:
    """Return all rows, in the order of the table of faults."""
    return [documented_row(fault) for fault in FAULTS]
