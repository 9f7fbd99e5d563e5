"""Rules of the log: JSON lines, bounded queue, nothing blocked."""

from __future__ import annotations

import io
import json
import logging

import pytest

from penstock_gateway import request_log
from penstock_gateway.request_log import start_request_log


def test_log_line_is_one_json_object_with_the_extra_fields() -> None:
    """A record becomes one line with time, level, event and its fields; line ends in values are escaped."""
    stream = io.StringIO()
    stop = start_request_log(level="info", on_drop=lambda: None, stream=stream)
    logging.getLogger("penstock.requests").info("request", extra={"tenant": "a\nb", "cost_usd": "0.1"})
    logging.getLogger("penstock.requests").debug("hidden")
    stop()
    (line,) = stream.getvalue().splitlines()
    shown = json.loads(line)
    assert (shown["event"], shown["level"], shown["tenant"], shown["cost_usd"]) == ("request", "info", "a\nb", "0.1")


def test_log_full_queue_drops_and_counts(monkeypatch: pytest.MonkeyPatch) -> None:
    """When the writer cannot keep up lines are dropped and counted; the caller never waits."""
    monkeypatch.setattr(request_log, "_QUEUE_LINES", 1)
    monkeypatch.setattr(request_log.QueueListener, "start", lambda self: None)
    monkeypatch.setattr(request_log.QueueListener, "stop", lambda self: None)
    dropped: list[int] = []
    stop = start_request_log(level="info", on_drop=lambda: dropped.append(1), stream=io.StringIO())
    for _ in range(3):
        logging.getLogger("penstock.requests").info("request")
    stop()
    assert len(dropped) == 2


def test_log_exception_is_part_of_the_line() -> None:
    """A traceback stays inside its JSON line."""
    stream = io.StringIO()
    stop = start_request_log(level="info", on_drop=lambda: None, stream=stream)
    try:
        raise ValueError("details")
    except ValueError:
        logging.getLogger("penstock.app").exception("unexpected_error")
    stop()
    assert "ValueError: details" in json.loads(stream.getvalue())["exception"]
