"""Everything that the misbehaving upstream can do wrong: the table of faults.

A fault's name is what a deployment's ``model`` asks for, as ``fault:NAME``. Read `FAULTS`.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum

from support import fault_answers as answers
from support import fault_streams as streams
from support.fault_answers import Answer, status, with_usage
from support.fault_exchange import INPUT_TOKENS, OUTPUT_TOKENS


class Mode(StrEnum):
    """The two kinds of request."""

    PLAIN = "plain"
    STREAM = "stream"


class Place(StrEnum):
    """Where a fault lies: in an answer, or before there is a connection."""

    ANSWER = "answer"
    REFUSED = "refused"  # nobody listens
    NO_NAME = "no-name"  # the host's name does not resolve
    TLS_TO_PLAIN = "tls-to-plain"  # https to a port where nobody speaks TLS
    FULL_BACKLOG = "full-backlog"  # the connection is never accepted


class Deadline(StrEnum):
    """Which deadline has to end a fault; it is short in the tests of that fault, and long in all others."""

    NONE = "none"
    CONNECT = "connect"
    FIRST_BYTE = "first_byte"
    IDLE = "idle"
    TOTAL = "total"


BOTH = (Mode.PLAIN, Mode.STREAM)
PLAIN = (Mode.PLAIN,)
STREAM = (Mode.STREAM,)
MODEL_PREFIX = "fault:"


@dataclass(frozen=True)
class Fault:
    """One way to misbehave.

    Attributes
    ----------
    name, group : str
    what : str
        What the provider does, in one sentence.
    answer : callable
        Writes the answer; never called for a fault outside `Place.ANSWER`.
    modes : tuple of Mode
        The kinds of request in which it can be shown.
    place : Place
    deadline : Deadline
    is_large : bool
        Moves so many bytes that its tests are slow.
    """

    name: str
    group: str
    what: str
    answer: Answer = answers.never_answer
    modes: tuple[Mode, ...] = BOTH
    place: Place = Place.ANSWER
    deadline: Deadline = Deadline.NONE
    is_large: bool = False

    @property
    def model(self) -> str:
        """What a deployment's ``model`` has to be."""
        return f"{MODEL_PREFIX}{self.name}"


def _usage(prompt: object, completion: object) -> dict[str, object]:
    return {"prompt_tokens": prompt, "completion_tokens": completion}


_FIRST, _IDLE, _TOTAL = Deadline.FIRST_BYTE, Deadline.IDLE, Deadline.TOTAL

USAGE_FAULTS = (
    Fault("healthy", "usage", "answers well; the control", answers.healthy),
    Fault("usage-missing", "usage", "reports no usage", answers.usage_missing),
    Fault("usage-null", "usage", "reports `null`", with_usage(None)),
    Fault("usage-negative", "usage", "reports −5 completion tokens", with_usage(_usage(INPUT_TOKENS, -5))),
    Fault("usage-absurd", "usage", "reports 10¹⁵ prompt tokens", with_usage(_usage(10**15, OUTPUT_TOKENS))),
    Fault("usage-not-numbers", "usage", 'reports `"many"` tokens', with_usage(_usage("many", [1]))),
    Fault("usage-twice", "usage", "reports usage twice, first too low, then right", streams.usage_twice),
    Fault(
        "usage-in-every-chunk",
        "usage",
        "reports the usage so far with every word",
        streams.usage_in_every_chunk,
        STREAM,
    ),
    Fault("usage-after-done", "usage", "reports usage only after `[DONE]`", streams.usage_after_done, STREAM),
    Fault(
        "usage-tenfold",
        "usage",
        "bills and reports ten times what the request and the answer would suggest",
        with_usage(
            _usage(10 * INPUT_TOKENS, 10 * OUTPUT_TOKENS),
            input_tokens=10 * INPUT_TOKENS,
            output_tokens=10 * OUTPUT_TOKENS,
        ),
    ),
)

STATUS_FAULTS = (
    Fault("status-400", "status", "refuses the request with 400", status(400)),
    Fault("status-401", "status", "refuses our credential with 401", status(401)),
    Fault("status-404", "status", "knows no such model", status(404)),
    Fault("status-429", "status", "answers 429 and does not say for how long", status(429)),
    Fault("status-429-seconds", "status", "answers 429 with `Retry-After: 2`", status(429, "Retry-After: 2")),
    Fault("status-429-date", "status", "answers 429 with a date in `Retry-After`", answers.retry_after_date),
    Fault("status-429-ms", "status", "answers 429 with `retry-after-ms: 40`", status(429, "retry-after-ms: 40")),
    Fault("status-429-garbage", "status", "answers 429 with bytes in `Retry-After`", answers.header_injection),
    Fault("status-500", "status", "answers 500", status(500)),
    Fault("status-502", "status", "answers 502", status(502)),
    Fault("status-503", "status", "answers 503 with `Retry-After: 2`", status(503, "Retry-After: 2")),
    Fault("status-529", "status", "answers 529, as Anthropic does when overloaded", status(529)),
    Fault("status-999", "status", "answers with a status that does not exist", status(999)),
    Fault("html-page", "status", "answers 502 with a proxy's HTML page", answers.html_page),
    Fault("redirect", "status", "answers 307 with a `Location`", answers.redirect),
    Fault("informational", "status", "sends 100 and 103 before a healthy answer", answers.informational),
    Fault("switching-protocols", "status", "answers 101 unasked", answers.switching_protocols),
    Fault("no-content", "status", "answers 204", answers.no_content),
)

TIME_FAULTS = (
    Fault("never-answers", "time", "accepts the request and never answers", answers.never_answer, deadline=_FIRST),
    Fault("slow-headers", "time", "sends the head a byte at a time, for ever", answers.slow_head, deadline=_FIRST),
    Fault("informational-forever", "time", "sends 103 again and again", answers.informational_forever, deadline=_FIRST),
    Fault("stall-after-headers", "time", "sends the head, then nothing", answers.stall_after_head, deadline=_FIRST),
    Fault("stall-mid-body", "time", "sends half a body, then nothing", answers.stall_mid_body, PLAIN, deadline=_IDLE),
    Fault(
        "stall-mid-stream", "time", "sends three words, then nothing", streams.stall_mid_stream, STREAM, deadline=_IDLE
    ),
    Fault(
        "stall-after-finish",
        "time",
        "sends everything up to the finish reason, then nothing",
        streams.stall_after_finish,
        STREAM,
        deadline=_IDLE,
    ),
    Fault("open-after-done", "time", "keeps the body open after `[DONE]`", streams.open_after_done, STREAM),
    Fault("slow-body", "time", "drips an endless body, never idle for long", streams.drip, deadline=_TOTAL),
    Fault("comments-forever", "time", "keeps alive by comments", streams.comments_forever, STREAM, deadline=_TOTAL),
)

STREAM_FAULTS = (
    Fault("truncated", "stream", "ends in good order after three words", streams.truncate, STREAM),
    Fault("truncated-mid-event", "stream", "ends in the middle of an event", streams.truncate_mid_event, STREAM),
    Fault("truncated-after-usage", "stream", "ends early, after usage so far", streams.truncate_after_usage, STREAM),
    Fault("empty-stream", "stream", "ends before the first event", streams.empty_stream, STREAM),
    Fault("bad-json", "stream", "sends an event that is not JSON", streams.bad_json, STREAM),
    Fault("bad-utf8", "stream", "sends text that is not UTF-8", streams.bad_utf8, STREAM),
    Fault("mixed-endings", "stream", "ends lines by LF, CRLF and CR in turn", streams.mixed_endings, STREAM),
    Fault("comments-and-fields", "stream", "BOM, comments, ids, empty events", streams.comments_and_fields, STREAM),
    Fault("several-data-lines", "stream", "spreads an event over lines", streams.several_data_lines, STREAM),
    Fault("odd-packets", "stream", "cuts the stream every seven bytes", streams.odd_packets, STREAM),
    Fault("duplicate-done", "stream", "sends `[DONE]` three times", streams.duplicate_done, STREAM),
    Fault("after-done", "stream", "sends text and usage after `[DONE]`", streams.after_done, STREAM),
    Fault("no-done", "stream", "leaves `[DONE]` out after the finish reason", streams.no_done, STREAM),
    Fault("no-blank-line", "stream", "leaves out the blank line after `[DONE]`", streams.no_blank_line, STREAM),
    Fault("error-event", "stream", "sends an error event of its own", streams.error_event, STREAM),
    Fault("early-error-event", "stream", "sends nothing but an error event", streams.early_error_event, STREAM),
    Fault("key-error-event", "stream", "sends an error event about our key", streams.key_error_event, STREAM),
    Fault("big-line", "stream", "sends an event of 10 MB", streams.big_line, STREAM, is_large=True),
    Fault("endless-line", "stream", "sends an event of 20 MB", streams.endless_line, STREAM, is_large=True),
)

BODY_FAULTS = (
    Fault("empty-body", "body", "answers 200 with no byte", answers.empty_body),
    Fault("bad-body", "body", "answers 200 with half a JSON document", answers.bad_body, PLAIN),
    Fault("body-not-utf8", "body", "answers with text that is not UTF-8", answers.body_not_utf8, PLAIN),
    Fault("body-array", "body", "answers 200 with a JSON array", answers.body_array, PLAIN),
    Fault("error-with-200", "body", "answers 200 with an error object", answers.error_success),
    Fault("html-with-200", "body", "answers 200 with an HTML page", answers.html_success),
    Fault("too-deep", "body", "nests JSON 100,000 levels deep", streams.too_deep),
    Fault("wrong-type", "body", "sends a good document under the wrong content type", answers.wrong_type),
    Fault("no-type", "body", "answers well without a content type", answers.no_type),
    Fault("big-body", "body", "answers with one line of 10 MB", answers.big_body, PLAIN, is_large=True),
    Fault("endless-body", "body", "sends a body that never ends", answers.endless_body, PLAIN, is_large=True),
)

WIRE_FAULTS = (
    Fault("reset-before-status", "wire", "resets the connection unanswered", answers.reset_before_status),
    Fault("close-before-status", "wire", "closes the connection unanswered", answers.close_before_status),
    Fault("not-http", "wire", "answers with bytes that are not HTTP", answers.not_http),
    Fault("reset-mid-answer", "wire", "resets the connection inside the answer", answers.reset_mid_body),
    Fault("reset-after-finish", "wire", "resets after the finish reason", streams.reset_after_finish, STREAM),
    Fault("length-too-long", "wire", "announces 100 bytes more than it sends", answers.length_too_long),
    Fault("length-too-short", "wire", "announces 100 bytes less than it sends", answers.length_too_short),
    Fault("two-lengths", "wire", "announces two lengths", answers.two_lengths),
    Fault("negative-length", "wire", "announces a negative length", answers.negative_length),
    Fault("length-and-chunks", "wire", "announces a length and sends chunks", answers.length_and_chunks),
    Fault("bad-chunk", "wire", "sends a chunk whose size is not a number", answers.bad_chunk),
    Fault("missing-last-chunk", "wire", "closes without the last chunk", answers.missing_last_chunk),
    Fault("old-http", "wire", "speaks HTTP/1.0 and closes at the end", answers.old_http),
    Fault("old-http-cut", "wire", "speaks HTTP/1.0 and closes in the middle", answers.old_http_cut),
    Fault("second-answer", "wire", "sends a second answer with the first", answers.second_answer),
    Fault("late-second-answer", "wire", "sends a second answer on the idle connection", answers.late_second_answer),
    Fault("gzip-unasked", "wire", "compresses although nobody asked", answers.gzip_unasked),
    Fault("gzip-claimed", "wire", "says gzip and sends plain bytes", answers.gzip_claimed),
    Fault("gzip-cut", "wire", "ends the compressed body in its middle", answers.gzip_cut),
    Fault("gzip-bomb", "wire", "compresses 100 MB into 100 kB", answers.gzip_bomb, is_large=True),
    Fault("unknown-encoding", "wire", "names an encoding that was not asked for", answers.unknown_encoding),
    Fault("header-flood", "wire", "sends a header of a million bytes", answers.header_flood),
    Fault("many-headers", "wire", "sends 20,000 headers", answers.many_headers),
)

CONNECTION_FAULTS = (
    Fault("refused", "connection", "does not listen", place=Place.REFUSED),
    Fault("dns-failure", "connection", "has a name that does not resolve", place=Place.NO_NAME),
    Fault("tls-to-plain", "connection", "speaks no TLS at an https address", place=Place.TLS_TO_PLAIN),
    Fault(
        "never-accepts",
        "connection",
        "does not accept the connection",
        place=Place.FULL_BACKLOG,
        deadline=Deadline.CONNECT,
    ),
)

FAULTS = (
    *USAGE_FAULTS,
    *STATUS_FAULTS,
    *TIME_FAULTS,
    *STREAM_FAULTS,
    *BODY_FAULTS,
    *WIRE_FAULTS,
    *CONNECTION_FAULTS,
)


def fault_named(name: str) -> Fault:
    """Return a fault by its name; raises KeyError."""
    return {fault.name: fault for fault in FAULTS}[name]
