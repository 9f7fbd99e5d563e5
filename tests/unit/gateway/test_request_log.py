"""Rules of the log: JSON lines, bounded queue, nothing blocked."""

from __future__ import annotations

import io
import json
import logging
import threading

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


class StuckStream(io.StringIO):
    """A stream whose reader does not read until it is released."""

    def __init__(self) -> None:
        super().__init__()
        self.is_writing = threading.Event()
        self.may_write = threading.Event()

    def write(self, text: str) -> int:
        """Wait for the reader."""
        self.is_writing.set()
        self.may_write.wait()
        return super().write(text)


def test_log_reader_that_is_stuck_drops_and_counts(monkeypatch: pytest.MonkeyPatch) -> None:
    """When the writer cannot keep up lines are dropped and counted; the caller never waits, and the rest is written."""
    monkeypatch.setattr(request_log, "_MAX_WAITING_LINES", 2)
    stream, dropped = StuckStream(), []
    stop = start_request_log(level="info", on_drop=lambda: dropped.append(1), stream=stream)
    logging.getLogger("penstock.requests").info("first")
    stream.is_writing.wait()
    for number in range(5):
        logging.getLogger("penstock.requests").info("request %d", number)
    stream.may_write.set()
    stop()
    assert len(dropped) == 3
    events = [json.loads(line)["event"] for line in stream.getvalue().splitlines()]
    assert events == ["first", "request 0", "request 1"]


def test_log_closed_reader_does_not_stop_the_gateway() -> None:
    """A closed pipe loses lines, counted, and nothing else."""
    stream, dropped = io.StringIO(), []
    stream.close()
    stop = start_request_log(level="info", on_drop=lambda: dropped.append(1), stream=stream)
    logging.getLogger("penstock.requests").info("lost")
    stop()
    assert dropped


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


def test_log_takes_the_servers_errors_but_not_its_warnings() -> None:
    """A server error is a JSON line too; a warning, which any stranger can cause, is not written."""
    stream = io.StringIO()
    stop = start_request_log(level="info", on_drop=lambda: None, stream=stream)
    logging.getLogger("uvicorn.error").warning("Invalid HTTP request received.")
    logging.getLogger("uvicorn.error").error("task failed")
    stop()
    (line,) = stream.getvalue().splitlines()
    assert json.loads(line)["event"] == "task failed"


def test_log_of_a_process_with_another_server_takes_errors_only() -> None:
    """A second server in the process, as in the demo, may have lowered the logger's own level."""
    logger = logging.getLogger("uvicorn.error")
    logger.setLevel(logging.INFO)
    stream = io.StringIO()
    stop = start_request_log(level="info", on_drop=lambda: None, stream=stream)
    logger.warning("Invalid HTTP request received.")
    stop()
    assert stream.getvalue() == ""


def test_log_that_has_stopped_leaves_the_loggers_as_they_were() -> None:
    """A gateway that logged errors only does not keep the next one in the process, or its tests, from warning."""
    logger = logging.getLogger("penstock")
    before = logger.level
    stop = start_request_log(level="error", on_drop=lambda: None, stream=io.StringIO())
    assert (logger.level, logger.propagate) == (logging.ERROR, False)
    stop()
    assert (logger.level, logger.propagate) == (before, True)
