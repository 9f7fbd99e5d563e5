"""One JSON line per request and per event, written by a thread behind a bounded queue.

Prompts, answers and keys are never logged. A full queue drops lines and counts them; it never blocks the loop.
"""

from __future__ import annotations

import logging
import queue
import sys
import time
from collections.abc import Callable
from logging.handlers import QueueHandler, QueueListener
from typing import IO, Any

import msgspec

_QUEUE_LINES = 10_000
_STANDARD = frozenset(logging.makeLogRecord({}).__dict__) | {"message", "asctime", "taskName", "color_message"}


class JsonLineFormatter(logging.Formatter):
    """Formats a record as one JSON object: time, level, event, and the record's extra fields."""

    def format(self, record: logging.LogRecord) -> str:
        """Return the line without its line end."""
        moment = time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(record.created))
        line: dict[str, Any] = {
            "time": f"{moment}.{int(record.msecs):03d}Z",
            "level": record.levelname.lower(),
            "logger": record.name,
            "event": record.getMessage(),
        }
        line.update((key, value) for key, value in record.__dict__.items() if key not in _STANDARD)
        if record.exc_info and record.exc_info[0] is not None:
            line["exception"] = self.formatException(record.exc_info)
        return msgspec.json.encode(line, enc_hook=str).decode()


class _BoundedQueueHandler(QueueHandler):
    """Puts records on the queue and counts the ones that do not fit."""

    def __init__(self, lines: queue.Queue[logging.LogRecord], on_drop: Callable[[], None]) -> None:
        super().__init__(lines)
        self._on_drop = on_drop

    def prepare(self, record: logging.LogRecord) -> logging.LogRecord:
        """Keep the record as it is: the listener is in the same process."""
        return record

    def enqueue(self, record: logging.LogRecord) -> None:
        """Queue the record, or drop it when the queue is full."""
        try:
            self.queue.put_nowait(record)
        except queue.Full:
            self._on_drop()


def start_request_log(*, level: str, on_drop: Callable[[], None], stream: IO[str] | None = None) -> Callable[[], None]:
    """Send the ``penstock`` loggers to a stream through a bounded queue.

    Parameters
    ----------
    level : str
        ``debug``, ``info``, ``warning`` or ``error``.
    on_drop : callable
        Called once for every line that did not fit.
    stream : text stream, optional
        Standard error by default.

    Returns
    -------
    callable
        Stops the writer after flushing what is queued.
    """
    lines: queue.Queue[logging.LogRecord] = queue.Queue(_QUEUE_LINES)
    writer = logging.StreamHandler(stream or sys.stderr)
    writer.setFormatter(JsonLineFormatter())
    listener = QueueListener(lines, writer)
    handler = _BoundedQueueHandler(lines, on_drop)
    logger = logging.getLogger("penstock")
    logger.setLevel(level.upper())
    logger.propagate = False
    logger.addHandler(handler)
    listener.start()

    def stop() -> None:
        logger.removeHandler(handler)
        listener.stop()

    return stop
